"""Damaged, odd and large Arrow streams of a saved data set: bounded memory, and what can be read is read."""

import random
import struct
from pathlib import Path

import pyarrow as pa
import pytest

from raymill.cluster.readers.formats.arrow_streams import record_batches, stated_rows
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import UnreadableRest
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from tests.support.arrow_streams import saved, stream
from tests.support.input_rows import peak_mib_reading, rows_of, texts_and_problems

SMALL = Limits(max_document_bytes=1000, max_block_mib=1)


def texts(*values, type=None) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(values, type)})


def problem_of(path: Path, data: bytes, limits: Limits = SMALL) -> tuple[int, str | None]:
    """(rows before the problem, the problem; None if there is none)."""
    path.write_bytes(data)
    rows = 0
    with Store().open_input(str(path)) as handle:
        try:
            for batch in record_batches(handle, limits):
                rows += batch.num_rows
                batch.to_pylist()
        except UnreadableRest as broken:
            return rows, broken.problem
        except UnicodeDecodeError:
            return rows, "bad_utf8"  # of a row, as `documents` finds
    return rows, None


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_a_record_batch_over_the_bound_is_refused_before_it_is_decompressed(tmp_path, compression):
    fine = texts("first", "second")
    large = texts(*["a" * 999] * 2000)
    rows = rows_of(saved(tmp_path / "d", stream([fine, large, fine], compression)), SMALL)
    assert texts_and_problems(rows) == ["first", "second", "<large_block>"]
    assert rows[-1]["where"].endswith(".arrow row 2: 2,002 rows lost")
    assert len(rows_of(tmp_path / "d", Limits(max_document_bytes=1000, max_block_mib=3))) == 2004


def test_a_compressed_stream_takes_no_more_memory_than_the_bound(tmp_path):
    large = texts(*["a" * 50_000_000] * 6, type=pa.large_string())
    folder = saved(tmp_path / "d", stream([texts("first", type=pa.large_string()), large]))
    del large
    peak_mib, problems = peak_mib_reading(folder)
    assert peak_mib < 100 and problems == ["large_block"]


def test_batches_that_are_small_but_many_are_a_bomb_by_their_ratio(tmp_path):
    limits = Limits(max_document_bytes=1000, max_block_mib=1, max_expansion_ratio=100)
    found = rows_of(saved(tmp_path / "d", stream([texts(*["a" * 999] * 900)] * 5)), limits)
    assert [row["problem"] for row in found if row["problem"]] == ["expansion_bomb"] and len(found) > 900


PROBLEMS_SEEN = {None, "truncated", "corrupt_batch", "large_block", "expansion_bomb", "bad_utf8"}
REPEATED = "z" * 900_000
MANY = 200_000


@pytest.mark.parametrize(
    "column",
    [
        pa.DictionaryArray.from_arrays(pa.array([0] * MANY, pa.int32()), pa.array([REPEATED])),
        pa.array(["z" * 900] * 10, pa.string_view()),
        pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int8()), pa.array(["a", "b"])),
    ],
    ids=["a large value", "views", "small values"],
)
def test_values_that_repeat_are_decoded_a_few_at_a_time(tmp_path, column):
    data = stream([pa.record_batch({"text": column})], None)
    path = tmp_path / "a.arrow"
    path.write_bytes(data)
    with Store().open_input(str(path)) as handle:
        first = next(record_batches(handle, Limits()))
    assert first.num_rows <= max(8 * 2**20 // 900_000, 1) or len(column) <= 10


def test_a_repeated_value_is_a_bomb_once_it_is_decoded(tmp_path):
    column = pa.DictionaryArray.from_arrays(pa.array([0] * MANY, pa.int32()), pa.array([REPEATED]))  # 180 GB
    folder = saved(tmp_path / "d", stream([pa.record_batch({"text": column})]))
    rows = rows_of(folder)
    assert texts_and_problems(rows)[-1] == "<expansion_bomb>" and 40 < len(rows) < 200
    assert peak_mib_reading(folder)[0] < 300


def counted(folder: Path, limits: Limits) -> tuple[list[str | None], ReaderCounts]:
    """(the problem of each row, what the reader counted)."""
    frozen, counts = freeze(Store(), [Input(path=str(folder))]), ReaderCounts()
    tables = [t for unit in frozen.units for t in read_unit(unit, frozen.reading, limits, counts=counts)]
    return [problem for table in tables for problem in table["problem"].to_pylist()], counts


@pytest.mark.parametrize("damage", ["expansion_bomb", "large_block", "corrupt_batch"])
def test_the_rows_behind_a_defect_are_counted_by_what_their_messages_state(tmp_path, damage):
    """200,000 of which nearly all were lost counted as one, so that the run went on."""
    good, many = texts("a", "b", "c"), MANY if damage == "expansion_bomb" else 1000
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * many, pa.int32()), pa.array([REPEATED]))
    batches = {
        "expansion_bomb": [pa.record_batch({"text": repeated})],
        "large_block": [good, texts(*["x" * 3000] * 1000), good, good],
        "corrupt_batch": [good, texts(*["abcdefgh"] * 1000), good],
    }[damage]
    data = bytearray(stream(batches, None))
    if damage == "corrupt_batch":
        at = data.index(struct.pack("<3i", 0, 8, 16))
        data[at + 4 : at + 8] = struct.pack("<i", 1 << 30)
    problems, counts = counted(saved(tmp_path / "d", bytes(data)), Limits() if damage == "expansion_bomb" else SMALL)
    assert problems[-1] == damage and problems.count(damage) == 1
    whole = sum(batch.num_rows for batch in batches)
    assert len(problems) + counts.lost[damage] == whole and counts.lost[damage] > 900


def test_the_rows_that_a_stream_of_others_states_have_a_bound(tmp_path):
    data = bytearray(stream([texts(*["x" * 3000] * 1000)], None))
    at = data.index(struct.pack("<q", 1000))
    for stated in (1 << 62, -1):
        data[at : at + 8] = struct.pack("<q", stated)
        (tmp_path / "a.arrow").write_bytes(data)
        with Store().open_input(str(tmp_path / "a.arrow")) as handle:
            assert stated_rows(handle, Limits()) in (1 << 40, 0)


@pytest.mark.parametrize(
    "column",
    [
        pa.ListArray.from_arrays(
            [0, MANY], pa.DictionaryArray.from_arrays(pa.array([0] * MANY, pa.int32()), [REPEATED])
        ),
        pa.ListViewArray.from_arrays([0] * 2000, [MANY] * 2000, pa.array(range(MANY))).slice(0, 1),
        pa.ListArray.from_arrays([0, 10**8], pa.nulls(10**8)),
        pa.nulls(10**8),
        pa.StructArray.from_arrays([pa.nulls(10**8)], ["a"]),
    ],
    ids=["a list of one large value", "a list that others repeat", "a list of nulls", "nulls", "structs of nulls"],
)
def test_a_few_bytes_that_stand_for_many_values_are_refused(tmp_path, column):
    data = stream([texts("a"), texts("b")])
    good = problem_of(tmp_path / "a.arrow", data, Limits())
    assert good == (2, None)
    batch = pa.record_batch({"messages": column})
    rows, problem = problem_of(tmp_path / "b.arrow", stream([batch]), Limits())
    assert rows <= 1 and (problem in ("large_block", "expansion_bomb") or column.type == pa.list_view(pa.int64()))


def test_dictionaries_count_together(tmp_path):
    def batch(values):
        return pa.record_batch({"text": pa.array(values).dictionary_encode()})

    values = [f"{n}" * 500 for n in range(400)]
    grown = [batch(values[: 100 * count]) for count in (1, 2, 3, 4)]
    assert problem_of(tmp_path / "a.arrow", stream(grown), Limits(max_block_mib=1)) == (1000, None)
    values = [f"{n}" * 500 for n in range(4000)]
    grown = [batch(values[: 400 * count]) for count in range(1, 11)]
    rows, problem = problem_of(tmp_path / "a.arrow", stream(grown), Limits(max_document_bytes=1, max_block_mib=1))
    assert problem == "large_block" and rows > 0


def test_other_forms_of_the_format_are_read(tmp_path):
    """Without a mark at the end, of Arrow before 0.15, with deltas, empty, and nested columns with nulls."""
    batch = pa.record_batch({
        "text": ["a", None, "ü" * 300],
        "messages": pa.array([[{"role": "user", "content": "hi"}], None, []]),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        "pair": pa.array([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2)),
        "when": pa.array([1, None, 3], pa.timestamp("s")),
        "flag": [True, None, False],
        "amount": pa.array([1, None, 3], pa.decimal128(5)),
        "view": pa.array(["x" * 30, None, "y"], pa.string_view()),
    })  # fmt: skip
    for compression in (None, "zstd", "lz4"):
        whole = stream([batch, batch.slice(1), batch.slice(0, 0)], compression)
        for data in (whole, whole[:-8]):
            (tmp_path / "a.arrow").write_bytes(data)
            with Store().open_input(str(tmp_path / "a.arrow")) as handle:
                assert pa.Table.from_batches(record_batches(handle, SMALL)).to_pylist() == [
                    *batch.to_pylist(), *batch.slice(1).to_pylist()
                ]  # fmt: skip
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(use_legacy_format=True)) as writer:
        writer.write_batch(batch)
    assert problem_of(tmp_path / "a.arrow", sink.getvalue().to_pybytes()) == (3, None)
    assert problem_of(tmp_path / "a.arrow", stream([batch])[: -8 - 16]) == (0, "truncated")


def test_offsets_that_lead_out_of_the_data_are_damage(tmp_path):
    """Arrow itself reads them without a check."""
    data = bytearray(stream([texts("abcdefgh", "ijkl")], None))
    at = data.index(struct.pack("<3i", 0, 8, 12))
    data[at + 4 : at + 8] = struct.pack("<i", 1 << 30)
    assert problem_of(tmp_path / "a.arrow", bytes(data)) == (0, "corrupt_batch")


def test_random_damage_never_ends_the_process_and_never_gives_values_from_elsewhere(tmp_path):
    words = [f"{number} " + "word " * 20 for number in range(200)]
    nested = pa.array([[{"role": "user", "content": word}] for word in words])
    for compression in (None, "zstd"):
        batches = [pa.record_batch({"text": words[at : at + 50], "m": nested[at : at + 50]}) for at in (0, 50, 100)]
        whole = stream(batches, compression)
        for seed in range(150):
            draw = random.Random(seed)
            damaged = bytearray(whole)
            for _ in range(draw.choice([1, 10])):
                damaged[draw.randrange(len(whole))] = draw.choice([0, 0xFF, draw.randrange(256)])
            rows, problem = problem_of(tmp_path / "a.arrow", bytes(damaged), Limits())
            assert rows <= 150 and problem in PROBLEMS_SEEN


def test_text_that_is_not_utf8_is_a_problem_of_its_row(tmp_path):
    column = pa.array([b"a", b"\xff", b"b"]).view(pa.string())
    rows = rows_of(saved(tmp_path / "d", stream([pa.record_batch({"text": column})])))
    assert texts_and_problems(rows) == ["a", "<bad_utf8>", "b"]
