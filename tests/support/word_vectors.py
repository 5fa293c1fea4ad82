"""Vectors of texts as the server for tests computes them."""

from collections.abc import Iterable

import numpy as np

from raymill.cluster.asking.faulty_server import word_vector


def word_vectors(texts: Iterable[str], dimensions: int = 64) -> np.ndarray:
    """float32[N, dimensions] of length 1; 0 for a text without a word."""
    found = np.array([word_vector(one, dimensions) for one in texts], np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
