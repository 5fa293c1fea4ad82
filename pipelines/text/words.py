"""Words of documents as flat arrays: what rules count, measure and compare, with no Python object per word.

Two dialects, and the rules read both the same way:

    paper      a word is a run of characters between spaces (`str.isspace`); in scripts written without spaces every
               letter is a word of its own, and a run that mixes scripts is cut where they change
    datatrove  a word is a token of spaCy's blank English tokenizer, whatever the language: see datatrove_words.py

A word's hash stands for its exact characters, case included. It says which words of one table are equal and nothing
else; it is not stored, and signatures have a hash of their own.

Speed on one core, 16 kB technical documents: paper 400 MB/s, datatrove 80 to 100 MB/s.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from pipelines.text.characters import ALPHA, SPACE, SYMBOL, UNSPACED, code_point, tables
from pipelines.text.texts import Texts

# Bits of Words.flags.
HAS_ALPHA = 1  # at least one alphabetic character (str.isalpha)
HAS_NON_SYMBOL = 2  # at least one character that is neither punctuation nor a symbol: a word in Gopher's sense

# FNV-1a (Fowler, Noll, Vo), 64 bits, one multiplication a byte; `finished` spreads the last bytes over all bits.
HASH_SEED = np.uint64(0xCBF29CE484222325)
HASH_PRIME = np.uint64(0x100000001B3)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Words:
    """W words of D documents, in their order. Words `starts[i]:starts[i + 1]` are document i's.

    starts: int64[D + 1].
    hashes: uint64[W], equal for equal words.
    lengths: int32[W], in characters.
    flags: uint8[W], the bits above (the datatrove dialect sets more).
    begins: int64[W], where the word begins in `Texts.data`, in bytes.
    """

    starts: np.ndarray
    hashes: np.ndarray
    lengths: np.ndarray
    flags: np.ndarray
    begins: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64[D], words of each document."""
        return np.diff(self.starts)


def split_words(texts: Texts, dialect: str) -> Words:
    """The words of every document in a dialect, `paper` or `datatrove`."""
    if dialect == "datatrove":
        from pipelines.text.datatrove.words import split_tokens  # here, for it builds on this module

        return split_tokens(texts)
    assert dialect == "paper", f"there is no dialect {dialect!r}"
    flags, _ = tables()
    # Two bytes a word: one and a separator, or a letter of an unspaced script, which has three.
    return cut_words(texts, _split_runs, 2, _ascii_classes(flags), flags)


def cut_words(texts: Texts, kernel, bytes_per_word: int, *char_tables: np.ndarray) -> Words:
    """Run a splitting kernel over arrays large enough for any text, and keep what it filled.

    bytes_per_word: the fewest that a word and the space after it take. Pages that no word reaches are never touched,
    so the large bound costs address space and no memory.
    """
    count = len(texts)
    most = (int(texts.offsets[-1] - texts.offsets[0]) + count) // bytes_per_word + 1
    starts = np.zeros(count + 1, np.int64)
    hashes, begins = np.empty(most, np.uint64), np.empty(most, np.int64)
    lengths, flags = np.empty(most, np.int32), np.empty(most, np.uint8)
    kernel(texts.data, texts.offsets, *char_tables, starts, hashes, lengths, flags, begins)
    total = starts[-1]
    return Words(starts, hashes[:total], lengths[:total], flags[:total], begins[:total])


_STOP = 1
_ALPHA = 2
_NON_SYMBOL = 4


def _ascii_classes(flags: np.ndarray) -> np.ndarray:
    """uint8[128]: what the kernel asks of an ASCII character, in one look."""
    ascii_flags = flags[:128]
    return (
        _STOP * ((ascii_flags & SPACE) != 0)
        + _ALPHA * ((ascii_flags & ALPHA) != 0)
        + _NON_SYMBOL * ((ascii_flags & SYMBOL) == 0)
    ).astype(np.uint8)


@njit(inline="always")
def finished(hashed):
    """The last act of a hash: bits of every byte reach every bit, so any of them can index a table."""
    hashed ^= hashed >> _HALF
    hashed *= _SPREAD
    return hashed ^ (hashed >> _HALF)


@njit(cache=True, nogil=True)
def hash_bytes(data, begin, end):
    """The hash of the word data[begin:end]."""
    hashed = HASH_SEED
    for at in range(begin, end):
        hashed = (hashed ^ np.uint64(data[at])) * HASH_PRIME
    return finished(hashed)


@njit(cache=True, nogil=True)
def hash_each(data, offsets):
    """uint64[D]: the hash of each document, as if it were one word."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for index in range(len(hashes)):
        hashes[index] = hash_bytes(data, offsets[index], offsets[index + 1])
    return hashes


@njit(cache=True, nogil=True)
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
                    if kind & _STOP:
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
                hashes[word] = finished(hashed)
                lengths[word] = length
                word_flags[word] = (HAS_ALPHA if seen & _ALPHA else 0) | (HAS_NON_SYMBOL if seen & _NON_SYMBOL else 0)
                begins[word] = begin
                word += 1
            else:
                at += 1 if data[at] < 0x80 else code_point(data, at)[1]
        starts[document + 1] = word
