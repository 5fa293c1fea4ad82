"""Local folders to the run's `export/`, with a manifest that is written last: without it an export is not finished."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, TypedDict

from cluster.artifact import changed_files, fingerprint
from cluster.store import paths
from cluster.store.interface import NotFound
from cluster.store.store import Store

EXPORT, MANIFEST = "export", "manifest.json"


class ExportedFile(TypedDict):
    """`path` below the export."""

    path: str
    bytes: int
    sha256: str


def finished(store: Store, root: str, made_from: str) -> dict[str, Any] | None:
    """The manifest of a finished export that was made from this; its files have the sizes that were written."""
    found = _manifest(store, root)
    if found is None or found.get("made_from") != made_from or damage(store, root, found):
        return None
    return found


def damage(store: Store, root: str, manifest: dict[str, Any], *, digests: bool = False) -> dict[str, str]:
    """URI -> what is wrong, for each file of an export that is missing or is not what was written.

    Sizes are compared, at the cost of one listing. With `digests` every file is read and its sha256 compared.
    """
    written = {file["path"]: (file["bytes"], file["sha256"]) for file in manifest["files"]}
    found = changed_files(store, root, written, digests)
    if (_manifest(store, root) or {}).get("made_from") != manifest["made_from"]:
        found[paths.join(root, MANIFEST)] = "is gone or damaged"
    return found


def _manifest(store: Store, root: str) -> dict[str, Any] | None:
    try:
        found = json.loads(store.read_bytes(paths.join(root, MANIFEST)))
    except (NotFound, ValueError):
        return None
    return found if isinstance(found, dict) else None


def begin(store: Store, root: str) -> None:
    """An export of something else is no longer believed."""
    store.delete([paths.join(root, MANIFEST)])


def put_folder(store: Store, folder: Path, root: str) -> list[ExportedFile]:
    """Move everything in a local folder to the export, under the folder's name. The folder is gone afterwards."""
    put: list[ExportedFile] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        put.append({"path": name, "bytes": path.stat().st_size, "sha256": sha256})
        store.upload(path, paths.join(root, name))
    shutil.rmtree(folder)
    return put


def finish(store: Store, root: str, manifest: dict[str, Any], files: list[ExportedFile]) -> dict[str, Any]:
    """Remove what an earlier export left and this one has not, and write the manifest."""
    wanted = {paths.join(root, file["path"]) for file in files}
    store.delete([file.uri for file in store.list_files(root) if file.uri not in wanted])
    whole = manifest | {"files": files, "bytes": sum(file["bytes"] for file in files)}
    store.write_bytes(paths.join(root, MANIFEST), json.dumps(whole, indent=1, ensure_ascii=False).encode())
    return whole


def digests(store: Store, root: str, manifest: dict[str, Any]) -> dict[str, str]:
    """Of each exported folder, by its name, a digest of its weights, tokenizer and settings.

    The same training anywhere gives the same ones. So the card is left out, which tells where data came from, and so is
    the place where an adapter or a probe finds its base.
    """
    return {
        name: fingerprint(
            {
                file["path"]: _content(store, root, file)
                for file in manifest["files"]
                if file["path"].startswith(f"{name}/") and file["path"] != f"{name}/README.md"
            }
        )
        for name in manifest["folders"]
    }


def _content(store: Store, root: str, file: ExportedFile) -> Any:
    if file["path"] == "adapter/adapter_config.json":
        settings = json.loads(store.read_bytes(paths.join(root, file["path"])))
        del settings["base_model_name_or_path"]
        if isinstance(modules := settings.get("target_modules"), list):
            settings["target_modules"] = sorted(modules)  # peft writes a set, in the order of this process's hashes
        return settings
    if file["path"] == "probe/probe.json":
        settings = json.loads(store.read_bytes(paths.join(root, file["path"])))
        del settings["base"]["name"]
        return settings
    return file["sha256"]
