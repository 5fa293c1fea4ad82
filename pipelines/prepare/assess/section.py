"""The assessment as a section of the report, and as lines to print."""

from cluster.page.formats import count, plural
from cluster.page.markup import Column, Section, code, element, join, note, table
from pipelines.prepare.assess.score import Assessment, failed


def assessment_text(assessment: Assessment) -> str:
    """The lines that are printed: the score, the gates, and what would mend those that fail."""
    lines = [f"score {_number(assessment['score'])} of 1, without {_unmeasured(assessment) or 'exception'}"]
    width = max((len(one["name"]) for one in assessment["gates"]), default=0)
    for one in assessment["gates"]:
        lines.append(
            f"{one['name']:<{width}}  {_number(one['value']):>6}  {_bound(one['name'], one['bound'])}  {one['state']}"
        )
    lines += [f"{one['name']}: {one['mend']}" for one in failed(assessment)]
    return "\n".join(lines)


def assessment_section(assessment: Assessment) -> Section:
    """Gates, score and all metrics."""
    gates = assessment["gates"]
    tiles = [
        ("Score", _number(assessment["score"]), "of 1"),
        ("Gates passed", count(sum(one["state"] == "passed" for one in gates)), f"of {len(gates)}"),
        ("Gates failed", count(len(failed(assessment))), "with what would mend them below"),
    ]
    body = [
        element("div", element("dt", title), element("dd", element("strong", big), element("span", small)))
        for title, big, small in tiles
    ]
    parts = [element("dl", body, class_="tiles")]
    if mends := [element("li", code(one["name"]), ": ", _with_code(one["mend"])) for one in failed(assessment)]:
        parts.append(element("ul", mends))
    columns = [Column("Gate", numeric=False), Column("Value"), Column("Bound"), Column("Result", numeric=False)]
    rows = [
        (code(one["name"]), _number(one["value"]), _bound(one["name"], one["bound"]), one["state"]) for one in gates
    ]
    parts.append(table("Gates", columns, rows))
    columns = [Column("Part", numeric=False), Column("Weight"), Column("Value"), Column("", numeric=False)]
    rows = [
        (code(one["name"]), _number(one["weight"]), _number(one["value"]), one["of"]) for one in assessment["parts"]
    ]
    parts.append(table("Parts of the score", columns, rows))
    if without := _unmeasured(assessment):
        parts.append(note(f"Not measured: {without}. The weights of the other parts are raised to sum to 1."))
    columns = [Column("Metric", numeric=False), Column("Value"), Column("Share or mean of", numeric=False)]
    columns.append(Column("Seen", numeric=False))
    rows = [(code(one["name"]), _number(one["value"]), one["meaning"], one["seen"]) for one in assessment["metrics"]]
    parts.append(table(f"Metrics of {plural(assessment['records'], 'record')}, from 0 to 1", columns, rows))
    return Section("assessment", "Assessment", join(*parts))


def _unmeasured(assessment: Assessment) -> str:
    return ", ".join(one["name"] for one in assessment["parts"] if one["value"] is None)


def _number(value: float | None) -> str:
    """Three decimals, rounded towards 0 so that a value below a bound is not shown as equal to it."""
    return "–" if value is None else f"{int(value * 1000 + 1e-9) / 1000:.3f}"


def _bound(name: str, bound: float) -> str:
    return f"{'at most' if name == 'duplication' else 'at least'} {bound:g}"


def _with_code(words: str) -> list[str]:
    """A sentence with commands in backticks, as markup."""
    return [code(part) if at % 2 else part for at, part in enumerate(words.split("`"))]
