"""A run's best weights as folders that other programs load: `OUTPUT/export/`.

    full/       the whole model                                       method full
    adapter/    what peft loads on top of the base                    lora, qlora, prefix, prompt
    merged/     base and adapter as one model, proven equal           lora, qlora (export.merged)
    probe/      a classification head                                 probe
    base/       the random base that adapter/ or probe/ stands on     only where the base has no name

Each has its tokenizer and a README.md; manifest.json names every file and is written last. One process does it, on the
CPU and in float32; one folder at a time is on this machine's disk.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cluster
from cluster.artifact import fingerprint
from cluster.store import paths
from cluster.temporary import temporary_folder
from training.evaluation.job import add_merged_check, held_out, read_evaluation
from training.evaluation.trained import at_start, take_trained
from training.export import publish
from training.export.card import CorpusFacts, Facts, card
from training.export.folders import base_of, save_adapter, save_model, save_probe
from training.export.lineage import lineage
from training.export.merge import MergedCheck, first_tokens, merge
from training.fit.job import Job
from training.fit.records import Outcome

if TYPE_CHECKING:
    from training.pack.packed_run import PackedRun


def export(job: Job, outcome: Outcome, packed: "PackedRun") -> dict[str, Any]:
    """Write the folders and their manifest; a finished export of the same weights is left alone. The manifest.

    The cards tell what `evaluate` measured if it ran before.

    Raises:
        RaymillError: the merged model is not the adapter's equal; the adapter stands, the manifest does not.
    """
    if (found := finished(job, outcome)) is not None:
        return found
    root = paths.join(job.root, publish.EXPORT)
    made_from = fingerprint(_identity(job, outcome))
    publish.begin(job.store, root)
    scratch = temporary_folder("export")
    try:
        files: list[publish.ExportedFile] = []
        folders: list[str] = []
        making = _Making(job, outcome, packed, root)
        for folder in making.folders(scratch):
            (folder / "README.md").write_text(card(making.facts(), folder.name), "utf-8", "backslashreplace")
            files += publish.put_folder(job.store, folder, root)
            folders.append(folder.name)
        if making.check is not None:
            add_merged_check(job, outcome, dict(making.check))
        told = {
            "kind": "export",
            "made_from": made_from,
            "version": cluster.__version__,
            "method": job.config.method,
            "dtype": job.config.export.dtype,
            "step": outcome["best_step"] or outcome["steps"],
            "base": {"name": making.base_name(folders), "revision": making.base.revision},
            "folders": {name: name for name in folders},
            "merged_check": making.check,
        }
        return publish.finish(job.store, root, told, files)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def finished(job: Job, outcome: Outcome) -> dict[str, Any] | None:
    """The manifest of a finished export of these weights."""
    root = paths.join(job.root, publish.EXPORT)
    return publish.finished(job.store, root, fingerprint(_identity(job, outcome)))


def _identity(job: Job, outcome: Outcome) -> dict[str, Any]:
    return {
        "version": cluster.__version__,
        "fit": outcome["fingerprint"],
        "checkpoint": outcome["best_checkpoint"] or outcome["checkpoint"],
        "export": job.config.export.model_dump(),
    }


class _Making:
    """One export in the making: the model changes as its folders are written, in their order."""

    def __init__(self, job: Job, outcome: Outcome, packed: "PackedRun", root: str) -> None:
        from training.pack.tokenizer import load_tokenizer

        self.job, self.outcome, self.packed = job, outcome, packed
        self.config = job.config
        self.tokenizer = load_tokenizer(job.store, packed.tokenizer_uri)
        self.own_tokenizer = self.config.model.name is not None and self.config.model.tokenizer is None
        self.base = base_of(self.config, job.identity["model"], root)
        self.check: MergedCheck | None = None

    def folders(self, scratch: Path) -> Iterator[Path]:
        """Written one at a time; the taker removes each before it asks for the next."""
        import torch

        from training.models.base import load_base

        dtype = getattr(torch, self.config.export.dtype)
        # 4-bit weights have no place on a CPU, and the adapter of qlora is one of lora in every name and shape.
        method = "lora" if self.config.method == "qlora" else self.config.method
        objective = at_start(self.job, "cpu", method=method, precision="float32")
        take_trained(objective, self.job, self.outcome)
        if self.config.method == "full":
            yield self._model(objective.model, scratch / "full", dtype)
            return
        if self.config.method == "probe":
            save_probe(objective, self.tokenizer, scratch / "probe", self.base, self.job.classes)
            yield scratch / "probe"
            if self.config.model.config is not None:
                yield self._bare(objective.model, scratch / "base")
            return
        save_adapter(objective.model, self.tokenizer, scratch / "adapter", self.base, self.own_tokenizer)
        yield scratch / "adapter"
        if self.config.mergeable and self.config.export.merged:
            _, artifacts = held_out(self.packed)
            prompts = first_tokens(list(artifacts.values()) or self.packed.split("train"))
            merged, self.check = merge(objective.model, prompts)
            yield self._model(merged, scratch / "merged", dtype)
            del merged
        del objective
        if self.config.model.config is not None:
            drawn = load_base(self.job.store, self.config.model, self.config.seed, torch.float32, "eager")
            yield self._model(drawn, scratch / "base", torch.float32)

    def base_name(self, folders: list[str]) -> str | None:
        """None where it was random and is not kept: nothing is loaded on it."""
        return self.base.name if self.config.model.name is not None or "base" in folders else None

    def _model(self, model: Any, folder: Path, dtype: Any) -> Path:
        save_model(model, self.tokenizer, folder, dtype, self.own_tokenizer)
        return folder

    def _bare(self, model: Any, folder: Path) -> Path:
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def facts(self) -> Facts:
        """As far as the export has come."""
        return replace(self._known, merged_check=self.check)

    @cached_property
    def _known(self) -> Facts:
        from training.fit.step_log import read

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
            chat=self.packed.asks_in_turns(self.config),
            steps=read(self.job.store, self.job.step_log),
            evaluation=read_evaluation(self.job),
            classes=self.job.classes,
        )
