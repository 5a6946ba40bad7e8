"""What a process does when it is asked to end, and when nobody reads what it prints."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import cli
from experiments.cli import Signals, Stopped, Told, exit_codes
from tests.conftest import PROJECT
from tests.sweep.conftest import TINY, Sweep, wait_until
from tests.sweep.conftest import net as net  # a fixture

ENDING = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 143}


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Take SIGHUP as a terminal's closing, also where the tests themselves were started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Signals]:
    """Handlers of signals as a command has them, taken off again."""
    before = {each: signal.getsignal(each) for each in ENDING}
    fresh = Signals()
    monkeypatch.setattr(cli, "signals", fresh)
    yield fresh
    for each, handler in before.items():
        signal.signal(each, handler)


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", list(ENDING), ids=lambda signum: signum.name)
def test_a_signal_ends_a_command_with_its_code_and_is_named_last(
    signum: signal.Signals, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes():
        send(signum)
    assert ended.value.code == ENDING[signum]
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped by {signum.name}"


def test_what_a_library_makes_of_a_signal_is_still_a_signal(
    signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> None:
        try:
            send(signal.SIGTERM)
        except Stopped as stopped:
            raise ImportError("torch does not load") from stopped

    with pytest.raises(SystemExit) as ended, exit_codes():
        load()
    assert ended.value.code == 143
    assert "Traceback" not in capsys.readouterr().err


def test_a_process_and_its_group_may_get_the_same_signal(signals: Signals) -> None:
    signals.catch()
    with pytest.raises(Stopped):
        send(signal.SIGTERM)
    send(signal.SIGTERM)  # would kill this process
    send(signal.SIGINT)
    with pytest.raises(Stopped, match="SIGTERM"):
        signals.check()


def test_nohup_is_heeded(signals: Signals) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.catch()
    send(signal.SIGHUP)
    assert signals.pending is None


def test_a_process_with_blocked_signals_gets_them(signals: Signals) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        with pytest.raises(SystemExit) as ended, exit_codes():
            send(signal.SIGTERM)
        assert ended.value.code == 143
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def broken() -> io.BufferedWriter:
    """Return the end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return open(write, "wb")


def test_a_reader_who_has_seen_enough_ends_a_command_quietly(
    signals: Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for lines in (1, 10_000):  # in the buffer still, and past it
        stdout = io.TextIOWrapper(broken())
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as ended, exit_codes():
            print("a line\n" * lines)
        assert ended.value.code == 141
        stdout.close()  # as Python does at its end
    assert capsys.readouterr().err == ""


def test_a_broken_pipe_to_something_else_is_trouble_of_the_machine(
    signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise BrokenPipeError("a database is gone")
    assert (ended.value.code, capsys.readouterr().err) == (1, "error: a database is gone\n")


def test_a_stderr_that_nobody_reads_fails_nobody() -> None:
    stderr = Told(broken(), "utf-8", line_buffering=True)
    for _ in range(3):
        assert stderr.write("a line\n") == 7
        stderr.flush()
    stderr.close()


def processes(mark: str) -> dict[int, str]:
    """The processes that inherited a mark in their environment."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes() and "Z" not in (path / "stat").read_text():
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP], ids=lambda signum: signum.name)
def test_a_signal_to_all_processes_of_a_sweep_leaves_none_and_no_traceback(
    signum: signal.Signals, net: list[str], tmp_path: Path
) -> None:
    sweep, mark = Sweep(tmp_path), f"MARK={tmp_path}"
    command = [sys.executable, "-m", "experiments.run", "-m", *net, "sweep.name=test", "seed=0,1"]
    process = subprocess.Popen(
        [*command, "sweep.slots=2", "trainer.epochs=50", "+model.seconds=0.05"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT)} | os.environ | {"MARK": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(list(sweep.home.glob("*/last.pt"))) == 2, process)
    assert len(processes(mark)) >= 4
    os.killpg(process.pid, signum)
    os.kill(process.pid, signum)  # as `timeout` does
    stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, "Traceback" in stderr) == (ENDING[signum], False), stderr
    assert {result["status"] for result in sweep.results().values()} == {"killed"}
    assert "resource_tracker" not in stderr
    end = time.monotonic() + 30
    while processes(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes(mark)


@pytest.mark.slow
def test_ctrl_c_while_a_command_still_imports_ends_it_in_one_line(tmp_path: Path) -> None:
    slow = tmp_path / "hydra"
    slow.mkdir()
    (slow / "__init__.py").write_text("import sys, time\nprint('now', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *TINY],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{PROJECT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "stopped by SIGINT\n"
    assert process.returncode == 130
