"""The text of a model card: README.md of an exported folder. It is made from manifests and logs, not from documents.

A card has the code that loads the weights, their base and data, the recipe, and the losses and scores on held-out
documents. card.md is the template.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymill import cluster
from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import plural
from raymill.cluster.readers.formats.hub import HubName, is_hub_data
from raymill.cluster.report.markdown import card as hub_card
from raymill.cluster.store import paths
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Corpus, Model
from raymill.training.export.servers import vllm_command
from raymill.training.export.training_content import MadeBy, RunsBehind
from raymill.training.methods import FOLDERS, MetricWords
from raymill.training.model_folder.loading import Base, loading
from raymill.training.pack.corpus_files import PreparedRun
from raymill.training.records.finished import MergedCheck
from raymill.training.records.job import Parent
from raymill.training.records.schema import Evaluation, Measured, Outcome, StepRecord
from raymill.training.vllm_adapters import refused_adapter

# A hub name of a model or data set: ORGANISATION/NAME or NAME.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MOST_CLASSES = 100
_COUNTED = ("documents", "tokens", "label_tokens")

_SCORE_NAMES = {
    "exact_match": "Exact match", "f1": "Word F1", "bleu": "BLEU (0 to 100)", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "number_match": "Number right (strict)",
    "number_match_flexible": "Number right (flexible)", "answered": "Answers of the wanted kind",
}  # fmt: skip


@dataclass(frozen=True)
class Lineage:
    """The origin of a corpus. All fields except `path` are empty if the corpus is not an artifact.

    digest: of the content. run: name of the run. version: of Raymill that made it. licences: by source name, None if
    not stated; sources of runs before it are named SOURCE/SOURCE. datasets: hub data sets among the sources. prepared:
    whether it is a data set of `raymill prepare`. tags: NAME:VERSION of those that were tagged with its digest. report:
    URI of its report. made: what the run states about the content.
    """

    path: str
    digest: str = ""
    run: str = ""
    version: str = ""
    licences: dict[str, str | None] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    prepared: bool = False
    tags: tuple[str, ...] = ()
    report: str = ""
    made: MadeBy | None = None


def lineage(runs: RunsBehind, corpus: Corpus, prepared: PreparedRun | None = None, tags: Sequence[str] = ()) -> Lineage:
    """The lineage of a corpus, from its manifest and the run's. If a manifest is missing, fields are empty.

    prepared: the data set that was packed, if it is one. tags: NAME:VERSION of those with its digest.
    """
    if prepared is not None:
        # A run that was made again since may have other inputs.
        made = runs.made_by(prepared.output, prepared.digest)
        return Lineage(
            path=corpus.path,
            digest=prepared.digest,
            run=prepared.name,
            version=prepared.version,
            **_sources(made),
            prepared=True,
            tags=tuple(tags),
            report=prepared.report,
            made=made,
        )
    if is_hub_data(corpus.path):
        return Lineage(corpus.path, datasets=(HubName.of(corpus.path).name,))
    try:
        artifact = Artifact.find(runs.store, corpus.path)
    except (DataError, StorageError):
        artifact = None
    if artifact is None:
        return Lineage(corpus.path)
    made = runs.made_by(paths.absolute(corpus.path))
    return Lineage(
        path=corpus.path,
        digest=artifact.manifest.digest,
        run=made.name if made else "",
        version=artifact.manifest.version,
        **_sources(made),
        made=made,
    )


def _sources(made: MadeBy | None) -> dict[str, Any]:
    """`licences` and `datasets` of the sources of a run."""
    found = list(made.leaves()) if made else []
    return {
        "licences": {one.name: one.licence for one in found},
        "datasets": tuple(one.place for one in found if one.way == "hub"),
    }


@dataclass(frozen=True)
class CorpusFacts:
    """One corpus of the mixture. counters: those of its packed artifacts, such as `documents/train`."""

    lineage: Lineage
    counters: dict[str, float]


@dataclass(frozen=True)
class CardFacts:
    """The facts from which a card is made.

    dtype: number type of exported full or merged weights. base: the model on which an adapter is loaded. chat: see
    `loading`. experts: whether the base is a mixture of experts.
    """

    config: TrainConfig
    dtype: str
    outcome: Outcome
    corpora: dict[str, CorpusFacts]
    base: Base
    chat: bool
    continues: Parent | None = None
    steps: Sequence[StepRecord] = ()
    evaluation: Evaluation | None = None
    merged_check: MergedCheck | None = None
    classes: Sequence[str] = field(default_factory=tuple)
    experts: bool = False


def card(facts: CardFacts, folder: str) -> str:
    """README.md of one exported folder (a name in methods.FOLDERS)."""
    config, outcome, (low, high) = facts.config, facts.outcome, facts.config.workers.range
    counted = _COUNTED if config.metric_words.perplexity else _COUNTED[:2]
    values = {
        "folder": folder,
        "name": config.name,
        "what": FOLDERS[folder].what,
        "base": base_name(config.model, config.seed),
        "code": loading(folder, facts.base, facts.chat, config.objective == "reward"),
        "server": _server(facts, folder),
        "numbers": list(_numbers(facts)),
        "check": facts.merged_check,
        "facts": facts,
        "config": config,
        "method": config.method,
        "method_rows": [
            *_objective_rows(config),
            *config.training_method.card_rows(config, list(facts.classes[:_MOST_CLASSES])),
        ],
        "optimizer": config.optimizer,
        "parent": facts.continues,
        "outcome": outcome,
        "trained": outcome["trainable_parameters"],
        "parameters": outcome["all_parameters"],
        "tokens": sum(record.get("tokens", 0) for record in facts.steps),
        "label_tokens": sum(record.get("label_tokens", 0) for record in facts.steps),
        "systems": sorted({columns.system_prompt for columns in config.all_columns if columns.system_prompt}),
        "longer": sorted({config.overflow(form) for form in config.forms}),
        "workers": plural(low, "worker") if low == high else f"{low} to {high} workers",
        "head": ("Corpus", "Split", *(what.replace("_", " ").capitalize() for what in counted)),
        "data": [
            (name, split, *(f"{int(one.counters.get(f'{what}/{split}', 0)):,}" for what in counted))
            for name, one in facts.corpora.items()
            for split in SPLITS
        ],
        "notes": [f"{name}: {note}" for name, one in facts.corpora.items() for note in _origin(one.lineage)],
        "version": cluster.__version__,
        "fingerprint": outcome["fingerprint"],
    }
    return hub_card(__package__, _front_matter(facts, folder), values)


def _server(facts: CardFacts, folder: str) -> dict[str, Any] | None:
    """How a server takes the folder; None of one that answers with no text."""
    config = facts.config
    if config.objective == "reward" or folder in ("base", "probe"):
        return None
    return {
        "command": vllm_command(config, folder, facts.base, facts.experts),
        "refused": refused_adapter(config, facts.experts),
        "merged": config.training_method.merges and config.export.merged,
        "copied": folder == "adapter" and paths.is_remote(facts.base.name) and not facts.base.shown,
    }


def _objective_rows(config: TrainConfig) -> list[tuple[str, str]]:
    """The objective with its settings, unless it is the cross entropy."""
    if config.objective == "sft":
        return []
    how = getattr(config, config.objective).model_dump(mode="json", exclude={"custom"})
    rewards = [use.use for use in getattr(getattr(config, config.objective), "custom", ())]
    shown = [f"{name} {value}" for name, value in how.items()] + rewards
    return [("Objective", f"{config.objective}: {', '.join(shown)}")]


def _front_matter(facts: CardFacts, folder: str) -> dict[str, Any]:
    config = facts.config
    name = config.model.name
    hub = name if name and not config.model.config and _is_hub_name(name) else None
    datasets = sorted({name for one in facts.corpora.values() for name in one.lineage.datasets if _is_hub_name(name)})
    found: dict[str, Any] = {
        "library_name": FOLDERS[folder].library,
        "pipeline_tag": "text-classification" if config.objective == "reward" else FOLDERS[folder].task,
        "tags": ["raymill", config.method, *([config.objective] if config.objective != "sft" else [])],
    }
    if hub:
        found["base_model"] = hub
        if relation := FOLDERS[folder].relation:
            found["base_model_relation"] = relation
    if datasets:
        found["datasets"] = datasets
    return found


def _is_hub_name(name: str) -> bool:
    return not paths.is_remote(name) and _HUB_NAME.fullmatch(name) is not None


def base_name(model: Model, seed: int) -> str:
    """The base model's name in the card; of a local folder, only the last part of its path."""
    if model.config is not None:
        return f"{model.config['model_type']} with random weights, seed {seed}"
    assert model.name is not None
    shown = model.name if paths.is_remote(model.name) or _is_hub_name(model.name) else _last_name(model.name)
    return f"{shown}, revision {model.revision}" if model.revision else shown


def _last_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


_Rows = Sequence[Sequence[object]]


def _numbers(facts: CardFacts) -> Iterator[tuple[str, Sequence[str], _Rows]]:
    """(words, head of the table below them, its rows); without rows, the words alone."""
    means, evaluation = facts.config.metric_words, facts.evaluation
    head = ("", "Loss", *(["Perplexity"] if means.perplexity else []), "Accuracy", means.labels.capitalize())
    validated = [(record["step"], record["validation"]) for record in facts.steps if "validation" in record]
    if validated:
        first = min(validated, key=lambda pair: pair[0])
        best = next((pair for pair in validated if pair[0] == facts.outcome["best_step"]), validated[-1])
        rows = [(f"step {step}", *_measured(measured, means)) for step, measured in dict([first, best]).items()]
        most = facts.config.validation_rows
        named = f"Validation split (while training, at most {most:,} rows of it)" if most else "Validation split"
        yield f"{named}, first and exported:", head, rows
    if evaluation is not None:
        rows = [
            (f"{held_out}, {when}", *_measured(measured, means))
            for held_out in evaluation["before"] | evaluation["after"]
            for when, side in (("before", evaluation["before"]), ("after", evaluation["after"]))
            if (measured := side.get(held_out))
        ]
        if rows:
            yield "Held out, before and after training:", head, rows
        yield from ((note, (), ()) for note in evaluation.get("notes", []))
        of_sets = {f"the set {name}": of for name, of in evaluation.get("set_generation", {}).items()}
        for what, scores in ({"held-out documents": evaluation["generation"]} | of_sets).items():
            shown = [(_SCORE_NAMES.get(name, name), f"{value:.4g}") for name, value in scores.items()][:_MOST_CLASSES]
            if shown:
                yield f"Answers on {what}:", ("Score", ""), shown


def _measured(measured: Measured, means: MetricWords) -> list[str]:
    """Table cells of a measurement; the loss is in nats."""
    perplexity = [f"{measured['perplexity']:.4g}"] if means.perplexity else []
    return [
        f"{measured['loss']:.4f}", *perplexity, f"{measured['accuracy']:.2%}", f"{measured['label_tokens']:,}",
    ]  # fmt: skip


def _origin(lineage: Lineage) -> Iterator[str]:
    """Notes about the origin of a corpus: URI, artifact, licences."""
    if paths.is_remote(lineage.path) or is_hub_data(lineage.path):
        yield f"read from {lineage.path}"
    if lineage.prepared:
        tags = f" {', '.join(lineage.tags)}" if lineage.tags else ""
        yield f"data set{tags} of the prepare run {lineage.run}, Raymill {lineage.version}, digest {lineage.digest}"
        if paths.is_remote(lineage.report):  # a path of this machine is no link for a reader elsewhere
            yield f"its report is {lineage.report}"
    elif lineage.digest:
        run = f" of the curate run {lineage.run}" if lineage.run else ""
        yield f"artifact{run}, Raymill {lineage.version}, content digest {lineage.digest}"
    for source, licence in lineage.licences.items():
        yield f"source {source}: licence {licence or 'not stated'}"
    for made in lineage.made.with_earlier() if lineage.made else ():
        for model, terms, number in made.generated:
            yield f"{number:,} {made.unit} of {made.name} generated by {model}, terms {terms or 'not stated'}"
