"""A seed of the fault matrix, and that the matrix finds what is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="the matrix looks at processes in /proc")


def python(*words: str) -> str:
    """What a process of its own prints; the matrix forks, which a process with threads must not."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_fault_of_a_seed_changes_curate_or_two_other_works():
    printed = python("-m", "tests.end_to_end.fault_matrix", "9")
    assert int(re.search(r"^faults (\d+)$", printed, re.MULTILINE)[1]) >= 9
    assert printed.endswith("violations 0\n"), printed


_BROKEN = """
import sys
from pathlib import Path
from raymill.cluster.failpoints import failpoint
from raymill.cluster.store.store import Store
from tests.end_to_end.fault_matrix import Matrix
from tests.support import fault_kinds
from tests.support.fault_case import Case
from tests.support.fault_works import Work
from tests.support.forked import adopt_orphans

def run(output, engine, session, more):
    # A program that appends what it did before; and one that ends with an error that does not help.
    Path(output).mkdir(exist_ok=True)
    with open(f"{output}/report.json", "a") as lines:
        lines.write("made\\n")
    Store().create(f"{output}/report.html", b"")
    if more:
        raise ValueError("no")

def content(output, store):
    return {"lines": Path(f"{output}/report.json").read_text()}

def again(output, engine, session, more):
    # A program that does units again that it had committed.
    for unit in range(2):
        failpoint("unit_started", f"numbers/{unit}")
        Store().create(f"{output}/_commits/numbers/{unit:06}.json", b"{}")

adopt_orphans()
case = Case(Work("work", again, lambda output, store: {}), {}, Path(sys.argv[1], "again"), "again")
case.plan(("unit_started:numbers/1", 1, "kill"))
case.finish()
case.output = "s3://not-judged"  # by `raymill gc`, which does not know these files
case.judge()
print("again", len(case.fault_times), case.violations)
for name, more, plan in (("right", {}, ()), ("twice", {}, [("any", 1, "kill")]), ("error", {"error": 1}, ())):
    case = Case(Work("work", run, content), {"lines": "made\\n"}, Path(sys.argv[1], name), name, more=more)
    case.plan(*plan)
    case.finish()
    case.judge()
    print(name, len(case.fault_times), case.violations)

def no_cluster(case, chance, passes):
    raise TimeoutError("Ray did not start")

Matrix.undisturbed = lambda matrix, work: ({}, [])
fault_kinds.points = lambda count: no_cluster
for result in Matrix(Path(sys.argv[1], "matrix"), "", small=True).seed(1):
    print(result.name.split(",")[0], result.violations, result.error.splitlines()[-1])
"""


@pytest.mark.slow
def test_another_result_an_error_without_help_and_work_done_again_are_violations(tmp_path):
    (tmp_path / "matrix").mkdir()
    again, right, twice, error, *not_judged = python("-c", _BROKEN, str(tmp_path)).splitlines()
    assert again == """again 1 ["units that were committed before pass 4 were started: ['numbers/0']"]"""
    assert right == "right 0 []"
    assert twice.startswith("twice 1 [") and "another result: ['lines']" in twice
    assert "exit code 70 without a word on how to continue: ValueError: no" in error and "does not succeed" in error
    # Nor does a run that cannot be judged pass for one without violations, or end its lane.
    assert not_judged == [f"{name} [] TimeoutError: Ray did not start" for name in ("curate", "pack", "train")]
