"""Schemas of the two tables that `raymill.training.pack` writes, and random access to packed rows.

Both are artifacts: Parquet files with a manifest.

    examples   one tokenised document per row, sorted by (split, shuffle key) within a unit
    packed     one training row per row, one artifact per split: packed/CORPUS/train, .../validation, .../test

Terms of labels:

    trained        bool per token: the loss counts the prediction of this token (column `labels`)
    label tokens   the number of trained tokens, which is the number of targets in a batch
    weight         float per token: factor of its loss, also in the denominator (column `weights`)
    class          of a row, only with a classifier: an index into the run's classes (column `label`)
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, open_parquet
from raymill.cluster.errors import DataError
from raymill.cluster.store import paths
from raymill.cluster.store.shared_tables import SharedTables
from raymill.cluster.stored_parquet import StoredParquet
from raymill.training.objectives import Records

EXAMPLES = pa.schema(
    [
        ("split", pa.int8()),  # index in SPLITS
        ("place", pa.uint64()),  # shuffle key, by which packing sorts; see `shuffle_key`
        ("document", pa.string()),  # the document's id
        ("ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.bool_())),  # trained on; false for the first token
        ("label", pa.int32()),  # class; null without a classifier
        ("weights", pa.list_(pa.float32())),  # of each token's loss; null if all are 1
    ]
)

PACKED = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),  # documents laid end to end, at most sequence_length tokens, without padding
        ("labels", pa.list_(pa.bool_())),  # trained on; false for the first token of each document
        ("lengths", pa.list_(pa.int32())),  # tokens of each document of the row, in order; their sum is len(ids)
        ("documents", pa.list_(pa.string())),  # their ids; a split document occurs in several rows
        ("label", pa.int32()),  # class
        ("weights", pa.list_(pa.float32())),  # of each token's loss; null if all are 1
    ]
)

# Of answers that were compared or judged (objectives.py). A row of EXAMPLES then has both answers of a pair, the
# rejected one after the chosen one, and a row of PACKED has them as two documents.
JUDGED_EXAMPLES = EXAMPLES.append(pa.field("chosen_tokens", pa.int32())).append(  # of a pair; 0: no pair
    pa.field("judgement", pa.float32())  # margin of a pair, NaN without one; of a labelled answer 1 desirable, 0 not
)
JUDGED_PACKED = PACKED.append(pa.field("judgements", pa.list_(pa.float32())))  # of each document of the row

# Of a curriculum: the largest stage, and the shift that makes it the first byte of a training example's shuffle key.
MAX_STAGE = 255
STAGE_SHIFT = 56
# Prefixes of counters of the train split by stage: tokens of examples, and packed rows (in the order of the stages).
STAGE_TOKENS, STAGE_ROWS = "stage_tokens/", "stage_rows/"

# The target of positions that the loss leaves out; the value that torch's cross entropy ignores.
NO_TARGET = -100

# Tokens of a row group, whose rows an epoch's order keeps together: about 1 MiB in memory, large enough that the
# latency of a request to an object store matters little.
_GROUP_TOKENS = 1 << 18

# A margin is a difference of scores. One far larger decides the loss of a whole step.
MOST_MARGIN = 1000.0

_OPEN_FILES = 64
_CACHE_BYTES = 64 << 20
# Row groups of an artifact that the processes of a machine share: about 1 MiB each.
_SHARED_GROUPS = 256


def shuffle_key(hashed: int, stage: int | None) -> int:
    """The shuffle key of an example, below 2**64: a hash of (seed, document id, piece), after its stage if it has one.

    So packing, which sorts by it, writes the examples of one stage next to each other, in random order.
    """
    return hashed if stage is None else stage << STAGE_SHIFT | hashed >> (64 - STAGE_SHIFT)


def by_stage(counters: Counters, prefix: str) -> dict[int, int]:
    """Stage of a curriculum -> the value of its counter, from the easiest; empty without a curriculum."""
    found = {int(key.removeprefix(prefix)): int(value) for key, value in counters.items() if key.startswith(prefix)}
    return dict(sorted(found.items()))


def rows_per_group(sequence_length: int) -> int:
    """Number of rows in a row group if all are full. If they are not, a group has more rows and about as many bytes."""
    return max(1, _GROUP_TOKENS // sequence_length)


def token_weights(lists: pa.ListArray, sizes: np.ndarray) -> np.ndarray | None:
    """The weights of all tokens of a column `weights`, float32[sum of sizes]: 1 where there is no list.

    None if there is no list at all. sizes: tokens of each row.
    """
    if lists.null_count == len(lists):
        return None
    weights = np.ones(sizes.sum(), np.float32)
    weights[np.repeat(lists.is_valid().to_numpy(zero_copy_only=False), sizes)] = lists.flatten().to_numpy()
    return weights


def wrong_lists(table: pa.Table, *more: str) -> str | None:
    """Nulls in the lists of examples or rows, or lists of other lengths than `ids`; None if there are none.

    Kernels read as many labels and weights as there are ids. more: columns of lists without nulls, of any lengths.
    """
    for name in ("ids", "labels", *more):
        lists = table[name].combine_chunks()
        if lists.null_count or lists.flatten().null_count:
            return f"null in {name}"
    sizes, of_labels = (pc.list_value_length(table[name]).to_numpy() for name in ("ids", "labels"))
    if not np.array_equal(of_labels, sizes):
        return "labels and ids of other lengths"
    weights = table["weights"].combine_chunks() if "weights" in table.column_names else pa.nulls(0)
    if weights.null_count < len(weights):
        filled = weights.is_valid().to_numpy(zero_copy_only=False)
        of_weights = pc.list_value_length(weights.drop_null()).to_numpy()
        if weights.flatten().null_count or not np.array_equal(of_weights, sizes[filled]):
            return "weights and ids of other lengths"
        if not np.isfinite(weights.flatten().to_numpy()).all():
            return "a weight that is not finite"
    return None


@dataclass(frozen=True)
class RowBounds:
    """What the rows of a model have; None: not known, and not checked.

    Attributes:
        length: most tokens of a row. vocabulary: token ids are below it. classes: a row's class is below it.
        records: what the documents of rows are.
    """

    length: int | None = None
    vocabulary: int | None = None
    classes: int | None = None
    records: Records = "text"

    def refuse_wrong(self, table: pa.Table, where: str) -> None:
        """Check rows of schema PACKED before they are used. where: begins the message.

        Raises:
            DataError: a value is one that `pack` does not write.
        """
        if (wrong := self.wrong(table)) is not None:
            raise DataError(
                f"{where}: {wrong}. It was changed after it was written, or packed for another model: pack the corpora "
                "again, into another output."
            )

    def wrong(self, table: pa.Table) -> str | None:
        """The first value that `pack` does not write, in words; None without one.

        Used, it could take unbounded memory or index outside of the model's embeddings.
        """
        judged = ("judgements",) if self.records != "text" else ()
        if judged and "judgements" not in table.column_names:
            return "answers without judgements"
        if (wrong := wrong_lists(table, "lengths", "documents", *judged)) is not None:
            return wrong
        ids, labels, lengths = (table[name].combine_chunks() for name in ("ids", "labels", "lengths"))
        sizes = np.diff(ids.offsets.to_numpy())
        tokens, of_documents = ids.flatten().to_numpy(), lengths.flatten().to_numpy().astype(np.int64)
        offsets = lengths.offsets.to_numpy()
        ends = np.concatenate([[0], np.cumsum(of_documents)])[offsets - offsets[0]]
        if (of_documents < 1).any() or not np.array_equal(np.diff(ends), sizes):
            return "lengths of documents whose sum is not the number of tokens"
        of_rows = table["label"].drop_null().to_numpy()
        if self.classes is not None and len(of_rows) and not 0 <= of_rows.min() <= of_rows.max() < self.classes:
            return f"classes from {of_rows.min()} to {of_rows.max()}, of {self.classes}"
        if self.length is not None and sizes.max(initial=0) > self.length:
            return f"a row of {sizes.max():,} tokens, over {self.length:,}"
        if tokens.min(initial=0) < 0 or (self.vocabulary is not None and tokens.max(initial=0) >= self.vocabulary):
            return (
                f"token ids from {tokens.min()} to {tokens.max()}, of a model that embeds {self.vocabulary or 'more'}"
            )
        trained = np.concatenate([[0], np.cumsum(labels.flatten().to_numpy(zero_copy_only=False))])
        starts = ids.offsets.to_numpy() - ids.offsets[0].as_py()
        without_class = table["label"].is_null().to_numpy()  # with one, a row is trained on for it
        if (np.diff(trained[starts])[without_class & (sizes > 0)] == 0).any():
            return "a row without a token to train on"
        counts = [pc.list_value_length(table[name]).to_numpy() for name in ("lengths", "documents", *judged)]
        if any(not np.array_equal(counts[0], one) for one in counts[1:]):
            return "other numbers of documents than of their lengths"
        if judged:
            if (np.diff(trained[np.concatenate([[0], np.cumsum(of_documents)])]) == 0).any():
                return "an answer without a token to train on"
            if self.records == "pairs" and (counts[0] % 2).any():
                return "an answer without the other one of its pair"
            judgements = table["judgements"].combine_chunks().flatten().to_numpy()
            if self.records == "pairs" and (np.abs(judgements) > MOST_MARGIN).any():
                return f"a margin beyond {MOST_MARGIN:,.0f}"
            if self.records == "labelled" and not np.isin(judgements, (0, 1)).all():
                return "a judgement that is neither 0 nor 1"
        return None


class PackedRows:
    """The rows of one artifact of schema PACKED, numbered from 0 in the order of its files.

    A file is opened when a row of it is first read. One request to the store reads one row group. Decoded row groups
    are kept in an LRU cache of `cache_bytes`, so with an order that takes neighbours at about the same time (order.py)
    each is fetched about once per epoch. Not thread-safe.

    bounds: of the rows. shared: whether other processes of this machine read the same rows at about the same time; of
    an object store, one then fetches and decodes each row group for all.
    """

    def __init__(
        self,
        artifact: Artifact,
        cache_bytes: int = _CACHE_BYTES,
        *,
        bounds: RowBounds | None = None,
        shared: bool = False,
    ) -> None:
        self.artifact = artifact
        self._shared = None
        if shared and paths.is_remote(artifact.uri):
            # Two stores may have objects of one name.
            name = f"{artifact.store.endpoint_of(artifact.uri)} {artifact.manifest.digest}"
            self._shared = SharedTables(name, _SHARED_GROUPS)
        self.bounds = bounds or RowBounds()
        self.rows = artifact.manifest.rows
        self.cache_bytes = cache_bytes
        self.fetched_groups = 0
        self._uris = artifact.file_uris
        self._file_starts = np.cumsum([0, *(file.rows for file in artifact.manifest.files)])
        self._files: OrderedDict[int, tuple[StoredParquet, np.ndarray]] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._cached_bytes = 0

    def __len__(self) -> int:
        return self.rows

    @property
    def documents_per_row(self) -> float:
        """Mean documents per row over all splits of the corpus, from packing's counters.

        Each piece of a split document counts as a document.
        """
        counters = self.artifact.manifest.counters
        parts, rows = (
            sum(count for name, count in counters.items() if name.startswith(kind)) for kind in ("pieces/", "rows/")
        )
        return parts / max(rows, 1)

    @property
    def group_rows(self) -> list[int]:
        """Number of rows of each row group, in order. Opens every file."""
        return [int(rows) for file in range(len(self._uris)) for rows in np.diff(self._open(file)[1])]

    def read(self, indices: Sequence[int]) -> list[pa.Table]:
        """A table of one row for each index, in the order of the indices.

        Raises:
            DataError: a file is damaged. StorageError: a file cannot be fetched. Both messages name the URI.
        """
        wanted = np.asarray(indices, np.int64)
        assert not len(wanted) or (wanted.min() >= 0 and wanted.max() < self.rows), f"rows are 0 to {self.rows - 1}"
        return [self._row(int(index)) for index in wanted]

    def close(self) -> None:
        """Close the files and empty the cache."""
        while self._files:
            self._files.popitem()[1][0].close()
        self._groups.clear()
        self._cached_bytes = 0
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _row(self, index: int) -> pa.Table:
        file = int(np.searchsorted(self._file_starts, index, "right")) - 1
        row = index - int(self._file_starts[file])
        _, starts = self._open(file)
        group = int(np.searchsorted(starts, row, "right")) - 1
        return self._group(file, group).slice(row - int(starts[group]), 1)

    def _group(self, file: int, group: int) -> pa.Table:
        if (found := self._groups.get((file, group))) is not None:
            self._groups.move_to_end((file, group))
            return found
        if self._shared is None:
            table = self._fetched(file, group)
        else:
            table = self._shared.table(f"{self._uris[file]} {group}", lambda: self._fetched(file, group))
        self.bounds.refuse_wrong(table, f"{self._uris[file]}: row group {group}")
        self._groups[file, group] = table
        self._cached_bytes += table.nbytes
        while self._cached_bytes > self.cache_bytes and len(self._groups) > 1:
            self._cached_bytes -= self._groups.popitem(last=False)[1].nbytes
        return table

    def _fetched(self, file: int, group: int) -> pa.Table:
        try:
            parquet, _ = self._open(file)
            parquet.fetch_ahead([group])
            table = parquet.read_row_group(group, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self._uris[file]}: row group {group} cannot be read ({error}). It was damaged after it was written: "
                "run the same command with --verify to pack it again."
            ) from error
        self.fetched_groups += 1
        return table

    def _open(self, file: int) -> tuple[StoredParquet, np.ndarray]:
        """(an open file, the first row of each row group and the end of the last)."""
        if (found := self._files.get(file)) is not None:
            self._files.move_to_end(file)
            return found
        parquet = open_parquet(self.artifact.store, self._uris[file])
        rows = (parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups))
        self._files[file] = parquet, np.cumsum([0, *rows])
        if len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1][0].close()
        return self._files[file]
