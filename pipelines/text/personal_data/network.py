"""E-mail and IP addresses, as spans.py defines them.

Every `..._end` function returns the end of the finding, or -1 if there is none.
"""

from raymill.pipelines.text.kernel import inner_kernel
from raymill.pipelines.text.personal_data.tables import (
    digits_end,
    hex_value,
    is_digit,
    is_free_left,
    is_free_right,
    is_letter,
    is_upper,
    is_word,
    parse_digits,
)

_MAX_LOCAL_PART = 64  # octets, RFC 5321
_MAX_DOMAIN = 253  # octets, RFC 1035 without the length bytes


@inner_kernel
def email_start(data, begin, sign):
    """Start of the local part of the address whose @ is at `sign`; `sign` if there is none."""
    start = sign
    while start > begin and sign - start <= _MAX_LOCAL_PART:
        byte = data[start - 1]
        dots = byte == 46 and data[start] == 46
        if dots or not (is_word(byte) or byte == 46 or byte == 45 or byte == 43 or byte == 37):
            break
        start -= 1
    while start < sign and not is_word(data[start]):
        start += 1
    if sign - start > _MAX_LOCAL_PART or start == sign or data[sign - 1] == 46:
        return sign
    if start - 2 >= begin and data[start - 1] == 47 and data[start - 2] == 47:
        return sign  # the user name of a URL
    return start


@inner_kernel
def _all_letters(data, start, end):
    while start < end and is_letter(data[start]):
        start += 1
    return start == end


@inner_kernel
def email_end(data, sign, stop):
    """End of the domain after the @ at `sign`: as many labels as possible, the last of two letters or more."""
    at = sign + 1
    end = -1
    labels = 0
    limit = min(stop, at + _MAX_DOMAIN)
    while at < limit:
        label = at
        while at < limit and (is_digit(data[at]) or is_letter(data[at]) or data[at] == 45):
            at += 1
        last = at
        while last > label and data[last - 1] == 45:
            last -= 1  # a label does not end in a hyphen, but a dash may follow an address
        if last == label or data[label] == 45 or last - label > 63:
            break
        if labels == 0 and last - label == 2 and is_digit(data[label]) and data[label + 1] == 120:
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
    if is_word(after) or after == 40:
        return -1
    if after == 58 and end + 1 < stop and data[end + 1] > 32:
        return -1  # git@host.org:path
    return end


@inner_kernel
def _is_public_v4(address):
    """Whether the address is globally reachable unicast by IANA's IPv4 special-purpose registry."""
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


@inner_kernel
def _is_public_resolver(address):
    """Whether the address is 8.8.8.8, 8.8.4.4, 9.9.9.9 or 1.1.1.1.

    Any other four single digits (one address in 400,000) count as a version number.
    """
    return address == 0x08080808 or address == 0x08080404 or address == 0x09090909 or address == 0x01010101


@inner_kernel
def ipv4_end(data, start, begin, at, stop, names, name_ends):
    """End of the public IPv4 address at `at`.

    start: the document's start. names, name_ends: registries.VERSION_WORDS.
    """
    if not is_free_left(data, begin, at):
        return -1
    address, small = 0, True
    digits = 0
    end = at
    for part in range(4):
        last = digits_end(data, end, stop)
        size = last - end
        if size == 0 or size > 3 or (size > 1 and data[end] == 48):
            return -1
        value = parse_digits(data, end, last)
        if value > 255:
            return -1
        small &= value < 32
        digits += size
        address = address << 8 | value
        end = last
        if part < 3:
            if end >= stop or data[end] != 46:
                return -1
            end += 1
    if not _is_public_v4(address) or not is_free_right(data, end, stop):
        return -1
    if digits == 4 and not _is_public_resolver(address):
        return -1
    return -1 if _is_version_number(data, start, begin, at, end, stop, small, names, name_ends) else end


@inner_kernel
def _is_version_number(data, start, begin, at, end, stop, small, names, name_ends):
    """Whether four numbers with dots are a version or a section number.

    They are after a word and a slash (agent/1.2.3.4), a comparison (pkg==1.2.3.4) or a version word (version 1.2.3.4),
    and at the start of a line before a capital letter ("1.2.3.4 Title") if all are under 32 (`small`).
    """
    if at - 2 >= begin:
        before, last = data[at - 2], data[at - 1]
        if last == 47 and is_word(before):
            return True
        if last == 61 and (before == 61 or before == 62 or before == 60 or before == 126 or before == 33):
            return True  # == >= <= ~= !=
    word = at
    while word > begin and (data[word - 1] == 32 or data[word - 1] == 58 or data[word - 1] == 61):
        word -= 1
    if small and (word == start or data[word - 1] == 10) and end + 1 < stop and data[end] == 32:
        return is_upper(data[end + 1])
    first = word
    while first > begin and is_letter(data[first - 1]) and word - first < 16:
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


@inner_kernel
def ipv6_end(data, begin, at, stop):
    """End of the public IPv6 address at `at`. Its first group has four digits, as in all blocks assigned so far."""
    if at + 5 > stop or data[at + 4] != 58 or not is_free_left(data, begin, at):
        return -1
    if (
        at - 1 >= begin
        and data[at - 1] == 58
        and at - 2 >= begin
        and (hex_value(data[at - 2]) >= 0 or data[at - 2] == 58)
    ):
        return -1  # inside a longer address
    groups, value, first, second = 0, 0, 0, 0
    compressed = dotted = False
    end = at
    while True:
        last = end
        value = 0
        while last < stop and hex_value(data[last]) >= 0:
            value = (value << 4 | hex_value(data[last])) & 0xFFFFF
            last += 1
        if groups and last + 1 < stop and data[last] == 46 and is_digit(data[last + 1]):
            dotted = True  # 2001:4860::8.8.8.8: ends before the IPv4 address, which is a finding by itself
            if data[end - 2] != 58:
                end -= 1
            break
        if last - end > 4:
            return -1
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
                return -1
            compressed = True
            end += 2
            if end >= stop or hex_value(data[end]) < 0:
                break
        elif hex_value(data[end + 1]) >= 0:
            end += 1
        else:
            break
    if groups > (7 if compressed else 8) or (not compressed and groups < 8):
        return -1
    if not dotted and not is_free_right(data, end, stop):
        return -1
    return end if _is_public_v6(first, second) else -1


@inner_kernel
def _is_public_v6(first, second):
    """Whether an address that begins with these two groups is in a block that IANA assigned to a regional registry.

    Without 2001:0000::/23 (protocols) and 2001:db8::/32 (documentation).
    """
    if first == 0x2001:
        return second >= 0x200 and second != 0xDB8
    if first == 0x2003 or 0x2400 <= first <= 0x241F or 0x2600 <= first <= 0x263F:
        return True
    return 0x2800 <= first <= 0x280F or 0x2A00 <= first <= 0x2A1F or 0x2C00 <= first <= 0x2C0F
