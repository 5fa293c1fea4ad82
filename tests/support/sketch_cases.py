"""Documents with sketches, and the settings of their comparison."""

import os
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.artifact import Artifact, DataFile, Manifest, describe_schema
from raymill.cluster.store.store import Store

BANDS, ROWS = 4, 2


COLUMNS = BANDS * ROWS
SOURCES = {"a": "one", "b": "two", "c": "one"}  # source -> snapshot
KEEPERS = {
    "position": ({}, lambda text, source, score: 0),
    "longest": ({}, lambda text, source, score: -len(text)),
    "score": ({"keeper_score": "quality"}, lambda text, source, score: -score),
    "source": ({"sources": ("c", "a")}, lambda text, source, score: "ca".find(source) % 3),
    "newest": ({"newest_by": "date"}, lambda text, source, score: score),
}


def write_parquet(rows: dict[str, pa.Array], uri: str, cuts: list[int], first: str) -> Artifact:
    """An artifact of these columns with a file for each unit, which ends at a cut. first: the column that restarts."""
    table, files = pa.table(rows), []
    for unit, (start, end) in enumerate(pairwise([0, *cuts, table.num_rows])):
        part = table.slice(start, end - start)
        part = part.set_column(0, first, pa.array(range(part.num_rows), pa.int64()))
        os.makedirs(uri, exist_ok=True)
        pq.write_table(part, f"{uri}/{unit}.parquet", row_group_size=5)
        files.append(DataFile(f"{unit}.parquet", unit, part.num_rows, os.path.getsize(f"{uri}/{unit}.parquet"), ""))
    described = describe_schema(table.schema)
    return Artifact(
        Store(), uri, Manifest("", "", **described, files=files, counters={}, seconds=0, made="", version="")
    )
