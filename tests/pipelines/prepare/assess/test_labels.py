"""Vectors, groups and labels that are predicted from them or by another model."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.embed import learn_memory
from raymill.pipelines.prepare.assess.facts import smallest_of_sample
from raymill.pipelines.prepare.assess.labels import (
    Predicted,
    better_than_chance,
    label_errors,
    predict,
    predicted_labels,
    scores_by_fold,
)
from raymill.pipelines.prepare.assess.settings import Embeddings
from raymill.pipelines.prepare.assess.vectors import fit_embedding, groups_of, least_similar
from raymill.pipelines.prepare.report.page import assessment_text
from tests.support.assessments import gate, metric
from tests.support.inline import prepare_inline
from tests.support.queues import QUEUES, rows, sentence, settings_of
from tests.support.sampled import sampled


def test_like_texts_have_like_vectors():
    texts = [sentence(queue, n) for queue in QUEUES for n in range(40)]
    vectors = fit_embedding(texts, 16).embed(texts)
    assert vectors.shape == (120, 16) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similarity = vectors @ vectors.T
    inside = np.mean([similarity[at : at + 40, at : at + 40].mean() for at in (0, 40, 80)])
    across = similarity[:40, 40:].mean()
    assert inside > across + 0.2
    assert (fit_embedding(texts, 16).embed(texts) == vectors).all(), "the same texts give the same model"


def test_texts_without_a_known_word_have_no_direction():
    model = fit_embedding(["alpha beta", "beta gamma"], 8)
    assert model.embed(["unheard of", ""]).tolist() == [[0, 0], [0, 0]]
    assert fit_embedding([], 8).embed(["a"]).tolist() == [[0]] and fit_embedding(["..."], 8).embed(
        ["a", "b"]
    ).shape == (2, 1)
    assert fit_embedding(["alpha", "alpha alpha"], 8).embed(["alpha", "beta"]).tolist() == [[1], [0]], "one word alone"


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


def test_of_more_records_than_a_model_is_fitted_to_those_with_the_smallest_keys_are_taken(monkeypatch):
    vectors, labels, _, keys = labelled(120, [])
    folds = np.arange(120) % 2
    one = np.flatnonzero(folds == 1)
    taken = one[np.argsort(keys[one])[:25]]
    labels[np.setdiff1d(one, taken)] = 0  # would be learned, if these were taken
    monkeypatch.setattr("raymill.pipelines.prepare.assess.labels._TRAINED", 25)
    monkeypatch.setattr("raymill.pipelines.prepare.assess.labels._PREDICTED", 7)
    found = predict(vectors, labels, folds, keys, 3).probabilities
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5), "all are predicted"
    assert (found[folds == 0].argmax(axis=1) == np.flatnonzero(folds == 0) % 3).mean() > 0.9


def predictions(chosen: list[int], folds: list[int]) -> Predicted:
    return Predicted(np.eye(3, dtype=np.float32)[chosen], np.array(folds))


def test_scores_of_a_fold_by_hand():
    """Of the first fold: precision 1 and 1/2, recall 2/3 and 1, so F1 0.8 and 2/3; all of the second are right."""
    scores = scores_by_fold(predictions([0, 0, 1, 1, 2, 2], [4, 4, 4, 4, 7, 7]), np.array([0, 0, 0, 1, 2, 2]))
    assert scores == {
        "accuracy": [0.75, 1], "precision": [0.75, 1], "recall": [pytest.approx(5 / 6), 1],
        "f1": [pytest.approx((0.8 + 2 / 3) / 2), 1],
    }  # fmt: skip


@pytest.mark.parametrize(("right", "better"), [(64, False), (66, True), (36, False)])
def test_predictions_are_better_than_chance_above_three_standard_errors(right, better):
    """Of 100 records of two equally frequent classes, kappa is 2 right / 100 - 1, and three errors are 0.3."""
    labels = np.arange(100) % 2
    chosen = np.where(np.arange(100) < right, labels, 1 - labels).tolist()
    assert better_than_chance(predictions(chosen, [0] * 100), labels) is better


class Vectors:
    """Tables in place of the artifact VECTORS."""

    def __init__(self, *tables: pa.Table) -> None:
        self.given = tables

    def tables(self, columns: list[str]) -> list[pa.Table]:
        return [table.select(columns) for table in self.given]


def directions(numbers: list[int], size: int = 8, first: int = 0) -> dict:
    """Vectors along axes, by number; keys in reverse order."""
    return {
        "vector": pa.array(list(np.eye(size, dtype=np.float16)[numbers]), pa.list_(pa.float16())),
        "key": pa.array([1000 - first - at for at in range(len(numbers))], pa.uint64()),
    }


def test_groups_are_counted_largest_first_of_all_records_and_fitted_to_a_sample(monkeypatch):
    parts = ([0] * 5 + [1] * 2, [2] * 9 + [1] * 4)
    ids = ([f"r{at}" for at in range(7)], [f"s{at}" for at in range(13)])
    tables = [pa.table(directions(one, first=7 * at) | {"id": ids[at]}) for at, one in enumerate(parts)]
    assert (
        groups_of(Vectors(*tables), 3) == groups_of(Vectors(*tables), 20) == ([9, 6, 5], [f"s{at}" for at in range(5)])
    )
    assert len(groups_of(Vectors(*tables), 2)[0]) == 2
    monkeypatch.setattr("raymill.pipelines.prepare.assess.vectors._SAMPLE", 4)
    alike = groups_of(Vectors(*tables), 3)
    assert alike == ([20], [f"r{at}" for at in range(5)]), "the four records with the smallest keys are alike"
    assert groups_of(Vectors(), 3) == ([], [])


def test_the_least_similar_records_are_named_and_the_mean_is_of_those_with_a_similarity():
    def table(first: int, *values: float | None) -> pa.Table:
        return pa.table({"id": [f"r{first + at}" for at in range(len(values))], "similarity": pa.array(values)})

    found = least_similar(Vectors(table(0, 0.5, None, 0.25), table(3, 1.0, 0.125, 0.75, 0.5, 0.9)), "similarity")
    assert found == {"records": 7, "mean": 0.575, "ids": ["r4", "r2", "r0", "r6", "r5"]}
    assert least_similar(Vectors(table(0, None)), "similarity") == {"records": 0, "mean": None, "ids": []}


def vectors_of(counts: dict[str | None, int], fold: int | None = None, first: int = 0) -> pa.Table:
    """Records with these labels in turn, whose vectors follow from the label."""
    names = [name for name, number in counts.items() for _ in range(number)]
    axes = {name: at for at, name in enumerate(counts)}
    ids = [f"r{first + at:03}" for at in range(len(names))]
    folds = pa.array([fold] * len(names), pa.int8())
    return pa.table(directions([axes[one] for one in names], first=first) | {
        "id": ids, "fold": folds, "label/queue": pa.array(names, pa.string()),
        "text": [f"text of {id}" for id in ids],
    })  # fmt: skip


def test_labels_of_five_records_are_predicted_and_rarer_or_empty_ones_are_not():
    found = predicted_labels(Vectors(vectors_of({"a": 6, "b": 5, "c": 4, None: 3, " ": 7})), "queue", None)
    assert (found["records"], found["left_out"], found["classes"]) == (11, 4, 2)
    assert found["most_frequent"] == pytest.approx(6 / 11) and found["errors"] is None
    alone = predicted_labels(Vectors(vectors_of({"a": 6, "b": 4})), "queue", None)
    assert (alone["records"], alone["left_out"], alone["classes"], alone["scores"]) == (0, 4, 1, {})
    assert found["rare"] == {"c": 4} and found["rare_ids"] == ["r011", "r012", "r013", "r014"]
    many = predicted_labels(Vectors(vectors_of({"a": 6} | {f"x{at}": 1 + at % 2 for at in range(7)})), "queue", None)
    assert many["rare"] == {"x0": 1, "x2": 1, "x4": 1, "x6": 1, "x1": 2}
    assert many["rare_ids"] == ["r006", "r007", "r008", "r009", "r010"]


def test_folds_are_those_of_the_data_set_or_five_by_key():
    without = predicted_labels(Vectors(vectors_of({"a": 25, "b": 25})), "queue", None)
    assert len(without["scores"]["f1"]) == 5
    tables = [vectors_of({"a": 9, "b": 9}, fold, 18 * at) for at, fold in enumerate((0, 2, None))]
    given = predicted_labels(Vectors(*tables), "queue", None)
    assert len(given["scores"]["f1"]) == 3, "folds 0 and 2; records for testing are spread over 0, 1 and 2"


class Written:
    """A scratch that keeps the tables."""

    def __init__(self) -> None:
        self.tables: dict[str, pa.Table] = {}

    def write(self, output: str, table: pa.Table) -> None:
        self.tables[output] = table


def test_all_suspects_are_written_by_probability_and_the_first_twenty_shown():
    """30 of 400 records have the other label. The ids are those of the records, also over tables."""
    tables, wrong = [], set()
    for part in range(2):
        table = vectors_of({"a": 100, "b": 100}, first=200 * part)
        queues = table["label/queue"].to_pylist()
        for at in range(0, 105, 7):
            queues[at] = "b" if queues[at] == "a" else "a"
            wrong.add(f"r{200 * part + at:03}")
        tables.append(table.set_column(table.schema.get_field_index("label/queue"), "label/queue", pa.array(queues)))
    scratch = Written()
    found = predicted_labels(Vectors(*tables), "queue", scratch)
    rows = scratch.tables["suspects"].to_pylist()
    assert {row["id"] for row in rows} == wrong and found["errors"] == len(rows) == 30
    assert [row["probability"] for row in rows] == sorted(row["probability"] for row in rows)
    assert all(row["text"] == f"text of {row['id']}" for row in rows)
    assert all({row["label"], row["suggested"]} == {"a", "b"} for row in rows) and rows[-1]["probability"] < 0.5
    assert found["suspects"] == rows[:20]
    # All but those are predicted as they are labelled.
    assert found["missed"] == 30 and {one["id"] for one in found["hardest"]} <= wrong and len(found["hardest"]) == 5
    own = [one["probability"] for one in found["hardest"]]
    assert own == sorted(own) and own[0] == rows[0]["probability"]
    assert predicted_labels(Vectors(*tables), "queue", None)["suspects"] == []


def test_memory_of_learning_grows_with_labelled_records_dimensions_and_pairs():
    mib = 1 << 20
    assert learn_memory(Embeddings(), 0) == 712 * mib
    # 60 bytes and 64 float32 a record, and 40 bytes for each of 1,000 records and 200 classes.
    assert learn_memory(Embeddings(), 1000) == 712 * mib + 1000 * 316 + 200_000 * 40
    model = Embeddings(model="acme/mini")  # of 1,024 dimensions at most
    assert learn_memory(model, 10**9) == 712 * mib + 10**6 * 4156 + 2 * 10**7 * 40


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
    fix = gate(run.assessment, "accuracy")["mend"]
    assert "/suspects` shows more" in fix and all(f"{id}: {one['suggested']}?" in fix for id, one in suspects.items())
    page = Store().read_bytes(f"{run.uri}/report.html").decode()
    assert "Values of queue that are probably wrong" in page and next(iter(suspects)) in page
    # A model that predicts the queue; the wrong labels count against it.
    assert 0.85 < metric(run.assessment, "extrinsic_accuracy") <= 1 - 4 / 150
    assert 0.85 < metric(run.assessment, "extrinsic_f1") < 1
    code, _, error = assess(run.uri, "--extrinsic", "colour")
    assert code == 2 and "no input has a field colour; there are collected_at, domain, language, licence, qual" in error


def test_labels_that_do_not_follow_from_the_text_are_not_judged(tmp_path, monkeypatch):
    chosen = random.Random(3)
    made = [one | {"queue": chosen.choice("aaab")} for one in rows(60)]
    run = prepare_inline(settings_of(tmp_path, made, label="queue"), monkeypatch)
    assert metric(run.assessment, "label_quality") is None and "without accuracy" in assessment_text(run.assessment)


def test_of_too_many_records_the_same_part_is_judged(tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.pipelines.prepare.assess.labels.PAIRS", 270)
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


def test_answers_to_another_question_are_the_least_relevant(tmp_path, monkeypatch):
    """Two records have the answer of another queue, one an answer of words that no other record has."""
    made = rows(90)
    made[6]["a"], made[31]["a"] = made[31]["a"], made[6]["a"]
    made[50]["a"] = "zzyzx qwfpg arstd and nothing more than that."
    asked = settings_of(tmp_path, made, embeddings={"dimensions": 8}) | {"gates": {"answer_relevance": 0.999}}
    run = prepare_inline(asked | {"records": {"shape": "pairs"}}, monkeypatch)
    found = run.assessment["findings"]["learned"]["relevant"]
    assert {"r006", "r031"} <= set(found["ids"][:3]) and found["records"] >= 89
    assert 0.3 < found["mean"] == metric(run.assessment, "answer_relevance") < 0.999
    failed = gate(run.assessment, "answer_relevance")
    assert failed["state"] == "failed" and "r006" in failed["mend"] and "`raymill prepare CONFIG -o " in failed["mend"]
    # By hand: the rows of the artifact are cosines of the default embedding.
    table = Artifact.load(Store(), f"{run.uri}/_work/assess/vectors").table()
    values = dict(zip(table["id"].to_pylist(), table["relevance"].to_pylist(), strict=True))
    records = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    sample = Artifact.load(Store(), f"{run.uri}/_work/assess/sample")
    model = fit_embedding(smallest_of_sample(sample, 5000), 8)
    pairs = (model.embed([row[side] for row in records]) for side in ("prompt", "completion"))
    cosines = np.clip((np.multiply(*pairs)).sum(axis=1), 0, 1)
    for row, cosine in zip(records, cosines, strict=True):
        assert values[row["id"]] is None or values[row["id"]] == pytest.approx(cosine, abs=1e-3), row["id"]


def test_plain_texts_have_no_answer_to_be_relevant(tmp_path, monkeypatch):
    made = [{"id": one["id"], "text": one["a"]} for one in rows(30)]
    asked = settings_of(tmp_path, made) | {"records": {"shape": "text"}}
    asked["inputs"] = [{"path": asked["inputs"][0]["path"], "id": "id"}]
    run = prepare_inline(asked, monkeypatch)
    assert run.assessment["findings"]["learned"]["relevant"] == {"records": 0, "mean": None, "ids": []}
    assert metric(run.assessment, "answer_relevance") is None


def test_what_is_learned_does_not_depend_on_units_or_tables(tmp_path, monkeypatch):
    plain = settings_of(tmp_path, rows(90, (4, 31)), label="queue", examples=["invoice payment"])
    plain["split"] = {"folds": 3}
    one = prepare_inline(plain, monkeypatch).assessment["findings"]["learned"]
    monkeypatch.setattr("raymill.pipelines.prepare.assess.facts.UNIT_BYTES", 1)
    monkeypatch.setattr("raymill.pipelines.prepare.assess.vectors.ROWS", 7)
    many = prepare_inline(plain | {"output": str(tmp_path / "many")}, monkeypatch).assessment["findings"]["learned"]
    assert one == many and len(one["labels"]["queue"]["scores"]["f1"]) == 3


WRONG_PREDICTIONS = (4, 31, 62, 77, 110)
NAMES = list(QUEUES)


def unreadable(count: int, wrong: tuple[int, ...]) -> list[dict]:
    """Records whose text says nothing of their queue, so that the built-in model cannot judge the labels."""
    return [one | {"q": f"Question number {n} of all?", "a": f"This is the answer with number {n} of all."}
            for n, one in enumerate(rows(count, wrong))]  # fmt: skip


def predicted(n: int) -> dict[str, float]:
    """What a good model says: the queue that the record was made of."""
    return {name: 0.9 if at == n % 3 else 0.05 for at, name in enumerate(NAMES)}


def write_file(folder: Path, ending: str, numbers: range) -> str:
    table = [{"id": f"r{n:03}"} | predicted(n) for n in reversed(numbers)]
    path = folder / f"predicted.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in table))
    return str(path)


@pytest.mark.parametrize("kind", sampled(["parquet", "jsonl", "column", "text"], 2))
def test_wrong_labels_are_found_by_the_predictions_of_any_model(tmp_path, monkeypatch, kind):
    made = unreadable(120, WRONG_PREDICTIONS)
    if kind in ("column", "text"):
        made = [one | {"model": predicted(n) if kind == "column" else json.dumps(predicted(n))}
                for n, one in enumerate(made)]  # fmt: skip
    asked = "model" if kind in ("column", "text") else write_file(tmp_path, kind, range(120))
    monkeypatch.setattr("raymill.pipelines.prepare.assess.facts.UNIT_BYTES", 1)
    monkeypatch.setattr("raymill.pipelines.prepare.assess.vectors.ROWS", 7)
    plain = settings_of(tmp_path, made, label="queue", predictions=asked) | {"gates": {"accuracy": 0.99}}
    run = prepare_inline(plain, monkeypatch)
    labels = run.assessment["findings"]["learned"]["labels"]["queue"]
    assert {one["id"] for one in labels["suspects"]} == {f"r{n:03}" for n in WRONG_PREDICTIONS}
    assert {one["id"]: one["suggested"] for one in labels["suspects"]} == {
        f"r{n:03}": NAMES[n % 3] for n in WRONG_PREDICTIONS
    }
    assert labels["judged"] == 120 and metric(run.assessment, "label_quality") == 1 - 5 / 120
    assert "r004" in gate(run.assessment, "accuracy")["mend"]
    # The built-in model still scores the data set, on which it is no better than chance.
    assert metric(run.assessment, "extrinsic_accuracy") < 0.6
    without = settings_of(tmp_path, made, label="queue") | {"output": str(tmp_path / "without")}
    assert metric(prepare_inline(without, monkeypatch).assessment, "label_quality") is None


def test_records_without_a_prediction_are_not_judged(tmp_path, monkeypatch):
    file = write_file(tmp_path, "jsonl", range(20, 100))
    run = prepare_inline(
        settings_of(tmp_path, unreadable(120, WRONG_PREDICTIONS), label="queue", predictions=file), monkeypatch
    )
    labels = run.assessment["findings"]["learned"]["labels"]["queue"]
    assert {one["id"] for one in labels["suspects"]} == {"r031", "r062", "r077"}
    assert (labels["records"], labels["judged"], labels["errors"]) == (120, 80, 3)


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ([{"id": "r000", "billing": 1.5, "network": 0.1, "accounts": 0}], "record r000 has 0, 1.5, 0.1"),
        ([{"id": "other", "billing": 0.5, "network": 0.5}], "has no prediction of one of 30 records, such as r000"),
        ([{"id": "r000", "sales": 1.0}], "has the columns id, sales; wanted id, and a column for each label: accounts"),
        ([{"name": "r000", "billing": 1.0}], "wanted id, and"),
        ([{"id": "r000", "billing": "high"}], "column billing: string is no number"),
        (["no JSON"], "cannot be read"),
    ],
)
def test_what_is_no_prediction_is_refused(tmp_path, monkeypatch, lines, seen):
    file = tmp_path / "p.jsonl"
    file.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    made = sorted(unreadable(30, ()), key=lambda one: one["id"])
    with pytest.raises(DataError, match=seen):
        prepare_inline(settings_of(tmp_path, made, label="queue", predictions=str(file)), monkeypatch)


def test_a_column_that_is_no_prediction_is_refused(tmp_path, monkeypatch):
    made = [one | {"model": "billing"} for one in unreadable(30, ())]
    with pytest.raises(DataError, match=r"record r\d+ has 'billing'; wanted the probability of each label"):
        prepare_inline(settings_of(tmp_path, made, label="queue", predictions="model"), monkeypatch)


def test_a_file_that_is_missing_is_refused_before_a_record_is_read(tmp_path, monkeypatch):
    plain = settings_of(tmp_path, unreadable(30, ()), label="queue", predictions=f"{tmp_path}/none.parquet")
    with pytest.raises(NotFound, match=r"assess.predictions: .*none.parquet"):
        prepare_inline(plain, monkeypatch)
    assert not (tmp_path / "out" / "train").exists()


def test_predictions_are_of_a_label_and_of_a_field(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="predictions: of no label"):
        prepare_inline(settings_of(tmp_path, rows(3), predictions="queue"), monkeypatch)
    with pytest.raises(ConfigError, match=r"assess\.predictions: no input has a field or column model"):
        prepare_inline(settings_of(tmp_path, rows(3), predictions="model", label="queue"), monkeypatch)
