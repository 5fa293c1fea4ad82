"""A span of a file as rows: plain dicts, or the reason why a row could not be read.

Plain JSON Lines are cut by byte range: a line belongs to the range in which it begins. json.loads on each line reads
200 to 400 MB/s, a hundred times what a tokenizer takes, and one bad line costs one line.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from cluster.errors import DataError
from cluster.store.store import Store

FORMATS = (".parquet", ".pq", ".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst")

_BLOCK_BYTES = 1 << 20
_TABLE_BYTES = 4 << 20
_MAX_LINE_BYTES = 256 << 20
# `zstd --long=31`, which some large dumps were made with; memory for it is used only by files that ask for it.
_ZSTD_MAX_WINDOW = 1 << 31
_BOM = b"\xef\xbb\xbf"


class Span(NamedTuple):
    """A run of documents of one file. start, end: rows of Parquet, bytes of JSON Lines (whole where compressed)."""

    uri: str
    size: int
    version: str
    format: str
    start: int
    end: int


class Unreadable(str):
    """Why a row could not be read; stands in the row's place."""


Row = dict[str, Any]


def format_of(name: str) -> str | None:
    ending = next((ending for ending in FORMATS if name.lower().endswith(ending)), None)
    return None if ending is None else "parquet" if ending in (".parquet", ".pq") else "jsonl"


def is_compressed(name: str) -> bool:
    return name.lower().endswith((".gz", ".zst"))


def read_rows(store: Store, span: Span, columns: Sequence[str]) -> Iterator[tuple[Row | Unreadable, str]]:
    """(row, where it stands). Parquet gives the named columns; JSON objects come whole.

    Raises:
        DataError: the file is another one than at the beginning of the run, or is damaged Parquet.
    """
    found = store.info(span.uri)
    if found.size != span.size or (span.version and found.version != span.version):
        raise DataError(
            f"{span.uri}: changed while it was being read ({span.size} bytes at the start of the run, {found.size} now)"
            ". Run the same command again, to take it as it is now."
        )
    if span.format == "parquet":
        yield from _parquet_rows(store, span, columns)
    else:
        for row, offset in json_rows(store, span):
            yield row, f"{span.uri} {'line' if is_compressed(span.uri) else 'byte'} {offset}"


def _parquet_rows(store: Store, span: Span, columns: Sequence[str]) -> Iterator[tuple[Row, str]]:
    try:
        with store.open_input(span.uri) as handle:
            file = pq.ParquetFile(handle, buffer_size=_BLOCK_BYTES, pre_buffer=False)
            first = 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first < span.end and first + rows > span.start:
                    yield from _group_rows(file, group, columns, first, span)
                first += rows
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network, not the data
        raise DataError(
            f"{span.uri}: damaged Parquet ({str(error).splitlines()[0]}). Write it again, or leave it out by a "
            "narrower path."
        ) from error


def _group_rows(
    file: pq.ParquetFile, group: int, columns: Sequence[str], first: int, span: Span
) -> Iterator[tuple[Row, str]]:
    """The rows of one row group that belong to the span, decoded in tables of about _TABLE_BYTES."""
    about = file.metadata.row_group(group)
    rows_at_once = max(1, min(4096, _TABLE_BYTES * about.num_rows // max(1, about.total_byte_size)))
    for batch in file.iter_batches(rows_at_once, [group], list(columns), use_threads=False):
        if first >= span.end:
            return
        if first + batch.num_rows > span.start:
            start = max(span.start - first, 0)
            for number, row in enumerate(batch.slice(start, span.end - first - start).to_pylist(), first + start):
                yield row, f"{span.uri} row {number}"
        first += batch.num_rows


def json_rows(store: Store, span: Span) -> Iterator[tuple[Row | Unreadable, int]]:
    """Objects with the byte they begin at (compressed: their line, from 1); blank lines are no rows."""
    compressed = is_compressed(span.uri)
    with store.open_input(span.uri) as handle:
        # From the byte before the range, so that what follows the first line feed is a line that begins in it.
        begin = 0 if compressed else max(span.start - 1, 0)
        found = _lines(_blocks(cast(BinaryIO, handle), span.uri, begin), begin)
        if span.start and not compressed:
            next(found, None)
        for number, (offset, line) in enumerate(found, 1):
            if offset >= span.end and not compressed:
                return
            if isinstance(line, Unreadable):
                yield line, number if compressed else offset
            elif line and not line.isspace():
                yield _parsed(line), number if compressed else offset


def _parsed(line: bytes) -> Row | Unreadable:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        return Unreadable("bad_utf8")
    except (ValueError, RecursionError):
        return Unreadable("json_array" if line.strip() == b"[" else "broken_json")
    if isinstance(row, list) and row and isinstance(row[0], dict):
        return Unreadable("json_array")
    return row if isinstance(row, dict) else Unreadable("not_an_object")


def _blocks(handle: BinaryIO, uri: str, begin: int) -> Iterator[bytes | Unreadable]:
    """The content from byte `begin`, decompressed; after everything before a defect, the defect."""
    stream: Any = handle
    if uri.lower().endswith(".gz"):
        stream = gzip.GzipFile(fileobj=handle)
    elif uri.lower().endswith(".zst"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
        stream = decompressor.stream_reader(handle, read_across_frames=True)
    else:
        handle.seek(begin)
    while True:
        try:
            block = stream.read1(_BLOCK_BYTES) if stream is not handle else stream.read(_BLOCK_BYTES)
        except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError):
            yield Unreadable("broken_compression")
            return
        if not block:
            return
        yield block


def _lines(blocks: Iterator[bytes | Unreadable], offset: int) -> Iterator[tuple[int, bytes | Unreadable]]:
    """(offset, line). A line over _MAX_LINE_BYTES is given up and passed over, and so is all after a defect."""
    pending: list[bytes] = []
    held = 0
    too_long = False
    for block in blocks:
        if isinstance(block, Unreadable):
            yield offset, block
            return
        *whole, rest = block.split(b"\n")
        for piece in whole:
            line = b"".join([*pending, piece])
            if not too_long:
                yield offset, line.removeprefix(_BOM) if offset == 0 else line
            offset += held + len(piece) + 1
            pending, held, too_long = [], 0, False
        held += len(rest)
        if not too_long:
            pending.append(rest)
        if held > _MAX_LINE_BYTES and not too_long:
            yield offset, Unreadable("line_too_long")
            pending, too_long = [], True
    if held and not too_long:
        line = b"".join(pending)
        yield offset, line.removeprefix(_BOM) if offset == 0 else line


def without_nulls(value: Any) -> Any:
    """A struct column gives every row every key; those a row does not have are null there."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value
