"""Values of Arrow columns that others wrote as values of Python, which has no year above 9999 and fewer time zones."""

from typing import Any

import pyarrow as pa

# KeyError: of pytz, where it is installed, for a zone that it does not have.
_NOT_OF_PYTHON = (ValueError, KeyError, OverflowError, pa.ArrowException)


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The column's values as those of Python; None for one that Python cannot have.

    That is a year above 9999, a time of an unknown zone, or a string that is not UTF-8, also within a list or struct.
    """
    try:
        return column.to_pylist()
    except _NOT_OF_PYTHON:
        return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except _NOT_OF_PYTHON:
        return None


def python_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """The table's rows, with values as of `python_values`. Of equal column names the last one counts."""
    columns = [python_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
