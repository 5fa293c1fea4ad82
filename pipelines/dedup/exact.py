"""Exact copies: documents of one scope with the same text. The first of them in keeper order is compared for all.

A copy has the signature of its first, so their keys would be equal. It gets an edge to its first instead, and none of
its keys is made or sorted. Stages before those of the keys, for more than one range of documents:

    texts     per range: the first of each text in the range, cut by text; edges from it to its copies there
    firsts    per slice: the first of each text over all ranges, and edges from it to those of the other ranges;
              their positions, cut by range
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Counters
from raymill.cluster.exchange import SlicedFiles
from raymill.cluster.output import array_of, read_slice
from raymill.cluster.stage import Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.documents import Keys, Range, passed

# A text in one range. text: its hash with the scope's. rank, position: of its first document there.
TEXT = np.dtype([("text", "<u8", 2), ("rank", "<f8"), ("position", "<i8")])

TEXT_COLUMNS = frozenset({"row", "source", "text_hash"})

_HALF = np.uint64(32)

# float64[D]: the order of precedence of D documents, with `position` and the columns of the keeper.
Ranks = Callable[[pa.Table], np.ndarray]


def first_of_text(texts: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """int64[D]: for each document the one of lowest rank with the same text, of equal ranks the first; it may be
    itself.

    texts: uint64[D, 2], as from `Keys.texts`. ranks: float64[D].
    """
    first, bits = np.arange(len(texts)), np.uint64(len(texts).bit_length())
    # Sorted as one number: the highest bits of the hash, and below them the number of the document.
    hashed = texts[:, 0] >> bits
    hashed <<= bits
    hashed |= first.view(np.uint64)
    hashed.sort()
    prefix = hashed >> bits
    equal = np.zeros(len(texts) + 1, bool)
    equal[1:-1] = prefix[1:] == prefix[:-1]
    # Most documents are alone; only the others are put into order.
    several = equal[1:] | equal[:-1]
    found = (hashed[several] & ((np.uint64(1) << bits) - np.uint64(1))).view(np.int64)
    in_order = (texts[found[1:]] == texts[found[:-1]]).all(axis=1) & (ranks[found[1:]] >= ranks[found[:-1]])
    if not (in_order | ~equal[:-1][several][1:]).all():
        found = found[np.lexsort((ranks[found], texts[found, 1], texts[found, 0]))]
    starts = np.ones(len(found), bool)
    starts[1:] = (texts[found[1:]] != texts[found[:-1]]).any(axis=1)
    first[found] = found[np.maximum.accumulate(np.where(starts, np.arange(len(found)), 0))]
    return first


@dataclass(frozen=True)
class RangeTexts:
    """The texts of the documents of a range that passed the rules.

    positions: int64[D], ascending. texts: uint64[D, 2]. ranks: float64[D]. first: int64[D], as from `first_of_text`.
    """

    positions: np.ndarray
    texts: np.ndarray
    ranks: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, keys: Keys, ranks: Ranks, tables: Iterable[tuple[np.ndarray, pa.Table]]) -> "RangeTexts":
        """tables: positions and attributes, TEXT_COLUMNS and those that `ranks` reads."""
        positions, texts, found = [np.empty(0, np.int64)], [np.empty((0, 2), np.uint64)], [np.empty(0)]
        for at, table in tables:
            positions.append(at)
            texts.append(keys.texts(table))
            found.append(ranks(table.append_column("position", pa.array(at))))
        all_texts, all_ranks = np.concatenate(texts), np.concatenate(found)
        return cls(np.concatenate(positions), all_texts, all_ranks, first_of_text(all_texts, all_ranks))

    @property
    def edges(self) -> np.ndarray:
        """int64[E, 2]: positions of the first of a text and of a copy, for each copy."""
        copies = np.flatnonzero(self.first != np.arange(len(self.first)))
        return np.stack([self.positions[self.first[copies]], self.positions[copies]], axis=1)

    def slices(self, count: int) -> list[np.ndarray]:
        """TEXT[N] of the first documents, cut into `count` slices of the space of texts."""
        firsts = np.flatnonzero(self.first == np.arange(len(self.first)))
        found = np.empty(len(firsts), TEXT)
        found["text"], found["rank"] = self.texts[firsts], self.ranks[firsts]
        found["position"] = self.positions[firsts]
        numbers = (found["text"][:, 0] >> _HALF) * np.uint64(count) >> _HALF
        numbers = numbers.astype(np.min_scalar_type(count))  # numpy sorts numbers of 16 bits and fewer by their digits
        ends = np.cumsum(np.bincount(numbers, minlength=count))
        found = found[np.argsort(numbers, kind="stable")]
        return [found[start:end] for start, end in pairwise([0, *ends.tolist()])]


@dataclass(frozen=True)
class FindTexts:
    """The work of the stage `texts`.

    columns: attributes that `ranks` reads. slices: number of slices of the texts. texts, edges: names of its outputs.
    """

    store: Store
    keys: Keys
    ranks: Ranks
    columns: frozenset[str]
    slices: int
    texts: str
    edges: str

    def __call__(self, documents: Range, scratch: Scratch) -> Counters:
        tables = passed(self.store, documents, TEXT_COLUMNS | self.columns)
        found = RangeTexts.of(self.keys, self.ranks, ((at, table) for _, at, table in tables))
        scratch.write_slices(self.texts, found.slices(self.slices))
        scratch.write_slices(self.edges, [found.edges])
        return {"documents": float(len(found.first)), "edges": float(len(found.edges))}


@dataclass(frozen=True)
class FindFirsts:
    """The work of the stage `firsts`. files: the texts of every range. firsts: position of its first document.

    edges, copies: names of its outputs.
    """

    store: Store
    files: SlicedFiles
    firsts: tuple[int, ...]
    edges: str
    copies: str

    def __call__(self, number: int, scratch: Scratch) -> Counters:
        """Writes the edges, and for each range the positions of its copies."""
        parts = self.files.slice(number).read(self.store, array_of(TEXT))
        edges = edges_of_texts(np.concatenate([np.empty(0, TEXT), *parts]))
        scratch.write_slices(self.edges, [edges])
        copies = np.sort(edges[:, 1])
        scratch.write_slices(self.copies, np.split(copies, np.searchsorted(copies, self.firsts[1:])))
        return {"edges": float(len(edges))}


def edges_of_texts(texts: np.ndarray) -> np.ndarray:
    """int64[E, 2]: positions of the first of a text and of another one, for each other one.

    texts: TEXT[N]; equal ones in order of their positions.
    """
    first = first_of_text(texts["text"], texts["rank"])
    copies = np.flatnonzero(first != np.arange(len(first)))
    return np.stack([texts["position"][first[copies]], texts["position"][copies]], axis=1)


@dataclass(frozen=True)
class Copies:
    """The copies of each range. within: URIs of the edges of each range, from the stage `texts`. between: positions of
    the copies whose first is in another range, from the stage `firsts`, by range.
    """

    within: tuple[str, ...]
    between: SlicedFiles

    def of_range(self, store: Store, number: int) -> np.ndarray:
        """int64[N]: positions of the copies in a range."""
        edges = read_slice(store, self.within[number], 0, array_of(np.int64, -1, 2))
        parts = self.between.slice(number).read(store, array_of(np.int64))
        return np.concatenate([edges[:, 1], *parts])
