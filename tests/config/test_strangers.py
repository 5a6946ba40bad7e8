"""A run folder from a stranger runs no code: neither its configuration nor its checkpoints."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cifar_core.train.checkpoint import model_weights
from experiments.config.compose import check_options, compose, compose_saved
from experiments.config.values import plain
from experiments.files import check_links
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.folder import RunFolder
from experiments.runs.read import predictions
from experiments.runs.weights import trained_model

OWN = "from cifar_core.models.resnet import resnet20\ndef net(**given): return resnet20(**given)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder whose configuration names code of its own and allows it itself."""
    values = plain(compose(["data=digits", "model=resnet20", "tracking=none"]))
    values["model"] = {"_target_": "stranger_net.net", "cam_layer": ""}
    values["security"]["allowed_targets"] = ["stranger_net.", "os."]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "run"


def add(folder: Path, text: str) -> None:
    path = folder / "config.yaml"
    path.write_text(text + path.read_text())


def test_what_a_saved_configuration_allows_itself_is_not_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (folder.parent / "stranger_net.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder.parent)
    with pytest.raises(ValueError, match=r"add security\.allowed_targets=\[stranger_net\.\]$") as told:
        compose_saved(folder, [])
    assert "\n" not in str(told.value)
    assert "stranger_net" not in sys.modules
    cfg = compose_saved(folder, ["security.allowed_targets=[stranger_net.]"])
    assert list(cfg.security.allowed_targets) == ["stranger_net."]


@pytest.mark.parametrize(
    "text",
    [
        "defaults: [_self_, {hydra/launcher: evil}]\n",
        "hydra: {callbacks: {x: {_target_: os.mkdir, path: owned}}}\n",
        "hydra.searchpath: [file:///tmp]\n",
        "# @package hydra.callbacks\n",
        "!!python/object/apply:os.mkdir [owned]\n",
        "extra: !!python/object/apply:os.mkdir [owned]\n",
        "- a\n",
    ],
)
def test_a_saved_configuration_is_values_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.chdir(folder)
    add(folder, text)
    with pytest.raises(ValueError, match=r"config\.yaml") as told:
        compose_saved(folder, ["security.allowed_targets=[stranger_net.]"])
    assert "\n" not in str(told.value)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("name", ["run.log", "metrics.csv", "lock", "analysis", "evaluations/x/report.html"])
def test_a_link_out_of_the_folder_is_refused_before_anything_is_written(folder: Path, name: str):
    (folder.parent / "precious").write_text("precious")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(folder.parent / "precious")
    for use in (lambda: compose_saved(folder, []), RunFolder(folder).open):
        with pytest.raises(ValueError, match=rf"{name} leads out of the run folder, to /.*/precious:"):
            use()
    assert (folder.parent / "precious").read_text() == "precious"


def test_a_link_within_the_folder_is_none_of_that(tmp_path: Path):
    (tmp_path / "best.pt").write_text("")
    (tmp_path / "good.pt").symlink_to("best.pt")
    check_links(tmp_path)


@pytest.mark.parametrize(
    ("hydra", "message"),
    [
        (
            "callbacks: {x: {_target_: os.mkdir, path: owned}}",
            r"hydra\.callbacks\.x\._target_ must begin with",
        ),
        ("sweeper: {_target_: os.mkdir}", r"hydra\.sweeper\._target_ must begin with"),
        ("launcher: {_target_: os.mkdir}", r"hydra\.launcher\._target_ must begin with"),
        (
            "job_logging: {handlers: {x: {(): os.mkdir, path: owned}}}",
            r"hydra\.job_logging\..*must begin with",
        ),
        (
            "job_logging: {handlers: {console: {stream: 'ext://evil.stream'}}}",
            r"hydra\.job_logging\.handlers\.console\.stream must be one of ext://sys",
        ),
        ("output_subdir: /owned", r"hydra\.output_subdir must be null"),
        ("job: {env_set: {PYTHONPATH: owned}}", r"hydra\.job\.env_set must be empty"),
    ],
)
def test_options_from_a_strangers_folder_have_hydra_call_nothing(tmp_path: Path, hydra: str, message: str):
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\nhydra:\n  {hydra}\n"
    (tmp_path / "experiment" / "theirs.yaml").write_text(text)
    for words in (["experiment=theirs"], ["experiment=theirs", "seed=0,1"]):
        with pytest.raises(ValueError, match=message):
            check_options(words, config_name="config", config_dir=str(tmp_path))
    check_options(["seed=0,1"], config_name="config", config_dir=str(tmp_path))


SECRETS = {
    "a text read twice": [
        "data.root='${oc.decode:${model.a}${model.b}}'",
        "+model.a=\\$",
        "+model.b='{oc.env:X}'",
    ],
    "within another": ["data.root='${oc.select:nothing,${oc.env:SECRET,x}}'"],
    "a variable put together": ["data.root='${oc.env:USER${seed},x}'"],
    "a name that begins well": ["data.root=${oc.env:HOMEBREW_GITHUB_API_TOKEN,x}"],
    "quoted": ["data.root='${oc.env:\"SECRET\",x}'"],
    "a token of Slurm": ["data.root=${oc.env:SLURM_JWT,x}"],
    "in a list": ["+model.list=[1,{a:['${oc.env:SECRET,x}']}]"],
}


@pytest.mark.parametrize("kind", SECRETS)
def test_no_secret_of_the_environment_comes_into_the_record(kind: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("SECRET", "USER0", "HOMEBREW_GITHUB_API_TOKEN", "SLURM_JWT", "X"):
        monkeypatch.setenv(name, "hidden")
    with pytest.raises(ValueError, match="may use only the resolvers") as told:
        compose(["data=folder", *SECRETS[kind]])
    assert "hidden" not in str(told.value)


def test_a_resolver_whose_name_is_put_together_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "hidden")
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["tracking"]["kind"], values["data"]["root"] = "env", "${oc.${tracking.kind}:SECRET,x}"
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"^data\.root may use only the resolvers"):
        compose_saved(folder, ["security.allowed_targets=[stranger_net.]"])


def test_harmless_variables_and_times_may_be_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CIFAR_PLACE", "pictures")
    monkeypatch.setenv("CIFAR_SEED", "7")
    words = [
        "data=folder",
        "data.root=${oc.env:HOME}/${oc.env:CIFAR_PLACE}",
        "seed='${oc.decode:${oc.env:CIFAR_SEED}}'",
    ]
    cfg = compose([*words, "tracking.experiment='${now:%Y} ${data.root}'"])
    assert cfg.data.root.endswith("/pictures")
    assert cfg.seed == 7


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["best", "last", "previous"])
def test_no_checkpoint_of_a_strangers_folder_runs_code(folder: Path, name: str):
    marker = folder.parent / "owned"
    torch.save({"model": Evil(marker), "identity": {"config": "x"}, "epoch": 1}, folder / f"{name}.pt")
    with pytest.raises(OSError, match=rf"{name}\.pt is not a readable checkpoint: it holds \S+mkdir, code"):
        model_weights(folder / f"{name}.pt")
    run = RunFolder(folder)
    assert Checkpoints(run, {"config": "x"}, every_seconds=0).resume(None) == []  # type: ignore[arg-type]
    if name != "previous":
        cfg = compose(["data=digits", "model=resnet20"])
        with pytest.raises(OSError, match=rf"{name}\.pt is not a readable checkpoint"):
            trained_model(folder, cfg, num_classes=10, checkpoint=name)
    assert not marker.exists()


def test_no_array_of_a_strangers_folder_runs_code(folder: Path):
    marker = folder.parent / "owned"
    (folder / "analysis").mkdir()
    np.savez(folder / "analysis" / "predictions.npz", classes=np.array([Evil(marker)], dtype=object))
    with pytest.raises(OSError, match=r"predictions\.npz is damaged"):
        predictions(folder)
    assert not marker.exists()
