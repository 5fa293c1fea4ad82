"""The first step of a run: list the input files, check their columns, and divide the files into units.

Every mistake in the inputs that can be found without reading whole files is reported here, all of them in one error.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches

import pyarrow as pa

from cluster.errors import ConfigError, DataError, UserError
from cluster.page.formats import plural
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers import READERS
from pipelines.readers.find import find, skipped_text
from pipelines.readers.inputs import Input, input_stores
from pipelines.readers.reader import Cut, is_text_type, plain_type
from pipelines.readers.units import InputFile, InputManifest, Reading, Unit, make_units

# Threads that read footers and headers of files; they wait for the store, not for a core.
_THREADS = 16
_SHOWN = 20  # lines of an error


@dataclass
class _Source:
    """An input with its files, their cuts, and what is wrong with them.

    title: its name in messages. store: what it is read from. files: (file, format). skipped: number of skipped files by
    kind. cuts: of each file, in order. errors: kind of error -> (message about the first file, URIs of all files with
    it). notes: sentences for the user about the columns.
    """

    title: str
    input: Input
    store: Store
    files: list[tuple[FileInfo, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    cuts: list[Cut] = field(default_factory=list)
    errors: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_error(self, message: str, uri: str = "", kind: str = "") -> None:
        """Add an error about a file. Errors of one kind (by default of one message) become one line."""
        self.errors.setdefault(kind or message, (message, []))[1].append(uri)

    def messages(self) -> list[str]:
        """The errors, one line for each kind, with the first file and the number of others."""
        messages = []
        for message, uris in self.errors.values():
            at = f"{uris[0]}: " if uris[0] else ""
            others = len(uris) - 1
            more = f" (and {plural(others, 'more file')})" if others else ""
            messages.append(f"{self.title}: {at}{message}{more}")
        return messages


def freeze(store: Store, inputs: Sequence[Input], unit_bytes: int) -> InputManifest:
    """The manifest of the inputs. The same files give the same manifest.

    Reads a listing of each input, and of each file the footer (Parquet), the header (CSV) or, at most, the first block;
    16 files at a time.

    Args:
        store: for the inputs without `storage` of their own.
        unit_bytes: text of a unit, about.

    Raises:
        ConfigError: two inputs have the same source name.
        DataError: all other errors of all inputs.
    """
    assert unit_bytes > 0
    _check_names_differ(inputs)
    sources = [
        _Source(f"inputs[{number}] ({one.source})", one, of_input)
        for number, (one, of_input) in enumerate(zip(inputs, input_stores(store, inputs), strict=True))
    ]
    for source in sources:
        try:
            source.files, skipped = find(source.store, source.input)
            source.skipped.update(skipped)
        except UserError as error:
            source.add_error(str(error))
    _check_files_differ(sources)
    with ThreadPoolExecutor(_THREADS) as pool:
        for source in sources:
            _cut_files(source, unit_bytes, pool)
    if not any(source.errors for source in sources) and not any(cut.pieces for s in sources for cut in s.cuts):
        for source in sources:
            skipped_files = f" ({skipped_text(source.skipped)} passed over)" if source.skipped else ""
            source.add_error(
                f"{source.input.path}: nothing to read in its files{skipped_files}. Point it at documents."
            )
    _raise_errors(sources)

    units: list[Unit] = []
    for source in sources:
        units += make_units(source.input.source, _pieces(source), unit_bytes, len(units))
    files = tuple(
        InputFile(file.uri, file.size, file.version, source.input.source, format, cut.rows)
        for source in sources
        for (file, format), cut in zip(source.files, source.cuts, strict=True)
    )
    return InputManifest(
        Reading(store, tuple(inputs), _carried(sources)),
        files,
        tuple(units),
        {source.input.source: dict(sorted(source.skipped.items())) for source in sources},
        _fingerprint(inputs, files),
        tuple(f"Source {source.input.source}: {note}." for source in sources for note in source.notes),
    )


def _check_names_differ(inputs: Sequence[Input]) -> None:
    for name, count in Counter(one.source for one in inputs).items():
        if count > 1:
            numbers = " and ".join(str(number) for number, one in enumerate(inputs) if one.source == name)
            raise ConfigError(f"inputs {numbers} are both called {name}. Give each a `source` of its own.")


def _check_files_differ(sources: Iterable[_Source]) -> None:
    """Add an error for each file that an earlier input has."""
    owner: dict[tuple[str, str], str] = {}
    for source in sources:
        for file, _ in source.files:
            first = owner.setdefault((source.store.endpoint_of(file.uri), file.uri), source.title)
            if first != source.title:
                source.add_error(
                    f"already read by {first}. A file belongs to one input: narrow one of the paths.", file.uri
                )


def _cut_files(source: _Source, unit_bytes: int, pool: ThreadPoolExecutor) -> None:
    """Set the source's cuts; add an error for every file and column that differs from the settings of the input."""

    def cut(found: tuple[FileInfo, str]) -> Cut | UserError:
        file, format = found
        try:
            return READERS[format].cut(source.store, file, source.input, unit_bytes)
        except UserError as error:
            return error

    without_schema: dict[str, list[FileInfo]] = {}
    for (file, format), result in zip(source.files, pool.map(cut, source.files), strict=True):
        if isinstance(result, UserError):
            source.add_error(str(result))
            continue
        source.cuts.append(result)
        if result.schema is not None:
            _check_schema(source, file, result.schema)
        elif result.pieces:
            without_schema.setdefault(format, []).append(file)
    for format, files in without_schema.items():
        match READERS[format].columns:
            case "fixed":
                _check_fixed(source, format, files)
            case "header":
                _check_names(source, format, files, pool)
            case "open":  # the others only if the first file has no column of that name
                if _check_names(source, format, files[:1], pool):
                    _check_names(source, format, files[1:], pool)


def _check_schema(source: _Source, file: FileInfo, schema: pa.Schema) -> None:
    """Add an error for each column of the settings that the file lacks, repeats or has with another type."""
    wanted = {"text": (source.input.text,), "id": (source.input.id,), "columns": source.input.columns}
    for setting, names in wanted.items():
        for name in names:
            if name is None:
                continue
            count = schema.names.count(name)
            if count == 0:
                source.add_error(_no_column(setting, name, schema.names), file.uri, kind=f"no {setting} {name}")
            elif count > 1:
                source.add_error(_repeated(setting, name, schema.names), file.uri)
            elif setting == "text" and not is_text_type(schema.field(name).type):
                strings = [one.name for one in schema if is_text_type(one.type)]
                source.add_error(
                    f"column {name} (text) is {schema.field(name).type}; text must be strings. "
                    f"Columns of strings: {', '.join(strings) or 'none'}.",
                    file.uri,
                )
            elif setting == "id" and not _can_be_id(schema.field(name).type):
                source.add_error(
                    f"column {name} (id) is {schema.field(name).type}; an id is a string or a whole number. "
                    "Choose another column, or leave `id` out to use the hash of the text.",
                    file.uri,
                )


def _check_fixed(source: _Source, format: str, files: Sequence[FileInfo]) -> None:
    """Compare the settings with the fixed columns of a format.

    An id that the format cannot have is a note; so is another column, if other files of the source may have it. Else it
    is an error.
    """
    reader = READERS[format]
    names = reader.columns_of(source.store, files[0], source.input)
    others = {one for _, one in source.files} - {format}
    wanted = [("id", source.input.id), *(("columns", name) for name in source.input.columns)]
    for setting, name in wanted:
        if name is None or name in names:
            continue
        if setting == "id" or any(_can_have(other, name, source) for other in others):
            own = f"{reader.own_id} is the id instead" if setting == "id" else "it is empty for their documents"
            count = plural(len(files), f"{format} file")
            source.notes.append(f"{count} cannot have a column {name} ({setting}): {own}")
        else:
            for file in files:
                source.add_error(_no_column(setting, name, names), file.uri, kind=f"no {setting} {name}")


def _can_have(format: str, name: str, source: _Source) -> bool:
    """Whether the source's files of this format can have a column of this name."""
    reader = READERS[format]
    if reader.columns != "fixed":
        return True
    first = next(file for file, one in source.files if one == format)
    return name in reader.columns_of(source.store, first, source.input)


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
    missing = False
    for file, names in zip(files, pool.map(columns_of, files), strict=True):
        if isinstance(names, UserError):
            source.add_error(str(names))
            continue
        if reader.columns == "header" and (separator := _other_separator(names, {name for _, name in wanted})):
            source.add_error(
                f"the header is one column, {names[0]!r}, so the fields seem to be separated by {separator!r}. "
                f"Set `delimiter: {json.dumps(separator)}` in this input.",
                file.uri,
                kind="separator",
            )
            missing = True
            continue
        for setting, name in wanted:
            if names and name not in names:
                source.add_error(_no_column(setting, name, names), file.uri, kind=f"no {setting} {name}")
                missing = True
            elif names.count(name) > 1:
                source.add_error(_repeated(setting, name, names), file.uri)
    return missing


def _repeated(setting: str, name: str, names: Sequence[str]) -> str:
    return f"has {names.count(name)} columns {name} ({setting}). Write it with unique names."


def _other_separator(names: Sequence[str], wanted: set[str]) -> str | None:
    """The separator in a header that was read as one column and is none of the wanted ones."""
    if len(names) != 1 or names[0] in wanted:
        return None
    return next((one for one in ";|\t," if one in names[0]), None)


def _no_column(setting: str, name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 3, 0.5)
    apart = ", or give the files without it an input of their own" if setting == "columns" else ""
    mend = f"Did you mean {' or '.join(near)}?" if near else f"Set `{setting}` to one of them{apart}."
    return f"no column {name} ({setting}). It has: {', '.join(names) or 'none'}. {mend}"


def _can_be_id(type: pa.DataType) -> bool:
    """Whether a column of this type can hold ids: strings, bytes or whole numbers."""
    plain = plain_type(type)
    return any(
        check(plain) for check in (pa.types.is_string, pa.types.is_binary, pa.types.is_integer, pa.types.is_null)
    )


def _raise_errors(sources: Iterable[_Source]) -> None:
    messages = [message for source in sources for message in source.messages()]
    if messages:
        hidden = f"\n... and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
        raise DataError("\n".join(messages[:_SHOWN]) + hidden)


def _pieces(source: _Source) -> Iterable[tuple[Span, int]]:
    """(span, text bytes) of each piece of the files, in order."""
    for (file, format), cut in zip(source.files, source.cuts, strict=True):
        for start, end, text_bytes in cut.pieces:
            yield Span(file.uri, file.size, file.version, format, start, end), text_bytes


def _carried(sources: Iterable[_Source]) -> pa.Schema:
    """The carried columns of all sources, of the type that all files agree on; string if they differ."""
    types: dict[str, set[pa.DataType]] = {}
    for source in sources:
        for name in source.input.columns:
            known = types.setdefault(name, set())
            for (file, format), cut in zip(source.files, source.cuts, strict=True):
                reader = READERS[format]
                if cut.schema is not None:
                    known.add(plain_type(cut.schema.field(name).type))
                elif reader.columns != "fixed" or name in reader.columns_of(source.store, file, source.input):
                    known.add(pa.string())
    agreed = {name: known - {pa.null()} for name, known in types.items()}
    return pa.schema([(name, known.pop() if len(known) == 1 else pa.string()) for name, known in agreed.items()])


def _fingerprint(inputs: Sequence[Input], files: Sequence[InputFile]) -> str:
    content = [[one.model_dump(mode="json", exclude={"storage"}) for one in inputs], [asdict(file) for file in files]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
