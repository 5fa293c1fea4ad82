"""Lines and paragraphs of documents: characters, line feeds, pieces that repeat an earlier one, stripped ends."""

import numpy as np
from numba import njit

from pipelines.text.characters import SPACE, code_point, tables
from pipelines.text.hash_table import find_or_insert, slots_for
from pipelines.text.texts import Texts
from pipelines.text.words import HASH_PRIME, HASH_SEED, mix_hash

_NEWLINE = 10


def count_characters(texts: Texts) -> np.ndarray:
    """int64[D]: the length of every document in characters (code points)."""
    return _count_characters(texts.data, texts.offsets)


def count_newlines(texts: Texts) -> np.ndarray:
    """int64[D]: the number of line feeds of every document."""
    return _count_newlines(texts.data, texts.offsets)


def count_repeated_pieces(texts: Texts, newlines: np.ndarray, min_run: int, stripped: bool) -> np.ndarray:
    """Count lines or paragraphs, and those that repeat an earlier one of the same document.

    Args:
        newlines: int64[D], count_newlines of the same texts.
        min_run: line feeds in a row that separate two pieces, at least: 1 gives lines, 2 paragraphs.
        stripped: leave out white space at the document's two ends first.

    Returns:
        int64[D, 3]: pieces; pieces equal to an earlier one; characters in those. As with `re.split`, a separator at an
        end of the document makes an empty piece, and an empty document is one empty piece.
    """
    flags, _ = tables()
    counts = np.empty((len(texts), 3), np.int64)
    _count_repeated_pieces(texts.data, texts.offsets, newlines, min_run, stripped, flags, counts)
    return counts


def strip_each(texts: Texts) -> Texts:
    """The documents without white space at their ends, as by str.strip(); the same object if no document changes."""
    begins, ends = _find_stripped(texts.data, texts.offsets, tables()[0])
    if np.array_equal(begins, texts.offsets[:-1]) and np.array_equal(ends, texts.offsets[1:]):
        return texts
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(ends - begins, out=offsets[1:])
    return Texts(_copy_documents(texts.data, begins, offsets), offsets)


@njit(cache=True, nogil=True)
def _count_characters(data, offsets):
    counts = np.empty(len(offsets) - 1, np.int64)
    for document in range(len(counts)):
        count = 0
        for byte in data[offsets[document] : offsets[document + 1]]:
            count += (byte & 0xC0) != 0x80
        counts[document] = count
    return counts


@njit(cache=True, nogil=True)
def _count_newlines(data, offsets):
    counts = np.empty(len(offsets) - 1, np.int64)
    for document in range(len(counts)):
        count = 0
        for byte in data[offsets[document] : offsets[document + 1]]:
            count += byte == _NEWLINE
        counts[document] = count
    return counts


@njit(cache=True, nogil=True)
def strip(data, begin, end, char_flags):
    """(begin, end) of data[begin:end] without white space at both ends, as by str.strip()."""
    while begin < end:
        point, width = code_point(data, begin)
        if not char_flags[point] & SPACE:
            break
        begin += width
    while begin < end:
        last = end - 1
        while data[last] & 0xC0 == 0x80:
            last -= 1
        if not char_flags[code_point(data, last)[0]] & SPACE:
            break
        end = last
    return begin, end


@njit(cache=True, nogil=True)
def _find_stripped(data, offsets, char_flags):
    begins, ends = np.empty(len(offsets) - 1, np.int64), np.empty(len(offsets) - 1, np.int64)
    for document in range(len(begins)):
        begins[document], ends[document] = strip(data, offsets[document], offsets[document + 1], char_flags)
    return begins, ends


@njit(cache=True, nogil=True)
def _copy_documents(data, begins, offsets):
    """uint8[offsets[D]]: the documents that begin at data[begins], one after the other, at their new offsets."""
    packed = np.empty(offsets[-1], np.uint8)
    for document in range(len(begins)):
        size = offsets[document + 1] - offsets[document]
        packed[offsets[document] : offsets[document + 1]] = data[begins[document] : begins[document] + size]
    return packed


@njit(inline="always")
def after_line_end(data, at, end):
    """Begin of the next line, for a line that ends at `at` by str.splitlines(); CR LF is one line end."""
    if at >= end:
        return end
    if data[at] == 13 and at + 1 < end and data[at + 1] == _NEWLINE:
        return at + 2
    return at + code_point(data, at)[1]


@njit(cache=True, nogil=True)
def _count_repeated_pieces(data, offsets, newlines, min_run, stripped, char_flags, counts):
    slots = slots_for(newlines.max() + 1) if len(newlines) else 0
    keys, stamps = np.empty(slots, np.uint64), np.zeros(slots, np.int64)
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        if stripped:
            at, end = strip(data, at, end, char_flags)
        mask = slots_for(newlines[document] + 1) - 1
        pieces = repeats = repeated_characters = 0
        hashed, length = HASH_SEED, 0
        more = True
        while more:
            run = 0
            while at < end:
                byte = data[at]
                if byte == _NEWLINE:
                    while at + run < end and data[at + run] == _NEWLINE:
                        run += 1
                    if run >= min_run:
                        break
                    run = 0
                hashed = (hashed ^ np.uint64(byte)) * HASH_PRIME
                length += (byte & 0xC0) != 0x80
                at += 1
            pieces += 1
            if not find_or_insert(keys, stamps, mask, document + 1, mix_hash(hashed))[1]:
                repeats += 1
                repeated_characters += length
            hashed, length = HASH_SEED, 0
            more = run > 0
            at += run
        counts[document, 0], counts[document, 1], counts[document, 2] = pieces, repeats, repeated_characters
