"""Tables as sources: typed columns, missing values, outliers, derived columns, and a template. On polars.

All of it is done row by row, so a table can be read in parts; what depends on all rows (stages/tables.py) comes as
`Known`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, Field, model_validator

from raymill.cluster.errors import ConfigError
from raymill.pipelines.prepare.records.conversion import Template
from raymill.pipelines.prepare.records.fields import FailedRule
from raymill.pipelines.prepare.records.times import in_iso, microseconds

ColumnType = Literal["text", "integer", "number", "boolean", "date", "time"]
Missing = Literal["drop", "flag", "median", "mean", "most_frequent"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NUMERIC = ("integer", "number")
# Why a row of a table is no record.
REASONS = {
    "bad_value": "a value that is not of the column's type in `table.types`",
    "missing_value": "no value in a column whose rows `table.missing` drops",
    "outlier": "a number that `table.outliers` drops",
    "repeated_row": "the values of an earlier row, in the columns of `table.unique`",
}
# Functions of polars that are computed row by row.
_FUNCTIONS = frozenset(
    ("Sql", "StringExpr", "TemporalExpr", "Boolean", "Coalesce", "Abs", "Ceil", "Floor", "Log", "Exp", "Pow", "Sign",
     "MaxHorizontal", "MinHorizontal", "Trigonometry", "Negate")
)  # fmt: skip
_BOOLEAN = frozenset(("IsNull", "IsNotNull", "Not", "IsIn", "IsBetween", "IsNan", "IsNotNan", "IsFinite"))
_OF_MANY_ROWS = frozenset(("ConcatVertical",))
_CLOCK = re.compile(r"\b(now|current_\w+|local(time|timestamp)|today)\b", re.IGNORECASE)
_CASE = re.compile(r"\s*case\b", re.IGNORECASE)
_TRUE, _FALSE = ("true", "yes", "1", "t", "y"), ("false", "no", "0", "f", "n")
_TYPES: dict[ColumnType, pl.DataType] = {
    "text": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "time": pl.Datetime("us", "UTC"),
}


class Fill(BaseModel, extra="forbid", frozen=True):
    """A value in the place of missing ones."""

    fill: str | int | float | bool = Field(description="Value in the place of missing ones")


class ColumnOutliers(BaseModel, extra="forbid", frozen=True):
    """Numbers far from the others of their column.

    iqr: more than `factor` interquartile ranges below the first quartile or above the third (Tukey 1977). mad: more
    than `factor` times MAD / 0.6745 from the median (Iglewicz and Hoaglin 1993), where MAD is the median distance from
    it. A column whose interquartile range, or MAD, is 0 has no outliers.
    """

    columns: tuple[str, ...] = Field(
        min_length=1, description="Names of the number columns that are searched for outliers"
    )
    method: Literal["iqr", "mad"] = Field(
        "iqr", description="Measure of distance: interquartile range (iqr), or median absolute deviation (mad)"
    )
    factor: float | None = Field(
        None,
        gt=0,
        description="Number of interquartile ranges or scaled deviations beyond which a number is an outlier; null: "
        "1.5 for iqr, 3.5 for mad",
    )
    action: Literal["drop", "flag"] = Field(
        "flag", description="Treatment of rows with an outlier: drop, or flag (a column COLUMN_outlier is true)"
    )

    @property
    def distance(self) -> float:
        """`factor`, with the default applied."""
        return self.factor or (1.5 if self.method == "iqr" else 3.5)


class Table(BaseModel, extra="forbid", frozen=True):
    """How the rows of a table become records. Other columns than those of `types` are not read."""

    types: dict[str, ColumnType] = Field(
        min_length=1,
        description="Type of each column that is read. In Parquet and JSON Lines the first text column, else the "
        "first column, must have a value in every row",
    )
    empty: tuple[str, ...] = Field(
        ("", "NA", "N/A", "NaN", "null", "None"),
        description="Values that count as missing; spaces around them are ignored",
    )
    missing: dict[str, Missing | Fill] = Field(
        {},
        description="Treatment of missing values by column: drop (the row), flag (a column COLUMN_missing), median, "
        "mean, most_frequent, or {fill: VALUE}; in other columns they stay empty",
    )
    outliers: ColumnOutliers | None = Field(None, description="Search for outliers in number columns; null: none")
    unique: tuple[str, ...] | None = Field(
        None,
        description="Columns whose equal values make a row a repeat, which is removed; null: all columns; []: no row "
        "is removed",
    )
    derive: dict[str, str] = Field(
        {}, description="SQL expression of each new column, on the columns of its row, in this order"
    )
    template: Template = Field(description="Prompt and completion of a record, with names of columns in braces")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in (*self.types, *self.derive):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name}: is no name of a column here; use letters, digits and _")
        asked = {"missing": tuple(self.missing), "unique": self.unique or ()}
        asked["outliers.columns"] = self.outliers.columns if self.outliers else ()
        for setting, names in asked.items():
            for name in names:
                if name not in self.types:
                    raise ValueError(f"{setting}: {name} is not in `types`, which has {', '.join(self.types)}")
        numeric = [name for name, how in self.missing.items() if how in ("median", "mean")]
        for name in (*numeric, *asked["outliers.columns"]):
            if self.types[name] not in NUMERIC:
                raise ValueError(f"{name}: is {self.types[name]}; median, mean and outliers are of numbers")
        if twice := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: is the name of two columns; rename the derived one")
        for name in self.template.fields - {*self.columns, "source"}:
            raise ValueError(
                f"template: there is no column {name}; there are {', '.join(self.columns)}. Add a column of the file "
                f"to `types`, as in `{name}: text`"
            )
        return self

    @property
    def flags(self) -> tuple[str, ...]:
        """The columns that are added for missing values and outliers."""
        missing = [f"{name}_missing" for name, how in self.missing.items() if how == "flag"]
        flagged = self.outliers.columns if self.outliers and self.outliers.action == "flag" else ()
        return (*missing, *(f"{name}_outlier" for name in flagged))

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a finished row."""
        return (*self.types, *self.flags, *self.derive)


@dataclass(frozen=True)
class Known:
    """What depends on all rows of a source.

    fills: column -> the value for missing ones. bounds: column -> least and most number that is no outlier.
    """

    fills: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def check_table(where: str, table: Table) -> None:
    """
    Raises:
        ConfigError: a derived column is no SQL, names a column that is not there, or needs other rows or the clock; or
            a value for missing ones is not of its column's type.
    """
    for name, how in table.missing.items():
        if isinstance(how, Fill) and _filling(table, name, str(how.fill)) is None:
            raise ConfigError(
                f"{where}, table.missing.{name}: {how.fill!r} given; wanted a value of type {table.types[name]}."
            )
    known = [*table.types, *table.flags]
    types = {name: _TYPES[kind] for name, kind in table.types.items()}
    typed = pl.DataFrame(schema=types | dict.fromkeys(table.flags, pl.Boolean()))
    for name, text in table.derive.items():
        at = f"{where}, table.derive.{name}: {text!r}"
        try:
            expression = pl.sql_expr(text)
            names, tree = expression.meta.root_names(), json.loads(expression.meta.serialize(format="json"))
        except pl.exceptions.PolarsError as error:
            why = str(error).splitlines()[0]
            if _CASE.match(text):  # polars takes a CASE that is not complete for a column
                raise ConfigError(
                    f"{at} is no complete CASE. Write CASE WHEN condition THEN value ELSE value END."
                ) from error
            raise ConfigError(f"{at} is no expression ({why}). Write SQL, as in price * 2.") from error
        if strange := [one for one in names if one not in known]:
            raise ConfigError(
                f"{at}: there is no column {strange[0]} at this point; there are {', '.join(known)}. If it is a text, "
                f"write it in single quotes: '{strange[0]}'."
            )
        if not names or _CLOCK.search(text) or not _is_of_one_row(tree):
            raise ConfigError(
                f"{at} is not made of the values of one row. Leave out aggregates, other rows and the present time."
            )
        typed = typed.with_columns(_evaluated(typed, name, text, where))
        known.append(name)


def _is_of_one_row(node: Any) -> bool:
    """Whether each value of an expression is made of the values of its own row. node: of polars' serialized tree.

    `is_row_separable` of polars says so of aggregates, too (2.1).
    """
    if not isinstance(node, dict):
        return False  # `Len`, the number of rows
    ((kind, inner),) = node.items()
    match kind:
        case "Column" | "Literal":
            return True
        case "Cast":
            return _is_of_one_row(inner["expr"])
        case "BinaryExpr":
            return _is_of_one_row(inner["left"]) and _is_of_one_row(inner["right"])
        case "Ternary":
            return all(_is_of_one_row(inner[part]) for part in ("predicate", "truthy", "falsy"))
        case "Function":
            function = inner["function"]  # a name, or family -> name, or family -> name -> arguments
            ((family, of_family),) = function.items() if isinstance(function, dict) else ((function, ""),)
            name = next(iter(of_family), "") if isinstance(of_family, dict) else of_family
            name = name if isinstance(name, str) else ""
            known = family in _FUNCTIONS and name not in _OF_MANY_ROWS and (family != "Boolean" or name in _BOOLEAN)
            return known and all(map(_is_of_one_row, inner["input"]))
        case _:
            return False


def typed(
    columns: Mapping[str, Sequence[str | None]], table: Table, day_first: bool | None = None
) -> tuple[pl.DataFrame, list[FailedRule | None]]:
    """(the values in their types, null where one is missing or wrong; of each row the first wrong value).

    day_first: see `in_iso`.
    """
    raw = pl.DataFrame({name: columns[name] for name in table.types}, schema=dict.fromkeys(table.types, pl.String))
    plain = raw.select(pl.all().str.strip_chars())
    given = plain.select(pl.when(pl.all().is_in(list(table.empty))).then(None).otherwise(pl.all()).name.keep())
    # A text stays as it is written, and is missing like other values.
    frame = given.select(
        pl.when(pl.col(name).is_not_null()).then(raw[name]).alias(name)
        if kind == "text"
        else _parsed(name, kind, day_first)
        for name, kind in table.types.items()
    )
    dropped: list[FailedRule | None] = [None] * len(raw)
    for name, kind in table.types.items():
        for row in (given[name].is_not_null() & frame[name].is_null()).arg_true().to_list():
            dropped[row] = dropped[row] or FailedRule("bad_value", f"{name}: {plain[name][row]}"[:200], kind)
    return frame, dropped


def _parsed(name: str, kind: ColumnType, day_first: bool | None) -> pl.Expr:
    text = pl.col(name)
    match kind:
        case "integer":
            return text.cast(pl.Int64, strict=False)
        case "number":
            number = text.cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number).alias(name)
        case "boolean":
            lower = text.str.to_lowercase()
            return pl.when(lower.is_in(_TRUE)).then(True).when(lower.is_in(_FALSE)).then(False).alias(name)
        case "date":
            plain = text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)

            def day(value: str) -> date | None:
                """The day that a date or time names, in its own time zone."""
                iso = in_iso(value, day_first)
                return None if iso is None else datetime.fromisoformat(iso).date()

            other = pl.when(plain.is_null()).then(text).map_elements(day, pl.Date)
            return plain.fill_null(other).alias(name)
        case _:
            # polars takes the format of a column from its first value, which is another one in another unit.
            parsed = text.map_elements(lambda value: microseconds(in_iso(value, day_first)), pl.Int64)
            return parsed.cast(_TYPES["time"])


def finished(frame: pl.DataFrame, table: Table, known: Known) -> tuple[pl.DataFrame, list[FailedRule | None]]:
    """(the rows with all columns of `Table.columns` as text; why a row is dropped, None if it is not).

    frame: of `typed`.
    """
    frame, dropped = filled(frame, table, known)
    for name, text in table.derive.items():
        frame = frame.with_columns(_evaluated(frame, name, text, ""))
    return frame.select(_as_text(frame, name) for name in table.columns), dropped


def filled(frame: pl.DataFrame, table: Table, known: Known) -> tuple[pl.DataFrame, list[FailedRule | None]]:
    """(the rows with missing values filled, and columns of flags; why a row is dropped, None if it is not).

    frame: of `typed`.
    """
    dropped: list[FailedRule | None] = [None] * len(frame)
    for name, how in table.missing.items():
        empty = frame[name].is_null()
        if how == "drop":
            _drop(dropped, empty, lambda row, name=name: FailedRule("missing_value", name, "a value"))  # type: ignore[misc]
        elif how == "flag":
            frame = frame.with_columns(empty.alias(f"{name}_missing"))
        elif (value := str(how.fill) if isinstance(how, Fill) else known.fills.get(name)) is not None:
            frame = frame.with_columns(frame[name].fill_null(_filling(table, name, value)))
    if table.outliers:
        for name in table.outliers.columns:
            low, high = known.bounds.get(name, (-np.inf, np.inf))
            far = ((frame[name] < low) | (frame[name] > high)).fill_null(False)
            if table.outliers.action == "flag":
                frame = frame.with_columns(far.alias(f"{name}_outlier"))
            else:
                values, limit = frame[name], f"{low:g} to {high:g}"
                _drop(dropped, far, lambda row, values=values, limit=limit: FailedRule(  # type: ignore[misc]
                    "outlier", f"{values.name}: {values[row]:g}", limit))  # fmt: skip
    return frame, dropped


def _filling(table: Table, name: str, value: str) -> Any:
    """A value in the type of its column; None if it is of another."""
    return typed({one: [value if one == name else None] for one in table.types}, table)[0][name][0]


def _drop(dropped: list[FailedRule | None], rows: pl.Series, why: Callable[[int], FailedRule]) -> None:
    for row in rows.arg_true().to_list():
        dropped[row] = dropped[row] or why(row)


def _evaluated(frame: pl.DataFrame, name: str, text: str, where: str) -> pl.Series:
    """
    Raises:
        ConfigError: the columns have not the types that the expression needs.
    """
    try:
        return frame.select(pl.sql_expr(text).alias(name))[name]
    except pl.exceptions.PolarsError as error:
        at = f"{where}, table.derive.{name}: {text!r}"
        raise ConfigError(
            f"{at} cannot be computed ({str(error).splitlines()[0]}). Check the types of its columns."
        ) from error


def _as_text(frame: pl.DataFrame, name: str) -> pl.Expr:
    column, kind = pl.col(name), frame.schema[name]
    if kind.is_float() or kind.is_decimal():
        number = column.cast(pl.Float64)
        # 3.0 is written as 3, as in most tables.
        whole = (number == number.round()) & (number.abs() < 1e15)
        as_whole = number.cast(pl.Int64, strict=False).cast(pl.String)
        return pl.when(whole).then(as_whole).otherwise(number.cast(pl.String)).alias(name)
    return column.cast(pl.String)
