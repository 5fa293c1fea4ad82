"""The pack stage: examples of a corpus to packed rows in shuffled order.

Each example has a shuffle key (column `place`), a hash of the seed and the document's id; sorted by it, the examples
are shuffled. A unit is a split and a range of shuffle keys, so it is a random sample of the documents, and ranges of
equal width have about equally many tokens. The unit reads its range from every examples file (they are sorted, so the
statistics of row groups suffice to find it), cuts documents that are longer than a row, fits the pieces into rows and
permutes the rows. An artifact, read in order, is therefore one seeded shuffle of all documents, and a worker holds one
range.

Reads the artifact _work/examples/CORPUS; writes the artifacts CORPUS/train, validation and test of schema PACKED. A
unit reads at least one row group (1 MiB) of each examples file. For several thousand files that costs more than
tokenising; larger tokenise units (`execution.unit_mib`) make fewer examples files.

Memory: a range of about 8 million tokens is 40 MiB of examples, and a unit takes 300 to 500 MiB at its peak (more for
shorter documents).

The rows depend on the documents and the config, not on how the documents are distributed over files.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import cluster
from cluster.artifact import Artifact, Counters, fingerprint, open_parquet
from cluster.entry import Entry
from cluster.stage import Output, Scratch, Stage
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Columns
from training.data.order import permutation
from training.data.packed import EXAMPLES, PACKED, SPLITS, rows_per_group
from training.pack.overflow import Pieces, cut

_best_fit = Entry("training.pack.best_fit:best_fit")  # numba takes a second to import

PACKING_VERSION = "2"
UNIT_TOKENS = 8 << 20
_SHUFFLE_KEYS = 1 << 64
# One core packs this in less than a second; workers of Ray take 3 s to start.
SMALL_TOKENS = 4 << 20
# Threads that read the files of a range; they wait for the store.
_THREADS = 8


class Range(TypedDict):
    """A unit: the documents of a split with `low` <= shuffle key < `high`."""

    split: int
    low: int
    high: int


@dataclass(frozen=True)
class PackingRule:
    """What decides how examples become rows.

    length: tokens of a row. mode: `best_fit` or `none` (a row per piece). overflow: `split`, `truncate` or `drop`, for
    documents longer than a row. classify: method probe: the loss is over rows. seed: of the shuffle.
    """

    length: int
    mode: str
    overflow: str
    classify: bool
    seed: int

    @classmethod
    def of(cls, config: TrainConfig, columns: Columns) -> Self:
        """The rule for a corpus with these columns."""
        overflow = config.overflow(columns)
        return cls(config.sequence_length, config.packing.mode, overflow, config.method == "probe", config.seed)


def pack_stage(name: str, rule: PackingRule, examples: Artifact, unit_tokens: int = UNIT_TOKENS) -> Stage:
    """The stage of one corpus. Its outputs are `NAME/train`, `NAME/validation` and `NAME/test`; one may be empty."""
    decided_by = fingerprint(
        {
            "version": [cluster.__version__, PACKING_VERSION],
            "examples": examples.manifest.fingerprint,
            "rule": vars(rule),
            "unit_tokens": unit_tokens,
        }
    )
    # Bytes of a row: 4 per id, 1/8 per flag `learnt`.
    group_bytes = rows_per_group(rule.length) * (rule.length * 33 // 8)
    outputs = tuple(Output(f"{name}/{split}", PACKED, row_group_bytes=group_bytes) for split in SPLITS)
    units = list(ranges(examples.manifest.counters, unit_tokens))
    tokens = sum(examples.manifest.counters.get(f"tokens/{split}", 0) for split in SPLITS)
    work = Pack(name, rule, examples.store, tuple(examples.file_uris))
    return Stage(f"pack-{name}", outputs, units, work, decided_by, examples.store, small=tokens <= SMALL_TOKENS)


def ranges(counters: Counters, unit_tokens: int) -> Iterator[Range]:
    """Ranges of about `unit_tokens` tokens that cover all shuffle keys of all splits. counters: of the examples."""
    for index, split in enumerate(SPLITS):
        count = max(1, round(counters.get(f"tokens/{split}", 0) / unit_tokens))
        for part in range(count):
            yield {"split": index, "low": _SHUFFLE_KEYS * part // count, "high": _SHUFFLE_KEYS * (part + 1) // count}


@dataclass(frozen=True)
class Pack:
    """The work of one unit. uris: of all examples files, on `store`."""

    name: str
    rule: PackingRule
    store: Store
    uris: tuple[str, ...]

    def __call__(self, unit: Range, scratch: Scratch) -> Counters:
        split = SPLITS[unit["split"]]
        pieces, counters = cut(
            read_range(self.store, self.uris, unit), self.rule.length, self.rule.overflow, self.rule.classify
        )
        rows = to_rows(pieces, self.rule, unit)
        scratch.write(f"{self.name}/{split}", rows)
        tokens = len(rows["ids"].chunk(0).values)
        counted = {
            "documents": len(np.unique(pieces.documents)),
            "pieces": len(pieces),
            "rows": rows.num_rows,
            "tokens": tokens,
            "label_tokens": pc.sum(rows["labels"].chunk(0).values).as_py() or 0,
            "padding": rows.num_rows * self.rule.length - tokens,
        }
        return {f"{name}/{split}": value for name, value in counted.items()} | counters


def read_range(store: Store, uris: Sequence[str], unit: Range) -> pa.Table:
    """The examples of a range, sorted by shuffle key; ties are sorted by id. Row groups without any are not read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda uri: _read_file(store, uri, unit), uris))
    table = pa.concat_tables([EXAMPLES.empty_table(), *found])
    return table.take(pc.sort_indices(table, [("place", "ascending"), ("document", "ascending")]))


def _read_file(store: Store, uri: str, unit: Range) -> pa.Table:
    found = [EXAMPLES.empty_table()]
    with open_parquet(store, uri) as parquet:
        groups = list(_groups(parquet, unit))
        parquet.fetch_ahead(groups)
        for group in groups:
            table = parquet.read_row_group(group, use_threads=False)
            shuffle_key = table["place"].to_numpy()
            inside = (table["split"].to_numpy() == unit["split"]) & (shuffle_key >= np.uint64(unit["low"]))
            inside &= shuffle_key <= np.uint64(unit["high"] - 1)
            found.append(table.filter(pa.array(inside)))
    return pa.concat_tables(found)


def _groups(parquet: pq.ParquetFile, unit: Range) -> Iterator[int]:
    metadata = parquet.metadata
    names = {metadata.schema.column(index).path: index for index in range(metadata.num_columns)}
    for group in range(metadata.num_row_groups):
        split, shuffle_key = (metadata.row_group(group).column(names[name]).statistics for name in ("split", "place"))
        inside = split.min <= unit["split"] <= split.max
        if inside and shuffle_key.min < unit["high"] and unit["low"] <= shuffle_key.max:
            yield group


def to_rows(pieces: Pieces, rule: PackingRule, unit: Range) -> pa.Table:
    """A table of schema PACKED: the pieces in rows, and the rows in an order that the seed and the range decide."""
    if rule.mode == "best_fit":
        rows, count = _best_fit(pieces.sizes, rule.length)
    else:
        rows, count = np.arange(len(pieces)), len(pieces)
    position = np.empty(count, np.int64)
    position[permutation(count, "rows", rule.seed, unit["split"], unit["low"])] = np.arange(count)
    rows = position[rows]
    pieces = pieces.take(np.argsort(rows, kind="stable"))
    ends = np.cumsum(np.bincount(rows, minlength=count))
    starts = np.concatenate([[0], ends])
    token_starts = np.concatenate([[0], np.cumsum(pieces.sizes)])
    ids, learnt = pieces.tokens()
    documents = pa.array(pieces.documents)
    return pa.table(
        [
            pa.ListArray.from_arrays(pa.array(token_starts[starts], pa.int32()), pa.array(ids)),
            pa.ListArray.from_arrays(pa.array(token_starts[starts], pa.int32()), pa.array(learnt)),
            pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(pieces.sizes, pa.int32())),
            pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pieces.names.take(documents)),
            pieces.classes.take(documents.take(pa.array(starts[:-1]))),
        ],
        schema=PACKED,
    )
