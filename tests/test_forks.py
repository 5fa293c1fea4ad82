"""`pytest --forks`: nothing that a test says is lost, whatever happens to the process that runs it."""

import subprocess
import sys
from pathlib import Path

CONFTEST = """
import pytest
from tests.support import forks

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    forks.run(session, 2, lambda item: ("ray" in item.name, item.path.name), lambda: None)
    return True
"""
ENDS = """
import os, warnings
import pytest

@pytest.fixture
def left():
    yield
    raise ValueError("in the end")

def test_passes(tmp_path): warnings.warn("odd")
def test_fails(): print("said before"); assert [1] == [2]
def test_dies(): os.abort()
def test_leaves(): os._exit(0)
def test_after(left): pass
@pytest.mark.skip("why not")
def test_skipped(): pass
@pytest.mark.parametrize("number", range(3))
def test_last(number): pass
"""
PROCESSES = """
import os
from pathlib import Path
import pytest

@pytest.fixture(scope="module", params="ab")
def shared(request): return request.param

@pytest.mark.parametrize("name", ["one", "two", "ray one", "ray two"])
def test_process(shared, name):
    with open(Path(__file__).with_suffix(".txt"), "a") as file:
        print("ray" if "ray" in name else "pure", os.getpid(), file=file)
"""


def run(folder: Path, *options: str, **files: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}", *options, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return done.returncode, done.stdout


def test_a_failure_a_death_and_an_early_exit_are_failures_and_the_rest_runs(tmp_path):
    code, said = run(tmp_path, "-rs", ends=ENDS)
    assert code == 1
    assert "3 failed, 5 passed, 1 skipped, 1 warning, 1 error" in said
    for words in (
        "assert [1] == [2]",
        "said before",
        "ended by signal SIGABRT at test_ends.py::test_dies",
        "ended by exit status 0 at test_ends.py::test_leaves",
        "ValueError: in the end",
        "why not",
        "UserWarning: odd",
    ):
        assert words in said, words


def test_the_first_failure_may_end_all(tmp_path):
    code, said = run(tmp_path, "-x", ends=ENDS)
    assert code == 1
    assert "1 failed, 1 passed, 1 warning in" in said


def test_a_process_with_tests_on_ray_has_no_other_and_a_file_one_process(tmp_path):
    code, said = run(tmp_path, processes=PROCESSES, more=PROCESSES)
    assert code == 0 and "16 passed" in said
    seen = [(tmp_path / f"test_{name}.txt").read_text().split("\n")[:-1] for name in ("processes", "more")]
    ray = {line for lines in seen for line in lines if line.startswith("ray")}
    others = [{line for line in lines if not line.startswith("ray")} for lines in seen]
    assert len(ray) == 1 and [len(lines) for lines in others] == [1, 1]
    assert not {line.split()[1] for line in ray} & {line.split()[1] for lines in others for line in lines}
