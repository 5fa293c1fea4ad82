"""Numbers read from the text of answers.

    strict      the number of the first `#### NUMBER` in the text (GSM8K's form)
    flexible    the last number of the text

These correspond to strict-match and flexible-extract of the task gsm8k in lm-evaluation-harness: the first match of
`#### (\\-?[0-9\\.\\,]+)`, and the last sequence of digits, points and commas. The harness compares texts without commas
and dollar signs. This module compares values, so 5.0 equals 5, and reads more spellings.

A number may have thousands separators (comma, space or apostrophe; groups of three), decimals and an exponent (1e5), or
be a fraction (1/2, 2 1/2, \\frac{1}{2}). Its sign is a hyphen, a minus or an en dash, before or after a currency symbol
or code; a currency may also follow the number. A dash between two numbers is not a sign. Digits joined in another way
(1.000,50, 3.10.4, 1,2) are not read.
"""

import re
import sys
import unicodedata
from fractions import Fraction
from functools import lru_cache

MARK = "#### "
# Longer numbers are not read, because Python limits the digits of an int. No answer is that long.
_MOST_DIGITS = 1000

_MINUS = "-\N{MINUS SIGN}\N{EN DASH}"
_SPACES = " \N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}"
_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"
_CURRENCIES = "".join(sign for sign in map(chr, range(sys.maxunicode)) if unicodedata.category(sign) == "Sc")
_CODES = "USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|Rs\\.?"
_FRACTION = re.compile(r"\\[dt]?frac\{\s*(-?\d+)\s*\}\{\s*(\d+)\s*\}")


def strict_number(text: str, decimal_mark: str = ".") -> Fraction | None:
    """The number after the first mark that a number follows; None if there is none or it cannot be read."""
    text = _with_plain_fractions(text)
    number, begins = _patterns(decimal_mark)
    for mark in re.finditer(re.escape(MARK), text):
        if begins.match(text, mark.end()):
            found = number.match(text, mark.end())
            return _value(found, decimal_mark) if found else None
    return None


def flexible_number(text: str, decimal_mark: str = ".") -> Fraction | None:
    """The last number of the text; None if there is none."""
    found = _patterns(decimal_mark)[0].finditer(_with_plain_fractions(text))
    values = [value for match in found if (value := _value(match, decimal_mark)) is not None]
    return values[-1] if values else None


def _with_plain_fractions(text: str) -> str:
    return _FRACTION.sub(r" \1/\2 ", text).replace(f"{MARK} ", MARK) if "frac{" in text else text


@lru_cache
def _patterns(decimal_mark: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(pattern of a number, pattern of the beginning of one)."""
    comma = "," if decimal_mark == "." else r"\."
    grouped = "|".join(rf"\d{{1,3}}(?:{mark}\d{{3}})+(?!\d)" for mark in (comma, f"[{_SPACES}]", f"[{_APOSTROPHES}]"))
    whole = rf"(?:{grouped}|\d++)"
    currency = rf"(?:[A-Z]{{0,3}}[{_CURRENCIES}]|(?:{_CODES}))\s?"
    # A dash followed by a space is a sign only if no number precedes it.
    sign = rf"(?:(?<![\d)%]\s)[{_MINUS}]\s|[{_MINUS}])"
    start = rf"(?<![\w.])(?<!\d[.,])(?P<sign>{sign})?(?:{currency})?(?P<minus>[{_MINUS}])?"
    number = re.compile(
        rf"{start}(?:(?P<mixed>\d+)\s+(?=\d+/\d))?(?P<whole>{whole})?(?P<decimals>{re.escape(decimal_mark)}\d++)?"
        rf"(?P<exponent>[eE][-+]?\d{{1,3}}(?!\w))?(?:\s?/\s?(?P<under>{whole})(?!\.?\d))?(?![.,]?\d|[eE][-+]?\d)"
    )
    return number, re.compile(rf"{start}[.,]?\d")


def _value(match: re.Match[str], decimal_mark: str) -> Fraction | None:
    whole, decimals, under, exponent = match["whole"], match["decimals"], match["under"], match["exponent"]
    if (whole is None and decimals is None) or len(match[0]) > _MOST_DIGITS:
        return None
    value = Fraction(_digits(whole or "0"))
    if decimals:
        value += Fraction(_digits(decimals), 10 ** (len(decimals) - len(decimal_mark)))
    if exponent:
        value *= Fraction(10) ** int(exponent[1:])
    if under and (divisor := _digits(under)):
        value /= divisor
    if match["mixed"]:
        value += int(match["mixed"])
    return -value if match["sign"] or match["minus"] else value


def _digits(text: str) -> int:
    return int("".join(sign for sign in text if sign.isdecimal()))
