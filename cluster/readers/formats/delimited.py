"""CSV and TSV with a header line and quotes as in RFC 4180: a quoted field may contain line ends.

A record with a quote that is never closed is unreadable. Only its first line is given up: reading continues at the
second, so that the following records are not lost.
"""

import csv
import re
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing

from raymill.cluster.readers.formats.records import FoundValue, RecordReader
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import BLANK, ReaderCounts, Row, Unreadable
from raymill.cluster.readers.streams import (
    LINE_WORK,
    RecordWork,
    Span,
    UnreadableRest,
    encoding_problem,
    first_bytes,
    line_end_problem,
    lines,
    utf8_stream,
)
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store


class Delimited(RecordReader):
    """Records of fields that a delimiter separates, named by the header."""

    columns = "header"
    unit = "line"
    unencodable = "bad_utf8"

    def __init__(self, delimiter: str, *endings: str) -> None:
        self.delimiter = delimiter
        self.endings = endings

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """The fields of the header."""
        limits = Limits()
        span = Span(file.uri, file.size, file.version, "csv", 0, file.size)
        if input.encoding is None and self.file_problem(first_bytes(store, span, limits)):
            return ()  # `read` reports the problem
        try:
            work = RecordWork()
            with closing(utf8_stream(store, span.uri, limits, input.encoding, work)) as blocks:
                _, header, _ = next(self._records(blocks, input, limits, work), (0, None, b""))
        except UnreadableRest:
            header = None  # `read` reports the problem
        return tuple(header or ())

    def values(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None
    ) -> Generator[FoundValue, None, None]:
        """The fields of each record by name. See RecordReader."""
        work = RecordWork()
        with closing(utf8_stream(store, span.uri, limits, input.encoding, work)) as blocks:
            records = self._records(blocks, input, limits, work)
            number, header, content = next(records, (0, None, b""))
            if number:
                yield f"line {number}", content, BLANK if header else Unreadable("broken_csv")
            for number, record, content in records:
                value: Row | Unreadable = Unreadable("broken_csv")
                if record is not None and header is not None and len(record) == len(header):
                    value = dict(zip(header, record, strict=True))
                    if record[-1] == header[-1] and [record[0].removeprefix("\ufeff"), *record[1:]] == header:
                        value = Unreadable("repeated_header")
                    elif input.text not in value:
                        value = Unreadable("missing_text")
                yield f"line {number}", content, value
        if number == 1 and header and self.file(store, span, input, limits).or_row_problem(""):
            yield "line 1", content, Unreadable("broken_csv")  # the header holds the whole file

    def file_problem(self, head: bytes) -> str | None:
        """Another encoding or other line ends."""
        return encoding_problem(head) or line_end_problem(head)

    def _records(
        self, blocks: Iterator[bytes], input: Input, limits: Limits, work: RecordWork
    ) -> Iterator[tuple[int, list[str] | None, bytes]]:
        """(number of the record's first line, its fields, its lines); of an unreadable one None and its first line.

        Empty lines are skipped.
        """
        csv.field_size_limit(1 << 30)  # process-wide, 128 KiB by default; _RecordLines bounds the record
        record_lines = _RecordLines(blocks, limits.max_line_bytes, work)
        declared = record_lines.declared_delimiter()
        delimiter = input.delimiter or declared or self.delimiter
        while True:
            parser = csv.reader(record_lines, delimiter=delimiter, strict=True)
            broken = False
            while not broken:
                number = record_lines.begin_record()
                try:
                    record = next(parser)
                except StopIteration:
                    return
                except (csv.Error, _TooLong):
                    broken = True
                    record_lines.give_back_all_but_first()
                    yield number, None, record_lines.first_line
                else:
                    if record:
                        yield number, record, record_lines.content


_DECLARED = re.compile(rb'"?sep=([\t -/:-@|^~])"?\r?', re.IGNORECASE)

# Memory of a line besides its text; with it a million empty lines inside quotes exceed the bound too.
_LINE_BYTES = 32
# To find the records behind a quote that is never closed, lines are read again: 1 MiB, and this many times the file.
# Others are records by themselves, or a file in which every line opens a quote would be read once for each line.
_TIMES_READ_AGAIN = 4


class _TooLong(Exception):
    """The record is larger than the bound."""


class _RecordLines:
    """Iterator of lines for csv.reader. Keeps the lines of the current record, so that they can be read again."""

    def __init__(self, blocks: Iterator[bytes], max_bytes: int, work: RecordWork) -> None:
        self._lines = lines(blocks, max_bytes)
        self._max_bytes = max_bytes
        self._work = work
        self._again: deque[bytes | None] = deque()
        self._record: list[bytes | None] = []
        self._record_bytes = 0
        self._number = 0
        self._again_bytes, self._most_again_bytes = 0, 1 << 20

    def declared_delimiter(self) -> str | None:
        """The delimiter of a first line `sep=;`, which Excel reads and no other line has; this line is passed over."""
        _, line = next(self._lines, (0, b""))
        if found := _DECLARED.fullmatch(line or b""):
            self._number += 1
            return found[1].decode("latin-1")
        self._again.append(line)
        return None

    def begin_record(self) -> int:
        """Start a record. Returns the number of its first line, from 1."""
        self._record, self._record_bytes = [], 0
        return self._number + 1

    @property
    def first_line(self) -> bytes:
        """The first line of the current record; empty if it is over the bound."""
        return self._record[0] or b""

    @property
    def content(self) -> bytes:
        """The lines of the current record, all within the bound. Of one line it is no copy."""
        return b"\n".join(line or b"" for line in self._record) if len(self._record) > 1 else self.first_line

    def give_back_all_but_first(self) -> None:
        """Make all lines of the current record but the first the next ones to read."""
        self._again.extendleft(reversed(self._record[1:]))
        self._number -= len(self._record[1:])

    def __iter__(self) -> "_RecordLines":
        return self

    def __next__(self) -> str:
        if self._again:
            if self._record and self._again_bytes > self._most_again_bytes:
                raise _TooLong
            line = self._again.popleft()
            self._again_bytes += len(line or b"") + _LINE_BYTES
        else:
            line = next(self._lines)[1]
            self._work.bytes += LINE_WORK
            self._most_again_bytes += _TIMES_READ_AGAIN * (len(line or b"") + _LINE_BYTES)
        self._number += 1
        self._record.append(line)
        self._record_bytes += len(line or b"") + _LINE_BYTES
        if line is None or self._record_bytes > self._max_bytes:
            raise _TooLong
        # Rows.add finds the bytes that are not UTF-8 by their surrogates.
        return line.decode(errors="surrogateescape") + "\n"
