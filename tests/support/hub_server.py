"""A stand-in of the Hugging Face hub with one data set of JSON Lines, acme/help, for the real client."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import pytest
from huggingface_hub import constants

from tests.support.web_server import Reply, Site, as_json, web_server

_NOT_THERE = Reply("", 404, headers={"X-Error-Code": "EntryNotFound"})
_AT = "/api/datasets/acme/help"


class HubOfOne:
    """commit: of the branch main, which `publish` changes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.commit = ""

    def publish(self, card: str = "# Help\n", **splits: list[dict]) -> str:
        """A new commit that has a file SPLIT.jsonl for each split, and the card as README.md. Returns it."""
        files = {
            f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in splits.items()
        }
        files["README.md"] = card.encode()
        self.commit = hashlib.sha1(json.dumps([card, splits]).encode()).hexdigest()
        found = [{"type": "file", "path": name, "size": len(data), "oid": _oid(data)} for name, data in files.items()]
        about = as_json({"id": "acme/help", "sha": self.commit, "siblings": [{"rfilename": name} for name in files]})
        self.site.answers |= {
            _AT: about,
            f"{_AT}/revision/{self.commit}": about,
            f"{_AT}/tree/{self.commit}": as_json(found),
            f"{_AT}/tree/{self.commit}/data": _NOT_THERE,
        }
        for name in ("help.py", ".huggingface.yaml", "dataset_infos.json"):
            self.site.answers[f"/datasets/acme/help/resolve/{self.commit}/{name}"] = _NOT_THERE
        for name, data in files.items():
            headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": self.commit}
            self.site.answers[f"/datasets/acme/help/resolve/{self.commit}/{name}"] = Reply(data, headers=headers)
        return self.commit


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def hub_of_one(cache: str) -> Iterator[HubOfOne]:
    """The hub, to which the real client goes. cache: folder in place of HF_HOME."""
    datasets.disable_progress_bars()
    with web_server() as site, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", site.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", site.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", f"{cache}/hub")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_ENDPOINT", site.url)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", f"{cache}/datasets")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        yield HubOfOne(site)
