"""Turns the values in conf/ into runs and sweeps."""

import os
import sys
from types import TracebackType

WINDOWS = "this runs on Linux and macOS; on Windows it runs in WSL: `wsl --install`, then install it there"

if sys.platform == "win32":
    if sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0]).startswith("cifar-sweeps"):
        print(f"error: {WINDOWS}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(WINDOWS)


def _untold(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End on Ctrl-C without a traceback, as while a command still imports what it needs."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    os.write(2, b"stopped by SIGINT\n")
    os._exit(130)


if sys.argv[:1] == ["-m"]:  # this is the command line, and nobody's notebook
    sys.excepthook = _untold
