"""MinHash signatures of word shingles, bit for bit those of datasketch 2.0's `MinHash(scheme="affine32")`.

A shingle is `ngram_words` tokens in a row (text/tokens.py), hashed to 32 bits; so documents that differ only in
punctuation or case have equal signatures. A datasketch MinHash of these hashes (`update_batch`, `hashfunc=int`) holds
the same values:

    h = fmix32(shingle);  signature[k] = min over shingles of (a[k] * h + b[k]) mod 2^32

A sketch is the signature of a document, or of a short one its set of shingles. A document is short if it has fewer
distinct shingles than a signature has columns (H). Its set takes less room than a signature and gives the exact Jaccard
similarity with another short document. The signature and the band keys of a short document are computed from its set. H
words are a signature, fewer are a set: a document with exactly H shingles has a signature.

Two different shingles have the same 32-bit hash with a probability of 2^-32. Two sets of fewer than 112 have at most
222 shingles together, so for one pair of documents in 175,000 the similarity is wrong, by about 0.01.

The share of equal columns of two signatures estimates the Jaccard similarity of their shingle sets, with a standard
error of sqrt(J(1-J)/H): 0.038 at J = 0.8 and H = 112.
Sources: Broder 1997; Austin Appleby's MurmurHash3 finaliser (public domain); datasketch issue 212 for the family.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.errors import DataError
from raymill.pipelines.text import characters
from raymill.pipelines.text.instructions import copy
from raymill.pipelines.text.kernel import inner_kernel, kernel, read_only
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import PRIME, mix, next_token

SIGNATURES_VERSION = "2"

_BLOCK = 512  # shingles hashed before the permutations run over them: 2 KB, in the first cache

_SLOTS_PER_HASH = 4  # slots of the hash table that finds a document's distinct shingles
_EMPTY = np.uint64(1 << 32)  # the value of an empty slot, above every hash

# Bytes of a signature or set: little-endian uint32, one after the other; null for a document without a shingle.
SKETCH_TYPE = pa.large_binary()


def permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b): uint32[H] each, a odd, drawn as datasketch draws them from `seed`."""
    generator = np.random.RandomState(seed)
    a = generator.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = generator.randint(0, 1 << 32, count, dtype=np.uint32)
    return a, b


@dataclass(frozen=True)
class Sketches:
    """Sketches of D documents, with H signature columns.

    words: uint32[W]. starts: int64[D + 1]: document d has words[starts[d]:starts[d + 1]]. H words are its signature,
    fewer are its distinct shingle hashes, sorted; a document without a shingle has none.
    """

    words: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(
        cls, texts: Texts, ngram_words: int, a: np.ndarray, b: np.ndarray, *, exact_short: bool, symbols: bool = False
    ) -> tuple["Sketches", np.ndarray]:
        """(sketches of D texts, token counts int64[D]).

        Args:
            ngram_words: tokens of a shingle, at least 1. A text of fewer tokens has no shingle: compare such texts by
                exact text only.
            a, b: uint32[H] from `permutations`.
            exact_short: texts with fewer than H distinct shingles have their set; else all have signatures.
            symbols: punctuation and symbols are tokens of one character.
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
        return cls(words[: starts[-1]], starts), tokens

    @classmethod
    def from_column(cls, column: pa.ChunkedArray, columns: int) -> "Sketches":
        """Read the column `signature` of the attributes. columns: H.

        Raises:
            DataError: it holds no sketches, or one of more than H words. The kernels do not check lengths, and the
                attributes can be those of a run that somebody else made.
        """
        if column.type != SKETCH_TYPE:
            raise _changed(f"has the type {column.type}; wanted {SKETCH_TYPE}")
        parts, lengths = [np.empty(0, np.uint32)], [np.zeros(1, np.int64)]
        for chunk in filter(len, column.chunks):
            offsets = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            if (offsets % 4).any() or np.diff(offsets).max() > 4 * columns:
                raise _changed(f"has a value that is not of at most {columns} numbers of 4 bytes")
            starts = offsets // 4
            parts.append(np.frombuffer(chunk.buffers()[2], "<u4")[starts[0] : starts[-1]])
            lengths.append(np.diff(starts))
        # One chunk is not copied, since sketches are large.
        words = parts[1] if len(parts) == 2 else np.concatenate(parts)
        return cls(words, np.cumsum(np.concatenate(lengths)))

    def to_column(self) -> pa.Array:
        """The column `signature` of the attributes."""
        count = len(self.starts) - 1
        data = [None, pa.py_buffer(self.starts * 4), pa.py_buffer(self.words.astype("<u4", copy=False))]
        column = pa.Array.from_buffers(SKETCH_TYPE, count, data)
        return pc.if_else(pa.array(self.signed), column, pa.scalar(None, SKETCH_TYPE))

    @property
    def signed(self) -> np.ndarray:
        """bool[D]: whether each document has a shingle."""
        return np.diff(self.starts) > 0

    def signatures(self, a: np.ndarray, b: np.ndarray, found: np.ndarray | None = None) -> np.ndarray:
        """uint32[D, H]: the signature of every document, 2^32 - 1 in every column for one without a shingle.

        found: where to write them.
        """
        if found is None:
            found = np.empty((len(self.starts) - 1, len(a)), np.uint32)
        _sign_sets(read_only(self.words), self.starts, a, b, found, np.empty(len(a), np.uint32))
        return found

    def band_keys(self, documents: np.ndarray, bands: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """uint64[N, bands]: a 64-bit hash of the signature columns of each band, for N documents.

        documents: int64[N], their numbers. bands: a divisor of H.
        """
        keys = np.empty((len(documents), bands), np.uint64)
        _hash_bands(read_only(self.words), self.starts, documents, a, b, np.empty((2, len(a)), np.uint32), keys)
        return keys

    def sets(self, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """(uint32[S], int64[D + 1]): words and starts with the sets only; empty for documents with a signature.

        columns: H.
        """
        lengths = np.diff(self.starts)
        is_set = lengths < columns
        return self.words[np.repeat(is_set, lengths)], np.concatenate([[0], np.cumsum(lengths * is_set)])


def _changed(what: str) -> DataError:
    return DataError(
        f"attributes: the column signature {what}. The attributes of this run, or of one that dedup.against names, "
        "were changed after they were written: make that run again at another output."
    )


# --- kernels


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
