"""What would mend a gate that failed: the records to look at, and a command."""

from collections.abc import Callable

from cluster.page.formats import count, plural
from cluster.store import paths
from pipelines.prepare.assess.facts import FOLDER
from pipelines.prepare.assess.learn import SUSPECTS
from pipelines.prepare.assess.summary import Findings, Some
from pipelines.prepare.assess.trained import TrainedScore

_SHOWN = 5
_AGAIN = "`raymill prepare CONFIG --replace`"


def mend_of(gate: str, findings: Findings, output: str, questions_removed: bool) -> str:
    """Sentences with commands in backticks. output: of the run. questions_removed: it removes repeated questions."""
    if gate == "duplication":
        return _mend_duplication(findings, questions_removed)
    return _MENDS[gate](findings, output)


def mend_of_trained(score: TrainedScore) -> str:
    """The same of a gate on a training's score."""
    report = paths.join(score["worst_output"], "report.html")
    return (
        f"Fold {score['worst']} has the least score; {report} has its answers. Add records like those that it fails, "
        f"or correct these, then {_AGAIN} and `raymill cross-validate CONFIG --replace`."
    )


def _mend_duplication(findings: Findings, questions_removed: bool) -> str:
    repeats, are_texts = findings["questions"], not findings["answers"]["compared"]
    ids = _ids(repeats["ids"], repeats["exact"] + repeats["near"])
    setting = "duplicates.questions=remove"
    if are_texts or questions_removed:  # what deduplication takes for equal is too narrow
        setting = "dedup.scope=all -o dedup.remove=true -o dedup.threshold=0.6"
    return (
        f"{'Texts' if are_texts else 'Questions'} that repeat an earlier one: {ids}. Remove them: "
        f"`raymill prepare CONFIG -o {setting} --replace`."
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
            f"In another language: {_some(findings['other_language'])}. Leave them out by "
            "`validate.language.keep`, or name all that are expected: "
            f"`raymill assess {output} --config CONFIG -o assess.languages=[{languages}]`."
        )
    if findings["damaged"]["records"]:
        found.append(
            f"With damaged characters: {_some(findings['damaged'])}. Export them again as UTF-8, then "
            "`raymill prepare CONFIG --replace`."
        )
    return " ".join(found)


def _mend_coverage(findings: Findings, output: str) -> str:
    rarest = sorted(findings["topics"].items(), key=lambda one: one[1])[:_SHOWN]
    topics = ", ".join(f"{name} ({plural(number, 'record')})" for name, number in rarest)
    return f"Least mentioned topics: {topics}. Add inputs about them, then `raymill prepare CONFIG --replace`."


def _mend_sources(findings: Findings, output: str) -> str:
    sources = list(findings["values"]["source"]["shown"].items())
    total = findings["records"] + findings["copies"]
    return (
        f"{sources[0][0]} has {count(sources[0][1])} of {plural(total, 'record')}, {sources[-1][0]} has "
        f"{count(sources[-1][1])}. Add records of the smaller sources, then `raymill prepare CONFIG --replace`."
    )


def _mend_accuracy(findings: Findings, output: str) -> str:
    found = []
    for name, labels in (findings["learned"] or {"labels": {}})["labels"].items():
        if labels["errors"]:
            first = [f"{one['id']}: {one['suggested']}?" for one in labels["suspects"][:_SHOWN]]
            found.append(
                f"Values of {name} that are probably wrong: {_ids(first, labels['errors'])}. Correct them in the "
                f"source; `raymill sample {paths.join(output, FOLDER, SUSPECTS)}` shows more."
            )
    if (agreement := findings["agreement"]) and agreement["differing"]["records"]:
        found.append(
            f"Annotators differ: {_some(agreement['differing'])}. Settle these, and make their guideline clearer."
        )
    if findings["violating"]["records"]:
        rules = ", ".join(f"{name} {count(number)}" for name, number in (findings["rules"] or {}).items())
        found.append(
            f"Rules are broken ({rules}): {_some(findings['violating'])}. Correct them, or prepare with these rules."
        )
    return " ".join([*found, f"Then {_AGAIN}."])


def _mend_relevance(findings: Findings, output: str) -> str:
    found = []
    if findings["learned"] and (ids := findings["learned"]["similar"]["ids"]):
        found.append(f"Least similar to the examples: {', '.join(ids)}. Leave such records out.")
    if findings["topics"]:
        without = findings["records"] - findings["on_topic"]
        found.append(f"{plural(without, 'record')} mention no topic; name more topics, or leave these out.")
    return " ".join([*found, f"Then {_AGAIN}, or `raymill assess {output} --config CONFIG`."])


def _mend_answer_relevance(findings: Findings, output: str) -> str:
    ids = (findings["learned"] or {"relevant": {"ids": []}})["relevant"]["ids"]
    return (
        f"Least similar to their questions: {', '.join(ids)}. Correct these answers, or remove those that have no word of "
        "their question: `raymill prepare CONFIG -o validate.relevance=0.1 --replace`."
    )


def _mend_diversity(findings: Findings, output: str) -> str:
    found = []
    if findings["learned"] and (groups := findings["learned"]["groups"]):
        found.append(f"The largest of {len(groups)} groups of like texts has {count(groups[0])} records.")
    if ids := findings["questions"]["ids"]:
        found.append(f"Questions that repeat an earlier one: {', '.join(ids)}.")
    return " ".join([*found, f"Add inputs about other things or of other lengths, then {_AGAIN}."])


def _mend_bias(findings: Findings, output: str) -> str:
    found = []
    for name, of in findings["represented"].items():
        total = sum(number for value, number in of["shown"].items() if value)
        values = [value for value in of["shown"] if value]
        if of["likeness"] is None or of["likeness"] == 1 or not total:
            continue
        gaps = {value: of["wanted"].get(value, 0 if of["wanted"] else 1 / len(values)) for value in values}
        least = min(values, key=lambda value: of["shown"][value] / total - gaps[value])
        found.append(
            f"{name}: {least} has {count(of['shown'][least])} of {plural(total, 'record')}, and {gaps[least]:.0%} are "
            "wanted."
        )
    for name, lengths in findings["lengths"].items():
        differing = [one for one in lengths["ratios"] if not one["low"] <= 1 <= one["high"]] if lengths else []
        if lengths and differing:
            one = min(differing, key=lambda one: min(one["ratio"], 1 / one["ratio"]))
            found.append(
                f"{name}: texts of {one['value']} have {one['ratio']:.2f} times the length of {lengths['against']}'s "
                f"({one['low']:.2f} to {one['high']:.2f})."
            )
    for name, scores in findings["sentiments"].items():
        unequal = [one for one in scores["differences"] if not one["low"] <= 0 <= one["high"]] if scores else []
        if scores and unequal:
            most = max(unequal, key=lambda one: abs(one["difference"]))
            found.append(
                f"{name}: the mean score of {most['value']} is {most['mean']:.3f}, and that of {scores['against']} "
                f"{scores['mean']:.3f}."
            )
    if periods := findings["periods"]:
        empty = [period for period, number in periods["records"].items() if not number]
        if empty:
            found.append(f"Without records: {', '.join(empty[:_SHOWN])}{', ...' if len(empty) > _SHOWN else ''}.")
    return " ".join(
        [
            *found,
            f"Add records of these, then {_AGAIN}; or state other shares: `raymill assess {output} --config CONFIG`.",
        ]
    )


def _mend_extrinsic(findings: Findings, output: str) -> str:
    labels = (findings["learned"] or {"labels": {}})["labels"]
    name, of = list(labels.items())[-1]
    return (
        f"{name} has {plural(of['classes'], 'value')} with 5 records or more, and {plural(of['left_out'], 'record')} "
        f"have rarer ones. Add records of the rare values, or merge these by `clean.labels`, then {_AGAIN}."
    )


def _mend_score(findings: Findings, output: str) -> str:
    return f"Look at the parts with the lowest value: `raymill assess {output}`."


_MENDS: dict[str, Callable[[Findings, str], str]] = {
    "coverage": _mend_coverage,
    "language_quality": _mend_language,
    "source_diversity": _mend_sources,
    "completeness": _mend_completeness,
    "consistency": _mend_consistency,
    "accuracy": _mend_accuracy,
    "relevance": _mend_relevance,
    "answer_relevance": _mend_answer_relevance,
    "diversity": _mend_diversity,
    "bias": _mend_bias,
    "extrinsic_f1": _mend_extrinsic,
    "score": _mend_score,
}


def _some(some: Some) -> str:
    return _ids(some["ids"], some["records"])


def _ids(ids: list[str], total: int) -> str:
    """`3 records (a, b, c)`, `20 records (a, b, c, d, e, ...)`."""
    more = ", ..." if total > len(ids) else ""
    return f"{plural(total, 'record')} ({', '.join(ids)}{more})"
