"""Packed files that are damaged or gone: which ones, and removing them so that the stages make them again."""

from collections.abc import Iterable, Mapping

from cluster.artifact import EARLIER_MANIFEST, MANIFEST, Artifact
from cluster.errors import DataError
from cluster.store import paths
from cluster.store.store import Store
from training.data.schema import SPLITS
from training.pack.packed_run import examples_name
from training.pack.prepared import discard_tokenizer, tokenizer_damage


def damaged(store: Store, root: str, corpora: Iterable[str], digests: bool = False) -> dict[str, str]:
    """What was seen, by URI, of each manifest, Parquet file and tokenizer file that is not as it was written.

    Sizes take one listing per folder. With `digests` every file is read and its sha256 compared.
    """
    found = tokenizer_damage(store, root, digests)
    for uri in _artifacts(root, corpora):
        try:
            found |= Artifact.load(store, uri).damage(digests=digests)
        except DataError:
            found[paths.join(uri, MANIFEST)] = "is gone or damaged"
    return found


def discard_damaged(store: Store, root: str, corpora: Iterable[str], damage: Mapping[str, str]) -> None:
    """Remove the damaged files, and before them the manifest of each artifact that has one."""
    for uri in _artifacts(root, corpora):
        files = [file for file in damage if file.startswith(f"{uri}/")]
        if files:
            manifests = [paths.join(uri, name) for name in (MANIFEST, EARLIER_MANIFEST)]
            store.delete([*manifests, *files])
    if tokenizer_damage(store, root, digests=True):
        discard_tokenizer(store, root)


def _artifacts(root: str, corpora: Iterable[str]) -> list[str]:
    return [
        paths.join(root, name)
        for corpus in corpora
        for name in (examples_name(corpus), *(f"{corpus}/{split}" for split in SPLITS))
    ]
