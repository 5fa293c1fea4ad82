"""The main job of `raymill train`: a corpus to a fine-tuned model, in parts that pass files on storage.

    pack -> fit -> export -> evaluate -> report

A part whose result is finished is not repeated, so the same command continues after an interruption. On a finished run
it neither starts Ray nor changes anything. Packing runs as units of stages, training in the workers of Ray Train,
export and evaluation in worker 0, which has already imported torch. The driver loads no model.
"""

import json
import logging
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from raymill.cluster.answer_rewards import JudgeReward
from raymill.cluster.artifact import canonical_json, fingerprint
from raymill.cluster.asking.vllm_server import vllm_program
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.job import REPORT_HTML, Made, Making, Run, RunJob
from raymill.cluster.nodes import Resources
from raymill.cluster.progress import Progress
from raymill.cluster.run import RUN_REPORT, RunFolder
from raymill.cluster.session import Session, in_worker
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.submit.work import Machines, job_config, largest
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Model, Workers
from raymill.training.continuing import find_parent, parent_of, write_parent
from raymill.training.data.order import Order
from raymill.training.driver.launch import check_cluster, check_machine, check_trackers, fit_on_ray
from raymill.training.model_folder.checks import check_model
from raymill.training.model_folder.folder import located_with_fingerprint, model_fingerprint, on_hub
from raymill.training.output_folder import refuse_output_among_inputs
from raymill.training.pack import summary
from raymill.training.pack.corpus import FrozenCorpus, freeze_corpora, freeze_sets, set_name, shown_name, with_columns
from raymill.training.pack.job import PackJob, located_config, pack_settings, with_exported_model
from raymill.training.pack.packed_run import PackedRun
from raymill.training.plan.memory import check_memory
from raymill.training.records.finished import (
    EVALUATION,
    EXPORT,
    export_damage,
    export_digests,
    export_file,
    finished_export_and_evaluation,
)
from raymill.training.records.job import OUTCOME, Job, TrainingFolder
from raymill.training.report.gather import combine_reports, gather
from raymill.training.report.page import render
from raymill.training.report.text import Fit, exported_validation
from raymill.training.train_run import TrainRun
from raymill.training.vllm_adapters import refused_adapter
from raymill.training.work import files_that_must_exist, machines, model_identity, with_absolute_paths

log = logging.getLogger(__name__)

_export_and_evaluate = Entry("raymill.training.export.job:export_and_evaluate")

# Settings that are not compared. The fingerprints of data and model are compared instead; they are of content, not of
# paths. `kind` is always `train`.
_FINGERPRINTED = {
    "corpus", "columns", "ignore", "model", "packing", "split", "prompt_loss_weight", "kind", "continue_from",
}  # fmt: skip


class TrainJob(RunJob[TrainConfig]):
    """A corpus to a fine-tuned model: pack, train, evaluate, export.

    A second run continues where the first stopped; a finished run is not done again. Reports: OUTPUT/report.html
    """

    kind, run_type, all_at_once = "train", TrainRun, True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(with_exported_model(config))
        self._given = config
        self._job: Job | None = None  # known once the corpora are packed
        self._phases: tuple[Run, ...] = ()

    @cached_property
    def located(self) -> TrainConfig:
        """The config with absolute paths, and with the commit of a model of the hub."""
        return located_config(self.config)

    def settings(self) -> dict[str, Any]:
        return run_settings(self.config)

    def inputs(self) -> str | None:
        """Of model and packed rows, or of the phases; None before the corpora are packed."""
        if self.config.phases:
            for overrides in self.config.phases[len(self._phases) :]:
                model = exported_model(self._phases[-1]) if self._phases else None
                if (run := TrainJob(self.located.phase(overrides, model)).find().run) is None:
                    return None
                self._phases += (run,)
            return fingerprint([run.manifest["inputs"] for run in self._phases])
        if self._job is None:
            packing = PackJob.of(self.located, replace=False)
            if (packed := packing.find_packed()) is None:
                return None
            self._job = make_job(packing.config, packed)
        return _inputs(self._job)

    def input_changes(self) -> str:
        return "the input files or the run in continue_from changed"

    def parts(self) -> tuple[Run, ...]:
        return self._phases

    def damage(self, manifest: Mapping[str, Any], compare_sha256: bool) -> dict[str, str]:
        found = run_damage(self.folder, manifest, compare_sha256)
        if compare_sha256 and self._job is not None:
            found |= PackedRun.load(self.store, self._job.packed).damage(compare_sha256=True)
        return found

    def run(self, session: Session, progress: Progress, *, replace: bool = False, verify: bool = False) -> Run:
        # With `replace`, damage of equal size is made again too.
        return super().run(session, progress, replace=replace, verify=verify or replace)

    def require_extras(self, *, computes: bool = True) -> None:
        if computes and any(one.training_method.four_bit for one in self.config.trainings):
            require_extra("qlora", "method: qlora", "Or use method lora.")
        if computes and any(one.objective == "grpo" and one.grpo.engine == "vllm" for one in self.config.trainings):
            vllm_program("grpo.engine")

    def begin(self, session: Session, progress: Progress, replace: bool) -> None:
        refuse_output_among_inputs(self.config)

    def check(self, session: Session, replace: bool) -> None:
        """Within two seconds, without torch and Ray."""
        if self.config.phases:
            # A phase does not change the model's shape, so each is checked with the first model.
            for overrides in self.config.phases:
                check_model(self.located.phase(overrides))
            return
        check_trackers(self.config.track)
        trains = self._trains(replace)  # after a training by torchrun on other machines, only the export is left
        if trains:
            check_machine(self.config.workers, session)
        for model in (self.located.model, *_reward_models(self.located)):
            if on_hub(model):
                model_fingerprint(self.store, model)  # downloads the model; the only check that takes longer
        if trains:
            find_parent(self.located)
        for number, judge in _judges(self.config).items():
            judge.model.secret(f"grpo.rewards.{number}.judge.model")
        for warning in check_model(self.located):
            log.warning("%s", warning)
        by_vllm = self.config.objective == "grpo" and self.config.grpo.engine == "vllm"
        if by_vllm and (reason := refused_adapter(self.config, experts=False)):
            raise ConfigError(f"grpo.engine: vllm does not take the adapter: {reason}. Use engine: transformers.")

    def _trains(self, replace: bool) -> bool:
        """Whether this session will start workers, so that its machines must have room for them."""
        return replace or not self.store.exists(paths.join(self.root, OUTCOME))

    def replacing(self, making: Making) -> None:
        """Whether the finished run is another one is known when the corpora are packed."""

    def make(self, making: Making) -> Made | Run:
        return self._make_phases(making) if self.config.phases else self._train(making)

    def _train(self, making: Making) -> Made | Run:
        """Pack, fit, export and evaluate one training."""
        session, progress = making.session, making.progress
        # A missing model is refused before packing.
        model_fingerprint(self.store, self.located.model, self.located.seed)
        packing = PackJob.of(self.located, making.replace)
        config = packing.config
        # With an embedded Ray, the machine's hardware was checked before. Ray is not started yet, because small corpora
        # do not need it.
        if self._trains(making.replace) and (session.started or not session.embedded):
            packing.check_inputs()
            _check_cluster(config.workers, session)
        # The lease of the output covers OUTPUT/packed; `packed:` outside the output needs a lease of its own.
        packed = packing.run_under_lease(session, progress, making.verify, lease_at=config.packed)
        self._job = job = make_job(config, packed)
        if making.replace:
            self.folder.find(self.settings(), _inputs(job), replace=True)
        if (found := self.find(verify=making.verify)).run is not None:
            return found.run
        discard_damaged(self.folder, making.verify)
        report_overflow(packed, config.sequence_length, progress)
        if job.parent is not None:
            for line in job.parent.words:
                progress.say(line)
            write_parent(config, job.parent)
        check_memory(config)
        making.lease.check()
        outcome = fit_on_ray(job, session, progress, making.replace, making.lease, _export_and_evaluate)
        exported = finished_export_and_evaluation(job, outcome)
        if exported is None:  # trained by an earlier call, or by torchrun
            exported = in_worker(session, _export_and_evaluate, job, outcome, gpus=config.workers.gpus_each)
        making.lease.check()
        report = gather(job, packed, outcome)
        if judged := [job.judge(number, one).close() for number, one in _judges(config).items()]:
            report["fits"][0]["judges"] = judged
        packed_here = packed.artifacts if config.packed is None else ()
        digests = {one.uri.removeprefix(f"{job.folder.uri}/"): one.manifest.digest for one in packed_here}
        folders = export_digests(self.store, paths.join(self.root, EXPORT), exported)
        digests |= {f"{EXPORT}/{folder}": digest for folder, digest in folders.items()}
        told = _summary(report["fits"][0]) | {"packed": packed.uri}
        if job.parent is not None:
            told["continues"] = f"{job.parent.run} after step {job.parent.step:,}, digest {job.parent.digest}"
        more = {
            "finished": report["run"]["finished"],
            "told": told,
            "export": exported,
            "tokenizer": packed.tokenizer_fingerprint,
            "classes": list(packed.classes),
        }
        return Made(report, digests, more)

    def _make_phases(self, making: Making) -> Made | Run:
        """Train the phases in order; each starts from the model that the one before exported."""
        runs: list[Run] = []
        for overrides in self.config.phases:
            phase = TrainJob(self.located.phase(overrides, exported_model(runs[-1]) if runs else None))
            runs.append(phase.run(making.session, making.progress, replace=making.replace, verify=making.verify))
        self._phases = tuple(runs)
        if making.replace:
            self.folder.find(self.settings(), self.inputs() or "", replace=True)
        if (found := self.find()).run is not None:
            return found.run
        report = combine_reports(self.config, [run.report for run in runs])
        told = {
            f"phase {number}": "; ".join([fit["name"], *(f"{name} {line}" for name, line in _summary(fit).items())])
            for number, fit in enumerate(report["fits"], start=1)
        }
        digests = {run.uri.removeprefix(f"{self.root}/"): run.manifest["digest"] for run in runs}
        return Made(report, digests, {"finished": report["run"]["finished"], "told": told})

    def page(self, made: Made) -> str:
        return render(made.report)

    @cached_property
    def _frozen(self) -> list[tuple[TrainConfig, dict[str, FrozenCorpus]]]:
        """The config of each phase, or of the training, and its listed corpora."""
        refuse_output_among_inputs(self.config)
        found = []
        for one in self.config.trainings:
            known, unit_bytes = with_columns(one), one.execution.unit_mib << 20
            found.append((one, freeze_corpora(known, unit_bytes) | freeze_sets(known, unit_bytes)))
        return found

    def submitted(self) -> dict[str, Any]:
        return with_absolute_paths(job_config(self._given), self._given)

    def identity(self) -> list[Any]:
        """The settings that decide the weights, the base model and the corpora of every phase."""
        parts: list[Any] = [self.settings(), model_identity(self.config)]
        if (before := self.config.continue_from) is not None:
            parts.append([paths.absolute(before.run), before.checkpoint])
        return parts + [pack_settings(with_columns(one), corpora) for one, corpora in self._frozen]

    def variables(self) -> tuple[str, ...]:
        judges = [judge for one in self.config.trainings for judge in _judges(one).values()]
        return tuple(dict.fromkeys(one.model.key_env for one in judges if one.model.key_env))

    def unit_count(self) -> int:
        return 2 * sum(len(corpus.units) for _, corpora in self._frozen for corpus in corpora.values())

    def machines(self, seconds: float | None) -> Machines:
        """`seconds` has no effect, because `workers` is a setting that the user decides."""
        return largest([machines(one, corpora) for one, corpora in self._frozen])

    def reserved(self, *, memory: bool) -> Resources:
        """The resources of the fewest workers. Torch is loaded for their memory."""
        largest: dict[str, float] = {}
        for one, corpora in self._frozen:
            least = one.workers.range[0]
            of_worker = dict(one.workers.resources)
            if memory:
                of_worker["memory"] = machines(one, corpora).largest_task
            for name, amount in of_worker.items():
                largest[name] = max(largest.get(name, 0), least * amount)
        return largest

    def must_exist(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(uri for one, corpora in self._frozen for uri in files_that_must_exist(one, corpora)))


def train(
    config: TrainConfig, session: Session, progress: Progress, *, replace: bool = False, verify: bool = False
) -> TrainRun:
    """Fine-tune a model, continue an interrupted fine-tuning, or return the finished run; see `RunJob.run`.

    Reads the corpora and the model. Writes below `config.output`: packed/ (unless `config.packed` is set),
    checkpoints/, attempts/, steps.jsonl, fit.json, evaluation.json, export/, report.json, report.html and, last,
    manifest.json.
    """
    found = TrainJob(config).run(session, progress, replace=replace, verify=verify)
    assert isinstance(found, TrainRun)
    return found


def _check_cluster(workers: Workers, session: Session) -> None:
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
    if scored_by := [located_with_fingerprint(config.store, one.name or "")[1] for one in _reward_models(config)]:
        parts["rewards"] = canonical_json(scored_by).decode()
    judges = _judges(config).values()
    keys = {one.model.key_env or "": one.model.secret("grpo.rewards: judge.model") for one in judges}
    sets = {name: artifact.manifest.digest for name, artifact in packed.sets.items()}
    parent = parent_of(config, packed)
    if parent is not None:
        parts["parent"] = parent.identity
    folder = TrainingFolder(config.store, paths.absolute(config.output), parts)
    return Job(config, folder, packed.uri, packed.classes, steps, sets, parent, keys)


def _reward_models(config: TrainConfig) -> list[Model]:
    """The reward models and judges in folders."""
    if config.objective != "grpo":
        return []
    named = [one.model or (one.judge and one.judge.model.path) for one in config.grpo.rewards]
    return [Model(name=one) for one in named if one]


def _judges(config: TrainConfig) -> dict[int, JudgeReward]:
    """Place in `grpo.rewards` -> the judge there."""
    if config.objective != "grpo":
        return {}
    return {number: one.judge for number, one in enumerate(config.grpo.rewards) if one.judge is not None}


def report_overflow(packed: PackedRun, length: int, progress: Progress) -> None:
    """Print a line for each corpus or evaluation set with files, documents or examples left out, truncated or split.

    length: tokens of a row.
    """
    for name in [*packed.corpora, *map(set_name, packed.sets)]:
        tokenised, shown = packed.tokenised(name), shown_name(name)
        if name in packed.passed_over:
            progress.say(f"{shown}: {packed.passed_over[name]}")
        if lost := summary.left_out(tokenised):
            hint = "; `raymill pack CONFIG --preview 1` shows one of each" if lost[0].warned else ""
            progress.say(f"{'warning: ' if lost[0].warned else ''}{shown}: {lost[0].words}{hint}")
        long = summary.overflow(summary.totals(tokenised), packed.packed(name), length)
        for note in [*summary.turns(tokenised), *long]:
            progress.say(f"{'warning: ' if note.warned else ''}{shown}: {note.words}")


def packed_job(config: TrainConfig, packed: PackedRun) -> Job:
    """The job of a config whose corpora are packed, as `train` passes it to its workers."""
    return make_job(with_columns(located_config(config)), packed)


def _inputs(job: Job) -> str:
    names = ("model", "rewards", "data", "corpora", "parent")
    parts: dict[str, Any] = {name: part for name, part in job.folder.fingerprint_parts.items() if name in names}
    return fingerprint(parts | ({"sets": job.sets} if job.sets else {}))


def run_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings on which a run's results depend, without those that fingerprints of data and model represent."""
    return {key: value for key, value in config.run_settings().items() if key not in _FINGERPRINTED}


def run_damage(folder: RunFolder, manifest: Mapping[str, Any], compare_sha256: bool = False) -> dict[str, str]:
    """The files of a finished run that are missing or damaged: URI -> what is wrong.

    Exported files, evaluation.json, report.json and report.html are checked. Checkpoints are not, since they are needed
    only if an export is made again.

    Args:
        manifest: of the run. A run of several phases has no export of its own.
        compare_sha256: read every exported file and compare its sha256; else compare only sizes, from one listing.
    """
    store, found, names = folder.store, dict[str, str](), [RUN_REPORT]
    if exported := manifest.get("export"):
        export = paths.join(folder.uri, EXPORT)
        found |= export_damage(store, export, exported, compare_sha256=compare_sha256)
        names.append(EVALUATION)
    for name in names:
        uri = paths.join(folder.uri, name)
        try:
            json.loads(store.read_bytes(uri))
        except NotFound:
            found[uri] = "is gone"
        except (ValueError, RecursionError):
            found[uri] = "is not valid JSON"
    if not store.exists(page := paths.join(folder.uri, REPORT_HTML)):
        found[page] = "is gone"
    return found


def discard_damaged(folder: RunFolder, compare_sha256: bool = False) -> None:
    """Remove the run's manifest and its damaged files, with a warning; do nothing if no file is damaged."""
    manifest = folder.manifest_file.read()
    if manifest is None or not (damage := run_damage(folder, manifest, compare_sha256)):
        return
    first, seen = next(iter(damage.items()))
    others = f" ({len(damage) - 1} more files are damaged or gone)" if len(damage) > 1 else ""
    log.warning("%s: %s%s. Damaged and missing files are made again from the best checkpoint.", first, seen, others)
    export = paths.join(folder.uri, EXPORT)
    folder.manifest_file.discard()
    if any(one.startswith(f"{export}/") for one in damage):
        export_file(folder.store, export).discard()
    folder.store.delete_listed(folder.uri, damage)


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


def exported_model(run: Run) -> str:
    """URI of the exported model that can be loaded without an adapter: the merged or the full one."""
    export = paths.join(run.uri, "export")
    return paths.join(export, "merged" if "merged" in run.manifest["export"]["folders"] else "full")
