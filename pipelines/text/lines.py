"""Lines and paragraphs of documents: characters, pieces that repeat an earlier one, stripped ends.

Several rules look at lines, so a table of documents is cut into lines once, with a hash of each line.
"""

from dataclasses import dataclass

import numpy as np

from raymill.pipelines.text.characters import SPACE, code_point, tables
from raymill.pipelines.text.instructions import (
    copy,
    count_ones,
    empty_table,
    find_or_insert,
    load_uint64,
    slots_for,
    trailing_zeros,
)
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import PRIME, mix, next_token
from raymill.pipelines.text.words import HASH_SEED, mix_hash

_NEWLINE = 10
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_NEWLINES = np.uint64(0x0A0A0A0A0A0A0A0A)
_SPREAD, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


@dataclass(frozen=True, slots=True)
class Lines:
    """L lines of D documents, separated by line feeds, empty ones too: a document of n line feeds has n + 1 lines.

    Document i has the lines starts[i]:starts[i + 1]; line j is data[begins[j]:ends[j]] of the documents' `Texts`.

    starts: int64[D + 1]. begins, ends: int64[L]. hashes: uint64[L], equal for equal lines; never stored. characters:
    int64[L], without the line feed.
    """

    starts: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    hashes: np.ndarray
    characters: np.ndarray

    @property
    def newlines(self) -> np.ndarray:
        """int64[D]: the number of line feeds of every document."""
        return np.diff(self.starts) - 1

    @property
    def longest(self) -> int:
        """The largest number of lines of a document."""
        return int(np.diff(self.starts).max(initial=0))


def split_lines(texts: Texts) -> Lines:
    """The lines of every document."""
    starts = np.zeros(len(texts) + 1, np.int64)
    _count_newlines(texts.data, texts.offsets, starts[1:])
    np.cumsum(starts[1:] + 1, out=starts[1:])
    count = starts[-1]
    begins, ends, characters = np.empty((3, count), np.int64)
    hashes = np.empty(count, np.uint64)
    _fill_lines(texts.data, texts.offsets, begins, ends, hashes, characters)
    return Lines(starts, begins, ends, hashes, characters)


def count_characters(texts: Texts) -> np.ndarray:
    """int64[D]: the length of every document in characters (code points)."""
    counts = np.empty(len(texts), np.int64)
    _count_characters(texts.data, texts.offsets, counts)
    return counts


def count_repeated_lines(lines: Lines) -> np.ndarray:
    """int64[D, 3]: lines; lines equal to an earlier one of the document; characters in those.

    Empty lines count as one line at each end of the document and not at all inside, as with `re.split` by line feeds in
    a row; an empty document is one empty line.
    """
    counts = np.zeros((len(lines.starts) - 1, 3), np.int64)
    keys, stamps = empty_table(lines.longest)
    _count_repeated_lines(lines.starts, lines.begins, lines.ends, lines.hashes, lines.characters, counts, keys, stamps)
    return counts


def count_repeated_paragraphs(texts: Texts, lines: Lines) -> np.ndarray:
    """int64[D, 3]: paragraphs; paragraphs equal to an earlier one of the document; characters in those.

    Two or more line feeds separate paragraphs. White space at the document's two ends is left out first. An empty
    document is one empty paragraph.
    """
    counts = np.zeros((len(texts), 3), np.int64)
    begins, ends = _stripped(texts)
    _count_repeated_paragraphs(
        texts.data, begins, ends, lines.starts, lines.begins, lines.ends, lines.hashes, lines.characters, counts,
        *empty_table(lines.longest),
    )  # fmt: skip
    return counts


def strip_each(texts: Texts) -> Texts:
    """The documents without white space at their ends, as by str.strip(); the same object if no document changes."""
    begins, ends = _stripped(texts)
    if np.array_equal(begins, texts.offsets[:-1]) and np.array_equal(ends, texts.offsets[1:]):
        return texts
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(ends - begins, out=offsets[1:])
    packed = np.empty(offsets[-1], np.uint8)
    _copy_documents(texts.data, begins, offsets, packed)
    return Texts(packed, offsets)


def _stripped(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """(begins, ends int64[D]) in `texts.data` of the documents without white space at their ends."""
    begins, ends = np.empty(len(texts), np.int64), np.empty(len(texts), np.int64)
    _find_stripped(texts.data, texts.offsets, tables()[0], begins, ends)
    return begins, ends


@kernel
def _count_characters(data, offsets, counts):
    for document in range(len(counts)):
        count = 0
        for at in range(np.uint64(offsets[document]), np.uint64(offsets[document + 1])):
            count += (data[at] & 0xC0) != 0x80
        counts[document] = count


@kernel
def _count_newlines(data, offsets, counts):
    for document in range(len(counts)):
        count = 0
        for at in range(np.uint64(offsets[document]), np.uint64(offsets[document + 1])):
            count += data[at] == _NEWLINE
        counts[document] = count


@inner_kernel
def strip(data, begin, end, char_flags):
    """(begin, end) of data[begin:end] without white space at both ends, as by str.strip()."""
    if begin < end and 0x20 < data[begin] < 0x80 and 0x20 < data[end - 1] < 0x80:
        return begin, end  # nearly always
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


@kernel
def _find_stripped(data, offsets, char_flags, begins, ends):
    for document in range(len(begins)):
        begins[document], ends[document] = strip(data, offsets[document], offsets[document + 1], char_flags)


@kernel
def _copy_documents(data, begins, offsets, packed):
    """Copy the documents that begin at data[begins] to `packed`, one after the other, at their new offsets."""
    for document in range(len(begins)):
        end = begins[document] + offsets[document + 1] - offsets[document]
        copy(data, begins[document], end, packed, offsets[document])


@inner_kernel
def after_line_end(data, at, end):
    """Begin of the next line, for a line that ends at `at` by str.splitlines(); CR LF is one line end."""
    if at >= end:
        return end
    if data[at] == 13 and at + 1 < end and data[at + 1] == _NEWLINE:
        return at + 2
    return at + code_point(data, at)[1]


@kernel
def _fill_lines(data, offsets, begins, ends, hashes, characters):
    line = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        while True:
            begins[line] = at
            at, hashes[line], characters[line] = _hash_line(data, at, end)
            ends[line] = at
            line += 1
            if at == end:
                break
            at += 1


@inner_kernel
def _hash_line(data, begin, end):
    """(its end, hash, characters) of the line that begins at `begin` in data[:end], eight bytes at a time."""
    at, hashed, characters = begin, HASH_SEED, 0
    # Words without a line feed need no mask, so that the next one does not wait for it.
    while at + 8 <= end:
        word = load_uint64(data, at)
        if _marks_of_newlines(word):
            break
        # Bytes of the form 10xxxxxx continue a character.
        characters += 8 - count_ones(word & ~(word << np.uint64(1)) & _HIGHS)
        hashed = _add_word(hashed, word)
        at += 8
    size = min(end - at, 8)
    if at + 8 <= len(data):
        word = load_uint64(data, at)
    else:
        word = np.uint64(0)
        for place in range(size):
            word |= np.uint64(data[at + place]) << np.uint64(8 * place)
    size = min(size, trailing_zeros(_marks_of_newlines(word)) >> 3)
    if size > 0:
        word &= (np.uint64(1) << np.uint64(8 * size)) - np.uint64(1)
        characters += size - count_ones(word & ~(word << np.uint64(1)) & _HIGHS)
        hashed = _add_word(hashed, word)
        at += size
    return at, mix_hash(hashed ^ np.uint64(at - begin)), characters


@inner_kernel
def _marks_of_newlines(word):
    """A uint64 whose lowest set bit is in the first byte of `word` that is a line feed; 0 if there is none."""
    different = word ^ _NEWLINES
    return (different - _ONES) & ~different & _HIGHS


@inner_kernel
def _add_word(hashed, word):
    """The hash of a line with its next eight bytes."""
    hashed = (hashed ^ word) * _SPREAD
    return hashed ^ (hashed >> _HALF)


@kernel
def _count_repeated_lines(starts, begins, ends, hashes, characters, counts, keys, stamps):
    for document in range(len(starts) - 1):
        first, last = starts[document], starts[document + 1] - 1
        mask = slots_for(last + 1 - first) - 1
        for line in range(first, last + 1):
            if begins[line] < ends[line] or (line == first) | (line == last):
                counts[document, 0] += 1
                if not find_or_insert(keys, stamps, mask, document + 1, hashes[line])[1]:
                    counts[document, 1] += 1
                    counts[document, 2] += characters[line]


@kernel
def _count_repeated_paragraphs(
    data, text_begins, text_ends, starts, begins, ends, hashes, characters, counts, keys, stamps
):  # fmt: skip
    """text_begins, text_ends: int64[D], the documents without white space at their ends."""
    for document in range(len(starts) - 1):
        text_begin, text_end = text_begins[document], text_ends[document]
        mask = slots_for(starts[document + 1] - starts[document]) - 1
        if text_begin == text_end:
            counts[document, 0] = 1
            continue
        hashed, length, members = HASH_SEED, 0, 0
        for line in range(starts[document], starts[document + 1] + 1):
            # Of white space before or after the text, or the end of the last paragraph.
            outside = line == starts[document + 1] or ends[line] < text_begin or begins[line] > text_end
            if not outside and begins[line] < ends[line]:
                of_line, of_characters = hashes[line], characters[line]
                if begins[line] < text_begin or ends[line] > text_end:
                    begin, end = max(begins[line], text_begin), min(ends[line], text_end)
                    _, of_line, of_characters = _hash_line(data, begin, end)
                hashed = (hashed ^ of_line) * _SPREAD
                hashed ^= hashed >> _HALF
                length += of_characters + (members > 0)
                members += 1
            elif members:
                counts[document, 0] += 1
                if not find_or_insert(keys, stamps, mask, document + 1, hashed)[1]:
                    counts[document, 1] += 1
                    counts[document, 2] += length
                hashed, length, members = HASH_SEED, 0, 0


# --- Lines and paragraphs of documents, with keys by which they are compared, and documents without some of them.
#
# A piece is a line that is not empty, or a paragraph: the lines between empty ones. Two pieces with the same tokens
# (tokens.py) have the same key, so case, punctuation and white space make no difference. A key has 96 bits: `key`, and
# `check`, a second hash of the same tokens.
#
# Speed on one core: 280 MB/s to find pieces.


_SECOND = np.uint64(0xD6E8FEB86659FD93)  # odd; makes another hash of the same tokens


@dataclass(frozen=True, slots=True)
class Pieces:
    """P pieces of D documents, in order: document d has the pieces starts[d]:starts[d + 1].

    starts: int64[D + 1]. begins, ends: int64[P], bytes in `Texts.data`. keys: uint64[P]. checks: uint32[P]. words:
    int64[P], tokens; all pieces without one have the same key.
    """

    starts: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    keys: np.ndarray
    checks: np.ndarray
    words: np.ndarray

    @property
    def documents(self) -> np.ndarray:
        """int64[P]: the document of each piece."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def find_pieces(texts: Texts, *, paragraphs: bool) -> Pieces:
    """The lines of each document, or its paragraphs. texts: normalised, so that an empty line has no spaces."""
    used = texts.data[texts.offsets[0] : texts.offsets[-1]]
    most = np.count_nonzero(used == _NEWLINE) + len(texts)
    starts = np.zeros(len(texts) + 1, np.int64)
    begins, ends, words = np.empty((3, most), np.int64)
    keys, checks = np.empty(most, np.uint64), np.empty(most, np.uint32)
    count = _find(texts.data, texts.offsets, paragraphs, *tables(), starts, begins, ends, keys, checks, words)
    return Pieces(starts, begins[:count], ends[:count], keys[:count], checks[:count], words[:count])


def without_pieces(texts: Texts, pieces: Pieces, is_cut: np.ndarray) -> Texts:
    """The documents without some of their pieces. is_cut: bool[P].

    Between two pieces that stay is the longest of the runs of line feeds that were between them; before the first and
    behind the last there is none. Documents without such a piece stay as they are.
    """
    size = int(texts.offsets[-1] - texts.offsets[0])
    data, offsets = np.empty(size, np.uint8), np.zeros(len(texts) + 1, np.int64)
    written = _cut(texts.data, texts.offsets, pieces.starts, pieces.begins, pieces.ends, is_cut, data, offsets)
    return Texts(data[:written], offsets)


@inner_kernel
def _hash(data, begin, end, flags, lower):
    """(key: uint64, check: uint32, tokens) of data[begin:end]."""
    key, check, count, at = np.uint64(0), np.uint64(0), 0, begin
    while True:
        token, first, _, at = next_token(data, at, end, flags, lower)
        if first == end:
            return mix(key), np.uint32(mix(check) >> _HALF), count
        key = (key ^ token) * PRIME
        key ^= key >> _HALF
        check = (check + token) * _SECOND
        check ^= check >> _HALF
        count += 1


@kernel
def _find(data, offsets, paragraphs, flags, lower, starts, begins, ends, keys, checks, words):
    """Fill the columns of Pieces; returns the number of pieces."""
    count = 0
    for document in range(len(offsets) - 1):
        starts[document] = count
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            if data[at] == _NEWLINE:
                at += 1
                continue
            begin = at
            while at < end:
                if data[at] == _NEWLINE and (not paragraphs or at + 1 == end or data[at + 1] == _NEWLINE):
                    break
                at += 1
            begins[count], ends[count] = begin, at
            keys[count], checks[count], words[count] = _hash(data, begin, at, flags, lower)
            count += 1
    starts[len(offsets) - 1] = count
    return count


@kernel
def _cut(data, offsets, starts, begins, ends, is_cut, cut_data, cut_offsets):
    """Fill cut_data, which is as long as the documents, and cut_offsets; returns the bytes written."""
    to = 0
    for document in range(len(offsets) - 1):
        cut_offsets[document] = to
        cuts = 0
        for piece in range(starts[document], starts[document + 1]):
            cuts += is_cut[piece]
        if cuts == 0:
            copy(data, offsets[document], offsets[document + 1], cut_data, to)
            to += offsets[document + 1] - offsets[document]
            continue
        before, feeds, kept = offsets[document], 0, 0
        for piece in range(starts[document], starts[document + 1]):
            feeds = max(feeds, begins[piece] - before)
            before = ends[piece]
            if is_cut[piece]:
                continue
            if kept:
                for _ in range(feeds):
                    cut_data[to] = _NEWLINE
                    to += 1
            copy(data, begins[piece], ends[piece], cut_data, to)
            to += ends[piece] - begins[piece]
            kept += 1
            feeds = 0
    cut_offsets[len(offsets) - 1] = to
    return to
