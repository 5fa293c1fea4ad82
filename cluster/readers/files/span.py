"""A span: the part of an input file that one unit reads."""

from dataclasses import dataclass

from cluster.errors import DataError
from cluster.store.interface import FileInfo
from cluster.store.store import Store


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a file as it was when the run began.

    size, version: size and version of the whole file (see FileInfo). An empty version is not compared.
    start, end: bytes of text formats, where a line belongs to the span in which it begins; for Parquet, row groups in
    curation and rows in packing. Compressed files have one span.
    """

    uri: str
    size: int
    version: str
    format: str
    start: int
    end: int
    rows: tuple[int, int] | None = None  # for Parquet in curation: rows [first, end) of the one row group; None: all


def refuse_changed(store: Store, span: Span) -> FileInfo:
    """Compare the file with the one that the run began with, and return it as it is now.

    Raises:
        DataError: its size or version is another one.
    """
    now = store.info(span.uri)
    if now.size == span.size and span.version in ("", now.version):
        return now
    seen = (
        f"{span.size:,} bytes then, {now.size:,} now"
        if now.size != span.size
        else f"version {span.version} then, {now.version} now; the size is equal"
    )
    raise DataError(
        f"{span.uri}: changed since this run began ({seen}). Put the old file back, or run the same command with "
        "another output or with --replace, to read it as it is now."
    )
