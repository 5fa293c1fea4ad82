"""Vectors of texts, and what is learned of them: groups, planted wrong labels, scores of folds."""

import random

import numpy as np
import pytest

from cluster.store.store import Store
from pipelines.prepare.assess.classify import label_errors, predict, scores_by_fold
from pipelines.prepare.assess.section import assessment_text
from pipelines.prepare.assess.vectors import fit
from tests.support.assessments import gate, metric
from tests.support.inline import prepare_inline
from tests.support.queues import QUEUES, rows, sentence, settings_of


def test_like_texts_have_like_vectors():
    texts = [sentence(queue, n) for queue in QUEUES for n in range(40)]
    vectors = fit(texts, 16).embed(texts)
    assert vectors.shape == (120, 16) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similarity = vectors @ vectors.T
    inside = np.mean([similarity[at : at + 40, at : at + 40].mean() for at in (0, 40, 80)])
    across = similarity[:40, 40:].mean()
    assert inside > across + 0.2
    assert (fit(texts, 16).embed(texts) == vectors).all(), "the same texts give the same model"


def test_texts_without_a_known_word_have_no_direction():
    model = fit(["alpha beta", "beta gamma"], 8)
    assert model.embed(["unheard of", ""]).tolist() == [[0, 0], [0, 0]]
    assert fit([], 8).embed(["a"]).tolist() == [[0]] and fit(["..."], 8).embed(["a", "b"]).shape == (2, 1)


def labelled(count: int, wrong: list[int]) -> tuple[np.ndarray, ...]:
    """(vectors, labels, folds, keys) of three classes, with some labels that are wrong."""
    random = np.random.default_rng(2)
    labels = np.arange(count) % 3
    vectors = (np.eye(3, 8)[labels] + random.normal(0, 0.25, (count, 8))).astype(np.float16)
    labels[wrong] = (labels[wrong] + 1) % 3
    keys = random.integers(0, 1 << 63, count, np.uint64)
    return vectors, labels, (keys % 5).astype(np.int64), keys


def test_planted_wrong_labels_are_found():
    wrong = list(range(0, 300, 15))
    vectors, labels, folds, keys = labelled(300, wrong)
    predicted = predict(vectors, labels, folds, keys, 3)
    assert np.allclose(predicted.probabilities.sum(axis=1), 1, atol=1e-5)
    found = set(label_errors(predicted, labels).tolist())
    # Confident learning takes as many as it estimates to be wrong, of which a part is below the thresholds.
    assert len(found & set(wrong)) >= 12 and len(found - set(wrong)) <= 2
    assert not len(label_errors(predict(*labelled(300, []), 3), labelled(300, [])[1])), "nothing is wrong"


def test_a_record_is_predicted_by_models_that_did_not_see_it():
    """Without signal, a model that had seen the records would be right more often than one in three."""
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(90, 80)).astype(np.float16), random.integers(0, 3, 90)
    folds, keys = np.arange(90) % 5, np.arange(90, dtype=np.uint64)
    scores = scores_by_fold(predict(vectors, labels, folds, keys, 3), labels)
    assert len(scores["f1"]) == 5 and np.mean(scores["accuracy"]) < 0.5


def test_a_fold_without_other_classes_is_predicted_as_the_one_that_is_left():
    vectors, labels = np.ones((6, 2), np.float16), np.array([0, 0, 0, 1, 1, 1])
    predicted = predict(vectors, labels, np.array([0, 0, 0, 1, 1, 1]), np.arange(6, dtype=np.uint64), 2)
    assert predicted.probabilities[:3].argmax(axis=1).tolist() == [1, 1, 1]


WRONG = (4, 31, 62, 77, 110)


def test_wrong_labels_are_listed_with_a_suggestion(tmp_path, monkeypatch, assess):
    gates = {"gates": {"accuracy": 0.99, "coverage": None}}
    run = prepare_inline(settings_of(tmp_path, rows(150, WRONG), label="queue") | gates, monkeypatch)
    labels = run.assessment["findings"]["learned"]["labels"]["queue"]
    suspects = {one["id"]: one for one in labels["suspects"]}
    planted = {f"r{n:03}" for n in WRONG}
    assert len(planted & suspects.keys()) >= 3 and labels["errors"] == len(suspects) <= 5
    names = list(QUEUES)
    for n in WRONG:
        if found := suspects.get(f"r{n:03}"):
            assert (found["label"], found["suggested"]) == (names[(n + 1) % 3], names[n % 3])
            assert found["probability"] < 0.5
    assert metric(run.assessment, "label_quality") == pytest.approx(1 - len(suspects) / 150)
    parts = {one["name"]: one for one in run.assessment["parts"]}
    assert parts["accuracy"]["value"] == metric(run.assessment, "label_quality")
    mend = gate(run.assessment, "accuracy")["mend"]
    assert "/suspects` shows more" in mend and all(f"{id}: {one['suggested']}?" in mend for id, one in suspects.items())
    page = Store().read_bytes(f"{run.uri}/report.html").decode()
    assert "Values of queue that are probably wrong" in page and next(iter(suspects)) in page
    # A model that predicts the queue; the wrong labels count against it.
    assert 0.85 < metric(run.assessment, "extrinsic_accuracy") <= 1 - 4 / 150
    assert 0.85 < metric(run.assessment, "extrinsic_f1") < 1
    code, _, error = assess(run.uri, "--extrinsic", "colour")
    assert (
        code == 2
        and "no input has a field colour; there are collected_at, domain, language, licence, queue, source" in error
    )


def test_labels_that_do_not_follow_from_the_text_are_not_judged(tmp_path, monkeypatch):
    chosen = random.Random(3)
    made = [one | {"queue": chosen.choice("aaab")} for one in rows(60)]
    run = prepare_inline(settings_of(tmp_path, made, label="queue"), monkeypatch)
    assert metric(run.assessment, "label_quality") is None and "without accuracy" in assessment_text(run.assessment)


def test_of_too_many_records_the_same_part_is_judged(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.prepare.assess.labels.PAIRS", 270)
    run = prepare_inline(settings_of(tmp_path, rows(150, WRONG), label="queue"), monkeypatch)
    labels = run.assessment["findings"]["learned"]["labels"]["queue"]
    assert 65 <= labels["records"] <= 115, "about 270 / 3, by the hash of the question"
    assert metric(run.assessment, "label_quality") == 1 - labels["errors"] / labels["records"]


def test_rare_labels_are_left_out(tmp_path, monkeypatch):
    made = [*rows(45), *(one | {"queue": "rare", "id": f"x{n}"} for n, one in enumerate(rows(4)))]
    learned = prepare_inline(settings_of(tmp_path, made, label="queue"), monkeypatch).assessment["findings"]["learned"]
    assert learned["labels"]["queue"]["left_out"] == 4 and learned["labels"]["queue"]["records"] == 45


def test_semantic_diversity_falls_with_texts_of_one_kind(tmp_path, monkeypatch):
    embeddings = {"groups": 3}
    run = prepare_inline(settings_of(tmp_path, rows(90), embeddings=embeddings), monkeypatch)
    even = metric(run.assessment, "semantic_diversity")
    few = [one for n, one in enumerate(rows(240)) if n % 3 == 0 or n < 12]
    (tmp_path / "few").mkdir()
    again = prepare_inline(settings_of(tmp_path / "few", few, embeddings=embeddings), monkeypatch)
    assert even > 0.9 and metric(again.assessment, "semantic_diversity") < even
    off = prepare_inline(
        settings_of(tmp_path, rows(90), embeddings=None) | {"output": str(tmp_path / "off")}, monkeypatch
    )
    assert "semantic_diversity" not in {one["name"] for one in off.assessment["metrics"]}


def test_equal_texts_have_no_semantic_diversity(tmp_path, monkeypatch):
    made = [{"id": f"{n}", "q": sentence("billing", 1), "a": sentence("billing", 2)} for n in range(30)]
    run = prepare_inline(settings_of(tmp_path, made), monkeypatch)
    assert run.assessment["findings"]["learned"]["groups"] == [30]
    assert metric(run.assessment, "semantic_diversity") == 0


def test_answers_are_compared_with_examples_of_the_domain(tmp_path, monkeypatch):
    made = rows(60)
    made[7]["a"] = "the weather is nice and birds sing in a tree beside our house."
    examples = [sentence(queue, seed) for queue in QUEUES for seed in range(500, 505)]
    plain = settings_of(tmp_path, made, examples=examples) | {"gates": {"relevance": 0.99}}
    run = prepare_inline(plain, monkeypatch)
    assert 0.3 < metric(run.assessment, "similarity_to_examples") < 0.99
    assert run.assessment["findings"]["learned"]["similar"]["ids"][0] == "r007"
    assert "r007" in gate(run.assessment, "relevance")["mend"]


def test_what_is_learned_does_not_depend_on_units_or_tables(tmp_path, monkeypatch):
    plain = settings_of(tmp_path, rows(90, (4, 31)), label="queue", examples=["invoice payment"])
    plain["split"] = {"folds": 3}
    one = prepare_inline(plain, monkeypatch).assessment["findings"]["learned"]
    monkeypatch.setattr("pipelines.prepare.assess.facts.UNIT_BYTES", 1)
    monkeypatch.setattr("pipelines.prepare.assess.vectors.ROWS", 7)
    many = prepare_inline(plain | {"output": str(tmp_path / "many")}, monkeypatch).assessment["findings"]["learned"]
    assert one == many and len(one["labels"]["queue"]["scores"]["f1"]) == 3
