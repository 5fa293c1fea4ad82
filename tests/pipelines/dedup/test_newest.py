"""What `keeper: newest` compares: one number for dates, times, numbers and text of these, of every type."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from raymill.pipelines.dedup.compare import is_comparable, newness

NOON = datetime(2026, 11, 23, 12, 0, 0, 250_000, UTC)
SECONDS = NOON.timestamp()
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC).timestamp()


def found(values: list, type: pa.DataType) -> list[float]:
    return newness(pa.chunked_array([values[:1], values[1:]], type)).tolist()


@pytest.mark.parametrize(
    ("type", "value", "wanted"),
    [
        (pa.timestamp("s"), NOON.replace(tzinfo=None), SECONDS - 0.25),
        (pa.timestamp("ms"), NOON.replace(tzinfo=None), SECONDS),
        (pa.timestamp("us", "Asia/Tokyo"), NOON, SECONDS),
        (pa.timestamp("ns"), NOON.replace(tzinfo=None), SECONDS),
        (pa.date32(), date(2026, 11, 23), MIDNIGHT),
        (pa.date64(), date(2026, 11, 23), MIDNIGHT),
        (pa.int16(), 2026, 2026.0),
        (pa.uint64(), 1 << 53, float(1 << 53)),
        (pa.float32(), 0.5, 0.5),
        (pa.float64(), float("inf"), None),
        (pa.float64(), float("nan"), None),
        (pa.decimal128(10, 2), Decimal("3.25"), 3.25),
        (pa.string(), NOON.isoformat(), SECONDS),
        (pa.string(), "2026-11-23T12:00:00.25Z", SECONDS),
        (pa.string(), "2026-11-23 12:00:00.250000000", SECONDS),  # as a timestamp of nanoseconds is cast to text
        (pa.string(), NOON.astimezone(timezone(timedelta(hours=9))).isoformat(), SECONDS),
        (pa.string(), " 2026-11-23 ", MIDNIGHT),
        (pa.string(), "2026-11", datetime(2026, 11, 1, tzinfo=UTC).timestamp()),
        (pa.string(), "2026", 2026.0),
        (pa.string(), "-1.5e3", -1500.0),
        (pa.string(), "0001-01-01T00:00:00+14:00", -62_135_596_800.0 - 14 * 3600),
        (pa.string(), "yesterday", None),
        (pa.string(), "2026-13", None),
        (pa.string(), "nan", None),
        (pa.string(), "", None),
    ],
)
def test_a_value_of_each_type_is_a_number_and_null_is_none(type, value, wanted):
    assert is_comparable(type)
    none, number, again = found([None, value, value], type)
    assert np.isnan(none)
    assert (number, again) == (wanted, wanted) if wanted is not None else np.isnan([number, again]).all()


@pytest.mark.parametrize("type", [pa.bool_(), pa.binary(), pa.list_(pa.int64()), pa.time32("s"), pa.duration("s")])
def test_other_types_cannot_be_compared(type):
    assert not is_comparable(type)


def test_a_column_without_values_has_none_that_can_be_compared():
    assert is_comparable(pa.null())
    assert np.isnan(newness(pa.chunked_array([pa.nulls(2)]))).all()
    assert newness(pa.chunked_array([], pa.string())).tolist() == []


def test_microseconds_are_distinguished():
    times = [NOON.replace(tzinfo=None) + timedelta(microseconds=step) for step in range(4)]
    assert np.diff(found(times, pa.timestamp("us"))).min() > 0
