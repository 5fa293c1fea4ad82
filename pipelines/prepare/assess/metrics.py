"""Measures of a data set as pure functions. All but `mtld` are in [0, 1]."""

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np

MTLD_THRESHOLD = 0.72  # McCarthy and Jarvis 2010: where the type-token ratio of English texts becomes stable
FULL_MTLD = 100.0  # of a scaled MTLD of 1; edited English prose has 70 to 120


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
