"""The page of a training in a real browser: quiet, readable, as wide as the window, its curves where they belong."""

from pathlib import Path

import pytest

from raymill.training.report.page import render
from tests.support.page_checks import assert_has_contrast, assert_is_quiet
from tests.support.report_fits import hostile
from tests.support.training_report import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    written = {}
    for name, content in (("example", report()), ("hostile", hostile(report()))):
        written[name] = tmp_path_factory.mktemp("pages") / f"{name}.html"
        written[name].write_text(render(content), "utf-8")
    return written


@pytest.mark.parametrize(("name", "scheme"), [("example", "light"), ("example", "dark"), ("hostile", "light")])
def test_the_page_is_quiet_and_never_wider_than_the_window(browser, pages, name, scheme):
    assert_is_quiet(browser, pages[name], scheme)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for(browser, pages, scheme):
    assert_has_contrast(browser, pages["example"], scheme, at_least=300)


# Of every chart: does each drawn thing lie inside it, labels included, and how big is its text?
OUTSIDE = """
const found = [];
for (const chart of document.querySelectorAll('svg.lines')) {
  const box = chart.parentElement.getBoundingClientRect();
  for (const e of chart.querySelectorAll('path, circle, text, line')) {
    const own = e.getBoundingClientRect();
    if (own.left < box.left - 1 || own.right > box.right + 4) found.push([e.outerHTML, own.left, box.left]);
    if (e.tagName === 'text' && (own.height < 9 || own.height > 20)) found.push(['text', own.height]);
  }
}
return found;
"""


@pytest.mark.parametrize("width", [1440, 768, 360])
def test_charts_stretch_with_the_window_and_their_text_keeps_its_size(browser, pages, width):
    browser.open(pages["example"], width=width)
    assert browser.script("return document.querySelectorAll('svg.lines').length") == 6
    assert browser.script(OUTSIDE) == []


def test_a_point_stands_on_its_line_at_every_width(browser, pages):
    """Dots are placed by percentage, lines by the stretched drawing inside: both must agree."""
    for width in (1440, 360):
        browser.open(pages["example"], width=width)
        gap = browser.script("""
          const line = document.querySelector('path.validation').getBoundingClientRect();
          const dots = [...document.querySelectorAll('circle.validation')].filter(d => d.closest('svg.lines'));
          const centre = d => { const b = d.getBoundingClientRect(); return b.left + b.width / 2; };
          const places = dots.map(centre);
          return [Math.abs(Math.min(...places) - line.left), Math.abs(Math.max(...places) - line.right)];
        """)
        assert max(gap) < 1.5


def test_curves_are_drawn_on_paper_too(browser, pages):
    browser.open(pages["example"], width=768)
    browser.emulate(media="print")
    stroke = browser.script("return getComputedStyle(document.querySelector('path.smooth')).stroke")
    browser.emulate(media="")
    assert stroke == "rgb(53, 114, 168)"
