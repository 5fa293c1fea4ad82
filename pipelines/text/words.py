"""Words of documents as flat arrays, and the words of the `paper` dialect.

A word of the paper dialect is a run of characters between white space (`str.isspace`). In scripts written without
spaces every letter is a word, and a run that mixes scripts is cut where they change. 400 MB/s on one core for technical
documents of 16 kB. The words of the other dialect, `datatrove`, come from datatrove/tokenizer.py in the same arrays.

The hash of a word covers its exact characters, case included. Hashes are compared within one table and never stored.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.text.characters import ALPHA, SPACE, SYMBOL, UNSPACED, code_point, tables
from pipelines.text.kernel import inner_kernel, kernel
from pipelines.text.texts import Texts

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
