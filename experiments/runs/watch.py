"""Watches a run learn: a sheet of the same validation pictures with their maps, every so many epochs."""

import logging
import time
from pathlib import Path

from torch import nn

from cifar_core.data.split import Data, Split
from cifar_core.files import whole
from cifar_core.memory import out_of_memory
from cifar_core.report.cards import save_sheet
from cifar_core.report.settings import AnalysisSettings
from cifar_core.report.watched import spread, watched_sheet
from cifar_core.train.loop import EpochResult
from cifar_core.train.state import TrainState
from experiments.cli import one_line
from experiments.runs.folder import RunFolder
from experiments.tracking.tracker import Tracker

KEY = "watch"  # in the tracker's image grid
SHEETS = 20  # of a whole training, about: a run's sheets take some MB
SHARE = 0.01  # of the training's time

log = logging.getLogger(__name__)


class Watch:
    """Draws a sheet before the first epoch, after every so many and after the last, between the epochs.

    Together they take at most `SHARE` of the training's time: what would take more is left out, but for the
    first sheet and the last. A failure is a warning, and nothing is drawn after it.
    """

    def __init__(
        self,
        analysis: AnalysisSettings,
        state: TrainState,
        data: Data,
        layer: nn.Module | None,
        folder: RunFolder,
    ) -> None:
        """Choose the pictures; without ``layer``, the module of the maps, there are none."""
        self.state, self.data, self.layer, self.folder = state, data, layer, folder
        self.method = analysis.method
        self.pictures: Split | None = None
        if layer is not None and analysis.watch and len(data.val):
            self.pictures = _chosen(data.val, analysis.watch)
        self._trained = self._spent = self._last = 0.0  # seconds

    def look(
        self, tracker: Tracker, epochs: int, epoch: EpochResult | None = None, *, over: bool = False
    ) -> None:
        """Draw what is due after an ``epoch`` of ``epochs``, or before them all; ``over`` after the last one.

        The tracker's step is the share of the training in percent, so that runs of any length stand side by
        side; the last sheet is 100.
        """
        if self.pictures is None or self.layer is None:
            return
        self._trained += epoch.seconds if epoch else 0
        if not over and not self._is_due(epochs, is_first=epoch is None):
            return
        began = time.perf_counter()
        try:
            path = self._draw(self.pictures, self.layer, _headline(self.state.epoch, epochs, epoch))
        except Exception as error:  # the training is good, whatever its pictures do
            told = out_of_memory(error) or isinstance(error, OSError)
            log.warning("the watched pictures cannot be drawn: %s", one_line(error), exc_info=not told)
            self.pictures = None
            return
        tracker.log_image(path, key=KEY, step=100 if over else round(100 * self.state.epoch / epochs))
        self._last = time.perf_counter() - began
        self._spent += self._last

    def _is_due(self, epochs: int, *, is_first: bool) -> bool:
        if is_first:
            return self.state.epoch == 0  # one that is taken up has had it
        affordable = self._spent + 2 * self._last <= SHARE * self._trained  # twice: there is the last one
        return affordable and self.state.epoch % -(-epochs // SHEETS) == 0

    def _draw(self, pictures: Split, layer: nn.Module, headline: str) -> Path:
        model, numerics = self.state.best_model, self.state.numerics
        sheet = watched_sheet(
            model, layer, self.data, pictures, numerics, method=self.method, headline=headline
        )
        self.folder.watch.mkdir(exist_ok=True)
        path = self.folder.watch / f"epoch_{self.state.epoch:04d}.png"
        with whole(path) as file:
            save_sheet(sheet, file)
        return path


def _headline(number: int, epochs: int, epoch: EpochResult | None) -> str:
    acc = epoch.metrics.get("val/acc") if epoch else None
    return f"after epoch {number} of {epochs}" + (
        f", validation accuracy {acc:.2%}" if acc is not None else ""
    )


def _chosen(val: Split, count: int) -> Split:
    """Return some pictures of the validation split, the same for every run on it."""
    rows = spread(val.labels, count).to(val.labels.device)
    names = None if val.names is None else [val.names[row] for row in rows.tolist()]
    return Split(val.images[rows], val.labels[rows], val.index[rows], names)
