"""Conversations with tools from their files to the data set and its exports."""

import json

import pytest

from raymill.cluster.examples.content import from_shape
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.versions.diff import compare_versions
from raymill.pipelines.prepare.versions.export import export
from raymill.pipelines.prepare.versions.registry import Registry
from tests.support.inline import prepare_inline
from tests.support.pack_runs import write_lines
from tests.support.prepared_runs import ledger, records
from tests.support.tool_chats import ANSWERED, ARGUMENTS, FORMS, RESULT, TOOL, call, chat

PLAIN = (
    {"role": "user", "content": "How do I reset my password?"},
    {
        "role": "assistant",
        "content": "Open the settings, choose Security, and then Reset.",
    },
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that prepares rows."""

    def prepare(rows: list[dict], name: str = "out", **settings):
        source = {"path": write_lines(tmp_path / f"{name}.jsonl", rows), "id": "id"}
        plain = {"inputs": [source], "output": f"{tmp_path}/{name}", "split": {"train": 1, "validation": 0, "test": 0}}
        return prepare_inline(plain | settings, monkeypatch)

    return prepare


def plain_row(number: int) -> dict:
    return {"id": f"p{number}", "messages": [turn | {"content": f"{turn['content']} {number}"} for turn in PLAIN]}


@pytest.mark.parametrize("form", ["openai", "objects", "texts", "older", "sharegpt"])
def test_calls_results_and_tools_are_in_the_columns_of_the_data_set(run, form):
    found = records(run([FORMS[form](number) for number in range(3)], dedup=None))
    assert sorted(found) == ["c0", "c1", "c2"]
    (row, *_) = found.values()
    (said,) = row["messages"][2]["tool_calls"]
    function = said["function"]
    assert (said["type"], function["name"]) == ("function", "get_weather") and row["messages"][2]["content"] == ""
    assert json.loads(function["arguments"]) == json.loads(ARGUMENTS)
    assert function["arguments"] == ARGUMENTS or form in ("objects", "sharegpt")
    assert row["messages"][3]["content"] == RESULT and json.loads(row["tools"])[0] in (TOOL, TOOL["function"])


def test_a_data_set_without_tools_has_no_columns_for_them_and_one_with_tools_those_in_use(run):
    without, with_tools = run([plain_row(1)], "without"), run([plain_row(1), chat(1)], "with")
    kind = without.split("train").table().schema.field("messages").type.value_type
    assert [one.name for one in kind] == ["role", "content"] and "tools" not in without.split(
        "train"
    ).table().schema.names
    kind = with_tools.split("train").table().schema.field("messages").type.value_type
    assert [one.name for one in kind] == ["role", "content", "tool_calls", "name", "tool_call_id"]
    same = {"train": without.split("train")}, {"train": with_tools.split("train")}
    found = compare_versions(*same)
    assert (found.added, found.removed, found.changed) == (1, 0, 0), "absent keys are no change"


def test_normalisation_leaves_calls_results_and_tools_alone(run):
    row = chat(1)
    row["messages"][4]["content"] = f"{ANSWERED}  And\u00a0more."
    (found,) = records(run([row])).values()
    assert found["messages"][4]["content"] == f"{ANSWERED} And more."
    assert found["messages"][2]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS
    assert found["messages"][3]["content"] == RESULT


def test_personal_data_in_calls_results_and_tools_is_replaced_as_in_texts(run):
    row = chat(1, '{"to":  "ann@example.org", "cc": ["x\\nbob@example.org"], "days": 3}')
    row["messages"][1]["content"] += " Write to ann@example.org."
    row["messages"][3]["content"] = '{"sent":  "ann@example.org"}'
    row["tools"] = [TOOL | {"function": TOOL["function"] | {"description": "Ask carl@example.org."}}]
    done = run([row], clean={"redact": ["email"], "pseudonyms": "per_record"})
    (found,) = records(done).values()
    messages = found["messages"]
    assert messages[1]["content"].endswith("Write to <EMAIL_1>.")
    arguments = '{"to":  "<EMAIL_1>", "cc": ["x\\n<EMAIL_2>"], "days": 3}'
    assert messages[2]["tool_calls"][0]["function"]["arguments"] == arguments
    assert messages[3]["content"] == '{"sent":  "<EMAIL_1>"}'
    assert json.loads(found["tools"])[0]["function"]["description"] == "Ask <EMAIL_3>."
    assert done.report["totals"]["personal_data"] == 5


def test_conversations_that_differ_in_their_calls_or_tools_are_no_duplicates(run):
    other = chat(0, '{"city": "Rome", "days": 3}') | {"id": "of Rome"}
    more = chat(0, tools=[TOOL, {"type": "function", "function": {"name": "get_time"}}]) | {"id": "more tools"}
    done = run([chat(0), chat(0) | {"id": "again"}, other, more], dedup={"threshold": 1.0})
    assert sorted(records(done)) == ["c0", "more tools", "of Rome"]
    assert ledger(done)["again"]["reason"] == "exact_duplicate"
    assert json.loads(ledger(done)["again"]["content"])["messages"][2] == {
        "role": "assistant", "content": "", "tool_calls": [call()],
    }  # fmt: skip


def test_rules_of_answers_are_not_for_an_answer_of_calls_alone(run):
    only = {"id": "only", "messages": chat(1)["messages"][:3], "tools": [TOOL]}
    short = {"id": "short", "messages": [*chat(2)["messages"][:4], {"role": "assistant", "content": "Rain."}]}
    done = run([only, short])
    assert list(records(done)) == ["only"] and ledger(done)["short"]["reason"] == "answer_too_short"


def test_a_data_set_with_tools_is_exported_and_read_back(run, tmp_path):
    first = records(run([chat(number) for number in range(3)], "first", dedup=None))
    version = Registry(Store(), f"{tmp_path}/datasets").tag("weather", f"{tmp_path}/first")
    for format in ("jsonl", "sharegpt", "hf"):
        export(Store(), version, f"{tmp_path}/{format}", format)
    line = json.loads((tmp_path / "jsonl" / "train.jsonl").read_text().splitlines()[0])
    assert line["tools"] == [TOOL] and line["messages"][2] == {
        "role": "assistant", "content": "", "tool_calls": [call()],
    }  # fmt: skip
    turn = json.loads((tmp_path / "sharegpt" / "train.jsonl").read_text().splitlines()[0])["conversations"][2]
    assert turn["from"] == "function_call" and json.loads(turn["value"])["arguments"] == json.loads(ARGUMENTS)
    for format, path in (("jsonl", "jsonl/*"), ("sharegpt", "sharegpt/*"), ("hf", "hf/data/*")):
        again = records(run([], f"of-{format}", inputs=[{"path": f"{tmp_path}/{path}", "id": "id"}], dedup=None))
        for id, row in first.items():
            then, now = (from_shape(one, "messages") for one in (row, again[id]))
            if format == "sharegpt":  # it has no ids
                assert [one.role for one in now.messages] == [one.role for one in then.messages]
                assert now.messages[2].calls[0].name == "get_weather" and now.tools == then.tools
            else:
                assert (now.messages, json.loads(now.tools)) == (then.messages, json.loads(then.tools))
