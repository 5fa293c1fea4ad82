"""A process whose Ray lost its control process ends with an error. A shell stands in for the control process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raymill.cluster.sudden_end import control_process

DRIVER = """
import subprocess, sys, threading
from pathlib import Path
from raymill.cluster import sudden_end as watching
watching._LOOK_S, watching._GRACE_S = 0.02, float(sys.argv[4])
folder, name, removed = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
is_running, seen = watching._is_running, threading.Event()
watching._is_running = lambda process: seen.set() or is_running(process)
left = watching.watch(folder, removed.touch)
child = subprocess.Popen([name, "-c", "read line", f"--log_dir={folder}/logs"], stdin=subprocess.PIPE)
seen.wait()
print(child.pid, flush=True)
child.wait()
if sys.argv[5] == "leaves":
    left.set()
    for thread in threading.enumerate():
        if thread.name == "control process":
            thread.join()
else:
    threading.Event().wait()
"""


def driver(tmp_path: Path, wait_s: float, then: str) -> tuple[int, str, bool]:
    """(exit code, standard error, whether the rest was removed) of a process whose control process is killed."""
    name = tmp_path / "gcs_server"
    name.symlink_to("/bin/sh")
    removed = tmp_path / "removed"
    words = [sys.executable, "-c", DRIVER, tmp_path / "ray", name, removed, str(wait_s), then]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline()), signal.SIGKILL)
        _, error = process.communicate()
    return process.returncode, error, removed.exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_process_that_waits_is_ended_with_the_fix_after_the_control_process_died(tmp_path):
    code, error, removed = driver(tmp_path, 0.1, "waits")
    assert code == 1 and "control process died" in error and "make the same call again" in error and removed


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_process_that_leaves_ray_by_itself_is_not_ended(tmp_path):
    assert driver(tmp_path, 0.5, "leaves") == (0, "", False)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_the_control_process_of_another_ray_is_not_taken_for_ours(tmp_path):
    name = tmp_path / "gcs_server"
    name.symlink_to("/bin/sh")
    with subprocess.Popen(
        [name, "-c", "read line", f"--log_dir={tmp_path}/ray-1/logs"], stdin=subprocess.PIPE
    ) as other:
        while (found := control_process(tmp_path / "ray-1")) is None:
            time.sleep(0.01)
        assert found == other.pid and control_process(tmp_path / "ray") is None
