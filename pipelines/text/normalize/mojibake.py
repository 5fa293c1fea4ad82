"""Repair of mojibake: text whose UTF-8 was decoded in another encoding ("cafÃ©", "itâ€™s").

A kernel marks the lines that may hold mojibake, and ftfy repairs the marked lines. ftfy by itself runs at 2 MB/s on
Python strings, also where nothing is wrong.

The kernel searches for the patterns of ftfy's BADNESS_RE: some forty short patterns over about four hundred characters,
here slightly wider, as a bit-parallel automaton (Shift-And: Baeza-Yates and Gonnet 1992) that skips ASCII. It marks
every line that ftfy would change, so the result is that of ftfy's `fix_text` on every line. There is one exception: a
lone U+0085 is a line end (see steps.py) and does not mark its line; in a marked line ftfy reads it as the ellipsis of
Windows-1252.

Limits are those of ftfy: mojibake across a line end is not found, Cyrillic and Greek are repaired only where the
patterns are certain, and a line that quotes mojibake is repaired too.
"""

import re
from functools import cache

import ftfy
import numpy as np
from ftfy.badness import MOJIBAKE_CATEGORIES

from pipelines.text.byte_scan import next_non_ascii
from pipelines.text.characters import code_point
from pipelines.text.kernel import kernel
from pipelines.text.texts import Texts

FTFY_VERSION = ftfy.__version__

_OTHER = 0xFFFF  # represents every character above the basic plane: none of them occurs in a pattern
_LINE_CHARACTERS = 1_000_000  # ftfy's max_decode_length: longer lines are repaired in pieces


def _patterns() -> list[tuple[str, ...]]:
    """Sequences of character classes, each written as the inside of a regex `[...]`.

    ASCII characters occur only in the last class of a sequence. Where BADNESS_RE requires ASCII characters before it,
    they are left out.
    """
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
    """(masks uint64[0x10000], starts, accepts): the Shift-And automaton of all patterns, one bit per character class.

    masks: by code point, the classes that hold the character. starts, accepts: first and last classes of the patterns.
    """
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
    assert at <= 64, f"the patterns have {at} classes, and the automaton has 64 bits"
    masks[_OTHER] = masks[0xA001]  # a letter that is in no category of ftfy
    return masks, np.uint64(starts), np.uint64(accepts)


@kernel
def _marked_lines(data, offsets, masks, starts, accepts, marked):
    """Fill `marked`, int64[M, 3], see marked_lines; returns M."""
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
                    break  # ASCII characters occur only at the end of a pattern
            if found:
                first = at - 1  # a byte of the marked line, or the ASCII character that ended the pattern
                while first > offsets[document] and data[first - 1] != 10 and data[first - 1] != 13:
                    first -= 1
                while at < stop and data[at] != 10 and data[at] != 13:
                    at += 1
                marked[count, 0], marked[count, 1], marked[count, 2] = document, first, at
                count += 1
    return count


def marked_lines(texts: Texts) -> np.ndarray:
    """int64[M, 3]: document, start and end in `texts.data`, without its line end, of every line with a pattern."""
    # A marked line holds a character of two bytes. Memory that is not written is not used.
    marked = np.empty((int(texts.offsets[-1] - texts.offsets[0]) // 2, 3), np.int64)
    return marked[: _marked_lines(texts.data, texts.offsets, *_automaton(), marked)].copy()


def repair(texts: Texts) -> Texts:
    """The documents with their marked lines repaired by ftfy; the same object if no line changes."""
    changed = []
    for document, start, end in marked_lines(texts).tolist():
        line = texts.data[start:end].tobytes().decode()
        pieces = (line[at : at + _LINE_CHARACTERS] for at in range(0, len(line), _LINE_CHARACTERS))
        repaired = "".join(map(ftfy.fix_encoding, pieces))
        if repaired != line:
            changed.append((document, start, end, repaired.encode()))
    return replace_parts(texts, changed)


def replace_parts(texts: Texts, changes: list[tuple[int, int, int, bytes]]) -> Texts:
    """The documents with some parts replaced; the same object if there are no changes.

    changes: (document, start and end in `texts.data`, new bytes), in order and without overlap.
    """
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
