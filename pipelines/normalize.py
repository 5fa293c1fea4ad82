"""The same text, written one way: what every measurement, hash and corpus row is made from.

In this order:

1. Mojibake is mended, line by line, where the marks of it are found (mojibake.py).
2. Characters. Line ends (CRLF, CR, U+0085, U+2028, U+2029, vertical tab, form feed) become "\\n". Control characters
   but tab, and the invisible U+00AD, U+200B, U+2060, U+FEFF and U+180E go (U+180E stays after a Mongolian letter,
   whose shape it sets). No-break, typographic and narrow spaces become " "; the ideographic one stays. So do
   joiners, variation selectors and bidi marks: they carry meaning in Persian, in Indic scripts and in emoji.
3. Unicode normal form C.
4. Spaces and tabs at the end of a line go, and blank lines at both ends of the document. A gap, two or more spaces
   inside a line, becomes one space in prose and stays where it is layout:

   * after a sentence's end (. ! ? : and closing quotes or brackets) two spaces are a typist's habit. They become one,
     unless a line directly above or below has a gap of another kind, as a table has;
   * two spaces between two words are a slip, if it is the only one in its line and the lines directly above and below
     have no gap at all. They become one;
   * every other gap is layout, and so is any gap in an indented line, in a line with a tab, or behind a first word
     that may be a list's number or a label: under five bytes, or not ended by . ! ? behind something else than a
     digit ("1.  An item", "Author:  Me"). A line with layout keeps all its gaps. Indentation is never touched.

   So code, RST and ASCII tables and aligned lists stay as they are; the price is that double spaces in indented prose
   stay too.

Normalising twice changes nothing more. 300 MB/s and more on one core for English, where nearly every document changes.
"""

import unicodedata
from collections.abc import Iterator

import numpy as np
from numba import njit

from pipelines import mojibake
from pipelines.characters import UNICODE_VERSION, UNSTABLE, code_point, tables
from pipelines.mojibake import next_non_ascii, replace
from pipelines.texts import Texts

NORMALIZE_VERSION = f"1-unicode{UNICODE_VERSION}-ftfy{mojibake.FTFY_VERSION}"

# Mending can bare new mojibake (a soft hyphen inside a broken character), so a document still marked goes round again.
# Two rounds are rare and three are made by hand; the bound only keeps the loop finite.
_ROUNDS = 8

_WINDOW_BYTES = 1 << 20

_TAB, _NEWLINE, _RETURN, _SPACE = 9, 10, 13, 32


def normalize(texts: Texts) -> Texts:
    """The documents, normalised one by one; the same `texts` if they all were already."""
    parts = list(_windows(texts))
    results = [_until_stable(part) for part in parts]
    if all(result is part for result, part in zip(results, parts, strict=True)):
        return texts
    lengths = np.concatenate([result.byte_lengths for result in results])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Texts(np.concatenate([result.data[result.offsets[0] : result.offsets[-1]] for result in results]), offsets)


def _windows(texts: Texts) -> Iterator[Texts]:
    """Runs of documents of some megabytes: they stay in the processor's cache through all the steps."""
    first = 0
    while first < len(texts):
        end = int(np.searchsorted(texts.offsets, texts.offsets[first] + _WINDOW_BYTES))
        end = min(max(end, first + 1), len(texts))
        yield Texts(texts.data, texts.offsets[first : end + 1])
        first = end


def _until_stable(texts: Texts) -> Texts:
    result = _once(texts)
    for _ in range(_ROUNDS):
        marked = np.unique(mojibake.marked_lines(result)[:, 0]).tolist()
        again = _once(Texts.from_strings([result[document] for document in marked]))
        changes = []
        for document, new in zip(marked, range(len(again)), strict=True):
            start, end = result.offsets[document], result.offsets[document + 1]
            mended = again.data[again.offsets[new] : again.offsets[new + 1]].tobytes()
            if mended != result.data[start:end].tobytes():
                changes.append((document, start, end, mended))
        if not changes:
            break
        result = replace(result, changes)
    return result


def _once(texts: Texts) -> Texts:
    return _lay_out(_compose(_scrub(mojibake.repair(texts))))


def _scrub(texts: Texts) -> Texts:
    """Step 2: line ends, control characters, invisible characters and spaces."""
    if not _any_scrub(texts.data, texts.offsets):
        return texts
    out = _room_for(texts)
    offsets = _scrubbed(texts.data, texts.offsets, out)
    return Texts(out[: offsets[-1]], offsets)


def _compose(texts: Texts) -> Texts:
    """Step 3: normal form C, for documents with a character that could change."""
    changes = []
    for document in np.flatnonzero(_unstable(texts.data, texts.offsets, tables()[0])).tolist():
        text = texts[document]
        composed = unicodedata.normalize("NFC", text)
        if composed != text:
            changes.append((document, texts.offsets[document], texts.offsets[document + 1], composed.encode()))
    return replace(texts, changes)


def _lay_out(texts: Texts) -> Texts:
    """Step 4: trailing spaces, blank ends, gaps."""
    out = _room_for(texts)
    offsets = _laid_out(texts.data, texts.offsets, out)
    return texts if offsets[-1] == len(out) else Texts(out[: offsets[-1]], offsets)


def _room_for(texts: Texts) -> np.ndarray:
    """uint8[B]: steps 2 and 4 never make text longer."""
    return np.empty(texts.offsets[-1] - texts.offsets[0], np.uint8)


@njit(inline="always")
def _copy(data, start, stop, out, put):
    """Append data[start:stop] to `out`, which is written up to `put`: the new end."""
    out[put : put + stop - start] = data[start:stop]
    return put + stop - start


@njit(inline="always")
def _sooner(first, position, found):
    """The smaller of `first` and `position`, if `found` is 1. All are bytes, there is no branch, and the loops around
    it index with unsigned integers, which cannot be negative: so LLVM makes vector code of them, 8 times as fast."""
    candidate = np.uint8(np.uint8(position) | np.uint8(found - np.uint8(1)))
    return candidate if candidate < first else first


# What becomes of a character; 0 is to keep it.
_DROP, _AS_SPACE, _AS_NEWLINE = 1, 2, 3


@njit(inline="always")
def _after_mongolian(data, begin, at):
    """Whether the character before `at` is in U+1800 to U+18BF, U+180E itself apart."""
    if at - begin < 3 or data[at - 3] != 0xE1:
        return False
    return 0xA0 <= data[at - 2] <= 0xA2 and not (data[at - 2] == 0xA0 and data[at - 1] == 0x8E)


@njit(inline="always")
def _fate(data, begin, at, stop):
    """(fate, width in bytes) of the character at `at`, which may also be inside one that is kept."""
    byte = data[at]
    if byte < 0x80:
        if byte == _RETURN and at + 1 < stop and data[at + 1] == _NEWLINE:
            return _AS_NEWLINE, 2
        if 11 <= byte <= 13:
            return _AS_NEWLINE, 1
        if (byte < 32 and byte != _TAB and byte != _NEWLINE) or byte == 0x7F:
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


@njit(cache=True, nogil=True)
def _next_scrub(data, begin, at, stop):
    """(position, fate, width) of the next character from `at` on that step 2 changes; position `stop` if none."""
    while at < stop:
        # Pass over what is neither a control character nor the first byte of any other character in question.
        while at + 32 <= stop:
            first = np.uint8(255)
            for ahead in range(np.uint64(32)):
                byte = data[np.uint64(at) + ahead]
                odd = np.uint8(byte < 32) & np.uint8(byte != _NEWLINE) & np.uint8(byte != _TAB)
                odd |= np.uint8(byte == 0x7F) | np.uint8(byte == 0xC2)
                odd |= np.uint8(byte == 0xE1) | np.uint8(byte == 0xE2) | np.uint8(byte == 0xEF)
                first = _sooner(first, ahead, odd)
            if first < 32:
                at += np.int64(first)
                break
            at += 32
        if at == stop:  # the blocks came out even: what follows is another document
            break
        fate, width = _fate(data, begin, at, stop)
        if fate:
            return at, fate, width
        at += width
    return stop, 0, 0


@njit(cache=True, nogil=True)
def _any_scrub(data, offsets):
    for document in range(len(offsets) - 1):
        begin, stop = offsets[document], offsets[document + 1]
        if _next_scrub(data, begin, begin, stop)[0] < stop:
            return True
    return False


@njit(cache=True, nogil=True)
def _scrubbed(data, offsets, out):
    """Write the documents after step 2 to `out`: their offsets."""
    ends = np.zeros(len(offsets), np.int64)
    put = 0
    for document in range(len(offsets) - 1):
        begin, stop = offsets[document], offsets[document + 1]
        at = begin
        while at < stop:
            found, fate, width = _next_scrub(data, begin, at, stop)
            put = _copy(data, at, found, out, put)
            at = found + width
            if fate > _DROP:
                out[put] = _NEWLINE if fate == _AS_NEWLINE else _SPACE
                put += 1
        ends[document + 1] = put
    return ends


@njit(cache=True, nogil=True)
def _unstable(data, offsets, flags):
    """bool[D]: which documents hold a character that may change under normal form C."""
    unstable = np.zeros(len(offsets) - 1, np.bool_)
    for document in range(len(offsets) - 1):
        stop = offsets[document + 1]
        at = next_non_ascii(data, offsets[document], stop)
        while at < stop:
            point, width = code_point(data, at)
            if flags[point] & UNSTABLE:
                unstable[document] = True
                break
            at += width
            if at < stop and data[at] < 0x80:
                at = next_non_ascii(data, at, stop)
    return unstable


# What gaps a line has.
_NO_GAP, _SENTENCE, _SLIP, _LAYOUT = 0, 1, 2, 3


@njit(inline="always")
def _letter(byte):
    return 65 <= byte <= 90 or 97 <= byte <= 122 or byte >= 0x80


@njit(inline="always")
def _ends_sentence(data, start, at):
    """Whether a sentence ends just before `at`: one of . ! ? : and after it any closing quotes, brackets or * _ `."""
    at -= 1
    while at > start:
        byte = data[at]
        if byte == 34 or byte == 39 or byte == 41 or byte == 93 or byte == 42 or byte == 95 or byte == 96:
            at -= 1
        elif at - 2 > start and (byte == 0x99 or byte == 0x9D) and data[at - 1] == 0x80 and data[at - 2] == 0xE2:
            at -= 3  # U+2019, U+201D
        else:
            break
    return data[at] == 46 or data[at] == 33 or data[at] == 63 or data[at] == 58


@njit(inline="always")
def _sentence_word(data, start, end):
    """Whether a line's first word, data[start:end], ends a sentence and is no list's number nor a label."""
    last = data[end - 1]
    return end - start >= 5 and (last == 46 or last == 33 or last == 63) and not 48 <= data[end - 2] <= 57


@njit(inline="always")
def _read_line(data, at, stop):
    """(end of its text, end, gaps) of the line that starts at `at`; a blank line's text ends where it starts."""
    start = text_end = at
    gaps = _NO_GAP
    runs = 0  # of blanks inside the line
    while at < stop:
        while at < stop and data[at] != _SPACE and data[at] != _TAB and data[at] != _NEWLINE:
            at += 1
        if at > text_end:
            text_end = at
        first = at
        tabs = False
        while at < stop and (data[at] == _SPACE or data[at] == _TAB):
            tabs |= data[at] == _TAB
            at += 1
        if at == stop or data[at] == _NEWLINE:
            return (text_end if first > start else start), at, gaps
        if first > start and (tabs or at - first > 1) and gaps != _LAYOUT:
            indented = data[start] == _SPACE or data[start] == _TAB
            if tabs or indented or at - first > 2 or (runs == 0 and not _sentence_word(data, start, first)):
                gaps = _LAYOUT
            elif _ends_sentence(data, start, first):
                gaps = max(gaps, _SENTENCE)
            elif gaps != _SLIP and (_letter(data[first - 1]) or data[first - 1] == 44) and _letter(data[at]):
                gaps = _SLIP
            else:
                gaps = _LAYOUT
        if first > start:
            runs += 1
    return text_end, at, gaps


@njit(cache=True, nogil=True)
def _next_gap(data, at, stop):
    """The first position from `at` on of a blank that opens a gap or ends a line, else `stop`. There is a character
    before `at`, and the last one before `stop` is text."""
    while at + 33 <= stop:
        first = np.uint8(255)
        for ahead in range(np.uint64(32)):
            place = np.uint64(at) + ahead
            first = _sooner(
                first, ahead, _opens_gap(data[place - np.uint64(1)], data[place], data[place + np.uint64(1)])
            )
        if first < 32:
            return at + np.int64(first)
        at += 32
    while at + 1 < stop and not _opens_gap(data[at - 1], data[at], data[at + 1]):
        at += 1
    return at if at + 1 < stop else stop


@njit(inline="always")
def _opens_gap(before, here, after):
    """1 or 0: whether `here` is the first blank of two or more, a tab inside a line, or the last blank of a line."""
    blank = np.uint8(here == _SPACE) | np.uint8(here == _TAB)
    wide = np.uint8(here == _TAB) | np.uint8(after == _SPACE) | np.uint8(after == _TAB)
    return np.uint8(blank & (np.uint8(after == _NEWLINE) | (wide & np.uint8(before > _SPACE))))


@njit(inline="always")
def _next_line_with_gap(data, begin, at, stop):
    """(start, end of its text, end, gaps) of the next line with a gap or blanks at its end; start `stop` if none.
    The document starts at `begin`, a line at `at`."""
    start = _next_gap(data, max(at, begin + 1), stop)
    if start == stop:
        return stop, stop, stop, _NO_GAP
    while start > begin and data[start - 1] != _NEWLINE:
        start -= 1
    text_end, end, gaps = _read_line(data, start, stop)
    return start, text_end, end, gaps


@njit(inline="always")
def _trimmed(data, at, stop):
    """(start, end) of a document without blank lines at both ends and blanks at its end; its first indent stays."""
    first = at
    while first < stop and (data[first] == _SPACE or data[first] == _TAB or data[first] == _NEWLINE):
        if data[first] == _NEWLINE:
            at = first + 1
        first += 1
    if first == stop:
        return stop, stop
    while data[stop - 1] == _SPACE or data[stop - 1] == _TAB or data[stop - 1] == _NEWLINE:
        stop -= 1
    return at, stop


@njit(cache=True, nogil=True)
def _laid_out(data, offsets, out):
    """Write the documents after step 4 to `out`: their offsets. Stretches without a change are copied whole."""
    ends = np.zeros(len(offsets), np.int64)
    put = 0
    for document in range(len(offsets) - 1):
        begin, stop = _trimmed(data, offsets[document], offsets[document + 1])
        done = begin  # everything before it is in `out`, or dropped
        above, above_end = _NO_GAP, np.int64(-2)
        start, text_end, end, gaps = _next_line_with_gap(data, begin, begin, stop)
        while start < stop:
            next_start, next_text_end, next_end, next_gaps = _next_line_with_gap(data, begin, end + 1, stop)
            most = max(above if above_end + 1 == start else _NO_GAP, next_gaps if next_start == end + 1 else _NO_GAP)
            if (gaps == _SENTENCE and most <= _SENTENCE) or (gaps == _SLIP and most == _NO_GAP):
                for position in range(start + 1, text_end):
                    if data[position] == _SPACE and data[position - 1] == _SPACE:
                        put = _copy(data, done, position, out, put)
                        done = position + 1
            if text_end < end:
                put = _copy(data, done, text_end, out, put)
                done = end
            above, above_end = gaps, end
            start, text_end, end, gaps = next_start, next_text_end, next_end, next_gaps
        put = _copy(data, done, stop, out, put)
        ends[document + 1] = put
    return ends
