"""A sheet of a few pictures, always the same, with what the network makes of them as it learns."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from cifar_core.data.split import Data, Split
from cifar_core.explain.cams import cams, evidence
from cifar_core.explain.gradcam import evaluating
from cifar_core.explain.predictions import Predictions
from cifar_core.report.cards import FAINT, PREDICTED, RULE, TRUE, Card, Span, Tile, draw_sheet, enlarge
from cifar_core.report.heat import overlay
from cifar_core.report.lettering import printable_names
from cifar_core.report.sheets import METHODS
from cifar_core.train.numerics import Numerics
from cifar_core.train.predict import predict


def spread(labels: Tensor, count: int) -> Tensor:
    """Choose ``count`` of N pictures, or all of fewer, from as many classes as there are; int64 (M,).

    The classes of ``labels`` (N,) take turns, each with its first picture that was not chosen yet.
    """
    labels = labels.cpu()
    classes, turn = labels.unique(), torch.zeros_like(labels)
    for label in classes:
        (rows,) = torch.where(labels == label)
        turn[rows] = torch.arange(len(rows))
    in_turn = torch.argsort(turn * (int(classes[-1]) + 1) + labels)
    count = min(count, len(labels))
    few = in_turn[: max(count, len(classes))]  # of more classes than pictures, every so many-th
    return few[torch.arange(count) * len(few) // count]


def watched_sheet(
    model: nn.Module,
    layer: nn.Module,
    data: Data,
    pictures: Split,
    numerics: Numerics,
    *,
    method: str,
    headline: str,
) -> Image.Image:
    """Draw each of ``pictures`` beside the map of the predicted class, framed by whether it is the true one.

    The model, its random state and its gradients stay as they were.
    """
    with evaluating(model):
        logits = predict(
            model, data, pictures.to(numerics.device), numerics, batch_size=max(1, len(pictures))
        )
    part = pictures.to("cpu")
    predictions = Predictions.of(part.labels, logits.cpu())
    rows = torch.arange(len(part))
    grids = cams(model, layer, data, part, predictions, rows, method=method).grids[:2]
    maps = evidence(grids, part.images.shape[-2:])[0]
    names = printable_names(data.classes)
    hits = int(predictions.hits.sum())
    return draw_sheet(
        "The same validation pictures as training goes on",
        f"{headline}; {hits} of {len(part)} right",
        [_card(predictions, part, row, maps[row], names) for row in range(len(part))],
        legend=[
            ("right", TRUE),
            ("wrong", PREDICTED),
            (f"each with {METHODS[method]} of the predicted class", RULE),
        ],
        heat=True,
        empty="No validation pictures.",
    )


def _card(predictions: Predictions, part: Split, row: int, heat: Tensor, names: Sequence[str]) -> Card:
    label, pred = int(predictions.labels[row]), int(predictions.preds[row])
    color = TRUE if pred == label else PREDICTED
    picture = enlarge(part.images[row])
    caption: list[Span] = [(names[label], TRUE)]
    detail = f"confidence {predictions.probs[row, pred]:.1%}"
    if pred != label:
        caption += [("→", FAINT), (names[pred], PREDICTED)]
        detail += f"   p(true) {predictions.probs[row, label]:.1%}"
    return Card([Tile(picture, color), Tile(overlay(picture, heat.numpy()), color)], caption, detail)
