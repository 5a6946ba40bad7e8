"""The analysis at the end of a run: every file of its `analysis/` folder."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from cifar_core.augment.protocol import Augment
from cifar_core.augment.uniforms import picture_keys
from cifar_core.data.split import Data, Split
from cifar_core.explain.calibration import fit_temperature, reliabilities
from cifar_core.explain.cams import Cams, cam_module, cams, evidence
from cifar_core.explain.labels import LabelIssues, credible, label_issues, label_quality
from cifar_core.explain.metrics import metrics, temperature_scores
from cifar_core.explain.predictions import Predictions
from cifar_core.explain.summary import summarize
from cifar_core.history import Row
from cifar_core.report import sheets, tables
from cifar_core.report.cards import COLORS, save_sheet
from cifar_core.report.content import Augmented, Content
from cifar_core.report.lettering import printable_names
from cifar_core.report.page import write_report
from cifar_core.report.settings import AnalysisSettings
from cifar_core.report.sheets import Gallery

AUGMENTED = 8  # training pictures on the augmentation sheet
DRAWS = 8  # augmented draws of each
MAPS_BYTES = 64_000_000  # of all maps beyond those on the contact sheets
REPORTED = 10  # the report shows this many times settings.sheet_size errors


def analyse(
    model: nn.Module,
    data: Data,
    split: str,
    logits: Tensor,
    *,
    settings: AnalysisSettings,
    cam_layer: str = "",
    augment: Augment,
    history: Sequence[Row] = (),
    out_dir: Path,
    val_logits: Tensor | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write what a run with its best weights explains about itself to `out_dir`; return its metrics.

    `logits` (N, K) are the model's for `data.test` or `data.val`, named by `split`; `val_logits` those for
    `data.val`, on which the temperature is fitted. `history` has a row an epoch. `facts`, those of `Content`,
    are told as far as they are there. Level light draws no plots; level none does nothing and returns {}.
    Raises ValueError where `settings.layer`, or else `cam_layer`, is no module with a grid.
    """
    if settings.level == "none":
        return {}
    lap = _stopwatch()
    part: Split = getattr(data, split).to("cpu")
    predictions = Predictions.of(part.labels, logits)
    layer = cam_module(model, settings.layer or cam_layer, data.image_size)
    quality, issues = label_quality(predictions), label_issues(predictions)
    summary = _summary(predictions, data, split, val_logits, issues)
    _write_tables(out_dir, predictions, quality, issues, part, data.classes)
    seconds = summary["seconds"] = {"numbers": lap()}
    (out_dir / "model.txt").write_text(summarize(model, data.image_size) + "\n", encoding="utf-8")
    seconds["model"] = lap()

    one = cams(model, layer, data, part, predictions, torch.zeros(1, dtype=torch.int64))
    rows, errors = _shown_rows(predictions, part.images, settings.sheet_size, one.grids.nbytes)
    maps = cams(model, layer, data, part, predictions, rows, method=settings.method)
    _tell_maps(out_dir, summary, maps, predictions, part, _name(model, layer), settings.method)
    seconds["maps"] = lap()

    content = Content(
        predictions=predictions,
        part=part,
        classes=data.classes,
        summary=summary,
        quality=quality,
        issues=issues,
        errors=maps[:errors],
        hits=maps[errors:],
        sheet_size=settings.sheet_size,
        augmented=_augmented(data, augment),
        history=history,
        facts=facts or {},
    )
    for name, write in WRITERS[settings.level].items():
        write(out_dir, content)
        seconds[name] = lap()
    seconds["total"] = round(sum(seconds.values()), 3)
    tables.write_metrics(out_dir / "metrics.json", summary)
    return summary


def _shown_rows(
    predictions: Predictions, images: Tensor, sheet_size: int, map_bytes: int
) -> tuple[Tensor, int]:
    """Return the pictures to show, int64 (M,), errors first, and how many errors they are.

    `images` are uint8 (N, 3, H, W), `map_bytes` the size of one picture's maps.
    """
    limit = max(sheet_size, min(REPORTED * sheet_size, MAPS_BYTES // map_bytes))
    errors = shown_errors(predictions, limit, sheet_size, images)
    hits = _distinct(predictions.unsure_hits(), images, sheet_size)
    return torch.cat([errors, hits]), len(errors)


def _distinct(rows: Tensor, images: Tensor, limit: int) -> Tensor:
    """Return the first `limit` of `rows` (M,) without those whose picture stands before them."""
    seen: dict[bytes, int] = {}
    pixels = images.numpy()
    for row in rows.tolist():
        seen.setdefault(blake2b(pixels[row].tobytes(), digest_size=16).digest(), row)
        if len(seen) == limit:
            break
    return torch.tensor(list(seen.values()), dtype=torch.int64)


def shown_errors(predictions: Predictions, limit: int, surest: int, images: Tensor) -> Tensor:
    """Choose at most `limit` errors for the gallery, int64 (M,), the most confident first.

    The `surest` most confident ones and half of the limit come by confidence alone; then every pair of true
    and predicted class has its turn, its most confident error first, so that rare confusions are seen too.
    Of equal pictures among `images`, uint8 (N, 3, H, W), one is chosen.
    """
    errors = _distinct(predictions.errors(), images, len(images))
    by_confidence = max(surest, limit // 2)
    first, rest = errors[:by_confidence], errors[by_confidence:]
    pairs = predictions.labels[rest] * predictions.logits.shape[1] + predictions.preds[rest]
    order = pairs.argsort(stable=True)
    _, sizes = pairs[order].unique_consecutive(return_counts=True)
    starts = sizes.cumsum(0) - sizes
    turn = torch.empty_like(rest)
    turn[order] = torch.arange(len(rest)) - starts.repeat_interleave(sizes)
    chosen = turn.argsort(stable=True)[: max(0, limit - by_confidence)]
    return torch.cat([first, rest[chosen.sort().values]])


def _stopwatch() -> Callable[[], float]:
    """Return a function that tells the seconds since it was last called."""
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return round(last - before, 3)

    return lap


def _summary(
    predictions: Predictions, data: Data, split: str, val_logits: Tensor | None, issues: LabelIssues
) -> dict[str, Any]:
    summary = {
        "split": split,
        **metrics(predictions, data.classes),
        "label_issues": _issue_counts(predictions, issues),
    }
    return summary | {"temperature_scaling": _temperature_scaling(predictions, data, split, val_logits)}


def _temperature_scaling(
    predictions: Predictions, data: Data, split: str, val_logits: Tensor | None
) -> dict[str, Any]:
    if split == "val":
        # One number fitted on thousands of pictures flatters them little, but it does.
        return temperature_scores(
            predictions, fit_temperature(predictions), "val, the pictures it is measured on"
        )
    if val_logits is None or not len(val_logits):
        return temperature_scores(predictions, None, "no validation pictures")
    val = Predictions.of(data.val.labels, val_logits)
    return temperature_scores(predictions, fit_temperature(val), f"val, {len(val.labels):,} pictures")


def _issue_counts(predictions: Predictions, issues: LabelIssues) -> dict[str, Any]:
    return {
        "candidates": len(issues.rows),
        "credible": int(credible(predictions, issues).sum()),
        "estimated": issues.estimated,
        "method": "confident learning on this split, whose pictures the model was not trained on",
    }


def _name(model: nn.Module, layer: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer)


def _tell_maps(
    out_dir: Path,
    summary: dict[str, Any],
    maps: Cams,
    predictions: Predictions,
    part: Split,
    layer: str,
    method: str,
) -> None:
    """Add to the summary what the maps are of, and write them."""
    summary["cam"] = {"layer": layer, "method": method, "grid": list(maps.grids.shape[2:])}
    summary["checks"]["predictions_repeated"] = maps.agree.double().mean().item()
    tables.write_cams(out_dir / "cams.npz", predictions, maps, part, layer=layer, method=method)
    tables.write_metrics(out_dir / "metrics.json", summary)  # again at the end; the drawing may fail


def _write_tables(
    out_dir: Path,
    predictions: Predictions,
    quality: Tensor,
    issues: LabelIssues,
    part: Split,
    classes: Sequence[str],
) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    tables.write_predictions(out_dir / "predictions.npz", predictions, part, classes)
    tables.write_errors(out_dir / "misclassified.csv", predictions, quality, issues, part, classes)
    tables.write_label_issues(out_dir / "label_issues.csv", predictions, quality, issues, part, classes)


def _augmented(data: Data, augment: Augment) -> Augmented:
    labels = data.train.labels.cpu()
    firsts = [int((labels == label).nonzero()[0]) for label in labels.unique()[:AUGMENTED]]
    others = [row for row in range(len(labels)) if row not in firsts]
    rows = torch.tensor((firsts + others)[:AUGMENTED], dtype=torch.int64)
    images = data.train.images[rows.to(data.train.images.device)]
    keys = picture_keys(len(rows) * DRAWS, torch.Generator().manual_seed(0))
    draws = augment(images.repeat_interleave(DRAWS, 0), keys).cpu()
    return Augmented(images.cpu(), draws.unflatten(0, (len(rows), DRAWS)), labels[rows])


def _write_sheets(out_dir: Path, content: Content) -> None:
    names, headline = printable_names(content.classes), content.headline
    method = sheets.METHODS[content.summary["cam"]["method"]]
    errors = _gallery(content.part, content.errors[: content.sheet_size])
    hits = _gallery(content.part, content.hits)
    drawn = {
        "contact_sheet": sheets.error_sheet(content.predictions, errors, names, headline, method),
        "correct_sheet": sheets.hit_sheet(content.predictions, hits, names, headline, method),
        "augmentations": sheets.augmentation_sheet(content.augmented, names),
    }
    for name, sheet in drawn.items():
        save_sheet(sheet, out_dir / f"{name}.png")


def _gallery(part: Split, maps: Cams) -> Gallery:
    images = part.images[maps.rows]
    return Gallery(maps.rows, images, part.index[maps.rows], evidence(maps.grids[:2], images.shape[-2:]))


def _write_plots(out_dir: Path, content: Content) -> None:
    from cifar_core.report import plots  # imports matplotlib, which the light level does without

    names, title, summary = printable_names(content.classes), content.headline, content.summary
    temperature = summary["temperature_scaling"]["temperature"]
    figures = {
        "confusion_matrix": plots.confusion_plot(content.counts, names, title),
        "per_class": plots.class_plot(summary["per_class"], names, summary["acc"], title),
        "reliability": plots.reliability_plot(*reliabilities(content.predictions, temperature), title),
        "curves": plots.curves_plot(content.history),
    }
    for name, figure in figures.items():
        drawn = io.BytesIO()
        figure.savefig(drawn, bbox_inches="tight")
        few = Image.open(drawn).convert("RGB").quantize(COLORS)  # 40 % of the bytes
        few.save(out_dir / f"{name}.png", compress_level=9)


LIGHT = {"sheets": _write_sheets, "report": write_report}  # no matplotlib
WRITERS = {"light": LIGHT, "full": {"sheets": _write_sheets, "plots": _write_plots, "report": write_report}}
