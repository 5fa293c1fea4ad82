"""The machines of a preparation."""

import math

from cluster.formats import plural
from cluster.plan.sample import document_count
from cluster.readers.units import InputManifest
from cluster.submit.work import GIB, RAY_DISK, RAY_MEMORY, USABLE_MEMORY, Machines, whole_gib
from pipelines.curate.work import CORES_OF_A_MACHINE, MOST_MACHINES, cores_of
from pipelines.dedup.cost import memory_to_group
from pipelines.dedup.settings import Dedup
from pipelines.prepare.assess.job import assess_memory
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.stages.collect import collect_memory, rules_memory
from pipelines.prepare.stages.relevance import relevance_memory
from pipelines.prepare.stages.split_stage import split_memory
from pipelines.prepare.tables.stage import tables_memory

# Of text, by a core, for a whole run with its assessment: 96 MB of 200,000 records in 162 core-seconds on 2 workers
# (`RECORDS=200000 WORKERS=2 python -m tests.benchmarks prepare`, 2026-11-23).
_BYTES_PER_CORE_SECOND = 0.59e6


def machines(config: PrepareConfig, inputs: InputManifest, seconds: float | None = None) -> Machines:
    """The machines that do the units of a run."""
    cores, why = cores_of(inputs, seconds, _BYTES_PER_CORE_SECOND)
    cpus = min(CORES_OF_A_MACHINE, max(2, cores))
    records = document_count(inputs)
    task = collect_memory(config.limits) + rules_memory(config.store, config.validation)
    memory, largest = machine_memory(config, inputs, cpus, records)
    unit = max((one.bytes for one in inputs.units), default=0)
    return Machines(
        name="cpu",
        cpus=cpus,
        memory=memory,
        disk=whole_gib(4 * cpus * unit + RAY_DISK),
        largest_task=largest,
        most=min(MOST_MACHINES, max(1, math.ceil(cores / cpus))),
        reasons={
            "cpus": f"{cpus}, at most {CORES_OF_A_MACHINE} a machine; {plural(cores, 'core')} wanted: {why}",
            "memory": f"{cpus} tasks of {task / GIB:.1f} GiB, the largest of about {records:,} records has "
            f"{largest / GIB:.1f} GiB; {RAY_MEMORY // GIB} GiB for Ray, a tenth free",
            "disk": f"{cpus} units of {unit / (1 << 20):.1f} MiB and what they write, {RAY_DISK // GIB} GiB for Ray",
        },
    )


def machine_memory(config: PrepareConfig, inputs: InputManifest, cpus: int, records: int) -> tuple[int, int]:
    """(bytes of a machine with so many cores, bytes of its largest task)."""
    task = collect_memory(config.limits) + rules_memory(config.store, config.validation)
    # The assessment compares questions and answers in any case.
    grouping = memory_to_group(records, config.dedup or Dedup())
    largest = max(task, tables_memory(config.inputs, inputs), split_memory(records), grouping)
    relevance = relevance_memory(config.validation.answer_relevance, config.limits)
    largest = max(largest, assess_memory(config, records), relevance)
    return whole_gib((max(cpus * task, largest) + RAY_MEMORY) / USABLE_MEMORY), largest
