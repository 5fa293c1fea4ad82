"""Slices of items, and the test whether one has more errors than the rest. Only workers import this module.

Fields, deciles of length, languages and clusters divide all items without a look at the errors, so they are tested on
all items. The leaves of a tree are chosen by the errors: the tree is fitted to one half of the items and its leaves are
tested on the other half.

Each slice is compared with all items outside of it by Fisher's exact test, one-sided. P-values are corrected by Holm
1979, which bounds the probability of any false slice whatever the dependence of the tests; slices overlap, so they
depend on each other. The interval of the difference of rates is Newcombe's hybrid score interval (1998, method 10).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import hypergeom
from sklearn.tree import DecisionTreeClassifier

from raymill.cluster.proportions import wilson
from raymill.pipelines.errors.runs import MOST_FIELDS
from raymill.pipelines.paired import holm

LEAST = 10  # items inside and outside of a slice that is tested
_MOST_VALUES = 50  # slices of a field, the most frequent values
_DEPTH, _LEAVES = 3, 8  # of the tree
_LONGEST_VALUE = 100  # characters of a value that is a slice


@dataclass(frozen=True)
class ErrorSlice:
    """Items with something in common.

    Attributes:
        by: field, length, language, cluster or tree.
        rule: what they have in common, in words.
        members: bool[N]. tested: bool[N], the items on which it is compared with the rest.
    """

    by: str
    rule: str
    members: np.ndarray
    tested: np.ndarray


def candidates(
    fields: Mapping[str, Sequence[str | None]], lengths: np.ndarray, languages: Sequence[str], clusters: Sequence[str]
) -> Iterator[ErrorSlice]:
    """The slices that are made without a look at the errors.

    Args:
        fields: name -> the value of each item. lengths: int64[N], characters of the prompts.
        languages, clusters: of each item; clusters are in words.
    """
    everything = np.ones(len(lengths), bool)
    for name, values in fields.items():
        for value in frequent(values):
            yield ErrorSlice("field", f"{name} = {value}", _equal(values, value), everything)
    for low, high in deciles(lengths):
        rule = f"prompt of {low:,}{f' to {high:,}' if high > low else ''} characters"
        yield ErrorSlice("length", rule, (lengths >= low) & (lengths <= high), everything)
    for by, of_items in (("language", languages), ("cluster", clusters)):
        for value in frequent(of_items):
            yield ErrorSlice(by, f"{by} {value}", _equal(of_items, value), everything)


def divided(fields: Mapping[str, Sequence[str | None]]) -> tuple[dict[str, Sequence[str | None]], int]:
    """(fields whose values are slices, number of fields left out).

    Of the fields with a value that has enough items, at most MOST_FIELDS are kept: those with the most items.
    """
    covered = dict[str, int]()
    for name, values in fields.items():
        slices = {*frequent(values)}
        if slices:
            covered[name] = sum(one in slices for one in values)
    ranked = sorted(covered, key=lambda name: (-covered[name], name))
    kept = {*ranked[:MOST_FIELDS]}
    return {name: values for name, values in fields.items() if name in kept}, len(ranked) - len(kept)


def frequent(values: Sequence[str | None]) -> list[str]:
    """The values with enough items for a slice, the most frequent first."""
    counts = Counter(one for one in values if one is not None and len(one) <= _LONGEST_VALUE)
    ranked = sorted(counts, key=lambda one: (-counts[one], one))
    return [one for one in ranked[:_MOST_VALUES] if counts[one] >= LEAST]


def _equal(values: Sequence[str | None], value: str) -> np.ndarray:
    return np.array([one == value for one in values], bool)


def deciles(lengths: np.ndarray) -> list[tuple[int, int]]:
    """(lowest, highest) length of each tenth of the items; equal lengths are in one."""
    if not len(lengths):
        return []
    ends = np.unique(np.quantile(lengths, np.arange(1, 11) / 10, method="inverted_cdf"))
    starts = [int(lengths.min()), *(int(one) + 1 for one in ends[:-1])]
    return list(zip(starts, map(int, ends), strict=True))


def leaves(
    fields: Mapping[str, Sequence[str | None]],
    lengths: np.ndarray,
    languages: Sequence[str],
    clusters: Sequence[str],
    errors: np.ndarray,
    first: np.ndarray,
) -> Iterator[ErrorSlice]:
    """The leaves of a tree with more errors than the rest, among the items that it is fitted to.

    Args:
        errors: bool[N]. first: bool[N], the half that the tree is fitted to. Others: see `candidates`.
    """
    columns, names = [lengths.astype(float)], ["prompt"]
    named = [(f"{name} = ", values) for name, values in fields.items()]
    for begins, values in (*named, ("language ", languages), ("cluster ", clusters)):
        for value in frequent(values):
            columns.append(_equal(values, value).astype(float))
            names.append(begins + value)
    if min(first.sum(), (~first).sum()) < 2 * LEAST or len(np.unique(errors[first])) < 2:
        return
    matrix = np.stack(columns, axis=1)
    tree = DecisionTreeClassifier(
        max_depth=_DEPTH, max_leaf_nodes=_LEAVES, min_samples_leaf=max(LEAST, int(first.sum()) // 50), random_state=0
    ).fit(matrix[first], errors[first])
    place, rules = tree.apply(matrix), dict(_rules(tree.tree_, names))
    for leaf in np.unique(place).tolist():
        members = place == leaf
        if leaf in rules and rules[leaf] and errors[first & members].mean() > errors[first].mean():
            yield ErrorSlice("tree", " and ".join(rules[leaf]), members, ~first)


def _rules(tree: Any, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of a leaf, its conditions in words)."""
    left = [(0, list[str]())]
    while left:
        node, rule = left.pop()
        if tree.children_left[node] < 0:
            yield node, rule
            continue
        feature, bound = int(tree.feature[node]), float(tree.threshold[node])
        words = (
            (f"prompt of at most {int(bound):,} characters", f"prompt of more than {int(bound):,} characters")
            if feature == 0
            else (f"not {names[feature]}", names[feature])
        )
        for child, word in zip((tree.children_left[node], tree.children_right[node]), words, strict=True):
            left.append((int(child), [*rule, word]))


def compared(slices: Sequence[ErrorSlice], errors: np.ndarray) -> list[tuple[ErrorSlice, dict[str, Any]]]:
    """(slice, its numbers) of the slices that can be tested, the smallest p-value first.

    Of slices with the same items the first is taken. errors: bool[N].
    """
    found: list[tuple[ErrorSlice, dict[str, Any]]] = []
    seen = set[bytes]()
    for one in slices:
        inside, outside = one.members & one.tested, ~one.members & one.tested
        counts = [int(one.sum()) for one in (inside, errors & inside, outside, errors & outside)]
        key = np.packbits(one.members).tobytes() + np.packbits(one.tested).tobytes()
        if min(counts[0], counts[2]) < LEAST or key in seen:
            continue
        seen.add(key)
        found.append((one, _numbers(*counts)))
    found.sort(key=lambda pair: (pair[1]["p"], pair[0].by, pair[0].rule))
    corrected = holm([numbers["p"] for _, numbers in found])
    return [(one, numbers | {"p_corrected": p}) for (one, numbers), p in zip(found, corrected, strict=True)]


def _numbers(items: int, errors: int, others: int, other_errors: int) -> dict[str, Any]:
    rate, rest = errors / items, other_errors / others
    (low, high), (rest_low, rest_high) = wilson(errors, items), wilson(other_errors, others)
    difference = rate - rest
    p = float(hypergeom.sf(errors - 1, items + others, errors + other_errors, items))
    return {
        "items": items,
        "errors": errors,
        "rate": rate,
        "rate_outside": rest,
        "difference": difference,
        "difference_low": difference - ((rate - low) ** 2 + (rest_high - rest) ** 2) ** 0.5,
        "difference_high": difference + ((high - rate) ** 2 + (rest - rest_low) ** 2) ** 0.5,
        "p": min(1.0, p),
    }
