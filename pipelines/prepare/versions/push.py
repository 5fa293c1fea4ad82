"""A version to a data set of the Hugging Face hub: the files of `export` with the card, in one commit."""

import tempfile
from pathlib import Path

from cluster.hub_push import HubRepository, Pushed
from cluster.store.store import Store
from pipelines.prepare.versions.export import export
from pipelines.prepare.versions.registry import Version


def push(store: Store, version: Version, place: str, *, public: bool = False) -> Pushed:
    """Make `hf://ORG/NAME` hold a version and nothing else but files outside `data/`.

    Writes the files to a temporary folder first.

    Args:
        public: of a data set that is created; one that is there stays public or private.

    Raises:
        ConfigError: the place is not of that form, or there is no token.
        StorageError: the hub refuses the token or the request, or cannot be reached.
        DataError: the run is gone, or was made again.
    """
    repository = HubRepository(place, "dataset")
    with tempfile.TemporaryDirectory(prefix="raymill-push-") as folder:
        export(store, version, folder, "hf")
        title, description = f"{version.name}:{version.version}", f"Raymill, digest {version.digest}"
        return repository.push(Path(folder), title, description, ["data/*"], public=public)
