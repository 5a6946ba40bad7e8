import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import arbitrary_address
from pathlib import Path

import pytest

from cifar_core.processes import _keep_addresses_short
from experiments.files import make_folder
from tests.conftest import PROJECT


def test_sockets_have_a_name_however_long_the_temporary_folder_s_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)
    _keep_addresses_short()
    address = arbitrary_address("AF_UNIX")
    assert len(os.fsencode(address)) <= 103  # macOS's limit; Linux's is 107
    assert os.access(Path(address).parent, os.W_OK)
    assert tempfile.gettempdir() == str(long)  # other files stay where they are asked for


def test_a_folder_that_cannot_be_made_names_the_option_that_puts_it_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"file/run cannot be made: Not a directory; .* by hydra.run.dir=<folder>"
    ):
        make_folder(tmp_path / "file" / "run", "hydra.run.dir")


HELPED = """
import time
from cifar_core.processes import end_with_parent, helpers

def help():
    end_with_parent()
    print("helps", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with helpers() as context:
        context.Process(target=help).start()
    time.sleep(600)
"""


@pytest.mark.slow
def test_helpers_take_no_signal_from_the_group_and_end_with_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / "helped.py").write_text(HELPED)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "helped.py"],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "helps\n"
    group = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and leads(int(pid), process.pid)]
    assert len(group) == 4  # itself, the tracker of resources, the fork server, the helper
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        for pid in group:
            if pid != process.pid:
                os.kill(pid, signum)
    time.sleep(0.3)
    assert all(leads(pid, process.pid) for pid in group)
    process.kill()
    assert process.communicate() == ("", None)  # when the last one that has stdout is gone


def leads(pid: int, session: int) -> bool:
    """Whether a process lives and is of a session."""
    try:
        state, _, _, own = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return False
    return int(own) == session and state not in "ZX"
