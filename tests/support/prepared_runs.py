"""Rows of finished runs of `raymill prepare`, by the id of the record."""

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store


def records(run) -> dict[str, dict]:
    """The records of all splits."""
    return {row["id"]: row for split in SPLITS for row in run.split(split).table().to_pylist()}


def ledger(run) -> dict[str, dict]:
    """The records that were removed."""
    return {row["id"]: row for row in Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()}
