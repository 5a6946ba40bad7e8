"""Comparisons: statistics against SciPy and by hand, run folders made by hand, a real run found by MLflow."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from math import comb, erf, isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml

from cifar_core.explain.statistics import agreement, holm, mcnemar, missed_by_all, recalls, spread
from experiments.comparison.groups import compare, warnings
from experiments.comparison.page import markdown, page
from experiments.comparison.read import read, run_folders
from experiments.comparison.tables import verdict
from experiments.comparison.write import write
from experiments.config.compose import compose
from experiments.files import csv_text
from experiments.runs.story import run
from experiments.tracking.mlflow_store import tracked_folders
from tests.conftest import Cli
from tests.runs.test_story import SMALL

LABELS = np.arange(60) % 3

# statistics


def test_spread_is_the_t_interval():
    values = [0.91, 0.93, 0.90, 0.95]
    found = spread(values)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert spread([0.5, 0.7]).high - 0.6 == pytest.approx(12.706204736 * 0.1)  # t of one degree of freedom
    single = spread([0.5])
    assert (single.count, single.mean, isnan(single.std), isnan(single.low)) == (1, 0.5, True, True)
    assert isnan(spread([]).mean)


def hits(only_a: int, only_b: int, both: int = 5) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([True] * only_a + [False] * only_b + [True] * both + [False])
    b = np.array([False] * only_a + [True] * only_b + [True] * both + [False])
    return a, b


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 3), (0, 6), (8, 1), (31, 12), (5, 4)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int):
    found = mcnemar(*hits(only_a, only_b))
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p == pytest.approx(min(1, 2 * tail))
    assert found.p == pytest.approx(scipy.stats.binomtest(only_a, n, 0.5).pvalue if n else 1)
    assert mcnemar(*reversed(hits(only_a, only_b))).p == found.p


def test_mcnemar_nears_the_chi_square_formula_for_many_pictures():
    """(|b - c| - 1)^2 / (b + c), one degree of freedom, as statsmodels' mcnemar(exact=False) has it."""
    b, c = 1040, 950
    statistic = (abs(b - c) - 1) ** 2 / (b + c)
    assert mcnemar(*hits(b, c)).p == pytest.approx(1 - erf(sqrt(statistic / 2)), rel=0.01)
    with pytest.raises(ValueError, match="of the same pictures"):
        mcnemar(np.array([True]), np.array([True, False]))


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.4]) == pytest.approx([0.8, 0.8])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_holm_rejects_what_its_definition_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 0.1, 8)
        rejected = []
        for step, row in enumerate(np.argsort(p)):
            if p[row] > 0.05 / (len(p) - step):
                break
            rejected.append(row)
        assert set(np.flatnonzero(np.array(holm(p)) <= 0.05)) == set(rejected)


def test_agreement_and_missed_pictures_by_hand():
    labels = np.array([0, 1, 2, 2, 0])
    preds = np.array([[0, 1, 1, 0, 2], [0, 2, 1, 1, 2], [0, 1, 1, 0, 1]])
    found = agreement(labels, preds)
    assert (found.all_right, found.all_wrong) == (0.2, 0.6)
    pairs = [(preds[a] == preds[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.same_answer == pytest.approx(np.mean(pairs))
    missed = missed_by_all(labels, preds)
    assert missed.rows.tolist() == [2, 3, 4]
    assert missed.answers.tolist() == [1, 0, 2]
    assert missed.shares == pytest.approx([1, 2 / 3, 2 / 3])
    assert missed_by_all(labels, labels[None]).rows.tolist() == []


def test_recall_of_each_class():
    found = recalls(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 2]), 3)
    assert found[:2] == pytest.approx([1 / 2, 2 / 3])
    assert isnan(found[2])


# runs


def make(
    folder: Path,
    *,
    seed: int = 0,
    lr: float = 0.1,
    val: float | None = 0.8,
    status: str = "finished",
    wrong: tuple[int, ...] = (),
    data: str = "d1",
    words: tuple[str, ...] = (),
    **trainer: object,
) -> Path:
    """Write what a run writes: `wrong` are the rows predicted as the class after the right one."""
    folder.mkdir(parents=True)
    fair = val is not None
    config = {"seed": seed, "optimizer": {"lr": lr}, "trainer": {"epochs": 2, "device": "cpu", **trainer}}
    config["data"] = {"source": "digits", "root": str(folder), "val_size": 0.1 if fair else 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"optimizer.lr={lr}", f"seed={seed}", *words]))
    (folder / "environment.json").write_text(json.dumps({"data": data, "device": "cpu"}))
    split = "val" if fair else "test"
    header = f"epoch,step,train/loss,{split}/acc,seconds,images_per_second\n"
    (folder / "metrics.csv").write_text(header + f"1,10,2.0,0.5,3.0,100\n2,20,1.0,{val or 0.7},2.0,200\n")
    if status == "unfinished":
        return folder
    preds = LABELS.copy()
    preds[list(wrong)] = (preds[list(wrong)] + 1) % 3
    metrics = {"test/acc": float((preds == LABELS).mean())} | ({"val/acc_best": val} if fair else {})
    protocol = "validation" if fair else "test_each_epoch"
    result = {"status": status, "metrics": metrics, "protocol": protocol, "error": "why <b>not</b> | so"}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "analysis").mkdir()
    (folder / "analysis" / "metrics.json").write_text(json.dumps({"split": "test"}))
    np.savez(
        folder / "analysis" / "predictions.npz",
        labels=LABELS,
        logits=np.eye(3, dtype=np.float32)[preds],
        index=np.arange(100, 160),
        classes=np.array(["cat", "dog", "<i>owl</i>"]),
        names=np.array([f"test/{row}.png" for row in range(60)]),
    )
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two configurations of two and three seeds; the one that is worse by validation is better on test."""
    root = tmp_path / "runs"
    make(root / "low0", seed=0, lr=0.1, val=0.70, wrong=(1, 2))
    make(root / "low1", seed=1, lr=0.1, val=0.72, wrong=(1, 2, 3))
    for seed, val in enumerate((0.80, 0.84, 0.82)):
        make(root / "deep" / f"high{seed}", seed=seed, lr=0.5, val=val, wrong=(1, 2, *range(10, 18 + seed)))
    return root


def compared(root: Path):
    return compare(read(folder) for folder in run_folders([root]))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_are_grouped_and_ranked_by_validation_though_test_says_otherwise(runs: Path, tmp_path: Path):
    write(run_folders([runs]), tmp_path / "out")
    best, second = rows(tmp_path / "out" / "configurations.csv")
    assert (best["configuration"], best["runs"]) == ("optimizer.lr=0.5", "3")
    assert (second["configuration"], second["runs"]) == ("optimizer.lr=0.1", "2")
    assert float(best["val/acc_best mean"]) == pytest.approx(0.82)
    assert float(best["val/acc_best std"]) == pytest.approx(0.02)
    assert float(best["test/acc mean"]) < float(second["test/acc mean"])
    assert (float(best["seconds"]), float(best["images_per_second"])) == (5, 150)
    assert verdict(compared(runs)).startswith(
        "Best by validation: A (optimizer.lr=0.5), val/acc 82.00 ± 2.00 %."
    )
    assert [row["key"] for row in rows(tmp_path / "out" / "differences.csv")] == ["optimizer.lr"]


def test_all_pairs_of_different_configurations_are_tested(runs: Path, tmp_path: Path):
    write(run_folders([runs]), tmp_path / "out")
    pairs = rows(tmp_path / "out" / "pairs.csv")
    assert len(pairs) == 6
    one = next(pair for pair in pairs if (pair["a_seed"], pair["b_seed"]) == ("2", "1"))
    assert (one["only_a_right"], one["only_b_right"]) == ("1", "10")  # row 3 against rows 10 to 19
    assert float(one["p"]) == pytest.approx(scipy.stats.binomtest(1, 11, 0.5).pvalue)
    adjusted = holm([float(pair["p"]) for pair in pairs])
    assert [float(pair["p_holm"]) for pair in pairs] == pytest.approx(adjusted)


def test_classes_and_missed_pictures_are_listed(runs: Path, tmp_path: Path):
    write(run_folders([runs]), tmp_path / "out")
    missed = rows(tmp_path / "out" / "missed.csv")
    assert [(row["index"], row["file"], row["label"]) for row in missed] == [
        ("101", "test/1.png", "dog"),
        ("102", "test/2.png", "<i>owl</i>"),
    ]
    assert [row["most_frequent_answer"] for row in missed] == ["<i>owl</i>", "cat"]
    classes = {row["class"]: row for row in rows(tmp_path / "out" / "classes.csv")}
    assert set(classes) == {"cat", "dog", "<i>owl</i>"}
    dogs = [1 - np.isin((1, *range(10, 18 + seed)), range(1, 60, 3)).sum() / 20 for seed in range(3)]
    assert float(classes["dog"]["A"]) == pytest.approx(np.mean(dogs))


def test_runs_evaluated_on_test_each_epoch_stand_apart(runs: Path):
    make(runs / "course", val=None, lr=0.9)
    found = compared(runs)
    assert [c.label for c in found.ranked] == ["optimizer.lr=0.5", "optimizer.lr=0.1"]
    assert [(c.letter, c.label) for c in found.apart] == [("C", "optimizer.lr=0.9")]
    text = markdown(found)
    ranked, apart = text.split("## Apart: without a validation split")
    assert "optimizer.lr=0.9" not in ranked.split("## Ranked")[1]
    assert "C: optimizer.lr=0.9" in apart
    assert any("C: there was no validation split" in line for line in warnings(found))


def test_only_finished_runs_count_and_the_others_say_why_not(runs: Path):
    for status in ("failed", "pruned", "killed", "unfinished"):
        make(runs / status, status=status, val=0.99)
    (make(runs / "torn") / "result.json").write_text('{"status": ')
    found = compared(runs)
    assert sorted(run.status for run in found.others) == [
        "damaged",
        "failed",
        "killed",
        "pruned",
        "unfinished",
    ]
    assert sum(len(c.runs) for c in found.configurations) == 5
    assert "why \\<b>not\\</b> \\| so" in markdown(found)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"data": "d2"}, "The runs used different data (fingerprints): A, B: d1; C: d2."),
        ({"val": None}, "The runs follow different protocols: A, B: validation; C: test_each_epoch."),
        (
            {"lr": 0.5, "seed": 2, "val": 0.82},
            "A has 2 runs with seed 2, not independent, so its spread is too small.",
        ),
    ],
)
def test_what_makes_a_comparison_unfair_is_told(runs: Path, odd: dict, message: str):
    assert warnings(compared(runs)) == []
    make(runs / "odd", **({"val": 0.1, "lr": 0.7} | odd))
    assert message in warnings(compared(runs))


def test_runs_on_other_pictures_are_left_out_of_pairs(runs: Path):
    path = make(runs / "odd", lr=0.7, val=0.6) / "analysis" / "predictions.npz"
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **(content | {"index": content["index"][::-1]}))
    shutil.rmtree(make(runs / "bare", lr=0.8, val=0.5) / "analysis")
    found = compared(runs)
    assert len(found.pairs) == 6
    expected = "Left out of everything picture by picture: C seed 0 (other pictures), D seed 0 (no analysis)."
    assert expected in warnings(found)


def test_pairs_on_validation_pictures_are_called_so(tmp_path: Path):
    folders = [make(tmp_path / str(number), lr=number + 0.1, wrong=(number,)) for number in range(2)]
    assert "on the same 60 test pictures" in markdown(compared(tmp_path))
    for folder in folders:
        (folder / "analysis" / "metrics.json").write_text('{"split": "val"}')
    assert "on the same 60 validation pictures (the best epochs were" in markdown(compared(tmp_path))


def test_what_changes_no_figure_makes_no_configuration(runs: Path):
    make(runs / "elsewhere", seed=7, lr=0.5, val=0.8, device="cuda", words=("tracking=none",))
    assert len(compared(runs).configurations) == 2


class Links(HTMLParser):
    """Gathers what a page would load or run, and the texts it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.loads, self.tags, self.texts = [], set(), []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href") and value != "data:,"]
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_one_file_without_script_and_escapes_everything(runs: Path):
    make(runs / "evil<script>alert(1)</script>", status="failed", words=("<img src=x onerror=alert(1)>",))
    make(runs / "odd", lr=0.7, val=0.1, words=("name=</style><b>bold</b>",))
    parser = Links()
    parser.feed(page(compared(runs)))
    assert parser.loads == []
    assert not parser.tags & {"script", "img", "b", "i", "iframe", "object"}
    assert {"svg", "table"} <= parser.tags
    assert any("evil<script>" in text for text in parser.texts)
    assert "C: optimizer.lr=0.7 name=</style><b>bold</b>" in parser.texts


def test_charts_hold_few_lines_and_always_the_first(tmp_path: Path):
    for number in range(6):
        make(tmp_path / str(number), lr=0.1 * (number + 1), val=0.9 - 0.1 * number)
    titles = re.findall(r"<figcaption>val/acc: (.*?)</figcaption>", page(compared(tmp_path)))
    assert titles == ["A, B, C, D", "A, E, F"]


def test_one_run_alone_is_no_trouble(tmp_path: Path):
    make(tmp_path / "only")
    found = compared(tmp_path)
    assert verdict(found) == "Best by validation: A (optimizer.lr=0.1), val/acc 80.00 %."
    assert page(found).count("<svg") == 2
    assert found.pairs == []


def test_files_of_an_earlier_comparison_do_not_stay(runs: Path, tmp_path: Path):
    out = tmp_path / "out"
    write(run_folders([runs]), out)
    write(run_folders([runs / "low0"]), out)
    assert {path.name for path in out.iterdir()} == {
        *("comparison.html", "comparison.md", "configurations.csv", "runs.csv")
    }


def test_csv_leaves_unknown_cells_empty():
    assert csv_text([{"a": 1, "b": float("nan")}, {"c": None, "a": "x,y"}]) == 'a,b,c\n1,,\n"x,y",,\n'


def test_folders_are_searched_once_and_not_within_runs(runs: Path, tmp_path: Path):
    make(runs / "low0" / "evaluations" / "inner")
    found = run_folders([runs / "low0", runs, runs / "deep" / ".."])
    assert [folder.name for folder in found] == ["low0", "high0", "high1", "high2", "low1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no run"):
        run_folders([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        run_folders([tmp_path / "absent"])


# real runs, by the command line


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library
def test_a_real_run_is_found_by_mlflow_and_compared(cli: Cli, tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = [*SMALL, f"tracking.uri={uri}", "tracking.experiment=tiny", "analysis=light"]
    run(compose(words), tmp_path / "run", overrides=words)
    wanted = "params.model._target_ = 'cifar_core.models.resnet.resnet20'"
    assert tracked_folders(uri, None, wanted) == [tmp_path / "run"]
    assert tracked_folders(uri, "tiny", "metrics.`val/acc` > 1") == []
    with pytest.raises(ValueError, match="--filter: Invalid clause"):
        tracked_folders(uri, None, "bogus")
    with pytest.raises(ValueError, match="--experiment must be one of tiny, Default, got 'large'"):
        tracked_folders(uri, "large", "")
    with pytest.raises(FileNotFoundError, match="there is no MLflow store"):
        tracked_folders(f"sqlite:///{tmp_path / 'absent.db'}", None, "")
    done = cli("--filter", wanted, "--uri", uri, "--out", str(tmp_path / "out"), module="compare")
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "out" / "runs.csv")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert float(row["test/acc"]) == result["metrics"]["test/acc"]
    assert done.stdout == (tmp_path / "out" / "comparison.md").read_text() + "\n"


def test_mistakes_of_the_command(cli: Cli, tmp_path: Path):
    for words, said in (
        ([], "name at least one folder, or give --filter"),
        ([str(tmp_path)], f"error: {tmp_path} holds no run"),
        (["--uri", "sqlite:///x.db", str(tmp_path)], "say where --filter searches"),
    ):
        done = cli(*words, "--out", str(tmp_path / "out"), module="compare")
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert not (tmp_path / "out").exists()
