"""A record that was made of others names these and how it was made; others have no provenance."""

import json
from pathlib import Path

import pytest

from cluster.artifact import Artifact
from cluster.examples.splits import SPLITS
from cluster.store.store import Store
from tests.support.inline import prepare_inline
from tests.support.mails import ANN, BOB, mail, mbox
from tests.support.tickets import answer, question

ANYTHING = {"question_chars": None, "answer_chars": None, "truncated_answers": "keep"}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A function that prepares one source, and returns the records in the order of their ids."""

    def run(source: dict, name: str = "out", **settings) -> list[dict]:
        given = {"inputs": [source], "validate": ANYTHING, "output": f"{tmp_path}/{name}"} | settings
        done = prepare_inline(given, monkeypatch)
        return sorted((row for one in SPLITS for row in done.split(one).table().to_pylist()), key=lambda row: row["id"])

    return run


def lines(path: Path, rows: list[dict]) -> dict:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def made_of(rows: list[dict]) -> list[tuple[list[str], str]]:
    return [(row["provenance"]["parents"], row["provenance"]["operation"]) for row in rows]


def test_a_record_as_the_source_has_it_was_made_of_no_other(prepared, tmp_path):
    pairs = [{"question": question(n), "answer": answer(n)} for n in range(3)]
    found = prepared(lines(tmp_path / "a.jsonl", pairs))
    assert [row["provenance"] for row in found] == [None] * 3


@pytest.mark.parametrize("id", [None, "key"])
def test_a_record_made_by_a_template_names_the_text(prepared, tmp_path, id):
    texts = [{"key": f"k{n}", "text": f"Leave of kind {n}\n\nEverybody has {n + 20} days of it."} for n in range(3)]
    source = lines(tmp_path / "a.jsonl", texts) | ({"id": id} if id else {})
    as_texts = prepared(source, "texts", records={"shape": "text"})
    found = prepared(source | {"task_type": "policy"})
    assert all(row["provenance"] is None for row in as_texts)
    parents = {row["messages"][1]["content"]: row["provenance"] for row in found}
    assert parents == {row["text"]: {"parents": [row["id"]], "operation": "template"} for row in as_texts}


def test_a_record_of_a_table_names_the_row_as_the_ledger_does(prepared, tmp_path):
    (tmp_path / "a.csv").write_text("part,price\nscrew,3\nnut,4\nnut,4\n")
    template = {"prompt": "What does a {part} cost?", "completion": "It costs {price} euros."}
    table = {"types": {"part": "text", "price": "integer"}, "template": template}
    source = {"path": str(tmp_path / "a.csv"), "table": table}
    assert made_of(prepared(source | {"id": "part"}, "named")) == [(["nut"], "table"), (["screw"], "table")]
    found = {row["messages"][1]["content"]: row["provenance"] for row in prepared(source)}
    (repeated,) = Artifact.load(Store(), f"{tmp_path}/out/removed").table().to_pylist()
    assert repeated["reason"] == "repeated_row"
    assert found["It costs 4 euros."] == {"parents": [repeated["id"]], "operation": "table"}
    assert found["It costs 3 euros."]["parents"] != [repeated["id"]]


def test_a_thread_names_its_messages_and_a_message_alone_is_no_thread(prepared, tmp_path):
    without_id = b"From: Ann <ann@example.org>\nIn-Reply-To: <m1@example.org>\n\nIt was the plug, thanks\n"
    quote = mail(3, BOB, "> My router is off", 1)
    asked = mail(1, ANN, "My router is off, what now?"), mail(2, BOB, "Please switch it on again.", 1)
    (tmp_path / "a.mbox").write_bytes(mbox(*asked, quote, without_id, mail(4, ANN, "One message alone, as a text.")))
    source = {"path": str(tmp_path / "a.mbox"), "columns": {"text": "text"}, "id": "thread"}
    joined = ["<m1@example.org>", "<m2@example.org>", f"{tmp_path}/a.mbox message 4"]
    alone, thread = sorted(prepared(source, records={"shape": "text"}), key=lambda row: len(row["text"]))
    assert alone["provenance"] is None and made_of([thread]) == [(joined, "thread")]
    alone, thread = sorted(prepared(source, "qa"), key=lambda row: len(row["messages"][1]["content"]))
    assert made_of([alone, thread]) == [(["<m4@example.org>"], "template"), (joined, "thread, template")]


def test_a_repeated_record_names_the_first_one_which_names_its_source(prepared, tmp_path):
    texts = [{"key": f"k{n}", "text": f"{question(n)}\n\n{answer(n)}", "kind": "ab"[n < 2]} for n in range(20)]
    source = lines(tmp_path / "a.jsonl", texts) | {"id": "key", "columns": {"text": "text", "kind": "kind"}}
    found = {row["id"]: row for row in prepared(source, split={"balance": {"by": ["kind"], "to": "largest"}})}
    copies = {id: row for id, row in found.items() if "#" in id}
    assert copies
    for id, row in copies.items():
        first = id.partition("#")[0]
        assert made_of([row, found[first]]) == [([first], "repeat"), ([first], "template")]
