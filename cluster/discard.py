"""Removing what a stage left: of other settings, damaged, or all of it; its units are then done again."""

from cluster.artifact import EARLIER_MANIFEST, MANIFEST, Artifact
from cluster.stage import Stage
from cluster.store import storage


def discard_stale(stage: Stage, root: str) -> None:
    """Remove finished artifacts of other fingerprints that stand where this stage's will be."""
    for output in stage.outputs:
        found = Artifact.find(storage.join(root, output.name))
        if found is not None and found.manifest.fingerprint != stage.fingerprint:
            found.discard(found.file_uris)


def discard_damaged(stage: Stage, root: str) -> None:
    """Remove the manifests of finished outputs of which files are gone or have another size, and those files.

    The units that made them count as missing from then on, so that they are done again.
    """
    for output in stage.outputs:
        found = Artifact.find(storage.join(root, output.name))
        if found is not None and found.manifest.fingerprint == stage.fingerprint and (damage := found.damage()):
            found.discard(damage)


def discard(stage: Stage, root: str) -> None:
    """Remove the manifests and records of a stage, so that all of its units are done again.

    Files stay until `publish` sweeps what the new manifests do not name.
    """
    root = storage.absolute(root)
    names = (MANIFEST, EARLIER_MANIFEST)
    storage.delete(storage.join(root, output.name, name) for output in stage.outputs for name in names)
    storage.delete(file.uri for file in storage.list_files(storage.join(root, stage.folder)))
