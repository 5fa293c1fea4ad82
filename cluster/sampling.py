"""Random rows of an artifact, or of its rows with given values."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.readers.reader import python_rows

_OPERATOR = re.compile(r"\s*(<=|>=|!=|=|<|>|\sin\s)\s*")
_COMPARE = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
_VALUES_LISTED = 20


def draw_rows(artifact: Artifact, count: int, where: Sequence[str] = (), seed: int = 1) -> list[dict]:
    """A uniform sample of the rows without replacement, the same for the same seed. Reads all rows once.

    Args:
        count: the most rows.
        where: conditions `COLUMN=VALUE` (or <, <=, >, >=, !=) and `COLUMN in VALUE,VALUE`, all of which a row meets.
            The value of `reason` is a reason of the ledger (`line_punct_ratio`), a stage (`fineweb`), or both
            (`fineweb_line_punct_ratio`).

    Raises:
        ConfigError: there is no such column, or no row meets the conditions.
    """
    conditions = [_parse(condition, artifact) for condition in where]
    generator = np.random.default_rng(seed)
    best: list[tuple[float, dict]] = []
    seen = 0
    for table in artifact.tables():
        for condition in conditions:
            table = table.filter(_matches(table, condition))
        seen += table.num_rows
        keys = generator.random(table.num_rows)  # the rows with the smallest keys are the sample
        smallest = np.argsort(keys, kind="stable")[:count]
        best += zip(keys[smallest].tolist(), python_rows(table.take(smallest)), strict=True)
        best = sorted(best, key=lambda entry: entry[0])[:count]
    if not seen and conditions:
        raise ConfigError(_no_row(artifact, conditions))
    return [row for _, row in best]


class _Condition(NamedTuple):
    """A column that is compared with a value, or with `in` with several."""

    column: str
    operator: str
    values: list[str]


def _parse(condition: str, artifact: Artifact) -> _Condition:
    names = [name for name, _ in artifact.manifest.schema]
    for column in sorted(names, key=len, reverse=True):
        if condition.startswith(column):
            rest = condition[len(column) :]
            if match := _OPERATOR.match(rest):
                operator, value = match[1].strip(), rest[match.end() :]
                values = [one.strip() for one in value.split(",")] if operator == "in" else [value]
                return _Condition(column, operator, values)
    raise ConfigError(
        f"--where {condition}: wanted COLUMN=VALUE, with <, <=, >, >= or != in place of =, or COLUMN in VALUE,VALUE; "
        f"with one of the columns {', '.join(names)}."
    )


def _matches(table: pa.Table, condition: _Condition) -> pa.ChunkedArray:
    column, operator, values = condition
    if compare := _COMPARE.get(operator):
        return compare(*_comparable(table[column], condition))
    text = table[column].cast(pa.string())
    found = pc.is_in(text, pa.array(values))
    if column == "reason" and "stage" in table.column_names:
        full = pc.binary_join_element_wise(table["stage"], text, "_")
        for names in (table["stage"], full):
            found = pc.or_(found, pc.is_in(names, pa.array(values)))
    return pc.invert(found) if operator == "!=" else found


def _comparable(column: pa.ChunkedArray, condition: _Condition) -> tuple[pa.ChunkedArray, pa.Scalar]:
    """The column and the value in types that are ordered: text of numbers is compared as numbers."""
    (value,) = condition.values
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            if not _NUMBER.fullmatch(value):
                return column, pa.scalar(value, column.type)
            numbers = pc.if_else(pc.match_substring_regex(column, f"^{_NUMBER.pattern}$"), column, None)
            return numbers.cast(pa.float64()), pa.scalar(float(value))
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return column.cast(pa.float64()), pa.scalar(float(value))
        return column, pa.scalar(value).cast(column.type)
    except (ValueError, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"--where {condition.column}{condition.operator}{value}: {condition.column} is {column.type}, with which "
            f"{value!r} cannot be compared. Give a value of this type."
        ) from error


def _no_row(artifact: Artifact, conditions: list[_Condition]) -> str:
    """The message that no row meets the conditions, with values of the first column."""
    column = conditions[0].column
    values: set[str] = set()
    for table in artifact.tables([column]):
        values |= set(pc.unique(table[column].cast(pa.string())).to_pylist())
        if len(values) > _VALUES_LISTED:
            break
    listed = ", ".join(sorted(str(v) for v in values)[:_VALUES_LISTED])
    more = " and more" if len(values) > _VALUES_LISTED else ""
    given = " and ".join(_condition_text(one) for one in conditions)
    return f"{artifact.uri}: no row has {given}. {column} there holds: {listed}{more}."


def _condition_text(condition: _Condition) -> str:
    operator = f" {condition.operator} " if condition.operator == "in" else condition.operator
    return f"{condition.column}{operator}{','.join(condition.values)}"
