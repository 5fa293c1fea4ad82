"""Whatever of an input is passed over is counted with its reason: in the dry run, the report and the counters."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster import cli
from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.listing import skipped_text
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.report.page import render
from tests.support.inline import curate_inline
from tests.support.stories import story
from tests.support.warc_records import COMPRESS, record, response


@pytest.fixture
def folder(tmp_path) -> Path:
    """One document, and everything that is none: links, a FIFO, a socket, files of zero bytes."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    path = tmp_path / "in"
    (path / "good.jsonl").write_text(json.dumps({"text": story(1)}))
    (path / "gone.jsonl").symlink_to("nowhere.jsonl")
    (path / "deep" / "gone.txt").symlink_to(tmp_path / "removed" / "a.txt")
    (path / "loop.jsonl").symlink_to("loop.jsonl")
    (path / "deep" / "up").symlink_to("..")
    os.mkfifo(path / "pipe.jsonl")
    for name in ("empty.jsonl", "empty.txt", "deep/empty.csv", "empty.parquet"):
        (path / name).touch()
    (path / "picture.png").write_bytes(b"x")
    (path / ".gone").symlink_to("nowhere")
    return path


SEEN = {"dangling link": 2, "circular link": 2, "FIFO, socket or device": 1, "zero bytes": 4, ".png": 1}


def skipped_in(path: str, **settings) -> dict[str, int]:
    return dict(freeze(Store(), [Input(path=path, **settings)], 1 << 20).skipped["input"])


def test_links_pipes_and_files_of_zero_bytes_are_counted(folder):
    assert skipped_in(str(folder)) == SEEN


def test_of_a_glob_only_what_it_names_is_counted(folder):
    assert skipped_in(f"{folder}/*.jsonl") == {
        "dangling link": 1, "circular link": 1, "FIFO, socket or device": 1, "zero bytes": 1
    }  # fmt: skip


def test_the_dry_run_the_report_and_the_page_say_what_was_passed_over(folder, monkeypatch, capsys, tmp_path):
    settings = {"inputs": [{"path": str(folder)}], "output": str(tmp_path / "run")}
    (tmp_path / "curate.yaml").write_text(json.dumps({"kind": "curate", "name": "test"} | settings))
    with pytest.raises(SystemExit) as left:
        cli.main(["curate", str(tmp_path / "curate.yaml"), "--dry-run"])
    assert left.value.code == 0
    told = "1 .png, 1 FIFO, socket or device, 2 circular links, 2 dangling links, 4 of zero bytes"
    assert f"skipped  input: {told}\n" in capsys.readouterr().out
    run = curate_inline(settings, monkeypatch)
    assert f"Source input: files were passed over: {told}." in run.report["warnings"]
    counted = {row["reason"]: row["count"] for row in run.report["skipped"]}
    assert counted == SEEN and "FIFO, socket or device" in render(run.report)
    assert json.loads(Path(run.uri, "inputs.json").read_text())["skipped"] == {"input": counted}


def test_a_file_with_several_names_is_read_by_the_one_that_is_no_link(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "outside.jsonl"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "m.jsonl", folder / "sub" / "n.jsonl", outside):
        path.write_text('{"text": "a"}')
    (folder / "a.jsonl").symlink_to("m.jsonl")
    (folder / "b").symlink_to("sub")
    (folder / "x.jsonl").symlink_to(outside)
    (folder / "y.jsonl").symlink_to(outside)
    (tmp_path / "other").symlink_to("in")
    for root in (folder, tmp_path / "other"):
        read = [file.uri for file in freeze(Store(), [Input(path=str(root), follow_links=True)], 1 << 20).files]
        assert [os.path.relpath(uri, root) for uri in read] == ["m.jsonl", "sub/n.jsonl", "x.jsonl"]
    assert skipped_in(str(folder), follow_links=True) == {"link to a file that is read": 3}
    assert skipped_in(f"{folder}/[ab]*") == {}
    assert skipped_in(f"{tmp_path}/other", follow_links=True) == {"link to a file that is read": 3}
    assert skipped_text({"link to a file that is read": 3}) == "3 links to a file that is read"
    assert skipped_text({"dangling link": 1, "circular link": 2}) == "1 dangling link, 2 circular links"


def linked_out(path: Path) -> Path:
    """A folder of three files, with links to a file, a folder, a picture, and a large folder outside of it."""
    (path / "private" / "deep").mkdir(parents=True)
    for at in range(3):
        (path / "private" / "deep" / f"{at}.jsonl").write_text('{"text": "private"}')
    (path / "private" / "key.png").write_bytes(b"x")
    folder = path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl", "sub/c.jsonl"):
        (folder / name).write_text(json.dumps({"text": name}))
    (folder / "x.jsonl").symlink_to("../private/deep/1.jsonl")
    (folder / "sub" / "y").symlink_to(path / "private")
    (folder / "sub" / "usr").symlink_to("/usr")
    (folder / "z.png").symlink_to(path / "private" / "key.png")
    (folder / ".hidden.jsonl").symlink_to(path / "private" / "deep" / "2.jsonl")
    return folder


def test_links_that_lead_out_of_the_folder_are_unreadable_files(tmp_path):
    folder = linked_out(tmp_path)
    with pytest.raises(DataError, match=r"sub/usr: a link that leads out of the input's folder\. Copy .* 2 more files"):
        freeze(Store(), [Input(path=str(folder))], 1 << 20)
    for name in "defghijk":
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    (tmp_path / "link").symlink_to(folder)  # the input itself may be a link
    for root in (folder, tmp_path / "link"):
        found = freeze(Store(), [Input(path=str(root))], 1 << 20, max_bad_files=0.3)
        read = [os.path.relpath(one.uri, root) for one in found.files if one.problem is None]
        assert read == ["a.jsonl", "b.jsonl", *(f"{name}.jsonl" for name in "defghijk"), "sub/c.jsonl"]
        bad = [os.path.relpath(one.uri, root) for one in found.files if one.problem is not None]
        assert bad == ["sub/usr", "sub/y", "x.jsonl"]
        assert found.notes[0].startswith(
            "Source input: 3 of 14 files are unreadable and were left out: usr (a link that leads out of the input's"
        )
        assert found.skipped["input"] == {".png": 1}
    with pytest.raises(DataError, match=r"x\.jsonl: a link that leads out"):
        freeze(Store(), [Input(path=f"{folder}/x*")], 1 << 20)
    assert skipped_in(f"{folder}/x.jsonl") == {}  # named itself


def test_links_that_lead_out_are_followed_where_the_input_allows_it(tmp_path):
    """As in the cache of the hub, whose snapshots are links into a folder beside them."""
    folder = linked_out(tmp_path)
    (folder / "sub" / "usr").unlink()
    found = freeze(Store(), [Input(path=str(folder), follow_links=True)])
    read = {file.uri.removeprefix(f"{folder}/") for file in found.files}
    assert read == {"a.jsonl", "b.jsonl", "sub/c.jsonl", *(f"sub/y/deep/{at}.jsonl" for at in range(3))}


def test_a_parquet_file_of_zero_bytes_is_like_other_files_of_zero_bytes(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").touch()
    (tmp_path / "c.txt").touch()
    assert skipped_in(str(tmp_path)) == {"zero bytes": 2}
    with pytest.raises(DataError, match=r"nothing to read in its files \(1 of zero bytes passed over\)"):
        skipped_in(str(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a FIFO, socket or device; a file was wanted"),
        (lambda path: path.symlink_to(path), "link leads back to itself"),
        (lambda path: path.symlink_to("nowhere.txt"), "is a dangling link: its target nowhere.txt does not exist"),
    ],
    ids=["a FIFO", "a circular link", "a dangling link"],
)
def test_a_path_that_names_no_file_is_refused_and_never_opened(tmp_path, make, message):
    make(tmp_path / "a.txt")
    with pytest.raises(DataError, match=message):
        skipped_in(str(tmp_path / "a.txt"))


# --- inside files


def skipped_while_reading(path: Path) -> tuple[list[str], dict[str, int]]:
    manifest = freeze(Store(), [Input(path=str(path))], 1 << 20)
    counts = ReaderCounts()
    texts = [
        text
        for unit in manifest.units
        for table in read_unit(unit, manifest.reading, Limits(), counts=counts)
        for text in table["text"].to_pylist()
    ]
    return texts, dict(counts.skipped)


PAGE = b"<html><body><article><p>" + b"A page about a river and a mountain. " * 10 + b"</p></article></body></html>"
RECORDS = [
    record("warcinfo", b"x"),
    record("request", b"GET / HTTP/1.1\r\n\r\n"),
    record("request", b"GET / HTTP/1.1\r\n\r\n"),
    record("revisit", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    record("surprise", b"x"),
    record("response", response(PAGE)),
    record("response", response(PAGE, status="404 Not Found")),
    record("response", response(PAGE, status="404 Not Found")),
    record("response", response(PAGE, status="9999 Odd")),
    record("response", response(b"x", type="Image/PNG; q=1")),
    record("response", response(b"x", type="made/up/by a stranger")),
]
COUNTED = {
    "record of kind warcinfo": 1,
    "record of kind request": 2,
    "record of kind revisit": 1,
    "record of kind (other)": 1,
    "response with status 404": 2,
    "response with status (other)": 1,
    "response of type image/png": 1,
    "response of type (other)": 1,
}


def test_records_of_an_archive_that_are_no_documents_are_counted_by_kind_status_and_type(tmp_path):
    (tmp_path / "a.warc").write_bytes(b"".join(RECORDS))
    texts, skipped = skipped_while_reading(tmp_path)
    assert len(texts) == 1 and skipped == COUNTED
    (tmp_path / "a.warc").rename(tmp_path / "a.warc.wet")
    texts, skipped = skipped_while_reading(tmp_path)
    assert texts == [] and skipped["record of kind response"] == 6


def test_every_record_is_a_document_or_counted_in_the_run(tmp_path, monkeypatch):
    (tmp_path / "a.warc").write_bytes(b"".join(RECORDS))
    inputs = [{"source": "crawl", "path": str(tmp_path / "a.warc")}]
    run = curate_inline({"inputs": inputs, "output": str(tmp_path / "run")}, monkeypatch)
    counted = {row["reason"]: row["count"] for row in run.report["skipped"] if row["inside"]}
    assert counted == COUNTED and sum(counted.values()) + 1 == len(RECORDS)
    counters = Artifact.load(Store(), f"{run.uri}/attributes").manifest.counters
    assert counters["skipped/crawl/response with status 404"] == 2
    assert "response with status 404" in render(run.report)
    (warning,) = (one for one in run.report["warnings"] if "inside its files" in one)
    assert warning.startswith("Source crawl: 10 items inside its files are no documents: 2 re")


@pytest.mark.parametrize("ending", [ending for ending in COMPRESS if ending])
def test_a_compressed_file_with_nothing_in_it_is_counted(tmp_path, ending):
    (tmp_path / f"a.txt{ending}").write_bytes(COMPRESS[ending](b""))
    assert skipped_while_reading(tmp_path) == ([], {"empty file": 1})


def test_the_counts_of_a_unit_are_those_of_all_its_files(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "one", "text": "two"}\n{"text": "three"}\n')
    manifest = freeze(Store(), [Input(path=str(tmp_path))], 1 << 20)
    (unit,), counts = manifest.units, ReaderCounts(repeated_keys=4)
    assert [t.num_rows for t in read_unit(unit, manifest.reading, Limits(), counts=counts)] == [6]
    assert counts.repeated_keys == 4 + 3
