"""The learning-rate schedule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.training.config_parts import Optimizer
from raymill.training.fit.loop import learning_rate


def rates(steps: int, **wanted) -> list[float]:
    optimizer = Optimizer(learning_rate=1.0, **wanted)
    return [learning_rate(optimizer, step, steps) for step in range(steps)]


def test_warm_up_rises_in_equal_parts_and_its_last_step_has_the_full_rate():
    assert rates(8, warmup_steps=4, schedule="constant") == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("linear", [1.0, 0.84, 0.68, 0.52, 0.36]),
        ("cosine", [1.0, 0.9236068, 0.7236068, 0.4763932, 0.2763932]),
        ("wsd", [1.0, 1.0, 1.0, 0.7333333, 0.4666667]),
        ("constant", [1.0] * 5),
    ],
)
def test_a_schedule_begins_with_the_full_rate_and_goes_towards_the_final_fraction(schedule, wanted):
    assert rates(5, schedule=schedule, final_fraction=0.2, decay_steps=2) == pytest.approx(wanted)


def transformers_rates(schedule: str, warmup: int = 5, **specific) -> list[float]:
    from transformers import get_scheduler

    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = get_scheduler(
        schedule, theirs, num_warmup_steps=warmup, num_training_steps=30, scheduler_specific_kwargs=specific
    )
    found = []
    for _ in range(30):
        found.append(scheduler.get_last_lr()[0])
        theirs.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_warm_up_is_one_step_ahead_of_transformers_and_the_rates_after_it_are_equal(schedule):
    wanted, ours = transformers_rates(schedule), rates(30, schedule=schedule, warmup_steps=5)
    assert ours[5:] == pytest.approx(wanted[5:])
    assert wanted[:5] == pytest.approx([n / 5 for n in range(5)])
    assert ours[:5] == pytest.approx([(n + 1) / 5 for n in range(5)])


def test_wsd_decays_in_one_part_more_than_transformers_linear_decay():
    wanted = transformers_rates("warmup_stable_decay", num_decay_steps=6, decay_type="linear")
    ours = rates(30, schedule="wsd", warmup_steps=5, decay_steps=6)
    assert ours[5:24] == pytest.approx([1] * 19) and wanted[5:24] == pytest.approx([1] * 19)
    assert wanted[24:] == pytest.approx([1 - (k - 1) / 6 for k in range(1, 7)])
    assert ours[24:] == pytest.approx([1 - k / 7 for k in range(1, 7)])


def test_wsd_decays_over_a_tenth_by_default():
    assert [step for step, rate in enumerate(rates(40, schedule="wsd")) if rate < 1] == [36, 37, 38, 39]


@pytest.mark.parametrize("restarts", [1, 2, 4])
@pytest.mark.parametrize("warmup", [5, 6])
def test_restarts_are_those_of_transformers(restarts, warmup):
    wanted = transformers_rates("cosine_with_restarts", warmup, num_cycles=restarts + 1)
    ours = rates(30, schedule="cosine", warmup_steps=warmup, restarts=restarts)
    assert ours[warmup:] == pytest.approx(wanted[warmup:], abs=1e-12)
    if (30 - warmup) % (restarts + 1) == 0:  # every wave begins at a step
        assert [step for step in range(warmup, 30) if ours[step] == 1.0] == [
            warmup + wave * (30 - warmup) // (restarts + 1) for wave in range(restarts + 1)
        ]


def test_each_wave_of_restarts_falls_towards_the_final_fraction():
    # Waves of three steps: after 0, 1/3 and 2/3 of one, (1 + cos(pi x)) / 2 is 1, 3/4 and 1/4 of the way down to 0.2.
    found = rates(8, schedule="cosine", warmup_steps=2, restarts=1, final_fraction=0.2)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.4, 1.0, 0.8, 0.4], abs=1e-12)


def test_a_wave_that_begins_between_two_steps_has_the_rate_of_its_place():
    # Five steps, two waves of 2.5: the second begins half a step before step 3, which is a fifth into it.
    found = rates(5, schedule="cosine", restarts=1)
    places = [0, 0.4, 0.8, 0.2, 0.6]
    assert found == pytest.approx([(1 + math.cos(math.pi * x)) / 2 for x in places], abs=1e-12)


@pytest.mark.parametrize(
    ("fraction", "steps", "warmup"), [(0.1, 30, 3), (0.1, 70, 7), (0.1, 31, 4), (0.03, 100, 3), (0.5, 3, 2)]
)
def test_a_fraction_of_warm_up_is_rounded_up_to_whole_steps(fraction, steps, warmup):
    found = rates(steps, warmup_fraction=fraction, schedule="constant")
    assert found[:warmup] == pytest.approx([(n + 1) / warmup for n in range(warmup)], abs=1e-12)
    assert found[warmup:] == [1.0] * (steps - warmup)


def test_a_fraction_of_warm_up_is_rounded_as_transformers_does():
    from transformers import TrainingArguments

    theirs = TrainingArguments(warmup_steps=0.1, output_dir="unused", report_to=[]).get_warmup_steps(25)
    assert Optimizer(warmup_fraction=0.1).warmup(25) == theirs == 3


@given(
    st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    st.integers(1, 60),
    st.integers(0, 20),
    st.integers(1, 80),
    st.floats(0, 1),
)
@settings(max_examples=100)
def test_a_rate_lies_between_the_final_and_the_full_one_and_never_rises_after_warm_up(
    schedule, after, warmup, decay, final
):
    found = rates(warmup + after, schedule=schedule, warmup_steps=warmup, decay_steps=decay, final_fraction=final)
    assert all(0 < rate <= 1 for rate in found[:warmup])
    assert all(final - 1e-9 <= rate <= 1 for rate in found[warmup:])
    assert min(found) > 0, "no step is for nothing"
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
