"""Progress of a stage: units, documents and megabytes per second, time left, and reasons of removal so far.

On a terminal one line is redrawn; elsewhere a line is printed every 10 s. Units that were committed earlier count as
done, but not in the rate.

Time left is computed from the rate in the second half of the elapsed time, without the time before the first commit, in
which the workers start. It is shown when that half has at least three units and twice the median time of a unit. Before
that the rate is not known, because the first units of all workers end at about the same time.
"""

import statistics
import sys
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from raymill.cluster.artifact import Counters
from raymill.cluster.formats import one_line, plural
from raymill.cluster.logs import printable
from raymill.cluster.stage import CommitRecord, add_counters

_EVERY_S = {True: 0.2, False: 10.0}  # on a terminal, elsewhere
_TOP_REASONS = 3
_LEAST_UNITS, _LEAST_UNIT_TIMES = 3, 2  # for an estimate of the time left


class Progress:
    """Display of a run's progress; this one prints nothing.

    For each stage: `start`, then `advance` for each committed unit, then `finish`. within: shows what the units that
    are running have done, in words. waiting: shows `what` while the body
    runs. start: done has the records of units committed earlier. say: prints a line. writer: shows the lines of a
    training, which has no units; None: nothing does.
    """

    writer: "LineWriter | None" = None

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        yield

    def start(self, stage: str, units: int, done: Iterable[CommitRecord]) -> None: ...
    def advance(self, record: CommitRecord) -> None: ...
    def within(self, text: str) -> None: ...
    def finish(self) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """How far a run is.

    Attributes:
        text: the same as a line for people.
        stage: name of the stage; `training` for the steps of a training; empty for a message.
        done: units, or steps, that are done.
        total: units, or steps, of the whole stage.
        documents_per_s: documents per second since this call began the stage; 0 before its first unit.
        bytes_per_s: bytes of text per second, in the same way.
        left_s: estimated seconds until the end of the stage; None while there is no estimate.
        step: name of the step of a run file that is made beside others; else empty.
    """

    text: str
    stage: str = ""
    done: int = 0
    total: int = 0
    documents_per_s: float = 0.0
    bytes_per_s: float = 0.0
    left_s: float | None = None
    step: str = ""


class LineWriter:
    """Writes progress to a text stream: on a terminal one line that is redrawn, elsewhere one line after the other."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = getattr(stream, "unescaped", stream)  # the line is redrawn by control characters
        self.terminal = stream.isatty()
        self._drawn = False  # whether the terminal shows a line without its line feed

    def update(self, shown: ProgressUpdate | str) -> None:
        """Redraw the line (its first 160 characters); elsewhere write another one."""
        text = printable(one_line(shown if isinstance(shown, str) else shown.text))
        self._write(f"\r\033[K{text[:160]}" if self.terminal else f"{text}\n")
        self._drawn = self.terminal

    def write(self, text: str) -> None:
        """Write a line that stays, in place of the redrawn one."""
        text = printable(text)
        self._write(f"\r\033[K{text}\n" if self._drawn else f"{text}\n")
        self._drawn = False

    def end(self) -> None:
        """Keep the redrawn line and go to the next one."""
        if self._drawn:
            self._write("\n")
        self._drawn = False

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class ProgressLines(Progress):
    """Progress as lines on a text stream; default: standard error, because standard output is for results.

    at_first: text that is shown until the first unit is committed, about the work before it. writer: shows the lines;
    default: writes them to the stream.
    """

    writer: LineWriter

    def __init__(self, stream: TextIO | None = None, at_first: str = "", writer: LineWriter | None = None) -> None:
        self.writer = writer or LineWriter(stream or sys.stderr)
        self.at_first = at_first

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Print a line with the seconds that the body of the `with` took."""
        began = time.monotonic()
        if self.writer.terminal:
            self.writer.update(f"{what} ...")
        yield
        self.writer.update(f"{what}: {time.monotonic() - began:.1f} s")
        self.writer.end()

    def start(self, stage: str, units: int, done: Iterable[CommitRecord]) -> None:
        records = list(done)
        self.stage, self.units, self.done = stage, units, len(records)
        self.resumed = self.done
        self.counters: Counters = add_counters(record.counters for record in records)
        self.before = dict(self.counters)
        self.began = self.shown = time.monotonic()
        self.of_running = ""
        self.commits: list[float] = []  # time of commit and duration of each unit of this call
        self.seconds: list[float] = []
        if records:
            were = "was" if self.done == 1 else "were"
            self.writer.update(f"{stage}: {self.done} of {plural(units, 'unit')} {were} finished before")
        self._show()

    def advance(self, record: CommitRecord) -> None:
        self.done += 1
        self.at_first = ""
        self.commits.append(time.monotonic())
        self.seconds.append(record.seconds)
        self.counters = add_counters([self.counters, record.counters])
        if time.monotonic() - self.shown >= _EVERY_S[self.writer.terminal]:
            self._show()

    def within(self, text: str) -> None:
        self.of_running = text
        if text and time.monotonic() - self.shown >= _EVERY_S[self.writer.terminal]:
            self.at_first = ""
            self._show()

    def finish(self) -> None:
        self.at_first = self.of_running = ""
        if self.shown_done != self.done:
            self._show()
        self.writer.end()

    def say(self, text: str) -> None:
        """Print a line, between stages."""
        self.writer.write(text)

    def _show(self) -> None:
        self.shown = time.monotonic()
        elapsed = max(self.shown - self.began, 1e-9)
        parts = [f"{self.stage}: {self.done}/{plural(self.units, 'unit')}"]
        documents = size = 0.0
        left = None
        if self.done > self.resumed:
            documents, size = (
                (self.counters.get(name, 0) - self.before.get(name, 0)) / elapsed
                for name in ("documents", "text_bytes")
            )
            parts += [*_rate(documents, "documents/s"), *_rate(size / 1e6, "MB/s")]
            if self.done == self.units:
                parts.append(f"took {clock(elapsed)}")
            elif (left := self._left()) is not None:
                parts.append(f"{clock(left)} left")
        elif self.at_first and self.done < self.units:
            parts.append(self.at_first)
        if self.of_running and self.done < self.units:
            parts.append(self.of_running)
        reasons = _top_reasons(self.counters)
        text = ", ".join(parts) + (f" | {reasons}" if reasons else "")
        self.writer.update(ProgressUpdate(text, self.stage, self.done, self.units, documents, size, left))
        self.shown_done = self.done

    def _left(self) -> float | None:
        """Seconds that the remaining units will take at the current rate; None if there is no estimate yet."""
        since = max((self.began + self.shown) / 2, self.commits[0])
        units = len(self.commits) - bisect_right(self.commits, since)
        if units < _LEAST_UNITS or self.shown - since < _LEAST_UNIT_TIMES * statistics.median(self.seconds):
            return None
        return (self.units - self.done) * (self.shown - since) / units


def _rate(rate: float, unit: str) -> list[str]:
    """The rate with its unit; an empty list if it would be shown as 0."""
    text = f"{rate:,.0f}" if unit != "MB/s" and (rate >= 10 or rate == round(rate)) else f"{rate:.1f}"
    return [] if float(text.replace(",", "")) == 0 else [f"{text} {unit}"]


def _top_reasons(counters: Counters) -> str:
    """The largest counters named `reason/NAME`: documents removed so far, by reason."""
    found = [(value, name.removeprefix("reason/")) for name, value in counters.items() if name.startswith("reason/")]
    return ", ".join(f"{name} {value:,.0f}" for value, name in sorted(found, reverse=True)[:_TOP_REASONS])


def clock(seconds: float) -> str:
    """A duration for people: 5 s, 2 min 30 s, 1 h 02 min."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
