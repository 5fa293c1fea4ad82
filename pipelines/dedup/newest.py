"""The newness of documents, as numbers that `keeper: newest` compares.

dates, timestamps   seconds since 1970, UTC if they have no zone
numbers             as they are, such as years or Unix seconds
text                a number, or a date, month or time in ISO 8601
"""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_DAY_S = 86_400
_OF_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def is_comparable(type: pa.DataType) -> bool:
    """Whether a carried column of this type can be `dedup.newest_by`."""
    kinds = pa.types
    checks = (kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_temporal, kinds.is_string, kinds.is_null)
    return any(check(type) for check in checks) and not (kinds.is_time(type) or kinds.is_duration(type))


def newness(column: pa.ChunkedArray) -> np.ndarray:
    """float64[D]: larger is newer; NaN for a value that is null, infinite, or text of another form.

    Times are exact to a microsecond, whole numbers up to 2^53.
    """
    kind = column.type
    if pa.types.is_string(kind):
        found = np.array([_of_text(text) for text in column.to_pylist()], np.float64)
    elif pa.types.is_timestamp(kind):
        unit = _OF_A_SECOND[kind.unit]
        values = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
        found = np.where(column.is_valid().to_numpy(), values // unit + values % unit / unit, np.nan)
    elif pa.types.is_date(kind):
        found = _numbers(column.cast(pa.date32()).cast(pa.int32())) * _DAY_S
    else:
        found = _numbers(column)
    return np.where(np.isfinite(found), found, np.nan)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()


def _of_text(text: str | None) -> float:
    if text is None:
        return np.nan
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        pass
    is_month = len(text) == len("2026-11")
    try:
        time = datetime.fromisoformat(f"{text}-01" if is_month else text)
    except ValueError:
        return np.nan
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
