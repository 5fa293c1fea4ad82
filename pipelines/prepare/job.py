"""The main job of `raymill prepare`: records of many sources to a data set for fine-tuning.

    fetch    commits the rows of databases, APIs and web pages      -> fetched
    freeze   lists the input files and divides them into units      -> inputs.json, inputs.parquet
    tables   finds what depends on all rows of a table              -> _work/tables
    repeated finds rows that repeat others, with values filled      -> _work/repeated
    collect  reads, cleans and validates every record               -> quarantine, _work/records and others
    sample, fit, cosines, unrelated  see relevance.py               -> _work/relevance
    group    finds duplicates among the records that passed         -> _work/groups, see duplicates.py
    words, complexity  find how difficult each record is            -> _work/words, _work/complexity
    before   notes where the run that is replaced has its records   -> _work/before, see split_stage.py
    split    decides which split each record goes to                -> _work/splits
    augment  makes variants of training records                     -> _work/augmented
    write    writes the splits, and the ledger of removed records   -> train, validation, test, removed, listed
    assess   measures the splits, see assess/job.py                 -> assessment.json
    report   writes the report, then the run's manifest             -> report.json, report.html, manifest.json

`tables` and `repeated` run with an input that is a table, `sample` to `unrelated` with `validate.answer_relevance`,
`group` for what deduplication looks for, `words` and `complexity` with a curriculum, `augment` with a section of this
name, and `before`, first of all, with --replace. Every stage is skipped if its artifacts are finished, so the same
command continues an unfinished run; on a finished run it does nothing and does not start Ray.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from raymill.cluster.answer import Answer
from raymill.cluster.artifact import Artifact
from raymill.cluster.asking.embedding_model import DECISIVE
from raymill.cluster.config import load_recorded
from raymill.cluster.dataset_versions import refuse_to_replace_tagged
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.examples.content import REASONS
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import count, plural
from raymill.cluster.frame.files import FilesJob
from raymill.cluster.frame.first_look import FirstLook
from raymill.cluster.frame.job import REPORT_HTML, Made, Making, Run, digests_of, leased
from raymill.cluster.output_folder import refuse_impossible_output, refuse_output_among_inputs
from raymill.cluster.plan.sample import document_count
from raymill.cluster.plugins import context_of, plugins_in
from raymill.cluster.progress import Progress
from raymill.cluster.readers.inputs import STORES
from raymill.cluster.readers.listing import InputListing, list_inputs
from raymill.cluster.readers.quarantine import refuse_too_many
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.record import OtherSettings
from raymill.cluster.run import RUN_MANIFEST, RUN_REPORT, RunFolder, reading_report
from raymill.cluster.session import Session
from raymill.cluster.stage import RunStageIn
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import (
    GIB,
    RAY_DISK,
    RAY_MEMORY,
    USABLE_MEMORY,
    Machines,
    Work,
    machines_for,
    whole_gib,
)
from raymill.pipelines.dedup.cost import memory_to_group
from raymill.pipelines.dedup.settings import NO_EFFECT_ON_RESULT as NO_EFFECT_ON_DUPLICATES
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.embedder import embeddings_text, require_models
from raymill.pipelines.kernel_cache import CompilesKernels
from raymill.pipelines.prepare.assess.job import (
    assess,
    assess_memory,
    check_models,
    read_assessment,
)
from raymill.pipelines.prepare.assess.score import Assessment, failed, read_trained
from raymill.pipelines.prepare.augment.thesaurus import PACKAGE, files_of
from raymill.pipelines.prepare.config import PrepareConfig, Source
from raymill.pipelines.prepare.fetch.settings import Database
from raymill.pipelines.prepare.fetch.snapshot import fetch, is_fetched, record_of, secret
from raymill.pipelines.prepare.records.validate import Validate
from raymill.pipelines.prepare.report.gather import REQUIRED, PrepareReport, counts_below, gather
from raymill.pipelines.prepare.report.page import assessment_text, gate_warning, render, render_assessment, report_text
from raymill.pipelines.prepare.sources import (
    as_input,
    fields_of,
    notes_on_columns,
    refuse_unknown_fields,
    warnings_on_columns,
    with_corpora,
    with_named_columns,
)
from raymill.pipelines.prepare.stages.augment import augment_memory, augment_stage
from raymill.pipelines.prepare.stages.collect import (
    QUARANTINE,
    RECORDS,
    REJECTED,
    VERDICTS,
    CollectSettings,
    collect_memory,
    collect_stage,
    rules_memory,
)
from raymill.pipelines.prepare.stages.complexity import WORDS, complexity_stage, words_stage
from raymill.pipelines.prepare.stages.duplicates import find_repeats
from raymill.pipelines.prepare.stages.relevance import find_unrelated, relevance_memory
from raymill.pipelines.prepare.stages.split_stage import (
    SPLIT_FILES,
    find_kept,
    noted_splits,
    split_memory,
    split_stage,
    splits_before,
)
from raymill.pipelines.prepare.stages.tables import find_in_tables, tables_memory
from raymill.pipelines.prepare.stages.write import LISTED, REMOVED, write_stage

# These import this module.
_try_sample = Entry("raymill.pipelines.prepare.plan:try_sample")
_assess = Entry("raymill.pipelines.prepare.commands:assess_data")
_tag = Entry("raymill.pipelines.prepare.versions.calls:tag")

_TERMS = TypeAdapter(dict[str, str])
_LEAST_KEY = 16  # bytes of a key of pseudonyms: 128 bits, if it is random

# `exclude` of pydantic's model_dump: the settings without effect on the data set.
_NO_EFFECT_ON_RESULT = STORES | {
    "output": True,
    "execution": True,
    "assess": True,
    "gates": True,
    "dedup": set(NO_EFFECT_ON_DUPLICATES),
}

# Text that a core does in a second, of a whole run with its assessment: 96 MB of 200,000 records in 162 core-seconds on
# 2 workers (`RECORDS=200000 WORKERS=2 python -m tests.benchmarks prepare`, 2026-11-23).
_BYTES_PER_CORE_SECOND = 0.59e6


class PrepareRun(Run):
    """A finished preparation."""

    def split(self, name: str) -> Artifact:
        """The artifact of train, validation or test. Reads its manifest."""
        return self.artifact(name)

    @property
    def assessment(self) -> Assessment | None:
        """None of a run before there was one."""
        return read_assessment(self.store, self.uri)

    def assess(self, **options: Any) -> Answer:
        """Measure the data set again, with other settings or extra scores. options: as of `raymill.assess`."""
        return _assess(self, **options)

    def tag(self, name: str, version: str | None = None, note: str = "", *, registry: str | None = None) -> Any:
        """Name the data set. Returns its `Version`. Arguments: as of `raymill.dataset.tag`."""
        return _tag(name, self, version, note, registry=registry)

    @property
    def warnings(self) -> list[str]:
        """The warnings of its report, and the gates that its last assessment failed."""
        return [*super().warnings, *map(gate_warning, failed(self.assessment) if self.assessment else ())]

    @property
    def exit_code(self) -> int:
        return 0 if self.report["totals"]["written"] else UserError.exit_code

    @property
    def summary(self) -> str:
        return report_text(self.report)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Records by split, and removed ones by reason."""
        rows = [(split, count(number), "") for split, number in self.report["splits"].items()]
        reasons = [("removed", count(one["records"]), one["reason"]) for one in self.report["reasons"]]
        return ("records", "number", "reason"), rows + reasons

    @property
    def _results(self) -> dict[str, str]:
        return {"data set": self.uri}

    @property
    def text(self) -> str:
        text, assessment = super().text, self.assessment
        return text if assessment is None else f"{text}\n\n{assessment_text(assessment)}"


class PrepareJob(CompilesKernels, FilesJob[PrepareConfig]):
    """Records of many sources to a data set for fine-tuning: clean, validate, find duplicates, split.

    A second run continues where the first stopped; a finished run is left alone. Exits with 2 if no record is left.
    Report: OUTPUT/report.html
    """

    kind, run_type = "prepare", PrepareRun

    def __init__(self, config: PrepareConfig, judge: PrepareConfig | None = None) -> None:
        """judge: as `settings` of `assess_again`, where the run is not finished yet."""
        super().__init__(config)
        self.judge = judge
        self.key = b""  # of pseudonyms; machines that compute have it
        self.fetched: Sequence[dict[str, Any]] = ()  # records of the sources that are not files

    @cached_property
    def named(self) -> PrepareConfig:
        """The config with the columns that were recognised."""
        return with_named_columns(self.config)

    @cached_property
    def _listed(self) -> tuple[CollectSettings, InputListing]:
        return listed_inputs(self.named, None if self.is_fetched else self._files, self.key)[1:]

    @property
    def _files(self) -> list[Source]:
        return [one for one in self.named.inputs if not one.connection]

    @property
    def is_fetched(self) -> bool:
        """Whether the rows of all sources that are not files are at the output."""
        return all(is_fetched(one, self.store, self.root) for one in self.named.inputs if one.connection)

    @property
    def collecting(self) -> CollectSettings:
        """The settings of `collect`."""
        return self._listed[0]

    @property
    def listing(self) -> InputListing:
        return self._listed[1]

    def settings(self) -> dict[str, Any]:
        """With the columns that were recognised, and the terms, corrections and schema of the files at this moment."""
        plain = json.loads(self.config.model_dump_json(by_alias=True, exclude=_NO_EFFECT_ON_RESULT, context=DECISIVE))
        plain["clean"]["terminology"] = dict(self.collecting.cleaner.terms)
        plain["patches"] = self.collecting.patches.fingerprint
        plain["validate"]["json_schema"] = self.collecting.validator.schema
        return plain | {"columns": {one.source: [one.text, *one.columns] for one in self.listing.inputs}}

    def inputs(self) -> str | None:
        return super().inputs() if self.is_fetched else None

    def require_extras(self, *, computes: bool = True) -> None:
        augment = self.config.augment
        if computes and augment and augment.operations.synonyms:
            require_extra("synonyms", "augment.operations.synonyms")
        for source in self.config.inputs:
            if isinstance(source.connection, Database):
                require_extra("sql", f"inputs ({source.source}).database")
        if computes:
            require_models(self.config.embedding_models)

    def begin(self, session: Session, progress: Progress, replace: bool) -> None:
        """Fetch the sources that are not files. Those that were fetched are left alone.

        Raises:
            OtherSettings: a finished run, or what was fetched, has other settings, and not `replace`.
            UserError: a source cannot be fetched. What was fetched before is kept.
        """
        self.key = pseudonym_key(self.config)
        connected = [one for one in self.config.inputs if one.connection]
        missing = [one for one in connected if not is_fetched(one, self.store, self.root)]
        if missing:
            if replace:
                refuse_to_replace_tagged(self.folder)
            elif self.folder.manifest_file.read() is not None:
                names = ", ".join(one.source for one in missing)
                raise OtherSettings(
                    f"{self.root}: holds a finished run, which has not fetched {names} with these settings. Choose "
                    "another output, or add --replace to make again what these changes affect; the rest is kept."
                )
            refuse_impossible_output(self.root)
            of_files = with_corpora([one for one in self.config.inputs if not one.connection], self.store)
            fields_of(of_files, self.store, self.root, self.config.records)
            self.store.require_conditional_writes(self.root)
            with leased(self.store, self.root, self.config, session, progress, replace) as making:
                for one in missing:
                    fetch(one, self.store, self.root, making.run, replace)
        found = (record_of(self.store, self.root, one.source).read() for one in connected)
        self.fetched = [record for record in found if record is not None]

    def check(self, session: Session, replace: bool) -> None:
        if replace:
            refuse_to_replace_tagged(self.folder)
        _ = self.frozen, self.kept
        if self.config.augment and (synonyms := self.config.augment.operations.synonyms):
            files_of(self.store, synonyms.thesaurus)
        check_models(self.named)

    @cached_property
    def kept(self) -> dict[str, list[Artifact]]:
        """The splits of the runs of `split.keep`."""
        return find_kept(self.store, self.config.split.keep)

    def replacing(self, making: Making) -> None:
        splits_before(self.store, self.root, self.config.split, self.folder.manifest_file.read(), making.run_again)
        super().replacing(making)

    def stages(self, run: RunStageIn) -> dict[str, Artifact]:
        before = noted_splits(self.store, self.root, self.config.split)
        return run_stages(self.named, self.collecting, self.frozen, self.kept, run, before)

    def make(self, making: Making) -> Made:
        self.record_inputs()
        artifacts, config = self.stages(making.run), self.named
        refuse_lost_records(self.root, artifacts)
        splits = [artifacts[name] for name in SPLITS]
        assessment = assess(*_judged(config, config.clean.terminology, self.judge), self.root, splits, making.run_again)
        on_columns = notes_on_columns(config.inputs, self.collecting.fields, config.validation.require)
        absent = warnings_on_columns(config.inputs, self.collecting.fields)
        corrections = self.collecting.patches
        report = gather(config, self.frozen, artifacts, self.root, self.fetched, on_columns, absent, corrections)
        report["passed"] = not failed(assessment)
        more: dict[str, Any] = {"shape": config.records.shape, "finished": report["finished"]}
        if corrections.edits:
            more["corrections"] = report["patches"]["applied"]
        if asked := self.collecting.embedding.close([*config.embedding_models.values()]):
            report["embeddings"] = asked
            report["notes"] += map(embeddings_text, asked)
        if self.fetched:
            more["fetched"] = self.fetched
        return Made(
            report, digests_of({name: artifacts[name] for name in (*SPLITS, REMOVED, LISTED, QUARANTINE)}), more
        )

    def read_report(self) -> PrepareReport:
        return read_report(self.store, self.root)

    def page(self, made: Made) -> str:
        assessment = read_assessment(self.store, self.root)
        assert assessment is not None  # `make` wrote it
        return render(made.report, assessment)

    def work(self, seconds: float | None = None, *, replace: bool = False) -> Work:
        if replace and self.find(replace=True).run is None:
            refuse_to_replace_tagged(self.folder)
        return super().work(seconds, replace=replace)

    def identity(self) -> list[Any]:
        """Of sources that are not files their settings alone: it is the same before and after they are fetched."""
        if len(self._files) == len(self.config.inputs):
            return [self.settings(), self.frozen.fingerprint]
        return [self.settings() | {"columns": {}}, listed_inputs(self.named, self._files)[2].fingerprint]

    def machines(self, seconds: float | None) -> Machines:
        config, inputs, records = self.named, self.frozen, document_count(self.frozen)
        rate = _BYTES_PER_CORE_SECOND
        return machines_for(inputs, seconds, rate, lambda cpus: machine_of(config, inputs, cpus, records))

    def must_exist(self) -> tuple[str, ...]:
        first = {file.source: file.uri for file in reversed(self.frozen.files) if file.problem is None}
        synonyms = self.named.augment and self.named.augment.operations.synonyms
        sentiment, predictions = self.named.assess.sentiment, self.named.assess.predictions_file
        return (
            *first.values(),
            *self.named.validation.files,
            *([sentiment.model] if sentiment else []),
            *([synonyms.thesaurus] if synonyms and synonyms.thesaurus != PACKAGE else []),
            *([predictions] if predictions else []),
            *(paths.join(run, RUN_MANIFEST) for run in self.config.split.keep),
        )

    def variables(self) -> tuple[str, ...]:
        return self.config.variables

    # Of a dry run

    def require_begun(self) -> None:
        self.key = pseudonym_key(self.config)
        refuse_unfetched(self.config)

    def about(self) -> Iterator[tuple[str, str]]:
        """The field of a record that comes from each column, the form of the records, and how they are divided."""
        config = self.named

        def columns(of: Mapping[str, str]) -> str:
            return ", ".join(name if name == value else f"{name} ({value})" for name, value in of.items())

        for source, fields in zip(config.inputs, self.collecting.fields, strict=True):
            shown = f"a template of {columns(source.table.types)}" if source.table else columns(fields.named)
            yield "fields", f"{source.source}: {shown}"
        words = f"of shape {config.records.shape}, by rules"
        words += f", without {', '.join(config.clean.redact)}" if config.clean.redact else ""
        words += "; duplicates stay" if config.dedup is None else ""
        yield "records", words + (f"; {config.curriculum.stages} stages from easy to hard" if config.curriculum else "")
        split = config.split
        words = ", ".join(f"{name} {part:.0%}" for name, part in zip(SPLITS, split.shares, strict=True))
        for what, names in (("by strata of", split.stratify), ("groups of", split.group)):
            words += f"; {what} {', '.join(names)}" if names else ""
        words += f"; oldest first, by {split.by_time}" if split.by_time else ""
        words += f"; records of {plural(len(split.keep), 'earlier run')} stay where they are" if split.keep else ""
        yield "split", words
        if augment := config.augment:
            made = f"classes of {', '.join(augment.by)} filled up to {augment.to}"
            each = f"{plural(augment.variants, 'variant')} of every training record"
            yield "augment", f"{made if augment.by else each}, by {', '.join(augment.operations.names)}"

    def notes(self, look: FirstLook) -> list[str]:
        inputs, fields = self.named.inputs, self.collecting.fields
        return [*warnings_on_columns(inputs, fields), *notes_on_columns(inputs, fields, self.named.validation.require)]

    def try_sample(self) -> tuple[str, UserError | None]:
        return _try_sample(self)


def prepare(
    config: PrepareConfig,
    session: Session,
    progress: Progress,
    *,
    replace: bool = False,
    judge: PrepareConfig | None = None,
) -> PrepareRun:
    """Prepare the inputs of a config; see `RunJob.run`. judge: as of `PrepareJob`."""
    found = PrepareJob(config, judge).run(session, progress, replace=replace)
    assert isinstance(found, PrepareRun)
    return found


def refuse_lost_records(root: str, artifacts: Mapping[str, Artifact]) -> None:
    """Verify that every record that was read is in a split or among the removed ones, and every variant too.

    Raises:
        DataError: one is not. Files of the unfinished run were changed.
    """
    read, removed = int(artifacts[RECORDS].manifest.counters["records"]), artifacts[REMOVED].manifest
    made = int(removed.counters.get("augmented", 0))
    written = sum(artifacts[name].manifest.rows for name in SPLITS) - int(removed.counters.get("repeated", 0)) - made
    refused = sum(counts_below(removed.counters, "removed/augment/").values())
    wanted = int(artifacts[SPLIT_FILES].manifest.counters.get("variants/wanted", 0))
    gone = removed.rows - refused
    if read != written + gone or wanted != made + refused:
        raise DataError(
            f"{root}: of {plural(read, 'record')} that were read, {written:,} are in the splits and {gone:,} "
            "among the removed ones. Files of the unfinished run were changed after they were written: delete "
            f"{root} and run the same command again."
        )


def assess_again(
    store: Store,
    root: str,
    session: Session,
    progress: Progress,
    settings: PrepareConfig | None = None,
    extrinsic: str | None = None,
    folds: str | None = None,
    splits: Sequence[str] = SPLITS,
    output: str | None = None,
) -> Assessment:
    """Assess a finished run, and write its assessment and the page of its report again.

    Args:
        settings: whose `assess`, `gates`, `execution` and `clean.terminology` are used, and records that break its
            `validate`, if it is another, are counted; None: those of the run.
        extrinsic: replaces `assess.extrinsic`.
        folds: output of a cross-validation on this data set, whose scores become metrics.
        splits: that are assessed.
        output: where the assessment and a page of its own are written; None: in the run.

    Raises:
        DataError: there is no finished run, an earlier version wrote its report, or `folds` are not of this data set.
        ConfigError: no input has the field `extrinsic`, or one that the settings name.
    """
    manifest = RunFolder(store, root).require("prepare")
    trained = None if folds is None else read_trained(store, paths.absolute(folds), root, manifest["digest"])
    report = read_report(store, root)
    config = load_recorded(PrepareConfig, report["config"], paths.join(root, RUN_REPORT), store)
    if settings is None:
        refuse_recorded_files(root, config.assess.files)
    # Nothing of `assess` depends on its model.
    unjudged = {"validation": config.validation.model_copy(update={"answer_relevance": None})}
    # The file of the terms may be gone.
    config, rules = _judged(config.model_copy(update=unjudged), _recorded_terms(root, manifest), settings)
    if extrinsic is not None:
        if extrinsic not in config.known:
            raise ConfigError(
                f"--extrinsic: no input has a field {extrinsic}; there are {', '.join(sorted(config.known))}."
            )
        config = config.model_copy(update={"assess": config.assess.model_copy(update={"extrinsic": extrinsic})})
    config = PrepareConfig.model_validate(config.model_dump(by_alias=True), context=context_of(plugins_in(config)))
    refuse_unknown_fields(config)
    if session.embedded:
        require_models(config.embedding_models)
    check_models(config)
    found, folder = [Artifact.load(store, paths.join(root, name)) for name in splits], output or root
    for artifact in found:
        artifact.refuse_damage()
    with leased(store, folder, config, session, progress, replace=True) as making:
        assessment = assess(config, rules, folder, found, making.run, trained)
        making.lease.check()
        parts = f"{report['name']}: {', '.join(splits)}"
        if output is None:
            with reading_report(root):
                page = render(report, assessment)
        else:
            page = render_assessment(parts, output, assessment)
        store.write_bytes(paths.join(folder, REPORT_HTML), page.encode())
    return assessment


def refuse_recorded_files(root: str, files: Mapping[str, str], changed: Sequence[str] = ()) -> None:
    """Check that no file, model or URI would be read that only the record of a run names: anybody may have written it.

    Args:
        root: URI of the run.
        files: setting -> the file, model or URI.
        changed: settings that the user gives.

    Raises:
        ConfigError: it does.
    """
    for setting, named in files.items():
        if not any(f"{setting}.".startswith(f"{one}.") for one in changed):
            raise ConfigError(
                f"{root}: {setting} is {named!r} by the record of this run alone, and is therefore not read. Give the "
                f"config of the run, --config CONFIG, or the setting, -o {setting}=..."
            )


def _recorded_terms(root: str, manifest: Mapping[str, Any]) -> dict[str, str]:
    """The terms with which a run was made.

    Raises:
        DataError: its manifest has none, or names a file in their place.
    """
    try:
        return _TERMS.validate_python(manifest["config"]["clean"]["terminology"], strict=True)
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"{paths.join(root, RUN_MANIFEST)}: config.clean.terminology holds no terms. The file was changed after it "
            "was written. Run `raymill prepare CONFIG --replace`."
        ) from error


def _judged(
    config: PrepareConfig, terms: Mapping[str, str] | str, settings: PrepareConfig | None
) -> tuple[PrepareConfig, Validate | None]:
    """(the config with what decides the assessment of other settings, the rules that records are checked against).

    terms: of the run. settings: None: those of the config.
    """
    rules = None
    if settings is not None:
        rules = settings.validation if settings.validation != config.validation else None
        if settings.clean.terminology != config.clean.terminology:
            terms = settings.clean.terminology
        config = config.model_copy(update={name: getattr(settings, name) for name in ("assess", "gates", "execution")})
    return config.model_copy(update={"clean": config.clean.model_copy(update={"terminology": terms})}), rules


def read_report(store: Store, root: str) -> PrepareReport:
    """The report of a finished run.

    Raises:
        DataError: it is gone or damaged, or an earlier version wrote it, without some parts or with other settings.
    """
    report: PrepareReport = RunFolder(store, root).report()
    lacks = ", ".join(sorted(set(REQUIRED) - report.keys()))
    try:
        PrepareConfig.model_validate(report.get("config", {}))
    except ValidationError as error:
        first = error.errors()[0]
        lacks = lacks or f"valid settings ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    if lacks:
        raise DataError(
            f"{paths.join(root, RUN_REPORT)}: written by Raymill {report.get('version', '')} without {lacks}, which "
            "this version reads. Run `raymill prepare CONFIG --replace`, which makes it again and keeps what did not "
            "change."
        )
    return report


def refuse_unfetched(config: PrepareConfig) -> None:
    """Check that every source is there to be read, as a sample of it is.

    Raises:
        DataError: a database, an API or web pages were not fetched with these settings.
    """
    store, root = config.store, paths.absolute(config.output)
    for source in config.inputs:
        if source.connection and not is_fetched(source, store, root):
            kind, found = type(source.connection).__name__.lower(), record_of(store, root, source.source).read()
            how = "yet" if found is None else f"with these settings, but with others ({found['asked']})"
            raise DataError(
                f"inputs ({source.source}): the {kind} has not been fetched {how}, and a sample of its rows is wanted. "
                f"Run `raymill prepare CONFIG{' --replace' if found else ''}`, whose first step fetches it."
            )


def listed_inputs(
    config: PrepareConfig, sources: Sequence[Source] | None = None, key: bytes = b""
) -> tuple[str, CollectSettings, InputListing]:
    """(the output, the settings of `collect`, the listing of the inputs), with the first checks of a run.

    sources: those to list; default: all. key: of pseudonyms.

    Raises:
        UserError: an input is missing, its columns are not known, or the output is among the inputs.
    """
    store, root = config.store, paths.absolute(config.output)
    sources = with_corpora(config.inputs if sources is None else sources, store)
    fields = fields_of(sources, store, root, config.records)
    inputs = [as_input(source, of_source, root) for source, of_source in zip(sources, fields, strict=True)]
    settings = CollectSettings.of(config.model_copy(update={"inputs": sources}), fields, key)
    listing = list_inputs(store, inputs)
    refuse_output_among_inputs(root, listing, fetched={one.source for one in sources if one.connection})
    return root, settings, listing


def pseudonym_key(config: PrepareConfig) -> bytes:
    """The key of pseudonyms; empty without one.

    Raises:
        ConfigError: the environment lacks it, or it is short enough to be guessed.
    """
    name = config.clean.pseudonym_key
    if name is None:
        return b""
    key = secret(name, "clean.pseudonym_key").encode("utf-8", "surrogateescape")
    if len(key) < _LEAST_KEY:
        raise ConfigError(
            f"clean.pseudonym_key: {name} has {plural(len(key), 'byte')}; wanted at least {_LEAST_KEY}, because who "
            "guesses the key finds out which value a pseudonym stands for. Make a key with `openssl rand -hex 32` and "
            "keep it: another one gives other pseudonyms."
        )
    return key


def run_stages(
    config: PrepareConfig,
    settings: CollectSettings,
    inputs: InputManifest,
    kept: dict[str, list[Artifact]],
    run: RunStageIn,
    before: Artifact | None = None,
) -> dict[str, Artifact]:
    """The artifacts of all stages.

    kept: the splits of earlier runs. run: makes or finds the artifacts of a stage. before: as of `splits_before`.

    Raises:
        DataError: there is no row, too many rows are no records, or no record has a time for `split.by_time`.
    """
    units, tables = len(inputs.units), find_in_tables(config.inputs, settings.fields, inputs, config.limits, run)
    artifacts = run(collect_stage(settings, inputs, tables))
    counters = artifacts[RECORDS].manifest.counters
    good = int(counters["records"])
    if not good and not artifacts[QUARANTINE].manifest.rows:
        raise DataError(
            "inputs: their files have no rows, or only a header. Point `inputs` at files with records, and run again."
        )
    if config.split.by_time is not None and not counters["passed"]:
        table = artifacts[REJECTED].table(["id", "reason", "value"])
        if without := table.filter(pc.equal(table["reason"], "no_time")).to_pylist():
            raise DataError(
                f"split.by_time: none of {good:,} records has a time in {config.split.by_time}; record "
                f"{without[0]['id']} has {without[0]['value']!r}. Wanted a date or time, as 2026-11-23, "
                "2026-11-23T08:30:00Z, 23 Nov 2026 or seconds from 1970; for dates as 03/04/2026, set `day_first` in "
                "the input."
            )
    # Rows are compared with rows: a text that was divided is one.
    more = sum(counts_below(counters, "parts/").values()) - sum(counts_below(counters, "divided/").values())
    refuse_too_many(config.execution.max_bad_documents, good - more, artifacts[QUARANTINE], PROBLEMS | REASONS, "row")
    memory, shape = collect_memory(config.limits), config.records.shape
    rule = config.validation.answer_relevance
    unrelated = find_unrelated(rule, settings.embedding, shape, artifacts, units, memory, run)
    removed = artifacts[VERDICTS] if unrelated is None else unrelated.verdicts
    repeats = find_repeats(config.dedup, config.duplicates, inputs.inputs, artifacts, removed, units, run)
    if config.curriculum:
        words = run(words_stage(config.curriculum, shape, artifacts[RECORDS], units, memory))[WORDS]
        artifacts |= run(complexity_stage(config.curriculum, words, units))
    artifacts |= run(split_stage(config, artifacts, repeats, units, kept, before, unrelated))
    if config.augment:
        artifacts |= run(augment_stage(config.augment, artifacts, units, shape, memory))
    return artifacts | run(write_stage(artifacts, repeats, units, shape))


def machine_of(config: PrepareConfig, inputs: InputManifest, cpus: int, records: int) -> Machines:
    """A machine for a run. cpus: its cores. records: those of the run."""
    of_records = collect_memory(config.limits)
    of_augment = augment_memory(config.store, config.augment, records)
    task = of_records + max(rules_memory(config.store, config.validation), of_augment)
    largest = max(
        task,
        tables_memory(config.inputs, inputs),
        split_memory(records),
        memory_to_group(records, config.dedup or Dedup()),  # the assessment compares questions and answers in any case
        assess_memory(config, records),
        relevance_memory(config.validation.answer_relevance, of_records),
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
