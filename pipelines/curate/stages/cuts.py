"""Cuts of text out of kept documents: the interface of boilerplate.py and repeats.py, which `select` calls.

A document of which a cut leaves too few words is removed. The corpus and later cuts get the text that is left.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from cluster.artifact import Counters
from pipelines.text.texts import Texts

TOO_FEW_WORDS_LEFT = "too_few_words_left"  # the reason of removal, of each kind of cut


@dataclass(frozen=True)
class CutDocuments:
    """D documents after a cut.

    texts: the text that is left. is_cut: bool[D], whether text was cut. words: int64[D], tokens that are left.
    listed: rows of the artifact. shown: those that the report may show, with `id`, `source`, `text`, `documents`.
    counters: those of the stage; their names begin with the kind of cut.
    """

    texts: Texts
    is_cut: np.ndarray
    words: np.ndarray
    listed: pa.Table
    shown: pa.Table
    counters: Counters


class Cutter(Protocol):
    """Cuts one kind of text out of the documents of a unit. name: of its artifact, and its stage in the ledger."""

    @property
    def name(self) -> str: ...

    @property
    def min_words_left(self) -> int: ...

    def __call__(self, source: str, texts: Texts, documents: pa.Table) -> CutDocuments:
        """Cut D documents. documents: their `id` and `position`."""
        ...


def stays(cut_documents: np.ndarray, words: np.ndarray, min_words_left: int) -> np.ndarray:
    """bool[D]: whether a document was not cut, or has enough words left. cut_documents: bool[D]. words: int64[D]."""
    return ~(cut_documents & (words < min_words_left))


def filter_texts(texts: Texts, kept: np.ndarray) -> Texts:
    """The documents for which bool[D] is true."""
    return Texts.from_arrow(texts.to_arrow().filter(pa.array(kept)))
