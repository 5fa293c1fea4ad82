"""report.html: one file that opens from anywhere, asks no network for anything, and runs nothing that a document says.

Everything quoted is escaped (markup.py); besides, the page's own policy lets the browser load nothing and run only our
script, known by its hash. Without scripts the page is complete: ours opens the folds that a link or the printer needs.
A report with 36 histograms, 7 groups and 25 examples makes 230 kB in 30 ms.
"""

import base64
import hashlib
from datetime import datetime
from importlib import resources

from pipelines.report import breakdowns, examples, overview, signals
from pipelines.report.layout import Section, outside_text
from pipelines.report.markup import Html, element
from pipelines.report.schema import Report, Run

_STYLE = resources.files(__package__).joinpath("page.css").read_text("utf-8")
_SCRIPT = resources.files(__package__).joinpath("page.js").read_text("utf-8")


def render(report: Report) -> str:
    """The whole page; valid UTF-8 whatever the documents hold."""
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
        breakdowns.times(report),
        breakdowns.config(report),
    ]
    shown = [section for section in sections if section]
    page = element(
        "html",
        _head(report["run"]),
        element(
            "body",
            _header(report["run"]),
            element("div", _contents(shown), element("main", [s.html() for s in shown]), class_="page"),
            element("script", Html(_SCRIPT)),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def _head(run: Run) -> Html:
    policy = (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", f"{run['name']}: curation report"),
        element("style", Html(_STYLE)),
    )


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _header(run: Run) -> Html:
    finished = datetime.fromisoformat(run["finished"])
    return element(
        "header",
        element("h1", outside_text(run["name"])),
        element(
            "p",
            "Curation report. Finished ",
            element("time", f"{finished:%Y-%m-%d %H:%M %Z}".strip(), datetime=run["finished"]),
            f", Raymill {run['version']}. Output: ",
            element("code", run["output"]),
        ),
    )


def _contents(sections: list[Section]) -> Html:
    links = [element("li", element("a", section.title, href=f"#{section.id}")) for section in sections]
    return element("nav", element("ul", links), aria_label="Contents")
