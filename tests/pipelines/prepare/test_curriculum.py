"""Stages of records from easy to hard: what is difficult, equal sizes, and the same result for any number of units."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.examples.content import Sides
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.records.times import microseconds
from raymill.pipelines.prepare.stages.complexity import _words, complexity, ranks, stages_of
from raymill.pipelines.text.tokens import Phrases
from tests.support.inline import prepare_inline
from tests.support.prepared_runs import records

EASY = "Yes, number {n} is in the office and you can take it."
HARD = (
    "First measure the torque of flange {n}, because corrosion{n} lowers it. Therefore the residual strain{n} is "
    "recalculated, and if it exceeds tolerance{n}, then the bearing has to be replaced; finally note the vibration{n}."
)


def row(n: int) -> dict:
    hard = n % 2 == 1
    answer = (HARD if hard else EASY).format(n=n)
    return {"id": f"r{n}", "question": f"What about number {n} of these?", "answer": answer} | {
        "day": f"2026-01-{1 + n % 28:02}"
    }


@pytest.fixture
def settings(tmp_path) -> dict:
    pq.write_table(pa.Table.from_pylist([row(n) for n in range(80)]), tmp_path / "in.parquet", row_group_size=8)
    columns = {"prompt": "question", "completion": "answer", "day": "day"}
    return {
        "inputs": [{"path": str(tmp_path / "in.parquet"), "id": "id", "columns": columns}],
        "dedup": None,
        "curriculum": {"stages": 4, "domain": ["torque", "residual strain"]},
        "output": str(tmp_path / "out"),
    }


def test_hard_records_are_in_the_last_stages_and_stages_have_equal_sizes(settings, monkeypatch):
    run = prepare_inline(settings, monkeypatch)
    kept = records(run)
    assert Counter(row["stage"] for row in kept.values()) == {1: 20, 2: 20, 3: 20, 4: 20}
    assert run.report["stages"] == {str(stage): 20 for stage in range(1, 5)}
    hard = {id for id in kept if int(id[1:]) % 2}
    assert {id for id, row in kept.items() if row["stage"] > 2} == hard
    scores = sorted((row["complexity"], row["stage"]) for row in kept.values())
    assert [stage for _, stage in scores] == sorted(stage for _, stage in scores)
    assert 0 <= scores[0][0] < 0.5 < scores[-1][0] <= 1


def test_the_result_does_not_depend_on_units(settings, monkeypatch, tmp_path):
    one = prepare_inline(settings, monkeypatch)
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // 5)
    many = prepare_inline(settings | {"output": str(tmp_path / "many")}, monkeypatch)
    assert len(Artifact.load(Store(), f"{many.uri}/_work/words").manifest.files) > 1
    assert records(one) == records(many)


def test_without_a_curriculum_there_are_no_such_columns(settings, monkeypatch):
    run = prepare_inline(settings | {"curriculum": None}, monkeypatch)
    assert "stage" not in run.split("train").schema.names


def test_what_is_measured_can_be_counted_by_hand():
    reasoning, domain = Phrases(["because", "on the other hand"]), Phrases(["red wine"])
    found = _words(
        [Sides("", "One two", "Because, because on the other hand.", 1), Sides("Be brief", "Red wine red", "a", 1)],
        reasoning,
        domain,
    ).to_pylist()
    assert [row["question_length"] for row in found] == [2, 5]
    assert [row["answer_length"] for row in found] == [6, 1]
    assert [row["reasoning"] for row in found] == [3, 0]
    assert [row["domain"] for row in found] == pytest.approx([0, 2 / 6])
    assert [len(row["words"]) for row in found] == [7, 5], "different words"
    text, blank, all_of_it = _words(
        [Sides("", "Because of it", "", 0), Sides("", "", "", 1), Sides("", "red wine", "red wine", 1)],
        reasoning,
        Phrases(["red wine", "wine"]),
    ).to_pylist()
    assert (text["question_length"], text["answer_length"], text["reasoning"]) == (3, 3, 1), "a text is both"
    assert (blank["domain"], blank["words"], all_of_it["domain"]) == (0, [], 1), "at most all words"


def test_rare_words_make_a_record_difficult(settings, monkeypatch):
    weights = {"question_length": 0, "answer_length": 0, "reasoning": 0, "domain": 0}
    rare = prepare_inline(settings | {"curriculum": {"weights": weights}}, monkeypatch)
    kept = records(rare)
    assert all((row["stage"] > 2) == bool(int(id[1:]) % 2) for id, row in kept.items()), (
        "only those have words of their own"
    )


def test_ranks_are_shares_of_smaller_values():
    assert ranks(np.array([5.0, 1, 1, 9, 3])).tolist() == [0.75, 0.125, 0.125, 1, 0.5]
    assert ranks(np.array([7.0])).tolist() == [0] and ranks(np.empty(0)).tolist() == []
    numbers = {"a": np.array([1.0, 2, 3]), "b": np.array([3.0, 2, 1])}
    assert complexity(numbers, {"a": 1, "b": 1}).tolist() == [0.5, 0.5, 0.5]
    assert complexity(numbers, {"a": 3, "b": 1}).tolist() == [0.25, 0.5, 0.75]
    assert complexity(numbers, {"a": 6, "b": 2}).tolist() == [0.25, 0.5, 0.75], "weights are relative"
    assert complexity(numbers, {"a": 1, "b": 0}).tolist() == [0, 0.5, 1]


def test_the_weight_of_the_domain_counts_with_words_alone(settings):
    plain = {"kind": "prepare", "name": "x"} | settings
    asked = PrepareConfig.model_validate(plain | {"curriculum": {"weights": {"domain": 3}}}).curriculum
    given = PrepareConfig.model_validate(plain | {"curriculum": {"weights": {"domain": 3}, "domain": ["x"]}}).curriculum
    assert [one.used_weights["domain"] for one in (asked, given)] == [0, 3]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-01", 0), (" 1970-01-02T00:00:00\n", 86_400_000_000), ("1970-01-01T00:00:00.000007Z", 7),
        ("1970-01-01T02:00:00+02:00", 0), ("1969-12-31", -86_400_000_000), ("soon", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_times_are_microseconds_of_utc(text, time):
    assert microseconds(text) == time


def test_stages_are_of_equal_sizes_whatever_the_scores():
    same = stages_of(np.zeros(10), np.arange(10)[::-1].astype(np.uint64), 4)
    assert sorted(np.bincount(same)[1:].tolist()) == [2, 2, 3, 3] and same.tolist() == sorted(
        same.tolist(), reverse=True
    )
    assert stages_of(np.array([0.5, 0.1, 0.5, 0.1]), np.array([4, 3, 1, 2], np.uint64), 4).tolist() == [4, 2, 3, 1]
    assert stages_of(np.empty(0), np.empty(0, np.uint64), 4).tolist() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curriculum": {"domain": ["..."]}}, "has no word"),
        ({"curriculum": {"weights": dict.fromkeys(("question_length", "answer_length", "rarity", "reasoning"), 0)}},
         "all are 0"),
        ({"curriculum": None, "split": {"stratify": ["complexity"]}}, r"add `curriculum: \{\}`"),
        ({"split": {"by_time": "day", "stratify": ["source"]}}, "time alone decides"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings | change)


# --- strata and classes that are no metadata


def test_splits_have_equal_shares_of_stages_and_lengths(settings, monkeypatch, tmp_path):
    run = prepare_inline(settings | {"split": {"stratify": ["complexity"]}}, monkeypatch)
    counts = Counter((row["split"], row["stage"]) for row in records(run).values())
    assert [counts["test", stage] for stage in range(1, 5)] == [2] * 4
    assert [counts["train", stage] for stage in range(1, 5)] == [16] * 4
    by_length = {"split": {"stratify": ["length"]}, "curriculum": None, "output": str(tmp_path / "length")}
    run = prepare_inline(settings | by_length, monkeypatch)
    counts = Counter((row["split"], int(id[1:]) % 2) for id, row in records(run).items())
    assert [counts["test", hard] for hard in (0, 1)] == [4, 4]


def test_training_is_balanced_by_length(settings, monkeypatch, tmp_path):
    pq.write_table(pa.Table.from_pylist([row(n) for n in range(80) if n % 2 or n < 20]), tmp_path / "in.parquet")
    split = {"balance": {"by": ["length"], "to": "smallest"}, "stratify": ["length"]}
    run = prepare_inline(settings | {"split": split, "curriculum": None}, monkeypatch)
    hard = Counter(int(row["id"][1:]) % 2 for row in run.split("train").table().to_pylist())
    assert hard == {0: 8, 1: 8}


def test_training_is_balanced_by_complexity(settings, monkeypatch, tmp_path):
    split = {"balance": {"by": ["complexity"], "to": 5}, "stratify": ["complexity"]}
    run = prepare_inline(settings | {"split": split}, monkeypatch)
    stages = Counter(row["stage"] for row in run.split("train").table().to_pylist())
    assert stages == {1: 5, 2: 5, 3: 5, 4: 5}
    split["balance"] |= {"to": {1: 4, 4: 32}}
    run = prepare_inline(settings | {"split": split, "output": str(tmp_path / "named")}, monkeypatch)
    stages = Counter(row["stage"] for row in run.split("train").table().to_pylist())
    assert stages == {1: 4, 2: 16, 3: 16, 4: 32} and run.report["totals"]["repeated"] == 16


def test_training_is_balanced_by_language(settings, monkeypatch, tmp_path):
    german = "Ja, Nummer {n} liegt noch im Büro, und Sie können sie jederzeit dort abholen, wenn jemand da ist."
    rows = [row(n) for n in range(20)]
    for n in range(0, 20, 5):
        rows[n] |= {"question": f"Was ist eigentlich mit der Nummer {n} von diesen hier?", "answer": german.format(n=n)}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    split = {"balance": {"by": ["language"], "to": "largest"}, "stratify": ["language"]}
    run = prepare_inline(settings | {"split": split, "curriculum": None}, monkeypatch)
    german = Counter("Nummer" in row["messages"][0]["content"] for row in run.split("train").table().to_pylist())
    assert german == {False: 13, True: 13}


# --- split by time


def day_of(row: dict) -> str:
    return row["metadata"]["day"]


def test_the_oldest_records_are_for_training_and_the_newest_for_testing(settings, monkeypatch):
    run = prepare_inline(settings | {"split": {"by_time": "day"}, "curriculum": None}, monkeypatch)
    days = {split: sorted(day_of(row) for row in run.split(split).table().to_pylist()) for split in SPLITS}
    assert days["train"][-1] <= days["validation"][0] and days["validation"][-1] <= days["test"][0]
    assert [len(days[split]) for split in SPLITS] == [64, 8, 8]
    assert run.report["older"] == 0 and not run.report["warnings"]


def test_a_group_goes_by_its_newest_record_and_the_report_counts_the_older_ones(settings, monkeypatch, tmp_path):
    rows = [{"question": f"What about number {n}?", "answer": EASY.format(n=n), "day": f"2026-02-{1 + n:02}T10:00:00Z",
             "customer": f"c{0 if n in (0, 19) else n}"} for n in range(20)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    source = {"path": str(tmp_path / "in.parquet")}
    source["columns"] = {"prompt": "question", "completion": "answer", "day": "day", "customer": "customer"}
    split = {"by_time": "day", "group": ["customer"]}
    run = prepare_inline(settings | {"inputs": [source], "split": split, "curriculum": None}, monkeypatch)
    test = sorted(day_of(row) for row in run.split("test").table().to_pylist())
    assert test == ["2026-02-01T10:00:00Z", "2026-02-20T10:00:00Z"]
    assert run.report["older"] == 1 and set(run.report["straddling"].values()) == {0}
    (warning,) = run.report["warnings"]
    assert warning.startswith("1 record for validation or testing")


def test_records_without_a_time_are_in_the_ledger_and_none_with_one_is_an_error(settings, monkeypatch, tmp_path):
    rows = [row(n) | ({"day": "soon"} if n < 3 else {}) for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    plain = settings | {"split": {"by_time": "day"}, "curriculum": None}
    run = prepare_inline(plain, monkeypatch)
    removed = Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()
    assert {(row["id"], row["reason"], row["value"]) for row in removed} == {
        (f"r{n}", "no_time", "day: soon") for n in range(3)
    }
    assert run.report["warnings"] == ["3 records without a time for split.by_time are in the ledger, as no_time."]
    pq.write_table(pa.Table.from_pylist([row(n) | {"day": None} for n in range(3)]), tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"none of 3 records has a time in day; record r0 has 'day: '"):
        prepare_inline(plain | {"output": str(tmp_path / "none")}, monkeypatch)
