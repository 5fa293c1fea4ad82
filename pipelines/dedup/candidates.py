"""Candidates for deduplication: documents that share a key with another one, found from pairs of key and document.

A pair is one number: the highest 44 bits of a key, and below them the number of a document in its range of at most 2^20
documents. Two different keys have equal highest bits with a probability of 2^-44, which costs one more comparison.

Pairs are distributed over buckets by their keys, so that the pairs of a bucket and a hash table of its keys stay in the
processor's cache. The first document of a key is kept in the table; each later one makes an edge to it. So n documents
of a key have n - 1 edges, which connect them; the search for components needs no more.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from raymill.cluster.errors import DataError
from raymill.pipelines.dedup.components import CHANGED
from raymill.pipelines.text.kernel import inner_kernel, kernel, read_only

LOCAL_BITS = 20
_NUMBER = np.uint64((1 << LOCAL_BITS) - 1)  # the bits of the document's number
_BUCKET_PAIRS = 1 << 13
_MOST_BUCKETS = 1 << 12  # with more, a cache line of each does not fit into the processor's cache
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def edges_within(tables: Sequence[tuple[np.ndarray, np.ndarray]], slices: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Find the documents of one range that share a key.

    Args:
        tables: (keys uint64[D, K], numbers int64[D] of the documents in their range, below 2^20) of its parts.
        slices: number of equal parts of the space of keys.

    Returns:
        edges int64[E, 2] between numbers, which form a forest; and for each slice the pairs uint64[P], one per key.
    """
    documents, count = sum(len(keys) for keys, _ in tables), sum(keys.size for keys, _ in tables)
    buckets = slices * max(1, min(_MOST_BUCKETS, count // _BUCKET_PAIRS) // slices)
    starts = _starts([keys for keys, _ in tables], 0, buckets, buckets)
    pairs, placed = np.empty(count, np.uint64), starts[:-1].copy()
    for keys, numbers in tables:
        _place_keys(keys, numbers, placed, pairs)
    parents, ends = np.arange(1 << LOCAL_BITS, dtype=np.uint32), np.empty(buckets, np.int64)
    edges = np.empty((documents, 2), np.int64)  # a forest has fewer edges than documents
    edges = edges[: _edges_of_range(pairs, starts, ends, parents, *_tables(starts), edges)].copy()
    return edges, [pairs[start:end] for start, end in pairwise([0, *ends[buckets // slices - 1 :: buckets // slices]])]


def shared_keys(keys: np.ndarray, numbers: np.ndarray, documents: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The keys that at least two of C documents have, for the comparison.

    Args:
        keys: uint64[S, K], of the documents that have keys; a key that a document has twice counts once.
        numbers: int64[S], of these documents among all. documents: C.

    Returns:
        starts int64[C + 1], ids int64[I], count: document c has the shared keys ids[starts[c]:starts[c + 1]], all below
        `count`. Only the highest bits of keys are compared, at least 64 - max(20, log2 C) of them.
    """
    bits = np.uint64(max(LOCAL_BITS, documents.bit_length()))
    pairs = keys >> bits
    pairs <<= bits
    pairs |= numbers.view(np.uint64)[:, None]
    pairs = pairs.ravel()
    pairs.sort()
    ids, starts = np.full(len(pairs), -1, np.int64), np.zeros(documents + 2, np.int64)
    found = np.empty(len(pairs), np.int64)
    count = _shared(pairs, bits, ids, starts, found)
    return starts[:-1], found[: starts[-1]].copy(), count


def edges_between(ranges: Sequence[np.ndarray], firsts: np.ndarray, number: int, slices: int) -> np.ndarray:
    """int64[E, 2]: edges between the positions of documents of several ranges that share a key.

    Args:
        ranges: for each range the pairs uint64[P] of one slice of the keys.
        firsts: int64[R], position of the first document of each range.
        number, slices: the slice's number, and how many slices there are.

    Raises:
        DataError: a pair belongs to another slice.
    """
    count = sum(map(len, ranges))
    buckets = max(1, min(_MOST_BUCKETS, count // _BUCKET_PAIRS, (1 << LOCAL_BITS) // slices))
    lowest, all_buckets = number * buckets, slices * buckets
    for pairs in filter(len, ranges):
        if _bucket(pairs.min(), all_buckets) < lowest or _bucket(pairs.max(), all_buckets) >= lowest + buckets:
            raise DataError(CHANGED)
    starts = _starts([pairs.reshape(-1, 1) for pairs in ranges], lowest, all_buckets, buckets)
    placed, ends = np.empty((count, 2), np.uint64), starts[:-1].copy()
    for pairs, first in zip(ranges, firsts, strict=True):
        _place_pairs(read_only(pairs), first, lowest, all_buckets, ends, placed)
    return placed[: _edges_of_slice(placed, starts, *_tables(starts))].view(np.int64)


def _starts(keys: Iterable[np.ndarray], lowest: int, all_buckets: int, buckets: int) -> np.ndarray:
    """int64[B + 1]: where the keys of each of B buckets begin if they are put in order, and where they all end.

    keys: arrays uint64[D, K], of keys or pairs in the B buckets from `lowest` on, of `all_buckets` equal ones.
    """
    counts = np.zeros(buckets, np.int64)
    for some in keys:
        _count_keys(read_only(some), lowest, all_buckets, counts)
    return np.concatenate([[0], np.cumsum(counts)])


def _tables(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(keys, owners): hash tables that are large enough for the largest bucket."""
    size = _table_size(int(np.diff(starts).max()))
    return np.empty(size, np.uint64), np.empty(size, np.uint64)


@kernel
def _shared(pairs, bits, ids, starts, found):
    """As shared_keys: fills found and starts[:-1], returns `count`. The last of `starts` is the length of `found`.

    pairs: uint64[P], sorted, the number of a document in the lowest `bits`. ids: scratch, int64[P], -1. starts:
    int64[C + 2], 0.
    """
    mask = (np.uint64(1) << bits) - np.uint64(1)
    documents, count = len(starts) - 2, 0
    first = 0
    while first < len(pairs):
        key, several, end = pairs[first] >> bits, False, first
        while end < len(pairs) and pairs[end] >> bits == key:
            several |= pairs[end] != pairs[first]
            end += 1
        if several:
            for at in range(first, end):
                if at == first or pairs[at] != pairs[at - 1]:
                    ids[at] = count
                    starts[np.int64(pairs[at] & mask) + 2] += 1
            count += 1
        first = end
    for document in range(documents):
        starts[document + 2] += starts[document + 1]
    for at in range(len(pairs)):
        if ids[at] >= 0:
            holder = np.int64(pairs[at] & mask)
            found[starts[holder + 1]] = ids[at]
            starts[holder + 1] += 1
    return count


@kernel
def _count_keys(keys, lowest, all_buckets, counts):
    """Add the keys of each bucket to counts int64[B]. Others: as of `_starts`."""
    for document in range(keys.shape[0]):
        for band in range(keys.shape[1]):
            counts[_bucket(keys[document, band], all_buckets) - lowest] += 1


@kernel
def _place_keys(keys, numbers, ends, pairs):
    """Write the pairs of these keys to `pairs`, those of bucket b from ends[b] on, and move the ends: int64[B]."""
    for document in range(len(keys)):
        number = np.uint64(numbers[document])
        for band in range(keys.shape[1]):
            bucket = _bucket(keys[document, band], len(ends))
            pairs[ends[bucket]] = (keys[document, band] & ~_NUMBER) | number
            ends[bucket] += 1


@kernel
def _place_pairs(pairs, first, lowest, all_buckets, ends, placed):
    """Write pairs of one range and the positions of their documents to placed uint64[P, 2], as `_place_keys` does.

    first: position of the first document of the range. lowest, all_buckets: as of `_starts`.
    """
    for at in range(len(pairs)):
        bucket = _bucket(pairs[at], all_buckets) - lowest
        placed[ends[bucket], 0] = pairs[at]
        placed[ends[bucket], 1] = np.uint64(first) + (pairs[at] & _NUMBER)
        ends[bucket] += 1


@inner_kernel
def _bucket(pair, buckets):
    """The bucket of a key or pair. buckets: number of equal parts of the space of keys, at most 2^LOCAL_BITS."""
    return np.int64((pair >> np.uint64(LOCAL_BITS)) * np.uint64(buckets) >> np.uint64(64 - LOCAL_BITS))


@kernel
def _edges_of_range(pairs, starts, ends, parents, keys, owners, edges):
    """Fill edges int64[E, 2] and ends int64[B], return E. Pairs that stay are moved together, to the front of `pairs`.

    ends: end of the pairs of each bucket that stay. parents: scratch, uint32[2^LOCAL_BITS], each its own index. keys,
    owners: scratch, a hash table.
    """
    count = kept = 0
    for bucket in range(len(starts) - 1):
        size = _clear(keys, starts[bucket + 1] - starts[bucket])
        for at in range(starts[bucket], starts[bucket + 1]):
            pair = pairs[at]
            slot = _slot(keys, size, pair | _NUMBER)
            if keys[slot] == 0:
                keys[slot], owners[slot] = pair | _NUMBER, pair & _NUMBER
                pairs[kept] = pair
                kept += 1
            else:
                one, other = _root(parents, owners[slot]), _root(parents, pair & _NUMBER)
                if one != other:
                    parents[max(one, other)] = min(one, other)
                    edges[count, 0], edges[count, 1] = owners[slot], pair & _NUMBER
                    count += 1
        ends[bucket] = kept
    return count


@kernel
def _edges_of_slice(placed, starts, keys, owners):
    """Write the edges over the pairs: placed[e] is edge e. Returns their number. keys, owners: a hash table."""
    count = 0
    for bucket in range(len(starts) - 1):
        size = _clear(keys, starts[bucket + 1] - starts[bucket])
        for at in range(starts[bucket], starts[bucket + 1]):
            key, position = placed[at, 0] | _NUMBER, placed[at, 1]
            slot = _slot(keys, size, key)
            if keys[slot] == 0:
                keys[slot], owners[slot] = key, position
            else:
                placed[count, 0], placed[count, 1] = owners[slot], position
                count += 1
    return count


@inner_kernel
def _table_size(count):
    """The size of a hash table for `count` keys, a power of two."""
    size = 1024
    while size < 2 * count:
        size *= 2
    return size


@inner_kernel
def _clear(keys, count):
    """Empty the first slots of a hash table, enough for `count` keys; returns their number."""
    size = _table_size(count)
    for slot in range(size):
        keys[slot] = 0
    return size


@inner_kernel
def _slot(keys, size, key):
    """The slot of a key among the first `size`, or the empty one where it would be. 0 is an empty slot and no key."""
    slot = np.int64(key * _MULTIPLIER >> np.uint64(32)) & (size - 1)
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & (size - 1)
    return slot


@inner_kernel
def _root(parents, at):
    """The root of a tree; halves the paths to it."""
    while parents[at] != at:
        parents[at] = parents[parents[at]]
        at = np.uint64(parents[at])
    return np.uint64(at)
