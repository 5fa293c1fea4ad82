"""The main job of `raymill curate`: raw text to a training corpus.

    freeze      lists the input files and divides them into units         -> inputs.json, inputs.parquet
    measure     reads the text; measures every document                   -> attributes, quarantine
    index       sorts hashes of the ids                                   -> _work/id_index
    ids         finds ids that several documents have                     -> _work/duplicate_ids
    decide      compares signals with bounds                              -> _work/verdicts, _work/tallies
    group       finds duplicates among the documents that passed          -> _work/groups
    duplicates  counts them                                               -> _work/duplicates, _work/similarity
    select      reads the text again; writes the kept documents, the      -> corpus, removed, contaminated,
                ledger of removed ones, texts shared with evaluation         boilerplate, repeats,
                sets or by several documents, examples and counts            _work/samples, _work/kept
    merge       merges the units' counts and examples for the report      -> _work/tally_sums, _work/best_samples,
                                                                             _work/problems
    report      writes the report, then the run's manifest                -> report.json, report.html, manifest.json

`ids` runs if an input has an `id` setting, `group` and `duplicates` if deduplication is on. `contaminated` is written
with the rule `decontamination`, `boilerplate` and `repeats` with the settings of these names. The driver's work grows
with the number of units, not with that of documents.

Every stage is skipped if its artifacts are finished, so the same command continues an unfinished run; on a finished run
it does nothing and does not start Ray.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace as with_changes
from functools import cached_property
from typing import Any

import pyarrow as pa

from cluster.artifact import Artifact
from cluster.errors import ConfigError, UserError
from cluster.frame.files import FilesJob
from cluster.frame.first_look import FirstLook
from cluster.frame.job import Made, Making, Run, digests_of, with_warnings
from cluster.output_folder import refuse_output_among_inputs
from cluster.progress import Progress
from cluster.readers.inputs import STORES
from cluster.readers.listing import InputListing, list_inputs
from cluster.readers.reader import PROBLEMS
from cluster.readers.units import InputManifest, refuse_too_many
from cluster.session import Session
from cluster.stage import RunStageIn, Stage
from cluster.store.store import Store
from cluster.submit.work import Machines
from pipelines.curate.config import CurateConfig
from pipelines.curate.dry_run import about, too_many_unreadable
from pipelines.curate.report.funnel import funnel_text
from pipelines.curate.report.gather import gather
from pipelines.curate.report.page import render
from pipelines.curate.stages.decide import TALLIES, VERDICTS, decide_stage
from pipelines.curate.stages.duplicate_ids import ids_stage
from pipelines.curate.stages.id_index import ID_INDEX, index_stage
from pipelines.curate.stages.measure import ATTRIBUTES, QUARANTINE, measure_stage
from pipelines.curate.stages.merge import merge_stage
from pipelines.curate.stages.removed_duplicates import DUPLICATES, duplicates_stage
from pipelines.curate.stages.samples import SAMPLES
from pipelines.curate.stages.write_corpus import KEPT, select_stage
from pipelines.curate.work import machines, must_exist
from pipelines.dedup.cost import DEFAULT_SIZES, Sizes
from pipelines.dedup.earlier import SKETCHES, open_runs, sketch_settings
from pipelines.dedup.group import GROUPS, group_stage
from pipelines.dedup.settings import NO_EFFECT_ON_RESULT as NO_EFFECT_ON_DUPLICATES
from pipelines.kernel_cache import CompilesKernels
from pipelines.language import identification as language
from pipelines.rules.filters import Filters
from pipelines.rules.rule import Analysis, files_read_by
from pipelines.text.texts import Texts

# `exclude` of pydantic's model_dump: the settings without effect on the corpus.
_NO_EFFECT_ON_RESULT = STORES | {"output": True, "execution": True, "dedup": set(NO_EFFECT_ON_DUPLICATES)}


class CurateRun(Run):
    """A finished curation."""

    @property
    def corpus(self) -> Artifact:
        """The artifact with the documents that were kept. Reads its manifest."""
        return self.artifact("corpus")


class CurateJob(CompilesKernels, FilesJob[CurateConfig]):
    """Raw text to a training corpus: measure every document, apply the rules, find duplicates, write the corpus.

    A second run continues where the first stopped; a finished run is not done again. Reports: OUTPUT/report.html
    """

    kind, run_type = "curate", CurateRun

    @cached_property
    def listing(self) -> InputListing:
        found = list_inputs(self.store, self.config.inputs)
        refuse_output_among_inputs(self.root, found)
        return found

    def settings(self) -> dict[str, Any]:
        return result_settings(self.config)

    def check(self, session: Session | None = None, replace: bool = False) -> None:
        _ = self.frozen
        check_models_and_lists(self.config.filters, self.store)
        open_runs(self.config.dedup, self.store)

    def stages(self, run: RunStageIn) -> dict[str, Artifact]:
        return run_stages(self.config, self.frozen, run)

    def make(self, making: Making) -> Made:
        self.record_inputs()
        artifacts = self.stages(making.run)
        report = gather(self.config.report_settings, self.frozen, making.engine, artifacts)
        sketches = {SKETCHES: sketch_settings(self.config.dedup)} if self.config.dedup else {}
        return Made(report, digests_of(artifacts), {"finished": report["run"]["finished"], **sketches})

    def read_report(self) -> Any:
        return self.folder.report("run")

    def page(self, made: Made) -> str:
        return render(made.report)

    def outcome(self, run: Run) -> str:
        return with_warnings(funnel_text(run.report), run.report)

    def results(self, run: Run) -> dict[str, str]:
        return {"corpus": "corpus"}

    def about(self) -> Iterator[tuple[str, str]]:
        return about(self.config)

    def notes(self, look: FirstLook) -> list[str]:
        return too_many_unreadable(look, self.config.execution.max_bad_documents)

    def machines(self, seconds: float | None) -> Machines:
        return machines(self.config, self.frozen, seconds)

    def must_exist(self) -> tuple[str, ...]:
        return must_exist(self.config, self.frozen)


def curate(config: CurateConfig, session: Session, progress: Progress, *, replace: bool = False) -> CurateRun:
    """Curate the inputs of a config; see `RunJob.run`."""
    found = CurateJob(config).run(session, progress, replace=replace)
    assert isinstance(found, CurateRun)
    return found


def check_models_and_lists(filters: Filters, store: Store) -> None:
    """Open every model, word list and URL list named in the settings, before Ray starts.

    Raises:
        ConfigError, StorageError: files are missing, have another format, or lack a label that the settings name. The
            message names each of them.
    """
    errors: list[UserError] = []
    if filters.language:
        try:
            language.load(store, filters.language)
        except UserError as error:
            errors.append(error)
    for rule in filters.rules:
        if files_read_by(rule):
            # A rule that lacks its column, such as that of URLs, has nothing to measure and opens no list.
            columns = dict.fromkeys(("language", getattr(rule, "column", "language")), pa.array([], pa.string()))
            no_documents = Analysis(Texts.from_strings([]), filters.dialect, pa.table(columns), store)
            try:
                rule.measure(no_documents)
            except UserError as error:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError("\n".join(map(str, errors)))


def result_settings(config: CurateConfig) -> dict[str, Any]:
    """The settings on which the content of the corpus depends, as JSON values."""
    return json.loads(config.model_dump_json(exclude=_NO_EFFECT_ON_RESULT))


def run_stages(
    config: CurateConfig,
    inputs: InputManifest,
    run: Callable[[Stage], dict[str, Artifact]],
    sizes: Sizes = DEFAULT_SIZES,
) -> dict[str, Artifact]:
    """Run all stages in order. Returns their artifacts, by name.

    run: makes or finds the artifacts of a stage. sizes: those of the grouping.
    """
    units = len(inputs.units)
    artifacts = run(measure_stage(config.measure_settings, inputs))
    attributes = artifacts[ATTRIBUTES]
    allowed = config.execution.max_bad_documents
    refuse_too_many(allowed, attributes.manifest.rows, artifacts[QUARANTINE], PROBLEMS, "document")
    inputs = with_changes(inputs, reading=inputs.reading.after(artifacts[QUARANTINE]))
    artifacts |= run(index_stage(attributes))
    if (ids := ids_stage(config.inputs, inputs.units, attributes, artifacts[ID_INDEX])) is not None:
        artifacts |= run(ids)
    artifacts |= run(decide_stage(config.filters, attributes, units))
    verdicts = artifacts[VERDICTS]
    if config.dedup:
        earlier = open_runs(config.dedup, config.store)
        artifacts |= run(group_stage(config.dedup, config.inputs, attributes, verdicts, units, sizes, earlier))
        artifacts |= run(duplicates_stage(artifacts[GROUPS]))
    groups, duplicates = artifacts.get(GROUPS), artifacts.get(DUPLICATES)
    artifacts |= run(select_stage(config.select_settings, inputs, attributes, verdicts, groups, duplicates, sizes))
    tallies = [artifacts[TALLIES], artifacts[KEPT]]
    return artifacts | run(merge_stage(tallies, artifacts[SAMPLES], artifacts[QUARANTINE], config.report.samples))
