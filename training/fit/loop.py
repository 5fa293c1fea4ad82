"""The training loop. Every worker runs it, started by Ray Train or torchrun.

A step: read rows -> exchange counts -> forward and backward of each micro-batch, with each loss divided by the loss
denominator of the whole step -> optimizer update -> exchange losses. The update of a step depends on the config, the
packed data, the weights and the step's number only. So a training that is killed and resumed gives the same weights,
with the same number of workers bit for bit.

After a step: validation and a checkpoint, each if due, then the line of the step log. Checkpoints are written every
`every_steps` steps and `every_minutes` minutes, on a preemption notice, on a request to stop, at the end, and after
each validation with the lowest loss so far, so that the best weights can be exported. If a step's loss is not finite,
or too large, the run ends or skips steps.

The workers are started first, and again after each failure or interruption; attempts/ has a file for each start.

Reads the packed rows and the newest checkpoint; writes checkpoints/, steps.jsonl, attempts/ and, last, fit.json.
"""

import hashlib
import json
import logging
import math
import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.formats import duration
from raymill.cluster.metrics import NOT_EXPORTED, Metrics, connect
from raymill.cluster.record import json_bytes
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Optimizer
from raymill.training.data.batch import Batch, Loader
from raymill.training.data.held_out import AFTER, BEFORE, HeldOutRecord, When, held_out_rows
from raymill.training.data.order import Order, Position, limited
from raymill.training.data.packed import PackedRows
from raymill.training.engines import make_engine
from raymill.training.engines.engine import StateSlice, TrainingEngine
from raymill.training.engines.muon import MOMENTUM_STATE
from raymill.training.fit.callbacks import Callbacks
from raymill.training.fit.checkpoint import Saver, load_checkpoint, restore
from raymill.training.fit.forward_clock import ForwardClock
from raymill.training.fit.hangs import HangRecord
from raymill.training.fit.measuring import Measurement
from raymill.training.fit.memory import explained, memory_gib, with_rows_left_to_try, with_rows_that_fit
from raymill.training.fit.ranks import Preemption, Ranks
from raymill.training.fit.reference import ReferencedRows, compute_references
from raymill.training.fit.step_log import StepLog, Tracker, curves, trackers
from raymill.training.models.answers import AnswerLoss, RolloutLoss, baseline_of
from raymill.training.models.base import named_config
from raymill.training.models.build import attention_warning, build_objective
from raymill.training.models.compiling import compile_clock
from raymill.training.models.context import join_context
from raymill.training.models.cost import Mfu, adapter_parameters, parameter_counts, peak_of_workers
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.checkpoint import at_step, step_of
from raymill.training.records.finished import read_outcome, write_outcome
from raymill.training.records.job import Job, StopRequested
from raymill.training.records.schema import Measured, Outcome, StartRecord, StepRecord, TrainingProgress
from raymill.training.rollouts.steps import RewardMeasurement, Rollouts
from raymill.training.tokenizer.load_tokenizer import load_tokenizer

log = logging.getLogger(__name__)

_LOW_32_BITS = (1 << 32) - 1


def fit(job: Job, ranks: Ranks, is_stopped: Callable[[], bool] = lambda: False) -> Outcome:
    """Train to the last step, from the newest checkpoint if there is one. Every worker calls it.

    Returns the outcome of a finished training without repeating it.

    Args:
        is_stopped: called in each step on every worker. If one returns True, all take that step, write a checkpoint
            and end.

    Raises:
        StopRequested: see `is_stopped`.
        DataError: the loss is not finite or too large (the message lists the document ids), or the newest checkpoint
            has other settings, model or data.
        ClusterError: communication failed (the message names the workers at fault), or a worker ran out of memory and
            the next start computes fewer rows at once.
        UserError: another mistake in config or data, or the training does not fit the device.
    """
    if (outcome := ranks.from_first(read_outcome(job.folder) if ranks.first else None)) is not None:
        return outcome
    with ranks.naming_failed_workers():
        # On GPUs with the largest `micro_batch` that fits, unless it is set.
        config = with_rows_that_fit(job.config, ranks, len(job.classes))
        config = with_rows_left_to_try(job, config, ranks)
        with ExitStack() as stack:
            with explained(job, config, ranks, of_rows=False):
                training = Training(job, config, ranks, stack, is_stopped)
            with explained(job, config, ranks, of_rows=True):
                return training.run()


@dataclass(frozen=True)
class Counts:
    """Sums over all workers for one step.

    loss_denominator: sum of the weights of the label tokens, or rows with a class. attended: see
    attended_positions. digest: of the rows read, modulo 2**64. uploading: number of workers that still upload a
    checkpoint. committed: whether a checkpoint was committed and is not reported yet. checkpoint_due: whether
    `checkpoint.every_minutes` have passed by the first worker's clock. stopping: whether a worker was asked to stop.
    objective_sum: see `Objective.step_sum`.
    """

    loss_denominator: float
    tokens: int
    label_tokens: int
    attended: int
    digest: int
    uploading: int
    committed: bool
    checkpoint_due: bool
    stopping: bool
    objective_sum: float = 0.0


class Training:
    """One worker's training in one start of the workers.

    Attributes:
        config: the job's, with the `micro_batch` that is computed.
        stack: at its end it closes, in reverse order, all that is opened here.
        is_stopped: see `fit`.
    """

    def __init__(
        self, job: Job, config: TrainConfig, ranks: Ranks, stack: ExitStack, is_stopped: Callable[[], bool]
    ) -> None:
        self.job, self.config, self.ranks, self.is_stopped = job, config, ranks, is_stopped
        self.started_at = self.saved_at = time.monotonic()
        attempt = ranks.from_first(uuid.uuid4().hex[:8])
        if ranks.heartbeat:
            hang = HangRecord(job.folder, attempt, ranks)
            ranks.heartbeat.on_overdue.append(hang.write)
            stack.callback(ranks.heartbeat.on_overdue.remove, hang.write)
        self.packed = packed = PackedRun.load(job.folder.store, job.packed)
        # An engine that shards moves the model to the device in parts, because the whole may not fit there.
        shards = self.config.engine != "ddp"
        build_on = "cpu" if shards else ranks.device
        ranks.reached("building the model")
        context = join_context(config.workers.context)
        self.objective = build_objective(
            self.config, len(job.classes), device=build_on, compute=ranks.device, as_stored=shards, context=context
        )
        warning = attention_warning(self.config, self.objective, ranks.device)
        if ranks.first:
            log.info("attention: %s", self.objective.attention)
            if warning:
                log.warning(warning)
        self.trained_parameters, self.all_parameters = parameter_counts(self.objective)
        peak = peak_of_workers(ranks.device, ranks.world, self.config.bf16)
        described = named_config(config.store, config.model) if peak else None
        adapter = adapter_parameters(self.objective)
        self.mfu = Mfu(described, config.method, adapter, peak, config.objective) if peak else None
        self.embedded = len(self.objective.model.get_input_embeddings().weight)  # before an engine shards it
        self.engine: TrainingEngine = make_engine(self.config, self.objective, ranks.device)
        stack.callback(self.engine.close)
        ranks.wait_at_most(self.config.workers.timeout_s)  # groups that engines make have other timeouts
        micro_rows, length = self.config.micro_rows(ranks.world), self.config.sequence_length
        self.references: dict[str, pa.Table] = {}  # by URI of the packed rows
        if isinstance(self.objective, AnswerLoss) and config.training_objective.reference:
            call = self.engine.module
            bounds = job.row_bounds(self.embedded)
            self.references = compute_references(job, self.config, packed, self.objective, call, ranks, bounds)
        restored = restore(job.folder, job.parent, ranks, self.engine)
        checkpoint = restored.checkpoint
        updates = job.parent.updates if job.parent else 0
        self.steps_before = job.parent.steps_before if job.parent else 0
        self.progress = checkpoint.manifest.progress if checkpoint else TrainingProgress(updates=updates)
        self.resumed_seconds = self.progress.seconds
        self.saved_step = checkpoint.step if checkpoint else -1
        self.taken_here = 0  # steps of this start
        self.saved_metrics: dict[str, float] = {}  # of the last checkpoint of this start
        resumed = self.progress.step if checkpoint else None
        self.log = StepLog(job.folder.store, job.folder.step_log, resumed, job.folder.outcome) if ranks.first else None
        if self.log:
            stack.callback(self.log.close)
        # They are code of the user, which only the config of a user has, and not a job file (cluster/plugins.py).
        self.callbacks = Callbacks([one.loaded() for one in config.callbacks] if ranks.first else [])
        self.metrics: Metrics = connect(job.folder.uri.rpartition("/")[2]) if ranks.first else NOT_EXPORTED
        self.trackers: list[Tracker] = trackers(job, attempt, self.progress.step, self.metrics) if ranks.first else []
        for tracker in self.trackers:
            stack.callback(tracker.close)
        keep = config.checkpoint.keep
        self.saver = Saver(job.folder, keep, ranks, attempt, self._flush, self._report, self.metrics)
        stack.callback(self.saver.close)
        train, validation = (
            [self._rows(artifact) for artifact in packed.split(split)] for split in ("train", "validation")
        )
        mismatched = config.objective == "kto"
        order = Order.for_training(self.config, packed, job.parent.position if job.parent else Position())
        self.loader = self._rollouts(order, train, micro_rows) or Loader(
            order,
            train,
            ranks.rank,
            ranks.world,
            micro_rows,
            length,
            pad_id=0,
            steps=job.steps,
            mismatched=mismatched,
            context=config.workers.context,
        )
        stack.callback(self.loader.close)
        validated = limited([len(source) for source in validation], self.config.validation_rows)
        self.validation = self._rewards("validation", validation, validated) or Measurement(
            "validation", validation, validated, ranks, micro_rows, length, mismatched=mismatched,
            context=config.workers.context,
        )  # fmt: skip
        stack.callback(self.validation.loader.close)
        self.preemption = Preemption(ranks, self.metrics)
        self.forward_clock = ForwardClock(ranks.device)
        self.attempt = StartRecord(
            attempt=attempt,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            workers=ranks.world,
            step=self.progress.step,
            trainable_parameters=self.trained_parameters,
            all_parameters=self.all_parameters,
            attention=self.objective.attention,
            attention_warning=warning,
            damaged=restored.damaged,
            micro_rows=micro_rows,
        )
        self._write_attempt()

    def run(self) -> Outcome:
        """Take the remaining steps."""
        if self.saved_step < 0:
            # The untrained model; and a checkpoint to which failures.skip_back may need to return.
            with nullcontext() if self.job.parent else self.objective.as_base_model():
                self._log_validation()
                self._measure_held_out(BEFORE)
            if self.config.failures.skip_back:
                self._save()
        try:
            while self.progress.step < self.job.steps and not self._stops_early():
                self._step(self.progress.step)
        finally:
            if isinstance(self.loader, Rollouts):
                self.loader.end_sampler()
        if self.saved_step < self.progress.step:  # the last steps were skipped
            self._log_validation()
            self._save()
        self._settle()
        return self._finish()

    def _log_validation(self) -> None:
        """Validate, and log it for the steps so far."""
        if measured := self._validate():
            self._append(self._new_record() | {"validation": measured, "validation_s": self.validation.seconds})

    def _measure_held_out(self, when: When, checkpoint: str = "") -> None:
        """Measure the held-out rows of the evaluation, unless they are measured already.

        checkpoint: URI of the weights to measure; none before training: the weights that the engine has.
        """
        record = HeldOutRecord(self.job, when, checkpoint)
        if self.ranks.from_first(self.ranks.first and record.read() is not None):
            return
        if checkpoint and step_of(checkpoint) != self.progress.step:
            self.ranks.reached(f"reading the checkpoint of step {step_of(checkpoint)}")
            with self._waiting_for_storage():
                if load_checkpoint(self.job.folder.store, checkpoint, self.ranks, self.engine) is not None:
                    return  # the export refuses it, with advice
        found: dict[str, Measured] = {}
        began = time.monotonic()
        for name, rows in held_out_rows(self.config, self.packed).items():
            sources = [self._rows(artifact) for artifact in rows.artifacts.values()]
            of_rows = f"measuring {name} {when} training"
            micro_rows, length = self.loader.micro_rows, self.loader.length
            counts, boundaries = list(rows.rows.values()), self.loader.documents_per_row
            measurement = self._rewards(of_rows, sources, counts) or Measurement(
                of_rows, sources, counts, self.ranks, micro_rows, length, boundaries, self.loader.mismatched,
                self.config.workers.context,
            )  # fmt: skip
            try:
                with self.engine.averaged():
                    one = measurement.measure(self.engine.module, self.objective)
                if one is not None:
                    one.update(measurement.tables)  # type: ignore[typeddict-item]
                    found[name] = one
            finally:
                measurement.loader.close()
        if self.ranks.first:
            record.write(found)
            if found:
                seconds = time.monotonic() - began
                log.info("measured %s %s training: %s", ", ".join(found), when, duration(seconds))

    def _rows(self, artifact: Artifact) -> PackedRows | ReferencedRows:
        shared = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1
        rows = PackedRows(artifact, bounds=self.job.row_bounds(self.embedded), shared=shared)
        reference = self.references.get(artifact.uri)
        return rows if reference is None else ReferencedRows(rows, reference)

    def _rollouts(self, order: Order, prompts: Sequence[Any], micro_rows: int) -> Any:
        """The rows of steps of objective grpo; None for other objectives."""
        if not isinstance(self.objective, RolloutLoss):
            return None
        tokenizer = load_tokenizer(self.packed.store, self.packed.tokenizer_uri)
        return Rollouts(self.job, self.config, self.ranks, self.objective, tokenizer, order, prompts, micro_rows)

    def _rewards(self, what: str, sources: Sequence[Any], rows: Sequence[int]) -> Any:
        """The measurement of rewards of objective grpo; None for other objectives."""
        if not isinstance(self.loader, Rollouts):
            return None
        return RewardMeasurement(what, sources, rows, self.loader)

    def _step(self, step: int) -> None:
        """Take one step: read rows, exchange counts, update the weights, log. Without labels there is no update.

        step: counted from 0.
        """
        self.ranks.reached(f"step {step + 1}, reading rows")
        began, waited, compiled = time.perf_counter(), self.loader.waited_s, compile_clock.seconds
        batches = self.loader.micro_batches(step)
        self.ranks.reached(f"step {step + 1}, counts")
        counts = self._exchange(batches)
        self.saver.on_counts(counts.uploading, counts.committed)
        rate = learning_rate(self.config.optimizer, step, self.job.steps)
        record: StepRecord = self._new_record(step + 1)
        if counts.loss_denominator:
            self.objective.begin_step(counts.loss_denominator, counts.objective_sum)
            baseline = self._baseline(step, batches)
            loss_sum, balance = self._backward(step, batches, counts.loss_denominator)
            self.ranks.reached(f"step {step + 1}, update")
            norm = self.engine.step(rate, self.config.optimizer.clip)
            waited, compiled = self.loader.waited_s - waited, compile_clock.seconds - compiled
            mine = [loss_sum, waited, memory_gib(self.ranks.device), compiled, balance, self.forward_clock.take()]
            mine += self.objective.measures.take()
            everyone = zip(*self.ranks.exchange_floats(mine), strict=True)
            losses, waits, memory, compiling, balances, forward, *measured = everyone
            loss = sum(losses) / counts.loss_denominator
            if problem := loss_problem(loss, norm, self.config.failures.loss_limit):
                self._skip_bad_step(step + 1, problem, batches)
                return
            record |= {"loss": loss, "grad_norm": norm, "data_wait_s": max(waits), "memory_gib": max(memory)}
            if self.objective.balance is not None:
                record["aux_loss"] = sum(balances)
            if len(forward) > 1:
                slowest = max(forward)
                record |= {
                    "forward_s": slowest,
                    "median_forward_s": statistics.median(forward),
                    "slowest_rank": forward.index(slowest),
                }
            record |= self.objective.means([sum(one) for one in measured], counts.loss_denominator)  # type: ignore[typeddict-item]
            if baseline is not None:
                record["kl"] = baseline
            if max(compiling):
                record["compile_s"] = max(compiling)
        record |= self.loader.measures  # type: ignore[typeddict-item]
        seconds = time.perf_counter() - began
        record |= {
            "learning_rate": rate,
            "tokens": counts.tokens,
            "label_tokens": counts.label_tokens,
            "samples": f"{counts.digest:016x}",  # a digest of the rows that were read
            "seconds": seconds,
            "tokens_per_s": counts.tokens / seconds,
            "mfu": self.mfu.of(counts.tokens / seconds, counts.attended / max(counts.tokens, 1)) if self.mfu else None,
        }
        self.progress = self.progress.stepped(updated=counts.loss_denominator > 0)
        if self.taken_here == 0:
            self.ranks.wait_at_most(min(self.config.workers.timeout_s, self.config.workers.step_timeout_s))
        self.taken_here += 1
        self._after(record, counts.checkpoint_due or counts.stopping)
        if counts.stopping and self.progress.step < self.job.steps:
            self._settle()
            raise StopRequested(f"stopped after step {self.progress.step}")

    def _exchange(self, batches: Sequence[Batch]) -> Counts:
        """The counts of a step over all workers. batches: those of this worker. A collective."""
        minutes = self.config.checkpoint.every_minutes
        due = self.ranks.first and minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        digest = sum(batch.digest for batch in batches)
        mine = [
            sum(self.objective.loss_denominator(batch) for batch in batches),
            sum(self.objective.step_sum(batch) for batch in batches),
            sum(batch.tokens for batch in batches),
            sum(batch.label_tokens for batch in batches),
            sum(attended_positions(batch) for batch in batches),
            digest & _LOW_32_BITS,
            digest >> 32 & _LOW_32_BITS,
            int(self.saver.uploading),
            int(self.saver.committed),
            int(due),
            int(self.is_stopped()),
        ]
        # Weights are fractions, so float64: it has whole numbers up to 2**53.
        denominator, objective_sum, *counts = (sum(one) for one in zip(*self.ranks.exchange_floats(mine), strict=True))
        tokens, labels, attended, low, high, uploading, committed, due_by_clock, stops = map(int, counts)
        digest = (low + (high << 32)) & ((1 << 64) - 1)
        flags = (committed > 0, due_by_clock > 0, stops > 0)
        return Counts(denominator, tokens, labels, attended, digest, uploading, *flags, objective_sum)

    def _baseline(self, step: int, batches: Sequence[Batch]) -> float | None:
        """z of objective kto, over the step's answers of all workers; None for other objectives."""
        objective = self.objective
        if not isinstance(objective, AnswerLoss) or objective.name != "kto":
            return None
        sums = np.zeros(2)
        with torch.no_grad():
            for number, batch in enumerate(batches):
                assert batch.mismatched is not None
                self._micro_batch(step, number, batch.mismatched, "mismatched answers")
                sums += objective.gains(batch.mismatched)
        objective.baseline = baseline_of(self.ranks.exchange_floats(sums.tolist()))
        return objective.baseline

    def _backward(self, step: int, batches: Sequence[Batch], denominator: float) -> tuple[float, float]:
        """Accumulate the gradients of the step's micro-batches.

        Returns:
            (this worker's sum of losses, its part of the load-balancing loss), without the latter in the former.
        """
        balance = self.objective.balance
        if balance is not None:
            balance.begin_step(denominator)
            if len(batches) > 1:
                with torch.no_grad():
                    for number, batch in enumerate(batches):
                        self._micro_batch(step, number, batch, "counting experts")
                balance.sum_counts()
        losses = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for number, batch in enumerate(batches):
            loss_sum = self._micro_batch(step, number, batch, "training")
            losses += loss_sum.detach()
            self.engine.backward(loss_sum / denominator, last=number == len(batches) - 1)
        if balance is None:
            return losses.item(), 0.0
        part = balance.end_step()
        return losses.item() - balance.coefficient * denominator * part, part

    def _micro_batch(self, step: int, number: int, batch: Batch, what: str) -> torch.Tensor:
        """The sum of losses of one micro-batch. Equal seeds: `number` and `step` give the same dropout."""
        self.ranks.reached(f"step {step + 1}, micro-batch {number + 1}, {what}")
        whole_step = self.steps_before + step
        torch.manual_seed(dropout_seed(self.config.seed, whole_step, number, self.ranks.rank))
        with self.forward_clock.running():
            loss_sum, _ = self.engine.module(**self.objective.tensors(batch, self.ranks.device, whole_step))
        return loss_sum

    def _after(self, record: StepRecord, checkpoint_due: bool) -> None:
        """Validate and save a checkpoint, each if due, and log the step."""
        step = self.progress.step
        last = step == self.job.steps
        if (last or step % self.config.evaluate.every_steps == 0) and (measured := self._validate()):
            record |= {"validation": measured, "validation_s": self.validation.seconds}
        every = self.config.checkpoint.every_steps
        regular = every is not None and step % every == 0
        ends = last or self._stops_early()
        if regular or checkpoint_due or ends or self.progress.improved or self.preemption.announced(step):
            record["checkpoint_stall_s"] = self._save(record)
        self._append(record)
        self.callbacks.on_step(record)

    def _validate(self) -> Measured | None:
        with self.engine.averaged():
            measured = self.validation.measure(self.engine.module, self.objective)
        self.progress = self.progress.validated(measured and measured["loss"], self.config.evaluate.least_gain)
        return measured

    def _stops_early(self) -> bool:
        patience = self.config.evaluate.patience
        return patience is not None and self.progress.misses >= patience

    def _save(self, record: StepRecord | None = None) -> float:
        """Begin a checkpoint. record: of its step. Returns the seconds for which training waited."""
        self.ranks.reached(f"checkpoint of step {self.progress.step}")
        with self._waiting_for_storage():
            stall = self.saver.begin(self._progress_now(), self.engine.slices())
        self.saved_step, self.saved_at = self.progress.step, time.monotonic()
        self.saved_metrics = {"step": self.saved_step, **(curves(record) if record else {})}
        return stall

    def _settle(self) -> None:
        with self._waiting_for_storage():
            self.saver.settle()

    def _waiting_for_storage(self) -> AbstractContextManager[None]:
        """A longer timeout while workers write or read checkpoints, because one may take longer than the others."""
        return self.ranks.waiting_at_most(self.config.workers.timeout_s)

    def _report(self, checkpoint: str) -> None:
        self.ranks.reached(f"report of the checkpoint of step {self.saved_step}")
        self.ranks.report(self.saved_metrics, checkpoint)
        self.callbacks.on_checkpoint(checkpoint, step_of(checkpoint))

    def _skip_bad_step(self, step: int, problem: str, batches: Sequence[Batch]) -> None:
        """Restore the newest checkpoint, and skip the steps after it up to `step`, which is counted from 1.

        Raises:
            DataError: there is no checkpoint, or checkpoints were restored failures.skip_back times before.
        """
        error = bad_loss_error(self.job.folder, self.ranks, step, problem, document_ids(batches, self.ranks))
        if self.progress.went_back >= self.config.failures.skip_back:
            raise error
        log.warning("step %d: %s; returning to the last checkpoint", step, problem)
        self._settle()
        with self._waiting_for_storage():
            restored = restore(self.job.folder, self.job.parent, self.ranks, self.engine)
        checkpoint = restored.checkpoint
        if checkpoint is None:
            raise error
        if restored.damaged:
            self.attempt["damaged"] += restored.damaged
            self._write_attempt()
        if self.log:
            self.log.cut(checkpoint.step)
        self.saved_step = checkpoint.step
        self.progress = checkpoint.manifest.progress.skipping_to(step, self.progress.went_back + 1)

    def _progress_now(self) -> TrainingProgress:
        return replace(self.progress, seconds=self.resumed_seconds + time.monotonic() - self.started_at)

    def _new_record(self, step: int | None = None) -> StepRecord:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return StepRecord(step=self.progress.step if step is None else step, time=now, workers=self.ranks.world)

    def _append(self, record: Any) -> None:
        if self.log:
            self.log.append(record)
        for tracker in self.trackers:
            tracker.write(record)

    def _flush(self) -> None:
        """Write the log lines of all steps so far, before a checkpoint is committed."""
        if self.log:
            self.log.flush()

    def _write_attempt(self) -> None:
        if self.ranks.first:
            name = f"{self.attempt['time'].replace(':', '')[:21]}-{self.attempt['attempt']}.json"
            run = self.job.folder
            run.store.write_bytes(paths.join(run.attempts, name), json.dumps(self.attempt).encode())

    def _finish(self) -> Outcome:
        gradients = received_gradients(self.engine.slices(), self.ranks)
        without_gradient = sorted(name for name, received in gradients.items() if not received)
        progress, best = self._progress_now(), self.progress.best
        checkpoint = best_checkpoint = ""
        if self.ranks.first:
            checkpoint = at_step(self.job.folder, progress.step)
            best_checkpoint = at_step(self.job.folder, best.step) if best else checkpoint
        self._measure_held_out(AFTER, self.ranks.from_first(best_checkpoint))
        outcome: Outcome | None = None
        if self.ranks.first:
            self._flush()
            outcome = Outcome(
                fingerprint=self.job.folder.fingerprint,
                ended="patience" if self._stops_early() else "steps",
                steps=progress.step,
                best_step=best.step if best else None,
                checkpoint=checkpoint,
                best_checkpoint=best_checkpoint,
                trainable_parameters=self.trained_parameters,
                all_parameters=self.all_parameters,
                unmoved=without_gradient,
                skipped=list(progress.skipped),
                restarts=len(self.job.folder.store.list_files(self.job.folder.attempts)) - 1,
                seconds=progress.seconds,
            )
            self.callbacks.on_end(outcome)  # before it is recorded, so that one that failed is called again
            write_outcome(self.job.folder, outcome)
        outcome = self.ranks.from_first(outcome)
        assert outcome is not None
        return outcome


def dropout_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """Seed of the random numbers of one micro-batch, so that checkpoints need no states of generators."""
    return int.from_bytes(hashlib.sha256(f"{seed},{step},{micro},{rank}".encode()).digest()[:8], "big") >> 1


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """The learning rate of `step` (from 0) in a run of `steps` steps.

    In warm-up the rate rises linearly; its last step has the full rate. After it, the rate falls from the full rate
    towards `final_fraction` of it. It would reach that at the step after the last one, so no step has a rate of zero.

        cosine      half a cosine wave; with `restarts` several of equal length, one after the other
        linear      a straight line
        wsd         constant, then a straight line over the last `decay_steps` (default: a tenth of the steps)
        constant    the full rate to the end

    A pure function of its arguments: no schedule state is saved in a checkpoint.
    """
    full, final, warmup = optimizer.learning_rate, optimizer.final_fraction, optimizer.warmup(steps)
    if step < warmup:
        return full * (step + 1) / warmup
    after = steps - warmup
    done = _clamped_ratio(step - warmup, after)
    match optimizer.schedule:
        case "cosine":
            if optimizer.restarts:
                # In whole numbers: with floats, a wave may begin one step late.
                done = (step - warmup) * (optimizer.restarts + 1) % after / after
            left = (1 + math.cos(math.pi * done)) / 2
        case "linear":
            left = 1 - done
        case "wsd":
            decay = min(optimizer.decay_steps or max(1, round(steps / 10)), after)
            left = 1 - _clamped_ratio(step - (steps - decay) + 1, decay + 1)
        case "constant":
            return full
    return full * (final + (1 - final) * left)


def _clamped_ratio(part: int, whole: int) -> float:
    """part / whole, clamped to [0, 1]; 0 if whole is 0."""
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else 0.0


_LISTED_DOCUMENTS = 20


def loss_problem(loss: float, grad_norm: float, limit: float | None) -> str | None:
    """The problem of a step's loss or gradient norm, as text; None if there is none. Equal on all workers."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the loss is {loss:.4g} and the gradient norm {grad_norm}"
    if limit is not None and loss > limit:
        return f"the loss is {loss:.4g}, above failures.loss_limit {limit:g}"
    return None


def document_ids(batches: Sequence[Batch], ranks: Ranks) -> list[str]:
    """Ids of the documents in a step's batches of all workers, without repetition. A collective."""
    mine = [document for batch in batches for row in batch.documents for document in row]
    return list(dict.fromkeys(document for worker in ranks.gather(mine) for document in worker))


def bad_loss_error(run: RunFolder, ranks: Ranks, step: int, problem: str, documents: Sequence[str]) -> DataError:
    """The error that ends a run at a step, with the first document ids of the step. step: counted from 1.

    The first worker writes all ids to broken/step-NNNNNNNN.json.
    """
    uri = paths.join(run.uri, "broken", f"step-{step:08d}.json")
    if ranks.first:
        content = {"step": step, "problem": problem, "documents": list(documents)}
        run.store.write_bytes(uri, json_bytes(content))
    listed = ", ".join(documents[:_LISTED_DOCUMENTS])
    more = f" and {len(documents) - _LISTED_DOCUMENTS} more (all are in {uri})" if documents[_LISTED_DOCUMENTS:] else ""
    return DataError(
        f"step {step}: {problem}. Its batch contained the documents {listed}{more}. Look at them, lower "
        "optimizer.learning_rate or lengthen optimizer.warmup_steps; or set failures: {skip_back: 1} to return to the "
        "last checkpoint and skip the steps up to this one."
    )


def received_gradients(slices: Iterable[StateSlice], ranks: Ranks) -> dict[str, bool]:
    """Trained parameter -> whether it ever had a gradient that is not zero, on any worker. A collective.

    It is read from AdamW's average of squared gradients, or Muon's of gradients, which is zero only if every gradient
    was zero, in all starts of the training. False means that a parameter, of an adapter for example, takes no part in
    the computation.
    """
    mine: dict[str, bool] = {}
    for one in slices:
        if one.state in ("exp_avg_sq", MOMENTUM_STATE):
            mine[one.name] = mine.get(one.name, False) or bool(one.values.any())
    everywhere: dict[str, bool] = {}
    for worker in ranks.gather(mine):
        for name, received in worker.items():
            everywhere[name] = everywhere.get(name, False) or received
    return everywhere


def attended_positions(batch: Batch) -> int:
    """Sum over a batch's tokens of the number of positions that each attends to, its own included; without padding."""
    return int((batch.position_ids + 1)[batch.real].sum())
