"""The assessment as a section of the report, and as lines to print."""

from collections.abc import Iterator, Sequence
from typing import Literal

from markupsafe import Markup

from cluster.formats import count, plural
from cluster.report.markdown import markdown
from cluster.report.sections import (
    Content,
    DataTable,
    Items,
    Section,
    Tiles,
    code,
    join,
    note,
    outside,
    styled,
    with_code,
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
    gates, against = assessment["gates"], failed(assessment)
    tiles = [
        ("Score", number(assessment["score"]), "of 1"),
        ("Gates passed", count(sum(one["state"] == "passed" for one in gates)), f"of {len(gates)}"),
        ("Gates failed", count(len(against)), "with what would mend them below"),
    ]
    mends = [join(code(one["name"]), ": ", with_code(one["mend"])) for one in against]
    of_gates = [(code(one["name"]), gate_value(one), bound_text(one), _state(one)) for one in gates]
    of_parts = [
        (code(one["name"]), number(one["weight"]), number(one["value"]), _wrapped(one["of"]))
        for one in assessment["parts"]
    ]
    without = _unmeasured(assessment)
    metrics = [
        (code(one["name"]), number(one["value"]), styled("wrapped", one["meaning"]), _wrapped(one["seen"]))
        for one in assessment["metrics"]
    ]
    copies = assessment["findings"]["copies"]
    besides = f" and {plural(copies, 'repeated record')}" if copies else ""
    caption = f"Metrics of {plural(assessment['records'], 'record')}{besides}, from 0 to 1"
    content: list[Content] = [
        Tiles(tiles),
        Items(mends) if mends else None,
        DataTable("Gates", ["Gate", ">Value", ">Bound", "Result"], of_gates),
        DataTable("Parts of the score", ["Part", ">Weight", ">Value", ""], of_parts),
        note(f"Not measured: {without}. The weights of the other parts are raised to sum to 1.") if without else None,
        DataTable(caption, ["Metric", ">Value", "Share or mean of", "Seen"], metrics),
        *_tables_of_findings(assessment),
    ]
    return Section("assessment", "Assessment", content)


def _wrapped(words: str) -> Markup:
    return styled("wrapped", with_code(words))


def _state(gate: Gate) -> Markup:
    if gate["value"] is None:
        return join(gate["state"], with_code(f" ({gate['seen']})") if gate["seen"] else "")
    return styled(gate["state"], gate["state"])


def _tables_of_findings(assessment: Assessment) -> Iterator[DataTable]:
    """Values that are probably wrong, and the lengths and a classifier's scores of groups."""
    findings = assessment["findings"]
    rows: list[Sequence[Content]]
    for name, labels in (findings["learned"] or {"labels": {}})["labels"].items():
        suspects = [
            (*(outside(one[key]) for key in _SUSPECT), number(one["probability"]), markdown(one.get("text") or ""))
            for one in labels["suspects"]
        ]
        if suspects:
            total = plural(labels["errors"] or 0, "record")
            title = f"Values of {name} that are probably wrong: {len(suspects)} of {total}"
            yield DataTable(title, ["Record", "Value", "Suggested", ">Probability of the value", "Text"], suspects)
    for name, lengths in findings["lengths"].items():
        if lengths:
            rows = [
                (outside(one["value"]), one["records"], *map(number, (one["ratio"], one["low"], one["high"])))
                for one in lengths["ratios"]
            ]
            title = f"Mean length by {name}, of that of {lengths['against']}, with 95% confidence"
            yield DataTable(title, ["Value", ">Records", ">Ratio", ">Low", ">High"], rows)
    for name, scores in findings["sentiments"].items():
        if scores:
            rows = [
                (outside(one["value"]), one["records"], number(one["mean"]),
                 *(f"{one[key]:+.3f}" for key in _OF_A_DIFFERENCE))
                for one in scores["differences"]
            ]  # fmt: skip
            title = f"Mean score by {name}, less {number(scores['mean'])} of {scores['against']}, with 95% confidence"
            yield DataTable(title, ["Value", ">Records", ">Mean score", ">Difference", ">Low", ">High"], rows)


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
