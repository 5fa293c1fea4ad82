"""The assessments of two versions side by side."""

from pipelines.prepare.assess.metrics import ratio
from pipelines.prepare.assess.score import Assessment
from pipelines.prepare.assess.section import number

_NOTABLE = 0.01  # a change of a metric that is marked


def metrics_text(before: str, after: str, old: Assessment | None, new: Assessment | None) -> str:
    """Score, metrics and shares of languages of two versions as lines; those with a change of 0.01 or more are marked.

    before, after: names of the versions. A metric that only one of them has stands beside a dash.
    """
    for name, found in ((before, old), (after, new)):
        if found is None:
            return f"{name} has no assessment.json: run `raymill assess` on its output to compare metrics."
    values = metric_values(old, new)
    width = max(map(len, values))
    lines = []
    for name, (then, now) in values.items():
        change = now - then if then is not None and now is not None else 0.0
        mark = f"  ({change:+.3f})" if abs(change) >= _NOTABLE else ""
        lines.append(f"{name:<{width}} {number(then):>7} -> {number(now)}{mark}")
    return "\n".join(lines)


def metric_values(old: Assessment | None, new: Assessment | None) -> dict[str, tuple[float | None, float | None]]:
    """Score, metrics and shares of languages of two versions, of those that one of them has; empty without both."""
    if old is None or new is None:
        return {}
    languages = sorted(old["findings"]["languages"] | new["findings"]["languages"])
    before, after = (_values(one, languages) for one in (old, new))
    pairs = {name: (before.get(name), after.get(name)) for name in before | after}
    return {name: pair for name, pair in pairs.items() if pair != (None, None)}


def _values(assessment: Assessment, languages: list[str]) -> dict[str, float | None]:
    metrics = {one["name"]: one["value"] for one in assessment["metrics"]}
    found = assessment["findings"]["languages"]
    shares = {f"language {name}": ratio(found.get(name, 0), sum(found.values())) for name in languages}
    return {"score": assessment["score"]} | metrics | shares
