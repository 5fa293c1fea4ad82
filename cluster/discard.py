"""Removal of a stage's results, so that its units are done again."""

from cluster.artifact import EARLIER_MANIFEST, MANIFEST, Artifact
from cluster.stage import Stage
from cluster.store import paths


def discard_stale(stage: Stage, root: str) -> None:
    """Remove finished artifacts with another fingerprint from the places of this stage's outputs."""
    for output in stage.outputs:
        found = Artifact.find(stage.store, paths.join(root, output.name))
        if found is not None and found.manifest.fingerprint != stage.fingerprint:
            found.discard(found.file_uris)


def discard_damaged(stage: Stage, root: str) -> None:
    """Remove the manifest and the damaged files of each finished output with files that are missing or of another size.

    The units that wrote these files are then done again.
    """
    for output in stage.outputs:
        found = Artifact.find(stage.store, paths.join(root, output.name))
        if found is not None and found.manifest.fingerprint == stage.fingerprint and (damage := found.damage()):
            found.discard(damage)


def discard(stage: Stage, root: str) -> None:
    """Remove the manifests and records of a stage, so that all of its units are done again.

    Their files stay until `publish` removes those that the new manifests do not name.
    """
    root = paths.absolute(root)
    names = (MANIFEST, EARLIER_MANIFEST)
    stage.store.delete(paths.join(root, output.name, name) for output in stage.outputs for name in names)
    stage.store.delete(file.uri for file in stage.store.list_files(paths.join(root, stage.folder)))
