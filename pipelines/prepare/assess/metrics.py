"""Measures of a data set as pure functions, most of them in [0, 1]."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, date
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.pipelines.prepare.assess.findings import Difference, Lengths, Ratio, Scores
from raymill.pipelines.prepare.records.answers import parsed_json

MTLD_THRESHOLD = 0.72  # McCarthy and Jarvis 2010: where the type-token ratio of English texts becomes stable
FULL_MTLD = 100.0  # of a scaled MTLD of 1; edited English prose has 70 to 120
JSON, TEXT = "JSON", "text"
_MONTH = (
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t|tember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
# An example of each form in which a date with a year of four digits is written -> its pattern. Months are English.
DATES = {
    "2026-11-23": r"\b\d{4}-\d{2}-\d{2}(?:T\d|\b)",
    "23.11.2026": r"\b\d{1,2}\.\d{1,2}\.\d{4}\b",
    "11/23/2026": r"\b\d{1,2}/\d{1,2}/\d{4}\b",
    "23 November 2026": rf"\b{_DAY} {_MONTH},? \d{{4}}\b",
    "November 23, 2026": rf"\b{_MONTH} {_DAY},? \d{{4}}\b",
}
CONFIDENCE = 0.95
LEAST = 20  # records of a value that is compared
_SAMPLE = 2000  # records of a value
_RESAMPLES = 1000
_MOST_VALUES = 100
_MOST_MONTHS = 48  # a longer time is counted by years


def ratio(part: float, whole: float) -> float | None:
    """part / whole, in [0, 1]; None of nothing. Completeness, consistency, duplication and language quality are shares
    of records: those without a missing field, without a contradiction, that repeat another, that are in the language.
    """
    return part / whole if whole else None


def evenness(counts: Collection[int]) -> float | None:
    """How evenly records are spread over K values: H / ln K with H = -sum(p ln p), in [0, 1].

    1: all values have equally many records. 0: all records have one value. None: no record. Values without records
    count among the K. Source: Pielou 1966, of Shannon's entropy (1948).
    """
    total = sum(counts)
    if not total:
        return None
    if len(counts) < 2:
        return 0.0
    shares = [count / total for count in counts if count]
    return max(0.0, -sum(one * math.log(one) for one in shares)) / math.log(len(counts))


def coverage(records: Sequence[int], least: int) -> float | None:
    """The share of topics that at least `least` records mention, in [0, 1]. records: of each topic."""
    return ratio(sum(count >= least for count in records), len(records))


def distinct(texts: Iterable[np.ndarray], n: int) -> float | None:
    """Distinct n-grams / n-grams of all texts, in [0, 1]; None without an n-gram. No n-gram spans two texts.

    It falls with the number of words, so compare samples of equal size. Source: Li et al. 2016.

    texts: uint64[T] each, hashes of tokens.
    """
    seen: set[bytes] = set()
    total = 0
    for tokens in texts:
        if len(tokens) >= n:
            windows = np.lib.stride_tricks.sliding_window_view(tokens, n)
            total += len(windows)
            seen.update(window.tobytes() for window in windows)
    return ratio(len(seen), total)


def mtld(tokens: Sequence[int]) -> float | None:
    """Measure of textual lexical diversity: the mean number of words in a row whose type-token ratio stays at least
    0.72, forwards and backwards; at least 1, no upper bound. None without a word.

    A row that is not full at the end counts (1 - ratio) / (1 - 0.72) of one. Texts without a repeated word have their
    number of words. Source: McCarthy and Jarvis 2010.
    """
    if not len(tokens):
        return None
    return (_mtld(tokens) + _mtld(tokens[::-1])) / 2


def _mtld(tokens: Sequence[int]) -> float:
    factors, seen, count = 0.0, set[int](), 0
    for token in tokens:
        seen.add(token)
        count += 1
        if len(seen) / count < MTLD_THRESHOLD:
            factors, seen, count = factors + 1, set(), 0
    if count:
        factors += (1 - len(seen) / count) / (1 - MTLD_THRESHOLD)
    return len(tokens) / factors if factors else float(len(tokens))


def contradictory(questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """bool[N]: whether another record has the same question and another answer. Both uint64[N], hashes."""
    found = np.zeros(len(questions), np.bool_)
    if not len(questions):
        return found
    order = np.argsort(questions, kind="stable")
    starts = np.flatnonzero(np.append(True, questions[order][1:] != questions[order][:-1]))
    ordered = answers[order]
    differ = np.minimum.reduceat(ordered, starts) != np.maximum.reduceat(ordered, starts)
    found[order] = np.repeat(differ, np.diff(starts, append=len(order)))
    return found


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that were measured; None if none was."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class Agreement:
    """Krippendorff's alpha of nominal labels; any number of annotators, of whom some may have left a record out.

    alpha = 1 - (n - 1) sum_{c != k} o_ck / sum_{c != k} n_c n_k, where o_ck counts the pairs of labels within a record,
    each by 1 / (m - 1) of its m labels, n_c = sum_k o_ck and n = sum n_c. 1: all agree; 0: as by chance; below 0: less.
    So n_c is the number of labels c, and a record has m^2 - sum_c m_c^2 pairs of different ones, with m_c labels c.
    Source: Krippendorff 2004, Content analysis, chapter 11.
    """

    def __init__(self) -> None:
        self.labels = Counter[str]()
        self.pairs = Counter[int]()  # m - 1 of records -> their pairs of different labels
        self.records = self.disagreed = 0

    def add(self, labels: Iterable[str | None]) -> bool:
        """Add the labels of a record, and return whether they differ. Empty ones and None are no labels."""
        given = [label for label in labels if label]
        if len(given) < 2:
            return False
        counts = Counter(given)
        self.labels.update(counts)
        self.pairs[len(given) - 1] += len(given) ** 2 - sum(number**2 for number in counts.values())
        differ = len(counts) > 1
        self.records += 1
        self.disagreed += differ
        return differ

    @property
    def alpha(self) -> float | None:
        """None if no record has two labels, or all labels are the same value."""
        everything = self.labels.total()
        expected = everything**2 - sum(number**2 for number in self.labels.values())
        if expected <= 0:
            return None
        observed = sum(number / others for others, number in sorted(self.pairs.items()))
        return 1 - (everything - 1) * observed / expected


def form_of(answer: str) -> str:
    """JSON of an object or array in JSON, else TEXT."""
    if answer.lstrip()[:1] not in ("{", "["):
        return TEXT
    try:
        parsed_json(answer)
    except ValueError:
        return TEXT
    return JSON


def dates_in(answers: Sequence[str]) -> list[list[str]]:
    """The forms of DATES that each answer has, in the order of DATES."""
    column = pa.array(answers, pa.large_string())
    found = {name: pc.match_substring_regex(column, pattern).to_pylist() for name, pattern in DATES.items()}
    return [[name for name in DATES if found[name][at]] for at in range(len(answers))]


class Forms:
    """Records of each form, by task type."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}

    def add(self, task_types: Sequence[str], forms: Sequence[Sequence[str]]) -> None:
        """Add records. forms: of each record any number of different ones."""
        for task_type, of_record in zip(task_types, forms, strict=True):
            self.counts.setdefault(task_type, Counter()).update(of_record)

    @cached_property
    def usual(self) -> Mapping[str, str]:
        """Task type -> the form that most of its records have; of equally frequent ones the first by name."""
        return {name: min(of, key=lambda form: (-of[form], form)) for name, of in self.counts.items() if of}

    def unusual(self, task_types: Sequence[str], forms: Sequence[Sequence[str]]) -> pa.Array:
        """bool[N]: whether a record has a form besides the usual one of its task type."""
        pairs = zip(task_types, forms, strict=True)
        return pa.array([any(form != self.usual[name] for form in of_record) for name, of_record in pairs], pa.bool_())

    @property
    def total(self) -> dict[str, int]:
        """Records of each form, the most frequent first."""
        total = sum(self.counts.values(), Counter[str]())
        return dict(sorted(total.items(), key=lambda one: (-one[1], one[0])))


def representation(counts: Mapping[str, int], shares: Mapping[str, float]) -> float | None:
    """How near shares of records are to wanted ones: 1 - sum |p - q| / 2 (total variation distance), in [0, 1].

    counts: records of each value; those without a value ("") are left out. shares: wanted; empty: equal ones of all
    values. None without a record, or without shares and with one value.
    """
    known = {value: number for value, number in counts.items() if value}
    total = sum(known.values())
    if not total or (not shares and len(known) < 2):
        return None
    wanted = shares or dict.fromkeys(known, 1 / len(known))
    values = sorted(known.keys() | wanted)  # the last bits of a sum depend on its order
    return 1 - sum(abs(known.get(one, 0) / total - wanted.get(one, 0)) for one in values) / 2


def evenness_of_months(counts: Mapping[str, int]) -> tuple[float | None, dict[str, int]]:
    """(evenness of the months from the first to the last, records of each); of years, if there are over 48 months.

    counts: records of each date in ISO 8601, of which the day does not matter; other texts are left out, and so are the
    years 1 and 9999, which databases have in place of no date. One month has the evenness 0.
    """
    months: dict[int, int] = {}
    for text, number in counts.items():
        try:
            found = date.fromisoformat(f"{text.strip()[:7]}-01")
        except ValueError:
            continue
        if found.year not in (MINYEAR, MAXYEAR):
            month = 12 * found.year + found.month - 1  # since the year 0
            months[month] = months.get(month, 0) + number
    if not months:
        return None, {}
    by = 1 if max(months) - min(months) < _MOST_MONTHS else 12
    periods = dict.fromkeys(range(min(months) // by, max(months) // by + 1), 0)
    for month, number in months.items():
        periods[month // by] += number
    named = {f"{at}" if by == 12 else f"{at // 12}-{at % 12 + 1:02}": number for at, number in periods.items()}
    return evenness(named.values()), named


@dataclass
class Samples:
    """Numbers of each value's records with the smallest hashes. Memory: 32 KB a value, at most 100 values."""

    values: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)

    def add(self, values: np.ndarray, hashes: np.ndarray, numbers: np.ndarray) -> None:
        """Add records. values: str[N]. hashes: uint64[N]. numbers: of one type, [N]."""
        for value in sorted(set(values.tolist()) - {""}):
            if value not in self.values and len(self.values) == _MOST_VALUES:
                continue
            here = values == value
            kept = self.values.get(value, (np.empty(0, np.uint64), np.empty(0, numbers.dtype)))
            found = [np.concatenate(pair) for pair in zip(kept, (hashes[here], numbers[here]), strict=True)]
            order = np.argsort(found[0], kind="stable")[:_SAMPLE]
            self.values[value] = found[0][order], found[1][order]
            self.records[value] = self.records.get(value, 0) + int(here.sum())

    def numbers(self, value: str) -> np.ndarray:
        """Those of a value."""
        return self.values[value][1]

    @property
    def large(self) -> list[str]:
        """Values with at least 20 records, the most frequent first; empty if there are not two."""
        ranked = sorted(self.records, key=lambda value: (-self.records[value], value))
        found = [value for value in ranked if self.records[value] >= LEAST]
        return found if len(found) > 1 else []


def compared_lengths(samples: Samples) -> Lengths | None:
    """Each large value against the most frequent one; None if there are not two. samples: of lengths."""
    if not samples.large:
        return None
    against, *others = samples.large
    ratios = []
    for value in others:
        ratio, low, high = ratio_of_means(samples.numbers(value), samples.numbers(against))
        ratios.append(Ratio(value=value, records=samples.records[value], ratio=ratio, low=low, high=high))
    return Lengths(against=against, ratios=ratios)


def compared_scores(samples: Samples) -> Scores | None:
    """Each large value against the most frequent one; None if there are not two. samples: of scores."""
    if not samples.large:
        return None
    against, *others = samples.large
    found = []
    for value in others:
        scores = samples.numbers(value)
        difference, low, high = difference_of_means(scores, samples.numbers(against))
        found.append(
            Difference(
                value=value,
                records=samples.records[value],
                mean=float(scores.mean(dtype=np.float64)),
                difference=difference,
                low=low,
                high=high,
            )
        )
    return Scores(against=against, mean=float(samples.numbers(against).mean(dtype=np.float64)), differences=found)


def ratio_of_means(lengths: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the geometric means of lengths + 1, and its 95% confidence interval. lengths, others: int[N], int[M]."""
    ratio, low, high = difference_of_means(np.log1p(lengths), np.log1p(others))
    return math.exp(ratio), math.exp(low), math.exp(high)


def difference_of_means(numbers: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Mean of the numbers minus the mean of the others, and its 95% confidence interval by the percentile bootstrap.

    1,000 resamples of both, with a fixed seed. Source: Efron 1979, Bootstrap methods. numbers, others: float[N], [M].
    """
    random = np.random.default_rng(0)
    both = [one.astype(np.float64) for one in (numbers, others)]
    drawn = [one[random.integers(0, len(one), (_RESAMPLES, len(one)))].mean(axis=1) for one in both]
    low, high = np.quantile(drawn[0] - drawn[1], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(both[0].mean() - both[1].mean()), float(low), float(high)


def length_parity(lengths: Lengths | None) -> float | None:
    """The ratio of shorter to longer where two values differ most, in [0, 1]; 1 if no interval is without 1."""
    if lengths is None:
        return None
    certain = [one["ratio"] for one in lengths["ratios"] if not one["low"] <= 1 <= one["high"]]
    return min((min(ratio, 1 / ratio) for ratio in certain), default=1.0)


def score_parity(scores: Scores | None) -> float | None:
    """1 - the greatest difference of mean scores, in [0, 1]; 1 if no interval is without 0."""
    if scores is None:
        return None
    certain = [abs(one["difference"]) for one in scores["differences"] if not one["low"] <= 0 <= one["high"]]
    return 1 - max(certain, default=0.0)
