"""The main job of `raymill prepare`: records of many sources to a data set for fine-tuning.

    fetch    commits the rows of databases, APIs and web pages      -> fetched
    freeze   lists the input files and divides them into units      -> inputs.json, inputs.parquet
    tables   finds what depends on all rows of a table              -> _work/tables
    repeated finds rows that repeat others, with values filled      -> _work/repeated
    collect  reads, cleans and validates every record               -> quarantine, _work/records and others
    sample, fit, cosines, unrelated  see relevance.py               -> _work/relevance
    group    finds duplicates among the records that passed         -> _work/groups, see duplicates.py
    words, complexity  find how difficult each record is            -> _work/words, _work/complexity
    before   notes where the run that is replaced has its records   -> _work/before, see kept.py
    split    decides which split each record goes to                -> _work/splits
    write    writes the splits, and the ledger of removed records   -> train, validation, test, removed, listed
    assess   measures the splits, see assess/job.py                 -> assessment.json
    report   writes the report, then the run's manifest             -> report.json, report.html, manifest.json

`tables` and `repeated` run with an input that is a table, `sample` to `unrelated` with `validate.answer_relevance`,
`group` for what deduplication looks for, `words` and `complexity` with a curriculum, and `before`, first of all, with
--replace. Every stage is skipped if its artifacts are finished, so the same command continues an unfinished run; on a
finished run it does nothing and does not start Ray.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from pydantic import ValidationError

from cluster.artifact import Artifact, Counters
from cluster.dataset_versions import refuse_to_replace_tagged
from cluster.engine import Engine, RetryLimits
from cluster.errors import ConfigError, DataError
from cluster.examples.content import REASONS
from cluster.examples.splits import SPLITS
from cluster.extras import require_extra
from cluster.formats import plural
from cluster.lease import held
from cluster.output_folder import refuse_impossible_output
from cluster.progress import Progress
from cluster.readers.freeze import freeze_listing
from cluster.readers.listing import InputListing, list_inputs
from cluster.readers.quarantine import refuse_too_many
from cluster.readers.reader import PROBLEMS
from cluster.readers.recorded import changes_since, write_inputs
from cluster.readers.units import InputManifest
from cluster.record import OtherSettings, json_bytes
from cluster.run import RunFolder
from cluster.session import Session
from cluster.stage import RunStageIn, Stage, prefix_of
from cluster.store import paths
from cluster.store.store import Store
from pipelines.curate.output_folder import refuse_files_inside, refuse_output_among_inputs
from pipelines.dedup.settings import NO_EFFECT_ON_RESULT as NO_EFFECT_ON_DUPLICATES
from pipelines.prepare.assess.job import assess, check_models, read_assessment, require_embeddings
from pipelines.prepare.assess.score import Assessment
from pipelines.prepare.assess.trained import read_trained
from pipelines.prepare.config import STORES, PrepareConfig, Source, Validate
from pipelines.prepare.fetch.answers import secret
from pipelines.prepare.fetch.settings import Database
from pipelines.prepare.fetch.snapshot import fetch, is_fetched, record_of
from pipelines.prepare.named_fields import refuse_unknown_fields, with_named_columns
from pipelines.prepare.report.gather import gather
from pipelines.prepare.report.page import render, render_assessment
from pipelines.prepare.report.schema import REQUIRED, PrepareReport
from pipelines.prepare.sources import as_input, fields_of, notes_on_columns, with_corpora
from pipelines.prepare.stages.collect import (
    ATTRIBUTES,
    KEYS,
    QUARANTINE,
    RECORDS,
    REJECTED,
    VERDICTS,
    CollectSettings,
    collect_memory,
    collect_settings,
    collect_stage,
)
from pipelines.prepare.stages.complexity import COMPLEXITY, WORDS, complexity_stage, words_stage
from pipelines.prepare.stages.duplicates import find_repeats
from pipelines.prepare.stages.kept import find_kept, splits_before
from pipelines.prepare.stages.relevance import find_unrelated
from pipelines.prepare.stages.split_stage import SPLIT_FILES, SplitSettings, split_stage
from pipelines.prepare.stages.write import LISTED, REMOVED, write_stage
from pipelines.prepare.tables.stage import TABLES, TablesFound, repeated_stage, tables_stage

REPORT_JSON, REPORT_HTML = "report.json", "report.html"

_LEAST_KEY = 16  # bytes of a key of pseudonyms: 128 bits, if it is random

# `exclude` of pydantic's model_dump: the settings without effect on the data set.
_NO_EFFECT_ON_RESULT = STORES | {
    "output": True,
    "execution": True,
    "assess": True,
    "gates": True,
    "dedup": set(NO_EFFECT_ON_DUPLICATES),
}


@dataclass(frozen=True)
class PrepareRun:
    """A finished run. fresh: whether this call finished it. assessment: None of a run before there was one."""

    store: Store
    uri: str
    manifest: dict[str, Any]
    report: PrepareReport
    assessment: Assessment | None
    fresh: bool

    def split(self, name: str) -> Artifact:
        """The artifact of train, validation or test. Reads its manifest."""
        return Artifact.load(self.store, paths.join(self.uri, name))


def prepare(
    config: PrepareConfig,
    session: Session,
    progress: Progress,
    *,
    replace: bool = False,
    judge: PrepareConfig | None = None,
) -> PrepareRun:
    """Prepare the inputs of the config, continuing an unfinished run at its output. Returns a finished run as it is.

    Args:
        replace: remove artifacts of other settings or inputs at the output, and make them again.
        judge: as `settings` of `assess_again`, where the run is not finished yet.

    Raises:
        UserError: a mistake the user can correct, or another run holds the output. Finished units are kept.
        ClusterError: machines failed. The same call continues.
    """
    require_extras(config, computes=session.embedded)
    store, key = config.store, pseudonym_key(config)
    fetched = fetch_inputs(config, session, progress, replace=replace)
    given, config = config, with_named_columns(config)
    root, settings, listing = listed_inputs(config, key=key)
    folder, plain = RunFolder(store, root), result_settings(given, settings, listing)

    finished = folder.manifest_file.read()

    def find(discard: bool) -> dict[str, Any] | None:
        return folder.find(plain, listing.fingerprint, discard, lambda: changes_since(listing, store, root))

    manifest = None
    with suppress(OtherSettings) if replace else nullcontext():  # a run to replace stays until its splits are noted
        manifest = find(discard=False)
    if manifest is not None:
        try:
            report = read_report(store, root)
        except DataError:
            if not replace:
                raise
        else:
            return PrepareRun(store, root, manifest, report, read_assessment(store, root), fresh=False)
    if replace:
        refuse_to_replace_tagged(folder)
        if manifest is not None:  # its report is damaged
            folder.manifest_file.discard()
    inputs = freeze_listing(listing, config.execution.unit_bytes, config.execution.max_bad_files)
    kept = find_kept(store, config.split.keep)
    check_models(config)
    store.require_conditional_writes(root)
    with held(store, root) as lease:
        run = run_at(Engine(root, session, progress, limits_of(config), replace, lease.check))
        noting = run_at(Engine(root, session, progress, limits_of(config), True, lease.check))
        before = splits_before(store, root, config.split, finished, noting)
        find(discard=replace)  # removes the manifest of other settings or inputs
        write_inputs(root, inputs, config.storage.without_secrets())

        artifacts = run_stages(config, settings, inputs, kept, run, before)
        splits = [artifacts[name] for name in SPLITS]
        assessing = run_at(Engine(root, session, progress, limits_of(config), True, lease.check))
        assessment = assess(*_judged(config, config.clean.terminology, judge), root, splits, assessing)
        lease.check()
        on_columns = notes_on_columns(config.inputs, settings.fields, config.validation.require)
        report = gather(config, inputs, artifacts, root, fetched, on_columns)
        store.write_bytes(paths.join(root, REPORT_JSON), json_bytes(report))
        store.write_bytes(paths.join(root, REPORT_HTML), render(report, assessment).encode())
        digests = {name: artifacts[name].manifest.digest for name in (*SPLITS, REMOVED, LISTED, QUARANTINE)}
        about = {"shape": settings.shape, "finished": report["finished"]} | ({"fetched": fetched} if fetched else {})
        manifest = folder.put(config.kind, config.name, plain, listing.fingerprint, digests, **about)
    return PrepareRun(store, root, manifest, report, assessment, fresh=True)


def require_extras(config: PrepareConfig, *, computes: bool = True) -> None:
    """Verify that the libraries of the optional settings are installed on this machine.

    computes: whether this machine prepares records, and not only the machines of a cluster.

    Raises:
        ConfigError: one is not.
    """
    for source in config.inputs:
        if isinstance(source.connection, Database):
            require_extra("sql", f"inputs ({source.source}).database")
    if computes:
        require_embeddings(config)


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

    settings: whose `assess`, `gates`, `execution` and `clean.terminology` are used, and records that break its
    `validate`, if it is another, are counted; None: those of the run. extrinsic: replaces `assess.extrinsic`. folds:
    output of a cross-validation on this data set, whose scores become metrics. splits: that are assessed. output: where
    the assessment and a page of its own are written; None: in the run.

    Raises:
        DataError: there is no finished run, an earlier version wrote its report, or `folds` are not of this data set.
        ConfigError: no input has the field `extrinsic`, or one that the settings name.
    """
    manifest = RunFolder(store, root).require("prepare")
    trained = None if folds is None else read_trained(store, paths.absolute(folds), root, manifest["digest"])
    report = read_report(store, root)
    config = PrepareConfig.model_validate(report["config"])
    # The file of the terms may be gone.
    config, rules = _judged(config, manifest["config"]["clean"]["terminology"], settings)
    if extrinsic is not None:
        if extrinsic not in config.known:
            raise ConfigError(
                f"--extrinsic: no input has a field {extrinsic}; there are {', '.join(sorted(config.known))}."
            )
        config = config.model_copy(update={"assess": config.assess.model_copy(update={"extrinsic": extrinsic})})
    config = PrepareConfig.model_validate(config.model_dump(by_alias=True))
    refuse_unknown_fields(config)
    if session.embedded:
        require_embeddings(config)
    check_models(config)
    found, folder = [Artifact.load(store, paths.join(root, name)) for name in splits], output or root
    with held(store, folder) as lease:
        engine = Engine(folder, session, progress, limits_of(config), True, lease.check)
        assessment = assess(config, rules, folder, found, run_at(engine), trained)
        lease.check()
        parts = f"{report['name']}: {', '.join(splits)}"
        page = render(report, assessment) if output is None else render_assessment(parts, output, assessment)
        store.write_bytes(paths.join(folder, REPORT_HTML), page.encode())
    return assessment


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
    uri = paths.join(root, REPORT_JSON)
    report: PrepareReport = RunFolder(store, root).report()
    lacks = ", ".join(sorted(set(REQUIRED) - report.keys()))
    try:
        PrepareConfig.model_validate(report.get("config", {}))
    except ValidationError as error:
        first = error.errors()[0]
        lacks = lacks or f"valid settings ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    if lacks:
        raise DataError(
            f"{uri}: written by Raymill {report.get('version', '')} without {lacks}, which this version reads. Run "
            "`raymill prepare CONFIG --replace`, which makes it again and keeps what did not change."
        )
    return report


def limits_of(config: PrepareConfig) -> RetryLimits:
    """The limits of a stage."""
    return RetryLimits(config.execution.attempts, config.execution.stall_s, config.execution.losses)


def run_at(engine: Engine) -> RunStageIn:
    """Runs stages in folders of the run, with engines like this one, which is of the run's folder."""

    def run(stage: Stage, folder: str = "") -> dict[str, Artifact]:
        root = paths.join(engine.root, folder) if folder else engine.root
        return dataclasses.replace(engine, root=root, prefix=prefix_of(folder)).run(stage)

    return run


def fetch_inputs(config: PrepareConfig, session: Session, progress: Progress, *, replace: bool) -> list[dict[str, Any]]:
    """Fetch the sources that are not files, and return their records. Those that were fetched are left alone.

    Raises:
        OtherSettings: a finished run, or what was fetched, has other settings, and not `replace`.
        UserError: a source cannot be fetched. What was fetched before is kept.
    """
    store, root = config.store, paths.absolute(config.output)
    connected = [one for one in config.inputs if one.connection]
    missing = [one for one in connected if not is_fetched(one, store, root)]
    if missing:
        names = ", ".join(one.source for one in missing)
        folder = RunFolder(store, root)
        if replace:
            refuse_to_replace_tagged(folder)
        elif folder.manifest_file.read() is not None:
            raise OtherSettings(
                f"{root}: holds a finished run, which has not fetched {names} with these settings. Choose another "
                "output, or add --replace to make again what these changes affect; the rest is kept."
            )
        refuse_impossible_output(root)
        of_files = with_corpora([one for one in config.inputs if not one.connection], store)
        fields_of(of_files, store, root, config.records.shape)
        store.require_conditional_writes(root)
        with held(store, root) as lease:
            engine = Engine(root, session, progress, limits_of(config), replace, lease.check)
            for one in missing:
                fetch(one, store, root, engine.run, replace)
    found = (record_of(store, root, one.source).read() for one in connected)
    return [record for record in found if record is not None]


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

    Args:
        sources: those to list; default: all. key: of pseudonyms.

    Raises:
        UserError: an input is missing, its columns are not known, or the output is among the inputs.
    """
    store, root = config.store, paths.absolute(config.output)
    sources = with_corpora(config.inputs if sources is None else sources, store)
    fields = fields_of(sources, store, root, config.records.shape)
    inputs = [as_input(source, of_source, root) for source, of_source in zip(sources, fields, strict=True)]
    settings = collect_settings(config.model_copy(update={"inputs": sources}), fields, key)
    listing = list_inputs(store, inputs)
    # The rows of fetched sources are below the output, apart from what the run writes.
    fetched = {one.source for one in sources if one.connection}
    refuse_output_among_inputs(store, [one for one in inputs if one.source not in fetched], root)
    of_files = tuple(one for one in listing.sources if one.input.source not in fetched)
    refuse_files_inside(root, dataclasses.replace(listing, sources=of_files))
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


def result_settings(config: PrepareConfig, settings: CollectSettings, listing: InputListing) -> dict[str, Any]:
    """The settings on which the data set depends, as JSON values, with the columns that were recognised.

    config: as given, before `with_named_columns`. settings: of `collect`, whose terms and schema are those of the files
    at this moment.
    """
    plain = json.loads(config.model_dump_json(by_alias=True, exclude=_NO_EFFECT_ON_RESULT))
    plain["clean"]["terminology"] = dict(settings.cleaner.terms)
    plain["validate"]["json_schema"] = settings.validator.schema
    return plain | {"columns": {one.source: [one.text, *one.columns] for one in listing.inputs}}


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
    """
    units = len(inputs.units)
    found, stage = None, tables_stage(config.inputs, settings.fields, inputs, config.limits)
    if stage is not None:
        tables = run(stage)
        again = repeated_stage(config.inputs, settings.fields, inputs, config.limits, tables[TABLES])
        found = TablesFound.of(tables | run(again), units)
    artifacts = run(collect_stage(settings, inputs, found))
    good = int(artifacts[RECORDS].manifest.counters["records"])
    if not good and not artifacts[QUARANTINE].manifest.rows:
        raise DataError(
            "inputs: their files have no rows, or only a header. Point `inputs` at files with records, and run again."
        )
    _refuse_no_times(config, artifacts[RECORDS].manifest.counters, artifacts[REJECTED])
    refuse_too_many(config.execution.max_bad_documents, good, artifacts[QUARANTINE], PROBLEMS | REASONS, "record")
    unrelated = find_unrelated(config, artifacts, units, run)
    removed = artifacts[VERDICTS] if unrelated is None else unrelated.verdicts
    repeats = find_repeats(config, inputs.inputs, artifacts, removed, units, run)
    shares = tuple(one.share for one in config.inputs if one.share is not None)
    if config.curriculum:
        memory = collect_memory(config.limits)
        words = run(words_stage(config.curriculum, config.records.shape, artifacts[RECORDS], units, memory))[WORDS]
        artifacts |= run(complexity_stage(config.curriculum, words, units))
    balanced = config.split.balance.by if config.split.balance else ()
    split = SplitSettings(
        config.split,
        config.mixture,
        shares or None,
        config.duplicates.contradictory,
        config.validation.outliers,
        config.curriculum.stages if config.curriculum else 0,
        *("complexity" in {*names} - {*config.metadata} for names in (config.split.stratify, balanced)),
    )
    of_records = (artifacts[KEYS], artifacts[ATTRIBUTES])
    complexity = artifacts.get(COMPLEXITY)
    artifacts |= run(split_stage(split, *of_records, repeats, complexity, units, kept, before, unrelated))
    return artifacts | run(write_stage(artifacts, repeats, artifacts[SPLIT_FILES], units, config.records.shape))


def _refuse_no_times(config: PrepareConfig, counters: Counters, rejected: Artifact) -> None:
    """
    Raises:
        DataError: no record has a time for `split.by_time`.
    """
    if config.split.by_time is None or counters["passed"]:
        return
    table = rejected.table(["id", "reason", "value"])
    without = table.filter(pc.equal(table["reason"], "no_time")).to_pylist()
    if without:
        raise DataError(
            f"split.by_time: none of {int(counters['records']):,} records has a time in {config.split.by_time}; record "
            f"{without[0]['id']} has {without[0]['value']!r}. Wanted a date or time, as 2026-11-23, "
            "2026-11-23T08:30:00Z, 23 Nov 2026 or seconds from 1970; for dates as 03/04/2026, set `day_first` in the "
            "input."
        )
