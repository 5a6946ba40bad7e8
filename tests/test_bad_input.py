"""Bad and hostile input through the command line: one line that names the cause, the exit code of its kind.

Each case runs `main()` in a forked child, which has torch imported already.
"""

import gzip
import importlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.config.test_compose import WRONG, arguments
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow

USER, ENVIRONMENT = 2, 1
DIGITS = ["data=digits", "model=resnet20", "tracking=none", "trainer.epochs=1", "trainer.device=cpu"]
Prepare = Callable[[Path], list[str] | None]


def call_main(arguments: list[str], folder: Path, module: str = "run") -> tuple[int, str, str]:
    """Run a command in a forked child; return its exit code, stdout and stderr."""
    out, err = folder.parent / "stdout", folder.parent / "stderr"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            for stream, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            # The parent's fork server, if an earlier test started one, is no child of this process.
            forkserver._forkserver._forkserver_pid = None
            os.chdir(folder)
            sys.argv = [f"experiments.{module}", *arguments]
            main = importlib.import_module(f"experiments.{module}").main
            try:
                code = main() or 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 71
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), out.read_text(), err.read_text()


FOLDER = ("data=folder", "trainer.batch_size=4")


def pictures(root: Path, *, classes=("a", "b"), splits=("train", "test"), count: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                    folder / f"{number}.png"
                )
    return root


def broken_picture(tmp: Path) -> list[str]:
    (pictures(tmp / "p") / "train" / "a" / "3.png").write_bytes(b"no picture")
    return ["data=folder", f"data.root={tmp / 'p'}", "trainer.batch_size=4"]


def empty_class(tmp: Path) -> list[str]:
    (pictures(tmp / "p") / "train" / "empty").mkdir()
    return ["data=folder", f"data.root={tmp / 'p'}", "trainer.batch_size=4"]


def one_class(tmp: Path) -> list[str]:
    return ["data=folder", f"data.root={pictures(tmp / 'p', classes=('a',))}"]


def no_pictures(tmp: Path) -> list[str]:
    for name in ("a", "b"):
        (tmp / "p" / "train" / name).mkdir(parents=True)
        (tmp / "p" / "train" / name / "notes.txt").write_text("no picture")
    return ["data=folder", f"data.root={tmp / 'p'}", "trainer.batch_size=4"]


def root_is_a_file(tmp: Path) -> list[str]:
    (tmp / "p").write_text("")
    return ["data=folder", f"data.root={tmp / 'p'}", "trainer.batch_size=4"]


def too_few_for_a_batch(tmp: Path) -> list[str]:
    return ["data=folder", f"data.root={pictures(tmp / 'p')}", "trainer.batch_size=1000"]


def archive(tmp: Path, content: bytes, name: str = "cifar-10-python.tar.gz") -> list[str]:
    (tmp / "cifar").mkdir()
    (tmp / "cifar" / name).write_bytes(content)
    return ["data.download=false", f"data.root={tmp / 'cifar'}", "data.cache=" + str(tmp / "cache")]


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile_pickle(tmp: Path) -> list[str]:
    return archive(tmp, tar_of({"cifar-10-batches-py/data_batch_1": pickle.dumps(Hostile(tmp / "hacked"))}))


def path_traversal(tmp: Path) -> list[str]:
    return archive(tmp, tar_of({"../../hacked": b"x", "/hacked": b"x"}))


def read_only(tmp: Path) -> Path:
    """Return a folder nobody can write to, root included."""
    folder = tmp / "mounted"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", folder], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    return folder


def full_disk(tmp: Path, size: str = "64k") -> Path:
    folder = tmp / "mounted"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    return folder


def run_folder_of_another(tmp: Path) -> list[str]:
    (tmp / "run").mkdir()
    (tmp / "run" / "config.yaml").write_text("seed: 7\n")
    return [*DIGITS, f"hydra.run.dir={tmp / 'run'}"]


def weird_config(tmp: Path, text: str) -> list[str]:
    (tmp / "run").mkdir()
    (tmp / "run" / "config.yaml").write_text(text)
    return [f"resume={tmp / 'run'}"]


def own_option(tmp: Path, text: str) -> list[str]:
    (tmp / "conf" / "optimizer").mkdir(parents=True)
    (tmp / "conf" / "optimizer" / "mine.yaml").write_text(text)
    return ["--config-dir", str(tmp / "conf"), "optimizer=mine"]


CASES: dict[str, tuple[Prepare, int, str]] = {
    # arguments
    "a multirun with one wrong point": (
        lambda t: ["-m", "trainer.epochs=2,0"],
        USER,
        "trainer.epochs must be at least 1",
    ),
    "an unknown config name": (lambda t: ["--config-name", "nothing"], USER, "nothing"),
    "an absent config dir": (lambda t: ["--config-dir", "nowhere"], USER, "nowhere"),
    "a mistyped cfg": (lambda t: ["--cfg", "job", "trainer.epochz=1"], USER, "trainer.epochz is not a key"),
    "own option, hostile": (
        lambda t: own_option(t, "_target_: os.mkdir\npath: hacked\n"),
        USER,
        "optimizer._target_ must name",
    ),
    "own option, nested hostile": (
        lambda t: own_option(t, "_target_: torch.optim.SGD\nlr: {_target_: os.mkdir, path: hacked}\n"),
        USER,
        "optimizer.lr._target_ must name",
    ),
    "own option, not YAML": (lambda t: own_option(t, "lr: [1\n"), USER, "mine"),
    # data
    "no CIFAR": (lambda t: ["data.download=false", f"data.root={t / 'x'}"], USER, "data=digits"),
    "no such folder": (lambda t: ["data=folder", f"data.root={t / 'nowhere'}"], USER, "nowhere"),
    "root is a file": (root_is_a_file, USER, "data.root"),
    "no pictures": (no_pictures, USER, "picture"),
    "a broken picture": (broken_picture, ENVIRONMENT, "train/a/3.png"),
    "an empty class": (empty_class, USER, "empty"),
    "one class": (one_class, USER, "class"),
    "too few pictures for a batch": (too_few_for_a_batch, USER, "trainer.batch_size"),
    "val_size of all": (
        lambda t: [*DIGITS, "data.val_size=1437", "trainer.batch_size=1"],
        USER,
        "data.val_size must",
    ),
    "no test set": (lambda t: [*DIGITS, "data.test_size=0"], USER, "data.test_size must be above 0"),
    "batch above the data": (lambda t: [*DIGITS, "trainer.batch_size=9999"], USER, "trainer.batch_size"),
    "accumulated batch above the data": (
        lambda t: [*DIGITS, "trainer.accumulate=99"],
        USER,
        "trainer.accumulate",
    ),
    "a layer that is not there": (
        lambda t: [*DIGITS, "analysis.layer=layer9"],
        USER,
        "analysis.layer must be a module",
    ),
    "a device that is not there": (
        lambda t: [*DIGITS, "trainer.device=cuda:99"],
        USER,
        "trainer.device must be a device",
    ),
    # archives
    "a truncated archive": (
        lambda t: archive(t, gzip.compress(os.urandom(999))[:500]),
        ENVIRONMENT,
        "cifar-10-python.tar.gz",
    ),
    "a hostile pickle": (hostile_pickle, ENVIRONMENT, "cifar-10-python.tar.gz"),
    "a path traversal": (path_traversal, ENVIRONMENT, "cifar-10-python.tar.gz"),
    # folders and disks
    "a run folder below a file": (
        lambda t: [*DIGITS, f"hydra.run.dir={PROJECT / 'README.md'}/run"],
        ENVIRONMENT,
        "README.md",
    ),
    "a read-only run folder": (
        lambda t: [*DIGITS, f"hydra.run.dir={read_only(t)}/run"],
        ENVIRONMENT,
        "mounted",
    ),
    "a full disk": (lambda t: [*DIGITS, f"hydra.run.dir={full_disk(t)}/run"], ENVIRONMENT, "mounted"),
    "a read-only cache": (
        lambda t: [*FOLDER, f"data.root={pictures(t / 'p')}", f"data.cache={read_only(t)}"],
        ENVIRONMENT,
        "data.cache",
    ),
    "a full cache": (
        lambda t: [*FOLDER, f"data.root={pictures(t / 'p')}", f"data.cache={full_disk(t)}"],
        ENVIRONMENT,
        "data.cache",
    ),
    "another run's folder": (run_folder_of_another, USER, "hydra.run.dir"),
    "resume of nothing": (lambda t: [f"resume={t / 'nowhere'}"], USER, "is not a run folder"),
    "resume of a foreign config": (lambda t: weird_config(t, "a: 1\n"), USER, "a"),
    "resume of a torn config": (lambda t: weird_config(t, "seed: ["), USER, "config"),
    "resume of an empty config": (lambda t: weird_config(t, ""), USER, "is not the configuration of a run"),
    # tracking
    "a tracker that must be there": (
        lambda t: [*DIGITS, "tracking=mlflow", "tracking.required=true", "tracking.uri=http://127.0.0.1:9"],
        ENVIRONMENT,
        "tracking.required",
    ),
    "a tracking folder": (
        lambda t: [*DIGITS, "tracking=mlflow", "tracking.uri=./mlruns"],
        USER,
        "tracking.uri must start",
    ),
}
CASES |= {
    f"option {words}": (lambda t, words=words: arguments(words), USER, "") for words in list(WRONG)[::14]
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_the_right_exit_code(case: str, tmp_path: Path):
    prepare, expected, word = CASES[case]
    folder = tmp_path / "empty"
    folder.mkdir()
    try:
        code, out, err = call_main(prepare(tmp_path), folder)
        # Beside the error, only the run's ordinary lines and warnings may stand.
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (code, len(errors)) == (expected, 1), err
        assert err.splitlines()[-1] == errors[0]
        assert word in errors[0]
        assert "Traceback" not in err
        assert out == ""
        assert not any(path.is_file() for path in folder.rglob("*"))
        assert not (tmp_path / "hacked").exists()
        assert not (folder / "hacked").exists()
    finally:
        if (tmp_path / "mounted").is_mount():
            subprocess.run(["umount", tmp_path / "mounted"], check=True)
