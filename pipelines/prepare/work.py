"""The machines of a preparation."""

from cluster.plan.sample import document_count
from cluster.readers.units import InputManifest
from cluster.submit.work import GIB, RAY_DISK, RAY_MEMORY, USABLE_MEMORY, Machines, machines_for, whole_gib
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
    records = document_count(inputs)
    return machines_for(inputs, seconds, _BYTES_PER_CORE_SECOND, lambda cpus: machine_of(config, inputs, cpus, records))


def machine_of(config: PrepareConfig, inputs: InputManifest, cpus: int, records: int) -> Machines:
    """A machine for a run. cpus: its cores. records: those of the run."""
    task = collect_memory(config.limits) + rules_memory(config.store, config.validation)
    largest = max(
        task,
        tables_memory(config.inputs, inputs),
        split_memory(records),
        memory_to_group(records, config.dedup or Dedup()),  # the assessment compares questions and answers in any case
        assess_memory(config, records),
        relevance_memory(config.validation.answer_relevance, config.limits),
    )
    unit = max((one.bytes for one in inputs.units), default=0)
    return Machines(
        name="cpu",
        cpus=cpus,
        memory=whole_gib((max(cpus * task, largest) + RAY_MEMORY) / USABLE_MEMORY),
        disk=whole_gib(4 * cpus * unit + RAY_DISK),
        largest_task=largest,
        reasons={
            "memory": f"{cpus} tasks of {task / GIB:.1f} GiB, the largest of about {records:,} records has "
            f"{largest / GIB:.1f} GiB; {RAY_MEMORY // GIB} GiB for Ray, a tenth free",
            "disk": f"{cpus} units of {unit / (1 << 20):.1f} MiB and what they write, {RAY_DISK // GIB} GiB for Ray",
        },
    )
