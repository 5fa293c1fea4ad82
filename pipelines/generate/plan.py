"""What a generation takes, before it runs: requests, tokens and money. Asks nothing.

The prompts of a sample of seeds are made. Their tokens, and those of the answers, are estimated from answers in the
answer store, as of an earlier run with a few documents; without any by bytes, and up to `sampling.max_tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymill.cluster.answer import Answer
from raymill.cluster.formats import count, money, plural
from raymill.cluster.plan.sample import draw_sample, planned_input
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob
from raymill.pipelines.generate.rows import Row, seeds_of
from raymill.pipelines.generate.template import Refusal

# Bytes of a token, of texts of many languages by tokenizers of large vocabularies: expected, most, fewest.
_TOKEN_BYTES = (4.0, 6.0, 2.0)
_SAMPLED = 500
_SCORED = "Records are scored by the reward model, computed here; its time is not estimated."
_JUDGED = "The judge of `reward` is asked once about each record besides; its tokens are not estimated."
_INTERVAL = 1.96  # standard errors


@dataclass(frozen=True)
class Estimate:
    """A number with the interval in which it is with 95%."""

    expected: float
    low: float
    high: float

    @classmethod
    def of_total(cls, values: Sequence[float], total: float) -> "Estimate":
        """The sum over `total` seeds, from the values of a sample of them."""
        found = np.array(values, float)
        around = _INTERVAL * float(found.std(ddof=1)) / len(found) ** 0.5 if 1 < len(found) < total else 0.0
        mean = float(found.mean())
        return cls(mean * total, max(0.0, mean - around) * total, (mean + around) * total)

    def times(self, expected: float, low: float, high: float) -> "Estimate":
        """The product with another estimate."""
        return Estimate(self.expected * expected, self.low * low, self.high * high)


def plan_generation(settings: GenerateConfig, *, documents: float | None = None) -> Answer:
    """The plan of a generation. Reads a sample of the input, and asks nothing.

    documents: number of seeds of the same kind to plan for; default: those of the input.

    Raises:
        UserError: as the first checks of a run; or no row of the sample can be read.
    """
    job = GenerateJob(settings)
    asker, steps, model = job.asker, job.template.steps, settings.model
    sample = draw_sample(job.frozen, settings.limits)
    _, input, is_exact = planned_input(job.frozen, sample, settings.execution.unit_bytes, documents)
    total = input.rows * settings.samples
    sizes: list[float] = []
    requests: list[float] = []
    for source, table in sample.by_source().items():
        for fields in seeds_of(table.slice(0, _SAMPLED)):
            fields = {"id": "", **fields} | asker.drawn(fields["text"][:100], 0)
            row = Row("", source, "0.0.0", fields)
            try:
                made = asker.requests(row, steps[0], 0)
            except Refusal:
                made = []
            # Later steps have the prompts of the first, about.
            requests.append(len(made) * len(steps))
            texts = [message["content"] for one in made for message in one.plain["messages"]]
            sizes.append(len(steps) * sum(len(text.encode()) for text in texts))
    per_byte, per_answer, seen = _measured(job)
    inputs = Estimate.of_total(sizes, total).times(*per_byte)
    outputs = Estimate.of_total(requests, total).times(*per_answer)
    prices = model.request_prices
    cost = {
        name: (getattr(inputs, name) * prices.input + getattr(outputs, name) * prices.output) / 1e6
        for name in ("expected", "low", "high")
    } if prices else None  # fmt: skip
    found = {
        "name": settings.name,
        "seeds": total,
        "seeds_counted": is_exact,
        "sample": len(sizes),
        "requests": round(Estimate.of_total(requests, total).expected),
        "input_tokens": vars(inputs),
        "output_tokens": vars(outputs),
        "cost": cost,
        "is_folder": model.endpoint is None,
        "budget": settings.budget,
        "answers_measured": seen,
        "notes": [*job.frozen.notes, *([_JUDGED if settings.reward.judge else _SCORED] if settings.reward else [])],
    }
    return Answer(found, _text(found))


def _measured(job: GenerateJob) -> tuple[tuple[float, float, float], tuple[float, float, float], int]:
    """((tokens of a byte of prompts: expected, low, high), (tokens of an answer), number of answers that were seen)."""
    most = job.config.sampling.max_tokens
    bytes_of, input_tokens, output_tokens = job.answers.sizes(_SAMPLED)
    if len(output_tokens) < 5:
        expected, many, few = _TOKEN_BYTES
        return (1 / expected, 1 / many, 1 / few), (most / 2, 0.0, float(most)), len(output_tokens)
    ratio = sum(input_tokens) / max(1, sum(bytes_of))
    mean = Estimate.of_total(output_tokens, 1e12)
    answer = (mean.expected / 1e12, mean.low / 1e12, mean.high / 1e12)
    return (ratio, ratio * 0.95, ratio * 1.05), answer, len(output_tokens)


def _text(found: dict[str, Any]) -> str:
    def shown(one: dict[str, float]) -> str:
        expected, low, high = (count(round(one[name])) for name in ("expected", "low", "high"))
        return f"{expected} ({low} to {high})"

    cost = found["cost"]
    lines = [
        f"plan of {found['name']}",
        f"requests       {count(found['requests'])}, for {plural(found['seeds'], 'seed')}"
        + ("" if found["seeds_counted"] else ", estimated from the sizes of the files"),
        f"input tokens   {shown(found['input_tokens'])}",
        f"output tokens  {shown(found['output_tokens'])}",
        "cost           "
        + (
            f"{money(cost['expected'])} ({money(cost['low'])} to {money(cost['high'])}), without tries that fail"
            if cost
            else "none: the model is computed here; the time is not estimated"
            if found["is_folder"]
            else "not known: the model has no `prices`"
        ),
    ]
    if cost and found["budget"] is not None:
        within = (
            "is enough"
            if cost["high"] <= found["budget"]
            else "may be too small"
            if (cost["low"] <= found["budget"])
            else "is too small"
        )
        lines.append(f"budget         {money(found['budget'])} {within}")
    seen = found["answers_measured"]
    lines.append(
        f"Tokens are those of {plural(seen, 'answer')} in the answer store."
        if seen >= 5
        else "Tokens are estimated by bytes, and answers up to `sampling.max_tokens`: generate from a few documents "
        "first, with the same `name`, `output` and answer store, and plan again."
    )
    lines += [f"note: {one}" for one in found["notes"]]
    return "\n".join(lines)
