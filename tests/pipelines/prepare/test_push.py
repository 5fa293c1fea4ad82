"""A version on the Hugging Face hub: the real client, and a server with the hub's endpoints for a commit."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from cluster.store.store import Store
from pipelines.prepare.versions.registry import Registry
from tests.support.hub_commits import SECRET, Hub, hub_server, raymill
from tests.support.prepared_versions import prepared, rows
from tests.support.web_server import as_json

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
