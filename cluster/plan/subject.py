"""What a kind of run gives to its plan, and the plan of it as JSON values."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.artifact import Artifact
from cluster.cost import REQUEST_CORE_S, REQUEST_S, Cost
from cluster.plan.prices import Prices
from cluster.plan.trial import TryOut, sampled
from cluster.plan.whole import PlannedInput, Whole

# Seconds from the first call to the first unit, on machines that are running. Source: tests/benchmarks/README.md, 500
# MB on 2 cores.
START_S = 15.0
CORES = (2, 16, 64, 256)
MOST_CORES = 16  # of a machine
_GIB = 1 << 30


@dataclass(frozen=True)
class Subject:
    """A run to plan.

    Attributes:
        config: its settings. root: the output.
        noun: what a row is.
        exact: whether the number of rows is counted, or given.
        sample: what the sample is, as JSON values: documents, text_bytes, pieces, unreadable and others of the kind.
        try_out: runs all stages on a part of the sample.
        run_all: passes all stages of the run to `Whole.run`, after it has set what the sample does not show.
        outcome: what became of the sample, in a few words, and the same as JSON values.
        machine: bytes of memory of a machine of so many cores.
        assumed: sentences beside those of every plan; complete when the stages are planned.
    """

    config: Any
    root: str
    noun: str
    input: PlannedInput
    exact: bool
    sample: Mapping[str, Any]
    try_out: TryOut
    run_all: Callable[[Whole], object]
    outcome: Callable[[Mapping[str, Artifact]], tuple[str, Mapping[str, Any]]]
    machine: Callable[[int], int]
    assumed: Sequence[str] = ()


def plan_of(subject: Subject, cores: Sequence[int], prices: Prices) -> dict[str, Any]:
    """The plan as JSON values. Runs the sample in this process.

    Raises:
        UserError: as the run.
    """
    with sampled(subject.config.store, subject.try_out) as found:
        whole = Whole(subject.root, subject.input, found)
        subject.run_all(whole)
        outcome, numbers = subject.outcome(found.artifacts)
    input = subject.input
    return {
        "kind": subject.config.kind,
        "name": subject.config.name,
        "noun": subject.noun,
        "sample": {**subject.sample, **numbers, "outcome": outcome},
        "input": {
            "documents": input.rows,
            "exact": subject.exact,
            "text_bytes": round(input.text_bytes),
            "stored_bytes": round(input.stored_bytes),
            "files": input.files,
            "units": len(input.weights),
        },
        **whole.assumed,
        **costs_of(whole.costs, subject.machine, cores, prices),
        "assumed": [*ASSUMED, *subject.assumed],
    }


def costs_of(
    stages: Sequence[Cost], machine: Callable[[int], int], cores: Sequence[int], prices: Prices
) -> dict[str, Any]:
    """What stages take, and all of them on each number of cores, as JSON values. machine: as of a Subject."""
    return {
        "stages": [{name: value for name, value in asdict(one).items() if name not in _NOT_SHOWN} for one in stages],
        "core_s": sum(stage.core_s for stage in stages),
        "shuffle_bytes": sum(stage.written for stage in stages if "group." in stage.name),
        "store_money": store_money(stages, prices),
        "on_cores": [on_cores(machine, stages, one, prices) for one in cores],
        "prices": prices.model_dump(),
    }


_NOT_SHOWN = ("rows", "counters")
ASSUMED = (
    "The input is like the sample: speed, size, shares and languages.",
    "Cores are as fast as those of this machine; grouping is as fast as in tests/benchmarks/README.md.",
    "Units of a stage take equally long, and nothing fails.",
    f"A request to an object store takes {1000 * REQUEST_S:g} ms, of them {1000 * REQUEST_CORE_S:g} ms of a core; the "
    "network is not the bottleneck.",
    f"The machines are running; the start of Ray takes {START_S:g} s. The report at the end (up to 2 minutes for "
    "20,000 units) is not included.",
)


def on_cores(machine: Callable[[int], int], stages: Sequence[Cost], cores: int, prices: Prices) -> dict[str, float]:
    """Time and money on so many cores, which all run from the first stage to the last. machine: as of a Subject."""
    seconds = START_S + sum(stage.seconds(cores) for stage in stages)
    of_machine = min(cores, MOST_CORES)
    memory = machine(of_machine) / _GIB
    hourly = cores * prices.core_hour + math.ceil(cores / of_machine) * memory * prices.gib_hour
    money = seconds / 3600 * hourly + store_money(stages, prices)
    return {"cores": cores, "seconds": seconds, "machine_gib": memory, "money": money}


def store_money(stages: Sequence[Cost], prices: Prices) -> float:
    """The cost of requests and of bytes that leave the store."""
    gets, puts = sum(stage.gets for stage in stages), sum(stage.puts for stage in stages)
    read = sum(stage.read for stage in stages if stage.gets)
    return gets / 1000 * prices.thousand_gets + puts / 1000 * prices.thousand_puts + read / 1e9 * prices.egress_gb
