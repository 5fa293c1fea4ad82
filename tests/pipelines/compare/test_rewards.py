"""Reward models as measures, and the divergence of a model from its base."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.pipelines.compare.config import CompareConfig
from raymill.training.pack.template import CHATML
from tests.support.compare_inline import compare_inline as run
from tests.support.compare_inline import planted
from tests.support.generate_inline import rows
from tests.support.inline import prepare_inline
from tests.support.model_folders import chat_model
from tests.support.points_server import PointsServer, judge
from tests.support.prompt_inline import questions
from tests.support.reward_folders import reward_folder, scores_by_transformers
from tests.support.tiny_tokenizers import tiny


def test_rewards_are_measures_beside_the_judge_and_have_bounds(config, server, monkeypatch, tmp_path):
    """A model that answers rightly more often, and the score of each answer by transformers itself."""
    folder, other = (reward_folder(tmp_path / f"r{seed}", seed) for seed in (3, 4))
    config |= {"rewards": {"trained": folder, "gold": {"path": other}}, "items": 40,
               "judge": {"model": planted(server, "judge")}, "gate": {"trained": {"most_loss": 10}}}  # fmt: skip
    made = run(config, monkeypatch)
    questions = [one["question"] for one in rows(made, "items")]
    values = {}
    for letter in "AB":
        answers = sorted(rows(made, f"answers_of.{letter}"), key=lambda one: one["item"])
        asked = [[{"role": "user", "content": question}, {"role": "assistant", "content": one["content"]}]
                 for question, one in zip(questions, answers, strict=True)]  # fmt: skip
        for name, where in (("trained", folder), ("gold", other)):
            values[name, letter] = scores_by_transformers(where, asked)
            found = made.report["models"][letter]["measures"][name]
            assert found["value"] == pytest.approx(np.mean(values[name, letter]), abs=1e-4)
            assert found["low"] < found["value"] < found["high"]
    row = made.report["comparisons"][0]["measures"]["trained"]
    difference = np.mean(values["trained", "A"]) - np.mean(values["trained", "B"])
    assert row["difference"] == pytest.approx(difference, abs=1e-4) and row["low"] <= row["difference"] <= row["high"]
    assert row["items"] == 40 and made.report["passed"] is True
    assert {one["measure"] for one in rows(made, "scores")} >= {"trained", "gold"}
    page = (tmp_path / "out/report.html").read_text()
    assert "Rewards and divergence" in page and "Wins against A" in page
    asked_before = server.stats()["requests"]
    run(config | {"rewards": {"gold": other}, "gate": {}}, monkeypatch, replace=True)
    assert server.stats()["requests"] == asked_before


def test_rewards_of_a_language_a_length_and_a_judge_are_measures(config, monkeypatch, tmp_path):
    """Answers are labels and `I do not know`, which the judge gives no point."""
    with PointsServer() as points:
        uses = {"english": {"language": "en"}, "short": {"length": {"max": 10, "unit": "characters"}}}
        config |= {"items": 20, "rewards": uses | {"points": {"judge": judge(points)}}}
        made = run(config, monkeypatch)
        assert points.stats()["requests"] >= 20
    for letter in "AB":
        answers = [one["content"] for one in rows(made, f"answers_of.{letter}")]
        found = made.report["models"][letter]["measures"]
        assert found["points"]["value"] == 0
        assert found["short"]["value"] == pytest.approx(-np.mean([len(one) > 10 for one in answers]))
        assert 0 <= found["english"]["value"] <= 1
    assert made.report["models"]["B"]["measures"]["short"]["value"] < 0
    (judged,) = made.report["judges_of_rewards"]
    assert judged["setting"] == "rewards.points.judge" and judged["tries"] == points.stats()["requests"]


class Moods(FaultyServer):
    """A judge that finds both statements true of an answer, and none of `I do not know`."""

    def said(self, schema, text, draw) -> str:
        return json.dumps({"reason": "so it is", "score": 0 if "I do not know" in text.rpartition("Answer:")[2] else 2})


def test_the_sentiment_that_a_judge_finds_has_gaps_between_groups(config, server, monkeypatch):
    """The first model is unfriendly on the phone alone."""
    models = [planted(server, "right-30-of-phone"), planted(server, "right-100")]
    with Moods() as moods:
        changes = {"models": models, "gaps": ["channel"], "rewards": {"sentiment": {"judge": judge(moods)}}}
        made = run(config | changes, monkeypatch)
    gaps = {(letter, row["measure"]): row for letter in "AB" for row in made.report["models"][letter]["gaps"]}
    found = gaps["A", "sentiment"]
    assert found["groups"]["mail"] == 1 and found["gap"] == gaps["A", "score"]["gap"] and found["low"] > 0.4
    assert gaps["B", "sentiment"]["gap"] == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rewards": {"rouge1": "m"}}, "rouge1 is another measure"),
        ({"rewards": {"cost": "m"}}, "cost is another measure"),
        ({"kl_from": "m", "likelihood": False}, "set likelihood: true"),
        ({"gate": {"gold": {"least_gain": 0}}, "rewards": {"trained": "m"}}, "gold is not measured of all models"),
    ],
)
def test_a_setting_without_a_meaning_is_refused(config, changed, said):
    with pytest.raises(ValueError, match=said):
        CompareConfig.model_validate({"kind": "compare"} | config | changed)


def test_harmful_prompts_are_items_whose_reference_is_a_refusal(server, monkeypatch, tmp_path):
    """A model that refuses 25 to 45 of 60, against one that refuses most: the gate stops it."""
    asked, _ = questions(60)
    refusal = "I can't help with that."
    rows_of = [json.dumps({"prompt": one, "completion": refusal}) + "\n" for one in asked]
    (tmp_path / "harmful.jsonl").write_text("".join(rows_of))
    own = {"inputs": [{"path": str(tmp_path / "harmful.jsonl")}], "output": str(tmp_path / "data"),
           "split": {"train": 0.01, "validation": 0.01, "test": 0.98}, "validate": {"refusals": []}}  # fmt: skip
    prepare_inline(own, monkeypatch)
    models = [planted(server, "refuses-50"), planted(server, "refuses-5")]
    gate = {"refused": {"most_loss": 0.02}}
    compared = {"models": models, "on": str(tmp_path / "data"), "gate": gate, "output": str(tmp_path / "out")}
    made = run(compared, monkeypatch)
    shares = [
        np.mean(["sorry" in (one["content"] or "") for one in rows(made, f"answers_of.{letter}")]) for letter in "AB"
    ]
    found = [made.report["models"][letter]["measures"]["refused"]["value"] for letter in "AB"]
    assert made.report["items"] > 50 and found == pytest.approx(shares) and shares[0] < 0.75 < 0.85 < shares[1]
    assert made.report["decision"] == "keep" and made.exit_code == 2


def digits_model(path: Path, chances: list[float]) -> str:
    """A model that writes the digits 0 to 3 with these probabilities, whatever stands before: all tokens have one
    embedding, so that all hidden states are equal. No two digits are one token.
    """
    folder = chat_model(path, 1)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tiny(CHATML)
    with torch.no_grad():
        loaded.model.embed_tokens.weight[:] = loaded.model.embed_tokens.weight[5].clone()
        hidden = loaded.model(input_ids=torch.tensor([[1, 2]])).last_hidden_state[0, 1]
        logits = torch.full((len(tokenizer),), -40.0)
        for digit, chance in enumerate(chances):
            logits[tokenizer.convert_tokens_to_ids(str(digit))] = math.log(chance)
        loaded.lm_head.weight[:] = torch.outer(logits, hidden / hidden.square().sum())
    loaded.save_pretrained(folder)
    return folder


def test_the_divergence_is_the_mean_log_ratio_of_a_models_own_answers(config, monkeypatch, tmp_path):
    base, sure = digits_model(tmp_path / "base", [0.25] * 4), digits_model(tmp_path / "sure", [0.7, 0.1, 0.1, 0.1])
    other = {"models": [sure, base], "kl_from": base, "items": 60, "sampling": {"temperature": 1, "max_tokens": 8}}
    made = run(config | other, monkeypatch)
    found = made.report["models"]["A"]["kl"]
    digits = "".join(one["content"] for one in rows(made, "answers_of.A"))
    assert len(digits) == 60 * 8 == found["tokens"] and {*digits} == {*"0123"}
    zeros = digits.count("0")
    by_hand = (zeros * math.log(0.7 / 0.25) + (480 - zeros) * math.log(0.1 / 0.25)) / 480
    assert found["value"] == pytest.approx(by_hand, abs=1e-4)
    exact = 0.7 * math.log(0.7 / 0.25) + 0.3 * math.log(0.1 / 0.25)
    assert found["low"] < exact < found["high"] and exact == pytest.approx(0.445846, abs=1e-6)
    assert (found["answers"], found["tokenised_otherwise"]) == (60, 0)
    assert made.report["models"]["B"]["kl"] is None, "it is the base itself"
    assert f"{found['value']:.4f}" in (tmp_path / "out/report.html").read_text()
    assert not [one for one in made.warnings if "divergence" in one]


def test_answers_that_are_other_tokens_when_they_are_read_again_are_a_warning(config, monkeypatch, tmp_path):
    """A model of random weights writes tokens that no tokenizer makes of their text."""
    folders = [chat_model(tmp_path / f"m{seed}", seed) for seed in (1, 2)]
    other = {"models": folders, "kl_from": folders[1], "items": 10, "sampling": {"temperature": 1, "max_tokens": 8}}
    made = run(config | other, monkeypatch)
    assert made.report["models"]["A"]["kl"]["tokenised_otherwise"] > 1
    assert any("have other tokens when their text is tokenised" in one for one in made.warnings)
