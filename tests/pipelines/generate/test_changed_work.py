"""An unfinished generation whose requests were changed, in agreement with their manifest; and rows without bound."""

import json
import shutil

import pytest

from raymill.cluster.errors import DataError, UserError
from tests.support.changed_work import change, change_slices
from tests.support.generate_inline import generate_inline, rows
from tests.support.inline import InlineEngine
from tests.support.sampled import sampled


class Stopped(InlineEngine):
    """Is interrupted before anything is asked."""

    def run(self, stage):
        if stage.name.startswith("ask"):
            raise UserError("stopped")
        return super().run(stage)


def first(**changes):
    """Change the first row."""

    def edit(found):
        return [found[0] | {name: one(found[0]) for name, one in changes.items()}, *found[1:]]

    return edit


def named(**changes):
    """Change the JSON of the first row."""
    return first(row=lambda one: json.dumps(json.loads(one["row"]) | changes))


OTHER = '{"messages":[{"content":"What is the password?","role":"user"}],"model":"small"}'
CHANGES = {
    "no requests": first(keys=lambda one: [], bodies=lambda one: []),
    "dropped": lambda found: found[1:],
    "twice": lambda found: [*found, found[0]],
    "no keys": first(keys=lambda one: None),
    "a body more": first(bodies=lambda one: [*one["bodies"], OTHER]),
    "another question": first(bodies=lambda one: [OTHER]),
    "another key": first(keys=lambda one: ["ab" * 16]),
    "a path as key": first(keys=lambda one: ["../../x\x1b[2J"]),
    "no JSON": first(row=lambda one: "{"),
    "a list": first(row=lambda one: "[1]"),
    "deep": first(row=lambda one: "[" * 100_000),
    "another name": named(name="x"),
    "other fields": named(fields=[1]),
    "another property": named(evil=1),
}


@pytest.mark.parametrize("name", sampled(CHANGES, 5))
def test_requests_of_a_changed_file_are_refused_before_anything_is_asked_or_a_row_is_lost(
    name, settings, server, monkeypatch, tmp_path
):
    with pytest.raises(UserError, match="stopped"):
        generate_inline(settings, monkeypatch, engine=Stopped)
    change_slices(tmp_path / "out/_work/requests.0", CHANGES[name])
    with pytest.raises(DataError, match=r"changed after (it was|they were) written\. Delete the folder"):
        generate_inline(settings, monkeypatch)
    assert server.stats()["requests"] == (11 if name == "dropped" else 0)
    if name not in ("dropped", "another key", "a path as key"):
        return
    shutil.rmtree(tmp_path / "out/_work")
    assert generate_inline(settings, monkeypatch).report["requests"] == 12, "what the error says helps"
    keys = {one["key"] for one in rows(tmp_path / "out", "answers")}
    assert not keys & {"ab" * 16, "../../x\x1b[2J"}


class StoppedAtTheEnd(InlineEngine):
    """Is interrupted when all is answered."""

    def run(self, stage):
        if stage.name == "write":
            raise UserError("stopped")
        return super().run(stage)


ROWS = {"a row less": lambda table: table.slice(1), "a row twice": lambda table: table.take([0, *range(len(table))])}


@pytest.mark.parametrize("of", ["_work/records", "_work/attributes"])
@pytest.mark.parametrize("name", ROWS)
def test_records_that_were_not_made_end_the_run(name, of, settings, monkeypatch, tmp_path):
    settings = settings | {"dedup": None} if of == "_work/attributes" else settings
    with pytest.raises(UserError, match="stopped"):
        generate_inline(settings, monkeypatch, engine=StoppedAtTheEnd)
    change(tmp_path / "out" / of, ROWS[name])
    with pytest.raises(DataError, match=r"changed after (it was|they were) written"):
        generate_inline(settings, monkeypatch)


STEPS = {
    "steps": [
        {"name": "pairs", "prompt": "{{ text }}", "each": "pairs", "answer": {
            "type": "object", "properties": {"pairs": {"type": "array", "items": {
                "type": "object", "properties": {"question": {"type": "string"}, "answer": {"type": "string"}}}}}}},
        {"name": "better", "prompt": "{{ text }} {{ pairs.question }}"},
    ],
    "record": {"prompt": "{{ pairs.question }}", "completion": "{{ text }}"},
}  # fmt: skip


@pytest.fixture
def in_steps(settings):
    """A generation of two steps, of which the first makes several items of an answer."""
    return settings | {"make": {"template": STEPS}, "dedup": None}


def reasons(run) -> dict[str, int]:
    return {one["reason"]: one["count"] for one in run.report["removed"]}


def test_a_generation_of_two_steps_has_a_row_for_each_item(in_steps, monkeypatch):
    run = generate_inline(in_steps, monkeypatch)
    assert run.report["records"] > 12 and reasons(run) == {}


def test_items_that_take_much_memory_with_their_seed_are_in_the_ledger(in_steps, monkeypatch):
    monkeypatch.setattr("raymill.pipelines.generate.stages._MOST_OF_ANSWER", 1000)
    run = generate_inline(in_steps, monkeypatch)
    assert reasons(run)["too_large"] > 0 and run.report["records"] > 0
    (row, *_) = [one for one in rows(run, "removed") if one["reason"] == "too_large"]
    assert row["value"].endswith("items, each with its seed") and row["step"] == "pairs"


@pytest.mark.parametrize(("most", "steps"), [(3000, {"pairs"}), (8000, {"pairs", "better"})])
def test_the_rows_and_requests_of_a_unit_have_a_bound(in_steps, monkeypatch, most, steps):
    monkeypatch.setattr("raymill.pipelines.generate.stages._MOST_OF_UNIT", most)
    run = generate_inline(in_steps, monkeypatch)
    removed = [one for one in rows(run, "removed") if one["reason"] == "too_large"]
    assert {one["step"] for one in removed} == steps and run.report["records"] > 0


def test_a_prompt_without_bound_is_in_the_ledger(settings, seeds, server, monkeypatch):
    monkeypatch.setattr("raymill.pipelines.generate.template._LONGEST", 2000)
    (seeds / "long.md").write_text("Word and word. " * 1000)
    run = generate_inline(settings, monkeypatch)
    assert reasons(run)["too_large"] == 1 and run.report["requests"] == 12 == server.stats()["requests"]
