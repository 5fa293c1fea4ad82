"""Labels that correct the records of a data set: prepare -> annotate -> finish -> prepare."""

import json

import pyarrow.parquet as pq
import pytest

from raymill.pipelines.annotate.annotations import Annotation
from tests.support.annotate_inline import LABELS, annotate_inline, true_label, write_records
from tests.support.inline import prepare_inline
from tests.support.prepared_runs import records


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Settings and run of a data set in which every tenth label is wrong."""
    wrong = {f"r{number}" for number in range(0, 60, 5)}
    lines = pq.read_table(write_records(tmp_path / "tickets.parquet", 60)).to_pylist()
    for row in lines:
        if row["id"] in wrong:
            row["label"] = "other" if row["label"] != "other" else "login"
    source = tmp_path / "tickets.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {"text": "prompt", "category": "label", "labels": "label"}
    settings = {
        "inputs": [{"source": "tickets", "path": str(source), "id": "id", "columns": columns}],
        "records": {"shape": "text"},
        "dedup": None,
        "output": str(tmp_path / "one"),
    }
    return settings, prepare_inline(settings, monkeypatch), wrong


@pytest.mark.parametrize(
    ("field", "column"),
    [("category", "metadata.category"), ("labels", "annotations.labels"), ("label", "annotations.labels")],
)
def test_what_annotators_agree_on_corrects_the_data_set(data, tmp_path, monkeypatch, field, column):
    settings, first, wrong = data
    config = {
        "kind": "annotate",
        "name": "round-1",
        "inputs": [{"path": f"{first.uri}/train", "id": "id"}],
        "task": {"type": "classify", "show": ["text"], "labels": list(LABELS)},
        "choose": {"count": 60},
        "annotators": ["a1", "a2"],
        "overlap": 2,
        "corrects": {"field": field, "column": column},
        "output": str(tmp_path / "round"),
    }
    run = annotate_inline(config, monkeypatch)
    round, place = run.round, config["task"]["show"][0]
    right = {row.id: true_label(type(row)(row.id, "", {"prompt": row.record[place]})) for row in round.tasks}
    disputed = next(iter(sorted(right)))
    for name in ("a1", "a2"):
        for id, label in right.items():
            value = label if id != disputed or name == "a1" else next(one for one in LABELS if one != label)
            round.answers.add([Annotation(id, name, "labelled", value, at="2026-11-27T00:00:00")])
    run.finish(method="majority")
    patch = tmp_path / "round/labels/patch.jsonl"
    lines = [json.loads(line) for line in patch.read_text().splitlines()]
    in_train = {id for id in wrong if id in right} - {disputed}
    assert {one["id"] for one in lines} == in_train and len(in_train) > 2
    assert all(one["edited_by"] == "a1, a2" and one["source"] == "round-1" for one in lines)

    second = prepare_inline(settings | {"patches": [str(patch)], "output": str(tmp_path / "two")}, monkeypatch)
    before, after = records(first), records(second)
    changed = {id for id in after if after[id]["annotations"] != before[id]["annotations"]}
    changed |= {id for id in after if after[id]["metadata"]["category"] != before[id]["metadata"]["category"]}
    assert changed == in_train and second.report["patches"]["applied"] == {"round-1": len(in_train)}
    for id in in_train:
        found = after[id]["metadata"]["category"] if field == "category" else after[id]["annotations"]["labels"][0]
        assert found == right[id]
        assert after[id]["provenance"]["operation"] == "edited by a1 a2"


def test_without_the_setting_there_is_no_patch(data, tmp_path, monkeypatch):
    _, first, _ = data
    config = {
        "kind": "annotate",
        "inputs": [{"path": f"{first.uri}/train", "id": "id"}],
        "task": {"type": "correct", "field": "text", "show": ["text"]},
        "choose": {"count": 3},
        "annotators": ["a1"],
        "output": str(tmp_path / "round"),
    }
    annotate_inline(config, monkeypatch).finish()
    assert not (tmp_path / "round/labels/patch.jsonl").exists()
