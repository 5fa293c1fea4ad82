"""The record of a prepared tokenizer, PACKED/tokenizer/prepared.json: what it was made for, and its files.

It is written last: without it the folder is not finished.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cluster.artifact import canonical_json, changed_files
from cluster.store import paths
from cluster.store.store import Store

FOLDER = "tokenizer"
RECORD = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """request: fingerprint of what decides the tokenizer. fingerprint: the tokenizer's own.

    files: sha256 and bytes by name.
    """

    request: str
    fingerprint: str
    files: Mapping[str, tuple[str, int]]

    @classmethod
    def read(cls, store: Store, packed_uri: str) -> Self | None:
        """None where no tokenizer is finished."""
        uri = record_uri(packed_uri)
        if not store.exists(uri):
            return None
        plain = json.loads(store.read_bytes(uri))
        files = {name: (sha256, size) for name, (sha256, size) in plain.get("files", {}).items()}
        return cls(plain["request"], plain["fingerprint"], files)

    def create(self, store: Store, packed_uri: str) -> None:
        """Write it, unless another driver just has."""
        store.create(record_uri(packed_uri), canonical_json(vars(self)))


def tokenizer_folder(packed_uri: str) -> str:
    return paths.join(paths.absolute(packed_uri), FOLDER)


def record_uri(packed_uri: str) -> str:
    return paths.join(tokenizer_folder(packed_uri), RECORD)


def tokenizer_damage(store: Store, packed_uri: str, digests: bool = False) -> dict[str, str]:
    """What was seen instead, by the URI of each file of a finished tokenizer that is not as it was written."""
    prepared = Prepared.read(store, packed_uri)
    if prepared is None:
        return {}
    written = {name: (size, sha256) for name, (sha256, size) in prepared.files.items()}
    return changed_files(store, tokenizer_folder(packed_uri), written, digests)


def discard_tokenizer(store: Store, packed_uri: str) -> None:
    """Remove the record, so that the tokenizer is made again."""
    store.delete([record_uri(packed_uri)])
