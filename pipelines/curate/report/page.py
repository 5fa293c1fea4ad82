"""report.html of a report. A report with 36 histograms, 7 groups and 25 examples makes 230 kB in 30 ms.

The elements of a page, its base style and its security policy are in cluster.page.
"""

from importlib import resources

from cluster import formats
from cluster.formats import count, plural, share
from cluster.page.document import document, header
from cluster.page.markup import Section, element
from pipelines.curate.report import breakdowns, examples, signals
from pipelines.curate.report.funnel import funnel
from pipelines.curate.report.schema import CurateReport

_STYLE = resources.files(__package__).joinpath("page.css").read_text("utf-8")


def render(report: CurateReport) -> str:
    """The page as text. It can be encoded as UTF-8 for any content of documents."""
    run = report["run"]
    sections = [
        _warnings(report),
        _result(report),
        funnel(report),
        breakdowns.languages(report),
        breakdowns.sources(report),
        signals.signals(report),
        signals.similarity(report),
        examples.groups(report),
        examples.samples(report),
        breakdowns.personal_data(report),
        breakdowns.boilerplate(report),
        breakdowns.repeats(report),
        breakdowns.quarantine(report),
        breakdowns.skipped(report),
        breakdowns.times(report),
        breakdowns.config(report),
    ]
    top = header(run["name"], "Curation report", run["finished"], run["version"], run["output"])
    return document(f"{run['name']}: curation report", top, sections, _STYLE)


def _warnings(report: CurateReport) -> Section | None:
    """The warnings as a list; None without any."""
    if not report["warnings"]:
        return None
    items = [element("li", warning) for warning in report["warnings"]]
    return Section("warnings", plural(len(items), "warning").capitalize(), element("ul", items))


def _result(report: CurateReport) -> Section:
    """Documents, characters and tokens kept, time and throughput."""
    totals = report["totals"]
    given, kept = totals["input"], totals["corpus"]
    text_bytes = max((stage["text_bytes"] for stage in report["stages"]), default=0)
    tiles = [
        (
            "Documents kept",
            share(kept["documents"], given["documents"]),
            f"{count(kept['documents'])} of {count(given['documents'])}",
        ),
        (
            "Characters kept",
            share(kept["characters"], given["characters"]),
            f"{count(kept['characters'])} of {count(given['characters'])}",
        ),
        ("Tokens, estimated", formats.short(kept["tokens_estimate"]), count(kept["tokens_estimate"])),
        (
            "Time",
            "in several calls" if totals["wall_s"] is None else formats.duration(totals["wall_s"]),
            f"{formats.core_hours(totals['core_s'])} core-hours",
        ),
        (
            "Throughput",
            f"{formats.megabytes_per_s(text_bytes, totals['wall_s'])} MB/s",
            f"{formats.megabytes_per_s(text_bytes, totals['core_s'])} MB/s per core",
        ),
    ]
    body = [
        element("div", element("dt", title), element("dd", element("strong", big), element("span", small)))
        for title, big, small in tiles
    ]
    return Section("result", "Result", element("dl", body, class_="tiles"))
