"""Keys that several documents have, found by one task with the help of its disk.

Keys are written to local disk in partitions by their high bits, and one partition at a time is sorted in memory. The
result is the (key, document) pairs of keys that occur more than once.

Memory: 16 bytes x keys per document x documents / partitions for the sort, plus 16 bytes per pair of the result.
Disk: 16 bytes x keys per document x documents.
"""

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipelines.text.kernel import kernel

_PAIR = np.dtype([("key", "<u8"), ("document", "<i8")])
_PARTITION_BYTES = 128 << 20
_MAX_PARTITIONS = 256  # each is an open file


def repeated_keys(
    tables: Iterable[tuple[np.ndarray, np.ndarray]], expected_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """(key, document) pairs of the keys that occur in at least two documents.

    Args:
        tables: (keys uint64[D, K], documents int64[D]) each; a key that a document has twice counts once.
        expected_pairs: approximate number of pairs in all tables; sets the number of partitions.

    Returns:
        key ids int64[P] (dense, from 0) and documents int64[P], sorted by key and then document.
    """
    partitions = int(min(_MAX_PARTITIONS, max(1, expected_pairs * _PAIR.itemsize // _PARTITION_BYTES)))
    with tempfile.TemporaryDirectory(prefix="raymill-keys-") as folder, ExitStack() as stack:
        names = [Path(folder, str(partition)) for partition in range(partitions)]
        files = [stack.enter_context(name.open("w+b")) for name in names]
        for table_keys, numbers in tables:
            _spill(table_keys, numbers, files)
        found = [_shared(file) for file in files]
    ids, holders = [], []
    first = 0
    for keys, documents in found:
        ids.append(keys + first)
        holders.append(documents)
        first += int(keys[-1]) + 1 if len(keys) else 0
    return np.concatenate(ids), np.concatenate(holders)


def _spill(keys: np.ndarray, documents: np.ndarray, files: Sequence[BinaryIO]) -> None:
    """Append the pairs of one table to the files of their partitions."""
    pairs = np.empty(keys.size, _PAIR)
    pairs["key"] = keys.ravel()
    pairs["document"] = np.repeat(documents, keys.shape[1])
    if len(files) == 1:
        pairs.tofile(files[0])
        return
    partition = (pairs["key"] >> np.uint64(32)) * np.uint64(len(files)) >> np.uint64(32)
    order = np.argsort(partition, kind="stable")
    ends = np.searchsorted(partition[order], np.arange(len(files) + 1, dtype=np.uint64))
    for number, file in enumerate(files):
        pairs[order[ends[number] : ends[number + 1]]].tofile(file)


def _shared(file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """(key ids, documents) of one partition, as in repeated_keys."""
    file.seek(0)
    pairs = np.fromfile(file, _PAIR)
    order = np.lexsort((pairs["document"], pairs["key"]))
    keys, documents = pairs["key"][order], pairs["document"][order]
    distinct = np.ones(len(keys), bool)
    distinct[1:] = (keys[1:] != keys[:-1]) | (documents[1:] != documents[:-1])
    keys, documents = keys[distinct], documents[distinct]
    ids, kept = np.empty(len(keys), np.int64), np.zeros(len(keys), np.bool_)
    _number_shared(keys, ids, kept)
    return ids[kept], documents[kept]


@kernel
def _number_shared(keys, ids, kept):
    """Write dense ids of the runs of at least two equal keys to `ids`, and True to `kept`, for the members."""
    count = 0
    start = 0
    while start < len(keys):
        end = start + 1
        while end < len(keys) and keys[end] == keys[start]:
            end += 1
        if end - start > 1:
            for member in range(start, end):
                ids[member], kept[member] = count, True
            count += 1
        start = end
