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
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as with_changes
from functools import partial
from typing import Any

import pyarrow as pa

from cluster.artifact import Artifact
from cluster.engine import Engine, RetryLimits
from cluster.errors import ConfigError, DataError, UserError
from cluster.formats import plural
from cluster.lease import held
from cluster.progress import Progress
from cluster.readers.freeze import freeze_listing
from cluster.readers.listing import InputListing, list_inputs
from cluster.readers.quarantine import refuse_too_many
from cluster.readers.reader import PROBLEMS
from cluster.readers.recorded import changes_since, changes_since_attempt, write_inputs
from cluster.readers.units import InputManifest
from cluster.record import OtherSettings, json_bytes
from cluster.run import RunFolder, other_settings
from cluster.session import Session
from cluster.stage import Stage, finished_stages
from cluster.store import paths
from cluster.store.store import Store
from pipelines.curate.config import STORES, CurateConfig, Filters
from pipelines.curate.output_folder import refuse_files_inside, refuse_output_among_inputs
from pipelines.curate.report.gather import gather
from pipelines.curate.report.page import render
from pipelines.curate.report.schema import CurateReport
from pipelines.curate.stages.decide import TALLIES, VERDICTS, decide_stage
from pipelines.curate.stages.duplicate_ids import ids_stage
from pipelines.curate.stages.id_index import ID_INDEX, index_stage
from pipelines.curate.stages.measure import ATTRIBUTES, QUARANTINE, measure_stage
from pipelines.curate.stages.merge import merge_stage
from pipelines.curate.stages.removed_duplicates import DUPLICATES, duplicates_stage
from pipelines.curate.stages.samples import SAMPLES
from pipelines.curate.stages.write_corpus import KEPT, select_stage
from pipelines.dedup.cost import DEFAULT_SIZES, Sizes
from pipelines.dedup.earlier import SKETCHES, open_runs, sketch_settings
from pipelines.dedup.group import GROUPS, group_stage
from pipelines.dedup.settings import NO_EFFECT_ON_RESULT as NO_EFFECT_ON_DUPLICATES
from pipelines.language import identification as language
from pipelines.rules.rule import Analysis, files_read_by
from pipelines.text.texts import Texts

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
_DAMAGE_SHOWN = 5

# `exclude` of pydantic's model_dump: the settings without effect on the corpus.
_NO_EFFECT_ON_RESULT = STORES | {"output": True, "execution": True, "dedup": set(NO_EFFECT_ON_DUPLICATES)}


@dataclass(frozen=True)
class CurateRun:
    """A finished run. fresh: whether this call finished it."""

    store: Store
    uri: str
    manifest: dict[str, Any]
    report: CurateReport
    fresh: bool

    @property
    def corpus(self) -> Artifact:
        """The artifact with the documents that were kept. Reads its manifest."""
        return Artifact.load(self.store, paths.join(self.uri, "corpus"))


def curate(
    config: CurateConfig,
    session: Session,
    progress: Progress,
    *,
    replace: bool = False,
) -> CurateRun:
    """Curate the inputs of the config, continuing an unfinished run at its output. Returns a finished run as it is.

    Args:
        replace: remove artifacts of other settings or inputs at the output, and make them again.

    Raises:
        UserError: a mistake the user can correct, or another run holds the output. Finished units are kept.
        ClusterError: machines failed. The same call continues.
    """
    store = config.store
    root = paths.absolute(config.output)
    refuse_output_among_inputs(store, config.inputs, root)
    listing = list_inputs(store, config.inputs)
    refuse_files_inside(root, listing)
    try:
        finished, damage = find_finished(config, listing, root)
    except OtherSettings:
        if not replace:
            raise
        finished, damage = None, ""
    if finished is not None:
        return finished
    inputs = freeze_listing(listing, config.execution.unit_bytes, config.execution.max_bad_files)
    if damage:
        progress.say(f"{root}: {damage}. Damaged files are made again.")
    check_models_and_lists(config.filters, store)
    open_runs(config.dedup, store)
    store.require_conditional_writes(root)
    # Two drivers cannot damage the run, because a unit is committed once; without a lease both would do all units.
    with held(store, root) as lease:
        if replace:
            _find_manifest(config, listing, root, replace=True)  # removes a manifest of other settings or inputs
        else:
            _refuse_other_attempt(config, listing, inputs, root)
        write_inputs(root, inputs, config.storage.without_secrets(), result_settings(config))
        limits = RetryLimits(config.execution.attempts, config.execution.stall_s, config.execution.losses)
        engine = Engine(root, session, progress, limits, replace, lease.check)
        artifacts = run_stages(config, inputs, engine.run)
        lease.check()
        return _publish(config, inputs, engine, artifacts)


def frozen_inputs(config: CurateConfig) -> tuple[str, InputListing, InputManifest]:
    """(the output, the listing of the inputs, their manifest), after the first checks of a run. Reads no documents.

    Raises:
        UserError: an input is missing or unreadable, or the output is among the inputs.
    """
    root, store = paths.absolute(config.output), config.store
    refuse_output_among_inputs(store, config.inputs, root)
    listing = list_inputs(store, config.inputs)
    refuse_files_inside(root, listing)
    return root, listing, freeze_listing(listing, config.execution.unit_bytes, config.execution.max_bad_files)


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


def find_finished(config: CurateConfig, listing: InputListing, root: str) -> tuple[CurateRun | None, str]:
    """Find the finished run at `root` with these settings and inputs, from listings and manifests alone.

    Returns (run, ""); (None, description) if it is damaged; (None, "") if there is no run, or if an input could not be
    listed, for which `freeze_listing` raises the error.

    Raises:
        OtherSettings: a run with other settings or inputs is finished there.
    """
    if any(source.errors for source in listing.sources):
        return None, ""
    store = config.store
    manifest = _find_manifest(config, listing, root)
    if manifest is None:
        return None, ""
    if damage := _damage(store, root, manifest):
        shown = "; ".join(damage[:_DAMAGE_SHOWN]) + "; ..." * (len(damage) > _DAMAGE_SHOWN)
        return None, f"a finished run with {plural(len(damage), 'damaged file')} ({shown})"
    return CurateRun(store, root, manifest, RunFolder(store, root).report("run"), fresh=False), ""


def _find_manifest(
    config: CurateConfig, listing: InputListing, root: str, replace: bool = False
) -> dict[str, Any] | None:
    """The manifest of the finished run with these settings and inputs; see RunFolder.find."""
    return RunFolder(config.store, root).find(
        result_settings(config), listing.fingerprint, replace, lambda: changes_since(listing, config.store, root)
    )


def _refuse_other_attempt(config: CurateConfig, listing: InputListing, inputs: InputManifest, root: str) -> None:
    """
    Raises:
        OtherSettings: an unfinished run at `root` has other settings or inputs.
    """
    try:
        with naming_changes(config, listing, root):
            finished_stages(root, partial(run_stages, config, inputs))
    except OtherSettings:
        raise
    except DataError:
        pass  # a damaged artifact: the run makes it again, or raises the error itself


@contextmanager
def naming_changes(config: CurateConfig, listing: InputListing, root: str) -> Iterator[None]:
    """Name the settings or input files that differ from those of the run at `root` in an OtherSettings of a stage."""
    try:
        yield
    except OtherSettings as error:
        if changed := changes_since_attempt(listing, result_settings(config), config.store, root):
            raise OtherSettings(other_settings(root, "an unfinished run", changed)) from error
        raise


def _damage(store: Store, root: str, manifest: dict[str, Any]) -> list[str]:
    """A line for each damaged file of a finished run; `_work/` is not checked, because it may be deleted."""
    found = []
    for name in manifest["artifacts"]:
        uri = paths.join(root, name)
        if name.startswith("_"):
            continue
        artifact = Artifact.find(store, uri)
        damage = {uri: "is gone"} if artifact is None else artifact.damage()
        found += [f"{file}: {seen}" for file, seen in damage.items()]
    reports = [paths.join(root, name) for name in (REPORT_JSON, REPORT_HTML)]
    return found + [f"{uri}: is gone" for uri in reports if not store.exists(uri)]


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


def _publish(config: CurateConfig, inputs: InputManifest, engine: Engine, artifacts: dict[str, Artifact]) -> CurateRun:
    """Write the reports, then the run's manifest."""
    report = gather(config.report_settings, inputs, engine, artifacts)
    root, store = engine.root, config.store
    store.write_bytes(paths.join(root, REPORT_JSON), json_bytes(report))
    store.write_bytes(paths.join(root, REPORT_HTML), render(report).encode())
    digests = {name: artifact.manifest.digest for name, artifact in artifacts.items()}
    manifest = RunFolder(store, root).put(
        config.kind,
        config.name,
        result_settings(config),
        inputs.fingerprint,
        digests,
        finished=report["run"]["finished"],
        **({SKETCHES: sketch_settings(config.dedup)} if config.dedup else {}),
    )
    return CurateRun(store, root, manifest, report, fresh=True)
