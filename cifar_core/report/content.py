"""All that a run has to show, from which sheets, plots and report are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from cifar_core.data.split import Split
from cifar_core.explain.cams import Cams
from cifar_core.explain.labels import LabelIssues
from cifar_core.explain.metrics import confusion_matrix
from cifar_core.explain.predictions import Predictions
from cifar_core.history import Row
from cifar_core.report.markup import cut, shown

NAMES = 30_000  # letters of all class names together
SHORTEST, LONGEST = 12, 80  # letters to which a name is cut


@dataclass(frozen=True)
class Augmented:
    """Training pictures, and what the augmentation makes of them."""

    images: Tensor  # uint8 (M, 3, H, W)
    draws: Tensor  # uint8 (M, D, 3, H', W')
    labels: Tensor  # int64 (M,)


@dataclass(frozen=True)
class Content:
    """A split's pictures, what the model said about them, and what is known about the run."""

    predictions: Predictions
    part: Split
    classes: Sequence[str]
    summary: Mapping[str, Any]  # as in metrics.json
    quality: Tensor  # float64 (N,), of the labels
    issues: LabelIssues
    errors: Cams  # of the gallery, the most confident first
    hits: Cams  # the least confident first
    sheet_size: int
    augmented: Augmented
    history: Sequence[Row]
    # Of the run: name, command, environment, config, differences {dotted key: [default, value]},
    # seconds {train: ...}, protocol, expected {test_acc in [0, 1], epochs, source}; any may be missing.
    facts: Mapping[str, Any]

    @cached_property
    def counts(self) -> np.ndarray:
        """Confusion matrix (K, K), true class in rows."""
        return confusion_matrix(self.predictions.labels, self.predictions.preds, len(self.classes)).numpy()

    @cached_property
    def names(self) -> list[str]:
        """The classes as they are shown: printable, and cut where all would take many letters."""
        letters = max(SHORTEST, min(LONGEST, NAMES // len(self.classes)))
        return [cut(shown(name), letters) for name in self.classes]

    @property
    def headline(self) -> str:
        """The split's figures in one line."""
        loss = "not finite" if self.summary["nll"] is None else f"{self.summary['nll']:.4f}"
        right = f"{self.summary['acc']:.2%} of {self.summary['pictures']:,} pictures right"
        return f"{self.summary['split']}: {right}, loss {loss}"
