"""Windows of K tokens in a row: hashes of each, and anchors by which the same windows are found in other documents.

The anchor of a window is one of its n-grams, of n = K // 2 tokens: the one with the smallest hash, the last of equal
ones. It depends on the tokens of the window alone, so two documents with a window in common have its anchor in common.
Neighbouring windows have mostly the same one: of English with K = 50, one token in 14 begins an anchor. That is
winnowing (Schleimer, Wilkerson and Aiken 2003, SIGMOD) with the guarantee threshold K.

Speed: 210 MB/s on one core for tokens, hashes and anchors. Memory: 24 bytes for each token of a table, and 12 for each
length of windows.
"""

from dataclasses import dataclass

import numpy as np

from raymill.pipelines.text.characters import tables
from raymill.pipelines.text.instructions import copy
from raymill.pipelines.text.kernel import kernel
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import PRIME, mix, most_tokens, next_token

_SECOND = np.uint64(0xD6E8FEB86659FD93)  # odd; makes another hash of the same tokens
_HALF = np.uint64(32)
_NEWLINE, _SPACE, _TAB = 10, 32, 9


@dataclass(frozen=True, slots=True)
class Tokens:
    """T tokens of D documents: document d has the tokens starts[d]:starts[d + 1].

    starts: int64[D + 1]. hashes: uint64[T]. begins, ends: int64[T], bytes in `Texts.data`.
    """

    starts: np.ndarray
    hashes: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    def documents_of(self, tokens: np.ndarray) -> np.ndarray:
        """int64[N]: the documents of some tokens, by their indexes."""
        return np.searchsorted(self.starts, tokens, side="right") - 1


@dataclass(frozen=True, slots=True)
class Anchors:
    """A anchors, in order. grams: int64[A], the first token of each. firsts, lasts: int64[A], the first and the last of
    the windows whose anchor it is, by their first tokens; no other windows are between. keys: uint64[A]. checks:
    uint32[A].
    """

    grams: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray
    keys: np.ndarray
    checks: np.ndarray


def locate_tokens(texts: Texts) -> Tokens:
    """The tokens of every document with their places."""
    most = most_tokens(int(texts.offsets[-1] - texts.offsets[0])) + len(texts) + 1
    starts, hashes = np.zeros(len(texts) + 1, np.int64), np.empty(most, np.uint64)
    begins, ends = np.empty((2, most), np.int64)
    count = _locate(texts.data, texts.offsets, *tables(), starts, hashes, begins, ends)
    return Tokens(starts, hashes[:count], begins[:count], ends[:count])


def hash_windows(tokens: Tokens, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(keys uint64[T], checks uint32[T]) of the window of `length` tokens that begins at each token.

    Those of tokens with fewer tokens from there to the end of the document have no meaning.
    """
    keys, checks = np.empty(len(tokens.hashes), np.uint64), np.empty(len(tokens.hashes), np.uint32)
    _hash_windows(tokens.hashes, tokens.starts, length, keys, checks)
    return keys, checks


def find_anchors(tokens: Tokens, length: int) -> Anchors:
    """The anchors of all windows of `length` tokens, at least 2."""
    gram = length // 2
    keys, checks = hash_windows(tokens, gram)
    grams, firsts, lasts = np.empty((3, len(keys)), np.int64)
    count = _find_anchors(keys, tokens.starts, gram, length, grams, firsts, lasts)
    grams = grams[:count].copy()
    return Anchors(grams, firsts[:count].copy(), lasts[:count].copy(), keys[grams], checks[grams])


def without_spans(texts: Texts, tokens: Tokens, firsts: np.ndarray, lasts: np.ndarray) -> Texts:
    """The documents without some spans of tokens.

    firsts, lasts: int64[S], first and last token of each span, in order, apart from each other and each in one
    document. What follows a span up to the next space goes with it. Where nothing is left of a line, the longer of the
    line breaks before and behind it stays, and none at the ends of a document.
    """
    documents = tokens.documents_of(firsts)
    of_document = np.searchsorted(documents, np.arange(len(texts) + 1))
    # Where the next token begins, or the document ends.
    limits = np.append(tokens.begins, 0)[lasts + 1]
    at_end = lasts + 1 == tokens.starts[documents + 1]
    limits[at_end] = texts.offsets[documents[at_end] + 1]
    data = np.empty(int(texts.offsets[-1] - texts.offsets[0]), np.uint8)
    offsets = np.zeros(len(texts) + 1, np.int64)
    written = _cut(
        texts.data, texts.offsets, of_document, tokens.begins[firsts], tokens.ends[lasts], limits, data, offsets
    )
    return Texts(data[:written], offsets)


@kernel
def _locate(data, offsets, flags, lower, starts, hashes, begins, ends):
    """Fill the columns of Tokens; returns their number. The last call of next_token in a document writes, too."""
    count = 0
    for document in range(len(offsets) - 1):
        starts[document] = count
        at, end = offsets[document], offsets[document + 1]
        while True:
            hashes[count], begins[count], ends[count], at = next_token(data, at, end, flags, lower)
            if begins[count] == end:
                break
            count += 1
    starts[len(offsets) - 1] = count
    return count


@kernel
def _hash_windows(tokens, starts, length, keys, checks):
    leaving, leaving_second = PRIME, _SECOND
    for _ in range(length):
        leaving *= PRIME
        leaving_second *= _SECOND
    for document in range(len(starts) - 1):
        rolling, second = np.uint64(0), np.uint64(0)
        for at in range(starts[document], starts[document + 1]):
            rolling = (rolling + tokens[at]) * PRIME
            second = (second + tokens[at]) * _SECOND
            first = at - length + 1
            if first > starts[document]:
                rolling -= tokens[first - 1] * leaving
                second -= tokens[first - 1] * leaving_second
            if first >= starts[document]:
                keys[first] = mix(rolling)
                checks[first] = np.uint32(mix(second) >> _HALF)


@kernel
def _find_anchors(keys, starts, gram, length, grams, firsts, lasts):
    """Fill the columns of Anchors; returns their number. keys: of the n-grams."""
    count = 0
    for document in range(len(starts) - 1):
        best, moved = -1, False
        for window in range(starts[document], starts[document + 1] - length + 1):
            last = window + length - gram  # the last of its n-grams
            moved = False
            if best < window:
                best, moved = window, True
                for at in range(window + 1, last + 1):
                    if keys[at] <= keys[best]:
                        best = at
            elif keys[last] <= keys[best]:
                best, moved = last, True
            if moved:
                grams[count], firsts[count] = best, window
                count += 1
            lasts[count - 1] = window
    return count


@kernel
def _cut(data, offsets, of_document, begins, ends, limits, cut_data, cut_offsets):
    """Fill cut_data, which is as long as the documents, and cut_offsets; returns the bytes written.

    of_document: int64[D + 1], the spans of each document. begins, ends, limits: int64[S], bytes.
    """
    to = 0
    for document in range(len(offsets) - 1):
        cut_offsets[document] = to
        start, at, end = to, offsets[document], offsets[document + 1]
        for span in range(of_document[document], of_document[document + 1]):
            copy(data, at, begins[span], cut_data, to)
            to += begins[span] - at
            at = ends[span]
            while at < limits[span] and data[at] != _SPACE and data[at] != _TAB and data[at] != _NEWLINE:
                at += 1
            while at < limits[span] and (data[at] == _SPACE or data[at] == _TAB):
                at += 1
            if at < end and data[at] != _NEWLINE:
                continue
            while to > start and (cut_data[to - 1] == _SPACE or cut_data[to - 1] == _TAB):
                to -= 1
            before, after = 0, 0
            while to - before > start and cut_data[to - before - 1] == _NEWLINE:
                before += 1
            while at + after < end and data[at + after] == _NEWLINE:
                after += 1
            if to == start:
                at += after
            elif at + after == end:
                to -= before
                at = end
            elif before:
                at += min(before, after)
        copy(data, at, end, cut_data, to)
        to += end - at
    cut_offsets[len(offsets) - 1] = to
    return to
