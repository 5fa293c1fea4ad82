"""A training's curves in its report: from the records of steps.jsonl to curves of bounded size and rows of a table."""

import math
import statistics
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from cluster.report.charts import Point, thinned
from training.records.schema import AttemptRecord, StepRecord

_TABLE_ROWS = 20
_SMOOTHING_FRACTION = 1 / 40  # of the run: the time constant of the smoothed curve
_CURVES = ("loss", "loss_smooth", "learning_rate", "grad_norm", "tokens_per_s", "memory_gib", "data_wait")
_VALUES = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_gib", "data_wait", "mfu")


class Log:
    """The steps of a run by column; 80 MB for a million steps. Values that were not measured are NaN."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self.steps, self.workers = array("q"), array("i")
        self.values = {name: array("d") for name in _VALUES}
        self.validation: list[dict[str, Any]] = []
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
        values = dict(record) | {"data_wait": _data_wait(record)}
        for name, column in self.values.items():
            value = values.get(name)
            column.append(math.nan if value is None else float(value))  # type: ignore[arg-type]

    def median(self, name: str) -> float | None:
        """The median of the measured values of a column; None if there are none."""
        found = [value for value in self.values[name] if math.isfinite(value)]
        return statistics.median(found) if found else None

    @property
    def _columns(self) -> dict[str, array]:
        return {**self.values, "loss_smooth": self.smooth}

    def curves(self) -> dict[str, list[Point]]:
        """The curves of the report."""
        return {name: self._curve(self._columns[name]) for name in _CURVES}

    def rows(self) -> list[dict[str, Any]]:
        """At most 20 steps, evenly spaced, with the first and the last."""
        last = len(self.steps) - 1
        places = sorted({round(last * n / (_TABLE_ROWS - 1)) for n in range(_TABLE_ROWS)}) if last >= 0 else []
        return [self._row(place) for place in places]

    def _curve(self, values: Sequence[float]) -> list[Point]:
        # Six digits are enough for a drawing and take half the bytes.
        return [(step, float(f"{value:.6g}")) for step, value in thinned(zip(self.steps, values, strict=True))]

    def _row(self, place: int) -> dict[str, Any]:
        values = {name: self._columns[name][place] for name in _CURVES}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return {"step": self.steps[place], **finite}


def restarts(attempts: Sequence[AttemptRecord], skipped: Sequence[int]) -> list[dict[str, Any]]:
    """The restarts and skipped steps of a run, by step. attempts: all starts of the workers, with the first."""
    found: list[dict[str, Any]] = []
    ordered = sorted(attempts, key=lambda attempt: attempt["time"])
    for before, attempt in pairwise(ordered):
        was, now = before["workers"], attempt["workers"]
        words = "restart" if was == now else f"{was} → {now} workers"
        found.append({"step": attempt["step"], "words": words})
    found += [{"step": step, "words": "skipped"} for step in skipped]
    return sorted(found, key=lambda event: event["step"])


def _data_wait(record: StepRecord) -> float | None:
    """Fraction of the step's time in which a worker waited for a batch."""
    seconds, waited = record.get("seconds"), record.get("data_wait_s")
    return waited / seconds if seconds and waited is not None else None


def _smoothed(values: Sequence[float]) -> array:
    """Exponential moving average over a fortieth of the run (time constant). Values that are not finite are ignored."""
    keep = math.exp(-1 / max(1.0, len(values) * _SMOOTHING_FRACTION))
    total = weight = 0.0
    out = array("d")
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        out.append(total / weight if weight else math.nan)
    return out
