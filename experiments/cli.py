"""What the command line owes its user: a line for a mistake, an exit code for its kind, an end on signals."""

import argparse
import io
import os
import re
import select
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from cifar_core.memory import out_of_memory
from cifar_core.processes import ENDING

USER, ENVIRONMENT, GUARD = 2, 1, 3  # exit codes: the configuration or arguments, the machine, a guard
PIPE = 141  # nobody reads what is printed, as in `| head`
TOGETHER_SECONDS = 1.0  # signals that come within are one: to a process and to its group, say
FULL_ERROR = (
    os.environ.get("HYDRA_FULL_ERROR") == "1"
)  # the user's wish, read before the command line sets it


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with code 2 and that line."""
        self.exit(USER, f"error: {one_line(ValueError(message))}; `{self.prog} --help` lists the flags\n")


def parser(module: str, description: str | None, examples: str = "") -> argparse.ArgumentParser:
    """Return the parser of `python -m <module>`, whose help shows both texts as they are written."""
    return Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def command(module: str, *words: str) -> str:
    """Return ``python -m experiments.<module> <words>`` as a shell takes it."""
    return shlex.join([Path(sys.executable).name, "-m", f"experiments.{module}", *words])


def this_command() -> str:
    """Return the command that started this process, as a shell takes it."""
    words = sys.orig_argv[1:]
    python = [] if words and Path(words[0]).name == "cifar-sweeps" else [Path(sys.executable).name]
    return shlex.join([*python, *words])


class UserError(Exception):
    """Something the user can put right, told in one line; exit code 2."""


class GuardStop(Exception):
    """A guard found the training broken, past going on where it is ``hopeless``; exit code 3."""

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end; ``signum`` says which."""

    def __init__(self, signum: int) -> None:
        """Keep the signal's number."""
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 129 for a closed terminal, 143 for SIGTERM and a batch system's SIGUSR1."""
        codes: dict[int, int] = {signal.SIGINT: 130, signal.SIGHUP: 129}
        return codes.get(self.signum, 143)


@contextmanager
def user_mistakes() -> Iterator[None]:
    """Turn the ValueError or FileNotFoundError of a check into UserError; around set-up code only.

    One that was made of a lack of memory becomes MemoryError.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if out_of_memory(error):
            raise MemoryError(one_line(error)) from error
        raise UserError(one_line(error)) from error


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process with the exit code of what went wrong, after one line on stderr that says it.

    A defect of the program keeps its traceback; ``HYDRA_FULL_ERROR=1`` shows it for every error. Signals are
    caught from here on.
    """
    _mend_streams()
    if threading.current_thread() is threading.main_thread():
        signals.catch()
    try:
        yield
        sys.stdout.flush()  # here a reader that is gone can still be told from a defect
    except UserError as error:
        _end(error, USER)
    except GuardStop as error:
        _end(error, GUARD)
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped(signal.SIGINT)
        _end_stopped(stopped, interrupt)
    except (OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):
            raise SystemExit(PIPE) from None
        _end(error, ENVIRONMENT)
    except Exception as error:
        if signals.pending is not None:  # it came within code that made another error of it
            _end_stopped(Stopped(signals.pending), error)
        if out_of_memory(error):
            _end(error, ENVIRONMENT)
        traceback.print_exc()  # with the notes
        raise SystemExit(ENVIRONMENT) from None
    finally:
        _let_go_unread(sys.stdout)


def _end(error: Exception, code: int) -> NoReturn:
    if FULL_ERROR:
        traceback.print_exception(error)
    _tell_notes(error)
    print(f"error: {one_line(error)}", file=sys.stderr)
    raise SystemExit(code) from None


def _end_stopped(stopped: Stopped, error: BaseException) -> NoReturn:
    if not _tell_notes(error):
        print(f"again with:  {this_command()}", file=sys.stderr)
    print(f"stopped by {stopped}", file=sys.stderr)
    raise SystemExit(stopped.exit_code) from None


class Told(io.TextIOWrapper):
    """A stderr that fails nobody: where its terminal was closed or its reader is gone, it goes nowhere."""

    def write(self, text: str) -> int:
        """Write text if that is possible."""
        try:
            return super().write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Write what is kept if that is possible."""
        try:
            super().flush()
        except OSError:
            self._let_go()

    def _let_go(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _mend_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr an empty one; write any text on them.

    A file that is opened later would get the free number, and with it what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a locale may lack a letter, a file name may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__:  # else it is somebody else's, as in a notebook
        buffer = sys.stderr.buffer if sys.stderr else open(2, "wb", closefd=False)  # noqa: SIM115
        encoding = sys.stderr.encoding if sys.stderr else "utf-8"
        sys.stderr = Told(buffer, encoding, "backslashreplace", line_buffering=True)


def _is_unread(stream: TextIO) -> bool:
    """Tell whether a stream is a pipe whose other end is closed."""
    poll = select.poll()
    try:
        poll.register(stream, select.POLLOUT)
    except (OSError, ValueError):  # not of this process's own, as in a notebook; closed
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _let_go_unread(stream: TextIO) -> None:
    """Have Python not fail, at its end, over what could not be written."""
    try:
        stream.flush()
    except (OSError, ValueError):  # ValueError: closed
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _tell_notes(error: BaseException) -> bool:
    """Print what an error carries beside its message: the line to paste. Return whether there was any."""
    notes = getattr(error, "__notes__", [])
    for note in notes:
        print(note, file=sys.stderr)
    return bool(notes)


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks; spaces within a line stay, as paths may hold several."""
    return re.sub(r"\s*[\r\n]\s*", " ", str(error).strip()) or type(error).__name__


class Signals:
    """Turns SIGINT, SIGTERM, SIGHUP and SIGUSR1 into `Stopped` in the main thread; another one later kills.

    At once, or within `deferred` only where `check` is called: an exception out of nowhere in a training step
    can reach C++ code that aborts the process.
    """

    def __init__(self) -> None:
        self.pending: int | None = None  # the signal that has come
        self._deferring = False
        self._since = 0.0

    def catch(self) -> None:
        """Install the handlers; SIGHUP stays ignored where it is, as under nohup."""
        for each in ENDING:
            if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:
                signal.signal(each, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # a process forked from a helper has them blocked

    def _handle(self, signum: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.pending is None:
            self.pending, self._since = signum, now
            if not self._deferring:
                self.check()
        elif now - self._since > TOGETHER_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.pending is not None:
            raise Stopped(self.pending)

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
