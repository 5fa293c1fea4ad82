"""Kernels of steps 2 and 3 of steps.py: replace and remove characters; find documents that NFC may change."""

import numpy as np

from pipelines.text.byte_scan import copy_bytes, first_match, next_non_ascii
from pipelines.text.characters import UNSTABLE, code_point
from pipelines.text.kernel import inner_kernel, kernel

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
