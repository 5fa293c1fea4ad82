"""Which documents share a key with another: the only ones that deduplication must hold in memory.

Most documents share no band with anyone. Keys are spilled to disk in partitions by their high bits, so that one
partition at a time is sorted in memory; what survives are the (key, document) pairs of keys that stand twice.

Memory: 16 bytes x keys per document x documents / partitions for the sort, plus 16 bytes for each surviving pair.
Disk: 16 bytes x keys per document x documents.
"""

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numba import njit

_PAIR = np.dtype([("key", "<u8"), ("document", "<i8")])
_PARTITION_BYTES = 128 << 20
_MOST_PARTITIONS = 256  # open files


def shared_keys(tables: Iterable[tuple[np.ndarray, np.ndarray]], expected_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose key occurs with at least two documents.

    Args:
        tables: (keys uint64[D, K], documents int64[D]); a key with itself in one row counts once.
        expected_pairs: about how many pairs will come; sets the number of partitions.

    Returns:
        key ids int64[P] (dense, from 0) and documents int64[P], sorted by key and then document.
    """
    partitions = int(min(_MOST_PARTITIONS, max(1, expected_pairs * _PAIR.itemsize // _PARTITION_BYTES)))
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
    pairs = np.empty(keys.size, _PAIR)
    pairs["key"] = keys.ravel()
    pairs["document"] = np.repeat(documents, keys.shape[1])
    if len(files) == 1:
        pairs.tofile(files[0])
        return
    place = (pairs["key"] >> np.uint64(32)) * np.uint64(len(files)) >> np.uint64(32)
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(len(files) + 1, dtype=np.uint64))
    for partition, file in enumerate(files):
        pairs[order[ends[partition] : ends[partition + 1]]].tofile(file)


def _shared(file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    file.seek(0)
    pairs = np.fromfile(file, _PAIR)
    order = np.lexsort((pairs["document"], pairs["key"]))
    keys, documents = pairs["key"][order], pairs["document"][order]
    fresh = np.ones(len(keys), bool)
    fresh[1:] = (keys[1:] != keys[:-1]) | (documents[1:] != documents[:-1])
    keys, documents = keys[fresh], documents[fresh]
    ids = np.empty(len(keys), np.int64)
    kept = _number_shared(keys, ids)
    return ids[kept], documents[kept]


@njit(cache=True, nogil=True)
def _number_shared(keys, ids):
    """Give the runs of at least two equal keys dense ids; a mask of the members of such runs."""
    kept = np.zeros(len(keys), np.bool_)
    count = 0
    start = 0
    while start < len(keys):
        end = start + 1
        while end < len(keys) and keys[end] == keys[start]:
            end += 1
        if end - start > 1:
            ids[start:end] = count
            kept[start:end] = True
            count += 1
        start = end
    return kept
