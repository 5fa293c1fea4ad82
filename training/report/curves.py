"""A training's curves in its report: from the records of steps.jsonl to curves of bounded size, charts and a table."""

import math
import statistics
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from cluster.formats import count, decimal, plural, share, short
from cluster.page.charts import Line, Mark, is_spread, line_chart, thinned
from cluster.page.markup import Child, Column, Markup, element, fold, join, note, sentence, table
from training.records.schema import AttemptRecord, StepRecord
from training.report.schema import Curves, Event, Fit, Point, StepRow, Validated
from training.report.text import loss_words, metric_words, perplexity_words

_LOSS_HEIGHT = 280  # pixels
_MAX_EVENTS = 20

_TABLE_ROWS = 20
_SMOOTHING_FRACTION = 1 / 40  # of the run: the time constant of the smoothed curve
_VALUES = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_gib", "data_wait", "mfu")


class Log:
    """The steps of a run by column; 80 MB for a million steps. Values that were not measured are NaN."""

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
        values = dict(record) | {"data_wait": _data_wait(record)}
        for name, column in self.values.items():
            value = values.get(name)
            column.append(math.nan if value is None else float(value))  # type: ignore[arg-type]

    def median(self, name: str) -> float | None:
        """The median of the measured values of a column; None if there are none."""
        found = [value for value in self.values[name] if math.isfinite(value)]
        return statistics.median(found) if found else None

    def curves(self) -> Curves:
        """The curves of the report."""
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
        """At most 20 steps, evenly spaced, with the first and the last."""
        last = len(self.steps) - 1
        places = sorted({round(last * n / (_TABLE_ROWS - 1)) for n in range(_TABLE_ROWS)}) if last >= 0 else []
        return [self._row(place) for place in places]

    def _curve(self, values: Sequence[float]) -> list[tuple[float, float]]:
        # Six digits are enough for a drawing and take half the bytes.
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


def restarts(attempts: Sequence[AttemptRecord], skipped: Sequence[int]) -> list[Event]:
    """The restarts and skipped steps of a run, by step. attempts: all starts of the workers, with the first."""
    found: list[Event] = []
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


def curves(fit: Fit) -> Markup:
    """The section of curves: loss, learning rate, gradient norm, speed, memory, data wait."""
    drawn = fit["curves"]
    if not drawn["loss"] and not fit["validation"]:
        return sentence("No step was logged.")
    chart = _Charts(fit)
    body = [
        note(_explanation(fit)),
        element("div", _loss(fit, chart), _events(fit), class_="loss-chart"),
        element(
            "div",
            chart.one("Learning rate", drawn["learning_rate"], "As scheduled."),
            chart.one("Gradient norm", drawn["grad_norm"], "Before clipping."),
            chart.one("Tokens a second", drawn["tokens_per_s"], "Over all workers.", from_zero=True),
            chart.one("Memory, GiB", drawn["memory_gib"], "Largest worker.", from_zero=True),
            chart.one(
                "Waiting for data", drawn["data_wait"], "Fraction of a step's time.", from_zero=True, show=_percent
            ),
            class_="charts",
        ),
        _as_table(fit),
    ]
    return join(body)


class _Charts:
    """Draws charts with a common range of steps and marks at restarts and skipped steps."""

    def __init__(self, fit: Fit) -> None:
        last = max(fit["totals"]["steps"], 1)
        steps = [point[0] for curve in (fit["curves"]["loss"], _validation(fit)) for point in curve]
        self.span = (min([*steps, last]), max([*steps, last]))
        self.marks = [Mark(event["step"], event["words"]) for event in fit["events"]]

    def draw(self, lines: Sequence[Line], label: str, **how: object) -> Markup:
        given = [line for line in lines if line.points]
        log = is_spread(y for line in given for _, y in line.points)
        return line_chart(given, label, span=self.span, marks=self.marks, log=log, **how)  # type: ignore[arg-type]

    def one(
        self,
        title: str,
        points: Sequence[Point],
        words: str = "",
        *,
        from_zero: bool = False,
        show: Callable[[float], str] = short,
    ) -> Markup | None:
        if not points:
            return None
        log = is_spread(y for _, y in points) and not from_zero
        words = f"{words} Logarithmic.".strip() if log else words
        caption = element("figcaption", element("h3", title), element("p", words) if words else None)
        values = [y for _, y in points]
        label = (
            f"{title} by step: first {show(points[0][1])}, last {show(points[-1][1])}, between {show(min(values))} and "
            f"{show(max(values))}"
        )
        line = Line(title, "line", points)
        drawing = line_chart([line], label, span=self.span, marks=self.marks, log=log, from_zero=from_zero, show=show)
        return element("figure", caption, drawing)


def _loss(fit: Fit, chart: _Charts) -> Markup:
    drawn, validation = fit["curves"], _validation(fit)
    lines = [
        Line("Training loss of each step", "raw", drawn["loss"]),
        Line("Training loss, smoothed", "smooth", drawn["loss_smooth"]),
        Line("Validation loss", "validation", validation, dots=True),
    ]
    parts = [f"Loss by step, {count(int(chart.span[0]))} to {count(int(chart.span[1]))}"]
    for name, points in (("training, smoothed", drawn["loss_smooth"]), ("validation", validation)):
        if points:
            best = min(points, key=lambda point: point[1])
            parts.append(
                f"{name}: from {loss_words(points[0][1])} to {loss_words(points[-1][1])}, lowest {loss_words(best[1])} "
                f"at step {count(int(best[0]))}"
            )
    keys = [join(_key(line), " ", line.name.lower()) for line in lines if line.points]
    caption = element("figcaption", element("h3", "Loss"), element("p", [element("span", key) for key in keys]))
    return element("figure", caption, chart.draw(lines, "; ".join(parts), height=_LOSS_HEIGHT))


def _events(fit: Fit) -> Markup | None:
    """A numbered list of the events that the dashed lines mark."""
    if not fit["events"]:
        return None
    items = [element("li", f"step {count(event['step'])}: {event['words']}") for event in fit["events"]]
    shown, rest = items[:_MAX_EVENTS], len(items) - _MAX_EVENTS
    more = note(f"And {plural(rest, 'more interruption')}.") if rest > 0 else None
    return join(element("ol", shown, class_="events"), more)


def _key(line: Line) -> Markup:
    dot = element("circle", cx=9, cy=5, r=3, class_=line.style) if line.dots else None
    stroke = element("line", x1=0, x2=18, y1=5, y2=5, class_=line.style)
    return element("svg", stroke, dot, width=18, height=10, class_="line-key", aria_hidden="true")


def _validation(fit: Fit) -> list[Point]:
    return thinned((measured["step"], measured["loss"]) for measured in fit["validation"])


def _explanation(fit: Fit) -> str:
    words = f"Losses are means over {metric_words(fit['recipe']['method']).labels}, in nats."
    if len(fit["curves"]["loss"]) < fit["totals"]["steps"] // 2:
        words += " There are more steps than pixels: each column of a curve shows its lowest and highest value."
    return words


def _as_table(fit: Fit) -> Markup:
    measured = {row["step"]: row for row in fit["validation"]}
    by_step: dict[int, StepRow | None] = dict.fromkeys(sorted(measured)) | {row["step"]: row for row in fit["rows"]}
    columns = [
        Column("Step"), Column("Training loss"), Column("smoothed"), Column("Validation loss"), Column("Perplexity"),
        Column("Accuracy"), Column("Learning rate"), Column("Gradient norm"), Column("Tokens/s"), Column("Memory, GiB"),
        Column("Waiting for data"),
    ]  # fmt: skip
    perplexity = metric_words(fit["recipe"]["method"]).perplexity
    if not perplexity:
        del columns[4]
    rows: list[Sequence[Child]] = []
    for step in sorted(by_step):
        row, validated = by_step[step], measured.get(step)
        rows.append(
            (
                count(step),
                _cell(row, "loss", loss_words),
                _cell(row, "loss_smooth", loss_words),
                loss_words(validated["loss"]) if validated else "",
                *((perplexity_words(validated["perplexity"]) if validated else "",) if perplexity else ()),
                share(validated["accuracy"], 1) if validated else "",
                _cell(row, "learning_rate"),
                _cell(row, "grad_norm"),
                _cell(row, "tokens_per_s", short),
                _cell(row, "memory_gib"),
                _cell(row, "data_wait", _percent),
            )
        )
    words = f"{plural(len(fit['rows']), 'step')} of {count(fit['totals']['steps'])}, and every validation"
    return fold("The curves as a table", table(words, columns, rows), opened=False)


def _cell(row: StepRow | None, name: str, show: Callable[[float], str] = decimal) -> str:
    value = row and row[name]  # type: ignore[literal-required]
    return "" if value is None else show(value)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"
