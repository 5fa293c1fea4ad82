"""A classifier of records that learns in seconds: logistic regression on hashed words and pairs of words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

_FEATURES = 1 << 16
_FOLDS = 5
_STEPS = 200


@dataclass(frozen=True)
class RecordClassifier:
    """Models of the labels, one for each fold of the records that it was trained on.

    weights: float32[F, L, W]. bias: float32[F, L].
    """

    weights: np.ndarray
    bias: np.ndarray

    def probabilities(self, texts: Sequence[str], draw: np.ndarray) -> np.ndarray:
        """float64[N, L]: the probability of each label, by the model that did not learn from the record.

        draw: uint64[N] of the records, which gives their fold.
        """
        return self.of_features(features_of(texts), draw)

    def of_features(self, features: Any, draw: np.ndarray) -> np.ndarray:
        """As `probabilities`. features: sparse matrix of `features_of`."""
        folds = len(self.weights)
        found = np.empty((features.shape[0], self.bias.shape[1]))
        for fold in range(folds):
            rows = np.flatnonzero(draw % np.uint64(folds) == fold)
            scores = features[rows] @ self.weights[fold].T + self.bias[fold]
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            found[rows] = scores / scores.sum(axis=1, keepdims=True)
        return found


def fit(
    texts: Sequence[str], labels: Sequence[int], names: Sequence[str], draw: np.ndarray, *, out_of_fold: bool
) -> RecordClassifier:
    """A classifier of these labels. The same texts give the same one.

    Args:
        labels: number of the label of each text.
        names: of all labels; each is a text with its label, so that a label without records has a probability too.
        draw: uint64[N], which gives the fold of a text.
        out_of_fold: whether five models are fitted, each without a fifth of the texts; else one.
    """
    return fit_features(features_of([*texts, *names]), labels, draw, out_of_fold=out_of_fold)


def fit_features(features: Any, labels: Sequence[int], draw: np.ndarray, *, out_of_fold: bool) -> RecordClassifier:
    """As `fit`. features: sparse matrix of `features_of`, of the texts and then of the names of all labels."""
    folds, texts = _FOLDS if out_of_fold else 1, len(labels)
    names = features.shape[0] - texts
    of_names = np.arange(texts, texts + names)
    weights = np.zeros((folds, names, _FEATURES), np.float32)
    bias = np.zeros((folds, names), np.float32)
    target = np.array(labels, np.int64)
    for fold in range(folds):
        kept = np.flatnonzero(draw % np.uint64(folds) != fold) if folds > 1 else np.arange(texts)
        rows = np.concatenate([kept, of_names])
        used = np.unique(features[rows].indices)  # the weights of all others are 0
        with threadpool_limits(1):
            # With 77 labels five times as fast as L-BFGS, which is the default.
            model: Any = LogisticRegression(C=10, max_iter=_STEPS, solver="newton-cg")
            model.fit(features[rows][:, used], np.concatenate([target, np.arange(names)])[rows])
        first = 1 if names == 2 else 0  # scikit-learn keeps one row of two labels
        weights[fold, first:, used] = model.coef_.T
        bias[fold, first:] = model.intercept_
    return RecordClassifier(weights, bias)


def features_of(texts: Sequence[str]) -> Any:
    """float32[N, W], sparse: hashed words and pairs of words of each text. texts: at least one."""
    vectorizer = HashingVectorizer(n_features=_FEATURES, ngram_range=(1, 2), alternate_sign=False, dtype=np.float32)
    return vectorizer.transform(texts)
