"""What a preparation takes, before it runs: `raymill plan` of a config of `kind: prepare`. And all of its stages on a
sample of the input, which the dry run shows too."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.examples.content import FIELDS
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import plural, share
from raymill.cluster.plan.plan import Subject
from raymill.cluster.plan.sample import Sample, a_unit_for_each_file, draw_sample, planned_input
from raymill.cluster.plan.trial import Trial
from raymill.cluster.plan.whole import Whole
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.readers.quarantine import allow_more
from raymill.cluster.readers.reader import what_to_correct
from raymill.cluster.readers.units import InputManifest
from raymill.pipelines.dedup.cost import LEAST_DUPLICATES
from raymill.pipelines.kernel_cache import say_if_compiling
from raymill.pipelines.prepare.assess.job import assess_stages
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import PrepareJob, listed_inputs, machine_of, refuse_unfetched, run_stages
from raymill.pipelines.prepare.stages.collect import QUARANTINE, CollectSettings
from raymill.pipelines.prepare.stages.write import REMOVED

_PIECE_BYTES = 1 << 18
_DRY_PIECE_BYTES = 1 << 15
_NAMED_REASONS = 4


def subject(config: PrepareConfig, documents: float | None = None) -> Subject:
    """The run of a config, to plan it. Lists the inputs, and reads a sample of some 4 MB.

    documents: number of rows of the same kind to plan for; default: those of the input.

    Raises:
        UserError: as the first checks of a run; or no row of the sample can be read.
    """
    job = PrepareJob(config)
    job.require_extras()
    refuse_unfetched(config)
    config, settings, frozen = job.named.without_endpoints(), job.collecting, job.frozen
    say_if_compiling()
    sample = draw_sample(frozen, config.limits, _PIECE_BYTES, content=_content(config, settings, frozen))
    inputs, input, is_exact = planned_input(frozen, sample, config.execution.unit_bytes, documents)

    def try_out_part(trial: Trial, every: int) -> Mapping[str, Artifact]:
        return try_out(config, settings, sample, trial, every)

    def run_all(whole: Whole) -> None:
        lenient = config.execution.model_copy(update={"max_bad_documents": 1.0})
        update = {"split": config.split.model_copy(update={"keep": ()}), "execution": lenient}
        whole_config = config.model_copy(update=update)
        artifacts = run_stages(whole_config, settings, inputs, {}, whole.run)
        assess_stages(whole_config, None, job.root, [artifacts[name] for name in SPLITS], whole.run)

    def outcome(found: Mapping[str, Artifact]) -> tuple[str, Mapping[str, Any]]:
        fate = Fate.of(found, sample.documents)
        return fate.text, {"unusable": _unusable(sample, fate) / (fate.rows + sample.unreadable)}

    return Subject(
        config, job.root, "row", input, is_exact, sample.numbers, try_out_part, run_all, outcome,
        lambda cores: machine_of(config, inputs, cores, input.rows).memory,
        [f"At least {LEAST_DUPLICATES:.0%} of the texts that are compared are duplicates, since a sample has fewer."],
    )  # fmt: skip


def _content(config: PrepareConfig, settings: CollectSettings, frozen: InputManifest) -> dict[str, list[str]]:
    """The columns of the content of each source, besides the main one."""
    texts = {
        field.name for field in frozen.carried if pa.types.is_large_string(field.type) or pa.types.is_string(field.type)
    }
    return {
        source.source: [
            column
            for field, column in fields.columns.items()
            if field in FIELDS and column != fields.main and column in texts
        ]
        for source, fields in zip(config.inputs, settings.fields, strict=True)
    }


@dataclass(frozen=True)
class Fate:
    """What becomes of the rows of a sample. problems: of rows that are no records. reasons: of removed records."""

    rows: int
    kept: int
    problems: Mapping[str, int]
    reasons: Mapping[str, int]

    @classmethod
    def of(cls, artifacts: Mapping[str, Artifact], rows: int) -> "Fate":
        """artifacts: of the run on the sample."""
        problems = Counter[str]()
        for table in artifacts[QUARANTINE].tables(["problem"]):
            problems.update(table["problem"].to_pylist())
        removed = artifacts[REMOVED].manifest.counters
        reasons = {
            key.rpartition("/")[2]: int(n)
            for key, n in removed.items()
            if key.startswith("removed/") and not key.startswith("removed/augment/")
        }
        more = removed.get("repeated", 0) + removed.get("augmented", 0)
        kept = sum(artifacts[name].manifest.rows for name in SPLITS) - int(more)
        return cls(rows, kept, problems, reasons)

    @property
    def text(self) -> str:
        """A sentence."""

        def named(counts: Mapping[str, int]) -> str:
            ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
            more = f", +{len(ranked) - _NAMED_REASONS} more" if len(ranked) > _NAMED_REASONS else ""
            return ", ".join(f"{reason} {count:,}" for reason, count in ranked[:_NAMED_REASONS]) + more

        quarantined, removed = sum(self.problems.values()), sum(self.reasons.values())
        parts = [f"{share(self.kept, self.rows)} are in the data set"]
        if quarantined:
            parts.append(f"{share(quarantined, self.rows)} are no records ({named(self.problems)})")
        if removed:
            parts.append(f"{share(removed, self.rows)} are removed ({named(self.reasons)})")
        return f"of {plural(self.rows, 'row')}, {'; '.join(parts)}"


def try_sample(job: PrepareJob) -> tuple[str, DataError | None]:
    """What becomes of a sample of at most half a megabyte, as of `FilesJob.try_sample`."""
    with tempfile.TemporaryDirectory(prefix="raymill-dry-run-") as folder:
        say_if_compiling()
        sample = draw_sample(job.frozen, job.config.limits, _DRY_PIECE_BYTES)
        artifacts = try_out(job.named.without_endpoints(), job.collecting, sample, Trial(folder, job.store))
        fate = Fate.of(artifacts, sample.documents)
    return f"sample   {fate.text}", _too_many_bad(job.config.execution.max_bad_documents, sample, fate)


def _unusable(sample: Sample, fate: Fate) -> int:
    """The rows of the sample that are no records."""
    return sum(fate.problems.values()) + sample.unreadable


def _too_many_bad(allowed: float, sample: Sample, fate: Fate) -> DataError | None:
    """The error if more rows of the sample are no records than this share, so that the run would probably stop."""
    rows, bad = fate.rows + sample.unreadable, _unusable(sample, fate)
    if bad <= allowed * rows:
        return None
    problems = Counter(fate.problems) + Counter({"not readable": sample.unreadable})
    found = ", ".join(f"{problem} {number:,}" for problem, number in problems.most_common())
    return DataError(
        f"{bad:,} of {plural(rows, 'row')} of the sample are no records ({found}): {bad / rows:.1%}, and "
        f"execution.max_bad_documents allows {allowed:.1%}. If the others are like them, the run stops after "
        f"reading. {what_to_correct(problems)}{allow_more(bad, rows)}."
    )


def try_out(
    config: PrepareConfig, settings: CollectSettings, sample: Sample, trial: Trial, every: int = 1
) -> Mapping[str, Artifact]:
    """The artifacts of all stages on every `every`-th row of a sample.

    settings: of the whole run, with the fields of its sources.

    Raises:
        UserError: as the run.
    """
    fields_of = {one.source: (one, fields) for one, fields in zip(config.inputs, settings.fields, strict=True)}

    def columns(source: str, rows: pa.Table) -> pa.Table:
        """The columns of the source by their names."""
        given, fields = fields_of[source]
        found = {name: rows["text"] if name == fields.main else rows[name] for name in fields.columns.values()}
        return pa.table(found if given.id is None else {given.id: rows["id"]} | found)

    sources = []
    for source, folder in sample.write(trial, every, columns).items():
        given, fields = fields_of[source]
        own = given.columns if given.table else fields.named
        update: dict[str, Any] = {"database": None, "api": None, "pages": None, "storage": None}
        update |= {"path": folder, "format": None, "exclude": (), "columns": own}
        sources.append(given.model_copy(update=update))
    update = {"inputs": tuple(sources), "output": trial.root}
    update["split"] = config.split.model_copy(update={"keep": ()})
    update["execution"] = config.execution.model_copy(update={"max_bad_documents": 1.0})
    local = config.model_copy(update=update)
    root, of_sample, listing = listed_inputs(local)
    listing = replace(listing, store=trial.store)
    inputs = a_unit_for_each_file(freeze_listing(listing, 1 << 40, config.execution.max_bad_files))
    artifacts = run_stages(local, of_sample, inputs, {}, trial.run)
    assess_stages(local, None, root, [artifacts[name] for name in SPLITS], trial.run)
    return artifacts
