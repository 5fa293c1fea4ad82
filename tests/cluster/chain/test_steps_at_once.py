"""Independent steps of a run file are made at the same time, each in a thread, with the result of one after the other.

Without Ray, with steps that count words.
"""

import json
import math
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raymill.cluster.chain.at_once import StepsAtOnce
from raymill.cluster.errors import DataError
from raymill.cluster.nodes import Node
from raymill.cluster.session import Session, SharedSession
from tests.support import inline
from tests.support.words_commands import BRANCHES, words_commands
from tests.support.words_kind import WordsJob


@pytest.fixture
def raymill(tmp_path, monkeypatch, capsys):
    with words_commands(tmp_path, monkeypatch, capsys, BRANCHES) as call:
        yield call


def entries(root="out") -> dict[str, dict]:
    return {one["step"]: one for one in json.loads(Path(root, "report.json").read_text())["steps"]}


def digests(root="out") -> dict[str, str]:
    return json.loads(Path(root, "manifest.json").read_text())["artifacts"]


@pytest.fixture
def before_make(monkeypatch):
    """Have `call(step, making)` called before each step is made."""

    def install(call) -> None:
        make = WordsJob.make

        def make_after(self, making):
            call(Path(self.root).name, making)
            return make(self, making)

        monkeypatch.setattr(WordsJob, "make", make_after)

    return install


def test_independent_steps_are_made_at_the_same_time_with_the_digests_of_one_after_the_other(raymill, before_make):
    assert raymill("run", "w.yaml", "-o", "output=one", "-o", "execution.steps_at_once=1")[0] == 0
    meeting = threading.Barrier(2, timeout=60)  # an error, unless both are there at once
    before_make(lambda step, making: meeting.wait() if step != "last" else None)
    code, _, err = raymill("run", "w.yaml")
    assert code == 0 and digests() == digests("one")
    assert "left: count: 0/1 unit\n" in err and "right: count: 0/1 unit\n" in err
    assert err.endswith("step last (words)\ncount: 0/2 units\n"), "lines of a step that is made alone have no name"
    assert raymill("run", "w.yaml")[1].startswith(f"{Path('out').absolute()}: finished before")


@pytest.mark.parametrize(
    ("reserved", "cpus", "setting", "most"),
    [({"CPU": 2}, 2, "null", 1), ({"CPU": 2}, 4, "null", 2), ({"CPU": 1, "GPU": 1}, 8, "null", 1),
     ({"CPU": 2}, 2, "2", 2), ({"CPU": 1}, 8, "1", 1)],
)  # fmt: skip
def test_steps_whose_resources_do_not_fit_together_wait(
    raymill, before_make, monkeypatch, reserved, cpus, setting, most
):
    """Two steps that reserve this, on a machine with these CPUs and one GPU."""
    running, seen, lock, met = set(), [], threading.Lock(), threading.Barrier(most)

    def count(step, making):
        if step == "last":
            return
        with lock:
            running.add(step)
            seen.append(len(running))
        met.wait(60)
        with lock:
            running.discard(step)

    def without_ray(patch, engine=None):
        given(patch, engine)
        patch.setattr(Session, "nodes", lambda self: [Node("a", {"CPU": float(cpus), "GPU": 1.0})])

    given = inline.without_ray
    monkeypatch.setattr(inline, "without_ray", without_ray)
    monkeypatch.setattr(WordsJob, "reserved", lambda self, *, memory: reserved)
    before_make(count)
    assert raymill("run", "w.yaml", "-o", f"execution.steps_at_once={setting}")[0] == 0
    assert max(seen) == most


def test_when_a_step_fails_the_others_go_on_and_the_same_command_makes_the_rest(raymill, before_make):
    broken = True

    def fail(step, making):
        if step == "left" and broken:
            raise DataError("the disk has a scratch.")

    before_make(fail)
    Path("w.yaml").write_text(
        BRANCHES + '  more: {kind: words, inputs: [{path: "${right.output}/words", text: word}]}\n'
    )
    code, _, err = raymill("run", "w.yaml")
    assert code == 2 and err.splitlines()[-1] == "step left: the disk has a scratch."
    states = {name: (one["state"], one["reason"]) for name, one in entries().items()}
    assert states == {
        "left": ("failed", "step left: the disk has a scratch."),
        "right": ("finished", ""),
        "more": ("finished", ""),
        "last": ("open", "waits for left"),
    }
    assert not Path("out/manifest.json").exists() and "the disk has a scratch" in Path("out/report.html").read_text()
    before = {name: one["digest"] for name, one in entries().items()}
    broken = False
    code, _, err = raymill("run", "w.yaml")
    assert code == 0 and "step right" not in err and "step more" not in err
    after = digests()
    assert [after[name] for name in ("right", "more")] == [before[name] for name in ("right", "more")]


def test_of_two_steps_that_fail_the_error_has_both(raymill, before_make):
    def fail(step, making):
        raise DataError(f"{step} is broken.")

    before_make(fail)
    code, _, err = raymill("run", "w.yaml")
    assert code == 2
    assert err.splitlines()[-2:] == ["step left: left is broken.", "step right: right is broken."]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (RuntimeError("a defect"), 1)])
def test_an_interrupt_ends_all_steps_and_the_same_command_continues(raymill, before_make, monkeypatch, error, code):
    """The interrupt arrives in the main thread, which waits for the first step that ends."""
    both, first, next_end = threading.Barrier(3, timeout=60), True, StepsAtOnce.next_end

    def work_until_interrupted(step, making):
        if first:
            both.wait()
            while True:
                making.session.raise_if_interrupted()
                time.sleep(0.01)

    def interrupted(self):
        if first:
            both.wait()
            raise error
        return next_end(self)

    before_make(work_until_interrupted)
    monkeypatch.setattr(StepsAtOnce, "next_end", interrupted)
    found, _, err = raymill("run", "w.yaml")
    assert found == code and "ending 2 steps: left, right" in err
    assert [one["state"] for one in entries().values()] == ["started", "started", "open"]
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("step ")] == []
    first = False
    assert raymill("run", "w.yaml")[0] == 0 and len(digests()) == 3


def test_the_time_of_a_step_is_the_sum_of_all_calls_that_made_it(raymill, before_make):
    """Interrupted after 100 s, then killed 40 s after its begin, by the last refresh of its lease, then finished."""
    stop = True

    def interrupt(step, making):
        if stop and step == "last":
            raise KeyboardInterrupt

    before_make(interrupt)
    assert raymill("run", "w.yaml")[0] == 130
    whole = json.loads(Path("out/report.json").read_text())
    (last,) = [one for one in whole["steps"] if one["step"] == "last"]
    assert last["state"] == "started" and last["began"] is None and last["seconds"] >= 0
    last |= {"seconds": 100, "began": 1000.0}
    Path("out/report.json").write_text(json.dumps(whole))
    (lease,) = Path("out/last/_lease").iterdir()
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"refreshed": 1040.0}))
    assert raymill("run", "w.yaml")[0] == 130
    assert 140 <= entries()["last"]["seconds"] < 1000
    stop = False
    assert raymill("run", "w.yaml")[0] == 0
    (held,) = Path("out/last/_lease").iterdir()
    record = json.loads(held.read_text())
    assert record["released"] and record["refreshed"] >= datetime.fromisoformat(record["since"]).timestamp()
    assert datetime.fromtimestamp(record["refreshed"], UTC) <= datetime.now(UTC)
    assert 140 <= entries()["last"]["seconds"] < 1000 and entries()["last"]["state"] == "finished"


def test_units_leave_the_cpus_of_the_workers_of_a_training_beside_them():
    """On four CPUs: 32 units wait without a training; beside one with three workers one unit of a CPU runs at once."""
    for workers, cpus, most in ((0, 1, 32), (3, 1, 1), (1, 1, 3), (1, 2, 1), (4, 1, 1)):
        beside = SharedSession(Session("local", cpus=4), threading.Event(), others=lambda workers=workers: workers)
        assert beside.room_for_units(cpus) == most
    assert SharedSession(Session("HOST:1"), threading.Event(), others=lambda: 3).room_for_units(1) == math.inf
