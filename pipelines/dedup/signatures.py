"""MinHash signatures of word shingles, bit for bit those of datasketch 2.0's `MinHash(scheme="affine32")`.

A shingle is `ngram_words` tokens in a row (text/tokens.py), hashed to 32 bits; so documents that differ only in
punctuation or case have equal signatures. A datasketch MinHash of these hashes (`update_batch`, `hashfunc=int`) holds
the same values:

    h = fmix32(shingle);  signature[k] = min over shingles of (a[k] * h + b[k]) mod 2^32

A document with fewer distinct shingles than signature columns may keep their set instead (sketches.py).

The share of equal columns of two signatures estimates the Jaccard similarity of their shingle sets, with a standard
error of sqrt(J(1-J)/H): 0.038 at J = 0.8 and H = 112.
Sources: Broder 1997; Austin Appleby's MurmurHash3 finaliser (public domain); datasketch issue 212 for the family.
"""

import numpy as np

from pipelines.text import characters
from pipelines.text.instructions import copy
from pipelines.text.kernel import inner_kernel, kernel, read_only
from pipelines.text.texts import Texts
from pipelines.text.tokens import PRIME, mix, next_token

SIGNATURES_VERSION = "2"

_BLOCK = 512  # shingles hashed before the permutations run over them: 2 KB, in the first cache

_SLOTS_PER_HASH = 4  # slots of the hash table that finds a document's distinct shingles
_EMPTY = np.uint64(1 << 32)  # the value of an empty slot, above every hash


def permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b): uint32[H] each, a odd, drawn as datasketch draws them from `seed`."""
    generator = np.random.RandomState(seed)
    a = generator.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = generator.randint(0, 1 << 32, count, dtype=np.uint32)
    return a, b


def signatures(texts: Texts, ngram_words: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """MinHash signatures of D documents.

    Args:
        ngram_words: tokens of a shingle, at least 1.
        a, b: uint32[H] from `permutations`.

    Returns:
        signatures uint32[D, H] and token counts int64[D]. A document of fewer than `ngram_words` tokens has no shingle
        and 2^32 - 1 in every column: compare such documents by exact text only.
    """
    words, starts, tokens = signatures_or_sets(texts, ngram_words, a, b, exact_short=False)
    return signatures_of(words, starts, a, b), tokens


def signatures_or_sets(
    texts: Texts, ngram_words: int, a: np.ndarray, b: np.ndarray, *, exact_short: bool, symbols: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `signatures`; with exact_short, the shingle set of documents with fewer than H distinct shingles instead.

    symbols: punctuation and symbols are tokens of one character.

    Returns:
        words uint32[W], starts int64[D + 1] and token counts int64[D]. Document d has words[starts[d]:starts[d + 1]]:
        H words are its signature, fewer are its distinct shingle hashes, sorted; without a shingle it has none.
    """
    flags, lower = characters.tables()
    flags = characters.flags_with_symbols() if symbols else flags
    words = np.empty(len(texts) * len(a), np.uint32)
    starts = np.zeros(len(texts) + 1, np.int64)
    tokens = np.zeros(len(texts), np.int64)
    slot_bits = max(_SLOTS_PER_HASH * len(a) - 1, 1).bit_length()
    slots = np.empty((1 << slot_bits) + len(a), np.uint64)
    hashes = np.empty(int(texts.byte_lengths.max(initial=0)) + 1, np.uint32)
    ring = np.empty(ngram_words, np.uint64)
    _sign(
        texts.data, texts.offsets, flags, lower, a, b, exact_short, words, starts, tokens,
        hashes, slots, slot_bits, ring,
    )  # fmt: skip
    return words[: starts[-1]], starts, tokens


def signatures_of(
    words: np.ndarray, starts: np.ndarray, a: np.ndarray, b: np.ndarray, found: np.ndarray | None = None
) -> np.ndarray:
    """uint32[D, H]: the signatures of documents given as signatures or sets, as signatures_or_sets returns them.

    found: where to write them.
    """
    if found is None:
        found = np.empty((len(starts) - 1, len(a)), np.uint32)
    _sign_sets(read_only(words), starts, a, b, found, np.empty(len(a), np.uint32))
    return found


def band_keys(
    words: np.ndarray, starts: np.ndarray, documents: np.ndarray, bands: int, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """uint64[N, bands]: a 64-bit hash of the signature columns of each band, for N documents.

    Args:
        words, starts: all documents, as for `signatures_of`. documents: int64[N], the numbers of those wanted.
        bands: number of bands, a divisor of H.
    """
    keys = np.empty((len(documents), bands), np.uint64)
    _hash_bands(read_only(words), starts, documents, a, b, np.empty((2, len(a)), np.uint32), keys)
    return keys


@kernel
def _sign(
    data, offsets, flags, lower, a, b, exact_short, words, starts, tokens, hashes, slots, slot_bits, ring
):  # fmt: skip
    """Fill words, starts and tokens. hashes, slots, ring: scratch, for the shingles of the longest document."""
    columns = len(a)
    end = 0
    for document in range(len(offsets) - 1):
        count, seen = shingles(data, offsets[document], offsets[document + 1], flags, lower, hashes, ring)
        tokens[document] = seen
        row = words[end : end + columns]
        size = columns if count else 0
        if exact_short:
            size = _sorted_set(hashes[:count], slots, slot_bits, row)
        if size == columns:
            _minima(hashes[:count], a, b, row)
        end += size
        starts[document + 1] = end


@kernel
def _sign_sets(words, starts, a, b, found, hashes):
    """Fill `found` with signatures. hashes: scratch, uint32[H]."""
    for document in range(len(starts) - 1):
        _signature(words, starts[document], starts[document + 1], a, b, hashes, found[document])


@inner_kernel
def _signature(words, start, end, a, b, hashes, row):
    """Write to `row` the signature of the document with words[start:end]. hashes: scratch, uint32[H]."""
    if end - start == len(row):
        copy(words, start, end, row, 0)
    else:
        copy(words, start, end, hashes, 0)
        _minima(hashes[: end - start], a, b, row)


@inner_kernel
def _sorted_set(hashes, slots, slot_bits, found):
    """Write the distinct hashes to `found`, sorted. Returns their number, or len(found) if there are at least as many.

    The first slot of a hash in the table is given by its highest bits, and hashes are inserted in order, so the table
    is sorted. slots: scratch, uint64[2^slot_bits + len(found)].
    """
    for slot in range(len(slots)):
        slots[slot] = _EMPTY
    count = 0
    for at in range(len(hashes)):
        value = np.uint64(hashes[at])
        slot = np.int64(hashes[at]) >> (32 - slot_bits)
        while slots[slot] < value:
            slot += 1
        if slots[slot] == value:
            continue
        count += 1
        if count == len(found):
            return count
        while value != _EMPTY:  # move the larger ones up
            slots[slot], value = value, slots[slot]
            slot += 1
    count = 0
    for slot in range(len(slots)):
        value = slots[slot]
        found[count] = np.uint32(value)  # of an empty slot: overwritten by the next
        count += value != _EMPTY
    return count


@inner_kernel
def _minima(hashes, a, b, row):
    """Write the signature of the shingles `hashes` to `row`. Overwrites `hashes`."""
    for at in range(len(hashes)):
        hashes[at] = _fmix32(hashes[at])
    for k in range(len(row)):
        row[k] = np.uint32(0xFFFFFFFF)
    # The inner loop runs over a block of shingles: one multiply, add and minimum per lane, and no stores.
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : min(start + _BLOCK, len(hashes))]
        for k in range(len(a)):
            row[k] = min(row[k], _smallest(block, a[k], b[k]))


@inner_kernel
def _fmix32(h):
    # numba computes unsigned 32-bit products in 64 bits, so each product is truncated.
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@inner_kernel
def _smallest(block, a, b):
    least = np.uint32(0xFFFFFFFF)
    for at in range(len(block)):
        least = min(least, np.uint32(a * block[at] + b))
    return least


@inner_kernel
def shingles(data, start, end, flags, lower, hashes, ring):
    """Fill `hashes` with the document's shingles; returns (shingles, tokens). One pass, without a list of tokens.

    ring: scratch, uint64[ngram_words], for the hashes of the last tokens. A shingle's hash is a rolling hash: the
    polynomial of these.
    """
    ngram_words = len(ring)
    leaving = PRIME  # the power by which the oldest token is multiplied when it leaves the ring
    for place in range(ngram_words):
        ring[place] = 0
        leaving *= PRIME
    rolling = np.uint64(0)
    slot = 0
    seen = 0
    count = 0
    at = start
    while True:
        token, begin, _, at = next_token(data, at, end, flags, lower)
        if begin == end:
            return count, seen
        rolling = (rolling + token) * PRIME - ring[slot] * leaving
        ring[slot] = token
        slot = slot + 1 if slot + 1 < ngram_words else 0
        seen += 1
        if seen >= ngram_words:
            hashes[count] = np.uint32(mix(rolling) >> np.uint64(32))
            count += 1


@kernel
def _hash_bands(words, starts, documents, a, b, scratch, keys):
    """Fill `keys`. scratch: uint32[2, H], for a signature and a set."""
    bands, row = keys.shape[1], scratch[0]
    rows_per_band = len(row) // bands
    for at in range(len(documents)):
        document = documents[at]
        _signature(words, starts[document], starts[document + 1], a, b, scratch[1], row)
        # A polynomial of the columns with an odd factor, modulo 2^64.
        for band in range(bands):
            value = np.uint64(band + 1) * PRIME
            for column in range(band * rows_per_band, (band + 1) * rows_per_band):
                value = (value + np.uint64(row[column])) * PRIME
            keys[at, band] = mix(value)
