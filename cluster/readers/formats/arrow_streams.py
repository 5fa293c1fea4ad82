"""Arrow stream files, as Hugging Face `datasets` writes them: the rows before a defect, in bounded memory.

Arrow's reader decompresses a whole record batch, and believes its lengths and offsets. So it gets only messages whose
metadata were read here first, and each batch is validated before its values are used.
Format: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
"""

import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from raymill.cluster.readers.column_types import column_problem
from raymill.cluster.readers.formats.row_sizes import MIN_VALUE_BYTES, bounded_pieces
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import UnreadableRest
from raymill.cluster.stored_parquet import refuse_pickled

# Types whose values are checked by the readers, one by one -> a type of the same buffers without such a check.
_UNCHECKED = {
    pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view(),
    pa.date64(): pa.int64(), pa.time32("s"): pa.int32(), pa.time32("ms"): pa.int32(), pa.time64("us"): pa.int64(),
    pa.time64("ns"): pa.int64(),
}  # fmt: skip
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3  # kinds of messages
_MOST_ROWS = 1 << 40
_REPEATING = (  # types whose values can be repeated in the file at no cost
    pa.types.is_dictionary,
    pa.types.is_run_end_encoded,
    pa.types.is_string_view,
    pa.types.is_binary_view,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def schema_of(handle: pa.NativeFile, limits: Limits) -> pa.Schema:
    """The schema of an open Arrow stream.

    Raises:
        UnreadableRest: there is none.
    """
    return _Stream(handle, limits).schema


def record_batches(
    handle: pa.NativeFile,
    limits: Limits,
    wanted: Callable[[Sequence[str]], Sequence[str]] = list,
    counts: ReaderCounts | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of an open Arrow stream, in batches of about 8 MB of decoded values.

    Args:
        wanted: returns the columns to read, of the names that the file has. No value of the others is looked at.
        counts: gets the rows with a value of each column that is not read, and the stored bytes of a row.

    Raises:
        UnreadableRest: the file ends too early (`truncated`) or is damaged (`corrupt_batch`), a record batch or one of
            its rows is over `max_block_mib` (`large_block`), a column has a type that is not read (`column_type`), or
            the file exceeds the limits on expansion.
        OSError: the disk or the network failed.
    """
    stream = _Stream(handle, limits, wanted)
    while (batch := stream.next_batch()) is not None:
        if counts is not None:
            stream.count_unread(counts)
        yield from bounded_pieces(batch, limits)


def stated_rows(handle: pa.NativeFile, limits: Limits) -> int:
    """The rows of an Arrow stream as its messages state them, of which none is decoded; those before the first damage.

    Values of others: at most 2**40 in all.
    """
    rows, at, size = 0, 0, handle.size()
    while at < size and rows < _MOST_ROWS:
        handle.seek(at)
        start = handle.read(8)
        length, begins = (start[4:8], 8) if start[:4] == b"\xff\xff\xff\xff" else (start[:4], 4)
        metadata_bytes = int.from_bytes(length, "little", signed=True)
        if not 0 < metadata_bytes <= min(limits.block_bytes, size - at - begins):
            break
        handle.seek(at + begins)
        try:
            message = _Table.root(handle.read(metadata_bytes))
            kind, body_bytes = message.number(1, "<B"), message.number(3, "<q")
            of_batch = message.table(2).number(0, "<q") if kind == _RECORDS else 0
        except (struct.error, ValueError, IndexError):
            break
        if min(body_bytes, of_batch) < 0:
            break
        rows, at = rows + of_batch, at + begins + metadata_bytes + body_bytes
    return min(rows, _MOST_ROWS)


def whole_table(data: bytes) -> pa.Table:
    """All rows of an Arrow stream that Raymill wrote, uncompressed. Its columns refer to `data`.

    Raises:
        UnreadableRest: it is damaged, or its values take far more memory than `data`.
    """
    # Booleans take a bit each, and count as MIN_VALUE_BYTES.
    limits = Limits(max_document_bytes=1, max_block_mib=1 + (8 * MIN_VALUE_BYTES * len(data) >> 20))
    stream = _Stream(pa.BufferReader(data), limits)
    if any(check(field.type) for check in _REPEATING for field in stream.schema):
        raise UnreadableRest("large_block")
    batches = []
    while (batch := stream.next_batch()) is not None:
        batches.append(batch)
    return pa.Table.from_batches(batches, stream.schema)


class _Stream:
    """An open stream, of which Arrow's reader gets one checked message after the other.

    schema: the schema of the file. wanted: returns the columns that batches have; None: all, of any type.
    """

    closed = False  # Arrow's reader asks for it

    def __init__(
        self, handle: pa.NativeFile, limits: Limits, wanted: Callable[[Sequence[str]], Sequence[str]] | None = None
    ) -> None:
        self._handle, self._limits = handle, limits
        self._size = handle.size()
        self._checked: list[pa.Buffer] = []  # what the reader has not yet taken
        self._dictionaries: dict[int, int] = {}  # id -> decompressed bytes
        self._expanded_bytes = 0
        if self._load(_SCHEMA) is None:
            raise UnreadableRest("truncated")
        try:
            self.schema = pa.ipc.read_schema(pa.py_buffer(b"".join(self._checked)))
            refuse_pickled(self.schema)
            names = self.schema.names
            self._read = {*names} if wanted is None else {*wanted(names)}
            if wanted is not None and (refusal := column_problem(self.schema, self._read)):
                raise UnreadableRest("column_type", refusal)
            self._unread = {at: name for at, name in enumerate(names) if name not in self._read}
            # An empty list stands for all columns: to read none of them, the first one is read and left out.
            included = [at for at, name in enumerate(names) if name in self._read] or [0] * bool(names)
            self._reader = pa.ipc.open_stream(self, options=pa.ipc.IpcReadOptions(included_fields=included))
            self._nodes = np.cumsum([0, *(_nodes(field.type) for field in self.schema)]) if self._unread else None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableRest("corrupt_batch") from error

    def count_unread(self, counts: ReaderCounts) -> None:
        """Add what the last batch states of the columns that are not read."""
        lengths, nulls = self._elements.T
        rows = self._rows
        counts.row_bytes = self._body_bytes / max(rows, 1)
        if self._nodes is not None and self._nodes[-1] == len(lengths):
            for at, name in self._unread.items():
                stated = int(nulls[self._nodes[at]])
                if 0 <= stated < rows:
                    counts.unread[name] += rows - stated

    def next_batch(self) -> pa.RecordBatch | None:
        """The next record batch; None at the end."""
        while (kind := self._load(_DICTIONARY, _RECORDS)) != _RECORDS:
            if kind is None:
                return None
        try:
            batch = self._reader.read_next_batch()
            self._rows = batch.num_rows
            if not self._read:
                batch = batch.select([])
            for column in batch.columns:
                check_values(column)
        except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
            raise UnreadableRest("corrupt_batch") from error
        return batch

    def read_buffer(self, size: int) -> pa.Buffer:
        """The next bytes for Arrow's reader, without a copy; fewer than `size` at the end of what was checked."""
        if not self._checked:
            return pa.py_buffer(b"")
        first = self._checked[0]
        if size < first.size:
            self._checked[0] = first.slice(size)
            return first.slice(0, size)
        del self._checked[0]
        return first

    def read(self, size: int) -> bytes:
        """As `read_buffer`."""
        return self.read_buffer(size).to_pybytes()

    def _load(self, *kinds: int) -> int | None:
        """Read and check a message of one of the kinds. Returns its kind; None at the end of the stream."""
        at = self._handle.tell()
        self._refuse_large(sum(buffer.size for buffer in self._checked))
        start = self._handle.read(8)
        if not start or start[-4:] == bytes(4):
            return None  # some writers leave out the mark at the end
        length, begins = (start[4:8], 8) if start[:4] == b"\xff\xff\xff\xff" else (start[:4], 4)  # before Arrow 0.15
        metadata_bytes = int.from_bytes(length, "little", signed=True)
        if len(start) < 8 or metadata_bytes > self._size - at - begins:
            raise UnreadableRest("truncated")
        if metadata_bytes < 0:
            raise UnreadableRest("corrupt_batch")
        self._refuse_large(metadata_bytes)
        if begins < len(start):
            self._handle.seek(at + begins)
        metadata = self._handle.read(metadata_bytes)
        body_at = at + begins + metadata_bytes
        try:
            message = _Table.root(metadata)
            kind, body_bytes = message.number(1, "<B"), message.number(3, "<q")
            buffers, elements, is_compressed = np.zeros((0, 2), np.int64), 0, False
            if kind in (_DICTIONARY, _RECORDS):
                header = message.table(2)
                records = header.table(1) if kind == _DICTIONARY else header
                self._elements = records.pairs(1)
                buffers, elements, is_compressed = (
                    records.pairs(2),
                    sum(self._elements[:, 0].tolist()),
                    records.has(3),
                )
        except (struct.error, ValueError, IndexError) as error:
            raise UnreadableRest("corrupt_batch") from error
        if body_bytes < 0 or elements < 0 or kind not in kinds:
            raise UnreadableRest("corrupt_batch")
        if body_bytes > self._size - body_at:
            raise UnreadableRest("truncated")
        self._refuse_large(body_bytes)
        body, self._body_bytes = self._handle.read_buffer(body_bytes), body_bytes
        expanded = _expanded(buffers, body) if is_compressed else body_bytes
        expanded = max(expanded, MIN_VALUE_BYTES * elements)
        if kind == _DICTIONARY:
            dictionary = message.table(2)
            id = dictionary.number(0, "<q")
            before = self._dictionaries.get(id, 0) if dictionary.number(2, "<B") else 0  # others are replaced
            self._dictionaries[id] = before + expanded
            self._refuse_large(sum(self._dictionaries.values()))
        else:
            self._refuse_large(sum(self._dictionaries.values()) + expanded)
        self._expanded_bytes += expanded
        if self._limits.is_bomb(self._expanded_bytes, body_at + body_bytes):
            raise UnreadableRest("expansion_bomb")
        # As Arrow's reader takes them. A body of no bytes is not asked for.
        self._checked += [pa.py_buffer(start[:begins]), pa.py_buffer(metadata), *([body] if body_bytes else [])]
        return kind

    def _refuse_large(self, size: int) -> None:
        if size > self._limits.block_bytes:
            raise UnreadableRest("large_block")


def _nodes(type: pa.DataType) -> int:
    """Number of arrays that a column of the type has in a record batch, with those of its parts."""
    if isinstance(type, pa.BaseExtensionType):
        return _nodes(type.storage_type)
    if pa.types.is_dictionary(type):
        return 1
    return 1 + sum(_nodes(type.field(at).type) for at in range(type.num_fields))


def _expanded(buffers: np.ndarray, body: pa.Buffer) -> int:
    """Bytes of the decompressed buffers. Each states its own in its first eight bytes; -1: it is not compressed.

    buffers: int64[buffers, 2], offset and length of each in the body.
    """
    total = 0
    for offset, length in buffers.tolist():
        if not length:
            continue
        if length < 8 or offset < 0 or offset + length > body.size:
            raise UnreadableRest("corrupt_batch")
        stated = int.from_bytes(body.slice(offset, 8).to_pybytes(), "little", signed=True)
        if stated < -1:
            raise UnreadableRest("corrupt_batch")
        total += length if stated == -1 else stated
    return total


class _Table:
    """A table of a flatbuffer. A field is known by its number in the schema.

    Source: https://github.com/apache/arrow/blob/main/format/Message.fbs, https://flatbuffers.dev/internals
    """

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - self._unpack("<i", at)

    @classmethod
    def root(cls, data: bytes) -> "_Table":
        return cls(data, struct.unpack_from("<I", data)[0])

    def has(self, field: int) -> bool:
        return self._place(field) is not None

    def number(self, field: int, format: str) -> int:
        """The number in a field; 0 if it is left out."""
        place = self._place(field)
        return 0 if place is None else self._unpack(format, place)

    def table(self, field: int) -> "_Table":
        """The table that a field refers to."""
        return _Table(self._data, self._referred(field))

    def pairs(self, field: int) -> np.ndarray:
        """A vector of pairs of numbers: int64[length, 2]."""
        if not self.has(field):
            return np.zeros((0, 2), np.int64)
        at = self._referred(field)
        return np.frombuffer(self._data, "<i8", 2 * self._unpack("<I", at), at + 4).reshape(-1, 2)

    def _referred(self, field: int) -> int:
        place = self._place(field)
        if place is None:
            raise ValueError(f"no field {field}")
        return place + self._unpack("<I", place)

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        within = self._unpack("<H", self._fields + entry) if entry < self._unpack("<H", self._fields) else 0
        return self._at + within if within else None

    def _unpack(self, format: str, at: int) -> int:
        if at < 0:
            raise ValueError("a place before the beginning")
        return int(struct.unpack_from(format, self._data, at)[0])


def check_values(column: pa.Array) -> None:
    """Verify lengths, offsets and indices, so that no value lies outside of its buffer.

    Strings may still have bytes that are not UTF-8, and dates and times be out of range, which is a problem of their
    rows; within lists and structs it is one of the column.

    Raises:
        ArrowInvalid: they are wrong.
    """
    column.validate()
    column.view(_UNCHECKED.get(column.type, column.type)).validate(full=True)
