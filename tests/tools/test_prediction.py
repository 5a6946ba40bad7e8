"""Predictions for picture files: a run's test pictures saved as files must get the run's own answers."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from cifar_core.data.sources import load_data
from cifar_core.report.cards import TILE
from experiments.config.compose import compose, compose_saved
from experiments.config.values import settings
from experiments.predict import COLUMNS
from experiments.runs.story import run
from experiments.tools.prediction import Predictor, load, picture_files, predict_files, write_sheet
from tests.conftest import Cli
from tests.runs.test_story import SMALL

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run(compose([*SMALL, "tracking=none", "analysis=light"]), folder)
    return folder


@pytest.fixture(scope="module")
def pictures(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty test pictures, 20 in the folder and 10 in one below it, named by their row."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "below").mkdir()
    data = load_data(settings(compose_saved(finished, [])).data)
    for row, image in enumerate(data.test.images[:30]):
        place = root / "below" if row % 3 == 0 else root
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{row:02}.png")
    return root


@pytest.fixture
def predictor(finished: Path) -> Predictor:
    return load(finished)


def test_a_run_s_test_pictures_get_its_own_answers(finished: Path, pictures: Path, predictor: Predictor):
    with np.load(finished / "analysis" / "predictions.npz") as file:
        logits, classes = torch.from_numpy(file["logits"]), file["classes"]
    probs = logits.double().softmax(1).numpy()
    files = picture_files([pictures])
    answers = list(predict_files(predictor, files, sheet_size=0))
    assert [file for file, _ in answers] == files
    assert sorted(int(file.stem) for file in files) == list(range(30))
    for file, (name, confidence, second, second_confidence) in answers:
        order = np.argsort(-probs[int(file.stem)])
        assert (name, second) == (classes[order[0]], classes[order[1]])
        assert float(confidence) == pytest.approx(probs[int(file.stem), order[0]], abs=1e-5)
        assert float(second_confidence) == pytest.approx(probs[int(file.stem), order[1]], abs=1e-5)
    assert predictor.cards == []


def test_chunks_change_nothing(pictures: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch):
    (pictures / "below" / "broken.jpg").write_bytes(b"no picture")
    files = picture_files([pictures])
    together = list(predict_files(predictor, files, sheet_size=0))
    monkeypatch.setattr("experiments.tools.prediction.CHUNK", 4)
    apart = list(predict_files(predictor, files, sheet_size=7))
    (pictures / "below" / "broken.jpg").unlink()
    assert [file for file, _ in apart] == files
    for (_, a), (_, b) in zip(together, apart, strict=True):
        assert (a[0], a[2]) == (b[0], b[2]) if isinstance(a, list) else "cannot identify" in b
    assert len(predictor.cards) == 7


def test_any_size_and_mode_is_taken_and_the_broken_are_named(tmp_path: Path, predictor: Predictor):
    noise = np.random.default_rng(0).integers(0, 256, (90, 50, 3), dtype=np.uint8)
    whole = Image.fromarray(noise)
    for number, mode in enumerate(("RGB", "L", "P", "RGBA", "1", "LA")):
        whole.convert(mode).save(tmp_path / f"{number}.png")
    whole.convert("CMYK").save(tmp_path / "6.jpg")
    (tmp_path / "7.jpg").write_bytes((tmp_path / "6.jpg").read_bytes()[:700])
    (tmp_path / "8.bmp").touch()
    outcome = {
        file.name: answer
        for file, answer in predict_files(predictor, picture_files([tmp_path]), sheet_size=9)
    }
    assert [name for name, answer in outcome.items() if isinstance(answer, str)] == ["7.jpg", "8.bmp"]
    assert "truncated" in outcome["7.jpg"]
    assert [Path(card.detail).name for card in predictor.cards] == [f"{n}.png" for n in range(6)] + ["6.jpg"]
    assert {tile.picture.size for card in predictor.cards for tile in card.tiles} == {(TILE, TILE)}


def test_files_are_found_once_and_hidden_ones_passed_over(tmp_path: Path):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", ".git/c.png", "deep/er/d.webp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = picture_files([tmp_path / "notes.txt", tmp_path, tmp_path / "b.png"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["notes.txt", "a.JPG", "b.png", "deep/er/d.webp"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no pictures"):
        picture_files([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="absent is neither a picture file nor a folder"):
        picture_files([tmp_path / "absent"])


def test_the_sheet_shows_maps_over_the_pictures(tmp_path: Path, pictures: Path, predictor: Predictor):
    list(predict_files(predictor, picture_files([pictures]), sheet_size=3))
    write_sheet(predictor, tmp_path / "new" / "cam_sheet.png", total=30, run="tiny")
    with Image.open(tmp_path / "new" / "cam_sheet.png") as sheet:
        assert len(sheet.convert("RGB").getcolors()) > 100
    for card in predictor.cards:
        picture, *maps = (np.asarray(tile.picture, dtype=int) for tile in card.tiles)
        assert (picture[..., 0] == picture[..., 2]).all()  # digits are grey
        assert any((over[..., 0] - over[..., 2]).max() > 60 for over in maps)  # the heat is not


def test_the_command(cli: Cli, finished: Path, pictures: Path, tmp_path: Path):
    """All readable pictures are predicted although some are not; the exit code tells."""
    (tmp_path / "torn.png").write_bytes((pictures / "01.png").read_bytes()[:60])
    done = cli(
        *(str(finished), str(tmp_path / "torn.png"), str(pictures), "--out", str(tmp_path / "out")),
        module="predict",
    )
    assert done.returncode == 1
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert tuple(rows[0]) == COLUMNS
    assert [row["file"] for row in rows] == [str(path) for path in picture_files([pictures])]
    told = done.stderr.splitlines()
    assert told[0].startswith(f"unreadable: {tmp_path / 'torn.png'}: ")
    assert told[1:] == [
        f"CAM sheet: {tmp_path / 'out' / 'cam_sheet.png'}",
        "1 of 31 pictures could not be read",
    ]
    wrong = cli(str(finished), str(tmp_path / "absent"), module="predict")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)


def test_the_sheet_shows_a_transparent_picture_over_the_run_s_background(
    tmp_path: Path, predictor: Predictor
):
    """The card's picture and the network's are made by one law."""
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    OmegaConf.update(predictor.cfg, "data.source", "folder")
    OmegaConf.update(predictor.cfg, "data.background", [0, 0, 255])
    list(predict_files(predictor, picture_files([tmp_path]), sheet_size=1))
    (card,) = predictor.cards
    assert np.asarray(card.tiles[0].picture)[0, 0].tolist() == [0, 0, 255]


def test_a_configuration_without_numbers_is_refused(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "edited"))
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(
        text.replace("  mean:\n  - 77.9\n  - 77.9\n  - 77.9\n", "  mean: auto\n")
    )
    with pytest.raises(ValueError, match="must say data.mean and data.std in numbers"):
        load(folder)
