"""Records of web archives: each is a document, a problem or counted."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.errors import DataError
from raymill.cluster.readers.formats import READERS, warc
from raymill.cluster.readers.formats.cdx import indexes_beside, records_of
from raymill.cluster.readers.formats.page_columns import NO_IDS
from raymill.cluster.readers.formats.web_pages import add_page
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.questions.run_reader import RunReader
from tests.golden.cases import FOLDER
from tests.support.inline import curate_inline
from tests.support.input_rows import rows_of
from tests.support.warc_records import COMPRESS, record, response

WORDS = b"The mill number %d turns from morning to evening, and by the river it is heard by all of us. "
PAGE = b"<html><article><p>" + WORDS + b"It turns on and on until it stops at last. " * 9 + b"</p></article></html>"
GOLDEN = (FOLDER / "records.warc").read_bytes()
EXPECTED = yaml.safe_load((FOLDER / "records.yaml").read_text())
RECORDS = re.split(rb"(?=^WARC/1\.1$)", GOLDEN, flags=re.MULTILINE)[1:]

ARC = (FOLDER / "records.arc").read_bytes()
OF_ARC = yaml.safe_load((FOLDER / "records_arc.yaml").read_text())
ARC_RECORDS = re.split(rb"(?=^\S.* 192\.0\.2\.1 2009)", ARC, flags=re.MULTILINE)[1:]


def outcomes(path: Path, **settings: object) -> tuple[list[dict], ReaderCounts]:
    manifest, counts = freeze(Store(), [Input(path=str(path), **settings)], 1 << 20), ReaderCounts()
    tables = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits(), counts=counts)]
    return [row for table in tables for row in table.to_pylist()], counts


@pytest.mark.parametrize("number", EXPECTED)
def test_what_becomes_of_a_record_is_what_the_golden_file_says(tmp_path, number):
    (tmp_path / "a.warc").write_bytes(RECORDS[number - 1])
    rows, counts = outcomes(tmp_path / "a.warc")
    found = [*counts.skipped, *("document" if row["text"] else f"<{row['problem']}>" for row in rows)]
    assert found == [EXPECTED[number]] and counts.records == 1


@pytest.mark.parametrize("number", OF_ARC)
def test_what_becomes_of_a_record_of_arc_is_what_the_golden_file_says(tmp_path, number):
    (tmp_path / "a.arc").write_bytes(ARC_RECORDS[number - 1])
    rows, counts = outcomes(tmp_path / "a.arc")
    found = [*counts.skipped, *("document" if row["text"] else f"<{row['problem']}>" for row in rows)]
    assert found == [OF_ARC[number]] and counts.records == 1 and len(ARC_RECORDS) == len(OF_ARC)


def test_a_page_of_arc_has_its_url_and_time_and_its_url_is_its_id(tmp_path):
    (tmp_path / "a.arc.gz").write_bytes(b"".join(map(COMPRESS[".gz"], ARC_RECORDS)))
    rows = rows_of(tmp_path, id="record_id", columns=["url", "date", "title"])
    first, ferry, *_ = (row for row in rows if row["text"])
    assert (first["id"], first["url"], first["date"], first["title"]) == (
        "http://example.org/mill", "http://example.org/mill", "2009-01-02T03:04:05Z", "Mill",
    )  # fmt: skip
    assert ferry["url"] == "http://example.org/a page with spaces"


DAMAGED_ARC = {
    "bytes between records": (b"rubbish\nand more\n\nhttp://x 1.1.1.1 2009 text/html 3\n", "<bad_warc_record>"),
    "a length that is no number": (b"http://x/ 1.1.1.1 20090102030405 text/html -3\nabc\n", "<bad_warc_record>"),
    "a line without end": (b"x" * 100_000 + b"\n", "<bad_warc_record>"),
    "many lines": (b"rubbish\n" * 50_000 + b"x" * 100_000 + b"\n" + b"rubbish\n" * 50_000, "<bad_warc_record>"),
    "lines with a time": (b"on 20090102030405 at\n" * 10_000, "<bad_warc_record>"),
    "a long line among others": (b"a\n" + b"x" * 70_000 + b" 20090102030405 \nb\n", "<bad_warc_record>"),
}


@pytest.mark.parametrize("name", DAMAGED_ARC)
def test_damage_in_arc_costs_no_other_record(tmp_path, name):
    damage, expected = DAMAGED_ARC[name]
    (tmp_path / "a.arc").write_bytes(ARC_RECORDS[1] + damage + ARC_RECORDS[4])
    mill, found, ferry = (row["text"] or f"<{row['problem']}>" for row in outcomes(tmp_path / "a.arc")[0])
    assert ("mill" in mill, found, "ferry" in ferry) == (True, expected, True)


def test_a_cut_arc_is_one_problem_and_a_page_over_the_bound_another(tmp_path):
    (tmp_path / "a.arc").write_bytes(ARC_RECORDS[1] + ARC_RECORDS[4][:-100])
    rows, counts = outcomes(tmp_path / "a.arc")
    assert [row["problem"] for row in rows] == [None, "truncated"] and counts.records == 2
    large = b"<html>" + b"x" * 200_000
    line = b"http://x/ 1.1.1.1 20090102030405 text/html %d\n" % len(large)
    (tmp_path / "a.arc").write_bytes(line + large + b"\n" + ARC_RECORDS[1])
    assert [row["problem"] for row in rows_of(tmp_path, limits=Limits(max_document_bytes=10_000))] == [
        "too_large",
        None,
    ]


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(0, 900))
def test_no_bytes_can_stop_the_reading_of_arc(tmp_path_factory, rubbish, at):
    path = tmp_path_factory.mktemp("arc") / "a.arc"
    path.write_bytes(ARC[:at] + rubbish + ARC[at:])
    for row in rows_of(path):
        assert (row["text"] is None) == (row["problem"] is not None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", [".warc.zst", ".jsonl.zst"])
def test_a_damaged_dictionary_is_a_problem_of_the_file(tmp_path, packed, ending):
    content = b"\x37\xa4\x30\xec" + b"a" * 12
    content = zstandard.compress(content) if packed else content
    frame = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    (tmp_path / f"a{ending}").write_bytes(frame + zstandard.compress(b'{"text": "a"}\n'))
    assert [one["problem"] for one in rows_of(tmp_path)] == ["corrupt_compression"]


def with_dictionary(records: list[bytes], packed: bool) -> bytes:
    """A zstd archive whose first frame is the dictionary of the others, as the WARC-Zstandard specification has it."""
    dictionary = zstandard.ZstdCompressionDict(GOLDEN[:4000], dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    content = zstandard.compress(dictionary.as_bytes()) if packed else dictionary.as_bytes()
    frame = zstandard.ZstdCompressor(dict_data=dictionary)
    head = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    return head + b"".join(map(frame.compress, records))


@pytest.mark.parametrize("packed", [False, True])
def test_a_zstd_archive_may_begin_with_the_dictionary_of_its_frames(tmp_path, packed):
    (tmp_path / "a.warc").write_bytes(GOLDEN)
    content = with_dictionary(RECORDS, packed)
    (tmp_path / "b.warc.zst").write_bytes(content)
    plain, unpacked = (outcomes(tmp_path / name) for name in ("a.warc", "b.warc.zst"))
    assert plain[1] == unpacked[1]
    assert [row["text"] for row in plain[0]] == [row["text"] for row in unpacked[0]]
    for cut in (6, 100, len(content) - 50):
        (tmp_path / "b.warc.zst").write_bytes(content[:cut])
        assert outcomes(tmp_path / "b.warc.zst")[0][-1]["problem"] in ("truncated", "not_compressed")
    (tmp_path / "b.warc.zst").write_bytes(content[:4] + b"\xff\xff\xff\x7f" + content[8:])
    assert [row["problem"] for row in outcomes(tmp_path / "b.warc.zst")[0]] == ["large_block"]


@pytest.mark.parametrize("ending", [ending for ending in COMPRESS if ending])
def test_records_are_the_same_in_a_compressed_archive(tmp_path, ending):
    for name, compressed in (("a.warc", bytes), (f"b.warc{ending}", COMPRESS[ending])):
        (tmp_path / name).write_bytes(b"".join(map(compressed, RECORDS)))
    plain, packed = (outcomes(tmp_path / name, columns=["url"]) for name in ("a.warc", f"b.warc{ending}"))
    assert plain[1] == packed[1]
    assert [(row["url"], row["text"]) for row in plain[0]] == [(row["url"], row["text"]) for row in packed[0]]


def test_of_a_record_that_the_crawler_cut_the_reason_is_a_column_and_no_id(tmp_path):
    (tmp_path / "a.warc").write_bytes(GOLDEN)
    rows = rows_of(tmp_path, columns=["url", "truncated"])
    assert {row["url"][19:]: row["truncated"] for row in rows if row["text"]} == {
        "mill": None, "bridge": "length", "ferry": None, "tower": None,
    }  # fmt: skip
    (note,) = freeze(Store(), [Input(path=str(tmp_path), id="truncated")]).notes
    assert "record_id is the id instead" in note and "truncated" in NO_IDS
    assert next(row["id"] for row in rows_of(tmp_path, id="truncated")) == "<urn:uuid:3>"


@pytest.mark.parametrize("cut", [0, 1, 200])
def test_every_record_of_a_run_is_a_document_in_quarantine_or_counted(tmp_path, monkeypatch, cut):
    """cut: bytes that are missing at the end of the file, within its last record."""
    last = record("continuation", b"x" * 400) if cut else b""
    (tmp_path / "a.warc").write_bytes((GOLDEN + last)[: len(GOLDEN + last) - 2 * cut])
    inputs = [{"source": "crawl", "path": str(tmp_path / "a.warc")}]
    plain = {"inputs": inputs, "output": str(tmp_path / "run"), "execution": {"max_bad_documents": 1.0}}
    run = curate_inline(plain | {"rules": None}, monkeypatch)
    (source,) = run.report["sources"]
    counted = sum(row["count"] for row in run.report["skipped"] if row["inside"])
    bad = sum(row["documents"] for row in run.report["quarantine"])
    assert source["records"] == source["input"]["documents"] + bad + counted == len(EXPECTED) + bool(cut)


def packed(ending: str) -> bytes:
    return with_dictionary(RECORDS, True) if ending == ".dictionary" else b"".join(map(COMPRESS[ending], RECORDS))


@pytest.mark.parametrize("ending", [*COMPRESS, ".dictionary"])
def test_a_record_is_read_from_its_place_alone(tmp_path, ending):
    path = tmp_path / f"a.warc{ending.replace('.dictionary', '.zst')}"
    path.write_bytes(packed(ending))
    (unit,) = (manifest := freeze(Store(), [Input(path=str(path), columns=("url",))])).units
    rows, _ = outcomes(path, columns=("url",))
    assert len(rows) == 6
    for row in rows:
        start = int(row["where"].removeprefix(f"{path} record at byte ").partition(" ")[0])
        if not ending:
            assert path.read_bytes()[start:].startswith(b"WARC/1.1")
        found = READERS["warc"].record_at(Store(), unit.spans[0], start, manifest.inputs[0], Limits())
        assert {name: found[name].to_pylist() for name in ("text", "problem", "where", "url")} == {
            name: [row[name]] for name in ("text", "problem", "where", "url")
        }


def test_a_record_within_a_member_has_its_place_in_the_content(tmp_path):
    (tmp_path / "a.warc.gz").write_bytes(COMPRESS[".gz"](GOLDEN) + COMPRESS[".gz"](b"") + COMPRESS[".gz"](RECORDS[2]))
    *within, alone = (row["where"].partition("byte ")[2] for row in outcomes(tmp_path / "a.warc.gz")[0])
    assert within[0] == f"{len(b''.join(RECORDS[:2]))} of its content" and all("content" in one for one in within)
    assert (tmp_path / "a.warc.gz").read_bytes()[int(alone) :].startswith(b"\x1f\x8b")


def test_a_record_of_arc_is_read_from_its_place_alone(tmp_path):
    (tmp_path / "a.arc.gz").write_bytes(b"".join(map(COMPRESS[".gz"], ARC_RECORDS)))
    (unit,) = (manifest := freeze(Store(), [Input(path=str(tmp_path))])).units
    rows, _ = outcomes(tmp_path)
    for row in rows:
        start = int(row["where"].rpartition(" ")[2])
        found = READERS["arc"].record_at(Store(), unit.spans[0], start, manifest.inputs[0], Limits())
        assert found["text"].to_pylist() == [row["text"]]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_page_of_a_run_is_read_alone_where_its_text_is_not_stored(tmp_path, monkeypatch, ending):
    pages = [record("response", response(PAGE % n), n) for n in range(30)]
    (tmp_path / f"a.warc{ending}").write_bytes(b"".join(map(COMPRESS[ending], pages)))
    inputs = [{"path": str(tmp_path / f"a.warc{ending}"), "columns": ["url"]}]
    run = curate_inline({"inputs": inputs, "output": str(tmp_path / "run"), "rules": None, "dedup": None}, monkeypatch)
    assert "a.warc" in (said := str(run.explain("http://x/20"))) and "record at byte" in said
    shutil.rmtree(tmp_path / "run" / "_work")
    reader, parsed = RunReader(Store(), run.uri), []
    monkeypatch.setattr(warc, "add_page", lambda *given: (parsed.append(1), add_page(*given)))
    assert "number 20 turns" in reader.text_of(reader.document_at(20)) and len(parsed) == 1
    with (tmp_path / f"a.warc{ending}").open("ab") as file:
        file.write(b" ")
    with pytest.raises(DataError, match="changed since this run began"):
        reader.text_of(reader.document_at(20))


def indexed(path: Path, kind: str) -> str:
    """An index of the archive, of all records: (URL, offset) by another reader, the division of the golden file."""
    starts, at = [], 0
    for number, one in enumerate(RECORDS):
        if found := re.search(rb"WARC-Target-URI: (\S+)", one):
            starts.append((found[1].decode(), at, number))
        at += len(COMPRESS[".gz"](one))
    if kind == "cdxj":
        rows = ({"url": url, "offset": str(at), "filename": path.name} for url, at, _ in starts)
        return "".join(f"org,example)/ 20260102030405 {json.dumps(row)}\n" for row in rows)
    lines = (f"org,example)/ 20260102030405 {url} text/html 200 - - - 1 {at} x/{path.name}\n" for url, at, _ in starts)
    return " CDX N b a m s k r M S V g\n" + "".join(lines)


@pytest.mark.parametrize(("name", "kind"), [("a.cdx", "cdx"), ("a.warc.gz.cdxj", "cdxj"), ("a.warc.cdx.gz", "cdx")])
def test_what_became_of_any_url_is_told_by_the_index_beside_an_archive(tmp_path, monkeypatch, name, kind):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(packed(".gz"))
    index = indexed(path, kind).encode()
    (tmp_path / name).write_bytes(COMPRESS[".gz"](index) if name.endswith(".gz") else index)
    inputs = [{"path": str(path), "columns": ["url"]}]
    settings = {"inputs": inputs, "output": str(tmp_path / "run"), "execution": {"max_bad_documents": 1.0}}
    run = curate_inline(settings | {"rules": None, "dedup": None}, monkeypatch)
    for url, outcome in {
        "http://example.org/gone": "no document: response with status 404",
        "http://example.org/wheel.gif": "no document: response of type image/gif",
        "http://example.org/empty": "in quarantine: empty_extraction",
        "http://example.org/long": "no document: record of kind continuation",
    }.items():
        said = str(run.explain(url))
        assert f"outcome   {outcome}" in said and f"index     {tmp_path}/{name}" in said and "\n\n" not in said
    assert "outcome   kept" in str(run.explain("http://example.org/mill"))  # of a document all is known
    with pytest.raises(DataError, match="no document has id"):
        run.explain("http://example.org/nowhere")


@given(st.binary(max_size=200), st.sampled_from(["a.cdx", "a.cdxj", "a.cdx.gz"]))
def test_no_index_can_stop_the_question(tmp_path_factory, rubbish, name):
    path = tmp_path_factory.mktemp("cdx") / name
    path.write_bytes(b" CDX a V\nhttp://x 12\nhttp://x z\n{http://x\n" + rubbish)
    assert all(found.offset == 12 for found in records_of(Store(), str(path), "http://x", Limits()))


@pytest.mark.parametrize(
    ("offset", "found"),
    [('"12"', [12]), ("12", [12]), ("-5", []), ("1e999", []), ("12.5", []), ("9" * 19, []), ("9" * 5000, [])],
)
def test_an_offset_of_cdxj_is_a_whole_number_that_a_file_may_have(tmp_path, offset, found):
    (tmp_path / "a.cdxj").write_text(f'org,x 2009 {{"url": "http://x", "offset": {offset}}}\n')
    assert [one.offset for one in records_of(Store(), f"{tmp_path}/a.cdxj", "http://x", Limits())] == found


def test_indexes_are_looked_for_by_one_kind_of_names():
    archives, asked = [f"s3://b/{number}.warc.gz" for number in range(300)], []

    def exists(uri: str, there: set[str]) -> bool:
        asked.append(uri)
        return uri in there

    there = {f"s3://b/{number}.cdx.gz" for number in range(5, 300, 2)}
    found = dict(indexes_beside(archives, lambda uri: exists(uri, there)))
    assert set(found.values()) == there and found["s3://b/7.warc.gz"] == "s3://b/7.cdx.gz"
    assert len(asked) == 6 * 12 + 294
    asked.clear()
    assert not list(indexes_beside(archives, lambda uri: exists(uri, set()))) and len(asked) == 101 * 12
