"""What a distillation takes, before it runs: the requests, tokens and money of each judge. Asks nothing."""

from raymill.cluster.answer import Answer
from raymill.cluster.formats import count
from raymill.pipelines.distil.config import DistilConfig
from raymill.pipelines.distil.job import DistilJob
from raymill.pipelines.generate.plan import plan_generation


def plan_distillation(settings: DistilConfig, *, documents: float | None = None) -> Answer:
    """The plan of a distillation. Reads some of the input, and asks nothing.

    documents: number of documents of the same kind to plan for; default: those of the input.

    Raises:
        UserError: as the first checks of a run; or no document of the input can be read.
    """
    plans = {}
    for name, judge in DistilJob(settings).judges.items():
        over_inputs = judge.config.model_copy(update={"inputs": settings.inputs})
        there = plan_generation(over_inputs, documents=documents)["seeds"]
        asked = min(settings.sample, there)
        plans[name] = plan_generation(over_inputs, documents=asked)
    costs = [plan["cost"]["expected"] for plan in plans.values() if plan["cost"]]
    cost = sum(costs) if costs else None
    found = {"name": settings.name, "sample": asked, "cost": cost, "judges": plans}
    lines = [f"plan of {settings.name}: {count(asked)} documents are judged"]
    lines += [str(plan) for plan in plans.values()]
    if cost is not None and there > asked:
        lines.append(f"Asking about all {count(there)} documents would cost about {cost / asked * there:,.4g}.")
    return Answer(found, "\n".join(lines))
