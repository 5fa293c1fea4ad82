"""Answers of models to variants of one set of items: the stages and checks that `prompt` and `compare` share."""

import uuid
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from raymill.cluster.artifact import Artifact
from raymill.cluster.asking.answers import Answers, run_name
from raymill.cluster.asking.backends import Backends
from raymill.cluster.asking.compaction import compact
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.asking.requests import boundaries
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame.job import Making
from raymill.cluster.output import Output
from raymill.cluster.output_folder import path_below, refuse_output_in_folder
from raymill.cluster.stage import Stage
from raymill.cluster.store import paths
from raymill.cluster.submit.work import GIB
from raymill.pipelines.prompting.config import PromptConfig
from raymill.pipelines.prompting.stages import (
    ANSWERS_SCHEMA,
    EXAMPLES,
    EXAMPLES_SCHEMA,
    ITEMS,
    ITEMS_SCHEMA,
    SECONDS_SCHEMA,
    SWAPPED,
    SWAPPED_SCHEMA,
    AskModel,
    Draft,
)
from raymill.pipelines.prompting.variants import PromptVariant, refuse_wrong_prompts

MOST_RANGES = 64
_NO_COLUMNS = pa.schema([])


def refuse_unusable(
    config: PromptConfig, root: str, variants: Sequence[PromptVariant], setting: str, kind: str
) -> None:
    """Verify the prompts, the scores, the data set and the output.

    Args:
        root: the absolute output. setting: name of the setting with the data set. kind: kind of the run.

    Raises:
        UserError: one cannot be used.
    """
    refuse_wrong_prompts(config.prompts)
    for one in config.custom:
        one.loaded()
    read = {setting: config.data} | {f"models.{name}": one.path for name, one in config.models.items()}
    for named, path in read.items():
        if path is None:
            continue
        refuse_output_in_folder("output", root, named, path, (f"{ITEMS}/part.parquet",), kind)
        if path_below(path, root) is not None:
            raise ConfigError(
                f"output: {root} contains {named}, and a run may not write above what it reads. Choose a "
                "folder that is not above it."
            )
    used: dict[str, str] = {config.split: "items"}
    if any(one.examples for one in variants):
        used["train"] = "examples"
    for split, what in used.items():
        if not Artifact.load(config.store, paths.join(config.data, split)).rows:
            raise DataError(
                f"{paths.join(config.data, split)}: no record, and {what} are records of this split. Prepare "
                "the data set with more records, or another `split`."
            )


def ask_variants(
    config: PromptConfig,
    root: str,
    models: Mapping[str, ModelSettings],
    variants: Sequence[PromptVariant],
    embedding: EmbeddingRun,
    made_from: str,
    making: Making,
    *,
    seconds_apart: bool = False,
    swap: Callable[[str], str] | None = None,
) -> dict[str, Artifact]:
    """Ask the models. Returns the artifacts `items` and `examples`, and each model's `answers_of.NAME` and requests.

    Args:
        root: the absolute output. models: by name, with their locations. made_from: fingerprint of what the result
            depends on.
        seconds_apart: whether the seconds of answers, which differ from call to call, are in an artifact of their own,
            `_work/seconds.NAME`.
        swap: changes the question of some items, as of `Draft`: the artifacts `swapped` and `swapped_answers_of.NAME`.
    """
    records = Artifact.load(config.store, paths.join(config.data, config.split)).rows
    items = min(config.items or records, records)
    backends, firsts = dict[str, Backends](), dict[str, tuple[str, ...]]()
    for name, model in models.items():
        throttle = f"raymill-asking-{name}-{uuid.uuid4().hex[:8]}"
        secret = config.models[name].secret(f"models.{name}")
        # Files of tries are named after the run, the model and a hash of the output.
        answers = Answers(config.store, config.answer_store, run_name(f"{config.name}-{name}", root))
        one = Backends(model, config.sampling, config.budget, answers, throttle, secret)
        requests = (1 if swap is None else 2) * items * sum(variant.model == name for variant in variants)
        backends[name], firsts[name] = one, tuple(boundaries(one.ranges(requests, MOST_RANGES)))
    outputs = (
        Output(ITEMS, ITEMS_SCHEMA),
        Output(EXAMPLES, EXAMPLES_SCHEMA),
        *((Output(SWAPPED, SWAPPED_SCHEMA),) if swap else ()),
        *(Output(requests_of(name), _NO_COLUMNS) for name in models),
    )
    draft = Draft(config, models, tuple(variants), firsts, embedding, swap)
    artifacts = dict(making.run(Stage("items", outputs, (0,), draft, made_from, config.store, memory=2 * GIB)))
    asked = artifacts[ITEMS].rows + (artifacts[SWAPPED].rows if swap else 0)
    without_seconds = pa.schema([field for field in ANSWERS_SCHEMA if field.name != "seconds"])
    for name, one in backends.items():
        uris = tuple(artifacts[requests_of(name)].file_uris)
        ask = AskModel(
            name, one, uris, firsts[name], config.sampling.max_tokens, config.execution.max_unanswered, seconds_apart,
            len(variants) if swap else None,
        )  # fmt: skip
        written = [Output(f"answers_of.{name}", ANSWERS_SCHEMA)]
        if seconds_apart:
            written = [Output(f"answers_of.{name}", without_seconds), Output(f"_work/seconds.{name}", SECONDS_SCHEMA)]
        if swap:
            written.append(Output(f"swapped_answers_of.{name}", without_seconds))
        artifacts |= making.run(
            Stage(
                f"ask.{name}",
                tuple(written),
                range(len(firsts[name])),
                ask,
                f"{made_from}/{name}",
                config.store,
                memory=2 * GIB,
                watch=one.watch(asked * sum(variant.model == name for variant in variants)),
                setup=one.setup,
                cpus=one.cpus,
                gpus=one.gpus,
            )
        )
    for one in backends.values():
        one.answers.close()
    compact(config.store, config.answer_store)
    return artifacts


def requests_of(name: str) -> str:
    """The artifact with the requests to a model, in ranges of their keys."""
    return f"_work/requests.{name}"
