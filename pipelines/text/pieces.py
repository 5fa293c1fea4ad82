"""Lines and paragraphs of documents, with keys by which they are compared, and documents without some of them.

A piece is a line that is not empty, or a paragraph: the lines between empty ones. Two pieces with the same tokens
(tokens.py) have the same key, so case, punctuation and white space make no difference. A key has 96 bits: `key`, and
`check`, a second hash of the same tokens.

Speed on one core: 280 MB/s to find pieces.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.text.characters import tables
from pipelines.text.instructions import copy
from pipelines.text.kernel import inner_kernel, kernel
from pipelines.text.texts import Texts
from pipelines.text.tokens import PRIME, mix, next_token

_NEWLINE = 10
_SECOND = np.uint64(0xD6E8FEB86659FD93)  # odd; makes another hash of the same tokens
_HALF = np.uint64(32)


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
