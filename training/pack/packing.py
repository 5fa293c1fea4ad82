"""The pack stage: examples of a corpus to packed rows in shuffled order.

Each example has a shuffle key (column `place`), a hash of the seed and the document's id. Examples sorted by it are
shuffled. A unit is a split and a range of shuffle keys, so it is a random sample of the documents, and ranges of equal
width have about equally many tokens. With a curriculum, each range of the train split has one stage, so the artifact
has the stages in order, and a row has documents of one stage.

    shuffle    a range has examples of every file, so they pass through the levels of cluster/exchange.py, with few
               requests for any number of files: the sources are the files of examples, sorted by (split, shuffle key),
               the targets are the ranges, and the files in between are sliced files
    cut        documents longer than a row are split, truncated or dropped
    rows       pieces are fitted into rows, and the rows of a range are permuted

So an artifact, read in order, is a seeded shuffle of all documents, and a worker holds only one range in memory. The
rows depend on the documents and the config, not on how the documents are distributed over files.

Reads the artifact _work/examples/CORPUS; writes the artifacts CORPUS/train, validation and test of schema PACKED.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any, Self, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill import cluster
from raymill.cluster.artifact import Artifact, Counters, fingerprint, open_parquet
from raymill.cluster.cost import Cost, Planning
from raymill.cluster.entry import Entry
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.exchange import FAN, Levels, cost_of_level
from raymill.cluster.output import changed, read_slices, table_of, table_slices
from raymill.cluster.stage import Output, RunStage, Scratch, Stage, files_from
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.data.order import permutation
from raymill.training.data.packed import (
    EXAMPLES,
    JUDGED_EXAMPLES,
    JUDGED_PACKED,
    PACKED,
    STAGE_ROWS,
    STAGE_SHIFT,
    STAGE_TOKENS,
    by_stage,
    rows_per_group,
    token_weights,
    wrong_lists,
)
from raymill.training.pack.corpus import stage_of

_best_fit = Entry("raymill.training.pack.best_fit:best_fit")  # numba takes a second to import
_copy_runs = Entry("raymill.training.pack.best_fit:copy_runs")

PACKING_VERSION = "4"
UNIT_TOKENS = 8 << 20
# One core packs this in less than a second; workers of Ray take 3 s to start.
SMALL_TOKENS = 4 << 20
_SHUFFLE_KEYS = 1 << 64
# Bytes of a task, without its examples. Measured: 146 MiB, and Ray's worker.
_LIBRARIES = 256 << 20
# Bytes of memory for each token, and in addition for each example: the examples, a sorted copy, 8 bytes per token while
# it is made, row groups that are read ahead, and in the last level the rows. Measured: 44 to 64 bytes per token.
_OF_A_TOKEN = 64
_OF_AN_EXAMPLE = 300
# The most examples of a unit, on average: short ones take more memory than their tokens.
_UNIT_EXAMPLES = 1 << 20
# Limits on the examples of a unit in memory, as multiples of what is reserved. Above the first, most of them may not
# have the shuffle key of another one. The second leaves room for many documents of 10 million tokens in one range.
_MOST_EQUAL, _MOST = 2, 16
# Threads that read the files of a unit; they wait for the store.
_THREADS = 8
_NO_COLUMNS = pa.schema([])


# --- the stage


@dataclass(frozen=True)
class PackingRule:
    """The settings that decide how examples become rows.

    length: tokens of a row. mode: `best_fit` or `none` (a row per piece). overflow: `split`, `truncate` or `drop`, for
    documents longer than a row. classify: whether a class of each row is predicted. seed: of the shuffle. judged:
    whether examples are answers that were compared or judged.
    """

    length: int
    mode: str
    overflow: str
    classify: bool
    seed: int
    judged: bool = False

    @property
    def plain(self) -> dict[str, Any]:
        """The settings that decide the rows. Rows of texts have no `judged`, as in earlier versions."""
        return {name: value for name, value in vars(self).items() if name != "judged" or value}


def pack_stage(
    name: str, rule: PackingRule, examples: Artifact, unit_tokens: int = UNIT_TOKENS, fan: int = FAN
) -> Stage:
    """The stage that shuffles the examples of one corpus and packs them into rows.

    Reads: the examples, through levels of files if there are more than `fan`.
    Writes: `NAME/train`, `NAME/validation` and `NAME/test`; one may be empty.
    Cost: 93 to 128 ns of a core for a token; at most 1 GiB (memory_of_level).

    Args:
        unit_tokens: approximate tokens of a unit. fan: the most files that a unit reads; the rows do not depend on it.
    """
    counters, store = examples.manifest.counters, examples.store
    decided_by = fingerprint(
        {
            "version": [cluster.__version__, PACKING_VERSION],
            "examples": examples.manifest.fingerprint,
            "rule": rule.plain,
            "unit_tokens": unit_tokens,
        }
    )
    # Bytes of a row: 4 per id, 1/8 per flag `trained`.
    group_bytes = rows_per_group(rule.length) * (rule.length * 33 // 8)
    all_ranges = tuple(ranges(counters, unit_tokens))
    levels = Levels.of(len(examples.manifest.files), len(all_ranges), fan)
    reserved = partial(memory_of_level, examples, all_ranges, levels)
    stage = Stage(
        name=stage_of("pack", name),
        outputs=tuple(
            Output(f"{name}/{split}", JUDGED_PACKED if rule.judged else PACKED, row_group_bytes=group_bytes)
            for split in SPLITS
        ),
        units=moves(levels, 1, examples) if levels.count == 1 else (),
        work=Pack(name, rule, store, all_ranges, bool(by_stage(counters, STAGE_TOKENS)), reserved(levels.count)),
        fingerprint=decided_by,
        store=store,
        describe=_files_of,
        small=sum(counters.get(f"tokens/{split}", 0) for split in SPLITS) <= SMALL_TOKENS,
        memory=reserved(levels.count),
    )

    def shuffle(run: RunStage) -> list[ShuffleUnit]:
        """Run the levels before the last one. Returns the units of the last one."""
        made = examples
        for level in range(1, levels.count):
            output = f"_work/shuffle/{name}/{level}"
            of_level = replace(
                stage,
                name=f"{stage.name}.shuffle-{level}",
                outputs=(Output(output, _NO_COLUMNS),),
                units=moves(levels, level, made),
                work=MoveExamples(output, store, all_ranges, levels, level, reserved(level), rule.judged),
                fingerprint=fingerprint([decided_by, level, levels.fan_in, levels.fan_out]),
                memory=reserved(level),
                model=partial(_planned_level, levels, level, made.manifest.bytes),
            )
            made = run(of_level)[output]
        return moves(levels, levels.count, made)

    return replace(stage, prepare=shuffle) if levels.count > 1 else stage


@dataclass(frozen=True)
class Pack:
    """The work of one unit, which has one of the `ranges`.

    staged: whether ranges of the train split have a stage. memory: reserved for it.
    """

    name: str
    rule: PackingRule
    store: Store
    ranges: tuple["KeyRange", ...]
    staged: bool
    memory: int

    def __call__(self, unit: "ShuffleUnit", scratch: Scratch) -> Counters:
        own = self.ranges[unit.first]
        split = SPLITS[own["split"]]
        examples = in_order(read_examples(self.store, unit, [own], self.memory, self.rule.judged))
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


# --- shuffle


class KeyRange(TypedDict):
    """The documents of a split with `low` <= shuffle key < `high`."""

    split: int
    low: int
    high: int


def ranges(counters: Counters, unit_tokens: int) -> Iterator[KeyRange]:
    """Ranges of about `unit_tokens` tokens, or _UNIT_EXAMPLES of fewer, each of one split and stage, with all examples.

    counters: those of the artifact of examples.
    """
    for index in range(len(SPLITS)):
        of_split = counters.get(f"tokens/{SPLITS[index]}", 0)
        for low, high, tokens in _spans(counters, index):
            examples = tokens * counters.get(f"examples/{SPLITS[index]}", 0) / max(of_split, 1)
            count = max(1, round(tokens / unit_tokens), round(examples / _UNIT_EXAMPLES))
            for part in range(count):
                ends = (low + (high - low) * at // count for at in (part, part + 1))
                yield {"split": index, "low": next(ends), "high": next(ends)}


def _spans(counters: Counters, split: int) -> list[tuple[int, int, float]]:
    """(first shuffle key, end, tokens) of each stage of a split; of the whole split if it has no stages."""
    if split == 0 and (tokens := by_stage(counters, STAGE_TOKENS)):
        return [(stage << STAGE_SHIFT, (stage + 1) << STAGE_SHIFT, count) for stage, count in tokens.items()]
    return [(0, _SHUFFLE_KEYS, counters.get(f"tokens/{SPLITS[split]}", 0))]


@dataclass(frozen=True)
class ShuffleUnit:
    """A unit of a level.

    first, end: its ranges are those from `first` to before `end`. folder, names: the files that it reads. slice: the
    number of the slice that is read of each; None if they are files of examples.
    """

    first: int
    end: int
    folder: str
    names: tuple[str, ...]
    slice: int | None

    @property
    def uris(self) -> list[str]:
        return [paths.join(self.folder, name) for name in self.names]


def _files_of(unit: ShuffleUnit) -> str:
    return files_from(unit.uris)


def moves(levels: Levels, level: int, before: Artifact) -> list[ShuffleUnit]:
    """The units of a level. before: the files of the level before."""
    names = [file.path for file in before.manifest.files]
    groups, width = levels.groups(level - 1), levels.targets_of_part(level)
    assert len(names) == groups * levels.parts(level - 1), f"{before.uri}: {len(names)} files of level {level - 1}"
    units = []
    for parent in range(levels.parts(level - 1)):
        of_parent = names[parent * groups : (parent + 1) * groups]
        grouped = [tuple(of_parent[at : at + levels.fan_in]) for at in range(0, groups, levels.fan_in)]
        children = range(parent * levels.fan_out, min((parent + 1) * levels.fan_out, levels.parts(level)))
        for number, part in enumerate(children):
            first, end = part * width, min((part + 1) * width, levels.targets)
            units += [ShuffleUnit(first, end, before.uri, some, number if level > 1 else None) for some in grouped]
    return units


def memory_of_level(examples: Artifact, ranges: Sequence[KeyRange], levels: Levels, level: int) -> int:
    """Bytes of the largest unit of a level: those of the largest part, times the largest share of a group of files.

    Bytes of a range are estimated from the tokens of its split and stage.
    """
    counters = examples.manifest.counters
    of_ranges = np.empty(len(ranges))
    for index, split in enumerate(SPLITS):
        tokens, count = (counters.get(f"{what}/{split}", 0) for what in ("tokens", "examples"))
        for low, high, of_span in _spans(counters, index):
            own = [at for at, one in enumerate(ranges) if one["split"] == index and low <= one["low"] < high]
            of_ranges[own] = of_span * (_OF_A_TOKEN + _OF_AN_EXAMPLE * count / max(tokens, 1)) / max(len(own), 1)
    of_files = np.array([file.bytes for file in examples.manifest.files], np.float64)
    of_parts = np.add.reduceat(of_ranges, np.arange(0, len(of_ranges), levels.targets_of_part(level)))
    of_groups = np.add.reduceat(of_files, np.arange(0, len(of_files), levels.sources_of_group(level)))
    return _LIBRARIES + int(of_parts.max() * of_groups.max() / of_files.sum())


def _planned_level(levels: Levels, level: int, size: int, planning: Planning, sampled: Cost | None) -> list[Cost]:
    """What a level takes. size: bytes of all examples."""
    return [replace(cost_of_level(levels, level, size), memory=0)]


@dataclass(frozen=True)
class MoveExamples:
    """The work of a unit of a level before the last. ranges: all of them. memory: reserved for it."""

    output: str
    store: Store
    ranges: tuple[KeyRange, ...]
    levels: Levels
    level: int
    memory: int
    judged: bool = False

    def __call__(self, unit: ShuffleUnit, scratch: Scratch) -> Counters:
        ranges = self.ranges[unit.first : unit.end]
        table = read_examples(self.store, unit, ranges, self.memory, self.judged)
        part = numbers(table, ranges) // self.levels.targets_of_part(self.level + 1)
        ends = np.cumsum(np.bincount(part, minlength=self.levels.fan_out))
        table = table.take(pa.array(np.argsort(part, kind="stable")))
        scratch.write_slices(self.output, table_slices(table, ends.tolist()))
        return {}


def numbers(table: pa.Table, ranges: Sequence[KeyRange]) -> np.ndarray:
    """int64[N]: index in `ranges` of the range that each example is in. ranges: consecutive, with all examples."""
    split, shuffle_key = table["split"].to_numpy(), table["place"].to_numpy()
    found = np.empty(len(split), np.int64)
    for index in range(len(SPLITS)):
        own = [number for number, one in enumerate(ranges) if one["split"] == index]
        here = split == index
        if own:
            lows = np.array([ranges[number]["low"] for number in own], np.uint64)
            found[here] = own[0] + np.searchsorted(lows, shuffle_key[here], "right") - 1
    return found


@dataclass
class _Held:
    """The examples of a unit that were read so far, by several threads.

    Shuffle keys are hashes of ids, so that ranges have equally many tokens. Documents with one id, as those of equal
    texts have, are all in one range, and whoever knows the seed can choose ids of one range.

    Attributes:
        memory: bytes that are reserved for the unit.
        keys: shuffle keys of each table. bytes: of memory.
        checked: `bytes` when keys were last compared, which happens whenever they doubled.
    """

    memory: int
    keys: list[np.ndarray] = field(default_factory=list)
    bytes: int = 0
    checked: int = 0
    lock: Any = field(default_factory=Lock)

    def add(self, table: pa.Table) -> None:
        """
        Raises:
            DataError: the examples take too much memory.
        """
        with self.lock:
            self.keys.append(table["place"].to_numpy())
            tokens = pc.sum(pc.list_value_length(table["ids"])).as_py() or 0
            self.bytes += tokens * _OF_A_TOKEN + len(table) * _OF_AN_EXAMPLE
            too_many = self.bytes > _MOST * self.memory
            if not too_many and self.bytes < max(_MOST_EQUAL * self.memory, 2 * self.checked):
                return
            self.checked = self.bytes
            keys = np.concatenate(self.keys)
            if too_many or 2 * len(np.unique(keys)) < len(keys):
                raise DataError(
                    f"{len(keys):,} documents and more, whose ids are equal or have neighbouring hashes, are packed "
                    f"at once. That takes over {self.bytes / self.memory:.0f} times the "
                    "memory of documents with different ids. Remove repeated documents, for example with `raymill "
                    "curate`, or name a column with an id of each document in columns.id."
                )


def read_examples(
    store: Store, unit: ShuffleUnit, ranges: Sequence[KeyRange], memory: int, judged: bool = False
) -> pa.Table:
    """The examples of a unit, in the order of its files. Reads only row groups with its ranges.

    Args:
        ranges: those of the unit. memory: bytes that are reserved for it. judged: see PackingRule.

    Raises:
        DataError: a file was changed after it was written, or the examples take far more than `memory`.
    """
    held, schema = _Held(memory), JUDGED_EXAMPLES if judged else EXAMPLES
    bounds: dict[int, tuple[int, int]] = {}  # split -> (low, high) of consecutive ranges
    for one in ranges:
        low, _ = bounds.get(one["split"], (one["low"], 0))
        bounds[one["split"]] = low, one["high"]

    def of_slice(data: bytes) -> pa.Table:
        table = table_of(data) or schema.empty_table()
        if not _inside(table, bounds, schema).all():
            raise ValueError("examples of other ranges")
        held.add(table)
        return table

    if unit.slice is not None:
        found = read_slices(store, unit.uris, unit.slice, of_slice)
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda uri: _read_file(store, uri, bounds, held, schema), unit.uris))
    return pa.concat_tables([schema.empty_table(), *found])


def _inside(table: pa.Table, bounds: Mapping[int, tuple[int, int]], schema: pa.Schema) -> np.ndarray:
    """Whether each example is within the bounds of its split: bool[N].

    Raises:
        ValueError: the table has what `tokenise` does not write. Kernels would read beyond its arrays.
    """
    judged = ("chosen_tokens", "judgement") if schema is JUDGED_EXAMPLES else ()
    filled = ("split", "place", "document", *judged)
    if not table.schema.equals(schema) or any(table[name].null_count for name in filled):
        raise ValueError("other columns, or nulls")
    if (wrong := wrong_lists(table)) is not None:
        raise ValueError(wrong)
    if judged:
        chosen, sizes = table["chosen_tokens"].to_numpy(), pc.list_value_length(table["ids"]).to_numpy()
        if ((chosen < 0) | ((chosen > 0) & (chosen >= sizes))).any():
            raise ValueError("an answer without tokens")
    splits, keys = table["split"].to_numpy(), table["place"].to_numpy()
    inside = np.zeros(len(splits), bool)
    for split, (low, high) in bounds.items():
        inside |= (splits == split) & (keys >= np.uint64(low)) & (keys <= np.uint64(high - 1))
    return inside


def _read_file(
    store: Store, uri: str, bounds: Mapping[int, tuple[int, int]], held: _Held, schema: pa.Schema
) -> pa.Table:
    found = [schema.empty_table()]
    with open_parquet(store, uri) as parquet:
        metadata, groups = parquet.metadata, []
        names = {metadata.schema.column(index).path: index for index in range(metadata.num_columns)}
        for group in range(metadata.num_row_groups):
            columns = metadata.row_group(group)
            split, key = (columns.column(names[name]).statistics for name in ("split", "place"))
            if split is None or key is None:
                raise changed(uri)
            if any(
                split.min <= index <= split.max and key.min < high and low <= key.max
                for index, (low, high) in bounds.items()
            ):
                groups.append(group)
        parquet.fetch_ahead(groups)
        for group in groups:
            table = parquet.read_row_group(group, use_threads=False)
            try:
                found.append(table.filter(pa.array(_inside(table, bounds, schema))))
            except ValueError as error:
                raise changed(uri) from error
            held.add(found[-1])
    return pa.concat_tables(found)


def in_order(examples: pa.Table) -> pa.Table:
    """The examples sorted by shuffle key; ties are sorted by id, and equal ids stay in their order."""
    return examples.take(pc.sort_indices(examples, [("place", "ascending"), ("document", "ascending")]))


# --- cut
#
# The pieces of a split document overlap by one token, from which the next token is predicted. The loss does not count
# it again, because the first flag `trained` of a piece is false. So the loss counts each trained token of a document
# exactly once, for any length of a row. A truncated document ends with the last trained token that fits, so it does not
# end with a part of a question. If the question fills the row, the document is left out.


@dataclass(frozen=True)
class DocumentPieces:
    """P pieces of D documents with T tokens. Token n of piece p is `ids[starts[p] + n]`.

    ids: int32[T], trained: bool[T], weights: float32[T], of all documents concatenated; weights is None if all are 1.
    documents: int64[P], index of a piece's document. starts, sizes: int64[P]. names: string[D]. classes: int32[D].
    chosen: int64[D], judgements: float32[D], the columns `chosen_tokens` and `judgement`; None without these.
    """

    ids: np.ndarray
    trained: np.ndarray
    documents: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    names: pa.Array
    classes: pa.Array
    weights: np.ndarray | None = None
    chosen: np.ndarray | None = None
    judgements: np.ndarray | None = None

    @classmethod
    def of(cls, examples: pa.Table) -> Self:
        """Each example with a token as one piece. An example is a tokenised document, or a rendering of a chat."""
        columns = ("ids", "labels", "document", "label", "weights")
        ids, trained, names, classes, weights = (examples[name].combine_chunks() for name in columns)
        offsets = ids.offsets.to_numpy().astype(np.int64)
        first, last = offsets[0], offsets[-1]
        flat = trained.values.slice(trained.offsets[0].as_py(), last - first)
        whole = cls(
            ids=ids.values.to_numpy()[first:last],
            trained=flat.to_numpy(zero_copy_only=False),
            documents=np.arange(len(ids)),
            starts=offsets[:-1] - first,
            sizes=np.diff(offsets),
            names=names,
            classes=classes,
            weights=token_weights(weights, np.diff(offsets)),
        )
        if "judgement" in examples.column_names:
            chosen, judgements = (examples[name].to_numpy() for name in ("chosen_tokens", "judgement"))
            whole = replace(whole, chosen=chosen.astype(np.int64), judgements=judgements)
        return whole.take(whole.sizes > 0)

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, chosen: np.ndarray) -> Self:
        """The pieces at `chosen`, int64[N] indices or bool[P], in that order."""
        documents, starts, sizes = self.documents[chosen], self.starts[chosen], self.sizes[chosen]
        return replace(self, documents=documents, starts=starts, sizes=sizes)

    def tokens(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """`ids`, `trained` and `weights` of all pieces, concatenated; the first flag of each piece is false."""

        def copied(values: np.ndarray) -> np.ndarray:
            found = np.empty(self.sizes.sum(), values.dtype)
            _copy_runs(values, self.starts, self.sizes, found)
            return found

        ids, trained = copied(self.ids), copied(self.trained)
        trained[np.cumsum(self.sizes) - self.sizes] = False
        return ids, trained, None if self.weights is None else copied(self.weights)

    def label_tokens(self) -> np.ndarray:
        """Tokens of each piece that the loss counts: int64[P]."""
        before = np.concatenate([[0], np.cumsum(self.trained)])
        return before[self.starts + self.sizes] - before[np.minimum(self.starts + 1, self.starts + self.sizes)]


def cut(examples: pa.Table, length: int, overflow: str, classify: bool) -> tuple[DocumentPieces, Counters]:
    """(pieces of at most `length` tokens, in the order of the documents; counters of what was cut or left out).

    Pieces without a trained token after their first one are left out, unless `classify` (see PackingRule).
    """
    whole = DocumentPieces.of(examples)
    long = whole.sizes > length
    counters: Counters = {}
    if overflow == "split":
        # The first piece has `length` tokens, each further one length - 1 new ones.
        counts = np.where(long, 1 + -(-(whole.sizes - length) // (length - 1)), 1)
        documents = np.repeat(np.arange(len(whole)), counts)
        number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
        pieces = whole.take(documents)
        skipped = number * (length - 1)
        pieces = replace(pieces, starts=pieces.starts + skipped, sizes=np.minimum(pieces.sizes - skipped, length))
        counters["documents_split"] = long.sum()
        counters["tokens_repeated"] = (counts - 1).sum()
        if not classify:
            # Of a document with a question: with tokens after its first that are not trained on.
            asks = whole.label_tokens() < whole.sizes - 1
            counters["label_tokens_apart"] = pieces.label_tokens()[(number > 0) & asks[documents]].sum()
    elif overflow == "truncate":
        sizes = np.minimum(whole.sizes, length)
        if not classify:
            for at in np.flatnonzero(long):  # up to the last token that the loss counts, which never counts the first
                counted = np.flatnonzero(whole.trained[whole.starts[at] + 1 : whole.starts[at] + length])
                sizes[at] = counted[-1] + 2 if len(counted) else 0
        all_question = sizes == 0
        counters["documents_truncated"] = (long & ~all_question).sum()
        counters["tokens_truncated"] = (whole.sizes - sizes)[~all_question].sum()
        counters["documents_all_question"] = all_question.sum()
        counters["tokens_all_question"] = whole.sizes[all_question].sum()
        pieces = replace(whole, sizes=sizes).take(~all_question)
    else:
        pieces = whole.take(~long)
        counters["documents_dropped"] = long.sum()
        counters["tokens_dropped"] = whole.sizes[long].sum()
    if not classify:
        useful = pieces.label_tokens() > 0
        counters["pieces_without_label"] = (~useful).sum()
        counters["tokens_without_label"] = pieces.sizes[~useful].sum()
        pieces = pieces.take(useful)
    return pieces, {name: int(value) for name, value in counters.items()}


# --- rows


def to_rows(pieces: DocumentPieces, rule: PackingRule, unit: KeyRange) -> pa.Table:
    """A table of PACKED or JUDGED_PACKED: the pieces in rows, in an order that depends on the seed and the range."""
    if rule.mode == "best_fit":
        rows, count = _best_fit(pieces.sizes, rule.length)
    else:
        rows, count = np.arange(len(pieces)), len(pieces)
    position = np.empty(count, np.int64)
    position[permutation(count, "rows", rule.seed, unit["split"], unit["low"])] = np.arange(count)
    rows = position[rows]
    pieces = pieces.take(np.argsort(rows, kind="stable"))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
    token_starts = np.concatenate([[0], np.cumsum(pieces.sizes)])[starts]
    ids, trained, weights = pieces.tokens()
    documents = pa.array(pieces.documents)
    first_documents = documents.take(pa.array(starts[:-1]))
    lengths, judgements = pieces.sizes, []
    if pieces.chosen is not None and pieces.judgements is not None:
        of_pieces = pieces.judgements[pieces.documents]
        chosen = pieces.chosen[pieces.documents]
        if chosen.any():  # a pair is two documents
            lengths = np.stack([chosen, lengths - chosen], 1).ravel()
            starts, documents, of_pieces = (
                2 * starts,
                documents.take(pa.array(np.arange(len(chosen)).repeat(2))),
                of_pieces.repeat(2),
            )
        judgements = [pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(of_pieces))]
    of_weights = pa.nulls(count, PACKED.field("weights").type)
    if weights is not None:  # null for a row whose label tokens all have weight 1
        uneven = np.concatenate([[0], np.cumsum(trained & (weights != 1))])[token_starts]
        kept, sizes = np.diff(uneven) > 0, np.diff(token_starts)
        ends = np.concatenate([[0], np.cumsum(np.where(kept, sizes, 0))])
        values = pa.array(weights[np.repeat(kept, sizes)])
        of_weights = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values, mask=pa.array(~kept))
    return pa.table(
        [
            pa.ListArray.from_arrays(pa.array(token_starts, pa.int32()), pa.array(ids)),
            pa.ListArray.from_arrays(pa.array(token_starts, pa.int32()), pa.array(trained)),
            pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(lengths, pa.int32())),
            pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pieces.names.take(documents)),
            pieces.classes.take(first_documents),
            of_weights,
            *judgements,
        ],
        schema=JUDGED_PACKED if judgements else PACKED,
    )
