"""Scores of answers against references: exact match, word F1, BLEU, ROUGE, classes, numbers.

All scores are fractions in [0, 1], except `bleu`, which is 0 to 100 as in sacrebleu and publications.

    exact_match                 share of answers equal to the reference after SQuAD's normalisation (`normalised`)
    f1                          F1 of the bags of words after that normalisation, mean over answers (SQuAD)
    bleu                        corpus BLEU, sacrebleu's defaults (13a tokens, case kept, exponential smoothing)
    rouge1, rouge2, rougeL      F-measure of word pairs and longest common subsequence, mean over answers, no stemming
    accuracy, macro_*, micro_*  if answers are labels: see `classification`
    number_match                if answers are numbers: share of equal numbers, read by strict_number if
                                the reference has the mark `####` (GSM8K), else by flexible_number
    number_match_flexible       share of equal numbers, answers read by flexible_number
    answered                    share of answers that are one of the labels, or that have a number
    answered_flexible           share of answers with any number

`strict_number` and `flexible_number` correspond to strict-match and flexible-extract of the task gsm8k in
lm-evaluation-harness: the first match of
`#### (\\-?[0-9\\.\\,]+)`, and the last sequence of digits, points and commas. The harness compares texts without commas
and dollar signs. Here values are compared, so 5.0 equals 5, and reads more spellings.

A number may have thousands separators (comma, space or apostrophe; groups of three), decimals and an exponent (1e5), or
be a fraction (1/2, 2 1/2, \\frac{1}{2}). Its sign is a hyphen, a minus or an en dash, before or after a currency symbol
or code; a currency may also follow the number. A dash between two numbers is not a sign. Digits joined in another way
(1.000,50, 3.10.4, 1,2) are not read.
"""

import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import sacrebleu

from raymill.cluster.plugins import Plugin
from raymill.cluster.score_plugins import custom_score

_FIX = "Correct the score, and run the same command again: the weights are exported, and the training is not repeated."
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# Kana and the ideographs of Chinese, Japanese and Korean: written without spaces, so each character counts as a word.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
_WORDS = re.compile(r"\w+")
_MOST_WORDS = 10_000  # of a text that ROUGE-L compares


def scores(references: Sequence[str], answers: Sequence[str], kind: str, decimal_mark: str = ".") -> dict[str, float]:
    """The scores of a kind of answers (text, label or number) by name; empty without answers.

    decimal_mark: of numbers in answers and references.
    """
    assert len(references) == len(answers)
    if not answers:
        return {}
    measured = {"exact_match": exact_match(references, answers), "f1": word_f1(references, answers)}
    measured |= {"bleu": bleu(references, answers)} | rouge(references, answers)
    if kind == "label":
        measured |= classification([normalised(text) for text in references], [normalised(text) for text in answers])
    if kind == "number":
        measured |= numbers(references, answers, decimal_mark)
    return measured


def custom_scores(plugins: Sequence[Plugin], answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of the user's scores over answers, by name; empty without answers. answers: as of GeneratedAnswer.

    Raises:
        DataError: a score raised an exception, or returned something else than a finite number.
    """
    return {one.name: _mean(custom_score(one, answer, "generate.custom", _FIX) for answer in answers)
            for one in plugins if answers}  # fmt: skip


def normalised(text: str) -> str:
    """The text in lower case, without punctuation and English articles, with single spaces.

    As SQuAD's evaluation (Rajpurkar et al. 2016), which removes ASCII punctuation; here every character of a Unicode
    category P is removed, and the ASCII symbols that SQuAD removes (`$ + < = > ^ ` | ~`).
    """
    kept = "".join(sign for sign in text.lower() if unicodedata.category(sign)[0] != "P" and sign not in "$+<=>^`|~")
    return " ".join(_ARTICLES.sub(" ", kept).split())


def answer_words(text: str) -> list[str]:
    """The words of the normalised text."""
    return _UNSPACED.sub(r" \1 ", normalised(text)).split()


def plain_words(text: str) -> list[str]:
    """The sequences of letters and digits in lower case, as ROUGE counts them but in every script, not only ASCII."""
    return _WORDS.findall(_UNSPACED.sub(r" \1 ", text.lower()))


def exact_match(references: Sequence[str], answers: Sequence[str]) -> float:
    """Share of answers that equal their reference after normalisation."""
    return _mean(normalised(one) == normalised(other) for one, other in zip(references, answers, strict=True))


def word_f1(references: Sequence[str], answers: Sequence[str]) -> float:
    """Mean F1 of the bags of words of answer and reference (SQuAD)."""
    return _mean(
        _bag_f1(answer_words(one), answer_words(other)) for one, other in zip(references, answers, strict=True)
    )


def _bag_f1(reference: list[str], answer: list[str]) -> float:
    """F1 of two bags of words; 1 if both are empty, 0 if one is."""
    if not reference or not answer:
        return float(reference == answer)
    return _f1(_common(Counter(reference), Counter(answer)), len(reference), len(answer))


def bleu(references: Sequence[str], answers: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100."""
    return float(sacrebleu.corpus_bleu(list(answers), [list(references)]).score)


def bleu_sums(reference: str, answer: str) -> list[float]:
    """What corpus BLEU adds up over answers: matches and n-grams for n from 1 to 4, words of answer and reference."""
    found = sacrebleu.sentence_bleu(answer, [reference])
    return [*found.counts, *found.totals, found.sys_len, found.ref_len]


def bleu_of_sums(sums: Sequence[float]) -> float:
    """Corpus BLEU, 0 to 100, of the sums of `bleu_sums`."""
    matches, grams = [int(one) for one in sums[:4]], [int(one) for one in sums[4:8]]
    return float(sacrebleu.BLEU.compute_bleu(matches, grams, int(sums[8]), int(sums[9]), "exp").score)


def rouge(references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-L. Source: Lin 2004, https://aclanthology.org/W04-1013.

    ROUGE-L is of the first 10,000 words of each text, which take 0.1 s at most; the time grows with the square.
    """
    pairs = [(plain_words(one), plain_words(other)) for one, other in zip(references, answers, strict=True)]
    found = {
        f"rouge{n}": _mean(
            _f1(_common(_ngrams(one, n), _ngrams(other, n)), len(one) - n + 1, len(other) - n + 1)
            for one, other in pairs
        )
        for n in (1, 2)
    }
    cut = [(one[:_MOST_WORDS], other[:_MOST_WORDS]) for one, other in pairs]
    return found | {"rougeL": _mean(_f1(longest_common(one, other), len(one), len(other)) for one, other in cut)}


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[at:] for at in range(n)), strict=False))


def _common(one: Counter[Any], other: Counter[Any]) -> int:
    return sum((one & other).values())


def _f1(common: int, one: int, other: int) -> float:
    return 2 * common / (one + other) if common else 0.0


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence of two sequences of words.

    A row of the table is the bits of one integer, so the time is the product of both lengths: 50,000 words of each take
    a second at most, and 500,000 take 46 s.
    Source: Hyyro 2004, Bit-parallel LCS-length computation revisited.
    """
    short, long = sorted((one, other), key=len)
    places = defaultdict[str, list[int]](list)
    for at, word in enumerate(short):
        places[word].append(at)

    @lru_cache(maxsize=1000)  # an integer has as many bits as `short` has words
    def places_of(word: str) -> int:
        bits = bytearray(len(short) // 8 + 1)
        for at in places[word]:
            bits[at >> 3] |= 1 << (at & 7)
        return int.from_bytes(bits, "little")

    row = whole = (1 << len(short)) - 1
    for word in long:
        if word in places:
            found = row & places_of(word)
            row = (row + found | row - found) & whole
    return len(short) - row.bit_count()


def numbers(references: Sequence[str], answers: Sequence[str], decimal_mark: str = ".") -> dict[str, float]:
    """Shares of equal numbers and of answers with a number, by strict and by flexible reading."""
    wanted, strict, flexible = [], [], []
    for reference, answer in zip(references, answers, strict=True):
        read = strict_number if MARK in reference else flexible_number
        wanted.append(read(reference, decimal_mark))
        strict.append(read(answer, decimal_mark))
        flexible.append(flexible_number(answer, decimal_mark))
    return {
        "number_match": _equal(wanted, strict),
        "number_match_flexible": _equal(wanted, flexible),
        "answered": _mean(number is not None for number in strict),
        "answered_flexible": _mean(number is not None for number in flexible),
    }


def _equal(references: Sequence[Fraction | None], answers: Sequence[Fraction | None]) -> float:
    return _mean(one is not None and one == other for one, other in zip(references, answers, strict=True))


def classification(references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Accuracy; macro and micro precision, recall and F1 over the classes that occur among the references.

    An answer that is not one of the classes is a false negative of its reference's class, and no false positive. So
    micro precision counts only answers that are a class, micro recall all answers. A class that is never answered has
    precision 0.
    """
    names = sorted(set(references))
    true, predicted = np.array(references, dtype=object), np.array(answers, dtype=object)
    alarms = np.array([(predicted == name).sum() for name in names])
    cases = np.array([(true == name).sum() for name in names])
    hits = np.array([((predicted == name) & (true == name)).sum() for name in names])
    precision, recall, f1 = _rates(hits, alarms, cases)
    whole = [rate.item() for rate in _rates(hits.sum(), alarms.sum(), cases.sum())]
    return {
        "accuracy": float(hits.sum() / len(true)),
        "answered": float(alarms.sum() / len(true)),
        **{f"macro_{name}": float(rate.mean()) for name, rate in zip(_RATES, (precision, recall, f1), strict=True)},
        **{f"micro_{name}": rate for name, rate in zip(_RATES, whole, strict=True)},
    }


def f1_by_class(references: Sequence[int], answers: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    """F1 of each class by `f1/NAME`, from indices of classes; 0 for a class that neither occurs nor is answered."""
    true, predicted = np.asarray(references), np.asarray(answers)
    classes = range(len(names))
    hits = np.array([((predicted == index) & (true == index)).sum() for index in classes])
    alarms, cases = (np.array([(side == index).sum() for index in classes]) for side in (predicted, true))
    return {f"f1/{name}": float(rate) for name, rate in zip(names, _rates(hits, alarms, cases)[2], strict=True)}


_RATES = ("precision", "recall", "f1")


def _rates(hits: np.ndarray, alarms: np.ndarray, cases: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1; 0 if the divisor is 0."""
    return hits / np.maximum(alarms, 1), hits / np.maximum(cases, 1), 2 * hits / np.maximum(alarms + cases, 1)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean([float(value) for value in values]))


MARK = "#### "
# Longer numbers are not read, because Python limits the digits of an int. No answer is that long.
_MOST_DIGITS = 1000

_MINUS = "-\N{MINUS SIGN}\N{EN DASH}"
_SPACES = " \N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}"
_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"
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
    currencies = "".join(sign for sign in map(chr, range(sys.maxunicode)) if unicodedata.category(sign) == "Sc")
    currency = rf"(?:[A-Z]{{0,3}}[{currencies}]|(?:{_CODES}))\s?"
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
