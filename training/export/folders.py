"""The folders of an export, written on this machine as `from_pretrained` of transformers and peft reads them.

full/     the whole model                                                            method full
adapter/  the adapter, which peft loads on top of the base                           lora, qlora, prefix, prompt
merged/   base and adapter as one model; its logits are compared with the adapter's  lora, qlora (export.merged)
probe/    a classification head                                                      probe
base/     the random base of adapter/ or probe/                                      if the model is `model.config`
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerFast

from cluster.dataset_versions import registry_folder, versions_of
from cluster.store.store import Store
from training.config_parts import Corpus, Model
from training.evaluation.generate import stop_ids
from training.evaluation.job import held_out_split, initial_objective, load_trained
from training.export.card import CardFacts, CorpusFacts, Lineage, lineage
from training.export.merge import first_tokens, merge
from training.fit.step_log import read
from training.model_folder.loading import Base
from training.models.base import base_dtype, load_base
from training.pack.packed_run import PackedRun
from training.records.evaluation import MergedCheck, read_evaluation
from training.records.job import Job
from training.records.schema import Outcome
from training.tokenizer.load_tokenizer import load_tokenizer, pad_id

SHARD_SIZE = "5GB"


class FolderWriter:
    """Writes the folders of one export in their order. Merging changes the adapter model, so adapter/ comes first."""

    def __init__(self, job: Job, outcome: Outcome, packed: PackedRun, root: str) -> None:
        self.job, self.outcome, self.packed = job, outcome, packed
        self.config = job.config
        self.tokenizer = load_tokenizer(job.store, packed.tokenizer_uri)
        self.own_tokenizer = self.config.model.name is not None and self.config.model.tokenizer is None
        self.base = base_of(self.config.model, job.fingerprint_parts["model"], root)
        self.dtype = self.config.export.dtype or base_dtype(job.store, self.config.model)
        self.check: MergedCheck | None = None

    def folders(self, scratch: Path) -> Iterator[Path]:
        """Write the folders below `scratch` one at a time; `put_folder` deletes each before the next is written."""
        dtype = getattr(torch, self.dtype)
        # A CPU cannot compute with 4-bit weights. The parameters of a qlora adapter are named and shaped as with lora.
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
                yield self._model_without_head(objective.model, scratch / "base")
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

    def _model_without_head(self, model: Any, folder: Path) -> Path:
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def facts(self) -> CardFacts:
        """The facts for a card; with the check of the merged model after merging."""
        return replace(self._facts, merged_check=self.check)

    @cached_property
    def _facts(self) -> CardFacts:
        corpora = {
            name: CorpusFacts(self._lineage(name, store, corpus), dict(self.packed.packed(name)))
            for name, store, corpus in zip(
                self.config.corpus_names, self.config.corpus_stores, self.config.corpus, strict=True
            )
        }
        return CardFacts(
            config=self.config,
            dtype=self.dtype,
            outcome=self.outcome,
            corpora=corpora,
            base=self.base,
            chat=self.packed.has_chat_turns({one.form for one in self.config.all_columns}),
            steps=read(self.job.store, self.job.step_log),
            evaluation=read_evaluation(self.job),
            classes=self.job.classes,
            continues=self.job.parent,
        )

    def _lineage(self, name: str, store: Store, corpus: Corpus) -> Lineage:
        found = self.packed.prepared.get(name)
        tags = versions_of(self.job.store, registry_folder(), found.digest) if found else ()
        return lineage(store, corpus, found, tags)


def base_of(model: Model, model_fingerprint: str, root: str) -> Base:
    """The base model on which an adapter or a probe of this run is loaded. root: URI of the export."""
    name = model.name
    if name is None:
        return Base(f"{root}/base", shown="../base")
    prefix = f"{name}@"
    if model_fingerprint.startswith(prefix):
        return Base(name, model_fingerprint.removeprefix(prefix))
    return Base(name, model.revision)


def generation_settings(model: Any, tokenizer: PreTrainedTokenizerFast, own_tokenizer: bool) -> GenerationConfig:
    """The model's generation config, with the token ids that end an answer in the training data as stop ids.

    own_tokenizer: whether the tokenizer came with the model, so that the model's own stop ids are still valid.
    """
    own = model.generation_config.to_diff_dict() if own_tokenizer and model.generation_config else {}
    before = own.pop("eos_token_id", None)
    stops = [before] if isinstance(before, int) else list(before or [])
    stops += [token for token in stop_ids(tokenizer) if token not in stops]
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": pad_id(tokenizer)}
    return GenerationConfig(**own | ids, eos_token_id=stops if len(stops) > 1 else (stops or [None])[0])


def save_model(
    model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, dtype: torch.dtype, own_tokenizer: bool
) -> None:
    """Save a whole causal language model and its tokenizer. The model is cast to dtype in place."""
    settings = generation_settings(model, tokenizer, own_tokenizer)
    if not own_tokenizer:
        model.config.bos_token_id, model.config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        model.config.pad_token_id = settings.pad_token_id
    model.generation_config = settings
    model.to(dtype).save_pretrained(folder, max_shard_size=SHARD_SIZE)
    tokenizer.save_pretrained(folder)


def save_adapter(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, base: Base, own_tokenizer: bool) -> None:
    """Save a peft model's adapter in float32, its generation config and tokenizer."""
    (adapter,) = model.peft_config.values()
    adapter.base_model_name_or_path, adapter.revision = base.name, base.revision
    settings = generation_settings(model.get_base_model(), tokenizer, own_tokenizer)
    # Embeddings are not trained as a whole. By default, peft would query the hub about them.
    model.save_pretrained(folder, save_embedding_layers=False)
    settings.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_probe(
    objective: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, base: Base, classes: Sequence[str]
) -> None:
    """Save the head's tensors, and probe.json with the base, pool, labels and hidden size, and the tokenizer."""
    folder.mkdir()
    head = {name: values.detach().float().contiguous() for name, values in objective.classifier.state_dict().items()}
    save_file(head, folder / "head.safetensors", metadata={"format": "pt"})
    settings = {
        "base": {"name": base.name, "revision": base.revision},
        "pool": objective.pool,
        "labels": list(classes),
        "hidden_size": objective.classifier.in_features,
    }
    (folder / "probe.json").write_text(json.dumps(settings, indent=1), "utf-8")
    tokenizer.save_pretrained(folder)
