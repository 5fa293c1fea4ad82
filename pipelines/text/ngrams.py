"""Repetition of word n-grams inside documents, for n = 2 to 10, in Gopher's two measures.

    top_n         the commonest n-gram: its length with single spaces between the words, times its occurrences
                  (overlapping ones too); among equals the one that comes first
    duplicated_n  reading from the left, an n-gram that was read before is counted, its words without spaces, and
                  skipped as a whole; any other is remembered and reading moves on by one word

Only a word sequence makes an n-gram: "ab c" and "a bc" differ.

An n-gram can repeat only where both (n-1)-grams in it do. So each n looks at the places the previous n left over, and
an n-gram's key is the pair of its two parts' table slots: exact from n = 3 on, a 64-bit hash for n = 2. Text that does
not repeat costs one table access a word for all nine n together.
"""

import numpy as np
from numba import njit

from pipelines.text.hash_table import claim, slots_for
from pipelines.text.words import Words

TOP_N = (2, 3, 4)
DUPLICATED_N = (5, 6, 7, 8, 9, 10)

_PAIR = np.uint64(0xD6E8FEB86659FD93)  # any odd multiplier: it keeps (a, b) and (b, a) apart
_LEFT = np.uint64(32)


def count_ngram_repetition(words: Words) -> tuple[np.ndarray, np.ndarray]:
    """Characters in the top n-gram, int64[D, 3] for TOP_N, and in duplicated ones, int64[D, 6] for DUPLICATED_N.

    Both are 0 where a document has fewer than n words.
    """
    documents = len(words.starts) - 1
    top = np.zeros((documents, len(TOP_N)), np.int64)
    duplicated = np.zeros((documents, len(DUPLICATED_N)), np.int64)
    _count(words.starts, words.hashes, words.lengths, top, duplicated)
    return top, duplicated


@njit(cache=True, nogil=True)
def _count(starts, hashes, lengths, top, duplicated):
    longest = 0
    for document in range(len(starts) - 1):
        longest = max(longest, starts[document + 1] - starts[document])
    slots = slots_for(longest)
    keys, stamps, counts = np.empty(slots, np.uint64), np.zeros(slots, np.int64), np.empty(slots, np.int32)
    # The places, first word of each, where the present n-grams may repeat, and the table slot of each one.
    places, ids = np.empty(longest, np.int64), np.empty(longest, np.int64)
    stamp = 0
    for document in range(len(starts) - 1):
        first, total = starts[document], starts[document + 1] - starts[document]
        mask = slots_for(total) - 1
        found = 0
        for n in range(2, min(total, 10) + 1):
            stamp += 1
            if n == 2:
                found = _pair_words(hashes[first : first + total], keys, stamps, counts, mask, stamp, places, ids)
            elif found:
                found = _pair_ngrams(found, keys, stamps, counts, mask, stamp, places, ids)
            found = _keep_repeated(found, counts, places, ids)
            if n <= 4:
                # With nothing repeated, the first n-gram of the document is the commonest, once.
                place, times = _commonest(found, counts, places, ids)
                begin = first + place
                top[document, n - 2] = (lengths[begin : begin + n].sum() + n - 1) * times
            else:
                duplicated[document, n - 5] = _read(n, found, counts, places, ids, lengths[first : first + total])


@njit(cache=True, nogil=True)
def _pair_words(hashes, keys, stamps, counts, mask, stamp, places, ids):
    """Count every 2-gram; returns how many there are."""
    for place in range(len(hashes) - 1):
        slot, new = claim(keys, stamps, mask, stamp, hashes[place] * _PAIR + hashes[place + 1])
        counts[slot] = 1 if new else counts[slot] + 1
        places[place] = place
        ids[place] = slot
    return len(hashes) - 1


@njit(cache=True, nogil=True)
def _pair_ngrams(found, keys, stamps, counts, mask, stamp, places, ids):
    """Count the n-grams whose two parts both repeat, in place of the (n-1)-grams; returns how many there are."""
    pairs = 0
    for index in range(found - 1):
        place = places[index]
        if places[index + 1] == place + 1:
            key = (np.uint64(ids[index]) << _LEFT) | np.uint64(ids[index + 1])
            slot, new = claim(keys, stamps, mask, stamp, key)
            counts[slot] = 1 if new else counts[slot] + 1
            places[pairs] = place
            ids[pairs] = slot
            pairs += 1
    return pairs


@njit(cache=True, nogil=True)
def _keep_repeated(found, counts, places, ids):
    kept = 0
    for index in range(found):
        if counts[ids[index]] > 1:
            places[kept] = places[index]
            ids[kept] = ids[index]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _commonest(found, counts, places, ids):
    """(first place, occurrences) of the commonest n-gram."""
    place, times = 0, 1
    for index in range(found):
        if counts[ids[index]] > times:
            place, times = places[index], counts[ids[index]]
    return place, times


@njit(cache=True, nogil=True)
def _read(n, found, counts, places, ids, lengths):
    """Characters of duplicated n-grams. Makes the count of an n-gram 0 once it was read."""
    characters = 0
    free = 0  # the first word that no counted n-gram covers
    for index in range(found):
        place, slot = places[index], ids[index]
        if place >= free:
            if counts[slot] == 0:
                characters += lengths[place : place + n].sum()
                free = place + n
            counts[slot] = 0
    return characters
