"""The results of simulated rounds as text, as tables and as a chart."""

from collections.abc import Mapping, Sequence
from typing import Any

from raymill.cluster.formats import count, plural
from raymill.cluster.report.charts import Line, line_chart, line_key
from raymill.cluster.report.sections import Content, Figure


def simulation_text(report: Mapping[str, Any]) -> str:
    """What each strategy would have saved, a line each."""
    last = report["curves"][-1]["labels"]
    lines = [f"{plural(report['records'], 'record')} with known labels, {plural(last, 'label')} at most"]
    for one in report["strategies"]:
        saved = one["labels_saved"]
        beside = "never as accurate as random at the end" if saved is None else f"saves {plural(saved, 'label')}"
        lines.append(
            f"  {one['strategy']:<18}{one['accuracy']:.3f} (random {one['random_accuracy']:.3f}), "
            f"{_difference(one)}: {one['verdict']}; {beside}"
        )
    return "\n".join(lines)


def _difference(one: Mapping[str, Any]) -> str:
    if one["low"] is None:
        return f"{one['difference']:+.3f}"
    return f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"


def simulation_tables(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of the page, by name."""
    return {
        "strategies": [
            {"strategy": one["strategy"], "last_accuracy": f"{one['accuracy']:.3f}", "difference": _difference(one),
             "verdict": one["verdict"],
             "labels_saved": "–" if one["labels_saved"] is None else count(one["labels_saved"])}
            for one in report["strategies"]
        ],
        "stopping": [
            {"strategy": one["strategy"], "rule": one["rule"], "stopped": f"{one['stopped']} of {one['seeds']} seeds",
             "labels": "–" if one["labels"] is None else f"{one['labels']:,.0f}",
             "accuracy_lost": "–" if one["accuracy_lost"] is None else f"{one['accuracy_lost']:+.3f}"}
            for one in report["stopping"]
        ],
    }  # fmt: skip


def learning_curves(curves: Sequence[Mapping[str, Any]]) -> list[Content]:
    """A chart for each strategy: its accuracy by the number of labels, beside random."""
    points: dict[str, list[tuple[float, float]]] = {}
    bounds: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in curves:
        points.setdefault(one["strategy"], []).append((one["labels"], one["accuracy"]))
        for bound in ("low", "high"):
            if one[bound] is not None:
                of_strategy = bounds.setdefault(one["strategy"], {})
                of_strategy.setdefault(bound, []).append((one["labels"], one[bound]))
    random = Line("random", "validation", points["random"], dots=True)
    span = random.points[0][0], random.points[-1][0]
    found: list[Content] = []
    for name, own in points.items():
        if name != "random":
            line = Line(name, "smooth", own, dots=True)
            label = f"accuracy of {name} and of random, from {own[0][1]:.3f} and at the end {own[-1][1]:.3f}"
            key = [line_key(line), f" {name}  ", line_key(random), " random"]
            around = [Line(bound, "raw", places) for bound, places in bounds.get(name, {}).items()]
            found.append(Figure(name, key, line_chart([*around, line, random], label, span=span, show="{:.3f}".format)))
    return found
