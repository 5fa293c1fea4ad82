"""The report's page in a real browser: quiet, readable, as wide as the window, and reachable from the keyboard."""

import json
from pathlib import Path

import pytest

from raymill.pipelines.curate.report.page import render
from tests.support.page_checks import LOW_CONTRAST, OPEN_ALL, assert_has_contrast, assert_is_quiet
from tests.support.report_cases import GOLDEN, hostile

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    report = json.loads(GOLDEN.read_text("utf-8"))
    written = {}
    for name, content in (("example", report), ("hostile", hostile(report))):
        written[name] = tmp_path_factory.mktemp("pages") / f"{name}.html"
        written[name].write_text(render(content), "utf-8")
    return written


@pytest.mark.parametrize(("name", "scheme"), [("example", "light"), ("example", "dark"), ("hostile", "light")])
def test_the_page_is_quiet_and_never_wider_than_the_window(browser, pages, name, scheme):
    assert_is_quiet(browser, pages[name], scheme)


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")])
def test_every_text_has_the_contrast_that_wcag_asks_for(browser, pages, scheme, paper):
    assert_has_contrast(browser, pages["example"], scheme, at_least=1000)
    assert browser.script("return getComputedStyle(document.documentElement).backgroundColor") == paper


def test_the_contrast_check_finds_what_is_faint(browser, pages):
    browser.open(pages["example"], width=768)
    browser.script("document.querySelector('h1').style.color = '#999'")
    seen, faint = browser.script(LOW_CONTRAST)
    assert seen > 100
    assert len(faint) == 1
    assert faint[0].startswith("BDI. 2.85 peps-and-friends")


def test_the_policy_stops_a_script_that_is_not_ours(browser, pages):
    browser.open(pages["example"], width=768)
    browser.script("const s = document.createElement('script'); s.text = 'window.hacked = 1'; document.body.append(s);")
    assert browser.script("return window.hacked") is None
    assert any("Content Security Policy" in line for line in browser.complaints())


def test_wide_tables_scroll_in_boxes_that_the_keyboard_reaches(browser, pages):
    browser.open(pages["example"], width=360)
    browser.script(OPEN_ALL)
    wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth)"
    assert browser.script(f"return {wide}.length") > 5
    assert browser.script(f"return {wide}.every(box => box.tabIndex === 0 && box.ariaLabel)")


def test_the_table_of_sources_fits_a_window_of_1200_pixels(browser, pages):
    browser.open(pages["example"], width=1200)
    box = "document.querySelector('#sources .scroll')"
    wide, room = browser.script(f"return [{box}.scrollWidth, {box}.clientWidth]")
    assert wide <= room


def test_a_fold_opens_from_the_keyboard(browser, pages):
    browser.open(pages["example"], width=1440)
    closed = "const e = document.activeElement; return e.tagName === 'SUMMARY' && !e.parentElement.open"
    for _ in range(80):
        browser.press("\ue004")  # Tab
        if browser.script(closed):
            break
    assert browser.script(closed)
    browser.press("\ue007")  # Enter
    assert browser.script("return document.activeElement.parentElement.open")


def test_a_link_to_an_example_opens_its_fold(browser, pages):
    is_open = "return document.getElementById('sample-c4-too-few-sentences').open"
    browser.open(pages["example"], width=1440)
    assert browser.script(is_open) is False
    browser.open(pages["example"], width=1440, fragment="#sample-c4-too-few-sentences")
    assert browser.script(is_open) is True


def test_texts_keep_their_own_direction(browser, pages):
    browser.open(pages["example"], width=768)
    browser.script(OPEN_ALL)
    direction = "return getComputedStyle(document.querySelector(`.excerpt[lang='${arguments[0]}']`)).direction"
    found = [browser.script(direction, language) for language in ("ar", "he", "zh", "en")]
    assert found == ["rtl", "rtl", "ltr", "ltr"]


def test_paper_shows_what_is_folded_away(browser, pages):
    browser.open(pages["example"], width=768)
    shown = "return document.querySelector('details:not([open]) .excerpt').checkVisibility()"
    assert browser.script(shown) is False
    browser.emulate(media="print")
    assert browser.script(shown) is True
    browser.emulate(media="")
