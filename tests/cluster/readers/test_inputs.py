"""Which files an input means, how they are cut into units, and what is refused before anything is read."""

import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datasets import Dataset, DatasetDict, NamedSplit, disable_progress_bars
from datasets.packaged_modules.generator.generator import Generator
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.readers.freeze import MAX_SPANS_PER_UNIT, _cut_files, _Source, bytes_of_unit, freeze, make_units
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.listing import list_inputs
from raymill.cluster.readers.recorded import read_inputs, write_inputs
from raymill.cluster.readers.streams import Span
from raymill.cluster.readers.units import InputManifest, read_unit
from raymill.cluster.store.store import Store
from tests.support.inline import curate_inline
from tests.support.input_rows import rows_of

MIB = 1 << 20
KNOWN_ENDINGS = (
    "Known endings: .parquet, .pq, .jsonl, .ndjson, .json-lines, .json.gz, .csv, .tsv, .txt, .text, .md, .markdown, "
    ".rst, .html, .htm, .xhtml, .pdf, .docx, .vtt, .srt, .mbox, .eml, .warc, .arc, .wet. "
    "For others set `format`, and name a folder's files by a glob."
)
LINE = '{"text": "a"}\n'


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six readable files, five that are not, in a small tree."""
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LINE)
    (tmp_path / "e.txt").write_text("text")
    pq.write_table(pa.table({"text": ["a"], "id": ["x"]}), tmp_path / "f.parquet")
    for name in ("_SUCCESS", ".hidden.jsonl", "_temporary/0/g.jsonl", "picture.png", "LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def names(manifest: InputManifest, base: Path) -> list[str]:
    return [str(Path(file.uri).relative_to(base)) for file in manifest.files]


def frozen(base: Path, unit_bytes: int = MIB, **settings) -> InputManifest:
    """The manifest of one input. base: the working folder."""
    with chdir(base):
        return freeze(Store(), [Input(**settings)], unit_bytes)


def refusal(base: Path, *inputs: dict) -> str:
    """The error about inputs with these settings. base: the working folder."""
    with chdir(base), pytest.raises((DataError, ConfigError)) as caught:
        freeze(Store(), [Input(**one) for one in inputs], MIB)
    return str(caught.value).replace(str(base), "DIR")


# ---- which files ----


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".", ["a.jsonl", "b.jsonl", "e.txt", "f.parquet", "sub/c.jsonl", "sub/deep/d.jsonl"]),
        ("sub", ["sub/c.jsonl", "sub/deep/d.jsonl"]),
        ("sub/", ["sub/c.jsonl", "sub/deep/d.jsonl"]),
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"]),
        ("sub/*.jsonl", ["sub/c.jsonl"]),
        ("s?b/*", ["sub/c.jsonl"]),
        ("[be].*", ["b.jsonl", "e.txt"]),
        ("a.jsonl", ["a.jsonl"]),
        ("sub/../a.jsonl", ["a.jsonl"]),
        (".hidden.jsonl", [".hidden.jsonl"]),
        ("_temporary/0/g.jsonl", ["_temporary/0/g.jsonl"]),
        ("_temporary/**", ["_temporary/0/g.jsonl"]),
    ],
)
def test_a_path_is_a_folder_a_glob_or_a_file(folder, path, expected):
    assert names(frozen(folder, path=path), folder) == expected


def test_what_is_passed_over_is_counted_by_ending(folder):
    manifest = frozen(folder, path=".", source="tree")
    assert manifest.skipped == {"tree": {"hidden": 3, ".png": 1, "(no ending)": 1}}


def test_the_ending_of_a_file_that_is_passed_over_has_its_compression(folder):
    for name in ("a.tar.gz", "b.tar.gz", "c.gz", "d.json"):
        (folder / name).write_bytes(b"x")
    skipped = frozen(folder, path=".").skipped["input"]
    assert {ending: count for ending, count in skipped.items() if "z" in ending or "j" in ending} == {
        ".tar.gz": 2, ".gz": 1, ".json": 1
    }  # fmt: skip


def test_a_folder_with_compressed_json_has_json_lines(folder):
    for compress, name in ((gzip.compress, "c4.json.gz"), (zstandard.compress, "dolma.json.zst")):
        (folder / "c4").mkdir(exist_ok=True)
        (folder / "c4" / name).write_bytes(compress(LINE.encode()))
    for path in ("c4", "c4/*.json.*"):
        manifest = frozen(folder, path=path)
        assert [file.format for file in manifest.files] == ["jsonl", "jsonl"] and manifest.skipped["input"] == {}


def test_an_absolute_path_and_a_file_uri_do_not_depend_on_the_working_folder(folder):
    for path in (f"{folder}/a.jsonl", f"file://{folder}/a.jsonl"):
        assert names(frozen(Path("/"), path=path), folder) == ["a.jsonl"]


def test_a_format_reads_files_of_any_ending_that_a_glob_names(folder):
    manifest = frozen(folder, path="LIC*", format="text")
    assert [file.format for file in manifest.files] == ["text"]
    assert names(frozen(folder, path="LICENSE", format="text"), folder) == ["LICENSE"]


def test_a_format_takes_from_a_folder_only_its_own_endings(folder):
    manifest = frozen(folder, path=".", format="text")
    assert names(manifest, folder) == ["e.txt"]
    assert manifest.skipped["input"][".jsonl"] == 3 + 1


def test_a_name_with_brackets_is_a_name_where_it_exists(tmp_path):
    (tmp_path / "a[1].jsonl").write_text(LINE)
    assert names(frozen(tmp_path, path="a[1].jsonl"), tmp_path) == ["a[1].jsonl"]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"path": "sub/*.parquet"},
            "inputs[0] (input): DIR/sub/*.parquet: no file matches. The nearest folder, DIR/sub, holds c.jsonl, deep/. "
            "Check the path.",
        ),
        (
            {"path": "sbu/*.jsonl"},
            "inputs[0] (input): DIR/sbu/*.jsonl: no file matches. The nearest folder, DIR, holds .hidden.jsonl, "
            "LICENSE, _SUCCESS, _temporary/, a.jsonl, b.jsonl, e.txt, f.parquet, picture.png, sub/. Did you mean sub?",
        ),
        (
            {"path": "sub/deep/e.jsonl"},
            "inputs[0] (input): DIR/sub/deep/e.jsonl: the file does not exist. The nearest folder, DIR/sub/deep, holds "
            "d.jsonl. Did you mean d.jsonl?",
        ),
        ({"path": "empty"}, "inputs[0] (input): DIR/empty: the folder is empty. Check the path."),
        (
            {"path": "picture.png"},
            f"inputs[0] (input): DIR/picture.png: no format has this ending. {KNOWN_ENDINGS}",
        ),
        (
            {"path": "[pL]*"},
            "inputs[0] (input): DIR/[pL]*: none of the files there can be read (1 (no ending), 1 .png). "
            f"{KNOWN_ENDINGS}",
        ),
        (
            {"path": "sub", "format": "csv"},
            "inputs[0] (input): DIR/sub: none of the files there can be read (2 .jsonl). With `format: csv` a folder "
            "gives its .csv files; name others by a glob.",
        ),
        (
            {"path": "sub", "format": "hf"},
            "inputs[0] (input): DIR/sub: no state.json or dataset_dict.json here. Give the folder that `save_to_disk` "
            "wrote.",
        ),
        (
            {"path": "f.parquet", "text": "txt"},
            "inputs[0] (input): DIR/f.parquet: no column txt (text). It has: text, id. Did you mean text?",
        ),
        (
            {"path": "f.parquet", "id": "url", "columns": ["licence"]},
            "inputs[0] (input): DIR/f.parquet: no column url (id). It has: text, id. Set `id` to one of them.\n"
            "inputs[0] (input): DIR/f.parquet: no column licence (columns). It has: text, id. Set `columns` to one of "
            "them, or give the files without it an input of their own.",
        ),
        (
            {"path": "a.jsonl", "text": "body"},
            "inputs[0] (input): DIR/a.jsonl: no column body (text). It has: text. Set `text` to one of them.",
        ),
        (
            {"path": "e.txt", "columns": ["name"]},
            "inputs[0] (input): DIR/e.txt: no column name (columns). It has: path. Set `columns` to one of them, or "
            "give the files without it an input of their own.",
        ),
        (
            {"path": "sub/none/of/it"},
            "inputs[0] (input): DIR/sub/none/of/it: the folder does not exist. The nearest folder, DIR/sub, holds "
            "c.jsonl, deep/. Check the path.",
        ),
        (
            {"path": "sub/none/*.jsonl"},
            "inputs[0] (input): DIR/sub/none/*.jsonl: no file matches. The nearest folder, DIR/sub, holds "
            "c.jsonl, deep/. Check the path.",
        ),
        (
            {"path": "a.jsonl", "format": "parquet"},
            "inputs[0] (input): DIR/a.jsonl: not a readable Parquet file (Parquet magic bytes not found in footer. "
            "Either the file is corrupted or this is not a parquet file). It may be incomplete: write it "
            "again, or choose a narrower path that leaves it out.",
        ),
        (
            {"path": "ftp://host/a.jsonl"},
            "inputs[0] (input): ftp://host/a.jsonl: ftp:// is not a store this project reads. Use a local path, s3://, "
            "gs://, az://.",
        ),
        (
            {"path": "hf://a/b/c/d"},
            "inputs[0] (input): hf://a/b/c/d: a data set of the hub is written hf://ORG/NAME or hf://ORG/NAME/CONFIG, "
            "with @REVISION at its end for another revision than the newest.",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_fix(folder, settings, message):
    (folder / "empty").mkdir()
    if settings["path"] == "sbu/*.jsonl":
        (folder / "empty").rmdir()
    assert refusal(folder, settings) == message


def test_a_json_file_is_refused_with_the_setting(tmp_path):
    (tmp_path / "array.json").write_text('[{"text": "a"}]')
    hint = "For a JSON array, or objects over several lines, set `format: json`"
    for path in ("array.json", "."):
        assert hint in refusal(tmp_path, {"path": path})


def test_a_table_of_another_separator_is_refused_with_the_separator(tmp_path):
    (tmp_path / "a.csv").write_text("id;text\n1;one\n")
    assert refusal(tmp_path, {"path": "a.csv", "id": "id"}) == (
        "inputs[0] (input): DIR/a.csv: the header is one column, 'id;text', so the fields seem to be separated by ';'. "
        'Set `delimiter: ";"` in this input.'
    )


def test_columns_of_the_wrong_type_are_refused(tmp_path):
    table = pa.table({"text": [1], "id": [0.5], "body": ["a"], "tags": [["a"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert refusal(tmp_path, {"path": "a.parquet", "id": "id"}) == (
        "inputs[0] (input): DIR/a.parquet: column text (text) is int64; wanted strings. "
        "Columns of strings: body.\n"
        "inputs[0] (input): DIR/a.parquet: column id (id) is double; wanted strings or whole numbers. "
        "Choose another column, or leave `id` out to use the hash of the text."
    )


@pytest.mark.parametrize("ids", [[True], [0.5], [[1]], [{"a": 1}]])
def test_columns_whose_type_can_hold_no_id_are_refused(tmp_path, ids):
    pq.write_table(pa.table({"text": ["a"], "id": ids}), tmp_path / "a.parquet")
    assert "(id) is" in (message := refusal(tmp_path, {"path": ".", "id": "id"}))
    assert message.endswith("wanted strings or whole numbers. Choose another column, or leave `id` out to use the "
                            "hash of the text.")  # fmt: skip


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "a.parquet")
    assert "DIR/a.parquet: has 2 columns text (text). Write it with unique names." in refusal(tmp_path, {"path": "."})


def test_the_same_trouble_in_many_files_is_reported_once(tmp_path):
    for number in range(30):
        pq.write_table(pa.table({"content": ["a"]}), tmp_path / f"{number:02}.parquet")
    assert refusal(tmp_path, {"path": "."}) == (
        "inputs[0] (input): DIR/00.parquet: no column text (text). It has: content. Did you mean content? "
        "(and 29 more files)"
    )


# ---- folders of several formats ----


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Every format in one folder; only text, Markdown, HTML and archives cannot have an id and a year."""
    pq.write_table(pa.table({"id": ["p"], "text": ["a"], "year": [1999]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"id": "j", "text": "b", "year": 2001}\n')
    (tmp_path / "c.csv").write_text("id,text,year\nc,c,2002\n")
    for name in ("d.txt", "e.txt", "f.md"):
        (tmp_path / name).write_text(name)
    archived = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:w>\r\nContent-Length: 1\r\n\r\nw\r\n\r\n"
    (tmp_path / "g.warc.wet").write_bytes(archived)
    return tmp_path


def test_in_a_mixed_folder_formats_without_the_column_fall_back_to_their_own_id_and_say_so_once(mixed):
    manifest = frozen(mixed, path=".", id="id", columns=("year",))
    rows = [
        row for unit in manifest.units for t in read_unit(unit, manifest.reading, Limits()) for row in t.to_pylist()
    ]
    own = [str(mixed / name) for name in ("d.txt", "e.txt", "f.md")]
    assert [row["id"] for row in rows] == ["p", "j", "c", *own, "<urn:w>"]
    assert [row["year"] for row in rows] == ["1999", "2001", "2002", None, None, None, None]
    assert manifest.notes == (
        "Source input: 2 text files cannot have a column id (id): path is the id instead.",
        "Source input: 2 text files cannot have a column year (columns): it is empty for their documents.",
        "Source input: 1 markdown file cannot have a column id (id): path is the id instead.",
        "Source input: 1 markdown file cannot have a column year (columns): it is empty for their documents.",
        "Source input: 1 wet file cannot have a column id (id): record_id is the id instead.",
        "Source input: 1 wet file cannot have a column year (columns): it is empty for their documents.",
    )
    write_inputs(str(mixed), manifest, {})
    assert read_inputs(str(mixed), json.loads((mixed / "inputs.json").read_text()), Store()).notes == manifest.notes


def test_files_that_cannot_have_a_carried_column_do_not_change_its_type(mixed):
    for name in ("b.jsonl", "c.csv"):
        (mixed / name).unlink()
    manifest = frozen(mixed, path=".", columns=("year",))
    assert manifest.carried == pa.schema([("year", pa.int64())])


@pytest.mark.parametrize(
    ("types", "carried"),
    [
        ([pa.null(), pa.int64()], pa.int64()),
        ([pa.int64(), pa.null(), pa.int64()], pa.int64()),
        ([pa.null(), pa.null()], pa.string()),
        ([pa.int64(), pa.null(), pa.float64()], pa.string()),
    ],
)
def test_a_file_with_nulls_alone_in_a_column_does_not_change_its_type(tmp_path, types, carried):
    for number, type in enumerate(types):
        column = pa.array([None if pa.types.is_null(type) else 1], type)
        pq.write_table(pa.table({"text": ["a"], "n": column}), tmp_path / f"{number}.parquet")
    assert frozen(tmp_path, path=".", columns=("n",)).carried == pa.schema([("n", carried)])


def test_a_file_that_lacks_a_column_that_its_siblings_have_is_refused_and_all_such_are_counted(mixed):
    for number in range(50):
        (mixed / f"t{number:02}.csv").write_text(f"text,other{number}\na,1\n")
        pq.write_table(pa.table({"text": ["a"], f"other{number}": [1]}), mixed / f"t{number:02}.parquet")
    assert refusal(mixed, {"path": ".", "id": "id"}) == (
        "inputs[0] (input): DIR/t00.parquet: no column id (id). It has: text, other0. Set `id` to one of them. "
        "(and 99 more files)"
    )
    assert refusal(mixed, {"path": "t0*.csv", "id": "id"}).endswith("(and 9 more files)")


def test_files_of_one_format_that_cannot_have_a_column_are_counted(tmp_path):
    for number in range(50):
        (tmp_path / f"{number:02}.txt").write_text("text")
    message = (
        "inputs[0] (input): DIR/00.txt: no column year (columns). It has: path. Set `columns` to one of them, or give "
        "the files without it an input of their own."
    )
    assert refusal(tmp_path, {"path": ".", "columns": ("year",)}) == f"{message} (and 49 more files)"
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "sub" / name).write_text("text")
    assert refusal(tmp_path, {"path": "sub", "columns": ("year",)}).endswith("(and 1 more file)")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("g.warc.wet", "Source input: 1 wet file cannot have a column id (id): record_id is the id instead."),
        ("d.txt", "Source input: 1 text file cannot have a column id (id): path is the id instead."),
    ],
)
def test_an_id_that_a_format_cannot_have_is_its_own_also_where_no_other_format_is_there(mixed, name, note):
    manifest = frozen(mixed, path=name, id="id")
    (table,) = read_unit(manifest.units[0], manifest.reading, Limits())
    assert manifest.notes == (note,)
    assert table["id"].to_pylist() == ["<urn:w>" if name.endswith(".wet") else str(mixed / name)]


def test_a_column_that_only_json_lines_have_is_refused_for_files_with_a_schema_or_header(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "year": 1}\n')
    assert frozen(tmp_path, path=".", columns=("year",)).carried.names == ["year"], "objects may lack it"
    (tmp_path / "b.csv").write_text("text\na\n")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "c.parquet")
    fix = "Set `columns` to one of them, or give the files without it an input of their own."
    message = refusal(tmp_path, {"path": ".", "columns": ("year",)})
    assert "/c.parquet: no column year (columns). It has: text. " in message and fix in message
    (tmp_path / "c.parquet").unlink()
    assert refusal(tmp_path, {"path": ".", "columns": ("year",)}) == (
        f"inputs[0] (input): DIR/b.csv: no column year (columns). Its first line, the header, has: text. {fix}"
    )


def test_the_first_row_of_a_csv_file_without_a_header_is_shown_as_the_header(tmp_path):
    (tmp_path / "a.csv").write_text("1,some words\n2,others\n")
    assert refusal(tmp_path, {"path": "."}) == (
        "inputs[0] (input): DIR/a.csv: no column text (text). Its first line, the header, has: 1, some words. "
        "Set `text` to one of them."
    )


def test_a_column_that_no_format_of_the_source_can_have_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.html").write_text("<p>b</p>")
    assert refusal(tmp_path, {"path": ".", "columns": ("year",)}) == (
        "inputs[0] (input): DIR/a.txt: no column year (columns). It has: path. Set `columns` to one of them, or give "
        "the files without it an input of their own. (and 1 more file)"
    )


def test_a_column_that_a_later_json_object_may_have_is_empty_for_text_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.txt").write_text("b")
    assert frozen(tmp_path, path=".", columns=("year",)).notes == (
        "Source input: no record at the beginning of its jsonl files has year, which the config names.",
        "Source input: 1 text file cannot have a column year (columns): it is empty for their documents.",
    )


def test_named_columns_that_no_json_object_at_the_beginning_has_are_told_with_the_nearest(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "licence": "x"}\n' * 3)
    (tmp_path / "b.jsonl").write_text('{"text": "b", "year": 2001}\n')
    assert frozen(tmp_path, path=".", id="key", columns=("year", "license")).notes == (
        "Source input: no record at the beginning of its jsonl files has key, license (did you mean licence?), which "
        "the config names.",
    )
    assert frozen(tmp_path, path=".", columns=("year", "licence")).notes == ()


def test_a_header_with_a_column_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("id,text,text\n1,a,b\n")
    assert refusal(tmp_path, {"path": "."}) == (
        "inputs[0] (input): DIR/a.csv: has 2 columns text (text). Write it with unique names."
    )
    assert frozen(tmp_path, path=".", text="id").units


def test_a_folder_that_holds_only_folders_is_named_as_such(tmp_path):
    (tmp_path / "in" / "a" / "b").mkdir(parents=True)
    assert refusal(tmp_path, {"path": "in"}) == (
        "inputs[0] (input): DIR/in: it holds only folders (a/), and no file lies below it. Check the path."
    )


def test_json_lines_without_the_text_are_counted(tmp_path):
    for number in range(50):
        (tmp_path / f"{number:02}.jsonl").write_text('{"body": "a"}\n')
    assert refusal(tmp_path, {"path": "."}).endswith("It has: body. Set `text` to one of them. (and 49 more files)")


def test_all_troubles_of_all_inputs_are_reported_together(folder):
    message = refusal(
        folder,
        {"source": "one", "path": "nothing"},
        {"source": "two", "path": "f.parquet", "text": "body"},
        {"source": "three", "path": "a.jsonl"},
        {"source": "four", "path": "*.jsonl"},
    )
    assert [line.split(":")[0] for line in message.splitlines()] == [
        "inputs[0] (one)",
        "inputs[1] (two)",
        "inputs[3] (four)",
    ]
    assert "DIR/a.jsonl: already read by inputs[2] (three). A file belongs to one input" in message


def test_two_inputs_of_one_name_are_refused(folder):
    message = refusal(folder, {"path": "a.jsonl"}, {"path": "b.jsonl"})
    assert message == "inputs 0 and 1 are both called input. Give each a `source` of its own."


def test_inputs_without_anything_in_them_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    assert refusal(tmp_path, {"path": "."}) == (
        "inputs[0] (input): DIR: nothing to read in its files (1 of zero bytes passed over). Point it at documents."
    )


def test_an_empty_file_beside_others_is_no_trouble(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.jsonl").write_text(LINE)
    manifest = frozen(tmp_path, path=".")
    assert names(manifest, tmp_path) == ["b.jsonl"] and manifest.skipped == {"input": {"zero bytes": 1}}
    assert [span.uri[-7:] for unit in manifest.units for span in unit.spans] == ["b.jsonl"]


def test_the_columns_are_looked_up_in_the_first_file_that_is_not_empty(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("id,content\n1,x\n")
    assert refusal(tmp_path, {"path": "."}).startswith("inputs[0] (input): DIR/b.csv: no column text (text).")


def test_a_file_without_permission_is_refused_with_the_fix(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything, so here the store says no in its place

        def refuse(name):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pyarrow.OSFile", refuse)
    assert "DIR/a.parquet: Permission denied. Change its permissions" in refusal(tmp_path, {"path": "."})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "x", "columns": ["text"]}, "text: the corpus has a column of this name with another meaning"),
        ({"path": "x", "columns": ["source", "url"]}, "source: the corpus has a column of this name"),
        ({"path": "x", "columns": ["url", "url"]}, "url: named twice"),
        ({"path": "x", "source": "a b"}, "String should match pattern"),
        ({"path": "x", "format": "xml"}, "Input should be 'parquet', 'jsonl'"),
        ({"path": "x", "glob": "y"}, "Extra inputs are not permitted"),
        ({"path": ""}, "at least 1 character"),
        ({"path": "x", "weight": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Input(**settings)


# ---- the hub ----


def test_splits_of_a_saved_dataset_are_named_when_one_is_not_there(tmp_path):
    disable_progress_bars()
    DatasetDict(train=Dataset.from_dict({"text": ["a"]})).save_to_disk(tmp_path / "d")
    message = refusal(tmp_path, {"path": "d", "split": "test"})
    assert message == "inputs[0] (input): DIR/d: no split test. It has: train. Set `split` to one of them."


def test_a_saved_dataset_with_a_file_missing_is_refused(tmp_path):
    disable_progress_bars()
    Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "d", num_shards=2)
    (tmp_path / "d" / "data-00001-of-00002.arrow").unlink()
    assert "1 of 2 files of the data set are missing. Save it again." in refusal(tmp_path, {"path": "d"})


def test_a_saved_dataset_that_names_a_file_twice_is_refused(tmp_path):
    disable_progress_bars()
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "d")
    state = tmp_path / "d" / "state.json"
    plain = json.loads(state.read_text())
    state.write_text(json.dumps(plain | {"_data_files": 3 * plain["_data_files"]}))
    message = refusal(tmp_path, {"path": "d"})
    assert "state.json: names a file of the data set twice. Save the data set again." in message


def test_a_name_of_the_hub_is_loaded_and_its_cached_files_are_read(tmp_path, monkeypatch):
    disable_progress_bars()
    asked = tmp_path / "asked"  # a file, since the hub's library runs in a process of its own

    def note(what):
        with asked.open("a") as file:
            print(json.dumps(what), file=file)

    def rows():
        yield {"text": "from the hub"}

    def builder(*name, revision):
        note(name)
        return Generator(cache_dir=str(tmp_path / "hub"), generator=rows, split=NamedSplit("validation"))

    monkeypatch.setattr("datasets.load_dataset_builder", builder)
    manifest = frozen(tmp_path, path="hf://org/name/config", split="validation")
    assert json.loads(asked.read_text().splitlines()[-1]) == ["org/name", "config"]
    (table,) = read_unit(manifest.units[0], manifest.reading, Limits())
    assert table["text"].to_pylist() == ["from the hub"]


def test_a_hub_out_of_reach_is_refused_with_the_fix(tmp_path, monkeypatch):
    def load_dataset_builder(*name, revision):
        raise ConnectionError("Couldn't reach 'org/name' on the Hub\nand a long story")

    monkeypatch.setattr("datasets.load_dataset_builder", load_dataset_builder)
    assert refusal(tmp_path, {"path": "hf://org/name"}) == (
        "inputs[0] (input): hf://org/name, split train: Couldn't reach 'org/name' on the Hub. Check the name, the "
        "network and HF_TOKEN, or save the data set with `datasets` and give the folder as `path`."
    )


# ---- units ----


def test_units_follow_the_order_of_inputs_names_and_positions(folder):
    with chdir(folder):
        inputs = [Input(source="b", path="b.jsonl"), Input(source="a", path="**/[acd].jsonl")]
        manifest = freeze(Store(), inputs, 20)
    spans = [(unit.index, unit.source, Path(span.uri).name) for unit in manifest.units for span in unit.spans]
    assert spans == [(0, "b", "b.jsonl"), (1, "a", "a.jsonl"), (2, "a", "c.jsonl"), (3, "a", "d.jsonl")]


def test_small_files_share_a_unit_and_sources_do_not(folder):
    with chdir(folder):
        inputs = [Input(source="b", path="b.jsonl"), Input(source="a", path="**/[acd].jsonl")]
        manifest = freeze(Store(), inputs, MIB)
    assert [(unit.source, len(unit.spans), unit.bytes) for unit in manifest.units] == [("b", 1, 14), ("a", 3, 42)]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_large_parquet_file_is_cut_between_row_groups(tmp_path, compression):
    """By the size of the text, not of what it takes in the file."""
    texts = [os.urandom(500).hex() for _ in range(100)]
    options = {"row_group_size": 10, "use_dictionary": False, "compression": compression, "write_statistics": False}
    pq.write_table(pa.table({"text": texts, "junk": texts}), tmp_path / "a.parquet", **options)
    manifest = frozen(tmp_path, path=".", unit_bytes=31_000)  # three row groups of 10 kB, of the text column alone
    assert [(span.start, span.end) for unit in manifest.units for span in unit.spans] == [
        (0, 3),
        (3, 6),
        (6, 9),
        (9, 10),
    ]
    assert all(30_000 <= unit.bytes <= 31_000 for unit in manifest.units[:-1])
    assert manifest.files[0].rows == 100


def test_the_schema_of_many_files_is_kept_once(tmp_path):
    """Footers are read file by file, each with a schema of its own: 100,000 of these would be the driver's memory."""
    for name, column in (("a", "text"), ("b", "text"), ("c", "other")):
        pq.write_table(pa.table({"text": ["x"], column: ["x"]}), tmp_path / f"{name}.parquet")
    (listed,) = list_inputs(Store(), [Input(path=str(tmp_path))]).sources
    source = _Source(**vars(listed))
    with ThreadPoolExecutor(1) as pool:
        _cut_files(source, pool)
    first, second, other = (cut.schema for cut in source.cuts)
    assert first is not None and first is second and first != other


def test_a_small_input_in_one_row_group_has_several_units(tmp_path):
    """pyarrow writes a million rows into one row group: the usual small file."""
    texts = [f"{number} " + "a" * 1_000 for number in range(10_000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts, "id": range(10_000)}), path, use_dictionary=False)
    assert pq.ParquetFile(path).num_row_groups == 1
    found = freeze(Store(), [Input(path=str(path), id="id")])
    spans = [span for unit in found.units for span in unit.spans]
    assert [(span.start, span.end, span.rows) for span in spans] == [
        (0, 1, (1250 * part, 1250 * (part + 1))) for part in range(8)
    ]
    assert sum(unit.bytes for unit in found.units) == pytest.approx(10_000 * 1_008, rel=0.01)
    third = [row for table in read_unit(found.units[2], found.reading, Limits()) for row in table.to_pylist()]
    assert [(row["row"], row["id"], row["text"]) for row in third] == [
        (number, str(2500 + number), texts[2500 + number]) for number in range(1250)
    ]


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.integers(1, 60),
    st.integers(1, 2_000),
    st.integers(1, 3_000),
)
def test_rows_do_not_depend_on_how_row_groups_are_cut(tmp_path_factory, sizes, group_rows, unit_bytes, table_bytes):
    """Texts, ids, and where a row that cannot be read is: a part names it as the whole row group does."""
    path = tmp_path_factory.mktemp("cut") / "a.parquet"
    texts = [None if size == 7 else f"{number:03d}" + "x" * size for number, size in enumerate(sizes)]
    bad_ids = [b"\xff" if size == 9 else str(number).encode() for number, size in enumerate(sizes)]
    table = pa.table({"text": pa.array(texts, pa.string()), "id": pa.array(bad_ids, pa.binary())})
    pq.write_table(table, path, row_group_size=group_rows, data_page_size=64, use_dictionary=False)

    def rows(manifest: InputManifest) -> list[dict]:
        tables = (t for unit in manifest.units for t in read_unit(unit, manifest.reading, Limits(), table_bytes))
        return [
            {name: row[name] for name in ("id", "text", "problem", "where")} for t in tables for row in t.to_pylist()
        ]

    cut, whole = (freeze(Store(), [Input(path=str(path), id="id")], size) for size in (unit_bytes, 1 << 30))
    assert len(whole.units) == 1 and whole.units[0].spans[0].rows is None
    assert rows(cut) == rows(whole) and len(rows(whole)) == len(sizes)
    read = {span.start for unit in cut.units for span in unit.spans}
    assert sum(unit.bytes for unit in cut.units) == whole.units[0].bytes and min(read) == 0


def test_a_large_plain_file_is_cut_by_bytes_and_a_compressed_one_is_not(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINE * 100)
    (tmp_path / "b.jsonl.gz").write_bytes(b"x" * 2000)
    manifest = frozen(tmp_path, path=".", unit_bytes=500)
    spans = [(Path(span.uri).name, span.start, span.end) for unit in manifest.units for span in unit.spans]
    assert spans == [("a.jsonl", 0, 466), ("a.jsonl", 466, 933), ("a.jsonl", 933, 1400), ("b.jsonl.gz", 0, 2000)]
    assert manifest.units[-1].bytes == 6000  # an estimate of the text, not of the gzip


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=60), st.integers(1, 400))
def test_packing_keeps_every_piece_in_order(pieces, unit_bytes):
    spans = [(Span(f"file{file}", 9, "v", "jsonl", at, at + 1), size) for at, (file, size) in enumerate(sorted(pieces))]
    units = make_units("s", spans, unit_bytes, 7)
    unfolded = [(span.uri, at) for unit in units for span in unit.spans for at in range(span.start, span.end)]
    assert unfolded == [(span.uri, span.start) for span, _ in spans]
    assert sum(unit.bytes for unit in units) == sum(size for _, size in spans)
    assert [unit.index for unit in units] == list(range(7, 7 + len(units)))
    for unit in units:
        pieces_held = sum(span.end - span.start for span in unit.spans)
        assert unit.bytes <= unit_bytes or pieces_held == 1


def test_pieces_that_fill_a_unit_to_the_byte_are_one_unit():
    spans = [(Span("file", 1, "v", "parquet", number, number + 1), 50) for number in range(5)]
    assert [unit.bytes for unit in make_units("s", spans, 100, 0)] == [100, 100, 50]


def small_files(count: int, text_bytes: int = 1) -> list[tuple[Span, int]]:
    return [(Span(f"file{number:05}", 1, "v", "text", 0, 1), text_bytes) for number in range(count)]


def test_a_unit_of_tiny_files_stays_short():
    counts = [len(unit.spans) for unit in make_units("s", small_files(20_000), MIB, 0)]
    assert max(counts) == MAX_SPANS_PER_UNIT and len(counts) < 45


@pytest.mark.parametrize("text_bytes", [1, 10_000, 400_000])
def test_a_file_that_is_added_moves_the_ends_of_few_units(text_bytes):
    """In the middle of 3,000 tiny, small or larger files; a unit of 1 MiB has at least two of them."""
    spans = small_files(3000, text_bytes)
    before = {unit.spans for unit in make_units("s", spans, MIB, 0)}
    for number in range(0, 3000, 250):
        added = [*spans[:number], (Span(f"file{number:05}a", 1, "v", "text", 0, 1), text_bytes), *spans[number:]]
        after = {unit.spans for unit in make_units("s", added, MIB, 0)}
        assert 1 <= len(after - before) <= 8


def test_a_file_of_half_a_unit_has_a_unit_of_its_own():
    pieces = [(Span(name, 9, "v", "text", 0, 9), size) for name, size in [("a", 1), ("b", 50), ("c", 1), ("d", 49)]]
    units = make_units("s", pieces, 100, 0)
    assert ["b"] in [unit.uris for unit in units] and all(unit.bytes <= 50 for unit in units)


@pytest.mark.parametrize("text_bytes", [0, 1, 8_000_000, 44_000_000, 10**9, 10**11, 10**12, 10**13, 10**14])
def test_units_are_at_least_32_above_8_mb_and_at_most_20_000(text_bytes):
    unit_bytes = bytes_of_unit(text_bytes)
    assert unit_bytes.bit_count() == 1 and unit_bytes >= 128 << 10
    assert text_bytes < 8_000_000 or text_bytes / unit_bytes >= 32
    assert 2 * text_bytes / unit_bytes <= 20_000  # a unit is at least half full on average
    assert unit_bytes <= 256 << 20 or text_bytes > 10**12


def test_a_medium_file_has_32_units(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "' + "a" * 990 + '"}\n')
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text() * 9000)
    with chdir(tmp_path):
        assert 32 <= len(freeze(Store(), [Input(path="a.jsonl")]).units) <= 72


# ---- the manifest ----


def test_the_manifest_is_read_as_it_was_written(folder):
    pq.write_table(pa.table({"text": ["a"], "tags": [["x"]], "n": [1]}), folder / "sub" / "z.parquet")
    with chdir(folder):
        inputs = [
            Input(
                source="tables",
                path="sub/*.parquet",
                columns=["tags", "n"],
                licence="CC0",
                weight=2,
                snapshot="2026-10",
            ),
            Input(source="lines", path="a.jsonl", id="id", columns=["url"]),
        ]
        manifest = freeze(Store(), inputs, MIB)
    write_inputs(str(folder), manifest, {})
    record = json.loads((folder / "inputs.json").read_text())
    assert read_inputs(str(folder), record, Store()) == manifest
    assert record["carried"] == {"tags": "list<element: string>", "n": "int64", "url": "string"}


@pytest.mark.parametrize(
    "damage", ["no parquet", "other columns", "other inputs", "other schema", "a start below 0", "no start"]
)
def test_a_manifest_that_somebody_changed_is_named_and_no_defect(folder, damage):
    write_inputs(str(folder), freeze(Store(), [Input(path=str(folder / "a.jsonl"))], MIB), {})
    record = json.loads((folder / "inputs.json").read_text())
    if damage == "no parquet":
        (folder / "inputs.parquet").write_bytes(b"[" * 1000)
    elif damage == "other columns":
        pq.write_table(pa.table({"a": [1]}), folder / "inputs.parquet")
    elif damage in ("a start below 0", "no start"):
        table = pq.read_table(folder / "inputs.parquet")
        starts = pa.array([-1 if damage == "a start below 0" else None] * len(table), pa.int64())
        pq.write_table(table.set_column(table.column_names.index("start"), "start", starts), folder / "inputs.parquet")
    else:
        record |= {"other inputs": {"inputs": [{"speakers": []}]}, "other schema": {"carried_schema": "AAAA"}}[damage]
    with pytest.raises(DataError, match=r"inputs\.parquet: does not fit inputs\.json, or is damaged"):
        read_inputs(str(folder), record, Store())


def test_parts_of_row_groups_are_recorded_and_records_of_earlier_versions_are_read(tmp_path):
    pq.write_table(pa.table({"text": ["a" * 100] * 20}), tmp_path / "a.parquet", row_group_size=10)
    for unit_bytes, parts in ((300, True), (MIB, False)):
        manifest = freeze(Store(), [Input(path=str(tmp_path / "a.parquet"))], unit_bytes)
        assert any(span.rows for unit in manifest.units for span in unit.spans) == parts
        write_inputs(str(tmp_path), manifest, {})
        record = json.loads((tmp_path / "inputs.json").read_text())
        assert read_inputs(str(tmp_path), record, Store()) == manifest
    earlier = pq.read_table(tmp_path / "inputs.parquet").drop_columns(["first_row", "end_row"])
    pq.write_table(earlier, tmp_path / "inputs.parquet")
    assert read_inputs(str(tmp_path), record, Store()) == manifest


def test_the_same_files_give_the_same_manifest_and_fingerprint(folder):
    assert frozen(folder, path=".") == frozen(folder, path=".")


@pytest.mark.parametrize("change", ["content", "name", "setting"])
def test_the_fingerprint_follows_files_and_settings(folder, change):
    before = frozen(folder, path="*.jsonl").fingerprint
    if change == "content":
        (folder / "a.jsonl").write_text('{"text": "b"}\n')
        os.utime(folder / "a.jsonl", ns=(1, 1))
    elif change == "name":
        (folder / "a.jsonl").rename(folder / "aa.jsonl")
    after = frozen(folder, path="*.jsonl", licence="CC0" if change == "setting" else None).fingerprint
    assert after != before


def test_an_artifact_that_was_made_again_is_the_same_input_unless_a_file_is_cut_or_added(tmp_path):
    """The second one has other names of files and other times."""
    runs = {}
    for name in ("before", "after"):
        monkey = pytest.MonkeyPatch()
        (tmp_path / "in.jsonl").write_text(LINE)
        settings = {"inputs": [{"path": str(tmp_path / "in.jsonl")}], "output": str(tmp_path / name)}
        runs[name] = curate_inline(settings | {"language": None, "rules": None, "dedup": None}, monkey)
        (tmp_path / name / "corpus").rename(tmp_path / "corpus")
        runs[name] = [path.name for path in (tmp_path / "corpus").glob("*.parquet")], frozen(tmp_path, path="corpus")
        if name == "before":
            (tmp_path / "corpus").rename(tmp_path / "old")
    (names_before, before), (names_after, after) = runs.values()
    assert names_before != names_after and before.fingerprint == after.fingerprint
    (file,) = (tmp_path / "corpus").glob("*.parquet")
    (tmp_path / "corpus" / "more.parquet").write_bytes(file.read_bytes())
    assert frozen(tmp_path, path="corpus").fingerprint != after.fingerprint
    assert frozen(tmp_path, path="corpus", licence="CC0").fingerprint != after.fingerprint


def test_the_fingerprint_does_not_depend_on_the_size_of_units(folder):
    assert frozen(folder, path=".", unit_bytes=10).fingerprint == frozen(folder, path=".").fingerprint


BYTES = [pa.binary(), pa.large_binary(), pa.list_(pa.binary()), pa.struct([("a", pa.binary())]), pa.binary(2)]


@pytest.mark.parametrize("type", BYTES, ids=str)
@pytest.mark.parametrize("other", ["string", "jsonl"])
def test_bytes_beside_strings_of_one_name_are_refused(tmp_path, type, other):
    pq.write_table(pa.table({"text": ["a"], "x": pa.nulls(1, type)}), tmp_path / "a.parquet")
    if other == "string":
        pq.write_table(pa.table({"text": ["a"], "x": ["b"]}), tmp_path / "b.parquet")
    else:
        (tmp_path / "b.jsonl").write_text('{"text": "a", "x": "b"}\n')
    message = refusal(tmp_path, {"path": ".", "columns": ["x"]})
    assert message.startswith("column x (columns) has several types: ") and "string in DIR/b." in message
    assert [file.problem for file in frozen(tmp_path, path=".").files] == [None, None]


def test_bytes_alone_and_beside_nulls_stay_bytes(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "x": pa.array([b"\xff"])}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"], "x": pa.nulls(1)}), tmp_path / "b.parquet")
    manifest = frozen(tmp_path, path=".", columns=["x"])
    rows = [
        row
        for unit in manifest.units
        for table in read_unit(unit, manifest.reading, Limits())
        for row in table.to_pylist()
    ]
    assert [row["x"] for row in rows] == [b"\xff", None]


HALVES = {
    "no text": {"text": None},
    "text of another type": {"text": 1},
    "an id of another type": {"text": "a", "id": 1.5},
    "half a pair in the text": {"text": "\ud800"},
    "half a pair in the id": {"text": None, "id": "\ud800"},
}


@pytest.mark.parametrize("value", HALVES.values(), ids=HALVES)
def test_half_a_surrogate_pair_beside_a_problem_is_a_row_of_quarantine(tmp_path, value):
    (tmp_path / "a.jsonl").write_text(json.dumps(value | {"title": "\ud800"}) + '\n{"text": "b"}\n')
    bad, good = rows_of(tmp_path, id="id", columns=["title"])
    assert bad["problem"] and good["text"] == "b"


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_carried_value_over_the_bound_is_a_row_of_quarantine(tmp_path, ending):
    rows = [{"text": "a", "title": "x" * 1_200_000}, {"text": "b", "title": "y" * 1_000_000}]
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == ".csv":
        path.write_text("text,title\n" + "".join(f"{row['text']},{row['title']}\n" for row in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    long, short = rows_of(tmp_path, Limits(max_document_bytes=1000), columns=["title"])
    assert (long["problem"], long["text"], long["title"] or None) == ("too_large", None, None)
    assert (short["problem"], short["text"], short["title"]) == (None, "b", "y" * 1_000_000)
