"""report.html of a report. A report with 36 histograms, 7 groups and 25 examples makes 230 kB in 30 ms.

The elements of a page, its base style and its security policy are in cluster.page.
"""

from importlib import resources

from cluster.page.document import document, header
from pipelines.curate.report import breakdowns, examples, overview, signals
from pipelines.curate.report.schema import Report

_STYLE = resources.files(__package__).joinpath("page.css").read_text("utf-8")


def render(report: Report) -> str:
    """The page as text that can be encoded as UTF-8, whatever the documents contain."""
    run = report["run"]
    sections = [
        overview.warnings(report),
        overview.headline(report),
        overview.funnel(report),
        breakdowns.languages(report),
        breakdowns.sources(report),
        signals.signals(report),
        signals.similarity(report),
        examples.groups(report),
        examples.samples(report),
        breakdowns.personal_data(report),
        breakdowns.quarantine(report),
        breakdowns.skipped(report),
        breakdowns.times(report),
        breakdowns.config(report),
    ]
    top = header(run["name"], "Curation report", run["finished"], run["version"], run["output"])
    return document(f"{run['name']}: curation report", top, sections, _STYLE)
