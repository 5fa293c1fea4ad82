"""Random rows of an artifact, or of its rows with given values."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, Problem
from raymill.cluster.readers.reader import few_rows

_OPERATOR = re.compile(r"\s*(<=|>=|!=|=|<|>|\sin\s)\s*")
_COMPARE = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
_VALUES_LISTED = 20


def draw_rows(
    artifact: Artifact,
    count: int,
    where: Sequence[str] = (),
    seed: int = 1,
    equal: Mapping[str, object] | None = None,
) -> list[dict]:
    """A uniform sample of the rows without replacement, the same for the same seed. Reads all rows once.

    Args:
        count: the most rows.
        where: conditions `COLUMN=VALUE` (or <, <=, >, >=, !=) and `COLUMN in VALUE,VALUE`, all of which a row meets.
            The value of `reason` is a reason of the ledger (`line_punct_ratio`), a stage (`fineweb`), or both
            (`fineweb_line_punct_ratio`).
        equal: column -> the value that a row has in it; None: null.

    Raises:
        ConfigError: there is no such column, or no row meets the conditions.
    """
    conditions = [_parse(condition, artifact) for condition in where]
    for column, value in (equal or {}).items():
        conditions.append(_Condition(column, "=", [value]))
        if column not in artifact.schema.names:
            raise _no_condition(str(conditions[-1]), artifact)
    generator = np.random.default_rng(seed)
    best: list[tuple[float, dict]] = []
    seen = 0
    for table in artifact.tables():
        for condition in conditions:
            table = table.filter(_matches(table, condition, artifact))
        seen += table.num_rows
        keys = generator.random(table.num_rows)  # the rows with the smallest keys are the sample
        smallest = np.argsort(keys, kind="stable")[:count]
        best += zip(keys[smallest].tolist(), few_rows(table.take(smallest), artifact.uri), strict=True)
        best = sorted(best, key=lambda entry: entry[0])[:count]
    if not seen and conditions:
        raise ConfigError(_no_row(artifact, conditions))
    return [row for _, row in best]


class _Condition(NamedTuple):
    """A column that is compared with a value, or with `in` with several."""

    column: str
    operator: str
    values: list[Any]

    def __str__(self) -> str:
        operator = f" {self.operator} " if self.operator == "in" else self.operator
        return f"{self.column}{operator}{','.join(map(str, self.values))}"


def _parse(condition: str, artifact: Artifact) -> _Condition:
    for column in sorted(artifact.schema.names, key=len, reverse=True):
        if condition.startswith(column):
            rest = condition[len(column) :]
            if match := _OPERATOR.match(rest):
                operator, value = match[1].strip(), rest[match.end() :]
                values = [one.strip() for one in value.split(",")] if operator == "in" else [value]
                return _Condition(column, operator, values)
    raise _no_condition(condition, artifact)


def _no_condition(condition: str, artifact: Artifact) -> ConfigError:
    wanted = (
        "COLUMN=VALUE, with <, <=, >, >= or != in place of =, or COLUMN in VALUE,VALUE; with one of the columns "
        f"{', '.join(artifact.schema.names)}"
    )
    near = get_close_matches(re.split(r"\W", condition, maxsplit=1)[0], artifact.schema.names, 1)
    fix = f"Did you mean {near[0]}?" if near else ""
    return ConfigError.about(Problem.of(f"{artifact.uri}, {condition}", "no condition on a column", wanted, fix))


def _matches(table: pa.Table, condition: _Condition, artifact: Artifact) -> pa.ChunkedArray:
    name, operator, values = condition
    column = table[name]
    try:
        if compare := _COMPARE.get(operator):
            return compare(*_comparable(column, values[0]))
        text = column.cast(pa.string())
        # Cast to the column's type first, so that 1 and 1.0, or True and `true`, are the same value.
        wanted = pa.array([pa.scalar(one).cast(column.type).cast(pa.string()).as_py() for one in values], pa.string())
    except (ValueError, pa.ArrowNotImplementedError) as error:
        shown = ", ".join(map(repr, values))
        seen = f"{name} is {column.type}, with which {shown} cannot be compared"
        where = f"{artifact.uri}, {condition}"
        raise ConfigError.about(Problem.of(where, seen, fix="Give a value of this type.")) from error
    found = pc.is_in(text, wanted)
    if name == "reason" and "stage" in table.column_names:
        full = pc.binary_join_element_wise(table["stage"], text, "_")
        for names in (table["stage"], full):
            found = pc.or_(found, pc.is_in(names, wanted))
    return pc.invert(found) if operator == "!=" else found


def _comparable(column: pa.ChunkedArray, value: str) -> tuple[pa.ChunkedArray, pa.Scalar]:
    """The column and the value in types that are ordered: text of numbers is compared as numbers."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        if not _NUMBER.fullmatch(value):
            return column, pa.scalar(value, column.type)
        numbers = pc.if_else(pc.match_substring_regex(column, f"^{_NUMBER.pattern}$"), column, None)
        return numbers.cast(pa.float64()), pa.scalar(float(value))
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.cast(pa.float64()), pa.scalar(float(value))
    return column, pa.scalar(value).cast(column.type)


def _no_row(artifact: Artifact, conditions: list[_Condition]) -> str:
    """The message that no row meets the conditions, with values of the first column."""
    given = " and ".join(map(str, conditions))
    if not artifact.rows:
        return f"{artifact.uri}: no row has {given}: it has no rows."
    column = conditions[0].column
    values: set[str] = set()
    for table in artifact.tables([column]):
        values |= set(pc.unique(table[column].cast(pa.string())).to_pylist())
        if len(values) > _VALUES_LISTED:
            break
    listed = ", ".join(sorted(str(v) for v in values)[:_VALUES_LISTED])
    more = " and more" if len(values) > _VALUES_LISTED else ""
    return f"{artifact.uri}: no row has {given}. {column} there holds: {listed}{more}."
