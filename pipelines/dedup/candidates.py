"""Candidates for deduplication: documents that share a key with another one, found by pairs of key and document.

A pair is one number: the highest 44 bits of a key, and below them the number of a document in its range of at most 2^20
documents. Two different keys have equal highest bits with a probability of 2^-44; then two documents more are compared.

Pairs are distributed over buckets by their keys, so that the pairs of a bucket and a hash table of its keys stay in the
processor's cache. The first document of a key is kept in the table; each later one makes an edge to it. Edges connect
the documents of a key, which is all that the search for components needs: a key of n documents has n - 1 edges.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.text.kernel import kernel

LOCAL_BITS = 20
_NUMBER = np.uint64((1 << LOCAL_BITS) - 1)  # the bits of the document's number
_BUCKET_PAIRS = 1 << 13
_MOST_BUCKETS = 1 << 12  # more open lines than these miss the cache
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def edges_within(keys: np.ndarray, numbers: np.ndarray, slices: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Find the documents of one range that share a key.

    Args:
        keys: uint64[D, K]. numbers: int64[D], of the documents in their range, below 2^20.
        slices: number of equal parts of the space of keys.

    Returns:
        edges int64[E, 2] between numbers, which form a forest; and by slice the pairs uint64[P], one of each key.
    """
    buckets = slices * max(1, min(_MOST_BUCKETS, keys.size // _BUCKET_PAIRS) // slices)
    pairs, starts = _distribute_keys(keys, numbers, buckets)
    edges, ends = _edges_of_range(pairs, starts)
    per_slice = buckets // slices
    found = [
        np.concatenate([pairs[starts[bucket] : ends[bucket]] for bucket in range(first, first + per_slice)])
        for first in range(0, buckets, per_slice)
    ]
    return edges, found


def shared_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The keys that at least two of C documents have, for the comparison.

    Args:
        keys: uint64[C, K]; a key that a document has twice counts once.

    Returns:
        starts int64[C + 1], ids int64[I], count: document c has the shared keys ids[starts[c]:starts[c + 1]], all below
        `count`. Only the highest bits of keys are compared, at least 64 - max(20, log2 C) of them.
    """
    bits = np.uint64(max(LOCAL_BITS, len(keys).bit_length()))
    pairs = (keys >> bits << bits | np.arange(len(keys), dtype=np.uint64)[:, None]).ravel()
    pairs.sort()
    return _shared(pairs, bits, len(keys))


def edges_between(ranges: Sequence[np.ndarray], firsts: np.ndarray, number: int, slices: int) -> np.ndarray:
    """int64[E, 2]: edges between the positions of documents of several ranges that share a key.

    Args:
        ranges: for each range the pairs uint64[P] of one slice of the keys.
        firsts: int64[R], position of the first document of each range.
        number, slices: which slice of how many.
    """
    pairs = np.concatenate([*ranges, np.empty(0, np.uint64)])
    ends = np.cumsum([len(one) for one in ranges])
    buckets = max(1, min(_MOST_BUCKETS, len(pairs) // _BUCKET_PAIRS, (1 << LOCAL_BITS) // slices))
    placed, starts = _distribute_pairs(pairs, ends, firsts, number * buckets, buckets, slices * buckets)
    return np.ascontiguousarray(placed[:, : _edges_of_slice(placed, starts)].T).view(np.int64)


@kernel
def _shared(pairs, bits, documents):
    """As shared_keys. pairs: uint64[P], sorted, the number of a document in the lowest `bits`."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    ids, starts, count = np.full(len(pairs), -1, np.int64), np.zeros(documents + 2, np.int64), 0
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
    found = np.empty(starts[documents + 1], np.int64)
    for at in range(len(pairs)):
        if ids[at] >= 0:
            holder = np.int64(pairs[at] & mask)
            found[starts[holder + 1]] = ids[at]
            starts[holder + 1] += 1
    return starts[: documents + 1], found, count


@kernel
def _distribute_keys(keys, numbers, buckets):
    """(pairs uint64[P], starts int64[buckets + 1]): bucket b has pairs[starts[b]:starts[b + 1]]."""
    starts = np.zeros(buckets + 1, np.int64)
    for document in range(len(keys)):
        for key in keys[document]:
            starts[_bucket(key, buckets) + 1] += 1
    for bucket in range(buckets):
        starts[bucket + 1] += starts[bucket]
    ends = starts[:-1].copy()
    pairs = np.empty(keys.size, np.uint64)
    for document in range(len(keys)):
        number = np.uint64(numbers[document])
        for key in keys[document]:
            bucket = _bucket(key, buckets)
            pairs[ends[bucket]] = (key & ~_NUMBER) | number
            ends[bucket] += 1
    return pairs, starts


@kernel
def _distribute_pairs(pairs, range_ends, firsts, lowest, buckets, all_buckets):
    """(placed uint64[2, P]: pairs, and the position of each one's document; starts int64[buckets + 1]), by bucket.

    The space of keys has `all_buckets` equal buckets, and the pairs are of the `buckets` from `lowest` on. range_ends,
    firsts: int64[R], end of each range's pairs, and the position of its first document.
    """
    starts = np.zeros(buckets + 1, np.int64)
    for pair in pairs:
        starts[_bucket(pair, all_buckets) - lowest + 1] += 1
    for bucket in range(buckets):
        starts[bucket + 1] += starts[bucket]
    ends = starts[:-1].copy()
    placed = np.empty((2, len(pairs)), np.uint64)
    at = 0
    for number in range(len(range_ends)):
        first = np.uint64(firsts[number])
        while at < range_ends[number]:
            pair = pairs[at]
            bucket = _bucket(pair, all_buckets) - lowest
            placed[0, ends[bucket]] = pair
            placed[1, ends[bucket]] = first + (pair & _NUMBER)
            ends[bucket] += 1
            at += 1
    return placed, starts


@kernel
def _bucket(pair, buckets):
    """The bucket of a key, or of a pair's key, of so many equal ones, at most 2^LOCAL_BITS."""
    return np.int64((pair >> np.uint64(LOCAL_BITS)) * np.uint64(buckets) >> np.uint64(64 - LOCAL_BITS))


@kernel
def _edges_of_range(pairs, starts):
    """(edges int64[E, 2], ends int64[B]): the pairs that stay in bucket b are moved to pairs[starts[b] : ends[b]]."""
    parents = np.arange(1 << LOCAL_BITS).astype(np.uint32)
    edges, count = np.empty((1024, 2), np.int64), 0
    ends = np.empty(len(starts) - 1, np.int64)
    keys, owners = np.empty(0, np.uint64), np.empty(0, np.uint64)
    for bucket in range(len(starts) - 1):
        keys, owners = _cleared(keys, owners, starts[bucket + 1] - starts[bucket])
        kept = starts[bucket]
        for at in range(starts[bucket], starts[bucket + 1]):
            pair = pairs[at]
            slot = _slot(keys, pair | _NUMBER)
            if keys[slot] == 0:
                keys[slot], owners[slot] = pair | _NUMBER, pair & _NUMBER
                pairs[kept] = pair
                kept += 1
            else:
                one, other = _root(parents, owners[slot]), _root(parents, pair & _NUMBER)
                if one != other:
                    parents[max(one, other)] = min(one, other)
                    if count == len(edges):
                        longer = np.empty((2 * count, 2), np.int64)
                        longer[:count] = edges
                        edges = longer
                    edges[count, 0], edges[count, 1] = owners[slot], pair & _NUMBER
                    count += 1
        ends[bucket] = kept
    return edges[:count], ends


@kernel
def _edges_of_slice(placed, starts):
    """Write the edges over the pairs: placed[:, e] is edge e. Returns their number."""
    count = 0
    keys, owners = np.empty(0, np.uint64), np.empty(0, np.uint64)
    for bucket in range(len(starts) - 1):
        keys, owners = _cleared(keys, owners, starts[bucket + 1] - starts[bucket])
        for at in range(starts[bucket], starts[bucket + 1]):
            key, position = placed[0, at] | _NUMBER, placed[1, at]
            slot = _slot(keys, key)
            if keys[slot] == 0:
                keys[slot], owners[slot] = key, position
            else:
                placed[0, count], placed[1, count] = owners[slot], position
                count += 1
    return count


@kernel
def _cleared(keys, owners, count):
    """An empty hash table for so many keys: arrays of a power of two, the old ones if they are large enough."""
    size = 1024
    while size < 2 * count:
        size *= 2
    if size > len(keys):
        return np.zeros(size, np.uint64), np.empty(size, np.uint64)
    keys[:] = 0
    return keys, owners


@kernel
def _slot(keys, key):
    """The slot of a key, or the empty one where it would be. A key is never 0, which is an empty slot."""
    slot = np.int64(key * _MULTIPLIER >> np.uint64(32)) & (len(keys) - 1)
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & (len(keys) - 1)
    return slot


@kernel
def _root(parents, at):
    """The root of a tree; halves the paths to it."""
    while parents[at] != at:
        parents[at] = parents[parents[at]]
        at = np.uint64(parents[at])
    return np.uint64(at)
