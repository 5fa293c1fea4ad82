"""What a training leaves when it is finished: fit.json, evaluation.json and export/; and the errors of its workers."""

import hashlib
import json
import shutil
import time
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from raymill import cluster
from raymill.cluster.artifact import changed_files, fingerprint
from raymill.cluster.errors import DataError, ErrorRecord, RaymillError, as_record, from_record
from raymill.cluster.record import RecordFile, check_types, json_bytes, json_with, read_json, with_paths
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.paths import FileName, RecordedUri, RelativePath
from raymill.cluster.store.store import Store
from raymill.training.methods import FOLDERS
from raymill.training.records.checkpoint import MANIFEST, Checkpoint, checkpoint_folders, latest
from raymill.training.records.job import CHECKPOINTS, OUTCOME, Job, TrainingFolder
from raymill.training.records.schema import Evaluation, Measured, Outcome


def read_outcome(run: TrainingFolder) -> Outcome | None:
    """The outcome of a finished fit with the same fingerprint; None if there is none."""
    found = outcome_file(run.store, run.uri).read()
    return found if found is not None and found["fingerprint"] == run.fingerprint else None


def outcome_file(store: Store, root: str) -> RecordFile[Outcome]:
    """fit.json of the run at `root`."""
    return RecordFile(store, paths.join(root, OUTCOME), "the outcome of a fit", _parse_outcome)


def _parse_outcome(data: bytes) -> Outcome:
    found: Outcome = json_with(kind=Outcome)(data)
    for uri in (found["checkpoint"], found["best_checkpoint"] or found["checkpoint"]):
        checkpoint_of("", RecordedUri(uri))  # raises ValueError if it has no name of a folder
    return found


def exported_checkpoint(root: str, outcome: Outcome) -> str:
    """URI of the checkpoint that the run at `root` exports.

    Only the name of the folder is taken from fit.json: the run may have been moved since, and the URI there may be
    outside of it.
    """
    return checkpoint_of(root, outcome["best_checkpoint"] or outcome["checkpoint"])


def checkpoint_of(root: str, uri: str) -> str:
    """URI of the checkpoint below the run at `root` that has the folder name of `uri`."""
    return paths.join(root, CHECKPOINTS, FileName(uri.rpartition("/")[2]))


def write_outcome(run: TrainingFolder, outcome: Outcome) -> None:
    run.store.write_bytes(run.outcome, json_bytes(outcome))


def refuse_or_delete_other_training(run: TrainingFolder, replace: bool) -> None:
    """Verify that checkpoints and outcome in the run's folder are those of this training.

    Args:
        replace: delete those of another training, and a finished training whose weights are damaged.

    Raises:
        DataError: without `replace`: they have other settings, data or model.
    """
    try:
        latest(run)
        if replace and (outcome := read_outcome(run)) is not None:
            Checkpoint.load(run.store, exported_checkpoint(run.uri, outcome)).check_weights()
        if run.store.exists(run.outcome) and read_outcome(run) is None:
            raise DataError(
                f"{run.outcome}: written by a training with other settings, data or model. Choose another output, or "
                "add --replace to start again."
            )
    except DataError:
        if not replace:
            raise
        checkpoints = checkpoint_folders(run)
        manifests = (paths.join(uri, MANIFEST) for uri in checkpoints)
        run.store.delete([run.outcome, run.micro_batch, *manifests, run.step_log])
        folders = (run.checkpoints, run.attempts, run.hangs, run.held_out, run.exports, run.rollouts, run.tensorboard)
        for folder in folders:
            run.store.delete(file.uri for file in run.store.list_files(folder))
        for uri in checkpoints:
            run.store.delete_empty_folder(uri)


class WorkerErrors:
    """Errors of the workers of one submission, as files on the store, because Ray Train loses an exception's class.

    A file is RUN/errors/SUBMISSION/NANOSECONDS.json, with an `ErrorRecord`.
    """

    def __init__(self, run: RunFolder, submission: str) -> None:
        self.store = run.store
        self.folder = paths.join(run.uri, "errors", submission)

    def write(self, error: RaymillError) -> None:
        data = json.dumps(as_record(error)).encode()
        self.store.write_bytes(paths.join(self.folder, f"{time.time_ns()}.json"), data)

    def last(self, *, final: bool) -> RaymillError | None:
        """The last error written. final: of the final errors, which another start would raise again."""
        for file in reversed(self.store.list_files(self.folder)):
            record: ErrorRecord | None = read_json(self.store, file.uri, "an error", kind=ErrorRecord)
            if record is None:
                continue
            if record["final"] or not final:
                return from_record(record)
        return None

    def delete(self) -> None:
        self.store.delete(file.uri for file in self.store.list_files(self.folder))


EVALUATION = "evaluation.json"
_FINGERPRINT = "made_from"


class MergedCheck(TypedDict):
    """Comparison of an adapter's merged matrices with the adapter, on random inputs of each adapted module.

    matrices: number of merged matrices. inputs: number of inputs of each. The other numbers are of the matrix that is
    nearest to its tolerance: max_abs_difference: the largest difference of an output. tolerance: the largest one that
    is allowed. adapter_effect: the largest difference between adapter and base. largest_output: the largest absolute
    output with the adapter.
    """

    matrices: int
    inputs: int
    max_abs_difference: float
    tolerance: float
    adapter_effect: float
    largest_output: float


def evaluation_fingerprint(job: Job, outcome: Outcome) -> str:
    """Fingerprint of all that decides an evaluation: version, training, checkpoint, generation settings, sets."""
    generate = job.config.generate
    inputs = _of_weights(outcome) | {
        "generate": generate.model_dump(mode="json") if generate else None,
        "test_tokens": job.config.evaluate.test_tokens,
    }
    return fingerprint(inputs | ({"sets": job.sets} if job.sets else {}))


def _of_weights(outcome: Outcome) -> dict[str, Any]:
    checkpoint = outcome["best_checkpoint"] or outcome["checkpoint"]
    return {"version": cluster.__version__, "fit": outcome["fingerprint"], "checkpoint": checkpoint}


def parse_evaluation(data: bytes) -> Any:
    """From the content of its file.

    Raises:
        ValueError: a measurement lacks one of its numbers, or something else has another type.
    """
    found = json_with("before", "after")(data)
    for side in ("before", "after"):
        check_types(dict[str, Measured], found[side])
    numbers: list[Any] = []
    for scores in (found.get("generation", {}), *found.get("set_generation", {}).values()):
        numbers += scores.values()
    texts = list(found.get("notes", []))
    for answer in found.get("answers", []):
        texts += [value for name, value in answer.items() if name != "confidence"]
        numbers.append(answer.get("confidence", 0))
    if not all(isinstance(one, int | float) for one in numbers) or not all(isinstance(one, str) for one in texts):
        raise ValueError("scores are numbers, answers and notes are text")
    return found


def read_evaluation(run: RunFolder, wanted: str | None = None) -> Evaluation | None:
    """The evaluation of a run; None if there is none or its fingerprint is not `wanted` (None: any)."""
    found = RecordFile(run.store, paths.join(run.uri, EVALUATION), "the evaluation of a run", parse_evaluation).read()
    if found is None or (found.pop(_FINGERPRINT, None) != wanted and wanted is not None):
        return None
    return found


def write_evaluation(run: RunFolder, evaluation: Evaluation, made_from: str) -> None:
    """Write evaluation.json to the run. made_from: the evaluation's fingerprint."""
    run.store.write_bytes(paths.join(run.uri, EVALUATION), json_bytes({_FINGERPRINT: made_from} | evaluation))


EXPORT = "export"
EVALUATED = "evaluated"  # key of the manifest: fingerprint of the evaluation whose scores are in the model cards


class ExportedFile(TypedDict):
    """An uploaded file. path: relative to the export."""

    path: RelativePath
    bytes: int
    sha256: str


def export_fingerprint(job: Job, outcome: Outcome) -> str:
    """Fingerprint of all that decides an export: version, training, checkpoint, export settings."""
    return fingerprint(_of_weights(outcome) | {"export": job.config.export.model_dump()})


def finished_export(job: Job, outcome: Outcome) -> dict[str, Any] | None:
    """The manifest of a finished export of these weights; None if there is none, or if sizes of its files differ."""
    store, root = job.folder.store, paths.join(job.folder.uri, EXPORT)
    found = _read_export(store, root)
    if found is None or found["made_from"] != export_fingerprint(job, outcome) or export_damage(store, root, found):
        return None
    return found


def finished_export_and_evaluation(job: Job, outcome: Outcome) -> dict[str, Any] | None:
    """The manifest of a finished export of these weights whose cards have a finished evaluation's scores; else None."""
    made_from = evaluation_fingerprint(job, outcome)
    found = finished_export(job, outcome) if read_evaluation(job.folder, made_from) else None
    return found if found and found.get(EVALUATED) == made_from else None


def export_damage(store: Store, root: str, manifest: dict[str, Any], *, compare_sha256: bool = False) -> dict[str, str]:
    """The files of an export that are missing or differ from its manifest: URI -> what is wrong.

    Sizes are compared, at the cost of one listing; with `compare_sha256` every file is read too.
    """
    written = {file["path"]: (file["bytes"], file["sha256"]) for file in manifest["files"]}
    found = changed_files(store, root, written, compare_sha256)
    if (_read_export(store, root) or {}).get("made_from") != manifest["made_from"]:
        found[paths.join(root, MANIFEST)] = "is gone or damaged"
    return found


def export_file(store: Store, root: str) -> RecordFile[dict[str, Any]]:
    """The manifest of the export at `root`. An export without it is unfinished."""
    return RecordFile(store, paths.join(root, MANIFEST), "the manifest of an export", _parse_export)


class _ExportedFile(TypedDict):
    path: str
    bytes: int
    sha256: str


class _Exported(TypedDict):
    """What is read of the manifest of an export."""

    files: list[_ExportedFile]
    folders: dict[str, str]


def _parse_export(data: bytes) -> dict[str, Any]:
    found = json_with("made_from", kind=_Exported)(data)
    if others := found["folders"].keys() - FOLDERS.keys():
        raise ValueError(f"it has folders that no training exports: {', '.join(others):.100}")
    if not found["folders"].keys() - {"base"}:
        raise ValueError("it has no folder of a trained model")
    found["files"] = with_paths(found["files"])
    found["folders"] = {FileName(name): FileName(folder) for name, folder in found["folders"].items()}
    return found


def _read_export(store: Store, root: str) -> dict[str, Any] | None:
    """The manifest; None if there is none or it is damaged: the export is then made again."""
    with suppress(DataError):
        return export_file(store, root).read()
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


def finish_export(store: Store, root: str, manifest: dict[str, Any], files: list[ExportedFile]) -> dict[str, Any]:
    """Delete files of an earlier export that are not in `files`, then write the manifest. Returns the manifest."""
    wanted = {paths.join(root, file["path"]) for file in files}
    store.delete([file.uri for file in store.list_files(root) if file.uri not in wanted])
    whole = manifest | {"files": files, "bytes": sum(file["bytes"] for file in files)}
    store.write_bytes(paths.join(root, MANIFEST), json_bytes(whole))
    return whole


def export_digests(store: Store, root: str, manifest: dict[str, Any]) -> dict[str, str]:
    """A digest of each exported folder's weights, tokenizer and settings, by the folder's name.

    The card, which has paths of the data, and the location of the base of an adapter or a classification head are left
    out, so that
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
    folder, _, name = file["path"].partition("/")
    base_at = FOLDERS[folder].base_at
    if base_at is None or base_at[0] != name:
        return file["sha256"]
    settings = json.loads(store.read_bytes(paths.join(root, file["path"])))
    *groups, key = base_at[1]
    del reduce(getitem, groups, settings)[key]
    if isinstance(modules := settings.get("target_modules"), list):
        settings["target_modules"] = sorted(modules)  # peft writes a set, whose order differs between processes
    return settings
