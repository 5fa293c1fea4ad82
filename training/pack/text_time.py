"""The bound on the time of a chat template and tokenizer for all texts together; each text has its own."""

from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural

# Seconds of processor time for which a folder is refused: in any case, for each text, and for each of its bytes. A text
# of 1 kB takes about a millisecond.
_SECONDS, _PER_TEXT, _PER_BYTE = 100.0, 0.3, 5e-6


def refuse_slow(folder: str, texts: int, size: int, seconds: float) -> None:
    """Check the processor time of texts of `size` bytes together.

    Raises:
        DataError: they took longer than 100 s, 0.3 s for each and 5 s per megabyte.
    """
    if seconds > _SECONDS + _PER_TEXT * texts + _PER_BYTE * size:
        raise out_of_bounds(folder, f"on {plural(texts, 'text')}", f"{seconds:,.0f} s for {size:,} bytes")


def out_of_bounds(folder: str, where: str, bound: object) -> DataError:
    """The error about a folder whose chat template or tokenizer goes beyond its bounds. where: on which texts."""
    return DataError(
        f"{folder}: its chat template or tokenizer goes beyond its bounds {where} ({bound}). Look at the files of the "
        "folder."
    )
