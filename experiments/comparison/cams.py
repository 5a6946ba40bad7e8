"""Where did a run look? Its class activation maps, from its analysis or computed anew from its weights."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from cifar_core.explain.cams import cam_module, cams
from cifar_core.explain.predictions import Predictions
from cifar_core.train.numerics import Numerics, set_up
from cifar_core.train.settings import TrainerSettings
from experiments.cli import one_line
from experiments.comparison.groups import Analysed
from experiments.comparison.pixels import pixels
from experiments.config.compose import compose_saved
from experiments.config.values import settings
from experiments.files import read_json
from experiments.runs.folder import RunFolder
from experiments.runs.read import arrays, predictions

Key = tuple[Path, int, int]  # a run's folder, a picture's index, the class that the run predicts
Maps = Mapping[Key, np.ndarray]  # float (h, w), at least 0: the evidence for that class


def key(one: Analysed, row: int) -> Key:
    """Return what names the map of a run's own answer to the picture in ``row``."""
    return one.run.folder, int(one.pictures.index[row]), int(one.pictures.preds[row])


def saved(one: Analysed) -> Maps:
    """Return the maps that a run's analysis has kept; {} where there are none that can be read."""
    try:
        kept = arrays(RunFolder(one.run.folder).analysis / "cams.npz")
        if kept is None:
            return {}
        grids = kept["grids"][0].astype(np.float32)
        pairs = zip(kept["index"].tolist(), kept["predicted"].tolist(), strict=True)
        maps = {(one.run.folder, *pair): grid for pair, grid in zip(pairs, grids, strict=True)}
        return maps if grids.ndim == 3 and grids.size else {}
    except (IndexError, KeyError, OSError, TypeError, ValueError):  # a damaged file
        return {}


def computed(shown: Iterable[Analysed], rows: Sequence[int], words: Sequence[str] = ()) -> Maps:
    """Return the maps of the pictures in ``rows`` that the runs' analyses lack.

    ``words`` may allow code of one's own. What cannot be computed is told on stderr, a line a run.
    """
    maps: dict[Key, np.ndarray] = {}
    for one in shown:
        kept = saved(one)
        lacking = [row for row in rows if key(one, row) not in kept]
        try:
            maps |= _computed(one, lacking, words) if lacking else {}
        except (OSError, ValueError) as error:
            print(f"no maps of {one.run.folder}: {one_line(error)}", file=sys.stderr)
    return maps


def _computed(one: Analysed, rows: Sequence[int], words: Sequence[str]) -> Maps:
    from experiments.runs.weights import trained_model  # with Albumentations, a second

    cfg = compose_saved(one.run.folder, words)
    numerics = _numerics(settings(cfg).trainer)
    model, _ = trained_model(one.run.folder, cfg, num_classes=len(one.pictures.classes), checkpoint="best")
    data, part = pixels(one)
    layer, method = _cam(one.run.folder)
    module = cam_module(model, layer, data.image_size)
    logits = torch.from_numpy((predictions(one.run.folder) or {})["logits"])
    answers = Predictions.of(part.labels, logits)
    found = cams(numerics.place(model), module, data, part, answers, torch.as_tensor(rows), method=method)
    others = int((~found.agree).sum())
    if others:
        print(
            f"{one.run.folder} answers {others:,} of {len(rows):,} pictures otherwise here than in its "
            "analysis; they get no map",
            file=sys.stderr,
        )
    grids = zip(rows, found.grids[0].numpy(), found.agree.tolist(), strict=True)
    return {key(one, row): grid for row, grid, agrees in grids if agrees}


def _numerics(trainer: TrainerSettings) -> Numerics:
    """Return the run's own device, or the CPU where this machine has no such one."""
    try:
        return set_up(trainer)
    except ValueError:
        return set_up(dataclasses.replace(trainer, device="cpu"))


def _cam(folder: Path) -> tuple[str, str]:
    """Return the layer and the method of the maps in a run's analysis."""
    cam = read_json(RunFolder(folder).analysis / "metrics.json").get("cam")
    if not isinstance(cam, dict):
        raise ValueError("analysis/metrics.json does not say of which layer its maps are")
    return str(cam.get("layer")), str(cam.get("method"))
