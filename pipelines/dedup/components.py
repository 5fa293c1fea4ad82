"""Components: documents that are connected by shared keys. Each component can be compared on its own.

Whether a document is removed depends only on documents with which it shares keys, directly or through others, and these
are its component. Small components are joined into batches; each batch is compared by one task.

Candidates are the documents with an edge, often a small part of all. `mark_candidates` marks them in a bitmap with
one bit for each position. `Batches` numbers them in order of position; its other arrays are indexed by these numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from raymill.cluster.errors import DataError
from raymill.cluster.output import array_of, read_slice
from raymill.cluster.store.store import Store
from raymill.pipelines.text.instructions import count_ones
from raymill.pipelines.text.kernel import inner_kernel, kernel

# Stages pass edges and pairs in files of the run, which somebody else may have begun; kernels do not check indexes.
CHANGED = (
    "a file of the grouping below _work/group was changed after it was written. Delete the folder _work/group of the "
    "output and run the same command again: it makes these files again."
)

_WORD = 64  # bits


def memory_to_mark(documents: int) -> int:
    """Bytes that `mark_candidates` allocates: one bit for each of `documents` documents."""
    return -(-documents // 8)


def memory_to_connect(documents: int, candidates: int) -> int:
    """The most bytes that `Batches` allocates: 1.5 bits per document and 6 bytes per candidate, from 2^32 candidates on
    2 bits and 12 bytes.

    For a candidate the number of its component is stored, for a component of two candidates or more the number of its
    batch.
    """
    size = _number_type(candidates).itemsize
    return memory_to_mark(documents) * (8 + size) // 8 + size * 3 // 2 * candidates


def _number_type(candidates: int) -> np.dtype:
    return np.dtype(np.uint32 if candidates < 1 << 32 else np.uint64)


def mark_candidates(edges: Iterable[np.ndarray], documents: int) -> np.ndarray:
    """uint64[W]: bit p % 64 of word p // 64 is 1 if position p has an edge.

    edges: int64[E, 2] each, pairs of positions below `documents`.

    Raises:
        DataError: a position is not below `documents`.
    """
    bits = np.zeros(-(-documents // _WORD), np.uint64)
    for some in edges:
        if not _mark(bits, some):
            raise DataError(CHANGED)
    return bits


@dataclass(frozen=True)
class Batches:
    """The batch of each candidate. Components are sorted by their smallest position; a batch has consecutive ones.

    bits: as from `mark_candidates`. before: uint32[W] or uint64[W], candidates before each word. components: the same
    kind of number, by number of the candidate. batches: int32[K] or int64[K], of each component. counts: int64[B], the
    candidates of each batch.
    """

    bits: np.ndarray
    before: np.ndarray
    components: np.ndarray
    batches: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, edges: Iterable[np.ndarray], bits: np.ndarray, candidates: int, size: int) -> "Batches":
        """Connect the candidates, and put their components into batches.

        Args:
            edges: as for `mark_candidates`. bits: its result. candidates: number of bits that are 1.
            size: a batch ends with the component that brings it to this number of candidates.

        Memory: `memory_to_connect`, and one array of edges.

        Raises:
            DataError: an edge has an end without a mark, or the number of marks is another.
        """
        if int(np.bitwise_count(bits).sum()) != candidates:
            raise DataError(CHANGED)
        before = np.empty(len(bits), _number_type(candidates))
        _count_before(bits, before)
        parents = np.arange(candidates, dtype=before.dtype)
        for some in edges:
            if not _connect(parents, bits, before, some):
                raise DataError(CHANGED)
        sizes = np.zeros(_number_components(parents), parents.dtype)
        _add_sizes(parents, sizes)
        counts, batches = np.zeros(candidates // size + 1, np.int64), sizes.view(f"i{sizes.itemsize}")
        return cls(bits, before, parents, batches, counts[: _fill(sizes, batches, size, counts)])

    def between(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(int32[N], int32[N]): the candidates between two positions, as distances from the first; their batches."""
        distances = np.flatnonzero(self._marks(start, end)).astype(np.int32)
        first = self.candidates_before(start)
        components = self.components[first : first + len(distances)]
        return distances, self.batches[components].astype(np.int32)

    def candidates_before(self, position: int) -> int:
        """Number of candidates with a smaller position."""
        word = position // _WORD
        if word >= len(self.before):
            return len(self.components)
        return int(self.before[word]) + int(np.count_nonzero(self._marks(word * _WORD, position)))

    def _marks(self, start: int, end: int) -> np.ndarray:
        octets = self.bits.view(np.uint8)[start // 8 : -(-end // 8)]
        return np.unpackbits(octets, bitorder="little")[start % 8 :][: end - start]


@dataclass(frozen=True)
class BatchFiles:
    """Sliced files with the batch of each candidate, a slice for each range of positions. ranges: slices of a file."""

    uris: tuple[str, ...]
    ranges: int

    def of_range(self, store: Store, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the candidates in the range, batches), both int32[N]."""
        uri, at = self.uris[number // self.ranges], number % self.ranges
        numbers, batches = read_slice(store, uri, at, array_of(np.int32, 2, -1))
        return numbers, batches


@kernel
def _mark(bits, edges):
    """Mark both ends of each edge. Returns False at a position without a bit."""
    for edge in range(len(edges)):
        for end in range(2):
            position = np.uint64(edges[edge, end])
            if position >> np.uint64(6) >= np.uint64(len(bits)):
                return False
            bits[position >> np.uint64(6)] |= np.uint64(1) << (position & np.uint64(63))
    return True


@kernel
def _count_before(bits, before):
    count = np.uint64(0)
    for word in range(len(bits)):
        before[word] = count
        count += np.uint64(count_ones(bits[word]))


@inner_kernel
def _number(bits, before, position):
    """The number of the candidate at a position, which is the number of candidates before it."""
    word = position >> np.uint64(6)
    below = (np.uint64(1) << (position & np.uint64(63))) - np.uint64(1)
    return np.uint64(before[word]) + np.uint64(count_ones(bits[word] & below))


@inner_kernel
def _is_marked(bits, position):
    word = position >> np.uint64(6)
    return word < np.uint64(len(bits)) and (bits[word] >> (position & np.uint64(63))) & np.uint64(1) != 0


@kernel
def _connect(parents, bits, before, edges):
    """Join the components of both ends of each edge. Returns False at an end that is no candidate.

    The root of a component is its smallest candidate.
    """
    for edge in range(len(edges)):
        if not (_is_marked(bits, np.uint64(edges[edge, 0])) and _is_marked(bits, np.uint64(edges[edge, 1]))):
            return False
        one = _number(bits, before, np.uint64(edges[edge, 0]))
        other = _number(bits, before, np.uint64(edges[edge, 1]))
        root, other_root = np.uint64(parents[one]), np.uint64(parents[other])
        if root == other_root:  # most edges are between documents that share several keys
            continue
        while parents[root] != root:
            parents[root] = parents[parents[root]]
            root = np.uint64(parents[root])
        while parents[other_root] != other_root:
            parents[other_root] = parents[parents[other_root]]
            other_root = np.uint64(parents[other_root])
        least = min(root, other_root)
        parents[root] = parents[other_root] = least
        parents[one] = parents[other] = least
    return True


@kernel
def _number_components(parents):
    """Replace the parent of each candidate by the number of its component; returns how many components there are.

    A parent has a smaller number than its children, so it was replaced before them.
    """
    count = 0
    for candidate in range(len(parents)):
        if parents[candidate] == candidate:
            parents[candidate] = count
            count += 1
        else:
            parents[candidate] = parents[parents[candidate]]
    return count


@kernel
def _add_sizes(components, sizes):
    for candidate in range(len(components)):
        sizes[components[candidate]] += 1


@kernel
def _fill(sizes, batches, size, counts):
    """Write the batch of each component, and the candidates of each batch; returns how many batches there are.

    batches may be the memory of sizes.
    """
    batch, filled = 0, np.int64(0)
    for component in range(len(sizes)):
        if filled >= size:
            batch += 1
            filled = np.int64(0)
        filled += np.int64(sizes[component])
        counts[batch] = filled
        batches[component] = batch
    return batch + (filled > 0)
