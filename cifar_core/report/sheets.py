"""The contact sheets of a run: its errors, its least confident hits, its augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from cifar_core.explain.predictions import Predictions
from cifar_core.report.cards import FAINT, INK, PREDICTED, RULE, TRUE, Card, Tile, draw_sheet, enlarge
from cifar_core.report.content import Augmented
from cifar_core.report.heat import overlay

METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}  # analysis.method, as people write it


@dataclass(frozen=True)
class Gallery:
    """M pictures to show, on the CPU, and the heat maps that go with them."""

    rows: Tensor  # int64 (M,), where they stand in the predictions
    images: Tensor  # uint8 (M, 3, H, W)
    index: Tensor  # int64 (M,), position in the source's own list
    maps: Tensor  # float32 (2, M, H, W) in [0, 1], of the predicted and of the true class


def error_sheet(
    predictions: Predictions, gallery: Gallery, names: Sequence[str], headline: str, method: str
) -> Image.Image:
    """Draw errors with both maps; `method` is what the legend calls them."""
    total = int((~predictions.hits).sum())
    return draw_sheet(
        "Errors, most confident first",
        f"{headline}; {len(gallery.rows):,} of {total:,} errors shown",
        [_error_card(predictions, gallery, place, names) for place in range(len(gallery.rows))],
        legend=[
            ("picture", RULE),
            (f"{method} of the predicted class", PREDICTED),
            (f"{method} of the true class", TRUE),
        ],
        heat=True,
        empty="No errors: every picture is classified correctly.",
    )


def hit_sheet(
    predictions: Predictions, gallery: Gallery, names: Sequence[str], headline: str, method: str
) -> Image.Image:
    """Draw right predictions with the map of their class."""
    total = int(predictions.hits.sum())
    return draw_sheet(
        "Right predictions, least confident first",
        f"{headline}; {len(gallery.rows):,} of {total:,} hits shown",
        [_hit_card(predictions, gallery, place, names) for place in range(len(gallery.rows))],
        legend=[
            ("picture", RULE),
            (f"{method} of the predicted class; the second name is the runner-up", TRUE),
        ],
        heat=True,
        empty="No hits: not one picture is classified correctly.",
    )


def augmentation_sheet(augmented: Augmented, names: Sequence[str]) -> Image.Image:
    """Draw each picture before its augmented draws."""
    cards = []
    for image, draws, label in zip(augmented.images, augmented.draws, augmented.labels.tolist(), strict=True):
        tiles = [Tile(enlarge(image), TRUE)] + [Tile(enlarge(draw)) for draw in draws]
        cards.append(Card(tiles, [(names[label], INK)]))
    return draw_sheet(
        "Training pictures as the model sees them",
        "before normalisation; each column is another draw of the augmentation",
        cards,
        legend=[("original", TRUE), ("augmented", RULE)],
        heat=False,
        empty="No training pictures.",
    )


def _error_card(predictions: Predictions, gallery: Gallery, place: int, names: Sequence[str]) -> Card:
    row = int(gallery.rows[place])
    label, pred = int(predictions.labels[row]), int(predictions.preds[row])
    picture = enlarge(gallery.images[place])
    pred_map, label_map = gallery.maps[:, place].numpy()
    tiles = [
        Tile(picture),
        Tile(overlay(picture, pred_map), PREDICTED),
        Tile(overlay(picture, label_map), TRUE),
    ]
    caption = [(names[label], TRUE), ("→", FAINT), (names[pred], PREDICTED)]
    p_pred, p_true = predictions.probs[row, pred], predictions.probs[row, label]
    detail = f"confidence {p_pred:.1%}   p(true) {p_true:.1%}   index {gallery.index[place]}"
    return Card(tiles, caption, detail)


def _hit_card(predictions: Predictions, gallery: Gallery, place: int, names: Sequence[str]) -> Card:
    row = int(gallery.rows[place])
    label, runner_up = int(predictions.labels[row]), int(predictions.runners_up[row])
    picture = enlarge(gallery.images[place])
    tiles = [Tile(picture), Tile(overlay(picture, gallery.maps[0, place].numpy()), TRUE)]
    caption, numbers = [(names[label], TRUE)], f"{predictions.probs[row, label]:.1%}"
    if runner_up != label:  # else there is only one class
        caption += [("not", FAINT), (names[runner_up], INK)]
        numbers += f" against {predictions.probs[row, runner_up]:.1%}"
    return Card(tiles, caption, f"{numbers}   index {gallery.index[place]}")
