"""Words of documents as flat arrays, and the words of the `paper` dialect.

A word of the paper dialect is a run of characters between white space (`str.isspace`). In scripts written without
spaces every letter is a word, and a run that mixes scripts is cut where they change. 400 MB/s on one core for technical
documents of 16 kB. The words of the other dialect, `datatrove`, come from datatrove/tokenizer.py in the same arrays.

The hash of a word covers its exact characters, case included. Hashes are compared within one table and never stored.
"""

from dataclasses import dataclass

import numpy as np

from raymill.pipelines.text.characters import ALPHA, SPACE, SYMBOL, UNSPACED, code_point, tables
from raymill.pipelines.text.instructions import empty_table, find_or_insert, slots_for
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts

# Bits of Words.flags.
HAS_ALPHA = 1  # at least one alphabetic character (str.isalpha)
HAS_NON_SYMBOL = 2  # at least one character that is neither punctuation nor a symbol: Gopher counts such words

# FNV-1a (Fowler, Noll, Vo), 64 bits, one multiplication per byte; `mix_hash` follows the last byte.
HASH_SEED = np.uint64(0xCBF29CE484222325)
HASH_PRIME = np.uint64(0x100000001B3)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Words:
    """W words of D documents, in order of the text. Document i has the words starts[i]:starts[i + 1].

    starts: int64[D + 1].
    hashes: uint64[W], equal for equal words.
    lengths: int32[W], in characters.
    flags: uint8[W], the bits above; the datatrove dialect has two more.
    begins: int64[W], first byte of the word in `Texts.data`.
    """

    starts: np.ndarray
    hashes: np.ndarray
    lengths: np.ndarray
    flags: np.ndarray
    begins: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64[D]: words of each document."""
        return np.diff(self.starts)


def split_words(texts: Texts) -> Words:
    """The words of every document in the paper dialect."""
    flags, _ = tables()
    # A word takes at least two bytes: one and a separator, or the three bytes of a letter of an unspaced script.
    return cut_words(texts, _split_runs, 2, _ascii_classes(flags), flags)


def cut_words(texts: Texts, kernel, bytes_per_word: int, *char_tables: np.ndarray) -> Words:
    """Run a splitting kernel: allocate the arrays of Words for the largest possible number of words, fill, shorten.

    kernel: called with data, offsets, the tables, and the five arrays to fill.
    bytes_per_word: the least that a word and the space after it take. Memory pages that the kernel does not reach are
        never mapped, so a large bound costs address space only.
    """
    count = len(texts)
    most = (int(texts.offsets[-1] - texts.offsets[0]) + count) // bytes_per_word + 1
    starts = np.zeros(count + 1, np.int64)
    hashes, begins = np.empty(most, np.uint64), np.empty(most, np.int64)
    lengths, flags = np.empty(most, np.int32), np.empty(most, np.uint8)
    kernel(texts.data, texts.offsets, *char_tables, starts, hashes, lengths, flags, begins)
    total = starts[-1]
    return Words(starts, hashes[:total], lengths[:total], flags[:total], begins[:total])


# Bits of an ASCII character in the kernel.
_SEPARATOR = 1
_ALPHA = 2
_NON_SYMBOL = 4


def _ascii_classes(flags: np.ndarray) -> np.ndarray:
    """uint8[128]: the bits above of each ASCII character."""
    ascii_flags = flags[:128]
    return (
        _SEPARATOR * ((ascii_flags & SPACE) != 0)
        + _ALPHA * ((ascii_flags & ALPHA) != 0)
        + _NON_SYMBOL * ((ascii_flags & SYMBOL) == 0)
    ).astype(np.uint8)


@inner_kernel
def mix_hash(hashed):
    """Finish a hash: mix its bits so that each of them depends on every byte and any of them can index a table."""
    hashed ^= hashed >> _HALF
    hashed *= _SPREAD
    return hashed ^ (hashed >> _HALF)


@inner_kernel
def hash_bytes(data, begin, end):
    """uint64: the hash of the word data[begin:end]."""
    hashed = HASH_SEED
    for at in range(begin, end):
        hashed = (hashed ^ np.uint64(data[at])) * HASH_PRIME
    return mix_hash(hashed)


def hash_each(texts: Texts) -> np.ndarray:
    """uint64[D]: the hash of each document taken as one word."""
    hashes = np.empty(len(texts), np.uint64)
    _hash_each(texts.data, texts.offsets, hashes)
    return hashes


@kernel
def _hash_each(data, offsets, hashes):
    for index in range(len(hashes)):
        hashes[index] = hash_bytes(data, offsets[index], offsets[index + 1])


@kernel
def _split_runs(data, offsets, ascii_classes, char_flags, starts, hashes, lengths, word_flags, begins):
    """Fill the arrays of Words with the words of the paper dialect."""
    word = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            begin = at
            hashed = HASH_SEED
            length = 0
            seen = 0
            while at < end:
                byte = data[at]
                if byte < 0x80:
                    kind = ascii_classes[byte]
                    if kind & _SEPARATOR:
                        break
                    hashed = (hashed ^ np.uint64(byte)) * HASH_PRIME
                    seen |= kind
                    at += 1
                    length += 1
                    continue
                point, width = code_point(data, at)
                bits = char_flags[point]
                if bits & SPACE or (bits & UNSPACED and length > 0):
                    break
                for offset in range(width):
                    hashed = (hashed ^ np.uint64(data[at + offset])) * HASH_PRIME
                seen |= (_ALPHA if bits & ALPHA else 0) | (_NON_SYMBOL if not bits & SYMBOL else 0)
                at += width
                length += 1
                if bits & UNSPACED:
                    break
            if length > 0:
                hashes[word] = mix_hash(hashed)
                lengths[word] = length
                word_flags[word] = (HAS_ALPHA if seen & _ALPHA else 0) | (HAS_NON_SYMBOL if seen & _NON_SYMBOL else 0)
                begins[word] = begin
                word += 1
            else:
                at += 1 if data[at] < 0x80 else code_point(data, at)[1]
        starts[document + 1] = word


# --- Repetition of word n-grams inside documents, for n = 2 to 10, in Gopher's two measures.
#
#     top_n         characters in the most frequent n-gram: its length with single spaces between the words, times its
#                   occurrences, overlapping ones included; the first one among equally frequent
#     duplicated_n  characters in n-grams that repeat an earlier one, without spaces. The scan goes from left to right:
#                   a repeated n-gram is counted and skipped as a whole, any other moves the scan on by one word
#
# An n-gram is a sequence of words: "ab c" and "a bc" differ.
#
# An n-gram can repeat only if both (n-1)-grams in it repeat. So each n examines only positions at which the (n-1)-gram
# repeats. The key of an n-gram is the pair of its two parts' table slots: exact for n >= 3, a 64-bit hash for n = 2.
# Text without repetition costs one table access per word for all nine n together.


TOP_N = (2, 3, 4)
DUPLICATED_N = (5, 6, 7, 8, 9, 10)

_PAIR = np.uint64(0xD6E8FEB86659FD93)  # any odd multiplier: (a, b) and (b, a) get different keys
_LEFT = np.uint64(32)


def count_ngram_repetition(words: Words) -> tuple[np.ndarray, np.ndarray]:
    """(top int64[D, 3] for TOP_N, duplicated int64[D, 6] for DUPLICATED_N), in characters.

    A document of fewer than n words has 0 for n.
    """
    documents = len(words.starts) - 1
    top = np.zeros((documents, len(TOP_N)), np.int64)
    duplicated = np.zeros((documents, len(DUPLICATED_N)), np.int64)
    longest = int(words.counts.max(initial=0))
    keys, stamps = empty_table(longest)
    counts = np.empty(len(keys), np.int32)
    # First words of the n-grams that may repeat, and the table slots of these n-grams.
    positions, ids = np.empty(longest, np.int64), np.empty(longest, np.int64)
    _count(words.starts, words.hashes, words.lengths, top, duplicated, keys, stamps, counts, positions, ids)
    return top, duplicated


@kernel
def _count(starts, hashes, lengths, top, duplicated, keys, stamps, counts, positions, ids):
    """Fill top and duplicated. The other arrays after them: scratch."""
    stamp = 0
    for document in range(len(starts) - 1):
        first, total = starts[document], starts[document + 1] - starts[document]
        mask = slots_for(total) - 1
        found = 0
        for n in range(2, min(total, 10) + 1):
            stamp += 1
            if n == 2:
                found = _count_bigrams(hashes, first, total, keys, stamps, counts, mask, stamp, positions, ids)
            elif found:
                found = _count_longer_ngrams(found, keys, stamps, counts, mask, stamp, positions, ids)
            found = _keep_repeated(found, counts, positions, ids)
            if n <= 4:
                # If nothing repeats, this is the first n-gram of the document, with one occurrence.
                position, times = _most_frequent(found, counts, positions, ids)
                top[document, n - 2] = (_sum(lengths, first + position, n) + n - 1) * times
            else:
                duplicated[document, n - 5] = _count_duplicated(n, found, counts, positions, ids, lengths, first)


@inner_kernel
def _sum(lengths, first, count):
    """The sum of `count` lengths from `first` on."""
    characters = 0
    for word in range(first, first + count):
        characters += lengths[word]
    return characters


@inner_kernel
def _count_bigrams(hashes, first, total, keys, stamps, counts, mask, stamp, positions, ids):
    """Count every 2-gram of a document of `total` words from `first` on; returns how many there are."""
    for position in range(total - 1):
        word = first + position
        slot, new = find_or_insert(keys, stamps, mask, stamp, hashes[word] * _PAIR + hashes[word + 1])
        counts[slot] = 1 if new else counts[slot] + 1
        positions[position] = position
        ids[position] = slot
    return total - 1


@inner_kernel
def _count_longer_ngrams(found, keys, stamps, counts, mask, stamp, positions, ids):
    """Replace the (n-1)-grams by the n-grams whose parts both repeat, and count these; returns how many there are."""
    pairs = 0
    for index in range(found - 1):
        position = positions[index]
        if positions[index + 1] == position + 1:
            key = (np.uint64(ids[index]) << _LEFT) | np.uint64(ids[index + 1])
            slot, new = find_or_insert(keys, stamps, mask, stamp, key)
            counts[slot] = 1 if new else counts[slot] + 1
            positions[pairs] = position
            ids[pairs] = slot
            pairs += 1
    return pairs


@inner_kernel
def _keep_repeated(found, counts, positions, ids):
    """Drop n-grams that occur once; returns how many remain."""
    kept = 0
    for index in range(found):
        if counts[ids[index]] > 1:
            positions[kept] = positions[index]
            ids[kept] = ids[index]
            kept += 1
    return kept


@inner_kernel
def _most_frequent(found, counts, positions, ids):
    """(first position, occurrences) of the most frequent n-gram."""
    position, times = 0, 1
    for index in range(found):
        if counts[ids[index]] > times:
            position, times = positions[index], counts[ids[index]]
    return position, times


@inner_kernel
def _count_duplicated(n, found, counts, positions, ids, lengths, first):
    """Characters of duplicated n-grams. Sets the count of an n-gram to 0 when the scan passes it first.

    first: the document's first word in `lengths`.
    """
    characters = 0
    free = 0  # the first word after the last counted n-gram
    for index in range(found):
        position, slot = positions[index], ids[index]
        if position >= free:
            if counts[slot] == 0:
                characters += _sum(lengths, first + position, n)
                free = position + n
            counts[slot] = 0
    return characters
