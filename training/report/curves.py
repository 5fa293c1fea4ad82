"""From the lines of steps.jsonl to curves that fit a page, however many steps there were."""

import math
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from cluster.page.charts import thinned
from training.fit.records import Attempt, StepRecord
from training.report.schema import Curves, Event, StepRow, Validated

_ROWS = 20
_SMOOTHED_OVER = 40  # parts of the run: the smooth curve looks back over about one of them
_VALUES = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_gib", "data_wait", "mfu")


class Log:
    """The steps of a run by column: a million of them take 80 MB. What was not measured is nan."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self.steps, self.workers = array("q"), array("i")
        self.values = {name: array("d") for name in _VALUES}
        self.validation: list[Validated] = []
        self.tokens = self.label_tokens = self.lines = 0
        self.compile_s = self.validation_s = 0.0
        for record in records:
            self.lines += record["step"] > 0
            self.compile_s += record.get("compile_s", 0.0)
            self.validation_s += record.get("validation_s", 0.0)
            if (measured := record.get("validation")) is not None:
                self.validation.append({"step": record["step"], **measured})
            if "loss" in record:
                self._add(record)
        self.smooth = _smoothed(self.values["loss"])

    def _add(self, record: StepRecord) -> None:
        self.steps.append(record["step"])
        self.workers.append(record["workers"])
        self.tokens += record.get("tokens", 0)
        self.label_tokens += record.get("label_tokens", 0)
        plain = dict(record) | {"data_wait": _waited(record)}
        for name, column in self.values.items():
            value = plain.get(name)
            column.append(math.nan if value is None else float(value))  # type: ignore[arg-type]

    def middle(self, name: str) -> float | None:
        """The median of what was measured."""
        found = [value for value in self.values[name] if math.isfinite(value)]
        return median(found) if found else None

    def curves(self) -> Curves:
        return {
            "loss": self._curve(self.values["loss"]),
            "loss_smooth": self._curve(self.smooth),
            "learning_rate": self._curve(self.values["learning_rate"]),
            "grad_norm": self._curve(self.values["grad_norm"]),
            "tokens_per_s": self._curve(self.values["tokens_per_s"]),
            "memory_gib": self._curve(self.values["memory_gib"]),
            "data_wait": self._curve(self.values["data_wait"]),
        }

    def rows(self) -> list[StepRow]:
        """The first, the last, and some between, evenly."""
        last = len(self.steps) - 1
        places = sorted({round(last * n / (_ROWS - 1)) for n in range(_ROWS)}) if last >= 0 else []
        return [self._row(place) for place in places]

    def _curve(self, values: Sequence[float]) -> list[tuple[float, float]]:
        # Six digits are more than a drawing shows, and half the bytes.
        return [(step, float(f"{value:.6g}")) for step, value in thinned(zip(self.steps, values, strict=True))]

    def _row(self, place: int) -> StepRow:
        def at(values: Sequence[float]) -> float | None:
            return values[place] if math.isfinite(values[place]) else None

        values = self.values
        return {
            "step": self.steps[place],
            "loss": at(values["loss"]),
            "loss_smooth": at(self.smooth),
            "learning_rate": at(values["learning_rate"]),
            "grad_norm": at(values["grad_norm"]),
            "tokens_per_s": at(values["tokens_per_s"]),
            "memory_gib": at(values["memory_gib"]),
            "data_wait": at(values["data_wait"]),
        }


def restarts(attempts: Sequence[Attempt], skipped: Sequence[int]) -> list[Event]:
    """What interrupted a run, by step. `attempts`: every beginning, the first of which is no restart."""
    found: list[Event] = []
    ordered = sorted(attempts, key=lambda attempt: attempt["time"])
    for before, attempt in pairwise(ordered):
        was, now = before["workers"], attempt["workers"]
        words = "restart" if was == now else f"{was} → {now} workers"
        found.append({"step": attempt["step"], "words": words})
    found += [{"step": step, "words": "passed over"} for step in skipped]
    return sorted(found, key=lambda event: event["step"])


def _waited(record: StepRecord) -> float | None:
    """Share of the step's time in which a worker had no batch to compute."""
    seconds, waited = record.get("seconds"), record.get("data_wait_s")
    return waited / seconds if seconds and waited is not None else None


def _smoothed(values: Sequence[float]) -> array:
    """Mean of all values so far, weights falling by e over a fortieth of the run; not finite ones are passed over."""
    keep = math.exp(-1 / max(1.0, len(values) / _SMOOTHED_OVER))
    total = weight = 0.0
    out = array("d")
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        out.append(total / weight if weight else math.nan)
    return out
