"""The rule `quality_percentile`: the best percentile of several classifiers, compared with a plain computation."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.rules import quality_percentile
from raymill.pipelines.rules.quality_percentile import QualityPercentile, RankedClassifier
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.texts import Texts
from tests.support.inline import curate_inline

REFERENCE = [
    "This is plainly a good English text about nothing at all.", "Das ist ein deutscher Satz über das Wetter.",
    "A short one.", "", "Le port a été reconstruit après la tempête de cet hiver.", "Und noch ein Satz.",
    "The harbour was rebuilt after the storm, und die Leute arbeiten dort seither wieder gern am Wasser.",
]  # fmt: skip
TEXTS = [*REFERENCE, "Another English sentence of some length.", "Ein ganz anderer Satz auf Deutsch.", "?"]
MODEL = str(fasttext_classifier.built_in())


def rule_of(path, *labels, **more):
    return QualityPercentile(
        classifiers=tuple(RankedClassifier(model=MODEL, label=label) for label in labels), reference=str(path), **more
    )


def percentiles(rule, texts):
    (found,) = rule.measure(Analysis(Texts.from_strings(texts), "paper", pa.table({}), Store())).values()
    return found


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in [*REFERENCE, None]))
    return path


def test_a_percentile_is_the_share_of_characters_in_documents_with_a_lower_score_and_the_largest_counts(reference):
    classifier = fasttext_classifier.load(Store(), MODEL)

    def scores(texts, label):
        return classifier.score(Texts.from_strings(texts), label).tolist()

    expected = [0.0] * len(TEXTS)
    for label in ("en", "de"):
        known = [*zip(scores(REFERENCE, label), map(len, REFERENCE), strict=True)]
        for at, score in enumerate(scores(TEXTS, label)):
            share = sum(size for other, size in known if other < score) / sum(map(len, REFERENCE))
            expected[at] = max(expected[at], share)
    found = percentiles(rule_of(reference, "en", "__label__de"), TEXTS)
    np.testing.assert_allclose(found, expected)
    assert (found > percentiles(rule_of(reference, "en"), TEXTS)).any(), "the other classifier raises some"
    assert found.max() <= 1 and len(set(found)) > 4


def test_documents_below_the_bound_are_removed_and_the_percentile_is_a_column(tmp_path, reference, monkeypatch):
    pq.write_table(pa.table({"id": list(map(str, range(len(TEXTS)))), "text": TEXTS}), tmp_path / "a.parquet")
    classifiers = [{"model": MODEL, "label": label} for label in ("en", "de")]
    rule = {"classifiers": classifiers, "reference": str(reference), "min_percentile": 0.5}
    settings = {
        "inputs": [{"path": str(tmp_path / "a.parquet"), "id": "id"}], "output": str(tmp_path / "run"),
        "language": None, "dedup": None, "corpus": {"columns": ["quality_percentile"]},
        "rules": {"packs": [], "quality_percentile": rule},
    }  # fmt: skip
    run = curate_inline(settings, monkeypatch)
    found = percentiles(rule_of(reference, "en", "de"), TEXTS)
    kept = {row["id"]: row["quality_percentile"] for row in run.corpus.table().to_pylist()}
    assert kept == {str(at): value for at, value in enumerate(found) if value >= 0.5} and 0 < len(kept) < len(TEXTS)
    assert {row["reason"] for row in run.removed.table().to_pylist()} == {"low_quality_percentile"}


def test_a_changed_file_is_read_again(reference):
    rule = rule_of(reference, "en")
    before = percentiles(rule, TEXTS)
    reference.write_text(json.dumps({"text": REFERENCE[0]}) + "\n")
    assert percentiles(rule, TEXTS).tolist() != before.tolist()


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("", {}, r"quality_percentile\.reference: .* has 0 texts; wanted 1 to"),
        ('{"text": ""}\n', {}, "has 1 texts; wanted 1 to .*, with characters"),
        ('{"text": "a"}\n' * 9, {}, "has 9 texts; wanted 1 to 8"),
        ('{"body": "a"}\n', {}, r"quality_percentile\.reference: .*, line 1: has no column text; there are: body"),
        ('{"text": "a"}\n', {"column": "body"}, "has no column body"),
    ],
)
def test_documents_that_give_no_percentiles_are_refused(tmp_path, monkeypatch, content, more, message):
    monkeypatch.setattr(quality_percentile, "_MOST_DOCUMENTS", 8)
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        percentiles(rule_of(path, "en", **more), TEXTS)


@pytest.mark.parametrize(("label", "message"), [("hq", "'hq' is not a label"), (None, "no classifier of scores")])
def test_a_label_that_the_model_does_not_have_is_refused(reference, label, message):
    with pytest.raises(ConfigError, match=message):
        percentiles(rule_of(reference, label), TEXTS)


@pytest.mark.parametrize("wrong", [{"classifiers": []}, {"min_percentile": 90}, {"quantile": 0.9}])
def test_wrong_settings_are_refused(tmp_path, wrong):
    rule = {"classifiers": [{"model": "m.bin", "label": "hq"}], "reference": "r.jsonl"} | wrong
    with pytest.raises(ValueError, match="quality_percentile"):
        CurateConfig.model_validate({"kind": "curate", "name": "a", "inputs": "a", "output": "b",
                                     "rules": {"quality_percentile": rule}})  # fmt: skip
