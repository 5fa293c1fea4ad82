"""The first act of a run: list the input files, look at their columns, and cut them into units.

Everything that would only fail later is refused here, all of it in one message.
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
from pipelines.readers.find import find, skipped_text
from pipelines.readers.inputs import Input, input_stores
from pipelines.readers.reader import Cut, is_text_type, plain_type
from pipelines.readers.registry import READERS
from pipelines.readers.units import InputFile, InputManifest, Reading, Unit, pack

# Footers of remote files are read at once by as many threads; each waits for the network, not for a core.
_THREADS = 16
_SHOWN = 20


@dataclass
class _Source:
    """What is known of one input.

    troubles: kind -> (what is wrong, as the first file has it; the files it is wrong with, in order). notes: what a
    person should know of the columns, a line each.
    """

    title: str
    input: Input
    store: Store
    files: list[tuple[FileInfo, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    cuts: list[Cut] = field(default_factory=list)
    troubles: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def trouble(self, what: str, uri: str = "", key: str = "") -> None:
        """Troubles of one `key` (by default of one text) are told together, with the number of files."""
        self.troubles.setdefault(key or what, (what, []))[1].append(uri)

    def messages(self) -> list[str]:
        messages = []
        for what, uris in self.troubles.values():
            at = f"{uris[0]}: " if uris[0] else ""
            others = len(uris) - 1
            more = f" (and {plural(others, 'more file')})" if others else ""
            messages.append(f"{self.title}: {at}{what}{more}")
        return messages


def freeze(store: Store, inputs: Sequence[Input], base: str, unit_bytes: int) -> InputManifest:
    """List, check and cut. Relative paths start at `base`. The same files give the same manifest.

    Args:
        store: that of the inputs without `storage` of their own.

    Raises:
        ConfigError: two inputs have one source name.
        DataError: everything else that is wrong with any input, together.
    """
    assert unit_bytes > 0
    _refuse_equal_names(inputs)
    sources = [
        _Source(f"inputs[{number}] ({one.source})", one, of_input)
        for number, (one, of_input) in enumerate(zip(inputs, input_stores(store, inputs), strict=True))
    ]
    for source in sources:
        try:
            source.files, skipped = find(source.store, source.input, base)
            source.skipped.update(skipped)
        except UserError as error:
            source.trouble(str(error))
    _check_claims(sources)
    with ThreadPoolExecutor(_THREADS) as pool:
        for source in sources:
            _look(source, unit_bytes, pool)
    if not any(source.troubles for source in sources) and not any(cut.pieces for s in sources for cut in s.cuts):
        for source in sources:
            passed = f" ({skipped_text(source.skipped)} passed over)" if source.skipped else ""
            source.trouble(f"{source.input.path}: nothing to read in its files{passed}. Point it at documents.")
    _raise_all(sources)

    units: list[Unit] = []
    for source in sources:
        units += pack(source.input.source, _pieces(source), unit_bytes, len(units))
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


def _refuse_equal_names(inputs: Sequence[Input]) -> None:
    for name, count in Counter(one.source for one in inputs).items():
        if count > 1:
            numbers = " and ".join(str(number) for number, one in enumerate(inputs) if one.source == name)
            raise ConfigError(f"inputs {numbers} are both called {name}. Give each a `source` of its own.")


def _check_claims(sources: Iterable[_Source]) -> None:
    owner: dict[tuple[str, str], str] = {}
    for source in sources:
        for file, _ in source.files:
            first = owner.setdefault((source.store.endpoint_of(file.uri), file.uri), source.title)
            if first != source.title:
                source.trouble(
                    f"already read by {first}. A file belongs to one input: narrow one of the paths.", file.uri
                )


def _look(source: _Source, unit_bytes: int, pool: ThreadPoolExecutor) -> None:
    """Fill in the cuts, and note every column that is not as the input says."""

    def cut(found: tuple[FileInfo, str]) -> Cut | UserError:
        file, format = found
        try:
            return READERS[format].cut(source.store, file, source.input, unit_bytes)
        except UserError as error:
            return error

    without_schema: dict[str, list[FileInfo]] = {}
    for (file, format), result in zip(source.files, pool.map(cut, source.files), strict=True):
        if isinstance(result, UserError):
            source.trouble(str(result))
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
            case "open":  # the first file stands for all, unless it shows that the text is called otherwise
                if _check_names(source, format, files[:1], pool):
                    _check_names(source, format, files[1:], pool)


def _check_schema(source: _Source, file: FileInfo, schema: pa.Schema) -> None:
    wanted = {"text": (source.input.text,), "id": (source.input.id,), "columns": source.input.columns}
    for setting, names in wanted.items():
        for name in names:
            if name is None:
                continue
            count = schema.names.count(name)
            if count == 0:
                source.trouble(_no_column(setting, name, schema.names), file.uri, key=f"no {setting} {name}")
            elif count > 1:
                source.trouble(_repeated(setting, name, schema.names), file.uri)
            elif setting == "text" and not is_text_type(schema.field(name).type):
                strings = [one.name for one in schema if is_text_type(one.type)]
                source.trouble(
                    f"column {name} (text) is {schema.field(name).type}; text must be strings. "
                    f"Columns of strings: {', '.join(strings) or 'none'}.",
                    file.uri,
                )
            elif setting == "id" and not _may_name(schema.field(name).type):
                source.trouble(
                    f"column {name} (id) is {schema.field(name).type}; an id is a string or a whole number. "
                    "Choose another column, or leave `id` out to use the hash of the text.",
                    file.uri,
                )


def _check_fixed(source: _Source, format: str, files: Sequence[FileInfo]) -> None:
    """A note on an id that the format cannot have, and on another column if other files of the source may have it."""
    reader = READERS[format]
    names = reader.columns_of(source.store, files[0], source.input)
    others = {one for _, one in source.files} - {format}
    wanted = [("id", source.input.id), *(("columns", name) for name in source.input.columns)]
    for setting, name in wanted:
        if name is None or name in names:
            continue
        if setting == "id" or any(_may_have(other, name, source) for other in others):
            own = f"{reader.own_id} is the id instead" if setting == "id" else "it is empty for their documents"
            count = plural(len(files), f"{format} file")
            source.notes.append(f"{count} cannot have a column {name} ({setting}): {own}")
        else:
            for file in files:
                source.trouble(_no_column(setting, name, names), file.uri, key=f"no {setting} {name}")


def _may_have(format: str, name: str, source: _Source) -> bool:
    reader = READERS[format]
    if reader.columns != "fixed":
        return True
    first = next(file for file, one in source.files if one == format)
    return name in reader.columns_of(source.store, first, source.input)


def _check_names(source: _Source, format: str, files: Sequence[FileInfo], pool: ThreadPoolExecutor) -> bool:
    """Check the columns that the beginning of each file shows; whether any was missing."""
    reader = READERS[format]

    def peek(file: FileInfo) -> tuple[str, ...] | UserError:
        try:
            return reader.columns_of(source.store, file, source.input)
        except UserError as error:
            return error

    wanted = [("text", source.input.text)]
    if reader.columns == "header":  # of open formats the first records may lack what later ones have
        wanted += [("id", source.input.id)] if source.input.id else []
        wanted += [("columns", name) for name in source.input.columns]
    missing = False
    for file, names in zip(files, pool.map(peek, files), strict=True):
        if isinstance(names, UserError):
            source.trouble(str(names))
            continue
        for setting, name in wanted:
            if names and name not in names:
                source.trouble(_no_column(setting, name, names), file.uri, key=f"no {setting} {name}")
                missing = True
            elif names.count(name) > 1:
                source.trouble(_repeated(setting, name, names), file.uri)
    return missing


def _repeated(setting: str, name: str, names: Sequence[str]) -> str:
    return f"has {names.count(name)} columns {name} ({setting}). Write it with unique names."


def _no_column(setting: str, name: str, names: Sequence[str]) -> str:
    if len(names) == 1 and (other := next((mark for mark in ";|\t" if mark in names[0]), None)):
        return (
            f"no column {name} ({setting}). The header is one column, {names[0]!r}, so the fields seem to be separated "
            f"by {other!r}. Use commas in .csv files and tabs in .tsv files."
        )
    near = get_close_matches(name, names, 3, 0.5)
    mend = f"Did you mean {' or '.join(near)}?" if near else f"Set `{setting}` to one of them."
    return f"no column {name} ({setting}). It has: {', '.join(names) or 'none'}. {mend}"


def _may_name(type: pa.DataType) -> bool:
    plain = plain_type(type)
    return any(
        check(plain) for check in (pa.types.is_string, pa.types.is_binary, pa.types.is_integer, pa.types.is_null)
    )


def _raise_all(sources: Iterable[_Source]) -> None:
    messages = [message for source in sources for message in source.messages()]
    if messages:
        hidden = f"\n... and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
        raise DataError("\n".join(messages[:_SHOWN]) + hidden)


def _pieces(source: _Source) -> Iterable[tuple[Span, int]]:
    for (file, format), cut in zip(source.files, source.cuts, strict=True):
        for start, end, text_bytes in cut.pieces:
            yield Span(file.uri, file.size, file.version, format, start, end), text_bytes


def _carried(sources: Iterable[_Source]) -> pa.Schema:
    """The carried columns of all sources: the type all files that may have them agree on, else string."""
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
