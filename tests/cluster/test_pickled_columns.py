"""A column of pickled Python objects, which run code once Ray Data is imported, is refused wherever files are read."""

import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data.extensions import ArrowPythonObjectArray, ArrowPythonObjectType

from raymill.cluster.artifact import open_parquet
from raymill.cluster.errors import DataError
from raymill.cluster.readers.formats.arrow_streams import record_batches
from raymill.cluster.readers.formats.parquet import footer_of
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.streams import UnreadableRest
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import refuse_pickled

OBJECT = ArrowPythonObjectType()
STORE = Store()


class Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def table(tmp_path):
    """A table whose second column would make the file `ran`."""
    yield pa.table({"id": ["a"], "more": ArrowPythonObjectArray.from_objects([Touches(tmp_path / "ran")])})
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def file(table, tmp_path) -> str:
    pq.write_table(table, tmp_path / "a.parquet")
    return str(tmp_path / "a.parquet")


def test_the_column_would_run_code(tmp_path):
    pickle.loads(pickle.dumps(Touches(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_each_type_within_others_is_looked_at_once():
    """Twice at each depth would be 2^60 times, for a file of some kilobytes."""
    kind: pa.DataType = pa.null()
    for _ in range(60):
        kind = pa.list_(kind)
    refuse_pickled(pa.schema({"a": kind}))
    with pytest.raises(pa.ArrowInvalid, match="a column holds pickled Python objects"):
        refuse_pickled(pa.schema({"a": kind, "b": pa.list_(pa.list_(OBJECT))}))


@pytest.mark.parametrize(
    "kind",
    [OBJECT, pa.run_end_encoded(pa.int32(), OBJECT), pa.large_list_view(OBJECT),
     pa.list_(OBJECT), pa.struct({"a": pa.int8(), "b": OBJECT}), pa.map_(pa.string(), pa.list_(OBJECT)),
     pa.large_list(pa.struct({"a": OBJECT})), pa.list_(OBJECT, 2), pa.dictionary(pa.int8(), OBJECT)],
    ids=str,
)  # fmt: skip
def test_it_is_found_within_other_types(kind):
    refuse_pickled(pa.schema({"a": pa.list_(pa.string()), "b": pa.dictionary(pa.int8(), pa.string())}))
    with pytest.raises(pa.ArrowInvalid, match="a column holds pickled Python objects"):
        refuse_pickled(pa.schema({"a": pa.string(), "b": kind}))


STATED = pa.field("x", pa.large_binary(), metadata={"ARROW:extension:name": "ray.data.arrow_pickled_object"})


@pytest.mark.parametrize(
    "field",
    [STATED, pa.field("a", pa.list_(STATED)), pa.field("a", pa.struct([pa.field("b", pa.large_list(STATED))])),
     pa.field("a", pa.map_(pa.field("key", pa.string(), nullable=False), STATED))],
    ids=str,
)  # fmt: skip
def test_it_is_found_where_the_process_does_not_know_the_type_yet(field):
    with pytest.raises(pa.ArrowInvalid, match="a column holds pickled Python objects"):
        refuse_pickled(pa.schema([field]))


class NamedValues(pa.ExtensionType):
    """A type that has a name as its `value_type`, as Array2D of `datasets` has."""

    value_type = "int64"

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.int64()), "named_values")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "NamedValues":
        return cls()


def test_types_of_other_libraries_are_no_pickled_objects():
    kind = NamedValues()
    refuse_pickled(pa.schema({"a": kind}))


def test_a_file_of_a_run_is_refused_in_a_process_that_has_not_imported_ray_data(file):
    code = (
        "import sys; from raymill.cluster.artifact import open_parquet; from raymill.cluster.store.store import Store\n"
        "try:\n    open_parquet(Store(), sys.argv[1])\nexcept Exception as error:\n    print(error)\n"
        "print('ray.data' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert "a column holds pickled Python objects" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_a_parquet_file_of_a_run_is_refused(file):
    with pytest.raises(DataError, match="a column holds pickled Python objects"):
        open_parquet(STORE, file)


def test_a_parquet_input_is_refused(file):
    (info,) = STORE.list_files(str(Path(file).parent))
    with pytest.raises(DataError, match="a column holds pickled Python objects"):
        footer_of(STORE, info)


def test_an_arrow_input_is_refused(table, tmp_path):
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with STORE.open_input(str(tmp_path / "a.arrow")) as handle, pytest.raises(UnreadableRest, match="corrupt_batch"):
        list(record_batches(handle, Limits()))
