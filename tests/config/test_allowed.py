"""What a configuration may call reads no file, no pickle and no network, and imports nothing by name."""

import dis
import functools
import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from cifar_core.models.timm_bridge import READING, timm_model
from experiments.config import build
from experiments.config.allowed import LIBRARIES, resolve
from experiments.config.compose import compose

BUILTINS = frozenset(["open", "eval", "exec", "compile", "__import__"])
NAMES = """
load loads safe_load load_file load_url load_checkpoint _torch_load read_text read_bytes read_rgb_image
fromfile loadtxt genfromtxt imread truetype urlopen urlretrieve load_state_dict_from_url get_state_dict
download_url_to_file download_cached_file hf_hub_download snapshot_download load_state_dict_from_hf
load_custom_from_hf load_state_dict_from_path from_pretrained write_text write_bytes unlink rmtree
import_module run_module system popen Popen
"""
READERS = frozenset(NAMES.split())
# Where a walk ends: weights of timm's own come with `pretrained: true`, which only the start of a training
# keeps; those of torchvision's own with a `weights` that is None unless it is given.
KNOWN = ("timm.models._builder.load_pretrained", "load_pretrained")
FIXED = {  # readers whose file is not for the configuration to choose
    "torch.nn.functional.interpolate: import_module",  # of torch itself
    "torch.nn.functional.pad: import_module",
}
TORCHVISION_WEIGHTS = "get_state_dict"
SKIPPED = "experiments.tracking."  # making a tracker writes nothing; what it does then is its business


def modules(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        try:
            yield importlib.import_module(info.name)
        except Exception:  # a part that wants something not installed cannot be called either
            continue


@functools.cache
def callables() -> dict[str, Any]:
    """Return every class and function that can be named and is let through, under one name each."""
    packages = [importlib.import_module(name.rstrip(".")) for name in LIBRARIES if name != "timm."]
    if find_spec("timm"):
        packages += [importlib.import_module(name) for name in ("timm.models", "timm.layers", "timm.optim")]
    found: dict[int, tuple[str, Any]] = {}
    for package in packages:
        for module in modules(package):
            for name, value in vars(module).items():
                if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in found:
                    full = f"{module.__name__}.{name}"
                    try:
                        resolve("x", full, ())
                    except ValueError:
                        continue
                    found[id(value)] = (full, value)
    return dict(found.values())


def names(code: CodeType) -> tuple[set[str], set[str]]:
    """Return all names that a function looks up, and those that are no attributes."""
    every = set(code.co_names)
    steps = dis.get_instructions(code) if every & BUILTINS else ()  # slow
    free = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for const in code.co_consts:
        if isinstance(const, CodeType):
            inner = names(const)
            every, free = every | inner[0], free | inner[1]
    return every, free


def function(value: Any) -> FunctionType | None:
    """Return the Python function behind a method, property or decorator."""
    value = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))
    return value if isinstance(value, FunctionType) else None


def called(cls: type) -> Iterator[tuple[str, type]]:
    """Yield what is called of an object: when it is made, in a training, and when a picture comes."""
    for name in {name for base in cls.__mro__ for name in vars(base)}:
        if name in ("__init__", "__new__", "__post_init__", "__call__", "forward", "step", "transform") or (
            name.startswith(("apply", "get_param", "get_transform"))
        ):
            yield name, cls


def reach(start: Any) -> Iterator[str]:
    """Yield `function: name` for every reader that ``start`` can come to in its own library."""
    todo: list[Any] = [*called(start)] if inspect.isclass(start) else [start]
    while todo:
        item = todo.pop()
        name, cls = item if isinstance(item, tuple) else ("", None)
        code = function(getattr(cls, name, None) if cls else item)
        if code is None or not code.__module__.startswith(tuple(LIBRARIES)):
            continue
        if (key := (code.__module__, code.__qualname__, cls and cls.__qualname__)) in SEEN:
            continue
        SEEN.add(key)
        where = f"{code.__module__}.{code.__qualname__}"
        if where in KNOWN or code.__name__ in KNOWN:
            continue
        used, free = names(code.__code__)
        yield from (f"{where}: {name}" for name in (used & READERS) | (free & BUILTINS))
        for name in used:
            value = code.__globals__.get(name)
            if inspect.isclass(value):
                todo += called(value)
            elif inspect.ismodule(value):
                todo += [member for other in used if function(member := getattr(value, other, None))]
            elif function(value):
                todo.append(value)
            if cls and name not in KNOWN and hasattr(cls, name):
                todo.append((name, cls))


SEEN: set[Any] = set()


@pytest.mark.filterwarnings("ignore")  # of old names, as they are imported
def test_nothing_that_may_be_called_reads_files_pickles_or_addresses():
    found = {name: value for name, value in callables().items() if not name.startswith(SKIPPED)}
    assert len(found) > 1000
    lines = {line for value in found.values() for line in reach(value)} - FIXED
    weights = {
        line for line in lines if line.startswith("torchvision.") and line.endswith(TORCHVISION_WEIGHTS)
    }
    assert weights
    assert not lines - weights
    for value in found.values():
        if inspect.isfunction(value) and value.__module__.startswith("torchvision."):
            assert inspect.signature(value).parameters["weights"].default is None


READING_TARGETS = [
    "timm.models.load_state_dict",
    "timm.models.load_checkpoint",
    "timm.models.load_state_dict_from_hf",
    "timm.create_model",  # whose names may be those of a hub, a folder or a file
    "timm.models._factory.create_model",
    "timm.utils.model_ema.ModelEma",
    "torchvision.models.get_model_weights",
    "torchvision.models.get_model",
    "torchvision.models.detection.fasterrcnn_resnet50_fpn",  # fetches a backbone by itself
    "torchvision.models._api.WeightsEnum.get_state_dict",
    "torchvision.models.resnet.handle_legacy_interface",
    "torchvision.transforms.v2.Lambda",
    "albumentations.load",
    "albumentations.from_dict",
    "albumentations.Compose.from_pretrained",
    "albumentations.core.hub_mixin.HubMixin",
    "albumentations.FDA",
    "albumentations.HistogramMatching",
    "albumentations.PixelDistributionAdaptation",
    "albumentations.TextImage",
    "albumentations.Lambda",
    "torch.nn.Module.load_state_dict",
    "torch.nn.init.normal_",
    "torch.nn.parallel.DistributedDataParallel",
    "torch.optim.swa_utils.AveragedModel",
    "experiments.tracking.spool.Spool",
    "experiments.tracking.mlflow_store.configure",
    "experiments.tracking.tracker.Tracker",
    "cifar_core.augment.per_picture.PerPicture",
    "cifar_core.train.checkpoint.load",
    "cifar_core.data.folder.decode_picture",
]
PLACES = [
    "+model.x={call}",
    "+model.drop2d.x.y=[1,{{a:{call}}}]",
    "+optimizer._args_=[{call}]",
    "+scheduler.x={call}",
    "+aug.image.x={call}",
    "aug.batch={call}",
    "+tracking.x={call}",
]


@pytest.mark.parametrize("target", READING_TARGETS)
def test_what_reads_files_or_addresses_is_refused(target: str):
    with pytest.raises(ValueError, match=r"^x must name a class under|^x: .* cannot be imported"):
        resolve("x", target, ())


@pytest.mark.parametrize("place", PLACES)
def test_a_call_is_refused_wherever_it_stands(place: str):
    call = "{_target_: timm.models.load_state_dict, checkpoint_path: x, weights_only: false}"
    with pytest.raises(ValueError, match=r"_target_ must name a class under .*load_state_dict'") as told:
        compose([place.format(call=call)])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "target",
    [
        "torchvision.models.resnet18",
        "torchvision.models.resnet.resnet18",
        "torchvision.models.ResNet",
        "torchvision.transforms.v2.MixUp",
        "torch.nn.GELU",
        "torch.optim.RAdam",
        "torch.optim.lr_scheduler.StepLR",
        "albumentations.GaussNoise",
        "albumentations.OneOf",
        "timm.models.resnet18",
        "timm.models.vision_transformer.VisionTransformer",
        "timm.layers.LayerNorm2d",
        "timm.optim.Lamb",
    ],
)
def test_what_builds_a_part_of_a_training_may_be_called(target: str):
    if target.startswith("timm."):
        pytest.importorskip("timm")
    assert callable(resolve("x", target, ()))


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def evil(tmp_path: Path) -> Path:
    torch.save({"state_dict": Evil(tmp_path / "owned")}, tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    (tmp_path / "owned").rmdir()  # so it is evil
    return tmp_path / "evil.pt"


@pytest.mark.parametrize("argument", READING)
def test_no_argument_of_timm_names_a_file(tmp_path: Path, argument: str):
    pytest.importorskip("timm")
    file = str(evil(tmp_path))
    value = {"file": file} if argument.startswith("pretrained_cfg") else file
    with pytest.raises(ValueError, match=rf"model\.options\.{argument} is not taken"):
        timm_model(name="resnet18", pretrained=True, options={argument: value})
    call = {"_target_": "timm.models.resnet18", "pretrained": True, argument: value}
    with pytest.raises(ValueError, match=rf"model\.x\.{argument} is not taken"):
        compose([f"+model.x={{_target_: timm.models.resnet18, {argument}: x}}"])
    cfg = OmegaConf.create({"model": call, "security": {"allowed_targets": []}})
    with pytest.raises(ValueError, match=rf"model\.{argument} is not taken"):
        build.model(cfg, num_classes=3, pretrained=True)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "name", ["hf-hub:a/b", "hf_hub:a/b", "local-dir:x", "file:///x", "a/resnet18", "../resnet18"]
)
def test_a_model_of_timm_is_a_name_and_no_place(name: str):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"^model\.name must be a model of timm, got"):
        timm_model(name=name)


def test_the_calls_are_judged_again_where_they_are_made(tmp_path: Path):
    """A configuration may change between check and use, or never have been checked."""
    call = {
        "_target_": "timm.models.load_state_dict",
        "checkpoint_path": str(evil(tmp_path)),
        "weights_only": False,
    }
    parts = {
        "trainer": {"epochs": 1},
        "model": call,
        "optimizer": call,
        "scheduler": call,
        "aug": {"image": {"x": call}, "batch": call},
    }
    cfg = OmegaConf.create(parts | {"tracking": call, "security": {"allowed_targets": []}, "seed": 0})
    for make in (
        lambda: build.model(cfg, num_classes=3),
        lambda: build.steps(cfg),
        lambda: build.mix(cfg, num_classes=3),
        lambda: build.optimizer(cfg, []),
        lambda: build.scheduler(cfg, torch.optim.SGD([torch.zeros(1)]), steps_per_epoch=1),
        lambda: build.tracker(cfg, tmp_path, "", ""),
    ):
        with pytest.raises(ValueError, match="must name a class under"):
            make()
    assert not (tmp_path / "owned").exists()
