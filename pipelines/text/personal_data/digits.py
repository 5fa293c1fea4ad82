"""Telephone, social security, card and account numbers, as spans.py defines them.

Every `..._end` function returns the end of the finding, or -1 if there is none.
"""

import numpy as np

from raymill.pipelines.text.kernel import inner_kernel
from raymill.pipelines.text.personal_data.tables import (
    digits_end,
    follows_number,
    is_digit,
    is_free_left,
    is_free_right,
    is_upper,
    parse_digits,
)

_MOST_DIGITS = 15  # of a number of E.164
_POWERS_OF_TEN = 10 ** np.arange(_MOST_DIGITS + 1)


@inner_kernel
def _is_north_american(area, exchange):
    """Whether NANPA assigns both: area codes are [2-9][0-8]x, exchanges [2-9]xx, and neither ends in 11."""
    return area >= 200 and exchange >= 200 and area // 10 % 10 != 9 and area % 100 != 11 and exchange % 100 != 11


@inner_kernel
def international_end(data, plus, stop, country_code_digits):
    """End of the longest E.164 number whose + is at `plus`.

    country_code_digits: registries.COUNTRY_CODE_DIGITS.
    """
    at = plus + 1
    if at == stop or not is_digit(data[at]):
        return -1
    end = -1
    value, total, groups = 0, 0, 0
    code = np.int64(0)  # digits of the country code
    while True:
        opened = at < stop and data[at] == 40 and groups > 0
        first = at + 1 if opened else at
        last = digits_end(data, first, stop)
        size = last - first
        if size == 0 or total + size > _MOST_DIGITS or (size == 1 and groups > 1):
            return end
        value = value * _POWERS_OF_TEN[size] + parse_digits(data, first, last)
        total += size
        groups += 1
        if code == 0:
            # The table is indexed by three digits. A shorter first group has to be the whole code.
            prefix = value // _POWERS_OF_TEN[total - 3] if total >= 3 else value * _POWERS_OF_TEN[3 - total]
            code = np.int64(country_code_digits[prefix])
            if code == 0 or code > total:
                return end
        at = last
        if opened:
            if at >= stop or data[at] != 41:
                return end
            at += 1
        elif total >= 8 and is_free_right(data, at, stop):
            first_digit = value // _POWERS_OF_TEN[total - 1]
            fits = total == 11 if first_digit == 1 or first_digit == 7 else True
            if fits and first_digit == 1:
                fits = _is_north_american(value // 10_000_000 % 1000, value // 10_000 % 1000)
            if fits:
                end = at
        if at < stop and (data[at] == 32 or data[at] == 45 or data[at] == 46 or data[at] == 47):
            at += 1
        elif not opened and not (at < stop and data[at] == 40):
            return end


@inner_kernel
def _is_separator(byte):
    return byte == 32 or byte == 45 or byte == 46


@inner_kernel
def national_span(data, begin, at, run_end, stop):
    """(start, end) of the North American number whose first digit is at `at`; end -1 if there is none.

    run_end: end of the run of digits at `at`. An opening parenthesis before the area code belongs to the number.
    """
    none = (at, -1)
    start = at
    if run_end - at == 1 and data[at] == 49 and run_end + 1 < stop and _is_separator(data[run_end]):
        at = run_end + 1  # 1-212-..., 1 (212) ...
        opened = data[at] == 40
        if opened:
            at += 1
    else:
        opened = at > begin and data[at - 1] == 40
        if opened:
            start = at - 1
    if at + 12 > stop or digits_end(data, at, stop) - at != 3:
        return none
    exchange = at + 4
    separator = data[at + 3]
    if opened and separator == 41:
        if _is_separator(data[exchange]):
            exchange += 1
        separator = data[exchange + 3] if exchange + 3 < stop else np.uint8(0)
    elif opened and start < at - 1:
        return none
    else:
        if opened:
            start = at  # the parentheses enclose more than the area code
        opened = False
    line = exchange + 4
    if not _is_separator(separator) or line + 4 > stop or data[exchange + 3] != separator:
        return none
    if digits_end(data, exchange, stop) - exchange != 3 or digits_end(data, line, stop) - line != 4:
        return none
    if not _is_north_american(parse_digits(data, at, at + 3), parse_digits(data, exchange, exchange + 3)):
        return none
    if separator == 32 and follows_number(data, begin, start):
        return none
    if not is_free_left(data, begin, start) or not is_free_right(data, line + 4, stop):
        return none
    return start, line + 4


@inner_kernel
def ssn_end(data, begin, at, stop):
    """End of the US social security number at `at`."""
    end = at + 11
    if end > stop or data[at + 3] != 45 or data[at + 6] != 45:
        return -1
    if digits_end(data, at + 4, stop) != at + 6 or digits_end(data, at + 7, stop) != end:
        return -1
    area, group, serial = (
        parse_digits(data, at, at + 3),
        parse_digits(data, at + 4, at + 6),
        parse_digits(data, at + 7, end),
    )
    if area == 0 or area == 666 or area >= 900 or group == 0 or serial == 0:
        return -1
    if (area == 78 and group == 5 and serial == 1120) or (area == 219 and group == 9 and serial == 9999):
        return -1  # withdrawn after they were printed on a sample card and in a pamphlet
    return end if is_free_left(data, begin, at) and is_free_right(data, end, stop) else -1


@inner_kernel
def card_end(data, begin, at, run_end, stop, card_lengths):
    """End of the card number at `at`, whose first run of digits ends at `run_end`.

    card_lengths: registries.CARD_LENGTHS.
    """
    if not is_free_left(data, begin, at):
        return -1
    size = run_end - at
    if 13 <= size <= 19:
        return run_end if _is_card(data, at, run_end, size, card_lengths) and is_free_right(data, run_end, stop) else -1
    if size != 4 or run_end >= stop or (data[run_end] != 32 and data[run_end] != 45):
        return -1
    separator = data[run_end]
    if separator == 32 and follows_number(data, begin, at):
        return -1
    # Groups with the same separator: 4-4-4-4, 4-4-4-4-3, 4-6-5, 4-6-4. The longest one that is a card number.
    end = -1
    second, total, groups = 0, size, 1
    last = run_end
    while groups < 5 and last < stop and data[last] == separator:
        first = last + 1
        last = digits_end(data, first, stop)
        size = last - first
        groups += 1
        total += size
        if groups == 2:
            second = size
            if second != 4 and second != 6:
                break
        elif second == 6:
            if (size == 4 or size == 5) and _is_whole_card(data, at, last, total, stop, card_lengths):
                end = last
            break
        elif groups < 5 and size != 4:
            break
        elif (groups == 4 or size == 3) and groups > 3 and _is_whole_card(data, at, last, total, stop, card_lengths):
            end = last
    return end


@inner_kernel
def _is_whole_card(data, at, end, total, stop, card_lengths):
    """Whether data[at:end], with `total` digits, is a card number, and no number or word continues after it."""
    return is_free_right(data, end, stop) and _is_card(data, at, end, total, card_lengths)


@inner_kernel
def _is_card(data, at, end, total, card_lengths):
    """Whether the `total` digits in data[at:end] have an issuer's prefix and length and the right Luhn check digit.

    The first four digits have no separator between them.
    """
    if not card_lengths[parse_digits(data, at, at + 4)] >> np.uint32(total) & np.uint32(1):
        return False
    check = np.int64(0)
    double = False
    for back in range(end - at):
        byte = data[end - 1 - back]
        if is_digit(byte):
            value = np.int64(byte) - 48
            if double:
                value = value * 2 - 9 if value > 4 else value * 2
            check += value
            double = not double
    return check % 10 == 0


@inner_kernel
def iban_end(data, begin, at, stop, iban_lengths):
    """End of the IBAN whose two-letter country code is at `at`. iban_lengths: registries.IBAN_LENGTHS."""
    country = (np.int64(data[at]) - 65) * 26 + np.int64(data[at + 1]) - 65
    length = np.int64(iban_lengths[country])
    if length == 0 or not is_free_left(data, begin, at) or not is_digit(data[at + 3]):
        return -1
    grouped = at + 4 < stop and data[at + 4] == 32
    end = at + length + ((length - 1) // 4 if grouped else 0)
    if end > stop or not is_free_right(data, end, stop):
        return -1
    if grouped:
        for space in range(at + 4, end, 5):
            if data[space] != 32:
                return -1
    remainder = np.int64(0)
    for step in range(length):
        index = (step + 4) % length  # the first four characters are moved to the end
        byte = data[at + index + (index // 4 if grouped else 0)]
        if is_digit(byte):
            remainder = (remainder * 10 + np.int64(byte) - 48) % 97
        elif is_upper(byte):
            remainder = (remainder * 100 + np.int64(byte) - 55) % 97
        else:
            return -1
    return end if remainder == 1 else -1
