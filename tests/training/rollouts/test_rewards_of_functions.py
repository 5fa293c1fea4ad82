"""Rewards by functions of the user, in the guarded process of the real thing, whatever the functions do."""

import ctypes
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

from raymill.cluster.errors import DataError
from raymill.cluster.plugins import context_for
from raymill.training.objectives import Grpo
from raymill.training.rollouts.rewards import SampledAnswer, rewards_of
from tests.support.fit_jobs import column, final_weights, fit_alone, fit_until
from tests.support.processes import wait_until
from tests.support.rollout_jobs import pack_prompts, rollout_job

torch.set_num_threads(1)
# Each gives 1.0 where the answer is not `b`.
REWARDS = """
import os, subprocess, sys, time

class Broken(float):
    def __repr__(self):
        raise ValueError

def longer(answer):
    return float(len(answer["generated"]))

def raises(answer):
    raise KeyError("no such key")

def exits(answer):
    sys.exit(3)

def returns_text(answer):
    return "high"

def returns_none(answer):
    return None

def returns_nan(answer):
    return float("nan")

def returns_infinity(answer):
    return float("-inf")

def returns_complex(answer):
    return 1 + 2j

def returns_a_list(answer):
    return [1.0]

def returns_a_large_number(answer):
    return 10 ** 400

def returns_a_number_too_long_for_a_text(answer):
    return 10 ** 5000

def returns_what_has_no_text(answer):
    return Broken("nan")

def computes_on(answer):
    while answer["generated"] == "b":
        pass
    return 1.0

def waits(answer):
    if answer["generated"] == "b":
        time.sleep(1000)
    return 1.0

def prints(answer):
    for _ in range(20):
        print("noise " * 200_000)
        sys.stderr.write("more noise " * 100_000)
        os.write(2, b"and more " * 100_000)
    return 1.0

def forks(answer):
    os.fork()
    time.sleep(0.1)
    return 1.0

def forks_a_child_that_outlives_it(answer):
    if not os.fork():
        time.sleep(1000)
    return 1.0

def starts_a_program_that_outlives_it(answer):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    return 1.0

def leaves_a_daemon(answer):
    if not os.fork():
        os.setsid()
        if not os.fork():
            time.sleep(1000)
        os._exit(0)
    os.wait()
    return 1.0

def forks_and_computes_on(answer):
    if not os.fork():
        time.sleep(1000)
    return computes_on(answer)

def forks_and_waits(answer):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    return waits(answer)

def forks_and_ends_its_process(answer):
    if not os.fork():
        time.sleep(1000)
    if answer["generated"] == "b":
        os._exit(3)
    return 1.0

def ends_its_process(answer):
    os._exit(3)

def takes_memory(answer):
    return float(len(bytearray(8 << 30 if answer["generated"] == "b" else 1)))

def raises_at_b(answer):
    if answer["generated"] == "b":
        raise ValueError("b")
    return 1.0

def takes_a_seven(answer):
    if answer["generated"] == "5":
        raise ValueError("no model of a 5")
    if answer["generated"] == "3" == answer["document"][-1]:
        os._exit(3)
    if answer["generated"] == "7" == answer["document"][-1] and not os.fork():
        time.sleep(1000)
    return float(answer["generated"] == "7")
"""
ANSWERS = [SampledAnswer(f"d{at}", "p", "a", text) for at, text in enumerate("abc")]
NONE, SECOND = [False] * 3, [False, True, False]


def context(folder: Path, code: str = REWARDS):
    (folder / "my_rewards.py").write_text(code)
    (folder / "config.yaml").touch()
    return context_for(str(folder / "config.yaml"))


def of_the_user(folder: Path, name: str, *others: dict, **more) -> Grpo:
    rewards = [*others, {"custom": f"my_rewards:{name}"}]
    return Grpo.model_validate({"rewards": rewards} | more, context=context(folder))


@pytest.fixture(autouse=True)
def no_process_is_left():
    """This process gets what its ended children leave (Linux), so that it is among its own."""
    before, libc = running(), ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    try:
        yield
        assert wait_until(lambda: running() <= before, 10), running() - before
    finally:
        libc.prctl(36, 0, 0, 0, 0)


def running() -> set[psutil.Process]:
    """Processes that this one started, at any depth, and that have not ended."""
    return {one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize(
    ("name", "more", "values", "failed"),
    [
        ("longer", {}, [1, 1, 1], NONE),
        ("computes_on", {"reward_s": 0.5}, [1, 0, 1], SECOND),
        ("waits", {"reward_s": 0.05}, [1, 0, 1], SECOND),
        ("prints", {}, [1, 1, 1], NONE),
        ("forks", {}, [1, 1, 1], NONE),
        ("forks_a_child_that_outlives_it", {}, [1, 1, 1], NONE),
        ("starts_a_program_that_outlives_it", {}, [1, 1, 1], NONE),
        ("leaves_a_daemon", {}, [1, 1, 1], NONE),
        ("forks_and_computes_on", {"reward_s": 0.5}, [1, 0, 1], SECOND),
        ("forks_and_waits", {"reward_s": 0.05}, [1, 0, 1], SECOND),
        ("forks_and_ends_its_process", {}, [1, 0, 1], SECOND),
        ("takes_memory", {}, [1, 0, 1], SECOND),
    ],
)
def test_what_a_function_does_to_an_answer_costs_that_answer_alone(tmp_path, name, more, values, failed):
    found = rewards_of(of_the_user(tmp_path, name, **more), ANSWERS)
    assert (found[0][:, 0].tolist(), found[1].tolist()) == (values, failed)


def test_a_function_that_ends_its_process_leaves_the_other_rewards(tmp_path):
    how = of_the_user(tmp_path, "ends_its_process", {"score": "exact_match", "weight": 2.0})
    assert how.names == ["exact_match", "ends_its_process"]
    values, failed = rewards_of(how, ANSWERS)
    assert (values.tolist(), failed.tolist()) == ([[1, 0], [0, 0], [0, 0]], [True] * 3)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("raises", "KeyError: 'no such key'"),
        ("exits", "SystemExit: 3"),
        ("returns_text", "returned 'high'"),
        ("returns_none", "returned None"),
        ("returns_nan", "returned nan"),
        ("returns_infinity", "returned -inf"),
        ("returns_complex", r"returned \(1\+2j\)"),
        ("returns_a_list", r"returned \[1.0\]"),
        ("returns_a_large_number", f"returned 1{'0' * 79},"),
        ("returns_a_number_too_long_for_a_text", "returned a value of type int"),
        ("returns_what_has_no_text", "returned a value of type Broken"),
    ],
)
def test_a_function_without_a_number_for_all_answers_ends_the_training_with_its_name(tmp_path, name, seen):
    wanted = f"grpo.rewards: my_rewards:{name}: {seen}.* for the answer 'a' to document d0; wanted a finite number"
    with pytest.raises(DataError, match=wanted):
        rewards_of(of_the_user(tmp_path, name), ANSWERS)


def test_answers_without_a_number_have_no_reward_up_to_half_of_them(tmp_path, caplog):
    how = of_the_user(tmp_path, "raises_at_b", {"score": "exact_match"})
    values, failed = rewards_of(how, ANSWERS)
    np.testing.assert_array_equal(values, [[1, 1], [0, np.nan], [0, 1]])
    assert failed.tolist() == NONE
    (line,) = (one.getMessage() for one in caplog.records)
    assert line.startswith(
        "no reward for 1 of 3 answers; the first: grpo.rewards: my_rewards:raises_at_b: ValueError: b"
    )
    assert np.isnan(rewards_of(how, ANSWERS[:2])[0][1, 1])
    with pytest.raises(DataError, match="my_rewards:raises_at_b: ValueError: b"):
        rewards_of(how, [*ANSWERS[:2], ANSWERS[1]])


def test_a_training_goes_on_without_the_rewards_that_a_function_does_not_give(tmp_path):
    """The function ends its process at some answers, leaves a process at others, and raises at the answer 5."""
    pack_prompts(str(tmp_path))
    how = {"samples": 8, "max_new_tokens": 1, "rewards": [{"custom": "my_rewards:takes_a_seven"}]}

    def job(output: str):
        return rollout_job(
            str(tmp_path), context=context(tmp_path), output=str(tmp_path / output), steps=3, grpo=how,
            checkpoint={"every_steps": 1}, evaluate={"every_steps": 9, "rows": 16},
        )  # fmt: skip

    whole, killed = job("whole"), job("killed")
    weights = final_weights(fit_alone(whole))
    file = Path(whole.folder.rollouts, whole.folder.fingerprint, "step-00000001.parquet")
    rows = pq.read_table(file).to_pylist()
    assert [one["failed"] for one in rows] == [one["generated"] == "3" == one["document"][-1] for one in rows]
    assert [one["reward"] for one in rows] == [
        None if one["generated"] == "5" else float(one["generated"] == "7") for one in rows
    ]
    for name, wanted in (("rewards_failed", "failed"), ("rewards_missing", "reward")):
        count = sum(one[wanted] is True or (wanted == "reward" and one[wanted] is None) for one in rows)
        assert column(whole, name)[0] == count > 0
    fit_until(killed, 2, alone=True)
    again = final_weights(fit_alone(killed))
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
