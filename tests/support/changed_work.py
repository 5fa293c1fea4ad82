"""Changes files of an unfinished run, as somebody could who gives it away: its manifests agree with them."""

import hashlib
import json

import pyarrow.parquet as pq


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
    at.write_text(json.dumps(manifest))
