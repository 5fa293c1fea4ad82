"""The plan and the dry run of a run file, made of those of its steps. Writes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymill.cluster.answer import Answer
from raymill.cluster.chain.config import ChainConfig
from raymill.cluster.chain.job import OPEN, ChainJob, naming
from raymill.cluster.formats import duration
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.plan.plan import CORES, money, plan_settings, taken_by
from raymill.cluster.wording import for_the_caller


def plan_chain(
    settings: ChainConfig,
    *,
    cores: Sequence[int] = CORES,
    prices: str | None = None,
    gpu: str | None = None,
    gpu_memory_gib: float | None = None,
    peak_tflops: float | None = None,
    mfu: float | None = None,
    price_per_gpu_hour: float | None = None,
) -> Answer:
    """The plans of the steps that can start now, and their sum. Other steps are listed as unknown.

    Args:
        gpu, gpu_memory_gib, peak_tflops, mfu, price_per_gpu_hour: for the steps whose kind takes them.

    Returns:
        {kind, name, steps, unknown, on_cores}. steps: name -> plan of its kind; null if finished or not made. unknown:
        name -> reason. on_cores: sums for each number of cores; `seconds` and `money` are null where a plan
        states none.

    Raises:
        UserError: as the first checks of a run.
    """
    given: dict[str, Any] = {
        "cores": cores, "prices": prices, "gpu": gpu, "gpu_memory_gib": gpu_memory_gib, "peak_tflops": peak_tflops,
        "mfu": mfu, "price_per_gpu_hour": price_per_gpu_hour,
    }  # fmt: skip
    job = ChainJob(settings)
    steps: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    lines = [f"plan of {settings.name}"]
    for step in job.states:
        if step.state == OPEN and step.job is not None:
            kind = kind_of(step.job.kind)
            options = {name: value for name, value in given.items() if value is not None and name in taken_by(kind)}
            with naming(settings, step.name):
                found = (kind.own_plan or plan_settings)(step.job.config, **options)
            steps[step.name] = found
            lines += ["", f"step {step.name} ({kind.name})", *(f"  {line}" for line in str(found).splitlines())]
        elif step.state == OPEN:
            unknown[step.name] = step.reason
            lines += ["", f"step {step.name}: unknown, as it {step.reason}"]
        else:
            steps[step.name] = None
            lines += ["", f"step {step.name}: {step.reason or step.state}, nothing to do"]
    sums = [_sum([one for one in steps.values() if one], count) for count in cores]
    lines += ["", f"sum of {'the steps that are known' if unknown else 'all steps'}, one after the other"]
    lines += [f"  {one['cores']:>5,} cores  {duration(one['seconds']):<14}{_money(one['money'])}" for one in sums]
    values = {"kind": settings.kind, "name": settings.name, "steps": steps, "unknown": unknown, "on_cores": sums}
    return Answer(values, "\n".join(lines))


def dry_run(settings: ChainConfig, address: str | None = None) -> Iterator[str]:
    """Lines about each step: its state, and the dry run of its kind. Errors about outputs of steps that do not exist
    yet are left out.

    Raises:
        UserError: as the run of a step; the message names it.
    """
    job = ChainJob(settings)
    list(job.walk())  # refuses steps of other settings
    waiting = [one.name for one in job.states if one.run is None]
    yield for_the_caller(f"output   {job.root}")
    for step in job.states:
        kind = settings.steps[step.name]["kind"]
        yield f"step {step.name} ({kind}): {step.state}{f', {step.reason}' if step.reason else ''}"
        if step.state != OPEN or step.name not in job.jobs:
            continue
        one, lines = job.jobs[step.name], list[str]()
        with naming(settings, step.name), job.missing_outputs_allowed(waiting):
            lines += dry_run_lines(one.config, address)
        yield from (f"  {line}" for line in "\n".join(lines).splitlines())


def _sum(plans: Sequence[Mapping[str, Any]], cores: int) -> dict[str, Any]:
    """Sums of the seconds and money of plans on this number of cores. A plan without `on_cores` has one for all."""
    seconds: list[float | None] = []
    amounts: list[float | None] = []
    for plan in plans:
        found = next((one for one in plan.get("on_cores", ()) if one["cores"] == cores), plan)
        seconds.append(found.get("seconds"))
        amounts.append(found.get("money", found.get("cost")))
    return {"cores": cores, "seconds": _total(seconds), "money": _total(amounts)}


def _total(numbers: Sequence[float | None]) -> float | None:
    known = [one for one in numbers if one is not None]
    return sum(known) if len(known) == len(numbers) else None


def _money(amount: float | None) -> str:
    return "not known" if amount is None else money(amount)
