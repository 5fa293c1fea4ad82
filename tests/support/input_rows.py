"""Reads the files of one input, as a run does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.readers.units import InputManifest, read_unit
from raymill.cluster.store.store import Store

LIMITS = Limits()


def read(manifest: InputManifest, limits: Limits = LIMITS, table_bytes: int = 8 << 20) -> list[tuple[int, dict]]:
    """(unit, row as a dict) of everything."""
    return [
        (unit.index, row)
        for unit in manifest.units
        for table in read_unit(unit, manifest.reading, limits, table_bytes)
        for row in table.to_pylist()
    ]


def rows_of(path: Path, limits: Limits = LIMITS, unit_bytes: int = 1 << 20, **settings: Any) -> list[dict]:
    return [row for _, row in read(freeze(Store(), [Input(path=str(path), **settings)], unit_bytes), limits)]


def texts_and_problems(rows: list[dict]) -> list[str]:
    """Each row's text, or its problem in brackets."""
    for row in rows:
        assert (row["text"] is None) == (row["problem"] is not None) == (row["where"] is not None)
        assert row["problem"] is None or row["problem"] in PROBLEMS
    return [row["text"] if row["problem"] is None else f"<{row['problem']}>" for row in rows]


def peak_mib_reading(
    path: Path, limits: str = "Limits()", unit_bytes: int = 1 << 20, settings: str = ""
) -> tuple[int, list[str]]:
    """(growth of the largest memory while a process of its own reads, the problems it met)."""
    code = f"""
import resource
from raymill.cluster.store.store import Store
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.units import read_unit
manifest = freeze(Store(), [Input(path={str(path)!r}, {settings})], {unit_bytes})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problems = []
for unit in manifest.units:
    for table in read_unit(unit, manifest.reading, {limits}):
        problems += table["problem"].drop_null().to_pylist()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, *problems)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    peak, *problems = done.stdout.split()
    return int(peak), problems


def parquet(path: Path, column: pa.Array, **options) -> Path:
    ids = pa.array([str(number) for number in range(len(column))])
    pq.write_table(pa.table({"id": ids, "text": column}), path, **options)
    return path
