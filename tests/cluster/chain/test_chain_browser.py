"""The page of a run file in a real browser: quiet, readable, as wide as the window, and its links lead to its steps."""

import json
import re
from pathlib import Path

import pytest

from raymill.cluster.chain.job import ChainJob
from raymill.cluster.config import load
from raymill.cluster.frame.job import Made
from tests.cluster.chain.conftest import WORDS
from tests.support.page_checks import assert_has_contrast, assert_is_quiet
from tests.support.report_cases import HOSTILE
from tests.support.words_commands import words_commands

pytestmark = pytest.mark.browser


@pytest.fixture
def pages(tmp_path, monkeypatch, capsys):
    """A run file of which one branch ended by its condition, and the same with an attack in each text of the report."""
    with words_commands(tmp_path, monkeypatch, capsys, WORDS) as call:
        ended = '  ended: {kind: words, inputs: [{path: "${count.output}/words"}], if: "${count.words} > 100"}\n'
        Path("w.yaml").write_text(WORDS + ended)
        assert call("run", "w.yaml")[0] == 0
        report = json.loads(Path("out/report.json").read_text())
        attacked = [
            {key: HOSTILE if key in ("kind", "reason", "facts", "digest") else value for key, value in one.items()}
            for one in report["steps"]
        ]
        job = ChainJob(load("w.yaml"))
        made = Made({"steps": attacked, "warnings": [HOSTILE]}, {}, {"finished": "2026-11-28T10:00:00+00:00"})
        Path("out/hostile.html").write_text(job.page(made), "utf-8")
        yield {"example": tmp_path / "out/report.html", "hostile": tmp_path / "out/hostile.html"}


def test_the_page_is_quiet_and_never_wider_than_the_window(browser, pages):
    for name, scheme in (("example", "light"), ("example", "dark"), ("hostile", "light")):
        assert_is_quiet(browser, pages[name], scheme)


def test_every_text_has_the_contrast_that_wcag_asks_for(browser, pages):
    for scheme in ("light", "dark"):
        assert_has_contrast(browser, pages["example"], scheme, at_least=20)


def test_its_links_lead_to_the_pages_of_finished_steps(browser, pages):
    browser.open(pages["example"], width=1440)
    links = browser.script("return [...document.querySelectorAll('table a')].map(a => a.href)")
    assert [re.findall(r"/out/(\w+)/report.html$", one)[0] for one in links] == ["count", "again", "last"]
    for one in links:
        browser.visit(one, width=1440)
        assert browser.complaints() == [] and "words" in browser.script("return document.title")
