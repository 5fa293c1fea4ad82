"""The training of one worker, step after step. All workers run this together; Ray Train or torchrun started them.

A step: rows -> one exchange of counts -> forward and backward of each micro-batch, each loss divided by the label
tokens of the whole step -> update -> one exchange of losses. What a step does depends on the config, the packed data
and the number of the step alone, so whatever is killed and resumed comes to the same weights; on as many workers as
before, to the same bits.

After a step: validation, then the line of the log, then a checkpoint. A checkpoint is made at every `every_steps` and
`every_minutes`, when a node is to be taken away, at the end, and after each validation that is the best so far: so the
best weights are always there to go back to.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from cluster.store import paths
from training.data.batch import Batch
from training.data.loader import Loader, micro_rows
from training.data.order import Order
from training.data.packed import PackedRows
from training.engines.engine import Engine
from training.engines.make import make_engine
from training.fit import loss_checks as broken
from training.fit.checkpoint.format import at_step
from training.fit.checkpoint.restore import restore
from training.fit.checkpoint.save import Saver
from training.fit.device import Speed, attended, memory_gib, moved, parameters, peak, with_rows_that_fit
from training.fit.job import Job
from training.fit.learning_rate import learning_rate
from training.fit.outcome import finished, put
from training.fit.preemption import Notice
from training.fit.ranks import Place
from training.fit.records import Attempt, Measured, Outcome, StepRecord
from training.fit.step_log import StepLog
from training.fit.tracking import Tracker, trackers
from training.fit.training_progress import Course
from training.fit.validation import Validation
from training.models.build import attention_warning, build_objective
from training.models.compiling import compile_clock
from training.pack.packed_run import PackedRun

log = logging.getLogger(__name__)

_LOW = (1 << 32) - 1


def fit(job: Job, place: Place) -> Outcome:
    """Train to the end, from the newest checkpoint if there is one. Called by every worker alike.

    Raises:
        DataError: a broken loss, with the documents; or a checkpoint that is another run's.
        UserError: something else the user can mend.
    """
    if (done := place.from_first(finished(job) if place.first else None)) is not None:
        return done
    with ExitStack() as stack, place.naming_missing():
        return Training(job, place, stack).run()


@dataclass(frozen=True)
class Counts:
    """Of one step, over all workers. `attended`: see device.py. `late`: rank 0's clock says a checkpoint is due."""

    units: int
    tokens: int
    label_tokens: int
    attended: int
    digest: int
    uploading: int
    late: bool


class Training:
    """One worker's part of one attempt. `stack` closes what it opens, in reverse order."""

    def __init__(self, job: Job, place: Place, stack: ExitStack) -> None:
        self.job, self.place = job, place
        self.config = with_rows_that_fit(job.config, place, len(job.classes))
        self.began = self.saved_at = time.monotonic()
        attempt = place.from_first(uuid.uuid4().hex[:8])
        packed = PackedRun.load(job.store, job.packed)
        # An engine that shards moves each part to the device as it cuts it: whole, the model may not fit there.
        at_first = place.device if self.config.engine == "ddp" else "cpu"
        place.at("building the model")
        self.objective = build_objective(self.config, len(job.classes), device=at_first, compute=place.device)
        self.attention = self.objective.attention
        self.attention_warning = attention_warning(self.config, self.objective, place.device)
        if place.first:
            log.info("attention: %s", self.attention)
            if self.attention_warning:
                log.warning(self.attention_warning)
        self.trained_parameters, self.all_parameters = parameters(self.objective)
        self.speed = Speed(self.config, self.trained_parameters, peak(place, self.config.bf16))
        self.engine: Engine = make_engine(self.config, self.objective, place.device)
        stack.callback(self.engine.close)
        restored = restore(job, place, self.engine)
        saved = restored.saved
        self.course = saved.manifest.course if saved else Course()
        self.resumed_seconds = self.course.seconds
        self.saved_step = saved.step if saved else -1
        self.log = StepLog(job.store, job.step_log, self.course.step if saved else None) if place.first else None
        if self.log:
            stack.callback(self.log.close)
        self.trackers: list[Tracker] = trackers(job, attempt, self.course.step) if place.first else []
        for tracker in self.trackers:
            stack.callback(tracker.close)
        self.saver = Saver(job, place, attempt, self._flush)
        stack.callback(self.saver.close)
        self.validation = Validation(self.config, packed, place, "validation", self.config.evaluate.rows)
        stack.callback(self.validation.close)
        self.loader = Loader(
            Order.for_training(self.config, packed),
            [PackedRows(artifact) for artifact in packed.split("train")],
            place.rank,
            place.world,
            micro_rows(self.config, place.world),
            self.config.sequence_length,
            0,
            steps=job.steps,
        )
        stack.callback(self.loader.close)
        self.notice = Notice(place)
        self.attempt = Attempt(
            attempt=attempt,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            workers=place.world,
            step=self.course.step,
            trainable_parameters=self.trained_parameters,
            all_parameters=self.all_parameters,
            attention=self.attention,
            attention_warning=self.attention_warning,
            damaged=restored.damaged,
        )
        self._write_attempt()

    def run(self) -> Outcome:
        if self.saved_step < 0:
            self._begin_anew()
        while self.course.step < self.job.steps and not self._out_of_patience():
            self._step(self.course.step)
        if self.saved_step < self.course.step:  # the last steps were passed over
            if measured := self._validate():
                self._append(self._bare_record() | {"validation": measured, "validation_s": self.validation.seconds})
            self._save()
        self.saver.settle()
        return self._finish()

    def _begin_anew(self) -> None:
        """Before the first step: what the model is worth untrained, and somewhere to go back to if that is allowed."""
        with self.objective.as_base_model():
            measured = self._validate()
        if measured:
            self._append(self._bare_record() | {"validation": measured, "validation_s": self.validation.seconds})
        if self.config.failures.skip_back:
            self._save()

    def _step(self, step: int) -> None:
        self.place.at(f"step {step + 1}, reading rows")
        began, waited, compiled = time.perf_counter(), self.loader.waited_s, compile_clock.seconds
        batches = self.loader.micro_batches(step)
        self.place.at(f"step {step + 1}, counts")
        counts = self._exchange(batches)
        self.saver.heard(counts.uploading)
        rate = learning_rate(self.config.optimizer, step, self.job.steps)
        record: StepRecord = self._bare_record(step + 1)
        if counts.units:
            loss_sum = self._backward(step, batches, counts.units)
            self.place.at(f"step {step + 1}, update")
            norm = self.engine.step(rate, self.config.optimizer.clip)
            waited, compiled = self.loader.waited_s - waited, compile_clock.seconds - compiled
            told = self.place.exchange_floats([loss_sum, waited, memory_gib(self.place.device), compiled])
            losses, waits, memory, compiling = zip(*told, strict=True)
            loss = sum(losses) / counts.units
            if wrong := broken.problem(loss, norm, self.config.failures.loss_limit):
                self._go_back(step + 1, wrong, batches)
                return
            record |= {"loss": loss, "grad_norm": norm, "data_wait_s": max(waits), "memory_gib": max(memory)}
            if max(compiling):
                record["compile_s"] = max(compiling)
        seconds = time.perf_counter() - began
        record |= {
            "learning_rate": rate,
            "tokens": counts.tokens,
            "label_tokens": counts.label_tokens,
            "samples": f"{counts.digest:016x}",
            "seconds": seconds,
            "tokens_per_s": counts.tokens / seconds,
            "mfu": self.speed.mfu(counts.tokens / seconds, counts.attended / max(counts.tokens, 1)),
        }
        self.course = self.course.stepped(updated=counts.units > 0)
        self._after(record, counts.late)

    def _exchange(self, batches: Sequence[Batch]) -> Counts:
        minutes = self.config.checkpoint.every_minutes
        late = self.place.first and minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        digest = sum(batch.digest for batch in batches)
        mine = [
            sum(self.objective.loss_denominator(batch) for batch in batches),
            sum(batch.tokens for batch in batches),
            sum(batch.label_tokens for batch in batches),
            sum(attended(batch) for batch in batches),
            digest & _LOW,
            digest >> 32 & _LOW,
            int(self.saver.uploading),
            int(late),
        ]
        everyone = zip(*self.place.exchange(mine), strict=True)
        units, tokens, labels, seen, low, high, uploading, due = (sum(column) for column in everyone)
        return Counts(units, tokens, labels, seen, (low + (high << 32)) & ((1 << 64) - 1), uploading, due > 0)

    def _backward(self, step: int, batches: Sequence[Batch], units: int) -> float:
        """Gradients of all of the step's micro-batches; this worker's sum of losses. Rows of padding take part."""
        losses = torch.zeros((), dtype=torch.float64, device=self.place.device)
        for number, batch in enumerate(batches):
            self.place.at(f"step {step + 1}, micro-batch {number + 1}")
            torch.manual_seed(dropout_seed(self.config.seed, step, number, self.place.rank))
            loss_sum, _ = self.engine.module(**self.objective.tensors(batch, self.place.device))
            losses += loss_sum.detach()
            self.engine.backward(loss_sum / units, last=number == len(batches) - 1)
        return losses.item()

    def _after(self, record: StepRecord, late: bool) -> None:
        step = self.course.step
        last = step == self.job.steps
        if (last or step % self.config.evaluate.every_steps == 0) and (measured := self._validate()):
            record |= {"validation": measured, "validation_s": self.validation.seconds}
        every = self.config.checkpoint.every_steps
        regular = every is not None and step % every == 0
        if regular or late or last or self.course.improved or self._out_of_patience() or self.notice.given(step):
            record["checkpoint_stall_s"] = self._save()
        self._append(record)

    def _validate(self) -> Measured | None:
        measured = self.validation.measure(self.engine.module, self.objective)
        self.course = self.course.validated(measured and measured["loss"], self.config.evaluate.least_gain)
        return measured

    def _out_of_patience(self) -> bool:
        patience = self.config.evaluate.patience
        return patience is not None and self.course.misses >= patience

    def _save(self) -> float:
        self.place.at(f"checkpoint of step {self.course.step}")
        stall = self.saver.begin(self._course_now(), self.engine.slices())
        self.saved_step, self.saved_at = self.course.step, time.monotonic()
        return stall

    def _go_back(self, step: int, wrong: str, batches: Sequence[Batch]) -> None:
        """To the newest checkpoint, and past the step, counted from 1; or end here."""
        documents = broken.documents_of(batches, self.place)
        error = broken.report(self.job, self.place, step, wrong, documents)
        if self.course.went_back >= self.config.failures.skip_back:
            raise error
        log.warning("step %d: %s; going back to a checkpoint", step, wrong)
        self.saver.settle()
        restored = restore(self.job, self.place, self.engine)
        saved = restored.saved
        if saved is None:
            raise error
        if restored.damaged:
            self.attempt["damaged"] += restored.damaged
            self._write_attempt()
        if self.log:
            self.log.cut(saved.step)
        self.saved_step = saved.step
        self.course = saved.manifest.course.back(step, self.course.went_back + 1)

    def _course_now(self) -> Course:
        return replace(self.course, seconds=self.resumed_seconds + time.monotonic() - self.began)

    def _bare_record(self, step: int | None = None) -> StepRecord:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return StepRecord(step=self.course.step if step is None else step, time=now, workers=self.place.world)

    def _append(self, record: Any) -> None:
        if self.log:
            self.log.append(record)
        for tracker in self.trackers:
            tracker.write(record)

    def _flush(self) -> None:
        """What must be on the store before a checkpoint is believed: the lines of the steps it comes after."""
        if self.log:
            self.log.flush()

    def _write_attempt(self) -> None:
        if self.place.first:
            name = f"{self.attempt['time'].replace(':', '')[:21]}-{self.attempt['attempt']}.json"
            self.job.store.write_bytes(paths.join(self.job.attempts, name), json.dumps(self.attempt).encode())

    def _finish(self) -> Outcome:
        unmoved = sorted(name for name, has in moved(self.engine.slices(), self.place).items() if not has)
        outcome: Outcome | None = None
        if self.place.first:
            course, best = self._course_now(), self.course.best
            checkpoint = at_step(self.job, course.step)
            self._flush()
            outcome = Outcome(
                fingerprint=self.job.fingerprint,
                ended="patience" if self._out_of_patience() else "steps",
                steps=course.step,
                best_step=best.step if best else None,
                checkpoint=checkpoint,
                best_checkpoint=at_step(self.job, best.step) if best else checkpoint,
                trainable_parameters=self.trained_parameters,
                all_parameters=self.all_parameters,
                unmoved=unmoved,
                skipped=list(course.skipped),
                restarts=len(self.job.store.list_files(self.job.attempts)) - 1,
                seconds=course.seconds,
            )
            put(self.job, outcome)
        told = self.place.from_first(outcome)
        assert told is not None
        return told


def dropout_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """Of what is random in one micro-batch, without a state that a checkpoint would have to carry."""
    return int.from_bytes(hashlib.sha256(f"{seed},{step},{micro},{rank}".encode()).digest()[:8], "big") >> 1
