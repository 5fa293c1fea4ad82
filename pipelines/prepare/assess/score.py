"""Findings to metrics, a score of them, and gates with what would mend those that fail."""

from typing import Any, TypedDict

from cluster.page.formats import count, plural
from pipelines.prepare.assess.metrics import FULL_MTLD, coverage, mean, share
from pipelines.prepare.assess.settings import Assess, Gates
from pipelines.prepare.assess.summary import Findings, Repeats, Some

_TOPICS_SHOWN = 5


class Metric(TypedDict):
    """value: in [0, 1]; None: not measured. meaning: what 0 and 1 are, in a few words. seen: the counts behind it."""

    name: str
    value: float | None
    meaning: str
    seen: str


class Part(TypedDict):
    """A part of the score. value: None: not measured. weight: as used, of all measured parts together 1."""

    name: str
    weight: float
    value: float | None
    of: str


class Gate(TypedDict):
    """state: passed, failed or not measured. mend: of a failed gate, records to look at and a command."""

    name: str
    value: float | None
    bound: float
    state: str
    mend: str


class Assessment(TypedDict):
    """What assessment.json holds."""

    records: int
    score: float | None
    parts: list[Part]
    metrics: list[Metric]
    gates: list[Gate]
    findings: Findings


def assessment_of(findings: Findings, settings: Assess, gates: Gates, output: str) -> Assessment:
    """The assessment that follows from findings. output: of the run, for commands."""
    metrics = metrics_of(findings, settings)
    values = {one["name"]: one["value"] for one in metrics}
    parts = parts_of(values, settings.weights.model_dump())
    known = [one for one in parts if one["value"] is not None]
    score = sum(one["weight"] * (one["value"] or 0) for one in known) if any(one["weight"] for one in known) else None
    bounds = {name: bound for name, bound in gates.model_dump().items() if bound is not None}
    judged = values | {"score": score}
    return Assessment(
        records=findings["records"],
        score=score,
        parts=parts,
        metrics=metrics,
        gates=[_gate(name, judged[name], bound, findings, output) for name, bound in bounds.items()],
        findings=findings,
    )


def metrics_of(findings: Findings, settings: Assess) -> list[Metric]:
    """All metrics, measured or not."""
    records, words, values = findings["records"], findings["words"], findings["values"]
    topics, questions, answers = findings["topics"], findings["questions"], findings["answers"]
    missing = ", ".join(f"{name} {count(number)}" for name, number in findings["missing"].items())
    languages = ", ".join(f"{name} {count(number)}" for name, number in list(findings["languages"].items())[:5])
    expected = ", ".join(findings["expected"]) or "no language"
    lexical = [words["distinct_1"], words["distinct_2"], _scaled(words["mtld"])]
    structural = [values[name]["evenness"] for name in ("length", "turns", "task_type")]
    sample = plural(words["tokens"], "word")
    found = [
        _metric(
            "completeness",
            _kept(findings["incomplete"]["records"], records),
            "records without an empty field",
            f"empty: {missing}" if missing else "",
        ),
        _metric(
            "consistency",
            _kept(findings["inconsistent"], records),
            "records without contradiction, with allowed values",
            f"contradictory {count(findings['contradictory']['records'])}, "
            f"not allowed {count(findings['not_allowed']['records'])}",
        ),
        _metric(
            "duplication",
            _repeated(questions),
            "questions, or texts, that repeat an earlier one",
            _seen(questions),
        ),
        _metric("duplication_of_answers", _repeated(answers), "answers that repeat an earlier one", _seen(answers)),
        _metric(
            "language_quality",
            _kept(findings["poor_language"], records),
            f"undamaged records in {expected}",
            f"{languages}; damaged {count(findings['damaged']['records'])}",
        ),
        _metric(
            "coverage",
            coverage(list(topics.values()), settings.topic_records),
            f"topics that at least {plural(settings.topic_records, 'record')} mention",
            f"of {plural(len(topics), 'topic')}" if topics else "no `assess.topics`",
        ),
        _metric(
            "relevance",
            share(findings["on_topic"], records) if topics else None,
            "records that mention a topic",
            count(findings["on_topic"]) if topics else "no `assess.topics`",
        ),
        _metric("source_diversity", values["source"]["evenness"], "evenness of the sources", _most("source", findings)),
        _metric("distinct_1", words["distinct_1"], "distinct words of a sample", sample),
        _metric("distinct_2", words["distinct_2"], "distinct pairs of words of a sample", sample),
        _metric(
            "mtld",
            _scaled(words["mtld"]),
            f"MTLD of a sample by {FULL_MTLD:g}, at most 1",
            f"MTLD {words['mtld'] or 0:.0f}; {sample}",
        ),
        _metric("lexical_diversity", mean(lexical), "mean of distinct_1, distinct_2 and mtld", ""),
        _metric("structural_diversity", mean(structural), "mean evenness of lengths, turns and task types", ""),
    ]
    for name in values:
        if name != "source":
            found.append(
                _metric(f"balance_{name}", values[name]["evenness"], f"evenness of {name}", _most(name, findings))
            )
    return found


def parts_of(values: dict[str, float | None], weights: dict[str, float]) -> list[Part]:
    """The parts of the score. The weights of those that are measured sum to 1."""
    measured = {
        "completeness": values["completeness"],
        "consistency": values["consistency"],
        "relevance": values["relevance"],
        "diversity": mean([values["lexical_diversity"], values["structural_diversity"]]),
    }
    of = {"relevance": "records on a topic", "diversity": "mean of lexical and structural diversity"}
    total = sum(weight for name, weight in weights.items() if measured.get(name) is not None)
    return [
        Part(
            name=name,
            weight=weight / total if measured.get(name) is not None and total else 0.0,
            value=measured.get(name),
            of=of.get(name, "") if name in measured else "no measure yet",
        )
        for name, weight in weights.items()
    ]


def failed(assessment: Assessment) -> list[Gate]:
    """The gates that the data set does not pass."""
    return [one for one in assessment["gates"] if one["state"] == "failed"]


def _gate(name: str, value: float | None, bound: float, findings: Findings, output: str) -> Gate:
    if value is None:
        return Gate(name=name, value=None, bound=bound, state="not measured", mend="")
    passed = value <= bound if name == "duplication" else value >= bound
    mend = "" if passed else _MENDS[name](findings, output)
    return Gate(name=name, value=value, bound=bound, state="passed" if passed else "failed", mend=mend)


# --- what would mend a failed gate


def _mend_duplication(findings: Findings, output: str) -> str:
    ids = _ids(findings["questions"]["ids"], findings["questions"]["exact"] + findings["questions"]["near"])
    return (
        f"Questions that repeat an earlier one: {ids}. Remove them from the source, or compare records more loosely: "
        "`raymill prepare CONFIG -o dedup.threshold=0.6 --replace`."
    )


def _mend_consistency(findings: Findings, output: str) -> str:
    found = []
    if findings["contradictory"]["records"]:
        found.append(f"Equal questions with different answers: {_some(findings['contradictory'])}. Keep one answer.")
    if findings["not_allowed"]["records"]:
        found.append(f"Values that are not allowed: {_some(findings['not_allowed'])}. Correct them.")
    return " ".join([*found, "Then `raymill prepare CONFIG --replace`."])


def _mend_completeness(findings: Findings, output: str) -> str:
    fields = ",".join(name for name in findings["missing"] if name != "content")
    require = (
        f", or leave them out: `raymill prepare CONFIG -o validate.require=[{fields}] --replace`" if fields else ""
    )
    return f"Records with empty fields: {_some(findings['incomplete'])}. Fill these in the source{require}."


def _mend_language(findings: Findings, output: str) -> str:
    found = []
    if findings["other_language"]["records"]:
        languages = ",".join(list(findings["languages"])[:3])
        found.append(
            f"In another language: {_some(findings['other_language'])}. Leave them out, or name all that are expected: "
            f"`raymill assess {output} --config CONFIG -o assess.languages=[{languages}]`."
        )
    if findings["damaged"]["records"]:
        found.append(
            f"With damaged characters: {_some(findings['damaged'])}. Export them again as UTF-8, then "
            "`raymill prepare CONFIG --replace`."
        )
    return " ".join(found)


def _mend_coverage(findings: Findings, output: str) -> str:
    rarest = sorted(findings["topics"].items(), key=lambda one: one[1])[:_TOPICS_SHOWN]
    topics = ", ".join(f"{name} ({plural(number, 'record')})" for name, number in rarest)
    return f"Least mentioned topics: {topics}. Add inputs about them, then `raymill prepare CONFIG --replace`."


def _mend_sources(findings: Findings, output: str) -> str:
    sources = list(findings["values"]["source"]["shown"].items())
    if len(sources) == 1:
        return (
            f"All records are of the source {sources[0][0]}. Add an input of another source, then "
            "`raymill prepare CONFIG --replace`; or set `gates.source_diversity` to null."
        )
    return (
        f"{sources[0][0]} has {count(sources[0][1])} of {plural(findings['records'], 'record')}, {sources[-1][0]} has "
        f"{count(sources[-1][1])}. Add records of the smaller sources, then `raymill prepare CONFIG --replace`."
    )


def _mend_score(findings: Findings, output: str) -> str:
    return f"Look at the parts with the lowest value: `raymill assess {output}`."


_MENDS: dict[str, Any] = {
    "coverage": _mend_coverage,
    "duplication": _mend_duplication,
    "language_quality": _mend_language,
    "source_diversity": _mend_sources,
    "completeness": _mend_completeness,
    "consistency": _mend_consistency,
    "score": _mend_score,
}


def _some(some: Some) -> str:
    return _ids(some["ids"], some["records"])


def _ids(ids: list[str], total: int) -> str:
    """`3 records (a, b, c)`, `20 records (a, b, c, d, e, ...)`."""
    more = ", ..." if total > len(ids) else ""
    return f"{plural(total, 'record')} ({', '.join(ids)}{more})"


# --- metrics


def _metric(name: str, value: float | None, meaning: str, seen: str) -> Metric:
    return Metric(name=name, value=value, meaning=meaning, seen=seen)


def _kept(wrong: int, records: int) -> float | None:
    return share(records - wrong, records)


def _repeated(repeats: Repeats) -> float | None:
    return share(repeats["exact"] + repeats["near"], repeats["compared"])


def _seen(repeats: Repeats) -> str:
    return f"exact {count(repeats['exact'])}, near {count(repeats['near'])} of {count(repeats['compared'])}"


def _scaled(mtld: float | None) -> float | None:
    return None if mtld is None else min(1.0, mtld / FULL_MTLD)


def _most(name: str, findings: Findings) -> str:
    values = findings["values"][name]
    shown = ", ".join(f"{value or 'none'} {count(number)}" for value, number in list(values["shown"].items())[:4])
    more = values["distinct"] - 4
    return f"{shown}, +{more} more" if more > 0 else shown
