"""Probabilities of labels by exported models: those that the training itself measured."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raymill.cluster.errors import DataError
from raymill.cluster.guard import WorkBounds
from raymill.cluster.store.store import Store
from raymill.training.evaluation import label_model
from raymill.training.evaluation.label_model import LabelModel
from raymill.training.pack import encode, text_time
from tests.support.train_inline import LENGTH, sentences, train_inline, write_corpus

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = ("river", "mountain")
PROBE = {
    "method": "probe",
    "columns": {"text": "text", "label": "kind", "id": "id"},
    "packing": {"mode": "none"},
    "steps": 40,
    "optimizer": {"learning_rate": 3e-2},
}
PAIRS = {"columns": {"prompt": "text", "completion": "kind", "id": "id"}, "sequence_length": LENGTH, "steps": 3}


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as patch:
        train_inline({"corpus": write_corpus(folder), "output": str(folder / "run")} | PROBE, patch)
    return folder / "run"


def test_a_probe_gives_what_the_training_measured(probe):
    answers = json.loads((probe / "evaluation.json").read_text())["answers"]
    assert {one["generated"] for one in answers} == set(KINDS)
    texts = {one["id"]: one["text"] for one in sentences()}
    model = LabelModel(Store(), str(probe / "export/probe"), ["lake", *KINDS], LENGTH)
    found = model.probabilities([texts[one["document"]] for one in answers])
    assert found[:, 0].tolist() == [0] * len(answers)  # which the probe does not know
    assert [["lake", *KINDS][at] for at in found.argmax(axis=1)] == [one["generated"] for one in answers]
    np.testing.assert_allclose(found.max(axis=1), [one["confidence"] for one in answers], atol=2e-4)


def test_a_probe_that_was_moved_has_the_same_probabilities(probe, tmp_path):
    before = LabelModel(Store(), str(probe / "export/probe"), KINDS, LENGTH).probabilities(["The river"])
    moved = probe.rename(tmp_path / "moved")
    try:
        after = LabelModel(Store(), str(moved / "export/probe"), KINDS, LENGTH).probabilities(["The river"])
    finally:
        moved.rename(probe)
    np.testing.assert_array_equal(before, after)


def test_a_probe_of_other_labels_is_refused(probe):
    with pytest.raises(DataError, match="predicts mountain, river, which are other labels than yes, no"):
        LabelModel(Store(), str(probe / "export/probe"), ["yes", "no"], LENGTH)


def test_a_base_on_another_store_is_not_fetched(probe, tmp_path):
    copy = tmp_path / "run/export/probe"
    shutil.copytree(probe / "export/probe", copy)
    plain = json.loads((copy / "probe.json").read_text())
    (copy / "probe.json").write_text(json.dumps(plain | {"base": {"name": "s3://theirs/base", "revision": None}}))
    with pytest.raises(DataError, match="s3://theirs/base is on another store"):
        LabelModel(Store(), str(copy), KINDS, LENGTH)


def test_a_probe_with_more_labels_than_its_head_takes_no_memory_for_them(probe, tmp_path, monkeypatch):
    """A few MB of empty labels made a layer of gigabytes."""
    shutil.copytree(probe / "export", tmp_path / "export")
    at = tmp_path / "export/probe/probe.json"
    plain = json.loads(at.read_text())
    at.write_text(json.dumps(plain | {"labels": [*KINDS, *[""] * 1000]}))
    monkeypatch.setattr(label_model, "RowClassifier", lambda *given: pytest.fail("a layer was made"))
    with pytest.raises(DataError, match=r"head.safetensors has .*weight.* need .*\(1002, "):
        LabelModel(Store(), str(tmp_path / "export/probe"), KINDS, LENGTH)


def test_a_text_is_cut_whatever_length_the_run_states(probe, monkeypatch):
    """Attention takes time and memory by the square of the length, which is of the run's manifest."""
    monkeypatch.setattr(label_model, "_MOST_TOKENS", 16)
    model = LabelModel(Store(), str(probe / "export/probe"), KINDS, 1 << 40)
    rows = []
    usual = label_model.class_probabilities

    def measured(classifier, tables, *more):
        rows.extend(len(ids) for table in tables for ids in table["ids"].to_pylist())
        return usual(classifier, tables, *more)

    monkeypatch.setattr(label_model, "class_probabilities", measured)
    found = model.probabilities(["The river is 3 long " * 20, "The river"])
    assert max(rows) == 16 and not np.isnan(found).any()


def test_a_tokenizer_that_takes_too_long_for_all_texts_is_refused(probe, monkeypatch):
    model = LabelModel(Store(), str(probe / "export/probe"), KINDS, LENGTH)
    texts = [f"The river is {at} long" for at in range(40)]
    alone = np.concatenate([model.probabilities([one]) for one in texts])
    np.testing.assert_allclose(model.probabilities(texts), alone, atol=1e-5)
    monkeypatch.setattr(encode, "_bounds", lambda size: WorkBounds(0.01, 1 << 30))
    slow = "The river is long " * 50_000
    found = model.probabilities([*[slow] * 4, "The river", *[slow] * 5])
    assert np.isfinite(found).all(axis=1).nonzero()[0].tolist() == [4]
    monkeypatch.setattr(text_time, "_SECONDS", 0)
    monkeypatch.setattr(text_time, "_PER_TEXT", 0)
    monkeypatch.setattr(text_time, "_PER_BYTE", 0)
    with pytest.raises(DataError, match=r"export/probe: its chat template or tokenizer .* on 91 texts \(0 s for 9,"):
        model.probabilities([slow])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_generative_model_gives_the_probability_of_the_tokens_of_each_label(tmp_path, monkeypatch, method):
    settings = {"corpus": write_corpus(tmp_path), "output": str(tmp_path / "run"), "method": method} | PAIRS
    train_inline(settings, monkeypatch)
    kind = {"full": "full", "lora": "merged"}[method]
    model = LabelModel(Store(), str(tmp_path / "run/export" / kind), KINDS, LENGTH)
    text = "The river is 3 long"
    found = model.probabilities([text, ""])
    assert found.shape == (2, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    # By transformers alone: the tokens of the label and the one that ends the turn.
    folder = tmp_path / "run/export" / kind
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    sums = []
    for label in KINDS:
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": label}]
        asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(turns, return_dict=False)
        end = max(at for at, token in enumerate(whole) if token == tokenizer.convert_tokens_to_ids("<|im_end|>"))
        assert end < LENGTH
        with torch.inference_mode():
            logs = plain(torch.tensor([whole])).logits[0].log_softmax(-1)
        sums.append(sum(float(logs[at - 1, whole[at]]) for at in range(len(asked), end + 1)))
    np.testing.assert_allclose(found[0], np.exp(np.array(sums) - np.logaddexp(*sums)), rtol=1e-4)
