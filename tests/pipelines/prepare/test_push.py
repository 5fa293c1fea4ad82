"""A version on the Hugging Face hub: the real client, and a server with the hub's endpoints for a commit."""

import base64
import hashlib
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from cluster import cli
from cluster.store.store import Store
from pipelines.prepare.versions.registry import Registry
from tests.support.prepared_versions import prepared, rows
from tests.support.web_server import Asked, Reply, Site, as_json, web_server

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"
AT = "/api/datasets/acme/help"


class Hub:
    """The endpoints of the hub that a commit to acme/help needs. files: path -> bytes, after all commits."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.place = f"{site.url}/datasets/acme/help"
        self.exists = False
        self.private = None
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []
        self._large: dict[str, bytes] = {}
        site.answers |= {
            "/api/repos/create": self._create,
            "/api/validate-yaml": as_json({"errors": [], "warnings": []}),
            f"{AT}/preupload/main": self._modes,
            f"{AT}/tree/main": lambda asked: as_json(
                [{"type": "file", "path": path, "size": len(data), "oid": ""} for path, data in self.files.items()]
            ),
            "/datasets/acme/help.git/info/lfs/objects/batch": self._batch,
            f"{AT}/commit/main": self._commit,
        }

    def _create(self, asked: Asked) -> Reply:
        wanted = json.loads(asked.body)
        assert (wanted["organization"], wanted["name"], wanted["type"]) == ("acme", "help", "dataset")
        if self.exists:
            return as_json({"error": "You already created this dataset repo", "url": self.place}, status=409)
        self.exists, self.private = True, wanted["visibility"] == "private"
        return as_json({"url": self.place})

    def _modes(self, asked: Asked) -> Reply:
        paths = [one["path"] for one in json.loads(asked.body)["files"]]
        modes = {path: "lfs" if path.endswith(".parquet") else "regular" for path in paths}
        return as_json({"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]})

    def _batch(self, asked: Asked) -> Reply:
        objects = []
        for one in json.loads(asked.body)["objects"]:
            path = f"/large/{one['oid']}"
            self.site.answers[path] = self._upload
            objects.append(one | {"actions": {"upload": {"href": f"{self.site.url}{path}"}}})
        return as_json({"transfer": "basic", "objects": objects})

    def _upload(self, asked: Asked) -> Reply:
        self._large[hashlib.sha256(asked.body).hexdigest()] = asked.body
        return Reply()

    def _commit(self, asked: Asked) -> Reply:
        for line in asked.body.decode().splitlines():
            what = json.loads(line)
            value = what["value"]
            match what["key"]:
                case "header":
                    self.commits.append(value["summary"])
                case "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    self.files[value["path"]] = self._large[value["oid"]]
                case "deletedFile":
                    del self.files[value["path"]]
        oid = f"{len(self.commits):040}"
        return as_json(
            {"commitUrl": f"{self.site.url}/datasets/acme/help/commit/{oid}", "commitOid": oid, "success": True}
        )


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    with web_server() as site:
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", SECRET)
        yield Hub(site)


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

    def call(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(("dataset", "push", "help", *words, "--registry", registry))
        shown = capfd.readouterr()
        assert SECRET not in shown.out + shown.err
        return left.value.code or 0, shown.out + shown.err

    return call


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


def test_a_new_data_set_is_public_if_that_is_asked_for(hub, push):
    assert push("hf://acme/help", "--public")[0] == 0
    assert hub.private is False


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, "Invalid username or password.", "HF_TOKEN is wrong or has ended"),
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
