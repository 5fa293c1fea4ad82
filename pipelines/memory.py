"""Bytes of memory of a task on documents, which Ray reserves and `submit` compares with the nodes."""

from collections.abc import Iterable

from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.streams import COMPRESSED
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.pipelines.rules.bad_words import BadWords
from raymill.pipelines.rules.decontamination import Decontamination
from raymill.pipelines.rules.rule import files_read_by
from raymill.pipelines.rules.url_blocklist import UrlBlocklist
from raymill.pipelines.rules.url_words import UrlWords

_GIB = 1 << 30

# Measured (peak resident memory of a process that did `measure` and `select` on 300 MB of technical texts, 2026-11-22):
# 0.55 to 0.6 GiB with units of 64 and 256 MiB of Parquet and JSONL alike, because documents stream through a task in
# tables of 8 MB; 0.2 of it are libraries, and 0.3 more while kernels are compiled.
_TASK = _GIB
# A document above the 8 MB of a table is a table of its own, which takes this multiple of its bytes.
_TABLE_BYTES = 8 << 20
_OF_A_DOCUMENT = 20
# Compressed and decompressed. One of this size is part of _TASK.
_OF_A_BLOCK = 2
_BLOCK_BYTES = 256 << 20


def task_memory(limits: Limits) -> int:
    """Bytes of a unit of `measure` or `select`, without the models and lists that `measure` loads."""
    documents = _OF_A_DOCUMENT * max(0, limits.max_document_bytes - _TABLE_BYTES)
    return _TASK + documents + _OF_A_BLOCK * max(0, (limits.max_block_mib << 20) - _BLOCK_BYTES)


# Each process loads the models and lists of the settings, which takes this multiple of their files. Measured (growth
# of the peak resident memory, 2026-11-24): dense fastText models of 200 MB 2.0 and, with dimensions that are no
# multiple of 16, 2.3; a quantised one of 24 MB, which becomes float32, 18; a block list of 137 MB 4, a bad-word list of
# 3.6 MB 113, an evaluation set of 21 MB of JSON Lines 35.
_OF_A_MODEL, _OF_A_QUANTISED_MODEL = 2.5, 20
_OF_A_LIST = {UrlBlocklist.name: 4, UrlWords.name: 20, BadWords.name: 120, Decontamination.name: 36}
_COMPRESSED = 4  # typical ratio of the text in a compressed file or in Parquet to the file
_COMPRESSED_ENDINGS = (".parquet", ".pq", *COMPRESSED)


def files_memory(store: Store, settings: Iterable[object]) -> int:
    """Bytes of the files that these rules and the language identification read, in a process that has loaded them.

    A model that several of them read is loaded once. The built-in language model is part of `task_memory`. A missing
    file counts nothing: its error is raised elsewhere.
    """
    total, models = 0.0, dict[str, None]()
    for one in settings:
        of_list = _OF_A_LIST.get(getattr(one, "name", ""))
        for path in files_read_by(one):
            if of_list is None:
                models[path] = None
            else:
                total += of_list * (_COMPRESSED if path.endswith(_COMPRESSED_ENDINGS) else 1) * _size(store, path)
    return int(total) + sum(model_memory(store, path) for path in models)


def model_memory(store: Store, model: str) -> int:
    """Bytes of a fastText model in a process that has loaded it."""
    return int((_OF_A_QUANTISED_MODEL if model.endswith(".ftz") else _OF_A_MODEL) * _size(store, model))


def _size(store: Store, path: str) -> int:
    try:
        return store.info(path).size
    except NotFound:
        return 0


# Bytes of a unit that reads numbers and no text. Measured (peak resident memory of a process, 2026-11-24): `ids.ranges`
# of four million documents 0.47 GB, `duplicates` of two million rows 0.39, `merge` of 256 files of tallies 0.32,
# `decide` and `index` of 400,000 documents 0.2.
NUMBERS_MEMORY = 1 << 29
