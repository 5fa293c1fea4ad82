"""Prefixes, suffixes, infixes and URLs of spaCy's English tokenizer, as scans over UTF-8.

Each function implements one regular expression of spaCy 3.8 (`lang/punctuation.py`, `lang/en/punctuation.py`,
`lang/tokenizer_exceptions.py`). In all of them `classes` is tables.character_classes(), and `unit_hashes` is a table of
hash_table.hash_slots with the hashes of tables.after_digits().
"""

from raymill.pipelines.text.characters import code_point
from raymill.pipelines.text.datatrove.tables import (
    ALPHA,
    ALPHANUMERIC,
    BEFORE_STOP,
    ICON,
    LOWER,
    PREFIX,
    QUOTE,
    SUFFIX,
    UPPER,
)
from raymill.pipelines.text.instructions import find_slot
from raymill.pipelines.text.kernel import inner_kernel
from raymill.pipelines.text.words import hash_bytes

_STOP, _PLUS, _COMMA, _COLON, _AT = (ord(character) for character in ".+,:@")
_DOLLAR, _DEGREE, _ELLIPSIS, _APOSTROPHE, _QUOTE = (ord(character) for character in "$°…'’")
_MINUS, _EN_DASH, _EM_DASH, _TILDE = (ord(character) for character in "-–—~")
_TIMES, _POWER, _LESS, _MORE, _EQUAL, _SLASH = (ord(character) for character in "*^<>=/")
_QUESTION, _HASH, _UNDERSCORE = (ord(character) for character in "?#_")
_A, _C, _F, _K, _S, _U, _SMALL_S = (ord(character) for character in "ACFKSUs")


@inner_kernel
def _back(data, at):
    """Begin of the character before `at`."""
    at -= 1
    while data[at] & 0xC0 == 0x80:
        at -= 1
    return at


@inner_kernel
def _is_digit(byte):
    return 48 <= byte <= 57


@inner_kernel
def prefix_end_of(data, begin, end, classes):
    """End of the prefix of data[begin:end]; `begin` if it has none."""
    point, width = code_point(data, begin)
    if point == _STOP:
        at = begin + 1
        while at < end and data[at] == _STOP:
            at += 1
        return at if at > begin + 1 else begin
    if point == _PLUS:
        return begin if begin + 1 < end and _is_digit(data[begin + 1]) else begin + 1
    if classes[point] & PREFIX:
        return begin + width
    if end - begin >= 2 and data[begin + 1] == _DOLLAR and (point == _C or point == _A):
        return begin + 2
    if end - begin >= 3 and point == _U and data[begin + 1] == _S and data[begin + 2] == _DOLLAR:
        return begin + 3
    return begin


@inner_kernel
def suffix_begin_of(data, begin, end, classes, unit_hashes):
    """Begin of the longest suffix of data[begin:end]; `end` if it has none."""
    if begin >= end:
        return end
    last = _back(data, end)
    point, _ = code_point(data, last)
    before = before_point = -1
    if last > begin:
        before = _back(data, last)
        before_point, _ = code_point(data, before)
    best = end
    if point == _STOP:
        at = last
        while at > begin and data[at - 1] == _STOP:
            at -= 1
        if at < last:
            return at
        if before >= 0 and _splits_full_stop(data, begin, before, before_point, classes):
            best = last
    elif classes[point] & SUFFIX:
        best = before if point == _ELLIPSIS and before_point == _ELLIPSIS else last
    elif (point == _SMALL_S or point == _S) and (before_point == _APOSTROPHE or before_point == _QUOTE):
        best = before
    # All that follows the last digit may be a unit, a currency or a plus sign, of at most 5 characters.
    at = last
    for _ in range(5):
        if at <= begin or _is_digit(data[at]):
            break
        if _is_digit(data[at - 1]):
            if find_slot(unit_hashes, hash_bytes(data, at, end)) >= 0:
                best = min(best, at)
            break
        at = _back(data, at)
    return best


@inner_kernel
def _splits_full_stop(data, begin, before, before_point, classes):
    """Whether a full stop after the character at `before` is split off."""
    if classes[before_point] & BEFORE_STOP:
        return True
    if before <= begin:
        return False
    second_point, _ = code_point(data, _back(data, before))
    if classes[before_point] & UPPER and classes[second_point] & UPPER:
        return True
    return second_point == _DEGREE and (before_point == _F or before_point == _C or before_point == _K)


@inner_kernel
def infix_end_of(data, begin, at, end, classes):
    """End of the infix of data[begin:end] that begins at `at`; `at` if there is none."""
    point, width = code_point(data, at)
    after = at + width
    kind = classes[point]
    if kind & ALPHA and not kind & ICON:
        return at
    if kind & ICON or point == _ELLIPSIS:
        return after
    if point == _STOP and after < end and data[after] == _STOP:
        while after < end and data[after] == _STOP:
            after += 1
        return after
    if at == begin or after == end:
        return at
    before_point, _ = code_point(data, _back(data, at))
    next_point, _ = code_point(data, after)
    left, right = classes[before_point], classes[next_point]
    if point == _STOP:
        return after if left & (LOWER | QUOTE) and right & (UPPER | QUOTE) else at
    if point == _COMMA:
        return after if left & ALPHA and right & ALPHA else at
    digit_before = _is_digit(before_point)
    if (
        digit_before
        and (point == _PLUS or point == _MINUS or point == _TIMES or point == _POWER)
        and (_is_digit(next_point) or next_point == _MINUS)
    ):
        return after
    if not (left & ALPHA or digit_before):
        return at
    if point == _COLON or point == _LESS or point == _MORE or point == _EQUAL or point == _SLASH:
        return after if right & ALPHA else at
    if point == _MINUS or point == _EN_DASH or point == _EM_DASH or point == _TILDE:
        # Also "--", "---" and "——".
        most = 3 if point == _MINUS else 2 if point == _EM_DASH else 1
        for _ in range(most):
            if right & ALPHA:
                return after
            if next_point != point:
                break
            after += width
            if after >= end:
                break
            next_point, _ = code_point(data, after)
            right = classes[next_point]
    return at


@inner_kernel
def is_url(data, begin, end, classes):
    """Whether data[begin:end] matches spaCy's URL expression: [scheme://][user@]host[:port][/path]."""
    dot = False
    for at in range(begin, end):
        dot |= data[at] == _STOP
    if not dot:
        return False
    if _is_address(data, begin, end, classes):
        return True
    at = begin
    length = 0
    while at < end:
        point, width = code_point(data, at)
        if not (classes[point] & ALPHANUMERIC or point == _PLUS or point == _MINUS or point == _STOP):
            break
        at += width
        length += 1
    scheme = length >= 2 and at + 2 < end and data[at] == _COLON
    if scheme and data[at + 1] == _SLASH and data[at + 2] == _SLASH and _is_address(data, at + 3, end, classes):
        return True
    for at in range(begin + 1, end):  # noqa: SIM110, numba cannot compile any() over a generator
        if data[at] == _AT and _is_address(data, at + 1, end, classes):
            return True
    return False


@inner_kernel
def _is_address(data, begin, end, classes):
    """Whether data[begin:end] is host[:port][/path]; a host is a name under a top-level domain, or an IPv4 address."""
    host_end = begin
    while host_end < end and not _ends_host(data[host_end]) and data[host_end] != _COLON:
        if data[host_end] == _AT:
            return False
        host_end += 1
    at = host_end
    if at < end and data[at] == _COLON:
        at += 1
        while at < end and _is_digit(data[at]):
            at += 1
        if not 2 <= at - host_end - 1 <= 5:
            return False
    if at < end and not _ends_host(data[at]):
        return False
    return _is_domain(data, begin, host_end, classes) or _is_public_ip(data, begin, host_end)


@inner_kernel
def _ends_host(byte):
    return byte == _SLASH or byte == _QUESTION or byte == _HASH


@inner_kernel
def _is_domain(data, begin, end, classes):
    """Whether data[begin:end] is a domain name under a top-level domain.

    Its labels have 1 to 64 letters and digits, and - and _ between them; the last one has 2 to 63 lower-case letters.
    """
    labels = length = 0
    is_label = is_lower = True
    inner = False  # the last character is - or _, which cannot end a label
    at = begin
    while at < end:
        point, width = code_point(data, at)
        at += width
        if point == _STOP:
            if not is_label or inner or not 1 <= length <= 64:
                return False
            labels += 1
            length = 0
            is_label = is_lower = True
            inner = False
            continue
        inner = point == _MINUS or point == _UNDERSCORE
        if inner:
            is_label &= length > 0
        else:
            is_label &= _is_digit(point) or 65 <= point <= 90 or 97 <= point <= 122 or 0xA1 <= point <= 0xFFFF
        is_lower &= (classes[point] & LOWER) != 0
        length += 1
    return labels > 0 and is_lower and 2 <= length <= 63


@inner_kernel
def _is_public_ip(data, begin, end):
    """Whether data[begin:end] is an IPv4 address that spaCy's URL expression accepts."""
    part = value = digits = 0
    first = second = 0
    for at in range(begin, end + 1):
        if at < end and _is_digit(data[at]):
            value = value * 10 + data[at] - 48
            digits += 1
            if digits > 3:
                return False
            continue
        if digits == 0 or (at < end and data[at] != _STOP) or part > 3:
            return False
        if (part == 0 and not 1 <= value <= 223) or (part == 3 and not 1 <= value <= 254) or value > 255:
            return False
        if part == 0:
            first = value
        elif part == 1:
            second = value
        part += 1
        value = digits = 0
    private = (
        first == 10
        or first == 127
        or (first == 169 and second == 254)
        or (first == 192 and second == 168)
        or (first == 172 and 16 <= second <= 31)
    )
    return part == 4 and not private
