"""The inputs of a prepare config: where their files are, and which column of a source is which field of a record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import ConfigError, DataError, UserError
from cluster.run import RunFolder
from cluster.store import paths
from cluster.store.store import Store
from pipelines.curate.write_corpus import CORPUS
from pipelines.prepare.config import Source
from pipelines.prepare.content import FIELDS
from pipelines.prepare.fetch.snapshot import folder_of
from pipelines.prepare.tables.frame import check_table
from pipelines.readers import READERS
from pipelines.readers.find import find
from pipelines.readers.inputs import COLLECTED_AT, Input, input_stores
from pipelines.readers.reader import as_json_text
from pipelines.readers.recorded import INPUTS_JSON

# Usual names of columns, as field -> column; then optional ones. The first entry whose columns all exist is used.
RECOGNISED: tuple[tuple[dict[str, str], dict[str, str]], ...] = (
    ({"messages": "messages"}, {}),
    ({"messages": "conversations"}, {}),
    ({"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}, {"system": "system"}),
    ({"prompt": "prompt", "completion": "completion"}, {"system": "system"}),
    ({"prompt": "instruction", "completion": "output"}, {"input": "input", "system": "system"}),
    ({"prompt": "question", "completion": "answer"}, {}),
    ({"text": "text"}, {}),
)

# Sets of fields that say something; a source has one of them.
_FORMS = ({"text"}, {"messages"}, {"prompt", "completion"}, {"prompt", "chosen", "rejected"})


class RecordsInput(Input):
    """An input whose text may be a list of messages. Its metadata may have the names of columns of a corpus."""

    reserved: ClassVar[frozenset[str]] = frozenset({"row", "id", "text", "problem", "where", COLLECTED_AT})
    nested_text: ClassVar[bool] = True
    dated: ClassVar[bool] = True


@dataclass(frozen=True)
class Fields:
    """The fields of a source, or the columns of a table.

    columns: field -> column. main: the column that is read as text.
    """

    columns: Mapping[str, str]
    main: str

    def of(self, table: pa.Table) -> dict[str, list[str | None]]:
        """The values of each field. table: of `read_unit`, readable rows."""
        found = {}
        for field, name in self.columns.items():
            found[field] = _strings(table["text"] if name == self.main else table[name])
        return found


_TEXT = Fields({"text": "text"}, "text")


def _strings(column: pa.ChunkedArray) -> list[str | None]:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_pylist()
    if pa.types.is_binary(kind):  # texts of programs that do not mark them as such
        return [None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist()]
    if pa.types.is_nested(kind):
        return [as_json_text(value) for value in column.to_pylist()]
    return pc.cast(column, pa.string()).to_pylist()


def with_corpora(sources: Sequence[Source], store: Store) -> tuple[Source, ...]:
    """The sources, with the corpus in place of an output of `raymill curate`; its records keep their ids.

    Raises:
        DataError: the output has no corpus yet.
    """
    stores = input_stores(store, [as_input(one, _TEXT) for one in sources])
    return tuple(_with_corpus(one, of_source) for one, of_source in zip(sources, stores, strict=True))


def _with_corpus(source: Source, store: Store) -> Source:
    if source.path is None or source.path.startswith("hf://") or not store.exists(paths.join(source.path, INPUTS_JSON)):
        return source
    manifest = RunFolder(store, source.path).manifest_file.read()
    if manifest is None or manifest["kind"] != "curate":
        seen = "an unfinished run" if manifest is None else f"a run of kind {manifest['kind']}"
        raise DataError(
            f"inputs ({source.source}): {source.path} holds {seen}; wanted a finished run of `raymill curate`, or a "
            "folder of files. Finish it by running its command again, or name the folder with the files."
        )
    return source.model_copy(update={"path": paths.join(source.path, CORPUS), "id": source.id or "id"})


def fields_of(sources: Sequence[Source], store: Store, root: str) -> tuple[Fields, ...]:
    """The fields of each source. Reads the beginning of one file of a source without `columns`. root: the output.

    Raises:
        ConfigError: no column has a usual name, the columns say nothing together, or an expression of a table is wrong.
        UserError: as of `find`: a source has no file.
    """
    stores = input_stores(store, [as_input(one, _TEXT) for one in sources])
    found = []
    for number, (source, of_source) in enumerate(zip(sources, stores, strict=True)):
        where = f"inputs[{number}] ({source.source})"
        if source.table is not None:
            check_table(where, source.table)
            types = source.table.types
            main = next(name for name, kind in types.items() if kind == "text")
            found.append(Fields({name: name for name in types}, main))
            continue
        columns = source.columns
        if not _says_something(columns):
            columns = {"text": "text"} | columns if source.pages else _recognised(where, source, of_source, root)
        content = {field for field in columns if field in FIELDS} - {"system", "input"}
        if content not in _FORMS:
            raise ConfigError(
                f"{where}, columns: {', '.join(sorted(content)) or 'no field of the content'} given; wanted one of: "
                "text; messages; prompt and completion; prompt, chosen and rejected."
            )
        found.append(Fields(columns, columns[next(field for field in FIELDS if field in content)]))
    return tuple(found)


def as_input(source: Source, fields: Fields, root: str = "") -> RecordsInput:
    """The input that readers take. root: the output, below which are the rows of a source that is fetched."""
    shared = source.model_dump(include={"source", "path", "exclude", "format", "id", "licence", "delimiter", "split"})
    if source.connection:
        shared |= {"path": folder_of(root, source.source), "format": "fetched"}
    columns = tuple(dict.fromkeys(name for name in fields.columns.values() if name != fields.main))
    return RecordsInput(text=fields.main, columns=columns, storage=source.storage, **shared)


def _says_something(columns: Mapping[str, str]) -> bool:
    return any(field in FIELDS for field in columns)


def _recognised(where: str, source: Source, store: Store, root: str) -> dict[str, str]:
    """The columns of a source by their usual names, with the metadata that the config names."""
    try:
        file, format = find(store, as_input(source, _TEXT, root)).files[0]
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error
    except IndexError:
        raise ConfigError(
            f"{where}: {source.path or 'what was fetched'}: its files are empty. Point it at records."
        ) from None
    reader, input = READERS[format], as_input(source, _TEXT, root)
    schema = reader.cut(store, file, input).schema if reader.columns == "typed" else None
    names = reader.columns_of(store, file, input) if schema is None else schema.names
    if reader.columns == "fixed":
        names = (*names, "text")
    for needed, optional in RECOGNISED:
        if all(name in names for name in needed.values()):
            return needed | {field: name for field, name in optional.items() if name in names} | source.columns
    known = "; ".join(" and ".join(needed.values()) for needed, _ in RECOGNISED)
    raise ConfigError(
        f"{where}: {file.uri} has the columns {', '.join(names) or 'none'}, none of which is known as the content of a "
        f"record ({known}). Name them, as in `columns: {{prompt: COLUMN, completion: COLUMN}}`."
    )
