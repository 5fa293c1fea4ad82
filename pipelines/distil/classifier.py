"""Training of a classifier on scored texts: division into parts, training, calibration, threshold, and test."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raymill.cluster.entry import Entry
from raymill.cluster.errors import DataError
from raymill.cluster.formats import count, plural
from raymill.pipelines.agreement import agreement, cross_table, f1, interval
from raymill.pipelines.distil.config import DistilConfig
from raymill.pipelines.language.fasttext_classifier import Classifier
from raymill.pipelines.language.fasttext_file import model_bytes
from raymill.pipelines.language.fasttext_training import TrainingSettings, best_temperature, calibrated, train
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.rules.judge_score import expected_scores
from raymill.pipelines.text.texts import Texts

# Loads scikit-learn.
_train_head = Entry("raymill.pipelines.distil.train_head:train_head")
_HASHES = float(1 << 64)
_FEW = 30  # good documents in the test part, below which the interval of F1 is wide
_DIGITS = 4  # decimal places of the threshold
_LONG_WORD = 30  # mean bytes between spaces, above which texts are written without spaces between words


@dataclass(frozen=True)
class Scored:
    """The sample with its scores.

    Attributes:
        ids: D hashes of 32 hexadecimal digits each.
        texts: D texts.
        by_judge: judge -> float64[D], NaN for a document without a score.
        people: float64[D], scores by people, NaN for a document without one.
    """

    ids: list[str]
    texts: Texts
    by_judge: Mapping[str, np.ndarray]
    people: np.ndarray

    @cached_property
    def score(self) -> np.ndarray:
        """float64[D]: the mean of the judges; NaN without a score."""
        given = np.array(list(self.by_judge.values()))
        counts = (~np.isnan(given)).sum(axis=0)
        return np.where(counts > 0, np.nansum(given, axis=0) / np.maximum(counts, 1), np.nan)

    def parts(self, held_out: float) -> list[str | None]:
        """The part of each document, by its hash: train, validation or test; None without a score."""
        # The first half of the hash decides what is in the sample, so its values are all small there.
        shares = [int(id[16:32], 16) / _HASHES for id in self.ids]
        parts = ["test" if one < held_out / 2 else "validation" if one < held_out else "train" for one in shares]
        return [None if np.isnan(score) else part for part, score in zip(parts, self.score.tolist(), strict=True)]


@dataclass(frozen=True)
class SampleVectors:
    """rows: float32[D, N], the vectors of the sample, 0 for a text without one. seconds: as in MadeClassifier."""

    rows: np.ndarray
    seconds: float | None


@dataclass(frozen=True)
class MadeClassifier:
    """A trained classifier.

    Attributes:
        model: its file: of fastText, or of the linear head.
        scores: float32[D], expected scores of the sample.
        measures: measures for the report.
        seconds: time in which it scored the sample, on one core; None of an endpoint's vectors.
    """

    model: bytes
    scores: np.ndarray
    measures: dict[str, Any]
    seconds: float | None


def rounded(scores: np.ndarray) -> np.ndarray:
    """int64[D]: the nearest whole score, halves upwards."""
    return np.floor(scores + 0.5).astype(np.int64)


@dataclass(frozen=True)
class _Trained:
    """A calibrated classifier: its file, the temperature, the scores of the sample, the seconds that these took."""

    file: bytes
    temperature: float
    scores: np.ndarray
    seconds: float | None


def make_classifier(
    scored: Scored, config: DistilConfig, most: int, vectors: SampleVectors | None = None
) -> MadeClassifier:
    """Train, calibrate and test a classifier.

    most: largest score that a judge can give; 0: not known, so the largest given score is used. vectors: of the texts,
    for a linear classifier; None: a classifier of words.

    Raises:
        DataError: too few documents have a score, or too few of them are good.
    """
    settings, good_from = config.classifier, config.threshold.score
    parts = np.array([part or "" for part in scored.parts(config.held_out)])
    if vectors is not None:  # a text that the model refuses has none
        parts[~vectors.rows.any(axis=1)] = ""
    known = np.flatnonzero(parts != "")
    rows = {name: np.flatnonzero(parts == name) for name in ("train", "validation", "test")}
    labels = np.full(len(scored.ids), -1)
    labels[known] = rounded(scored.score[known])
    most = max(most, int(labels.max(initial=1)))
    _refuse_few(labels, rows, good_from, len(known), len(scored.ids))
    names = [str(score) for score in range(most + 1)]
    lines = excerpts(scored.texts, settings.max_chars)

    trained = (
        _train_on_words(scored.texts, lines, labels, rows, names, config)
        if vectors is None
        else _train_on_vectors(vectors, labels, rows, len(names))
    )
    scores = trained.scores
    good = labels >= good_from
    validation, test = rows["validation"], rows["test"]
    threshold = (
        best_threshold(scores[validation], good[validation])
        if config.threshold.share is None
        else share_threshold(scores[np.concatenate([validation, test])], config.threshold.share)
    )
    kept = scores >= np.float32(threshold)
    decided = cross_table(good[test].astype(int), kept[test].astype(int), 2)
    low, high = interval(decided, f1) or (None, None)
    by_classifier = np.minimum(rounded(scores), most)
    measures: dict[str, Any] = {
        "judged": len(known),
        "train": len(rows["train"]),
        "validation": len(validation),
        "test": len(test),
        "most": most,
        "temperature": round(trained.temperature, 6),
        "min_score": threshold,
        "f1": f1(decided),
        "f1_low": low,
        "f1_high": high,
        "precision": _share(decided[1, 1], decided[:, 1].sum()),
        "recall": _share(decided[1, 1], decided[1].sum()),
        "good_share": float(good[known].mean()),
        "kept_share": float(kept[test].mean()),
        "agreement": _agreements(scored, by_classifier, test, most + 1),
        "by_score": _by_score(labels, scores, kept, known, test, most),
        "confusion": _confusion(labels[test], by_classifier[test], most),
        "calibration": _calibration(scores[test], scored.score[test], most),
    }
    measures["warnings"] = _warnings(lines, settings, good[test], measures, vectors is None)
    return MadeClassifier(trained.file, scores, measures, trained.seconds)


def _train_on_words(
    texts: Texts, lines: Texts, labels: np.ndarray, rows: Mapping[str, np.ndarray], names: list[str],
    config: DistilConfig,
) -> _Trained:  # fmt: skip
    settings, validation = config.classifier, rows["validation"]
    model = train(_rows(lines, rows["train"]), labels[rows["train"]], names, settings, config.seed)
    before = Classifier(Path("model.bin"), model).probabilities(_rows(lines, validation))
    model, temperature = calibrated(model, before, labels[validation])
    classifier = Classifier(Path("model.bin"), model)
    started = time.perf_counter()
    scores = expected_scores(classifier, texts, settings.max_chars)
    seconds = time.perf_counter() - started
    return _Trained(model_bytes(model, settings.epochs, len(rows["train"])), temperature, scores, seconds)


def _train_on_vectors(
    vectors: SampleVectors, labels: np.ndarray, rows: Mapping[str, np.ndarray], scores: int
) -> _Trained:
    of_train, held_out = vectors.rows[rows["train"]], vectors.rows[rows["validation"]]
    held_out_labels = labels[rows["validation"]]
    head = _train_head.load()(of_train, labels[rows["train"]], held_out, held_out_labels, scores)
    temperature = best_temperature(head.probabilities(held_out), held_out_labels)
    head = head.divided_by(temperature)
    return _Trained(head.to_json(), temperature, head.expected_scores(vectors.rows), vectors.seconds)


def _rows(texts: Texts, rows: np.ndarray) -> Texts:
    return Texts.from_arrow(texts.to_arrow().take(rows))


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _refuse_few(labels: np.ndarray, rows: Mapping[str, np.ndarray], good_from: int, known: int, sample: int) -> None:
    few = [
        f"{name} has {int((labels[of] >= good_from).sum())} good of {plural(len(of), 'document')}"
        for name, of in rows.items()
        if not 0 < int((labels[of] >= good_from).sum()) < len(of)
    ]
    if few:
        raise DataError(
            f"sample: {count(known)} of {plural(sample, 'document')} have a score, and each part needs good ones (at "
            f"least {plural(good_from, 'point')}) and others: {', '.join(few)}. Enlarge `sample`, or change "
            "`threshold.score` or the rubric; stored answers are used again."
            + (" `judges/NAME/removed` has why the others have no score." if known < sample else "")
        )


def best_threshold(scores: np.ndarray, good: np.ndarray) -> float:
    """The threshold with the best F1, halfway between two scores; of several, the lowest."""
    order = np.argsort(-scores, kind="stable")
    found, kept = np.cumsum(good[order]), np.arange(1, len(order) + 1)
    values = 2 * found / (kept + good.sum())
    falling = scores[order].astype(np.float64)
    ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))  # equal scores are kept or left out together
    best = ends[len(ends) - 1 - int(np.argmax(values[ends][::-1]))]
    below = falling[best + 1] if best + 1 < len(falling) else 0.0
    return round(float((falling[best] + below) / 2), _DIGITS)


def share_threshold(scores: np.ndarray, share: float) -> float:
    """The threshold that keeps this fraction of the documents, halfway between two scores."""
    falling = np.sort(scores.astype(np.float64))[::-1]
    count = min(max(1, round(share * len(falling))), len(falling) - 1)
    return round(float((falling[count - 1] + falling[count]) / 2), _DIGITS)


def _agreements(scored: Scored, by_classifier: np.ndarray, test: np.ndarray, scores: int) -> list[dict[str, Any]]:
    """The agreement of each pair of raters: judges, people, and the classifier on the test part alone."""
    raters: dict[str, np.ndarray] = dict(scored.by_judge)
    if not np.isnan(scored.people).all():
        raters["people"] = scored.people
    held = np.full(len(scored.ids), np.nan)
    held[test] = by_classifier[test]
    found, names = [], [*raters, "classifier"]
    raters["classifier"] = held
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = np.flatnonzero(~np.isnan(raters[first]) & ~np.isnan(raters[second]))
            ones, others = (np.clip(rounded(raters[name][both]), 0, scores - 1) for name in (first, second))
            found.append(agreement(f"{first} and {second}", cross_table(ones, others, scores)))
    return found


def _by_score(
    labels: np.ndarray, scores: np.ndarray, kept: np.ndarray, known: np.ndarray, test: np.ndarray, most: int
) -> list[dict[str, Any]]:
    """Counts, mean score by the classifier and fraction kept, by score of the judges."""
    found = []
    for score in range(most + 1):
        of_test = test[labels[test] == score]
        found.append(
            {
                "score": str(score),
                "documents": int((labels[known] == score).sum()),
                "in_test": len(of_test),
                "mean_of_classifier": float(scores[of_test].mean()) if len(of_test) else None,
                "kept_share": float(kept[of_test].mean()) if len(of_test) else None,
            }
        )
    return found


def _confusion(labels: np.ndarray, by_classifier: np.ndarray, most: int) -> list[dict[str, Any]]:
    """The confusion matrix: a row for each score of the judges, a column for each rounded score of the classifier."""
    table = cross_table(labels, by_classifier, most + 1)
    return [
        {"judges": str(score)} | {f"classifier_{other}": int(table[score, other]) for other in range(most + 1)}
        for score in range(most + 1)
    ]


def _calibration(scores: np.ndarray, judged: np.ndarray, most: int) -> list[dict[str, Any]]:
    """The mean scores of judges and classifier in ranges of the classifier's score."""
    found = []
    for low in range(most):
        inside = (scores >= low) & ((scores < low + 1) | (low == most - 1))
        found.append(
            {
                "classifier_from": low,
                "to": low + 1,
                "documents": int(inside.sum()),
                "mean_of_classifier": float(scores[inside].mean()) if inside.any() else None,
                "mean_of_judges": float(judged[inside].mean()) if inside.any() else None,
            }
        )
    return found


def _warnings(
    lines: Texts, settings: TrainingSettings, good_in_test: np.ndarray, measures: Mapping[str, Any], by_words: bool
) -> list[str]:
    found = []
    if measures["kept_share"] in (0, 1):
        which = "all documents" if measures["kept_share"] else "no document"
        found.append(f"The classifier keeps {which} of the test part, so it does not filter.")
    for one in measures["agreement"]:
        judge, _, other = one["between"].rpartition(" and ")
        if other != "classifier" or judge == "people" or not one["documents"]:
            continue
        low, high = one["kappa_low"], one["kappa_high"]
        if low is None or low <= 0:
            measured = "it is not defined" if low is None else f"kappa {one['kappa']:.3f}, {low:.3f} to {high:.3f}"
            found.append(
                f"The agreement of {one['between']} may be by chance ({measured}): enlarge `sample`, and read the "
                "scores and reasons of the judge in `scores/`."
            )
    spaces = int((lines.data == ord(" ")).sum())
    if by_words and settings.char_ngrams is None and len(lines.data) > _LONG_WORD * (spaces + len(lines)):
        found.append("The texts have few spaces between words: set `classifier.char_ngrams`, such as [1, 3].")
    if (count := int(good_in_test.sum())) < _FEW:
        found.append(f"The test has {plural(count, 'good document')}, so the interval of F1 is wide: enlarge `sample`.")
    return found
