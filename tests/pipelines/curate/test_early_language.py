"""The rule `early_language` on web archives: it decides by the beginning of a page, before the text is extracted."""

import gzip
import time

import pytest
from pydantic import ValidationError

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.plan.plan import Prices, plan_of
from raymill.cluster.readers.formats.page_start import page_start
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import check_models_and_lists
from raymill.pipelines.curate.job import plan as subject
from raymill.pipelines.prepare.config import PrepareConfig
from tests.support.inline import curate_inline
from tests.support.stories import story
from tests.support.warc_records import record, response

GERMAN = (
    "Der Hafen wurde nach dem Sturm neu gebaut, und die Leute in der Stadt arbeiten seither wieder gern am Wasser. "
    "Im Winter liegen die Boote auf dem Kai, und die Fischer flicken ihre Netze in der großen Halle hinter der Kirche. "
)
# A page that is removed is one that could not be parsed, so it shows if it is.
TOO_DEEP = "<div>" * 6000
MENU = "<script>var word = 'hello this is English'</script><nav><a href=/>Home</a> <a href=/x>About</a></nav>"


def page(text: str, after: str = "") -> bytes:
    return f"<html><body>{MENU}<article><p>{text}</p></article>{after}</body></html>".encode()


def rows(*responses: bytes) -> bytes:
    return b"".join(gzip.compress(record("response", one, number)) for number, one in enumerate(responses))


@pytest.fixture
def settings(tmp_path):
    english = [page(story(number, 8)) for number in range(3)]
    pages = [
        response(english[0]),
        response(page(GERMAN * 4, TOO_DEEP)),
        response(english[1]),
        response(page(GERMAN * 4).decode().encode("latin-1"), type="text/html; charset=latin-1"),
        response(gzip.compress(page(GERMAN * 4)), extra="Content-Encoding: gzip\r\n"),
        response(page("Zu kurz.")),
        response(english[2]),
        response(page(GERMAN, TOO_DEEP), status="404 Not Found"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(rows(*pages))
    return {
        "inputs": [{"path": str(tmp_path / "a.warc.gz"), "columns": ["url"]}],
        "output": str(tmp_path / "run"),
        "language": {"keep": ["en"]},
        "rules": {"packs": [], "early_language": {"keep": ["en"]}},
    }


def ledger(run) -> dict[str, str]:
    return {row["url"]: row["reason"] for row in Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()}


def test_a_page_in_another_language_is_not_parsed_and_is_in_the_ledger(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    assert run.report["quarantine"] == []
    assert run.corpus.table()["url"].to_pylist() == ["http://x/0", "http://x/2", "http://x/6"]
    # Without UTF-8, of a body that is encoded, and of a short page, the language of the text decides.
    found = ledger(run)
    assert found.pop("http://x/5") in ("language_not_kept", "language_low_score")
    assert found == {"http://x/1": "early_language", **dict.fromkeys(("http://x/3", "http://x/4"), "language_not_kept")}
    by_stage = {step["stage"]: step["removed"]["documents"] for step in run.report["funnel"]}
    assert (by_stage["early_language"], by_stage["language"]) == (1, 3)
    scores = run.artifact("attributes").table()["early_language_score"].to_pylist()
    assert [number for number, score in enumerate(scores) if score == 0] == [0, 2, 6] and scores[1] > 0.8
    assert [number for number, score in enumerate(scores) if score != score] == [3, 4, 5]


def test_a_bound_that_no_score_exceeds_removes_nothing_early(settings, monkeypatch):
    settings["rules"]["early_language"]["max_score"] = 1.0
    run = curate_inline(settings | {"execution": {"max_bad_documents": 1.0}}, monkeypatch)
    assert "early_language" not in ledger(run).values()
    assert [one["problem"] for one in run.report["quarantine"]] == ["bounded_extraction"]


def test_a_page_that_goes_early_is_not_the_first_of_its_url(settings, tmp_path, monkeypatch):
    first = record("response", response(page(GERMAN * 4, TOO_DEEP)), 0)
    again = record("response", response(page(story(1, 8))), 0)
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(first) + gzip.compress(again))
    settings["rules"]["repeated_pages"] = {}
    run = curate_inline(settings, monkeypatch)
    assert run.corpus.manifest.rows == 1 and list(ledger(run).values()) == ["early_language"]


def test_a_plan_prices_no_extraction_of_them(settings, monkeypatch):
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)
    sample = plan_of(subject(config), (2,), Prices())["sample"]
    assert (sample["documents"], sample["unreadable"]) == (7, 0)


def test_a_label_that_the_model_does_not_have_is_refused(settings, monkeypatch):
    settings["rules"]["early_language"]["keep"] = ["english"]
    with pytest.raises(ConfigError, match=r"early_language\.keep: 'english' is not a label"):
        curate_inline(settings, monkeypatch)


def test_records_have_no_pages(tmp_path):
    records = {"kind": "prepare", "name": "a", "inputs": [{"path": str(tmp_path)}], "output": str(tmp_path / "p")}
    with pytest.raises(ValidationError, match="early_language: is for pages of web archives"):
        PrepareConfig.model_validate(records | {"validate": {"rules": {"early_language": {"keep": ["en"]}}}})


PROSE = "The mill at the river turns from morning to evening, and whoever comes by can hear its wheel. " * 4
STARTS = {
    "scripts and tags": (f"<html><title>T</title><body><script>a<b</script><p>{PROSE}<style>x</style></p>", PROSE),
    "without a body": (f"<p>{PROSE}", PROSE),
    "an open script": (f"<body><p>{PROSE}<script>x < y </p>", PROSE),
    "an open comment": (f"<body><p>{PROSE}<!-- x > y </p>", PROSE),
    "entities": (f"<body>gr&ouml;&szlig;er {PROSE}", f"größer {PROSE}"),
    "a character of 5,000 digits": (f"<body>&#{'9' * 5000}; {PROSE}", f"\ufffd {PROSE}"),
    "too short": ("<body><p>Home</p>", None),
}


@pytest.mark.parametrize("name", STARTS)
def test_the_beginning_of_a_page(name):
    content, expected = STARTS[name]
    found = page_start(content.encode())
    assert found == (expected and " ".join(expected.split()))


def test_the_beginning_is_cut_within_a_character_and_other_charsets_have_none():
    for more in range(4):
        found = page_start(b"<body>" + b"a" * more + "größer ".encode() * 9000)
        assert found is not None and "größer größer" in found
    assert page_start(("<body>größer " * 100).encode("latin-1")) is None
    assert page_start(b"<body>" + PROSE.encode() + "日本".encode("iso2022_jp")) is None


@pytest.mark.parametrize("piece", ["<", "<script>", "<!--", "<p ", "<script", "</script", "&amp", "<svg><svg", "-->"])
def test_the_time_is_linear_for_any_bytes(piece):
    began = time.process_time()
    page_start(b"<body>" + piece.encode() * 1_000_000)
    assert time.process_time() - began < 0.5


def test_a_label_that_the_built_in_model_lacks_is_found_before_ray_starts():
    config = CurateConfig.model_validate(
        {
            "kind": "curate",
            "name": "x",
            "inputs": [{"path": "a.warc", "columns": ["url"]}],
            "output": "out",
            "rules": {"early_language": {"keep": ["xx"]}},
        }
    )
    with pytest.raises(ConfigError, match=r"early_language\.keep: 'xx' is not a label of"):
        check_models_and_lists(config.filters, config.store)
