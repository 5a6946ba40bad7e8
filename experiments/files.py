"""Files and the plain text in them: written whole or not at all."""

import csv
import io
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from cifar_core.files import FORMAT, check_format, lock, whole

_PACKED = Path(__file__).resolve().with_name("conf")  # in a wheel alone
INSTALLED = _PACKED.is_dir()
PROJECT = (
    Path.cwd() if INSTALLED else _PACKED.parents[1]
)  # where the store of all runs lies: the clone, if any
CONF = _PACKED if INSTALLED else PROJECT / "conf"
ASKED_SECONDS = 0.1  # for which whoever asks whether a folder is free may have its lock, as a sweep's report


def canonical(value: object) -> str:
    """Write a value the way YAML and the command line do, the same text each time (`true`, `null`, `0.1`)."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text.encode(errors="replace").decode().replace("\0", "")  # databases refuse both


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested dicts to dotted keys with canonical values."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = canonical(value)
    return flat


def write_text(path: Path, text: str) -> None:
    """Replace the file by ``text`` in one step that a kill cannot split."""
    with whole(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace the file by an indented JSON object, as `write_text` does; NaN and infinities become null.

    The number of the format comes first, which `read_json` takes out again.
    """
    numbered = {"format": FORMAT, **_finite(content)}
    write_text(path, json.dumps(numbered, indent=2, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; {} where the file is not there.

    Raises OSError for a damaged one, ValueError for one of a later format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise OSError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise OSError(f"{path} is damaged: it holds a {type(content).__name__}")
    check_format(path, content.pop("format", 0))
    return content


def csv_text(rows: Sequence[Mapping[str, Any]], *, end: str = "\n") -> str:
    """Return rows as CSV under the names of all their keys; what is not known stays empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=end)
    writer.writerow(names)
    writer.writerows([_blank(row.get(name)) for name in names] for row in rows)
    return out.getvalue()


def _blank(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def make_folder(path: Path, key: str) -> None:
    """Create a folder with its parents; an OSError names the option ``key`` that puts it elsewhere."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} cannot be made: {reason}; give another place by {key}=<folder>") from error


def check_links(folder: Path) -> None:
    """Raise ValueError for a link below ``folder`` that leads out of it: what is written would land there."""
    home = folder.resolve()
    for parent, folders, files in os.walk(home):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise ValueError(
                    f"{path} leads out of the run folder, to {path.resolve()}: a run writes within its "
                    "folder alone, so remove the link or put what it names in its place"
                )


def own(folder: Path) -> TextIO:
    """Lock ``folder`` for this process until the file returned is closed.

    Raises BlockingIOError with the owner's name where another process has it.
    """
    file = (folder / "lock").open("a+", encoding="utf-8")
    if not lock(file):
        time.sleep(ASKED_SECONDS)
    if not lock(file):
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise BlockingIOError(owner)
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file
