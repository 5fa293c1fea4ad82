"""The machines of a curation, and the files that must exist before it is submitted."""

from cluster.plan.sample import document_count
from cluster.readers.units import InputManifest
from cluster.run import RUN_MANIFEST
from cluster.store import paths
from cluster.submit.work import (
    GIB,
    RAY_DISK,
    RAY_MEMORY,
    USABLE_MEMORY,
    Machines,
    machines_for,
    whole_gib,
)
from pipelines.curate.config import CurateConfig
from pipelines.curate.stages.boilerplate import keys_memory
from pipelines.curate.stages.repeats import windows_memory
from pipelines.curate.stages.shared_keys import SLICE_MEMORY
from pipelines.curate.stages.write_corpus import select_memory
from pipelines.dedup.cost import memory_to_group
from pipelines.memory import files_memory, task_memory
from pipelines.rules.rule import files_read_by

# Bytes of text that a core curates in a second. Source: tests/benchmarks/README.md, `raymill curate` of 500 MB on 2
# cores, 30 s with Ray's start.
_BYTES_PER_CORE_SECOND = 8.3e6


def machines(config: CurateConfig, inputs: InputManifest, seconds: float | None = None) -> Machines:
    """The machines that do the units of a run."""
    documents, unit = document_count(inputs), max(unit.bytes for unit in inputs.units)
    return machines_for(inputs, seconds, _BYTES_PER_CORE_SECOND, lambda cpus: machine_of(config, cpus, documents, unit))


def machine_of(config: CurateConfig, cpus: int, documents: int, unit_bytes: int) -> Machines:
    """A machine for a run. cpus: its cores. documents: those of the run. unit_bytes: text of the largest unit."""
    document = config.limits.max_document_bytes
    files = files_memory(config.store, (config.language, *config.active_rules()))
    task = task_memory(config.limits) + files
    if config.boilerplate or config.repeats:
        writing = select_memory(config.limits, config.corpus.file_mib << 20, cuts=True)
        counting = (windows_memory if config.repeats else keys_memory)(config.limits, unit_bytes)
        task = max(task, counting, writing, SLICE_MEMORY)
    largest = task
    memory_reason = (
        f"{cpus} tasks of {task / GIB:.2f} GiB (measured; limits.max_document_bytes is {document / 1e6:g} MB"
        + (f"; {files / GIB:.2f} GiB of it for models and lists)" if files else ")")
    )
    scratch = cpus * task_scratch(config, unit_bytes)
    disk_reason = (
        f"{cpus} units of {unit_bytes / (1 << 20):.1f} MiB, with their attributes or 1.5 corpus files, before their "
        "upload"
    )
    if config.dedup:
        largest = max(task, memory_to_group(documents, config.dedup))
        if largest > cpus * task:
            memory_reason = f"a task of grouping about {documents:,} documents has {largest / GIB:.1f} GiB"
    memory = whole_gib((max(cpus * task, largest) + RAY_MEMORY) / USABLE_MEMORY)
    return Machines(
        name="cpu",
        cpus=cpus,
        memory=memory,
        disk=whole_gib(scratch + RAY_DISK),
        largest_task=largest,
        reasons={
            "memory": f"{memory_reason}; {RAY_MEMORY // GIB} GiB for Ray, a tenth free",
            "disk": f"{disk_reason}; {RAY_DISK // GIB} GiB for Ray's logs",
        },
    )


def task_scratch(config: CurateConfig, unit_bytes: int) -> int:
    """Bytes of local disk of a task of `measure` or `select`. unit_bytes: text of its unit."""
    return unit_bytes + int(1.5 * config.corpus.file_mib * (1 << 20))


def must_exist(config: CurateConfig, inputs: InputManifest) -> tuple[str, ...]:
    """The first file of each input, the models and lists of the rules, and the manifests of earlier runs."""
    first = {file.source: file.uri for file in reversed(inputs.files) if file.problem is None}
    named = [first[one.source] for one in config.inputs if one.source in first]
    for settings in (config.language, *config.active_rules()):
        named += [paths.absolute(file) for file in files_read_by(settings)]
    named += [paths.join(run, RUN_MANIFEST) for run in (config.dedup.against if config.dedup else ())]
    return tuple(dict.fromkeys(named))
