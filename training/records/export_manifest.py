"""The run's `export/` on the store: upload of its folders, and its manifest, which is written last."""

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import cluster
from cluster.artifact import changed_files, fingerprint
from cluster.errors import DataError
from cluster.record import RecordFile, json_bytes, json_with, with_paths
from cluster.store import paths
from cluster.store.paths import FileName, RelativePath
from cluster.store.store import Store
from training.records.evaluation import evaluation_fingerprint, read_evaluation
from training.records.job import Job
from training.records.schema import Outcome

EXPORT, MANIFEST = "export", "manifest.json"
EVALUATED = "evaluated"  # key of the manifest: fingerprint of the evaluation whose scores are in the model cards


class ExportedFile(TypedDict):
    """An uploaded file. path: relative to the export."""

    path: RelativePath
    bytes: int
    sha256: str


def export_fingerprint(job: Job, outcome: Outcome) -> str:
    """Fingerprint of all that decides an export: version, training, checkpoint, export settings."""
    inputs = {
        "version": cluster.__version__,
        "fit": outcome["fingerprint"],
        "checkpoint": outcome["best_checkpoint"] or outcome["checkpoint"],
        "export": job.config.export.model_dump(),
    }
    return fingerprint(inputs)


def finished_export(job: Job, outcome: Outcome) -> dict[str, Any] | None:
    """The manifest of a finished export of these weights; None if there is none, or if sizes of its files differ."""
    root = paths.join(job.root, EXPORT)
    found = _manifest(job.store, root)
    if found is None or found["made_from"] != export_fingerprint(job, outcome) or damage(job.store, root, found):
        return None
    return found


def finished_export_and_evaluation(job: Job, outcome: Outcome) -> dict[str, Any] | None:
    """The manifest of a finished export of these weights whose cards have a finished evaluation's scores; else None."""
    made_from = evaluation_fingerprint(job, outcome)
    found = finished_export(job, outcome) if read_evaluation(job, made_from) else None
    return found if found and found.get(EVALUATED) == made_from else None


def damage(store: Store, root: str, manifest: dict[str, Any], *, compare_sha256: bool = False) -> dict[str, str]:
    """The files of an export that are missing or differ from its manifest: URI -> what is wrong.

    Sizes are compared, at the cost of one listing; with `compare_sha256` every file is read too.
    """
    written = {file["path"]: (file["bytes"], file["sha256"]) for file in manifest["files"]}
    found = changed_files(store, root, written, compare_sha256)
    if (_manifest(store, root) or {}).get("made_from") != manifest["made_from"]:
        found[paths.join(root, MANIFEST)] = "is gone or damaged"
    return found


def manifest_file(store: Store, root: str) -> RecordFile[dict[str, Any]]:
    """The manifest of the export at `root`. An export without it is unfinished."""
    return RecordFile(store, paths.join(root, MANIFEST), "the manifest of an export", _parse)


def _parse(data: bytes) -> dict[str, Any]:
    found = json_with("made_from", "files", "folders")(data)
    found["files"] = with_paths(found["files"])
    found["folders"] = {FileName(name): FileName(folder) for name, folder in found["folders"].items()}
    return found


def _manifest(store: Store, root: str) -> dict[str, Any] | None:
    """The manifest; None if there is none or it is damaged: the export is then made again."""
    with suppress(DataError):
        return manifest_file(store, root).read()
    return None


def put_folder(store: Store, folder: Path, root: str) -> list[ExportedFile]:
    """Upload a local folder to the export under its name, then delete it on this machine. Returns its files."""
    put: list[ExportedFile] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = RelativePath(f"{folder.name}/{path.relative_to(folder).as_posix()}")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        put.append({"path": name, "bytes": path.stat().st_size, "sha256": sha256})
        store.upload(path, paths.join(root, name))
    shutil.rmtree(folder)
    return put


def put_file(store: Store, root: str, path: str, data: bytes) -> ExportedFile:
    """Write one small file of the export. path: relative to the export."""
    store.write_bytes(paths.join(root, path), data)
    return {"path": RelativePath(path), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def finish(store: Store, root: str, manifest: dict[str, Any], files: list[ExportedFile]) -> dict[str, Any]:
    """Delete files of an earlier export that are not in `files`, then write the manifest. Returns the manifest."""
    wanted = {paths.join(root, file["path"]) for file in files}
    store.delete([file.uri for file in store.list_files(root) if file.uri not in wanted])
    whole = manifest | {"files": files, "bytes": sum(file["bytes"] for file in files)}
    store.write_bytes(paths.join(root, MANIFEST), json_bytes(whole))
    return whole


def digests(store: Store, root: str, manifest: dict[str, Any]) -> dict[str, str]:
    """A digest of each exported folder's weights, tokenizer and settings, by the folder's name.

    The card, which has paths of the data, and the location of the base of an adapter or a probe are left out, so that
    the same training has the same digests wherever it runs.
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
    """The value of a file in the digest: its sha256, or its settings without the location of the base."""
    if file["path"] == "adapter/adapter_config.json":
        settings = json.loads(store.read_bytes(paths.join(root, file["path"])))
        del settings["base_model_name_or_path"]
        if isinstance(modules := settings.get("target_modules"), list):
            settings["target_modules"] = sorted(modules)  # peft writes a set, whose order differs between processes
        return settings
    if file["path"] == "probe/probe.json":
        settings = json.loads(store.read_bytes(paths.join(root, file["path"])))
        del settings["base"]["name"]
        return settings
    return file["sha256"]
