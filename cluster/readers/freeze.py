"""The first part of a run: check the columns of the input files, and divide the files into units of work.

All mistakes in the inputs that can be found without reading whole files are reported in one error. If few files cannot
be read, or lack the columns of the others, they are left out and recorded.

The units follow from the input alone, never from the number of workers. The division is stable: a file that is added,
removed or changed moves the ends of its own units and, among small files, of few neighbours. The measurements of all
other units stay valid (pipelines/curate/stages/measure.py).
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from posixpath import basename

import pyarrow as pa

from raymill.cluster.errors import DataError, UserError
from raymill.cluster.formats import plural
from raymill.cluster.readers.column_types import column_problem
from raymill.cluster.readers.columns import (
    FILES_LOOKED_AT,
    near_names,
    no_column,
    other_separator,
    other_type,
    repeated,
)
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.page_columns import NO_IDS
from raymill.cluster.readers.inputs import ORIGINS, Input
from raymill.cluster.readers.listing import InputListing, ListedSource, folder_of, list_inputs, skipped_text
from raymill.cluster.readers.reader import FilePieces, plain_type
from raymill.cluster.readers.streams import Span
from raymill.cluster.readers.units import InputFile, InputManifest, Reading, Unit
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

# Threads that read footers and headers of files. With an object store they wait for its answers. With local files, more
# threads than cores are slower (100,000 files: 26 s of processor time with 32 threads, 15 s with 4).
_THREADS = 32
_LOCAL_THREADS = 4
_TASKS_PER_THREAD = 16  # a task for each file would cost more than reading its footer
_SHOWN = 20  # lines of an error
_BAD_FILES_SHOWN = 3
_TEXT, _ID = ("text bytes", "strings"), ("text bytes whole", "strings or whole numbers")
_OF_ID = "Choose another column, or leave `id` out to use the hash of the text."

# A request to a store takes tens of milliseconds, so a unit of a thousand tiny files takes under a minute.
MAX_SPANS_PER_UNIT = 1000

# Parts of a row group at most. Reading part n decodes n parts, so reading all of 8 decodes the row group 4.5 times. Of
# 64 MB in one row group (PEPs, 2026-11-24, a busy machine) that takes 0.3 s (zstd) to 0.7 s (snappy) of processor time
# more, and 32 parts would take several times that; measuring takes 2.3 s.
MAX_PARTS = 8

_LEAST_BYTES = 128 << 10  # below this, committing a unit takes more work than measuring it
_MOST_BYTES = 256 << 20  # 10 to 20 seconds of measuring on one core
_LEAST_UNITS = 32  # so that every core of a laptop has work and progress is visible
_MOST_UNITS = 20_000  # each is a record that the driver reads


@dataclass
class _Source(ListedSource):
    """A listed source with the cuts of its files, and their mistakes.

    Attributes:
        cuts: pieces of each file, in order; none for a bad file.
        mistakes: kind of mistake -> (message about the first file, URIs of all files with it).
        bad_files: URI -> why the file cannot be read.
        notes: sentences for the user.
    """

    cuts: list[FilePieces] = field(default_factory=list)
    mistakes: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    bad_files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for uri, message in self.errors:
            self.add_error(message, uri)
        for path, reason in self.unreadable:
            self.add_bad_file(path, reason)

    def add_error(self, message: str, uri: str = "", kind: str = "") -> None:
        """Add an error about the source as a whole. Errors of one kind (by default of one message) become one line."""
        self.mistakes.setdefault(kind or message, (message, []))[1].append(uri)

    def add_bad_file(self, uri: str, message: str, kind: str = "") -> None:
        """Add an error about a file."""
        self.add_error(message, uri, kind)
        self.bad_files.setdefault(uri, message)

    def messages(self) -> list[str]:
        """The errors, one line for each kind, with the first file and the number of others."""
        messages = []
        for message, uris in self.mistakes.values():
            at = f"{uris[0]}: " if uris[0] else ""
            others = len(uris) - 1
            more = f" (and {plural(others, 'more file')})" if others else ""
            messages.append(f"{self.title}: {at}{message}{more}")
        return messages

    def leave_out_bad_files(self, max_bad_files: float) -> None:
        """Turn the errors about files into a note, if at most this fraction of the files is bad.

        If half of the files are bad, the settings are wrong rather than the files.
        """
        bad, count = len(self.bad_files), len(self.files) + len(self.unreadable)
        if not bad or 2 * bad >= count or any(set(uris) - self.bad_files.keys() for _, uris in self.mistakes.values()):
            return
        if bad > max_bad_files * count:
            self.add_error(
                f"{bad:,} of {plural(count, 'file')} are unreadable (execution.max_bad_files allows "
                f"{max_bad_files:.1%}). Fix them, leave them out with `exclude` in this input, or allow more with "
                f"-o execution.max_bad_files={math.ceil(1000 * bad / count) / 1000}."
            )
            return
        self.mistakes.clear()
        first = [f"{basename(uri)} ({reason.rstrip('.')})" for uri, reason in self.bad_files.items()]
        shown = "; ".join(first[:_BAD_FILES_SHOWN]) + "; ..." * (bad > _BAD_FILES_SHOWN)
        verb = "is unreadable and was" if bad == 1 else "are unreadable and were"
        self.notes.append(f"{bad:,} of {plural(count, 'file')} {verb} left out: {shown}")


def freeze(
    store: Store, inputs: Sequence[Input], unit_bytes: int | None = None, max_bad_files: float = 0.0
) -> InputManifest:
    """The manifest of the inputs, as from `freeze_listing`. store: for inputs without `storage`."""
    return freeze_listing(list_inputs(store, inputs), unit_bytes, max_bad_files)


def freeze_listing(listing: InputListing, unit_bytes: int | None = None, max_bad_files: float = 0.0) -> InputManifest:
    """The manifest of the listed files. The same files give the same manifest.

    Reads the footer (Parquet), the header (CSV) or at most the first block of each file, many files at a time.

    Args:
        unit_bytes: approximate text of a unit; by default computed from the size of the input.
        max_bad_files: largest fraction of the files of a source that may be unreadable. They have no units.

    Raises:
        DataError: all errors of all inputs.
    """
    assert unit_bytes is None or unit_bytes > 0
    sources = [_Source(**vars(listed)) for listed in listing.sources]
    for source in sources:
        remote = any(paths.is_remote(file.uri) for file, _ in source.files[:1])
        with ThreadPoolExecutor(_THREADS if remote else _LOCAL_THREADS) as pool:
            _cut_files(source, pool)
        source.leave_out_bad_files(max_bad_files)
    if not any(source.mistakes for source in sources) and not any(cut.pieces for s in sources for cut in s.cuts):
        for source in sources:
            skipped = source.skipped
            skipped_files = f" ({skipped_text(skipped)} passed over)" if skipped else ""
            source.add_error(
                f"{source.input.path}: nothing to read in its files{skipped_files}. Point it at documents."
            )
    if messages := [message for source in sources for message in source.messages()]:
        hidden = f"\n... and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
        raise DataError("\n".join(messages[:_SHOWN]) + hidden)

    size = sum(piece[2] for source in sources for cut in source.cuts for piece in cut.pieces)
    unit_bytes = unit_bytes or bytes_of_unit(size)
    units: list[Unit] = []
    for source in sources:
        root = folder_of(source.input.path)
        pieces = (
            (Span(file.uri, file.size, file.version, format, start, end, rows), text_bytes)
            for (file, format), cut in zip(source.files, source.cuts, strict=True)
            for start, end, rows, text_bytes in pieces_of(cut, unit_bytes)
        )
        units += make_units(source.input.source, pieces, unit_bytes, len(units), root)
    return InputManifest(
        Reading(listing.store, listing.inputs, _carried(sources)),
        tuple(
            InputFile(
                file.uri, file.size, file.version, source.input.source, format, cut.rows, source.bad_files.get(file.uri)
            )
            for source in sources
            for (file, format), cut in [
                *zip(source.files, source.cuts, strict=True),
                *(((FileInfo(path, 0, ""), ""), FilePieces(())) for path, _ in source.unreadable),
            ]
        ),
        tuple(units),
        {source.input.source: dict(sorted(source.skipped.items())) for source in sources},
        listing.fingerprint,
        tuple(f"Source {source.input.source}: {note}." for source in sources for note in source.notes),
    )


def _cut_files(source: _Source, pool: ThreadPoolExecutor) -> None:
    """Set the source's cuts; add an error for every file and column that differs from the settings of the input."""

    def cut(found: tuple[FileInfo, str]) -> FilePieces | UserError:
        file, format = found
        try:
            return READERS[format].cut(source.store, file, source.input)
        except UserError as error:
            return error

    def cut_some(found: Sequence[tuple[FileInfo, str]]) -> list[FilePieces | UserError]:
        return [cut(file) for file in found]

    files = source.files
    count = max(len(files) // (_THREADS * _TASKS_PER_THREAD), 1)
    tasks = [files[start : start + count] for start in range(0, len(files), count)]
    results = (result for some in pool.map(cut_some, tasks) for result in some)
    without_schema: dict[str, list[FileInfo]] = {}
    schemas: dict[pa.Schema, pa.Schema] = {}  # each schema is kept once
    for (file, format), result in zip(files, results, strict=True):
        if isinstance(result, UserError):
            _add_error(source, file, result, f"unreadable {format}")
            source.cuts.append(FilePieces(()))
        elif result.schema is not None:
            schema = schemas.setdefault(result.schema, result.schema)
            source.cuts.append(replace(result, schema=schema))
            _check_schema(source, file, schema)
        else:
            source.cuts.append(result)
            if result.pieces:
                without_schema.setdefault(format, []).append(file)
    for format, some in without_schema.items():
        match READERS[format].columns:
            case "fixed":
                _check_fixed(source, format, some)
            case "header":
                _check_names(source, format, some, pool)
            case "open":  # the others only if the first file has no column of that name
                if _check_names(source, format, some[:1], pool):
                    _check_names(source, format, some[1:], pool)
                elif source.input.notes_absent:
                    _note_absent(source, format, some[:FILES_LOOKED_AT])
    if source.bad_files:
        pairs = zip(files, source.cuts, strict=True)
        source.cuts = [FilePieces(()) if file.uri in source.bad_files else cut for (file, _), cut in pairs]


def _add_error(source: _Source, file: FileInfo, error: UserError, kind: str) -> None:
    """Add the error of a reader: about a bad file, or about the store or network, which is one of the whole source."""
    if isinstance(error, DataError):
        source.add_bad_file(file.uri, str(error).removeprefix(f"{file.uri}: "), kind)
    else:
        source.add_error(str(error))


def _check_schema(source: _Source, file: FileInfo, schema: pa.Schema) -> None:
    """Add an error for each column of the settings that the file lacks, repeats or has with another type."""
    wanted = {"text": (source.input.text,), "id": (source.input.id,), "columns": source.input.columns}
    for setting, names in wanted.items():
        for name in names:
            if name is None:
                continue
            count, shown = schema.names.count(name), source.input.setting_of(setting, name)
            if setting == "text" and count == 0 and source.input.texts_in(schema.names):
                continue
            if count == 0:
                source.add_bad_file(file.uri, _missing(source, setting, name, schema.names), f"no {setting} {name}")
            elif count > 1:
                source.add_bad_file(file.uri, repeated(shown, name, schema.names))
            elif problem := column_problem(schema, [name], shown):
                source.add_bad_file(file.uri, problem, f"type of {name}")
            elif setting == "id" and (problem := other_type(shown, name, schema, _ID, _OF_ID)):
                source.add_bad_file(file.uri, problem)
            elif setting == "text" and source.input.nested_text:
                continue
            elif setting == "text" and (problem := other_type(shown, name, schema, _TEXT)):
                source.add_bad_file(file.uri, problem)


def _check_fixed(source: _Source, format: str, files: Sequence[FileInfo]) -> None:
    """Compare the settings with the fixed columns of a format.

    If the format cannot have the id, a note is added; for another column too, if other files of the source may have it.
    Otherwise an error is added.
    """
    reader = READERS[format]
    names = reader.columns_of(source.store, files[0], source.input)
    others = {one: file for file, one in reversed(source.files) if one != format}  # other format -> its first file

    def can_have(other: str, name: str) -> bool:
        reader = READERS[other]
        return reader.columns != "fixed" or name in reader.columns_of(source.store, others[other], source.input)

    wanted = [("id", source.input.id), *(("columns", name) for name in source.input.columns)]
    for setting, name in wanted:
        if name is None or (name in names and not (setting == "id" and name in NO_IDS)):
            continue
        if setting == "id" or any(can_have(other, name) for other in others):
            own = f"{reader.own_id} is the id instead" if setting == "id" else "it is empty for their documents"
            count = plural(len(files), f"{format} file")
            source.notes.append(
                f"{count} cannot have a column {name} ({source.input.setting_of(setting, name)}): {own}"
            )
        else:
            for file in files:
                source.add_bad_file(file.uri, _missing(source, setting, name, names), f"no {setting} {name}")


def _check_names(source: _Source, format: str, files: Sequence[FileInfo], pool: ThreadPoolExecutor) -> bool:
    """Compare the settings with the columns at the beginning of each file. Returns whether one was missing."""
    reader = READERS[format]

    def columns_of(file: FileInfo) -> tuple[str, ...] | UserError:
        try:
            return reader.columns_of(source.store, file, source.input)
        except UserError as error:
            return error

    wanted = [("text", source.input.text)]
    if reader.columns == "header":  # in open formats a later record may have them
        wanted += [("id", source.input.id)] if source.input.id else []
        wanted += [("columns", name) for name in source.input.columns]
    holder = "Its first line, the header," if reader.columns == "header" else "It"
    missing = False
    for file, names in zip(files, pool.map(columns_of, files), strict=True):
        if isinstance(names, UserError):
            _add_error(source, file, names, f"unreadable {format}")
            continue
        if reader.columns == "header" and (problem := other_separator(names, {name for _, name in wanted})):
            source.add_bad_file(file.uri, problem, "separator")
            missing = True
            continue
        for setting, name in wanted:
            if setting == "text" and reader.columns == "open" and source.input.texts_in(names):
                continue
            if names and name not in names:
                source.add_bad_file(file.uri, _missing(source, setting, name, names, holder), f"no {setting} {name}")
                missing = True
            elif names.count(name) > 1:
                source.add_bad_file(file.uri, repeated(source.input.setting_of(setting, name), name, names))
    return missing


def _note_absent(source: _Source, format: str, files: Sequence[FileInfo]) -> None:
    """Add a note about columns of the settings that no record at the beginning of the files has.

    It is no error, because any record may have them. files: of an open format, the first ones.
    """
    wanted = dict.fromkeys([*filter(None, [source.input.id]), *source.input.columns])
    names: dict[str, None] = {}
    for file in files:
        names |= dict.fromkeys(READERS[format].columns_of(source.store, file, source.input))
        if names.keys() >= wanted.keys():
            return
    if names:
        lacking = ", ".join(f"{name}{near_names(name, [*names])}" for name in wanted if name not in names)
        source.notes.append(f"no record at the beginning of its {format} files has {lacking}, which the config names")


def _missing(source: _Source, setting: str, name: str, names: Sequence[str], holder: str = "It") -> str:
    shown = source.input.setting_of(setting, name)
    apart = f"Set `{shown}` to one of them, or give the files without it an input of their own."
    used = {source.input.text, source.input.id, *source.input.columns}
    return no_column(shown, name, names, holder=holder, otherwise=apart if setting == "columns" else "", used=used)


def _carried(sources: Sequence[_Source]) -> pa.Schema:
    """The carried columns of all sources, with the type that they have in all files; string if the types differ.

    Raises:
        DataError: the types differ and one of them has bytes, which need not be text.
    """
    types: dict[str, dict[pa.DataType, str]] = {}  # column -> its types, each with a file that has it
    for source in sources:
        for name in source.input.columns:
            known = types.setdefault(name, {})
            for (file, format), cut in zip(source.files, source.cuts, strict=True):
                reader = READERS[format]
                if cut.schema is not None:
                    known.setdefault(plain_type(cut.schema.field(name).type), file.uri)
                elif file.uri in source.bad_files:
                    continue
                elif reader.columns != "fixed" or name in reader.columns_of(source.store, file, source.input):
                    known.setdefault(pa.string(), file.uri)
    for name, known in types.items():
        known.pop(pa.null(), None)
        if len(known) > 1 and any(_has_bytes(type) for type in known):
            seen = ", ".join(f"{type} in {uri}" for type, uri in known.items())
            raise DataError(
                f"column {name} (columns) has several types: {seen}. Bytes need not be text, so they cannot become "
                "strings: write the column with one type, or leave it out."
            )
    if any(source.input.origins for source in sources):
        types |= {name: {pa.string(): ""} for name in ORIGINS}
    return pa.schema([(name, next(iter(known)) if len(known) == 1 else pa.string()) for name, known in types.items()])


def _has_bytes(type: pa.DataType) -> bool:
    """Whether values of this type are or contain bytes."""
    if pa.types.is_nested(type):
        return any(_has_bytes(type.field(at).type) for at in range(type.num_fields))
    return pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_fixed_size_binary(type)


# ---- files to units ----


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
            for (first, last), (begins, ends) in zip(
                _parts(start, end, wanted), _parts(0, text_bytes, wanted), strict=True
            ):
                yield first, last, None, ends - begins
            continue
        rows = cut.rows_of_pieces[number] if cut.rows_of_pieces else 0
        wanted = min(wanted, rows, max_parts or rows)
        if wanted <= 1:
            yield start, end, None, text_bytes
            continue
        for of_part, (begins, ends) in zip(_parts(0, rows, wanted), _parts(0, text_bytes, wanted), strict=True):
            yield start, end, of_part, ends - begins


def _parts(start: int, end: int, count: int) -> Iterable[tuple[int, int]]:
    """The range in parts of about the same size."""
    return pairwise(start + (end - start) * part // count for part in range(count + 1))


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
        name = uri.removeprefix(root).encode("utf-8", "backslashreplace")
        fraction = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) / 2**64
        if fraction < max(size / unit_bytes, 1 / MAX_SPANS_PER_UNIT):
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
