"""Rewards by a reward model that this package trained and exported."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store.store import Store
from raymill.training.rollouts import reward_model
from raymill.training.rollouts.reward_model import RewardFolder, RewardModelScores
from raymill.training.rollouts.rewards import SampledAnswer
from tests.support.fit_jobs import column, fit_alone
from tests.support.reward_folders import reward_folder, scores_by_transformers
from tests.support.rollout_jobs import MODEL, WORDS, pack_prompts, rollout_job, tokenizer

torch.set_num_threads(1)


def saved(folder: Path, kind: type = LlamaForSequenceClassification, **more) -> str:
    torch.manual_seed(2)
    kind(LlamaConfig(**MODEL | more)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def scores(folder: str) -> RewardModelScores:
    return RewardModelScores(Store(), folder, tokenizer(), torch.device("cpu"), False)


@pytest.mark.parametrize("together", [32_768, 10])
def test_an_answer_has_the_score_of_its_last_token(tmp_path, monkeypatch, together):
    monkeypatch.setattr(reward_model, "_BATCH_TOKENS", together)
    folder = saved(tmp_path, num_labels=1)
    made = [
        SampledAnswer("d", "", "", "", prompt, ids)
        for prompt, ids in (([1, 2, 10], [4, 11]), ([3], [5, 6, 7, 8]), ([9, 10], [11]))
    ]
    found = scores(folder)(made)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for answer, score in zip(made, found, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([[*answer.prompt_ids, *answer.ids]])).logits.item()
        assert score == pytest.approx(expected, abs=1e-6)


def test_a_conversation_and_its_sampled_answer_have_the_score_that_training_gives(tmp_path):
    """It is read at the line feed which ChatML writes after the end of a turn, and which no model generates."""
    folder = reward_folder(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "the lazy dog"}]
    ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]
    (expected,) = scores_by_transformers(folder, [messages])
    other = [messages[0], {"role": "assistant", "content": "a quick fox jumps"}]
    found = RewardFolder(Store(), folder).scores([messages, other])
    assert found[0] == pytest.approx(expected, abs=1e-6) and found[1] != pytest.approx(expected, abs=1e-3)
    end = ids.index(tokenizer.convert_tokens_to_ids("<|im_end|>"), -3)
    sampled = SampledAnswer("d", "", "", "", ids[: end - 4], ids[end - 4 : end + 1])
    cut = SampledAnswer("d", "", "", "", ids[: end - 4], ids[end - 4 : end])
    of_training = RewardModelScores(Store(), folder, tokenizer, torch.device("cpu"), False)
    ended, unended = of_training([sampled, cut])
    assert ended == pytest.approx(expected, abs=1e-6) and unended != pytest.approx(expected, abs=1e-3)
    assert of_training.longest == 256


def test_a_conversation_that_is_too_long_has_no_score_and_a_folder_needs_a_template(tmp_path):
    long = [{"role": "user", "content": "hello " * 300}, {"role": "assistant", "content": "world"}]
    short = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]
    first, second = RewardFolder(Store(), reward_folder(tmp_path / "m")).scores([long, short])
    assert np.isnan(first) and np.isfinite(second)
    with pytest.raises(ConfigError, match="has no chat template"):
        RewardFolder(Store(), reward_folder(tmp_path / "plain", template=None))


def test_a_model_that_is_none_of_rewards_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has 3 labels, and a reward model has one score"):
        scores(saved(tmp_path / "three", num_labels=3))
    with pytest.raises(DataError, match="1 weights are missing"):
        scores(saved(tmp_path / "causal", LlamaForCausalLM))
    with pytest.raises(ConfigError, match=f"has 8 embeddings, and its tokenizer {len(WORDS)} tokens"):
        scores(saved(tmp_path / "small", num_labels=1, vocab_size=8))
    other = saved(tmp_path / "other", num_labels=1)
    smaller = tokenizer()
    smaller.add_tokens(["more"])
    smaller.save_pretrained(other)
    with pytest.raises(ConfigError, match="has another tokenizer than the trained model"):
        scores(other)


def test_scores_that_are_not_finite_name_the_model(tmp_path):
    folder = saved(tmp_path, num_labels=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for weights in (model.score.weight, model.model.norm.weight):  # whose sums are finite
            weights.view(-1)[0::2], weights.view(-1)[1::2] = 1e30, -1e30
    model.save_pretrained(folder)
    with pytest.raises(DataError, match=r"model .* gives scores that are not finite"):
        scores(folder)([SampledAnswer("d", "", "", "", [1, 2], [3])])


def test_a_training_by_the_scores_of_a_model(tmp_path):
    pack_prompts(str(tmp_path), 80, 16)
    folder = saved(tmp_path / "scores", num_labels=1)
    how = {"samples": 4, "max_new_tokens": 1, "rewards": [{"model": folder, "weight": 2.0}, {"score": "exact_match"}]}
    job = rollout_job(str(tmp_path), output=str(tmp_path / "run"), steps=40, grpo=how)
    fit_alone(job)
    table = pq.read_table(Path(job.folder.rollouts, job.folder.fingerprint, "step-00000001.parquet"))
    values = np.array(table["rewards"].to_pylist())
    assert table["reward"].to_numpy() == pytest.approx(values @ [2.0, 1.0])
    first = table.slice(0, 1).to_pylist()[0]
    answer = SampledAnswer("d", "", "", "", first["prompt"], first["ids"])
    assert first["rewards"] == pytest.approx(
        [scores(folder)([answer])[0], float(first["generated"] == WORDS[first["prompt"][0]])]
    )
    means = column(job, "rewards")
    assert set(means[0]) == {"model", "exact_match"}
    assert np.mean([one["model"] for one in means[-5:]]) > np.mean([one["model"] for one in means[:5]])
