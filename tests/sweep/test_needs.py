"""What all points of a sweep need is looked for once, before the first trial."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_core.data import folder
from experiments.cli import UserError
from experiments.config.settings import SweepSettings
from experiments.sweep import server
from experiments.sweep.jobs import check_points
from tests.sweep.conftest import TINY, space_of

FILES = {"config_name": "config", "config_dir": None}
GRID = SweepSettings(sampler="grid", test="all")


def pictures(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for split, count in (("train", 6), ("test", 4)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
                picture.save(root / split / name / f"{number}.png")
    return root


def torn(root: Path) -> Path:
    for path in (pictures(root) / "train" / "a").iterdir():
        path.write_bytes(b"no picture")
    return root


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (["data=cifar10", "data.root=absent", "data.download=false"], FileNotFoundError, "is not in absent"),
        (["data=folder", "data.root=absent"], FileNotFoundError, "absent"),
        (["data=folder", "data.root=torn"], OSError, "torn"),
        (["data=folder", "data.root=here", "data.cache=file/x"], OSError, "file/x"),
        (["data=folder", "data.root=here", "data.val_size=0.1,500"], ValueError, "data.val_size"),
        (["model.weights=absent.pt"], FileNotFoundError, "model.weights: .*absent.pt"),
        (["model.weights=file,file2"], (ValueError, OSError), "model.weights: file"),
        (["trainer.device=cuda:77"], ValueError, "trainer.device must be a device of this machine"),
    ],
)
def test_what_is_not_there_is_found_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: type, told: str
):
    monkeypatch.chdir(tmp_path)
    pictures(Path("here"))
    torn(Path("torn"))
    for name in ("file", "file2"):
        Path(name).write_text("no checkpoint")
    tiny = list(TINY)
    if words[0].startswith("data="):
        tiny = [part for part in TINY if "data." not in part] + ["data.cache=cache", "trainer.batch_size=4"]
    space = space_of(*tiny, *words, "optimizer.lr=0.1,0.2", "seed=0,1")
    with pytest.raises(kind, match=told):
        check_points(space, GRID, FILES)


def test_pictures_are_decoded_once_before_the_first_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    decoded, decode = [], folder.decode
    monkeypatch.setattr(folder, "decode", lambda *args: decoded.append(args) or decode(*args))
    words = [f"data.root={pictures(tmp_path / 'here')}", f"data.cache={tmp_path / 'cache'}"]
    tiny = [part for part in TINY if "data." not in part] + ["trainer.batch_size=4"]
    space = space_of(*tiny, "data=folder", *words, "optimizer.lr=0.1,0.2", "seed=0,1", "data.val_size=4,6")
    check_points(space, GRID, FILES)
    assert len(decoded) == 1


def test_trials_that_share_a_machine_out_have_one_device(tmp_path: Path):
    tiny = [part for part in TINY if "trainer.device" not in part]
    with pytest.raises(ValueError, match="must be the same for all trials, .*, got cpu, cuda:0"):
        check_points(space_of(*tiny, "trainer.device=cpu,cuda:0"), GRID, FILES)


def test_trials_on_a_cluster_may_have_what_is_not_here():
    tiny = [part for part in TINY if "data." not in part]
    space = space_of(*tiny, "data=cifar10", "data.root=absent", "data.download=false", "seed=0,1")
    check_points(space, SweepSettings(sampler="grid", test="all", backend="slurm"), FILES)


@pytest.mark.parametrize(
    ("error", "kind", "notes"),
    [
        (ValueError("a\nb"), ValueError, 0),
        (FileNotFoundError("a b"), FileNotFoundError, 0),
        (PermissionError("a b"), OSError, 0),
        (MemoryError("a b"), MemoryError, 0),
        (UserError("a b"), UserError, 0),
        (TypeError("a b"), server.Defect, 1),
        (IndexError("a b"), server.Defect, 1),
    ],
)
def test_an_error_of_a_job_keeps_its_kind_and_a_defect_its_traceback(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type, notes: int
):
    def broken() -> None:
        raise error

    monkeypatch.setattr(server, "work", lambda *_, **__: broken())
    monkeypatch.setattr(server.os, "setsid", lambda: None)
    monkeypatch.setattr(server.signal, "signal", lambda *_: None)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    server._answer(theirs, "gpu_names", (), {})
    _, sent = ours.recv()
    assert type(sent) is kind
    assert str(sent).endswith("a b")
    assert sum("in broken" in note for note in getattr(sent, "__notes__", [])) == notes
