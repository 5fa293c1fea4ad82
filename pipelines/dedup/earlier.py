"""Earlier runs (`dedup.against`): new documents are compared with those that they kept, by sketches, without text."""

import math
from dataclasses import dataclass
from typing import Any

from cluster.artifact import Artifact
from cluster.errors import ConfigError, DataError, UserError
from cluster.run import RunFolder
from cluster.store import paths
from cluster.store.store import Store
from pipelines.dedup.settings import Dedup
from pipelines.dedup.signatures import SIGNATURES_VERSION
from pipelines.text.normalize import NORMALIZE_VERSION

SKETCHES = "sketches"  # the entry of a run's manifest with sketch_settings
_ATTRIBUTES, _LEDGER = "attributes", "removed"


def sketch_settings(dedup: Dedup) -> dict[str, Any]:
    """The settings and versions that must be equal in two runs, so that their sketches can be compared."""
    return {
        "ngram_words": dedup.ngram_words,
        "columns": math.prod(dedup.banding),
        "seed": dedup.seed,
        "symbols": dedup.symbols,
        "versions": [SIGNATURES_VERSION, NORMALIZE_VERSION],
    }


@dataclass(frozen=True)
class EarlierRun:
    """A finished run. digest: of its content. sources: of its inputs."""

    uri: str
    digest: str
    sources: tuple[str, ...]
    attributes: Artifact
    ledger: Artifact


def open_runs(dedup: Dedup | None, store: Store) -> list[EarlierRun]:
    """The runs of `dedup.against`. Reads three manifests of each.

    Raises:
        ConfigError: names each run that is not finished there, or whose sketches were made with other settings.
    """
    runs, errors = [], []
    for number, uri in enumerate(dedup.against if dedup else ()):
        try:
            runs.append(_open(dedup, store, uri))  # type: ignore[arg-type]
        except UserError as error:
            errors.append(f"dedup.against[{number}]: {error}")
    if errors:
        raise ConfigError("\n".join(errors))
    return runs


def _open(dedup: Dedup, store: Store, uri: str) -> EarlierRun:
    manifest = RunFolder(store, uri).require("curate")
    wanted, there = sketch_settings(dedup), manifest.get(SKETCHES)
    if there is None:
        raise DataError(
            f"{uri}: this run has no sketches to compare with: it was made without dedup, or by an earlier version. "
            "Run it again with dedup."
        )
    pairs = ((name, there.get(name, False), here) for name, here in wanted.items())
    differing = [f"{name} is {old} there and {here} here" for name, old, here in pairs if old != here]
    if differing:
        raise DataError(
            f"{uri}: its sketches were made with other settings: {'; '.join(differing)} (columns: bands x "
            "rows_per_band). Use the same here, or run it again."
        )
    sources = tuple(entry["source"] for entry in manifest["config"]["inputs"])
    artifacts = (Artifact.load(store, paths.join(uri, name)) for name in (_ATTRIBUTES, _LEDGER))
    return EarlierRun(uri, manifest["digest"], sources, *artifacts)
