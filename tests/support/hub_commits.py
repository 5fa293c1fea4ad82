"""A server with the endpoints of the Hugging Face hub that a commit needs, for the real client; the verbs that push."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from huggingface_hub import constants

from raymill.cluster import cli
from tests.support.web_server import Asked, Reply, Site, as_json, web_server

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


@contextmanager
def hub_server(patch: pytest.MonkeyPatch, kind: str) -> Iterator["Hub"]:
    """The hub, at which the client asks while this is open."""
    with web_server() as site:
        patch.setattr(constants, "ENDPOINT", site.url)
        patch.setenv("HF_TOKEN", SECRET)
        yield Hub(site, kind)


def raymill(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """`raymill WORDS`: (exit code, what is printed), in which the token does not occur."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err
    return left.value.code or 0, shown.out + shown.err


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """The endpoints of the hub that a commit to acme/help needs. files: path -> bytes, after all commits.

    kind: dataset or model.
    """

    def __init__(self, site: Site, kind: str) -> None:
        self.site, self.kind = site, kind
        self.at, name = f"/api/{kind}s/acme/help", "datasets/acme/help" if kind == "dataset" else "acme/help"
        self.place = f"{site.url}/{name}"
        self.exists = False
        self.private = None
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []
        self._large: dict[str, bytes] = {}
        site.answers |= {
            "/api/repos/create": self._create,
            "/api/validate-yaml": as_json({"errors": [], "warnings": []}),
            f"{self.at}/preupload/main": self._modes,
            f"{self.at}/tree/main": lambda asked: as_json(
                [{"type": "file", "path": path, "size": len(data), "oid": ""} for path, data in self.files.items()]
            ),
            f"/{name}.git/info/lfs/objects/batch": self._batch,
            f"{self.at}/commit/main": self._commit,
            f"{self.at}/revision/main": lambda asked: as_json({"id": "acme/help", "sha": f"{len(self.commits):040}"}),
        }

    def _create(self, asked: Asked) -> Reply:
        wanted = json.loads(asked.body)
        assert (wanted["organization"], wanted["name"]) == ("acme", "help")
        assert wanted.get("type", "model") == self.kind
        if self.exists:
            return as_json({"error": "You already created this dataset repo", "url": self.place}, status=409)
        self.exists, self.private = True, wanted["visibility"] == "private"
        return as_json({"url": self.place})

    def _modes(self, asked: Asked) -> Reply:
        paths = [one["path"] for one in json.loads(asked.body)["files"]]
        found = []
        for path in paths:
            mode = "lfs" if path.endswith((".parquet", ".safetensors")) else "regular"
            found.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": self._oid(path, mode)})
        return as_json({"files": found})

    def _oid(self, path: str, mode: str) -> str | None:
        """The hash by which the client sees whether the hub has a file's content."""
        if (data := self.files.get(path)) is None:
            return None
        return hashlib.sha256(data).hexdigest() if mode == "lfs" else git_hash(data)

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
        return as_json({"commitUrl": f"{self.place}/commit/{oid}", "commitOid": oid, "success": True})
