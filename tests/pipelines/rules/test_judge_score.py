"""The rule `judge_score`: a classifier of a judge's scores, with the threshold beside it."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.fasttext_file import model_bytes
from raymill.pipelines.language.fasttext_training import TrainingSettings, train
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.rules.filters import Filters, decide, signals
from raymill.pipelines.rules.judge_score import JudgeScore, expected_scores
from raymill.pipelines.text.texts import Texts

LESSON, ADVERT, MIXED = "why it is so, for example, in steps", "buy it now and save, free gift", "buy it for example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier of lessons, which have 4 points, and advertisements, which have none."""
    at = tmp_path_factory.mktemp("classifier")
    texts = Texts.from_strings([LESSON, ADVERT] * 20)
    labels = np.array([4, 0] * 20)
    settings = TrainingSettings(buckets=100)
    (at / "model.bin").write_bytes(model_bytes(train(texts, labels, list("01234"), settings), 20, 40))
    (at / "threshold.json").write_text(json.dumps({"min_score": 2.5, "max_chars": 200, "share": 0.5}))
    return at


def decided(rule: JudgeScore, strings: list[str]) -> tuple[dict, list[str | None], list[float]]:
    """(the signals, the reason of each text, the threshold of each text that is removed)."""
    filters, texts = Filters(None, (rule,), "paper"), Texts.from_strings(strings)
    found = signals(texts, pa.table({"text": strings}), filters, Store())
    verdicts = decide(pa.table(found), filters)
    reasons = [verdicts.reasons[code][1] if code >= 0 else None for code in verdicts.code]
    return found, reasons, verdicts.threshold[verdicts.removed].tolist()


def test_the_threshold_of_the_folder_holds_unless_another_is_given(folder):
    rule = JudgeScore(classifier=str(folder))
    found, reasons, thresholds = decided(rule, [LESSON, ADVERT, MIXED])
    scores = found["judge_score"]
    assert scores[0] > 3.5 and scores[1] < 0.5 < scores[2] < 2.5
    np.testing.assert_allclose(found["judge_score_margin"], scores - 2.5, atol=1e-6)
    assert reasons == [None, "low_judge_score", "low_judge_score"]
    assert {*thresholds} == {0.0}
    _, reasons, thresholds = decided(JudgeScore(classifier=str(folder), min_score=0.0), [LESSON, ADVERT, ""])
    assert reasons == [None] * 3 and not thresholds
    _, reasons, thresholds = decided(JudgeScore(classifier=str(folder), min_score=5.0), [LESSON])
    assert reasons == ["low_judge_score"] and thresholds == [5.0]


def test_the_expected_score_is_the_mean_of_the_scores_by_their_probabilities(folder):
    classifier = fasttext_classifier.load(Store(), str(folder / "model.bin"))
    texts = Texts.from_strings([MIXED])
    wanted = sum(score * classifier.score(excerpts(texts, 200), str(score))[0] for score in range(5))
    assert expected_scores(classifier, texts, 200)[0] == pytest.approx(wanted, abs=2e-4)


def test_it_reads_as_many_characters_as_the_training_did(folder):
    long = [f"{LESSON} {ADVERT * 100}", LESSON]
    short = expected_scores(fasttext_classifier.load(Store(), str(folder / "model.bin")), Texts.from_strings(long), 200)
    found, _, _ = decided(JudgeScore(classifier=str(folder)), long)
    assert found["judge_score"].tolist() == short.tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not the threshold.json"),
        ("[]", "is not the threshold.json"),
        ('{"min_score": 2}', "is not the threshold.json"),
        ('{"min_score": 2, "max_chars": 1}', "max_chars is 1; wanted 20 to 10000000"),
    ],
)
def test_a_folder_that_distil_did_not_write_is_refused(folder, tmp_path, content, said):
    (tmp_path / "model.bin").write_bytes((folder / "model.bin").read_bytes())
    (tmp_path / "threshold.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        decided(JudgeScore(classifier=str(tmp_path)), [LESSON])


def test_a_classifier_whose_labels_are_no_scores_is_refused(folder, tmp_path):
    (tmp_path / "model.bin").write_bytes(fasttext_classifier.built_in().read_bytes())
    (tmp_path / "threshold.json").write_bytes((folder / "threshold.json").read_bytes())
    with pytest.raises(ConfigError, match="is no classifier of scores"):
        decided(JudgeScore(classifier=str(tmp_path)), [LESSON])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"judge_score.classifier: .*absent/threshold.json"):
        decided(JudgeScore(classifier=str(tmp_path / "absent")), [LESSON])


@pytest.mark.parametrize("wrong", [{}, {"classifier": "c", "min_score": -1}, {"classifier": "c", "label": "5"}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(JudgeScore).validate_python(wrong)


@pytest.mark.parametrize(
    "text",
    [
        '{"min_score": NaN, "max_chars": 100}',
        '{"min_score": "1e999", "max_chars": 100}',
        '{"min_score": 1, "max_chars": Infinity}',
        '{"min_score": 1%s, "max_chars": 100}' % ("0" * 4000),
        "[" * 100_000,
    ],
    ids=["no number", "infinite", "infinite characters", "long", "deep"],
)
def test_a_threshold_that_is_no_number_is_refused_and_keeps_or_removes_nothing(text, folder, tmp_path):
    (tmp_path / "model.bin").write_bytes((folder / "model.bin").read_bytes())
    (tmp_path / "threshold.json").write_text(text)
    with pytest.raises(ConfigError, match=r"threshold\.json: is not the threshold\.json"):
        decided(JudgeScore(classifier=str(tmp_path)), [LESSON])


def test_a_threshold_without_bound_is_not_read(folder, tmp_path):
    (tmp_path / "model.bin").write_bytes((folder / "model.bin").read_bytes())
    with (tmp_path / "threshold.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StorageError, match="a file of this kind at most"):
        decided(JudgeScore(classifier=str(tmp_path)), [LESSON])


def test_labels_that_are_no_scores_of_a_rubric_are_refused(tmp_path):
    texts = Texts.from_strings([LESSON, ADVERT] * 20)
    model = train(texts, np.array([1, 0] * 20), ["0", "9" * 400], TrainingSettings(buckets=100))
    (tmp_path / "model.bin").write_bytes(model_bytes(model, 20, 40))
    (tmp_path / "threshold.json").write_text(json.dumps({"min_score": 1, "max_chars": 100}))
    with pytest.raises(ConfigError, match="is no classifier of scores"):
        decided(JudgeScore(classifier=str(tmp_path)), [LESSON])
