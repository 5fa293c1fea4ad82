"""Text whose UTF-8 was once read in another encoding ("cafÃ©", "itâ€™s"): found by a cheap screen, mended by ftfy.

ftfy knows such text by its BADNESS_RE, some forty short patterns over about four hundred characters, but needs a
Python string and runs at 2 MB/s even to say that nothing is wrong. The screen is that expression, a little widened,
as a bit-parallel automaton (Shift-And: Baeza-Yates and Gonnet 1992) that skips ASCII altogether: every line that
ftfy would change is marked, so only marked lines reach ftfy and the outcome is ftfy's on every line, as in its own
`fix_text`. One exception: a lone U+0085 is a line end (see normalize.py) and marks nothing by itself; in a marked
line ftfy reads it as the ellipsis of Windows-1252.

Limits are ftfy's: damage across a line end is not seen, Cyrillic or Greek is mended only where its patterns are
certain, and a line that *quotes* mojibake is mended too.
"""

import re
from functools import cache

import ftfy
import numpy as np
from ftfy.badness import MOJIBAKE_CATEGORIES
from numba import njit

from pipelines.text.byte_scan import next_non_ascii
from pipelines.text.characters import code_point
from pipelines.text.texts import Texts

FTFY_VERSION = ftfy.__version__

_OTHER = 0xFFFF  # stands for every character above the basic plane: none of them takes part in mojibake
_LINE_CHARACTERS = 1_000_000  # ftfy's own max_decode_length: longer lines are mended in pieces


def _patterns() -> list[tuple[str, ...]]:
    """Sequences of character classes (inside of a regex `[...]`). No first class holds an ASCII character, and
    an ASCII character may only come last: what BADNESS_RE wants of ASCII before that is left out."""
    kinds = MOJIBAKE_CATEGORIES
    bad, box, law, numeric, currency = (kinds[kind] for kind in ("bad", "box", "law", "numeric", "currency"))
    start, end = kinds["start_punctuation"], kinds["end_punctuation"]
    upper, lower = kinds["upper_accented"], kinds["lower_accented"]
    accented = lower + upper
    marks = accented + box + start + end + currency + numeric + law
    foreign = kinds["lower_common"] + kinds["upper_common"]
    arabic = kinds["common"] + currency + bad + numeric + start + "ŸŠ®°µ»"
    after_letter = kinds["c1"] + bad + start + end + currency + "°µ"
    return [
        ("\x80-\x84\x86-\x9f",),
        ("\xc2-\xdf", "\x85"),  # U+0085 as the last or middle byte of a UTF-8 sequence
        ("\xe0-\xf4", "\x80-\xbf", "\x85"),
        ("\xe0-\xf4", "\x85", "\x80-\xbf"),
        (bad + marks + foreign, bad),
        (bad, marks),
        (lower + kinds["lower_common"] + box + end + currency + numeric, upper),
        (box + end + currency + numeric, lower),
        (accented + box + end, currency),
        (upper, start),
        (upper + box, numeric + law + "°"),
        (accented + box + currency + end, start, numeric),
        (accented + currency + numeric + box + law, end, start),
        (currency + numeric + box, start),
        (box, kinds["kaomoji"] + end),
        (accented + currency + numeric + start + end + law, box),
        (accented, start + end, r"\w"),
        ("Œœ", "^A-Za-z\r\n"),
        ("ÂÃÎÐ", "€œŠš¢£Ÿž\xa0\xad®©°·»–—´ " + start + end),
        ("×à", "²³µ¹¼½¾"),
        ("ØÙ", arabic, "ØÙ", arabic),
        ("√", "±∂†≠®™´≤≥¥µø"),
        ("≈", "°¢"),
        ("‚", "Äâó"),
        ("вВβā", "Ђ€"),
        ("ВГРСΒΓΞΟ", after_letter, "ВГРСΒΓΞΟ"),
    ]


@cache
def _automaton() -> tuple[np.ndarray, np.uint64, np.uint64]:
    """(masks, starts, accepts): uint64[0x10000] by code point: which pattern elements the character satisfies."""
    alphabet = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)]))
    masks = np.zeros(0x10000, np.uint64)
    starts = accepts = at = 0
    for pattern in _patterns():
        starts |= 1 << at
        for members in pattern:
            found = re.findall(f"[{members}]", alphabet)
            masks[[ord(character) for character in found]] |= np.uint64(1 << at)
            at += 1
        accepts |= 1 << (at - 1)
    assert at <= 64, f"the patterns have {at} elements; the automaton holds 64"
    masks[_OTHER] = masks[0xA001]  # as any letter that is in no category
    return masks, np.uint64(starts), np.uint64(accepts)


@njit(cache=True, nogil=True)
def _marked_lines(data, offsets, masks, starts, accepts):
    """int64[M, 3]: document, start and end (positions in `data`, line end left out) of each marked line, in order."""
    marked = np.empty((64, 3), np.int64)
    count = 0
    one = np.uint64(1)
    for document in range(len(offsets) - 1):
        at, stop = offsets[document], offsets[document + 1]
        while at < stop:
            at = next_non_ascii(data, at, stop)
            state = np.uint64(0)
            found = False
            while at < stop and not found:
                point, width = code_point(data, at)
                state = ((state << one) | starts) & masks[min(point, 0xFFFF)]
                found = (state & accepts) != 0
                at += width
                if point < 0x80:
                    break  # no pattern goes on after an ASCII character
            if found:
                first = at - 1  # inside the marked line, or on the ASCII character that ended the pattern
                while first > offsets[document] and data[first - 1] != 10 and data[first - 1] != 13:
                    first -= 1
                while at < stop and data[at] != 10 and data[at] != 13:
                    at += 1
                if count == len(marked):
                    grown = np.empty((2 * count, 3), np.int64)
                    grown[:count] = marked
                    marked = grown
                marked[count, 0], marked[count, 1], marked[count, 2] = document, first, at
                count += 1
    return marked[:count]


def marked_lines(texts: Texts) -> np.ndarray:
    """int64[M, 3]: document, start and end in `texts.data` of every line that bears a mark of mojibake."""
    return _marked_lines(texts.data, texts.offsets, *_automaton())


def repair(texts: Texts) -> Texts:
    """Mend the marked lines; the same `texts` if ftfy leaves them all as they are."""
    changed = []
    for document, start, end in marked_lines(texts).tolist():
        line = texts.data[start:end].tobytes().decode()
        pieces = (line[at : at + _LINE_CHARACTERS] for at in range(0, len(line), _LINE_CHARACTERS))
        mended = "".join(map(ftfy.fix_encoding, pieces))
        if mended != line:
            changed.append((document, start, end, mended.encode()))
    return replace(texts, changed)


def replace(texts: Texts, changes: list[tuple[int, int, int, bytes]]) -> Texts:
    """Put other bytes in place of parts of documents: (document, start, end in `texts.data`, bytes), in order."""
    if not changes:
        return texts
    pieces, at = [], texts.offsets[0]
    lengths = texts.byte_lengths.copy()
    for document, start, end, new in changes:
        pieces += [texts.data[at:start], np.frombuffer(new, np.uint8)]
        lengths[document] += len(new) - (end - start)
        at = end
    pieces.append(texts.data[at : texts.offsets[-1]])
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Texts(np.concatenate(pieces), offsets)
