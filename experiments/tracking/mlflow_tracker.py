"""Records runs in MLflow."""

import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.tracking.mlflow_store import MlflowStore, configure
from experiments.tracking.tracker import SpooledTracker
from experiments.tracking.uri import brief, tracking_uri


class MlflowTracker(SpooledTracker):
    """Tracks a run in MLflow without ever delaying or failing it; a context manager.

    Raises:
        ValueError: for a `uri` of an unknown kind.
        ConnectionError: on entering, when `required` and MLflow cannot be used.
    """

    def __init__(
        self,
        *,
        uri: str | None,
        experiment: str | int | float,
        required: bool,
        nested: bool,
        log_model: bool,
        out_dir: Path,
        run_name: str,
        tags: dict[str, str],
    ) -> None:
        """Check the options; nothing is written or opened before the `with` block."""
        super().__init__(
            MlflowStore(tracking_uri(uri)),
            experiment=str(experiment),
            required=required,
            out_dir=out_dir,
            run_name=run_name,
            tags={key: value for key, value in tags.items() if nested or key != "mlflow.parentRunId"},
        )
        self._log_model = log_model

    def log_model(self, model: Any, images: Any) -> None:
        """With `tracking.log_model`, save a model in MLflow's format to `<out_dir>/model` and upload it.

        The model must be on the CPU and in eval mode; it is exported by running `images`, a float32 array
        (N >= 2, 3, H, W), through it. What is saved loads without pickle and without this project's code.
        """
        if not self._log_model:
            return
        folder = self.out_dir / "model"
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of the run before it was resumed
            _save_model(model, folder, images)
        except Exception as error:  # torch.export refuses some models, a disk can be full: training goes on
            self._warn("model", f"the model was not saved for MLflow: {brief(error)}")
        else:
            self.log_artifacts(folder)


def _save_model(model: Any, folder: Path, images: Any) -> None:
    configure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's import warns of its own type hints
        from mlflow.pytorch import save_model

        torch_version = version("torch").partition("+")[0]
        save_model(model, folder, input_example=images, pip_requirements=[f"torch=={torch_version}"])
