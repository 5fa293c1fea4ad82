"""Parquet files on a store, read with few and large requests; bounds on the memory that a row group may take."""

import gc
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymill.cluster.errors import DataError
from raymill.cluster.parquet_pages import HEADER_BYTES, chunk_range, page_header, verify_pages
from raymill.cluster.store.object_files import PartsFile
from raymill.cluster.store.store import Store

# The footer of 6,000 row groups with 100 columns. In memory it takes some 20 times its bytes.
_LARGEST_FOOTER = 64 << 20
_COLLECTED_FOOTER = 1 << 20
_TAIL_BYTES = 8  # the footer's size and PAR1

# Raymill writes row groups of 16 MiB, or of one long row. A row group of a run is refused if its decoded size is over
# _LARGEST_GROUP bytes and over LARGEST_RATIO times its bytes in the file.
_LARGEST_GROUP = 256 << 20
LARGEST_RATIO = 1000
_LEAST_VALUE_BYTES = 8
_ROWS_AT_ONCE = 1 << 14
_BUFFER_BYTES = 1 << 16

MADE_AGAIN = ". Run the command that wrote it again: it makes missing and damaged files again."


# Ray's type of a column of pickled Python objects. Once a process has imported ray.data, to convert such a value to
# Python runs the code that its pickle names. Before that the type is unknown, and its name is in the field's metadata,
# by which a table becomes one of this type later.
PICKLED_OBJECTS = "ray.data.arrow_pickled_object"
_EXTENSION_NAME = b"ARROW:extension:name"


def refuse_pickled(schema: pa.Schema) -> None:
    """Check that no column holds pickled Python objects, also not within lists, structs, maps and dictionaries.

    Raises:
        ArrowInvalid: one does.
    """
    fields = list(schema)
    while fields:
        field = fields.pop()
        kind, stated = field.type, (field.metadata or {}).get(_EXTENSION_NAME, b"")
        if PICKLED_OBJECTS in (getattr(kind, "extension_name", ""), stated.decode(errors="replace")):
            raise pa.ArrowInvalid("a column holds pickled Python objects, which can run code when they are read")
        # Each type within once: a list has its values as a field and as `value_type`, and both double at each depth.
        if isinstance(kind, pa.BaseExtensionType):
            fields.append(pa.field("", kind.storage_type))
        elif pa.types.is_dictionary(kind):
            fields.append(pa.field("", kind.value_type))
        else:
            fields += [kind.field(number) for number in range(kind.num_fields)]


class StoredParquet(pq.ParquetFile):
    """A Parquet file on a store, read with few and large requests. Use it in a `with`.

    Raises:
        ArrowInvalid: it is not a Parquet file, or a column holds pickled Python objects.
    """

    reader: Any

    def __init__(self, store: Store, uri: str, **options: Any) -> None:
        self.file, self.uri = store.open_parts(uri), uri
        try:
            # Arrow reads and parses as much of a file as it states for its footer, and a sparse file is cheap. These
            # bytes of an object are there already.
            if (size := self.file.size()) >= _TAIL_BYTES:
                self.file.seek(size - _TAIL_BYTES)
                tail = self.file.read(_TAIL_BYTES)
                self.file.seek(0)
                footer = int.from_bytes(tail[:4], "little")
                if footer > _LARGEST_FOOTER and tail.endswith(b"PAR1"):
                    raise pa.ArrowInvalid(
                        f"its footer states {footer:,} bytes, and at most {_LARGEST_FOOTER:,} are read"
                    )
            super().__init__(self.file, pre_buffer=False, **options)
            refuse_pickled(self.schema_arrow)
        except BaseException:
            self.file.close()
            raise

    def close(self, force: bool = False) -> None:
        if self.reader is None:
            return
        is_large = self.metadata.serialized_size > _COLLECTED_FOOTER
        super().close(force)
        self.file.close()
        if is_large:
            # A footer and its schema refer to each other, so only the collector frees them, which counts few objects.
            self.reader = None
            gc.collect()

    def fetch_ahead(self, groups: Iterable[int], columns: Iterable[str] | None = None) -> None:
        """Announce the row groups that will be read, in this order, with the columns of these names (default: all).

        Their bytes are then fetched in few requests and before they are used. Nothing happens if the file is local.
        """
        if isinstance(self.file, PartsFile):
            names = self.schema_arrow.names if columns is None else list(columns)
            self.file.parts.will_read(
                [[chunk_range(chunk) for chunk in self.column_chunks(group, names)] for group in groups]
            )

    def read_row_group(self, i: int, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """A row group, as of `pq.ParquetFile`.

        Raises:
            DataError: decoded, it takes far more memory than any that Raymill writes (`Output.row_group_bytes`), as a
                few kB can state that a long text is repeated a million times.
        """
        chunks = self.column_chunks(i, self.schema_arrow.names if columns is None else columns)
        stated = sum(max(one.total_uncompressed_size, _LEAST_VALUE_BYTES * one.num_values) for one in chunks)
        if stated > max(_LARGEST_GROUP, LARGEST_RATIO * sum(one.total_compressed_size for one in chunks)):
            raise self.too_large(i)
        if self.metadata.row_group(i).num_rows:  # else pages need not be where the footer states them

            def wrong_page(problem: str) -> DataError:
                seen = "a page is damaged, or has more values or bytes than the footer states"
                return DataError(f"{self.uri}: row group {i}: {seen}{MADE_AGAIN}")

            verify_pages(self.file, chunks, max(stated, _LARGEST_GROUP), wrong_page)
        strings = [(one, self._repeatable(one)) for one in chunks if one.physical_type == "BYTE_ARRAY"]
        if stated + sum(one.num_values * most for one, most in strings) <= _LARGEST_GROUP:
            return super().read_row_group(i, columns=columns, **options)
        if any("DELTA_BYTE_ARRAY" in one.encodings for one, _ in strings):  # Raymill writes none
            raise self.too_large(i)
        source: pa.NativeFile = self.file
        if isinstance(source, PartsFile):  # two readers would take two requests for each part
            source = pa.PythonFile(_HeldRanges(source, [chunk_range(one) for one in chunks]), "r")
        if self._string_bytes(source, i, [one for one, most in strings if most]) > max(_LARGEST_GROUP, 4 * stated):
            raise self.too_large(i)
        if source is self.file:
            return super().read_row_group(i, columns=columns, **options)
        return pq.ParquetFile(source, metadata=self.metadata, pre_buffer=False).read_row_group(i, columns, **options)

    def read(self, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """The whole file, as of `pq.ParquetFile`.

        Raises:
            DataError: as of `read_row_group`, of one row group or of all together.
        """
        tables, held = [], 0
        for group in range(self.num_row_groups):
            tables.append(self.read_row_group(group, columns, **options))
            held += tables[-1].nbytes
            if held > max(_LARGEST_GROUP, LARGEST_RATIO * self.file.size()):
                raise self.too_large(group)
        return pa.concat_tables(tables) if tables else super().read(columns, **options)

    def _repeatable(self, chunk: pq.ColumnChunkMetaData) -> int:
        """Bytes that a value of a chunk has at most and takes from no other, so that rows can repeat it at no cost."""
        whole = chunk.total_uncompressed_size
        if isinstance(self.file, PartsFile):  # looking at the first page would be a request
            return 0 if chunk.dictionary_page_offset is None and "DELTA_BYTE_ARRAY" not in chunk.encodings else whole
        start, end = chunk_range(chunk)
        self.file.seek(start)
        try:
            first = page_header(self.file.read(min(HEADER_BYTES, end - start)))
        except (IndexError, ValueError):
            return whole
        return first.uncompressed if first.is_dictionary else whole if "DELTA_BYTE_ARRAY" in chunk.encodings else 0

    def _string_bytes(self, source: pa.NativeFile, group: int, strings: Sequence[pq.ColumnChunkMetaData]) -> int:
        """Bytes of the strings of a row group; no more, if even its longest string in every row were not too much.

        They are read as dictionaries, which takes no more memory than the pages have; often one page of each is enough.
        """
        paths_ = [one.path_in_schema for one in strings]
        names = list(dict.fromkeys(path.partition(".")[0] for path in paths_))
        opened = pq.ParquetFile(
            source, metadata=self.metadata, read_dictionary=paths_, pre_buffer=False, buffer_size=_BUFFER_BYTES
        )
        first = next(opened.iter_batches(1, [group], names, use_threads=False), None)
        longest = 0 if first is None else sum(map(_longest_value, first.columns))
        if (most := longest * max(one.num_values for one in strings)) <= _LARGEST_GROUP:
            return most
        return sum(
            sum(map(_string_bytes, batch.columns))
            for batch in opened.iter_batches(_ROWS_AT_ONCE, [group], names, use_threads=False)
        )

    def too_large(self, group: int) -> DataError:
        """The error of a row group that takes too much memory, alone or with those before it."""
        return DataError(
            f"{self.uri}: row group {group} takes far more memory than its part of the file, as Raymill writes "
            f"none. It was changed after it was written{MADE_AGAIN}"
        )

    def column_chunks(self, group: int, columns: Iterable[str]) -> list[pq.ColumnChunkMetaData]:
        """The column chunks of the named top-level columns in a row group, nested ones included."""
        footer, names = self.metadata, set(columns)
        row_group = footer.row_group(group)
        leaves = [footer.schema.column(leaf).path for leaf in range(footer.num_columns)]
        return [
            row_group.column(leaf)
            for leaf, path in enumerate(leaves)
            if path in names or any(path.startswith(f"{name}.") for name in names)
        ]


class _HeldRanges:
    """Ranges of a file, read once, as a file of Python. Its other bytes are not there."""

    closed = False

    def __init__(self, file: pa.NativeFile, ranges: Iterable[tuple[int, int]]) -> None:
        self._size, self._at, self._held = file.size(), 0, list[tuple[int, bytes]]()
        for start, end in ranges:
            file.seek(start)
            self._held.append((start, file.read(end - start)))

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        for start, data in self._held:
            if start <= self._at < start + len(data):
                found = data[self._at - start :][:size]
                self._at += len(found)
                return found
        return b""

    def close(self) -> None: ...


def _longest_value(array: pa.Array) -> int:
    """Bytes of the longest string in the dictionaries of an array, whether or not a row has it."""
    if pa.types.is_dictionary(array.type):
        return pc.max(pc.binary_length(array.dictionary)).as_py() or 0
    return max(map(_longest_value, _children(array)), default=0)


def _string_bytes(array: pa.Array) -> int:
    """Bytes of the strings of an array that has them in dictionaries, each time that they occur."""
    if pa.types.is_dictionary(array.type):
        return pc.sum(pc.binary_length(array.dictionary).cast(pa.int64()).take(array.indices)).as_py() or 0
    return sum(map(_string_bytes, _children(array)))


def _children(array: pa.Array) -> list[pa.Array]:
    type = array.type
    if pa.types.is_struct(type):
        return array.flatten()
    if pa.types.is_map(type):
        return [array.keys, array.items]
    return [array.values] if pa.types.is_list(type) or pa.types.is_large_list(type) else []
