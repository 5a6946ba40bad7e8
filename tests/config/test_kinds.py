"""Arguments of code: each of its own kind, read from anywhere in the configuration, told by its key."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hydra.utils import get_object
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from experiments.config import build
from experiments.config.compose import compose
from experiments.config.kinds import check_kinds, check_value, shown
from experiments.config.schema import TARGETS
from experiments.config.values import plain
from experiments.files import CONF

OPTIONS = [path for group in TARGETS for path in sorted((CONF / group).glob("*.yaml"))]
WRONG: dict[type, list[Any]] = {  # by what an option has: values that YAML or a shell can make of it
    bool: [1, 0, "false", "off", None],
    int: ["abc", "0.1", True, None, math.nan],
    float: ["abc", "0.1", False, None, math.inf],
    list: ["abc", True, ["a"], [True]],
}


def calls(node: Any, key: str) -> list[tuple[str, dict[str, Any]]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = [call for name, child in inner for call in calls(child, f"{key}.{name}")]
    return [*found, (key, node)] if isinstance(node, dict) and "_target_" in node else found


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_argument_of_another_kind_is_told_by_its_key_and_what_came(path: Path):
    for key, node in calls(OmegaConf.to_container(OmegaConf.load(path)), path.parent.name):
        target = get_object(node["_target_"])
        values = {k: v for k, v in node.items() if "${" not in str(v) and not k.startswith("_")}
        check_kinds(key, values, target)
        for name, value in values.items():
            if name in build.RESERVED.get(path.parent.name, {}) or "_target_" in str(value):
                continue
            may_be_null = name in ("min_height", "min_width")  # of PadIfNeeded
            for wrong in WRONG.get(type(value), [])[: 3 if may_be_null else None]:
                with pytest.raises(ValueError, match=rf"{key}\.{name} must be ") as caught:
                    check_kinds(key, values | {name: wrong}, target)
                assert f"got {shown(wrong)}" in str(caught.value)
                assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def default() -> DictConfig:
    return compose(["aug=crop_flip"])


def leaves(node: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        return [leaf for name, child in node.items() for leaf in leaves(child, f"{key}.{name}")]
    return [] if key.rpartition(".")[2].startswith("_") else [(key, node)]


@pytest.mark.parametrize("option", ["model/resnet18", "optimizer/lookahead", "tracking/mlflow", "aug/flip"])
def test_every_value_of_a_group_may_be_read_from_another_group(default: DictConfig, option: str):
    cfg, group = default.copy(), option.partition("/")[0]
    OmegaConf.set_struct(cfg, False)
    cfg[group] = OmegaConf.load(CONF / f"{option}.yaml")
    before = plain(cfg)[group]
    cfg.scheduler.held = {str(n): value for n, (_, value) in enumerate(leaves(before, group))}
    for number, (key, _) in enumerate(leaves(before, group)):
        OmegaConf.update(cfg, key, f"${{scheduler.held.{number}}}")
    assert plain(cfg)[group] == before
    net = build.model(cfg, num_classes=3)
    assert build.optimizer(cfg, net.named_parameters()).param_groups[0]["lr"] == 0.1
    assert build.tracker(cfg, CONF, "", "") is not None
    assert "flip" in build.steps(cfg)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.weight_decay=${optimizer.lr}"],
        ["optimizer.weight_decay=${.lr}"],
        ["optimizer=lookahead", "optimizer.base.momentum=${..alpha}"],
        ["scheduler.warmup_epochs=${seed}"],
        ["model.drop2d.stem=${..drop_rate}"],
        ["model=timm", "+model.options.drop_rate=${optimizer.momentum}"],
        ["aug.image.flip.p=${aug.image.pad.p}"],
        ["aug.image.flip=${aug.image.pad}"],
        ["aug=mixup_or_cutmix", "aug.batch.transforms.0.alpha=${optimizer.lr}"],
        ["tracking.experiment=${seed}"],
        ["tracking.experiment=x_${hydra:runtime.choices.model}_${model.width}"],
        ["optimizer.lr='${oc.decode:${oc.env:CIFAR_LR,0.3}}'"],
        ["optimizer.lr=${oc.select:nowhere,0.2}"],
        ["scheduler=multistep", "scheduler.milestones=[1,${trainer.epochs}]"],
        ["+expected={test_acc: 0.5, epochs: 3, source: '${tracking.experiment}'}"],
    ],
)
def test_an_interpolation_works_in_every_group(overrides: list[str]):
    if "model=timm" in overrides:
        pytest.importorskip("timm")
    overrides = [word.replace("+expected", "expected") for word in overrides]
    assert "${" not in str(plain(compose(overrides)))


def test_a_number_that_is_read_as_a_text_is_refused_with_the_way_to_read_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CIFAR_LR", "0.3")
    with pytest.raises(ValueError, match=r"optimizer\.lr must be a number, got '0\.3': .*oc\.decode"):
        compose(["optimizer.lr=${oc.env:CIFAR_LR}"])


def test_what_yaml_takes_for_something_else_is_told(tmp_path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "tracking").mkdir()
    own = tmp_path / "optimizer" / "mine.yaml"
    for text, told in {
        "lr: 1e-3": "",  # a number to OmegaConf, though not to YAML 1.1
        "lr: 1_000": "",
        "lr: '1e-3'": "optimizer.lr must be a number, got '1e-3'",
        "lr: on": "optimizer.lr must be a number, got true",
        "lr: ~": "optimizer.lr must be a number, got null",
        "lr: .nan": "optimizer.lr must be a number, got NaN",
        "lr: 2024-01-01": "optimizer.lr must be a number, got '2024-01-01'",
        "nesterov: 'no'": "optimizer.nesterov must be true or false, got 'no': write false",
        "no: 1": "optimizer.False is not an argument",
    }.items():
        own.write_text(f"_target_: torch.optim.SGD\n{text}\n")
        if not told:
            compose(["optimizer=mine"], config_dir=str(tmp_path))
            continue
        with pytest.raises(ValueError, match=told):
            compose(["optimizer=mine"], config_dir=str(tmp_path))
    (tmp_path / "tracking" / "mine.yaml").write_text("defaults: [mlflow, _self_]\nexperiment: off\n")
    with pytest.raises(ValueError, match="tracking.experiment must be a text or .*got false: YAML reads"):
        compose(["tracking=mine"], config_dir=str(tmp_path))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=5,
)


@given(PLAIN)
def test_a_bool_a_number_and_a_text_are_three_things(value: Any):
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    for hint, fits in {
        bool: isinstance(value, bool),
        float: number,
        int: number and isinstance(value, int),
        str: isinstance(value, str),
        float | None: number or value is None,
        Literal["a", 1]: value == "a" or (value == 1 and type(value) is int),
        Sequence[float]: isinstance(value, list) and all(ok(one) for one in value),
        tuple[float, float]: isinstance(value, list) and len(value) == 2 and all(ok(one) for one in value),
        Mapping[str, float]: isinstance(value, dict) and all(ok(one) for one in value.values()),
        Any: True,
        Callable[..., Any]: True,
    }.items():
        assert accepts(value, hint) == fits, (value, hint)


def ok(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def accepts(value: Any, hint: Any) -> bool:
    try:
        check_value("key", value, hint)
    except ValueError:
        return False
    return True
