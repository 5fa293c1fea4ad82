"""Sections of the report page that are tables: languages, sources, personal data, quarantine, times, config."""

from collections.abc import Sequence

import yaml

from cluster import formats
from cluster.formats import count, plural, share
from cluster.page.charts import BarSegment, bar
from cluster.page.markup import (
    Child,
    Column,
    Markup,
    Section,
    code,
    element,
    fold,
    join,
    name,
    note,
    outside_text,
    scroll_box,
    sentence,
    table,
)
from pipelines.curate.report.schema import Amount, CurateReport, CutText, Language, SourceAmounts, StageTime, stage_name

_LANGUAGES_SHOWN = 15
_EXAMPLES_SHOWN = 5

# A cell's shade by the share of the source's input: at least this much gives this level.
_HEAT = ((0.5, 6), (0.2, 5), (0.1, 4), (0.05, 3), (0.02, 2), (0.005, 1))


def languages(report: CurateReport) -> Section:
    """Documents and characters of each language, read and kept; all but the 15 most frequent are folded."""
    rows = sorted(report["languages"], key=lambda row: (-row["input"]["documents"], row["language"]))
    if not rows:
        return Section("languages", "Languages", sentence("Languages were not identified in this run."))
    given = report["totals"]["input"]["documents"]
    first, rest = rows[:_LANGUAGES_SHOWN], rows[_LANGUAGES_SHOWN:]
    body = [_language_table("The most frequent languages" if rest else "All languages", first, given)]
    if rest:
        more = _language_table("The other languages", rest, given)
        body.append(fold(f"{plural(len(rest), 'more language')}", more, opened=False))
    return Section("languages", "Languages", join(body))


def _language_table(caption: str, rows: Sequence[Language], given: int) -> Markup:
    columns = [
        Column("Language", False), Column("", False),
        Column("Documents in"), Column("Share"), Column("Documents kept"), Column("Share kept"),
        Column("Characters in"), Column("Characters kept"),
    ]  # fmt: skip
    most = max(row["input"]["documents"] for row in rows)
    cells = [
        (
            name(outside_text(row["language"])),
            _kept_bar(row["input"], row["corpus"], most),
            *_in_and_kept(row["input"], row["corpus"], given),
        )
        for row in rows
    ]
    return table(caption, columns, cells)


def _kept_bar(given: Amount, kept: Amount, most: int) -> Markup:
    lost = given["documents"] - kept["documents"]
    pieces = [
        BarSegment(kept["documents"], "kept", f"{count(kept['documents'])} documents kept"),
        BarSegment(lost, "removed", f"{count(lost)} documents removed"),
    ]
    return bar(pieces, most, f"{share(kept['documents'], given['documents'])} kept", "small")


def _in_and_kept(given: Amount, kept: Amount, whole: int) -> tuple[str, ...]:
    return (
        count(given["documents"]),
        share(given["documents"], whole),
        count(kept["documents"]),
        share(kept["documents"], given["documents"]),
        count(given["characters"]),
        count(kept["characters"]),
    )


def sources(report: CurateReport) -> Section:
    """What each source gave, and the share of it that each reason removed."""
    rows = report["sources"]
    if not rows:
        return Section("sources", "Sources", sentence("No source had a document."))
    columns = [
        Column("Source", False), Column("Licence", False), Column("Weight"), Column("", False),
        Column("Documents in"), Column("Share"), Column("Documents kept"), Column("Share kept"),
        Column("Characters in"), Column("Characters kept"),
    ]  # fmt: skip
    given = report["totals"]["input"]["documents"]
    most = max(row["input"]["documents"] for row in rows)
    cells = [
        (
            name(outside_text(row["source"])),
            name(outside_text(row["licence"])) if row["licence"] else "not stated",
            formats.decimal(row["weight"]),
            _kept_bar(row["input"], row["corpus"], most),
            *_in_and_kept(row["input"], row["corpus"], given),
        )
        for row in rows
    ]
    return Section("sources", "Sources", join(table("What each source gave", columns, cells), _heat_table(rows)))


def _heat_table(rows: Sequence[SourceAmounts]) -> Markup:
    """Share of each source that each reason removed. Reasons are the rows: they are many and have long names."""
    lost = {(row["source"], r["stage"], r["reason"]): r["documents"] for row in rows for r in row["reasons"]}
    reasons = list(dict.fromkeys((r["stage"], r["reason"]) for row in rows for r in row["reasons"] if r["documents"]))
    if not reasons:
        return sentence("No source lost a document to a rule or as a duplicate.")
    # The first source may lack a stage, so the reasons are sorted by stage.
    stages = list(dict.fromkeys(stage for stage, _ in reasons))
    reasons.sort(key=lambda pair: stages.index(pair[0]))
    columns = [
        Column("Reason", False),
        Column("Stage", False),
        *(Column(name(outside_text(row["source"]))) for row in rows),
    ]
    cells: list[Sequence[Child]] = [
        ("kept", "", *(_heat_cell(row["corpus"]["documents"], row["input"]["documents"], "kept") for row in rows))
    ]
    for stage, reason in reasons:
        shares = [_heat_cell(lost.get((row["source"], stage, reason), 0), row["input"]["documents"]) for row in rows]
        cells.append((name(code(reason)), stage_name(stage), *shares))
    return table(
        "Share of each source's documents that a reason removed; the stronger the shade, the more", columns, cells
    )


def _heat_cell(documents: int, given: int, style: str = "") -> Markup:
    fraction = documents / given if given else 0
    level = next((level for least, level in _HEAT if fraction >= least), 0)
    heat = style or f"heat-{level}"
    words = share(documents, given) if documents else "–"
    return element("td", words, class_=f"n {heat}", title=f"{count(documents)} of {count(given)} documents")


def personal_data(report: CurateReport) -> Section:
    """Documents and occurrences of each kind of personal data, and whether the corpus has them replaced."""
    rows = report["personal_data"]
    title = "Personal data"
    if not rows:
        off = report["run"]["config"].get("personal_data", {}) is None
        words = "Personal data was not looked for in this run." if off else "No personal data was found."
        return Section("personal-data", title, sentence(words))
    columns = [
        Column("Kind", False),
        Column("Documents"),
        Column("of input"),
        Column("Found"),
        Column("In the corpus", False),
    ]
    given = report["totals"]["input"]["documents"]
    cells = [
        (
            code(row["kind"]),
            count(row["documents"]),
            share(row["documents"], given),
            count(row["found"]),
            "replaced by a placeholder" if row["redacted"] else "left as it is",
        )
        for row in rows
    ]
    words = "Counted in every document that was read, kept or not. The values themselves are nowhere in this report."
    return Section("personal-data", title, join(note(words), table("Personal data by kind", columns, cells)))


def boilerplate(report: CurateReport) -> Section | None:
    """The amount of text that was cut as boilerplate, and the most frequent lines; None without that setting."""
    found = report.get("boilerplate")
    if found is None:
        return None
    words = (
        f"{count(found['pieces'])} {found['cut']} were cut out of {plural(found['documents'], 'document')}, "
        f"{count(found['characters'])} characters: each occurs in more than {count(found['max_documents'])} documents "
        f"of its source that the rules and deduplication left. {count(found['different'])} of them differ; the folder "
        "boilerplate has each of these."
    )
    return Section("boilerplate", "Boilerplate", join(note(words), _cut_texts(found["texts"])))


def repeats(report: CurateReport) -> Section | None:
    """The number of runs of words in several documents, and the most frequent ones; None without that setting."""
    found = report.get("repeats")
    if found is None:
        return None
    words = (
        f"{plural(found['documents'], 'document')} have {count(found['runs'])} runs of at least {found['min_words']} "
        f"words that another one has, too. An earlier document has {count(found['later_runs'])} of them, "
        f"{count(found['later_words'])} words, which {'were cut' if found['cut'] else 'stay'}. The folder repeats has "
        "each run."
    )
    return Section("repeats", "Repeats", join(note(words), _cut_texts(found["texts"])))


def _cut_texts(texts: Sequence[CutText]) -> Markup:
    columns = [Column("Source", False), Column("Text", False), Column("Documents")]
    cells = [
        (
            name(outside_text(row["source"])),
            element("span", outside_text(row["text"]), class_="wrap"),
            count(row["documents"]),
        )
        for row in texts
    ]
    return table("What most documents have", columns, cells) if cells else sentence("Nothing was found.")


def quarantine(report: CurateReport) -> Section:
    """Documents that could not be read, by source and problem, with at most five of their places."""
    rows = report["quarantine"]
    if not rows:
        return Section("quarantine", "Quarantine", sentence("Every document could be read."))
    columns = [
        Column("Source", False),
        Column("Problem", False),
        Column("Documents"),
        Column("Where, for example", False),
    ]
    cells = [
        (
            name(outside_text(row["source"])),
            element("span", row["problem"], class_="wrap"),
            count(row["documents"]),
            element("ul", [element("li", outside_text(e)) for e in row["examples"][:_EXAMPLES_SHOWN]], class_="where"),
        )
        for row in rows
    ]
    words = (
        "These documents could not be read. They are in no number above; the quarantine folder has one row for each."
    )
    return Section("quarantine", "Quarantine", join(note(words), table("Documents set aside", columns, cells)))


def skipped(report: CurateReport) -> Section:
    """Files, and records inside files, that are not documents: their number by source and kind."""
    rows = report["skipped"]
    title = "Passed over"
    if not rows:
        return Section("skipped", title, sentence("No file and no record was passed over."))
    columns = [Column("Source", False), Column("What", False), Column("Why", False), Column("Count")]
    cells = [
        (
            name(outside_text(row["source"])),
            "inside a file" if row["inside"] else "file",
            element("span", row["reason"], class_="wrap"),
            count(row["count"]),
        )
        for row in rows
    ]
    words = (
        "No documents, so they are in no number above: files by their ending or kind, records of archives by theirs."
    )
    return Section("skipped", title, join(note(words), table("What was passed over, and why", columns, cells)))


def times(report: CurateReport) -> Section:
    """Time, core-hours and throughput of each stage."""
    machine, rows, totals = report["run"]["machine"], report["stages"], report["totals"]
    where = (
        f"{plural(machine['cpus'], 'core')}, {machine['platform']}, Python {machine['python']}"
        + (f", Ray {machine['ray']}" if machine["ray"] else "")
        + ". MB are millions of bytes of UTF-8 text. On a machine's first run, times include compiling the "
        "kernels; `raymill warm` does it ahead."
    )
    if not rows:
        return Section("time", "Time and throughput", join(note(where), sentence("No stage was timed.")))
    columns = [
        Column("Stage", False), Column("Units"), Column("Documents"), Column("Text, MB"), Column("Time"),
        Column("Core-hours"), Column("of core time"), Column("MB/s"), Column("MB/s per core"),
    ]  # fmt: skip
    core_s = sum(row["core_s"] for row in rows)
    cells = [_time_row(row, core_s) for row in rows]
    foot = (
        "Whole run", "", "", "", formats.duration(totals["wall_s"]), formats.core_hours(totals["core_s"]), "", "", "",
    )  # fmt: skip
    return Section("time", "Time and throughput", join(note(where), table("Cost by stage", columns, cells, foot)))


def _time_row(row: StageTime, core_s: float) -> tuple[Child, ...]:
    return (
        stage_name(row["stage"]),
        count(row["units"]),
        count(row["documents"]),
        f"{row['text_bytes'] / 1e6:,.1f}" if row["text_bytes"] else "–",
        formats.duration(row["wall_s"]),
        formats.core_hours(row["core_s"]),
        share(row["core_s"], core_s),
        formats.megabytes_per_s(row["text_bytes"], row["wall_s"]),
        formats.megabytes_per_s(row["text_bytes"], row["core_s"]),
    )


def config(report: CurateReport) -> Section:
    """The settings of the run as YAML."""
    words = yaml.safe_dump(report["run"]["config"], sort_keys=False, allow_unicode=True, width=100)
    text = scroll_box(element("pre", words, class_="config"), "The config, scrolls sideways")
    return Section("config", "Config", join(note("As this run used it."), text))
