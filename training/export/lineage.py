"""Where a run's data came from: read from the manifests that lie with a corpus, for the model card."""

import json
from dataclasses import dataclass, field
from typing import Any

from cluster.artifact import Artifact
from cluster.errors import DataError, StorageError
from cluster.run import RUN_MANIFEST
from cluster.store import paths
from cluster.store.store import Store
from training.config_parts import Corpus

_HUB = "hf://"


@dataclass(frozen=True)
class Lineage:
    """One corpus. Everything but `path` is empty where the corpus is no artifact of a curate run.

    digest: of the artifact's content. run, version: the run that made it, and by which Raymill. licences: by name of
    the source, null where it was not stated. datasets: names of hub data sets among the sources.
    """

    path: str
    digest: str = ""
    run: str = ""
    version: str = ""
    licences: dict[str, str | None] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()


def lineage(store: Store, corpus: Corpus) -> Lineage:
    """What can be known of a corpus from what lies beside it; never an error, since a card can do without."""
    try:
        artifact = Artifact.find(store, corpus.path)
    except (DataError, StorageError):
        artifact = None
    if artifact is None:
        return Lineage(corpus.path)
    manifest = artifact.manifest
    run = _run_above(store, corpus.path)
    inputs = run.get("config", {}).get("inputs", [])
    return Lineage(
        path=corpus.path,
        digest=manifest.digest,
        run=str(run.get("name", "")),
        version=manifest.version,
        licences={str(one.get("source", "input")): one.get("licence") for one in inputs},
        datasets=tuple(
            "/".join(path.removeprefix(_HUB).split("/")[:2])
            for one in inputs
            if (path := str(one.get("path", ""))).startswith(_HUB)
        ),
    )


def _run_above(store: Store, path: str) -> dict[str, Any]:
    """The manifest of the run whose folder this artifact lies in, if it has one."""
    above = paths.absolute(path).rpartition("/")[0]
    try:
        found = json.loads(store.read_bytes(paths.join(above, RUN_MANIFEST)))
    except (StorageError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "curate" else {}
