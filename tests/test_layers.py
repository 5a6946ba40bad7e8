"""Arrows go down only: which room imports which, what is imported late, how long a function may be."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.conftest import PROJECT
from tests.imports import graph, imports, sources

FORBIDDEN = ("hydra", "omegaconf", "mlflow", "optuna", "submitit", "experiments")  # in cifar_core

BASE = {"device", "files", "history", "laws", "memory", "processes"}

# Each room of cifar_core and the rooms it may import.
ROOMS: dict[str, set[str]] = {
    **{room: set() for room in BASE},
    "models": set(),
    "data": BASE,
    "augment": BASE | {"data"},
    "train": BASE | {"data", "augment"},
    "explain": BASE | {"data", "augment", "train"},
    "report": BASE | {"data", "augment", "train", "explain"},
    "guards": BASE | {"data", "augment", "train"},
}

# What is imported late in cifar_core: module, import, reason.
LATE = {
    ("cifar_core.files", "fcntl"): "absent on Windows",
    ("cifar_core.explain.statistics", "scipy.special.stdtrit"): "a fifth of a second, for a comparison",
    ("cifar_core.explain.statistics", "scipy.special.betainc"): "the same",
    ("cifar_core.models.timm_bridge", "timm"): "an optional package",
    ("cifar_core.train.checkpoint", "safetensors.torch.load_file"): "the same",
    ("cifar_core.report.analyse", "cifar_core.report.plots"): "matplotlib, not for the light level",
}

# The modules above it that import late: how many statements, and why.
COMMAND = (1, "its work, when the arguments are read")
LATE_ABOVE = {
    **{f"experiments.{name}": COMMAND for name in ("compare", "evaluate", "find_lr", "predict", "preview")},
    "experiments.comparison.cams": (1, "Albumentations with the weights, for maps that are not there"),
    "experiments.report": (2, "the same, for a sweep or for a run"),
    "experiments.run": (2, "a run needs torch; --help and a mistyped key do not"),
    "experiments.config.allowed": (2, "torchvision and timm, where they are named"),
    "experiments.config.check": (1, "torch, when the values are right"),
    "experiments.sweep.server": (1, "the jobs, in the process that has torch"),
    "experiments.tracking.mlflow_store": (8, "MLflow, after its environment is set"),
    "experiments.tracking.search": (2, "the same"),
    "experiments.tracking.sqlite": (1, "the same"),
    "experiments.tracking.system": (4, "the same, and psutil, which not everybody has"),
    "hydra_plugins.cifar_sweeper.sweeper": (1, "Hydra loads every plugin at every start"),
}

FUNCTION_LINES, FILE_LINES = 60, 350

LONG_FILES = ("cifar_core/guards.py",)  # one list of checks, read from top to bottom; at most two files


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)


def room(module: str) -> str:
    """Return the folder, or else the file, of a module of cifar_core."""
    return module.split(".")[1]


def test_the_graph_sees_lazy_imports_and_modules_taken_from_packages():
    arrows = graph()
    assert "cifar_core.report.plots" in arrows["cifar_core.report.analyse"]  # within a function
    assert "cifar_core.data.folder" in arrows["cifar_core.data.sources"]  # from cifar_core.data import folder
    assert "cifar_core.data" not in arrows["cifar_core.data.sources"]
    assert "cifar_core.laws" in arrows["cifar_core.train.settings"]  # from cifar_core.laws import law


def test_the_rooms_of_cifar_core_import_only_those_below():
    arrows = {module: names for module, names in graph().items() if module.startswith("cifar_core.")}
    assert {room(module) for module in arrows} == set(ROOMS)
    upward = [
        f"{module} imports {name}"
        for module, names in arrows.items()
        for name in names
        if room(name) not in ROOMS[room(module)] | {room(module)}
    ]
    assert not upward


def test_no_training_waits_for_albumentations():
    taken = {
        name
        for module, names in graph().items()
        for name in names
        if module.startswith("cifar_core.") and room(module) != "augment"
        if name.startswith("cifar_core.augment")
    }
    assert taken == {"cifar_core.augment.protocol", "cifar_core.augment.uniforms"}


def test_no_module_is_part_of_a_circle_of_imports():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))  # graphlib goes from the imported to the importing one
        pytest.fail(f"these modules import each other, lazy imports included: {circle}")


@pytest.mark.slow
def test_cifar_core_imports_nothing_from_above():
    modules = [module for module in sources() if module.startswith("cifar_core")]
    assert "cifar_core.train.loop" in modules
    for module in modules:
        for one in imports(module, sources()[module]):
            assert not one.name.startswith(FORBIDDEN), f"{module}, line {one.line}: {one.name}"
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in FORBIDDEN)
    done = run(f"import sys, importlib; {blocked}\nfor m in {modules}: importlib.import_module(m)")
    assert done.returncode == 0, done.stderr


def test_what_cifar_core_imports_late_has_a_reason():
    late = {
        (module, one.name)
        for module, file in sources().items()
        for one in imports(module, file)
        if one.inner and module.startswith("cifar_core")
    }
    assert late == set(LATE)


def test_what_is_imported_late_above_has_a_reason():
    statements = {
        (module, one.line)
        for module, file in sources().items()
        for one in imports(module, file)
        if one.inner and not module.startswith("cifar_core")
    }
    assert Counter(module for module, _ in statements) == {
        name: count for name, (count, _) in LATE_ABOVE.items()
    }


def test_functions_are_short():
    long = [
        f"{module}.{node.name}: {lines} lines"
        for module, file in sources().items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not long


def test_files_are_short_but_for_two_at_most():
    lines = {
        str(file.relative_to(PROJECT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in sources().values()
    }
    assert len(LONG_FILES) <= 2
    assert {name for name, count in lines.items() if count > FILE_LINES} == set(LONG_FILES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "package",
    [
        "cifar_core",
        "cifar_core.models",
        "cifar_core.train.settings",
        "cifar_core.data.settings",
        "cifar_core.report.settings",
    ],
)
def test_light_modules_import_no_torch(package: str):
    assert run(f"import sys, {package}; sys.exit('torch' in sys.modules)").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(path.stem for path in (PROJECT / "experiments").glob("[a-z]*.py")))
def test_a_command_imports_no_torch_and_no_mlflow(command: str):
    heavy = ("torch", "mlflow", "albumentations", "matplotlib")
    done = run(f"import sys, experiments.{command}; sys.exit(any(m in sys.modules for m in {heavy}))")
    assert done.returncode == 0
