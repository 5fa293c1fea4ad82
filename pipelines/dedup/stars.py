"""Components of more candidates than one task can hold, by alternating operations "large star" and "small star".

least(u) is the smallest position among u and its neighbours.

    large star    an edge of u and a larger v is replaced by one of v and least(u)
    small star    an edge of u and a smaller v is replaced by one of v and least(u), unless v is least(u)

Neither changes the components or adds edges. When neither changes an edge, each component is a star around its smallest
position. The number of operations grows with the logarithm of the longest path. Source: Kiveris et al., "Connected
Components in MapReduce and Beyond", 2014. Positions are cut into spans. The stages `least` and `move` alternate; the
first `move` is a large star, the next a small star, and so on:

    star.deal          per group of files: edges, cut by the span of the smaller end; nearest    -> edges, nearest
    star.NNNN.least    per span: least(u) of its positions                                       -> least/NNNN
    star.NNNN.move     per span and group of files: the edges that replace those of the span     -> edges, nearest
    star.sizes         per span: candidates of each component, cut by the span of the smallest   -> sizes
    star.cut           one unit: the first position of each batch, and its number of candidates  -> cuts
    star.batches       per span: the batch of each candidate, by range                           -> batches

`nearest` has the smallest neighbour of each position among the edges of one unit. It is written beside the edges, so
that computing least(u) reads one number from each unit with edges of u, not all neighbours of u.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.output import array_of, parsed, read_between, read_offsets, read_slice, read_slices
from raymill.cluster.stage import RunStage, Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.blocks import MakeStage
from raymill.pipelines.dedup.components import BatchFiles

_FOLDER = "_work/group/star"
_SIZES, _CUTS, _BATCHES = f"{_FOLDER}/sizes", f"{_FOLDER}/cuts", f"{_FOLDER}/batches"
_NONE = np.iinfo(np.int64).max
_PAIR = 8  # bytes of a pair: the number of a position in its span, and in the lowest 40 bits another position
_POSITION_BITS = np.uint64(40)
_POSITION = (np.uint64(1) << _POSITION_BITS) - np.uint64(1)
_THREADS = 16
_CHUNK = 64 << 20  # bytes
_OF_AN_EDGE, _OF_A_POSITION = 128, 24  # bytes in a unit, measured


def memory_of_stars(positions: int, edges: int) -> int:
    """Bytes of a unit, beside libraries. positions: of a span. edges: the most that a unit reads."""
    return _OF_A_POSITION * positions + _OF_AN_EDGE * edges


@dataclass(frozen=True)
class PositionSpans:
    """The division of positions: `spans` spans of `ranges` ranges of `documents` positions."""

    documents: int
    ranges: int
    spans: int

    @property
    def width(self) -> int:
        """Positions of a span."""
        return self.documents * self.ranges

    def __post_init__(self) -> None:
        assert self.width <= 1 << (64 - int(_POSITION_BITS)) and self.spans <= 1 << 16, self
        assert self.width * self.spans <= int(_POSITION) + 1, self

    def cut(self, rows: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
        """The rows of each span. positions: one for each row, which gives its span."""
        spans = (positions // self.width).astype(np.uint16)  # numbers of 16 bits are sorted in one pass
        ends = np.cumsum(np.bincount(spans, minlength=self.spans))
        return np.split(rows[np.argsort(spans, kind="stable")], ends[:-1])

    def pairs(self, at: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
        """For each span, pairs uint64[N], ascending, of the positions `at` in it and `others` (see _PAIR)."""
        found = self.cut((at % self.width).view(np.uint64) << _POSITION_BITS | others.view(np.uint64), at)
        for of_span in found:
            of_span.sort()
        return found


@dataclass(frozen=True)
class Stars:
    """Connects candidates. edges: number that a unit reads. batch: candidates of a batch. memory: bytes of a unit."""

    store: Store
    spans: PositionSpans
    edges: int
    batch: int
    memory: int

    def __call__(self, run: RunStage, stage: MakeStage, files: Sequence[str]) -> tuple[BatchFiles, np.ndarray]:
        """(the batch of each candidate, the candidates of each batch int64[B]), as of `Batches`. files: of edges."""
        store, spans, all_spans = self.store, self.spans, range(self.spans.spans)

        def made(name: str, outputs: Sequence[str], units: Sequence[Any], work: Any) -> list[Artifact]:
            found = run(stage(f"star.{name}", outputs, units, work, self.memory))
            return [found[output] for output in outputs]

        names = f"{_FOLDER}/edges/0000", f"{_FOLDER}/nearest/0000"
        dealt = [uris for _, uris in self._together(files, 1, 16)]
        edges, nearest = made("deal", names, dealt, Deal(store, spans, *names))
        unchanged = 0
        for number in count(1):
            name = f"{_FOLDER}/least/{number:04}"
            work = Least(store, spans, tuple(nearest.file_uris), name)
            (least,) = made(f"{number:04}.least", (name,), all_spans, work)
            names = f"{_FOLDER}/edges/{number:04}", f"{_FOLDER}/nearest/{number:04}"
            units = [
                (span, least.file_uris[span], uris)
                for span, uris in self._together(edges.file_uris, spans.spans, _PAIR)
            ]
            edges, nearest = made(f"{number:04}.move", names, units, Move(store, spans, *names, number % 2 == 1))
            unchanged = 0 if edges.manifest.counters["changed"] else unchanged + 1
            if unchanged == 2:
                break
        roots = tuple(least.file_uris)
        (sizes,) = made("sizes", (_SIZES,), roots, CountRoots(store, spans))
        (cuts,) = made("cut", (_CUTS,), [tuple(sizes.file_uris)], CutBatches(store, spans, self.batch))
        (batches,) = made("batches", (_BATCHES,), list(enumerate(roots)), Number(store, spans, cuts.file_uris[0]))
        counts = read_slice(store, cuts.file_uris[0], 1, array_of(np.int64))
        return BatchFiles(tuple(batches.file_uris), spans.ranges), counts

    def _together(self, files: Sequence[str], slices: int, of_an_edge: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        """(slice, files) of each unit: files that have at most `edges` edges in this slice together, or one file.

        slices: number of slices of a file. of_an_edge: bytes of an edge.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            offsets = pool.map(lambda uri: read_offsets(self.store, uri, 0, slices), files)
            counts = np.array([np.diff(of_file) // of_an_edge for of_file in offsets])
        for number, of_files in enumerate(counts.T.tolist()):
            together: list[str] = []
            filled = 0
            for uri, edges in zip(files, of_files, strict=True):
                if together and filled + edges > self.edges:
                    yield number, tuple(together)
                    together, filled = [], 0
                if edges:
                    together.append(uri)
                    filled += edges
            if together:
                yield number, tuple(together)


@dataclass(frozen=True)
class Deal:
    """The work of the stage `star.deal`. edges, nearest: names of its outputs."""

    store: Store
    spans: PositionSpans
    edges: str
    nearest: str

    def __call__(self, uris: tuple[str, ...], scratch: Scratch) -> Counters:
        slices = read_slices(self.store, uris, 0, array_of(np.int64, -1, 2))
        edges = np.concatenate(slices)
        slices.clear()
        _write(scratch, self.spans, self.edges, self.nearest, edges.min(axis=1), edges.max(axis=1))
        return {}


@dataclass(frozen=True)
class Least:
    """The work of the stage `star.NNNN.least`. uris: the files of `nearest`. output: name of the stage's output."""

    store: Store
    spans: PositionSpans
    uris: tuple[str, ...]
    output: str

    def __call__(self, span: int, scratch: Scratch) -> Counters:
        """Writes the positions with an edge, ascending, then least(u) of each."""
        start = span * self.spans.width
        least = np.full(self.spans.width, _NONE)
        for pairs in read_slices(self.store, self.uris, span, array_of(np.uint64)):
            at, nearest = _unpacked(pairs)
            least[at] = np.minimum(least[at], nearest)  # a slice has each position once
        numbers = np.flatnonzero(least != _NONE)
        positions = numbers + start
        scratch.write_slices(self.output, [positions, np.minimum(least[numbers], positions)])
        return {}


@dataclass(frozen=True)
class Move:
    """The work of the stage `star.NNNN.move`: large or small star. edges, nearest: names of its outputs."""

    store: Store
    spans: PositionSpans
    edges: str
    nearest: str
    large: bool

    def __call__(self, unit: tuple[int, str, tuple[str, ...]], scratch: Scratch) -> Counters:
        """Writes the edges for the next star: by their larger end after a large star, else by the smaller."""
        span, least_uri, uris = unit
        changed, smaller, larger = self._replaced(span, least_uri, uris)
        by, others = (larger, smaller) if self.large else (smaller, larger)
        _write(scratch, self.spans, self.edges, self.nearest, by, others)
        return {"changed": float(changed)}

    def _replaced(self, span: int, least_uri: str, uris: tuple[str, ...]) -> tuple[int, np.ndarray, np.ndarray]:
        """(number of edges that the operation changes, smaller ends of all edges, larger ends)."""
        start = span * self.spans.width
        slices = read_slices(self.store, uris, span, array_of(np.uint64))
        numbers, others = _unpacked(np.concatenate([*slices, np.empty(0, np.uint64)]))
        positions, least = _read_least(self.store, least_uri)
        table = np.empty(self.spans.width, np.int64)
        table[positions - start] = least
        least, at = table[numbers], numbers + start
        if self.large:
            return int(np.count_nonzero(least != at)), least, others
        kept = least == others
        return int(np.count_nonzero(~kept)), least, np.where(kept, at, others)


@dataclass(frozen=True)
class CountRoots:
    """The work of the stage `star.sizes`."""

    store: Store
    spans: PositionSpans

    def __call__(self, uri: str, scratch: Scratch) -> Counters:
        roots, sizes = np.unique(_read_least(self.store, uri)[1], return_counts=True)
        scratch.write_slices(_SIZES, self.spans.cut(np.stack([roots, sizes], axis=1), roots))
        return {}


@dataclass(frozen=True)
class CutBatches:
    """The work of the stage `star.cut`. batch: candidates of a batch."""

    store: Store
    spans: PositionSpans
    batch: int

    def __call__(self, uris: Sequence[str], scratch: Scratch) -> Counters:
        """Writes the first position of each batch, then its number of candidates."""
        firsts: list[int] = []
        counts: list[int] = []
        for rows in self._of_spans(uris):
            roots, numbers = np.unique(rows[:, 0], return_inverse=True)
            ends = np.cumsum(np.bincount(numbers, rows[:, 1], len(roots)).astype(np.int64))
            at = 0
            while at < len(roots):
                before = int(ends[at - 1]) if at else 0
                if not counts or counts[-1] >= self.batch:
                    firsts.append(int(roots[at]))
                    counts.append(0)
                end = int(np.searchsorted(ends, before + self.batch - counts[-1])) + 1
                end = min(end, len(roots))
                counts[-1] += int(ends[end - 1]) - before
                at = end
        scratch.write_slices(_CUTS, [np.array(firsts, np.int64), np.array(counts, np.int64)])
        return {"candidates": float(sum(counts))}

    def _of_spans(self, uris: Sequence[str]) -> Iterator[np.ndarray]:
        """int64[N, 2] for each span: smallest positions of components, and how many candidates each file has of them.

        A file is read once for neighbouring spans that have about _CHUNK bytes together: with a read for each span,
        600 spans, of 10^10 positions, would take 720,000 requests one after the other.
        """
        spans = self.spans.spans
        with ThreadPoolExecutor(_THREADS) as pool:
            offsets = list(pool.map(lambda uri: read_offsets(self.store, uri, 0, spans), uris))
            ends = np.cumsum(sum(np.diff(of_file) for of_file in offsets))
            first = 0
            while first < spans:
                before = ends[first - 1] if first else 0
                end = max(first + 1, int(np.searchsorted(ends, before + _CHUNK, "right")))
                cuts = [of_file[first : end + 1] for of_file in offsets]
                # Views, so that a slice is not copied before it is parsed.
                read: list[Any] = list(
                    pool.map(lambda uri, cut: memoryview(read_between(self.store, uri, cut)), uris, cuts)
                )
                for span in range(end - first):
                    slices = [
                        parsed(uri, data[cut[span] - cut[0] : cut[span + 1] - cut[0]], array_of(np.int64, -1, 2))
                        for uri, data, cut in zip(uris, read, cuts, strict=True)
                    ]
                    yield np.concatenate(slices)
                first = end


@dataclass(frozen=True)
class Number:
    """The work of the stage `star.batches`. cuts: file of the stage before."""

    store: Store
    spans: PositionSpans
    cuts: str

    def __call__(self, unit: tuple[int, str], scratch: Scratch) -> Counters:
        """Writes number and batch of each candidate, by range."""
        span, uri = unit
        firsts = read_slice(self.store, self.cuts, 0, array_of(np.int64))
        positions, roots = _read_least(self.store, uri)
        batches = (np.searchsorted(firsts, roots, "right") - 1).astype(np.int32)
        starts = span * self.spans.width + self.spans.documents * np.arange(self.spans.ranges + 1)
        cuts = np.searchsorted(positions, starts)
        scratch.write_slices(
            _BATCHES,
            [
                np.concatenate([(positions[cut:end] - start).astype(np.int32), batches[cut:end]])
                for start, cut, end in zip(starts[:-1], cuts[:-1], cuts[1:], strict=True)
            ],
        )
        return {}


def _read_least(store: Store, uri: str) -> list[np.ndarray]:
    """[positions, least of each], int64[N] each."""
    return [read_slice(store, uri, number, array_of(np.int64)) for number in (0, 1)]


def _unpacked(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number in the span, other position), int64[N] each, of pairs as from `PositionSpans.pairs`."""
    return (pairs >> _POSITION_BITS).view(np.int64), (pairs & _POSITION).view(np.int64)


def _write(
    scratch: Scratch, spans: PositionSpans, edges_name: str, nearest_name: str, by: np.ndarray, others: np.ndarray
) -> None:
    """Write edges, each once, by the span of the end `by`, and `nearest` of both ends, by the span of each end."""
    scratch.write_slices(edges_name, [_firsts(of_span, of_span) for of_span in spans.pairs(by, others)])
    nearest = spans.pairs(np.concatenate([by, others]), np.concatenate([others, by]))
    scratch.write_slices(nearest_name, [_firsts(of_span, of_span >> _POSITION_BITS) for of_span in nearest])


def _firsts(pairs: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The first pair of each key. keys: ascending."""
    is_first = np.ones(len(pairs), bool)
    is_first[1:] = keys[1:] != keys[:-1]
    return pairs[is_first]
