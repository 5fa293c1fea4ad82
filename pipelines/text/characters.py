"""Properties of Unicode characters as tables that a kernel indexes by code point, and UTF-8 decoding for kernels.

    flags    uint16[0x110000]  the bits below
    lower    int32[0x110000]   the lower case if it is one character, else the character itself

Kernels take the tables as arguments: numba would copy a global table, 4 MB, into every compiled function. The tables
follow the `unicodedata` of the running Python, so `UNICODE_VERSION` is part of the fingerprint of measurements.
"""

import unicodedata
from functools import cache

import numpy as np

from raymill.pipelines.text.kernel import inner_kernel

UNICODE_VERSION = unicodedata.unidata_version

SPACE = 1  # str.isspace()
ALPHA = 2  # str.isalpha()
WORD = 4  # a letter, mark or number: the characters of a dedup token
UNSPACED = 8  # a letter of a script written without spaces, where every character counts as a word
SYMBOL = 16  # punctuation or symbol, Unicode categories P and S
LINE_END = 32  # a line end of str.splitlines()
DIGIT = 64  # str.isdigit()
UNSTABLE = 128  # NFC may change it: a combining mark, or a character that NFC replaces

# Letters of scripts written without spaces between words (Unicode property Script): first and last code point.
UNSPACED_RANGES = (
    (0x0E01, 0x0E5B),  # Thai
    (0x0E81, 0x0EDF),  # Lao
    (0x0F40, 0x0FBC),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17DD),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAD),  # Tai Tham
    (0x3005, 0x3007),  # ideographic iteration mark, zero
    (0x3041, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # CJK extension A
    (0x4E00, 0x9FFF),  # CJK unified ideographs
    (0xA000, 0xA48C),  # Yi
    (0xA9E0, 0xA9FE),  # Myanmar extended B
    (0xAA60, 0xAADF),  # Myanmar extended A, Tai Viet
    (0xF900, 0xFAFF),  # CJK compatibility ideographs
    (0xFF66, 0xFF9D),  # half-width Katakana
    (0x1B000, 0x1B16F),  # Kana supplement
    (0x20000, 0x3FFFF),  # CJK extensions B and later
)

# All assigned characters that are not for private use: planes 0 to 3, and tags and variation selectors of plane 14.
_ASSIGNED = ((0x0, 0x32400), (0xE0000, 0xE0200))


@cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """(flags, lower), read-only. Computed once a process, in about 0.1 s."""
    flags = np.zeros(0x110000, np.uint16)
    lower = np.arange(0x110000, dtype=np.int32)
    for first, end in _ASSIGNED:
        for point in range(first, end):
            if 0xD800 <= point < 0xE000:
                continue
            bits, lower[point] = _describe(chr(point))
            flags[point] |= bits
            decomposed = unicodedata.decomposition(chr(point)).split()
            if len(decomposed) == 2 and decomposed[0][0] != "<":
                flags[int(decomposed[1], 16)] |= UNSTABLE  # composes with the character before it
    flags[0x1161:0x1176] |= UNSTABLE  # Hangul vowels and final consonants compose by an algorithm, without a table
    flags[0x11A8:0x11C3] |= UNSTABLE
    for first, last in UNSPACED_RANGES:
        letters = flags[first : last + 1]
        letters[(letters & WORD) != 0] |= UNSPACED
    for table in (flags, lower):
        table.setflags(write=False)
    return flags, lower


@cache
def flags_with_symbols() -> np.ndarray:
    """The flags, read-only, where punctuation and symbols are words of one character."""
    flags = tables()[0].copy()
    flags[(flags & SYMBOL) != 0] |= WORD | UNSPACED
    flags.setflags(write=False)
    return flags


def _describe(character: str) -> tuple[int, int]:
    """(flags, lower) of one character; UNSPACED is added later."""
    category = unicodedata.category(character)
    if category == "Cn":
        return 0, ord(character)
    lowered = character.lower()
    unstable = unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character)
    bits = (
        SPACE * character.isspace()
        | ALPHA * character.isalpha()
        | WORD * (category[0] in "LMN")
        | SYMBOL * (category[0] in "PS")
        | LINE_END * (len(f"a{character}b".splitlines()) == 2)
        | DIGIT * character.isdigit()
        | UNSTABLE * bool(unstable)
    )
    return bits, ord(lowered) if len(lowered) == 1 else ord(character)


@inner_kernel
def code_point(data, at):
    """(code point, width in bytes) of the UTF-8 character that starts at `at`. The text must be valid UTF-8."""
    byte = np.int32(data[at])
    if byte < 0x80:
        return byte, 1
    if byte < 0xE0:
        return ((byte & 0x1F) << 6) | (np.int32(data[at + 1]) & 0x3F), 2
    if byte < 0xF0:
        return ((byte & 0x0F) << 12) | ((np.int32(data[at + 1]) & 0x3F) << 6) | (np.int32(data[at + 2]) & 0x3F), 3
    return (
        ((byte & 0x07) << 18)
        | ((np.int32(data[at + 1]) & 0x3F) << 12)
        | ((np.int32(data[at + 2]) & 0x3F) << 6)
        | (np.int32(data[at + 3]) & 0x3F)
    ), 4
