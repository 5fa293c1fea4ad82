"""Opens what is at a path: a finished run or an artifact."""

import os
from collections.abc import Mapping
from typing import Any

from raymill.cluster.artifact import Artifact
from raymill.cluster.frame.job import Run
from raymill.cluster.frame.kinds import kind_of, names
from raymill.cluster.inspection import is_run, nothing_here, read_run_manifest
from raymill.cluster.store import paths
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store


def open(
    uri: str | os.PathLike[str] | Run | Artifact, *, storage: Mapping[str, Any] | StorageOptions | None = None
) -> Any:
    """The finished run or artifact at a folder or URI, as the functions return it. Reads its records, and no rows.

    Args:
        uri: `output` of a config, an artifact below it such as `runs/web/corpus`, or what is open already.
        storage: settings of the store, as the group `storage` of a config.

    Returns:
        A `CurateRun`, `PrepareRun`, `TrainRun` or other `Run`, or an `Artifact`.

    Raises:
        DataError: there is neither a finished run nor an artifact.
    """
    if isinstance(uri, Run | Artifact):
        return uri
    options = storage if isinstance(storage, StorageOptions) else StorageOptions.model_validate(storage or {})
    store, at = Store(options), paths.absolute(os.fspath(uri))
    if (found := Artifact.find(store, at)) is not None:
        return found
    manifest = read_run_manifest(store, at)
    if not is_run(manifest) or manifest.get("kind") not in names():
        raise nothing_here(store, at, "no finished run and no finished artifact here")
    return kind_of(manifest["kind"]).job.load().run_type.opened(store, at, manifest)  # type: ignore[attr-defined]
