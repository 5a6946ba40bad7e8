"""Files that are whole or not there, and locks that even a killed process gives back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1  # of the files in docs/formats.md; one more where an earlier version would misread one of them


def check_format(path: Path, number: object) -> None:
    """Raise ValueError where the content of ``path`` is of a later format; one without a number is older."""
    if isinstance(number, int) and number > FORMAT:
        raise ValueError(f"{path} is of a newer version: format {number}, and this one reads up to {FORMAT}")


@contextmanager
def whole(path: Path, *, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a file that becomes ``path`` when the block ends: a kill leaves the old file or the new one.

    With ``previous`` the old file is kept under that name; a kill may then leave the old file there only.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def lock(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return False where another process has it and none is to wait.

    Raises OSError where the file system or the operating system knows no such locks.
    """
    if fcntl is None:
        raise OSError("this system has no flock")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
