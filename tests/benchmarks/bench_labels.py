"""Wrong labels that the assessment finds, of planted ones: python -m tests.benchmarks labels

Records are pieces of about 400 characters of the ten longest Python Enhancement Proposals, and their label is the
proposal's number, so every label is right before some are changed. Recall is the share of changed labels that are
found, precision the share of changed ones among those found. `likely` changes a label to the label of the proposal with
the most similar text, `any` to any other.
"""

import random
import re
import time

import numpy as np

from raymill.pipelines.prepare.assess.labels import label_errors, predict, scores_by_fold
from raymill.pipelines.prepare.assess.vectors import fit_embedding
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import cut

_CLASSES = 10
_PIECES = 250  # of a proposal
_NOISE = (0.02, 0.05, 0.1, 0.2)
_DIMENSIONS = (32, 64, 128, 256)


def run(texts: Texts) -> None:
    print(machine("scikit-learn", "cleanlab"))
    pieces, labels = labelled_pieces(texts)
    print(f"{len(pieces):,} records of {_CLASSES} labels")
    keys = np.random.default_rng(0).integers(0, 1 << 63, len(pieces), np.uint64)
    folds = (keys % 5).astype(np.int64)
    for dimensions in _DIMENSIONS:
        began = time.process_time()
        vectors = fit_embedding(pieces, dimensions).embed(pieces).astype(np.float16)
        embedded = time.process_time() - began
        clean = predict(vectors, labels, folds, keys, _CLASSES)
        f1 = np.mean(scores_by_fold(clean, labels)["f1"])
        alarms = len(label_errors(clean, labels)) / len(labels)
        print(f"\n{dimensions} dimensions: embedded in {embedded:.1f} s; F1 of the right labels {f1:.3f}", end="")
        print(f", of which {alarms:.2%} are called wrong")
        print(f"{'changed':>8}{'to':>8}{'recall':>8}{'precision':>11}{'found':>7}{'seconds':>9}")
        means = np.stack([vectors[labels == one].mean(axis=0) for one in range(_CLASSES)])
        nearest = np.argsort(means @ means.T - 9 * np.eye(_CLASSES), axis=1)[:, -1]
        for kind in ("any", "likely"):
            for noise in _NOISE:
                given, wrong = _with_errors(labels, noise, nearest if kind == "likely" else None)
                began = time.process_time()
                found = label_errors(predict(vectors, given, folds, keys, _CLASSES), given)
                seconds, right = time.process_time() - began, np.isin(found, wrong).sum()
                print(f"{noise:>8.0%}{kind:>8}{right / len(wrong):>8.3f}{right / max(1, len(found)):>11.3f}", end="")
                print(f"{len(found):>7}{seconds:>9.1f}")


def labelled_pieces(texts: Texts) -> tuple[list[str], np.ndarray]:
    """(pieces of the proposals, int64[N] the place of each one's proposal). Of each proposal its longest version."""
    longest: dict[str, str] = {}
    for text in texts.to_arrow().to_pylist():
        if found := re.search(r"^PEP:\s*(\d+)", text[:500], re.MULTILINE):
            longest[found[1]] = max(longest.get(found[1], ""), text, key=len)
    chosen = sorted(longest, key=lambda number: -len(longest[number]))[:_CLASSES]
    pieces: list[str] = []
    labels: list[int] = []
    for label, number in enumerate(chosen):
        body = longest[number].replace(number, " ")  # the label is not in the text
        own = cut(Texts.from_strings([body]), "0.5 kB").to_arrow().to_pylist()
        pieces += random.Random(1).sample(own, min(_PIECES, len(own)))
        labels += [label] * (len(pieces) - len(labels))
    return pieces, np.array(labels)


def _with_errors(labels: np.ndarray, noise: float, nearest: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(the labels with some changed, the rows that are). nearest: what each becomes; None: any other."""
    chosen = np.random.default_rng(1)
    wrong = np.sort(chosen.choice(len(labels), round(noise * len(labels)), replace=False))
    given = labels.copy()
    given[wrong] = (
        (labels[wrong] + chosen.integers(1, _CLASSES, len(wrong))) % _CLASSES
        if nearest is None
        else nearest[labels[wrong]]
    )
    return given, wrong
