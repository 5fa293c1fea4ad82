"""The files of a corpus as pack.json lists them, and in words how they differ from those of now."""

from collections.abc import Mapping, Sequence

_NAMED = 3
# A longer list is not kept: it would make pack.json large, and nobody reads it.
_MAX_FILES = 10_000

Listing = Sequence[tuple[str, int, str]]  # name, bytes, version: an ETag, or size and time of a local file


def kept(listing: Listing) -> list[list[object]]:
    """What pack.json holds of it; nothing of a very long one."""
    return [list(file) for file in listing] if len(listing) <= _MAX_FILES else []


def changes(before: Listing, now: Listing) -> str:
    """Which files differ and how, the first few by name; empty where either list was not kept."""
    if not before or not now:
        return ""
    then, there = _by_name(before), _by_name(now)
    found = [f"{name} is gone" for name in then if name not in there]
    for name, (size, version) in there.items():
        if name not in then:
            found.append(f"{name} is new")
        elif then[name][0] != size:
            found.append(f"{name} had {then[name][0]:,} bytes, now {size:,}")
        elif then[name][1] != version:
            found.append(f"{name} has the same size and another time stamp or ETag")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def _by_name(listing: Listing) -> Mapping[str, tuple[int, str]]:
    return {name: (size, version) for name, size, version in listing}
