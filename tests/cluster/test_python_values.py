"""Values that Python cannot have are None, and the others of their column are as they were."""

import pyarrow as pa
import pytest

from cluster.readers.reader import python_rows


@pytest.mark.parametrize(
    ("type", "odd"),
    [
        (pa.timestamp("s"), 1 << 60),
        (pa.duration("s"), 1 << 60),
        (pa.date32(), (1 << 31) - 1),
        (pa.list_(pa.timestamp("s")), [1 << 60]),
    ],
)
def test_a_value_beyond_those_of_python_is_none_and_its_neighbours_stay(type, odd):
    ordinary = [0] if pa.types.is_list(type) else 0
    column = pa.array([ordinary, odd, None], type)
    assert [row["at"] for row in python_rows(pa.table({"at": column}))] == [column[0].as_py(), None, None]


def test_a_time_of_an_unknown_zone_and_a_string_that_is_not_utf_8_are_none():
    table = pa.table(
        {"at": pa.array([0], pa.timestamp("s", "../../etc")), "text": pa.array([b"\xff"]).view(pa.string())}
    )
    assert python_rows(table.append_column("n", pa.array([7]))) == [{"at": None, "text": None, "n": 7}]
