"""Every type of pyarrow in a column that is read: its values are read, or the file is refused with what to do."""

import datetime
import resource
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import DataError
from raymill.cluster.readers.column_types import column_problem, type_problem, value_problems
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.named_columns import NamedColumnsInput
from raymill.cluster.readers.reader import ReaderCounts, Unreadable, python_rows
from raymill.cluster.readers.streams import Span, UnreadableRest
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.sources import Fields, RecordsInput
from raymill.training.pack.corpus_files import CorpusInput
from tests.support.arrow_streams import saved, stream

TIME = datetime.datetime(2020, 1, 2, 3, 4, 5)
SINGLE = {
    pa.null(): None, pa.bool_(): True, pa.int8(): 1, pa.uint64(): 2**64 - 1, pa.float16(): 1.5, pa.float64(): 1.5,
    **dict.fromkeys([pa.string(), pa.large_string(), pa.string_view()], "abc"),
    **dict.fromkeys([pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)], b"abc"),
    **dict.fromkeys([pa.date32(), pa.date64()], TIME.date()),
    **dict.fromkeys([pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")], TIME.time()),
    **dict.fromkeys([pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")], TIME),
    **dict.fromkeys([pa.timestamp("us", zone) for zone in ("UTC", "Europe/Berlin", "+05:30")], TIME),
    **dict.fromkeys([pa.timestamp("us", zone) for zone in ("Foo/Bar", "../../etc/passwd", "Europe", "")], TIME),
    **dict.fromkeys([pa.duration("s"), pa.duration("ns")], datetime.timedelta(1)),
    **dict.fromkeys([pa.decimal32(5, 2), pa.decimal64(9, 2)], Decimal("1.25")),
    **dict.fromkeys([pa.decimal128(20, 2), pa.decimal256(60, 2)], Decimal("1.25")),
}  # fmt: skip
ROWS = pa.array([0, 1, 2, 3], pa.int32())
VIEW = pa.ListViewArray.from_arrays(pa.array([0] * 3, pa.int32()), pa.array([2] * 3, pa.int32()), pa.array(["a", "b"]))
FIRST = pa.array([0] * 3, pa.int8())
EXTENSIONS = {
    "uuid": pa.array([b"1" * 16, None, b"2" * 16], pa.uuid()),
    "json": pa.array(['{"a":1}', None, "1"], pa.json_()),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None, 2], pa.int8())),
    "tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int8(), [2]), pa.array([[1, 2]] * 3, pa.list_(pa.int8(), 2))
    ),
    "opaque": pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "a", "b"), pa.array([b"x"] * 3)),
}
REFUSED = {
    "list view": VIEW,
    "large list view": pa.LargeListViewArray.from_arrays(
        pa.array([0] * 3, pa.int64()), pa.array([2] * 3, pa.int64()), pa.array(["a", "b"])
    ),
    "run ends": pa.RunEndEncodedArray.from_arrays(pa.array([3], pa.int32()), pa.array(["a"])),
    "list of run ends": pa.ListArray.from_arrays(
        ROWS, pa.RunEndEncodedArray.from_arrays(pa.array([3], pa.int32()), pa.array(["a"]))
    ),
    "dense union": pa.UnionArray.from_dense(FIRST, pa.array([0] * 3, pa.int32()), [pa.array(["z"])]),
    "sparse union": pa.UnionArray.from_sparse(FIRST, [pa.array(["z"] * 3)]),
    "interval": pa.array([pa.MonthDayNano([1, 1, 1])] * 3),
    "no fields": pa.array([{}] * 3, pa.struct([])),
    "equal fields": pa.StructArray.from_arrays([pa.array([1] * 3), pa.array([2] * 3)], ["a", "a"]),
    "no bytes": pa.array([b""] * 3, pa.binary(0)),
    "negative scale": pa.array([1] * 3, pa.decimal128(38, 0)).view(pa.decimal128(38, -2)),
    "dictionary of lists": pa.DictionaryArray.from_arrays(FIRST, pa.array([["a"]])),
    "dictionary of views": pa.DictionaryArray.from_arrays(FIRST, pa.array(["z"], pa.string_view())),
    "list of views": pa.ListArray.from_arrays(ROWS, VIEW),
    "map of views": pa.MapArray.from_arrays(ROWS, pa.array(["a", "b", "c"]), VIEW),
    "extension of a view": pa.ExtensionArray.from_storage(pa.opaque(VIEW.type, "a", "b"), VIEW),
}


def nested(column: pa.Array) -> dict[str, pa.Array]:
    """The column within each type that has parts."""
    return {
        "list": pa.ListArray.from_arrays(ROWS, column),
        "large list": pa.LargeListArray.from_arrays(ROWS.cast(pa.int64()), column),
        "list of one": pa.FixedSizeListArray.from_arrays(column, 1),
        "struct": pa.StructArray.from_arrays([column], ["x"]),
        "map": pa.MapArray.from_arrays(ROWS, pa.array(["a", "b", "c"]), column),
    }


def columns() -> dict[str, pa.Array]:
    found = EXTENSIONS | REFUSED
    for type, value in SINGLE.items():
        column = pa.array([value, None, value], type) if type.id != pa.lib.Type_TIMESTAMP or not type.tz else None
        if column is None:  # zones that pyarrow does not convert values to
            column = pa.array([1_577_934_245_000_000, None, 0]).view(type)
        found[str(type)] = column
        found |= {f"{name} of {type}": one for name, one in nested(column).items()}
        if not str(type).endswith("_view"):
            coded = pa.DictionaryArray.from_arrays(pa.array([0, None, 0], pa.int8()), column.slice(0, 1))
            found |= {f"dictionary of {type}": coded, f"list of dictionary of {type}": nested(coded)["list"]}
    for name, column in EXTENSIONS.items():
        found |= {f"{outer} of {name}": one for outer, one in nested(column).items() if outer in ("list", "struct")}
    return found


COLUMNS = columns()


def written(folder: Path, column: pa.Array) -> dict[str, Path]:
    """format -> the file, of the formats that have the column's type."""
    table = pa.table({"id": ["a", "b", "c"], "text": ["x y"] * 3, "m": column})
    saved(folder / "saved", stream(table.to_batches(), None))
    found = {"hf": folder / "saved" / "data-00000-of-00001.arrow"}
    try:
        pq.write_table(table, folder / "a.parquet")
    except (pa.ArrowException, OSError):  # Arrow writes no file with it, so that none can be read
        return found
    return found | {"parquet": folder / "a.parquet"}


def tables(file: Path, format: str, kind: type[Input], **settings) -> pa.Table:
    path = file if format == "parquet" else file.parent
    manifest = freeze(Store(), [kind(path=str(path), **settings)], 1 << 20)
    return pa.concat_tables(
        table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits(), 8 << 20)
    )


def rows(file: Path, format: str, counts: ReaderCounts | None = None, **settings) -> list:
    size = file.stat().st_size
    span = Span(str(file), size, "", format, 0, 1 if format == "parquet" else size)
    found = READERS[format].rows(Store(), span, CorpusInput(path=str(file), **settings), Limits(), counts)
    return [row for row, _ in found]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_every_type_is_read_or_refused_by_every_product(tmp_path, name):
    column = COLUMNS[name]
    refused = name in REFUSED
    assert (type_problem(column.type) is not None) == refused
    for format, file in written(tmp_path, column).items():
        if refused:
            wanted = r"column m \(columns\) is .*(cast|decode|write|leave|give)"
            for kind in (Input, RecordsInput):
                with pytest.raises(DataError, match=wanted):
                    tables(file, format, kind, columns=("m",))
            with pytest.raises(DataError, match="column m "):
                tables(file, format, NamedColumnsInput, text="m")
            with pytest.raises(UnreadableRest, match="column_type") as broken:
                rows(file, format, columns=("m",))
            assert broken.value.detail.startswith("column m is ")
        else:
            # As curate carries it: through Parquet, and as values of Python.
            carried = tables(file, format, Input, columns=("m",))
            assert carried["problem"].null_count == 3
            pq.write_table(carried, tmp_path / "out.parquet")
            values = [row["m"] for row in python_rows(pq.read_table(tmp_path / "out.parquet"))]
            assert [one is None for one in values] == [one is None for one in carried["m"].to_pylist()]
            assert values[0] is not None or "null" in name
            records = tables(file, format, RecordsInput, columns=("m",))
            texts = Fields({"m": "m"}, "text").of(records)["m"]
            assert all(isinstance(one, str) for one in texts[::2]) or "null" in name
            as_text = tables(file, format, NamedColumnsInput, text="m")
            assert as_text["text"].to_pylist() == [one if one is None else str(one) for one in texts]
            found = rows(file, format, columns=("m",))
            assert [row["text"] for row in found] == ["x y"] * 3
        # A column that no setting names may have any type.
        assert tables(file, format, Input)["text"].to_pylist() == ["x y"] * 3
        assert rows(file, format) == [{"text": "x y"}] * 3


BEYOND = {
    "time stamp": pa.array([0, 2**62, None]).view(pa.timestamp("us")),
    "before the year 1": pa.array([0, -(2**62), None]).view(pa.timestamp("ms")),
    "seconds": pa.array([0, 2**62, None]).view(pa.timestamp("s")),
    "of a zone": pa.array([0, 2**62, None]).view(pa.timestamp("us", "Europe/Berlin")),
    "the last hour in another zone": pa.array([0, 253_402_300_799, None]).view(pa.timestamp("s", "Asia/Tokyo")),
    "of no zone": pa.array([0, 2**62, None]).view(pa.timestamp("us", "Foo/Bar")),
    "day": pa.array([0, 2**31 - 1, None], pa.int32()).view(pa.date32()),
    "day in milliseconds": pa.array([0, 2**62, None]).view(pa.date64()),
    "duration": pa.array([0, 2**62, None]).view(pa.duration("s")),
    "time of the day": pa.array([0, 2**62, None]).view(pa.time64("us")),
    "second of the day": pa.array([0, -1, None], pa.int32()).view(pa.time32("s")),
}
BEYOND |= {f"{outer} of {n}": one for n in ("time stamp", "day") for outer, one in nested(BEYOND[n]).items()}
BEYOND["dictionary"] = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), BEYOND["time stamp"][:2])


@pytest.mark.parametrize("name", BEYOND)
def test_a_value_that_python_and_parquet_cannot_hold_is_one_row_in_quarantine(tmp_path, name):
    for format, file in written(tmp_path, BEYOND[name]).items():
        for kind in (Input, RecordsInput):
            found = tables(file, format, kind, columns=("m",))
            assert found["problem"].to_pylist() == [None, "bad_value", None], kind
            assert found["where"][1].as_py().endswith("row 1")
            pq.write_table(found, tmp_path / "out.parquet")
            found.to_pylist()
        found = tables(file, format, NamedColumnsInput, text="m")
        assert found["problem"].to_pylist()[:2] == [None, "bad_value"]
        first, second, _ = rows(file, format, columns=("m",))
        assert isinstance(first, dict) and second == Unreadable("bad_value")


def test_the_first_and_last_values_of_python_are_read():
    first, last = datetime.datetime.min, datetime.datetime.max
    for unit in ("s", "ms", "us"):
        for zone in (None, "UTC"):
            column = pa.array([first, last]).cast(pa.timestamp(unit, zone), safe=False)
            assert value_problems(column) == {} and column.to_pylist()
    for type in (pa.date32(), pa.date64()):
        column = pa.array([first.date(), last.date()], type)
        assert value_problems(column) == {} and column.to_pylist() == [first.date(), last.date()]
    for number, problems in ((-719_163, {0: "bad_value"}), (2_932_897, {0: "bad_value"}), (0, {})):
        assert value_problems(pa.array([number], pa.int32()).view(pa.date32())) == problems
    longest = pa.array([datetime.timedelta.max.days * 86_400]).view(pa.duration("s"))
    assert value_problems(longest) == {} and longest.to_pylist()


def test_rows_of_a_slice_are_counted_from_its_beginning():
    deep = pa.array([[{"at": one}] for one in (0, 0, 2**62, 0)], pa.list_(pa.struct([("at", pa.int64())])))
    deep = deep.cast(pa.list_(pa.struct([("at", pa.timestamp("us"))])))
    assert value_problems(deep) == {2: "bad_value"} and value_problems(deep.slice(1, 2)) == {1: "bad_value"}
    assert value_problems(deep.slice(3)) == {}


def test_a_file_whose_columns_have_a_refused_type_is_left_out_as_other_unreadable_files(tmp_path):
    for number in range(5):
        pq.write_table(pa.table({"text": ["x"], "m": [number]}), tmp_path / f"{number}.parquet")
    pq.write_table(pa.table({"text": ["x"] * 3, "m": VIEW}), tmp_path / "other.parquet")
    manifest = freeze(Store(), [Input(path=str(tmp_path), columns=("m",))], 1 << 20, 0.5)
    (note,) = manifest.notes
    assert "other.parquet (column m (columns) is list_view<" in note and "cast them to lists" in note
    assert sum(len(unit.spans) for unit in manifest.units) == 5


def test_a_long_type_is_shortened_and_missing_columns_are_passed_over():
    fields = pa.struct([(f"field{number}", pa.int8()) for number in range(1000)] + [("field1", pa.int8())])
    schema = pa.schema([("m", fields), ("n", pa.int8())])
    assert len(column_problem(schema, ["m.field1"])) < 400
    assert column_problem(schema, ["n", "other"]) is None
    deep = pa.int8()
    for _ in range(70):
        deep = pa.list_(deep)
    assert "more than 64 levels" in type_problem(deep)


def test_a_dictionary_of_dictionaries_which_arrow_streams_cannot_state_is_a_damaged_file(tmp_path):
    inner = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(["z"]))
    column = pa.DictionaryArray.from_arrays(FIRST, inner)
    assert "decode them" in type_problem(column.type)
    file = written(tmp_path, column)["hf"]
    assert tables(file, "hf", Input, columns=("m",))["problem"].to_pylist() == ["corrupt_batch"]
    with pytest.raises(UnreadableRest, match="corrupt_batch"):
        rows(file, "hf", columns=("m",))


def views_of_views(levels: int = 20, count: int = 1000) -> pa.Array:
    """Lists of which each stands for 10^60 values, in 200 kB."""
    column = pa.array(["a"] * count)
    for _ in range(levels):
        column = pa.ListViewArray.from_arrays(
            pa.array(np.zeros(count, np.int32)), pa.array(np.full(count, count, np.int32)), column
        )
    return column


def test_columns_that_are_not_read_are_not_looked_at_and_their_rows_are_counted(tmp_path):
    count = 1000
    x = views_of_views(count=count)
    y = pa.array([None, *range(count - 1)])
    batch = pa.record_batch({"x": x, "text": pa.array(["t"] * count), "y": y})
    file = saved(tmp_path / "d", stream([batch], None)) / "data-00000-of-00001.arrow"
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from pathlib import Path
from raymill.cluster.readers.reader import ReaderCounts
from tests.cluster.readers.test_column_types import rows
counts = ReaderCounts()
assert rows(Path({str(file)!r}), "hf", counts) == [{{"text": "t"}}] * {count}
assert counts.unread == {{"x": {count}, "y": {count - 1}}}, counts.unread
assert 0 < counts.row_bytes < 1000
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4 << 20


@pytest.mark.parametrize("format", ["hf", "parquet"])
def test_rows_that_repeat_one_long_text_are_a_bomb_for_training_too(tmp_path, format):
    text = pa.array(["a" * 1_000_000])
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), text)
    if format == "hf":
        batch = pa.record_batch({"text": column})
        file = saved(tmp_path / "d", stream([batch], "zstd")) / "data-00000-of-00001.arrow"
    else:
        file = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": column}), file, compression="zstd")
    assert file.stat().st_size < 200_000
    size = file.stat().st_size
    span = Span(str(file), size, "", format, 0, 1 if format == "parquet" else size)
    read = 0
    with pytest.raises(UnreadableRest, match="expansion_bomb"):
        for _ in READERS[format].rows(Store(), span, CorpusInput(path=str(file)), Limits()):
            read += 1
    assert read < 500
