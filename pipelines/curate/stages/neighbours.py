"""Joins neighbouring items into lists of about equal size, so that units take seconds."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def neighbours(items: Iterable[T], sizes: Iterable[float], full: float, most: int | None = None) -> Iterator[list[T]]:
    """Lists of neighbouring items, in order. A list ends when its sizes add up to `full` or it has `most` items."""
    joined: list[T] = []
    total = 0.0
    for item, size in zip(items, sizes, strict=True):
        joined.append(item)
        total += size
        if total >= full or len(joined) == most:
            yield joined
            joined, total = [], 0.0
    if joined:
        yield joined
