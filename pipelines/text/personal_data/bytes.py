"""Tests of single bytes and runs of digits, shared by all kinds of personal data.

`begin` is the earliest position at which a finding may begin, see spans.py. Bytes over 0x7F are neither letters nor
digits here: findings are ASCII, in text of any script.
"""

import numpy as np

from pipelines.text.kernel import inner_kernel


@inner_kernel
def is_digit(byte):
    return 48 <= byte <= 57


@inner_kernel
def is_upper(byte):
    return 65 <= byte <= 90


@inner_kernel
def is_letter(byte):
    """Whether the byte is an ASCII letter."""
    return 65 <= (byte & 0xDF) <= 90


@inner_kernel
def is_word(byte):
    """Whether the byte is an ASCII letter, a digit or an underscore."""
    return is_digit(byte) or is_letter(byte) or byte == 95


@inner_kernel
def hex_value(byte):
    """Value of a hexadecimal digit; -1 for any other byte."""
    if is_digit(byte):
        return np.int64(byte) - 48
    if 65 <= (byte & 0xDF) <= 70:
        return np.int64(byte & 0xDF) - 55
    return -1


@inner_kernel
def is_free_left(data, begin, at):
    """Whether a number may start at `at`: the byte before is neither of a word nor one of . - + % @"""
    if at <= begin:
        return True
    before = data[at - 1]
    return not (is_word(before) or before == 46 or before == 45 or before == 43 or before == 37 or before == 64)


@inner_kernel
def is_free_right(data, at, stop):
    """Whether a number may end before `at`: not before a word, a dot or hyphen and a word, or one of + % @"""
    if at >= stop:
        return True
    after = data[at]
    if is_word(after) or after == 43 or after == 37 or after == 64:
        return False
    return not ((after == 46 or after == 45) and at + 1 < stop and is_word(data[at + 1]))


@inner_kernel
def digits_end(data, at, stop):
    """End of the run of digits at `at`."""
    while at < stop and is_digit(data[at]):
        at += 1
    return at


@inner_kernel
def parse_digits(data, start, end):
    """Value of the digits data[start:end]."""
    value = np.int64(0)
    for at in range(start, end):
        value = value * 10 + np.int64(data[at]) - 48
    return value


@inner_kernel
def follows_number(data, begin, at):
    """Whether a digit and spaces precede `at`: a number with spaces there is taken for a column of figures."""
    while at > begin and data[at - 1] == 32:
        at -= 1
    return at > begin and is_digit(data[at - 1])
