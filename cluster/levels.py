"""Levels of files through which data passes from many sources to many targets with few reads.

Every source has data for every target. If S sources are S files, and each of T targets reads its part of every file,
that is S * T reads. If both S and T are above FAN, the data therefore passes through levels:

    level 0      the sources: S files
    level k      a unit reads, from `fan_in` neighbouring files of level k - 1, the data for one part of the targets,
                 a `fan_out`-th of the targets of these files, and writes it to one file
    last level   a unit reads, from at most `fan_in` files, the data for one target

With L levels, fan_in is the L-th root of S and fan_out that of T. A level then has about max(S, T) units, each with
about as much data as one source or one target, and there are at most L * max(S, T) * FAN reads. With at most FAN
sources, or at most FAN targets, there is only the last level, which reads the sources themselves. With 30,000 sources
and targets, L is 3: 2.7 million reads instead of 900 million.
"""

from dataclasses import dataclass
from typing import Self

# The most files of one level that a unit of the next level reads. A larger number gives fewer levels and smaller reads.
# Parquet files are read by whole row groups of 1 MiB: packing takes 98 ns a token with 64 files, 68 ns with 32.
FAN = 64


@dataclass(frozen=True)
class Levels:
    """The groups of sources and the parts of the targets at each level, from 0 to `count`.

    A file of level k has the data of one group, `fan_in ** k` neighbouring sources, for one part, `fan_out **
    (count - k)` neighbouring targets. Files are numbered by part, then by group.
    """

    sources: int
    targets: int
    count: int
    fan_in: int
    fan_out: int

    @classmethod
    def of(cls, sources: int, targets: int, fan: int = FAN) -> Self:
        """The levels for these numbers of sources and targets. fan: see FAN."""
        count = 1
        while fan**count < min(sources, targets):
            count += 1
        return cls(sources, targets, count, _root(sources, count), _root(targets, count))

    def groups(self, level: int) -> int:
        """Number of groups of sources, each of which has a file in every part."""
        return -(-self.sources // self.sources_of_group(level))

    def sources_of_group(self, level: int) -> int:
        """Number of sources of a group; the last one may have fewer."""
        return self.fan_in**level

    def parts(self, level: int) -> int:
        """Number of parts of the targets."""
        return -(-self.targets // self.targets_of_part(level))

    def targets_of_part(self, level: int) -> int:
        """Number of targets of a part; the last one may have fewer."""
        return self.fan_out ** (self.count - level)

    def reads(self, level: int) -> int:
        """Number of reads of all units of this level, each from one file of the level before."""
        return self.parts(level) * self.groups(level - 1)


def _root(number: int, degree: int) -> int:
    """The smallest whole number whose power of this degree is at least `number`."""
    root = max(1, int(number ** (1 / degree)) - 1)
    while root**degree < number:
        root += 1
    return root
