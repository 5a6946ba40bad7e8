"""Maps of the shown pictures: those that the analyses lack are computed, as the analyses would."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.comparison import cams
from experiments.comparison.pictures import choose
from experiments.comparison.read import run_folders
from experiments.comparison.write import write
from experiments.config.compose import compose
from experiments.runs.story import run
from tests.comparison.by_hand import compared
from tests.conftest import Cli
from tests.runs.test_story import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on digits with few maps; they normalise otherwise and name their layers and methods."""
    root = tmp_path_factory.mktemp("runs")
    shared = [*SMALL, "trainer.epochs=1", "tracking=none", "analysis=light", "analysis.sheet_size=4"]
    for number, extra in enumerate((["analysis.layer=layer2"], ["analysis.method=gradcam++"])):
        words = [*shared, *extra, f"data.mean=[{100 + number},90,80]"]
        run(compose(words), root / f"run{number}", overrides=words)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """The runs, to break."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def folder(root: Path, number: int) -> Path:
    return (root / f"run{number}").resolve()


def test_what_is_computed_is_what_the_analysis_has_kept(root: Path):
    choice = choose(compared(root))
    kept = {key: grid for one in choice.shown for key, grid in cams.saved(one).items()}
    assert {key[0] for key in kept} == {folder(root, 0), folder(root, 1)}
    for path in root.glob("*/analysis/cams.npz"):
        path.unlink()
    maps = cams.computed(choice.shown, range(len(choice.labels)))
    assert len(maps) == 2 * len(choice.labels) > len(kept) > 50
    for key, grid in kept.items():
        np.testing.assert_allclose(maps[key], grid, rtol=1e-3, atol=1e-6)


def test_only_what_is_lacking_is_computed_and_nothing_is_told(root: Path, capsys):
    choice = choose(compared(root))
    wanted = {cams.key(one, row) for one in choice.shown for row in choice.rows}
    kept = {key for one in choice.shown for key in cams.saved(one)}
    assert wanted & kept
    assert set(cams.computed(choice.shown, choice.rows)) == wanted - kept
    assert capsys.readouterr().err == ""


def test_a_run_whose_weights_are_gone_is_told_and_the_others_go_on(root: Path, capsys):
    (root / "run0" / "best.pt").unlink()
    choice = choose(compared(root))
    assert {key[0] for key in cams.computed(choice.shown, choice.rows)} == {folder(root, 1)}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"no maps of {folder(root, 0)}: ")
    assert "best.pt is not there" in line


def test_other_weights_than_those_of_the_analysis_get_no_map_of_an_answer_that_is_not_theirs(
    root: Path, capsys
):
    shutil.copy(root / "run1" / "best.pt", root / "run0" / "best.pt")
    choice = choose(compared(root))
    rows = range(len(choice.labels))
    lacking = sum(cams.key(choice.shown[0], row) not in cams.saved(choice.shown[0]) for row in rows)
    maps = cams.computed(choice.shown[:1], rows)
    assert 0 < len(maps) < lacking
    (line,) = capsys.readouterr().err.splitlines()
    assert f"answers {lacking - len(maps)} of {lacking} pictures otherwise here" in line


def test_code_of_ones_own_runs_only_where_it_is_allowed(root: Path, tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "my_net.py").write_text("from cifar_core.models.resnet import resnet20 as net\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for path in root.glob("*/config.yaml"):
        text = path.read_text()
        target = next(line for line in text.splitlines() if "_target_: cifar_core.models" in line)
        path.write_text(text.replace(target, "  _target_: my_net.net"))
    choice = choose(compared(root))
    assert cams.computed(choice.shown, choice.rows[-3:]) == {}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("security.allowed_targets" in line for line in lines)
    assert len(cams.computed(choice.shown, choice.rows[-3:], ["security.allowed_targets=[my_net.]"])) > 0
    assert capsys.readouterr().err == ""


def test_the_command_puts_them_into_the_page(cli: Cli, root: Path, tmp_path: Path):
    (root / "run0" / "best.pt").unlink()
    write(run_folders([root]), tmp_path / "without")
    done = cli(str(root), "--cams", "--out", str(tmp_path / "with"), module="compare")
    assert done.returncode == 0
    assert f"no maps of {folder(root, 0)}: " in done.stderr
    gone = "A" if choose(compared(root)).shown[0].run.folder == folder(root, 0) else "B"
    pages = [(tmp_path / out / "comparison.html").read_text(encoding="utf-8") for out in ("without", "with")]
    before, after = ({run: page.count(f'alt="map of {run}"') for run in "AB"} for page in pages)
    assert before[gone] == after[gone]
    (other,) = {"A", "B"} - {gone}
    assert before[other] < after[other] == pages[1].count("<li data-right")
