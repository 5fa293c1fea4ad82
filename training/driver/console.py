"""Progress of a training for the terminal: steps, loss, tokens per second, time left, the last validation.

The driver reads the end of steps.jsonl and the files of starts every few seconds. On a terminal one line is redrawn;
elsewhere a line is printed every 10 s.

Time left is estimated for the remaining steps, validations, export and evaluation. Steps and validations are assumed to
take as long as the last ones. Evaluation measures the held-out split twice on the first worker, in the same time per
row as validation; generated answers are not counted. The speed of the export is a constant.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import mean
from typing import cast

from raymill.cluster.errors import RaymillError
from raymill.cluster.formats import plural
from raymill.cluster.progress import LineWriter, ProgressUpdate, clock
from raymill.cluster.record import read_json, read_json_line
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.job import Job
from raymill.training.records.schema import StartRecord, StepRecord, damage_lines

_TAIL_BYTES = 64 << 10
_EVERY_S = {True: 0.0, False: 10.0}  # on a terminal, elsewhere
_RECENT_STEPS = 50  # over which rates are averaged
# Weights are read from a checkpoint and written to the export. Disks are faster, object stores often are not.
_EXPORT_BYTES_PER_S = 200e6


class StepProgress:
    """Shows the steps of one job while its workers run. Call `update` every few seconds, and `finish` at the end.

    Each call reads what changed on the run's store: a listing of the starts, and the last 64 KiB of the step log.
    """

    def __init__(self, job: Job, writer: LineWriter) -> None:
        self.job, self.run = job, job.folder
        self.writer = writer
        self.shown_at = 0.0
        self.newest = self.shown = ""
        self.step = 0
        self.version = ""  # of the step log that was read
        self.since: int | None = None  # the step from which the workers continued; None: they have not started
        self.known = {file.uri: file.version for file in self.run.store.list_files(self.run.attempts)}
        self.warned: set[str] = set()
        self.remaining = RemainingWork(job.steps, job.config.evaluate.every_steps)

    def update(self) -> None:
        """Read new starts and steps, and show them if the last line was shown long enough ago."""
        self._read_attempts()
        self._read_steps()
        if self.newest != self.shown and time.monotonic() - self.shown_at >= _EVERY_S[self.writer.terminal]:
            self._show()

    def finish(self) -> None:
        """Show the last state and end the line."""
        self._read_attempts()
        self._read_steps()
        if self.newest != self.shown:
            self._show()
        self.writer.end()

    def _read_attempts(self) -> None:
        """Show a line for each new start, and one for each damaged checkpoint that was skipped."""
        for file in self.run.store.list_files(self.run.attempts):
            if self.known.get(file.uri) == file.version:
                continue
            is_new = file.uri not in self.known
            self.known[file.uri] = file.version
            attempt = cast(StartRecord, read_json(self.run.store, file.uri, "the record of a start", kind=StartRecord))
            self._write(f"warning: {line}" for line in damage_lines(attempt) if line not in self.warned)
            self.warned.update(damage_lines(attempt))
            if is_new:
                self.since = attempt["step"]
                self.remaining = RemainingWork.of(self.job, attempt["all_parameters"])
                self._write([start_line(attempt)])

    def _write(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.writer.write(line)

    def _read_steps(self) -> None:
        if self.since is None:
            return
        try:
            found = self.run.store.info(self.run.step_log)
        except NotFound:
            return
        if found.version != self.version:
            self.version = found.version
            records = last_records(self.run.store, self.run.step_log, found.size)
            own = [record for record in records if record["step"] > self.since or not self.since]
            self.newest = step_line(own, self.remaining) or self.newest
            self.step = own[-1]["step"] if own else self.step

    def _show(self) -> None:
        self.shown_at, self.shown = time.monotonic(), self.newest
        self.writer.update(ProgressUpdate(self.newest, "training", self.step, self.remaining.steps))


def start_line(attempt: StartRecord) -> str:
    """The line shown when workers start."""
    trained, total, workers = attempt["trainable_parameters"], attempt["all_parameters"], attempt["workers"]
    resumed = f", continuing after step {attempt['step']}" if attempt["step"] else ""
    share = f"{trained:,} of {total:,} parameters train ({trained / total:.2%})"
    warning = f"\nwarning: {attempt['attention_warning']}" if attempt["attention_warning"] else ""
    rows = f", {plural(attempt['micro_rows'], 'row')} at once" if "micro_rows" in attempt else ""
    return f"training: {share}, {plural(workers, 'worker')}{rows}, attention {attempt['attention']}{resumed}{warning}"


def step_line(records: Sequence[StepRecord], remaining: "RemainingWork") -> str:
    """One line about the last of these steps; empty if there is none.

    Tokens per second are those of steps, without the time of validation and checkpoints. The time left is that until
    the end of the export.
    """
    if not records:
        return ""
    last = records[-1]
    parts = [f"training: {last['step']}/{plural(remaining.steps, 'step')}"]
    taken = [record for record in records if "seconds" in record][-_RECENT_STEPS:]
    if "loss" in last:
        parts.append(f"loss {last['loss']:.4f}")
    if taken:
        seconds = mean(record["seconds"] - record.get("compile_s", 0.0) for record in taken)
        parts.append(f"{mean(record['tokens'] for record in taken) / max(seconds, 1e-9):,.0f} tokens/s in steps")
    if (left := remaining.seconds_left(records)) is not None:
        parts.append(f"{clock(left)} left{' with export and evaluation' if remaining.export_bytes else ''}")
    if compiling := sum(record.get("compile_s", 0.0) for record in taken):
        parts.append(f"{clock(compiling)} of compiling")
    validated = [record for record in records if "validation" in record]
    if validated:
        found = validated[-1]
        took = f" in {clock(found['validation_s'])}" if "validation_s" in found else ""
        parts.append(f"validation {found['validation']['loss']:.4f} at step {found['step']}{took}")
    return ", ".join(parts)


def last_records(store: Store, uri: str, size: int) -> list[StepRecord]:
    """The steps in the last 64 KiB of a step log of `size` bytes, without a line that is cut at their start."""
    with store.open_input(uri) as file:
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines()
    return [read_json_line(line, uri) for line in (lines[1:] if size > _TAIL_BYTES else lines)]


@dataclass(frozen=True)
class RemainingWork:
    """The amount of work of a training, from which the time left is estimated.

    steps: of the whole training. validate_every: steps between validations; the last step is also followed by one.
    validation_rows: rows of each validation. evaluation_rows: rows of the held-out split. export_bytes: bytes that the
    export reads and writes.
    """

    steps: int
    validate_every: int
    validation_rows: int = 0
    evaluation_rows: int = 0
    export_bytes: int = 0

    @classmethod
    def of(cls, job: Job, parameters: int) -> "RemainingWork":
        """parameters: of the whole model."""
        config = job.config
        every = config.evaluate.every_steps
        try:
            packed = PackedRun.load(job.folder.store, job.packed)
        except RaymillError:  # the workers report it
            return cls(job.steps, every)
        rows = packed.rows("validation")
        exported = (4 if config.export.dtype in (None, "float32") else 2) if config.exports_whole_weights else 0
        test_rows, most = packed.rows("test") or rows, config.evaluate.test_tokens
        return cls(
            steps=job.steps,
            validate_every=every,
            validation_rows=min(rows, config.validation_rows or rows),
            evaluation_rows=min(test_rows, -(-most // config.sequence_length)) if most else test_rows,
            export_bytes=parameters * (4 + exported),
        )

    def seconds_left(self, records: Sequence[StepRecord]) -> float | None:
        """Seconds after the last of these steps; None if none was timed."""
        taken = [record for record in records if "seconds" in record][-_RECENT_STEPS:]
        if not taken:
            return None
        step = taken[-1]["step"]
        left = (self.steps - step) * _seconds_per_step(taken)
        measured = [record for record in records if "validation_s" in record]
        if measured:
            took = measured[-1]["validation_s"]
            validations = (self.steps - 1) // self.validate_every - step // self.validate_every + 1
            left += took * (validations if step < self.steps else 0)
            if self.validation_rows:
                left += self.evaluation_rows * took / self.validation_rows  # all workers measure, after the last step
        return left + self.export_bytes / _EXPORT_BYTES_PER_S


def _seconds_per_step(taken: Sequence[StepRecord]) -> float:
    """Wall time from one step to the next, without validation."""
    if len(taken) < 2:
        return taken[-1]["seconds"] - taken[-1].get("compile_s", 0.0)
    first, last = (datetime.fromisoformat(record["time"]) for record in (taken[0], taken[-1]))
    # A record's time is the start of its step, so the last step's own time is not in the difference.
    between = sum(record.get("validation_s", 0.0) for record in taken[:-1])
    passed = (last - first).total_seconds() - between
    return passed / (len(taken) - 1) if passed > 0 else taken[-1]["seconds"]
