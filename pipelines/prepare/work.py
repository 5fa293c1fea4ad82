"""What a prepare config asks of a cluster: the id of its run, CPU machines, and files that must exist."""

import math
from typing import Any

from cluster.artifact import fingerprint
from cluster.dataset_versions import refuse_to_replace_tagged
from cluster.formats import plural
from cluster.plan.sample import document_count
from cluster.readers.freeze import freeze_listing
from cluster.readers.units import InputManifest
from cluster.record import OtherSettings
from cluster.run import RUN_MANIFEST, RunFolder
from cluster.store import paths
from cluster.submit.job_config import job_config
from cluster.submit.work import GIB, RAY_DISK, RAY_MEMORY, USABLE_MEMORY, Machines, Work, head_machine, whole_gib
from pipelines.curate.work import CORES_OF_A_MACHINE, MOST_MACHINES, cores_of
from pipelines.dedup.cost import memory_to_group
from pipelines.dedup.settings import Dedup
from pipelines.prepare.assess.job import assess_memory
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.fetch.snapshot import is_fetched
from pipelines.prepare.job import listed_inputs, result_settings
from pipelines.prepare.named_fields import with_named_columns
from pipelines.prepare.stages.collect import collect_memory, rules_memory
from pipelines.prepare.stages.relevance import relevance_memory
from pipelines.prepare.stages.split_stage import split_memory
from pipelines.prepare.tables.stage import tables_memory

# Of text, by a core, for a whole run with its assessment: 96 MB of 200,000 records in 162 core-seconds on 2 workers
# (`RECORDS=200000 WORKERS=2 python -m tests.benchmarks prepare`, 2026-11-23).
_BYTES_PER_CORE_SECOND = 0.59e6


def work(config: PrepareConfig, seconds: float | None = None, *, replace: bool = False) -> Work:
    """The run of a config, and the machines for it. Lists the inputs; reads no records but those of the first lines.

    Nothing is fetched here. The id of a run with sources that are not files follows from their settings alone, so that
    it is the same before and after they are fetched; their size is not known before.

    Args:
        seconds: wanted duration; None: as many machines as the units keep busy.
        replace: the job may replace a finished run with other settings. Nothing is removed here.

    Raises:
        UserError: as the first checks of a run: an input is missing, the output is among them or holds another run.
        ConfigError: the config holds secrets.
    """
    plain = job_config(config)
    store, root = config.store, paths.absolute(config.output)
    given, config = config, with_named_columns(config)
    files = [one for one in config.inputs if not one.connection]
    fetched = all(is_fetched(one, store, root) for one in config.inputs if one.connection)
    _, collecting, listing = listed_inputs(config, None if fetched else files)
    inputs = freeze_listing(listing, config.execution.unit_bytes, config.execution.max_bad_files)
    plain["output"] = root
    settings = result_settings(given, collecting, listing)
    finished = fetched and _is_finished(RunFolder(store, root), settings, listing.fingerprint, replace)
    depends_on = [settings, inputs.fingerprint]
    if len(files) < len(config.inputs):
        depends_on = [settings | {"columns": {}}, listed_inputs(config, files)[2].fingerprint]
    first = {file.source: file.uri for file in reversed(inputs.files) if file.problem is None}
    return Work(
        kind=config.kind,
        verb="prepare",
        name=config.name,
        config=plain,
        result=fingerprint(depends_on),
        output=root,
        finished=finished,
        head=head_machine(4 * len(inputs.units)),
        workers=(machines(config, inputs, seconds),),
        variables=config.variables,
        must_exist=(
            *first.values(),
            *config.validation.files,
            *([config.assess.sentiment.model] if config.assess.sentiment else []),
            *([config.assess.predictions_file] if config.assess.predictions_file else []),
            *(paths.join(run, RUN_MANIFEST) for run in config.split.keep),
        ),
        replace=replace,
    )


def _is_finished(folder: RunFolder, settings: dict[str, Any], inputs: str, replace: bool) -> bool:
    """Whether the output has this result. With `replace`, a finished run with other settings is no error."""
    try:
        return folder.find(settings, inputs, replace=False) is not None
    except OtherSettings:
        if not replace:
            raise
        refuse_to_replace_tagged(folder)
        return False


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
