"""cifar_core is a plain library: it imports without the packages of the layers above it."""

import subprocess
import sys

import pytest

from tests.conftest import PROJECT

MODULES = sorted(
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
    for path in (PROJECT / "cifar_core").rglob("*.py")
)
FORBIDDEN = ("hydra", "omegaconf", "mlflow", "optuna", "submitit", "experiments")


def imports(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)


def test_cifar_core_imports_nothing_from_above():
    assert "cifar_core.train.loop" in MODULES
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in FORBIDDEN)
    done = imports(f"import sys, importlib; {blocked}\nfor m in {MODULES}: importlib.import_module(m)")
    assert done.returncode == 0, done.stderr


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
    assert imports(f"import sys, {package}; sys.exit('torch' in sys.modules)").returncode == 0


def test_command_line_imports_no_torch_and_no_mlflow():
    heavy = ("torch", "mlflow", "albumentations", "matplotlib")
    done = imports(f"import sys, experiments.run; sys.exit(any(m in sys.modules for m in {heavy}))")
    assert done.returncode == 0
