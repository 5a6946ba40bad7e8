import os
import subprocess
from pathlib import Path

import pytest

from experiments.tracking.processes import is_dead, this_process


@pytest.mark.slow
def test_a_process_is_told_from_another_with_its_pid() -> None:
    host, mine = os.uname().nodename, this_process()
    pid, started, boot, namespace = mine.split()
    assert not is_dead(host, mine)
    assert is_dead(host, f"{pid} {int(started) - 1} {boot} {namespace}")  # the number was given out again
    assert is_dead(host, f"{pid} {started} another-boot {namespace}")
    assert not is_dead("another host", f"{pid} {int(started) - 1} {boot} {namespace}")
    assert not is_dead(host, f"{pid} {int(started) - 1} {boot} pid:[1]")  # another container's numbers
    child = subprocess.Popen(["sleep", "60"])
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    theirs = f"{child.pid} {stat[19]} {boot} {namespace}"
    assert not is_dead(host, theirs)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(host, theirs)  # still a zombie
    child.wait()
    assert is_dead(host, theirs)
