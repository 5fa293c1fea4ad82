"""Votes of annotators as arrays, and their counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Votes:
    """Votes on items, one a row. All arrays have the same length.

    Attributes:
        item: int64[V], from 0 to items - 1.
        annotator: int64[V], from 0 to annotators - 1.
        label: int64[V], from 0 to labels - 1.
        items: number of items, also those without a vote.
        annotators: number of annotators.
        labels: number of labels.
    """

    item: np.ndarray
    annotator: np.ndarray
    label: np.ndarray
    items: int
    annotators: int
    labels: int

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, int]], items: int, annotators: int, labels: int) -> "Votes":
        """The votes of (item, annotator, label) of each."""
        item, annotator, label = np.array(rows, np.int64).reshape(-1, 3).T
        return cls(item, annotator, label, items, annotators, labels)

    def counts(self) -> np.ndarray:
        """int64[I, L]: number of votes for each label of each item."""
        cells = np.bincount(self.item * self.labels + self.label, minlength=self.items * self.labels)
        return cells.reshape(self.items, self.labels)
