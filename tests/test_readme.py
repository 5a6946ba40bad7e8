"""The README tells the truth: its commands compose, its tables are complete, its files exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from experiments.config.compose import compose
from experiments.files import CONF
from tests.conftest import PROJECT

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    if "experiments.run" in line
]


def test_there_are_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str):
    words = shlex.split(command, comments=True)
    overrides = words[words.index("experiments.run") + 1 :]
    if "-m" in overrides:
        overrides = [re.sub(r"=.*interval\(([^,]*),.*", r"=\1", word) for word in overrides if word != "-m"]
        overrides = [re.sub(r"=([^,]*),.*", r"=\1", word) for word in overrides]
    left_out = ("--", "resume=")  # resume takes a run folder: tests/test_run.py
    compose([word for word in overrides if not word.startswith(left_out) and word != "job"])


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
    for target in re.findall(r"`make (\w+)`", README):
        assert f"\n{target}:" in makefile, target
    for name in re.findall(r"`((?:cifar_core|experiments|conf)/[\w/.]*)`", README):
        assert (PROJECT / name).exists(), name
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (PROJECT / picture).exists(), picture
