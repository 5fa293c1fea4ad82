"""The split of a document, decided by a hash: of its group if there is a group column, else of its content.

The hashes 0 .. 2**64 are divided at two cuts into train, validation and test. So the split depends neither on the seed
nor on the order or number of files, and documents of one group, or of equal content, are in the same split.

In a large corpus, each cut is at its share of the hashes: with 4,097 groups a share of 10% has a standard deviation of
half a percentage point. In a small corpus, and in each small stratum, the cuts are between its own groups, so that the
shares are exact to one group. The rounding error of one stratum is carried to the next, so that many tiny strata
together also have the right shares. A requested split is not empty if there are enough groups. survey.py finds the
groups: it reads until there are more than MAX_RANKED of them, or with `stratify` all documents.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cluster.errors import ConfigError
from cluster.examples.splits import SPLITS, split_places
from training.config_parts import Split
from training.pack.documents import Document

MAX_RANKED = 4096
_MAX_STRATA = 1000
_END = 1 << 64
_TRAIN, _TEST = SPLITS.index("train"), SPLITS.index("test")

# (end of train, end of validation) as hashes: below the first is train, from the second on is test.
Cut = tuple[int, int]


@dataclass(frozen=True)
class Cuts:
    """The cut of each stratum. default: of strata that are not in `strata`. fold: which is tested, in place of cuts."""

    default: Cut
    strata: dict[str, Cut] = field(default_factory=dict)
    fold: int | None = None

    def split_of(self, key: int, stratum: str) -> int:
        """Index in SPLITS of a document with this hash and stratum."""
        return bisect_right(self.strata.get(stratum, self.default), key)


ALL_TEST = Cuts((0, 0))


def split_of(document: Document, cuts: Cuts) -> int:
    """Index in SPLITS: by its fold if one is tested, else by its column if it has one, else by the cuts."""
    if cuts.fold is not None:
        return _TEST if document.fold == cuts.fold else _TRAIN
    return cuts.split_of(document.key, document.stratum) if document.split is None else document.split


@dataclass
class Survey:
    """The groups of each stratum as hash -> number of documents; None if there are more than MAX_RANKED.

    Memory: at most MAX_RANKED * _MAX_STRATA hashes, half a gigabyte; without strata, half a megabyte.
    """

    strata: dict[str, dict[int, int] | None] = field(default_factory=dict)

    def add(self, key: int, stratum: str, documents: int = 1) -> None:
        """Count documents of a group. key: its hash.

        Raises:
            ConfigError: there are more strata than _MAX_STRATA.
        """
        groups = self._of(stratum)
        if groups is not None:
            groups[key] = groups.get(key, 0) + documents
            if len(groups) > MAX_RANKED:
                self.strata[stratum] = None

    def merge(self, stratum: str, groups: Mapping[int, int] | None) -> None:
        """Count the documents of a stratum of another survey. Errors are those of `add`."""
        if self._of(stratum) is None or groups is None:
            self.strata[stratum] = None
            return
        for key, documents in groups.items():
            self.add(key, stratum, documents)

    def _of(self, stratum: str) -> dict[int, int] | None:
        """The groups of a stratum, which is new or known."""
        groups = self.strata.setdefault(stratum, {})
        if len(self.strata) > _MAX_STRATA:
            raise ConfigError(
                f"columns.stratify: more than {_MAX_STRATA} different values, such as {stratum!r:.80}. Choose a column "
                "with few values, or leave stratify out."
            )
        return groups


def choose_cuts(found: Survey, split: Split) -> Cuts:
    """The cuts for the surveyed groups. The order in which they were surveyed has no effect."""
    shares = (split.train, split.train + split.validation)
    default = (_hash_at(shares[0]), _hash_at(shares[1]))
    strata: dict[str, Cut] = {}
    carried = [0.0, 0.0]
    small = {name: groups for name, groups in sorted(found.strata.items()) if groups is not None}
    for name, groups in small.items():
        keys = sorted(groups)
        sizes = np.array([groups[key] for key in keys])
        wanted = [sizes.sum() * share + of_others for share, of_others in zip(shares, carried, strict=True)]
        places = split_places(sizes, np.array(wanted))
        first, second = (int(np.searchsorted(places, split, side="right")) for split in (0, 1))
        carried = [wanted[0] - sizes[:first].sum(), wanted[1] - sizes[:second].sum()]
        strata[name] = (_before(keys, first), _before(keys, second))
    if len(small) == len(found.strata):
        _fill_empty(small, strata, split)
    return Cuts(default, strata, split.fold)


def _fill_empty(small: Mapping[str, dict[int, int]], strata: dict[str, Cut], split: Split) -> None:
    """In a tiny corpus, move one group of the largest split to each requested split that is empty."""
    wanted = [share > 0 for share in (split.train, split.validation, split.test)]
    for empty in range(3):
        held: list[list[tuple[str, int]]] = [[], [], []]
        for name, groups in small.items():
            for key in sorted(groups):
                held[bisect_right(strata[name], key)].append((name, key))
        largest = max(range(3), key=lambda index: len(held[index]))
        if not wanted[empty] or held[empty] or len(held[largest]) < 2:
            continue
        # Of one stratum, the groups that are nearest to the empty split are moved.
        name = max(small, key=lambda one: (sum(owner == one for owner, _ in held[largest]), one))
        keys = sorted(small[name])
        first, second = (sum(key < cut for key in keys) for cut in strata[name])
        first, second = {
            (1, 0): (first - 1, second),
            (2, 0): (first - 1, second - 1),
            (2, 1): (first, second - 1),
            (0, 1): (first + 1, second),
            (0, 2): (first + 1, second + 1),
            (1, 2): (first, second + 1),
        }[empty, largest]
        strata[name] = (_before(keys, first), _before(keys, second))


def _hash_at(share: float) -> int:
    return _END if share >= 1 - 1e-12 else int(share * _END)


def _before(keys: list[int], index: int) -> int:
    return keys[index] if index < len(keys) else _END
