"""A loss on prompts: which tokens have it, by how much, in which split; the same by every way to train."""

import numpy as np
import pytest

from raymill.cluster.examples.splits import SPLITS
from raymill.training.pack.corpus import freeze_corpora, set_name
from raymill.training.pack.encode import Example, with_prompts
from raymill.training.pack.job import pack_settings
from raymill.training.plan.data import plan_packing
from raymill.training.tokenizer.preview import preview
from tests.support.fit_jobs import column, fit_alone, pack_tiny, tiny_job
from tests.support.pack_runs import packed_by, settings_of, write_lines
from tests.support.packed_examples import config as plain_config
from tests.support.ways_to_train import check_ways


def example(trained: str, weights: list[float] | None = None) -> Example:
    flags = np.array([one == "1" for one in trained])
    of_tokens = None if weights is None else np.array(weights, np.float32)
    return Example(0, 0, np.arange(len(trained), dtype=np.int32), flags, of_tokens)


def test_a_token_that_is_no_answer_has_the_weight_and_the_first_none():
    found = with_prompts(example("00011"), 0.25)
    assert found.trained.tolist() == [False, True, True, True, True]
    assert found.weights is not None and found.weights[1:].tolist() == [0.25, 0.25, 1, 1]


def test_at_weight_one_no_weights_are_written():
    found = with_prompts(example("00011"), 1.0)
    assert (found.trained.tolist(), found.weights) == ([False, True, True, True, True], None)


def test_the_weight_of_a_turn_is_a_factor_and_what_the_author_excluded_stays_excluded():
    found = with_prompts(example("000110", [1, 0, 0.5, 2, 1, 0]), 0.5)
    assert found.trained.tolist() == [False, False, True, True, True, False]
    assert found.weights is not None and found.weights.tolist() == [0.5, 0, 0.25, 2, 1, 0]


def pairs(tmp_path) -> str:
    rows = [{"prompt": f"what is {n} and {n + 1}?", "completion": f" {2 * n + 1}", "id": f"d{n}"} for n in range(40)]
    return write_lines(tmp_path / "rows.jsonl", rows)


def test_documents_to_train_on_have_it_and_held_out_ones_do_not(tmp_path):
    more = {"columns": {"prompt": "prompt", "completion": "completion"}, "packing": {"mode": "none"}}
    without, found = (
        packed_by(pairs(tmp_path), tmp_path / str(weight), prompt_loss_weight=weight, **more).corpora["corpus-0"]
        for weight in (0.0, 0.5)
    )
    assert {split: artifact.manifest.rows > 0 for split, artifact in found.items()} == dict.fromkeys(SPLITS, True)
    for split in SPLITS:
        rows = found[split].table().to_pylist()
        for before, row in zip(without[split].table().to_pylist(), rows, strict=True):
            assert (row["documents"], row["ids"]) == (before["documents"], before["ids"])
            if split == "train":
                assert row["labels"] == [False] + [True] * (len(row["ids"]) - 1)
                assert row["weights"] == [1.0 if label else 0.5 for label in before["labels"]]
            else:
                assert (row["labels"], row["weights"]) == (before["labels"], before["weights"])


def test_pack_preview_and_plan_count_the_prompts_and_sets_that_are_measured_do_not(tmp_path):
    path = faq = pairs(tmp_path)
    more = {"columns": {"prompt": "prompt", "completion": "completion"}, "evaluate": {"sets": {"faq": faq}}}
    labels, shown, planned, measured = [], [], [], []
    for weight in (0.0, 0.5):
        packed = packed_by(path, tmp_path / str(weight), prompt_loss_weight=weight, **more)
        counters = packed.tokenised("corpus-0")
        labels.append([int(counters[f"label_tokens/{split}"]) for split in SPLITS])
        measured.append(int(packed.tokenised(set_name("faq"))["label_tokens/test"]))
        given = plain_config(**settings_of(path, tmp_path / str(weight), prompt_loss_weight=weight, **more))
        shown.append(preview(given, 1)[0].examples[0])
        frozen = freeze_corpora(given, 1 << 20)
        planned.append(plan_packing(given, frozen).counters["corpus-0"]["label_tokens/train"])
    assert labels[1][1:] == labels[0][1:] and measured[0] == measured[1]
    assert labels[1][0] == int(counters["tokens/train"]) - int(counters["examples/train"]) > labels[0][0]
    assert shown[1].trained_tokens == shown[1].tokens - 1 > shown[0].trained_tokens
    assert planned[1] > planned[0]


def test_records_without_it_are_as_before():
    plain, weighted = (plain_config(prompt_loss_weight=weight) for weight in (0.0, 0.5))
    assert "prompt_loss_weight" not in plain.fit_settings()
    settings = [pack_settings(one.model_copy(update={"corpus": ()}), {}) for one in (plain, weighted)]
    assert settings[1] == settings[0] | {"prompt_loss_weight": 0.5}


def test_on_plain_text_it_has_no_effect_and_that_is_said():
    given = plain_config(prompt_loss_weight=0.5, columns={"text": "text"})
    assert any("prompt_loss_weight: has no effect" in one for one in given.without_effect)
    columns = {"prompt": "a", "completion": "b"}
    assert plain_config(prompt_loss_weight=0.5, columns=columns).without_effect == []


def test_losses_are_equal_by_every_way_to_train(tmp_path):
    pack_tiny(str(tmp_path), prompt_weight=0.25)
    job, _ = check_ways(lambda name, **more: tiny_job(str(tmp_path), output=f"{tmp_path}/{name}", **more))
    pack_tiny(str(tmp_path / "without"), prompt_weight=0.0)
    without = tiny_job(str(tmp_path / "without"), micro_batch=8, optimizer=job.config.optimizer)
    fit_alone(without)
    assert column(without, "label_tokens")[0] < column(job, "label_tokens")[0]
    assert column(job, "loss")[0] != pytest.approx(column(without, "loss")[0], rel=1e-4)
    assert column(job, "validation")[0] == column(without, "validation")[0]
