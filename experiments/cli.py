"""What the command line owes its user: a line for a mistake, an exit code for its kind, an end on signals."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

USER, ENVIRONMENT, GUARD = 2, 1, 3  # exit codes: the configuration or arguments, the machine, a guard
FULL_ERROR = (
    os.environ.get("HYDRA_FULL_ERROR") == "1"
)  # the user's wish, read before the command line sets it


def parser(module: str, description: str | None, examples: str = "") -> argparse.ArgumentParser:
    """Return the parser of `python -m <module>`, whose help shows both texts as they are written."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


class UserError(Exception):
    """Something the user can put right, told in one line; exit code 2."""


class GuardStop(Exception):
    """A guard found the training broken; exit code 3."""


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end; ``signum`` says which."""

    def __init__(self, signum: int) -> None:
        """Keep the signal's number."""
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM and a batch system's SIGUSR1."""
        return 130 if self.signum == signal.SIGINT else 143


@contextmanager
def user_mistakes() -> Iterator[None]:
    """Turn the ValueError or FileNotFoundError of a check into UserError; around set-up code only."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise UserError(one_line(error)) from error


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process with the exit code of what went wrong, after one line on stderr that says it.

    A defect of the program keeps its traceback; ``HYDRA_FULL_ERROR=1`` shows it for every error.
    """
    try:
        yield
    except UserError as error:
        _end(error, USER)
    except GuardStop as error:
        _end(error, GUARD)
    except Stopped as stopped:
        print(f"stopped by {stopped}", file=sys.stderr)
        raise SystemExit(stopped.exit_code) from None
    except (OSError, MemoryError) as error:
        _end(error, ENVIRONMENT)
    except Exception:
        traceback.print_exc()
        raise SystemExit(ENVIRONMENT) from None


def _end(error: Exception, code: int) -> None:
    if FULL_ERROR:
        traceback.print_exception(error)
    print(f"error: {one_line(error)}", file=sys.stderr)
    raise SystemExit(code) from None


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


class Signals:
    """Turns SIGINT, SIGTERM and SIGUSR1 into `Stopped` in the main thread; a second signal ends at once.

    At once, or within `deferred` only where `check` is called: an exception out of nowhere in a training step
    can reach C++ code that aborts the process.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._pending: int | None = None

    def catch(self) -> None:
        """Install the handlers."""
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(each, self._handle)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        self._pending = signum
        if not self._deferring:
            self.check()

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self._pending is not None:
            raise Stopped(self._pending)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Leave it to `check` to raise; one that nobody has seen is raised at the end."""
        self._deferring = True
        try:
            yield
            self.check()
        finally:
            self._deferring = False


signals = Signals()
