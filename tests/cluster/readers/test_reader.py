"""Rows of documents, and values of columns that others wrote as values of Python."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.readers.formats import READERS, format_of
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import python_rows
from raymill.cluster.readers.streams import Span, UnreadableRest
from raymill.cluster.store.store import Store


def rows_of(path, *columns, format=None, span=(0, None), rows=None, **settings):
    """(row or problem, place after the folder) of each record."""
    info, format = Store().info(str(path)), format or format_of(str(path))
    end = span[1] if span[1] is not None else 1 if format == "parquet" else info.size
    one = Span(info.uri, info.size, info.version, format, span[0], end, rows)
    input = Input(path=str(path), text=columns[0], columns=columns[1:], **settings)
    found = READERS[format].rows(Store(), one, input, Limits())
    return [(row, where.rpartition("/")[2]) for row, where in found]


@pytest.mark.parametrize("group", [1, 3, 4, 10])
def test_any_rows_of_a_parquet_file_are_read_alone_with_their_positions(tmp_path, group):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": [[str(n)] for n in range(10)], "other": ["x"] * 10}), path, row_group_size=group)
    for start in range(10):
        end = min(start + 2, start // group * group + group, 10)
        part = (start % group, start % group + end - start)
        found = rows_of(path, "body", "absent", span=(start // group, start // group + 1), rows=part)
        assert found == [({"body": [str(n)]}, f"a.parquet row {n}") for n in range(start, end)]
    assert len(rows_of(path, "body", span=(0, -(-10 // group)))) == 10


def test_objects_have_all_keys_and_what_is_no_object_has_its_problem(tmp_path):
    nested = {"text": "one", "messages": [{"role": "user"}], "n": 1.5}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(nested)}\n\n5\n{{broken\n")
    assert rows_of(tmp_path / "a.jsonl", "text") == [
        (nested, "a.jsonl byte 0"), ("not_an_object", "a.jsonl byte 59"), ("broken_json", "a.jsonl byte 61"),
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps([nested, 5]))
    assert rows_of(tmp_path / "a.json", "text", format="json") == [
        (nested, "a.json value 1"), ("not_an_object", "a.json value 2"),
    ]  # fmt: skip


def test_fields_of_a_table_are_texts_by_the_header(tmp_path):
    (tmp_path / "a.csv").write_text('text;id\none;1\n"two\nlines";2\nthree\n')
    assert rows_of(tmp_path / "a.csv", "text", delimiter=";") == [
        ({"text": "one", "id": "1"}, "a.csv line 2"), ({"text": "two\nlines", "id": "2"}, "a.csv line 3"),
        ("broken_csv", "a.csv line 5"),
    ]  # fmt: skip


def test_a_document_is_a_row_of_its_text_and_the_columns_that_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    assert rows_of(tmp_path / "a.txt", "text", "path") == [
        ({"text": "words", "path": str(tmp_path / "a.txt")}, "a.txt record 1")
    ]
    (tmp_path / "b.txt").write_bytes(b"\xff")
    assert rows_of(tmp_path / "b.txt", "text") == [("bad_utf8", "b.txt byte 0")]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9000)[:-20], "truncated"), ("a.parquet", None, "corrupt_page")],
)
def test_rows_before_damage_are_read_and_the_damage_ends_them(tmp_path, name, content, problem):
    if content is None:
        pq.write_table(pa.table({"text": [f"{n:050}" for n in range(5000)]}), tmp_path / name, use_dictionary=False)
        data = bytearray((tmp_path / name).read_bytes())
        data[40:400] = b"\xff" * 360
        content = bytes(data)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableRest, match=problem):
        rows_of(tmp_path / name, "text")


@pytest.mark.parametrize(
    ("type", "odd"),
    [
        (pa.timestamp("s"), 1 << 60),
        (pa.duration("s"), 1 << 60),
        (pa.date32(), (1 << 31) - 1),
        (pa.list_(pa.timestamp("s")), [1 << 60]),
    ],
)
def test_a_value_beyond_those_of_python_is_none_and_its_neighbours_stay(type, odd):
    ordinary = [0] if pa.types.is_list(type) else 0
    column = pa.array([ordinary, odd, None], type)
    assert [row["at"] for row in python_rows(pa.table({"at": column}))] == [column[0].as_py(), None, None]


def test_a_time_of_an_unknown_zone_and_a_string_that_is_not_utf_8_are_none():
    table = pa.table(
        {"at": pa.array([0], pa.timestamp("s", "../../etc")), "text": pa.array([b"\xff"]).view(pa.string())}
    )
    assert python_rows(table.append_column("n", pa.array([7]))) == [{"at": None, "text": None, "n": 7}]
