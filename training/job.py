"""The main job of `raymill train`: a corpus to a fine-tuned model, in parts that pass files on storage.

    pack -> fit -> export -> evaluate -> report

A part whose result is finished is not repeated, so the same command continues after an interruption. On a finished run
it neither starts Ray nor changes anything. Packing runs as units of stages, training in the workers of Ray Train,
export and evaluation in worker 0, which has already imported torch. The driver loads no model.
"""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

from cluster.artifact import canonical_json, fingerprint
from cluster.entry import Entry
from cluster.errors import ConfigError
from cluster.extras import require_extra
from cluster.lease import Lease, held
from cluster.progress import Progress
from cluster.record import json_bytes
from cluster.remote import in_worker
from cluster.run import RUN_MANIFEST, RunFolder
from cluster.session import Session
from cluster.store import paths
from training.config import TrainConfig
from training.config_parts import Workers
from training.continuing import find_parent, parent_of, write_parent
from training.data.order import Order
from training.driver.launch import fit_on_ray
from training.driver.preflight import check_cluster, check_machine, check_trackers
from training.model_folder.checks import check_model
from training.model_folder.folder import located, model_fingerprint, on_hub
from training.output_folder import refuse_output_among_inputs
from training.pack import overflow
from training.pack.columns import with_columns
from training.pack.job import PackJob
from training.pack.packed_run import PackedRun
from training.pack.sources import set_name, shown_name
from training.plan.choices import check_memory
from training.records import export_manifest
from training.records.export_manifest import finished_export_and_evaluation
from training.records.job import OUTCOME, Job
from training.records.schema import Outcome
from training.repair import REPORT_HTML, REPORT_JSON, discard_damaged, run_damage
from training.report.gather import combine_reports, gather
from training.report.page import render
from training.report.schema import Fit, TrainReport, exported_validation

log = logging.getLogger(__name__)

_export_and_evaluate = Entry("training.export.job:export_and_evaluate")

# Settings that are not compared. The fingerprints of data and model are compared instead; they are of content, not of
# paths. `kind` is always `train`.
_FINGERPRINTED = {"corpus", "columns", "ignore", "model", "packing", "split", "kind", "continue_from"}


@dataclass(frozen=True)
class TrainRun:
    """A finished run.

    manifest: the content of manifest.json. fresh: whether this call finished the run. phases: runs of the phases, if
    there are several.
    """

    uri: str
    manifest: dict[str, Any]
    report: TrainReport
    fresh: bool
    phases: tuple["TrainRun", ...] = ()


def train(
    config: TrainConfig, session: Session, progress: Progress, *, replace: bool = False, verify: bool = False
) -> TrainRun:
    """Fine-tune a model, continue an interrupted fine-tuning, or return the finished run.

    Reads the corpora and the model. Writes below `config.output`: packed/ (unless `config.packed` is set),
    checkpoints/, attempts/, steps.jsonl, fit.json, evaluation.json, export/, report.json, report.html and, last,
    manifest.json.

    Args:
        replace: remove results of other settings at the output, and make them again.
        verify: compare the sha256 of packed and exported files, not only their sizes. Files that are damaged or gone
            are made again.

    Raises:
        UserError: a mistake in config or data, or another run writes to the same output. Finished work is kept.
        ClusterError: machines failed. Running the same command again continues.
    """
    refuse_output_among_inputs(config)
    if session.embedded:
        require_extras(config)
    config = _located(config)
    store = config.store
    if config.phases:
        if store.exists(paths.join(config.output, RUN_MANIFEST)) and not replace:
            # Usually every phase is finished and nothing is written. An unfinished phase takes the lease of its folder.
            return _phases(config, session, progress, replace, verify)
        # A phase does not change the model's shape, so each is checked with the first model.
        for overrides in config.phases:
            check_model(config.phase(overrides))
        with held(store, config.output):
            return _phases(config, session, progress, replace, verify)
    if store.exists(paths.join(config.output, RUN_MANIFEST)) and not replace:
        packing = PackJob.of(with_columns(config), replace=False)
        if (found := _find_run_of_packed(packing, False, verify)) is not None:
            return found
    # After a training by torchrun on other machines, only export and evaluation are left to do here.
    trained = store.exists(paths.join(config.output, OUTCOME)) and not replace
    _check_before_start(config, session, trains=not trained)
    with held(store, config.output) as lease:
        return _train(with_columns(config), session, progress, lease, replace, verify)


def is_finished(config: TrainConfig) -> bool:
    """Whether the output holds this config's finished run, with files of the right sizes. Starts nothing.

    Raises:
        DataError: a run with other settings or inputs is finished there.
    """
    config, model = _located(config), None
    folder = RunFolder(config.store, config.output)
    if not config.store.exists(paths.join(folder.uri, RUN_MANIFEST)):
        return False
    if not config.phases:
        return _find_run_of_packed(PackJob.of(with_columns(config), replace=False), False, False) is not None
    inputs = []
    for overrides in config.phases:
        phase = _located(config.phase(overrides, model))
        found = _find_run_of_packed(PackJob.of(with_columns(phase), replace=False), False, False)
        if found is None:
            return False
        inputs.append(found.manifest["inputs"])
        model = exported_model(found) if overrides is not config.phases[-1] else None
    manifest = folder.find(run_settings(config), fingerprint(inputs), replace=False)
    return manifest is not None and not run_damage(folder, manifest)


def _train(
    config: TrainConfig, session: Session, progress: Progress, lease: Lease, replace: bool, verify: bool
) -> TrainRun:
    """Pack, fit, export, evaluate and publish one training, under the lease of its output."""
    model_fingerprint(config.store, config.model, config.seed)  # a missing model is refused before packing
    packing = PackJob.of(config, replace)
    compare_sha256 = verify or replace  # with `replace`, damage of equal size is made again too
    if (found := _find_run_of_packed(packing, replace, compare_sha256)) is not None:
        return found
    trains = replace or not config.store.exists(paths.join(config.output, OUTCOME))
    # With an embedded Ray, the machine's hardware was checked before. Ray is not started yet, because small corpora do
    # not need it.
    if trains and (session.started or not session.embedded):
        packing.check_inputs()
        _check_cluster(config.workers, session)
    # The lease of the output covers OUTPUT/packed; `packed:` outside the output needs a lease of its own.
    packed = packing.run_under_lease(session, progress, compare_sha256, lease_at=config.packed)
    job = make_job(config, packed)
    if (found := _find_run(job, replace, compare_sha256)) is not None:
        return found
    discard_damaged(RunFolder(job.store, job.root), compare_sha256)
    report_overflow(packed, config.sequence_length, progress)
    if job.parent is not None:
        for line in job.parent.words:
            progress.say(line)
        write_parent(config, job.parent)
    check_memory(config)
    lease.check()
    outcome = fit_on_ray(job, session, progress, replace, lease, _export_and_evaluate)
    exported = finished_export_and_evaluation(job, outcome)
    if exported is None:  # trained by an earlier call, or by torchrun
        exported = in_worker(session, _export_and_evaluate, job, outcome, gpus=config.workers.gpus_each)
    lease.check()
    return _publish(job, packed, outcome, exported)


def _check_before_start(config: TrainConfig, session: Session, trains: bool) -> None:
    """Refuse a config that cannot succeed, within two seconds, without torch and Ray.

    Args:
        trains: whether this session will start workers, so that its machines must have room for them.

    Raises:
        UserError: the message has the mistake.
    """
    check_trackers(config.track)
    if trains:
        check_machine(config.workers, session)
    if on_hub(config.model):
        model_fingerprint(config.store, config.model)  # downloads the model; the only check that may take longer
    if trains:
        find_parent(config)
    for warning in check_model(config):
        log.warning("%s", warning)
    config.store.require_conditional_writes(config.output)


def require_extras(config: TrainConfig) -> None:
    """Verify that the libraries of the config's method, or of those of its phases, are installed on this machine.

    Raises:
        ConfigError: one is not.
    """
    if "qlora" in ({config.phase(overrides).method for overrides in config.phases} or {config.method}):
        require_extra("qlora", "method: qlora", "Or use method lora.")


def _check_cluster(workers: Workers, session: Session) -> None:
    """Start Ray, and verify that the cluster has room for the workers.

    Raises:
        ConfigError: it has not.
    """
    session.start()
    check_cluster(workers, session)


def make_job(config: TrainConfig, packed: PackedRun) -> Job:
    """The job of a config whose columns are known and whose corpora are packed.

    Raises:
        ConfigError: the learning-rate schedule takes more steps than `epochs` or `tokens` of these corpora.
    """
    steps = Order.for_training(config, packed).steps(config)
    try:
        config.check_schedule(steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    settings = {key: value for key, value in config.fit_settings().items() if key not in _FINGERPRINTED}
    shares = [[name, c.weight, c.epochs, c.tokens] for name, c in zip(config.corpus_names, config.corpus, strict=True)]
    parts = {
        "model": model_fingerprint(config.store, config.model, config.seed),
        "data": packed.fingerprint,
        "corpora": canonical_json(shares).decode(),
    } | {f"settings.{key}": canonical_json(value).decode() for key, value in settings.items()}
    sets = {name: artifact.manifest.digest for name, artifact in packed.sets.items()}
    parent = parent_of(config, packed)
    if parent is not None:
        parts["parent"] = parent.identity
    return Job(config, paths.absolute(config.output), packed.uri, packed.classes, steps, parts, sets, parent)


def report_overflow(packed: PackedRun, length: int, progress: Progress) -> None:
    """Print a line for each corpus or evaluation set with files, documents or examples left out, truncated or split.

    length: tokens of a row.
    """
    for name in [*packed.corpora, *map(set_name, packed.sets)]:
        whole = overflow.totals(packed.tokenised(name))
        if name in packed.passed_over:
            progress.say(f"{shown_name(name)}: {packed.passed_over[name]}")
        if lost := overflow.left_out(packed.tokenised(name)):
            hint = "; `raymill pack CONFIG --preview 1` shows one of each" if lost[0].warned else ""
            progress.say(f"{'warning: ' if lost[0].warned else ''}{shown_name(name)}: {lost[0].words}{hint}")
        turns = overflow.turns(packed.tokenised(name))
        for note in [*turns, *overflow.notes(whole, packed.packed(name), length)]:
            progress.say(f"{'warning: ' if note.warned else ''}{shown_name(name)}: {note.words}")


def packed_job(config: TrainConfig, packed: PackedRun) -> Job:
    """The job of a config whose corpora are packed, as `train` passes it to its workers."""
    return make_job(with_columns(_located(config)), packed)


def _located(config: TrainConfig) -> TrainConfig:
    """The config with absolute paths, and with the commit of a model of the hub.

    Workers have other working directories, and a branch of the hub may change while they run.
    """
    corpus = tuple(one.model_copy(update={"path": paths.absolute(one.path)}) for one in config.corpus)
    update: dict[str, Any] = {
        "model": located(config.model),
        "corpus": corpus,
        "output": paths.absolute(config.output),
    }
    if config.packed:
        update["packed"] = paths.absolute(config.packed)
    if (before := config.continue_from) is not None:
        update["continue_from"] = before.model_copy(update={"run": paths.absolute(before.run)})
    return config.model_copy(update=update)


def _inputs(job: Job) -> str:
    names = ("model", "data", "corpora", "parent")
    parts: dict[str, Any] = {name: part for name, part in job.fingerprint_parts.items() if name in names}
    return fingerprint(parts | ({"sets": job.sets} if job.sets else {}))


def run_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings on which a run's results depend, without those that fingerprints of data and model represent."""
    settings = config.run_settings()
    return {key: value for key, value in settings.items() if key not in _FINGERPRINTED}


def _find_run_of_packed(packing: PackJob, replace: bool, compare_sha256: bool) -> TrainRun | None:
    """`_find_run` for corpora that are already packed; None if they are not."""
    packed = packing.find_packed(compare_sha256)
    return None if packed is None else _find_run(make_job(packing.config, packed), replace, compare_sha256)


def _find_run(job: Job, replace: bool, compare_sha256: bool) -> TrainRun | None:
    """The finished run; None if there is none, or if one of its files is damaged or gone."""
    folder = RunFolder(job.store, job.root)
    manifest = folder.find(
        run_settings(job.config), _inputs(job), replace, lambda: "the input files or the run in continue_from changed"
    )
    if manifest is None or run_damage(folder, manifest, compare_sha256):
        return None
    return TrainRun(job.root, manifest, _report(folder), fresh=False)


def _publish(job: Job, packed: PackedRun, outcome: Outcome, exported: dict[str, Any]) -> TrainRun:
    """Write the report and the run's manifest. exported: manifest of the export."""
    report = gather(job, packed, outcome)
    artifacts = {
        f"packed/{corpus}/{split}": artifact.manifest.digest
        for corpus, splits in packed.corpora.items()
        for split, artifact in splits.items()
        if job.config.packed is None
    }
    if job.config.packed is None:
        artifacts |= {one.uri.removeprefix(f"{job.root}/"): one.manifest.digest for one in packed.sets.values()}
    digests = export_manifest.digests(job.store, paths.join(job.root, export_manifest.EXPORT), exported)
    artifacts |= {f"{export_manifest.EXPORT}/{folder}": digest for folder, digest in digests.items()}
    summary_lines = _summary(report["fits"][0]) | {"packed": packed.uri}
    if job.parent is not None:
        summary_lines["continues"] = f"{job.parent.run} after step {job.parent.step:,}, digest {job.parent.digest}"
    tokens = {"tokenizer": packed.tokenizer_fingerprint, "classes": list(packed.classes)}
    more = {"told": summary_lines, "export": exported} | tokens
    return _write_run(RunFolder(job.store, job.root), job.config, report, _inputs(job), artifacts, more)


def _summary(fit: Fit) -> dict[str, str]:
    """Method, base model, steps, losses and exports of a training, for the manifest."""
    taken, planned = fit["totals"]["steps"], fit["totals"]["planned_steps"]
    lines = {
        "method": fit["recipe"]["method"],
        "base": fit["recipe"]["base_model"],
        "steps": f"{taken:,}" if taken == planned else f"{taken:,} of {planned:,}",
    }
    if best := exported_validation(fit):
        first = fit["validation"][0]
        lines["loss"] = f"validation {first['loss']:.3f} -> {best['loss']:.3f} at step {best['step']:,}"
    return lines | {"exported": ", ".join(folder["kind"] for folder in fit["folders"])}


def _phases(config: TrainConfig, session: Session, progress: Progress, replace: bool, verify: bool) -> TrainRun:
    """Train the phases in order; each starts from the model that the one before exported."""
    runs: list[TrainRun] = []
    for overrides in config.phases:
        model = exported_model(runs[-1]) if runs else None
        runs.append(train(config.phase(overrides, model), session, progress, replace=replace, verify=verify))
    folder = RunFolder(config.store, paths.absolute(config.output))
    inputs = fingerprint([run.manifest["inputs"] for run in runs])
    found = folder.find(run_settings(config), inputs, replace)
    if found is not None and not run_damage(folder, found):
        return TrainRun(folder.uri, found, _report(folder), fresh=False, phases=tuple(runs))
    report = combine_reports(config, [run.report for run in runs])
    artifacts = {run.uri.removeprefix(f"{folder.uri}/"): run.manifest["digest"] for run in runs}
    summary_lines = {
        f"phase {number}": "; ".join([fit["name"], *(f"{name} {line}" for name, line in _summary(fit).items())])
        for number, fit in enumerate(report["fits"], start=1)
    }
    whole = _write_run(folder, config, report, inputs, artifacts, {"told": summary_lines})
    return dataclasses.replace(whole, phases=tuple(runs))


def _write_run(
    folder: RunFolder,
    config: TrainConfig,
    report: TrainReport,
    inputs: str,
    artifacts: dict[str, str],
    more: dict[str, Any],
) -> TrainRun:
    """Write the report, and the run's manifest last."""
    root, store = folder.uri, folder.store
    store.write_bytes(paths.join(root, REPORT_JSON), json_bytes(report))
    store.write_bytes(paths.join(root, REPORT_HTML), render(report).encode())
    finished = report["run"]["finished"]
    manifest = folder.put(config.kind, config.name, run_settings(config), inputs, artifacts, finished=finished, **more)
    return TrainRun(root, manifest, report, fresh=True)


def _report(folder: RunFolder) -> TrainReport:
    return folder.report()


def exported_model(run: TrainRun) -> str:
    """URI of the exported model that can be loaded without an adapter: the merged or the full one."""
    export = paths.join(run.uri, "export")
    return paths.join(export, "merged" if "merged" in run.manifest["export"]["folders"] else "full")
