"""What a model said about every picture of a split, derived once from its logits."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """Labels and logits of N pictures over K classes, on the CPU; everything else follows from them.

    NaN ranks as the largest logit, as in `torch.argmax`; where a row has one, its probabilities are NaN.
    """

    labels: Tensor  # int64 (N,)
    logits: Tensor  # float32 (N, K)

    @classmethod
    def of(cls, labels: Tensor, logits: Tensor) -> "Predictions":
        """Bring labels (N,) and logits (N, K) of any device and float type to the CPU.

        Raises ValueError for other shapes, and where there is no picture.
        """
        if logits.ndim != 2 or len(labels) != len(logits) or not logits.numel():
            shapes = f"{tuple(logits.shape)} for {len(labels)} labels"
            raise ValueError(
                f"logits must hold a row for each picture and a column for each class, got {shapes}"
            )
        return cls(labels.cpu(), logits.detach().to("cpu", torch.float32))

    @cached_property
    def log_probs(self) -> Tensor:
        """Log-probabilities, float64 (N, K): confidences near 1 stay distinct."""
        return self.logits.double().log_softmax(1)

    @cached_property
    def probs(self) -> Tensor:
        """Probabilities, float64 (N, K)."""
        return self.log_probs.exp()

    @cached_property
    def ranking(self) -> Tensor:
        """Classes from the likeliest to the least likely, int64 (N, K); ties keep the classes' order."""
        return self.logits.sort(dim=1, descending=True, stable=True).indices

    @cached_property
    def preds(self) -> Tensor:
        """Likeliest class, int64 (N,)."""
        return self.ranking[:, 0]

    @cached_property
    def runners_up(self) -> Tensor:
        """Second likeliest class, int64 (N,); with one class, that class."""
        return self.ranking[:, min(1, self.logits.shape[1] - 1)]

    @cached_property
    def hits(self) -> Tensor:
        """Whether the likeliest class is the label, bool (N,)."""
        return self.preds == self.labels

    @cached_property
    def confidence(self) -> Tensor:
        """Probability of the likeliest class, float64 (N,)."""
        return pick(self.probs, self.preds)

    @cached_property
    def losses(self) -> Tensor:
        """Cross-entropy of each picture in nats, float64 (N,)."""
        return -pick(self.log_probs, self.labels)

    def errors(self) -> Tensor:
        """Rows of the wrong predictions, the most confident first; NaN confidences last."""
        rows = (~self.hits).nonzero()[:, 0]
        return rows[(-self.confidence[rows]).argsort(stable=True)]

    def unsure_hits(self) -> Tensor:
        """Rows of the right predictions, the least confident first; NaN confidences last."""
        rows = self.hits.nonzero()[:, 0]
        return rows[self.confidence[rows].argsort(stable=True)]


def pick(values: Tensor, classes: Tensor) -> Tensor:
    """Take from each row of (N, K) the column of its class (N,)."""
    return values.gather(1, classes[:, None])[:, 0]
