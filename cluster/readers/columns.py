"""The check of columns that settings name against those of files, with one set of messages for all kinds of runs."""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import pyarrow as pa

from raymill.cluster.formats import listed
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.reader import plain_type
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

FILES_LOOKED_AT = 20  # for one with columns
_COMPARED = 1000  # names of columns among which the nearest ones are looked for
# Kinds of types, separated by spaces, that a column may have, and their description.
Wanted = tuple[str, str]


def first_columns(
    store: Store, files: Sequence[tuple[FileInfo, str]], input: Input
) -> tuple[FileInfo, str, Sequence[str]]:
    """(a file, its format, its columns as far as its beginning shows them): the first of the files that has any.

    If none of the first files has, the first one without columns. files: at least one, with their formats.
    """
    found = ((*one, READERS[one[1]].column_names(store, one[0], input)) for one in files[:FILES_LOOKED_AT])
    return next((one for one in found if one[2]), (*files[0], ()))


def no_column(
    setting: str,
    name: str,
    names: Sequence[str],
    advice: str = "",
    *,
    holder: str = "It",
    otherwise: str = "",
    used: Collection[str | None] = (),
) -> str:
    """The message about a missing column.

    advice: default: the names that are alike, besides those `used` by other settings; if none is, `otherwise`.
    """
    near = get_close_matches(name, [one for one in names[:_COMPARED] if one not in used], 3, 0.5)
    otherwise = otherwise or f"Set `{setting}` to one of them."
    advice = advice or (f"Did you mean {' or '.join(near)}?" if near else otherwise)
    return f"no column {name} ({setting}). {holder} has: {listed(names)}. {advice}"


def near_names(name: str, names: Sequence[str]) -> str:
    """The column that is nearest to one that is missing, in brackets; empty if none is near."""
    near = get_close_matches(name, names[:_COMPARED], 1)
    return f" (did you mean {near[0]}?)" if near else ""


def repeated(setting: str, name: str, names: Sequence[str]) -> str:
    """The message about a column that a file has several times."""
    return f"has {names.count(name)} columns {name} ({setting}). Write it with unique names."


def other_separator(names: Sequence[str], wanted: Collection[str] = ()) -> str | None:
    """The message about a header that is one column because it has another separator; None if it is none.

    wanted: columns that settings name.
    """
    separator = next((one for one in ";|\t," if one in names[0]), None) if len(names) == 1 else None
    if separator is None or names[0] in wanted:
        return None
    return (
        f"the header is one column, {names[0]!r}, so the fields seem to be separated by {separator!r}. "
        f"Set `delimiter: {json.dumps(separator)}` in this input."
    )


def kind_of(type: pa.DataType) -> str:
    """The kind of a type: text, bytes, whole, float, flag, list, null or other."""
    type = plain_type(type)
    checks = {
        "text": pa.types.is_string,
        "bytes": pa.types.is_binary,
        "whole": pa.types.is_integer,
        "float": pa.types.is_floating,
        "flag": pa.types.is_boolean,
        "list": lambda type: pa.types.is_list(type) or pa.types.is_large_list(type),
        "null": pa.types.is_null,
    }
    return next((kind for kind, is_one in checks.items() if is_one(type)), "other")


def type_in(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column, or of COLUMN.FIELD of a column of structs; None if there is none, or several."""
    column, _, inner = name.partition(".")
    if name in schema.names:
        return schema.field(name).type if schema.names.count(name) == 1 else None
    structs = schema.field(column).type if schema.names.count(column) == 1 else None
    if structs is not None and pa.types.is_struct(structs) and structs.names.count(inner) == 1:
        return structs.field(inner).type
    return None


def column_of(name: str, names: Collection[str]) -> str:
    """The column to read for COLUMN or COLUMN.FIELD, of a file that has columns of these names."""
    whole = name.partition(".")[0]
    return whole if name not in names and whole in names else name


def value_in(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of COLUMN.FIELD of a column of structs or JSON objects; None if there is none."""
    if name in row:
        return row[name]
    column, _, field = name.partition(".")
    inner = row.get(column)
    if field and isinstance(inner, str) and inner.startswith("{"):  # as readers of JSON give an object
        with suppress(ValueError, RecursionError):
            inner = json.loads(inner)
    return inner.get(field) if field and isinstance(inner, dict) else None


def other_type(setting: str, name: str, schema: pa.Schema, wanted: Wanted, advice: str = "") -> str | None:
    """The message about a column of another type than wanted; None if it has one of these, or no value."""
    kinds, words = wanted
    type = type_in(schema, name)
    if type is None or kind_of(type) in (*kinds.split(), "null"):
        return None
    texts = [one.name for one in schema if kind_of(one.type) == "text"]
    advice = advice or f"Columns of strings: {', '.join(texts) or 'none'}."
    return f"column {name} ({setting}) is {type}; wanted {words}. {advice}"
