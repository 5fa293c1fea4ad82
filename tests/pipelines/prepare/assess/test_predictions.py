"""Wrong labels by the predictions of another model, in a column or a file."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ConfigError, DataError
from cluster.store.interface import NotFound
from tests.support.assessments import gate, metric
from tests.support.inline import prepare_inline
from tests.support.queues import QUEUES, rows, settings_of

WRONG = (4, 31, 62, 77, 110)
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


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "column", "text"])
def test_wrong_labels_are_found_by_the_predictions_of_any_model(tmp_path, monkeypatch, kind):
    made = unreadable(120, WRONG)
    if kind in ("column", "text"):
        made = [one | {"model": predicted(n) if kind == "column" else json.dumps(predicted(n))}
                for n, one in enumerate(made)]  # fmt: skip
    asked = "model" if kind in ("column", "text") else write_file(tmp_path, kind, range(120))
    monkeypatch.setattr("pipelines.prepare.assess.facts.UNIT_BYTES", 1)
    monkeypatch.setattr("pipelines.prepare.assess.vectors.ROWS", 7)
    plain = settings_of(tmp_path, made, label="queue", predictions=asked) | {"gates": {"accuracy": 0.99}}
    run = prepare_inline(plain, monkeypatch)
    labels = run.assessment["findings"]["learned"]["labels"]["queue"]
    assert {one["id"] for one in labels["suspects"]} == {f"r{n:03}" for n in WRONG}
    assert {one["id"]: one["suggested"] for one in labels["suspects"]} == {f"r{n:03}": NAMES[n % 3] for n in WRONG}
    assert labels["judged"] == 120 and metric(run.assessment, "label_quality") == 1 - 5 / 120
    assert "r004" in gate(run.assessment, "accuracy")["mend"]
    # The built-in model still scores the data set, on which it is no better than chance.
    assert metric(run.assessment, "extrinsic_accuracy") < 0.6
    without = settings_of(tmp_path, made, label="queue") | {"output": str(tmp_path / "without")}
    assert metric(prepare_inline(without, monkeypatch).assessment, "label_quality") is None


def test_records_without_a_prediction_are_not_judged(tmp_path, monkeypatch):
    file = write_file(tmp_path, "jsonl", range(20, 100))
    run = prepare_inline(settings_of(tmp_path, unreadable(120, WRONG), label="queue", predictions=file), monkeypatch)
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
