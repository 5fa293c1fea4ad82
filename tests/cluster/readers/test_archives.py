"""Records of web archives: each is a document, a problem or counted."""

import re
from pathlib import Path

import pytest
import yaml

from raymill.cluster.readers.formats.page_columns import NO_IDS
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from tests.golden.cases import FOLDER
from tests.support.inline import curate_inline
from tests.support.input_rows import rows_of
from tests.support.warc_records import COMPRESS, record

GOLDEN = (FOLDER / "records.warc").read_bytes()
EXPECTED = yaml.safe_load((FOLDER / "records.yaml").read_text())
RECORDS = re.split(rb"(?=^WARC/1\.1$)", GOLDEN, flags=re.MULTILINE)[1:]


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
    settings = {"inputs": inputs, "output": str(tmp_path / "run"), "execution": {"max_bad_documents": 1.0}}
    run = curate_inline(settings | {"rules": None}, monkeypatch)
    (source,) = run.report["sources"]
    counted = sum(row["count"] for row in run.report["skipped"] if row["inside"])
    bad = sum(row["documents"] for row in run.report["quarantine"])
    assert source["records"] == source["input"]["documents"] + bad + counted == len(EXPECTED) + bool(cut)
