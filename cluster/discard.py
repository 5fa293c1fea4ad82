"""Removing what a stage left: of other settings, damaged, or all of it; its units are then done again."""

from cluster import storage
from cluster.artifact import MANIFEST, Artifact
from cluster.stage import Stage


def discard_stale(stage: Stage, root: str) -> None:
    """Remove finished artifacts of other fingerprints that stand where this stage's will be."""
    for output in stage.outputs:
        uri = storage.join(root, output.name)
        if storage.exists(storage.join(uri, MANIFEST)):
            found = Artifact.load(uri)
            if found.manifest.fingerprint != stage.fingerprint:
                found.discard(found.file_uris)


def discard_damaged(stage: Stage, root: str) -> None:
    """Remove the manifests of finished outputs of which files are gone or have another size, and those files.

    The units that made them count as missing from then on, so that they are done again.
    """
    for output in stage.outputs:
        uri = storage.join(root, output.name)
        if storage.exists(storage.join(uri, MANIFEST)):
            found = Artifact.load(uri)
            if found.manifest.fingerprint == stage.fingerprint and (damage := found.damage()):
                found.discard(damage)


def discard(stage: Stage, root: str) -> None:
    """Remove the manifests and records of a stage, so that all of its units are done again.

    Files stay until `publish` sweeps what the new manifests do not name.
    """
    root = storage.absolute(root)
    storage.delete(storage.join(root, output.name, MANIFEST) for output in stage.outputs)
    storage.delete(file.uri for file in storage.list_files(storage.join(root, stage.folder)))
