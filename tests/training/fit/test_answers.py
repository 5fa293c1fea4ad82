"""Trainings on answers that were compared or judged, against a plain loop, and alike however they are computed."""

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from raymill.training.models.answers import OfAnswers
from raymill.training.models.objective import Measures
from tests.support.answer_jobs import LENGTH, STEPS, answer_job, pack_answers, plain_losses
from tests.support.fit_jobs import column, fit_alone, fit_here, lines
from tests.support.ranks import RankPool
from tests.support.sampled import sampled

torch.set_num_threads(1)
OBJECTIVES = ("dpo", "ipo", "simpo", "orpo", "kto")
LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 4}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("packed"))
    for objective in (*OBJECTIVES, "reward"):
        pack_answers(root, objective)
    return root


@pytest.fixture(scope="module")
def two():
    with RankPool(2) as ranks:
        yield ranks


@pytest.mark.parametrize("more", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_losses_are_those_of_a_plain_loop(packed, tmp_path, objective, more):
    job = answer_job(packed, objective, output=str(tmp_path / "run"), **more)
    fit_alone(job)
    assert column(job, "loss") == pytest.approx(plain_losses(job), rel=1e-6, abs=2e-6)


@pytest.mark.parametrize("objective", ["dpo", "ipo", "simpo"])
def test_the_cross_entropy_of_chosen_answers_is_a_mean_over_the_tokens_of_the_step(packed, tmp_path, two, objective):
    job = answer_job(packed, objective, output=str(tmp_path / "run"), **{objective: {"sft": 0.7}})
    two.run(fit_here, job)
    assert column(job, "loss") == pytest.approx(plain_losses(job), rel=1e-6, abs=2e-6)


def test_equal_models_begin_with_the_loss_ln_2(packed, tmp_path):
    for name, more in {"full": {}, "lora": LORA}.items():
        job = answer_job(packed, "dpo", output=str(tmp_path / name), **more)
        fit_alone(job)
        first, second, *_ = [line for line in lines(job) if "loss" in line]
        assert first["loss"] == pytest.approx(math.log(2), abs=6e-8)  # the last digit of float32
        assert first["reward_chosen"] == first["reward_rejected"] == 0
        assert first["reward_accuracy"] == 0.5
        assert second["reward_accuracy"] != 0.5


def test_what_is_measured_of_pairs(packed, tmp_path):
    job = answer_job(packed, "dpo", output=str(tmp_path / "run"), steps=30, optimizer={"learning_rate": 3e-3})
    fit_alone(job)
    *_, last = [line for line in lines(job) if "loss" in line]
    assert last["reward_margin"] == pytest.approx(last["reward_chosen"] - last["reward_rejected"])
    assert last["reward_accuracy"] > 0.9 and last["reward_margin"] > 0 and last["logp_chosen"] < 0
    validated = last["validation"]
    assert validated["reward_accuracy"] == validated["accuracy"] > 0.9
    assert validated["label_tokens"] == 12  # pairs


@pytest.mark.parametrize("objective", ["dpo", "reward", "kto"])
def test_held_out_pairs_are_measured_by_confidence_and_by_length(packed, tmp_path, objective):
    job = answer_job(packed, objective, output=str(tmp_path / "run"), steps=4)
    fit_alone(job)
    (found,) = json.loads(Path(job.folder.held_out, "after.json").read_text())["measured"].values()
    if objective == "kto":
        assert not {"calibration", "by_length"} & found.keys()
        return
    for table in (found["calibration"], found["by_length"].values()):
        assert sum(row[0] for row in table) == found["label_tokens"]
        assert sum(row[0] * row[-1] for row in table) / found["label_tokens"] == pytest.approx(found["accuracy"])
    confidences = [confidence for _, confidence, _ in found["calibration"]]
    assert confidences == sorted(confidences) and 0.5 <= confidences[0] <= confidences[-1] <= 1


def test_the_tables_of_pairs_by_hand():
    """Gains of three pairs: 2, right, of equal lengths; 0, half right; -1, wrong; chosen longer, then shorter."""
    objective = OfAnswers.__new__(OfAnswers)
    torch.nn.Module.__init__(objective)
    objective.per_loss, objective.training, objective.measures = 2, False, Measures(43)
    rewards = torch.tensor([3.0, 1.0, 0.5, 0.5, -2.0, -1.0], dtype=torch.float64)
    tokens = torch.tensor([4, 4, 5, 2, 1, 2])
    is_chosen = torch.tensor([True, False] * 3)
    right = objective._measure(
        torch.stack([rewards, -rewards]), is_chosen, torch.tensor([2.0, 0.0, -1.0]).double(), tokens
    )
    assert right == 1.5
    sums = objective.measures.take()
    expected = {
        "calibration": [(1, 0.5, 0.5), (1, 0.731059, 0), (1, 0.880797, 1)],
        "by_length": {"shorter": [1, 0], "equal": [1, 1], "longer": [1, 0.5]},
    }
    tables = objective.tables(sums)
    assert tables["by_length"] == expected["by_length"]
    assert [tuple(one) for one in tables["calibration"]] == [
        pytest.approx(one, abs=1e-6) for one in expected["calibration"]
    ]
    assert objective.means(sums, 3)["reward_chosen"] == pytest.approx(0.5)


WAYS = {
    "two workers": ("ddp", 2, {}),
    "one row at once": ("ddp", 1, {"micro_batch": 1}),
    "a row for each pair": ("ddp", 1, {"micro_batch": 4}),
    "zero3": ("zero3", 2, {}),
    "fsdp2": ("fsdp2", 2, {}),
    "zero1 and recomputing": ("zero1", 2, {"activation_checkpointing": True}),
}


@pytest.mark.parametrize(("objective", "way"), sampled(product([*OBJECTIVES, "reward"], WAYS), 12))
def test_losses_do_not_depend_on_how_they_are_computed(packed, tmp_path, two, objective, way):
    engine, workers, more = WAYS[way]
    plain = answer_job(packed, objective, output=str(tmp_path / "plain"))
    fit_alone(plain)
    job = answer_job(packed, objective, output=str(tmp_path / "run"), engine=engine, **more)
    if workers == 2:
        two.run(fit_here, job)
    else:
        fit_alone(job)
    assert column(job, "loss") == pytest.approx(column(plain, "loss"), rel=1e-6, abs=1e-6)
    for name in ("reward_chosen", "reward_rejected", "reward_accuracy"):
        assert column(job, name) == pytest.approx(column(plain, name), abs=1e-5)
    assert [one["loss"] for one in column(job, "validation")] == pytest.approx(
        [one["loss"] for one in column(plain, "validation")], rel=1e-6, abs=1e-6
    )
    assert len(column(job, "loss")) == STEPS


def test_a_reward_model_learns_which_answer_is_better(tmp_path):
    pack_answers(str(tmp_path), "reward", 600, 100)
    more = {"steps": 100, "optimizer": {"learning_rate": 1e-3}, "evaluate": {"every_steps": 50}}
    job = answer_job(str(tmp_path), "reward", output=str(tmp_path / "run"), tokens_per_step=16 * LENGTH, **more)
    fit_alone(job)
    *_, last = [line for line in lines(job) if "loss" in line]
    assert last["validation"]["accuracy"] > 0.9
    assert np.mean(column(job, "loss")[:3]) > 3 * np.mean(column(job, "loss")[-3:])
