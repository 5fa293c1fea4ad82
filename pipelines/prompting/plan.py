"""What a comparison of prompts takes, before it runs: requests, tokens and money of each model. Asks nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from raymill.cluster.answer import Answer
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.formats import count, money, plural
from raymill.pipelines.prompting.config import PromptConfig
from raymill.pipelines.prompting.job import PromptJob, shown_examples
from raymill.pipelines.prompting.stages import examples_of
from raymill.pipelines.prompting.variants import PromptVariant, items_of, messages_of

_SAMPLED = 20  # items whose prompts are made
_TOKEN_BYTES = 4.0  # of texts of many languages by tokenizers of large vocabularies, about
_ANSWERED = 0.5  # of `sampling.max_tokens`, about


def plan_prompts(settings: PromptConfig) -> Answer:
    """The plan of a comparison. Makes the prompts of some items, and asks nothing.

    Raises:
        UserError: as the first checks of a run.
    """
    job = PromptJob(settings)
    job.check_config()
    items, models = asked_of(settings, job.variants, job.embedding_run)
    lines = [f"plan of {settings.name}: {plural(len(job.variants), 'variant')} on {plural(items, 'item')}"]
    lines += asked_lines(models)
    return Answer({"variants": len(job.variants), "items": items, "models": models}, "\n".join(lines))


def asked_of(
    settings: PromptConfig,
    variants: Sequence[PromptVariant],
    embedding: EmbeddingRun,
    swap: Callable[[str], str] | None = None,
) -> tuple[int, dict[str, dict[str, Any]]]:
    """(number of items, facts of each model: `requests`, `input_tokens`, `output_tokens`, `cost`, and whether it
    `is_folder`, which this cluster computes). Asks nothing.

    swap: changes the questions of some items, which are asked a second time.
    """
    items = items_of(settings.store, settings.data, settings.split, settings.sampling.seed, settings.items)
    asked = len(items) + sum(swap(one.question) != one.question for one in items if swap)
    sample = items[:: max(1, len(items) // _SAMPLED)][:_SAMPLED]
    # Prompts are as long with any examples, so no endpoint is asked for vectors.
    plain = settings.model_copy(update={"examples": settings.examples.model_copy(update={"model": None})})
    shown = examples_of(plain, sample, embedding) if any(one.examples for one in variants) else None
    tokens = dict.fromkeys(settings.models, 0.0)
    for variant in variants:
        for at, item in enumerate(sample):
            examples = shown(variant, at) if shown and variant.examples else []
            messages = messages_of(settings.prompts[variant.prompt], item.question, examples)
            size = sum(len(one["content"].encode()) for one in messages)
            tokens[variant.model] += size / _TOKEN_BYTES * asked / len(sample)
    models: dict[str, dict[str, Any]] = {}
    for name, model in settings.models.items():
        prices = model.request_prices
        requests = asked * sum(one.model == name for one in variants)
        output = requests * settings.sampling.max_tokens * _ANSWERED
        cost = (tokens[name] * prices.input + output * prices.output) / 1e6 if prices else None
        models[name] = {
            "requests": requests, "input_tokens": tokens[name], "output_tokens": output, "cost": cost,
            "is_folder": model.endpoint is None,
        }  # fmt: skip
    return len(items), models


def asked_lines(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The models of `asked_of` as lines of a plan."""
    lines = []
    for name, one in models.items():
        price = "cost not known: it has no `prices`" if one["cost"] is None else f"cost {money(one['cost'])}"
        if one["is_folder"]:
            price = "computed here; the time is not estimated"
        lines.append(
            f"{name}: {plural(one['requests'], 'request')}, about {count(round(one['input_tokens']))} tokens in and "
            f"{count(round(one['output_tokens']))} out, {price}"
        )
    return [
        *lines,
        "Tokens are estimated by bytes, answers as half of `sampling.max_tokens`. Stored answers cost nothing.",
    ]


def dry_run(settings: PromptConfig, address: str | None = None) -> Iterator[str]:
    """Lines about the variants and what they take. address: not used, since nothing is started."""
    job = PromptJob(settings)
    job.check_config()
    for one in job.variants:
        yield f"{one.model}, prompt {one.prompt}: {shown_examples(vars(one))}"
    yield str(plan_prompts(settings))
    found = job.find()
    yield f"output: {settings.output}: {'finished, nothing to do' if found.run else 'to be made'}"
