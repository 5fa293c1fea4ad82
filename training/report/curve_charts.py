"""The curves of a training, and the same in numbers."""

from collections.abc import Callable, Sequence

from cluster.page.charts import Line, Mark, is_spread, line_chart, thinned
from cluster.page.formats import count, decimal, plural, share, short
from cluster.page.layout import Column, fold, note, sentence, table
from cluster.page.markup import Child, Html, element, join
from training.report.schema import Fit, Point, StepRow
from training.wording import wording

_HIGH = 280  # pixels; the loss is what people come for
_EVENTS_SHOWN = 20


def curves(fit: Fit) -> Html:
    drawn = fit["curves"]
    if not drawn["loss"] and not fit["validation"]:
        return sentence("No step was logged.")
    chart = _Charts(fit)
    body = [
        note(_told(fit)),
        element("div", _loss(fit, chart), _events(fit), class_="loss-chart"),
        element(
            "div",
            chart.one("Learning rate", drawn["learning_rate"], "As scheduled."),
            chart.one("Gradient norm", drawn["grad_norm"], "Before clipping."),
            chart.one("Tokens a second", drawn["tokens_per_s"], "Over all workers.", from_zero=True),
            chart.one("Memory, GiB", drawn["memory_gib"], "Of the worker that takes most.", from_zero=True),
            chart.one("Waiting for data", drawn["data_wait"], "Share of a step's time.", from_zero=True, show=_percent),
            class_="charts",
        ),
        _as_table(fit),
    ]
    return join(body)


class _Charts:
    """Charts over the same steps, with the same marks."""

    def __init__(self, fit: Fit) -> None:
        last = max(fit["totals"]["steps"], 1)
        steps = [point[0] for curve in (fit["curves"]["loss"], _validation(fit)) for point in curve]
        self.span = (min([*steps, last]), max([*steps, last]))
        self.marks = [Mark(event["step"], event["words"]) for event in fit["events"]]

    def draw(self, lines: Sequence[Line], label: str, **how: object) -> Html:
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
    ) -> Html | None:
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


def _loss(fit: Fit, chart: _Charts) -> Html:
    drawn, validation = fit["curves"], _validation(fit)
    lines = [
        Line("Training loss of each step", "raw", drawn["loss"]),
        Line("Training loss, smoothed", "smooth", drawn["loss_smooth"]),
        Line("Validation loss", "validation", validation, dots=True),
    ]
    told = [f"Loss by step, {count(int(chart.span[0]))} to {count(int(chart.span[1]))}"]
    for name, points in (("training, smoothed", drawn["loss_smooth"]), ("validation", validation)):
        if points:
            best = min(points, key=lambda point: point[1])
            told.append(
                f"{name}: from {decimal(points[0][1])} to {decimal(points[-1][1])}, lowest {decimal(best[1])} at step "
                f"{count(int(best[0]))}"
            )
    keys = [join(_key(line), " ", line.name.lower()) for line in lines if line.points]
    caption = element("figcaption", element("h3", "Loss"), element("p", [element("span", key) for key in keys]))
    return element("figure", caption, chart.draw(lines, "; ".join(told), height=_HIGH))


def _events(fit: Fit) -> Html | None:
    """The words of the dashed lines, which carry their numbers."""
    if not fit["events"]:
        return None
    items = [element("li", f"step {count(event['step'])}: {event['words']}") for event in fit["events"]]
    shown, rest = items[:_EVENTS_SHOWN], len(items) - _EVENTS_SHOWN
    more = note(f"And {plural(rest, 'more interruption')}.") if rest > 0 else None
    return join(element("ol", shown, class_="events"), more)


def _key(line: Line) -> Html:
    dot = element("circle", cx=9, cy=5, r=3, class_=line.style) if line.dots else None
    stroke = element("line", x1=0, x2=18, y1=5, y2=5, class_=line.style)
    return element("svg", stroke, dot, width=18, height=10, class_="line-key", aria_hidden="true")


def _validation(fit: Fit) -> list[Point]:
    return thinned((measured["step"], measured["loss"]) for measured in fit["validation"])


def _told(fit: Fit) -> str:
    words = f"Losses are means over {wording(fit['recipe']['method']).labels}, in nats."
    if len(fit["curves"]["loss"]) < fit["totals"]["steps"] // 2:
        words += " There are more steps than room: each column of a curve shows its lowest and its highest."
    return words


def _as_table(fit: Fit) -> Html:
    measured = {row["step"]: row for row in fit["validation"]}
    by_step: dict[int, StepRow | None] = dict.fromkeys(sorted(measured)) | {row["step"]: row for row in fit["rows"]}
    columns = [
        Column("Step"), Column("Training loss"), Column("smoothed"), Column("Validation loss"), Column("Perplexity"),
        Column("Accuracy"), Column("Learning rate"), Column("Gradient norm"), Column("Tokens/s"), Column("Memory, GiB"),
        Column("Waiting for data"),
    ]  # fmt: skip
    perplexity = wording(fit["recipe"]["method"]).perplexity
    if not perplexity:
        del columns[4]
    rows: list[Sequence[Child]] = []
    for step in sorted(by_step):
        row, held = by_step[step], measured.get(step)
        rows.append(
            (
                count(step),
                _cell(row, "loss"),
                _cell(row, "loss_smooth"),
                decimal(held["loss"]) if held else "",
                *((decimal(held["perplexity"]) if held else "",) if perplexity else ()),
                share(held["accuracy"], 1) if held else "",
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
