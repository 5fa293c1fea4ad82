"""Where `raymill dataset` keeps the records of versions, and which versions name a digest.

A version is a file REGISTRY/NAME/VERSION.json with the digest of a run of `raymill prepare`. `pipelines` writes these
files; `training` reads them to name the data set that a model was trained on. The output has a copy of each record,
OUTPUT/tags/NAME/VERSION.json, so that `--replace` refuses to remove a tagged run, whatever registry the tag is in.
"""

import json
import os

from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

REGISTRY = "RAYMILL_DATASETS"

# Bytes of a record. A larger file is data that somebody keeps in the same folder, and would not keep an output from
# being replaced, so no such record is written.
LARGEST_VERSION = 1 << 20

_TAGS = "tags"


def registry_folder() -> str:
    """The folder or URI of the versions that is used where none is given: $RAYMILL_DATASETS, else ./datasets."""
    return os.environ.get(REGISTRY) or "datasets"


def versions_of(store: Store, registry: str, digest: str) -> list[str]:
    """NAME:VERSION of every version with this digest, the oldest first. Empty if the registry cannot be read."""
    try:
        return [name for _, name, _ in _records(store, paths.absolute(registry), digest)]
    except (DataError, StorageError):
        return []


def tag_in_output(output: str, name: str, version: str) -> str:
    """URI of the copy of a version's record in the output that it names."""
    return paths.join(output, _TAGS, name, f"{version}.json")


def refuse_to_replace_tagged(folder: RunFolder) -> None:
    """Verify that no version names the finished run of the folder. Call it before `--replace` removes anything.

    Raises:
        ConfigError: a version names it.
    """
    manifest = folder.manifest_file.read()
    found = _records(folder.store, paths.join(folder.uri, _TAGS), manifest["digest"]) if manifest else []
    if found:
        names, files = ", ".join(name for _, name, _ in found), " and ".join(uri for _, _, uri in found)
        raise ConfigError(
            f"{folder.uri}: tagged as {names}, and --replace would remove the only copy. Choose another output for the "
            f"new data set: `-o output=FOLDER`; `-o split.keep=[{folder.uri}]` leaves the records in their splits. If "
            f"nobody needs the version any more, delete {files} and run again."
        )


def _records(store: Store, folder: str, digest: str) -> list[tuple[str, str, str]]:
    """(time of the tag, NAME:VERSION, URI of the record) of each version in a folder with this digest, oldest first."""
    found = []
    for file in store.list_files(folder, skip_bad_names=True):
        name, _, record = file.uri.removeprefix(folder).strip("/").partition("/")
        if "/" in record or not record.endswith(".json") or file.size > LARGEST_VERSION:
            continue
        try:
            version = json.loads(store.read_bytes(file.uri))
        except (ValueError, RecursionError):
            continue
        if isinstance(version, dict) and version.get("digest") == digest:
            found.append((str(version.get("tagged", "")), f"{name}:{record.removesuffix('.json')}", file.uri))
    return sorted(found)
