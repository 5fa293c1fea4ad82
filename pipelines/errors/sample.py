"""A sample by the hashes of ids, bounded in number and bytes, whatever the number and order of what is read."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from raymill.cluster.examples.splits import hash64

MOST = 100_000  # items, and records of train, that are analysed
MOST_BYTES = 256 << 20  # of their texts
_ROWS_AT_ONCE = 1_000  # as Python values
T = TypeVar("T")


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table, some at once."""
    for start in range(0, len(table), _ROWS_AT_ONCE):
        yield from table.slice(start, _ROWS_AT_ONCE).to_pylist()


class SmallestHashes(Generic[T]):
    """Values by id: those whose ids have the smallest hashes, at most MOST, and as many as have MOST_BYTES.

    Files of others can have any number of rows with one id, or of ids that were chosen by their hash, so twice these
    bounds are held at most, but for one value.
    """

    def __init__(self) -> None:
        self._held = dict[str, tuple[int, int, T]]()  # id -> hash, bytes, value
        self._bytes, self._bound = 0, 1 << 64

    def wants(self, id: str) -> bool:
        """Whether a value of this id could stay."""
        return hash64(id.encode()) < self._bound

    def get(self, id: str) -> T | None:
        """The value of the id, if it is held."""
        found = self._held.get(id)
        return None if found is None else found[2]

    def put(self, id: str, value: T, size: int) -> None:
        """Hold the value in place of the one that its id has. size: bytes."""
        self._bytes += size - (self._held[id][1] if id in self._held else 0)
        self._held[id] = hash64(id.encode()), size, value
        if len(self._held) > 2 * MOST or (self._bytes > 2 * MOST_BYTES and len(self._held) > 1):
            self._drop()

    def values(self) -> list[T]:
        """The values in the order of their ids."""
        self._drop()
        return [value for _, (_, _, value) in sorted(self._held.items())]

    def _drop(self) -> None:
        """Keep those with the smallest hashes that stay."""
        ordered = sorted(self._held.items(), key=lambda one: (one[1][0], one[0]))
        sizes = np.cumsum([size for _, (_, size, _) in ordered])
        count = max(1, min(MOST, int(np.searchsorted(sizes, MOST_BYTES, "right"))))
        if count < len(ordered):
            self._bound = ordered[count][1][0]
        self._held = dict(ordered[:count])
        self._bytes = int(sizes[:count][-1]) if ordered else 0
