"""The export: a run's best weights as folders that transformers and peft load, at `OUTPUT/export/`.

    full/     the whole model                                                            method full
    adapter/  the adapter, which peft loads on top of the base                           lora, qlora, prefix, prompt
    merged/   base and adapter as one model; its logits are compared with the adapter's  lora, qlora (export.merged)
    probe/    a classification head                                                      probe
    base/     the random base of adapter/ or probe/                                      if the model is `model.config`

Each folder has its tokenizer and a README.md; manifest.json lists every file and is written last. One process runs it,
on the CPU and in float32; one folder at a time is on this machine's disk.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import cluster
from cluster.store import paths
from cluster.temporary import temporary_folder
from training.evaluation.job import evaluate, held_out_split, initial_objective, load_trained
from training.evaluation.record import MergedCheck, add_merged_check, read_evaluation
from training.export import publish
from training.export.card import CorpusFacts, Facts, card, lineage
from training.export.folders import base_of, save_adapter, save_model, save_probe
from training.export.merge import first_tokens, merge
from training.fit.job import Job
from training.fit.records import Outcome
from training.fit.step_log import read
from training.models.base import load_base
from training.pack.load_tokenizer import load_tokenizer
from training.pack.packed_run import PackedRun


def evaluate_and_export(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Evaluate a run's weights, then export them; returns the export's manifest. Finished parts are not made again."""
    packed = PackedRun.load(job.store, job.packed)
    evaluate(job, outcome, packed)
    return export(job, outcome, packed)


def export(job: Job, outcome: Outcome, packed: PackedRun) -> dict[str, Any]:
    """Write the folders and their manifest; a finished export of the same weights is left as it is.

    Returns the manifest. The model cards contain the evaluation if there is one.

    Raises:
        RaymillError: the merged model's logits differ from the adapter's. adapter/ is written, the manifest is not.
    """
    if (found := publish.finished_export(job, outcome)) is not None:
        return found
    root = paths.join(job.root, publish.EXPORT)
    publish.manifest_file(job.store, root).discard()
    scratch = temporary_folder("export")
    try:
        files: list[publish.ExportedFile] = []
        folders: list[str] = []
        writer = _FolderWriter(job, outcome, packed, root)
        for folder in writer.folders(scratch):
            (folder / "README.md").write_text(card(writer.facts(), folder.name), "utf-8", "backslashreplace")
            files += publish.put_folder(job.store, folder, root)
            folders.append(folder.name)
        if writer.check is not None:
            add_merged_check(job, outcome, writer.check)
        manifest = {
            "kind": "export",
            "made_from": publish.export_fingerprint(job, outcome),
            "version": cluster.__version__,
            "method": job.config.method,
            "dtype": job.config.export.dtype,
            "step": outcome["best_step"] or outcome["steps"],
            "base": {"name": writer.base_name(folders), "revision": writer.base.revision},
            "folders": {name: name for name in folders},
            "merged_check": writer.check,
        }
        return publish.finish(job.store, root, manifest, files)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _FolderWriter:
    """Writes the folders of one export in their order. Merging changes the adapter model, so adapter/ comes first."""

    def __init__(self, job: Job, outcome: Outcome, packed: PackedRun, root: str) -> None:
        self.job, self.outcome, self.packed = job, outcome, packed
        self.config = job.config
        self.tokenizer = load_tokenizer(job.store, packed.tokenizer_uri)
        self.own_tokenizer = self.config.model.name is not None and self.config.model.tokenizer is None
        self.base = base_of(self.config.model, job.fingerprint_parts["model"], root)
        self.check: MergedCheck | None = None

    def folders(self, scratch: Path) -> Iterator[Path]:
        """Write the folders below `scratch` one at a time; `put_folder` deletes each before the next is written."""
        dtype = getattr(torch, self.config.export.dtype)
        # A CPU cannot compute on 4-bit weights; an adapter of qlora has the names and shapes of one of lora.
        method = "lora" if self.config.method == "qlora" else self.config.method
        objective = initial_objective(self.job, "cpu", method=method, precision="float32")
        load_trained(objective, self.job, self.outcome)
        if self.config.method == "full":
            yield self._model(objective.model, scratch / "full", dtype)
            return
        if self.config.method == "probe":
            save_probe(objective, self.tokenizer, scratch / "probe", self.base, self.job.classes)
            yield scratch / "probe"
            if self.config.model.config is not None:
                yield self._body(objective.model, scratch / "base")
            return
        save_adapter(objective.model, self.tokenizer, scratch / "adapter", self.base, self.own_tokenizer)
        yield scratch / "adapter"
        if self.config.mergeable and self.config.export.merged:
            _, artifacts = held_out_split(self.packed)
            prompts = first_tokens(list(artifacts.values()) or self.packed.split("train"))
            merged, self.check = merge(objective.model, prompts)
            yield self._model(merged, scratch / "merged", dtype)
            del merged
        del objective
        if self.config.model.config is not None:
            base = load_base(self.job.store, self.config.model, self.config.seed, torch.float32, "eager")
            yield self._model(base, scratch / "base", torch.float32)

    def base_name(self, folders: list[str]) -> str | None:
        """The base's name; None for method full on a random base, which is not exported."""
        return self.base.name if self.config.model.name is not None or "base" in folders else None

    def _model(self, model: Any, folder: Path, dtype: Any) -> Path:
        save_model(model, self.tokenizer, folder, dtype, self.own_tokenizer)
        return folder

    def _body(self, model: Any, folder: Path) -> Path:
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def facts(self) -> Facts:
        """The contents of a card, with the check of the merged model once it was made."""
        return replace(self._facts, merged_check=self.check)

    @cached_property
    def _facts(self) -> Facts:
        corpora = {
            name: CorpusFacts(lineage(store, corpus), dict(self.packed.packed(name)))
            for name, store, corpus in zip(
                self.config.corpus_names, self.config.corpus_stores, self.config.corpus, strict=True
            )
        }
        return Facts(
            config=self.config,
            outcome=self.outcome,
            corpora=corpora,
            base=self.base,
            chat=self.packed.has_chat_turns({one.form for one in self.config.all_columns}),
            steps=read(self.job.store, self.job.step_log),
            evaluation=read_evaluation(self.job),
            classes=self.job.classes,
        )
