"""Random numbers that depend on names alone: not on order, process, library or version of Python."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

from raymill.cluster.examples.splits import hash64

T = TypeVar("T")


class Draws:
    """A sequence of random numbers, which depends on `names` alone."""

    def __init__(self, *names: str) -> None:
        self._key = hash64(*(one.encode() for one in names)).to_bytes(8, "little")
        self._drawn = 0

    def below(self, number: int) -> int:
        """An integer from 0 to number - 1; the bias is below 2^-64."""
        size = number.bit_length() // 8 + 9
        digest = hashlib.blake2b(self._drawn.to_bytes(8, "little"), digest_size=min(size, 64), key=self._key).digest()
        self._drawn += 1
        return int.from_bytes(digest, "little") % number

    def choice(self, values: Sequence[T]) -> T:
        """One of some values."""
        return values[self.below(len(values))]

    def shuffled(self, values: Sequence[T]) -> Iterator[T]:
        """The values in random order, drawn one by one."""
        left = list(values)
        while left:
            at = self.below(len(left))
            left[at], left[-1] = left[-1], left[at]
            yield left.pop()
