"""A run folder from a stranger runs no code: neither its configuration nor its checkpoints."""

import sys
from pathlib import Path

import pytest
import yaml

from experiments.config.compose import compose, compose_saved
from experiments.config.values import plain

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
