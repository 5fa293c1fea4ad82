"""Exports of versions in the formats of other programs, and pushes to the hub."""

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from hypothesis import given

from raymill.cluster.errors import DataError
from raymill.cluster.examples.columns import FORMS
from raymill.cluster.examples.content import pair
from raymill.cluster.examples.rows import content_of
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.versions.export import as_alpaca, as_sharegpt, export
from raymill.pipelines.prepare.versions.registry import Registry
from tests.support.contents import chats, maybe, some_text
from tests.support.hub_commits import SECRET, Hub, hub_server, raymill
from tests.support.inline import prepare_inline
from tests.support.prepared_versions import prepared, rows
from tests.support.tickets import answer, question
from tests.support.web_server import as_json


@given(chats)
def test_sharegpt_is_read_as_the_chat_that_was_written(chat):
    row = json.loads(json.dumps(as_sharegpt(chat)))
    assert content_of({"messages": json.dumps(row["conversations"])}) == chat


@given(maybe, some_text, maybe, some_text)
def test_alpaca_is_read_as_the_pair_that_was_written(system, prompt, input, answer):
    whole = pair(system, prompt, input, answer)
    row = json.loads(json.dumps(as_alpaca(whole)))
    pairs = {("prompt", "instruction"), ("completion", "output")}
    needed, optional = next(one for one in FORMS if one[0].items() >= pairs)
    assert set(row) == {"instruction", "input", "output", "system"}
    assert content_of({field: row[name] for field, name in (needed | optional).items() if name in row}) == whole


TURNS = [("user", question(1)), ("assistant", answer(1)), ("user", question(2)), ("assistant", answer(2))]
ROWS = {
    "messages": [{"key": f"k{n}", "messages": [{"role": role, "content": f"{text} {n}"} for role, text in TURNS]}
                 for n in range(9)],
    "instruction": [{"key": f"k{n}", "instruction": question(n), "input": f"number {n}", "output": answer(n),
                     "system": "Be brief." if n % 2 else ""} for n in range(9)],
    "text": [{"key": f"k{n}", "text": f"{question(n)} {answer(n)}"} for n in range(9)],
    "preference": [{"key": f"k{n}", "prompt": question(n), "chosen": answer(n), "rejected": answer(n + 50)}
                   for n in range(9)],
}  # fmt: skip


@pytest.fixture
def prepared_as(tmp_path, monkeypatch):
    """A function that prepares a file or a folder, and returns the records by id."""

    def run(path: str, shape: str, id: str = "id") -> dict[str, dict]:
        source = {"path": path, "id": id}
        settings = {"inputs": [source], "records": {"shape": shape}, "dedup": None, "validate": {"answer_chars": None}}
        done = prepare_inline(settings | {"output": f"{tmp_path}/{shape}-{id}"}, monkeypatch)
        rows = [row for split in SPLITS for row in done.split(split).table().to_pylist()]
        Registry(Store(), f"{tmp_path}/datasets").tag(f"{shape}-{id}", done.uri)
        return {row["id"]: {name: row[name] for name in row if name in ROWS[shape][0]} for row in rows}

    return run


@pytest.mark.parametrize(("shape", "format"), [("messages", "sharegpt"), ("instruction", "alpaca")])
def test_an_export_is_prepared_as_the_same_records(prepared_as, tmp_path, monkeypatch, run_cli, shape, format):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]))
    first = prepared_as(str(tmp_path / "a.jsonl"), shape, "key")
    assert len(first) == 9
    monkeypatch.setenv("RAYMILL_DATASETS", f"{tmp_path}/datasets")
    code, out, _ = run_cli("dataset", "export", f"{shape}-key", f"{tmp_path}/export", "--format", format)
    assert not code and "3 files written" in out
    assert prepared_as(f"{tmp_path}/export", shape) == first


@pytest.mark.parametrize(
    ("shape", "format", "message"),
    [
        ("messages", "alpaca", "more than one question and answer"),
        ("text", "sharegpt", "a plain text"),
        ("preference", "sharegpt", r"records.preferences: chosen"),
    ],
)
def test_what_a_format_cannot_say_is_refused_and_nothing_is_written(prepared_as, tmp_path, shape, format, message):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]))
    prepared_as(str(tmp_path / "a.jsonl"), shape, "key")
    version = Registry(Store(), f"{tmp_path}/datasets").find(f"{shape}-key")
    with pytest.raises(DataError, match=rf"record k\d does not fit the format {format} \(.*{message}"):
        export(Store(), version, f"{tmp_path}/export", format)
    assert not (tmp_path / "export").exists()


AT = "/api/datasets/acme/help"


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    with hub_server(monkeypatch, "dataset") as found:
        yield found


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> str:
    """The folder of versions, with one of 20 records."""
    folder = tmp_path_factory.mktemp("versions")
    with pytest.MonkeyPatch.context() as patch:
        run = prepared(folder, patch, "one", rows(20))
    Registry(Store(), str(folder / "datasets")).tag("help", run.uri)
    return str(folder / "datasets")


@pytest.fixture
def push(registry, capfd):
    """`raymill dataset push help WORDS`: (exit code, what is printed)."""
    return lambda *words: raymill(capfd, "dataset", "push", "help", *words, "--registry", registry)


def test_a_push_is_one_commit_of_the_version_and_its_card_to_a_private_data_set(hub, push):
    code, shown = push("hf://acme/help")
    assert code == 0, shown
    assert "hf://acme/help holds 4 files" in shown and f"commit  {hub.place}/commit/{1:040}" in shown
    assert hub.private is True and hub.commits == ["help:v1"]
    assert sorted(hub.files) == [
        "README.md", *(f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")),
    ]  # fmt: skip
    assert len(pq.read_table(pa.BufferReader(hub.files["data/train-00000-of-00001.parquet"]))) == 16
    assert hub.files["README.md"].startswith(b"---\npretty_name: help")
    api = [one for one in hub.site.asked if not one.path.startswith("/large/")]
    with_token = {one.path for one in api if one.headers.get("authorization") == f"Bearer {SECRET}"}
    assert {"/api/repos/create", f"{AT}/commit/main", f"{AT}/preupload/main"} <= with_token


def test_a_push_to_a_data_set_that_is_there_removes_the_files_of_the_earlier_version(hub, push):
    hub.exists, hub.private = True, True
    hub.files = {"data/train-00007-of-00008.parquet": b"old", "notes.txt": b"kept", ".gitattributes": b""}
    code, shown = push("acme/help", "--public")
    assert code == 0, shown
    assert hub.private is True, "it stays as it was"
    assert "data/train-00007-of-00008.parquet" not in hub.files and hub.files["notes.txt"] == b"kept"
    assert len(hub.commits) == 1


def test_the_same_push_again_commits_nothing(hub, push):
    first, again = push("hf://acme/help"), push("hf://acme/help")
    assert (first[0], again[0]) == (0, 0) and len(hub.commits) == 1


def test_a_new_data_set_is_public_if_that_is_asked_for(hub, push):
    assert push("hf://acme/help", "--public")[0] == 0
    assert hub.private is False


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, "Invalid username or password.", "HF_TOKEN is wrong or has expired"),
        (403, "You don't have the rights to create a dataset under the namespace acme", "has no right to write there"),
        (400, "Name is not allowed", "Check ORG and NAME"),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(hub, push, status, answer, said):
    hub.site.answers["/api/repos/create"] = as_json(
        {"error": answer}, status=status, headers={"X-Error-Message": answer}
    )
    code, shown = push("hf://acme/help")
    assert code == 2 and f"the hub answered {status} ({answer}" in shown and said in shown
    assert hub.commits == []


def test_without_a_token_nothing_is_sent(hub, push, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, shown = push("hf://acme/help")
    assert code == 2 and "HF_TOKEN is not set" in shown and "settings/tokens" in shown
    assert hub.site.asked == []


def test_a_hub_that_does_not_answer(hub, push, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, shown = push("hf://acme/help")
    assert code == 2 and "http://127.0.0.1:9 cannot be reached" in shown and "Nothing was committed" in shown


def test_a_place_of_another_form_is_refused(push):
    for place in ("hf://acme", "s3://acme/help", "hf://acme/help/more"):
        code, shown = push(place)
        assert code == 2 and "wanted hf://ORG/NAME" in shown
