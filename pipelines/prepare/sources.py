"""The inputs of a prepare config: where their files are, and which column of a source is which field of a record.

A field that a setting such as `split.group` names and no `columns` of an input has is the input's column of that name,
where its files have one:

    tables with a header or a schema   the column, if the first files have it
    JSON records                       the column, which any record may have
    documents, mail, transcripts       one of the format's own columns, such as `thread` of mail

A column `provenance` or `parents` is read as the provenance of records, see records/fields.py. Files with records of
`raymill generate` have their model, terms and licence in columns, which are kept as metadata.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from raymill.cluster.errors import ConfigError, DataError, Problem, UserError
from raymill.cluster.examples.columns import no_content, recognised
from raymill.cluster.examples.content import COLUMNS, FIELDS
from raymill.cluster.examples.terms import GENERATED, generated_columns
from raymill.cluster.readers.columns import (
    FILES_LOOKED_AT,
    column_of,
    first_columns,
    near_names,
    no_column,
    other_separator,
    value_in,
)
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.inputs import ORIGINS, Input, Limits, input_stores
from raymill.cluster.readers.listing import find_files
from raymill.cluster.readers.reader import PROBLEMS, as_json_text, python_values, time_strings
from raymill.cluster.readers.recorded import INPUTS_JSON
from raymill.cluster.readers.streams import Span, first_bytes
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages.write_corpus import CORPUS
from raymill.pipelines.prepare.config import BASE_METADATA, PrepareConfig, Source
from raymill.pipelines.prepare.fetch.snapshot import folder_of, is_fetched
from raymill.pipelines.prepare.records.conversion import Records
from raymill.pipelines.prepare.records.fields import PROVENANCE
from raymill.pipelines.prepare.records.forms import JUDGEMENTS, OPTIONAL, WANTED, is_content
from raymill.pipelines.prepare.records.tables import check_table
from raymill.pipelines.prepare.stages.split import FOUND

_UNREAD_SHOWN = 12  # columns
_SHOWN = 30  # columns in a message
_OF_STRATA = ("split.stratify", "split.balance.by")  # which a record's length and stage can be, too


class RecordsInput(Input):
    """An input whose text may be a list of messages. Its metadata may have the names of columns of a corpus."""

    reserved: ClassVar[frozenset[str]] = frozenset({"row", "id", "text", "problem", "where", *ORIGINS})
    nested_text: ClassVar[bool] = True
    # Chats are often put together of `messages` and ShareGPT's `conversations`.
    instead: ClassVar[Mapping[str, str]] = {"messages": "conversations", "conversations": "messages"}
    origins: ClassVar[bool] = True
    notes_absent: ClassVar[bool] = False  # `warnings_on_columns` has those of `columns`

    speakers: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = Field((), exclude=True)  # column -> setting that names it, for messages

    def setting_of(self, setting: str, column: str) -> str:
        """The setting of the source that names the column."""
        return setting if setting == "id" else dict(self.settings).get(column, setting)

    @property
    def named_speakers(self) -> Sequence[str]:
        """Names of the setting `speakers`."""
        return self.speakers


@dataclass(frozen=True)
class Fields:
    """The fields of a source, or the columns of a table.

    columns: field -> column. main: the column that is read as text. unread: the other columns of the first file, where
    the content was recognised. absent: named columns that no record at the beginning has, where records may have any,
    each with the nearest one. inner: (field, COLUMN.FIELD) of values inside of structs or JSON objects, of which
    `columns` has COLUMN.
    """

    columns: Mapping[str, str]
    main: str
    unread: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    inner: tuple[tuple[str, str], ...] = ()

    @property
    def named(self) -> dict[str, str]:
        """Field -> COLUMN or COLUMN.FIELD."""
        return dict(self.columns) | dict(self.inner)

    def of(self, table: pa.Table) -> dict[str, list[str | None]]:
        """The values of each field. table: of `read_unit`, readable rows."""
        values = {
            field: _strings(table["text"] if name == self.main else table[name]) for field, name in self.columns.items()
        }
        for field, name in self.inner:
            values[field] = [as_json_text(value_in({self.columns[field]: one}, name)) for one in values[field]]
        return values

    def damaged(self, table: pa.Table) -> set[int]:
        """Rows with bytes in a field that are not UTF-8, which `of` reads as U+FFFD."""

        def is_damaged(value: bytes) -> bool:
            try:
                value.decode()
            except UnicodeDecodeError:
                return True
            return False

        columns = [table[name] for name in self.columns.values() if name != self.main]
        values = (enumerate(one.to_pylist()) for one in columns if pa.types.is_binary(one.type))
        return {row for some in values for row, value in some if value and is_damaged(value)}


TEXT = Fields({"text": "text"}, "text")


def _strings(column: pa.ChunkedArray) -> list[str | None]:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_pylist()
    if pa.types.is_binary(kind):  # texts of programs that do not mark them as such
        return [None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist()]
    if pa.types.is_nested(kind):
        return [as_json_text(value) for value in python_values(column)]
    if pa.types.is_timestamp(kind):
        return time_strings(column).to_pylist()
    return pc.cast(column, pa.string()).to_pylist()


def with_corpora(sources: Sequence[Source], store: Store) -> tuple[Source, ...]:
    """The sources, with the corpus in place of an output of `raymill curate`, and the records in place of one of
    `raymill generate`; records keep their ids.

    Raises:
        DataError: the run is not finished.
    """
    found = []
    for source, of_source in zip(sources, input_stores(store, [as_input(one, TEXT) for one in sources]), strict=True):
        path = source.path
        if path and not path.startswith("hf://") and of_source.exists(paths.join(path, INPUTS_JSON)):
            try:
                if RunFolder(of_source, path).finished("generate") is not None:
                    path = paths.join(path, GENERATED)
                else:
                    advice = "Finish it by running its command again, or name the folder with the files."
                    RunFolder(of_source, path).require("curate", advice)
                    path = paths.join(path, CORPUS)
            except DataError as error:
                raise DataError(f"inputs ({source.source}): {error}") from error
            source = source.model_copy(update={"path": path, "id": source.id or "id"})
        found.append(source)
    return tuple(found)


def fields_of(sources: Sequence[Source], store: Store, root: str, records: Records) -> tuple[Fields, ...]:
    """The fields of each source. Reads the beginning of one file of a source without `columns`.

    root: the output. records: of several known contents, the one that fits their shape is read.

    Raises:
        ConfigError: no column has a usual name, the columns say nothing together, or an expression of a table is wrong.
        UserError: as of `find_files`: a source has no file.
    """
    stores = input_stores(store, [as_input(one, TEXT) for one in sources])
    found = []
    for number, (source, of_source) in enumerate(zip(sources, stores, strict=True)):
        where = f"inputs[{number}] ({source.source})"
        if source.table is not None:
            check_table(where, source.table)
            types = source.table.types
            columns = {name: name for name in types}
            main = _main([name for name, kind in types.items() if kind == "text"] or list(types))
            _refuse_reserved(f"{where}, table.types", source, columns, main)
            found.append(Fields(columns, main))
            continue
        columns, unread = dict(source.columns), tuple[str, ...]()
        is_recognised = not {*columns} & {*FIELDS} - JUDGEMENTS
        if is_recognised and source.pages:
            columns = {"text": "text"} | columns
        elif is_recognised:
            columns, unread = _recognised(where, source, of_source, root, records)
        absent = _absent(where, source, of_source, root)
        content = {field for field in columns if field in FIELDS}
        if not is_content(content) and source.form is None:
            raise _misspelt(where, source) or ConfigError(
                f"{where}, columns: {', '.join(sorted(content)) or 'no field of the content'} given; wanted one of: "
                f"{WANTED}."
            )
        if "margin" in content and "chosen" not in content and source.form is None:
            raise ConfigError(
                f"{where}, columns.margin: is content of records with a chosen and a rejected answer, and these have "
                "none. Give the metadata another name, as in `columns: {profit_margin: margin}`."
            )
        inner = tuple[tuple[str, str], ...]()
        if any("." in name for name in columns.values()):
            names = _first_names(source, of_source, root)
            inner = tuple((field, name) for field, name in columns.items() if column_of(name, names) != name)
            columns |= {field: column_of(name, names) for field, name in inner}
        main = _main([columns[field] for field in FIELDS if field in (content - OPTIONAL or content)])
        _refuse_reserved(f"{where}, columns", source, columns, main)
        found.append(Fields(columns, main, unread, absent, inner))
    return tuple(found)


def _first_names(source: Source, store: Store, root: str) -> Sequence[str]:
    """Names of columns at the beginning of a source; empty if it cannot be read, which reading it reports."""
    input = as_input(source, TEXT, root)
    try:
        files = find_files(store, input).files
        return first_columns(store, files, input)[2] if files else ()
    except UserError:
        return ()


def _main(names: Sequence[str]) -> str:
    """The column that is read as text, of those that every record has: the one that is called so, else the first."""
    return "text" if "text" in names else names[0]


def _refuse_reserved(where: str, source: Source, columns: Mapping[str, str], main: str) -> None:
    """
    Raises:
        ConfigError: a column has the name of another one in the tables of readers.
    """
    for field, name in columns.items():
        if name in RecordsInput.reserved and name not in (main, source.id):
            fix = "Add `id: id`" if name == "id" else "Rename it in the source"
            raise ConfigError(
                f"{where}.{field}: a column {name} cannot be read beside the text, because tables have another column "
                f"of this name. {fix}."
            )


def notes_on_columns(sources: Sequence[Source], fields: Sequence[Fields], required: Sequence[str] = ()) -> list[str]:
    """A sentence for each source with columns that are not read, or without a required field."""
    notes = []
    for source, of_source in zip(sources, fields, strict=True):
        if without := [name for name in required if name not in (*source.columns, *BASE_METADATA)]:
            notes.append(
                f"Source {source.source}: its records have no {', '.join(without)}, which `validate.require` names, "
                "because its files have no columns; they stay without."
            )
        if of_source.unread:
            names = list(of_source.unread)
            more = f" and {len(names) - _UNREAD_SHOWN} more" if len(names) > _UNREAD_SHOWN else ""
            count = "a column is" if len(names) == 1 else f"{len(names)} columns are"
            notes.append(
                f"Source {source.source}: {count} not read: {', '.join(names[:_UNREAD_SHOWN])}{more}. To keep one as "
                f"metadata, name it: `columns: {{FIELD: {names[0]}}}`."
            )
    return notes


def warnings_on_columns(sources: Sequence[Source], fields: Sequence[Fields]) -> list[str]:
    """A sentence for each source with named columns that no record at its beginning has."""
    return [
        f"Source {source.source}: no record at its beginning has {', '.join(one.absent)}, which the config names."
        for source, one in zip(sources, fields, strict=True)
        if one.absent
    ]


def as_input(source: Source, fields: Fields, root: str = "") -> RecordsInput:
    """The input that readers take. root: the output, below which are the rows of a source that is fetched."""
    named = "source path exclude follow_links format id licence delimiter encoding split"
    shared = source.model_dump(include={*named.split()})
    if source.connection:
        shared |= {"path": folder_of(root, source.source), "format": "fetched"}
    read = {fields.main} | ({"id"} & {source.id})  # the column `id` of a table has the ids of the records
    columns = tuple(dict.fromkeys(name for name in fields.columns.values() if name not in read))
    speakers = tuple(one for one in source.speakers if one != "*" and not one.startswith("{"))
    names = "table.types" if source.table is not None else "columns"
    settings = tuple((column, f"{names}.{field}") for field, column in fields.columns.items())
    return RecordsInput(
        text=fields.main, columns=columns, storage=source.storage, speakers=speakers, settings=settings, **shared
    )


def _absent(where: str, source: Source, store: Store, root: str) -> tuple[str, ...]:
    """The columns of the config that no record at the beginning of a file has; of formats whose records may have any.

    Raises:
        ConfigError: one of them is part of the content. (The column of the text itself is searched for with the other
        formats.)
    """
    input = as_input(source, TEXT, root)
    try:
        files = find_files(store, input).files[:FILES_LOOKED_AT]
    except UserError:
        return ()  # listing the inputs reports it, with the mistakes of the others
    names: set[str] = set()
    wanted = {*source.columns.values(), *filter(None, [source.id])}
    for file, format in files:
        if READERS[format].columns != "open":
            return ()
        names.update(READERS[format].columns_of(store, file, input))
        if {column_of(one, names) for one in wanted} <= names:
            return ()
    wanted = {column_of(one, names) for one in wanted}
    for field in ("completion", "chosen", "rejected"):
        column = source.columns.get(field)
        if names and column is not None and column_of(column, names) not in names:
            used = {*source.columns.values(), source.id}
            message = no_content(files[0][0].uri, f"columns.{field}", column, sorted(names), used)
            raise ConfigError(f"{where}: {message}")
    main = next((source.columns[field] for field in FIELDS if field in source.columns), None)
    lacking = [name for name in sorted(wanted - names) if names and name != main]
    free = sorted(names - {*source.columns.values(), source.id})
    return tuple(f"{name}{near_names(name, free)}" for name in lacking)


def _recognised(
    where: str, source: Source, store: Store, root: str, records: Records
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(the columns of a source by their usual names, with the metadata that the config names; its other columns)."""
    input = as_input(source, TEXT, root)
    try:
        files = find_files(store, input).files
        if not files:
            raise ConfigError(f"{source.path or 'what was fetched'}: its files are empty. Point it at records.")
        file, format, names = first_columns(store, files, input)
        reader = READERS[format]
        if not names:
            span = Span(file.uri, file.size, file.version, format, 0, file.size)
            problem = reader.file_problem(first_bytes(store, span, Limits()))
            seen = PROBLEMS[problem] if problem else "no record can be read at its beginning"
            raise DataError(f"{file.uri}: {seen}.")
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error
    # Forms that the shape takes as they are come before the others.
    of_shapes = {"text": "text", "pairs": "completion", "instruction": "completion"}
    fitting = "chosen" if records.has_two_answers else of_shapes.get(records.shape)
    usual = recognised(names, FIELDS, later=lambda form: fitting is not None and fitting not in form[0])
    if usual is not None:
        columns = usual | source.columns
        if usual.get("desirable") in source.columns.values():  # what the config calls something else is no mark of KTO
            columns.pop("desirable", None)
        content = input.model_copy(update={"text": next(iter(usual.values()))}).texts_in(names)
        judged = records.undesirable == "keep"
        named = (name for field, name in columns.items() if judged or field != "desirable")
        read = {*(column_of(name, names) for name in named), *content, source.id}
        is_open = reader.columns != "fixed"
        return columns, tuple(name for name in names if is_open and name not in read)
    if misspelt := _misspelt(where, source):
        raise misspelt
    if reader.columns == "header" and (problem := other_separator(names)):
        raise ConfigError(f"{where}: {file.uri}: {problem}")
    raise ConfigError(f"{where}: {no_content(file.uri, 'columns.text', 'text', names)}")


def _misspelt(where: str, source: Source) -> ConfigError | None:
    """The error about metadata with nearly the name of content, where the content is not complete; None without any."""
    near = {field: get_close_matches(field, FIELDS, 1, 0.75) for field in source.columns if field not in FIELDS}
    wanted = f"one of {', '.join(FIELDS)}"
    problems = [
        Problem.of(f"{where}, columns.{field}", "no field of the content", wanted, f"Did you mean {one}?")
        for field, names in near.items()
        for one in names
    ]
    return ConfigError.about(*problems) if problems else None


@dataclass(frozen=True)
class _Names:
    """Columns at the beginning of a source's files. kinds: of their readers, see `Reader.columns`."""

    columns: frozenset[str]
    kinds: frozenset[str]


def fields_of_settings(config: PrepareConfig) -> list[tuple[str, tuple[str, ...]]]:
    """(setting, the fields that it names) of every setting that names metadata or annotations."""
    split, assess, rules = config.split, config.assess, config.validation
    column = None if assess.predictions_file else assess.predictions
    single = {"predictions": column, "label": assess.label, "extrinsic": assess.extrinsic, "period": assess.period}
    return [
        ("split.stratify", split.stratify),
        ("split.group", split.group),
        ("assess.fields", assess.fields),
        ("assess.groups", tuple(assess.groups)),
        ("assess.annotators", assess.annotators),
        *((f"assess.{setting}", (name,)) for setting, name in single.items() if name is not None),
        ("validate.require", rules.require),
        ("validate.allowed", tuple(rules.allowed)),
        ("validate.since", tuple(rules.since)),
        ("validate.until", tuple(rules.until)),
        ("validate.outliers.by", rules.outliers.by if rules.outliers else ()),
        ("clean.labels", tuple(config.clean.labels)),
        ("clean.redact_except", tuple(one for one in config.clean.redact_except if one not in ("id", "provenance"))),
        ("split.by_time", (split.by_time,) if split.by_time else ()),
        ("split.balance.by", split.balance.by if split.balance else ()),
        ("augment.by", config.augment.by if config.augment else ()),
    ]


def refuse_unknown_fields(config: PrepareConfig, columns: Sequence[str] = ()) -> None:
    """
    Args:
        columns: of the inputs, which are named besides the fields.

    Raises:
        ConfigError: a setting names a field that no input has.
    """
    known = {*config.known, *columns}
    for setting, names in fields_of_settings(config):
        fields = known | {*FOUND} if setting in _OF_STRATA else known
        for name in names:
            if name not in config.known and not (name in FOUND and name in fields):
                near = get_close_matches(name, sorted(fields), 1)
                fix = f"Did you mean {near[0]}?" if near else "Add it to `columns` of the inputs that have it."
                if column := _column_of_content(config, name):
                    fix = (
                        f"{name} is part of the content, which no setting of fields names: add its column as metadata "
                        f"too, as in `columns: {{{name}: {column}, {column}: {column}}}`, and name {column} here."
                    )
                shown = sorted(fields)[:_SHOWN]
                more = f" and {len(fields) - _SHOWN} more" if len(fields) > _SHOWN else ""
                raise ConfigError(
                    f"{setting}: no input has a field or column {name}; there are {', '.join(shown)}{more}. {fix}"
                )


def _column_of_content(config: PrepareConfig, name: str) -> str:
    """The column that an input reads as this part of the content, such as `completion`; empty if there is none."""
    if not any(name in columns for columns in COLUMNS.values()):
        return ""
    read = (one.columns.get(name) for one in config.inputs)
    return next((one for one in read if isinstance(one, str)), "")


def with_named_columns(config: PrepareConfig) -> PrepareConfig:
    """The config with the columns of each input that settings name and `columns` does not. Reads the beginning of one
    file of each input, or of some while names are missing.

    Raises:
        ConfigError: no input has a field that a setting names, although all are there; or a source of tables has no
            column that `validate.require` or `split.by_time` names, so that all of its records would be removed.
    """
    store, root = config.store, paths.absolute(config.output)
    wanted: dict[str, None] = {}  # fields that settings name and that are not of every record
    for setting, fields in fields_of_settings(config):
        made = FOUND if setting in _OF_STRATA else ()
        wanted |= dict.fromkeys(name for name in fields if name not in (*made, *BASE_METADATA, *FIELDS))
    stores = input_stores(store, [as_input(one, TEXT) for one in config.inputs])
    sources, seen, complete = [], set[str](), True
    lacking: list[tuple[str, _Names, set[str]]] = []
    for number, (source, of_source) in enumerate(zip(config.inputs, stores, strict=True)):
        missing = [name for name in wanted if name not in source.columns]
        names = _names(source, store, of_source, root, missing)
        if names is None:
            complete = complete and not missing
        else:
            found = {name: name for name in missing if name in names.columns or "open" in names.kinds}
            column = next((one for one in ("provenance", "parents") if one in names.columns), None)
            if column and not source.table and not {*source.columns, *source.columns.values()} & {*PROVENANCE}:
                found["provenance"] = column
            if not source.table:
                made_by = generated_columns(names.columns)
                found |= {name: column for name, column in made_by.items() if name not in source.columns}
            seen |= names.columns
            lacking.append((f"inputs[{number}] ({source.source})", names, set(missing) - found.keys()))
            source = source.model_copy(update={"columns": {**source.columns, **found}})
        sources.append(source)
    if complete:  # what no record at the beginning of any input has is a mistake, though a later one may have it
        nowhere = wanted.keys() - seen - {name for one in config.inputs for name in one.columns}
        for at, one in enumerate(sources):
            kept = {field: column for field, column in one.columns.items() if field not in nowhere}
            sources[at] = one.model_copy(update={"columns": kept})
    resolved = config.model_copy(update={"inputs": tuple(sources)})
    if complete:
        refuse_unknown_fields(resolved, sorted(seen))
    by_time = (config.split.by_time,) if config.split.by_time else ()
    for where, names, without in lacking:
        # Documents have no columns, so that nothing is required of them.
        is_table = names.columns and names.kinds & {"header", "typed"}
        for setting, required in (("validate.require", config.validation.require), ("split.by_time", by_time)):
            for name in required if is_table else ():
                if name in without:
                    advice = f"Name the column, as in `columns: {{{name}: COLUMN}}`, or leave {name} out of {setting}."
                    problem = no_column(setting, name, sorted(names.columns), otherwise=advice)
                    raise ConfigError(f"{where}: {problem} All of its records would be removed.")
    return resolved


def _names(source: Source, store: Store, of_source: Store, root: str, wanted: Sequence[str]) -> _Names | None:
    """The columns of a source; None if they are not known: it is not fetched, or cannot be read, which listing the
    inputs reports.
    """
    if source.table is not None:
        return _Names(frozenset(source.table.columns), frozenset({"header"}))
    if source.connection and not is_fetched(source, store, root):
        return None
    columns, kinds = set[str](), set[str]()
    try:
        (source,) = with_corpora([source], store)
        input = as_input(source, TEXT, root)
        for file, format in find_files(of_source, input).files[:FILES_LOOKED_AT]:
            reader = READERS[format]
            columns.update(reader.column_names(of_source, file, input))
            kinds.add("fixed" if source.pages else reader.columns)
            if columns and columns.issuperset(wanted):
                break
    except UserError:
        return None
    return _Names(frozenset(columns), frozenset(kinds)) if kinds else None
