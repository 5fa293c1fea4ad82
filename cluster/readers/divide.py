"""Divides the input into units of work: how much text a unit has, and which pieces of files belong to it.

Both follow from the input alone, never from the number of workers. The division is stable: a file that is added,
removed or changed moves the ends of its own units and, among small files, of few neighbours. The measurements of all
other units stay valid (pipelines/curate/stages/measure.py).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby, pairwise

from cluster.readers.files.span import Span
from cluster.readers.reader import FilePieces
from cluster.readers.units import Unit

# A request to a store takes tens of milliseconds, so a unit of a thousand tiny files takes under a minute.
MAX_SPANS_PER_UNIT = 1000

# Parts of a row group at most. Reading part n decodes n parts, so reading all of 8 decodes the row group 4.5 times. Of
# 64 MB in one row group (PEPs, 2026-11-24, a busy machine) that takes 0.3 s (zstd) to 0.7 s (snappy) of processor time
# more, and 32 parts would take several times that; measuring takes 2.3 s.
MAX_PARTS = 8

_LEAST_BYTES = 128 << 10  # below this, the work of committing a unit is more than that of measuring it
_MOST_BYTES = 256 << 20  # 10 to 20 seconds of measuring on one core
_LEAST_UNITS = 32  # so that every core of a laptop has work and progress is visible
_MOST_UNITS = 20_000  # each is a record that the driver reads


def bytes_of_unit(text_bytes: int) -> int:
    """The text of a unit, for an input with this much text: a power of two.

    A power of two, because the ends of all units move when the size of a unit does: an input that grows slowly keeps
    its units.
    """
    least_units = _power_of_two_up_to(text_bytes // _LEAST_UNITS)
    # Units are at least half full on average, so half the number of full units is allowed.
    most_units = 2 * _power_of_two_up_to(2 * text_bytes // _MOST_UNITS)
    return max(min(max(least_units, _LEAST_BYTES), _MOST_BYTES), most_units)


def _power_of_two_up_to(number: int) -> int:
    """The largest power of two that is not above the number; 0 if there is none."""
    return 1 << number.bit_length() - 1 if number else 0


def pieces_of(
    cut: FilePieces, unit_bytes: int, max_parts: int | None = MAX_PARTS
) -> Iterable[tuple[int, int, tuple[int, int] | None, int]]:
    """(start, end, rows, text bytes) of each piece of a file, in order. rows: see Span.

    max_parts: most parts of a row group; None: any number.
    """
    for number, (start, end, text_bytes) in enumerate(cut.pieces):
        wanted = max(-(-text_bytes // unit_bytes), 1)
        if cut.divisible:
            for (first, last), share in zip(_parts(start, end, wanted), _shares(text_bytes, wanted), strict=True):
                yield first, last, None, share
            continue
        rows = cut.rows_of_pieces[number] if cut.rows_of_pieces else 0
        wanted = min(wanted, rows, max_parts or rows)
        if wanted <= 1:
            yield start, end, None, text_bytes
            continue
        for of_part, share in zip(_parts(0, rows, wanted), _shares(text_bytes, wanted), strict=True):
            yield start, end, of_part, share


def _parts(start: int, end: int, count: int) -> Iterable[tuple[int, int]]:
    """The range in parts of about the same size."""
    return pairwise(start + (end - start) * part // count for part in range(count + 1))


def _shares(total: int, count: int) -> Iterable[int]:
    """The sizes of so many parts of `total`."""
    return (last - first for first, last in _parts(0, total, count))


def make_units(
    source: str, pieces: Iterable[tuple[Span, int]], unit_bytes: int, first_index: int, root: str = ""
) -> list[Unit]:
    """Units of at most `unit_bytes` from (span, text bytes) pieces of one source, in order.

    A file of at least half a unit has units of its own. Smaller files share units; a unit of them ends where it would
    become too large, or after a file that the hash of its name selects, on average once for each `unit_bytes` of text.
    These files are the same whatever other files there are, so from there on the units are the same too. A larger piece
    has a unit of its own. A unit has at most 1,000 spans.

    Args:
        root: beginning of all URIs, which is not part of the names.
    """
    units: list[Unit] = []
    spans: list[Span] = []
    held = 0

    def close() -> None:
        nonlocal spans, held
        if spans:
            units.append(Unit(first_index + len(units), source, tuple(spans), held))
        spans, held = [], 0

    for uri, group in groupby(pieces, lambda piece: piece[0].uri):
        file = list(group)
        size = sum(text_bytes for _, text_bytes in file)
        if 2 * size >= unit_bytes:
            close()
            for span, text_bytes in file:
                if held + text_bytes > unit_bytes:
                    close()
                append_span(spans, span)
                held += text_bytes
            close()
            continue
        if held + size > unit_bytes or len(spans) + len(file) > MAX_SPANS_PER_UNIT:
            close()
        for span, _ in file:
            append_span(spans, span)
        held += size
        if _fraction(uri.removeprefix(root)) < max(size / unit_bytes, 1 / MAX_SPANS_PER_UNIT):
            close()
    close()
    return units


def append_span(spans: list[Span], span: Span) -> None:
    """Append a span; neighbouring pieces of one file become one, but a part of a row group and another row group."""
    last = spans[-1] if spans else None
    if last is None or last.uri != span.uri:
        spans.append(span)
    elif last.rows is None and span.rows is None and last.end == span.start:
        spans[-1] = replace(last, end=span.end)
    elif last.rows and span.rows and last.start == span.start and last.rows[1] == span.rows[0]:
        spans[-1] = replace(last, rows=(last.rows[0], span.rows[1]))
    else:
        spans.append(span)


def _fraction(name: str) -> float:
    """A number in [0, 1) from the hash of a name."""
    digest = hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
