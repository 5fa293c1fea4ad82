"""The pass over the bytes that finds personal data. What counts as what is told in personal_data.py.

The scan stops at triggers: "@", "+" and the first digit of a run. There each wanted kind is tried, in the order IBAN,
IP, SSN, phone, card; the first that fits is taken and the scan goes on behind it. `begin` is where a finding may
begin: the start of the document, or the end of the finding before; nothing in front of it is looked at, so that what
is found does not change when that finding is replaced. Every `_..._end` returns the end of the finding, or -1.
"""

import numpy as np
from numba import njit

from pipelines.personal_data_tables import CARD_LENGTHS, COUNTRY_CODE_DIGITS, IBAN_LENGTHS, NUMBERED
from pipelines.texts import Texts

EMAIL, PHONE, SSN, CARD, IBAN, IP = range(6)  # positions in personal_data.KINDS

_LOCAL_PART = 64  # octets at most, RFC 5321
_DOMAIN = 253


def scan(texts: Texts, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(document, start, end, kind) of every finding; `wanted` is bool[6] by kind."""
    found = _scan(texts.data, texts.offsets, wanted, CARD_LENGTHS, COUNTRY_CODE_DIGITS, IBAN_LENGTHS, *NUMBERED)
    return found[:, 0].copy(), found[:, 1].copy(), found[:, 2].copy(), found[:, 3].astype(np.uint8)


@njit(inline="always")
def _digit(byte):
    return 48 <= byte <= 57


@njit(inline="always")
def _upper(byte):
    return 65 <= byte <= 90


@njit(inline="always")
def _letter(byte):
    return 65 <= (byte & 0xDF) <= 90


@njit(inline="always")
def _word(byte):
    return _digit(byte) or _letter(byte) or byte == 95


@njit(inline="always")
def _hex(byte):
    """The value of a hexadecimal digit, else -1."""
    if _digit(byte):
        return np.int64(byte) - 48
    if 65 <= (byte & 0xDF) <= 70:
        return np.int64(byte & 0xDF) - 55
    return np.int64(-1)


@njit(inline="always")
def _free_left(data, begin, at):
    """Whether a number may start at `at`: not inside a word, nor after one of . - + % @"""
    if at <= begin:
        return True
    before = data[at - 1]
    return not (_word(before) or before == 46 or before == 45 or before == 43 or before == 37 or before == 64)


@njit(inline="always")
def _free_right(data, at, stop):
    """Whether a number may end before `at`: no word goes on, not even behind a dot or hyphen, and no + % @"""
    if at >= stop:
        return True
    after = data[at]
    if _word(after) or after == 43 or after == 37 or after == 64:
        return False
    return not ((after == 46 or after == 45) and at + 1 < stop and _word(data[at + 1]))


@njit(inline="always")
def _digits(data, at, stop):
    """The end of the run of digits at `at`."""
    while at < stop and _digit(data[at]):
        at += 1
    return at


@njit(inline="always")
def _number(data, start, end):
    value = np.int64(0)
    for at in range(start, end):
        value = value * 10 + np.int64(data[at]) - 48
    return value


@njit(inline="always")
def _after_number(data, begin, at):
    """Whether the text before `at` is a digit and spaces: a column of figures, so no place for a spaced number."""
    while at > begin and data[at - 1] == 32:
        at -= 1
    return at > begin and _digit(data[at - 1])


@njit(cache=True, nogil=True)
def _email_start(data, begin, sign):
    """Where the local part of the address whose @ is at `sign` starts; `sign` if there is none."""
    start = sign
    while start > begin and sign - start <= _LOCAL_PART:
        byte = data[start - 1]
        dots = byte == 46 and data[start] == 46
        if dots or not (_word(byte) or byte == 46 or byte == 45 or byte == 43 or byte == 37):
            break
        start -= 1
    while start < sign and not _word(data[start]):
        start += 1
    if sign - start > _LOCAL_PART or start == sign or data[sign - 1] == 46:
        return sign
    if start - 2 >= begin and data[start - 1] == 47 and data[start - 2] == 47:
        return sign  # the user of a URL
    return start


@njit(inline="always")
def _all_letters(data, start, end):
    while start < end and _letter(data[start]):
        start += 1
    return start == end


@njit(cache=True, nogil=True)
def _email_end(data, sign, stop):
    """The end of the domain after the @ at `sign`: the most labels whose last is alphabetic and 2 long or more."""
    at = sign + 1
    end = np.int64(-1)
    labels = 0
    limit = min(stop, at + _DOMAIN)
    while at < limit:
        label = at
        while at < limit and (_digit(data[at]) or _letter(data[at]) or data[at] == 45):
            at += 1
        last = at
        while last > label and data[last - 1] == 45:
            last -= 1  # a hyphen cannot end a label, but a dash may follow an address
        if last == label or data[label] == 45 or last - label > 63:
            break
        if labels == 0 and last - label == 2 and _digit(data[label]) and data[label + 1] == 120:
            break  # 2x, as in icon@2x.png
        labels += 1
        if labels > 1 and last - label >= 2 and _all_letters(data, label, last):
            end = last
        if last < at or at + 1 >= limit or data[at] != 46:
            break
        at += 1
    if end < 0 or end >= stop:
        return end
    after = data[end]
    if _word(after) or after == 40:
        return np.int64(-1)
    if after == 58 and end + 1 < stop and data[end + 1] > 32:
        return np.int64(-1)  # git@host.org:path
    return end


@njit(inline="always")
def _north_american(area, exchange):
    """NANPA: area codes are [2-9][0-8]x, exchanges [2-9]xx, and neither ends in 11."""
    return area >= 200 and exchange >= 200 and area // 10 % 10 != 9 and area % 100 != 11 and exchange % 100 != 11


@njit(cache=True, nogil=True)
def _international_end(data, plus, stop, country_code_digits):
    """The end of the number whose + is at `plus`: the longest one that fits."""
    at = plus + 1
    if at == stop or not _digit(data[at]):
        return np.int64(-1)
    end = np.int64(-1)
    value, total, groups = np.int64(0), np.int64(0), 0
    code = np.int64(0)  # digits of the country code
    while True:
        opened = at < stop and data[at] == 40 and groups > 0
        first = at + 1 if opened else at
        last = _digits(data, first, stop)
        size = last - first
        if size == 0 or total + size > 15 or (size == 1 and groups > 1):
            return end
        value = value * 10**size + _number(data, first, last)
        total += size
        groups += 1
        if code == 0:
            # The table is by three digits; a first group that is shorter must be the whole code.
            prefix = value // 10 ** (total - 3) if total >= 3 else value * 10 ** (3 - total)
            code = np.int64(country_code_digits[prefix])
            if code == 0 or code > total:
                return end
        at = last
        if opened:
            if at >= stop or data[at] != 41:
                return end
            at += 1
        elif total >= 8 and _free_right(data, at, stop):
            first_digit = value // 10 ** (total - 1)
            fits = total == 11 if first_digit == 1 or first_digit == 7 else True
            if fits and first_digit == 1:
                fits = _north_american(value // 10_000_000 % 1000, value // 10_000 % 1000)
            if fits:
                end = at
        if at < stop and (data[at] == 32 or data[at] == 45 or data[at] == 46 or data[at] == 47):
            at += 1
        elif not opened and not (at < stop and data[at] == 40):
            return end


@njit(inline="always")
def _separator(byte):
    return byte == 32 or byte == 45 or byte == 46


@njit(cache=True, nogil=True)
def _national_span(data, begin, at, run_end, stop):
    """(start, end) of the North American number whose first digit is at `at`; end -1 if there is none."""
    none = (at, np.int64(-1))
    start = at
    if run_end - at == 1 and data[at] == 49 and run_end + 1 < stop and _separator(data[run_end]):
        at = run_end + 1  # 1-212-..., 1 (212) ...
        opened = data[at] == 40
        if opened:
            at += 1
    else:
        opened = at > begin and data[at - 1] == 40
        if opened:
            start = at - 1
    if at + 12 > stop or _digits(data, at, stop) - at != 3:
        return none
    exchange = at + 4
    separator = data[at + 3]
    if opened and separator == 41:
        if _separator(data[exchange]):
            exchange += 1
        separator = data[exchange + 3] if exchange + 3 < stop else np.uint8(0)
    elif opened and start < at - 1:
        return none
    else:
        if opened:
            start = at  # the parenthesis is around more than the area code
        opened = False
    line = exchange + 4
    if not _separator(separator) or line + 4 > stop or data[exchange + 3] != separator:
        return none
    if _digits(data, exchange, stop) - exchange != 3 or _digits(data, line, stop) - line != 4:
        return none
    if not _north_american(_number(data, at, at + 3), _number(data, exchange, exchange + 3)):
        return none
    if separator == 32 and _after_number(data, begin, start):
        return none
    if not _free_left(data, begin, start) or not _free_right(data, line + 4, stop):
        return none
    return start, line + 4


@njit(cache=True, nogil=True)
def _ssn_end(data, begin, at, stop):
    end = at + 11
    if end > stop or data[at + 3] != 45 or data[at + 6] != 45:
        return np.int64(-1)
    if _digits(data, at + 4, stop) != at + 6 or _digits(data, at + 7, stop) != end:
        return np.int64(-1)
    area, group, serial = _number(data, at, at + 3), _number(data, at + 4, at + 6), _number(data, at + 7, end)
    if area == 0 or area == 666 or area >= 900 or group == 0 or serial == 0:
        return np.int64(-1)
    if (area == 78 and group == 5 and serial == 1120) or (area == 219 and group == 9 and serial == 9999):
        return np.int64(-1)  # printed on a sample card and in a pamphlet, and withdrawn
    return end if _free_left(data, begin, at) and _free_right(data, end, stop) else np.int64(-1)


@njit(cache=True, nogil=True)
def _card_end(data, begin, at, run_end, stop, card_lengths):
    if not _free_left(data, begin, at):
        return np.int64(-1)
    size = run_end - at
    if 13 <= size <= 19:
        return run_end if _is_card(data, at, run_end, size, card_lengths) and _free_right(data, run_end, stop) else -1
    if size != 4 or run_end >= stop or (data[run_end] != 32 and data[run_end] != 45):
        return np.int64(-1)
    separator = data[run_end]
    if separator == 32 and _after_number(data, begin, at):
        return np.int64(-1)
    # Groups behind the same separator: 4-4-4-4, 4-4-4-4-3, 4-6-5, 4-6-4. The longest that is a card.
    end = np.int64(-1)
    second, total, groups = np.int64(0), size, 1
    last = run_end
    while groups < 5 and last < stop and data[last] == separator:
        first = last + 1
        last = _digits(data, first, stop)
        size = last - first
        groups += 1
        total += size
        if groups == 2:
            second = size
            if second != 4 and second != 6:
                break
        elif second == 6:
            if (size == 4 or size == 5) and _whole_card(data, at, last, total, stop, card_lengths):
                end = last
            break
        elif groups < 5 and size != 4:
            break
        elif (groups == 4 or size == 3) and groups > 3 and _whole_card(data, at, last, total, stop, card_lengths):
            end = last
    return end


@njit(inline="always")
def _whole_card(data, at, end, total, stop, card_lengths):
    return _free_right(data, end, stop) and _is_card(data, at, end, total, card_lengths)


@njit(inline="always")
def _is_card(data, at, end, total, card_lengths):
    """Issuer, length and Luhn digit of `total` digits between `at` and `end`; the first four stand together."""
    if not card_lengths[_number(data, at, at + 4)] >> np.uint32(total) & np.uint32(1):
        return False
    check = np.int64(0)
    double = False
    for back in range(end - at):
        byte = data[end - 1 - back]
        if _digit(byte):
            value = np.int64(byte) - 48
            if double:
                value = value * 2 - 9 if value > 4 else value * 2
            check += value
            double = not double
    return check % 10 == 0


@njit(cache=True, nogil=True)
def _iban_end(data, begin, at, stop, iban_lengths):
    """The end of the IBAN whose country starts at `at`."""
    country = (np.int64(data[at]) - 65) * 26 + np.int64(data[at + 1]) - 65
    length = np.int64(iban_lengths[country])
    if length == 0 or not _free_left(data, begin, at) or not _digit(data[at + 3]):
        return np.int64(-1)
    grouped = at + 4 < stop and data[at + 4] == 32
    end = at + length + ((length - 1) // 4 if grouped else 0)
    if end > stop or not _free_right(data, end, stop):
        return np.int64(-1)
    if grouped:
        for space in range(at + 4, end, 5):
            if data[space] != 32:
                return np.int64(-1)
    remainder = np.int64(0)
    for step in range(length):
        index = (step + 4) % length  # the first four characters come last
        byte = data[at + index + (index // 4 if grouped else 0)]
        if _digit(byte):
            remainder = (remainder * 10 + np.int64(byte) - 48) % 97
        elif _upper(byte):
            remainder = (remainder * 100 + np.int64(byte) - 55) % 97
        else:
            return np.int64(-1)
    return end if remainder == 1 else np.int64(-1)


@njit(inline="always")
def _public_v4(address):
    """Globally reachable unicast, by IANA's IPv4 special-purpose registry."""
    first, second, third = address >> 24, address >> 16 & 255, address >> 8 & 255
    if first == 0 or first == 10 or first == 127 or first >= 224:
        return False
    if first == 100 and second & 0xC0 == 64:
        return False
    if (first == 169 and second == 254) or (first == 172 and second & 0xF0 == 16):
        return False
    if first == 192 and (second == 168 or (second == 0 and (third == 0 or third == 2))):
        return False
    if first == 198 and (second & 0xFE == 18 or (second == 51 and third == 100)):
        return False
    return not (first == 203 and second == 0 and third == 113)


@njit(inline="always")
def _public_resolver(address):
    """8.8.8.8, 8.8.4.4, 9.9.9.9, 1.1.1.1: any other four single digits (one address in 400,000) are a version."""
    return address == 0x08080808 or address == 0x08080404 or address == 0x09090909 or address == 0x01010101


@njit(cache=True, nogil=True)
def _ipv4_end(data, start, begin, at, stop, names, name_ends):
    """The end of the IPv4 address at `at`; `start` is the document's."""
    if not _free_left(data, begin, at):
        return np.int64(-1)
    address, small = np.int64(0), True
    digits = 0
    end = at
    for part in range(4):
        last = _digits(data, end, stop)
        size = last - end
        if size == 0 or size > 3 or (size > 1 and data[end] == 48):
            return np.int64(-1)
        value = _number(data, end, last)
        if value > 255:
            return np.int64(-1)
        small &= value < 32
        digits += size
        address = address << 8 | value
        end = last
        if part < 3:
            if end >= stop or data[end] != 46:
                return np.int64(-1)
            end += 1
    if not _public_v4(address) or not _free_right(data, end, stop):
        return np.int64(-1)
    if digits == 4 and not _public_resolver(address):
        return np.int64(-1)
    return np.int64(-1) if _numbers_something(data, start, begin, at, end, stop, small, names, name_ends) else end


@njit(cache=True, nogil=True)
def _numbers_something(data, start, begin, at, end, stop, small, names, name_ends):
    """Whether four numbers with dots are a version or a section: agent/1.2.3.4, pkg==1.2.3.4, version 1.2.3.4, or at
    the start of a line "1.2.3.4 Title", all under 32."""
    if at - 2 >= begin:
        before, last = data[at - 2], data[at - 1]
        if last == 47 and _word(before):
            return True
        if last == 61 and (before == 61 or before == 62 or before == 60 or before == 126 or before == 33):
            return True  # == >= <= ~= !=
    word = at
    while word > begin and (data[word - 1] == 32 or data[word - 1] == 58 or data[word - 1] == 61):
        word -= 1
    if small and (word == start or data[word - 1] == 10) and end + 1 < stop and data[end] == 32:
        return _upper(data[end + 1])
    first = word
    while first > begin and _letter(data[first - 1]) and word - first < 16:
        first -= 1
    for name in range(len(name_ends) - 1):
        size = name_ends[name + 1] - name_ends[name]
        if size == word - first:
            same = True
            for ahead in range(size):
                same &= data[first + ahead] | 0x20 == names[name_ends[name] + ahead]
            if same:
                return True
    return False


@njit(cache=True, nogil=True)
def _ipv6_end(data, begin, at, stop):
    """The end of the IPv6 address at `at`, whose first group must be four digits long, as all given out so far are."""
    if at + 5 > stop or data[at + 4] != 58 or not _free_left(data, begin, at):
        return np.int64(-1)
    if at - 1 >= begin and data[at - 1] == 58 and at - 2 >= begin and (_hex(data[at - 2]) >= 0 or data[at - 2] == 58):
        return np.int64(-1)  # inside a longer one
    groups, value, first, second = 0, np.int64(0), np.int64(0), np.int64(0)
    compressed = False
    end = at
    while True:
        last = end
        value = 0
        while last < stop and _hex(data[last]) >= 0:
            value = (value << 4 | _hex(data[last])) & 0xFFFFF
            last += 1
        if last - end > 4:
            return np.int64(-1)
        if last > end:
            groups += 1
            if groups == 1:
                first = value
            elif groups == 2 and not compressed:
                second = value
        end = last
        if groups > 8 or end + 1 >= stop or data[end] != 58:
            break
        if data[end + 1] == 58:
            if compressed:
                return np.int64(-1)
            compressed = True
            end += 2
            if end >= stop or _hex(data[end]) < 0:
                break
        elif _hex(data[end + 1]) >= 0:
            end += 1
        else:
            break
    if groups > (7 if compressed else 8) or (not compressed and groups < 8) or not _free_right(data, end, stop):
        return np.int64(-1)
    return end if _public_v6(first, second) else np.int64(-1)


@njit(inline="always")
def _public_v6(first, second):
    """Blocks IANA gave to the regional registries, without 2001:0000::/23 (protocols) and 2001:db8::/32 (examples)."""
    if first == 0x2001:
        return second >= 0x200 and second != 0xDB8
    if first == 0x2003 or 0x2400 <= first <= 0x241F or 0x2600 <= first <= 0x263F:
        return True
    return 0x2800 <= first <= 0x280F or 0x2A00 <= first <= 0x2A1F or 0x2C00 <= first <= 0x2C0F


@njit(cache=True, nogil=True)
def _next_trigger(data, at, stop):
    """The first @, + or digit from `at` on; `stop` if there is none."""
    while at + 32 <= stop:
        first = np.uint8(255)  # all in bytes, without a branch and with unsigned positions: this is vector code
        for ahead in range(np.uint64(32)):
            byte = data[np.uint64(at) + ahead]
            found = np.uint8(np.uint8(byte - 48) < 10) | np.uint8(byte == 64) | np.uint8(byte == 43)
            candidate = np.uint8(np.uint8(ahead) | np.uint8(found - np.uint8(1)))
            first = candidate if candidate < first else first
        if first < 32:
            return at + np.int64(first)
        at += 32
    while at < stop and not (_digit(data[at]) or data[at] == 64 or data[at] == 43):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _number_span(data, origin, begin, at, run_end, stop, wanted, card_lengths, iban_lengths, names, name_ends):
    """(start, end, kind) of the finding among whose first characters is the run of digits from `at`; end -1: none."""
    size = run_end - at
    after = data[run_end] if run_end < stop else np.uint8(0)
    if wanted[IBAN] and size >= 2 and at - 2 >= begin and _upper(data[at - 1]) and _upper(data[at - 2]):
        end = _iban_end(data, begin, at - 2, stop, iban_lengths)
        if end >= 0:
            return at - 2, end, IBAN
    if wanted[IP]:
        end = np.int64(-1)
        if size <= 3 and after == 46:
            end = _ipv4_end(data, origin, begin, at, stop, names, name_ends)
        elif data[at] == 50 and size <= 4:
            end = _ipv6_end(data, begin, at, stop)
        if end >= 0:
            return at, end, IP
    if size == 3 and after == 45 and wanted[SSN]:
        end = _ssn_end(data, begin, at, stop)
        if end >= 0:
            return at, end, SSN
    if (size == 3 or (size == 1 and data[at] == 49)) and wanted[PHONE]:
        start, end = _national_span(data, begin, at, run_end, stop)
        if end >= 0:
            return start, end, PHONE
    if (size == 4 or size >= 13) and wanted[CARD]:
        end = _card_end(data, begin, at, run_end, stop, card_lengths)
        if end >= 0:
            return at, end, CARD
    return at, np.int64(-1), EMAIL


@njit(cache=True, nogil=True)
def _scan(data, offsets, wanted, card_lengths, country_code_digits, iban_lengths, names, name_ends):
    """int64[S, 4]: document, start, end, kind."""
    found = np.empty((64, 4), np.int64)
    count = 0
    for document in range(len(offsets) - 1):
        origin, stop = offsets[document], offsets[document + 1]
        begin = origin
        at = _next_trigger(data, origin, stop)
        while at < stop:
            start = at
            end, kind, after = np.int64(-1), EMAIL, at + 1
            if data[at] == 64:
                if wanted[EMAIL]:
                    start = _email_start(data, begin, at)
                    end = _email_end(data, at, stop) if start < at else end
            elif data[at] == 43:
                if wanted[PHONE] and _free_left(data, begin, at) and not (at > begin and data[at - 1] == 41):
                    end = _international_end(data, at, stop, country_code_digits)
                    kind = PHONE
            else:
                after = _digits(data, at, stop)
                start, end, kind = _number_span(
                    data, origin, begin, at, after, stop, wanted, card_lengths, iban_lengths, names, name_ends
                )
            if end >= 0:
                if count == len(found):
                    grown = np.empty((2 * count, 4), np.int64)
                    grown[:count] = found
                    found = grown
                found[count] = (document, start - origin, end - origin, kind)
                count += 1
                begin = after = end
            at = _next_trigger(data, after, stop)
    return found[:count]
