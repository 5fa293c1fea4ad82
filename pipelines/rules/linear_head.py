"""A linear classifier of scores on text vectors: softmax of a matrix product, saved as JSON."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymill.cluster.errors import ConfigError

_MOST_SCORES, _MOST_DIMENSIONS = 101, 1 << 16


@dataclass(frozen=True)
class LinearHead:
    """weights: float64[D, L], bias: float64[L], of the scores 0 to L - 1."""

    weights: np.ndarray
    bias: np.ndarray

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """float64[N, L]: the probability of each score. vectors: float32[N, D]."""
        logits = vectors.astype(np.float64) @ self.weights + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return found

    def expected_scores(self, vectors: np.ndarray) -> np.ndarray:
        """float32[N]: the expected score; NaN of a vector of zeros, which a text without a vector has."""
        scores = self.probabilities(vectors) @ np.arange(len(self.bias))
        return np.where(vectors.any(axis=1), scores, np.nan).astype(np.float32)

    def divided_by(self, temperature: float) -> "LinearHead":
        """The head whose logits are divided by a temperature."""
        return LinearHead(self.weights / temperature, self.bias / temperature)

    def to_json(self) -> bytes:
        """The file of the head."""
        return json.dumps({"weights": self.weights.T.tolist(), "bias": self.bias.tolist()}).encode()

    @classmethod
    def from_json(cls, content: bytes, path: str) -> "LinearHead":
        """The head in a file. path: of the file, for errors.

        Raises:
            ConfigError: the file holds none.
        """
        try:
            plain: Any = json.loads(content)
            weights, bias = np.array(plain["weights"], np.float64).T, np.array(plain["bias"], np.float64)
            if weights.ndim != 2 or bias.shape != weights.shape[1:]:
                raise ValueError("matrix and bias do not fit")
            if not (2 <= len(bias) <= _MOST_SCORES and 1 <= len(weights) <= _MOST_DIMENSIONS):
                raise ValueError(f"{len(bias)} scores and {len(weights)} dimensions")
            if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
                raise ValueError("infinite numbers")
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ConfigError(
                f"{path}: is not the head that `raymill distil` writes ({error!r:.200}). Point judge_score.classifier "
                "at OUTPUT/classifier of a finished run."
            ) from error
        return cls(weights, bias)
