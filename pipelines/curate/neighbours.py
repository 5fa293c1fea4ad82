"""Joins neighbouring items into lists of about equal size: small pieces of work into units of seconds."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def neighbours(items: Iterable[T], sizes: Iterable[float], full: float, most: int | None = None) -> Iterator[list[T]]:
    """Lists of neighbouring items, in order. A list ends with the item by which its sizes add up to `full`, or with its
    `most`-th item; the last one may be smaller.
    """
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
