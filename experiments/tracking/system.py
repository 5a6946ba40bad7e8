"""Samples the machine under a run with MLflow's own monitors: CPU, memory, disk, network, NVIDIA GPUs."""

import logging
import shutil
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from experiments.tracking.mlflow_store import import_mlflow
from experiments.tracking.uri import brief

log = logging.getLogger(__name__)

PREFIX = "system/"  # MLflow shows these keys on a page of their own
SECONDS = 10.0  # between two samples, as in MLflow
STOPPING_SECONDS = 2.0  # how long a run's end waits for the last sample


def check() -> None:
    """Raise ValueError where MLflow's monitors cannot be had."""
    if find_spec("psutil") is None:
        raise ValueError(
            "tracking.system_metrics needs psutil, which MLflow does not bring: pip install psutil"
        )


class SystemMetrics:
    """A thread that gives ``log_metrics`` a sample every so many seconds, and one more when it is stopped."""

    def __init__(
        self, log_metrics: Callable[[dict[str, float], int], None], seconds: float = SECONDS
    ) -> None:
        """Sample nothing yet."""
        self._log_metrics = log_metrics
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, step: int) -> None:
        """Begin; the first sample gets this step, each later one the next."""
        self._thread = threading.Thread(target=self._work, args=(step,), name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end the thread; does nothing where it does not run."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOPPING_SECONDS)

    def _work(self, step: int) -> None:
        try:
            monitors = _monitors()
            for monitor in monitors:
                monitor.collect_metrics()  # CPU use counts from the sample before
                monitor.clear_metrics()
            stopping = False
            while not stopping:
                stopping = self._stopping.wait(self._seconds)
                self._log_metrics(_sample(monitors), step)
                step += 1
        except Exception as error:  # what the machine does not tell costs no run
            log.warning("tracking: no more system metrics: %s", brief(error))


def _monitors() -> list[Any]:
    """Make MLflow's monitors, the one of GPUs only where it works."""
    import_mlflow()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except ImportError:
        if shutil.which("nvidia-smi"):
            log.warning("tracking: system metrics without those of the GPU: pip install nvidia-ml-py")
    except RuntimeError as error:  # no GPU, or no driver
        log.debug("%s", error)
    return monitors


def _sample(monitors: list[Any]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        numbers |= {PREFIX + key: value for key, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return numbers
