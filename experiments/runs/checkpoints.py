"""The checkpoints of one run: when they are written, which one a run goes on from, which stay."""

import copy
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cifar_core.history import Row
from cifar_core.train import checkpoint
from cifar_core.train.state import TrainState
from experiments.runs.folder import RunFolder

log = logging.getLogger(__name__)

MB = 1_000_000


class Checkpoints:
    """Writes last.pt and best.pt at most every so many seconds; between, both are kept in the CPU's memory.

    last.pt is kept in two generations, should the newer one be damaged, and holds the best weights too: what
    a kill leaves in best.pt may be of another epoch, and a run that goes on writes it anew.
    ``identity`` says which run a checkpoint belongs to: hashes of configuration and data.
    """

    def __init__(self, folder: RunFolder, identity: dict[str, str], *, every_seconds: float) -> None:
        self.folder = folder
        self.identity = identity
        self.every_seconds = every_seconds
        self._saved = time.monotonic()
        self._best: dict[str, Any] | None = None  # weights and epoch, as in best.pt
        self._best_on_disk = 0  # epoch
        self._unsaved: dict[str, Any] | None = None

    def resume(self, state: TrainState) -> list[Row]:
        """Put ``state`` where the newest whole checkpoint left off; return the epochs up to there.

        Raises ValueError where it was made from other pictures.
        """
        for path in (self.folder.last, self.folder.previous):
            saved = self._read(path)
            if saved is None:
                continue
            if saved["identity"]["data"] != self.identity["data"]:
                raise ValueError(
                    f"{path} was made from other pictures than data.root holds now: "
                    f"fingerprint {saved['identity']['data']}, got {self.identity['data']}"
                )
            state.load_state_dict(saved["state"])
            if best := saved.get("best"):  # an earlier version kept it in best.pt alone
                self._save_best(best)
            log.info("goes on after epoch %d of %s", state.epoch, self.folder.path)
            return saved["history"]
        return []

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Return a checkpoint of this run; None, with a warning, for a damaged or foreign one."""
        if not path.exists():
            return None
        try:
            saved = checkpoint.load(path)
        except OSError as error:
            log.warning("%s; it is left out", error)
            return None
        identity = saved.get("identity")
        if not isinstance(identity, dict) or not {"state", "history"} <= saved.keys():
            log.warning("%s is not a checkpoint of a run; it is left out", path)
            return None
        if identity.get("config") != self.identity["config"]:
            log.warning("%s belongs to another run; it is left out", path)
            return None
        return saved

    def keep(self, state: TrainState, history: Sequence[Row], *, is_best: bool, over: bool) -> None:
        """Keep an epoch that has ended, and write it if that is due or it is the last one."""
        if is_best:
            self._best = _copied({"model": state.best_model.state_dict(), "epoch": state.epoch})
        content = {"identity": self.identity, "state": state.state_dict(), "history": list(history)}
        if over or time.monotonic() - self._saved >= self.every_seconds:
            self._write(content | {"best": self._best})
        else:
            self._unsaved = _copied(content) | {"best": self._best}  # the state goes on changing

    def save_unsaved(self) -> None:
        """Write the last finished epoch if it was not due, as when a signal or an error ends the run."""
        if self._unsaved is not None:
            self._write(self._unsaved)

    def _write(self, content: dict[str, Any]) -> None:
        best = content["best"]
        checkpoint.save(self.folder.last, content, previous=self.folder.previous)
        if best is not None and best["epoch"] != self._best_on_disk:
            self._save_best(best)
        self._saved, self._unsaved = time.monotonic(), None

    def _save_best(self, best: dict[str, Any]) -> None:
        checkpoint.save(self.folder.best, best)
        self._best, self._best_on_disk = best, best["epoch"]

    def load_best(self, model: nn.Module, epoch: int) -> None:
        """Give ``model`` the best weights, those after ``epoch``."""
        saved = checkpoint.load(self.folder.best)
        if saved["epoch"] != epoch:  # a resumed epoch came out otherwise than before, as it may on a GPU
            log.warning("%s holds the weights of epoch %d, not %d", self.folder.best, saved["epoch"], epoch)
        model.load_state_dict(saved["model"])

    def tidy(self, keep: str) -> None:
        """Remove what `trainer.keep` (all, best, none) does not want after a finished run."""
        for path, kept_by in ((self.folder.last, ("all",)), (self.folder.best, ("all", "best"))):
            if keep not in kept_by:
                path.unlink(missing_ok=True)
        self.folder.previous.unlink(missing_ok=True)

    def check_space(self, state: TrainState) -> None:
        """Raise OSError where the disk is too full for the checkpoints of the whole run."""
        needed, free = self.bytes_needed(state), shutil.disk_usage(self.folder.path).free
        if free < needed:
            raise OSError(
                f"{self.folder.path} needs about {needed / MB:,.0f} MB for checkpoints during the run, "
                f"and {free / MB:,.0f} MB are free on its disk: "
                "free some, or give another hydra.run.dir"
            )

    @staticmethod
    def bytes_needed(state: TrainState) -> int:
        """Return the most that checkpoints take at one time: three of last.pt, two of best.pt.

        The optimizer's own state is taken as two numbers a weight, as Adam has it: it is empty before a step.
        """
        weights = sum(t.numel() * t.element_size() for t in state.model.state_dict().values())
        return 3 * (3 + (state.ema is not None) + 1) * weights + 2 * weights


def _copied(content: Any) -> Any:
    """Return a copy in the CPU's memory, where it costs the network on a GPU nothing."""
    if isinstance(content, Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        twin = copy.copy(content)  # with the versions that a state_dict carries beside its items
        twin.update({key: _copied(value) for key, value in content.items()})
        return twin
    if isinstance(content, list | tuple):
        parts = [_copied(part) for part in content]
        return parts if isinstance(content, list) else tuple(parts)
    return copy.deepcopy(content)
