"""Whole runs as processes: whatever happens to a driver or its Ray, it ends by itself and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymill.cluster import stage as stages
from raymill.cluster.sudden_end import MESSAGE
from tests.support.processes import MARK, Command, wait_until
from tests.support.stages import blocked_from_two_on, counting_stage, digests, run_inline

pytestmark = pytest.mark.ray

# What a driver may take to end after Ray died under it: it looks every two seconds, and then cleans up.
ENDS_S = 60


class Driver(Command):
    """`raymill count ...` in a process group, home and temporary folder of its own."""

    def __init__(self, folder: Path, *words: str, root: str = "run") -> None:
        self.mark = folder.name + os.urandom(4).hex()
        self.home, self.temporary = folder / "home", Path(tempfile.mkdtemp(dir="/tmp", prefix=""))
        self.home.mkdir(exist_ok=True)
        gate = folder / "gate"
        if not gate.exists():
            os.mkfifo(gate)
        own = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "GATE": str(gate), MARK: self.mark}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stages", "count", str(folder / root), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | own,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            # A shell that starts the tests in the background has all of its children ignore interrupts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@pytest.fixture
def drive(tmp_path) -> Iterator:
    drivers: list[Driver] = []

    def start(*words: str) -> Driver:
        drivers.append(Driver(tmp_path, *words))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.end_all()
        shutil.rmtree(driver.temporary)


def two_units_are_done(root: Path) -> bool:
    return len(list(root.glob("_commits/*/*.json"))) == 2


def nothing_is_left_of(driver: Driver) -> bool:
    return wait_until(lambda: not driver.others(), 10)


def test_a_run_leaves_no_process_and_no_file_outside_its_folder(drive, tmp_path):
    before = set(Path("/tmp").glob("raymill-r-*"))
    driver = drive()
    code, out, err = driver.wait(120)
    assert (code, out.split()[1:]) == (0, ["with", "Ray"]), err
    assert MESSAGE not in err
    assert nothing_is_left_of(driver)
    assert list(driver.home.rglob("*")) == []
    assert list(driver.temporary.glob("raymill-*")) == []
    assert {path for path in Path("/tmp").glob("raymill-r-*") if f"-{driver.process.pid}-" in path.name} <= before

    again = drive()
    code, out_again, err = again.wait(60)
    assert (code, out_again.split()) == (0, [out.split()[0], "without", "Ray"]), err


@pytest.mark.parametrize("victim", [pytest.param("gcs_server", marks=pytest.mark.slow), "raylet"])
def test_a_driver_whose_ray_dies_ends_and_the_next_continues(drive, tmp_path, victim):
    driver = drive("--gated")
    assert wait_until(lambda: two_units_are_done(tmp_path / "run"), 120)
    for pid in driver.others(f"/{victim} "):
        driver.kill(pid)
    code, out, err = driver.wait(ENDS_S)
    assert (code, out) == (1, "")
    assert "Ray on this machine died" in err and "run the same command again and it continues" in err
    assert MESSAGE not in err, "the process ended by itself"
    assert "Traceback" not in err
    assert nothing_is_left_of(driver)
    made = run_inline(counting_stage(6), str(tmp_path / "run"))
    assert digests(made) == digests(run_inline(counting_stage(6), str(tmp_path / "loop")))


def test_ctrl_c_ends_with_130_and_the_next_run_continues(drive, tmp_path):
    driver = drive("--gated")
    assert wait_until(lambda: two_units_are_done(tmp_path / "run"), 120)
    os.killpg(driver.process.pid, signal.SIGINT)  # a terminal sends it to all of them
    code, out, err = driver.wait(ENDS_S)
    assert (code, out) == (130, "")
    assert "Interrupted. Finished units are kept: run the same command again to continue." in err
    assert MESSAGE not in err
    assert "Traceback" not in err
    assert nothing_is_left_of(driver)
    assert list(driver.temporary.glob("raymill-r-*")) == []
    assert sorted(stages.committed(counting_stage(6, blocked_from_two_on), str(tmp_path / "run"))) == [0, 1]
