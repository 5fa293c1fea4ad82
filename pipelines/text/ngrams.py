"""Repetition of word n-grams inside documents, for n = 2 to 10, in Gopher's two measures.

    top_n         characters in the most frequent n-gram: its length with single spaces between the words, times its
                  occurrences, overlapping ones included; the first one among equally frequent
    duplicated_n  characters in n-grams that repeat an earlier one, without spaces. The scan goes from left to right: a
                  repeated n-gram is counted and skipped as a whole, any other moves the scan on by one word

An n-gram is a sequence of words: "ab c" and "a bc" differ.

An n-gram can repeat only if both (n-1)-grams in it repeat. So each n examines only positions at which the (n-1)-gram
repeats. The key of an n-gram is the pair of its two parts' table slots: exact for n >= 3, a 64-bit hash for n = 2. Text
without repetition costs one table access per word for all nine n together.
"""

import numpy as np

from pipelines.text.hash_table import empty_table, find_or_insert, slots_for
from pipelines.text.kernel import inner_kernel, kernel
from pipelines.text.words import Words

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
