"""The sample of an input, and the size of an input for a plan."""

import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.plan import sample as sample_of_plan
from raymill.cluster.plan.sample import Sample, SampledUnit, _cut, document_count, draw_sample, planned_input, spread
from raymill.cluster.plan.trial import Trial
from raymill.cluster.readers import reader
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import CurateJob
from tests.support.warc_records import record, response


def config_of(**changes):
    return CurateConfig.model_validate({"kind": "curate", "name": "p"} | changes)


def frozen(tmp_path, files=40, documents=60, **more):
    """Files of JSON Lines with texts of a kilobyte, frozen."""
    (tmp_path / "in").mkdir()
    for number in range(files):
        rows = [{"id": f"{number}-{row}", "text": f"{number} {row} " + "word " * 200} for row in range(documents)]
        (tmp_path / "in" / f"{number:03}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = [{"path": str(tmp_path / "in"), "id": "id"}]
    config = config_of(inputs=inputs, output=str(tmp_path / "out"), **more)
    return config, CurateJob(config).frozen


def test_the_sample_is_spread_over_the_input_and_the_same_each_time(tmp_path):
    config, manifest = frozen(tmp_path, documents=1000, execution={"unit_mib": 1})
    one, other = draw_sample(manifest, config.limits), draw_sample(manifest, config.limits)
    assert len(manifest.units) > 16 == len(one.pieces)
    ids = [piece.documents["id"].to_pylist() for piece in one.pieces]
    assert ids == [piece.documents["id"].to_pylist() for piece in other.pieces]
    numbers = [int(of_piece[0].partition("-")[0]) for of_piece in ids]
    assert numbers == sorted(numbers) and numbers[0] < 4 and numbers[-1] >= 36
    assert all(len(of_piece) < 1001 for of_piece in ids)
    # The text is smaller than the lines that have it, by keys and ids.
    assert 0.9 < one.text_share < 1.0


@settings(max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.integers(1, 20))
def test_the_units_of_the_sample_hold_the_middles_of_equal_parts(sizes, count):
    bytes_of = [number for number, size in enumerate(sizes) for _ in range(size)]  # of each byte, its unit
    middles = [len(bytes_of) * (2 * part + 1) // (2 * count) for part in range(count)]
    assert spread(sizes, count) == sorted({bytes_of[middle] for middle in middles})


def written_sample(tmp_path, format, unit_mib=1):
    """Lines of three files, the second of them broken, and what is drawn of them."""
    texts = [f"{number} {'ä' * 1000}" for number in range(1500)]
    (tmp_path / "in").mkdir()
    if format == "parquet":
        pq.write_table(pa.table({"text": texts}), tmp_path / "in" / "a.parquet", row_group_size=500)
    else:
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n{\n" for text in texts).encode()
        packed = gzip.compress(lines) if format == "jsonl.gz" else lines
        (tmp_path / "in" / f"a.{format}").write_bytes(packed)
    plain = {"inputs": [{"path": str(tmp_path / "in")}], "output": str(tmp_path / "o"), "execution": {"unit_mib": 8}}
    config = config_of(**plain)
    (tmp_path / "in" / "empty.jsonl").touch()
    inputs = CurateJob(config).frozen
    return texts, draw_sample(inputs, config.limits)


@pytest.mark.parametrize("format", ["jsonl", "jsonl.gz", "parquet"])
def test_a_piece_is_the_first_mebibyte_of_text_of_its_unit(tmp_path, format):
    texts, sample = written_sample(tmp_path, format)
    (piece,) = sample.pieces
    drawn = piece.documents["text"].to_pylist()
    size = sum(len(text.encode()) for text in drawn)
    assert drawn == texts[: len(drawn)] and sample.documents == len(drawn) and sample.text_bytes == size
    if format == "parquet":  # the first row group is smaller
        assert len(drawn) == 500 and piece.unreadable == 0 == sample.unreadable_share == sample.read_s
    else:
        read_whole = format == "jsonl.gz"  # of a plain file only the first MiB of its lines
        assert size - len(drawn[-1].encode()) < 1 << 20 and (size >= 1 << 20) == read_whole
        assert abs(piece.unreadable - len(drawn)) <= 1, "every second line is broken"
        assert sample.unreadable_share == piece.unreadable / (piece.unreadable + len(drawn)) and sample.read_s > 0
    assert (piece.text_share is None) == (format == "parquet")


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "one-member.warc.gz"])
def test_pages_of_an_archive_of_which_the_beginning_is_read_are_counted_by_its_bytes(tmp_path, monkeypatch, name):
    """Of 400 pages, whose text is a twentieth of their bytes, the table of the sample has some dozens."""
    for module in (reader, sample_of_plan):
        monkeypatch.setattr(module, "TABLE_BYTES", 60_000)
    records = []
    for number in range(400):
        text = "".join(f"<p>Page {number} has the line {line} of the mill at the river.</p>" for line in range(20))
        tags = "".join(f"<i class='{number * 7919 + tag * 104729}'></i>" for tag in range(800))
        body = f"<html><body><article>{text}</article><footer>{tags}</footer></body></html>"
        records.append(record("response", response(body.encode()), number))
    whole = gzip.compress(b"".join(records)) if name.startswith("one") else b"".join(map(gzip.compress, records))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(whole if name.endswith(".gz") else b"".join(records))
    config = config_of(inputs=[{"path": str(tmp_path / "in")}], output=str(tmp_path / "o"))
    inputs = CurateJob(config).frozen
    drawn = draw_sample(inputs, config.limits)
    assert 20 < drawn.documents < 200
    _, planned, is_exact = planned_input(inputs, drawn, None, None)
    if name.startswith("one"):  # places are bytes of its content
        assert drawn.text_share == 1.0
    else:
        assert not is_exact and 360 < planned.rows < 440


@pytest.mark.parametrize("lines", [60_000, 150_000], ids=["3 MB", "9 MB"])
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_pages_of_an_archive_that_begins_with_a_very_long_one_are_counted(tmp_path, name, lines):
    pages = ["".join(f"<p>The line {line} of the mill at the river.</p>" for line in range(lines))]
    pages += ["".join(f"<p>Page {n} has the line {line} of the mill.</p>" for line in range(60)) for n in range(50)]
    bodies = [f"<html><body><article>{page}</article></body></html>".encode() for page in pages]
    records = [record("response", response(body), number) for number, body in enumerate(bodies)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(b"".join(map(gzip.compress, records) if name.endswith(".gz") else records))
    config = config_of(inputs=[{"path": str(tmp_path / "in")}], output=str(tmp_path / "o"))
    inputs = CurateJob(config).frozen
    _, planned, _ = planned_input(inputs, draw_sample(inputs, config.limits), None, None)
    assert 40 < planned.rows < 65


def piece_of(texts, unreadable=0, read_s=0.0, text_share=None, source="a"):
    return SampledUnit(
        source, ["text"], pa.table({"text": pa.array(texts, pa.large_string())}), unreadable, read_s, text_share
    )


def test_a_sample_is_the_sum_of_its_pieces():
    pieces = (
        piece_of(["ä", "b", "c"], 2, 0.1, 0.5),
        piece_of(["dd"], 1, 0.3, None, "b"),
        piece_of(["e", "f"], 0, 0.2, 0.7),
    )
    sample = Sample(pieces)
    assert (sample.documents, sample.text_bytes) == (6, 8)
    assert sample.unreadable_share == 3 / 9
    assert (sample.read_s, sample.text_share) == (pytest.approx(0.6 / 8), pytest.approx(0.6))
    assert {source: table["text"].to_pylist() for source, table in sample.by_source(2).items()} == {
        "a": ["ä", "c", "f"], "b": ["dd"]
    }  # fmt: skip
    assert Sample((piece_of(["x"]),)).text_share == 1.0


@pytest.mark.parametrize(("size", "rows"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3), (9, 3), (100, 3)])
def test_a_table_is_cut_after_the_row_that_reaches_the_size(size, rows):
    assert _cut(pa.table({"text": ["abc", "dé", "fgh"]}), size).num_rows == rows


def test_a_sample_is_two_files_of_each_source_and_counts_its_rows(tmp_path):
    sample = Sample((piece_of(["a", "b", "c"]), piece_of(["d"], source="x"), piece_of(["e", "f"])))
    trial = Trial(str(tmp_path), Store())
    folders = sample.write(trial, 2, lambda source, table: table.append_column("of", pa.array([source] * len(table))))
    found = {
        source: [pq.read_table(f"{folder}/{name}.parquet").to_pydict() for name in ("a", "b")]
        for source, folder in folders.items()
    }
    assert found["a"] == [{"text": ["a", "c"], "of": ["a", "a"]}, {"text": ["f"], "of": ["a"]}]
    assert [part["text"] for part in found["x"]] == [["d"], []] and trial.rows == 4


def test_the_size_of_an_input_equals_the_one_of_its_files_or_of_more_of_them(tmp_path):
    config, manifest = frozen(tmp_path, files=4)
    bad = replace(manifest, files=(*manifest.files, replace(manifest.files[0], uri="/bad", problem="bad")))
    sample = draw_sample(manifest, config.limits)
    _, size, exact = planned_input(bad, sample, None, None)
    assert (size.files, size.reads, exact) == (4, sum(len(unit.uris) for unit in manifest.units), False)
    assert size.stored_bytes == sum(file.size for file in manifest.files) and abs(size.rows - 240) < 5
    many, larger, exact = planned_input(manifest, sample, 1 << 20, 240_000)
    assert exact and larger.rows == 240_000 and larger.files == pytest.approx(4000, rel=0.02)
    assert larger.stored_bytes == pytest.approx(1000 * size.stored_bytes, rel=0.02)
    whole = sum(unit.bytes for unit in manifest.units) * 240_000 / size.rows
    assert len(many.units) == len(larger.weights) == -(-whole // (1 << 20)) and set(larger.weights) == {1 << 20}
    assert [unit.index for unit in many.units] == list(range(len(many.units)))
    few, smaller, _ = planned_input(manifest, sample, 1 << 20, 10)
    assert len(few.units) == 1 and smaller.weights[0] < 1 << 20, "one unit, no larger than the input"


def test_documents_are_counted_by_footers_and_estimated_from_text(tmp_path):
    _, manifest = frozen(tmp_path, files=2)
    size = sum(unit.bytes for unit in manifest.units)
    assert document_count(manifest, 100) == -(-size // 100)
    stated = replace(manifest, files=tuple(replace(file, rows=7) for file in manifest.files))
    assert document_count(stated, 100) == 14
