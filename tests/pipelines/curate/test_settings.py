"""Settings whose effect only a whole run shows: from the config to what the run leaves."""

import gzip
import json
import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import RetryLimits
from raymill.cluster.errors import DataError
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import CurateJob
from tests.support import inline
from tests.support.inline import InlineEngine, curate_inline
from tests.support.stories import story

TEXTS = {
    "story": story(1, 16),
    "near": story(1, 16).replace("chapter 13", "chapter thirteen"),
    "short": "Ten words are here, and that is all there is.",
    "private": story(2) + " Write to jane.roe@mailhost.org or call +1 415 555 2671.",
}


@pytest.fixture
def curate(tmp_path, monkeypatch) -> Callable[..., Any]:
    """`curate(documents, **settings)`: a run on {id: text}, without rules and languages unless they are given."""

    def run(documents: dict[str, str], **settings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        lines = [json.dumps({"id": id, "text": text}) for id, text in documents.items()]
        (folder / "in.jsonl").write_text("\n".join(lines))
        fixed = {"inputs": [{"path": str(folder / "in.jsonl"), "id": "id"}], "output": str(folder / "run")}
        return curate_inline(fixed | {"language": None, "rules": None} | settings, monkeypatch)

    return run


def attributes(run, *columns: str) -> dict[str, dict]:
    rows = Artifact.load(Store(), f"{run.uri}/attributes").table(["id", *columns]).to_pylist()
    return {row["id"]: row for row in rows}


@pytest.mark.parametrize(
    ("settings", "shingles", "columns"),
    [
        ({}, 6, 14 * 8),
        ({"ngram_words": 2}, 9, 14 * 8),
        ({"bands": 20, "rows_per_band": 5}, 6, 100),
        ({"bands": None, "rows_per_band": None, "permutations": 16, "threshold": 0.5}, 6, 16),
    ],
)
def test_the_settings_of_signatures_decide_their_length(curate, settings, shingles, columns):
    found = attributes(curate(TEXTS, dedup=settings), "signature")
    assert len(found["short"]["signature"]) == 4 * shingles
    assert len(found["story"]["signature"]) == 4 * columns


def test_the_seed_of_the_permutations_changes_signatures_and_the_threshold_what_is_removed(curate):
    runs = [curate(TEXTS, dedup=one) for one in ({}, {"seed": 2}, {"threshold": 0.99, "bands": 50, "rows_per_band": 2})]
    assert [set(TEXTS) - set(run.corpus.table()["id"].to_pylist()) for run in runs] == [{"near"}, {"near"}, set()]
    first, second = (attributes(run, "signature")["story"]["signature"] for run in runs[:2])
    assert first != second


def test_only_the_kinds_of_personal_data_that_are_asked_for_are_replaced_and_all_are_counted(curate):
    run = curate(TEXTS, personal_data={"redact": ["email"]})
    (text,) = [row["text"] for row in run.corpus.table().to_pylist() if row["id"] == "private"]
    assert text.endswith("Write to <EMAIL> or call +1 415 555 2671.")
    found = {entry["kind"]: entry["found"] for entry in run.report["personal_data"]}
    assert (found["email"], found["phone"]) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "removed"),
    [
        ({"keep": ["en"]}, {}),
        ({"keep": ["en"], "min_score": 1.0}, {"story": "language_low_score"}),
        ({"min_scores": {"en": 1.0}}, {"story": "language_low_score"}),
        ({"min_score": 1.0, "min_scores": {"en": 0.1}}, {}),
        ({"keep": ["de"]}, {"story": "language_not_kept"}),
    ],
)
def test_the_settings_of_the_language_decide_what_is_kept(curate, settings, removed):
    run = curate({"story": TEXTS["story"]}, language=settings)
    ledger = Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()
    assert {row["id"]: row["reason"] for row in ledger} == removed


def test_the_language_equals_the_one_of_an_excerpt_of_max_chars_characters(curate):
    german = " ".join(["Der alte Hafen war am Morgen still, und die Boote kamen erst spät zurück."] * 8)
    texts = {"mixed": story(1) + " " + german}
    scores = {
        most: attributes(curate(texts, language={"max_chars": most}), "language_score")["mixed"]["language_score"]
        for most in (20, 1000, 100_000)
    }
    assert len(set(scores.values())) == 3


def test_documents_and_files_beyond_the_limits_are_quarantined(curate):
    size = max(len(text.encode()) for text in TEXTS.values())
    for most, lost in ((size, 0), (size - 1, 1)):
        allow = {"max_bad_documents": 1.0}
        run = curate(TEXTS, limits={"max_document_bytes": most}, execution=allow, dedup=None)
        assert run.corpus.manifest.rows == len(TEXTS) - lost
        assert [(one["problem"], one["documents"]) for one in run.report["quarantine"]] == [("too_large", 1)] * lost


def test_a_fraction_of_the_files_of_a_source_may_be_unreadable(curate, tmp_path):
    (folder := tmp_path / "third").mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"text": [TEXTS["story"]]}), folder / f"{name}.parquet")
    (folder / "c.parquet").write_bytes(b"PAR1, and then nothing")
    given = {"inputs": [{"path": str(folder)}], "dedup": None}
    assert curate({}, **given, execution={"max_bad_files": 0.34}).corpus.manifest.rows == 2
    planned = {"kind": "curate", "name": "n", "output": str(tmp_path / "out"), "execution": {"max_bad_files": 0.34}}
    assert len(CurateJob(CurateConfig.model_validate(planned | given)).frozen.files) == 3, "as a submission lists them"
    with pytest.raises(DataError, match=r"1 of 3 files are unreadable \(execution.max_bad_files allows 33\.0%\)"):
        curate({}, **given, execution={"max_bad_files": 0.33})


@pytest.mark.parametrize(
    ("limits", "problems"),
    [({}, []), ({"max_expansion_ratio": 10}, ["expansion_bomb"]), ({"max_expanded_gib": 0.001}, ["expansion_bomb"])],
)
def test_a_file_that_expands_beyond_the_limits_is_quarantined(curate, tmp_path, limits, problems):
    line = json.dumps({"id": "a", "text": "word " * 100}) + "\n"
    (path := tmp_path / "in.jsonl.gz").write_bytes(gzip.compress((line * 6000).encode()))
    inputs = [{"path": str(path), "id": "id"}]
    run = curate(
        {},
        inputs=inputs,
        dedup=None,
        limits={"max_document_bytes": 1000} | limits,
        execution={"max_bad_documents": 1.0},
    )
    assert [one["problem"] for one in run.report["quarantine"]] == problems


def test_the_corpus_is_cut_into_files_of_about_file_mib(curate):
    texts = {str(number): f"{number} " + "word " * 150_000 for number in range(4)}
    files = {size: len(curate(texts, corpus={"file_mib": size}, dedup=None).corpus.manifest.files) for size in (1, 128)}
    assert files[1] > 1 and files[128] == 1


def test_the_report_shows_as_many_samples_and_groups_as_asked_for(curate):
    copies = {f"{name}{number}": text for name, text in TEXTS.items() for number in range(3)}
    for samples, groups in ((0, 0), (1, 2)):
        report = curate(copies, report={"samples": samples, "groups": groups}).report
        assert len(report["groups"]) == groups
        counts = [sum(one["reason"] == reason for one in report["samples"]) for reason in ("exact_duplicate",)]
        assert counts == [samples]


def test_a_warning_is_of_sources_that_lose_more_than_warn_source_loss(curate):
    def warned(share: float) -> bool:
        run = curate({"a": TEXTS["story"], "b": TEXTS["story"]}, report={"warn_source_loss": share})
        return any("50" in text for text in run.report["warnings"])

    assert warned(0.4) and not warned(0.5)


def test_the_dialect_decides_how_words_are_counted(curate):
    text = {"a": "It's one-two, \N{LEFT DOUBLE QUOTATION MARK}three\N{RIGHT DOUBLE QUOTATION MARK} -- four. " * 20}
    rules = {"packs": ["gopher_quality"]}
    counts = [
        attributes(curate(text, rules=rules | {"dialect": dialect}), "gopher_mean_word_length")["a"]
        for dialect in ("paper", "datatrove")
    ]
    assert counts[0] != counts[1]


def test_the_packs_of_rules_are_applied_in_their_order(curate):
    text = {"a": "one two three."}
    reasons = []
    for packs in (["gopher_quality", "c4"], ["c4", "gopher_quality"]):
        run = curate(text, rules={"packs": packs})
        (row,) = Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()
        reasons.append(row["stage"])
    assert reasons == ["gopher_quality", "c4"]


def test_the_settings_of_execution_reach_the_engine_and_the_units(curate, monkeypatch):
    seen: list[RetryLimits] = []

    class Seen(InlineEngine):
        def run(self, stage):
            seen.append(self.limits)
            return super().run(stage)

    monkeypatch.setattr(inline, "InlineEngine", Seen)
    texts = {str(number): f"{number} " + "word " * 150_000 for number in range(4)}
    run = curate(texts, execution={"attempts": 7, "losses": 0, "stall_s": 11.5, "unit_mib": 1}, dedup=None)
    assert set(seen) == {RetryLimits(attempts=7, stall_s=11.5, losses=0)}
    counters = Artifact.load(Store(), f"{run.uri}/attributes").manifest
    units = len({file.unit for file in counters.files})
    assert units == math.ceil(sum(map(len, texts.values())) / 2**20)
