"""Rewards by a reward model that this package trained and exported."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.guard import WorkBounds
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.store.store import Store
from raymill.training.pack import encode, template, text_time
from raymill.training.pack.template import CHATML
from raymill.training.rollouts import reward_model
from raymill.training.rollouts.reward_model import RewardFolder, RewardModelScores
from raymill.training.rollouts.rewards import SampledAnswer
from tests.support.fit_jobs import column, fit_alone
from tests.support.reward_folders import reward_folder, scores_by_transformers
from tests.support.rollout_jobs import LENGTH, MODEL, WORDS, pack_prompts, rollout_job, tokenizer

torch.set_num_threads(1)


def saved(folder: Path, kind: type = LlamaForSequenceClassification, **more) -> str:
    torch.manual_seed(2)
    kind(LlamaConfig(**MODEL | more)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def scores(folder: str, length: int = LENGTH, bf16: bool = False) -> RewardModelScores:
    return RewardModelScores(Store(), folder, tokenizer(), torch.device("cpu"), bf16, length)


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
    of_training.longest = end + 1  # no position is left for the line feed
    assert of_training([sampled]) == of_training.of_ids([ids[: end + 1]]) != [ended]


def test_a_conversation_that_is_too_long_has_no_score_and_a_folder_needs_a_template(tmp_path):
    long = [{"role": "user", "content": "hello " * 300}, {"role": "assistant", "content": "world"}]
    short = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]
    first, second = RewardFolder(Store(), reward_folder(tmp_path / "m")).scores([long, short])
    assert np.isnan(first) and np.isfinite(second)
    with pytest.raises(ConfigError, match="has no chat template"):
        RewardFolder(Store(), reward_folder(tmp_path / "plain", template=None))


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("before", ["", "{% if messages | length == 1 %}{{ raise_exception('no answer') }}{% endif %}"])
def test_a_template_that_does_not_end_is_refused_before_any_record_is_scored(tmp_path, monkeypatch, before):
    monkeypatch.setattr(template, "OF_A_CHECK", WorkBounds(1, 512 << 20))
    folder = reward_folder(tmp_path / "m", template=before + LOOP)
    monkeypatch.setattr(reward_model, "load_base", None)
    with pytest.raises(DataError, match=r"reward model .*/m: its chat template .* of a few words \(too_slow"):
        RewardFolder(Store(), folder)


def test_a_template_that_does_not_end_for_many_records_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "LIMITS", Limits(document_s=0.3))
    of_one_word = "{% if messages[0].content == 'we' %}" + LOOP + "{% endif %}"
    folder = reward_folder(tmp_path / "m", template=of_one_word + CHATML)
    model = RewardFolder(Store(), folder)
    slow, good = ([{"role": "user", "content": word}, {"role": "assistant", "content": "b"}] for word in ("we", "he"))
    found = model.scores([slow] * 3 + [good] * 3)
    assert np.isnan(found[:3]).all() and np.isfinite(found[3:]).all()
    monkeypatch.setattr(text_time, "_SECONDS", 0)
    monkeypatch.setattr(text_time, "_PER_TEXT", 0.13)  # of eight texts, of which four take 0.3 s and more
    with pytest.raises(DataError, match=r"/m: its chat template .* on 8 texts \(1 s for"):
        model.scores([good, slow])


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


SMALL = {"num_labels": 1, "vocab_size": len(WORDS)}
GPT2 = SMALL | {"n_embd": 16, "n_layer": 1, "n_head": 2}
BERT = SMALL | {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
# The class of the model in the folder, its settings, and what is said of it; None: it gives scores.
MODELS = {
    "positions of a table": (
        lambda: transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**GPT2, n_positions=LENGTH)), None,
    ),
    "a table that is too short": (
        lambda: transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**GPT2, n_positions=LENGTH - 1)),
        f"has 7 positions, and sequence_length is {LENGTH}",
    ),
    "a short table with a setting of rotary positions": (
        lambda: transformers.GPT2ForSequenceClassification(
            transformers.GPT2Config(**GPT2, n_positions=LENGTH - 1, rope_scaling={"rope_type": "linear", "factor": 9.0})
        ),
        f"has 7 positions, and sequence_length is {LENGTH}",
    ),
    "positions of OPT": (
        lambda: transformers.OPTForSequenceClassification(
            transformers.OPTConfig(
                **SMALL, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=16,
                max_position_embeddings=LENGTH - 1,
            )
        ),
        "has 7 positions",
    ),
    "an encoder": (
        lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)),
        "config.json: bert is an encoder",
    ),
    "an encoder with a decoder": (
        lambda: transformers.T5ForSequenceClassification(
            transformers.T5Config(**SMALL, d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8)
        ),
        "its t5 has no linear `score`",
    ),
    "rotary positions": (
        lambda: LlamaForSequenceClassification(LlamaConfig(**MODEL | SMALL | {"max_position_embeddings": LENGTH - 1})),
        "has 7 positions",
    ),
    "rotary positions that are scaled": (
        lambda: LlamaForSequenceClassification(
            LlamaConfig(
                **MODEL | SMALL | {"max_position_embeddings": LENGTH - 1},
                rope_parameters={"rope_type": "linear", "factor": 9.0, "rope_theta": 10_000.0},
            )
        ),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_score_every_row_are_refused_before_the_first_step(tmp_path, name):
    build, said = MODELS[name]
    torch.manual_seed(2)
    build().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    answer = SampledAnswer("d", "", "", "", [1] * (LENGTH - 2), [3, 4])
    if said is None:
        assert len(scores(str(tmp_path))([answer])) == 1
    else:
        with pytest.raises(ConfigError, match=f"model .*: {said}"):
            scores(str(tmp_path))


@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_whose_hidden_states_depend_on_later_tokens_is_refused(tmp_path, monkeypatch, bf16):
    folder = saved(tmp_path, num_labels=1)
    scores(folder, bf16=bf16)
    hidden = RewardModelScores._hidden
    monkeypatch.setattr(
        RewardModelScores, "_hidden", lambda self, ids: hidden(self, ids) + hidden(self, ids).mean(1, keepdim=True)
    )
    with pytest.raises(ConfigError, match="the hidden states of its llama depend on later tokens"):
        scores(folder, bf16=bf16)


def test_a_model_that_fails_on_a_row_is_refused(tmp_path, monkeypatch):
    def failing(self, ids):
        raise RuntimeError("sizes of tensors must match")

    monkeypatch.setattr(RewardModelScores, "_hidden", failing)
    with pytest.raises(ConfigError, match=r"model .* fails on a row of tokens \(RuntimeError: sizes of tensors"):
        scores(saved(tmp_path, num_labels=1))


def test_a_model_that_fails_on_an_answer_is_named(tmp_path):
    model = scores(saved(tmp_path, num_labels=1))
    with pytest.raises(DataError, match=r"grpo.rewards: model .* fails on an answer \(IndexError: index out of range"):
        model([SampledAnswer("d", "", "", "", [1], [len(WORDS)])])


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
