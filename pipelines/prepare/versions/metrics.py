"""The assessments of two versions side by side."""

from pipelines.prepare.assess.metrics import share
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
    assert old is not None and new is not None
    languages = sorted(old["findings"]["languages"] | new["findings"]["languages"])
    values = [_values(one, languages) for one in (old, new)]
    width = max(map(len, values[0] | values[1]))
    lines = []
    for name in values[0] | values[1]:
        pair = [one.get(name) for one in values]
        if pair == [None, None]:
            continue
        change = pair[1] - pair[0] if pair[0] is not None and pair[1] is not None else 0.0
        mark = f"  ({change:+.3f})" if abs(change) >= _NOTABLE else ""
        lines.append(f"{name:<{width}} {number(pair[0]):>7} -> {number(pair[1])}{mark}")
    return "\n".join(lines)


def _values(assessment: Assessment, languages: list[str]) -> dict[str, float | None]:
    metrics = {one["name"]: one["value"] for one in assessment["metrics"]}
    found = assessment["findings"]["languages"]
    shares = {f"language {name}": share(found.get(name, 0), sum(found.values())) for name in languages}
    return {"score": assessment["score"]} | metrics | shares
