"""The two tables of this trade: examples (tokenised documents) and packed rows (what training reads).

Both are written by stages of `training.pack` and are Parquet with a manifest, like every artifact.

    examples   one tokenised document a row, sorted by (split, place) inside a unit
    packed     one training row a row, one artifact a split: packed/CORPUS/train, .../validation, .../test
"""

import pyarrow as pa

SPLITS = ("train", "validation", "test")

EXAMPLES = pa.schema(
    [
        ("split", pa.int8()),  # index in SPLITS
        ("place", pa.uint64()),  # where the document stands in the global shuffle: a hash of (seed, its id)
        ("document", pa.string()),  # its id
        ("ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.bool_())),  # the loss counts the prediction of this token; false for the first token
        ("label", pa.int32()),  # method probe: index of the class; null otherwise
    ]
)

PACKED = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),  # documents one after the other, at most sequence_length tokens, not padded
        ("labels", pa.list_(pa.bool_())),  # as above; false for the first token of each document
        ("lengths", pa.list_(pa.int32())),  # tokens of each document of the row, in order; their sum is len(ids)
        ("documents", pa.list_(pa.string())),  # their ids; a split document stands in several rows
        ("label", pa.int32()),
    ]
)

# Tokens of neighbouring rows that a row group holds and that an epoch's order keeps together: about 1 MiB in memory,
# enough for one request to a store to be worth its wait.
_GROUP_TOKENS = 1 << 18


def rows_per_group(sequence_length: int) -> int:
    """Full rows of one row group, about; rows that are not full come in larger groups of the same bytes."""
    return max(1, _GROUP_TOKENS // sequence_length)


# A target the loss passes over; the value that torch's cross entropy ignores.
NO_TARGET = -100
