"""Changes files of an unfinished run, as somebody could who gives it away: its manifests agree with them."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.output import read_slices, table_of, table_slice, write_slices
from raymill.cluster.store.store import Store


def change(folder, edit) -> None:
    """Change the largest file of an artifact, and its manifest."""
    at = folder / "_manifest.json"
    manifest = json.loads(at.read_text())
    named = max(manifest["files"], key=lambda one: one["rows"])
    path = folder / named["path"]
    table = pq.read_table(path)
    pq.write_table(edit(table).cast(table.schema), path)
    data = path.read_bytes()
    rows = pq.read_metadata(path).num_rows
    named |= {"rows": rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    at.write_text(json.dumps(manifest | {"digest": ""}))  # computed


def change_slices(folder, edit) -> None:
    """Change the rows of each table of a sliced file, and its manifest."""
    at = folder / "_manifest.json"
    manifest = json.loads(at.read_text())
    (named,) = manifest["files"]
    path = folder / named["path"]
    count = int.from_bytes(path.read_bytes()[:8], "little") // 8 - 1
    tables = [read_slices(Store(), [str(path)], number, table_of)[0] for number in range(count)]
    made = [
        b"" if one is None else table_slice(pa.Table.from_pylist(edit(one.to_pylist()), one.schema)) for one in tables
    ]
    write_slices(path, made)
    data = path.read_bytes()
    named |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    at.write_text(json.dumps(manifest | {"digest": ""}))  # computed
