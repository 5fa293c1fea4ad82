"""Sections of the report page with documents: the largest duplicate groups, and examples of every reason."""

import re
from collections.abc import Sequence

from cluster.formats import decimal, plural
from cluster.page.markup import Markup, Section, anchor, code, element, fold, join, note, outside_text, sentence
from pipelines.curate.report.schema import CurateReport, Group, SampledDocument, stage_name
from pipelines.text.word_diff import DiffPart, word_diff

_OPEN_GROUPS = 3
# An excerpt with more characters or lines scrolls in a box of its own.
_LONG_EXCERPT = 600
_LONG_LINES = 10
KEPT, NEAR = "kept", "near_duplicate"  # reasons without a bound
_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")

Bounded = tuple[str, str]  # a signal; `at least` or `at most`


def groups(report: CurateReport) -> Section:
    """A word diff of two documents of each of the largest duplicate groups; the first three are open."""
    rows, title = report["groups"], "Largest duplicate groups"
    if not rows:
        return Section("groups", title, sentence("No duplicate group was found."))
    legend = join(
        "The document that was kept, and one of those removed for it: ",
        element("del", "only in the kept one"),
        " ",
        element("ins", "only in the removed one"),
        ". The similarity is that of the whole documents, the words compared are those of the excerpts.",
    )
    folds = [_group(group, opened=number < _OPEN_GROUPS) for number, group in enumerate(rows)]
    return Section("groups", title, join(note(legend), folds))


def samples(report: CurateReport) -> Section:
    """Excerpts of documents that were kept, and of documents removed for each reason, with the measured values."""
    title = "Examples"
    if not report["samples"]:
        return Section("examples", title, sentence("No examples were asked for."))
    totals = {(s["stage"], r["reason"]): r["documents"] for s in report["funnel"] for r in s["reasons"]}
    found: dict[tuple[str, str], list[SampledDocument]] = {}
    for sample in report["samples"]:
        found.setdefault((sample["stage"], sample["reason"]), []).append(sample)
    order = list(totals)
    # Kept documents come first, then the reasons in the order of the funnel.
    keys = sorted(found, key=lambda key: (key[1] != KEPT, order.index(key) if key in totals else len(order)))
    bounds = _bounds(report)
    kept = report["totals"]["corpus"]["documents"]
    folds = [
        _reason(found[key], kept if key[1] == KEPT else totals.get(key), bounds.get(key) or bounds.get(("", key[1])))
        for key in keys
    ]
    return Section("examples", title, join(note("Drawn at random for every reason, and from what was kept."), folds))


def _group(group: Group, *, opened: bool) -> Markup:
    kept, removed = group["kept"], group["removed"]
    alike = "equal text" if group["similarity"] is None else f"similarity {decimal(group['similarity'])}"
    heading = [
        element("h3", f"{plural(group['documents'], 'document')}"),
        element("span", f"{alike}, group ", outside_text(group["group_id"]), class_="aside"),
    ]
    facts = element(
        "dl",
        element(
            "div",
            element("dt", "Kept"),
            element("dd", outside_text(kept["id"]), " from ", outside_text(kept["source"])),
        ),
        element(
            "div",
            element("dt", "Removed"),
            element("dd", outside_text(removed["id"]), " from ", outside_text(removed["source"])),
        ),
        class_="facts",
    )
    parts = word_diff(kept["excerpt"], removed["excerpt"])
    if any(part.kind in ("removed", "added") for part in parts):
        body = _excerpt([_marked(part) for part in parts], sum(len(part.text) for part in parts), 0, None)
    else:
        body = join(note("The excerpts are equal."), _text_excerpt(kept["excerpt"], None))
    return fold(heading, [facts, body], opened=opened)


def _marked(part: DiffPart) -> Markup | str:
    if part.kind == "removed":
        return element("del", part.text)
    if part.kind == "added":
        return element("ins", part.text)
    if part.kind == "skipped":
        return element("span", f" […{part.text} equal words…] ", class_="skipped")
    return part.text


def _bounds(report: CurateReport) -> dict[tuple[str, str], Bounded]:
    """(stage, reason) -> its signal and side; the stage is empty if the report has none for the signal."""
    return {
        (signal.get("stage", ""), bound["reason"]): (
            signal["signal"],
            "at least" if bound["minimum"] is not None else "at most",
        )
        for signal in report["histograms"]
        for bound in signal["bounds"]
    }


def _reason(found: Sequence[SampledDocument], total: int | None, bounded: Bounded | None) -> Markup:
    stage, reason = found[0]["stage"], found[0]["reason"]
    facts = [] if reason == KEPT else [stage_name(stage)]
    facts += [] if total is None else [plural(total, "document")]
    heading = [
        element("h3", "Kept" if reason == KEPT else code(reason)),
        element("span", ", ".join([*facts, f"{len(found)} shown"]), class_="aside"),
    ]
    articles = [_sample(sample, bounded) for sample in found]
    return fold(heading, articles, opened=reason == KEPT, anchor=anchor("sample", stage, reason))


def _sample(sample: SampledDocument, bounded: Bounded | None) -> Markup:
    facts = [outside_text(sample["id"]), " from ", outside_text(sample["source"])]
    if sample["language"]:
        facts += [", language ", outside_text(sample["language"])]
    return element(
        "article",
        element("p", facts, class_="origin"),
        _measured(sample, bounded),
        _text_excerpt(sample["excerpt"], sample["language"]),
    )


def _measured(sample: SampledDocument, bounded: Bounded | None) -> Markup | None:
    if sample["value"] is None:
        return None
    signal, wanted = bounded or ("similarity" if sample["reason"] == NEAR else "value", "")
    limit = ""
    if sample["threshold"] is not None:
        number = decimal(sample["threshold"])
        limit = f", {wanted} {number} wanted" if wanted else f", threshold {number}"
    return element("p", f"{signal} ", element("b", decimal(sample["value"])), limit, class_="measured")


def _text_excerpt(words: str, language: str | None) -> Markup:
    if not words.strip():
        return sentence("Empty: no visible text.")
    return _excerpt(words, len(words), words.count("\n"), language)


def _excerpt(content: str | list[Markup | str], characters: int, lines: int, language: str | None) -> Markup:
    """An excerpt; its text sets the writing direction. A long one scrolls in a box that the keyboard can focus."""
    scrolls = characters > _LONG_EXCERPT or lines > _LONG_LINES
    tag = language.replace("_", "-") if language and _LANGUAGE_TAG.fullmatch(language) else None
    return element(
        "div",
        content,
        class_="excerpt",
        dir="auto",
        lang=tag,
        tabindex=0 if scrolls else None,
        role="group" if scrolls else None,
        aria_label="Excerpt, scrolls" if scrolls else None,
    )
