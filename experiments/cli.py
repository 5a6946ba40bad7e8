"""What the command line owes its user: a line for a mistake, an exit code for its kind, an end on signals."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

USER, ENVIRONMENT = 2, 1  # exit codes: the configuration or arguments, the machine
FULL_ERROR = (
    os.environ.get("HYDRA_FULL_ERROR") == "1"
)  # the user's wish, read before the command line sets it


class UserError(Exception):
    """Something the user can put right, told in one line; exit code 2."""


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
    except Stopped as stopped:
        print(f"stopped by {stopped}", file=sys.stderr)
        raise SystemExit(stopped.exit_code) from None
    except OSError as error:
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


def catch_signals() -> None:
    """Raise `Stopped` in the main thread at the first SIGINT, SIGTERM or SIGUSR1; the second ends at once."""

    def stop(signum: int, _: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(signum)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(each, stop)
