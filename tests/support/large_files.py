"""Parquet files of a real size for counting requests: attributes, input documents and tallies of made-up content."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.output import Output, OutputFiles
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.stages.decide import Decide
from raymill.pipelines.curate.stages.measure import attributes_schema
from raymill.pipelines.curate.stages.tallies import TALLIES_SCHEMA

CONFIG = CurateConfig.model_validate(
    {
        "kind": "curate",
        "name": "large",
        "inputs": [{"path": "none", "id": "id"}],
        "output": "none",
        "rules": {"packs": ["gopher_quality", "gopher_repetition", "c4", "fineweb"]},
    }
)
WORDS = np.array([f"word{number}" for number in range(5000)])


def attributes_file(folder: Path, documents: int = 25_000) -> Path:
    """Attributes as the stage `measure` writes them, of all rules: 25,000 documents are 20 MB."""
    random = np.random.default_rng(1)
    schema = attributes_schema(CONFIG, CONFIG.filters)
    columns = {}
    for field in schema:
        kind = field.type
        if pa.types.is_integer(kind):
            values = np.arange(documents) if field.name == "row" else random.integers(0, 5000, documents)
            columns[field.name] = pa.array(values, kind)
        elif pa.types.is_fixed_size_binary(kind):
            columns[field.name] = _random_bytes(random, documents, kind)
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):  # the signatures of long documents
            columns[field.name] = _random_bytes(random, documents, pa.binary(448)).cast(kind)
        elif pa.types.is_string(kind):
            ids = [f"https://example.org/{number}" for number in random.integers(0, 1 << 60, documents)]
            same = {"source": "web", "language": "en"}.get(field.name)
            columns[field.name] = pa.repeat(same, documents) if same else pa.array(ids)
        else:
            columns[field.name] = pa.array(random.random(documents), kind)
    return _written(Output("attributes", schema, row_group_bytes=8 << 20), pa.table(columns, schema), folder)


def tallies_file(folder: Path) -> Path:
    """Tallies of a unit: 3,000 keys."""
    random = np.random.default_rng(2)
    names = [f"signal_{number}" for number in range(75)]
    rows = [("histogram", "web", "", name, bin) for name in names for bin in range(40)]
    columns = {key: list(values) for key, values in zip(TALLIES_SCHEMA.names, zip(*rows, strict=True), strict=False)}
    columns |= {"documents": random.integers(0, 99, len(rows)), "characters": random.integers(0, 9999, len(rows))}
    return _written(Output("tallies", TALLIES_SCHEMA), pa.table(columns, TALLIES_SCHEMA), folder)


def input_file(folder: Path, documents: int = 25_000, row_group_rows: int = 5000) -> Path:
    """Documents of 2.9 kB with an id and a column that is not read: 25,000 are 27 MB."""
    random = np.random.default_rng(3)
    texts = [" ".join(WORDS[random.integers(0, len(WORDS), 400)]) for _ in range(documents)]
    other = _random_bytes(random, documents, pa.binary(100))
    table = pa.table({"id": [f"{number:020}" for number in range(documents)], "other": other, "text": texts})
    path = folder / "input.parquet"
    pq.write_table(table, path, compression="zstd", row_group_size=row_group_rows)
    return path


def needed_bytes(path: Path, wanted: set[str] | None = None) -> int:
    """Compressed bytes of the columns, and the footer."""
    footer = pq.read_metadata(path)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(footer.num_columns)]
    used = sum(chunk.total_compressed_size for chunk in chunks if wanted is None or chunk.path_in_schema in wanted)
    return used + footer.serialized_size


def _random_bytes(random: np.random.Generator, rows: int, kind: pa.FixedSizeBinaryType) -> pa.Array:
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(random.bytes(rows * kind.byte_width))])


def decide_work(store) -> Decide:
    return Decide(store, CONFIG.filters)


def _written(output: Output, table: pa.Table, folder: Path) -> Path:
    files = OutputFiles(output, folder)
    files.write(table)
    ((path, _),) = files.finish()
    return path
