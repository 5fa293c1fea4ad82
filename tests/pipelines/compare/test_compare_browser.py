"""The page of a comparison in a real browser: quiet, readable, as wide as the window, whatever the data are."""

from pathlib import Path
from typing import Any

import pytest

from raymill.cluster.report.page import page
from raymill.pipelines.compare.config import CompareConfig
from raymill.pipelines.compare.page import sections
from tests.support.compare_inline import Planted, compare_inline, planted, tickets
from tests.support.page_checks import assert_has_contrast, assert_is_quiet
from tests.support.report_cases import HOSTILE

pytestmark = pytest.mark.browser

# What a model behind an endpoint has no numbers of.
CALIBRATION = {"error": 0.1, "low": 0.0, "high": 0.2, "brier": 0.2, "bins": [(0.6, 10, 0.6, 0.5), (0.9, 10, 0.9, 0.8)]}


def hostile(value: Any, key: str = "") -> Any:
    """With an attack in place of each text but the letters of models, and in the names of groups."""
    if isinstance(value, dict):
        return {f"{at}{HOSTILE}" if key == "groups" else k: hostile(v, k) for at, (k, v) in enumerate(value.items())}
    if isinstance(value, list):
        return [hostile(one, key) for one in value]
    return HOSTILE if isinstance(value, str) and len(value) > 1 and key != "finished" else value


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch, Planted() as server:
        data = tickets(folder, patch, writers=("Peter asks: ", "Maria asks: "))
        prices = [{"input": one, "output": one} for one in (9.0, 1.0, 0.1)]
        names = "right-90", "right-60-of-phone", "unfair-90"
        settings = {
            "name": "tickets", "on": str(data), "answer": "label", "output": str(folder / "out"),
            "models": [planted(server, name, prices=one) for name, one in zip(names, prices, strict=True)],
            "judge": {"model": planted(server, "judge")}, "gaps": ["channel"], "swaps": [["Peter", "Maria"]],
            "gate": {"score": {"least_gain": 0.0, "most_slice_loss": 0.1}},
        }  # fmt: skip
        report = compare_inline(settings, patch).report
    report["models"]["A"]["calibration"] = CALIBRATION
    config = CompareConfig.model_validate({"kind": "compare"} | settings).model_dump(mode="json")
    written = {}
    for name, found, given in (("example", report, config), ("hostile", hostile(report), hostile(config))):
        text = page("Report of compare", given["name"], report["finished"], "1", str(folder), sections(found, given))
        written[name] = folder / f"{name}.html"
        written[name].write_text(text, "utf-8")
    return written


@pytest.mark.parametrize(("name", "scheme"), [("example", "light"), ("example", "dark"), ("hostile", "light")])
def test_the_page_is_quiet_and_never_wider_than_the_window(browser, pages, name, scheme):
    assert_is_quiet(browser, pages[name], scheme)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for(browser, pages, scheme):
    assert_has_contrast(browser, pages["example"], scheme, at_least=500)


def test_names_of_settings_are_code_without_backticks(browser, pages):
    browser.open(pages["example"], width=1440)
    assert "`" not in browser.script("return document.body.innerText")
