"""Steps 1 to 3 of steps.py: repair mojibake, replace and remove characters, find documents that NFC may change."""

import re
from functools import cache

import ftfy
import numpy as np
from ftfy.badness import MOJIBAKE_CATEGORIES

from raymill.pipelines.text.characters import UNSTABLE, code_point
from raymill.pipelines.text.instructions import copy_bytes, first_match, next_non_ascii
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts

TAB, NEWLINE, RETURN, SPACE = 9, 10, 13, 32

# Replacements of a character; 0 keeps it.
_DROP, _AS_SPACE, _AS_NEWLINE = 1, 2, 3


@inner_kernel
def _after_mongolian(data, begin, at):
    """Whether the character before `at` is in U+1800 to U+18BF and not U+180E."""
    if at - begin < 3 or data[at - 3] != 0xE1:
        return False
    return 0xA0 <= data[at - 2] <= 0xA2 and not (data[at - 2] == 0xA0 and data[at - 1] == 0x8E)


@inner_kernel
def _replacement_at(data, begin, at, stop):
    """(replacement, width in bytes) of the character at `at`; inside a character (0, 1)."""
    byte = data[at]
    if byte < 0x80:
        if byte == RETURN and at + 1 < stop and data[at + 1] == NEWLINE:
            return _AS_NEWLINE, 2
        if 11 <= byte <= 13:
            return _AS_NEWLINE, 1
        if (byte < 32 and byte != TAB and byte != NEWLINE) or byte == 0x7F:
            return _DROP, 1
        return 0, 1
    if byte < 0xC2:
        return 0, 1
    if byte < 0xE0:
        if byte == 0xC2:
            second = data[at + 1]
            if second == 0xA0:
                return _AS_SPACE, 2
            if second == 0x85:
                return _AS_NEWLINE, 2
            if second < 0xA0 or second == 0xAD:
                return _DROP, 2
        return 0, 2
    if byte < 0xF0:
        point = (np.int32(byte & 0x0F) << 12) | (np.int32(data[at + 1] & 0x3F) << 6) | np.int32(data[at + 2] & 0x3F)
        if 0x2000 <= point <= 0x2060:
            if point <= 0x200A or point == 0x202F or point == 0x205F:
                return _AS_SPACE, 3
            if point == 0x2028 or point == 0x2029:
                return _AS_NEWLINE, 3
            if point == 0x200B or point == 0x2060:
                return _DROP, 3
        elif point == 0xFEFF or (point == 0x180E and not _after_mongolian(data, begin, at)):
            return _DROP, 3
        return 0, 3
    return 0, 4


@inner_kernel
def _next_replaced(data, begin, at, stop):
    """(position, replacement, width) of the first character from `at` on that step 2 changes; (stop, 0, 0) if none."""
    while at < stop:
        # Skip bytes that are neither a control character nor the first byte of another character that step 2 changes.
        while at + 32 <= stop:
            first = np.uint8(255)
            for ahead in range(np.uint64(32)):
                byte = data[np.uint64(at) + ahead]
                odd = np.uint8(byte < 32) & np.uint8(byte != NEWLINE) & np.uint8(byte != TAB)
                odd |= np.uint8(byte == 0x7F) | np.uint8(byte == 0xC2)
                odd |= np.uint8(byte == 0xE1) | np.uint8(byte == 0xE2) | np.uint8(byte == 0xEF)
                first = first_match(first, ahead, odd)
            if first < 32:
                at += np.int64(first)
                break
            at += 32
        if at == stop:  # after a whole number of blocks: data[stop] belongs to the next document
            break
        replacement, width = _replacement_at(data, begin, at, stop)
        if replacement:
            return at, replacement, width
        at += width
    return stop, 0, 0


@kernel
def any_replaced(data, offsets):
    """Whether step 2 changes any document."""
    for document in range(len(offsets) - 1):
        begin, stop = offsets[document], offsets[document + 1]
        if _next_replaced(data, begin, begin, stop)[0] < stop:
            return True
    return False


@kernel
def replace_characters(data, offsets, out, ends):
    """Write the documents after step 2 to `out`, and where they end to ends[1:]."""
    put = 0
    for document in range(len(offsets) - 1):
        begin, stop = offsets[document], offsets[document + 1]
        at = begin
        while at < stop:
            found, replacement, width = _next_replaced(data, begin, at, stop)
            put = copy_bytes(data, at, found, out, put)
            at = found + width
            if replacement > _DROP:
                out[put] = NEWLINE if replacement == _AS_NEWLINE else SPACE
                put += 1
        ends[document + 1] = put


# What NFC may do to a document.
STABLE, UNSTABLE_TEXT, LONG_RUN = 0, 1, 2

# A document with a longer run of characters that NFC may change has a LONG_RUN. Unicode's Stream-Safe Text Format
# allows 30 marks in a row, more than any language uses.
MAX_RUN = 32


@kernel
def which_unstable(data, offsets, flags, kinds):
    """Set kinds[d], STABLE before, to what NFC may do to document d."""
    for document in range(len(offsets) - 1):
        stop = offsets[document + 1]
        at = next_non_ascii(data, offsets[document], stop)
        run = 0
        while at < stop:
            point, width = code_point(data, at)
            at += width
            if flags[point] & UNSTABLE:
                kinds[document] = UNSTABLE_TEXT
                run += 1
                if run > MAX_RUN:
                    kinds[document] = LONG_RUN
                    break
            else:
                run = 0
                if at < stop and data[at] < 0x80:
                    at = next_non_ascii(data, at, stop)


# --- Repair of mojibake: text whose UTF-8 was decoded in another encoding ("cafÃ©", "itâ€™s").
#
# A kernel marks the lines that may hold mojibake, and ftfy repairs the marked lines. ftfy by itself runs at 2 MB/s on
# Python strings, also where nothing is wrong.
#
# The kernel searches for the patterns of ftfy's BADNESS_RE: some forty short patterns over about four hundred
# characters, here slightly wider, as a bit-parallel automaton (Shift-And: Baeza-Yates and Gonnet 1992) that skips
# ASCII. It marks every line that ftfy would change, so the result equals ftfy's `fix_text` on every line. There is
# one exception: a lone U+0085 is a line end (see steps.py) and does not mark its line; in a marked line ftfy reads it
# as the ellipsis of Windows-1252.
#
# Limits are those of ftfy: mojibake across a line end is not found, Cyrillic and Greek are repaired only where the
# patterns are certain, and a line that quotes mojibake is repaired too.


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
