"""Which module imports which, read from the sources of the project's packages."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PROJECT

PACKAGES = ("cifar_core", "experiments", "hydra_plugins")


@dataclass(frozen=True)
class Import:
    """One name that a module imports."""

    module: str  # the importing one
    name: str  # dotted: of a module, or of something in one
    inner: bool  # not at the top of the file: inside a function, a condition or a try
    line: int


def sources() -> dict[str, Path]:
    """Return the file of each module of the project; a package is its __init__.py."""
    files = [file for package in PACKAGES for file in sorted((PROJECT / package).rglob("*.py"))]
    parts = {file: file.relative_to(PROJECT).with_suffix("").parts for file in files}
    return {".".join(parts[file]).removesuffix(".__init__"): file for file in files}


def imports(module: str, file: Path) -> Iterator[Import]:
    """Yield every import of a module, those in functions included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{file}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(module, name, node.col_offset > 0, node.lineno)


def graph() -> dict[str, set[str]]:
    """Return the modules of the project that each of them imports, lazily or not.

    `from package import module` is an import of that module.
    """
    files = sources()

    def target(name: str) -> str | None:
        return next((known for known in (name, name.rpartition(".")[0]) if known in files), None)

    found = {module: {target(one.name) for one in imports(module, file)} for module, file in files.items()}
    return {module: {name for name in names if name} for module, names in found.items()}
