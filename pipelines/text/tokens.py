"""Tokens of deduplication and decontamination, one after the other, for kernels.

A token is a run of letters, marks and numbers, lower-cased; in scripts written without spaces every character is one.
So texts that differ only in white space between words, punctuation or case have equal tokens.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from raymill.pipelines.text.characters import UNSPACED, WORD, code_point, tables
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts

PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: 2^64 divided by the golden ratio


def count_tokens(texts: Texts) -> np.ndarray:
    """int64[D]: tokens of each document."""
    counts = np.empty(len(texts), np.int64)
    _count(texts.data, texts.offsets, *tables(), counts)
    return counts


def split_tokens(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """(hashes uint64[T] of the tokens, starts int64[D + 1]): document d has hashes[starts[d]:starts[d + 1]]."""
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(count_tokens(texts), out=starts[1:])
    hashes = np.empty(starts[-1], np.uint64)
    _hash(texts.data, texts.offsets, *tables(), hashes)
    return hashes, starts


@inner_kernel
def most_tokens(size):
    """Maximum number of tokens in this number of bytes: each takes one and a separator, or is a character of three."""
    return (size + 1) // 2


@inner_kernel
def mix(value):
    """MurmurHash3's finaliser of 64 bits: a bijection; every bit of the output depends on every bit of the input."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@inner_kernel
def next_token(data, at, end, flags, lower):
    """The first token in the bytes from `at` to `end`: (hash: uint64, its first byte, its end, where the next begins).

    flags, lower: of characters.tables(). at: where the text begins, or what the last call returned. Without a further
    token its first byte is `end`. Speed: 250 MB/s on one core.
    """
    point = np.int32(0)
    width = 1
    bits = np.uint16(0)
    while at < end:
        point, width = code_point(data, at)
        bits = flags[point]
        if bits & WORD:
            break
        at += width
    begin = at
    if bits & UNSPACED or at == end:
        return mix((np.uint64(point) + np.uint64(1)) * PRIME), begin, at + width, at + width
    hashed = np.uint64(0)
    while True:
        hashed = (hashed + np.uint64(lower[point]) + np.uint64(1)) * PRIME
        hashed ^= hashed >> np.uint64(29)
        at += width
        if at == end:
            return mix(hashed), begin, at, at
        point, width = code_point(data, at)
        bits = flags[point]
        if bits & (WORD | UNSPACED) != WORD:
            return mix(hashed), begin, at, at if bits & WORD else at + width


@kernel
def _count(data, offsets, flags, lower, counts):
    for document in range(len(counts)):
        at, end = offsets[document], offsets[document + 1]
        counts[document] = 0
        while True:
            _, begin, _, at = next_token(data, at, end, flags, lower)
            if begin == end:
                break
            counts[document] += 1


@kernel
def _hash(data, offsets, flags, lower, hashes):
    count = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        while True:
            token, begin, _, at = next_token(data, at, end, flags, lower)
            if begin == end:
                break
            hashes[count] = token
            count += 1


# --- Finds words and phrases in texts, whole and in any case.


class Phrases:
    """Words and phrases to find. lengths: int64[P], their tokens."""

    def __init__(self, phrases: Sequence[str]) -> None:
        hashes, starts = split_tokens(Texts.from_strings(list(phrases)))
        self.lengths = np.diff(starts)
        self._tokens = [hashes[start:end] for start, end in pairwise(starts.tolist())]
        assert all(map(len, self._tokens)), "a phrase has a word"

    def find(self, tokens: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(text, phrase) of every match, int64[M] each. A phrase within another one is found as well.

        tokens, starts: of `split_tokens`. Cost: 4 bytes a phrase and match.
        """
        text = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        first = [phrase[0] for phrase in self._tokens]
        begins = np.flatnonzero(np.isin(tokens, first)) if first else np.empty(0, np.int64)
        texts, phrases = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, phrase in enumerate(self._tokens):
            here = begins[tokens[begins] == phrase[0]]
            here = here[here + len(phrase) <= len(tokens)]
            for offset, token in enumerate(phrase[1:], 1):
                here = here[(tokens[here + offset] == token) & (text[here + offset] == text[here])]
            texts.append(text[here])
            phrases.append(np.full(len(here), number))
        return np.concatenate(texts), np.concatenate(phrases)
