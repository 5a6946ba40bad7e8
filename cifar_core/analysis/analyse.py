"""The analysis at the end of a run: every file of its `analysis/` folder."""

import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from cifar_core.analysis import sheets, tables
from cifar_core.analysis.cams import cam_module, cams
from cifar_core.analysis.lettering import printable_names
from cifar_core.analysis.metrics import confusion_matrix, metrics
from cifar_core.analysis.predictions import Predictions, predictions
from cifar_core.analysis.sheets import Gallery
from cifar_core.data import Data, Split
from cifar_core.settings import AnalysisSettings
from cifar_core.summary import summarize
from cifar_core.train import Augment

AUGMENTED = 8  # training pictures on the augmentation sheet
DRAWS = 8  # augmented draws of each


def analyse(
    model: nn.Module,
    data: Data,
    split: str,
    logits: Tensor,
    *,
    settings: AnalysisSettings,
    cam_layer: str,
    augment: Augment,
    history: list[dict[str, float]],
    out_dir: Path,
) -> dict[str, Any]:
    """Write what a run with its best weights explains about itself to `out_dir`; return its metrics.

    `logits` (N, K) are the model's for `data.test` or `data.val`, named by `split`; `history` has a dict
    an epoch: epoch, train/loss, train/acc, the same for val or test, lr.
    Level light draws no plots and imports no matplotlib; level none does nothing and returns {}.
    Raises ValueError where `settings.layer`, or else `cam_layer`, is no module with a grid.
    """
    if settings.level == "none":
        return {}
    started = time.perf_counter()
    part: Split = getattr(data, split).to("cpu")
    found = predictions(part.labels, logits)
    layer = cam_module(model, settings.layer or cam_layer, data.image_size)
    out_dir.mkdir(parents=True, exist_ok=True)
    summary = {"split": split} | metrics(found, data.classes)
    headline = _headline(summary)
    names = printable_names(data.classes)

    tables.write_predictions(out_dir / "predictions.npz", found, part.index, data.classes, part.names)
    tables.write_errors(out_dir / "misclassified.csv", found, part.index, data.classes, part.names)
    (out_dir / "model.txt").write_text(summarize(model, data.image_size) + "\n", encoding="utf-8")

    rows = found.errors()[: settings.sheet_size]
    errors = _gallery(model, layer, data, part, rows, [found.preds[rows], found.labels[rows]])
    sheets.error_sheet(found, errors, names, headline).save(out_dir / "contact_sheet.png")
    rows = found.unsure_hits()[: settings.sheet_size]
    hits = _gallery(model, layer, data, part, rows, [found.preds[rows]])
    sheets.hit_sheet(found, hits, names, headline).save(out_dir / "correct_sheet.png")
    _augmentation_sheet(data, augment, names).save(out_dir / "augmentations.png")
    if settings.level == "full":
        _plots(found, names, summary, history, out_dir)

    summary["seconds"] = round(time.perf_counter() - started, 3)
    tables.write_metrics(out_dir / "metrics.json", summary)
    return summary


def _headline(summary: dict[str, Any]) -> str:
    loss = "not finite" if summary["loss"] is None else f"{summary['loss']:.4f}"
    return f"{summary['split']}: {summary['acc']:.2%} of {summary['pictures']:,} pictures right, loss {loss}"


def _gallery(
    model: nn.Module, layer: nn.Module, data: Data, part: Split, rows: Tensor, targets: list[Tensor]
) -> Gallery:
    images = part.images[rows]
    return Gallery(rows, images, part.index[rows], cams(model, layer, data, images, targets))


def _augmentation_sheet(data: Data, augment: Augment, names: list[str]) -> Image.Image:
    labels = data.train.labels.cpu()
    firsts = [int((labels == label).nonzero()[0]) for label in labels.unique()[:AUGMENTED]]
    rows = torch.tensor((firsts + [row for row in range(len(labels)) if row not in firsts])[:AUGMENTED])
    images = data.train.images[rows.to(data.train.images.device)]
    generator = torch.Generator(device=images.device).manual_seed(0)
    draws = augment(images.repeat_interleave(DRAWS, 0), generator=generator).cpu()
    return sheets.augmentation_sheet(images.cpu(), draws.unflatten(0, (-1, DRAWS)), labels[rows], names)


def _plots(
    found: Predictions,
    names: list[str],
    summary: dict[str, Any],
    history: list[dict[str, float]],
    out_dir: Path,
) -> None:
    from cifar_core.analysis import plots  # imports matplotlib, which the light level does without

    counts = confusion_matrix(found.labels, found.preds, len(names)).numpy()
    class_acc = [row["acc"] for row in summary["per_class"]]
    figures = {
        "confusion_matrix": plots.confusion_plot(counts, names, _headline(summary)),
        "per_class": plots.class_plot(class_acc, names, summary["acc"], _headline(summary)),
        "curves": plots.curves_plot(history),
    }
    for name, figure in figures.items():
        figure.savefig(out_dir / f"{name}.png", bbox_inches="tight")
