"""The arguments of `experiments.run`: any order works, what would do nothing is refused in a line."""

import importlib
import re
import shlex
import sys

import pytest

from experiments.config import arguments, words
from experiments.config.compose import compose
from experiments.sweep.jobs import by_itself


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("-m --cfg job seed=0,1", "--multirun and --cfg cannot go together"),
        ("--resolve", "--resolve is for --cfg"),
        ("--package trainer", "--package is for --cfg"),
        ("--config-path /tmp", "--config-path would replace conf/: --config-dir"),
        ("--experimental-rerun x.pickle", "--experimental-rerun would execute a pickle"),
        ("--config-name", "argument --config-name/-cn: expected one argument"),
        ("--cfg jobs", "argument --cfg/-c: invalid choice: 'jobs'"),
        ("--lr=0.1", "--lr=0.1 must be written without dashes: lr=0.1"),
        ("--epochs 5", "--epochs 5 must be written without dashes: epochs=5"),
        ("-optimizer.lr=1", "must be written without dashes: optimizer.lr=1"),
        ("--resume=runs/x", "must be written without dashes: resume=runs/x"),
        ("-multirun seed=0,1", "-multirun must be written --multirun"),
        ("--multi seed=0,1", "--multi is not a flag (did you mean --multirun?)"),
        ("hydra.mode=MULTIRUN", "hydra.mode is for a sweep, which -m starts: python -m experiments.run -m"),
        ("hydra.sweep.dir=x", "-m hydra.sweep.dir=x"),
        ("hydra/launcher=basic", "hydra/launcher is for a sweep"),
        ("hydra.verbose=true", "hydra.verbose does nothing here: a run heeds hydra.run.dir"),
        ("hydra.output_subdir=x", "hydra.output_subdir does nothing here"),
        ("hydra/job_logging=default", "hydra/job_logging does nothing here"),
        (
            "-m seed=0,1 hydra.sweep.subdir=y",
            "hydra.sweep.subdir does nothing here: a sweep heeds hydra.sweep.dir",
        ),
        ("-m seed=0,1 hydra.run.dir=y", "hydra.run.dir does nothing here: a sweep heeds"),
        ("-m seed=0,1 hydra.searchpath=[file:///x]", "hydra.searchpath does nothing here: a sweep"),
        ("-m resume=x", "resume= takes up one run: leave out -m"),
        ("resume=x resume=y", "resume must name one run folder, got resume=x resume=y"),
        ("resume=x --info", "resume= goes with --cfg job alone"),
        ("resume=x hydra.verbose=true", "hydra.verbose does nothing here"),
    ],
)
def test_what_would_do_nothing_is_refused(typed: str, told: str):
    with pytest.raises(ValueError, match=re.escape(told)):
        arguments.read(shlex.split(typed))


@pytest.mark.parametrize("typed", ["aug=none -m seed=0,1", "aug=none seed=0,1 -m", "-m aug=none seed=0,1"])
def test_flags_and_words_stand_in_any_order(typed: str):
    args = arguments.read(typed.split())
    assert (args.multirun, args.overrides) == (True, ["aug=none", "seed=0,1"])
    assert args.words == ["aug=none", "seed=0,1", "-m"]


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_hydra_s_own_keys_are_heeded_with_any_plus(plus: str):
    typed = ["-m", f"{plus}hydra.sweep.dir=x", f'{plus}hydra.sweeper.params.seed="0,1"']
    assert arguments.read(typed).overrides == ["hydra.sweep.dir=x", '++hydra.sweeper.params.seed="0,1"']


def test_resume_is_taken_out_of_the_words():
    args = arguments.read(["trainer.keep=all", "resume=a b=c", "--cfg", "job"])
    assert (args.resume, args.overrides, args.cfg) == ("a b=c", ["trainer.keep=all"], "job")
    assert arguments.read(["seed=1"]).resume is None


@pytest.mark.parametrize("name", ["runs/a b", "runs/x=y", "runs/ü", "it's", 'say "x"'])
def test_resume_takes_a_folder_s_name_as_it_is_and_in_quotes(name: str):
    assert str(words.folder(name)) == name
    assert str(words.folder(words.quoted(name))) == name


@pytest.mark.parametrize("text", ["", " ", '""'])
def test_resume_of_nothing_is_told(text: str):
    with pytest.raises(ValueError, match="resume must name a run folder"):
        words.folder(text)


def test_a_preset_that_sweeps_is_refused_without_m_unless_each_of_its_keys_has_a_value():
    line = "python -m experiments.run -m experiment=sweep_lr_wd seed=3"
    with pytest.raises(ValueError, match=r"optimizer\.lr, .* would not be swept without -m") as error:
        compose(["experiment=sweep_lr_wd", "seed=3"], single=True)
    assert str(error.value).split(": ")[1].split()[1:] == line.split()[1:]
    given = ["optimizer.lr=0.1", "optimizer.weight_decay=1e-4"]
    assert compose(["experiment=sweep_lr_wd", *given], single=True).optimizer.lr == 0.1


def test_what_repeats_a_trial_is_a_run_of_its_own_with_the_trial_s_configuration():
    trial = ["experiment=sweep_lr_wd", "sweep.n_trials=3", "optimizer.lr=0.2", "optimizer.weight_decay=1e-3"]
    trial += ["sweep.name=x", 'tracking.experiment="a b"']
    again = shlex.split(by_itself(trial, {"config_name": "config", "config_dir": None}))
    assert again[1:3] == ["-m", "experiments.run"]
    args = arguments.read(again[3:])
    cfg = compose(args.overrides, single=True)
    assert (cfg.optimizer.lr, cfg.tracking.experiment, cfg.sweep.n_trials) == (0.2, "a b", 30)


@pytest.mark.parametrize("tool", ["compare", "evaluate", "find_lr", "predict", "preview", "report", "sync"])
def test_a_flag_that_a_tool_does_not_have_is_told_in_one_line(
    tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [tool, "--nope", "x"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"experiments.{tool}").main()
    assert end.value.code == 2
    assert re.fullmatch(
        rf"error: .*; `python -m experiments\.{tool} --help` lists the flags\n", capsys.readouterr().err
    )


@pytest.mark.parametrize("tool", ["find_lr", "preview"])
@pytest.mark.parametrize("word", ["hydra.run.dir=x", "++hydra.job.chdir=true", "hydra/launcher=basic"])
def test_a_tool_refuses_what_only_a_run_heeds(
    tool: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [tool, word])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"experiments.{tool}").main()
    assert end.value.code == 2
    key = word.lstrip("+").partition("=")[0]
    assert capsys.readouterr().err == f"error: {key} does nothing here: it is for a run or a sweep\n"
