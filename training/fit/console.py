"""What a person sees while workers train: steps, loss, tokens a second, time left, the last validation.

The driver learns it as everyone may: from steps.jsonl, of which it reads the end every few seconds. On a terminal one
line is redrawn; elsewhere plain lines come at a steady pace.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Protocol, TextIO, cast

from cluster.page.formats import plural
from cluster.progress import Lines, Progress
from cluster.store.interface import NotFound
from cluster.store.store import Store
from training.fit.job import Job
from training.fit.records import Attempt, StepRecord, damage_lines
from training.fit.time_left import Ahead

_TAIL_BYTES = 64 << 10
_EVERY_S = {True: 0.0, False: 10.0}  # a terminal's line, a log's line
_RECENT = 50


class Watch(Protocol):
    def look(self) -> None: ...
    def finish(self) -> None: ...


class Unseen:
    """For tests and for callers that show nothing."""

    def look(self) -> None: ...
    def finish(self) -> None: ...


class StepLines:
    """Looks at what one job's workers write; call `look` every few seconds."""

    def __init__(self, job: Job, stream: TextIO | None = None) -> None:
        self.job = job
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.shown = 0.0
        self.newest = self.said = ""
        self.version = ""
        self.since: int | None = None  # the step that this call's workers began after; none began yet
        self.known = {file.uri: file.version for file in job.store.list_files(job.attempts)}
        self.warned: set[str] = set()
        self.ahead = Ahead(job.steps, job.config.evaluate.every_steps)

    def look(self) -> None:
        self._greet()
        self._read()
        if self.newest != self.said and time.monotonic() - self.shown >= _EVERY_S[self.terminal]:
            self._show(self.newest)

    def finish(self) -> None:
        self._greet()
        self._read()
        if self.newest != self.said:
            self._show(self.newest)
        if self.terminal and self.said:
            self.stream.write("\n")
            self.stream.flush()

    def _greet(self) -> None:
        """A line for each time that workers began, and for each damaged checkpoint that they passed over."""
        for file in self.job.store.list_files(self.job.attempts):
            if self.known.get(file.uri) == file.version:
                continue
            began = file.uri not in self.known
            self.known[file.uri] = file.version
            attempt = cast(Attempt, json.loads(self.job.store.read_bytes(file.uri)))
            self._lines(f"warning: {line}" for line in damage_lines(attempt) if line not in self.warned)
            self.warned.update(damage_lines(attempt))
            if began:
                self.since = attempt["step"]
                self.ahead = Ahead.of(self.job, attempt["all_parameters"])
                self._lines([greeting(attempt)])

    def _lines(self, lines: Iterable[str]) -> None:
        start = "\r\033[K" if self.terminal else ""
        for line in lines:
            self.stream.write(f"{start}{line}\n")
        self.stream.flush()

    def _read(self) -> None:
        if self.since is None:
            return
        try:
            found = self.job.store.info(self.job.step_log)
        except NotFound:
            return
        if found.version != self.version:
            self.version = found.version
            lines = tail(self.job.store, self.job.step_log, found.size)
            own = [line for line in lines if line["step"] > self.since or not self.since]
            self.newest = summary(own, self.ahead) or self.newest

    def _show(self, text: str) -> None:
        self.shown, self.said = time.monotonic(), text
        self.stream.write(f"\r\033[K{text[:160]}" if self.terminal else f"{text}\n")
        self.stream.flush()


def watch_like(progress: Progress, job: Job) -> Watch:
    """What shows training to those who see stages by `progress`."""
    return StepLines(job, progress.stream) if isinstance(progress, Lines) else Unseen()


def greeting(attempt: Attempt) -> str:
    trained, total, workers = attempt["trainable_parameters"], attempt["all_parameters"], attempt["workers"]
    going_on = f", going on after step {attempt['step']}" if attempt["step"] else ""
    named = plural(workers, "worker")
    share = f"{trained:,} of {total:,} parameters train ({trained / total:.2%})"
    warning = f"\nwarning: {attempt['attention_warning']}" if attempt["attention_warning"] else ""
    return f"training: {share}, {named}, attention {attempt['attention']}{going_on}{warning}"


def summary(records: Sequence[StepRecord], ahead: Ahead) -> str:
    """One line about the last of these steps; empty before the first.

    Tokens a second are of the steps' own time, without validation and checkpoints; the time left is until the export's
    end.
    """
    if not records:
        return ""
    last = records[-1]
    parts = [f"training: {last['step']}/{plural(ahead.steps, 'step')}"]
    taken = [record for record in records if "seconds" in record][-_RECENT:]
    if "loss" in last:
        parts.append(f"loss {last['loss']:.4f}")
    if taken:
        seconds = mean(record["seconds"] - record.get("compile_s", 0.0) for record in taken)
        parts.append(f"{mean(record['tokens'] for record in taken) / max(seconds, 1e-9):,.0f} tokens/s in steps")
    if (left := ahead.seconds_left(records)) is not None:
        parts.append(f"{clock(left)} left{' with evaluation and export' if ahead.export_bytes else ''}")
    if compiling := sum(record.get("compile_s", 0.0) for record in taken):
        parts.append(f"{clock(compiling)} of compiling")
    validated = [record for record in records if "validation" in record]
    if validated:
        found = validated[-1]
        took = f" in {clock(found['validation_s'])}" if "validation_s" in found else ""
        parts.append(f"validation {found['validation']['loss']:.4f} at step {found['step']}{took}")
    return ", ".join(parts)


def tail(store: Store, uri: str, size: int) -> list[StepRecord]:
    """The last lines of a step log; a first line that is cut is left out."""
    with store.open_input(uri) as file:
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines()
    return [json.loads(line) for line in (lines[1:] if size > _TAIL_BYTES else lines)]


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
