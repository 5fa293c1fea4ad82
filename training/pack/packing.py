"""The pack stage: examples of a corpus to packed rows in shuffled order.

Each example has a shuffle key (column `place`), a hash of the seed and the document's id. Examples sorted by it are
shuffled. A unit is a split and a range of shuffle keys, so it is a random sample of the documents, and ranges of equal
width have about equally many tokens. The unit reads its range (shuffle.py), sorts it, cuts documents that are longer
than a row, fits the pieces into rows and permutes the rows. So an artifact, read in order, is a seeded shuffle of all
documents, and a worker holds only one range in memory. With a curriculum, each range of the train split has one stage,
so the artifact has the stages in order, and a row has documents of one stage.

Reads the artifact _work/examples/CORPUS; writes the artifacts CORPUS/train, validation and test of schema PACKED.

The rows depend on the documents and the config, not on how the documents are distributed over files.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import cluster
from cluster.artifact import Artifact, Counters, fingerprint
from cluster.entry import Entry
from cluster.examples.splits import SPLITS
from cluster.exchange import FAN, Levels
from cluster.stage import Output, Scratch, Stage
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Columns
from training.data.order import permutation
from training.data.packed import PACKED, STAGE_ROWS, STAGE_SHIFT, STAGE_TOKENS, by_stage, rows_per_group
from training.pack.overflow import DocumentPieces, cut
from training.pack.shuffle import (
    KeyRange,
    Shuffle,
    ShuffleUnit,
    files_of_unit,
    memory_of_level,
    moves,
    ranges,
    read_examples,
)
from training.pack.sources import stage_of

_best_fit = Entry("training.pack.best_fit:best_fit")  # numba takes a second to import

PACKING_VERSION = "3"
UNIT_TOKENS = 8 << 20
# One core packs this in less than a second; workers of Ray take 3 s to start.
SMALL_TOKENS = 4 << 20


@dataclass(frozen=True)
class PackingRule:
    """The settings that decide how examples become rows.

    length: tokens of a row. mode: `best_fit` or `none` (a row per piece). overflow: `split`, `truncate` or `drop`, for
    documents longer than a row. classify: whether rows are classified (method probe). seed: of the shuffle.
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


def pack_stage(
    name: str, rule: PackingRule, examples: Artifact, unit_tokens: int = UNIT_TOKENS, fan: int = FAN
) -> Stage:
    """The stage that shuffles the examples of one corpus and packs them into rows.

    Reads: the examples, through levels of files if there are more than `fan`.
    Writes: `NAME/train`, `NAME/validation` and `NAME/test`; one may be empty.
    Cost: 93 to 128 ns of a core for a token; at most 1 GiB (shuffle.memory_of_level).

    Args:
        unit_tokens: approximate tokens of a unit. fan: the most files that a unit reads; the rows do not depend on it.
    """
    counters = examples.manifest.counters
    decided_by = fingerprint(
        {
            "version": [cluster.__version__, PACKING_VERSION],
            "examples": examples.manifest.fingerprint,
            "rule": vars(rule),
            "unit_tokens": unit_tokens,
        }
    )
    # Bytes of a row: 4 per id, 1/8 per flag `trained`.
    group_bytes = rows_per_group(rule.length) * (rule.length * 33 // 8)
    outputs = tuple(Output(f"{name}/{split}", PACKED, row_group_bytes=group_bytes) for split in SPLITS)
    all_ranges = tuple(ranges(counters, unit_tokens))
    levels = Levels.of(len(examples.manifest.files), len(all_ranges), fan)
    small = sum(counters.get(f"tokens/{split}", 0) for split in SPLITS) <= SMALL_TOKENS
    stage_name = stage_of("pack", name)
    shuffle = Shuffle(name, stage_name, examples, all_ranges, levels, decided_by, small)
    return Stage(
        name=stage_name,
        outputs=outputs,
        units=moves(levels, 1, examples) if levels.count == 1 else (),
        work=Pack(name, rule, examples.store, all_ranges, bool(by_stage(counters, STAGE_TOKENS))),
        fingerprint=decided_by,
        store=examples.store,
        describe=files_of_unit,
        small=small,
        memory=memory_of_level(examples, all_ranges, levels, levels.count),
        prepare=shuffle if levels.count > 1 else None,
    )


@dataclass(frozen=True)
class Pack:
    """The work of one unit, which has one of the `ranges`. staged: whether ranges of the train split have a stage."""

    name: str
    rule: PackingRule
    store: Store
    ranges: tuple[KeyRange, ...]
    staged: bool

    def __call__(self, unit: ShuffleUnit, scratch: Scratch) -> Counters:
        own = self.ranges[unit.first]
        split = SPLITS[own["split"]]
        examples = in_order(read_examples(self.store, unit, [own]))
        pieces, counters = cut(examples, self.rule.length, self.rule.overflow, self.rule.classify)
        rows = to_rows(pieces, self.rule, own)
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
        if self.staged and split == "train":
            counters[f"{STAGE_ROWS}{own['low'] >> STAGE_SHIFT}"] = rows.num_rows
        return {f"{name}/{split}": value for name, value in counted.items()} | counters


def in_order(examples: pa.Table) -> pa.Table:
    """The examples sorted by shuffle key; ties are sorted by id, and equal ids stay in their order."""
    return examples.take(pc.sort_indices(examples, [("place", "ascending"), ("document", "ascending")]))


def to_rows(pieces: DocumentPieces, rule: PackingRule, unit: KeyRange) -> pa.Table:
    """A table of schema PACKED: the pieces in rows, in an order that depends on the seed and the range."""
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
    ids, trained, weights = pieces.tokens()
    documents = pa.array(pieces.documents)
    return pa.table(
        [
            pa.ListArray.from_arrays(pa.array(token_starts[starts], pa.int32()), pa.array(ids)),
            pa.ListArray.from_arrays(pa.array(token_starts[starts], pa.int32()), pa.array(trained)),
            pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(pieces.sizes, pa.int32())),
            pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pieces.names.take(documents)),
            pieces.classes.take(documents.take(pa.array(starts[:-1]))),
            _weights(weights, trained, token_starts[starts]),
        ],
        schema=PACKED,
    )


def _weights(weights: np.ndarray | None, trained: np.ndarray, starts: np.ndarray) -> pa.Array:
    """The weights of each row's tokens; null for a row whose label tokens all have weight 1.

    starts: first token of each row, and the end of the last.
    """
    count = len(starts) - 1
    if weights is None:
        return pa.nulls(count, PACKED.field("weights").type)
    uneven = np.concatenate([[0], np.cumsum(trained & (weights != 1))])[starts]
    kept = np.diff(uneven) > 0
    sizes = np.diff(starts)
    ends = np.concatenate([[0], np.cumsum(np.where(kept, sizes, 0))])
    values = pa.array(weights[np.repeat(kept, sizes)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values, mask=pa.array(~kept))
