"""Kernels of step 4 of steps.py: blanks at ends of lines and documents, and gaps inside lines.

A blank is a space or a tab.
"""

import numpy as np

from pipelines.text.byte_scan import copy_bytes, first_match
from pipelines.text.kernel import inner_kernel, kernel
from pipelines.text.normalize.characters import NEWLINE, SPACE, TAB

# Kinds of gaps in a line, defined in steps.py.
_NO_GAP, _SENTENCE_GAP, _WORD_GAP, _LAYOUT = 0, 1, 2, 3


@inner_kernel
def _is_letter(byte):
    return 65 <= byte <= 90 or 97 <= byte <= 122 or byte >= 0x80


@inner_kernel
def _ends_sentence(data, start, at):
    """Whether a sentence ends just before `at`: one of . ! ? : and any closing quotes, brackets or * _ ` after it."""
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


@inner_kernel
def _is_sentence_end_word(data, start, end):
    """Whether a line's first word, data[start:end], ends a sentence and is neither a list number nor a label."""
    last = data[end - 1]
    return end - start >= 5 and (last == 46 or last == 33 or last == 63) and not 48 <= data[end - 2] <= 57


@inner_kernel
def _read_line(data, at, stop):
    """(end of its text, end, kind of gaps) of the line that starts at `at`; the text of a blank line is empty."""
    start = text_end = at
    gaps = _NO_GAP
    runs = 0  # runs of blanks inside the line
    while at < stop:
        while at < stop and data[at] != SPACE and data[at] != TAB and data[at] != NEWLINE:
            at += 1
        if at > text_end:
            text_end = at
        first = at
        tabs = False
        while at < stop and (data[at] == SPACE or data[at] == TAB):
            tabs |= data[at] == TAB
            at += 1
        if at == stop or data[at] == NEWLINE:
            return (text_end if first > start else start), at, gaps
        if first > start and (tabs or at - first > 1) and gaps != _LAYOUT:
            indented = data[start] == SPACE or data[start] == TAB
            if tabs or indented or at - first > 2 or (runs == 0 and not _is_sentence_end_word(data, start, first)):
                gaps = _LAYOUT
            elif _ends_sentence(data, start, first):
                gaps = max(gaps, _SENTENCE_GAP)
            elif gaps != _WORD_GAP and (_is_letter(data[first - 1]) or data[first - 1] == 44) and _is_letter(data[at]):
                gaps = _WORD_GAP
            else:
                gaps = _LAYOUT
        if first > start:
            runs += 1
    return text_end, at, gaps


@inner_kernel
def _next_gap(data, at, stop):
    """Position of the first blank from `at` on that begins a gap or ends a line; `stop` if none.

    The document has a character before `at`, and its last character is not a blank.
    """
    while at + 33 <= stop:
        first = np.uint8(255)
        for ahead in range(np.uint64(32)):
            place = np.uint64(at) + ahead
            first = first_match(
                first, ahead, _opens_gap(data[place - np.uint64(1)], data[place], data[place + np.uint64(1)])
            )
        if first < 32:
            return at + np.int64(first)
        at += 32
    while at + 1 < stop and not _opens_gap(data[at - 1], data[at], data[at + 1]):
        at += 1
    return at if at + 1 < stop else stop


@inner_kernel
def _opens_gap(before, here, after):
    """1 if `here` is the first blank of two or more, a tab inside a line, or the last blank of a line; else 0."""
    blank = np.uint8(here == SPACE) | np.uint8(here == TAB)
    wide = np.uint8(here == TAB) | np.uint8(after == SPACE) | np.uint8(after == TAB)
    return np.uint8(blank & (np.uint8(after == NEWLINE) | (wide & np.uint8(before > SPACE))))


@inner_kernel
def _next_line_with_gap(data, begin, at, stop):
    """(start, end of its text, end, kind of gaps) of the first line from `at` on with a gap or blanks at its end.

    The start is `stop` if there is none. The document starts at `begin`, a line starts at `at`.
    """
    start = _next_gap(data, max(at, begin + 1), stop)
    if start == stop:
        return stop, stop, stop, _NO_GAP
    while start > begin and data[start - 1] != NEWLINE:
        start -= 1
    text_end, end, gaps = _read_line(data, start, stop)
    return start, text_end, end, gaps


@inner_kernel
def _trim(data, at, stop):
    """(start, end) of a document without blank lines at its ends and blanks at its end, but with its first indent."""
    first = at
    while first < stop and (data[first] == SPACE or data[first] == TAB or data[first] == NEWLINE):
        if data[first] == NEWLINE:
            at = first + 1
        first += 1
    if first == stop:
        return stop, stop
    while data[stop - 1] == SPACE or data[stop - 1] == TAB or data[stop - 1] == NEWLINE:
        stop -= 1
    return at, stop


@kernel
def lay_out(data, offsets, out, ends):
    """Write the documents after step 4 to `out`, and where they end to ends[1:]."""
    put = 0
    for document in range(len(offsets) - 1):
        begin, stop = _trim(data, offsets[document], offsets[document + 1])
        done = begin  # everything before it was copied to `out` or dropped
        above, above_end = _NO_GAP, np.int64(-2)
        start, text_end, end, gaps = _next_line_with_gap(data, begin, begin, stop)
        while start < stop:
            next_start, next_text_end, next_end, next_gaps = _next_line_with_gap(data, begin, end + 1, stop)
            most = max(above if above_end + 1 == start else _NO_GAP, next_gaps if next_start == end + 1 else _NO_GAP)
            if (gaps == _SENTENCE_GAP and most <= _SENTENCE_GAP) or (gaps == _WORD_GAP and most == _NO_GAP):
                for position in range(start + 1, text_end):
                    if data[position] == SPACE and data[position - 1] == SPACE:
                        put = copy_bytes(data, done, position, out, put)
                        done = position + 1
            if text_end < end:
                put = copy_bytes(data, done, text_end, out, put)
                done = end
            above, above_end = gaps, end
            start, text_end, end, gaps = next_start, next_text_end, next_end, next_gaps
        put = copy_bytes(data, done, stop, out, put)
        ends[document + 1] = put
