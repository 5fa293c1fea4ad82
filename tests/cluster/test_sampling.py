"""A sample of the rows of an artifact that have given values."""

import pyarrow as pa
import pytest

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.errors import ConfigError
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.cluster.store.store import Store
from tests.support.stages import run_inline

ROWS = [
    {"id": "a", "kept": True, "score": 1.0, "stars": 3, "source": "web"},
    {"id": "b", "kept": False, "score": 0.5, "stars": 4, "source": None},
    {"id": "c", "kept": True, "score": None, "stars": 5, "source": "news"},
]
SCHEMA = pa.schema(
    {"id": pa.string(), "kept": pa.bool_(), "score": pa.float64(), "stars": pa.int64(), "source": pa.string()}
)


def write(unit: int, scratch: Scratch) -> Counters:
    scratch.write("rows", pa.Table.from_pylist(ROWS, SCHEMA))
    return {}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Artifact:
    stage = Stage("rows", (Output("rows", SCHEMA),), [0], write, "f" * 32, Store())
    return run_inline(stage, str(tmp_path_factory.mktemp("run")))["rows"]


@pytest.mark.parametrize(
    ("equal", "ids"),
    [
        ({"kept": True}, "ac"),
        ({"score": 1}, "a"),
        ({"score": 1.0, "kept": True}, "a"),
        ({"stars": 4}, "b"),
        ({"stars": "4"}, "b"),
        ({"source": None}, "b"),
    ],
)
def test_a_value_is_compared_in_the_type_of_its_column(rows, equal, ids):
    assert sorted(row["id"] for row in rows.sample(9, **equal)) == list(ids)


@pytest.mark.parametrize(
    ("condition", "ids"),
    [("kept=True", "ac"), ("score=1.0", "a"), ("score!=1", "bc"), ("stars in 3, 5", "ac"), ("kept=false", "b")],
)
def test_a_condition_in_text_is_compared_in_the_type_of_its_column(rows, condition, ids):
    assert sorted(row["id"] for row in rows.sample(9, where=[condition])) == list(ids)


def test_an_unknown_column_is_an_error_that_names_the_artifact_and_its_columns(rows):
    for asked in ({"colour": "red"}, {"where": ["colour=red"]}):
        with pytest.raises(ConfigError) as caught:
            rows.sample(1, **asked)
        error = caught.value
        assert (error.where, error.seen) == (f"{rows.uri}, colour=red", "no condition on a column")
        assert error.wanted.startswith("COLUMN=VALUE") and error.wanted.endswith("id, kept, score, stars, source")


def test_a_value_of_another_type_is_an_error(rows):
    with pytest.raises(ConfigError, match=r"stars=many: stars is int64, with which 'many' cannot be compared\. Give"):
        rows.sample(1, stars="many")
