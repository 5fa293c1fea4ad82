"""The interface of a reader, and the tables of documents that readers return.

A reader returns tables with these columns, then the input's carried columns in any type, and ORIGINS of inputs.py if it
has them:

    id       string        null if the input has none, or an empty one
    text     large_string  null if there is a problem, and where it was not extracted (`Input.unwanted`)
    problem  string        null if the row is readable, else a key of PROBLEMS
    where    string        its place: the URI with line, byte, row or record; null if the row has a text, but for
                           readers with `leaves_out`

Every document of the file has a row, readable or not, in the order of the file. An unreadable row does not affect
others. Errors of the store (network, permissions) are raised, because a retry may succeed.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.guard import Exceeded
from raymill.cluster.readers.column_types import BAD_VALUE, invalid_texts, is_known_zone, value_problems
from raymill.cluster.readers.inputs import CONTENT, CUT, PARENTS, Cut, Input, Limits
from raymill.cluster.readers.streams import PROBLEMS_OF_WHOLE_FILES, Span, expanded_size
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

TABLE_BYTES = 8 << 20
Row = dict[str, Any]  # column -> value
_ROWS_AT_ONCE = 4096  # as Python objects
CONTENT_CHARACTERS = 10_000  # that are kept of a row that cannot be read

_IN_THE_CONFIG = {
    "utf16": ", or set `encoding: utf-16` in the input",
    "utf32": ", or set `encoding: utf-32` in the input",
    "other_encoding": ", or set `encoding: windows-1252`, or the one that it has, in the input",
    "json_array": ", or set `format: json` in the input",
}

PLUGIN_ERROR = "plugin_error"

PROBLEMS = {
    "bad_utf8": "bytes that are not UTF-8",
    "lone_surrogate": "half of a UTF-16 surrogate pair, which UTF-8 cannot hold",
    "broken_json": "not JSON",
    "not_an_object": "JSON, but no object with fields",
    **{problem: f"{text}{_IN_THE_CONFIG.get(problem, '')}" for problem, text in PROBLEMS_OF_WHOLE_FILES.items()},
    "wrong_encoding": "bytes that no character of the input's `encoding` begins with; the rest of the file is lost",
    "broken_csv": "wrong number of fields, or quotes that do not match",
    "repeated_header": "the header line once more, as files joined with `cat` have it",
    "missing_text": "no text field",
    "null_text": "the text is null",
    "not_a_string": "the text is a number, a list or an object",
    "bad_id": "the id is neither a string nor a whole number",
    "too_large": "the text or a carried value is over max_document_bytes, the text takes too much memory to extract, "
    "or its sections would repeat over 64 MiB of metadata and ids",
    "too_slow": "its text takes more processor time to extract than document_s allows for its size",
    "long_line": "the line or JSON value is over 64 MiB and three times max_document_bytes; raise that, or leave out "
    "large keys",
    BAD_VALUE: "a date, time or duration is out of range: dates have the years 1 to 9999, times are below 24 hours",
    "column_type": "a column that is read has a type that is not supported; write it with another one",
    "too_deep": "a value of `columns` is nested too deeply to be written as text",
    "truncated": "the file ends too early; the rest is lost",
    "corrupt_compression": "the compressed data is damaged; the rest of the file is lost",
    "empty_members": "over 1,000 members or frames without content one after the other, as no program writes them; the "
    "rest of the file is left unread",
    "expansion_bomb": "over max_expansion_ratio, in which each line counts as 100 bytes more, or max_expanded_gib; the "
    "rest of the file is left unread",
    "large_block": "a zstd window, Arrow record batch or Parquet page over max_block_mib; raise that, or write the "
    "file with smaller ones; the rest of the file, or row group, is left unread",
    "corrupt_batch": "the Arrow data is damaged; the rest of the file is lost",
    "corrupt_page": "the Parquet data is damaged; the rest of the row group is lost",
    "bad_warc_record": "not a record of a web archive",
    "bad_http_response": "the recorded HTTP response is damaged",
    "unknown_encoding": "the recorded HTTP response is compressed in another way than gzip, deflate, br and zstd, or "
    "over 5 times",
    "failed_extraction": "the HTML could not be parsed",
    "bounded_extraction": "the HTML has too many nested elements, tags, attributes of a tag or options of a list, and "
    "is not parsed",
    "empty_extraction": "no main content was found in the HTML",
    "no_cues": "no line with the times of a cue, as `00:01.000 --> 00:02.500`, and no JSON with a list of turns",
    "bad_message": "the e-mail message cannot be parsed, or has no header",
    "no_new_text": "the messages have no text besides quotes and signatures",
    "automatic_message": "all messages are automatic replies (Auto-Submitted, X-Autoreply, Precedence)",
    "encrypted": "the file needs a password; save it without one",
    "damaged_file": "the PDF or Word file is damaged; save it again with the program that made it",
    "old_word_file": "the file is of Word before 2007; convert it, as `soffice --convert-to docx` does",
    "http_error": "the server answered with an error, or led to too many other addresses",
    "unreachable": "the server did not answer, or not to the end",
    "private_address": "an address of this machine or of a private network, which is not allowed",
    "robots_forbid": "robots.txt of the server forbids the page, or cannot be read",
    "not_a_page": "the answer is neither HTML nor plain text",
    PLUGIN_ERROR: "a rule, reader or form of your own raised an exception on it; correct the code",
    "no_text": "the PDF or Word file has no text, only pictures; recognise their text first, as `ocrmypdf` does",
}


def what_to_correct(problems: Iterable[str]) -> str:
    """What to do about documents with these problems, to begin a sentence: the fault may be in the user's code."""
    of_code = {problem == PLUGIN_ERROR for problem in problems}
    if of_code == {True}:
        return "Correct the code of the rule, reader or form"
    return "Correct the input, and the code of the rule, reader or form" if True in of_code else "Fix the input"


# KeyError: of pytz, where it is installed, for a zone that it does not have.
_NOT_OF_PYTHON = (ValueError, KeyError, OverflowError, pa.ArrowException)


class Unreadable(str):
    """The reason why a record has no value, in place of the value, such as blank, long_line, bad_utf8, broken_json."""


BLANK = Unreadable("blank")


@dataclass(frozen=True, slots=True)
class DeepJson:
    """A value that is nested too deeply for Python's decoder. text: its JSON."""

    text: str


@dataclass
class ReaderCounts:
    """Counts of a reader besides its rows.

    skipped: reason -> number of records and files that are not documents, such as redirects in an archive.
    records: records of archives, those that are not documents included.
    repeated_keys: records in which a key is repeated; the last value is used.
    notes: what a reader leaves out of documents, or what they lack -> number; the two make a sentence.
    lost: problem -> rows lost behind an unreadable row, besides that row; only where their number is known.
    unread: of columns that are not read, rows with a value; only of `rows` of formats that state it with their rows.
    row_bytes: mean stored bytes of the rows that are being read, with all columns; 0 if it is not known.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    records: int = 0
    repeated_keys: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    row_bytes: float = 0.0

    def add(self, other: "ReaderCounts") -> None:
        """Add the counts of another reader."""
        self.skipped.update(other.skipped)
        self.records += other.records
        self.repeated_keys += other.repeated_keys
        self.notes.update(other.notes)
        self.lost.update(other.lost)
        self.unread.update(other.unread)


@dataclass(frozen=True, slots=True)
class FilePieces:
    """The pieces into which a file can be divided.

    pieces: (start, end, estimated text bytes), in order; empty if there is nothing to read. start and end: see Span.
    rows, schema: number of rows and schema of the file, if the format has them in its footer or header.
    divisible: whether a piece may be divided further, between any two of its bytes.
    rows_of_pieces: number of rows of each piece, if a piece may be divided between its rows, at a cost: whoever reads
        rows decodes those before them.
    """

    pieces: tuple[tuple[int, int, int], ...]
    rows: int | None = None
    schema: pa.Schema | None = None
    divisible: bool = False
    rows_of_pieces: tuple[int, ...] = ()


class Reader:
    """A format. A subclass implements `read`, and `cut` if a file can be read from its middle.

    endings: endings of file names, lower case, with the dot.
    stated_endings: endings of further files in a folder, which are read only if `format` names this one.
    compressible: whether .gz, .zst, .bz2 or .lz4 may follow the ending.
    compressed_endings: endings of this format only if .gz, .zst, .bz2 or .lz4 follows.
    columns: how the columns are found before the file is read:
        typed    `cut` returns a schema
        header   `columns_of` returns all of them
        open     `columns_of` returns those of the first records; others may have more
        fixed    `columns_of` returns all of them, the same for every file; the text is not one of them
    own_id: the fixed column that is the document's id if the input's `id` is a column of other formats.
    extracts: whether extracting a text costs more than storing it; then texts that are needed again are stored.
    leaves_out: whether texts are not extracted of documents that `Input.unwanted` names.
    """

    endings: tuple[str, ...] = ()
    stated_endings: tuple[str, ...] = ()
    compressible: bool = True
    compressed_endings: tuple[str, ...] = ()
    columns: Literal["typed", "header", "open", "fixed"]
    own_id: str = ""
    extracts: bool = False
    leaves_out: bool = False

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """The pieces of a file; by default one.

        Raises:
            DataError: the file does not have this format.
        """
        return FilePieces(((0, file.size, expanded_size(file.size, file.uri)),) if file.size else ())

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Column names at the beginning of the file; empty if they cannot be read."""
        return ()

    def column_names(self, store: Store, file: FileInfo, input: Input) -> Sequence[str]:
        """All columns of the file, as far as its beginning shows them; empty if they cannot be read."""
        if self.columns == "typed":
            schema = self.cut(store, file, input).schema
            return () if schema is None else schema.names
        names = self.columns_of(store, file, input)
        return (*names, "text") if self.columns == "fixed" else names

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """Tables of the documents in the span. Adds to `counts`."""
        raise NotImplementedError

    def rows(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None = None
    ) -> Iterator[tuple[Row | Unreadable, str]]:
        """(a record of the span, or the problem for which it cannot be read; its place), in order.

        Values have the types of the file. By default they are the text and the carried columns of `read`.

        counts: a reader may add to it what it states of columns that are not read.

        Raises:
            UnreadableRest: the rest of the span cannot be read.
        """
        number = 0
        for table in self.read(store, span, input, limits, ReaderCounts()):
            for row in table.to_pylist():
                number += 1
                if row["problem"] is None:
                    values = {name: row[name] for name in input.columns}
                    yield {input.text: row["text"], **values}, f"{span.uri} record {number}"
                else:
                    yield Unreadable(row["problem"]), row["where"]

    def extraction(self, input: Input) -> list[Any] | None:
        """What extracted texts depend on besides the file, as JSON values for fingerprints; None if on nothing."""
        return None

    def file_problem(self, head: bytes) -> str | None:
        """The key of PROBLEMS_OF_WHOLE_FILES that the first bytes of a file show, None if they show none."""
        return None


class Rows:
    """Collects documents one by one; `table()` returns them as a table and removes them from here.

    unencodable: returns the problem of a document that contains surrogates. places: whether readable rows have one.
    pages: number of HTML pages that were added (web_pages.py).
    """

    def __init__(
        self,
        input: Input,
        limits: Limits,
        counts: ReaderCounts,
        unencodable: Callable[[], str] = lambda: "lone_surrogate",
        places: bool = False,
    ) -> None:
        self._skipped = counts.skipped
        self.notes = counts.notes
        self.input = input
        self.limits = limits
        self._unencodable = unencodable
        self._places = places
        self.pages = 0
        self._clear()

    def _clear(self) -> None:
        self._ids: list[str | None] = []
        self._texts: list[bytes | None] = []
        self._problems: list[str | None] = []
        self._where: list[str | None] = []
        self._carried: list[Sequence[str | None]] = []
        self._content: dict[int, str] = {}  # by row, as are the parents
        self._parents: dict[int, str] = {}
        self._cut: dict[int, str] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def full(self) -> bool:
        """Whether the rows make a table of TABLE_BYTES or 65,536 rows."""
        return self._bytes >= TABLE_BYTES or len(self._texts) >= 1 << 16

    def add(
        self,
        text: str,
        where: str,
        id: str | None = None,
        carried: Sequence[str | None] = (),
        content: str | bytes | None = None,
        parents: Sequence[str] = (),
        cut: Sequence[Cut] = (),
    ) -> None:
        """Add a document; as unreadable if it is too large or contains surrogates.

        Args:
            carried: values of the input's columns, in their order; () for nulls.
            content: what `refuse` takes then; None: the text.
            parents: ids of the documents of which it was joined.
            cut: what the reader left out of it, which inputs with `origins` keep.
        """
        content = text if content is None else content
        try:
            encoded = text.encode()
            for value in (id, *carried):
                if value is not None and not value.isascii():
                    value.encode()
        except UnicodeEncodeError:
            self.refuse(self._unencodable(), where, content=content)
            return
        longest = max((len(value) for value in (id, *carried) if value), default=0)
        if len(encoded) > self.limits.max_document_bytes or longest > self.limits.carried_bytes:
            self.refuse("too_large", where, id, carried, content)
            return
        if parents and self.input.origins:
            self._parents[len(self)] = json.dumps(list(parents), ensure_ascii=False)
        if cut and self.input.origins:
            # What was left out may have halves of surrogate pairs, which the text has not.
            self._cut[len(self)] = json.dumps(list(cut))
            self._bytes += len(self._cut[len(self)])
        self._append(id, encoded, None, where if self._places else None, carried)

    def leave_out(self, where: str, id: str | None, carried: Sequence[str | None]) -> None:
        """Add a document without its text, which `Input.unwanted` names."""
        self._append(id, None, None, where, carried)

    def skip(self, reason: str) -> None:
        """Count a record or file that is not a document."""
        self._skipped[reason] += 1

    def refuse(
        self,
        problem: str,
        where: str,
        id: str | None = None,
        carried: Sequence[str | None] = (),
        content: str | bytes | None = None,
    ) -> None:
        """Add a document that cannot be read. measure.py and collect.py write the row into quarantine.

        problem: a key of PROBLEMS. content: what was there, of which inputs with `origins` keep the beginning. Half
        surrogate pairs in the other values, which Arrow cannot hold, become question marks.
        """
        assert problem in PROBLEMS, problem
        if content is not None and self.input.origins:
            self._content[len(self)] = beginning(content)
            self._bytes += len(self._content[len(self)])
        self._append(id, None, problem, where, carried)

    def _append(
        self, id: str | None, text: bytes | None, problem: str | None, where: str | None, carried: Sequence[str | None]
    ) -> None:
        if problem:
            id, where, *carried = (value and value.encode(errors="replace").decode() for value in (id, where, *carried))
            id, *carried = (value and value * (len(value) <= self.limits.carried_bytes) for value in (id, *carried))
        self._ids.append(id or None)
        self._texts.append(text)
        self._problems.append(problem)
        self._where.append(where)
        self._carried.append(carried or (None,) * len(self.input.columns))
        self._bytes += len(text or b"") + sum(len(value or "") for value in (id, where, *carried))

    def table(self) -> pa.Table:
        """The documents added since the last call; their carried columns are strings."""
        columns = {
            "id": pa.array(self._ids, pa.string()),
            "text": pa.array(self._texts, pa.large_binary()).view(pa.large_string()),
            "problem": pa.array(self._problems, pa.string()),
            "where": pa.array(self._where, pa.string()),
        }
        for position, name in enumerate(self.input.columns):
            columns[name] = pa.array([values[position] for values in self._carried], pa.string())
        if self.input.origins:
            for name, values in ((PARENTS, self._parents), (CONTENT, self._content), (CUT, self._cut)):
                columns[name] = _sparse(len(self), list(values), list(values.values()))
        self._clear()
        return pa.table(columns)


def count_characters(text: str | None) -> int:
    """The characters besides white space."""
    return sum(map(len, text.split())) if text else 0


def refused(exceeded: Exceeded, crashed: str) -> str:
    """The problem of a document that exceeded its bounds. crashed: the problem if the parser itself ended."""
    return crashed if exceeded.problem == "died" else exceeded.problem


def documents(batch: pa.RecordBatch, input: Input, limits: Limits, where: str, first_row: int) -> pa.Table:
    """A table of documents from columns of a typed file.

    Args:
        batch: the columns of the input's settings; the text has any string or binary type, or with `nested_text` any.
        where: the file or its part, for the column `where`.
        first_row: number of the batch's first row in it, from 0.
    """
    read = [_texts(batch.column(name), input.nested_text) for name in input.texts_in(batch.schema.names)]
    texts, *others = (column for column, _ in read)
    if others:
        texts = pc.coalesce(texts, *others)
    ids = pa.nulls(len(texts), pa.string()) if input.id is None else _ids(batch.column(input.id))
    carried = {name: plain(batch.column(name)) for name in input.columns}

    problems = text_problems(texts, limits)
    for _, of_texts in read:
        problems |= of_texts
    invalid = {name: value_problems(column) for name, column in {"id": ids, **carried}.items()}
    for found in invalid.values():
        problems = found | problems

    for name, column in carried.items():
        long = _long_rows(column, limits)
        for row in long:
            problems.setdefault(row, "too_large")
        carried[name] = _without(column, sorted({*invalid[name], *long}))
    rows = sorted(problems)
    columns = {
        "id": _without(ids, sorted(invalid["id"])),
        "text": _without(texts, rows),
        "problem": _sparse(len(texts), rows, [problems[row] for row in rows]),
        "where": _sparse(len(texts), rows, [f"{where} row {first_row + row}" for row in rows]),
        **carried,
    }
    return pa.table(columns)


def _texts(column: pa.Array, nested: bool) -> tuple[pa.LargeStringArray, dict[int, str]]:
    """(the column as texts, row -> problem of values that are none). nested: see `as_large_string`."""
    if is_text_type(column.type) or not nested:
        return as_large_string(column), {}
    column = plain(column)
    bad = value_problems(column)
    return as_large_string(_without(column, sorted(bad)), nested=True), bad


def _long_rows(column: pa.Array, limits: Limits) -> list[int]:
    """The rows with a text of over `carried_bytes`."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return []
    if column.nbytes <= limits.carried_bytes:
        return []
    sizes = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    return np.flatnonzero(sizes > limits.carried_bytes).tolist()


def text_problems(texts: pa.LargeStringArray, limits: Limits) -> dict[int, str]:
    """Row -> problem, of the texts that cannot be read: nulls, those over `max_document_bytes`, and broken UTF-8."""
    problems: dict[int, str] = {}
    if texts.null_count:
        problems |= dict.fromkeys(np.flatnonzero(texts.is_null()).tolist(), "null_text")
    sizes = pc.fill_null(pc.binary_length(texts), 0).to_numpy()
    if len(sizes) and sizes.max() > limits.max_document_bytes:
        problems |= dict.fromkeys(np.flatnonzero(sizes > limits.max_document_bytes).tolist(), "too_large")
    for row in invalid_texts(texts):
        problems.setdefault(row, "bad_utf8")
    return problems


def one_problem(input: Input, problem: str, where: str) -> pa.Table:
    """A table of one unreadable row, for a part of a file that could not be read."""
    rows = Rows(input, Limits(), ReaderCounts())
    rows.refuse(problem, where)
    return rows.table()


def beginning(content: str | bytes) -> str:
    """The first CONTENT_CHARACTERS; bytes that are not UTF-8, and lone surrogates, as escapes such as `\\xff`."""
    if isinstance(content, bytes):
        # A character has at most four bytes.
        return content[: 4 * CONTENT_CHARACTERS].decode("utf-8", "backslashreplace")[:CONTENT_CHARACTERS]
    return content[:CONTENT_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def as_json_text(value: Any) -> str | None:
    """A value as the string of a carried column: strings unchanged, bytes as UTF-8, null as None, others as compact
    JSON.

    Raises:
        RecursionError: the value is nested too deeply.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return _as_text(value)
    if isinstance(value, DeepJson):
        return value.text
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_as_text)


def _as_text(value: Any) -> str:
    """What JSON has no type for; of programs that do not mark texts as such, bytes are UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def time_strings(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Timestamps as strings; those of a zone that the zone database does not have are given in UTC."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return column.cast(pa.int64()).cast(pa.timestamp(column.type.unit, "UTC")).cast(pa.string())


def is_text_type(type: pa.DataType) -> bool:
    """Whether a column of this type can hold texts: strings or bytes, also as dictionary, view or extension."""
    if pa.types.is_dictionary(type):
        return is_text_type(type.value_type)
    if isinstance(type, pa.BaseExtensionType):
        return is_text_type(type.storage_type)
    return any(
        check(type)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_null,
        )
    )


def plain_type(type: pa.DataType) -> pa.DataType:
    """The type of a carried column without dictionaries, views and extensions; large types become the usual ones.

    Times of a zone that Python does not have are times of UTC, which is the same moment.
    """
    if isinstance(type, pa.BaseExtensionType):
        return plain_type(type.storage_type)
    if pa.types.is_dictionary(type):
        return plain_type(type.value_type)
    if pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return pa.string()
    if pa.types.is_large_binary(type) or pa.types.is_binary_view(type):
        return pa.binary()
    return plain_nested(type)


def plain_nested(type: pa.DataType) -> pa.DataType:
    """A type without dictionaries and views within lists, structs and maps, and without unknown zones; others stay."""

    def of_field(field: pa.Field) -> pa.Field:
        inner = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
        return field.with_type(plain_nested(views.get(inner, inner)))

    if pa.types.is_timestamp(type) and type.tz is not None and not is_known_zone(type.tz):
        return pa.timestamp(type.unit, "UTC")

    if pa.types.is_struct(type):
        return pa.struct([of_field(field) for field in type.fields])
    if pa.types.is_map(type):
        return pa.map_(of_field(type.key_field), of_field(type.item_field), type.keys_sorted)
    if pa.types.is_fixed_size_list(type):
        return pa.list_(of_field(type.value_field), type.list_size)
    if pa.types.is_list(type):
        return pa.list_(of_field(type.value_field))
    if pa.types.is_large_list(type):
        return pa.large_list(of_field(type.value_field))
    return type


def plain(column: pa.Array) -> pa.Array:
    """A carried column cast to its plain type."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return cast_rows(column, plain_type(column.type))


def plain_chunks(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of chunks cast to its plain type."""
    return pa.chunked_array([plain(chunk) for chunk in column.chunks], plain_type(column.type))


def cast_rows(column: pa.Array, type: pa.DataType) -> pa.Array:
    """The column cast to the type, from its own rows: a cast of a slice of lists decodes those outside of it, too."""
    if column.type == type:
        return column
    if pa.types.is_nested(column.type):
        column = pa.concat_arrays([column])
    return column.cast(type)


def as_large_string(column: pa.Array, *, nested: bool = False) -> pa.LargeStringArray:
    """The column as large strings, without a copy if its bytes are in one buffer. Does not check UTF-8.

    nested: lists and structs become compact JSON, numbers and dates their text.
    """
    if nested and not is_text_type(column.type):
        if not pa.types.is_nested(column.type):
            return (time_strings(column) if pa.types.is_timestamp(column.type) else column).cast(pa.large_string())
        return pa.array([as_json_text(value) for value in python_values(column)], pa.large_string())
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        # Cast before decoding: the decoded texts can exceed the 2 GiB of 32-bit offsets.
        column = column.dictionary.cast(pa.large_binary()).take(column.indices)
    return column.cast(pa.large_binary()).view(pa.large_string())


def _ids(column: pa.Array) -> pa.StringArray:
    """The column as strings; an empty string becomes null."""
    column = plain(column)
    ids = column.view(pa.string()) if pa.types.is_binary(column.type) else column.cast(pa.string())
    return pc.if_else(pc.equal(pc.binary_length(ids), 0), pa.scalar(None, pa.string()), ids)


def _without(column: pa.Array, rows: list[int]) -> pa.Array:
    """The column with nulls at these rows."""
    if not rows:
        return column
    mask = np.zeros(len(column), bool)
    mask[rows] = True
    return pc.if_else(pa.array(mask), pa.scalar(None, column.type), column)


def _sparse(length: int, rows: list[int], values: list[str]) -> pa.StringArray:
    """An array of `length` with these values at these rows, null at all others."""
    if not rows:
        return pa.nulls(length, pa.string())
    dense: list[str | None] = [None] * length
    for row, value in zip(rows, values, strict=True):
        dense[row] = value
    return pa.array(dense, pa.string())


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The column's values as those of Python; None for one that Python cannot have.

    That is a year above 9999, a time of an unknown zone, or a string that is not UTF-8, also within a list or struct.
    """
    try:
        return column.to_pylist()
    except _NOT_OF_PYTHON:
        found = []
        for value in column:
            try:
                found.append(value.as_py())
            except _NOT_OF_PYTHON:
                found.append(None)
        return found


def typed_rows(batch: pa.RecordBatch, where: str, first: int) -> Iterator[tuple[Row | Unreadable, str]]:
    """The rows of a batch as of `Reader.rows`; a row with a value that Python cannot hold is `Unreadable`.

    where: the file. first: number of the batch's first row in it.
    """
    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
        rows = batch.slice(start, _ROWS_AT_ONCE)
        problems: dict[int, str] = {}
        for column in rows.columns:
            problems = value_problems(column) | problems
        for number, row in enumerate(python_rows(rows) if batch.num_columns else [{}] * len(rows)):
            found = Unreadable(problems[number]) if number in problems else row
            yield found, f"{where} row {first + start + number}"


_MOST_VALUES, _VALUES_OF_A_ROW = 1 << 22, 1000  # that are shown, of few rows, and of each more


def python_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """The table's rows, with values as of `python_values`. Of equal column names the last one counts."""
    columns = [python_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def few_rows(table: pa.Table | pa.RecordBatch, where: str) -> list[dict[str, Any]]:
    """As `python_rows`, for rows of foreign files that are shown, compared or exported.

    A value takes a few bits in a file, and 100 bytes or more in Python at each level of its nesting.

    Raises:
        DataError: they have millions of values. where: the file or artifact, for the message.
    """
    values = sum(_value_count(chunk) for column in table.columns for chunk in getattr(column, "chunks", [column]))
    if values > (most := _MOST_VALUES + _VALUES_OF_A_ROW * table.num_rows):
        raise DataError(
            f"{where}: {plural(table.num_rows, 'row')} with {values:,} values; at most {most:,} are taken at once. "
            "Name fewer rows, or read the file with pyarrow."
        )
    return python_rows(table)


def _value_count(column: pa.Array) -> int:
    """The values of a column, with those of every level of lists, structs and maps."""
    if isinstance(column, pa.ExtensionArray):
        return _value_count(column.storage)
    if isinstance(column, pa.StructArray):
        return len(column) + sum(map(_value_count, column.flatten()))
    if isinstance(column, pa.DictionaryArray):
        return len(column)
    if isinstance(column, pa.MapArray):
        start, end = column.offsets[0].as_py(), column.offsets[-1].as_py()
        return len(column) + sum(_value_count(one.slice(start, end - start)) for one in (column.keys, column.items))
    if pa.types.is_nested(column.type) and hasattr(column, "flatten"):
        inner = pc.sum(pc.list_value_length(column)).as_py() or 0
        # Lists of views may repeat values, which `flatten` writes out.
        return len(column) + (inner if inner > _MOST_VALUES else _value_count(column.flatten()))
    return len(column)
