"""The sections of report.html of curate. A report with 36 histograms, 7 groups and 25 examples makes 230 kB."""

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from raymill.cluster import formats
from raymill.cluster.formats import count, decimal, plural, share
from raymill.cluster.report.charts import WIDE, BarSegment, bar, hatch, histogram
from raymill.cluster.report.page import page
from raymill.cluster.report.sections import (
    Cell,
    Content,
    DataTable,
    Facts,
    Figure,
    Fold,
    Items,
    Passage,
    Section,
    Tiles,
    anchor,
    code,
    config_section,
    heading,
    join,
    name,
    note,
    outside,
    sentence,
    styled,
    table_section,
    warnings_section,
)
from raymill.pipelines.curate.config import CUTS
from raymill.pipelines.curate.report.gather import CurateReport, stage_name
from raymill.pipelines.embedder import embeddings_text
from raymill.pipelines.rules import RULES
from raymill.pipelines.text.word_diff import DiffPart, word_diff

_LANGUAGES_SHOWN = 15
_HOSTS_SHOWN = 20
_DATES = {"": "not stated", "other": "in another form"}
_PLACES_SHOWN = 5
_OPEN_GROUPS = 3
_OPEN_PACKS = 2
_OPEN_STAGES = 2
_NAMED_REASONS = 2
_UNITS = (("documents", "thick"), ("characters", "thin"))
_STAGES_WITHOUT_CHECKS = ("read", "corpus")
_KEPT, _NEAR = "kept", "near_duplicate"  # reasons without a bound
_OF_URL = [name for name, rule in RULES.items() if getattr(rule, "by_url", False)]
# Signals without bounds, and those without a known stage whose bounds removed nothing.
_UNBOUNDED, _IDLE = "", "idle"
_TITLES = {_UNBOUNDED: "Without bounds", _IDLE: "Bounds that removed nothing"}
# A cell's shade by the share of the source's input: at least this much gives this level.
_HEAT = ((0.5, 6), (0.2, 5), (0.1, 4), (0.05, 3), (0.02, 2), (0.005, 1))


def render(report: CurateReport) -> str:
    """The page as text. It can be encoded as UTF-8 for any content of documents."""
    run = report["run"]
    shown = [
        warnings_section(report["warnings"]), result(report), funnel(report), languages(report), sources(report),
        *archives(report), *hosts(report), *dates(report), *opt_outs(report), *copies(report),
        signals(report), similarity(report), groups(report), samples(report), personal_data(report),
        *(cut_texts(cut.name, cut.sentence(report[cut.name]), report[cut.name]) for cut in CUTS if cut.name in report),
        quarantine(report), skipped(report), times(report), config_section(run["config"]),
    ]  # fmt: skip
    return page("Curation report", run["name"], run["finished"], run["version"], run["output"], shown)


def result(report: CurateReport) -> Section:
    """Documents, characters and tokens kept, time and throughput."""
    totals = report["totals"]
    given, kept, wall, core = totals["input"], totals["corpus"], totals["wall_s"], totals["core_s"]
    text_bytes = max((stage["text_bytes"] for stage in report["stages"]), default=0)
    tiles = [
        (f"{unit.capitalize()} kept", share(kept[unit], given[unit]), f"{count(kept[unit])} of {count(given[unit])}")
        for unit in ("documents", "characters")
    ]
    tiles += [
        ("Tokens, estimated", formats.short(kept["tokens_estimate"]), count(kept["tokens_estimate"])),
        ("Time", "in several calls" if wall is None else formats.duration(wall),
         f"{formats.core_hours(core)} core-hours"),
        ("Throughput", f"{formats.megabytes_per_s(text_bytes, wall)} MB/s",
         f"{formats.megabytes_per_s(text_bytes, core)} MB/s per core"),
    ]  # fmt: skip
    asked = [note(embeddings_text(one)) for one in report.get("embeddings", ())]
    return Section("result", "Result", [Tiles(tiles), *asked])


def funnel(report: CurateReport) -> Section:
    """The section: bars of what each stage removed and left, with reasons, and the same as a table."""
    stages, given = report["funnel"], report["totals"]["input"]
    if not stages or not given["documents"]:
        return Section("funnel", "Funnel", [sentence("No documents were read, so there is nothing to follow.")])
    by_loss = sorted(stages, key=lambda stage: -stage["removed"]["documents"])
    opened = {stage["stage"] for stage in by_loss[:_OPEN_STAGES]}
    sampled = {(sample["stage"], sample["reason"]) for sample in report["samples"]}
    before = [given, *(stage["left"] for stage in stages)]
    rows = [
        join(
            Markup("<h3>{}</h3>").format(stage_name(stage["stage"])),
            _bars(stage, given),
            _amount(stage["left"], given, "", "left"),
            _loss(stage, seen, given),
            _why(stage, given, stage["stage"] in opened, sampled),
        )
        for stage, seen in zip(stages, before, strict=False)
    ]
    legend = Markup(
        '<span class="key key-left"></span> left after the stage <span class="key key-removed"></span> removed by it. '
        "The thick bar counts documents, the thin one characters. Shares are of the input."
    )
    columns = [
        "Stage", ">Documents removed", ">Documents left", ">of input", ">Characters removed", ">Characters left",
        ">of input",
    ]  # fmt: skip
    cells = [
        (
            stage_name(s["stage"]),
            *(cell for unit, _ in _UNITS for cell in (s["removed"][unit], s["left"][unit],
                                                      share(s["left"][unit], given[unit]))),
        )
        for s in stages
    ]  # fmt: skip
    as_table = Fold(["The funnel as a table"], [DataTable("Documents and characters by stage", columns, cells)])
    return Section("funnel", "Funnel", [note(legend), Items(rows, "funnel", ordered=True), as_table])


def _bars(stage: dict[str, Any], given: dict[str, int]) -> Markup:
    title = stage_name(stage["stage"])
    drawn = []
    for unit, style in _UNITS:
        left, removed = stage["left"][unit], stage["removed"][unit]
        reasons = sorted(stage["reasons"], key=lambda r: -r["documents"])
        pieces = [BarSegment(left, "kept", f"{title}: {count(left)} {unit} left")]
        pieces += [BarSegment(r[unit], "removed part", f"{r['reason']}: {count(r[unit])} {unit}") for r in reasons]
        label = f"{title}: {count(left)} {unit} left, {share(left, given[unit])} of the input; {count(removed)} removed"
        drawn.append(bar(pieces, max(given[unit], left + removed), label, style))
    return styled("bars", *drawn, tag="div")


def _amount(amount: dict[str, int], given: dict[str, int], sign: str, style: str) -> Markup:
    """Two lines, documents and characters, beside their bars."""
    line = Markup("<span><b>{}{}</b><span>{} {}</span></span>")
    lines = [line.format(sign, share(amount[unit], given[unit]), count(amount[unit]), unit) for unit, _ in _UNITS]
    return styled(f"amount {style}", *lines, tag="p")


def _loss(stage: dict[str, Any], before: dict[str, int], given: dict[str, int]) -> Markup | None:
    if stage["removed"]["documents"]:
        return _amount(stage["removed"], given, "−", "loss")
    shortened = before["characters"] - stage["left"]["characters"]
    if shortened <= 0 and stage["stage"] in _STAGES_WITHOUT_CHECKS:
        return None
    cut = f"{count(shortened)} characters cut out of documents or replaced by placeholders"
    return styled("amount soft", cut if shortened > 0 else "removes nothing", tag="p")


def _why(stage: dict[str, Any], given: dict[str, int], opened: bool, sampled: set[tuple[str, str]]) -> Markup | None:
    """The reasons of a stage. sampled: (stage, reason) of those with examples, to which their names link."""

    def named(reason: dict[str, Any]) -> Markup:
        key = (stage["stage"], reason["reason"])
        shown = code(key[1])
        return Markup('<a href="#{}">{}</a>').format(anchor("sample", *key), shown) if key in sampled else shown

    reasons = sorted((r for r in stage["reasons"] if r["documents"]), key=lambda r: -r["documents"])
    if not reasons:
        return None
    if len(reasons) == 1:
        return styled("why", "Reason: ", named(reasons[0]), tag="p")
    most = reasons[0]["documents"]
    rows = [
        (
            styled("name", named(r)),
            bar([BarSegment(r["documents"], "removed", f"{count(r['documents'])} documents")], most, "", "small"),
            *(cell for unit, _ in _UNITS for cell in (r[unit], share(r[unit], given[unit]))),
        )
        for r in reasons
    ]
    gone = plural(stage["removed"]["documents"], "document")
    caption = f"{stage_name(stage['stage'])}: why {gone} went; the first failed check counts"
    columns = ["Reason", "", ">Documents", ">of input", ">Characters", ">of input"]
    first = ", ".join(f"{r['reason']} {count(r['documents'])}" for r in reasons[:_NAMED_REASONS])
    summary = f"{len(reasons)} reasons: {first}" + (", …" if len(reasons) > _NAMED_REASONS else "")
    return styled("why", Fold([summary], [DataTable(caption, columns, rows)], opened), tag="div")


_IN_AND_KEPT = (">Documents in", ">Share", ">Documents kept", ">Share kept", ">Characters in", ">Characters kept")


def _in_and_kept(row: Any, most: int, whole: int) -> tuple[Content, ...]:
    """A bar, and the cells of _IN_AND_KEPT. most: documents of the longest bar. whole: documents of the input."""
    given, kept = row["input"], row["corpus"]
    lost, share_kept = given["documents"] - kept["documents"], share(kept["documents"], given["documents"])
    pieces = [
        BarSegment(kept["documents"], "kept", f"{count(kept['documents'])} documents kept"),
        BarSegment(lost, "removed", f"{count(lost)} documents removed"),
    ]
    return (
        bar(pieces, most, f"{share_kept} kept", "small"), given["documents"], share(given["documents"], whole),
        kept["documents"], share_kept, given["characters"], kept["characters"],
    )  # fmt: skip


def languages(report: CurateReport) -> Section:
    """Documents and characters of each language, read and kept; all but the 15 most frequent are folded."""
    rows = sorted(report["languages"], key=lambda row: (-row["input"]["documents"], row["language"]))
    if not rows:
        return Section("languages", "Languages", [sentence("Languages were not identified in this run.")])

    def table(caption: str, rows: Sequence[Any]) -> DataTable:
        most, whole = max(row["input"]["documents"] for row in rows), report["totals"]["input"]["documents"]
        cells = [(name(row["language"]), *_in_and_kept(row, most, whole)) for row in rows]
        return DataTable(caption, ["Language", "", *_IN_AND_KEPT], cells)

    first, rest = rows[:_LANGUAGES_SHOWN], rows[_LANGUAGES_SHOWN:]
    content: list[Content] = [table("The most frequent languages" if rest else "All languages", first)]
    if rest:
        content.append(Fold([plural(len(rest), "more language")], [table("The other languages", rest)]))
    return Section("languages", "Languages", content)


def sources(report: CurateReport) -> Section:
    """What each source gave, and the share of it that each reason removed."""
    rows = report["sources"]
    if not rows:
        return Section("sources", "Sources", [sentence("No source had a document.")])
    whole, most = report["totals"]["input"]["documents"], max(row["input"]["documents"] for row in rows)
    cells = [
        (
            name(row["source"]),
            name(row["licence"]) if row["licence"] else "not stated",
            decimal(row["weight"]),
            *_in_and_kept(row, most, whole),
        )
        for row in rows
    ]
    given = DataTable("What each source gave", ["Source", "Licence", ">Weight", "", *_IN_AND_KEPT], cells)
    return Section("sources", "Sources", [given, _shares_removed(rows)])


def _shares_removed(rows: Sequence[Any]) -> Content:
    """Share of each source that each reason removed. Reasons are the rows: they are many and have long names."""
    lost = {(row["source"], r["stage"], r["reason"]): r["documents"] for row in rows for r in row["reasons"]}
    reasons = list(dict.fromkeys((r["stage"], r["reason"]) for row in rows for r in row["reasons"] if r["documents"]))
    if not reasons:
        return sentence("No source lost a document to a rule or as a duplicate.")
    # The first source may lack a stage, so the reasons are sorted by stage.
    stages = list(dict.fromkeys(stage for stage, _ in reasons))

    def cell(row: Any, documents: int, style: str = "") -> Cell:
        given = row["input"]["documents"]
        fraction = documents / given if given else 0
        style = style or f"heat-{next((level for least, level in _HEAT if fraction >= least), 0)}"
        words = share(documents, given) if documents else "–"
        return Cell(words, style, f"{count(documents)} of {count(given)} documents")

    cells: list[Sequence[Content]] = [("kept", "", *(cell(row, row["corpus"]["documents"], "kept") for row in rows))]
    for stage, reason in sorted(reasons, key=lambda pair: stages.index(pair[0])):
        shares = [cell(row, lost.get((row["source"], stage, reason), 0)) for row in rows]
        cells.append((styled("name", code(reason)), stage_name(stage), *shares))
    caption = "Share of each source's documents that a reason removed; the stronger the shade, the more"
    return DataTable(caption, ["Reason", "Stage", *(Markup(">") + name(row["source"]) for row in rows)], cells)


def archives(report: CurateReport) -> Iterator[Section]:
    """What became of the records of web archives: documents, problems of extraction, and records that are no page."""
    rows = [row for row in report["sources"] if row.get("records")]
    if not rows:
        return
    cells: list[Sequence[Content]] = []
    for row in rows:
        source, records = row["source"], row["records"]
        of_url = [one for one in row["reasons"] if one["stage"] in _OF_URL]
        by_url = sum(one["documents"] for one in of_url)
        found: list[tuple[str, str, int]] = [("page with a text", "", row["input"]["documents"] - by_url)]
        found += [("page removed before its text was extracted", one["reason"], one["documents"]) for one in of_url]
        found += [
            ("page that could not be read", one["problem"], one["documents"] - one.get("lost", 0))
            for one in report["quarantine"]
            if one["source"] == source
        ]
        found += [
            ("no page", one["reason"], one["count"])
            for one in report["skipped"]
            if one["source"] == source and one["inside"]
        ]
        cells += [
            (
                name(source) if at == 0 else "", kind, code(reason) if reason else "",
                bar([BarSegment(number, "removed" if at else "kept", plural(number, "record"))], records, "", "small"),
                number, share(number, records),
            )
            for at, (kind, reason, number) in enumerate(one for one in found if one[2])
        ]  # fmt: skip
    words = "Each record of an archive is a document, in quarantine or counted here as no page."
    table = DataTable("What became of the records", ["Source", "Record", "Reason", "", ">Records", ">of all"], cells)
    yield Section("archives", "Records of web archives", [note(words), table])


def hosts(report: CurateReport) -> Iterator[Section]:
    """The hosts with the most pages, and those that lost the most."""
    if "hosts" not in report:
        return
    rows, others = report["hosts"]["hosts"], report["hosts"]["others"]

    def table(caption: str, rows: Sequence[Any]) -> DataTable:
        most, whole = max(row["input"]["documents"] for row in rows), report["totals"]["input"]["documents"]
        cells = [(styled("wrap", outside(row["host"])), *_in_and_kept(row, most, whole)) for row in rows]
        return DataTable(caption, ["Host", "", *_IN_AND_KEPT], cells)

    def lost(row: Any) -> int:
        return int(row["input"]["documents"] - row["corpus"]["documents"])

    losers = [row for row in sorted(rows, key=lambda row: (-lost(row), row["host"])) if lost(row)][:_HOSTS_SHOWN]
    rest = others["input"]["documents"] + sum(row["input"]["documents"] for row in rows[_HOSTS_SHOWN:])
    content: list[Content] = []
    if rows:
        content.append(table("The hosts with the most documents", rows[:_HOSTS_SHOWN]))
    if rest:
        content.append(note(f"{plural(rest, 'document')} of other hosts, or without a URL, are not shown."))
    if losers:
        content.append(Fold(["The hosts that lost the most documents"], [table("By documents lost", losers)]))
    yield Section("hosts", "Hosts", content)


def dates(report: CurateReport) -> Iterator[Section]:
    """Pages by year, and by month in a fold."""
    if "dates" not in report:
        return
    whole, content = report["totals"]["input"]["documents"], list[Content]()
    meanings = {"published": "when the pages say that they were published", "date": "when they were collected"}
    for one in report["dates"]:
        years: dict[str, Any] = {}
        for row in one["months"]:
            sides = years.setdefault(row["month"][:4] if row["month"] != "other" else "other", _no_documents())
            for side in sides:
                for unit in sides[side]:
                    sides[side][unit] += row[side][unit]
        months = [row for row in one["months"] if "-" in row["month"]]

        def table(caption: str, title: str, rows: Sequence[tuple[str, Any]]) -> DataTable:
            most = max(row["input"]["documents"] for _, row in rows)
            cells = [(outside(_DATES.get(label, label)), *_in_and_kept(row, most, whole)) for label, row in rows]
            return DataTable(caption, [title, "", *_IN_AND_KEPT], cells)

        column = one["column"]
        content.append(table(f"By {column}: {meanings.get(column, column)}", "Year", sorted(years.items())))
        if len(months) > 1:
            by_month = table(f"By month of {column}", "Month", [(row["month"], row) for row in months])
            content.append(Fold([f"{plural(len(months), 'month')} of {column}"], [by_month]))
    yield Section("dates", "Dates of pages", content)


def _no_documents() -> dict[str, dict[str, int]]:
    return {side: dict.fromkeys(("documents", "characters"), 0) for side in ("input", "corpus")}


def opt_outs(report: CurateReport) -> Iterator[Section]:
    """What pages say to robots: directives and reservations, among the pages read and kept."""
    if "opt_outs" not in report:
        return
    rows, whole = report["opt_outs"], report["totals"]["input"]["documents"]
    words = (
        "By the columns robots and tdm_reservation. A page may say several of them. The rule opt_out removes pages by "
        "those that its settings name."
    )
    content: list[Content] = [sentence("No page says anything to robots.")]
    if rows := [row for row in rows if row["input"]["documents"]]:
        most = max(row["input"]["documents"] for row in rows)
        cells = [(code(row["directive"]), *_in_and_kept(row, most, whole)) for row in rows]
        content = [note(words), DataTable("Pages with a directive", ["Directive", "", *_IN_AND_KEPT], cells)]
    yield Section("opt-outs", "Opt-outs", content)


def copies(report: CurateReport) -> Iterator[Section]:
    """How often a training reads the documents of the corpus in an epoch."""
    if "copies" not in report:
        return
    found, corpus = report["copies"], report["totals"]["corpus"]
    epoch = found["epoch"]
    words = (
        f"The column copies, {found['rule']}. An epoch of training reads {count(round(epoch['documents']))} documents "
        f"with {count(round(epoch['characters']))} characters; the corpus has {count(corpus['documents'])} with "
        f"{count(corpus['characters'])}."
    )
    cells = [
        (
            f"{row['copies']:g}", row["documents"], share(row["documents"], corpus["documents"]), row["characters"],
            share(row["copies"] * row["characters"], epoch["characters"]),
        )
        for row in found["counted"]
    ]  # fmt: skip
    columns = [">Copies", ">Documents", ">Share", ">Characters", ">Share of an epoch"]
    table = DataTable("Documents of the corpus by their number of copies", columns, cells)
    yield table_section("copies", "Copies", table, words=words, none="The corpus has no document.")


def signals(report: CurateReport) -> Section:
    """A histogram of each signal with its bounds, by stage; the two stages that removed the most are open."""
    title = "Signals and bounds"
    if not report["histograms"]:
        return Section("signals", title, [sentence("No signal was measured.")])
    removed = {stage["stage"]: {r["reason"]: r["documents"] for r in stage["reasons"]} for stage in report["funnel"]}
    # By the stage of their bounds, in the order of the funnel; those without bounds come first.
    stage_of = {r["reason"]: stage["stage"] for stage in report["funnel"] for r in stage["reasons"]}
    packs: dict[str, list[Any]] = {pack: [] for pack in [_UNBOUNDED, *removed]}
    for signal in report["histograms"]:
        stages = [stage_of.get(bound["reason"], _IDLE) for bound in signal["bounds"]]
        known = (stage for stage in stages if stage != _IDLE)
        pack = signal.get("stage") or next(known, _IDLE if stages else _UNBOUNDED)
        packs.setdefault(pack, []).append(signal)
    packs = {pack: group for pack, group in packs.items() if group}
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
    return Section("signals", title, [hatch(), note(words), *folds])


def _pack(pack: str, group: Sequence[Any], removed: dict[str, int], *, opened: bool) -> Fold:
    title, loss = _TITLES.get(pack) or stage_name(pack), sum(removed.values())
    bounded = {bound["reason"] for signal in group for bound in signal["bounds"]}
    others = [(reason, number) for reason, number in removed.items() if number and reason not in bounded]
    summary = plural(len(group), "signal") + (f", {plural(loss, 'document')} removed" if loss else "")
    ordered = sorted(group, key=lambda signal: -sum(removed.get(bound["reason"], 0) for bound in signal["bounds"]))
    charts = styled("charts", *(_signal(signal, removed) for signal in ordered), tag="div")
    named = Markup("; ").join(join(code(reason), f" {count(number)}") for reason, number in others)
    without = note("Documents removed for reasons without a bound: ", named, ".") if others else None
    return Fold([heading(title, summary)], [without, charts], opened, anchor("signals", title))


def _signal(signal: Any, removed: dict[str, int]) -> Figure:
    limits = [
        f"under {decimal(b['minimum'])}" if b["minimum"] is not None else f"over {decimal(b['maximum'] or 0)}"
        for b in signal["bounds"]
    ]
    lines = [
        join(limit, ": ", code(bound["reason"]), f" removed {count(removed.get(bound['reason'], 0))}")
        for limit, bound in zip(limits, signal["bounds"], strict=True)
    ]
    words = [Markup("<p>{}</p>").format(signal["description"]), Items(lines) if lines else None]
    drawing = sentence("No document has a value.")
    if total := sum(signal["documents"]):
        label = f"{signal['signal']}: histogram of {count(total)} documents"
        label += f", removed {'; '.join(limits)}" if limits else ""
        is_log = signal["scale"] == "log"
        drawing = histogram(signal["edges"], signal["documents"], signal["bounds"], log=is_log, label=label)
    return Figure(code(signal["signal"]), words, drawing, level=4)


def similarity(report: CurateReport) -> Section:
    """A histogram of the near-duplicates by their similarity to the kept document."""
    found, content = report["similarity"], [sentence("Near-duplicates were not looked for in this run.")]
    if found and not (total := sum(found["documents"])):
        content = [sentence(f"No two documents reached the similarity of {decimal(found['threshold'])}.")]
    elif found:
        threshold = found["threshold"]
        label = f"Similarity of {count(total)} documents with their nearest kept document, threshold {threshold}"
        bound, signs = {"minimum": None, "maximum": threshold}, ("≥", "≥")
        counted = found["edges"], found["documents"]
        drawing = histogram(*counted, [bound], log=False, label=label, frame=WIDE, bound_signs=signs)
        words = (
            f"Jaccard similarity of {plural(total, 'document')} with the most similar document that was kept: exact "
            f"between two short documents, else estimated. From the threshold of {decimal(threshold)} on, a document "
            "is a duplicate and is removed."
        )
        content = [note(words), styled("wide-chart", drawing, tag="div")]
    return Section("similarity", "Similarity of near-duplicates", content)


def groups(report: CurateReport) -> Section:
    """A word diff of two documents of each of the largest duplicate groups; the first three are open."""
    if not report["groups"]:
        return Section("groups", "Largest duplicate groups", [sentence("No duplicate group was found.")])
    legend = Markup(
        "The document that was kept, and one of those removed for it: <del>only in the kept one</del> <ins>only in the "
        "removed one</ins>. "
        "The similarity is measured on whole documents, the words are compared in the excerpts."
    )
    folds = [_group(group, opened=number < _OPEN_GROUPS) for number, group in enumerate(report["groups"])]
    return Section("groups", "Largest duplicate groups", [note(legend), *folds])


def _group(group: Any, *, opened: bool) -> Fold:
    kept, removed = group["kept"], group["removed"]
    alike = "equal text" if group["similarity"] is None else f"similarity {decimal(group['similarity'])}"
    summary = [heading(plural(group["documents"], "document"), join(f"{alike}, group ", outside(group["group_id"])))]
    facts = Facts([(title, _origin(one)) for title, one in (("Kept", kept), ("Removed", removed))])
    parts = word_diff(kept["excerpt"], removed["excerpt"])
    if any(part.kind in ("removed", "added") for part in parts):
        return Fold(summary, [facts, Passage(list(map(_marked, parts)))], opened)
    return Fold(summary, [facts, note("The excerpts are equal."), _excerpt(kept["excerpt"])], opened)


def _origin(one: Any) -> Markup:
    return join(outside(one["id"]), " from ", outside(one["source"]))


def _marked(part: DiffPart) -> str:
    if part.kind == "same":
        return part.text
    if part.kind == "skipped":
        return styled("skipped", f" […{part.text} equal words…] ")
    return Markup("<{0}>{1}</{0}>").format("del" if part.kind == "removed" else "ins", part.text)


def _excerpt(words: str, language: str | None = None) -> Content:
    return Passage([words], language) if words.strip() else sentence("Empty: no visible text.")


def samples(report: CurateReport) -> Section:
    """Excerpts of documents that were kept, and of documents removed for each reason, with the measured values."""
    if not report["samples"]:
        return Section("examples", "Examples", [sentence("No examples were asked for.")])
    totals = {(s["stage"], r["reason"]): r["documents"] for s in report["funnel"] for r in s["reasons"]}
    found: dict[tuple[str, str], list[Any]] = {}
    for sample in report["samples"]:
        found.setdefault((sample["stage"], sample["reason"]), []).append(sample)
    # (stage, reason) -> its signal and side; the stage is empty if the report has none for the signal.
    bounds = {
        (signal.get("stage", ""), bound["reason"]): (
            signal["signal"],
            "at most" if bound["minimum"] is None else "at least",
        )
        for signal in report["histograms"]
        for bound in signal["bounds"]
    }
    order = list(totals)
    folds = []
    # Kept documents come first, then the reasons in the order of the funnel.
    for key in sorted(found, key=lambda key: (key[1] != _KEPT, order.index(key) if key in totals else len(order))):
        (stage, reason), is_kept = key, key[1] == _KEPT
        total = report["totals"]["corpus"]["documents"] if is_kept else totals.get(key)
        facts = [*([] if is_kept else [stage_name(stage)]), *([] if total is None else [plural(total, "document")])]
        aside = ", ".join([*facts, f"{len(found[key])} shown"])
        bounded = bounds.get(key) or bounds.get(("", reason))
        content = [Markup("<article>{}</article>").format(join(*_sample(one, bounded))) for one in found[key]]
        summary = heading("Kept" if is_kept else code(reason), aside)
        folds.append(Fold([summary], content, is_kept, anchor("sample", stage, reason)))
    words = "Drawn at random for every reason, and from what was kept."
    return Section("examples", "Examples", [note(words), *folds])


def _sample(sample: Any, bounded: tuple[str, str] | None) -> Iterator[Content]:
    """bounded: the signal of the reason, and `at least` or `at most`."""
    language = [", language ", outside(sample["language"])] if sample["language"] else []
    yield styled("origin", _origin(sample), *language, tag="p")
    if sample["value"] is not None:
        signal, wanted = bounded or ("similarity" if sample["reason"] == _NEAR else "value", "")
        limit = "" if sample["threshold"] is None else decimal(sample["threshold"])
        limit = limit and (f", {wanted} {limit} wanted" if wanted else f", threshold {limit}")
        value = Markup("{} <b>{}</b>{}").format(signal, decimal(sample["value"]), limit)
        yield styled("measured", value, tag="p")
    if sample["stage"] in _OF_URL and not sample["excerpt"]:
        yield sentence("Not extracted, as the URL was enough.")
    else:
        yield _excerpt(sample["excerpt"], sample["language"])


def personal_data(report: CurateReport) -> Section:
    """Documents and occurrences of each kind of personal data, and whether the corpus has them replaced."""
    given, off = report["totals"]["input"]["documents"], report["run"]["config"].get("personal_data", {}) is None
    cells = [
        (code(row["kind"]), row["documents"], share(row["documents"], given), row["found"],
         "replaced by a placeholder" if row["redacted"] else "left as it is")
        for row in report["personal_data"]
    ]  # fmt: skip
    columns = ["Kind", ">Documents", ">of input", ">Found", "In the corpus"]
    words = "Counted in every document that was read, kept or not. The values themselves are nowhere in this report."
    none = "Personal data was not looked for in this run." if off else "No personal data was found."
    table = DataTable("Personal data by kind", columns, cells)
    return table_section("personal-data", "Personal data", table, words=words, none=none)


def cut_texts(stage: str, words: str, found: Any) -> Section:
    """The amount of text that a stage found in several documents and cut, and the most frequent texts."""
    cells = [(name(row["source"]), styled("wrap", outside(row["text"])), row["documents"]) for row in found["texts"]]
    table = DataTable("What most documents have", ["Source", "Text", ">Documents"], cells)
    return Section(stage, stage.capitalize(), [note(words), table if cells else sentence("Nothing was found.")])


def quarantine(report: CurateReport) -> Section:
    """Documents that could not be read, by source and problem, with at most five of their places."""
    cells = [
        (name(row["source"]), styled("wrap", row["problem"]), row["documents"],
         Items([outside(where) for where in row["examples"][:_PLACES_SHOWN]], "where"))
        for row in report["quarantine"]
    ]  # fmt: skip
    words = (
        "These documents could not be read. They are in no number above; the quarantine folder has one row for each."
    )
    table = DataTable("Documents set aside", ["Source", "Problem", ">Documents", "Where, for example"], cells)
    return table_section("quarantine", "Quarantine", table, words=words, none="Every document could be read.")


def skipped(report: CurateReport) -> Section:
    """Files, and records inside files, that are not documents: their number by source and kind."""
    cells = [
        (name(row["source"]), "inside a file" if row["inside"] else "file", styled("wrap", row["reason"]), row["count"])
        for row in report["skipped"]
    ]
    words = (
        "No documents, so they are in no number above: files by their ending or kind, records of archives by theirs."
    )
    table = DataTable("What was passed over, and why", ["Source", "What", "Why", ">Count"], cells)
    return table_section("skipped", "Passed over", table, words=words, none="No file and no record was passed over.")


def times(report: CurateReport) -> Section:
    """Time, core-hours and throughput of each stage."""
    machine, rows, totals = report["run"]["machine"], report["stages"], report["totals"]
    where = note(
        f"{plural(machine['cpus'], 'core')}, {machine['platform']}, Python {machine['python']}"
        + (f", Ray {machine['ray']}" if machine["ray"] else "")
        + ". MB are millions of bytes of UTF-8 text. On a machine's first run, times include compiling the "
        "kernels; `raymill warm` does it ahead."
    )
    if not rows:
        return Section("time", "Time and throughput", [where, sentence("No stage was timed.")])
    core_s = sum(row["core_s"] for row in rows)
    cells: list[Sequence[Content]] = [
        (
            stage_name(row["stage"]), row["units"], row["documents"],
            f"{row['text_bytes'] / 1e6:,.1f}" if row["text_bytes"] else "–",
            formats.duration(row["wall_s"]), formats.core_hours(row["core_s"]), share(row["core_s"], core_s),
            *(formats.megabytes_per_s(row["text_bytes"], seconds) for seconds in (row["wall_s"], row["core_s"])),
        )
        for row in rows
    ]  # fmt: skip
    wall, core = formats.duration(totals["wall_s"]), formats.core_hours(totals["core_s"])
    columns = ["Stage", ">Units", ">Documents", ">Text, MB", ">Time", ">Core-hours", ">of core time", ">MB/s",
               ">MB/s per core"]  # fmt: skip
    table = DataTable("Cost by stage", columns, cells, ("Whole run", "", "", "", wall, core, "", "", ""))
    return Section("time", "Time and throughput", [where, table])
