"""The README tells the truth: its commands run or compose, its tables are complete, its files exist."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from experiments.config.compose import compose
from experiments.files import CONF
from tests.conftest import PROJECT
from tests.test_bad_input import call_main, pictures

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)

# What makes a command short
QUIET = (
    "trainer.epochs=1 trainer.threads=1 trainer.device=cpu trainer.precision=fp32 trainer.guards=warn "
    "tracking=none analysis=none"
)
DIGITS = f"data=digits model.width=4 trainer.batch_size=128 {QUIET}"

# Commands that are run, each with what is put behind it.
RUN = {
    "run model=resnet18 aug=cutout": DIGITS,
    "run data=folder data.root=pictures": f"model.width=4 trainer.batch_size=20 {QUIET}",
    "run -m model=resnet18,davidnet seed=0,1": DIGITS,
    "run --help": "",
    "run --cfg job": "",
    "run trainer.epochs=30 optimizer.lr=0.05 trainer.label_smoothing=0.1 trainer.ema_decay=0.999": DIGITS,
    "run aug=cutout aug.image.cutout.p=0.5 '~aug.image.flip'": DIGITS,
    "run optimizer=adamw scheduler=one_cycle scheduler.pct_start=0.2": DIGITS,
    "run model=wrn16_4 optimizer=muon trainer.tta=mirror": DIGITS,
    "run model.weights=runs/trained optimizer.lr=0.01": DIGITS,
    "run data.val_size=0": DIGITS,
    "run data.val_size=0 trainer.evaluate=end": DIGITS,
    "run resume=runs/2026-11-21/12-00-00-000000_resnet18_cutout_s0": "",
    "preview aug=cutout data=digits scheduler=one_cycle": "",
    "find_lr model=resnet18 aug=cutout scheduler=one_cycle": DIGITS,
    "compare runs/2026-11-21": "",
    "evaluate <run folder> data=folder data.root=other_pictures": "",
    "predict <run folder> holiday.jpg scans/": "",
    "run -m sweep=search optimizer.lr='tag(log, interval(0.01, 1))' "
    "optimizer.weight_decay='tag(log, interval(1e-5, 1e-2))'": f"{DIGITS} sweep.n_trials=2",
}
# Commands that are composed: they take more than a minute even so, or repeat one above.
COMPOSED = [
    "run experiment=notebook_002",
    "run experiment=notebook_002_fixed",
    "run -m model=resnet18,resnet34 optimizer.lr=0.05,0.1 seed=0,1,2",
    "run -m experiment=quickstart trainer.epochs=4 model.width=8 optimizer.lr=0.02,0.1,0.5 aug=none,shift "
    "seed=0,1,2 sweep.name=digits",
]
# Commands of other tools, or that another file runs.
ELSEWHERE = {
    "make demo": "tests/test_package.py",
    'eval "$(cifar-sweeps -sc install=bash)"': "tests/test_package.py",
    'autoload -Uz compinit bashcompinit; compinit; bashcompinit; eval "$(cifar-sweeps -sc install=bash)"': (
        "tests/test_package.py"
    ),
    "benchmarks.accuracy <presets> --seeds 5": "tests/test_accuracy_benchmark.py",
    "tests.test_golden": "tests/test_golden.py",
    "report sweeps/<name>": "tests/sweep/test_live.py",
    "sync <run folder>": "tests/tracking/test_sync.py",
}
MADE = {  # by each command: the name of a file
    **{"run": "result.json", "preview": "schedule.png", "find_lr": "lr.csv", "compare": "comparison.html"},
    **{"evaluate": "evaluation.json", "predict": "cam_sheet.png"},
}


def commands() -> set[str]:
    """Return every command of the README, those amid its prose that take arguments too."""
    blocks = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if line]
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    lines = [*blocks, *re.findall(r"`(python -m [^`]* [^`]*|python -m tests[^`]*)`", prose)]
    plain = (" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines)
    return {re.sub(r"^python -m (experiments\.)?", "", line) for line in plain}


def test_every_command_is_run_composed_or_run_elsewhere():
    assert commands() == RUN.keys() | {*COMPOSED} | ELSEWHERE.keys()
    assert all((PROJECT / path).exists() for path in ELSEWHERE.values())


@pytest.mark.parametrize("command", COMPOSED)
def test_a_long_command_composes(command: str):
    words = [word for word in shlex.split(command)[1:] if word != "-m"]
    compose([re.sub(r"=([^,]*),.*", r"=\1", word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name: a trained run, another that was stopped, pictures."""
    place = tmp_path_factory.mktemp("readme")
    code, _, err = call_main([*DIGITS.split(), "hydra.run.dir=runs/trained"], place)
    assert code == 0, err
    stopped = place / "runs" / "2026-11-21" / "12-00-00-000000_resnet18_cutout_s0"
    shutil.copytree(place / "runs" / "trained", stopped)
    (stopped / "result.json").unlink()
    for name in ("pictures", "other_pictures"):
        pictures(place / name, classes=tuple("0123456789"))
    (place / "scans").mkdir()
    for path in ("holiday.jpg", "scans/1.png"):
        shutil.copy(place / "pictures" / "test" / "0" / "0.png", place / path)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_command_runs(command: str, place: Path):
    module, *words = shlex.split(command.replace("<run folder>", "runs/trained"))
    before = files(place)
    code, out, err = call_main([*words, *RUN[command].split()], place, module)
    assert (code, "error: " in err) == (0, False), err
    if {"--help", "--cfg"} & {*words}:
        assert "trainer" in out
        assert files(place) == before
    else:
        assert MADE[module] in {path.name for path, _ in files(place) - before}


def files(folder: Path) -> set[tuple[Path, int]]:
    return {(path, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_table_of_groups_is_complete():
    told = {
        group: set(re.findall(r"`(\w+)`", options))
        for group, options in re.findall(r"^\| `(\w+)` \| (.*?) \|", README, flags=re.MULTILINE)
    }
    there = {
        folder.name: {path.stem for path in folder.glob("*.yaml")}
        for folder in CONF.iterdir()
        if folder.is_dir() and folder.name != "hydra"
    }
    assert {group: told.get(group) for group in there} == there


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "yaml"])
def test_every_yaml_example_works(block: str, tmp_path: Path):
    group, option = re.match(r"# conf/(\w+)/(\w+)\.yaml", block).groups()
    (tmp_path / group).mkdir()
    (tmp_path / group / f"{option}.yaml").write_text(block)
    if "my_net" in block:  # the file that the reader is to write
        assert set(yaml.safe_load(block)) == {"_target_", "width", "cam_layer", "weights"}
    else:
        compose([f"{group}={option}"], config_dir=str(tmp_path))


def test_make_targets_and_files_exist():
    makefile = (PROJECT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert f"\n{target}:" in makefile, target
    for name in re.findall(r"`((?:cifar_core|experiments|conf)/[\w/.]*)`", README):
        assert (PROJECT / name).exists(), name
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (PROJECT / picture).exists(), picture
