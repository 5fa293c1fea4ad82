"""Bounds of lists in messages, of documents, of tables and of looks at files: at the bound, and one beyond it."""

import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.parquet_pages import page_header
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.parquet import _batch_rows
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.listing import list_inputs
from raymill.cluster.readers.quarantine import refuse_too_many
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.recorded import changes_since, write_inputs
from raymill.cluster.readers.streams import Span
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store


def refusal(*inputs: Input) -> str:
    with pytest.raises(DataError) as caught:
        freeze(Store(), inputs, 1 << 20)
    return str(caught.value)


def problems(path, limits: Limits | None = None, **settings) -> list[str | None]:
    manifest = freeze(Store(), [Input(path=str(path), **settings)], 1 << 20)
    tables = (table for unit in manifest.units for table in read_unit(unit, manifest.reading, limits or Limits()))
    return [problem for table in tables for problem in table["problem"].to_pylist()]


@pytest.mark.parametrize("count", [11, 12, 13])
def test_an_error_lists_at_most_twelve_names(tmp_path, count):
    names = [f"k{at:02}" for at in range(count)]
    listed = ", ".join(names[:12]) + (f", ... ({count} in all)" if count > 12 else "")
    for name in names:
        (tmp_path / name).write_text("x")
    message = refusal(Input(path=str(tmp_path / "absent.jsonl")))
    assert f"The nearest folder, {tmp_path}, holds {listed}. " in message
    (tmp_path / "folders").mkdir()
    for name in names:
        (tmp_path / "folders" / name).mkdir()
    listed = ", ".join(f"{name}/" for name in names[:12]) + ", ..." * (count > 12)
    assert f"it holds only folders ({listed}), and no file" in refusal(Input(path=str(tmp_path / "folders")))
    (tmp_path / "kinds").mkdir()
    for at, name in enumerate(names):
        for copy in range(1 + (at == count - 1)):
            (tmp_path / "kinds" / f"x{copy}.{name}").write_text("x")
    kinds = [f"2 .{names[-1]}", *(f"1 .{name}" for name in names[:-1])][:12]
    message = refusal(Input(path=str(tmp_path / "kinds")))
    assert message.partition("can be read (")[2].partition(")")[0].split(", ")[0] == kinds[0]
    assert message.count(" .k") == len(kinds)


@pytest.mark.parametrize("count", [19, 20, 21, 25])
def test_an_error_has_at_most_twenty_lines(tmp_path, count):
    message = refusal(*(Input(source=f"s{at}", path=str(tmp_path / f"absent{at}")) for at in range(count)))
    *lines, last = message.splitlines()
    if count > 20:
        assert last == f"... and {count - 20} more"
    else:
        lines.append(last)
    assert [line.split(":")[0] for line in lines] == [f"inputs[{at}] (s{at})" for at in range(min(count, 20))]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_changed_files_are_counted_and_three_are_named(tmp_path, count):
    for at in range(count + 1):
        (tmp_path / f"{at}.txt").write_text("a")
    inputs, run = [Input(path=str(tmp_path / "*.txt"))], str(tmp_path / "run")
    before = list_inputs(Store(), inputs)
    write_inputs(run, freeze(Store(), inputs), {})
    for at in range(count):
        (tmp_path / f"{at}.txt").write_text("ab")
    now = list_inputs(Store(), inputs)
    named = ", ".join(f"{at}.txt" for at in range(min(count, 3))) + ", ..." * (count > 3)
    assert changes_since(now, Store(), run) == f"the input files changed ({count} changed: {named})"
    assert changes_since(before, Store(), run).startswith("the input files changed, or the version of the library")
    assert changes_since(before, Store(), str(tmp_path / "absent")) == "the input files changed"


def test_a_document_of_exactly_the_largest_size_is_read(tmp_path):
    """64 bytes of two-byte letters; 66 are too large, and their neighbours are not."""
    limits = Limits(max_document_bytes=64)
    texts = ["é" * 32, "é" * 33, "é" * 31]
    wanted = [None, "too_large", None]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"{text}\n" for text in texts))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert problems(tmp_path / name, limits) == wanted, name
    for folder, mark in (("plain", ""), ("marked", "\ufeff")):
        (tmp_path / folder).mkdir()
        for at, text in enumerate(texts):
            (tmp_path / folder / f"{at}.txt").write_text(mark + text)
        assert problems(tmp_path / folder, limits) == wanted, folder


@pytest.mark.parametrize(("size", "problem"), [(-1, None), (0, None), (1, "broken_csv")])
@pytest.mark.parametrize("lines", [1, 2, 100])
def test_a_csv_record_of_exactly_the_longest_line_is_read(tmp_path, monkeypatch, lines, size, problem):
    """Each of its lines, which are inside of quotes, counts with 32 bytes more; its neighbours are read."""
    monkeypatch.setattr("raymill.cluster.readers.inputs.OTHER_BYTES", 65_536)
    limits = Limits(max_document_bytes=1000)
    field = "\n" * (lines - 1) + "x" * (limits.max_line_bytes - 32 * lines - len('"",a') + size)
    (tmp_path / "a.csv").write_text(f'more,text\n,a\n"{field}",a\n,a\n')
    found = problems(tmp_path / "a.csv", limits)
    assert [found[0], found[-1]] == [None, None] and (problem in found[1:-1]) and (problem or len(found) == 3)


def test_a_field_of_csv_may_be_longer_than_the_default_of_the_parser(tmp_path):
    (tmp_path / "a.csv").write_text(f"text\n{'x' * 200_000}\n")
    assert problems(tmp_path / "a.csv") == [None]


@pytest.mark.parametrize("rows", [65_535, 65_536, 65_537])
def test_a_table_of_lines_has_at_most_65536_rows(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text('{"text":""}\n' * rows)
    size = 12 * rows
    span = Span(str(tmp_path / "a.jsonl"), size, "", "jsonl", 0, size)
    input, counts = Input(path="a"), ReaderCounts()
    tables = [t.num_rows for t in READERS["jsonl"].read(Store(), span, input, Limits(), counts)]
    assert tables == ([65_536, rows - 65_536] if rows > 65_536 else [rows])


@pytest.mark.parametrize("before", [98, 99, 100])
def test_columns_of_json_lines_are_those_of_the_first_hundred_records(tmp_path, before):
    (tmp_path / "a.jsonl").write_text('{"other": 1}\n' * before + '{"text": "a"}\n')
    if before < 100:
        assert len(problems(tmp_path / "a.jsonl")) == before + 1
    else:
        assert "no column text (text). It has: other." in refusal(Input(path=str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize(
    ("header", "separator"),
    [("a;b,c", None), ("a|b", "|"), ("a\tb", "\t"), ("a;b", ";"), ("a|b;c", ";"), ("ab", None), ("body;x", "-")],
)
def test_the_separator_of_a_header_in_one_column_is_proposed(tmp_path, header, separator):
    (tmp_path / "a.csv").write_text(f"{header}\nx\n")
    if separator == "-":  # one column of that name is what the input asks for
        assert problems(tmp_path / "a.csv", text=header) == [None]
        return
    message = refusal(Input(path=str(tmp_path / "a.csv")))
    assert ("Set `delimiter: " in message) == (separator is not None)
    assert separator is None or f"Set `delimiter: {json.dumps(separator)}` in this input." in message


@pytest.mark.parametrize(
    ("content", "problem"), [(b"text\rone\rtwo\r", "carriage_returns"), ("text,id".encode("utf-16"), "utf16")]
)
def test_a_file_whose_header_holds_all_of_it_is_a_problem_of_its_first_line(tmp_path, content, problem):
    (tmp_path / "a.csv").write_bytes(content)
    manifest = freeze(Store(), [Input(path=str(tmp_path / "a.csv"))], 1 << 20)
    (table,) = read_unit(manifest.units[0], manifest.reading, Limits())
    assert table.select(["problem", "where"]).to_pylist() == [
        {"problem": problem, "where": f"{tmp_path / 'a.csv'} line 1"}
    ]


@pytest.mark.parametrize("size", [0, 1, 63, 64, 127, 128, 1 << 20, (1 << 31) - 1])
def test_the_size_of_a_page_is_read_from_its_header(size):
    """Thrift's compact protocol: the size doubled, seven bits a byte, the lowest first."""
    value, digits = 2 * size, []
    while value >= 128:
        digits.append(value % 128 + 128)
        value //= 128
    header = bytes([0x15, 0x04, 0x15, *digits, value, 0x15, 0x02, 0x00])
    assert page_header(header)[:3] == (len(header), size, 1)
    for cut in (header[:-1], header[:3]):
        with pytest.raises(IndexError):
            page_header(cut)
    with pytest.raises(ValueError, match="no header of a page"):
        page_header(header[:2] + b"\x00")


# type 0, sizes 8 and 8; then the header of a data page of version 1, whose first field is the number of values.
_SIZES, _OF_A_PAGE = bytes([0x15, 0x00, 0x15, 0x10, 0x15, 0x10]), bytes([0x2C, 0x15, 0x0E, 0x15, 0x00, 0x00])
_OF_VERSION_2 = bytes([0x3C, 0x15, 0x02, 0x00])


def test_the_values_of_a_page_are_those_of_the_structure_of_its_type():
    assert page_header(_SIZES + _OF_A_PAGE + b"\x00").values == 7
    assert page_header(_SIZES + _OF_A_PAGE + _OF_VERSION_2 + b"\x00").values == 7


@pytest.mark.parametrize(
    "of_a_page",
    [
        bytes([0x2C, 0x25, 0x00, 0x05, 0x02, 0x0E, 0x00]),  # the encoding first
        bytes([0x2C, 0x15, 0x02, 0x05, 0x02, 0x0E, 0x00]),  # two numbers, of which Arrow takes the last
        bytes([0x5C, 0x15, 0x0E, 0x00]),  # a data page without the structure of its type
        _OF_A_PAGE + bytes([0x05, 0x02, 0x02]),  # a second type
    ],
)
def test_a_header_that_no_program_writes_is_none(of_a_page):
    with pytest.raises(ValueError, match="page"):
        page_header(_SIZES + of_a_page + b"\x00")


@pytest.mark.parametrize(
    ("row_bytes", "rows", "repeated", "wanted"),
    [
        (8, 10_000, 0, 65_536),
        (1024, 10_000, 0, 8192),
        (16 << 20, 3, 0, 1),
        (1024, 1 << 20, 1 << 20, 256),
        (1024, 1 << 20, 1 << 18, 1024),
        (1024, 1 << 20, 1 << 29, 1),
    ],
)
def test_rows_decoded_at_once_fill_a_table_by_their_mean_and_no_more_than_256_mib_at_worst(
    row_bytes, rows, repeated, wanted
):
    """A column that may repeat its longest value, and a plain one."""
    plain = {"dictionary_page_offset": None, "total_compressed_size": 1}
    chunks = [SimpleNamespace(encodings=("PLAIN",), total_uncompressed_size=row_bytes * rows - repeated, **plain)]
    if repeated:
        chunks.append(SimpleNamespace(encodings=("DELTA_BYTE_ARRAY",), total_uncompressed_size=repeated, **plain))
    assert _batch_rows(None, chunks, rows) == wanted  # type: ignore[arg-type]


def test_counts_in_words_are_singular_for_one_alone():
    assert [plural(count, "row") for count in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "share", "proposed"),
    [(0.25, 3, 1, None, None), (0.24, 3, 1, "25.0%", "0.25"), (0.0, 8, 1, "11.1%", "0.12"), (0, 0, 1, "100.0%", None),
     (0.9, 1, 19, "95.0%", "0.95"), (0, 5, 0, None, None), (1, 0, 7, None, None)],
)  # fmt: skip
def test_a_run_ends_above_the_share_of_unreadable_documents_that_it_allows(allowed, good, bad, share, proposed):
    problems = ["bad_utf8"] * (bad - 1) + ["null_text"] * (bad > 0)
    rows = pa.table({"problem": problems, "where": [f"a.jsonl line {at}" for at in range(bad)]})
    tables = [rows.slice(0, 1), rows.slice(1)] if bad > 1 else [rows]
    manifest = SimpleNamespace(rows=bad, counters={})
    quarantine = SimpleNamespace(manifest=manifest, tables=lambda: iter(tables), uri="/run/quarantine")
    arguments = allowed, good, quarantine, {"bad_utf8": "no UTF-8", "null_text": "null"}, "document"
    if share is None:
        refuse_too_many(*arguments)  # type: ignore[arg-type]
        return
    with pytest.raises(DataError) as caught:
        refuse_too_many(*arguments)  # type: ignore[arg-type]
    first, *lines, last = str(caught.value).splitlines()
    documents = "1 document" if bad + good == 1 else f"{bad + good} documents"
    assert first.startswith(f"{bad} of {documents} could not be read ({share}; execution.max_bad_documents allows ")
    one_of_each = [f"  {bad - 1} bad_utf8 (no UTF-8): a.jsonl line 0"] if bad > 1 else []
    assert lines == [*one_of_each, f"  1 null_text (null): a.jsonl line {bad - 1}"]
    assert last.startswith("All of them: /run/quarantine.")
    assert ("max_bad_documents" in last) == (proposed is not None)
    assert proposed is None or f'max_bad_documents": {proposed}}};' in last
