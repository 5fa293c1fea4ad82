"""The first half of fastText's prediction, over many texts: a text's mean row.

The second half is in fasttext_classifier.py.

Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; the order of every operation follows fastText
0.9.2, because a sum of float32 depends on it. Two ideas make it many times as fast as the library:

- A bucket of a pruned model is found with a bitmap and the number of ones before each of its words, and most n-grams
  have no row: a row is written for each n-gram, and the count of rows is advanced only if it exists. No branch.
- The rows of a word are kept in a cache under the word itself, of at most 32 bytes. Rows, not their sum: the sum of a
  text is made in fastText's order, so the result does not depend on what the cache holds.

Kernels take single arrays and one tuple of numbers: an array that is taken out of a tuple in a loop costs two atomic
operations, which halved the speed.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from raymill.pipelines.language.fasttext_file import LABEL_PREFIX, ModelFile
from raymill.pipelines.text.instructions import LANES, add_lanes, count_ones, load_uint64, multiply_high, trailing_zeros
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts

_CACHE_BITS = 13
_CACHED_ROWS = 15
_KEY_BYTES = 32  # longest word in the cache
_PADDING = _KEY_BYTES + 8  # bytes after the texts that are read with a word
_COPIED_ROWS = 1 << 16  # at once, when the rows of a model are put in order
_NUMBERED_BYTES = 4 << 20  # bytes of texts whose rows are listed at once
_SKIPPED = -1  # in place of a word's number of rows: a label, which adds nothing to a text
_LAST = -2  # the word that ends a text

_FNV_START, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)  # Fowler, Noll, Vo: FNV-1a
_WORD_PRIME = np.uint64(116049371)
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_SPACES = np.uint64(0x2020202020202020)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_END = np.frombuffer(b"</s>", np.uint8)
_WORD_START, _WORD_END = ord("<"), ord(">")
_LABEL = np.frombuffer(LABEL_PREFIX.encode(), np.uint8)


class ModelConstants(NamedTuple):
    """The numbers of a model."""

    width: int  # of a row: the dimension rounded up to LANES
    words: int
    minn: int
    maxn: int
    word_ngrams: int
    buckets: np.uint32
    inverse: np.uint64  # 2**64 / buckets, rounded up
    end_row: int  # of the word "</s>"; -1 if the model has none
    end_hash: np.uint32


class RowLookup(NamedTuple):
    """What turns words into rows. See ModelFile."""

    numbers: ModelConstants
    rows: np.ndarray  # float32[R * width], the rows of words, then those of buckets in the order of the buckets
    # uint64[buckets / 64 + 1, 2] of a pruned model: a bit for each bucket that has a row, and the rows before these
    # buckets. Empty if every bucket has a row.
    kept: np.ndarray
    entries: np.ndarray  # uint8[B], words and labels
    offsets: np.ndarray  # int64[E + 1]
    slots: np.ndarray  # int32, a power of two: hash table of the entries, -1 where empty


class WordCache(NamedTuple):
    """The rows of words seen before, one word a slot. One thread at a time may use it."""

    keys: np.ndarray  # uint64[S, 4], the word's bytes, then zeros
    counts: np.ndarray  # int32[S], rows of the word, or _SKIPPED, or _LAST
    hashes: np.ndarray  # uint32[S], fastText's hash of the word
    rows: np.ndarray  # int32[S * _CACHED_ROWS]


def rows_of(model: ModelFile) -> RowLookup:
    """The tables of a model's words and n-grams. Memory: a second copy of the rows, unless they can be used as read."""
    width = -(-model.dimension // LANES) * LANES
    order, kept = None, np.zeros((0, 2), np.uint64)
    if model.kept_buckets is not None and model.rows_of_buckets is not None:
        row_of = dict(zip(model.kept_buckets.tolist(), model.rows_of_buckets.tolist(), strict=True))  # the last counts
        buckets = np.array(sorted(row_of), np.int64)
        order = model.words + np.array([row_of[bucket] for bucket in buckets.tolist()], np.int64)
        kept = np.zeros((model.buckets // 64 + 1, 2), np.uint64)
        np.bitwise_or.at(kept[:, 0], buckets // 64, np.uint64(1) << (buckets % 64).astype(np.uint64))
        ones = np.bitwise_count(kept[:, 0]).astype(np.uint64)
        kept[:, 1] = np.cumsum(ones) - ones
    entries, offsets = model.entries.data, model.entries.offsets
    slots = np.full(1 << max(4, (2 * len(model.entries)).bit_length()), -1, np.int32)
    end_hash, end = _fill_slots(slots, entries, offsets, _END)
    numbers = ModelConstants(
        width, model.words, model.minn, model.maxn, model.word_ngrams, np.uint32(model.buckets),
        np.uint64((((1 << 64) - 1) // max(model.buckets, 1) + 1) % (1 << 64)), end if end < model.words else -1,
        np.uint32(end_hash),
    )  # fmt: skip
    return RowLookup(numbers, _arranged(model, width, order).reshape(-1), kept, entries, offsets, slots)


def _arranged(model: ModelFile, width: int, order: np.ndarray | None) -> np.ndarray:
    """float32[R, width]: the rows of words, then those in `order`, or all others; zeros after the dimension."""
    if order is None and width == model.dimension:
        return model.rows
    order = np.arange(model.words, len(model.rows)) if order is None else order
    found = np.zeros((model.words + len(order), width), np.float32)
    found[: model.words, : model.dimension] = model.rows[: model.words]
    for start in range(0, len(order), _COPIED_ROWS):
        some = order[start : start + _COPIED_ROWS]
        found[model.words + start :][: len(some), : model.dimension] = model.rows[some]
    return found


def word_cache() -> WordCache:
    """An empty cache, 0.8 MB."""
    size = 1 << _CACHE_BITS
    return WordCache(
        np.zeros((size, 4), np.uint64), np.zeros(size, np.int32), np.zeros(size, np.uint32),
        np.zeros(size * _CACHED_ROWS, np.int32),
    )  # fmt: skip


def means(texts: Texts, model: RowLookup, cache: WordCache) -> tuple[np.ndarray, np.ndarray]:
    """(float32[D, width]: the mean of each text's rows; bool[D]: whether it has any)."""
    data, offsets, numbers = texts.data, texts.offsets, model.numbers
    longest = int(texts.byte_lengths.max(initial=0))
    copy = np.empty(int(offsets[-1] - offsets[0]) + len(texts) + _PADDING, np.uint8)
    # Of one word after the other: the word between "<" and ">", its rows; of one text: the hashes of its words.
    token = np.empty(longest + 3, np.uint8)
    of_word = np.empty((longest + 2) * max(numbers.maxn, 1) + 2, np.int32)
    hashes = np.empty(longest // 2 + 2, np.uint32)
    found, any_row = np.zeros((len(texts), numbers.width), np.float32), np.zeros(len(texts), np.bool_)
    _means(
        data, offsets, numbers, model.rows, model.kept, model.entries, model.offsets, model.slots,
        cache.keys, cache.counts, cache.hashes, cache.rows, copy, token, of_word, hashes, found, any_row,
    )  # fmt: skip
    return found, any_row


def row_numbers(texts: Texts, model: RowLookup) -> tuple[np.ndarray, np.ndarray]:
    """(int32[N], the rows of all texts in the order of their sums; int64[D + 1], where those of each text begin).

    These are the rows of which `means` computes the means.
    """
    numbers, found, ends = model.numbers, [np.empty(0, np.int32)], np.zeros(len(texts) + 1, np.int64)
    cuts = np.searchsorted(texts.offsets, np.arange(texts.offsets[0], texts.offsets[-1], _NUMBERED_BYTES)[1:])
    for start, end in pairwise(np.unique(np.concatenate([[0], cuts, [len(texts)]])).tolist()):
        some = Texts(texts.data, texts.offsets[start : end + 1])
        size, longest = int(some.offsets[-1] - some.offsets[0]), int(some.byte_lengths.max(initial=0))
        copy = np.empty(size + len(some) + _PADDING, np.uint8)
        token = np.empty(longest + 3, np.uint8)
        of_word = np.empty((longest + 2) * max(numbers.maxn, 1) + 2, np.int32)
        hashes = np.empty(longest // 2 + 2, np.uint32)
        # At most a word for two bytes, with its n-grams and those that begin at its characters.
        most = (size // 2 + 2 * len(some)) * numbers.word_ngrams + (2 * size + 2 * len(some)) * numbers.maxn
        rows = np.empty(most, np.int32)
        _row_numbers(
            some.data, some.offsets, numbers, model.kept, model.entries, model.offsets, model.slots,
            copy, token, of_word, hashes, rows, ends[start : end + 1],
        )  # fmt: skip
        found.append(rows[: ends[end] - ends[start]].copy())
    return np.concatenate(found), ends


# --- rows of texts


@kernel
def _row_numbers(
    data, offsets, numbers, kept, entries, entry_offsets, slots, copy, token, of_word, hashes, found, ends
):
    """Fill found, and ends[1:] from ends[0] on. copy, token, of_word, hashes: scratch."""
    _copy_separated(data, offsets, copy)
    first = ends[0]
    filled = 0
    for document in range(len(offsets) - 1):
        at = offsets[document] - offsets[0] + document
        last = at + offsets[document + 1] - offsets[document]
        words = 0
        while True:
            while at < last and copy[at] == 0x20:
                at += 1
            if at >= last:
                break
            size = 1
            while copy[at + size] != 0x20:
                size += 1
            count, hashed = _rows_of_word(copy, at, size, numbers, kept, entries, entry_offsets, slots, token, of_word)
            for place in range(count):
                found[filled + place] = of_word[place]
            at += size
            if count == _LAST:
                break
            if count >= 0:
                filled += count
                hashes[words] = hashed
                words += 1
        if numbers.end_row >= 0:
            found[filled] = numbers.end_row
            filled += 1
        if numbers.word_ngrams > 1:
            hashes[words] = numbers.end_hash
            for start in range(words + 1):
                combined = np.uint64(np.int64(np.int32(hashes[start])))
                for stop in range(start + 1, min(start + numbers.word_ngrams, words + 1)):
                    combined = combined * _WORD_PRIME + np.uint64(np.int64(np.int32(hashes[stop])))
                    filled = _append_row(combined % np.uint64(numbers.buckets), numbers, kept, found, filled)
        ends[document + 1] = first + filled


@kernel
def _means(
    data,
    offsets,
    numbers,
    rows,
    kept,
    entries,
    entry_offsets,
    slots,
    cache_keys,
    cache_counts,
    cache_hashes,
    cache_rows,
    copy,
    token,
    of_word,
    hashes,
    found,
    any_row,
):
    """Fill found and any_row. copy, token, of_word, hashes: scratch."""
    _copy_separated(data, offsets, copy)
    for document in range(len(offsets) - 1):
        at = offsets[document] - offsets[0] + document
        last, mean = at + offsets[document + 1] - offsets[document], found[document]
        total = words = 0
        while True:
            while at < last and copy[at] == 0x20:
                at += 1
            if at >= last:
                break
            key0, key1, key2, key3, size = _load_word(copy, at)
            slot = np.int64(((key0 ^ ((key1 ^ key2 ^ key3) * _SPREAD)) * _SPREAD) >> np.uint64(64 - _CACHE_BITS))
            if size > _KEY_BYTES:
                while copy[at + size] != 0x20:
                    size += 1
                count, hashed = _rows_of_word(
                    copy, at, size, numbers, kept, entries, entry_offsets, slots, token, of_word
                )
                _add_rows(rows, numbers.width, of_word, 0, count, mean)
            elif (
                (cache_keys[slot, 0] ^ key0) | (cache_keys[slot, 1] ^ key1) | (cache_keys[slot, 2] ^ key2)
                | (cache_keys[slot, 3] ^ key3)
            ) == 0:  # fmt: skip
                count, hashed = np.int64(cache_counts[slot]), cache_hashes[slot]
                _add_rows(rows, numbers.width, cache_rows, slot * _CACHED_ROWS, count, mean)
            else:
                count, hashed = _rows_of_word(
                    copy, at, size, numbers, kept, entries, entry_offsets, slots, token, of_word
                )
                _add_rows(rows, numbers.width, of_word, 0, count, mean)
                if count <= _CACHED_ROWS:
                    cache_keys[slot, 0], cache_keys[slot, 1] = key0, key1
                    cache_keys[slot, 2], cache_keys[slot, 3] = key2, key3
                    cache_counts[slot], cache_hashes[slot] = count, hashed
                    for number in range(count):
                        cache_rows[slot * _CACHED_ROWS + number] = of_word[number]
            at += size
            if count == _LAST:
                break
            if count >= 0:
                total += count
                hashes[words] = hashed
                words += 1
        if numbers.end_row >= 0:
            of_word[0] = numbers.end_row
            _add_rows(rows, numbers.width, of_word, 0, 1, mean)
            total += 1
        if numbers.word_ngrams > 1:
            hashes[words] = numbers.end_hash
            total += _add_word_ngrams(hashes, words + 1, numbers, rows, kept, of_word, mean)
        if total:
            any_row[document] = True
            share = np.float32(1.0 / total)
            for lane in range(numbers.width):
                mean[lane] *= share


@inner_kernel
def _copy_separated(data, offsets, copy):
    """Copy the texts to `copy`, a space after each, with spaces for fastText's other separators and in the padding.

    Without the space after it, the bytes of a text's last word would run on into the next text.
    """
    to = 0
    for document in range(len(offsets) - 1):
        for at in range(offsets[document], offsets[document + 1]):
            byte = data[at]
            separates = (byte == 0) | ((byte >= 9) & (byte <= 13))
            copy[to] = np.uint8(0x20) if separates else byte
            to += 1
        copy[to] = 0x20
        to += 1
    for at in range(to, len(copy)):
        copy[at] = 0x20


@inner_kernel
def _load_word(copy, at):
    """(the first 32 bytes of the word at `at`, zeros after its end: uint64 each; its size, 33 if it is longer)."""
    zero = np.uint64(0)
    first = load_uint64(copy, at)
    size = _first_space(first)
    if size < 8:
        return _lowest(first, size), zero, zero, zero, size
    second = load_uint64(copy, at + 8)
    size = _first_space(second)
    if size < 8:
        return first, _lowest(second, size), zero, zero, size + 8
    third = load_uint64(copy, at + 16)
    size = _first_space(third)
    if size < 8:
        return first, second, _lowest(third, size), zero, size + 16
    fourth = load_uint64(copy, at + 24)
    size = _first_space(fourth)
    if size < 8:
        return first, second, third, _lowest(fourth, size), size + 24
    return first, second, third, fourth, size + 24 + np.int64(copy[at + 32] != 0x20)


@inner_kernel
def _lowest(word, size):
    """The lowest bytes of a word, less than eight; zeros above."""
    return word & ((np.uint64(1) << np.uint64(8 * size)) - np.uint64(1))


@inner_kernel
def _first_space(word):
    """The position of the first space among eight bytes, the lowest first; 8 if there is none."""
    different = word ^ _SPACES
    return trailing_zeros((different - _ONES) & ~different & _HIGHS) >> 3


@inner_kernel
def _rows_of_word(copy, at, size, numbers, kept, entries, offsets, slots, token, found):
    """(rows written to `found`, or _SKIPPED, or _LAST; the word's hash) of the word copy[at : at + size]."""
    hashed = _hash(copy, at, at + size)
    if _is(_END, copy, at, size):
        return np.int64(_LAST), hashed
    entry = np.int64(slots[_find_slot(slots, entries, offsets, hashed, copy, at, size)])
    if entry >= numbers.words or (entry < 0 and size >= len(_LABEL) and _is(_LABEL, copy, at, len(_LABEL))):
        return np.int64(_SKIPPED), hashed
    count = 0
    if entry >= 0:
        found[0] = entry
        count = 1
    if numbers.maxn > 0:
        token[0], token[size + 1], token[size + 2] = _WORD_START, _WORD_END, 0
        for place in range(size):
            token[place + 1] = copy[at + place]
        count = _rows_of_ngrams(token, size + 2, numbers, kept, found, count)
    return np.int64(count), hashed


@inner_kernel
def _rows_of_ngrams(token, size, numbers, kept, found, count):
    """Append the rows of the n-grams of characters in token[:size] to `found` at `count`; returns the new count.

    token[size] is 0: no byte that continues a character.
    """
    for start in range(size):
        if token[start] & 0xC0 == 0x80:
            continue
        hashed, stop = _FNV_START, np.uint64(start)
        for length in range(1, numbers.maxn + 1):
            first = token[stop]
            hashed = _hash_byte(hashed, first)
            stop += np.uint64(1)
            while token[stop] & 0xC0 == 0x80:
                hashed = _hash_byte(hashed, token[stop])
                stop += np.uint64(1)
            # The signs around the word alone are no n-grams.
            if length >= numbers.minn and (length > 1 or (start > 0 and stop < size)):
                bucket = multiply_high(numbers.inverse * np.uint64(hashed), np.uint64(numbers.buckets))
                count = _append_row(bucket, numbers, kept, found, count)
            if stop == size:
                break
    return count


@inner_kernel
def _append_row(bucket, numbers, kept, found, count):
    """Append the row of a bucket, if it has one; returns the new count. bucket: uint64."""
    if len(kept) == 0:
        found[count] = numbers.words + np.int64(bucket)
        return count + 1
    bits = kept[bucket >> np.uint64(6), 0]
    bit = bucket & np.uint64(63)
    before = np.int64(kept[bucket >> np.uint64(6), 1]) + count_ones(bits & ((np.uint64(1) << bit) - np.uint64(1)))
    found[count] = numbers.words + before
    return count + np.int64((bits >> bit) & np.uint64(1))


@inner_kernel
def _add_word_ngrams(hashes, count, numbers, rows, kept, found, mean):
    """Add the rows of the n-grams of words; returns their number."""
    total = 0
    for start in range(count):
        # fastText keeps the hashes as int32 and extends their sign.
        combined = np.uint64(np.int64(np.int32(hashes[start])))
        for stop in range(start + 1, min(start + numbers.word_ngrams, count)):
            combined = combined * _WORD_PRIME + np.uint64(np.int64(np.int32(hashes[stop])))
            added = _append_row(combined % np.uint64(numbers.buckets), numbers, kept, found, 0)
            _add_rows(rows, numbers.width, found, 0, added, mean)
            total += added
    return total


@inner_kernel
def _add_rows(rows, width, found, first, count, total):
    """Add the rows found[first : first + count] to `total`, one after the other."""
    for place in range(first, first + count):
        start = np.uint64(found[place]) * np.uint64(width)
        for block in range(np.uint64(0), np.uint64(width), np.uint64(LANES)):
            add_lanes(total, block, rows, start + block)


# --- the vocabulary


@inner_kernel
def _hash_byte(hashed, byte):
    """FNV-1a as fastText computes it: the byte is signed."""
    return np.uint32((hashed ^ np.uint32(np.int8(byte))) * _FNV_PRIME)


@inner_kernel
def _hash(data, start, stop):
    hashed = _FNV_START
    for at in range(start, stop):
        hashed = _hash_byte(hashed, data[at])
    return hashed


@inner_kernel
def _is(word, data, at, size):
    """Whether data[at : at + size] is this word."""
    same = 0
    while same < size and same < len(word) and data[at + same] == word[same]:
        same += 1
    return same == size == len(word)


@inner_kernel
def _find_slot(slots, entries, offsets, hashed, data, at, size):
    """The slot of the entry data[at : at + size], or the empty one where it would be."""
    slot = np.int64(hashed) & (len(slots) - 1)
    while slots[slot] >= 0:
        start, stop = offsets[slots[slot]], offsets[slots[slot] + 1]
        if _is(entries[start:stop], data, at, size):
            break
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@kernel
def _fill_slots(slots, entries, offsets, end):
    """Fill the hash table; the last of equal entries counts. Returns (hash, number) of the entry `end`; -1 for none."""
    for entry in range(len(offsets) - 1):
        start, size = offsets[entry], offsets[entry + 1] - offsets[entry]
        hashed = _hash(entries, start, start + size)
        slots[_find_slot(slots, entries, offsets, hashed, entries, start, size)] = entry
    hashed = _hash(end, 0, len(end))
    return hashed, np.int64(slots[_find_slot(slots, entries, offsets, hashed, end, 0, len(end))])
