"""The input files that differ from those of a finished run, in words."""

import json
from posixpath import basename

from cluster.errors import StorageError
from cluster.store.store import Store
from pipelines.readers.units import InputManifest

_NAMED = 3  # of each kind


def changed_inputs(store: Store, recorded: str, inputs: InputManifest) -> str:
    """Which files are new, gone or changed. recorded: URI of the run's inputs.json."""
    try:
        files = json.loads(store.read_bytes(recorded))["files"]
        before = {(file["source"], file["uri"]): (file["size"], file["version"]) for file in files}
    except (StorageError, ValueError, KeyError, TypeError):
        return "the input files changed"
    now = {(file.source, file.uri): (file.size, file.version) for file in inputs.files}
    changed = [key for key in now if key in before and now[key] != before[key]]
    same_size = {key for key in changed if now[key][0] == before[key][0]}
    kinds = {
        "new": [_name(key) for key in now if key not in before],
        "gone": [_name(key) for key in before if key not in now],
        "changed": [_name(key) + " (same size, another time stamp or ETag)" * (key in same_size) for key in changed],
    }
    parts = [f"{len(names):,} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]
    return f"the input files changed ({'; '.join(parts)})" if parts else "the input files changed"


def _name(key: tuple[str, str]) -> str:
    return basename(key[1])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)
