"""The plan and the dry run of a run file, made of those of its steps. Writes nothing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymill.cluster.answer import Answer
from raymill.cluster.chain.at_once import chosen, fit, reserved
from raymill.cluster.chain.config import ChainConfig
from raymill.cluster.chain.job import OPEN, ChainJob, naming
from raymill.cluster.chain.planned_time import PlannedStep, seconds_together
from raymill.cluster.formats import duration, plural
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.cluster.frame.job import RunJob
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
    """The plans of the steps that can start now, and the time and money of all. Other steps are listed as unknown.

    Those that can start now need none of each other, so they are made at the same time where their resources fit.

    Args:
        gpu, gpu_memory_gib, peak_tflops, mfu, price_per_gpu_hour: for the steps whose kind takes them.

    Returns:
        {kind, name, steps, unknown, on_cores}. steps: name -> plan of its kind; null if finished or not made. unknown:
        name -> reason. on_cores: for each number of cores the time of the known steps by the rule of a run
        (`execution.steps_at_once`), and the sum of their money; null where a plan states none.

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
    known = {name: plan for name, plan in steps.items() if plan}
    jobs = {step.name: step.job for step in job.states if step.job is not None}
    totals = [_total(known, jobs, count, settings.execution.steps_at_once) for count in cores]
    lines += ["", f"{'the steps that are known' if unknown else 'all steps'}, {_at_once(settings, len(known))}"]
    lines += [f"  {one['cores']:>5,} cores  {duration(one['seconds']):<14}{_money(one['money'])}" for one in totals]
    if without := [name for name, plan in known.items() if _on(plan, cores[0]).get("seconds") is None]:
        lines.append(f"  time not known: {plural(len(without), 'plan')} without one ({', '.join(without)})")
    values = {"kind": settings.kind, "name": settings.name, "steps": steps, "unknown": unknown, "on_cores": totals}
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


def _at_once(settings: ChainConfig, count: int) -> str:
    """The rule by which the time of several steps is computed, in words."""
    most = settings.execution.steps_at_once
    if most == 1 or count < 2:
        return "one after the other"
    bound = f"at most {most}" if most else "as many as fit the cores, the memory and the GPUs of the largest step"
    return f"{bound} at the same time; money is the sum"


def _total(
    plans: Mapping[str, Mapping[str, Any]], jobs: Mapping[str, RunJob[Any]], cores: int, most: int | None
) -> dict[str, Any]:
    """Time and money of the steps on this number of cores. most: `execution.steps_at_once`.

    GPUs: those that `raymill submit` requests, enough for the largest step, or for `most` of them. Memory: of this
    machine, for no more cores than it has.
    """
    found = {name: _on(plan, cores) for name, plan in plans.items()}
    amounts = [_amount(one.get("money", one.get("cost"))) for one in found.values()]
    seconds = None
    if all(one.get("seconds") is not None for one in found.values()):
        here = cores <= (os.cpu_count() or 1)
        steps = {
            name: PlannedStep(
                one["seconds"],
                None if jobs[name].all_at_once else plans[name].get("core_s", one["seconds"]),
                reserved(jobs[name], memory=here),
            )
            for name, one in found.items()
        }
        gpus = sorted(step.reserved.get("GPU", 0) for step in steps.values())
        room: dict[str, float] = {"CPU": cores, "GPU": sum(gpus[-(most or 1) :])}
        if here:
            room["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

        def fits(names: Sequence[str]) -> bool:
            return fit([steps[name].reserved for name in names], room)

        seconds = seconds_together(steps, cores, lambda waiting, running: chosen(waiting, running, most, fits))
    money = None if any(one is None for one in amounts) else sum(one for one in amounts if one is not None)
    return {"cores": cores, "seconds": seconds, "money": money}


def _on(plan: Mapping[str, Any], cores: int) -> Mapping[str, Any]:
    """The numbers of a plan for this number of cores. A plan without `on_cores` has one for all."""
    return next((one for one in plan.get("on_cores", ()) if one["cores"] == cores), plan)


def _amount(cost: Any) -> float | None:
    """The expected cost of a plan, which may state bounds beside it."""
    return cost["expected"] if isinstance(cost, Mapping) else cost


def _money(amount: float | None) -> str:
    return "not known" if amount is None else money(amount)
