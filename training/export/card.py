"""The model card: README.md of an exported folder, made from manifests and logs alone, never from documents.

It says what the weights were made from (data, base), how (recipe), how good they are (numbers on held-out documents)
and how to load them. Everything that a person or a manifest named is escaped (markdown.py).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

import cluster
from cluster.store import paths
from training.config import TrainConfig
from training.data.schema import SPLITS
from training.export.lineage import Lineage
from training.export.loading import Base, loading
from training.export.markdown import code, plain, table
from training.export.merge import MergedCheck
from training.fit.records import Evaluation, Measured, Outcome, StepRecord
from training.wording import Wording, wording

# A hub's name of a model or data set: ORGANISATION/NAME or NAME.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_RELATION = {"full": "finetune", "merged": "finetune", "adapter": "adapter"}
_MOST_CLASSES = 100

_SCORE_NAMES = {
    "exact_match": "Exact match", "f1": "Word F1", "bleu": "BLEU (0 to 100)", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "number_match": "Number right (strict)",
    "number_match_flexible": "Number right (flexible)", "answered": "Answers of the wanted kind",
}  # fmt: skip
_WHAT = {
    "full": "All weights of the model after training.",
    "adapter": "The adapter alone; it is loaded on top of its base model.",
    "merged": "The base model with the adapter merged into its weights.",
    "base": "The randomly initialised base that the adapter beside this folder was trained on. It has learnt nothing.",
    "probe": "A classification head on the frozen base model.",
}


@dataclass(frozen=True)
class CorpusFacts:
    """One corpus of the mixture. `counters` of its packed artifacts: `documents/train`, `tokens/test` and so on."""

    lineage: Lineage
    counters: dict[str, float]


@dataclass(frozen=True)
class Facts:
    """All a card may tell. `base`: what an adapter is loaded on."""

    config: TrainConfig
    outcome: Outcome
    corpora: dict[str, CorpusFacts]
    base: Base
    chat: bool
    steps: Sequence[StepRecord] = ()
    evaluation: Evaluation | None = None
    merged_check: MergedCheck | None = None
    classes: Sequence[str] = field(default_factory=tuple)


def card(facts: Facts, folder: str) -> str:
    """README.md of one exported folder (a name in loading.FOLDERS)."""
    lines = loading(folder, facts.base, facts.chat)
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(facts, folder), sort_keys=False, allow_unicode=False)}---",
        f"# {plain(facts.config.name)}",
        f"{_WHAT[folder]} Base model: {plain(_base_name(facts.config))}.",
        f"## Load\n\nIn this folder:\n\n{code(lines)}",
    ]
    if folder != "base":
        parts += [f"## Numbers\n\n{_numbers(facts, folder)}", f"## Recipe\n\n{table(('', ''), _recipe(facts))}"]
        parts.append(f"## Data\n\n{_data(facts)}")
    parts.append(
        f"Made by Raymill {plain(cluster.__version__)} from the run's manifests. Run: {facts.outcome['fingerprint']}"
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Facts, folder: str) -> dict[str, Any]:
    config = facts.config
    name = config.model.name
    hub = name if name and not config.model.config and _is_hub_name(name) else None
    datasets = sorted({name for one in facts.corpora.values() for name in one.lineage.datasets if _is_hub_name(name)})
    found: dict[str, Any] = {
        "library_name": "peft" if folder == "adapter" else "transformers",
        "pipeline_tag": "text-classification" if folder == "probe" else "text-generation",
        "tags": ["raymill", config.method],
    }
    if hub:
        found["base_model"] = hub
        if folder in _RELATION:
            found["base_model_relation"] = _RELATION[folder]
    if datasets:
        found["datasets"] = datasets
    return found


def _is_hub_name(name: str) -> bool:
    return not paths.is_remote(name) and _HUB_NAME.fullmatch(name) is not None


def _base_name(config: TrainConfig) -> str:
    """As far as it means something elsewhere: of a folder of this machine only its last name."""
    model = config.model
    if model.config is not None:
        return f"{model.config['model_type']} with random weights, seed {config.seed}"
    assert model.name is not None
    shown = model.name if paths.is_remote(model.name) or _is_hub_name(model.name) else _last_name(model.name)
    return f"{shown}, revision {model.revision}" if model.revision else shown


def _last_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _numbers(facts: Facts, folder: str) -> str:
    parts = []
    means = wording(facts.config.method)
    head = ("", "Loss", *(["Perplexity"] if means.perplexity else []), "Accuracy", means.labels.capitalize())
    validated = [(record["step"], record["validation"]) for record in facts.steps if "validation" in record]
    if validated:
        first = min(validated, key=lambda pair: pair[0])
        best = next((pair for pair in validated if pair[0] == facts.outcome["best_step"]), validated[-1])
        rows = [(f"step {step}", *_measured(measured, means)) for step, measured in dict([first, best]).items()]
        most = facts.config.evaluate.rows
        named = f"Validation split (while training, at most {most:,} rows of it)" if most else "Validation split"
        parts.append(f"{named}, first and exported:\n\n" + table(head, rows))
    if facts.evaluation is not None:
        rows = [
            (f"{split}, {when}", *_measured(measured, means))
            for split in SPLITS
            for when, side in (("before", facts.evaluation["before"]), ("after", facts.evaluation["after"]))
            if (measured := side.get(split))
        ]
        if rows:
            parts.append("Held out, before and after training:\n\n" + table(head, rows))
        if scores := facts.evaluation["generation"]:
            shown = [(_SCORE_NAMES.get(name, name), f"{value:.4g}") for name, value in scores.items()]
            parts.append("Answers on held-out documents:\n\n" + table(("Score", ""), shown[:_MOST_CLASSES]))
    if folder == "merged" and (check := facts.merged_check):
        parts.append(
            f"Merged in float32 and compared with the adapter's logits on {check['prompts']} held-out prompts: largest "
            f"difference {check['max_abs_difference']:.3g}, allowed {check['tolerance']:.3g}; the adapter itself moves "
            f"logits by up to {check['adapter_effect']:.3g}. Stored as {plain(facts.config.export.dtype)}."
        )
        if facts.config.method == "qlora":
            parts.append(
                "The adapter was trained on the base in 4 bits and is merged into its whole weights, so answers differ "
                "from those in training by as much as the 4 bits lost."
            )
    return "\n\n".join(parts) or "None: the run held no documents back."


def _measured(measured: Measured, means: Wording) -> list[str]:
    """Loss in nats."""
    perplexity = [f"{measured['perplexity']:.4g}"] if means.perplexity else []
    return [
        f"{measured['loss']:.4f}", *perplexity, f"{measured['accuracy']:.2%}", f"{measured['label_tokens']:,}",
    ]  # fmt: skip


def _recipe(facts: Facts) -> Iterator[tuple[str, object]]:
    config, outcome = facts.config, facts.outcome
    optimizer = config.optimizer
    yield "Method", config.method
    match config.method:
        case "lora" | "qlora":
            lora = config.lora
            options = [name for name, on in (("rsLoRA", lora.rslora), ("DoRA", lora.dora)) if on]
            target = lora.target if isinstance(lora.target, str) else ", ".join(lora.target)
            yield "LoRA", ", ".join([f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}", *options])
            yield "LoRA on", target
        case "prefix" | "prompt":
            yield "Virtual tokens", getattr(config, config.method).tokens
        case "probe":
            yield "Head on", f"{config.probe.pool} hidden state"
            yield "Classes", ", ".join(facts.classes[:_MOST_CLASSES])
    share = outcome["trainable_parameters"] / max(1, outcome["all_parameters"])
    yield "Trained parameters", f"{outcome['trainable_parameters']:,} of {outcome['all_parameters']:,} ({share:.2%})"
    yield "Steps", f"{outcome['steps']:,} (ended: {outcome['ended']})"
    if outcome["best_step"] is not None:
        yield "Weights of step", f"{outcome['best_step']:,}, the best on the validation split"
    yield "Tokens a step", f"{config.tokens_per_step:,} in rows of {config.sequence_length:,}"
    if tokens := sum(record.get("tokens", 0) for record in facts.steps):
        yield (
            "Tokens seen",
            f"{tokens:,} ({sum(record.get('label_tokens', 0) for record in facts.steps):,} with a label)",
        )
    if systems := sorted({columns.system_prompt for columns in config.all_columns if columns.system_prompt}):
        yield "System prompt", "; ".join(systems)
    longer = sorted({config.overflow(columns) for columns in config.all_columns})
    yield "Packing", f"{config.packing.mode}; longer documents: {' or '.join(longer)}"
    yield (
        "Optimizer",
        (
            f"AdamW, betas {optimizer.betas[0]:g} and {optimizer.betas[1]:g}, weight decay {optimizer.weight_decay:g}, "
            + (f"clip {optimizer.clip:g}" if optimizer.clip else "no clipping")
        ),
    )
    yield (
        "Learning rate",
        (f"{optimizer.learning_rate:g}, {optimizer.schedule} after {optimizer.warmup_steps:,} steps of warm-up"),
    )
    yield "Precision", "bf16 on float32 master weights" if config.bf16 else "float32"
    low, high = config.workers.range
    yield "Engine", f"{config.engine}, {low if low == high else f'{low} to {high}'} workers"
    yield "Seed", config.seed


def _data(facts: Facts) -> str:
    rows, notes = [], []
    counted = _COUNTED if wording(facts.config.method).perplexity else _COUNTED[:2]
    for name, one in facts.corpora.items():
        rows += [
            (name, split, *(f"{int(one.counters.get(f'{what}/{split}', 0)):,}" for what in counted)) for split in SPLITS
        ]
        notes += [f"- {plain(name)}: {note}" for note in _told(one.lineage)]
    head = ("Corpus", "Split", *(what.replace("_", " ").capitalize() for what in counted))
    return "\n\n".join([table(head, rows), *(["\n".join(notes)] if notes else [])])


_COUNTED = ("documents", "tokens", "label_tokens")


def _told(lineage: Lineage) -> Iterator[str]:
    if paths.is_remote(lineage.path):
        yield f"read from {plain(lineage.path)}"
    if lineage.digest:
        run = f" of the curate run {plain(lineage.run)}" if lineage.run else ""
        yield f"artifact{run}, Raymill {plain(lineage.version)}, content digest {plain(lineage.digest)}"
    for source, licence in lineage.licences.items():
        yield f"source {plain(source)}: licence {plain(licence) if licence else 'not stated'}"
