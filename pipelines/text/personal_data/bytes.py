"""Questions about bytes that every finder of personal data asks. `begin` is where a finding may begin: see
scan.py. Bytes over 0x7F are no letters here: what is looked for is ASCII, in text of any script."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def is_digit(byte):
    return 48 <= byte <= 57


@njit(cache=True, nogil=True)
def is_upper(byte):
    return 65 <= byte <= 90


@njit(cache=True, nogil=True)
def is_letter(byte):
    return 65 <= (byte & 0xDF) <= 90


@njit(cache=True, nogil=True)
def is_word(byte):
    return is_digit(byte) or is_letter(byte) or byte == 95


@njit(cache=True, nogil=True)
def hex_value(byte):
    """The value of a hexadecimal digit, else -1."""
    if is_digit(byte):
        return np.int64(byte) - 48
    if 65 <= (byte & 0xDF) <= 70:
        return np.int64(byte & 0xDF) - 55
    return np.int64(-1)


@njit(cache=True, nogil=True)
def is_free_left(data, begin, at):
    """Whether a number may start at `at`: not inside a word, nor after one of . - + % @"""
    if at <= begin:
        return True
    before = data[at - 1]
    return not (is_word(before) or before == 46 or before == 45 or before == 43 or before == 37 or before == 64)


@njit(cache=True, nogil=True)
def is_free_right(data, at, stop):
    """Whether a number may end before `at`: no word goes on, not even behind a dot or hyphen, and no + % @"""
    if at >= stop:
        return True
    after = data[at]
    if is_word(after) or after == 43 or after == 37 or after == 64:
        return False
    return not ((after == 46 or after == 45) and at + 1 < stop and is_word(data[at + 1]))


@njit(cache=True, nogil=True)
def digits_end(data, at, stop):
    """The end of the run of digits at `at`."""
    while at < stop and is_digit(data[at]):
        at += 1
    return at


@njit(cache=True, nogil=True)
def number_of(data, start, end):
    value = np.int64(0)
    for at in range(start, end):
        value = value * 10 + np.int64(data[at]) - 48
    return value


@njit(cache=True, nogil=True)
def follows_number(data, begin, at):
    """Whether the text before `at` is a digit and spaces: a column of figures, so no place for a spaced number."""
    while at > begin and data[at - 1] == 32:
        at -= 1
    return at > begin and is_digit(data[at - 1])
