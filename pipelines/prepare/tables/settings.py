"""The settings `table` of an input."""

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.prepare.records.templates import Template

ColumnType = Literal["text", "integer", "number", "boolean", "date", "time"]
Missing = Literal["drop", "flag", "median", "mean", "most_frequent"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NUMERIC = ("integer", "number")


class _TableSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fill(_TableSettings):
    """A value in the place of missing ones."""

    fill: str | int | float | bool


class ColumnOutliers(_TableSettings):
    """Numbers far from the others of their column.

    iqr: more than `factor` interquartile ranges below the first quartile or above the third (Tukey 1977). mad: more
    than `factor` times MAD / 0.6745 from the median (Iglewicz and Hoaglin 1993), where MAD is the median distance from
    it. A column whose interquartile range, or MAD, is 0 has no outliers.
    """

    columns: tuple[str, ...] = Field(min_length=1)
    method: Literal["iqr", "mad"] = "iqr"
    factor: float | None = Field(None, gt=0, description="default: 1.5 for iqr, 3.5 for mad")
    action: Literal["drop", "flag"] = Field("flag", description="flag: a column COLUMN_outlier is true")

    @property
    def distance(self) -> float:
        """`factor`, with the default applied."""
        return self.factor or (1.5 if self.method == "iqr" else 3.5)


class Table(_TableSettings):
    """How the rows of a table become records. Other columns than those of `types` are not read."""

    types: dict[str, ColumnType] = Field(
        min_length=1,
        description="column -> its type; in Parquet and JSON Lines every row has a value in the first text column, or "
        "without one in the first column, which in JSON Lines is a string",
    )
    empty: tuple[str, ...] = Field(
        ("", "NA", "N/A", "NaN", "null", "None"),
        description="values that are missing ones; spaces around them do not count",
    )
    missing: dict[str, Missing | Fill] = Field(
        {},
        description="column -> what is done where its value is missing. drop: the row is removed; flag: a column "
        "COLUMN_missing is true; median, mean, most_frequent: of the column; {fill: VALUE}. Default: it stays empty",
    )
    outliers: ColumnOutliers | None = None
    unique: tuple[str, ...] | None = Field(
        None, description="a row whose values here are those of an earlier row is removed; default: all; []: none is"
    )
    derive: dict[str, str] = Field(
        {}, description="new column -> an expression of SQL on the columns of a row, in this order"
    )
    template: Template = Field(description="prompt and completion, with names of columns in braces")

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
        for field in self.template.fields - {*self.columns, "source"}:
            raise ValueError(
                f"template: there is no column {field}; there are {', '.join(self.columns)}. Add a column of the file "
                f"to `types`, as in `{field}: text`"
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
