"""Exact median, quantiles and mean of numbers that are read in parts, several times, and never held at once."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np

_BITS = 16  # of a number's 64 that a pass finds
_MASK = np.uint64((1 << _BITS) - 1)
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class Numbers:
    """Finite numbers in parts. parts: float64[N] each; reads them again at every call. count: of all parts.

    Memory: that of a part, and half a megabyte for each wanted quantile.
    """

    parts: Callable[[], Iterable[np.ndarray]]
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Numbers":
        """Numbers in one part. values: float64[N]."""
        return cls(lambda: [values], len(values))

    def quantiles(self, *wanted: float) -> list[float]:
        """Quantiles by linear interpolation, as `numpy.quantile`. Reads all parts four times. wanted: in [0, 1]."""
        assert self.count, "numbers without one have no quantile"
        places = [(self.count - 1) * one for one in wanted]
        ranks = {rank for place in places for rank in (math.floor(place), math.ceil(place))}
        found = self._ranked(ranks)
        return [_between(found[math.floor(one)], found[math.ceil(one)], one % 1) for one in places]

    def mean(self) -> float:
        """The correctly rounded sum by the count. Reads all parts once.

        Raises:
            OverflowError: the sum is no float64.
        """
        return math.fsum(chain.from_iterable(part.tolist() for part in self.parts())) / self.count

    def distances(self, middle: float) -> "Numbers":
        """How far each number is from the middle."""
        return Numbers(lambda: (np.abs(part - middle) for part in self.parts()), self.count)

    def _ranked(self, ranks: Iterable[int]) -> dict[int, float]:
        """Rank -> the number of this rank, from 0, the least.

        Radix selection: each pass counts the next 16 bits of the numbers that begin with the bits found so far.
        """
        begins = dict.fromkeys(ranks, 0)  # rank -> the bits found so far
        below = dict.fromkeys(begins, 0)  # rank -> numbers with lesser ones
        for shift in range(64 - _BITS, -1, -_BITS):
            counts = {begin: np.zeros(1 << _BITS, np.int64) for begin in begins.values()}
            for part in self.parts():
                ordered = _ordered(part)
                for begin, count in counts.items():
                    # A shift by 64 bits is none in C.
                    here = ordered if shift + _BITS == 64 else ordered[ordered >> np.uint64(shift + _BITS) == begin]
                    count += np.bincount(((here >> np.uint64(shift)) & _MASK).astype(np.int64), minlength=1 << _BITS)
            for rank, begin in begins.items():
                ends = np.cumsum(counts[begin])
                at = int(np.searchsorted(ends, rank - below[rank], "right"))
                below[rank] += int(ends[at - 1]) if at else 0
                begins[rank] = begin << _BITS | at
        return {rank: _number(bits) for rank, bits in begins.items()}


def _ordered(numbers: np.ndarray) -> np.ndarray:
    """uint64[N]: in the order of the numbers. numbers: float64[N]; -0 is 0."""
    bits = np.ascontiguousarray(numbers + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _number(ordered: int) -> float:
    """The number of a value of `_ordered`."""
    bits = np.array([ordered], np.uint64)
    return float(np.where(bits & _SIGN, bits ^ _SIGN, ~bits).view(np.float64)[0])


def _between(low: float, high: float, part: float) -> float:
    """Interpolate as numpy does, from the nearer of both; where numpy's difference overflows, by their shares."""
    if math.isinf(high - low):
        return low * (1 - part) + high * part
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)
