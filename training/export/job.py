"""The export: a run's best weights as folders that transformers and peft load, at `OUTPUT/export/`.

    full/     the whole model                                                            method full
    adapter/  the adapter, which peft loads on top of the base                           lora, qlora, prefix, prompt
    merged/   base and adapter as one model; its logits are compared with the adapter's  lora, qlora (export.merged)
    probe/    a classification head                                                      probe
    base/     the random base of adapter/ or probe/                                      if the model is `model.config`

Each folder has the tokenizer and a README.md. manifest.json lists every file and is written last. The export runs in
one process, on the CPU in float32; one folder at a time is on this machine's disk.

A merge adds the adapter's product to each weight in float32, so the logits differ by rounding only. The tolerance grows
with the largest logit (float32 has about seven digits, and errors add up over layers) and with the adapter's largest
effect on logits, so that a merge without effect is also detected for an adapter of small effect.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerFast

from raymill import cluster
from raymill.cluster.artifact import Artifact
from raymill.cluster.dataset_versions import registry_folder, versions_of
from raymill.cluster.errors import RaymillError
from raymill.cluster.store import paths
from raymill.cluster.temporary import scratch_folder
from raymill.training.config_parts import Model
from raymill.training.data.packed import PackedRows
from raymill.training.evaluation.generate import evenly_spaced, stop_ids
from raymill.training.evaluation.job import evaluate, held_out_split, initial_objective, load_trained
from raymill.training.export.card import CardFacts, CorpusFacts, card, lineage
from raymill.training.model_folder.loading import Base
from raymill.training.models.base import base_dtype, load_base
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.finished import (
    EVALUATED,
    EXPORT,
    ExportedFile,
    MergedCheck,
    evaluation_fingerprint,
    export_file,
    export_fingerprint,
    finish_export,
    finished_export,
    put_file,
    put_folder,
    read_evaluation,
)
from raymill.training.records.job import Job
from raymill.training.records.schema import Outcome, read_steps
from raymill.training.tokenizer.load_tokenizer import load_tokenizer, pad_id


def export_and_evaluate(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Export a run's weights, then evaluate them and add the scores to the model cards.

    Finished parts are not made again. The export comes first, so that a trained model can be used even if its
    evaluation fails, for example because the whole model does not fit one GPU.

    Returns:
        The export's manifest.
    """
    packed = PackedRun.load(job.folder.store, job.packed)
    manifest = export(job, outcome, packed)
    evaluate(job, outcome, packed, manifest["merged_check"])
    made_from = evaluation_fingerprint(job, outcome)
    if manifest.get(EVALUATED) == made_from:
        return manifest
    store, root = job.folder.store, paths.join(job.folder.uri, EXPORT)
    writer = FolderWriter(job, outcome, packed, root)
    writer.check = manifest["merged_check"]
    cards = {f"{name}/README.md": card(writer.facts(), name) for name in manifest["folders"]}
    put = [put_file(store, root, path, _encoded(text)) for path, text in cards.items()]
    files = [file for file in manifest["files"] if file["path"] not in cards]
    manifest = manifest | {EVALUATED: made_from}
    return finish_export(store, root, manifest, sorted([*files, *put], key=lambda file: file["path"]))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def export(job: Job, outcome: Outcome, packed: PackedRun) -> dict[str, Any]:
    """Write the folders and their manifest, unless there is a finished export of the same weights.

    Returns the manifest. The model cards have no scores yet.

    Raises:
        RaymillError: the merged model's logits differ from the adapter's. Then adapter/ is written, but no manifest.
    """
    if (found := finished_export(job, outcome)) is not None:
        return found
    store, root = job.folder.store, paths.join(job.folder.uri, EXPORT)
    export_file(store, root).discard()
    with scratch_folder("export") as scratch:
        files: list[ExportedFile] = []
        folders: list[str] = []
        writer = FolderWriter(job, outcome, packed, root)
        for folder in writer.folders(scratch):
            (folder / "README.md").write_bytes(_encoded(card(writer.facts(), folder.name)))
            files += put_folder(store, folder, root)
            folders.append(folder.name)
        manifest = {
            "kind": "export",
            "made_from": export_fingerprint(job, outcome),
            "version": cluster.__version__,
            "method": job.config.method,
            "dtype": writer.dtype,
            "step": outcome["best_step"] or outcome["steps"],
            "base": {"name": writer.base_name(folders), "revision": writer.base.revision},
            "folders": {name: name for name in folders},
            "merged_check": writer.check,
        }
        return finish_export(store, root, manifest, files)


log = logging.getLogger(__name__)


class FolderWriter:
    """Writes the folders of one export in their order. Merging changes the adapter model, so adapter/ comes first."""

    def __init__(self, job: Job, outcome: Outcome, packed: PackedRun, root: str) -> None:
        self.job, self.outcome, self.packed = job, outcome, packed
        self.config = job.config
        self.tokenizer = load_tokenizer(packed.store, packed.tokenizer_uri)
        self.own_tokenizer = self.config.model.name is not None and self.config.model.tokenizer is None
        self.base = base_of(self.config.model, job.folder.fingerprint_parts["model"], root)
        self.dtype = self.config.export.dtype or base_dtype(job.folder.store, self.config.model)
        self.check: MergedCheck | None = None

    def folders(self, scratch: Path) -> Iterator[Path]:
        """Write the folders below `scratch` one at a time; `put_folder` deletes each before the next is written."""
        dtype = getattr(torch, self.dtype)
        # A CPU cannot compute with 4-bit weights. The parameters of a qlora adapter are named and shaped as with lora.
        method = "lora" if self.config.training_method.four_bit else self.config.method
        objective = initial_objective(self.job, "cpu", method=method, precision="float32")
        load_trained(objective, self.job.folder, self.outcome)
        if self.config.training_method.trains_base:
            yield self._model(objective.model, scratch / "full", dtype)
        elif self.config.training_method.classifies:
            yield self._probe(objective, scratch / "probe")
            if self.config.model.config is not None:
                objective.model.save_pretrained(scratch / "base")  # without a head
                yield self._with_tokenizer(scratch / "base")
        else:
            yield self._adapter(objective.model, scratch / "adapter")
            if self.config.training_method.merges and self.config.export.merged:
                _, artifacts = held_out_split(self.packed)
                prompts = first_tokens(list(artifacts.values()) or self.packed.split("train"))
                merged, self.check = merge(objective.model, prompts)
                yield self._model(merged, scratch / "merged", dtype)
                del merged
            del objective
            if self.config.model.config is not None:
                base = load_base(self.job.folder.store, self.config.model, self.config.seed, torch.float32, "eager")
                yield self._model(base, scratch / "base", torch.float32)

    def base_name(self, folders: list[str]) -> str | None:
        """The base's name; None for method full on a random base, which is not exported."""
        return self.base.name if self.config.model.name is not None or "base" in folders else None

    def _model(self, model: Any, folder: Path, dtype: torch.dtype) -> Path:
        """Save a whole causal language model. It is cast to dtype in place."""
        settings = generation_settings(model, self.tokenizer, self.own_tokenizer)
        if not self.own_tokenizer:
            model.config.bos_token_id = self.tokenizer.bos_token_id
            model.config.eos_token_id = self.tokenizer.eos_token_id
            model.config.pad_token_id = settings.pad_token_id
        model.generation_config = settings
        model.to(dtype).save_pretrained(folder, max_shard_size="5GB")
        return self._with_tokenizer(folder)

    def _adapter(self, model: Any, folder: Path) -> Path:
        """Save a peft model's adapter in float32, and its generation config."""
        (adapter,) = model.peft_config.values()
        adapter.base_model_name_or_path, adapter.revision = self.base.name, self.base.revision
        settings = generation_settings(model.get_base_model(), self.tokenizer, self.own_tokenizer)
        # Embeddings are not trained as a whole. By default, peft would query the hub about them.
        model.save_pretrained(folder, save_embedding_layers=False)
        settings.save_pretrained(folder)
        return self._with_tokenizer(folder)

    def _probe(self, objective: Any, folder: Path) -> Path:
        """Save the head's tensors, and probe.json with the base, pool, labels and hidden size."""
        folder.mkdir()
        head = objective.classifier
        tensors = {name: values.detach().float().contiguous() for name, values in head.state_dict().items()}
        save_file(tensors, folder / "head.safetensors", metadata={"format": "pt"})
        settings = {
            "base": {"name": self.base.name, "revision": self.base.revision},
            "pool": objective.pool,
            "labels": list(self.job.classes),
            "hidden_size": head.in_features,
        }
        (folder / "probe.json").write_text(json.dumps(settings, indent=1), "utf-8")
        return self._with_tokenizer(folder)

    def _with_tokenizer(self, folder: Path) -> Path:
        self.tokenizer.save_pretrained(folder)
        return folder

    def facts(self) -> CardFacts:
        """The facts for a card; with the check of the merged model after merging."""
        return replace(self._facts, merged_check=self.check)

    @cached_property
    def _facts(self) -> CardFacts:
        corpora = {}
        of = zip(self.config.corpus_names, self.config.corpus_stores, self.config.corpus, strict=True)
        for name, store, corpus in of:
            found = self.packed.prepared.get(name)
            tags = versions_of(self.job.folder.store, registry_folder(), found.digest) if found else ()
            corpora[name] = CorpusFacts(lineage(store, corpus, found, tags), dict(self.packed.packed(name)))
        return CardFacts(
            config=self.config,
            dtype=self.dtype,
            outcome=self.outcome,
            corpora=corpora,
            base=self.base,
            chat=self.packed.has_chat_turns(self.config.forms),
            steps=list(read_steps(self.job.folder.store, self.job.folder.step_log)),
            evaluation=read_evaluation(self.job.folder),
            classes=self.job.classes,
            continues=self.job.parent,
        )


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
    ids["eos_token_id"] = stops if len(stops) > 1 else (stops or [None])[0]
    found = GenerationConfig(**own | ids)
    try:
        found.validate(strict=True)  # as when it is saved
    except ValueError as error:
        log.warning("the model's generation_config.json is left out: %s", " ".join(str(error).split())[:300])
        return GenerationConfig(**ids)
    return found


PROMPTS, PROMPT_TOKENS = 8, 64

# The tolerance is the sum of these fractions of the largest logit and of the adapter's largest effect.
_LOGIT_FRACTION, _EFFECT_FRACTION = 1e-5, 1e-2


def merge(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[Any, MergedCheck]:
    """(merged model, its comparison with the adapter).

    Args:
        model: peft model in float32 on the CPU. It is merged in place; do not use it afterwards. prompts: token ids.

    Raises:
        RaymillError: the logits differ by more than the tolerance, or a merged weight is not finite.
    """
    assert all(p.dtype == torch.float32 for p in model.parameters()), "a merge in fewer bits rounds the adapter away"
    model.eval()
    wanted = [logits(model, ids) for ids in prompts]
    with model.disable_adapter():
        effect = _difference(model, prompts, wanted)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise RaymillError(
            f"export: the adapter cannot be merged ({error}). The adapter itself is exported; set export.merged: false "
            "to leave out the merged model."
        ) from error
    return merged, compare_logits(merged, prompts, wanted, effect)


def compare_logits(
    merged: Any, prompts: Sequence[Sequence[int]], wanted: Sequence[torch.Tensor], effect: float
) -> MergedCheck:
    """Compare a merged model's logits with the adapter's.

    Args:
        wanted: the adapter's logits, float32[tokens, vocabulary] for each prompt. effect: largest difference of
            adapter and base.

    Raises:
        RaymillError: a difference is above the tolerance or not finite.
    """
    largest = max((float(kept.abs().max()) for kept in wanted), default=0.0)
    found = _difference(merged, prompts, wanted)
    tolerance = _LOGIT_FRACTION * largest + _EFFECT_FRACTION * effect
    if not found <= tolerance:
        raise RaymillError(
            f"export: the merged model's logits differ from the adapter's by up to {found:.3g} on {len(prompts)} "
            f"prompts; {tolerance:.3g} was allowed (largest logit {largest:.3g}, the adapter moves them by up to "
            f"{effect:.3g}). The adapter itself is exported; set export.merged: false to leave out the merged model."
        )
    return {
        "prompts": len(prompts),
        "tokens": sum(map(len, prompts)),
        "max_abs_difference": found,
        "tolerance": tolerance,
        "adapter_effect": effect,
        "largest_logit": largest,
    }


def logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """The logits of one prompt, float32[tokens, vocabulary]."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


def _difference(model: Any, prompts: Sequence[Sequence[int]], wanted: Sequence[torch.Tensor]) -> float:
    """The largest absolute difference of the logits; NaN if a logit is NaN."""
    pairs = zip(prompts, wanted, strict=True)
    # np.max returns NaN if a value is NaN; Python's max may not.
    return float(np.max([0.0, *(float((logits(model, ids) - kept).abs().max()) for ids, kept in pairs)]))


def first_tokens(artifacts: Sequence[Artifact], count: int = PROMPTS, tokens: int = PROMPT_TOKENS) -> list[list[int]]:
    """The first tokens of at most `count` rows of these packed artifacts, taken from the artifacts in turn."""

    def of(artifact: Artifact) -> Iterator[list[int]]:
        rows = PackedRows(artifact)
        for table in rows.read(evenly_spaced(rows.rows, count)):
            yield table["ids"][0].as_py()[:tokens]
        rows.close()

    sources = [list(of(artifact)) for artifact in artifacts]
    longest = max(map(len, sources), default=0)
    in_turn = [source[at] for at in range(longest) for source in sources if at < len(source)]
    return in_turn[:count]
