"""The settings that the guide gives for exports of help desks, chats and calls read such exports."""

import json
import re

import pytest
import yaml

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.content import Unusable
from raymill.cluster.examples.rows import content_of
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import PrepareConfig
from tests.support.guides import GUIDES
from tests.support.inline import prepare_inline

SECTION = GUIDES["pipelines/prepare/README.md"].partition("## Exports of help desks")[2]
BLOCK = SECTION.partition("```yaml\n")[2].partition("```")[0]
SOURCES = {one["source"]: one for one in yaml.safe_load(BLOCK)["inputs"]}

# "Export CSV (all fields)" repeats a column for each comment and label.
JIRA = (
    "Summary,Issue key,Issue id,Issue Type,Status,Project key,Priority,Resolution,Assignee,Reporter,Created,Resolved,"
    "Labels,Labels,Description,Custom field (Resolution Notes),Comment,Comment\n"
    "VPN drops every hour,IT-101,10101,Incident,Done,IT,High,Done,Ann Lee,Bob Ray,12/Jan/26 9:12 AM,13/Jan/26 4:00 PM,"
    'vpn,network,"The VPN closes after an hour.\n\nIt says ""session expired"".",'
    '"Raised the session limit to twelve hours, and restarted the client.",'
    "12/Jan/26 9:30 AM;ann;Looking.,13/Jan/26 4:00 PM;ann;Done.\n"
    "No printer on floor 2,IT-102,10102,Service Request,Open,IT,Low,,,Bob Ray,14/Jan/26 9:12 AM,,,,Please add one.,,,\n"
)

SERVICENOW = (
    '"number","short_description","description","category","state","caller_id","assignment_group","sys_created_on",'
    '"resolved_at","close_code","close_notes"\n'
    '"INC0010023","Cannot log in to the portal","After the change of password the portal refuses me.","Software",'
    '"Closed","Beth Anglin","Service Desk","2026-01-10 08:12:44","2026-01-10 09:01:02","Solved (Permanently)",'
    '"Unlocked the account and cleared the saved password."\n'
)

ZENDESK = [
    {
        "id": 35436, "subject": "Refund for order 991", "requester_id": 20978392, "status": "solved",
        "comments": [
            {"id": 1, "author_id": 20978392, "body": "My order came twice. Can one be refunded?", "public": True},
            {"id": 2, "author_id": 235323, "body": "Customer is a VIP, be quick.", "public": False},
            {"id": 3, "author_id": 235323, "body": "Yes, we refunded the second one today.", "public": True},
            {"id": 4, "author_id": 235323, "body": "It takes three days to arrive.", "public": True},
            {"id": 5, "author_id": 20978392, "body": "Thanks!", "public": True},
        ],
    },
    {"id": 35437, "subject": "No answer", "requester_id": 7, "comments": [{"author_id": 7, "body": "Hello?"}]},
]  # fmt: skip

CALL = {
    "jobName": "call-7", "status": "COMPLETED",
    "results": {
        "transcripts": [{"transcript": "Press one. Hello, how can I help? My router is off. Switch it on."}],
        "audio_segments": [
            {"id": 0, "transcript": "Press one.", "speaker_label": "IVR", "start_time": "0.0"},
            {"id": 1, "transcript": "Hello, how can I help?", "speaker_label": "Agent", "start_time": "1.0"},
            {"id": 2, "transcript": "My router is off.", "speaker_label": "Customer", "start_time": "3.0"},
            {"id": 3, "transcript": "Since Monday.", "speaker_label": "Customer", "start_time": "4.0"},
            {"id": 4, "transcript": "Switch it on, please.", "speaker_label": "Agent", "start_time": "6.0"},
        ],
    },
}  # fmt: skip

FILES = {
    "jira": ("a.csv", JIRA),
    "servicenow": ("incident.csv", SERVICENOW),
    "zendesk": ("a.jsonl", "".join(json.dumps(one) + "\n" for one in ZENDESK)),
    "calls": ("7.json", json.dumps(CALL)),
}


def prepared(tmp_path, monkeypatch, name: str, **more):
    file, content = FILES[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / file).write_text(content)
    pattern = re.sub(r"^\w+/", "", SOURCES[name]["path"])
    source = SOURCES[name] | {"path": str(tmp_path / "in" / pattern)}
    plain = {"inputs": [source], "execution": {"max_bad_documents": 0.6}, "output": str(tmp_path / "out")}
    run = prepare_inline(plain | more, monkeypatch)
    rows = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    return rows, Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()


def said(row: dict) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in row["messages"]]


def test_an_export_of_jira(tmp_path, monkeypatch):
    (row,), (open_issue,) = prepared(tmp_path, monkeypatch, "jira")
    question = 'VPN drops every hour\n\nThe VPN closes after an hour.\n\nIt says "session expired".'
    answer = "Raised the session limit to twelve hours, and restarted the client."
    assert (row["id"], said(row)) == ("IT-101", [("user", question), ("assistant", answer)])
    assert row["metadata"]["category"] == "Incident" and open_issue["problem"] == "empty"


def test_an_export_of_servicenow(tmp_path, monkeypatch):
    bounds = {"since": {"day": "2026-01-01"}}
    (row,), _ = prepared(tmp_path, monkeypatch, "servicenow", validate=bounds)
    assert row["id"] == "INC0010023" and row["metadata"]["customer"] == "Beth Anglin"
    assert said(row)[0][1].startswith("Cannot log in to the portal\n\nAfter the change")
    assert said(row)[1][1] == "Unlocked the account and cleared the saved password."


def test_an_export_of_zendesk_becomes_chats_without_internal_notes(tmp_path, monkeypatch):
    (row,), (unanswered,) = prepared(tmp_path, monkeypatch, "zendesk")
    assert row["id"] == "35436" and row["metadata"]["subject"] == "Refund for order 991"
    assert said(row) == [
        ("user", "My order came twice. Can one be refunded?"),
        ("assistant", "Yes, we refunded the second one today.\nIt takes three days to arrive."),
    ]
    assert unanswered["problem"] == "wrong_order"


def test_a_call_as_json_becomes_a_chat(tmp_path, monkeypatch):
    (row,), _ = prepared(tmp_path, monkeypatch, "calls")
    assert said(row) == [("user", "My router is off. Since Monday."), ("assistant", "Switch it on, please.")]


def test_speakers_without_a_role_and_values_that_are_no_messages_are_refused():
    roles = {"Ann": "assistant", "Bob": "user", "Bot": "system"}
    turns = [{"speaker": "Bot", "text": "Be kind."}, {"from": "Bob", "value": "Why?"}, {"author": "Ann", "body": "So."}]
    chat = content_of({"messages": json.dumps(turns)}, roles)
    assert [one.role for one in chat.messages] == ["system", "user", "assistant"]
    for value, reason in (
        ([*turns, {"speaker": "Eve", "text": "Hm"}], "other_roles"),
        ([{"text": "nobody"}], "other_roles"),
        ({"speaker": "Ann"}, "bad_messages"),
        (["Ann: x"], "bad_messages"),
        (turns[::-1], "wrong_order"),
        ([], "empty"),
    ):
        with pytest.raises(Unusable, match=reason):
            content_of({"messages": json.dumps(value)}, roles)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {"text": "text"}}, "goes with `columns: {messages"),
        ({"speakers": {"{asker}": "user"}}, "{asker} names no field; add asker to `columns`"),
    ],
)
def test_speakers_go_with_messages(change, message):
    source = {"path": "/x.jsonl", "columns": {"messages": "m"}, "speakers": {"a": "user"}} | change
    with pytest.raises(ValueError, match=message):
        PrepareConfig.model_validate({"kind": "prepare", "name": "x", "output": "/o", "inputs": [source]})
