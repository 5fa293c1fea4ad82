"""What a text says, without how it is written: the words and the number that answers are compared by."""

import re
import unicodedata
from fractions import Fraction

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# Kana, and the ideographs that Chinese, Japanese and Korean share: scripts without spaces, one character a word.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
_WORDS = re.compile(r"\w+")

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>-\s?)?[$€£]?\s?(?P<minus>-)?"
    rf"(?:(?P<mixed>\d+)\s+(?=\d+/\d))?(?P<whole>{_WHOLE})?(?P<decimals>\.\d+)?(?:\s?/\s?(?P<under>{_WHOLE})(?!\.?\d))?"
)
_FRACTION = re.compile(r"\\[dt]?frac\{\s*(-?\d+)\s*\}\{\s*(\d+)\s*\}")
_ANSWER_MARK = "####"
# Python reads no longer whole number from text, and no answer is one.
_MOST_DIGITS = 1000


def normalised(text: str) -> str:
    """Lower case, without punctuation and English articles, single spaces.

    The normalisation of SQuAD's evaluation (Rajpurkar et al. 2016), whose punctuation is ASCII's; ours is Unicode's
    (every category P), and the ASCII symbols among SQuAD's (`$ + < = > ^ ` | ~`) are removed as there.
    """
    kept = "".join(sign for sign in text.lower() if not _is_punctuation(sign))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _is_punctuation(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "P" or sign in "$+<=>^`|~"


def answer_words(text: str) -> list[str]:
    """The words of `normalised(text)`."""
    return _UNSPACED.sub(r" \1 ", normalised(text)).split()


def plain_words(text: str) -> list[str]:
    """Runs of letters and digits in lower case: what ROUGE counts, but of any script, not of ASCII only."""
    return _WORDS.findall(_UNSPACED.sub(r" \1 ", text.lower()))


def final_number(text: str) -> Fraction | None:
    """The number an answer ends on: after the last `####` (GSM8K's mark) if there is one, else the last of the text.

    Currency signs, thousands commas, a trailing dot or percent sign change nothing; 0.50, 1/2 and \\frac{1}{2} are one
    number, and 2 1/2 is 2.5. A hyphen between two numbers is no sign. None where there is no number.
    """
    marked = text.rpartition(_ANSWER_MARK)[2] if _ANSWER_MARK in text else ""
    found = _numbers(marked)
    if found:
        return found[0]
    found = _numbers(text)
    return found[-1] if found else None


def _numbers(text: str) -> list[Fraction]:
    text = _FRACTION.sub(r" \1/\2 ", text.replace("\N{MINUS SIGN}", "-"))
    return [value for match in _NUMBER.finditer(text) if (value := _value(match)) is not None]


def _value(match: re.Match[str]) -> Fraction | None:
    whole, decimals, under = match["whole"], match["decimals"], match["under"]
    if (whole is None and decimals is None) or len(match[0]) > _MOST_DIGITS:
        return None
    value = Fraction(int((whole or "0").replace(",", "")))
    if decimals:
        value += Fraction(int(decimals[1:]), 10 ** len(decimals[1:]))
    if under and (divisor := int(under.replace(",", ""))):
        value /= divisor
    if match["mixed"]:
        value += int(match["mixed"])
    return -value if match["sign"] or match["minus"] else value
