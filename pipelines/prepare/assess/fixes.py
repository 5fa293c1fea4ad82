"""What would fix a gate that failed: the records to look at, and a command."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raymill.cluster.config_text import parse
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import count, plural
from raymill.cluster.store import paths
from raymill.pipelines.prepare.assess.embed import SUSPECTS
from raymill.pipelines.prepare.assess.facts import FOLDER
from raymill.pipelines.prepare.assess.findings import Findings, Represented, Some

_SHOWN = 5
_MOST_INPUTS = 12  # whose shares are written out
AGAIN = "`raymill prepare CONFIG --replace`"


@dataclass(frozen=True)
class FixContext:
    """What a fix depends on besides the findings.

    output: of the assessment. sources: the source of each input, in the config's order. questions_removed: the run
    removes repeated questions. data: what is assessed, if it is not the run at the output. questions_listed: alike
    questions are in one split. by_source: within each source. keep: whether `split.keep` has earlier runs.
    """

    output: str
    sources: Sequence[str] = ()
    questions_removed: bool = False
    data: str = ""
    questions_listed: bool = False
    by_source: bool = False
    keep: bool = False

    @property
    def command(self) -> str:
        """The command that assesses again."""
        words = [self.data, "--output", self.output] if self.data else [self.output]
        return shlex.join(["raymill", "assess", *words])


def fix_of(gate: str, findings: Findings, prepared: FixContext) -> str:
    """Sentences with commands in backticks. gate: any but `score` and those of a training."""
    return _FIXES[gate](findings, prepared)


def _fix_duplication(findings: Findings, prepared: FixContext) -> str:
    repeats, are_texts = findings["questions"], not findings["answers"]["compared"]
    ids = _ids(repeats["ids"], repeats["exact"] + repeats["near"])
    return (
        f"{'Texts' if are_texts else 'Questions'} that repeat an earlier one: {ids}. Remove them: "
        f"{_without_repeats(findings, prepared)}."
    )


def _without_repeats(findings: Findings, prepared: FixContext) -> str:
    if findings["answers"]["compared"] and not prepared.questions_removed:
        return _prepare("duplicates.questions=remove")
    # What deduplication takes for equal is too narrow.
    return _prepare("dedup.scope=all", "dedup.remove=true", "dedup.threshold=0.6")


def _fix_leakage(findings: Findings, prepared: FixContext) -> str:
    """Records that stay in their split, and those that are alike over several others, are fixed by removal alone."""
    leaks, are_texts = findings["leaks"], not findings["answers"]["compared"]
    one_scope = ["dedup.scope=all"] if prepared.by_source or are_texts else []
    does = "Remove those that repeat an earlier one"
    if are_texts:
        settings = [*one_scope, "dedup.remove=true"]
    elif prepared.questions_listed or prepared.questions_removed or prepared.keep:
        settings = ["duplicates.questions=remove", *one_scope]
    else:
        does, settings = "Keep alike ones in one split", ["duplicates.questions=list", *one_scope, "split.stable=false"]
    return (
        f"{'Texts' if are_texts else 'Questions'} of validation and test that are in train: "
        f"{_ids(leaks['ids'], leaks['validation'] + leaks['test'])}. {does}: {_prepare(*settings)}."
    )


def _fix_consistency(findings: Findings, prepared: FixContext) -> str:
    found = []
    if findings["contradictory"]["records"]:
        found.append(
            f"Equal questions with different answers: {_some(findings['contradictory'])}. Keep one answer of each in "
            f"the source, or remove them all: {_prepare('duplicates.contradictory=remove')}."
        )
    if findings["not_allowed"]["records"]:
        found.append(
            f"Values that are not allowed: {_some(findings['not_allowed'])}. Name the allowed value of each spelling "
            f"in `clean.labels`, then {AGAIN}."
        )
    if findings["other_format"]["records"]:
        forms = ", ".join(f"{name} {count(number)}" for name, number in (findings["forms"] | findings["dates"]).items())
        found.append(
            f"Answers in another format than most of their task type ({forms}): {_some(findings['other_format'])}. "
            f"Write them alike in the source, then {AGAIN}."
        )
    if (terms := findings["terms"]) and terms["records"]:
        found.append(
            f"With terms that `clean.terminology` replaces: {_some(terms)}. Replace them, by a CONFIG with these "
            f"terms: {AGAIN}."
        )
    return " ".join(found)


def _fix_completeness(findings: Findings, prepared: FixContext) -> str:
    fields = [name for name in findings["missing"] if name != "content"]
    leave_out = _prepare(f"validate.require={_list(fields)}")
    require = f", or leave them out: {leave_out}" if fields else f", then {AGAIN}"
    return f"Records with empty fields: {_some(findings['incomplete'])}. Fill these in the source{require}."


def _fix_language(findings: Findings, prepared: FixContext) -> str:
    found = []
    if findings["other_language"]["records"]:
        languages, expected = _list(list(findings["languages"])[:3]), _list(findings["expected"])
        found.append(
            f"In another language: {_some(findings['other_language'])}. Leave them out: "
            f"{_prepare(f'validate.language.keep={expected}')}; or name all languages that are expected: "
            f"`{prepared.command} -o {shlex.quote(f'assess.languages={languages}')}`."
        )
    if findings["damaged"]["records"]:
        found.append(
            f"With damaged characters: {_some(findings['damaged'])}. Export them again as UTF-8, then {AGAIN}."
        )
    return " ".join(found)


def _fix_coverage(findings: Findings, prepared: FixContext) -> str:
    rarest = sorted(findings["topics"].items(), key=lambda one: one[1])[:_SHOWN]
    topics = ", ".join(f"{name} ({plural(number, 'record')})" for name, number in rarest)
    off, look = findings["off_topic"], ""
    if off["records"] and rarest:
        topic = rarest[0][0]
        # A name with a dot cannot be a part of a setting's name.
        words = "--config CONFIG" if "." in topic else f"-o {shlex.quote(f'assess.topics.{topic}=[WORD, WORD]')}"
        look = (
            f" Mention no topic: {_some(off)}; if some are about these in other words, name the words: "
            f"`{prepared.command} {words}`."
        )
    return f"Least mentioned topics: {topics}.{look} Add an input with records about them, then {AGAIN}."


def _fix_sources(findings: Findings, prepared: FixContext) -> str:
    sources = findings["values"]["source"]
    (most, many), (least, few) = (list(sources["shown"].items())[at] for at in (0, -1))
    total = findings["records"] + findings["copies"]
    return (
        f"{most} has {count(many)} of {plural(total, 'record')}{_like(sources['ids'].get(most))}, {least} has "
        f"{count(few)}{_like(sources['ids'].get(least))}. Add records of the smaller sources, or take equally many of "
        f"each, about {count(few * sources['distinct'])} in all: {_equal_shares(prepared.sources)}."
    )


def _equal_shares(sources: Sequence[str]) -> str:
    """The command that takes equally many records of each source."""
    inputs, distinct = Counter(sources), len(set(sources))
    if not 1 < len(sources) <= _MOST_INPUTS:
        return f"{_prepare('mixture.fill=false')} with an equal `share` for each source in CONFIG"
    shares = [round(1 / distinct / inputs[source], 4) for source in sources]
    shares[-1] = round(1 - sum(shares[:-1]), 4)
    return _prepare(*(f"inputs.{at}.share={share:g}" for at, share in enumerate(shares)), "mixture.fill=false")


def _fix_accuracy(findings: Findings, prepared: FixContext) -> str:
    found, suspects = [], shlex.quote(paths.join(prepared.output, FOLDER, SUSPECTS))
    for name, labels in (findings["learned"] or {"labels": {}})["labels"].items():
        if labels["errors"]:
            first = [f"{one['id']}: {one['suggested']}?" for one in labels["suspects"][:_SHOWN]]
            found.append(
                f"Values of {name} that are probably wrong: {_ids(first, labels['errors'])}. "
                f"`raymill sample {suspects}` shows more. Correct them in the "
                f"source, then {AGAIN}."
            )
    if (agreement := findings["agreement"]) and agreement["differing"]["records"]:
        found.append(
            f"Annotators differ: {_some(agreement['differing'])}. Settle these in the source and make the annotators' "
            f"guideline clearer, then {AGAIN}."
        )
    if findings["violating"]["records"]:
        rules = ", ".join(f"{name} {count(number)}" for name, number in (findings["rules"] or {}).items())
        found.append(
            f"Rules are broken ({rules}): {_some(findings['violating'])}. Remove them, by a CONFIG with these rules: "
            f"{AGAIN}."
        )
    return " ".join(found)


def _fix_relevance(findings: Findings, prepared: FixContext) -> str:
    found = []
    if findings["learned"] and (ids := findings["learned"]["similar"]["ids"]):
        found.append(f"Least similar to the examples: {', '.join(ids)}.")
    if findings["topics"] and findings["off_topic"]["records"]:
        found.append(f"Mention no topic: {_some(findings['off_topic'])}.")
    return " ".join(
        [
            *found,
            f"Take such records out of the source, then {AGAIN}; or name further examples and topics in CONFIG: "
            f"`{prepared.command} --config CONFIG`.",
        ]
    )


def _fix_answer_relevance(findings: Findings, prepared: FixContext) -> str:
    ids = (findings["learned"] or {"relevant": {"ids": []}})["relevant"]["ids"]
    return (
        f"Least similar to their questions: {', '.join(ids)}. Correct these answers in the source, or remove those "
        f"that have no word of their question: {_prepare('validate.relevance=0.1')}."
    )


def _fix_diversity(findings: Findings, prepared: FixContext) -> str:
    found = []
    if (learned := findings["learned"]) and (groups := learned["groups"]):
        found.append(
            f"The largest of {plural(len(groups), 'group')} of like texts has {count(groups[0])} of "
            f"{plural(sum(groups), 'record')}{_like(learned['largest'])}."
        )
    if ids := findings["questions"]["ids"]:
        found.append(f"Repeat an earlier one: {', '.join(ids)}. Remove these: {_without_repeats(findings, prepared)}.")
    return " ".join([*found, f"Add an input about other things or with other lengths, then {AGAIN}."])


def _fix_bias(findings: Findings, prepared: FixContext) -> str:
    found = []
    for name, of in findings["represented"].items():
        found += _fix_representation(name, of, findings, prepared)
    for name, lengths in findings["lengths"].items():
        differing = [one for one in lengths["ratios"] if not one["low"] <= 1 <= one["high"]] if lengths else []
        if lengths and differing:
            one = min(differing, key=lambda one: min(one["ratio"], 1 / one["ratio"]))
            found.append(
                f"{name}: texts of {one['value']} have {one['ratio']:.2f} times the length of {lengths['against']}'s "
                f"({one['low']:.2f} to {one['high']:.2f}){_like(_ids_of(findings, name, one['value']))}."
            )
    for name, scores in findings["sentiments"].items():
        unequal = [one for one in scores["differences"] if not one["low"] <= 0 <= one["high"]] if scores else []
        if scores and unequal:
            most = max(unequal, key=lambda one: abs(one["difference"]))
            found.append(
                f"{name}: the mean score of {most['value']} is {most['mean']:.3f}, and of {scores['against']} "
                f"{scores['mean']:.3f}{_like(_ids_of(findings, name, most['value']))}."
            )
    if periods := findings["periods"]:
        empty = [period for period, number in periods["records"].items() if not number]
        if empty:
            found.append(f"Without records: {', '.join(empty[:_SHOWN])}{', ...' if len(empty) > _SHOWN else ''}.")
    return " ".join(
        [
            *found,
            f"Add or rewrite records of these, then {AGAIN}; or state other shares: `{prepared.command} "
            "--config CONFIG`.",
        ]
    )


def _fix_representation(name: str, of: Represented, findings: Findings, prepared: FixContext) -> list[str]:
    """What lacks records and what has too many, of a field whose shares are not as wanted; empty if they are."""
    known = {value: number for value, number in of["shown"].items() if value}
    total = sum(known.values())
    if of["likeness"] is None or of["likeness"] == 1 or not total:
        return []
    wanted = {value: of["wanted"].get(value, 0 if of["wanted"] else 1 / len(known)) for value in known}
    least, most = (pick(known, key=lambda value: known[value] / total - wanted[value]) for pick in (min, max))
    shown = (
        f"{name}: {least} has {count(known[least])} of {plural(total, 'record')}, and {wanted[least]:.0%} are wanted; "
        f"{most} has {count(known[most])}, of {wanted[most]:.0%}{_like(_ids_of(findings, name, most))}."
    )
    if name != "source" and of["wanted"]:
        return [shown]
    if name != "source":
        command = _prepare(f"split.balance.by={_list([name])}", "split.balance.to=smallest")
    else:
        command = _prepare("mixture.fill=false") if of["wanted"] else _equal_shares(prepared.sources)
    return [f"{shown} Level them: {command}."]


def _fix_extrinsic(findings: Findings, prepared: FixContext) -> str:
    labels = (findings["learned"] or {"labels": {}})["labels"]
    name, of = list(labels.items())[-1]
    found = []
    if of["missed"]:
        first = [f"{one['id']}: {one['suggested']}?" for one in of["hardest"]]
        found.append(
            f"Predicted otherwise than their {name}: {_ids(first, of['missed'])}. Correct those that are wrong."
        )
    if rare := list(of["rare"]):
        merge = f"clean.labels.{name}.VALUE={_list(rare)}"
        found.append(
            f"Values of fewer than five records: {', '.join(f'{one} {number}' for one, number in of['rare'].items())}, "
            f"{plural(of['left_out'], 'record')} in all{_like(of['rare_ids'])}. Give them the VALUE of a similar one: "
            f"{_prepare(merge)}."
        )
    return " ".join([*found, f"Add records of the values that are rare or predicted wrongly, then {AGAIN}."])


_FIXES: dict[str, Callable[[Findings, FixContext], str]] = {
    "duplication": _fix_duplication,
    "leakage": _fix_leakage,
    "coverage": _fix_coverage,
    "language_quality": _fix_language,
    "source_diversity": _fix_sources,
    "completeness": _fix_completeness,
    "consistency": _fix_consistency,
    "accuracy": _fix_accuracy,
    "relevance": _fix_relevance,
    "answer_relevance": _fix_answer_relevance,
    "diversity": _fix_diversity,
    "bias": _fix_bias,
    "extrinsic_f1": _fix_extrinsic,
}


def _prepare(*settings: str) -> str:
    """The command that prepares again with other settings."""
    return f"`raymill prepare CONFIG {' '.join(f'-o {shlex.quote(one)}' for one in settings)} --replace`"


def _list(values: Sequence[str]) -> str:
    """A list of texts as the value of a setting: `[en,de]`. Values that YAML reads as something else are quoted."""

    def is_plain(value: str) -> bool:
        try:
            return parse(f"[{value}]", "", "yaml") == [value]
        except ConfigError:
            return False

    return f"[{','.join(one if is_plain(one) else json.dumps(one, ensure_ascii=False) for one in values)}]"


def _ids_of(findings: Findings, field: str, value: str) -> list[str]:
    return findings["values"][field]["ids"].get(value, []) if field in findings["values"] else []


def _like(ids: Sequence[str] | None) -> str:
    """` (such as a, b)`; empty without ids."""
    return f" (such as {', '.join(ids)})" if ids else ""


def _some(some: Some) -> str:
    return _ids(some["ids"], some["records"])


def _ids(ids: list[str], total: int) -> str:
    """`3 records (a, b, c)`, `20 records (a, b, c, d, e, ...)`."""
    more = ", ..." if total > len(ids) else ""
    return f"{plural(total, 'record')} ({', '.join(ids)}{more})"
