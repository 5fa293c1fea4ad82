"""Training of a linear classifier of scores on text vectors: multinomial logistic regression. For workers."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from raymill.pipelines.rules.linear_head import LinearHead

# Inverse strengths of the regularisation. Vectors have length 1, so that good heads have large weights.
_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_STEPS = 1000
_LEAST = 1e-12  # probability


def train_head(
    vectors: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray, scores: int
) -> LinearHead:
    """The head with the least loss on held-out texts, of those with several strengths of regularisation.

    Args:
        vectors: float32[N, D] of the training texts. labels: int64[N], their scores.
        held_out: float32[M, D]. held_out_labels: int64[M].
        scores: number of scores; one that no training text has gets the least probability.
    """
    there = np.unique(labels)
    best: tuple[float, LinearHead] | None = None
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=_STEPS)
        # A sum over other threads has other last bits. A head that did not converge is compared like the others.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(vectors.astype(np.float64), labels)
        weights, bias = np.zeros((vectors.shape[1], scores)), np.full(scores, np.log(_LEAST))
        if len(there) == 2:  # of two classes there is one logit
            weights[:, there[1]], bias[there] = model.coef_[0], [0.0, model.intercept_[0]]
        else:
            weights[:, there], bias[there] = model.coef_.T, model.intercept_
        head = LinearHead(weights, bias)
        of_label = head.probabilities(held_out)[np.arange(len(held_out)), held_out_labels]
        loss = float(-np.log(np.maximum(of_label, _LEAST)).mean())
        if best is None or loss < best[0]:
            best = loss, head
    assert best is not None
    return best[1]
