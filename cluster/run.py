"""A run's own manifest: put last, says what was asked, of what it was made, and the digest of each artifact.

A finished run is found by it and left alone; one of other settings at the same place is refused, or removed on request.
"""

import json
from typing import Any

import cluster
from cluster.artifact import fingerprint
from cluster.errors import DataError
from cluster.store import storage

RUN_MANIFEST = "manifest.json"


def find_run(root: str, kind: str, settings: dict[str, Any], inputs: str, replace: bool) -> dict[str, Any] | None:
    """The manifest of the run that stands finished at `root` for these settings and inputs.

    Args:
        settings: those that decide the result, as plain JSON values. inputs: fingerprint of what is read.
        replace: what other settings or inputs left is no longer believed, instead of an error.

    Raises:
        DataError: another run is finished there, and `replace` is not given.
    """
    uri = storage.join(root, RUN_MANIFEST)
    if not storage.exists(uri):
        return None
    try:
        manifest = json.loads(storage.read_bytes(uri))
        changed = differences(manifest["config"], settings)
        if manifest["inputs"] != inputs:
            changed = changed or ["the input files changed"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri}: not the manifest of a {kind} run ({error}). Choose another output.") from error
    if not changed:
        return manifest
    if replace:
        storage.delete([uri])
        return None
    raise DataError(
        f"{root}: holds a finished run, and what is asked now differs: {'; '.join(changed)}. "
        "Choose another output, or add --replace to make anew what no longer applies; what still does is kept."
    )


def put_run(
    root: str, kind: str, name: str, settings: dict[str, Any], inputs: str, artifacts: dict[str, str], **more: Any
) -> dict[str, Any]:
    """Put the manifest of a finished run, unless another driver just has.

    Args:
        artifacts: digest by the name of each thing that is the run's result, its path below `root`: artifacts, and
            folders that are none (an exported model, a phase). The run's own digest is of these alone.
        more: further entries. `told`, a line by its name, is what `raymill inspect` shows of this kind of run.
    """
    manifest = {
        "kind": kind,
        "name": name,
        "version": cluster.__version__,
        **more,
        "inputs": inputs,
        "config": settings,
        "artifacts": dict(sorted(artifacts.items())),
    }
    manifest["digest"] = fingerprint(manifest["artifacts"])
    storage.create(storage.join(root, RUN_MANIFEST), json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return manifest


def differences(before: Any, now: Any, at: str = "") -> list[str]:
    """What differs between two settings, a line each."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        return [d for name in names for d in differences(before.get(name), now.get(name), f"{at}.{name}".lstrip("."))]
    return [] if before == now else [f"{at} was {json.dumps(before)}, now {json.dumps(now)}"]
