"""Sections of the report page with histograms: every signal with its bounds, and the similarity of near-duplicates."""

from collections.abc import Sequence

from cluster.formats import count, decimal, plural
from cluster.page.markup import Markup, Section, anchor, code, element, fold, join, note, sentence
from pipelines.curate.report.histogram import DEFINITIONS, WIDE, histogram
from pipelines.curate.report.schema import Bound, CurateReport, Histogram, stage_name

_OPEN_PACKS = 2
# Keys of the signals without bounds, and of those without a known stage whose bounds removed nothing.
_UNBOUNDED, _IDLE = "", "idle"
_TITLES = {_UNBOUNDED: "Without bounds", _IDLE: "Bounds that removed nothing"}


def signals(report: CurateReport) -> Section:
    """A histogram of each signal with its bounds, by stage; the two stages that removed the most are open."""
    title = "Signals and bounds"
    if not report["histograms"]:
        return Section("signals", title, sentence("No signal was measured."))
    packs = _by_pack(report)
    removed = {stage["stage"]: {r["reason"]: r["documents"] for r in stage["reasons"]} for stage in report["funnel"]}
    losses = {pack: sum(removed.get(pack, {}).values()) for pack in packs}
    biggest = sorted((pack for pack in packs if losses[pack]), key=lambda pack: -losses[pack])[:_OPEN_PACKS]
    folds = [
        _pack(pack, group, removed.get(pack, {}), opened=pack in biggest or pack == _UNBOUNDED)
        for pack, group in packs.items()
    ]
    words = (
        "All documents by measured value. Hatched: outside a bound; grey: a bin that a bound divides. The height of a "
        "bar is the square root of its documents, so that tails can be seen. A document is removed for the first "
        "reason it gives, so a reason may have removed fewer documents than lie outside its bound."
    )
    return Section("signals", title, join(DEFINITIONS, note(words), folds))


def similarity(report: CurateReport) -> Section:
    """A histogram of the near-duplicates by their similarity to the kept document."""
    found, title = report["similarity"], "Similarity of near-duplicates"
    if not found:
        return Section("similarity", title, sentence("Near-duplicates were not looked for in this run."))
    total = sum(found["documents"])
    if not total:
        words = f"No two documents reached the similarity of {decimal(found['threshold'])}."
        return Section("similarity", title, sentence(words))
    bound: Bound = {"reason": "near_duplicate", "minimum": None, "maximum": found["threshold"]}
    label = f"Similarity of {count(total)} documents with their nearest kept document, threshold {found['threshold']}"
    drawing = histogram(
        found["edges"], found["documents"], [bound], log=False, label=label, frame=WIDE, bound_signs=("≥", "≥")
    )
    words = (
        f"Jaccard similarity of {plural(total, 'document')} with the most similar document that was kept: "
        "exact between two short documents, else estimated. "
        f"From the threshold of {decimal(found['threshold'])} on, a document is a duplicate and is removed."
    )
    return Section("similarity", title, join(note(words), element("div", drawing, class_="wide-chart")))


def _by_pack(report: CurateReport) -> dict[str, list[Histogram]]:
    """Signals by the stage of their bounds, in the order of the funnel; those without bounds come first."""
    stage_of = {r["reason"]: stage["stage"] for stage in report["funnel"] for r in stage["reasons"]}
    packs: dict[str, list[Histogram]] = {name: [] for name in [_UNBOUNDED, *(s["stage"] for s in report["funnel"])]}
    for signal in report["histograms"]:
        stages = [stage_of.get(bound["reason"], _IDLE) for bound in signal["bounds"]]
        pack = signal.get("stage") or next(
            (stage for stage in stages if stage != _IDLE), _IDLE if stages else _UNBOUNDED
        )
        packs.setdefault(pack, []).append(signal)
    return {name: group for name, group in packs.items() if group}


def _loss(signal: Histogram, removed: dict[str, int]) -> int:
    return sum(removed.get(bound["reason"], 0) for bound in signal["bounds"])


def _pack(pack: str, group: Sequence[Histogram], removed: dict[str, int], *, opened: bool) -> Markup:
    name = _TITLES.get(pack) or stage_name(pack)
    loss = sum(removed.values())
    bounded = {bound["reason"] for signal in group for bound in signal["bounds"]}
    others = [(reason, documents) for reason, documents in removed.items() if documents and reason not in bounded]
    summary = plural(len(group), "signal") + (f", {plural(loss, 'document')} removed" if loss else "")
    ordered = sorted(group, key=lambda signal: -_loss(signal, removed))
    charts = element("div", [_figure(signal, removed) for signal in ordered], class_="charts")
    heading = [element("h3", name), element("span", summary, class_="aside")]
    without = [join("; " if at else "", code(reason), f" {count(n)}") for at, (reason, n) in enumerate(others)]
    words = note(join("Documents removed for reasons without a bound: ", without, ".")) if without else None
    return fold(heading, join(words, charts), opened=opened, anchor=anchor("signals", name))


def _figure(signal: Histogram, removed: dict[str, int]) -> Markup:
    bounds = [_bound(bound, removed.get(bound["reason"], 0)) for bound in signal["bounds"]]
    caption = element(
        "figcaption",
        element("h4", code(signal["signal"])),
        element("p", signal["description"]),
        element("ul", [element("li", bound) for bound in bounds]) if bounds else None,
    )
    total = sum(signal["documents"])
    if not total:
        return element("figure", caption, sentence("No document has a value."))
    removed_values = "; ".join(_bound_words(bound) for bound in signal["bounds"])
    label = f"{signal['signal']}: histogram of {count(total)} documents" + (
        f", removed {removed_values}" if removed_values else ""
    )
    drawing = histogram(
        signal["edges"], signal["documents"], signal["bounds"], log=signal["scale"] == "log", label=label
    )
    return element("figure", caption, drawing)


def _bound_words(bound: Bound) -> str:
    if bound["minimum"] is not None:
        return f"under {decimal(bound['minimum'])}"
    return f"over {decimal(bound['maximum'] or 0)}"


def _bound(bound: Bound, documents: int) -> Markup:
    return join(_bound_words(bound), ": ", code(bound["reason"]), f" removed {count(documents)}")
