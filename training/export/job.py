"""The export: a run's best weights as folders that transformers and peft load, at `OUTPUT/export/` (see folders.py).

Each folder has the tokenizer and a README.md. manifest.json lists every file and is written last. The export runs in
one process, on the CPU in float32; one folder at a time is on this machine's disk.
"""

from typing import Any

import cluster
from cluster.store import paths
from cluster.temporary import scratch_folder
from training.evaluation.job import evaluate
from training.export.card import card
from training.export.folders import FolderWriter
from training.pack.packed_run import PackedRun
from training.records import export_manifest
from training.records.evaluation import evaluation_fingerprint
from training.records.job import Job
from training.records.schema import Outcome


def export_and_evaluate(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Export a run's weights, then evaluate them and add the scores to the model cards.

    Finished parts are not made again. The export comes first, so that a trained model can be used even if its
    evaluation fails, for example because the whole model does not fit one GPU.

    Returns:
        The export's manifest.
    """
    packed = PackedRun.load(job.store, job.packed)
    manifest = export(job, outcome, packed)
    evaluate(job, outcome, packed, manifest["merged_check"])
    return _with_scores(job, outcome, packed, manifest)


def _with_scores(job: Job, outcome: Outcome, packed: PackedRun, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the model cards again, with the scores of the finished evaluation. Returns the export's new manifest."""
    made_from = evaluation_fingerprint(job, outcome)
    if manifest.get(export_manifest.EVALUATED) == made_from:
        return manifest
    root = paths.join(job.root, export_manifest.EXPORT)
    writer = FolderWriter(job, outcome, packed, root)
    writer.check = manifest["merged_check"]
    cards = {f"{name}/README.md": card(writer.facts(), name) for name in manifest["folders"]}
    put = [export_manifest.put_file(job.store, root, path, _encoded(text)) for path, text in cards.items()]
    files = [file for file in manifest["files"] if file["path"] not in cards]
    manifest = manifest | {export_manifest.EVALUATED: made_from}
    return export_manifest.finish(job.store, root, manifest, sorted([*files, *put], key=lambda file: file["path"]))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def export(job: Job, outcome: Outcome, packed: PackedRun) -> dict[str, Any]:
    """Write the folders and their manifest, unless there is a finished export of the same weights.

    Returns the manifest. The model cards have no scores yet.

    Raises:
        RaymillError: the merged model's logits differ from the adapter's. Then adapter/ is written, but no manifest.
    """
    if (found := export_manifest.finished_export(job, outcome)) is not None:
        return found
    root = paths.join(job.root, export_manifest.EXPORT)
    export_manifest.manifest_file(job.store, root).discard()
    with scratch_folder("export") as scratch:
        files: list[export_manifest.ExportedFile] = []
        folders: list[str] = []
        writer = FolderWriter(job, outcome, packed, root)
        for folder in writer.folders(scratch):
            (folder / "README.md").write_bytes(_encoded(card(writer.facts(), folder.name)))
            files += export_manifest.put_folder(job.store, folder, root)
            folders.append(folder.name)
        manifest = {
            "kind": "export",
            "made_from": export_manifest.export_fingerprint(job, outcome),
            "version": cluster.__version__,
            "method": job.config.method,
            "dtype": writer.dtype,
            "step": outcome["best_step"] or outcome["steps"],
            "base": {"name": writer.base_name(folders), "revision": writer.base.revision},
            "folders": {name: name for name in folders},
            "merged_check": writer.check,
        }
        return export_manifest.finish(job.store, root, manifest, files)
