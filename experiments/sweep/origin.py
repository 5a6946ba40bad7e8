"""What are all trials of a sweep composed from? Of conf/ as it was when the sweep began, kept beside them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from experiments.files import CONF, read_json, write_json
from experiments.sweep.space import Files

KEPT = "conf.json"  # file name -> text; one file, for folders with a config.yaml are runs
FOLDERS = ("conf", "config_dir")
SUFFIXES = (".yaml", ".yml")
OTHERS = {"pyvenv.cfg", "environment.json", "sweep.yaml"}  # a folder with one of these holds no options


def keep(files: Files, folder: Path) -> Files:
    """Write the texts of conf/ and of ``--config-dir`` into ``folder``; return what is composed of them."""
    write_json(folder / KEPT, texts(files))
    return moved(files, folder)


def kept(files: Files, folder: Path) -> Files | None:
    """Return what a sweep in ``folder`` keeps; None where it is new, or of a version that kept nothing."""
    return moved(files, folder) if (folder / KEPT).is_file() else None


def moved(files: Files, folder: Path) -> Files:
    """Return what is composed from the texts in ``folder``, once they are there."""
    return {**files, "kept": str(folder / KEPT)}


def move(source: Path, folder: Path) -> None:
    """Bring the texts that are in ``source``, if any, into the sweep's folder."""
    if (source / KEPT).is_file():
        write_json(folder / KEPT, read_json(source / KEPT))
        (source / KEPT).unlink()


@contextmanager
def unpacked(files: Files) -> Iterator[Files]:
    """Yield ``files`` with the folders to compose from, which are gone afterwards."""
    if "kept" not in files:
        yield files
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in texts(files).items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        conf, further = (Path(scratch, folder) for folder in FOLDERS)
        yield {**files, "conf": str(conf), "config_dir": str(further) if further.is_dir() else None}


def texts(files: Files) -> dict[str, str]:
    """Return the content of all files that ``files`` are composed from, by name.

    Raises OSError where what was kept is damaged, or names a file elsewhere.
    """
    if "kept" not in files:
        places = dict(zip(FOLDERS, (str(CONF), files["config_dir"]), strict=True))
        return {
            f"{name}/{path.relative_to(place).as_posix()}": path.read_text(encoding="utf-8")
            for name, place in places.items()
            if place
            for path in _options(Path(place))
        }
    saved = read_json(Path(files["kept"]))
    for name, text in saved.items():
        path = PurePosixPath(name)
        if (
            path.parts[:1] not in [(folder,) for folder in FOLDERS]
            or ".." in path.parts
            or not isinstance(text, str)
        ):
            raise OSError(f"{files['kept']} is damaged: it holds {name}")
    return saved


def _options(source: Path) -> Iterator[Path]:
    """Yield the YAML files of a folder of options, which may also hold runs, an environment and more."""
    seen = set()
    for place, folders, names in os.walk(source, followlinks=True):
        here = Path(place)
        if (real := here.resolve()) in seen or (here != source and OTHERS.intersection(names)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (here / name for name in sorted(names) if name.endswith(SUFFIXES))
        yield from (path for path in paths if path.is_file())
