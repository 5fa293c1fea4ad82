"""The plan of a distillation before it runs: requests, tokens and cost of each judge. Sends no request."""

from typing import Any

from raymill.cluster.answer import Answer
from raymill.cluster.formats import count, money
from raymill.pipelines.distil.config import DistilConfig
from raymill.pipelines.distil.job import DistilJob
from raymill.pipelines.generate.plan import plan_generation

_TOKEN_CHARS = 4.0  # of texts of many languages by tokenizers of large vocabularies, about


def plan_distillation(settings: DistilConfig, *, documents: float | None = None) -> Answer:
    """The plan of a distillation. Reads a sample of the input, and sends no request.

    documents: number of documents of the same kind to plan for; default: those of the input.

    Raises:
        UserError: as the first checks of a run; or no document of the input can be read.
    """
    job = DistilJob(settings)
    job.check_config()
    configs = {name: judge.config.model_copy(update={"inputs": settings.inputs}) for name, judge in job.judges.items()}
    there = plan_generation(next(iter(configs.values())), documents=documents)["seeds"]
    asked = min(settings.sample, there)
    plans = {name: plan_generation(config, documents=asked) for name, config in configs.items()}
    costs = [plan["cost"]["expected"] for plan in plans.values() if plan["cost"]]
    cost = sum(costs) if costs else None
    found: dict[str, Any] = {"name": settings.name, "sample": asked, "cost": cost, "judges": plans}
    lines = [f"plan of {settings.name}: {count(asked)} documents are judged"]
    lines += [str(plan) for plan in plans.values()]
    if (model := settings.embedding) and model.endpoint:
        tokens = asked * settings.classifier.max_chars / _TOKEN_CHARS
        price = None if model.price is None else tokens * model.price / 1e6
        found["embedding"] = {"tokens": tokens, "cost": price}
        paid = "" if price is None else f", cost at most about {money(price)}"
        lines.append(f"text vectors by {model.name}: at most about {count(round(tokens))} tokens{paid}")
    if cost is not None and there > asked:
        lines.append(f"Asking about all {count(there)} documents would cost about {money(cost / asked * there)}.")
    return Answer(found, "\n".join(lines))
