"""What `curate` alone can do, lines that many documents have and runs of words that several have, before `prepare`."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from tests.support.inline import curate_inline, prepare_inline
from tests.support.tickets import answer, question

FOOTER = "All manuals of the company are confidential and belong to the company alone."
NOTICE = " ".join(f"Rule {n} of this long notice is the same in two manuals." for n in range(8))


def test_a_curation_cuts_boilerplate_and_repeats_and_its_corpus_becomes_instructions(tmp_path, monkeypatch):
    bodies = [f"{question(n)[:-1]}\n\n{answer(n)}\n{answer(n + 20)}" for n in range(10)]
    texts = [f"{body}\n{NOTICE if n in (3, 6) else ''}\n{FOOTER}" for n, body in enumerate(bodies)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    curate = {
        "inputs": [{"source": "manuals", "path": str(tmp_path / "raw.jsonl")}], "output": str(tmp_path / "curated"),
        "language": None, "rules": None, "dedup": None, "boilerplate": {"max_documents": 6, "min_words_left": 5},
        "repeats": {"min_words": 50, "cut": True, "min_words_left": 5},
    }  # fmt: skip
    curated = curate_inline(curate, monkeypatch)
    prepare = {
        "inputs": [{"source": "manuals", "path": curated.uri, "task_type": "procedure"}],
        "validate": {"answer_chars": None, "truncated_answers": "keep"}, "output": str(tmp_path / "out"),
    }  # fmt: skip
    run = prepare_inline(prepare, monkeypatch)
    rows = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    answers = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows}
    assert len(answers) == 10
    assert not [one for one in answers.values() if FOOTER in one]
    assert [sum("Rule 4 of this" in one for one in answers.values())] == [1], "the first manual keeps its notice"
    titles = {f"What are the steps of this procedure: {question(n)[:-1]}?" for n in range(10)}
    assert set(answers) == titles


def test_a_run_of_another_kind_is_no_corpus(tmp_path, monkeypatch):
    rows = [{"question": question(n), "answer": answer(n)} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = prepare_inline({"inputs": [{"path": f"{tmp_path}/a.jsonl"}], "output": f"{tmp_path}/one"}, monkeypatch)
    message = r"one: a run of kind prepare; wanted the output of `raymill.curate`. Finish it"
    with pytest.raises(DataError, match=message):
        prepare_inline({"inputs": [{"path": first.uri}], "output": f"{tmp_path}/two"}, monkeypatch)


def test_a_file_of_another_program_is_not_one_that_was_fetched(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"question": [question(1)], "answer": [answer(1)]}), tmp_path / "in" / "a.parquet")
    columns = {"prompt": "question", "completion": "answer"}
    source = {"path": f"{tmp_path}/in", "format": "fetched", "columns": columns}
    with pytest.raises(DataError, match=r"a\.parquet: not a file that `raymill.prepare` fetched\. Leave `format` out"):
        prepare_inline({"inputs": [source], "output": f"{tmp_path}/out"}, monkeypatch)
