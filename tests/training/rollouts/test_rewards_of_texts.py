"""Trainings by rewards of length, language and a judge; the divergence from the base without a penalty."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raymill.cluster.errors import DataError
from raymill.training.models.build import build_objective
from raymill.training.objectives import Grpo
from raymill.training.rollouts.rewards import SampledAnswer, rewards_of
from raymill.training.rollouts.steps import rows_of
from tests.support.fit_jobs import column, fit_alone, fit_here, fit_until
from tests.support.points_server import PointsServer, judge
from tests.support.ranks import RankPool
from tests.support.rollout_jobs import WORDS, pack_prompts, rollout_job

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("packed"))
    pack_prompts(root)
    return root


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
    with OfDigits() as server:
        yield server


class OfDigits(PointsServer):
    """A judge that gives a 7 two points, and says nothing readable of a 3."""

    def said(self, schema, text, draw) -> str:
        answer = text.rpartition("Answer:\n")[2].strip()
        return "what?" if answer == "3" else json.dumps({"reason": "", "score": 2 * (answer == "7")})


def rollouts_of(job, step: int) -> list[dict]:
    return pq.read_table(Path(job.folder.rollouts, job.folder.fingerprint, f"step-{step:08d}.parquet")).to_pylist()


def test_length_is_in_tokens_or_characters():
    made = [SampledAnswer("d", "p", "", "abcdef", [1], ids) for ids in ([5, 6], [5, 6, 7], [5, 6, 7, 8])]
    how = Grpo(rewards=[{"length": {"max": 3, "soft": 2}}, {"length": {"max": 5, "unit": "characters"}}])
    assert rewards_of(how, made)[0].tolist() == [[-0.5, -1], [-1, -1], [-1, -1]]
    assert how.names == ["length", "length-2"]


def test_a_judge_trains_and_answers_that_it_does_not_score_are_in_no_mean(packed, server, tmp_path):
    how = {"samples": 8, "max_new_tokens": 1, "rewards": [{"judge": judge(server)}, {"score": "exact_match"}]}
    job = rollout_job(packed, output=str(tmp_path / "run"), steps=60, grpo=how)
    fit_alone(job)
    missing = 0
    for one in rollouts_of(job, 1):
        points, right = one["rewards"]
        if one["generated"] == "3":
            assert points is None and one["reward"] is None and one["advantage"] == 0
            missing += 1
        else:
            assert points == float(one["generated"] == "7") and one["reward"] == points + right
    assert missing == column(job, "rewards_missing")[0] > 0
    assert np.mean([one["judge"] for one in column(job, "rewards")[-5:]]) > 0.5
    scored = [one for one in rollouts_of(job, 1) if one["reward"] is not None]
    rows = rows_of(rollouts_of(job, 1), job.config.grpo, 8).to_pylist()
    weights = np.concatenate([np.array(row["weights"])[row["labels"]] for row in rows])
    trained = [one["advantage"] for one in scored if one["advantage"]]
    assert sorted(weights / len(weights)) == pytest.approx(sorted(np.array(trained) / len(scored)), rel=1e-5)
    assert job.judge(0, job.config.grpo.rewards[0].judge).close()["tries"] == server.stats()["requests"] > 10


def test_a_killed_training_reads_rollouts_without_rewards_again(packed, server, tmp_path):
    how = {"samples": 8, "max_new_tokens": 1, "rewards": [{"judge": judge(server)}]}
    whole = rollout_job(packed, output=str(tmp_path / "whole"), grpo=how)
    fit_alone(whole)
    job = rollout_job(packed, output=str(tmp_path / "run"), grpo=how)
    fit_until(job, 3, alone=True)
    fit_alone(job)
    assert column(job, "loss") == column(whole, "loss") and column(job, "rewards_missing") == column(
        whole, "rewards_missing"
    )


def test_a_judge_of_two_workers_gives_the_same_rewards(packed, server, tmp_path):
    how = {"samples": 8, "max_new_tokens": 1, "rewards": [{"judge": judge(server)}]}
    alone, both = (rollout_job(packed, output=str(tmp_path / name), steps=2, grpo=how) for name in ("alone", "both"))
    fit_alone(alone)
    with RankPool(2) as two:
        two.run(fit_here, both)
    assert column(both, "reward_mean") == column(alone, "reward_mean")
    assert column(both, "loss") == pytest.approx(column(alone, "loss"), abs=1e-6)


def test_the_budget_of_a_judge_ends_the_training(packed, server, tmp_path):
    how = {"samples": 8, "max_new_tokens": 1, "rewards": [{"judge": judge(server, budget=0.004)}]}
    job = rollout_job(packed, output=str(tmp_path / "run"), grpo=how)
    with pytest.raises(DataError, match=r"grpo.rewards.0.judge: .*budget"):
        fit_alone(job)


LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}}


def test_without_a_penalty_the_first_answers_have_the_divergence_when_they_were_sampled(packed, tmp_path):
    how = {"samples": 8, "max_new_tokens": 1, "rewards": [{"score": "exact_match"}]}
    rate = {"learning_rate": 2e-2, "schedule": "constant"}
    job = rollout_job(
        packed, output=str(tmp_path / "run"), steps=4, grpo=how, optimizer=rate,
        checkpoint={"every_steps": 1, "keep": 9}, **LORA,
    )  # fmt: skip
    fit_alone(job)
    kl = column(job, "kl")
    assert len(kl) == 4 and abs(kl[0]) < 1e-9 and kl[3] > 1e-4
    by_hand = []
    for one in rollouts_of(job, 4):
        assert (one["base_logp"] is not None) == (one["sample"] == 0) == (one["sampled_logp"] is not None)
        if one["sample"] == 0:
            gap = np.array(one["base_logp"]) - np.array(one["sampled_logp"])
            by_hand += (np.exp(gap) - gap - 1).tolist()
            base = build_objective(job.config).model
            with torch.no_grad(), base.disable_adapter():
                logits = base(torch.tensor([one["prompt"]])).logits[0, -1].log_softmax(-1)
            assert one["base_logp"] == pytest.approx([logits[one["ids"][0]].item()], abs=1e-5)
    assert len(by_hand) == 16 and kl[3] == pytest.approx(np.mean(by_hand), rel=1e-6)


def test_a_full_training_has_no_base_to_compare_with(packed, tmp_path):
    job = rollout_job(packed, output=str(tmp_path / "run"), steps=1)
    fit_alone(job)
    assert column(job, "kl") == [] and all(one["base_logp"] is None for one in rollouts_of(job, 1))
    assert WORDS[int(rollouts_of(job, 1)[0]["prompt"][0])].isdigit()
