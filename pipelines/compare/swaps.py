"""Counterfactual swaps: items are asked again with words exchanged, such as names, pronouns or dialect spellings.

    consistency     of the answer to the swapped prompt with the first answer, whose words are exchanged as well: equal
                    labels or numbers, or F1 of words
    swapped         measure of the swapped prompt minus measure of the original
    words           measure with words of the first column of the list minus measure with those of the second; items
                    whose words are all of one column

An item with a word of each column is in `swapped` alone. Half of the items with each column cancel out in `swapped`,
and not in `words`. The reference is exchanged like the answer.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import yaml

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.copies import local_file
from raymill.cluster.store.store import Store
from raymill.pipelines.text.word_diff import UNSPACED

Pairs = tuple[tuple[str, str], ...]

_WORDS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_FORMS: tuple[Callable[[str], str], ...] = (str, str.lower, str.capitalize, str.upper)
_LARGEST = 4 << 20  # bytes of a file of pairs
_LONGEST, _MOST_PAIRS = 100, 10_000  # characters of a word or phrase; pairs
_NOT = ("'t", "’t")  # what makes another word of a name: Don, don't
_WORST = 10  # items that are reported with their texts
_EXCERPT = 2000  # characters of each of these texts


def check_pairs(pairs: Sequence[Sequence[str]]) -> None:
    """
    Raises:
        ValueError: a pair does not have two different words, a word is too long, or there are too many pairs.
    """
    if len(pairs) > _MOST_PAIRS:
        raise ValueError(f"swaps: has {len(pairs):,} pairs; at most {_MOST_PAIRS:,} are read")
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(one, str) and _WORDS.search(one) for one in pair):
            raise ValueError(f"swaps: {[*pair]!r:.80} given, wanted two words, such as [he, she]; quote yes and no")
        if max(map(len, pair)) > _LONGEST:
            raise ValueError(f"swaps: {[*pair]!r:.80} has a word of more than {_LONGEST} characters")
        if pair[0] == pair[1]:
            raise ValueError(f"swaps: {[*pair]!r:.80} are the same word")


def load_pairs(store: Store, swaps: Pairs | str) -> Pairs:
    """The pairs of the setting, or of the file that it names.

    Raises:
        ConfigError: the file is not YAML of pairs.
        StorageError: it cannot be read.
    """
    if not isinstance(swaps, str):
        return swaps
    try:
        found = yaml.safe_load(Store().read_bytes(str(local_file(store, swaps, "swaps").path), _LARGEST))
        if not isinstance(found, list) or not found or not all(isinstance(one, list) for one in found):
            raise ValueError("wanted a list of pairs, one `- [WORD, WORD]` a line")
        check_pairs(found)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"swaps: {swaps}: {' '.join(str(error).split())}. Correct the file.") from error
    return tuple((a, b) for a, b in found)


@dataclass(frozen=True)
class WordSwaps:
    """Exchanges the two words of each pair: whole words, in the spelling of the list, in lower case, with a capital
    first letter, or in capitals.

    A word of several pairs is exchanged by the first. Of several words at one place the longest is taken, so a pair may
    have phrases. In scripts without spaces between words, a word is exchanged wherever it stands.
    """

    pairs: Pairs

    @cached_property
    def table(self) -> dict[str, tuple[str, int]]:
        """Word -> (word that takes its place, its column: 0 or 1)."""
        found: dict[str, tuple[str, int]] = {}
        for form in _FORMS:
            for a, b in self.pairs:
                found.setdefault(form(a), (form(b), 0))
                found.setdefault(form(b), (form(a), 1))
        return found

    @cached_property
    def _longest(self) -> int:
        return max(len(_WORDS.findall(one)) for one in self.table)

    def exchange(self, text: str) -> tuple[str, set[int]]:
        """(text with the words exchanged, columns of the words that were)."""
        parts, columns, end = [], set[int](), 0
        words = [one.span() for one in _WORDS.finditer(text)]
        for at, (start, _) in enumerate(words):
            if start < end:
                continue
            for stop in (stop for _, stop in reversed(words[at : at + self._longest])):
                known = self.table.get(text[start:stop])
                if known is None or _continues(text, start, stop):
                    continue
                parts += [text[end:start], known[0]]
                columns.add(known[1])
                end = stop
                break
        return "".join(parts) + text[end:], columns

    def __call__(self, text: str) -> str:
        """The text with the words exchanged."""
        return self.exchange(text)[0]


def _continues(text: str, start: int, stop: int) -> bool:
    """Whether the word at a place is part of a longer one: beside an accent or vowel sign, or before n't."""
    beside = (*text[max(0, start - 1) : start], *text[stop : stop + 1])
    return any(unicodedata.category(one)[0] == "M" for one in beside) or text[stop : stop + 2].lower() in _NOT


@dataclass(frozen=True)
class SwappedAnswers:
    """A model's answers to the items whose prompts have a word of the list.

    Letters: S swapped items.

    Attributes:
        ids: of the items. prompts: the original and the swapped ones. answers: to the original and to the swapped
            ones; None: withheld.
        columns: columns of the exchanged words of each item.
        same: float64[S], consistency of the answers.
        measures: name -> (float64[S] of the original, float64[S] of the swapped prompts); NaN: not measured.
        groups: group of each item; None: each item by itself.
        of: number of swapped items, with those that lack an answer.
    """

    ids: Sequence[str]
    prompts: Sequence[tuple[str, str]]
    answers: Sequence[tuple[str | None, str | None]]
    columns: Sequence[set[int]]
    same: np.ndarray
    measures: Mapping[str, tuple[np.ndarray, np.ndarray]]
    groups: Sequence[Any] | None
    of: int

    def differences(self, paired_difference: Any, is_fraction: Any) -> dict[tuple[str, str], Any]:
        """(measure, `swapped` or `words`) -> its paired difference. The functions load scipy."""
        found = {}
        sides = np.array([1.0 if one == {0} else -1.0 if one == {1} else np.nan for one in self.columns])
        for name, (original, swapped) in self.measures.items():
            pair = np.stack([swapped, original])
            there = np.isfinite(pair).all(axis=0)
            for by, first, second, kept in (
                ("swapped", swapped, original, there),
                ("words", *np.where(sides == 1, pair[::-1], pair), there & np.isfinite(sides)),
            ):
                if kept.any():
                    groups = None if self.groups is None else [self.groups[at] for at in np.flatnonzero(kept).tolist()]
                    scale = float(is_fraction(name, pair[:, kept]))
                    found[name, by] = paired_difference(first[kept], second[kept], groups, scale=scale)
        return found

    def facts(self, mean_interval: Any) -> dict[str, Any]:
        """`items`, `compared`, `consistency` with its interval, and the items with the worst consistency."""
        low = high = value = None
        if len(self.same):
            value = float(self.same.mean())
            low, high = mean_interval(self.same, self.groups, (0.0, 1.0))
        before, after = self.measures["score"]
        worst = sorted(
            np.flatnonzero((self.same < 1) | (before != after)).tolist(),
            key=lambda at: (self.same[at], -abs(before[at] - after[at]), self.ids[at]),
        )
        return {
            "items": self.of,
            "compared": len(self.ids),
            "consistency": {"value": value, "low": low, "high": high},
            "changed": [
                {
                    "id": self.ids[at],
                    "consistency": float(self.same[at]),
                    "score_original": float(before[at]),
                    "score_swapped": float(after[at]),
                    "original": self.prompts[at][0][:_EXCERPT],
                    "swapped": self.prompts[at][1][:_EXCERPT],
                    "answer_original": (self.answers[at][0] or "")[:_EXCERPT],
                    "answer_swapped": (self.answers[at][1] or "")[:_EXCERPT],
                }
                for at in worst[:_WORST]
            ],
        }
