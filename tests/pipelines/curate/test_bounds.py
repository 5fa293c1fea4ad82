"""Bounds in `sample`, `explain`, the dry run, the plan of machines and the join of units: at them and beyond."""

import gc
import json
import math
import os
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact, Manifest, describe_schema
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame.first_look import first_look
from raymill.cluster.readers.freeze import freeze, freeze_listing
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import machines
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.sample import sample_rows, shown_row
from raymill.pipelines.curate.stages import ids as id_stages
from raymill.pipelines.curate.stages.tallies import neighbours
from raymill.pipelines.dedup.cost import memory_to_group
from tests.support.inline import curate_inline

OFF = {"language": None, "rules": None, "personal_data": None, "dedup": None}


@pytest.fixture(params=[7, 4_000_000])
def many(request, tmp_path, monkeypatch):
    """160 documents in several units of two sources, with ids that several of them have, in one range or many."""
    monkeypatch.setattr(id_stages, "DOCUMENTS_OF_A_RANGE", request.param)
    monkeypatch.setattr(id_stages, "DOCUMENTS_OF_A_UNIT", 50)
    generator = np.random.default_rng(3)
    ids = {source: [f"same{n:02}" for n in generator.integers(0, 30, 78)] + ["own0", "own1"] for source in "ab"}
    for source, names in ids.items():
        texts = [f"{source} {at} " + "x" * (480 + at) for at in range(80)]
        rows = [json.dumps({"id": id, "text": text}) for id, text in zip(names, texts, strict=True)]
        (tmp_path / f"{source}.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr("raymill.cluster.frame.files.freeze_listing", lambda listing, *_: freeze_listing(listing, 5000))
    inputs = [{"source": source, "path": str(tmp_path / f"{source}.jsonl"), "id": "id"} for source in "ab"]
    run = curate_inline({"inputs": inputs, "output": str(tmp_path / "run")} | OFF, monkeypatch)
    return run, ids


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_every_hash_is_in_one_range(count):
    spans = id_stages.ranges(count)
    assert spans[0][0] == 0 and spans[-1][1] == (1 << 64) - 1 and len(spans) == count
    assert all(first <= last for first, last in spans)
    assert [last + 1 for _, last in spans[:-1]] == [first for first, _ in spans[1:]]


def test_hashes_at_the_ends_of_a_range_are_read_with_it(tmp_path):
    half = 1 << 63
    hashes = pa.array([0, 0, half - 1, half - 1, half, half, 2 * half - 1, 2 * half - 1], pa.uint64())
    pq.write_table(pa.table({"hash": hashes, "position": range(8)}), uri := str(tmp_path / "index"), row_group_size=2)
    spans = id_stages.ranges(2)
    found = [
        [at for _, positions in id_stages.between(Store(), uri, *span) for at in positions.tolist()] for span in spans
    ]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_ids_of_several_documents_are_counted_and_the_first_twenty_are_written(many):
    run, ids = many
    wanted = []
    for source, names in ids.items():
        twice = {id: count for id, count in Counter(names).items() if count > 1}  # in the order of the documents
        assert len(twice) > 20
        wanted.append(
            {"source": source, "ids": len(twice), "documents": sum(twice.values()), "examples": list(twice)[:3]}
        )
        rows = Artifact.load(Store(), f"{run.uri}/_work/duplicate_ids").table().to_pylist()
        assert [(row["id"], row["documents"]) for row in rows if row["source"] == source] == list(twice.items())[:20]
    assert run.report["duplicate_ids"] == wanted


def test_a_sample_cuts_texts_and_lists_values_at_their_bounds(many):
    run, ids = many
    texts = [shown_row(row)["text"] for row in sample_rows(Store(), f"{run.uri}/corpus", 200, [], 1)]
    assert len(texts) == 160
    for text in texts:
        source, at, *_ = text.split(" ")
        length = len(f"{source} {at} ") + 480 + int(at)
        assert text.endswith(f"... ({length} characters)") == (length > 500), length
        assert len(text.partition("...")[0]) == min(length, 500)
    names = sorted(set(ids["a"]) | set(ids["b"]))
    with pytest.raises(ConfigError) as caught:
        sample_rows(Store(), f"{run.uri}/corpus", 5, ["id=none", "source=a"], 1)
    listed = str(caught.value).partition("no row has id=none and source=a. id there holds: ")[2]
    assert listed.endswith(" and more.") and listed.count(",") == 19
    assert set(listed.removesuffix(" and more.").split(", ")) <= set(names)
    with pytest.raises(ConfigError, match=r"source there holds: a, b\.$"):
        sample_rows(Store(), f"{run.uri}/corpus", 5, ["source=none"], 1)


def test_an_unknown_id_is_answered_with_three_others(many):
    run, ids = many
    with pytest.raises(DataError) as caught:
        explain(RunReader(Store(), run.uri), "none")
    assert str(caught.value).endswith(f"Ids there look like: {', '.join(ids['a'][:3])}.")


def test_an_id_is_looked_up_in_a_small_part_of_the_index(tmp_path, monkeypatch):
    lines = [json.dumps({"id": f"d{n}", "text": "A text."}) for n in range(30_000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    settings = {"inputs": [{"path": str(tmp_path / "a.jsonl"), "id": "id"}], "output": str(tmp_path / "run")}
    reader = RunReader(Store(), curate_inline(settings | OFF, monkeypatch).uri)
    read_row_group, rows = pq.ParquetFile.read_row_group, []

    def counted(file: pq.ParquetFile, group: int, **how) -> pa.Table:
        rows.append(file.metadata.row_group(group).num_rows)
        return read_row_group(file, group, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    index = reader.artifact(id_stages.ID_INDEX)
    assert [id_stages.positions_of(index, id) for id in ("d0", "d29999", "none")] == [[0], [29_999], []]
    assert len(rows) <= 3 and max(rows) < 10_000, "of 30,000"


def test_documents_are_found_in_every_file_of_a_unit(tmp_path, monkeypatch):
    for at in range(4):
        lines = [json.dumps({"id": f"{at}-{n}", "text": f"Text {at} {n}."}) for n in range(at + 1)]
        (tmp_path / f"{at}.jsonl").write_text("\n".join(lines))
    settings = {"inputs": [{"path": f"{tmp_path}/*.jsonl", "id": "id"}], "output": str(tmp_path / "run")}
    run = curate_inline(settings | OFF, monkeypatch)
    reader = RunReader(Store(), run.uri)
    assert len(reader.inputs.units) == 1
    for at in range(4):
        for n in range(at + 1):
            (found,) = reader.find(f"{at}-{n}")
            assert reader.place_of(found) == f"row {n}, counted from 0, of {tmp_path}/{at}.jsonl"
            assert reader.text_of(found) == f"Text {at} {n}."


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 50), st.none() | st.integers(1, 5))
def test_neighbours_are_joined_until_they_are_full(sizes, full, most):
    joined = list(neighbours(range(len(sizes)), sizes, full, most))
    assert [item for items in joined for item in items] == list(range(len(sizes)))
    for number, items in enumerate(joined):
        assert 1 <= len(items) <= (most or len(items))
        assert sum(sizes[item] for item in items[:-1]) < full
        assert number == len(joined) - 1 or sum(sizes[item] for item in items) >= full or len(items) == most


@pytest.mark.parametrize("broken", [0, 99, 100])
def test_a_dry_run_looks_at_the_first_hundred_files(tmp_path, broken):
    for at in range(101):
        path = tmp_path / f"{at:03}.jsonl"
        path.write_bytes(json.dumps({"text": "a"}).encode("utf-16" if at == broken else "utf-8"))
    inputs = freeze(Store(), [Input(path=str(tmp_path), format="jsonl")], 1 << 20)
    look = first_look(inputs, Limits())
    assert any(f"{broken:03}.jsonl: the file is UTF-16" in note for note in look.notes) == (broken < 100)
    assert (look.rows, look.unreadable) == (1, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_a_dry_run_counts_what_is_odd_about_the_first_rows(tmp_path, count):
    rows = [{"id": "a", "text": "fine"}, *[{"id": None, "text": "x"}] * count, *[{"id": "b", "text": " \n"}] * count]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n" * count)
    inputs = freeze(Store(), [Input(source="s", path=str(tmp_path / "a.jsonl"), id="id")], 1 << 20)
    look = first_look(inputs, Limits())
    one = count == 1
    assert look.notes == [
        f"Source s: of the first {3 * count + 1} rows of a.jsonl, "
        f"{'1 has no id and is' if one else '2 have no id and are'} named by the hash of the text; "
        f"{'1 has' if one else '2 have'} an empty text; {count} cannot be read: broken_json (not JSON)."
    ]
    assert (look.rows, look.unreadable) == (3 * count + 1, count)


def test_machines_are_planned_for_the_documents_that_footers_state_and_those_that_sizes_suggest(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 10_001}))
    pq.write_table(pa.table({"text": ["x"] * 7}), tmp_path / "b.parquet")
    plain = {"kind": "curate", "name": "x", "inputs": [{"path": str(tmp_path)}], "output": str(tmp_path / "out")}
    config = CurateConfig.model_validate(plain)
    frozen = freeze(config.store, config.inputs, 1 << 20)
    size = (tmp_path / "a.jsonl").stat().st_size
    documents = 7 + math.ceil(size / 2000)
    with monkeypatch.context() as patch:
        patch.setattr("raymill.pipelines.curate.job.memory_to_group", lambda documents, component: documents << 40)
        planned = machines(config, frozen)
    assert f"grouping about {documents} documents has {documents << 10}.0 GiB" in planned.reasons["memory"]
    assert planned.largest_task == documents << 40 and planned.memory > documents << 40
    found = {}
    for rows in (10**9, 2 * 10**9):
        files = tuple(replace(file, rows=rows) if file.rows else file for file in frozen.files)
        found[rows] = machines(config, replace(frozen, files=files))
    for rows, machine in found.items():
        assert machine.largest_task == memory_to_group(rows + documents - 7, config.dedup), (
            "of the rows that footers state"
        )
    without = machines(config.model_copy(update={"dedup": None}), frozen)
    assert "documents" not in without.reasons["memory"]


def test_what_the_driver_keeps_of_a_unit_is_a_few_hundred_bytes(tmp_path):
    """Of the input and of each artifact, by the growth from 200 to 400 units."""

    def kept(units: int) -> tuple[int, int]:
        path = tmp_path / f"{units}.jsonl"
        path.touch()
        os.truncate(path, units << 14)
        store, inputs = Store(), [Input(path=str(path))]
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        frozen = freeze(store, inputs, 1 << 14)
        gc.collect()
        after_freeze = tracemalloc.get_traced_memory()[0]
        assert len(frozen.units) == units
        files = [
            {"path": f"{unit:06d}", "unit": unit, "rows": 5000 + unit, "bytes": 10**6 + unit, "sha256": f"{unit:064x}"}
            for unit in range(units)
        ]
        made = {"kind": "attributes", "fingerprint": "f", "counters": {}, "seconds": 1.0, "made": "", "version": ""}
        written = json.dumps({**made, **describe_schema(pa.schema([])), "files": files}).encode()
        del files
        gc.collect()
        before_manifest = tracemalloc.get_traced_memory()[0]
        manifest = Manifest.from_json(written)
        gc.collect()
        assert len(manifest.files) == units
        return after_freeze - before, tracemalloc.get_traced_memory()[0] - before_manifest

    gc.freeze()  # the collector looks at nothing that other tests left
    tracemalloc.start()
    try:
        kept(10)  # what is imported and cached once
        # What other tests left may be freed during one of the calls.
        grown = [np.subtract(kept(400), kept(200)) / 200 for _ in range(5)]
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    of_unit, of_file = np.median(grown, axis=0)
    assert 100 < of_unit < 500 and 100 < of_file < 500, (of_unit, of_file)


@pytest.mark.parametrize(
    ("units", "cpus", "most"), [(1, 2, 1), (8, 2, 1), (9, 3, 1), (64, 16, 1), (65, 16, 2), (9999, 16, 16)]
)
def test_four_units_keep_a_core_busy(tmp_path, units, cpus, most):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    plain = {"kind": "curate", "name": "x", "inputs": [{"path": str(tmp_path)}], "output": str(tmp_path / "out")}
    config = CurateConfig.model_validate(plain)
    frozen = freeze(config.store, config.inputs, 1 << 20)
    several = replace(frozen, units=frozen.units * units)
    found = machines(config, several)
    assert (found.cpus, found.most) == (cpus, most)
    large = replace(frozen, units=(replace(frozen.units[0], bytes=64 << 30),) * units)
    hurried = machines(config, large, 1)  # as fast as possible: a core for each unit, and at most 64 machines
    assert (hurried.cpus, hurried.most) == (min(16, max(2, units)), min(64, math.ceil(units / max(2, min(16, units)))))


@pytest.mark.parametrize(("words", "near"), [(4, False), (5, True), (6, True)])
def test_documents_of_one_shingle_are_compared_and_shorter_ones_are_not(tmp_path, monkeypatch, words, near):
    """Of texts that differ in case and punctuation alone."""
    plain = ["one", "two", "three", "four", "five", "six"][:words]
    texts = [" ".join(plain), ", ".join(plain).upper()]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in texts))
    settings = OFF | {"inputs": [{"path": str(tmp_path / "a.jsonl"), "id": "id"}], "output": str(tmp_path / "run")}
    run = curate_inline(settings | {"dedup": {}}, monkeypatch)
    assert run.corpus.table()["id"].to_pylist() == texts[: 1 if near else 2]
