"""Inputs of which settings of a config name columns: these are read, and messages name the setting of each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from raymill.cluster.errors import UserError
from raymill.cluster.readers.columns import column_of, first_columns
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.listing import find_files
from raymill.cluster.store.store import Store


class NamedColumnsInput(Input):
    """An input with the columns that settings name, which may have the names of columns of a corpus; lists are text."""

    reserved: ClassVar[frozenset[str]] = frozenset({"row", "id", "problem", "where"})
    nested_text: ClassVar[bool] = True

    settings: tuple[tuple[str, str], ...] = Field((), exclude=True)  # column -> setting that names it, for messages

    def setting_of(self, setting: str, column: str) -> str:
        """The setting that names the column."""
        return setting if setting == "id" else dict(self.settings).get(column, setting)


def with_columns_of_settings(store: Store, input: Input, named: Mapping[str, str]) -> NamedColumnsInput:
    """The input with these columns, and the column `id` as ids where its files have one.

    The first column, or `text` if it is named, is read as the text; of COLUMN.FIELD, a field of a column of structs,
    COLUMN is read. See `columns.value_in` for the values.

    named: column -> the first setting that names it.
    """
    given = input.model_dump(exclude_unset=True)
    names = _names(store, NamedColumnsInput.model_validate(given))
    columns = dict[str, str]()
    for one, setting in named.items():
        columns.setdefault(column_of(one, names), setting)
    text = "text" if "text" in columns else next(iter(columns))
    given |= {"text": text, "columns": tuple(one for one in columns if one != text), "settings": tuple(columns.items())}
    if given.get("id") is None and "id" in names:
        given["id"] = "id"
    return NamedColumnsInput.model_validate(given)


def _names(store: Store, input: Input) -> Sequence[str]:
    """Names of columns at the beginning of an input; empty if it cannot be read, which freezing it reports."""
    try:
        own = store if input.storage is None else replace(store, options=input.storage)
        files = find_files(own, input).files
        return first_columns(own, files, input)[2] if files else ()
    except UserError:
        return ()
