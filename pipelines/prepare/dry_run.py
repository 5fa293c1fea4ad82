"""`raymill prepare --dry-run`: what a run would read and make, and what becomes of a sample of its records."""

import math
import tempfile
from collections import Counter
from collections.abc import Mapping

from cluster import logs
from cluster.errors import DataError
from cluster.examples.splits import SPLITS
from cluster.formats import plural
from cluster.output_folder import check_output
from cluster.plan.sample import Sample, draw_sample
from cluster.plan.trial import Trial
from cluster.readers.find import skipped_text
from pipelines.curate.dry_run import changed, first_look, output_state, settings_text
from pipelines.kernel_cache import say_if_compiling
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.job import (
    PrepareJob,
    pseudonym_key,
    refuse_unfetched,
)
from pipelines.prepare.plan import Fate, try_out
from pipelines.prepare.sources import notes_on_columns
from pipelines.prepare.stages.collect import CollectSettings

_PIECE_BYTES = 1 << 15


def print_dry_run(config: PrepareConfig, address: str | None = None) -> None:
    """Print what a run would read and make. Checks everything that a run checks before it starts Ray, and prepares a
    sample of at most half a megabyte in this process.

    Raises:
        UserError: as `RunJob.run` does; more rows of the sample are no records than `max_bad_documents` allows.
    """
    job = PrepareJob(config)
    job.require_extras()
    job.key = pseudonym_key(config)
    refuse_unfetched(config)
    found, config, store, root = job.find(), job.named, job.store, job.root
    inputs, settings = job.frozen, job.collecting
    state = output_state(store, root, found.run is not None, found.damage_text, job.stages)
    if found.run is None:
        check_output(store, root)
    size = sum(unit.bytes for unit in inputs.units)
    files, units = plural(len(inputs.files), "file"), plural(len(inputs.units), "unit")
    print(f"inputs   {files}, {units}, about {size / 1e6:,.1f} MB of text")
    for line in _fields(config, settings):
        print(f"fields   {line}")
    print(f"records  {_records(config)}")
    print(f"split    {_split(config)}")
    print(f"output   {root}: {state}")
    for source, skipped in inputs.skipped.items():
        if skipped:
            print(f"skipped  {source}: {skipped_text(skipped)}")
    on_columns = notes_on_columns(config.inputs, settings.fields, config.validation.require)
    for note in [*inputs.notes, *on_columns, *first_look(inputs, config.limits).notes]:
        print(f"note     {note}")
    with tempfile.TemporaryDirectory(prefix="raymill-dry-run-") as folder:
        say_if_compiling()
        sample = draw_sample(inputs, config.limits, _PIECE_BYTES)
        fate = Fate.of(try_out(config, settings, sample, Trial(folder, store)), sample.documents)
    print(f"sample   {fate.text}")
    everything = job.config.model_dump(mode="json", by_alias=True)
    if logs.is_verbose():
        print("\nEvery setting:\n" + settings_text(everything))
    else:
        print("\nSettings that differ from the defaults (--verbose shows all):\n" + settings_text(_changed(job.config)))
    if found.run is None:
        _refuse_too_many(config.execution.max_bad_documents, sample, fate)


def _refuse_too_many(allowed: float, sample: Sample, fate: Fate) -> None:
    """
    Raises:
        DataError: more rows of the sample are no records than this share, so that the run would probably stop.
    """
    rows, bad = fate.rows + sample.unreadable, fate.quarantined + sample.unreadable
    if bad > allowed * rows:
        problems = Counter(fate.problems) + Counter({"not readable": sample.unreadable})
        found = ", ".join(f"{problem} {number:,}" for problem, number in problems.most_common())
        raise DataError(
            f"{bad:,} of {plural(rows, 'row')} of the sample are no records ({found}): {bad / rows:.1%}, and "
            f"execution.max_bad_documents allows {allowed:.1%}. If the others are like them, the run stops after "
            "reading. Mend the input, or allow more with "
            f"-o execution.max_bad_documents={math.ceil(100 * bad / rows) / 100}."
        )


def _fields(config: PrepareConfig, settings: CollectSettings) -> list[str]:
    """Which field of a record comes from which column, a line for each source."""
    lines = []
    for source, fields in zip(config.inputs, settings.fields, strict=True):
        if source.table:
            lines.append(f"{source.source}: a template of {_named(source.table.types)}")
        else:
            lines.append(f"{source.source}: {_named(fields.columns)}")
    return lines


def _named(columns: Mapping[str, str]) -> str:
    return ", ".join(name if name == value else f"{name} ({value})" for name, value in columns.items())


def _records(config: PrepareConfig) -> str:
    words = f"of shape {config.records.shape}, by rules"
    if config.clean.redact:
        words += f", without {', '.join(config.clean.redact)}"
    if config.dedup is None:
        words += "; duplicates stay"
    return words + (f"; {config.curriculum.stages} stages from easy to hard" if config.curriculum else "")


def _split(config: PrepareConfig) -> str:
    split = config.split
    words = ", ".join(f"{name} {part:.0%}" for name, part in zip(SPLITS, split.shares, strict=True))
    for what, names in (("by strata of", split.stratify), ("groups of", split.group)):
        words += f"; {what} {', '.join(names)}" if names else ""
    words += f"; oldest first, by {split.by_time}" if split.by_time else ""
    return words + (f"; records of {plural(len(split.keep), 'earlier run')} stay where they are" if split.keep else "")


def _changed(config: PrepareConfig) -> dict[str, object]:
    """The shortest config with these settings."""
    now = config.model_dump(mode="json", by_alias=True, exclude={"inputs"})
    fewest = PrepareConfig.model_validate(
        {"kind": config.kind, "name": config.name, "output": config.output, "inputs": [{"path": "x"}]}
    )
    found = changed(now, fewest.model_dump(mode="json", by_alias=True, exclude={"inputs"}))
    inputs = [one.model_dump(mode="json", exclude_defaults=True) for one in config.inputs]
    return {"kind": config.kind, "name": config.name, "inputs": inputs, "output": config.output} | found
