"""The shingles of one text."""

import numpy as np

from raymill.pipelines.dedup.signatures import shingles
from raymill.pipelines.text import characters
from raymill.pipelines.text.kernel import kernel
from raymill.pipelines.text.texts import Texts

_shingles = kernel(shingles.py_func)


def shingle_hashes(text: str, ngram_words: int) -> np.ndarray:
    """uint32[S]: one document's shingles in order, repeats included, as datasketch takes them."""
    texts = Texts.from_strings([text])
    hashes = np.empty(len(texts.data) + 1, np.uint32)
    ring = np.empty(ngram_words, np.uint64)
    count, _ = _shingles(texts.data, 0, len(texts.data), *characters.tables(), hashes, ring)
    return hashes[:count].copy()
