"""Schemas of the two tables that `training.pack` writes: examples (tokenised documents) and packed rows.

Both are artifacts: Parquet files with a manifest.

    examples   one tokenised document per row, sorted by (split, place) within a unit
    packed     one training row per row, one artifact per split: packed/CORPUS/train, .../validation, .../test
"""

import pyarrow as pa

SPLITS = ("train", "validation", "test")

EXAMPLES = pa.schema(
    [
        ("split", pa.int8()),  # index in SPLITS
        ("place", pa.uint64()),  # sort key of the global shuffle: a hash of (seed, document id)
        ("document", pa.string()),  # the document's id
        ("ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.bool_())),  # the loss counts the prediction of this token; false for the first one
        ("label", pa.int32()),  # method probe: index of the class; null otherwise
    ]
)

PACKED = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),  # documents laid end to end, at most sequence_length tokens, without padding
        ("labels", pa.list_(pa.bool_())),  # as above; false for the first token of each document
        ("lengths", pa.list_(pa.int32())),  # tokens of each document of the row, in order; their sum is len(ids)
        ("documents", pa.list_(pa.string())),  # their ids; a split document occurs in several rows
        ("label", pa.int32()),
    ]
)

# Tokens of a row group, whose rows an epoch's order keeps together: about 1 MiB in memory, large enough that the
# latency of a request to an object store matters little.
_GROUP_TOKENS = 1 << 18


def rows_per_group(sequence_length: int) -> int:
    """Number of full rows in a row group. Groups of partly filled rows have more rows and about as many bytes."""
    return max(1, _GROUP_TOKENS // sequence_length)


# The target of positions that the loss leaves out; the value that torch's cross entropy ignores.
NO_TARGET = -100
