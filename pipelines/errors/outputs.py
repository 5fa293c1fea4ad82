"""The artifacts of the stage `analyse`, and their columns."""

import pyarrow as pa

from raymill.pipelines.errors.items import READ_SCHEMA

ITEMS, NEAREST = "items", "nearest"
FINDINGS, FACTS = "_work/findings", "_work/facts"

ITEMS_SCHEMA = pa.schema(
    [
        *READ_SCHEMA,
        ("is_error", pa.bool_()),
        ("cause", pa.string()),  # of an error, see causes.py; null: no training records are known
        ("length", pa.int64()),  # characters of the prompt
        ("language", pa.string()),
        ("cluster", pa.string()),
        ("slices", pa.list_(pa.string())),  # with more errors than the rest
    ]
)
NEAREST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the error
        ("record", pa.string()),  # id of a training record, the nearest first
        ("cosine", pa.float64()),
        ("prompt", pa.large_string()),
        ("answer", pa.large_string()),
    ]
)
FINDINGS_SCHEMA = pa.schema([("finding", pa.string()), ("file", pa.string()), ("line", pa.large_string())])
FACTS_SCHEMA = pa.schema([("facts", pa.large_string())])
