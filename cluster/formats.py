"""Numbers as text for readers: in reports, in the terminal and in errors."""

import math
import re
from collections.abc import Sequence

_NOT_ASCII = re.compile(r"[^\x20-\x7e]")
_LISTED, _LISTED_CHARS = 50, 100


def count(number: int) -> str:
    return f"{number:,}"


def plural(number: int, noun: str, ending: str = "s") -> str:
    """`1 document`, `2,000 documents`. ending: of the plural."""
    return f"{number:,} {noun}" + ("" if number == 1 else ending)


def byte_size(count: float) -> str:
    """`12 B`, `1.5 KiB`, `2.0 TiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def amount_of_bytes(size: float) -> str:
    """Bytes in powers of 1,000; a dash for 0."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.9995 * unit:
            return f"{size / unit:,.{0 if size >= 99.95 * unit else 1}f} {name}"
    return f"{size:,.0f} B" if size else "-"


def share(part: float, whole: float) -> str:
    """A percentage with one decimal; shares near 0 and 1 become <0.1% and >99.9%."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "<0.1%"
    if 99.95 <= percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%"


def decimal(number: float) -> str:
    """Four significant digits, and whole numbers in full."""
    if not math.isfinite(number):
        return str(number)
    if number == int(number):
        return f"{int(number):,}"
    digits = 3 - math.floor(math.log10(abs(number)))
    if digits <= 0:
        return f"{number:,.0f}"
    return f"{number:,.{digits}f}".rstrip("0").rstrip(".") if digits <= 6 else f"{number:.3g}"


def money(amount: float) -> str:
    """An amount of money: four significant digits, never as a power of ten."""
    if not math.isfinite(amount) or abs(amount) >= 1 or not amount:
        return decimal(amount)
    return f"{amount:.{3 - math.floor(math.log10(abs(amount)))}f}".rstrip("0").rstrip(".")


def short(number: float) -> str:
    """For axes and headlines: 1.2k, 35M, 2.1B, 4T."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:  # else rounding would give 1000k
            scaled = number / size
            return f"{scaled:.{0 if scaled >= 100 else 1}f}".removesuffix(".0") + letter
    return decimal(number)


def duration(seconds: float | None) -> str:
    """`3.4 s`, `5 min 12 s`, `2 h 3 min`; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def core_hours(core_s: float) -> str:
    """Core-seconds as hours, without the unit."""
    hours = core_s / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.3f}"


def megabytes_per_s(text_bytes: int, seconds: float | None) -> str:
    """Throughput in 10^6 bytes per second, without the unit; a dash if it is unknown."""
    if not text_bytes or seconds is None or seconds <= 0:
        return "–"
    speed = text_bytes / 1e6 / seconds
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}" if speed >= 1 else f"{speed:.2g}"


def listed(names: Sequence[str]) -> str:
    """Names for a message, at most 50 of at most 100 characters: a header that others wrote can have a million."""
    if not names:
        return "none"
    shown = (name if len(name) <= _LISTED_CHARS else f"{name[:_LISTED_CHARS]}..." for name in names[:_LISTED])
    more = f", ... ({len(names):,} in all)" if len(names) > _LISTED else ""
    return ", ".join(shown) + more


def one_line(text: str) -> str:
    """A text that others may have written, with a space for each line end."""
    return " ".join(text.splitlines())


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, with cells padded to the width of their column. All rows have as many cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def ascii_text(words: str) -> str:
    """The text with a hyphen for each dash, and `?` for other characters than printable ASCII, for terminals."""
    return _NOT_ASCII.sub("?", words.replace("–", "-"))
