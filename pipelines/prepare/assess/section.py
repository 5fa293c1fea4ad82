"""The assessment as a section of the report, and as lines to print."""

from collections.abc import Iterator
from typing import Literal

from cluster.formats import count, plural
from cluster.page.markdown import markdown
from cluster.page.markup import (
    Column,
    Markup,
    Section,
    code,
    element,
    join,
    note,
    outside_text,
    table,
    with_code,
    wrapped,
)
from pipelines.prepare.assess.score import Assessment, Gate, failed
from pipelines.prepare.assess.settings import MAXIMA

_OF_A_DIFFERENCE: tuple[Literal["difference", "low", "high"], ...] = ("difference", "low", "high")
_MOST_DECIMALS = 9
_SUSPECT: tuple[Literal["id", "label", "suggested"], ...] = ("id", "label", "suggested")


def assessment_text(assessment: Assessment) -> str:
    """The lines that are printed: the score, the gates, and what would mend those that fail."""
    unmeasured = _unmeasured(assessment)
    lines = [f"score {number(assessment['score'])} of 1" + (f", without {unmeasured}" if unmeasured else "")]
    width = max((len(one["name"]) for one in assessment["gates"]), default=0)
    for one in assessment["gates"]:
        why = f" ({seen.replace('`', '')})" if one["value"] is None and (seen := one.get("seen")) else ""
        value, bound = gate_value(one), bound_text(one)
        lines.append(f"{one['name']:<{width}}  {value:>6}  {bound}  {one['state']}{why}")
    lines += [f"{one['name']}: {one['mend']}" for one in failed(assessment)]
    # An assessment of an earlier version has no warnings.
    lines += [f"warning: {warning}" for warning in assessment.get("warnings", ())]
    return "\n".join(lines)


def assessment_section(assessment: Assessment) -> Section:
    """Gates, score and all metrics."""
    gates = assessment["gates"]
    tiles = [
        ("Score", number(assessment["score"]), "of 1"),
        ("Gates passed", count(sum(one["state"] == "passed" for one in gates)), f"of {len(gates)}"),
        ("Gates failed", count(len(failed(assessment))), "with what would mend them below"),
    ]
    body = [
        element("div", element("dt", title), element("dd", element("strong", big), element("span", small)))
        for title, big, small in tiles
    ]
    parts = [element("dl", body, class_="tiles")]
    if mends := [element("li", code(one["name"]), ": ", with_code(one["mend"])) for one in failed(assessment)]:
        parts.append(element("ul", mends))
    columns = [Column("Gate", numeric=False), Column("Value"), Column("Bound"), Column("Result", numeric=False)]
    rows = [(code(one["name"]), gate_value(one), bound_text(one), _state(one)) for one in gates]
    parts.append(table("Gates", columns, rows))
    columns = [Column("Part", numeric=False), Column("Weight"), Column("Value"), Column("", numeric=False)]
    rows = [
        (code(one["name"]), number(one["weight"]), number(one["value"]), wrapped(with_code(one["of"])))
        for one in assessment["parts"]
    ]
    parts.append(table("Parts of the score", columns, rows))
    if without := _unmeasured(assessment):
        parts.append(note(f"Not measured: {without}. The weights of the other parts are raised to sum to 1."))
    columns = [Column("Metric", numeric=False), Column("Value"), Column("Share or mean of", numeric=False)]
    columns.append(Column("Seen", numeric=False))
    rows = [
        (code(one["name"]), number(one["value"]), wrapped(one["meaning"]), wrapped(with_code(one["seen"])))
        for one in assessment["metrics"]
    ]
    copies = assessment["findings"]["copies"]
    besides = f" and {plural(copies, 'repeated record')}" if copies else ""
    parts.append(table(f"Metrics of {plural(assessment['records'], 'record')}{besides}, from 0 to 1", columns, rows))
    parts += [*_suspects(assessment), *_ratios(assessment), *_differences(assessment)]
    return Section("assessment", "Assessment", join(*parts))


def _state(gate: Gate) -> Markup:
    if gate["value"] is None:
        return join(gate["state"], with_code(f" ({gate['seen']})") if gate["seen"] else "")
    return element("span", gate["state"], class_=gate["state"])


def _suspects(assessment: Assessment) -> Iterator[Markup]:
    """Tables of the values that are probably wrong."""
    columns = [Column("Record", numeric=False), Column("Value", numeric=False), Column("Suggested", numeric=False)]
    columns += [Column("Probability of the value"), Column("Text", numeric=False)]
    for name, labels in (assessment["findings"]["learned"] or {"labels": {}})["labels"].items():
        if suspects := labels["suspects"]:
            rows = [
                (
                    *(outside_text(one[key]) for key in _SUSPECT),
                    number(one["probability"]),
                    markdown(one.get("text") or ""),
                )
                for one in suspects
            ]
            total = plural(labels["errors"] or 0, "record")
            yield table(f"Values of {name} that are probably wrong: {len(rows)} of {total}", columns, rows)


def _ratios(assessment: Assessment) -> Iterator[Markup]:
    """Tables of the lengths of groups."""
    columns = [Column("Value", numeric=False), Column("Records"), Column("Ratio"), Column("Low"), Column("High")]
    for name, lengths in assessment["findings"]["lengths"].items():
        if lengths:
            rows = [
                (
                    outside_text(one["value"]),
                    count(one["records"]),
                    number(one["ratio"]),
                    number(one["low"]),
                    number(one["high"]),
                )
                for one in lengths["ratios"]
            ]
            title = f"Mean length by {name}, of that of {lengths['against']}, with 95% confidence"
            yield table(title, columns, rows)


def _differences(assessment: Assessment) -> Iterator[Markup]:
    """Tables of a classifier's scores of groups."""
    columns = [Column("Value", numeric=False), Column("Records"), Column("Mean score"), Column("Difference")]
    columns += [Column("Low"), Column("High")]
    for name, scores in assessment["findings"]["sentiments"].items():
        if scores:
            rows = [
                (
                    outside_text(one["value"]),
                    count(one["records"]),
                    number(one["mean"]),
                    *(f"{one[key]:+.3f}" for key in _OF_A_DIFFERENCE),
                )
                for one in scores["differences"]
            ]
            title = f"Mean score by {name}, less {number(scores['mean'])} of {scores['against']}, with 95% confidence"
            yield table(title, columns, rows)


def _unmeasured(assessment: Assessment) -> str:
    return ", ".join(one["name"] for one in assessment["parts"] if one["value"] is None)


def number(value: float | None) -> str:
    """A value to read: rounded to three decimals."""
    return "–" if value is None else f"{value:.3f}"


def gate_value(gate: Gate) -> str:
    """The value of a gate, with so many decimals that one beyond the bound is not shown as equal to it."""
    value, decimals = gate["value"], 3
    if value is None or gate["state"] == "passed":
        return number(value)
    while decimals < _MOST_DECIMALS and float(f"{value:.{decimals}f}") == gate["bound"]:
        decimals += 1
    return f"{value:.{decimals}f}"


def bound_text(gate: Gate) -> str:
    """`at most 0.01`."""
    return f"{'at most' if gate['name'] in MAXIMA else 'at least'} {gate['bound']:g}"
