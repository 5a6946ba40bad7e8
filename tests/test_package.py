"""The wheel, installed outside the clone: it holds everything and writes nothing into its own folder."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.slow
PACKAGES = ("cifar_core", "experiments", "hydra_plugins")
TINY = ("experiment=quickstart", "trainer.epochs=1", "model.width=4", "trainer.device=cpu")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files beside what it builds
    no_caches = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "conf"):
        shutil.copytree(PROJECT / name, source / name, ignore=no_caches)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, source], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the wheel into an environment that has what it depends on from this one, but not the clone."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True, timeout=300)
    (packages,) = home.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if path.endswith("-packages")]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin" / "python",
        "install",
        "--quiet",
        "--no-deps",
    ]
    # Elsewhere, and what it needs after it: pip would take the clone's for installed.
    subprocess.run([*pip, "--no-index", "--ignore-installed", wheel], check=True, timeout=300, cwd=home)
    # A .pth file in one of these is not followed.
    (packages / "shared.pth").write_text("\n".join(shared))
    for path in (packages, *packages.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    before = contents(packages)
    yield home / "bin"
    assert contents(packages) == before  # root may write whatever the mode
    for path in (packages, *packages.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def contents(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def environment(scripts: Path) -> dict[str, str]:
    """Return an environment where `cifar-sweeps` is the installed one and tracks where it does by default."""
    left_out = ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    return env | {"PATH": f"{scripts}:{os.environ['PATH']}"}


def call(scripts: Path, folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(scripts), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_wheel_holds_every_file_of_the_packages_and_no_name_but_theirs(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {path for name in PACKAGES for path in (PROJECT / name).rglob("*") if path.is_file()}
    code = {str(path.relative_to(PROJECT)) for path in files if "__pycache__" not in path.parts}
    options = {f"experiments/{path.relative_to(PROJECT)}" for path in (PROJECT / "conf").rglob("*.yaml")}
    assert names == code | options
    assert {"cifar_core/py.typed", "experiments/py.typed"} <= names


def test_an_installed_run_leaves_run_store_and_report_in_the_current_folder(
    scripts: Path, tmp_path: Path
) -> None:
    printed = call(scripts, tmp_path, "cifar-sweeps", *TINY)
    assert {path.name for path in tmp_path.iterdir()} == {
        "mlflow.db",
        "mlflow.db.lock",
        "mlartifacts",
        "runs",
    }
    (report,) = tmp_path.glob("runs/*/*/analysis/report.html")
    assert str(report) in printed
    assert f"sqlite:///{tmp_path / 'mlflow.db'}" in printed  # in place of `make ui`, which a clone alone has
    compared = call(scripts, tmp_path, "python", "-m", "experiments.compare", "runs")
    assert "quickstart epochs=1 width=4" in compared


def test_an_installed_sweep_finds_modules_of_the_current_folder(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from torch.optim import SGD as Sgd\n")
    mine = (
        "security.allowed_targets=[mine.]",
        "optimizer._target_=mine.Sgd",
        "analysis=none",
        "tracking=none",
    )
    call(
        scripts, tmp_path, "cifar-sweeps", "-m", *TINY, *mine, "seed=0,1", "sweep.name=mine", "sweep.slots=1"
    )
    assert (tmp_path / "sweeps" / "mine" / "report.html").is_file()
    assert len(list(tmp_path.glob("sweeps/mine/*/result.json"))) == 2


def answer(terminal: int, awaited: str, seconds: float = 60) -> str:
    """Return what a shell writes until it has written ``awaited``."""
    text, end = "", time.monotonic() + seconds
    while awaited not in text and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
    assert awaited in text
    return text


INSTALL = 'eval "$(cifar-sweeps -sc install=bash)"'
ZSH = "autoload -Uz compinit bashcompinit; compinit -u; bashcompinit"


@pytest.mark.parametrize(
    ("shell", "setup"),
    [("bash --norc -i", INSTALL), ("zsh -f -i", f"{ZSH}; {INSTALL}")],
    ids=["bash", "zsh"],
)
def test_a_shell_completes_groups_options_and_keys(shell: str, setup: str, scripts: Path) -> None:
    command = shell.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, environment(scripts) | {"TERM": "dumb", "PS1": "> "})
    try:
        os.write(terminal, f"{setup}; echo rea''dy\n".encode())
        answer(terminal, "ready")
        os.write(terminal, b"cifar-sweeps model=wrn2\t")
        answer(terminal, "model=wrn28_10")
        os.write(terminal, b" optimizer.weight_d\t")
        answer(terminal, "optimizer.weight_decay=")
    finally:
        os.kill(pid, 9)
        os.close(terminal)
        os.waitpid(pid, 0)
