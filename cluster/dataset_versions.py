"""Where `raymill dataset` keeps the records of versions, and which versions name a digest.

A version is a file REGISTRY/NAME/VERSION.json with the digest of a run of `raymill prepare`. `pipelines` writes these
files; `training` reads them to name the data set that a model was trained on.
"""

import json
import os

from cluster.errors import DataError, StorageError
from cluster.store import paths
from cluster.store.store import Store

REGISTRY = "RAYMILL_DATASETS"

_MOST_BYTES = 1 << 16  # of a record; a larger file is data that somebody keeps in the same folder


def registry_folder() -> str:
    """The folder or URI of the versions that is used where none is given: $RAYMILL_DATASETS, else ./datasets."""
    return os.environ.get(REGISTRY) or "datasets"


def versions_of(store: Store, registry: str, digest: str) -> list[str]:
    """NAME:VERSION of every version with this digest, the oldest first. Empty if the registry cannot be read."""
    registry, found = paths.absolute(registry), []
    try:
        for file in store.list_files(registry, skip_bad_names=True):
            name, _, record = file.uri.removeprefix(registry).strip("/").partition("/")
            if "/" in record or not record.endswith(".json") or file.size > _MOST_BYTES:
                continue
            tagged = _tagged(store.read_bytes(file.uri), digest)
            if tagged is not None:
                found.append((tagged, f"{name}:{record.removesuffix('.json')}"))
    except (DataError, StorageError):
        return []
    return [name for _, name in sorted(found)]


def _tagged(data: bytes, digest: str) -> str | None:
    """When the version was tagged; None if the file is no version, or one of another digest."""
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return str(record.get("tagged", "")) if isinstance(record, dict) and record.get("digest") == digest else None
