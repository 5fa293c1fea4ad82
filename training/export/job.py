"""The export: a run's best weights as folders that transformers and peft load, at `OUTPUT/export/`.

    full/     the whole model                                                            method full
    adapter/  the adapter, which peft loads on top of the base                           lora, qlora, prefix, prompt
    merged/   base and adapter as one model; each matrix is compared with the adapter    lora, qlora (export.merged)
    probe/    a classification head                                                      probe
    base/     the random base of adapter/ or probe/                                      if the model is `model.config`

Each folder has the tokenizer and a README.md; serve.yaml beside them is an application of Ray Serve LLM,
training-content.md a draft of the summary that Article 53(1)(d) of the AI Act asks for. manifest.json lists every file
and is written last. The export runs in one process on the CPU. Weights go from the checkpoint to files
on this machine's disk, tensor by tensor, so memory holds a few copies of the largest tensor; of a base whose files have
tensors of several number types it holds all.
"""

import copy
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import TaskType
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, GenerationConfig, PreTrainedTokenizerFast

from raymill import cluster
from raymill.cluster.dataset_versions import registry_folder, versions_of
from raymill.cluster.errors import DataError
from raymill.cluster.lease import held
from raymill.cluster.record import read_json
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.cluster.temporary import scratch_folder
from raymill.training.config_parts import Model
from raymill.training.evaluation.generate import stop_ids
from raymill.training.evaluation.job import evaluate, load_trained
from raymill.training.export.card import CardFacts, CorpusFacts, base_name, card, lineage
from raymill.training.export.merging import OnDisk, merge
from raymill.training.export.servers import SERVE_FILE, serve_application
from raymill.training.export.training_content import FILE as CONTENT_FILE
from raymill.training.export.training_content import (
    ContentCorpus,
    ContentTraining,
    RunsBehind,
    earlier_trainings,
    training_content,
)
from raymill.training.model_folder.loading import Base
from raymill.training.models.answers import score_head
from raymill.training.models.base import base_dtype, load_base, stored_dtype
from raymill.training.models.build import with_adapter
from raymill.training.models.cost import has_experts, transformers_config
from raymill.training.models.objective import Float32Linear, body_name
from raymill.training.models.pissa import convert_saved, initial_adapters
from raymill.training.models.quiet import quiet_libraries
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.checkpoint import MANIFEST, Checkpoint, of_step
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
    read_outcome,
)
from raymill.training.records.job import Job
from raymill.training.records.schema import NOT_ENDED, Outcome, StartRecord, read_steps
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
    """Write the folders and their manifest to OUTPUT/export, unless there is a finished export of the same weights.

    Returns the manifest. The model cards have no scores yet.

    Raises:
        RaymillError: a merged matrix differs from the adapter. Then adapter/ is written, but no manifest.
    """
    found = finished_export(job, outcome)
    return found or _written(job, outcome, packed, paths.join(job.folder.uri, EXPORT))


_TRIES = 5  # to export the newest checkpoint of a training that removes it meanwhile


@quiet_libraries()
def export_checkpoint(job: Job, step: int | None) -> tuple[str, list[str]]:
    """Export a finished training to OUTPUT/export, or any checkpoint to OUTPUT/exports/step-NNNNNNNN.

    step: of the checkpoint; None: the training if it has ended, else its newest checkpoint.

    Returns:
        URI of the export, and the names of its folders.

    Raises:
        DataError: there is no such checkpoint, it is of other settings or damaged, or the training removed it.
        StorageError: a link in the run's folder leads out of it.
        BusyError: the training has ended, and another process is exporting it.
    """
    job.folder.store.refuse_links_out(job.folder.uri)
    packed = PackedRun.load(job.folder.store, job.packed)
    if step is None and (ended := read_outcome(job.folder)) is not None:
        with held(job.folder.store, job.folder.uri):  # the training itself may be writing there
            return paths.join(job.folder.uri, EXPORT), list(export(job, ended, packed)["folders"])
    for _ in range(_TRIES):
        uri = of_step(job.folder, step)
        try:
            return _export_checkpoint(job, uri, packed)
        except (DataError, NotFound):
            if job.folder.store.exists(paths.join(uri, MANIFEST)):
                raise
            if step is not None:
                break
    raise DataError(
        f"{uri}: the training removed this checkpoint while it was exported; it keeps the newest "
        f"{job.config.checkpoint.keep} and the best (checkpoint.keep). Export a newer one."
    )


def _export_checkpoint(job: Job, uri: str, packed: PackedRun) -> tuple[str, list[str]]:
    run, checkpoint = job.folder, Checkpoint.load(job.folder.store, uri)
    if changed := run.differences(checkpoint.manifest.fingerprint_parts):
        raise DataError(f"{uri}: of other settings, model or data: {'; '.join(changed)}. Set them back.")
    progress, starts = checkpoint.manifest.progress, run.store.list_files(run.attempts)
    if not starts:
        raise DataError(f"{run.attempts}: there is no file of a start of this training. Restore it from a copy.")
    start: StartRecord = read_json(run.store, starts[-1].uri, "a start of the workers", kind=StartRecord)
    outcome = Outcome(
        fingerprint=run.fingerprint,
        ended=NOT_ENDED,
        steps=progress.step,
        best_step=None,
        checkpoint=uri,
        best_checkpoint=uri,
        trainable_parameters=start["trainable_parameters"],
        all_parameters=start["all_parameters"],
        unmoved=[],
        skipped=list(progress.skipped),
        restarts=len(starts) - 1,
        seconds=progress.seconds,
    )
    root = paths.join(run.exports, f"step-{progress.step:08d}")
    return root, list(_written(job, outcome, packed, root)["folders"])


def _written(job: Job, outcome: Outcome, packed: PackedRun, root: str) -> dict[str, Any]:
    """Write the folders and their manifest to the URI `root`."""
    store = job.folder.store
    export_file(store, root).discard()
    with scratch_folder("export") as scratch:
        files: list[ExportedFile] = []
        folders: list[str] = []
        writer = FolderWriter(job, outcome, packed, root)
        for folder in writer.folders(scratch):
            (folder / "README.md").write_bytes(_encoded(card(writer.facts(), folder.name)))
            files += put_folder(store, folder, root)
            folders.append(folder.name)
        if application := serve_application(job.config, folders, writer.base, writer.experts, root):
            files.append(put_file(store, root, SERVE_FILE, application.encode()))
        files.append(put_file(store, root, CONTENT_FILE, _encoded(writer.training_content())))
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
        self.experts = has_experts(transformers_config(job.folder.store, self.config.model))
        self.check: MergedCheck | None = None

    def folders(self, scratch: Path) -> Iterator[Path]:
        """Write the folders below `scratch` one at a time; `put_folder` deletes each before the next is written."""
        store, model, method = self.job.folder.store, self.config.model, self.config.training_method
        dtype, on_disk = getattr(torch, self.dtype), OnDisk(scratch)
        if method.classifies:
            yield self._probe(scratch / "probe")
            if model.config is not None:
                body = load_base(store, model, self.config.seed, torch.float32, "eager", kind=AutoModel)
                body.save_pretrained(scratch / "base")
                yield self._with_tokenizer(scratch / "base")
            return
        stored = torch.float32 if model.name is None else stored_dtype(store, model)
        base: Any = load_base(store, model, self.config.seed, stored, "eager")
        modules = nn.ModuleDict()
        if self.config.objective == "reward":
            modules["score"] = score_head(base)
        if method.trains_base:
            for parameter in base.parameters():
                if parameter.requires_grad:  # the lm_head of a reward model is not trained
                    parameter.data = on_disk.empty(parameter.shape, dtype)
            modules["model"] = base
            load_trained(modules, self.job.folder, self.outcome)
            yield self._model(self._with_score(base, modules), scratch / "full", dtype, on_disk)
            return
        # A CPU cannot compute with 4-bit weights. The parameters of a qlora adapter are named and shaped as with lora.
        as_lora = self.config.model_copy(update={"method": "lora"})
        adapted = with_adapter(as_lora if method.four_bit else self.config, base)
        modules["model"] = adapted
        initial = initial_adapters(adapted) if method.merges and self.config.lora.init == "pissa" else None
        load_trained(modules, self.job.folder, self.outcome)
        folder = self._adapter(adapted, scratch / "adapter", modules)
        if initial:
            convert_saved(folder, initial)
        yield folder
        if method.merges and self.config.export.merged:
            merged, self.check = merge(adapted, dtype, on_disk)
            yield self._model(self._with_score(merged, modules), scratch / "merged", dtype, on_disk)
            del merged
        if model.config is not None:
            del base, adapted
            base = load_base(store, model, self.config.seed, torch.float32, "eager")
            yield self._model(base, scratch / "base", torch.float32, on_disk)

    def base_name(self, folders: list[str]) -> str | None:
        """The base's name; None for method full on a random base, which is not exported."""
        return self.base.name if self.config.model.name is not None or "base" in folders else None

    def _model(self, model: Any, folder: Path, dtype: torch.dtype, on_disk: OnDisk) -> Path:
        """Save a whole causal language model. It is cast to dtype in place."""
        for parameter in model.parameters():
            parameter.data = on_disk.cast(parameter.data, dtype)
        if not self.own_tokenizer:
            model.config.bos_token_id = self.tokenizer.bos_token_id
            model.config.eos_token_id = self.tokenizer.eos_token_id
        if not self.own_tokenizer or self.config.objective == "reward":  # a score is of the last token but for padding
            model.config.pad_token_id = pad_id(self.tokenizer)
        if self.config.objective != "reward":
            model.generation_config = generation_settings(model, self.tokenizer, self.own_tokenizer)
        model.to(dtype).save_pretrained(folder, max_shard_size="5GB")
        return self._with_tokenizer(folder)

    def _with_score(self, causal: Any, modules: nn.ModuleDict) -> Any:
        """The model to save: of objective reward a sequence classifier with one label, else the causal model itself."""
        if "score" not in modules:
            return causal
        settings = copy.deepcopy(causal.config)
        settings.num_labels, settings.problem_type = 1, "regression"
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(settings)
        setattr(classifier, classifier.base_model_prefix, causal._modules[body_name(causal)])
        classifier.score = modules["score"]
        return classifier

    def _adapter(self, model: Any, folder: Path, modules: nn.ModuleDict) -> Path:
        """Save a peft model's adapter in float32, and its generation config; of objective reward the score instead."""
        (adapter,) = model.peft_config.values()
        adapter.base_model_name_or_path, adapter.revision = self.base.name, self.base.revision
        of_rewards = "score" in modules
        if of_rewards:
            adapter.task_type, adapter.modules_to_save = TaskType.SEQ_CLS, ["score"]
        settings = generation_settings(model.get_base_model(), self.tokenizer, self.own_tokenizer)
        # Embeddings are not trained as a whole. By default, peft would query the hub about them.
        model.save_pretrained(folder, save_embedding_layers=False)
        if of_rewards:
            adapter.task_type, adapter.modules_to_save = TaskType.CAUSAL_LM, None  # of the model that is merged
            file = folder / "adapter_model.safetensors"
            weights = modules["score"].state_dict()
            tensors = load_file(file) | {f"base_model.model.score.{name}": one for name, one in weights.items()}
            save_file(tensors, file, metadata={"format": "pt"})
        else:
            settings.save_pretrained(folder)
        return self._with_tokenizer(folder)

    def _probe(self, folder: Path) -> Path:
        """Save the head's tensors, and probe.json with the base, pool, labels and hidden size."""
        folder.mkdir()
        described = transformers_config(self.job.folder.store, self.config.model).get_text_config()
        head = Float32Linear(described.hidden_size, len(self.job.classes))
        load_trained(nn.ModuleDict({"classifier": head}), self.job.folder, self.outcome)
        save_file(head.state_dict(), folder / "head.safetensors", metadata={"format": "pt"})
        settings = {
            "base": {"name": self.base.name, "revision": self.base.revision},
            "pool": self.config.probe.pool,
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

    def training_content(self) -> str:
        """The text of training-content.md."""
        corpora = [
            ContentCorpus(
                name,
                one.lineage.path,
                int(one.counters.get("documents/train", 0)),
                int(one.counters.get("tokens/train", 0)),
                one.lineage.made,
            )
            for name, one in self._facts.corpora.items()
        ]
        this = ContentTraining(self.config.name, base_name(self.config.model, self.config.seed), corpora)
        before = earlier_trainings(self._runs[self.job.folder.store], self.config.model_dump(mode="json"))
        return training_content(self.config.name, self.outcome["fingerprint"], [*before, this])

    @cached_property
    def _runs(self) -> dict[Store, RunsBehind]:
        return {store: RunsBehind(store) for store in (self.job.folder.store, *self.config.corpus_stores)}

    @cached_property
    def _facts(self) -> CardFacts:
        corpora = {}
        of = zip(self.config.corpus_names, self.config.corpus_stores, self.config.corpus, strict=True)
        for name, store, corpus in of:
            found = self.packed.prepared.get(name)
            tags = versions_of(self.job.folder.store, registry_folder(), found.digest) if found else ()
            corpora[name] = CorpusFacts(lineage(self._runs[store], corpus, found, tags), dict(self.packed.packed(name)))
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
            experts=self.experts,
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
