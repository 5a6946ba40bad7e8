"""Records runs in MLflow."""

from pathlib import Path
from typing import Self

from experiments.tracking import system
from experiments.tracking.mlflow_store import MlflowStore
from experiments.tracking.tracker import SpooledTracker
from experiments.tracking.uri import tracking_uri


class MlflowTracker(SpooledTracker):
    """Tracks a run in MLflow without ever delaying or failing it; a context manager.

    Raises:
        ValueError: for a `uri` of an unknown kind, and for `system_metrics` without psutil.
        ConnectionError: on entering, when `required` and MLflow cannot be used.
    """

    def __init__(
        self,
        *,
        uri: str | None,
        experiment: str | int | float,
        required: bool,
        nested: bool,
        system_metrics: bool = False,
        log_model: bool = False,
        out_dir: Path,
        run_name: str,
        tags: dict[str, str],
    ) -> None:
        """Check the options; nothing is written or opened before the `with` block.

        ``log_model`` stands in configurations of earlier versions and does nothing.
        """
        super().__init__(
            MlflowStore(tracking_uri(uri)),
            experiment=str(experiment),
            required=required,
            out_dir=out_dir,
            run_name=run_name,
            tags={key: value for key, value in tags.items() if nested or key != "mlflow.parentRunId"},
        )
        if system_metrics:
            system.check()
        self._system = system.SystemMetrics(self.log_metrics) if system_metrics else None

    def __enter__(self) -> Self:
        """Start, or continue, the run."""
        super().__enter__()
        if self._system:
            sampled = [step for key, step in self._known if key.startswith(system.PREFIX)]
            self._system.start(step=max(sampled, default=-1) + 1)
        return self

    def finish(self, status: str) -> None:
        """End the run with FINISHED, FAILED or KILLED, whatever the `with` block does afterwards."""
        if self._system:
            self._system.stop()
        super().finish(status)
