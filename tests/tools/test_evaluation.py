"""Saved weights evaluated again: on the run's own pictures, on them as files, on what does not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cifar_core.data.sources import load_data
from cifar_core.data.split import Data, Split
from cifar_core.train import checkpoint
from cifar_core.train.numerics import numerics
from cifar_core.train.predict import predict
from experiments import files as files_module
from experiments.cli import UserError
from experiments.config import build
from experiments.config.compose import compose, compose_saved
from experiments.config.values import settings
from experiments.files import read_json
from experiments.runs import read as read_module
from experiments.runs import weights
from experiments.runs.result import Result
from experiments.runs.story import run
from experiments.tools.evaluation import evaluate, lines, request
from experiments.tools.pictures import recoded, whole
from tests.conftest import Cli
from tests.runs.test_story import SMALL

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a moving average, both checkpoints kept."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    words = [*SMALL, "tracking=none", "analysis=light", "trainer.keep=all", "trainer.ema_decay=0.5"]
    run(compose(words), folder, overrides=words)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A run folder to break."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture(scope="module")
def digit_files(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test pictures of the classes 7 and 3 as PNG files, which lose nothing."""
    root = tmp_path_factory.mktemp("files")
    data = load_data(settings(compose_saved(finished, [])).data)
    test = data.test
    for image, label, index in zip(test.images, test.labels.tolist(), test.index.tolist(), strict=True):
        if label in (3, 7):
            for split in ("train", "test"):
                path = root / split / str(label) / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return root


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "predictions.npz") as file:
        return {name: file[name] for name in file.files}


def change(folder: Path, **values: object) -> Path:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key, value in values.items():
        group, _, name = key.partition("__")
        config[group][name] = value
    path.write_text(yaml.safe_dump(config))
    return folder


def test_own_pictures_give_the_run_s_own_figures_and_leave_its_analysis_alone(finished: Path):
    before = {path: path.read_bytes() for path in (finished / "analysis").iterdir()}
    asked = request(finished, [])
    out_dir, record = evaluate(asked)
    assert out_dir.parent == finished / "evaluations"
    assert {path: path.read_bytes() for path in (finished / "analysis").iterdir()} == before
    metrics = json.loads((finished / "result.json").read_text())["metrics"]
    assert record["acc"] == metrics["test/acc"]
    assert record["loss"] == pytest.approx(metrics["test/loss"], rel=1e-6)
    np.testing.assert_allclose(arrays(out_dir)["logits"], arrays(finished / "analysis")["logits"], atol=1e-5)
    assert read_json(out_dir / "evaluation.json") == record
    assert (record["same_data"], record["changes"]) == (True, {})
    assert (out_dir / "report.html").exists()
    assert lines(asked, out_dir, record)[0].startswith(f"accuracy       {metrics['test/acc']:.2%}")


def test_validation_pictures_give_the_best_epoch_s_figure(finished: Path):
    _, record = evaluate(request(finished, ["split=val"]))
    assert record["acc"] == json.loads((finished / "result.json").read_text())["metrics"]["val/acc_best"]


def test_the_last_checkpoint_is_its_moving_average(finished: Path):
    out_dir, record = evaluate(request(finished, ["checkpoint=last"]))
    cfg = compose_saved(finished, [])
    options = settings(cfg)
    data, where = load_data(options.data), numerics(options.trainer)
    state = checkpoint.load(finished / "last.pt")["state"]
    averaged = torch.nn.Module()
    averaged.module = where.place(build.model(cfg, num_classes=10))
    averaged.register_buffer("n_averaged", torch.tensor(0))
    averaged.load_state_dict(state["ema"])
    logits = predict(averaged.module, data, data.test, where, batch_size=500)
    np.testing.assert_allclose(arrays(out_dir)["logits"], logits.numpy(), atol=1e-5)
    averaged.module.load_state_dict(state["model"])
    assert not torch.allclose(predict(averaged.module, data, data.test, where, batch_size=500), logits)
    assert record["epoch"] == 2


def test_other_data_counts_classes_by_name_and_keeps_the_run_s_normalisation(
    finished: Path, digit_files: Path
):
    """conf/data/folder.yaml normalises otherwise, and numbers 3 and 7 as 0 and 1."""
    out_dir, record = evaluate(request(finished, [f"data.root={digit_files}", "data=folder"]))
    own, found = arrays(finished / "analysis"), arrays(out_dir)
    rows = np.flatnonzero(np.isin(own["labels"], (3, 7)))
    by_index = {f"test/{own['labels'][row]}/{own['index'][row]}.png": row for row in rows}
    order = [by_index[name] for name in found["names"].tolist()]
    assert sorted(order) == rows.tolist()
    assert found["labels"].tolist() == own["labels"][order].tolist()
    assert found["classes"].tolist() == own["classes"].tolist()
    np.testing.assert_allclose(found["logits"], own["logits"][order], atol=1e-5)
    assert (record["classes"], record["same_data"]) == (["3", "7"], False)
    assert record["absent_classes"] == list("01245689")
    assert record["changes"]["data.source"] == ["digits", "folder"]
    assert not {"data.mean", "data.std", "data.image_size"} & record["changes"].keys()
    assert record["acc"] == (own["logits"][order].argmax(1) == own["labels"][order]).mean()


def test_class_folders_alone_are_all_judged(finished: Path, digit_files: Path):
    words = ["data=folder", f"data.root={digit_files / 'test'}"]
    count = len(list((digit_files / "test").rglob("*.png")))
    out_dir, record = evaluate(request(finished, words))
    assert record["pictures"] == count
    assert evaluate(request(finished, [*words, "split=all"]))[1]["pictures"] == count
    assert evaluate(request(finished, [*words, "data.test_size=0.2"]))[1]["pictures"] == round(0.2 * count)
    assert "2 of the run's 10; none of: 0, 1, 2" in "\n".join(
        lines(request(finished, words), out_dir, record)
    )


def test_one_class_a_test_folder_alone_or_a_val_folder_alone_are_enough(
    finished: Path, digit_files: Path, tmp_path: Path
):
    sevens = len(list((digit_files / "test" / "7").glob("*.png")))
    shutil.copytree(digit_files / "test" / "7", tmp_path / "flat" / "7")
    for name in ("test", "val"):
        shutil.copytree(digit_files / "test" / "7", tmp_path / name / name / "7")
    for place in ("flat", "test", "val"):
        for more in ([], ["split=all"]):
            words = ["data=folder", f"data.root={tmp_path / place}", *more]
            record = evaluate(request(finished, words))[1]
            assert (record["pictures"], record["classes"]) == (sevens, ["7"]), (place, more)


def test_with_train_and_test_folders_the_test_folder_is_judged_and_all_are_on_request(
    finished: Path, digit_files: Path
):
    words, count = ["data=folder", f"data.root={digit_files}"], len(list(digit_files.rglob("*.png")))
    assert evaluate(request(finished, words))[1]["pictures"] == count // 2
    assert evaluate(request(finished, [*words, "split=all"]))[1]["pictures"] == count


def test_a_class_that_the_run_does_not_know_is_named(finished: Path, digit_files: Path, tmp_path: Path):
    shutil.copytree(digit_files / "test" / "7", tmp_path / "p" / "seven")
    with pytest.raises(UserError, match="classes that the run does not know: .'seven'.; it knows: 0, 1"):
        evaluate(request(finished, ["data=folder", f"data.root={tmp_path / 'p'}"]))


def test_class_names_match_in_either_unicode_form_and_many_are_not_all_listed():
    none = torch.zeros(1, dtype=torch.int64)
    part = Split(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), none, none, None)
    data = Data("folder", ("caf\u00e9",), part, part, part, (0, 0, 0), (1, 1, 1), "")
    assert recoded(data, ("a", "cafe\u0301")).test.labels.tolist() == [1]
    with pytest.raises(ValueError, match="it knows: 0, 1, .*, 19 and 980 more$"):
        recoded(data, [str(number) for number in range(1000)])


def test_the_run_s_own_class_folders_keep_their_test_split_wherever_they_lie(
    digit_files: Path, tmp_path: Path
):
    """Judged on all of them, most would be pictures that the run has seen."""
    root = Path(shutil.copytree(digit_files / "test", tmp_path / "here"))
    words = [*SMALL, "data=folder", "data.image_size=32", f"data.root={root}", f"data.cache={tmp_path / 'c'}"]
    words += ["tracking=none", "analysis=none", "trainer.epochs=1", "trainer.batch_size=16"]
    run(compose(words), tmp_path / "run")
    own = evaluate(request(tmp_path / "run", []))[1]
    moved = root.rename(tmp_path / "there")
    for more in ([], ["data=folder"]):
        again = evaluate(request(tmp_path / "run", [*more, f"data.root={moved}"]))[1]
        assert (again["same_data"], again["pictures"], again["acc"]) == (True, own["pictures"], own["acc"])
    (moved / "3" / "more.png").write_bytes(next((moved / "3").glob("*.png")).read_bytes())
    other = evaluate(request(tmp_path / "run", [f"data.root={moved}"]))[1]
    assert (other["same_data"], other["pictures"]) == (False, len(list(moved.rglob("*.png"))))


def handmade(classes: tuple[str, ...], names: bool = True) -> Data:
    def part(labels: list[int]) -> Split:
        images = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
        files = [f"{label}/{row}.png" for row, label in enumerate(labels)] if names else None
        return Split(images, torch.tensor(labels), torch.arange(len(labels)), files)

    return Data("folder", classes, part([0, 1, 2]), part([2]), part([1, 1, 0]), (0, 0, 0), (1, 1, 1), "")


def test_classes_in_another_order_are_matched_by_name():
    data = handmade(("ship", "cat", "dog"))
    found = recoded(data, ("dog", "cat", "bird", "ship"))
    assert found.classes == ("dog", "cat", "bird", "ship")
    for name in ("train", "val", "test"):
        before, after = getattr(data, name).labels.tolist(), getattr(found, name).labels.tolist()
        assert [data.classes[k] for k in before] == [found.classes[k] for k in after]
    with pytest.raises(ValueError, match=r"does not know: \['ship'\]; it knows: dog, cat$"):
        recoded(data, ("dog", "cat"))


def test_all_pictures_are_those_of_the_three_splits():
    found = whole(handmade(("a", "b", "c"))).test
    assert found.labels.tolist() == [0, 1, 2, 2, 1, 1, 0]
    assert list(found.names or ()) == [
        "0/0.png",
        "1/1.png",
        "2/2.png",
        "2/0.png",
        "1/0.png",
        "1/1.png",
        "0/2.png",
    ]
    with pytest.raises(ValueError, match="split=all needs pictures with file names"):
        whole(handmade(("a", "b", "c"), names=False))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoint=first"], "checkpoint must be one of best, last, got 'first'"),
        (["split=train"], "split must be one of test, val, all, got 'train'"),
        (["optimizer.lr=1"], "optimizer.lr cannot be changed in an evaluation"),
        (["data.mean=[0,0,0]"], "data.mean stays the run's own"),
        (["data.rooot=x"], "data.rooot is not a key"),
        (["data=folder"], "data.root must be given"),
        (["data=cifar11"], "data=cifar11 is not an option of data"),
        (["analysis=lite"], "did you mean light?"),
    ],
)
def test_mistakes_are_told(finished: Path, words: list[str], message: str):
    with pytest.raises(ValueError, match=".") as told:
        request(finished, words)
    assert message in str(told.value)


def test_what_does_not_fit_is_refused(copied: Path, digit_files: Path, tmp_path: Path):
    for name in ("train", "test"):
        shutil.copytree(digit_files / name / "3", tmp_path / "strange" / name / "3")
        shutil.copytree(digit_files / name / "7", tmp_path / "strange" / name / "seven")
    with pytest.raises(UserError, match=r"classes that the run does not know: \['seven'\]"):
        evaluate(request(copied, ["data=folder", f"data.root={tmp_path / 'strange'}"]))
    crop = {"crop": {"_target_": "albumentations.RandomCrop", "height": 32, "width": 32, "p": 1.0}}
    with pytest.raises(ValueError, match=r"aug\.image\.crop"):
        request(change(copied, aug__image=crop), ["data.image_size=16"])
    with pytest.raises(
        UserError, match=r"best.pt, .* the weights are those of another model: .* conv1?.*needed \(8, 3"
    ):
        evaluate(request(change(copied, aug__image={}, model__width=8), []))
    (copied / "last.pt").unlink()
    with pytest.raises(UserError, match=r"last.pt is not there; trainer.keep left: best"):
        evaluate(request(copied, ["checkpoint=last"]))
    (copied / "result.json").unlink()  # as while it runs
    with pytest.raises(
        UserError, match=r"last.pt is not there; a run writes it every trainer.checkpoint_sec"
    ):
        evaluate(request(copied, ["checkpoint=last"]))
    (copied / "best.pt").write_bytes((copied / "best.pt").read_bytes()[:500])
    with pytest.raises(OSError, match="best.pt is not a readable checkpoint"):
        evaluate(request(copied, []))
    (copied / "best.pt").unlink()
    Result("failed", error="out of memory").write(copied)
    with pytest.raises(
        UserError, match=r"best.pt is not there; the run ended before its first epoch was sav"
    ):
        evaluate(request(copied, []))


def test_a_run_s_analysis_is_only_written_by_the_same_again(copied: Path):
    own = copied / "analysis"
    for words in (["checkpoint=last"], ["split=val"], ["data.image_size=24"]):
        with pytest.raises(UserError, match="--out must not be the analysis of a run"):
            evaluate(request(copied, words), own)
    shutil.rmtree(own)
    named = json.loads((copied / "environment.json").read_text()) | {"name": "resnet20 lr=0.1 s0"}
    (copied / "environment.json").write_text(json.dumps(named))
    assert evaluate(request(copied, []), own)[0] == own
    assert "<title>resnet20 lr=0.1 s0: best weights" in (own / "report.html").read_text()
    assert (own / "predictions.npz").exists()


def test_class_names_come_from_the_record_or_the_analysis_or_the_data(copied: Path):
    cfg = compose_saved(copied, [])
    facts = json.loads((copied / "environment.json").read_text())
    named = facts | {"classes": [f"digit {number}" for number in range(10)]}
    (copied / "environment.json").write_text(json.dumps(named))
    assert weights.class_names(copied, cfg) == tuple(named["classes"])
    del facts["classes"]
    (copied / "environment.json").write_text(json.dumps(facts))
    assert weights.class_names(copied, cfg) == tuple("0123456789")
    shutil.rmtree(copied / "analysis")
    assert weights.class_names(copied, cfg) == tuple("0123456789")
    (copied / "environment.json").write_text(json.dumps(facts | {"data": "another"}))
    with pytest.raises(ValueError, match="its data has changed: fingerprint another, got"):
        weights.class_names(copied, cfg)


def test_damaged_files_are_named(copied: Path):
    for name, read in (
        ("result.json", lambda: files_module.read_json(copied / "result.json")),
        ("metrics.csv", lambda: read_module.history(copied)),
        ("predictions.npz", lambda: read_module.predictions(copied)),
    ):
        path = copied / ("analysis" if name == "predictions.npz" else "") / name
        path.write_text("epoch,loss\n1,x\n")
        with pytest.raises(OSError, match=f"{name} is damaged"):
            read()


def test_a_line_that_is_being_written_is_no_epoch_yet(copied: Path):
    whole_lines = read_module.history(copied)
    with (copied / "metrics.csv").open("a") as file:
        file.write("3,12,0.5")
    assert read_module.history(copied) == whole_lines
    assert len(whole_lines) == 2


def test_the_command(cli: Cli, finished: Path, tmp_path: Path):
    done = cli(str(finished), "analysis.sheet_size=4", "--out", str(tmp_path / "e"), module="evaluate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"folder         {tmp_path / 'e'}"
    wrong = cli(str(tmp_path), module="evaluate")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        f"error: {tmp_path} is not a run folder: it has no config.yaml\n",
    )
