"""Corrections of records by files with patches."""

import json
import tracemalloc

import pytest

from raymill.cluster.cli import main
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.content import Chat, Message, pair
from raymill.cluster.record import OtherSettings
from raymill.cluster.store.store import Store
from raymill.pipelines.annotate.config import Corrects
from raymill.pipelines.prepare.records.patches import Edit, Patches, edited
from raymill.pipelines.prepare.stages import collect
from raymill.pipelines.prepare.versions.registry import Registry
from tests.support.contents import preference
from tests.support.inline import prepare_inline
from tests.support.prepared_runs import records
from tests.support.tickets import answer, question

LONGEST = 10_000_000


def edit(field: str, old: str | None, new: str, id: str = "t1", **more: str) -> dict:
    return {"id": id, "field": field, "old": old, "new": new, "edited_by": "ann", **more}


def write(path, *edits: dict):
    path.write_text("".join(json.dumps(one) + "\n" for one in edits))
    return str(path)


@pytest.fixture
def settings(tmp_path):
    rows = [{"id": f"t{n}", "q": question(n), "a": answer(n), "queue": "ab"[n % 2]} for n in range(30)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "q", "completion": "a", "category": "queue"}
    source = {"source": "tickets", "path": str(tmp_path / "in.jsonl"), "id": "id", "columns": columns}
    return {"inputs": [source], "records": {"shape": "pairs"}, "output": str(tmp_path / "out")}


def test_texts_and_labels_are_corrected_and_say_by_whom(settings, tmp_path, monkeypatch, capsys):
    before = records(prepare_inline(settings, monkeypatch))
    patch = write(
        tmp_path / "patch.jsonl",
        edit("completion", answer(1), "Restart the router, then sign in again.", source="round-1"),
        edit("category", "b", "login", source="round-1", edited_by="a1, a2"),
        edit("prompt", question(2), "Where is my parcel?", id="t2", source="logs/user"),
        edit("category", "x", "y", id="t3"),
        edit("category", "a", "y", id="gone"),
        edit("category", "a", "y", id="t4", status="proposed"),
    )
    run = prepare_inline(settings | {"patches": [patch], "output": str(tmp_path / "two")}, monkeypatch)
    after = records(run)
    assert (
        after["t1"]["completion"] == "Restart the router, then sign in again."
        and after["t2"]["prompt"] == "Where is my parcel?"
    )
    assert after["t1"]["metadata"]["category"] == "login" and after["t1"]["annotations"]["categories"] == ["login"]
    assert after["t1"]["provenance"] == {"parents": [], "operation": "edited by ann, edited by a1 a2"}
    assert after["t2"]["provenance"]["operation"] == "edited by ann"
    same = before.keys() - {"t1", "t2"}
    assert all(before[id] | {"split": 0, "fold": 0} == after[id] | {"split": 0, "fold": 0} for id in same)
    assert run.report["patches"] == {
        "applied": {"round-1": 2, "logs/user": 1}, "other_value": 1, "no_record": 1, "proposed": 1,
    }  # fmt: skip
    assert len([one for one in run.report["warnings"] if one.startswith("patches: 1 correction changed")]) == 3

    registry = Registry(Store(), str(tmp_path / "registry"))
    registry.tag("tickets", str(tmp_path / "out"))
    registry.tag("tickets", run.uri)
    assert [one.corrections for one in registry.known("tickets")] == [{}, {"round-1": 2, "logs/user": 1}]
    with pytest.raises(SystemExit, match="0"):
        main(["dataset", "log", "tickets", "--registry", registry.uri])
    *_, one, two = capsys.readouterr().out.splitlines()
    assert one.strip() == "1 record corrected by logs/user" and two.strip() == "2 records corrected by round-1"

    # Of the data set that was corrected, corrections stay known, and the same ones have nothing more to do.
    again = {"source": "two", "path": f"{run.uri}/train", "id": "id"}
    third = prepare_inline({"inputs": [again], "output": str(tmp_path / "three")}, monkeypatch)
    operations = {(one["provenance"] or {}).get("operation") for one in records(third).values()}
    assert operations <= {None, "edited by ann, edited by a1 a2", "edited by ann"} and len(operations) > 1


def test_a_file_that_changes_is_another_setting(settings, tmp_path, monkeypatch):
    patch = write(tmp_path / "patch.jsonl", edit("category", "b", "login"))
    settings = settings | {"patches": [patch]}
    prepare_inline(settings, monkeypatch)
    assert not prepare_inline(settings, monkeypatch).fresh
    write(tmp_path / "patch.jsonl", edit("category", "b", "logout"))
    with pytest.raises(OtherSettings):
        prepare_inline(settings, monkeypatch)
    run = prepare_inline(settings, monkeypatch, replace=True)
    assert records(run)["t1"]["metadata"]["category"] == "logout"


def test_what_a_correction_says_is_cleaned_and_checked_as_records_are(settings, tmp_path, monkeypatch):
    patch = write(
        tmp_path / "patch.jsonl",
        edit("completion", answer(1), "Write to  bob@example.com  now, please.", edited_by="ann@example.com"),
        edit("completion", answer(2), "No.", id="t2"),
    )
    more = {"clean": {"redact": ["email"]}, "validate": {"answer_chars": [10, 2000]}, "patches": [patch]}
    run = prepare_inline(settings | more, monkeypatch)
    found = records(run)
    assert "bob@" not in json.dumps(found) and "ann@" not in json.dumps(found)
    assert found["t1"]["completion"].startswith("Write to ") and "t2" not in found
    assert {one["reason"]: one["records"] for one in run.report["reasons"]}["answer_too_short"] == 1


@pytest.mark.parametrize("field", ["prompt", "completion"])
def test_a_correction_that_leaves_no_question_or_answer_is_a_row_in_quarantine(settings, tmp_path, monkeypatch, field):
    old = {"prompt": question(1), "completion": answer(1)}[field]
    patch = write(tmp_path / "patch.jsonl", edit(field, old, " \n"))
    more = {"patches": [patch], "execution": {"max_bad_documents": 0.1}, "validate": {"answer_chars": None}}
    run = prepare_inline(settings | more, monkeypatch)
    assert "t1" not in records(run) and len(records(run)) == 29
    (row,) = run.quarantine.table().to_pylist()
    assert row["problem"] == "empty" and json.loads(row["content"])["field"] == field


def test_the_last_question_and_answer_of_a_conversation_are_meant():
    turns = ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")
    chat = Chat(tuple(Message(*one) for one in turns))

    def changed(content, field, old, new="new"):
        found = edited(content, {}, Edit(**edit(field, old, new)))
        return found and found[0]

    assert changed(chat, "completion", "b") is None and changed(chat, "prompt", "a") is None
    assert [one.content for one in changed(chat, "completion", "d").messages] == ["a", "b", "c", "new"]
    assert [one.content for one in changed(chat, "prompt", "c").messages] == ["a", "b", "new", "d"]
    with_input = pair("be kind", "Sum up", "a long text", "short")
    assert changed(with_input, "prompt", "Sum up\n\na long text").input == ""
    assert changed(with_input, "completion", "short").input == "a long text"
    assert changed(with_input, "system", "be kind").messages[0].content == "new"
    assert changed(preference("", "q", "good", "bad"), "chosen", "good") == preference("", "q", "new", "bad")
    assert changed(preference("", "q", "good", "bad"), "chosen", "bad") is None
    assert changed("a text", "text", "a text") == "new" and changed("a text", "prompt", "a text") is None


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "line 2"), ("[1]", "line 2"), ('{"id": 3}', "line 2"), ("[" * 100_000, "line 2"), ('{"id": "a"}', "field")],
)
def test_a_line_that_is_no_correction_is_named(tmp_path, line, said):
    file = write(tmp_path / "patch.jsonl", edit("text", "a", "b"))
    with open(file, "a") as lines:
        lines.write(line)
    with pytest.raises(ConfigError, match=said):
        Patches.read(Store(), [file], LONGEST)
    with pytest.raises(ConfigError, match="there is no file"):
        Patches.read(Store(), [file + "x"], LONGEST)


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([edit("text", "a", "\udc00")], "line 1 .* no correction"),
        ([edit("text", "a", "b", id="\ud800")], "line 1 .* no correction"),
        ([edit("text", "a", "b", source="round\n9 records corrected by staff")], "source: .* one line"),
        ([edit("text", "a", "b", source="s" * 201)], "source: .* 200"),
        ([edit("text", "a", "\u00e4" * 6_000_000)], "over 10,000,000 bytes"),
        ([edit("text", str(n), "b") for n in range(101)], "line 101 .*: over 100 corrections have the id 't1'"),
        ([edit("text", "a", "b", id=str(n), source=str(n)) for n in range(1001)], "over 1,000 different values"),
    ],
    ids=["surrogate", "surrogate-id", "lines", "long-source", "long-text", "one-id", "sources"],
)
def test_a_patch_of_others_is_bounded(tmp_path, edits, said):
    with pytest.raises(ConfigError, match=said):
        Patches.read(Store(), [write(tmp_path / "patch.jsonl", *edits)], LONGEST)


@pytest.mark.parametrize("field", ["source", "licence", "collected_at"])
def test_no_correction_changes_where_a_record_comes_from(tmp_path, field):
    """Licences are compared with those that are allowed before records are corrected."""
    with pytest.raises(ConfigError, match=f"line 1 .* no correction: field: .*{field} states where a record comes"):
        Patches.read(Store(), [write(tmp_path / "patch.jsonl", edit(field, None, "other"))], LONGEST)
    with pytest.raises(ValueError, match=f"{field} states where a record comes from"):
        Corrects(field=field, column="a")


def test_the_memory_of_corrections_is_reserved(tmp_path):
    """Each process has all of them: a million short lines, 56 MB, took 1.2 GB."""
    file = write(tmp_path / "patch.jsonl", *(edit("t", "x", "y", id=str(n), edited_by="m") for n in range(20_000)))
    tracemalloc.start()
    found = Patches.read(Store(), [file], LONGEST)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.edits) == 20_000 and held < most < found.memory < 3 * most


def test_corrections_of_all_records_at_once_are_refused(settings, tmp_path, monkeypatch):
    """Records of others may have one id, and each would take the text of the correction."""
    rows = [{"id": "same", "q": question(n), "a": answer(n), "queue": "a"} for n in range(30)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    patch = write(tmp_path / "patch.jsonl", edit("category", "a", "z" * 1000, id="same"))
    monkeypatch.setattr(collect, "MOST_CORRECTED", 20_000)
    with pytest.raises(DataError, match="over 20,000 characters, the last one for the id 'same'"):
        prepare_inline(settings | {"patches": [patch]}, monkeypatch)


def test_a_score_that_is_no_number_is_no_correction(settings, tmp_path, monkeypatch):
    rows = [{"id": f"t{n}", "q": question(n), "a": answer(n), "queue": "a", "s": 1} for n in range(30)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings["inputs"][0]["columns"]["quality_score"] = "s"
    edits = [edit("quality_score", "1", "1e999"), edit("quality_score", "1", "0.5", id="t2")]
    run = prepare_inline(settings | {"patches": [write(tmp_path / "patch.jsonl", *edits)]}, monkeypatch)
    assert run.report["patches"]["other_value"] == 1
    found = records(run)
    assert [found[id]["metadata"]["quality_score"] for id in ("t1", "t2")] == [1, 0.5]
