"""`rules.by_language` and stop words of one's own: bounds of single languages."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.questions.what_if import compare_decisions
from raymill.pipelines.rules.filters import check_results, needed_columns
from raymill.pipelines.rules.gopher import GopherQuality
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.texts import Texts
from tests.support.inline import curate_inline

ENGLISH = "The harbour was rebuilt after the storm, and the people of the town have worked there with care ever since. "
GERMAN = (
    "Der Hafen wurde nach dem Sturm neu gebaut, und die Leute in der Stadt arbeiten seither wieder gern am Wasser. "
)
OFF = {"min_words": 0, "min_stop_words": 0}


def config(rules: dict, **others) -> CurateConfig:
    base = {"kind": "curate", "name": "a", "inputs": ["x.parquet"], "output": "out"}
    return CurateConfig.model_validate(base | {"rules": rules} | others)


def test_a_language_has_its_own_bound():
    rules = {"packs": ["gopher_quality"], "by_language": {"de": {"gopher_quality": {"min_words": 10}}}}
    filters = config(rules).filters
    only = [("gopher_quality", "gopher_short_doc")]
    assert needed_columns(filters, only) == ["gopher_words", "language"]
    attributes = pa.table({"language": ["en", "de", None, "de"], "gopher_words": [12, 12, 12, 9]})
    [found] = check_results(attributes, filters, only)
    assert found.fails.tolist() == [True, False, True, True]
    assert found.threshold.tolist() == [50, 10, 50, 10]


def test_a_run_uses_it_and_the_ledger_has_it(tmp_path, monkeypatch):
    texts = [ENGLISH, GERMAN, ENGLISH * 4, GERMAN * 4]
    pq.write_table(pa.table({"id": list("abcd"), "text": texts}), tmp_path / "in.parquet")
    settings = {
        "inputs": [{"path": f"{tmp_path}/in.parquet", "id": "id"}],
        "output": f"{tmp_path}/out",
        "rules": {"packs": ["gopher_quality"], "by_language": {"de": {"gopher_quality": {"min_words": 90}}}},
        "dedup": None,
    }
    run = curate_inline(settings, monkeypatch)
    assert run.corpus.table()["id"].to_pylist() == ["c"]
    rows = run.removed.table(["id", "reason", "threshold"]).to_pylist()
    assert rows == [
        {"id": one, "reason": "gopher_short_doc", "threshold": bound}
        for one, bound in (("a", 50), ("b", 90), ("d", 90))
    ]
    before, after = (
        CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings | {"rules": rules})
        for rules in (
            settings["rules"],
            {**settings["rules"], "by_language": {"de": {"gopher_quality": {"min_words": 60}}}},
        )
    )
    [changed] = [one for one in compare_decisions(before, after)["reasons"] if one["reason"] == "gopher_short_doc"]
    first = changed["first"]
    assert (first["before"]["documents"], first["after"]["documents"]) == (3, 2)


@pytest.mark.parametrize(
    ("by_language", "message"),
    [
        ({"de": {"gopher": {"min_words": 1}}}, r"by_language\.de\.gopher: no rule of this name is applied"),
        ({"de": {"c4": {"min_sentences": 1}}}, r"by_language\.de\.c4: no rule of this name is applied"),
        ({"de": {"gopher_quality": {"stop_words": 1}}}, "stop_words is no bound of gopher_quality"),
        ({"de": {"gopher_quality": {"min_words": -1}}}, r"by_language\.de\.gopher_quality\.min_words: .*greater"),
        ({"de": {"gopher_quality": {"min_words": 60, "max_words": 50}}}, "is above max_words"),
    ],
)
def test_what_is_no_bound_is_refused(by_language, message):
    with pytest.raises(Exception, match=message):
        config({"packs": ["gopher_quality"], "by_language": by_language})


def test_bounds_of_languages_need_the_language():
    with pytest.raises(ValueError, match=r"rules\.by_language needs `language`"):
        config({"by_language": {"de": {"gopher_quality": {"min_words": 1}}}}, language=None)


def test_a_config_without_it_has_equal_records():
    assert "by_language" not in config({}).model_dump(mode="json")["rules"]


def stop_words(rule: GopherQuality, text: str, language: str) -> float:
    columns = pa.table({"language": [language]})
    return float(rule.measure(Analysis(Texts.from_strings([text]), "paper", columns, Store()))["gopher_stop_words"][0])


def test_stop_words_of_ones_own():
    lists = {"deu_Latn": ("der", "Der", "und", "seither"), "cmn_Hani": ("的", "我们"), "tha_Thai": ("ที่",)}
    rule = GopherQuality(stop_words=lists)
    assert stop_words(rule, GERMAN, "deu_Latn") == 3
    assert stop_words(rule, "DER der", "deu_Latn") == 1
    assert stop_words(rule, "我们的", "cmn_Hani") == 1, "a word of two letters is no word there"
    assert np.isnan(stop_words(rule, "ที่", "tha_Thai")), "no word is left"
    assert np.isnan(stop_words(rule, ENGLISH, "eng_Latn")), "no list"
    many = GopherQuality(stop_words={"a": tuple(f"word{number}" for number in range(63))})
    assert stop_words(many, " ".join(f"word{number}" for number in range(0, 63, 2)), "a") == 32


@pytest.mark.parametrize("words", [[], [f"a{number}" for number in range(64)], ["two words"]])
def test_wrong_lists_are_refused(words):
    with pytest.raises(Exception, match="stop_words"):
        config({"packs": ["gopher_quality"], "gopher_quality": {"stop_words": {"a": words}}})


def test_lists_need_the_paper_dialect():
    quality = {"stop_words": {"deu_Latn": ["der"]}}
    with pytest.raises(ValueError, match="need dialect: paper"):
        config({"packs": ["gopher_quality"], "gopher_quality": quality, "dialect": "datatrove"})
