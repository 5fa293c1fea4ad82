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
from training.records.evaluation import add_merged_check
from training.records.job import Job
from training.records.schema import Outcome


def evaluate_and_export(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Evaluate a run's weights, then export them. Returns the export's manifest. Finished parts are not made again."""
    packed = PackedRun.load(job.store, job.packed)
    evaluate(job, outcome, packed)
    return export(job, outcome, packed)


def export(job: Job, outcome: Outcome, packed: PackedRun) -> dict[str, Any]:
    """Write the folders and their manifest, unless there is a finished export of the same weights.

    Returns the manifest. The model cards contain the evaluation if there is one.

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
            (folder / "README.md").write_text(card(writer.facts(), folder.name), "utf-8", "backslashreplace")
            files += export_manifest.put_folder(job.store, folder, root)
            folders.append(folder.name)
        if writer.check is not None:
            add_merged_check(job, outcome, writer.check)
        manifest = {
            "kind": "export",
            "made_from": export_manifest.export_fingerprint(job, outcome),
            "version": cluster.__version__,
            "method": job.config.method,
            "dtype": job.config.export.dtype,
            "step": outcome["best_step"] or outcome["steps"],
            "base": {"name": writer.base_name(folders), "revision": writer.base.revision},
            "folders": {name: name for name in folders},
            "merged_check": writer.check,
        }
        return export_manifest.finish(job.store, root, manifest, files)
