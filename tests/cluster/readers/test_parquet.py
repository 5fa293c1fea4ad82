"""Parquet files on a store."""

import pyarrow as pa
import pytest

from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet


class Opened(Store):
    """A store that keeps the files which it opened."""

    files: list[pa.NativeFile] = []  # noqa: RUF012

    def open_parts(self, uri: str) -> pa.NativeFile:
        self.files.append(super().open_parts(uri))
        return self.files[-1]


def test_a_file_that_is_no_parquet_is_closed(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no footer")
    store = Opened()
    with pytest.raises(pa.ArrowInvalid):
        StoredParquet(store, str(tmp_path / "bad.parquet"))
    assert [file.closed for file in store.files] == [True]
