"""Formats whose records have named fields: JSON Lines, JSON files, and what `prepare` fetched; base of CSV and TSV too.

JSON Lines has one object a line. Uncompressed files are divided into byte ranges, compressed files are not. JSON files
have objects in arrays, or one after the other, over any number of lines; they are read only with `format: json`, since
files named .json usually hold settings. Memory: one object, and what was read ahead of it.

Speed of JSON Lines: 200 to 400 MB/s with Python's json on each line. pyarrow's block reader is up to three times as
fast, but rejects a whole block for one unreadable line, and columns whose type changes.
"""

import codecs
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa

from raymill.cluster.artifact import open_parquet
from raymill.cluster.errors import DataError
from raymill.cluster.readers.inputs import COLLECTED_AT, Input, Limits
from raymill.cluster.readers.reader import (
    BLANK,
    DeepJson,
    FilePieces,
    Reader,
    ReaderCounts,
    Row,
    Rows,
    Unreadable,
    as_json_text,
)
from raymill.cluster.readers.streams import (
    LINE_WORK,
    FileProblem,
    RecordWork,
    Span,
    UnreadableRest,
    compression_ending,
    encoding_problem,
    json_array_problem,
    line_end_problem,
    pointer_problem,
    span_lines,
    utf8_stream,
)
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

# (place in the file, the record in UTF-8, its value: a dict of its fields, or something else that is no record)
FoundValue = tuple[str, bytes | None, Any]
Decode = Callable[[str], Any]

_PEEKED = 100  # records whose keys are the columns of a file
_MISSING = object()

_PARSER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,]*")
_LEAST_READ = 1 << 16  # characters before a value is tried again
_TOKEN_CHARS = 16  # more than those of -Infinity and of an escaped pair of surrogates
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|["\[\]{}]', re.DOTALL)

FETCHED_SCHEMA = pa.schema(
    [
        ("record", pa.large_string()),  # a JSON object; where there is a problem what was received, or null
        ("problem", pa.string()),  # a key of reader.PROBLEMS
        ("where", pa.string()),  # the request
        ("collected_at", pa.string()),  # when the answer was received, UTC in ISO 8601
    ]
)


class RecordReader(Reader):
    """A document is a record with its text, id and carried columns as fields. A subclass implements `values`.

    unit: what has a value, in places. unencodable: the problem of a record with surrogates.
    """

    unit: str
    unencodable: str = "lone_surrogate"

    def values(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None
    ) -> Generator[FoundValue, None, None]:
        """The records that begin in a span, and what is none: an Unreadable, BLANK for what is passed over.

        counts: repeated keys are counted; None: they are not.

        Raises:
            UnreadableRest: the rest of the file cannot be read.
        """
        raise NotImplementedError

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """A document for each record that begins in the span."""
        file = self.file(store, span, input, limits)
        rows = Rows(input, limits, counts, unencodable=lambda: file.or_row_problem(self.unencodable))
        place = f"{self.unit} 0"
        try:
            with closing(self.values(store, span, input, limits, counts)) as values:
                for place, content, value in values:
                    if isinstance(value, dict):
                        add_object(rows, value, f"{span.uri} {place}", input, content)
                    elif problem := _problem(file, content, value):
                        rows.refuse(problem, f"{span.uri} {place}", content=content)
                    if rows.full:
                        yield rows.table()
        except BrokenRest as broken:
            rest = broken.rest.encode("utf-8", "surrogateescape")
            value = Unreadable("long_line" if broken.problem == "too_large" else broken.problem)
            if problem := _problem(file, rest, value):
                rows.refuse(problem, f"{span.uri} after {place}", content=rest)
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after {place}")
        if len(rows):
            yield rows.table()

    def rows(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None = None
    ) -> Iterator[tuple[Row | Unreadable, str]]:
        """The records of a span, with all fields. See Reader."""
        file = self.file(store, span, input, limits)
        with closing(self.values(store, span, input, limits, None)) as values:
            for place, content, value in values:
                if isinstance(value, dict):
                    yield value, f"{span.uri} {place}"
                elif problem := _problem(file, content, value):
                    yield Unreadable(problem), f"{span.uri} {place}"

    def file(self, store: Store, span: Span, input: Input, limits: Limits) -> FileProblem:
        """The problem of a span's file as a whole; none if the input states an encoding."""
        return FileProblem(store, span, limits, self.file_problem if input.encoding is None else lambda _: None)


def _problem(file: FileProblem, content: bytes | None, value: Any) -> str | None:
    """Why a value is no record; None if it is passed over."""
    if value is BLANK or (content is not None and file.is_blank(content)):
        return None
    return file.or_row_problem(value if isinstance(value, Unreadable) else "not_an_object")


def add_object(rows: Rows, record: dict[str, Any], where: str, input: Input, content: str | bytes | None) -> None:
    """Add a JSON object as a document, or its problem. where: its place. content: the JSON that it was read from."""
    id = record.get(input.id) if input.id is not None else None
    try:
        carried = [as_json_text(record.get(name)) for name in input.columns]
    except RecursionError:
        rows.refuse("too_deep", where, None, (), content)
        return
    text = record.get(input.text, _MISSING)
    if (text is None or text is _MISSING) and (other := input.instead.get(input.text)):
        text = record.get(other, text)
    if input.nested_text and isinstance(text, list | dict):
        text = as_json_text(text)
    if not isinstance(text, str):
        problem = "missing_text" if text is _MISSING else "null_text" if text is None else "not_a_string"
        rows.refuse(problem, where, None, carried, content)
    elif id is None or isinstance(id, str):
        rows.add(text, where, id, carried, content)
    elif isinstance(id, int) and not isinstance(id, bool):
        rows.add(text, where, str(id), carried, content)
    else:
        rows.refuse("bad_id", where, None, carried, content)


# ---- JSON Lines and JSON files ----


class JsonObjects(RecordReader):
    """Base of both JSON formats. Objects may have different keys. A subclass implements `values`."""

    columns = "open"

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Every key of the first 100 objects."""
        names: dict[str, None] = {}
        span = Span(file.uri, file.size, file.version, "", 0, file.size)
        with closing(self.values(store, span, input, Limits(), None)) as values, suppress(UnreadableRest):
            for _, _, value in islice(values, _PEEKED):  # `read` reports problems
                if isinstance(value, dict):
                    names |= dict.fromkeys(value)
        return tuple(names)

    def file_problem(self, head: bytes) -> str | None:
        """Another encoding, or a Git LFS pointer."""
        return encoding_problem(head) or pointer_problem(head)


class Jsonl(JsonObjects):
    """A document is a line."""

    endings = (".jsonl", ".ndjson", ".json-lines")
    compressed_endings = (".json",)  # as C4 and Dolma name their files; others named .json usually hold one value
    unit = "line"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """One piece, which may be divided between any two bytes unless the file is compressed."""
        return replace(super().cut(store, file, input), divisible=not (compression_ending(file.uri) or input.encoding))

    def values(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None
    ) -> Generator[FoundValue, None, None]:
        """The value of each line that begins in the span."""
        parser = _PARSER if counts is None else _Parser(counts)
        for place, line in span_lines(store, span, limits, input.encoding):
            yield place, line, Unreadable("long_line") if line is None else json_value(line, parser.decode)

    def file_problem(self, head: bytes) -> str | None:
        """Another encoding, other line ends, one JSON array, or a Git LFS pointer."""
        return super().file_problem(head) or line_end_problem(head) or json_array_problem(head)


class _Parser(json.JSONDecoder):
    """Counts JSON texts in which an object has a repeated key."""

    def __init__(self, counts: ReaderCounts) -> None:
        self._counts = counts
        self._repeats = repeats = list[int]()  # one entry for each such object; faster in a closure than an attribute

        def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) != len(pairs):
                repeats.append(1)
            return found

        super().__init__(object_pairs_hook=as_dict)

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """(value, its end), as in JSONDecoder, whose `decode` calls it."""
        self._repeats.clear()
        found = super().raw_decode(s, idx)
        if self._repeats:
            self._counts.repeated_keys += 1
        return found


class JsonValues(JsonObjects):
    """A document is an object. What follows a value that is not JSON is lost, and has one row."""

    stated_endings = (".json",)
    unit = "value"

    def values(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None
    ) -> Generator[FoundValue, None, None]:
        """Each value of the arrays, or of the file. Raises BrokenRest at what is no JSON."""
        parser = _PARSER if counts is None else _Parser(counts)
        work = RecordWork()
        with closing(utf8_stream(store, span.uri, limits, input.encoding, work)) as blocks:
            for number, (value, text) in enumerate(json_values(blocks, limits.max_line_bytes, parser), 1):
                work.bytes += LINE_WORK
                yield f"value {number}", text.encode("utf-8", "surrogateescape"), value


class BrokenRest(UnreadableRest):
    """rest: the text that is no JSON value."""

    def __init__(self, problem: str, rest: str) -> None:
        super().__init__(problem)
        self.rest = rest


def json_values(
    blocks: Iterable[bytes], max_chars: int, parser: json.JSONDecoder = _PARSER
) -> Iterator[tuple[Any, str]]:
    """(value, its text) of each value of an array, and of each value that is in no array.

    A file may have several arrays, one after the other, as concatenated files have. The value is an Unreadable if its
    text is not UTF-8. In an object, values of keys can be DeepJson.

    Raises:
        UnreadableRest: a text is no value (`broken_json`), a value is too large, or the file is damaged.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    waiting = iter(blocks)
    held, at, is_last, in_array = "", 0, False, False

    def more(least: int) -> None:
        nonlocal held, at, is_last
        pieces, size = [held[at:]], len(held) - at
        while size < least and not is_last:
            block = next(waiting, None)
            is_last = block is None
            pieces.append(decoder.decode(block or b"", final=is_last))
            size += len(pieces[-1])
        held, at = "".join(pieces), 0

    more(_LEAST_READ)
    held = held.removeprefix("\ufeff")
    while True:
        at = _BETWEEN.match(held, at).end()  # type: ignore[union-attr]  # it may be empty
        if at == len(held) and not is_last:
            more(_LEAST_READ)
            continue
        if at == len(held):
            if in_array:
                raise UnreadableRest("truncated")
            return
        if held[at] == ("]" if in_array else "["):
            in_array, at = not in_array, at + 1
            continue
        try:
            try:
                value, end = parser.raw_decode(held, at)
            except RecursionError:
                if (end := end_of_value(held, at)) < 0:
                    raise json.JSONDecodeError("the value has no end", held, len(held)) from None
                value = json_value(held[at:end].encode("utf-8", "surrogateescape"), parser.decode)
        except ValueError as error:
            # Whether the decoder failed where the text ends, rather than at a defect before.
            is_cut_off = isinstance(error, json.JSONDecodeError) and (
                error.msg.startswith("Unterminated string") or error.pos > len(held) - _TOKEN_CHARS
            )
            if is_last or not is_cut_off:
                raise BrokenRest("broken_json", held[at:]) from error
            if (size := len(held) - at) > max_chars:
                raise BrokenRest("too_large", held[at : at + max_chars]) from error
            more(max(2 * size, _LEAST_READ))
            continue
        if len(held) - end < _TOKEN_CHARS and not is_last and held[end - 1] not in ']}"':  # a number may go on
            more(max(2 * (len(held) - at), _LEAST_READ))
            continue
        text = held[at:end]
        try:
            text.encode()
        except UnicodeEncodeError:  # a byte that was not UTF-8
            value = Unreadable("bad_utf8")
        yield value, text
        at = end


def json_value(line: bytes, decode: Decode = _PARSER.decode) -> Any:
    """The JSON value of a line in UTF-8, or an Unreadable. In an object, values of keys can be DeepJson.

    decode: the `decode` of a JSONDecoder with hooks.
    """
    if not line or line.isspace():
        return BLANK
    try:
        text = line.decode()
        try:
            return decode(text)
        except RecursionError:
            return _object_with_deep_values(text, decode)
    except UnicodeDecodeError:
        return Unreadable("bad_utf8")
    except ValueError:
        return Unreadable("broken_json")


def end_of_value(text: str, start: int) -> int:
    """Where the object or array that begins at `start` ends; -1 if it does not end within the text."""
    depth = 0
    for token in _BRACKET.finditer(text, start):
        if token[0] == '"':  # a string without its end
            return -1
        depth += (token[0] in ("{", "[")) - (token[0] in ("}", "]"))
        if not depth:
            return token.end()
    return -1


def _object_with_deep_values(text: str, decode: Decode) -> dict[str, Any]:
    """The object of a line, member by member. Brackets of values that are too deep for the decoder are only counted.

    Raises:
        ValueError: the text is no object, or broken.
    """
    found: dict[str, Any] = {}
    depth = start = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in ("{", "["):
            depth += 1
            if depth == 1:
                start = token.end()
                if sign == "[" or text[: token.start()].strip():
                    raise ValueError("not an object")
        elif sign in ("}", "]", ","):
            if depth == 1:
                found |= _member(text[start : token.start()], decode)
                start = token.end()
            depth -= sign != ","
            if depth == 0 and text[token.end() :].strip():
                raise ValueError("more than an object")
    if depth:
        raise ValueError("the object has no end")
    return found


def _member(text: str, decode: Decode) -> dict[str, Any]:
    """A key and its value, `"key": value`."""
    try:
        return decode(f"{{{text}}}")
    except RecursionError:
        key = _TOKEN.match(text := text.strip())
        value = text[key.end() :].lstrip() if key else ""
        if key is None or not value.startswith(":"):
            raise ValueError("a value without a key") from None
        return {json.loads(key[0]): DeepJson(value[1:].strip())}


# ---- fetched ----


class Fetched(Reader):
    """A document is an object with its text, id and carried columns as values. A row group is the smallest piece."""

    endings = ()
    compressible = False
    columns = "open"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """A piece for each row group with rows.

        Raises:
            DataError: the file was damaged, or is of another program.
        """
        with open_parquet(store, file.uri) as opened:
            footer = opened.metadata
            _refuse_others(opened.schema_arrow, file)
        groups = (footer.row_group(number) for number in range(footer.num_row_groups))
        pieces = [(number, number + 1, one.total_byte_size) for number, one in enumerate(groups) if one.num_rows]
        return FilePieces(tuple(pieces), footer.num_rows)

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Every key of the first 100 objects.

        Raises:
            DataError: the file is of another program.
        """
        with open_parquet(store, file.uri) as opened:
            _refuse_others(opened.schema_arrow, file)
            if not opened.num_row_groups:
                return ()
            rows = opened.read_row_group(0, columns=["record", "problem"], use_threads=False).to_pylist()
        records = (row["record"] for row in rows if row["problem"] is None)
        names = (name for record in islice(records, _PEEKED) for name in json.loads(record))
        return tuple(dict.fromkeys(names))

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """Tables of the span's row groups, with the column `COLLECTED_AT` of inputs.py besides the usual ones."""
        with open_parquet(store, span.uri) as opened:
            opened.fetch_ahead(range(span.start, span.end), FETCHED_SCHEMA.names)
            for group in range(span.start, span.end):
                found = opened.read_row_group(group, columns=FETCHED_SCHEMA.names, use_threads=False)
                rows = Rows(input, limits, counts)
                for row in found.to_pylist():
                    if row["problem"] is None:
                        add_object(rows, json.loads(row["record"]), row["where"], input, row["record"])
                    else:
                        rows.refuse(row["problem"], row["where"], content=row["record"])
                yield rows.table().append_column(COLLECTED_AT, found["collected_at"])


def _refuse_others(schema: pa.Schema, file: FileInfo) -> None:
    if schema.names != FETCHED_SCHEMA.names:
        raise DataError(f"{file.uri}: not a file that `raymill prepare` fetched. Leave `format` out.")
