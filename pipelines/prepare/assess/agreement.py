"""How far annotators agree."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import permutations


class Agreement:
    """Krippendorff's alpha of nominal labels; any number of annotators, of whom some may have left a record out.

    alpha = 1 - (n - 1) sum_{c != k} o_ck / sum_{c != k} n_c n_k, where o_ck counts the pairs of labels within a record,
    each by 1 / (m - 1) of its m labels, n_c = sum_k o_ck and n = sum n_c. 1: all agree; 0: as by chance; below 0: less.
    Source: Krippendorff 2004, Content analysis, chapter 11.
    """

    def __init__(self) -> None:
        self.pairs: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.records = self.disagreed = 0

    def add(self, labels: Iterable[str | None]) -> bool:
        """Add the labels of a record, and return whether they differ. Empty ones and None are no labels."""
        given = [label for label in labels if label]
        if len(given) < 2:
            return False
        for pair in permutations(given, 2):
            self.pairs[pair] += 1 / (len(given) - 1)
        differ = len(set(given)) > 1
        self.records += 1
        self.disagreed += differ
        return differ

    @property
    def alpha(self) -> float | None:
        """None if no record has two labels, or all labels are the same value."""
        totals: defaultdict[str, float] = defaultdict(float)
        for (label, _), weight in self.pairs.items():
            totals[label] += weight
        everything = sum(totals.values())
        expected = everything**2 - sum(number**2 for number in totals.values())
        if expected <= 0:
            return None
        observed = sum(weight for (one, other), weight in self.pairs.items() if one != other)
        return 1 - (everything - 1) * observed / expected
