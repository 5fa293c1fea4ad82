"""The main job of `raymill curate`: raw text to a training corpus.

    freeze      lists the input files and divides them into units         -> inputs.json, inputs.parquet
    pages       finds pages of archives that repeat an earlier one        -> _work/pages
    measure     reads the text; measures every document                   -> attributes, quarantine, _work/texts
    index       sorts hashes of the ids                                   -> _work/id_index
    ids         finds ids that several documents have                     -> _work/duplicate_ids
    decide      compares signals with bounds                              -> _work/verdicts, _work/tallies
    group       finds duplicates among the documents that passed          -> _work/groups
    duplicates  counts them                                               -> _work/duplicates, _work/similarity
    select      reads the text; writes the kept documents, the            -> corpus, removed, contaminated,
                ledger of removed ones, texts shared with evaluation         boilerplate, repeats,
                sets or by several documents, examples and counts            _work/samples, _work/kept
    merge       merges the units' counts and examples for the report      -> _work/tally_sums, _work/best_samples,
                                                                             _work/problems
    report      writes the report, then the run's manifest                -> report.json, report.html, manifest.json

`pages` runs with the rule `repeated_pages`. `_work/texts` is written of inputs whose text is extracted, such as HTML
(measured_texts.py); `select` reads the files of the others again. `ids` runs if an input has an `id` setting, `group`
and `duplicates` if deduplication is on. `contaminated` is written with the rule `decontamination`, `boilerplate` and
`repeats` with the settings of these names. The driver's work grows with the number of units, not of documents.

Every stage is skipped if its artifacts are finished, so the same command continues an unfinished run; on a finished run
it does nothing and does not start Ray.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace as with_changes
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.answer import Answer, Text
from raymill.cluster.artifact import Artifact
from raymill.cluster.asking.embedding_model import DECISIVE
from raymill.cluster.config import load_recorded
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.formats import plural
from raymill.cluster.frame.calls import Changes, ShownProgress, changes_of, config_of
from raymill.cluster.frame.files import FilesJob
from raymill.cluster.frame.first_look import FirstLook
from raymill.cluster.frame.job import Made, Making, Run, digests_of
from raymill.cluster.output_folder import refuse_output_among_inputs
from raymill.cluster.plan.plan import Subject, sampled_inputs
from raymill.cluster.plan.sample import a_unit_for_each_file, document_count, draw_sample, planned_input
from raymill.cluster.plan.trial import Trial
from raymill.cluster.plan.whole import Whole
from raymill.cluster.progress import Progress
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import STORES
from raymill.cluster.readers.listing import InputListing, list_inputs
from raymill.cluster.readers.quarantine import allow_more, refuse_too_many
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.run import RUN_MANIFEST
from raymill.cluster.session import Session
from raymill.cluster.stage import RunStageIn, Stage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB, RAY_DISK, RAY_MEMORY, USABLE_MEMORY, Machines, machines_for, whole_gib
from raymill.pipelines.curate.assumed_repeats import AssumedRepeats
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.report.gather import (
    CurateReport,
    copies_of_corpus,
    funnel_table,
    funnel_text,
    gather,
)
from raymill.pipelines.curate.report.page import render
from raymill.pipelines.curate.stages.decide import TALLIES, VERDICTS, decide_stage
from raymill.pipelines.curate.stages.ids import ID_INDEX, ids_stage, index_stage
from raymill.pipelines.curate.stages.measure import ATTRIBUTES, QUARANTINE, measure_stage
from raymill.pipelines.curate.stages.measured_texts import TEXTS
from raymill.pipelines.curate.stages.repeated_pages import find_repeated, planned_pages, rule_of
from raymill.pipelines.curate.stages.samples import SAMPLES
from raymill.pipelines.curate.stages.shared_keys import SLICE_MEMORY
from raymill.pipelines.curate.stages.tallies import DUPLICATES, TALLY_SUMS, duplicates_stage, merge_stage
from raymill.pipelines.curate.stages.write_corpus import CORPUS, KEPT, REMOVED, select_memory, select_stage
from raymill.pipelines.dedup.cost import (
    CANDIDATES_OF_A_DUPLICATE,
    DEFAULT_SIZES,
    LEAST_DUPLICATES,
    Sizes,
    duplicates_among,
    memory_to_group,
)
from raymill.pipelines.dedup.documents import SKETCHES, open_runs, sketch_settings
from raymill.pipelines.dedup.group import GROUPS, group_stage
from raymill.pipelines.dedup.settings import NO_EFFECT_ON_RESULT as NO_EFFECT_ON_DUPLICATES
from raymill.pipelines.embedder import check_models, require_models
from raymill.pipelines.kernel_cache import CompilesKernels, say_if_compiling
from raymill.pipelines.language import identification as language
from raymill.pipelines.memory import files_memory, task_memory
from raymill.pipelines.rules.early_language import EarlyLanguage
from raymill.pipelines.rules.filters import Filters, RemovedByUrl
from raymill.pipelines.rules.rule import Analysis, files_read_by
from raymill.pipelines.text.texts import Texts

# These import this module.
_explain = Entry("raymill.pipelines.curate.questions.explain:explain_document")
_what_if = Entry("raymill.pipelines.curate.questions.what_if:what_if_changed")

# `exclude` of pydantic's model_dump: the settings without effect on the corpus.
_NO_EFFECT_ON_RESULT = STORES | {"output": True, "execution": True, "dedup": set(NO_EFFECT_ON_DUPLICATES)}

# Bytes of text that a core curates in a second. Source: tests/benchmarks/README.md, `raymill curate` of 500 MB on 2
# cores, 30 s with Ray's start.
_BYTES_PER_CORE_SECOND = 8.3e6


class CurateRun(Run):
    """A finished curation."""

    @property
    def corpus(self) -> Artifact:
        """The artifact with the documents that were kept. Reads its manifest."""
        return self.artifact(CORPUS)

    @property
    def removed(self) -> Artifact:
        """The ledger: a row per removed document, with its reason. Reads its manifest."""
        return self.artifact(REMOVED)

    def explain(self, id: str) -> Text:
        """One document: the rule that removed it, or a word diff with the document it duplicates; then its
        measurements. id: as of `raymill.explain`.

        Raises:
            DataError: the run has no such document.
        """
        return _explain(self, id)

    def what_if(
        self,
        override: Changes,
        *,
        address: str | None = None,
        sample: int | None = None,
        progress: ShownProgress = None,
    ) -> Answer:
        """Compare the run with other settings; see `raymill.what_if`.

        override: the changes, as in {"rules.gopher_quality.min_words": 30}.
        """
        if self.config:
            before, after = self.config, config_of(self.config, None, override, "curate")
        else:
            at, record = paths.join(self.uri, RUN_MANIFEST), self.manifest["config"] | {"output": self.uri}
            before = load_recorded(CurateConfig, record, at, self.store)
            if named := before.files:
                raise ConfigError(
                    f"{self.uri}: {named[0]} is named by the record of this run alone, and is therefore not read. Give "
                    "the config of the run: raymill.what_if(CONFIG, CHANGES)."
                )
            after = load_recorded(CurateConfig, record, at, self.store, changes_of(override))
        return _what_if(before, after, address=address, sample=sample, progress=progress)

    @property
    def summary(self) -> str:
        return funnel_text(self.report)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The funnel."""
        return funnel_table(self.report)

    @property
    def _results(self) -> dict[str, str]:
        return {"corpus": paths.join(self.uri, CORPUS)}


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
        check_models(self.config.embedding_models, self.store)
        open_runs(self.config.dedup, self.store)

    def stages(self, run: RunStageIn) -> dict[str, Artifact]:
        return run_stages(self.config, self.frozen, run)

    def make(self, making: Making) -> Made:
        self.record_inputs()
        artifacts = self.stages(making.run)
        report = gather(self.config, self.config.filters, self.config.cuts, self.frozen, making.engine, artifacts)
        refuse_lost_documents(self.root, artifacts, report)
        if models := [*self.config.embedding_models.values()]:
            report["embeddings"] = self.config.embedding.close(models)
        sketches = {SKETCHES: sketch_settings(self.config.dedup)} if self.config.dedup else {}
        return Made(report, digests_of(artifacts), {"finished": report["run"]["finished"], **sketches})

    def variables(self) -> tuple[str, ...]:
        return tuple(one.key_env for one in self.config.embedding_models.values() if one.key_env)

    def require_extras(self, *, computes: bool = True) -> None:
        if computes:
            require_models(self.config.embedding_models)

    def read_report(self) -> Any:
        return self.folder.report("run")

    def page(self, made: Made) -> str:
        return render(made.report)

    def about(self) -> Iterator[tuple[str, str]]:
        config = self.config
        yield "rules", f"{', '.join(rule.name for rule in config.filters.rules) or 'none'}"
        if decontamination := config.filters.decontamination:
            for line in decontamination.examples(config.store).summary:
                yield "sets", line
        if config.dedup:
            bands, columns = config.dedup.banding
            caught = ", ".join(f"{s}: {config.dedup.caught(s):.0%}" for s in (0.6, 0.7, 0.8, 0.9))
            yield "dedup", f"{bands} bands of {columns} signature columns; pairs compared, by similarity: {caught}"
        else:
            yield "dedup", "none"
        for cut in config.cuts:
            yield cut.about()
        if config.corpus.copies:
            yield "copies", f"{config.corpus.copies}"

    def notes(self, look: FirstLook) -> list[str]:
        allowed = self.config.execution.max_bad_documents
        if look.unreadable <= allowed * look.rows:
            return []
        share = look.unreadable / look.rows
        return [
            f"{share:.1%} of the rows seen cannot be read, and the run allows {allowed:.1%}: if the others are like "
            f"them, it stops after measuring. Fix them{allow_more(look.unreadable, look.rows)}."
        ]

    def machines(self, seconds: float | None) -> Machines:
        return machines(self.config, self.frozen, seconds)

    def must_exist(self) -> tuple[str, ...]:
        """The first file of each input, the models and lists of the rules, and the manifests of earlier runs."""
        config = self.config
        first = {file.source: file.uri for file in reversed(self.frozen.files) if file.problem is None}
        named = [first[one.source] for one in config.inputs if one.source in first]
        for settings in (config.language, *config.filters.rules):
            named += [paths.absolute(file) for file in files_read_by(settings)]
        named += [paths.join(run, RUN_MANIFEST) for run in (config.dedup.against if config.dedup else ())]
        return tuple(dict.fromkeys(named))


def curate(config: CurateConfig, session: Session, progress: Progress, *, replace: bool = False) -> CurateRun:
    """Curate the inputs of a config; see `RunJob.run`."""
    found = CurateJob(config).run(session, progress, replace=replace)
    assert isinstance(found, CurateRun)
    return found


def refuse_lost_documents(root: str, artifacts: Mapping[str, Artifact], report: CurateReport) -> None:
    """Verify that every document that was read is in the corpus or among the removed ones, and counted as such.

    Raises:
        DataError: one is not. Files of the unfinished run were changed.
    """
    read, kept, removed = (artifacts[name].manifest.rows for name in (ATTRIBUTES, CORPUS, REMOVED))
    counted = [step["left"]["documents"] for step in report["funnel"]]  # the last step removes none
    counts_agree = (counted[0], *counted[-2:]) == (read, kept, kept)
    characters = artifacts[ATTRIBUTES].manifest.counters["characters"]
    if read != kept + removed or not counts_agree or report["totals"]["input"]["characters"] != characters:
        raise DataError(
            f"{root}: of {plural(read, 'document')} that were read, {kept:,} are in the corpus and {removed:,} among "
            f"the removed ones; counted were {counted[0]:,} that were read and {counted[-2]:,} that are left. Files of "
            f"the unfinished run were changed after they were written: delete {root} and run the same command again."
        )


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
        rule.checks(filters.dialect)  # of the user: its code is loaded
        if files_read_by(rule) or isinstance(rule, EarlyLanguage):  # whose model may be the built-in one
            # A rule that lacks its column, such as the one of URLs, has nothing to measure and opens no list.
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
    return json.loads(config.model_dump_json(exclude=_NO_EFFECT_ON_RESULT, context=DECISIVE))


def run_stages(
    config: CurateConfig,
    inputs: InputManifest,
    run: Callable[[Stage], dict[str, Artifact]],
    sizes: Sizes = DEFAULT_SIZES,
) -> dict[str, Artifact]:
    """Run all stages in order. Returns their artifacts, by name.

    run: makes or finds the artifacts of a stage. sizes: those of the grouping.
    """
    units, filters = len(inputs.units), config.filters
    repeated = find_repeated(config, filters, inputs, run, sizes.fan)
    artifacts = run(measure_stage(config, filters, inputs, repeated))
    attributes = artifacts[ATTRIBUTES]
    allowed = config.execution.max_bad_documents
    refuse_too_many(allowed, attributes.manifest.rows, artifacts[QUARANTINE], PROBLEMS, "document")
    inputs = with_changes(inputs, reading=inputs.reading.after(artifacts[QUARANTINE]))
    artifacts |= run(index_stage(attributes))
    if (ids := ids_stage(config.inputs, inputs.units, attributes, artifacts[ID_INDEX])) is not None:
        artifacts |= run(ids)
    artifacts |= run(decide_stage(filters, attributes, units))
    verdicts = artifacts[VERDICTS]
    if config.dedup:
        earlier = open_runs(config.dedup, config.store)
        artifacts |= run(group_stage(config.dedup, config.inputs, attributes, verdicts, units, sizes, earlier))
        artifacts |= run(duplicates_stage(artifacts[GROUPS]))
    of_documents = attributes, verdicts, artifacts.get(GROUPS), artifacts.get(DUPLICATES)
    artifacts |= run(select_stage(config, filters, config.cuts, inputs, *of_documents, sizes, artifacts.get(TEXTS)))
    tallies = [artifacts[TALLIES], artifacts[KEPT]]
    return artifacts | run(merge_stage(tallies, artifacts[SAMPLES], artifacts[QUARANTINE], config.report.samples))


# --- what a run takes


def machines(config: CurateConfig, inputs: InputManifest, seconds: float | None = None) -> Machines:
    """The machines that do the units of a run. seconds: wanted duration, None for any."""
    documents, unit = document_count(inputs), max(unit.bytes for unit in inputs.units)
    return machines_for(inputs, seconds, _BYTES_PER_CORE_SECOND, lambda cpus: machine_of(config, cpus, documents, unit))


def machine_of(config: CurateConfig, cpus: int, documents: int, unit_bytes: int) -> Machines:
    """A machine for a run. cpus: its cores. documents: those of the run. unit_bytes: text of the largest unit."""
    document = config.limits.max_document_bytes
    files = files_memory(config.store, (config.language, *config.filters.rules))
    task = task_memory(config.limits) + files
    if config.cuts:
        writing = select_memory(config.limits, config.corpus.file_mib << 20, cuts=True)
        task = max(task, writing, SLICE_MEMORY, *(cut.memory(config.limits, unit_bytes) for cut in config.cuts))
    largest = task
    memory_reason = (
        f"{cpus} tasks of {task / GIB:.2f} GiB (measured; limits.max_document_bytes is {document / 1e6:g} MB"
        + (f"; {files / GIB:.2f} GiB of it for models and lists)" if files else ")")
    )
    scratch = cpus * (unit_bytes + int(1.5 * config.corpus.file_mib * (1 << 20)))
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


def plan(
    config: CurateConfig,
    documents: float | None = None,
    duplicates: float | None = None,
    repeated_pages: float | None = None,
) -> Subject:
    """The run of a config, to plan it. Lists the inputs, and reads a sample of some 16 MB.

    Args:
        documents: number of documents to plan for; default: those of the input. duplicates: share of duplicates among
            the documents that pass; default: as in the sample, at least LEAST_DUPLICATES. repeated_pages: share of the
            pages of archives that the rule `repeated_pages` removes; default: 0.

    Raises:
        UserError: a first check of a run fails, or no document of the sample can be read.
    """
    job = CurateJob(config)
    root, inputs, of_pages = job.root, job.frozen, rule_of(config.filters, job.frozen)
    if repeated_pages is not None and of_pages is None:
        raise ConfigError(
            "--repeated-pages: the config has no rule `repeated_pages`, or no web archives. Leave it out, or set the "
            "rule."
        )
    config = config.for_a_plan(repeated_pages or 0.0)
    check_models_and_lists(config.filters, config.store)
    earlier = sum(run.attributes.manifest.rows for run in open_runs(config.dedup, config.store))
    say_if_compiling()
    filters = config.filters
    unwanted = RemovedByUrl(filters, config.store) if filters.of_url else None
    sample = draw_sample(inputs, config.limits, unwanted=unwanted)
    inputs, input, is_exact = planned_input(inputs, sample, config.execution.unit_bytes, documents)
    # The sample is of Parquet, and these are treated as in the run.
    extracted = frozenset(unit.source for unit in inputs.units if inputs.reading.extracts(unit))
    assumed: list[str] = []

    def duplicates_in(found: Mapping[str, Artifact]) -> float:
        """The share of duplicates among the documents of the sample that pass the rules."""
        counters = found[GROUPS].manifest.counters if GROUPS in found else {}
        return duplicates_among(counters, found[VERDICTS].manifest.counters["passed"])

    def try_out(trial: Trial, every: int) -> Mapping[str, Artifact]:
        sources = sampled_inputs(config.inputs, sample, trial, every)
        dedup = config.dedup and config.dedup.model_copy(update={"against": ()})
        local = config.model_copy(update={"inputs": sources, "output": trial.root, "dedup": dedup})
        pieces = a_unit_for_each_file(freeze(trial.store, sources, 1 << 40))
        reading = with_changes(pieces.reading, extracted=extracted)
        return run_stages(local, with_changes(pieces, reading=reading), trial.run)

    def run_all(whole: Whole) -> None:
        found, rows = whole.sampled.artifacts, whole.sampled.whole.rows
        seen = duplicates_in(found)
        passed = found[VERDICTS].manifest.counters["passed"]
        share = max(seen, LEAST_DUPLICATES) if duplicates is None else duplicates
        whole.assumed["duplicates"] = share
        if earlier:
            whole.assumed["earlier"] = earlier
        if config.dedup and config.dedup.remove:
            stays = (1 - share) / max(1 - seen, 1e-9)
            removed = (rows - passed * (1 - share)) / max(rows - passed * (1 - seen), 1)
            whole.factors |= {CORPUS: stays, REMOVED: removed, **{cut.counted: stays for cut in config.cuts}}
        of_units = np.array(input.weights) / sum(input.weights) * share * passed / rows * input.rows
        whole.rows_of[DUPLICATES] = pa.table({"unit": np.arange(len(of_units)), "documents": of_units})
        if of_pages is not None:
            archives = sum(unit.bytes for unit in inputs.units if inputs.reading.leaves_out(unit))
            of_archives = archives / max(sum(unit.bytes for unit in inputs.units), 1)
            of_url = tuple(one for one in filters.of_url if not isinstance(one, AssumedRepeats))
            others = Filters(None, of_url, filters.dialect)
            whole.add(planned_pages(config, others, job.frozen, of_archives * input.rows), of_archives)
        run_stages(config, inputs, whole.run)
        origin = (
            "given" if duplicates is not None else "as in the sample" if share > LEAST_DUPLICATES else
            f"a guess; the sample shows {seen:.1%}, and duplicates far apart in the input are not in it"
        )  # fmt: skip
        assumed.append(
            f"{share:.1%} of the documents that pass are duplicates ({origin}), and {CANDIDATES_OF_A_DUPLICATE:g} "
            "times as many have a band key of another document (--duplicates)."
        )
        assumed.extend(cut.assumed for cut in config.cuts if cut.assumed)
        if config.corpus.copies:
            counted = copies_of_corpus(found[TALLY_SUMS].table().filter(pc.field("table") == "copies").to_pylist())
            kept = sum(one["characters"] for one in counted["counted"])
            assumed.append(
                f"An epoch of training reads {counted['epoch']['characters'] / max(kept, 1):.2f} times the corpus, by "
                "the copies of the sample; duplicates far apart in the input are not in it (corpus.copies)."
            )
        if of_pages is not None:
            origin = "given" if repeated_pages is not None else "a sample shows none"
            assumed.append(
                f"{repeated_pages or 0:.1%} of the pages of archives repeat an earlier one and are not extracted "
                f"({origin}; --repeated-pages)."
            )
        if documents is not None:
            files = plural(input.files, "file")
            assumed.append(f"{input.rows:,} documents are in files of the same sizes as now: {files}.")

    def outcome(found: Mapping[str, Artifact]) -> tuple[str, Mapping[str, float]]:
        passed = found[VERDICTS].manifest.counters["passed"] / sample.documents
        return f"{passed:.1%} pass the rules", {"passed": passed, "duplicates": duplicates_in(found)}

    def machine(cores: int) -> int:
        return machine_of(config, cores, input.rows + earlier, max(input.weights)).memory

    return Subject(
        config, root, "document", input, is_exact, sample.numbers, try_out, run_all, outcome, machine, assumed
    )
