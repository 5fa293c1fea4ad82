"""The types and values of columns that are read from Parquet and Arrow files: one list for all readers and products.

A column of another type is refused by the schema of its file, before a value is read: Arrow's kernels, Parquet and
Python lack parts of these types, and a few bytes of some of them stand for any number of values. Columns that no
setting names may have any type.

A value of a listed type that Python and Parquet cannot hold, such as a time of the year 292,277, is a problem of its
row.
"""

from collections.abc import Collection, Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BAD_VALUE = "bad_value"
BAD_UTF8 = "bad_utf8"

_VIEWS = {pa.lib.Type_STRING_VIEW, pa.lib.Type_BINARY_VIEW}
_TEXTS = {pa.lib.Type_STRING, pa.lib.Type_LARGE_STRING}
_TIMES = {
    pa.lib.Type_DATE32, pa.lib.Type_DATE64, pa.lib.Type_TIME32, pa.lib.Type_TIME64, pa.lib.Type_TIMESTAMP,
    pa.lib.Type_DURATION,
}  # fmt: skip
_DECIMALS = {pa.lib.Type_DECIMAL32, pa.lib.Type_DECIMAL64, pa.lib.Type_DECIMAL128, pa.lib.Type_DECIMAL256}
_SINGLE = {
    pa.lib.Type_NA, pa.lib.Type_BOOL,
    pa.lib.Type_INT8, pa.lib.Type_INT16, pa.lib.Type_INT32, pa.lib.Type_INT64,
    pa.lib.Type_UINT8, pa.lib.Type_UINT16, pa.lib.Type_UINT32, pa.lib.Type_UINT64,
    pa.lib.Type_HALF_FLOAT, pa.lib.Type_FLOAT, pa.lib.Type_DOUBLE,
    pa.lib.Type_BINARY, pa.lib.Type_LARGE_BINARY, pa.lib.Type_FIXED_SIZE_BINARY,
    *_VIEWS, *_TEXTS, *_TIMES, *_DECIMALS,
}  # fmt: skip
_LISTS = {pa.lib.Type_LIST, pa.lib.Type_LARGE_LIST, pa.lib.Type_FIXED_SIZE_LIST}
_NESTED = {pa.lib.Type_STRUCT, pa.lib.Type_MAP, *_LISTS}
_MOST_LEVELS = 64  # as Arrow reads them
_REFUSED = {
    pa.lib.Type_LIST_VIEW: "list views are not read; cast them to lists",
    pa.lib.Type_LARGE_LIST_VIEW: "list views are not read; cast them to lists",
    pa.lib.Type_RUN_END_ENCODED: "run-end encoded values are not read; decode them (`pyarrow.compute.run_end_decode`)",
    pa.lib.Type_DENSE_UNION: "unions are not read; write the values as JSON text",
    pa.lib.Type_SPARSE_UNION: "unions are not read; write the values as JSON text",
    pa.lib.Type_INTERVAL_MONTH_DAY_NANO: "intervals are not read; write them as durations or as text",
}
_SHOWN = 200  # characters of a type

# Range of Python's dates: the years 1 to 9999.
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
_DAY_S = 86_400
_MOST_DAYS = 999_999_999  # of a timedelta
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UTC = {"UTC", "Etc/UTC", "GMT", "Z", "+00:00"}


def type_problem(type: pa.DataType, level: int = 0) -> str | None:
    """Why columns of this type are not read, and what to do; None if they are read."""
    if level > _MOST_LEVELS:
        return f"more than {_MOST_LEVELS} levels are not read; write the values as JSON text"
    if isinstance(type, pa.BaseExtensionType):
        return type_problem(type.storage_type, level + 1)
    kind = type.id
    if kind == pa.lib.Type_DICTIONARY:
        if type.value_type.id in _SINGLE - _VIEWS:
            return type_problem(type.value_type, level + 1)
        return "dictionaries of other values than texts, numbers and times are not read; decode them"
    if kind in _DECIMALS and type.scale < 0:
        return "decimals of a negative scale are not read; cast them to a scale of 0"
    if kind == pa.lib.Type_FIXED_SIZE_BINARY and not type.byte_width:
        return "binary values of no bytes are not read; leave the column out"
    if kind in _SINGLE:
        return None
    if kind not in _NESTED:
        return _REFUSED.get(kind, "this type is not read; write the values as text")
    if kind == pa.lib.Type_STRUCT:
        if not type.num_fields:
            return "structs without fields are not read; leave the column out"
        names = type.names
        if len(set(names)) < len(names):
            return "structs with two fields of one name are not read; give each field its own name"
    return next(filter(None, (type_problem(type.field(at).type, level + 1) for at in range(type.num_fields))), None)


def column_problem(schema: pa.Schema, names: Collection[str], setting: str = "") -> str | None:
    """The message about the first of the columns whose type is not read; None if there is none.

    names: columns that are read, also as COLUMN.FIELD; those that the file lacks are passed over.
    """
    own = set(schema.names)
    wanted = {name if name in own else name.partition(".")[0] for name in names}
    for field in schema if wanted & own else ():
        if field.name in wanted and (problem := type_problem(field.type)):
            shown = str(field.type)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
            return f"column {field.name}{f' ({setting})' * bool(setting)} is {shown}: {problem}."
    return None


@lru_cache(1024)
def is_known_zone(zone: str) -> bool:
    """Whether Python has the time zone."""
    try:
        pa.lib.string_to_tzinfo(zone)
    except (ValueError, KeyError, OSError, pa.ArrowException):
        return False
    return True


def value_problems(column: pa.Array) -> dict[int, str]:
    """Row -> problem of the values that Python and Parquet cannot hold.

    Those are dates and times out of range (`bad_value`), and texts that are not UTF-8 (`bad_utf8`), also within lists,
    structs and maps.
    """
    if not _has_bounds(column.type):
        return {}
    found: dict[int, str] = {}
    for problem, rows in _marked(column):
        for row in rows.tolist():
            found.setdefault(row, problem)
    return found


def _has_bounds(type: pa.DataType) -> bool:
    if isinstance(type, pa.BaseExtensionType):
        return _has_bounds(type.storage_type)
    if type.id == pa.lib.Type_DICTIONARY:
        return _has_bounds(type.value_type)
    if type.id in _NESTED:
        return any(_has_bounds(type.field(at).type) for at in range(type.num_fields))
    return type.id in _TEXTS or type.id in _TIMES


def _marked(array: pa.Array) -> Iterator[tuple[str, np.ndarray]]:
    """(problem, int64 rows of the array that have it)."""
    type = array.type
    if isinstance(type, pa.BaseExtensionType):
        yield from _marked(array.storage)
    elif type.id in _TIMES:
        yield BAD_VALUE, _out_of_range(array)
    elif type.id in _TEXTS:
        yield BAD_UTF8, np.array(invalid_texts(array), np.int64)
    elif type.id == pa.lib.Type_DICTIONARY:
        for problem, values in _marked(array.dictionary):
            if len(values):
                yield problem, np.flatnonzero(np.isin(array.indices.fill_null(-1).to_numpy(), values))
    elif type.id == pa.lib.Type_STRUCT:
        for field in array.flatten() if _has_bounds(type) else ():
            yield from _marked(field)
    elif type.id == pa.lib.Type_MAP:
        start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        parents = np.repeat(np.arange(len(array)), np.diff(array.offsets.to_numpy()))
        for inner in (array.keys, array.items):
            for problem, rows in _marked(inner.slice(start, end - start)):
                yield problem, parents[rows]
    elif type.id in _LISTS and _has_bounds(type):
        parents = pc.list_parent_indices(array).to_numpy()
        for problem, rows in _marked(array.flatten()):
            yield problem, parents[rows]


def _out_of_range(array: pa.Array) -> np.ndarray:
    """The rows whose date, time or duration is out of Python's range."""
    low, high = _range(array.type)
    numbers = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())
    seen = pc.min_max(numbers).as_py()
    if seen["min"] is None or (low <= seen["min"] and seen["max"] <= high):
        return np.zeros(0, np.int64)
    # A bound beyond 64 bits bounds nothing, and Arrow has no number for it.
    numbers = numbers.cast(pa.int64())
    limits = np.iinfo(np.int64)
    beyond = pc.or_(pc.less(numbers, max(low, limits.min)), pc.greater(numbers, min(high, limits.max)))
    return np.flatnonzero(pc.fill_null(beyond, False).to_numpy(False))


def _range(type: pa.DataType) -> tuple[int, int]:
    """The smallest and the largest number of a type that is a value of Python."""
    if pa.types.is_date32(type):
        return _FIRST_DAY, _LAST_DAY
    if pa.types.is_date64(type):
        return _FIRST_DAY * _DAY_S * 1000, (_LAST_DAY + 1) * _DAY_S * 1000 - 1
    unit = _PER_SECOND[type.unit]
    if pa.types.is_time(type):
        return 0, _DAY_S * unit - 1
    if pa.types.is_duration(type):
        return -_MOST_DAYS * _DAY_S * unit, _MOST_DAYS * _DAY_S * unit
    # In another zone the first and the last day may be of another year.
    margin = 0 if type.tz is None or type.tz in _UTC else 1
    return (_FIRST_DAY + margin) * _DAY_S * unit, (_LAST_DAY + 1 - margin) * _DAY_S * unit - 1


def invalid_texts(column: pa.Array) -> list[int]:
    """Rows of a column that are not UTF-8; none of a column of another type than string."""
    if column.type.id not in _TEXTS:
        return []
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        binary = column.view(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        found = []
        for row, value in enumerate(binary):
            try:
                if value.is_valid:
                    str(memoryview(value.as_buffer()), "utf-8")
            except UnicodeDecodeError:
                found.append(row)
        return found
    return []
