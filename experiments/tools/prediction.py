"""Tells what a trained network sees in pictures of any size and format."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from cifar_core.data.folder import passed_over, pictures_below
from cifar_core.data.normalisation import triple
from cifar_core.data.picture import Reading, decode_picture
from cifar_core.data.sources import reads
from cifar_core.data.split import Data, Split
from cifar_core.explain.cams import BATCH_SIZE, evidence
from cifar_core.explain.gradcam import cam_grids
from cifar_core.explain.predictions import Predictions
from cifar_core.processes import cores
from cifar_core.report.cards import (
    FAINT,
    INK,
    PREDICTED,
    RULE,
    TILE,
    TRUE,
    Card,
    Tile,
    draw_sheet,
    enlarge,
    save_sheet,
)
from cifar_core.report.heat import overlay
from cifar_core.report.lettering import printable_names
from cifar_core.report.markup import shown
from cifar_core.report.sheets import METHODS
from cifar_core.train.numerics import Numerics, set_up
from cifar_core.train.predict import predict
from experiments.cli import one_line
from experiments.config import build
from experiments.config.compose import compose_saved
from experiments.config.values import settings
from experiments.runs.weights import class_names, trained_model

log = logging.getLogger(__name__)

CHUNK = 512  # pictures decoded and classified at a time


@dataclass
class Predictor:
    """A run's network with its best weights, ready for pictures from anywhere."""

    cfg: DictConfig
    model: nn.Module
    layer: nn.Module  # whose grid the maps use
    data: Data  # without pictures: classes, size, normalisation
    numerics: Numerics
    cards: list[Card] = field(default_factory=list)  # of the sheet, so far


def load(
    folder: Path, *, checkpoint: str = "best", device: str | None = None, overrides: Sequence[str] = ()
) -> Predictor:
    """Return the predictor of the run in ``folder``; ``device`` and ``overrides`` replace the run's own.

    Raises FileNotFoundError or ValueError where the folder has no such weights.
    """
    cfg = compose_saved(folder, [*overrides, *([f"trainer.device={device}"] if device else [])])
    options = settings(cfg)
    numerics, size = set_up(options.trainer), options.data.image_size
    classes = class_names(folder, cfg)
    model, _ = trained_model(folder, cfg, num_classes=len(classes), checkpoint=checkpoint)
    layer = build.cam_module(cfg, model, size)
    none = torch.zeros(0, dtype=torch.int64)
    empty = Split(torch.zeros(0, 3, size, size, dtype=torch.uint8), none, none, None)
    mean, std = triple(options.data.mean), triple(options.data.std)
    data = Data("pictures", classes, empty, empty, empty, mean, std, "")
    return Predictor(cfg, numerics.place(model), layer, data, numerics)


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """Return the given files and, of folders, all pictures below them, sorted; hidden names are passed over.

    Raises FileNotFoundError for a path that is not there, and for a folder without pictures.
    """
    files: dict[Path, None] = {}  # in order, each once
    for path in paths:
        if path.is_file():
            files[path] = None
        elif not path.is_dir():
            raise FileNotFoundError(f"{path} is neither a picture file nor a folder")
        else:
            pictures, passed = pictures_below(path)
            told = f"passed over in {path}: {passed_over(passed)}" if passed else ""
            if not pictures:
                raise FileNotFoundError(f"{path} holds no pictures; {told}".removesuffix("; "))
            if told:
                log.warning(told)
            files |= dict.fromkeys(pictures)
    return list(files)


def predict_files(
    predictor: Predictor, files: Sequence[Path], *, sheet_size: int
) -> Iterator[tuple[Path, list[str] | str]]:
    """Yield for each file the rest of its CSV line, or the reason why it cannot be read.

    The first ``sheet_size`` pictures also leave a card with their maps in ``predictor.cards``.
    """
    reading = reads(settings(predictor.cfg).data)
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            decoded = list(
                pool.map(_decoded, chunk, [predictor.data.image_size] * len(chunk), [reading] * len(chunk))
            )
            good = [row for row, picture in enumerate(decoded) if not isinstance(picture, str)]
            lines: list[list[str]] = []
            if good:
                images = torch.from_numpy(np.stack([decoded[row] for row in good]))
                preds = _classify(predictor, images)
                lines = _lines(preds, predictor.data.classes)
                room = max(0, sheet_size - len(predictor.cards))
                _add_cards(predictor, [chunk[row] for row in good][:room], images[:room], preds)
            answers = iter(lines)
            for file, picture in zip(chunk, decoded, strict=True):
                yield file, picture if isinstance(picture, str) else next(answers)


def _classify(predictor: Predictor, images: Tensor) -> Predictions:
    """Return what the network says about uint8 pictures (N, 3, H, W); their labels are not known, so 0."""
    none = torch.zeros(len(images), dtype=torch.int64)
    part = Split(images, none, none, None).to(predictor.numerics.device)
    batch = predictor.cfg.trainer.eval_batch_size
    logits = predict(predictor.model, predictor.data, part, predictor.numerics, batch_size=batch)
    return Predictions.of(none, logits)


def _lines(preds: Predictions, classes: Sequence[str]) -> list[list[str]]:
    """Return class, confidence, runner-up and its confidence of each picture."""
    top = preds.ranking[:, :2]
    return [
        [cell for k, p in zip(answers, shares, strict=True) for cell in (classes[k], f"{p:.6g}")]
        for answers, shares in zip(top.tolist(), preds.probs.gather(1, top).tolist(), strict=True)
    ]


def _decoded(path: Path, size: int, reading: Reading) -> np.ndarray | str:
    try:
        return decode_picture(path, size, reading)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file drives them to
        return one_line(error)


def _add_cards(predictor: Predictor, files: Sequence[Path], images: Tensor, preds: Predictions) -> None:
    """Add cards with the maps of the two likeliest classes, laid over the picture as it is squeezed."""
    names, method = printable_names(predictor.data.classes), predictor.cfg.analysis.method
    reading = reads(settings(predictor.cfg).data)
    for start in range(0, len(files), BATCH_SIZE):
        rows = slice(start, min(start + BATCH_SIZE, len(files)))
        inputs = predictor.data.normalize(images[rows].to(predictor.numerics.device))
        targets = [of[rows].to(inputs.device) for of in (preds.preds, preds.runners_up)]
        grids, _ = cam_grids(predictor.model, predictor.layer, inputs, targets, method=method)
        maps = evidence(grids.cpu(), inputs.shape[-2:]).numpy()
        for place, file in enumerate(files[rows]):
            row = start + place
            picture = enlarge(torch.from_numpy(decode_picture(file, TILE, reading).copy()))
            pred, rival = int(preds.preds[row]), int(preds.runners_up[row])
            tiles = [
                Tile(picture),
                Tile(overlay(picture, maps[0, place]), PREDICTED),
                Tile(overlay(picture, maps[1, place]), TRUE),
            ]
            headline = [(names[pred], PREDICTED), ("or", FAINT), (names[rival], TRUE)]
            shares = f"{preds.probs[row, pred]:.1%} against {preds.probs[row, rival]:.1%}"
            headline.append((shares, INK))
            predictor.cards.append(Card(tiles, headline, shown("/".join(file.parts[-2:]))))


def write_sheet(predictor: Predictor, path: Path, *, total: int, run: str) -> None:
    """Write the cards gathered so far as one PNG; ``total`` is the number of pictures classified."""
    method = METHODS[predictor.cfg.analysis.method]
    sheet = draw_sheet(
        "What the network sees",
        f"{run}; {len(predictor.cards):,} of {total:,} pictures, squeezed to a square as for the network",
        predictor.cards,
        legend=[
            ("picture", RULE),
            (f"{method} of the predicted class", PREDICTED),
            (f"{method} of the runner-up", TRUE),
        ],
        heat=True,
        empty="No picture could be read.",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(sheet, path)
