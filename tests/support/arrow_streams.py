"""Arrow streams, and data sets that `save_to_disk` wrote of them."""

import json
from pathlib import Path

import pyarrow as pa


def stream(batches, compression: str | None = "zstd") -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=True)
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def saved(folder: Path, data: bytes) -> Path:
    """The stream as a data set that `save_to_disk` wrote."""
    folder.mkdir()
    (folder / "data-00000-of-00001.arrow").write_bytes(data)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder
