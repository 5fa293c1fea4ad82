"""Bytes of memory of one task of a stage of `curate`, which Ray reserves and `submit` compares with the nodes."""

from cluster.read.limits import Limits

_GIB = 1 << 30

# Measured (peak resident memory of a process that did `measure` and `select` on 300 MB of technical texts, 2026-11-22):
# 0.55 to 0.6 GiB with units of 64 and 256 MiB of Parquet and JSONL alike, because documents stream through a task in
# tables of 8 MB; 0.2 of it are libraries, and 0.3 more while kernels are compiled.
_TASK = _GIB
# A document above the 8 MB of a table is a table of its own, which takes this multiple of its bytes.
_TABLE_BYTES = 8 << 20
_OF_A_DOCUMENT = 20


def task_memory(limits: Limits) -> int:
    """Bytes of a unit of `measure` or `select`."""
    return _TASK + _OF_A_DOCUMENT * max(0, limits.max_document_bytes - _TABLE_BYTES)


# Bytes of a unit that reads numbers and no text. Measured (peak resident memory of a process, 2026-11-24): `ids.ranges`
# of four million documents 0.47 GB, `duplicates` of two million rows 0.39, `merge` of 256 files of tallies 0.32,
# `decide` and `index` of 400,000 documents 0.2.
NUMBERS_MEMORY = 1 << 29


# Bytes for each byte of a unit's text, while its different lines or windows are counted.
_OF_KEYS = 2
_OF_WINDOWS = 4  # of a unit with 40% of its words in repeats


def select_memory(limits: Limits, file_bytes: int, *, cuts: bool) -> int:
    """Bytes of a unit of `select`. file_bytes: text of a corpus file. cuts: whether the unit cuts pieces or windows."""
    return task_memory(limits) + cuts * file_bytes  # the keys of text that fills a file: at most a quarter of it


def keys_memory(limits: Limits, unit_bytes: int) -> int:
    """Bytes of a unit that counts keys of its text (shared_keys.py). unit_bytes: text of the largest unit."""
    return task_memory(limits) + _OF_KEYS * unit_bytes


def windows_memory(limits: Limits, unit_bytes: int) -> int:
    """Bytes of a unit that counts windows of its text (repeats.py). unit_bytes: text of the largest unit."""
    return task_memory(limits) + _OF_WINDOWS * unit_bytes
