"""The time of a run file's steps that are made at the same time, by hand and in `raymill plan`."""

import json
from functools import partial
from pathlib import Path

import pytest

from raymill.cluster.chain import plan as chain_plan
from raymill.cluster.chain.at_once import chosen, fit
from raymill.cluster.chain.planned_time import PlannedStep, seconds_together
from tests.support.words_commands import BRANCHES, words_commands
from tests.support.words_kind import WordsJob


@pytest.fixture
def raymill(tmp_path, monkeypatch, capsys):
    with words_commands(tmp_path, monkeypatch, capsys, BRANCHES) as call:
        yield call


def units(seconds: float, core_s: float) -> PlannedStep:
    return PlannedStep(seconds, core_s, {"CPU": 1})


def training(seconds: float, workers: int, gpus: int = 0) -> PlannedStep:
    return PlannedStep(seconds, None, {"CPU": workers, "GPU": gpus})


@pytest.mark.parametrize(
    ("steps", "cores", "gpus", "most", "seconds"),
    [
        # One unit each, so each uses one core of two.
        ([units(50, 50), units(30, 30)], 2, 0, None, 50),
        ([units(50, 50), units(30, 30)], 2, 0, 1, 80),
        # Each would fill both cores: together they take as long as one after the other.
        ([units(50, 100), units(50, 100)], 2, 0, None, 100),
        # At 2/3 of their speed until 45 s; 20 s of the first are left, alone.
        ([units(50, 100), units(30, 30)], 2, 0, None, 65),
        # The third waits for a core to reserve: 30 s, then beside the first.
        ([units(50, 50), units(30, 30), units(10, 10)], 2, 0, None, 50),
        # A training leaves one core of two to the units, which take twice as long beside it, until 40 s.
        ([training(40, 1), units(50, 100)], 2, 0, None, 70),
        # Workers on all cores: what reserves a core waits, unless the setting has it begin.
        ([training(40, 2), units(50, 50)], 2, 0, None, 90),
        ([training(40, 2), units(50, 50)], 2, 0, 2, 50),
        # Four trainings on a GPU each, on two GPUs: 10 and 40 s, then 20 and 30 s as a GPU is free.
        ([training(10, 1, 1), training(40, 1, 1), training(20, 1, 1), training(30, 1, 1)], 16, 2, None, 60),
        ([training(10, 1, 1), training(40, 1, 1), training(20, 1, 1), training(30, 1, 1)], 16, 1, None, 100),
        ([units(0, 0), units(7, 7)], 2, 0, None, 7),
        ([], 2, 0, None, 0),
    ],
)  # fmt: skip
def test_hand_cases(steps, cores, gpus, most, seconds):
    named = {str(number): step for number, step in enumerate(steps)}

    def fits(names):
        return fit([named[name].reserved for name in names], {"CPU": cores, "GPU": gpus})

    assert seconds_together(named, cores, partial(chosen, most=most, fits=fits)) == pytest.approx(seconds)


def on_cores(raymill, *words: str) -> dict:
    (found,) = json.loads(raymill("plan", "w.yaml", "--json", "--cores", "64", *words)[1])["on_cores"]
    return found


def test_the_plan_is_of_steps_at_the_same_time(raymill):
    """`left` and `right` have one unit of a few words each, so on 64 cores they take as long as the longer one."""
    plan = json.loads(raymill("plan", "w.yaml", "--json", "--cores", "64")[1])
    each = [plan["steps"][name]["on_cores"][0] for name in ("left", "right")]
    (found,) = plan["on_cores"]
    assert found["seconds"] == max(one["seconds"] for one in each)
    assert found["money"] == sum(one["money"] for one in each)
    out = raymill("plan", "w.yaml")[1]
    rule = "as many as fit the cores, the memory and the GPUs of the largest step at the same time"
    assert f"the steps that are known, {rule}" in out
    one_by_one = on_cores(raymill, "-o", "execution.steps_at_once=1")
    assert one_by_one["seconds"] == pytest.approx(2 * found["seconds"], rel=0.2)
    assert "one after the other" in raymill("plan", "w.yaml", "-o", "execution.steps_at_once=1")[1]


@pytest.mark.parametrize(("memory", "together"), [(0.4, True), (0.6, False)])
def test_the_memory_of_this_machine_is_a_limit_on_its_cores(raymill, monkeypatch, memory, together):
    """memory: of a step, as a fraction of this machine's, taken to have 64 cores of 10 bytes."""
    monkeypatch.setattr(chain_plan.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(chain_plan.os, "sysconf", {"SC_PAGE_SIZE": 10, "SC_PHYS_PAGES": 64}.get)
    own = {"CPU": 1, "memory": memory * 640}
    monkeypatch.setattr(WordsJob, "reserved", lambda self, *, memory: own if memory else {"CPU": 1})
    beside = on_cores(raymill)["seconds"]
    assert (beside < 20) == together, "15 s of each are the start"
    monkeypatch.setattr(chain_plan.os, "cpu_count", lambda: 2)
    assert on_cores(raymill)["seconds"] < 20, "64 cores are another machine, of unknown memory"


def test_a_plan_without_time_or_with_bounds_of_money(raymill, monkeypatch):
    """The plan of `right` is like a generation's: no time, and money as an expected value with bounds."""
    plan_settings = chain_plan.plan_settings

    def plan(config, **options):
        if Path(config.output).name == "left":
            return plan_settings(config, **options)
        return {"name": "right", "cost": {"expected": 3.0, "low": 2.0, "high": 4.0}}

    monkeypatch.setattr(chain_plan, "plan_settings", plan)
    found = on_cores(raymill)
    assert found["seconds"] is None and 3 < found["money"] < 3.1
    assert "time not known: 1 plan without one (right)" in raymill("plan", "w.yaml")[1]
