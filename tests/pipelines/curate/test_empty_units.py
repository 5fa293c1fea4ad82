"""A unit, a source or a whole input without any readable document, in every format, through every stage."""

import gzip
import json
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, disable_progress_bars

from raymill.cluster.artifact import Artifact
from raymill.cluster.readers.formats import READERS
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.sample import sample_rows
from raymill.pipelines.curate.questions.what_if import compare_decisions, table_text
from raymill.pipelines.curate.report.page import render
from tests.support.inline import curate_inline
from tests.support.sampled import sampled
from tests.support.stories import story

NO_STRINGS = pa.table({"text": pa.nulls(2, pa.string()), "id": ["a", "b"]})
REQUEST = b"WARC/1.0\r\nWARC-Type: request\r\nContent-Length: 1\r\n\r\nx\r\n\r\n"


def saved_dataset(path: Path, table: pa.Table) -> None:
    disable_progress_bars()
    Dataset(table).save_to_disk(path)


# name: (format, how it is written, its problems)
EMPTY = {
    "a line cut short": ("jsonl", "a.jsonl", b'{"id": "x", "text": "abc', ["broken_json"]),
    "lines that end in CR": ("jsonl", "a.jsonl", b'{"text": "a"}\r{"text": "b"}\r', ["carriage_returns"]),
    "a JSON array": ("jsonl", "a.jsonl", b'[{"text": "a"},\n{"text": "b"}]', ["json_array"] * 2),
    "an array of numbers": ("json", "a.json", b"[1, 2]", ["not_an_object"] * 2),
    "blank lines": ("jsonl", "a.jsonl", b"\n \n\n", []),
    "a broken gzip": ("jsonl", "a.jsonl.gz", b"no gzip at all", ["not_compressed"]),
    "a gzip of nothing": ("jsonl", "a.jsonl.gz", gzip.compress(b""), []),
    "a header alone": ("csv", "a.csv", b"id,text\n", []),
    "a record of one field": ("tsv", "a.tsv", b"id\ttext\n1\n", ["broken_csv"]),
    "an unreadable text": ("text", "a.txt", b"\xff", ["bad_utf8"]),
    "a gzip of no text": ("markdown", "a.md.gz", gzip.compress(b""), []),
    "a page without content": ("html", "a.html", b"<html></html>", ["empty_extraction"]),
    "no PDF": ("pdf", "a.pdf", b"rubbish", ["damaged_file"]),
    "no Word file": ("docx", "a.docx", b"rubbish", ["damaged_file"]),
    "no transcript": ("transcript", "a.vtt", b"WEBVTT", ["no_cues"]),
    "no mail": ("mail", "a.mbox", b"rubbish", ["bad_message"]),
    "requests alone": ("warc", "a.warc", REQUEST, []),
    "a description alone": ("arc", "a.arc", b"filedesc://a 0.0.0.0 20090102030405 text/plain 1\nx\n", []),
    "no text extract": ("wet", "a.warc.wet", REQUEST, []),
    "rubbish": ("wet", "a.warc.wet", b"rubbish", ["bad_warc_record"]),
    "null texts": ("parquet", "a.parquet", lambda path: pq.write_table(NO_STRINGS, path), ["null_text"] * 2),
    "no rows": ("parquet", "a.parquet", lambda path: pq.write_table(NO_STRINGS.slice(0, 0), path), []),
    "a saved data set of nulls": ("hf", "a", lambda path: saved_dataset(path, NO_STRINGS), ["null_text"] * 2),
    "a saved data set without rows": ("hf", "a", lambda path: saved_dataset(path, NO_STRINGS.slice(0, 0)), []),
}


def write_empty(folder: Path, name: str) -> Path:
    _, file, content, _ = EMPTY[name]
    path = folder / file
    folder.mkdir(parents=True, exist_ok=True)
    content(path) if callable(content) else path.write_bytes(content)
    return path


def write_good(path: Path) -> Path:
    """Four stories, a copy of the first and one near it."""
    texts = [story(number) for number in range(4)]
    texts += [texts[0], texts[1].replace("chapter 17", "chapter seventeen")]
    records = [json.dumps({"id": f"g{at}", "text": text}) for at, text in enumerate(texts)]
    path.write_text("\n".join(records))
    return path


def settings(tmp_path: Path, inputs: dict[str, Path], **more) -> dict:
    return {
        "inputs": [
            {"source": source, "path": str(path)} | ({"format": "json"} if path.suffix == ".json" else {})
            for source, path in inputs.items()
        ],
        "output": str(tmp_path / "run"),
        "execution": {"max_bad_documents": 1.0},
    } | more


def looked_at_in_every_way(run, config: dict) -> None:
    """Every command that reads a run reads this one."""
    whole = CurateConfig.model_validate({"kind": "curate", "name": "test"} | config)
    assert table_text(compare_decisions(whole, whole))
    sample_rows(Store(), run.uri, 3, [], 1)
    sample_rows(Store(), f"{run.uri}/quarantine", 3, [], 1)
    assert "<html" in render(run.report)


def test_every_format_is_tried():
    # What connectors fetched is written by Raymill: tests/pipelines/prepare/fetch.
    assert {format for format, *_ in EMPTY.values()} == set(READERS) - {"fetched"}


@pytest.mark.parametrize(
    ("name", "first"),
    sampled(product(EMPTY, (True, False)), 10),
    ids=lambda one: one if isinstance(one, str) else "before the good" if one else "after the good",
)
def test_a_source_without_a_readable_document_costs_no_other(tmp_path, monkeypatch, name, first):
    empty, good = write_empty(tmp_path / "in", name), write_good(tmp_path / "good.jsonl")
    inputs = {"empty": empty, "good": good} if first else {"good": good, "empty": empty}
    config = settings(tmp_path, inputs)
    run = curate_inline(config, monkeypatch)
    assert run.corpus.table()["text"].to_pylist() == [story(number) for number in range(4)]
    problems = Artifact.load(Store(), f"{run.uri}/quarantine").table()["problem"].to_pylist()
    assert problems == EMPTY[name][3]
    counts = {entry["source"]: entry["input"]["documents"] for entry in run.report["sources"]}
    assert counts == {"empty": 0, "good": 6}
    looked_at_in_every_way(run, config)
    assert not curate_inline(config, monkeypatch).fresh


ALL_EMPTY = [name for name, (_, _, _, problems) in EMPTY.items() if problems or name.endswith("alone")]


@pytest.mark.parametrize("name", sampled(ALL_EMPTY, 6))
def test_a_run_without_a_readable_document_ends_with_an_empty_corpus(tmp_path, monkeypatch, name):
    inputs = {"one": write_empty(tmp_path / "in1", name), "two": write_empty(tmp_path / "in2", name)}
    config = settings(tmp_path, inputs)
    run = curate_inline(config, monkeypatch)
    assert run.corpus.manifest.rows == 0
    assert run.corpus.table().schema == run.corpus.schema
    assert "The corpus is empty: no document could be read." in run.report["warnings"]
    looked_at_in_every_way(run, config)
    with pytest.raises(Exception, match="no document has id 'x'"):
        explain(RunReader(Store(), run.uri), "x")


OFF = {"language": None, "rules": None, "personal_data": None, "dedup": None}
PARTS = {
    "everything off": OFF,
    "everything but deduplication": {"dedup": None},
    "deduplication alone": OFF | {"dedup": {"keeper": "longest"}},
    "by score": {"dedup": {"keeper": "score", "keeper_score": "language_score"}},
    "by source": {"dedup": {"keeper": "source", "sources": ["empty", "good"], "scope": "source"}},
    "duplicates kept": {"dedup": {"remove": False}},
    "every signal": {"corpus": {"columns": ["gopher_mean_word_length", "language_score"][:1]}},
    "all removed": {"language": {"keep": ["ja"]}},
}


@pytest.mark.parametrize("part", sampled(PARTS, 3))
@pytest.mark.parametrize("whole", [False, True], ids=["beside documents", "alone"])
def test_every_stage_takes_units_without_documents(tmp_path, monkeypatch, part, whole):
    inputs = {"empty": write_empty(tmp_path / "in", "a line cut short")}
    inputs["good"] = write_empty(tmp_path / "in2", "null texts") if whole else write_good(tmp_path / "good.jsonl")
    config = settings(tmp_path, inputs, **PARTS[part])
    run = curate_inline(config, monkeypatch)
    removed = Artifact.load(Store(), f"{run.uri}/removed").table().num_rows
    assert run.corpus.manifest.rows + removed == (0 if whole else 6)
    looked_at_in_every_way(run, config)


def test_units_of_one_source_may_hold_nothing_between_others(tmp_path, monkeypatch):
    """A unit of 1 MiB that holds nothing but blank lines, between two with documents."""
    (tmp_path / "in").mkdir()
    write_good(tmp_path / "in" / "a.jsonl")
    (tmp_path / "in" / "b.jsonl").write_bytes((b" " * 1023 + b"\n") * (2 << 10))
    (tmp_path / "in" / "c.jsonl").write_text(json.dumps({"text": story(50)}))
    config = settings(tmp_path, {"all": tmp_path / "in"}, execution={"unit_mib": 1})
    run = curate_inline(config, monkeypatch)
    assert run.corpus.manifest.rows == 5
    assert pc.count_distinct(pq.read_table(f"{run.uri}/inputs.parquet")["unit"]).as_py() >= 3
