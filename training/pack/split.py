"""Which split a document is in: decided by a hash of its group, else of its content.

The hash line 0 .. 2**64 is cut in two places: train, validation, test. So a document's split depends neither on the
seed nor on the order or number of files: documents of one group, and equal texts under two ids, are never apart.

Where the cuts lie: at the shares themselves for a large corpus, where chance errs little (with 4,097 groups a share of
10% has a standard deviation of half a percent). A small corpus, and each small stratum, is cut by rank: between the
very groups that it has, so that its shares are exact to a group. What one stratum's rounding leaves over is carried to
the next, so many tiny strata do not all round to nothing; and no split that was asked for is left empty while there are
groups enough. `survey` finds the groups: it reads until there are more than MAX_RANKED, with `stratify` to the end.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from cluster.errors import ConfigError
from training.config_parts import Split

MAX_RANKED = 4096
_MAX_STRATA = 1000
_END = 1 << 64

# Two places on the hash line: below the first is train, from the second on is test.
Cut = tuple[int, int]


@dataclass(frozen=True)
class Cuts:
    """Where each stratum is cut; a stratum that is not named has the default."""

    default: Cut
    strata: dict[str, Cut] = field(default_factory=dict)

    def split_of(self, key: int, stratum: str) -> int:
        """Index in SPLITS of a document whose group hashes to `key`."""
        return bisect_right(self.strata.get(stratum, self.default), key)


@dataclass
class Survey:
    """The groups of each stratum, as hash -> documents; None once there are more than MAX_RANKED.

    Memory: at most MAX_RANKED * _MAX_STRATA hashes, half a gigabyte; without strata, half a megabyte.
    """

    strata: dict[str, dict[int, int] | None] = field(default_factory=dict)

    def add(self, key: int, stratum: str) -> None:
        groups = self.strata.setdefault(stratum, {})
        if len(self.strata) > _MAX_STRATA:
            raise ConfigError(
                f"columns.stratify: more than {_MAX_STRATA} different values, such as {stratum!r:.80}. Choose a column "
                "with few values, or leave stratify out."
            )
        if groups is not None:
            groups[key] = groups.get(key, 0) + 1
            if len(groups) > MAX_RANKED:
                self.strata[stratum] = None


def survey(keyed: Iterable[tuple[int, str]], stratified: bool) -> Survey:
    """From (hash of the group, stratum) of documents; reads no further than it has to."""
    found = Survey()
    for key, stratum in keyed:
        found.add(key, stratum)
        if not stratified and found.strata[stratum] is None:
            break
    return found


def choose_cuts(found: Survey, split: Split) -> Cuts:
    """Pure: the same groups give the same cuts, in whatever order they were seen."""
    shares = (split.train, split.train + split.validation)
    default = (_place(shares[0]), _place(shares[1]))
    strata: dict[str, Cut] = {}
    carried = [0.0, 0.0]
    small = {name: groups for name, groups in sorted(found.strata.items()) if groups is not None}
    for name, groups in small.items():
        keys = sorted(groups)
        below = [0, *accumulate(groups[key] for key in keys)]  # documents before the first, second, .. group
        at: list[int] = []
        for number, share in enumerate(shares):
            wanted = below[-1] * share + carried[number]
            nearest = min(range(len(below)), key=lambda index: abs(below[index] - wanted))
            at.append(max([nearest, *at]))
            carried[number] = wanted - below[at[-1]]
        strata[name] = (_before(keys, at[0]), _before(keys, at[1]))
    if len(small) == len(found.strata):
        _fill_empty(small, strata, split)
    return Cuts(default, strata)


def _fill_empty(small: Mapping[str, dict[int, int]], strata: dict[str, Cut], split: Split) -> None:
    """A tiny corpus: give a split that was asked for and got nothing one group of the largest other."""
    wanted = [share > 0 for share in (split.train, split.validation, split.test)]
    for empty in range(3):
        held: list[list[tuple[str, int]]] = [[], [], []]
        for name, groups in small.items():
            for key in sorted(groups):
                held[bisect_right(strata[name], key)].append((name, key))
        largest = max(range(3), key=lambda index: len(held[index]))
        if not wanted[empty] or held[empty] or len(held[largest]) < 2:
            continue
        # The groups of one stratum nearest to the empty split's place on the line move over.
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


def _place(share: float) -> int:
    return _END if share >= 1 - 1e-12 else int(share * _END)


def _before(keys: list[int], index: int) -> int:
    return keys[index] if index < len(keys) else _END
