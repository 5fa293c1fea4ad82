"""Parts of the report that follow from few numbers: times of a continued run, order of groups, ids and addresses."""

import json
import time
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.report import gather
from raymill.pipelines.curate.stages.samples import SAMPLES_SCHEMA
from raymill.pipelines.curate.stages.tallies import DUPLICATES_SCHEMA, sum_of_units
from raymill.pipelines.dedup.compare import NEAR


@pytest.mark.parametrize(
    ("wall_s", "wanted"),
    [
        ({"measure": 2.0, "index": 0.5, "select": 1.0}, 3.5),
        ({"index": 0.5, "select": 1.0}, None),  # `measure` was done by an earlier call
    ],
)
def test_the_wall_time_of_a_run_is_known_if_one_call_did_all_its_stages(wall_s, wanted):
    tallies: Any = SimpleNamespace(total=lambda table: {"documents": 3, "characters": 11})
    totals = gather._totals(tallies, SimpleNamespace(wall_s=wall_s), {"measure": 4.004, "select": 1.0})  # type: ignore[arg-type]
    assert totals["wall_s"] == wanted and totals["core_s"] == 5.0
    assert totals["corpus"] == {"documents": 3, "characters": 11, "tokens_estimate": 2}


def test_the_largest_groups_come_first_and_equal_ones_by_their_names():
    """Of a pair of which one side is missing nothing is shown."""
    pairs = [(7, 2, "b"), (3, 2, "a"), (5, 9, "c")]
    rows = [
        {"group_id": group, "duplicate_count": count, "id": id + side, "partner": side or None, "value": 0.9}
        for side in ("", "'")
        for group, count, id in pairs
    ]
    samples = pa.Table.from_pylist([*rows, {"group_id": 1, "duplicate_count": 99, "id": "d"}], SAMPLES_SCHEMA)
    found = [
        (one["group_id"], one["documents"], one["kept"]["id"], one["removed"]["id"])
        for one in gather._groups(9, samples)
    ]
    assert found == [("5", 9, "c", "c'"), ("3", 2, "a", "a'"), ("7", 2, "b", "b'")]
    assert [one["group_id"] for one in gather._groups(2, samples)] == ["5", "3"]


def test_addresses_are_shown_without_passwords():
    sets = [{"name": "a", "path": "s3://me:secret@bucket/set.jsonl", "columns": ["text"]}]
    settings = {"kind": "curate", "name": "n", "inputs": [{"path": "https://me:secret@host/a"}], "output": "/out"}
    config = CurateConfig.model_validate(settings | {"rules": {"packs": [], "decontamination": {"sets": sets}}})
    engine: Any = SimpleNamespace(root="/out")
    shown = gather._run(config, engine)["config"]
    assert shown["inputs"][0]["path"] == "https://me:***@host/a"
    assert "secret" not in json.dumps(shown) and "s3://me:***@bucket/set.jsonl" in json.dumps(shown)


def test_a_run_ended_at_a_whole_second_of_universal_time():
    config = CurateConfig.model_validate({"kind": "curate", "name": "n", "inputs": [{"path": "/a"}], "output": "/out"})
    engine: Any = SimpleNamespace(root="/out")
    before, run = time.time(), gather._run(config, engine)
    ended = datetime.fromisoformat(run["finished"])
    assert run["finished"].endswith("+00:00") and ended.microsecond == 0
    assert int(before) <= ended.timestamp() <= time.time()
    assert (run["name"], run["kind"], run["output"]) == ("n", "curate", "/out")


def test_the_report_adds_duplicates_up_without_having_all_in_memory():
    """A row for each unit and language: of 20,000 units and 100 languages four million."""
    languages, units_of_a_table = [f"l{number}" for number in range(20)], 250
    peaks = []
    for units in (2_000, 4_000):
        before, peak = pa.total_allocated_bytes(), 0

        def tables(units=units, before=before):
            nonlocal peak
            for first in range(0, units, units_of_a_table):
                rows = units_of_a_table * len(languages)
                columns = {
                    "unit": np.repeat(np.arange(first, first + units_of_a_table, dtype=np.int32), len(languages)),
                    "source": pa.repeat("web", rows), "language": languages * units_of_a_table,
                    "reason": pa.repeat(NEAR, rows), "documents": np.ones(rows, np.int64),
                    "characters": np.full(rows, 7),
                }  # fmt: skip
                made = pa.table(columns, schema=DUPLICATES_SCHEMA)
                peak = max(peak, pa.total_allocated_bytes() - before)
                yield made
                del made

        found = sum_of_units(tables()).to_pylist()
        peaks.append(peak)
        assert len(found) == len(languages)
        assert {(row["reason"], row["documents"], row["characters"]) for row in found} == {(NEAR, units, 7 * units)}
    assert peaks[0] > units_of_a_table * len(languages) * 20, "a table is seen"
    assert peaks[1] < 1.2 * peaks[0], peaks


@pytest.mark.parametrize(
    ("id", "shown"), [("a" * 60, "a" * 60), ("a" * 61, "a" * 60 + "..."), ("a\x1b[1m", r"'a\x1b[1m'"), ("ü", "ü")]
)
def test_ids_that_several_documents_have_are_shown_printable_and_short(id, shown):
    assert gather._printable(id) == shown
