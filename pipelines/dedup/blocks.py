"""The comparison of a batch that is too large for one task, in blocks of documents in keeper order.

A document is compared with the kept documents of each earlier block, then with those of its own block. The result is
equal to the result of one loop over the batch (greedy.py). Stages, each with a unit for each block:

    gather     the documents of the block, in keeper order                              -> blocks
    before.K   per earlier block: documents of block K like those kept there            -> before/K
    block.K    the loop inside block K                                                  -> decided/K
    count      number of documents removed for each document that the block keeps       -> counts
    members    the rows of the block's members of groups                                -> members

before.K and block.K alternate, for K from 0 to the last. Several large batches are compared by the same stages. A kept
document is named by its block and its number among the "firsts": documents of the block whose text is in no earlier
document.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.exchange import SlicedFiles
from raymill.cluster.output import array_of, changed, read_slice, table_of, table_slice, table_slices
from raymill.cluster.stage import RunStage, Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.compare import (
    KEPT_COLUMNS,
    MOST_GROUPS_SHOWN,
    PAIRS_SCHEMA,
    Candidates,
    Compare,
    joined,
)
from raymill.pipelines.dedup.exact import first_of_text

_FOLDER = "_work/group"
_BLOCKS, _COUNTS, _MEMBERS = f"{_FOLDER}/blocks", f"{_FOLDER}/counts", f"{_FOLDER}/members"
_NO_POSITION = np.iinfo(np.int64).max

# The columns that the comparison reads. The other columns are needed for the rows of groups.
_COMPARED = ("position", "source", "text_hash", "signature")

# Slices of a file of `decided`: those of `compare_inside`, with KEPT_COLUMNS of the firsts in _NAMES; from _REMOVED on,
# one for each block up to this one: the documents that were removed for documents kept there.
_FIRSTS, _NAMES, _RESULTS, _REMOVED = range(4)


class MakeStage(Protocol):
    """Makes a stage of the grouping. memory: bytes of a unit."""

    def __call__(
        self,
        name: str,
        outputs: Sequence[str],
        units: Sequence[Any],
        work: Callable[[Any, Scratch], Counters],
        memory: int,
    ) -> Stage: ...


@dataclass(frozen=True)
class Blocks:
    """Compares large batches.

    candidates: files with a slice of candidates for each block. firsts: position of the first document of each range.
    memory: bytes of a unit that holds one block; a unit with two blocks takes twice as much.
    """

    store: Store
    compare: Compare
    candidates: SlicedFiles
    firsts: tuple[int, ...]
    memory: int

    def __call__(self, run: RunStage, stage: MakeStage, batches: Sequence[range]) -> list[str]:
        """Run the stages. Returns files with rows of members by range, then pairs, as those of the stage `compare`.

        batches: for each batch the slices of its blocks.
        """
        store, compare = self.store, self.compare

        def made(name: str, output: str, units: Sequence[Any], work: Any, memory: int) -> Iterator[str]:
            artifact: Artifact = run(stage(name, (output,), units, work, memory))[output]
            return iter(artifact.file_uris if units else ())

        all_blocks = [number for blocks in batches for number in blocks]
        gathered = made("gather", _BLOCKS, all_blocks, Gather(store, compare, self.candidates), self.memory)
        blocks = [[next(gathered) for _ in of_batch] for of_batch in batches]
        decided: list[list[str]] = [[] for _ in batches]
        for number in range(max(map(len, batches))):
            open_batches = [at for at, of_batch in enumerate(blocks) if number < len(of_batch)]
            earlier = [(other, uri, blocks[at][number]) for at in open_batches for other, uri in enumerate(decided[at])]
            name = f"{number:04}"
            folder = f"{_FOLDER}/before/{name}"
            work = CompareBefore(store, compare, folder)
            before = made(f"before.{name}", folder, earlier, work, 2 * self.memory) if earlier else iter(())
            units = [(number, blocks[at][number], tuple(next(before) for _ in range(number))) for at in open_batches]
            folder = f"{_FOLDER}/decided/{name}"
            inside = made(f"block.{name}", folder, units, CompareInside(store, compare, folder), self.memory)
            for at in open_batches:
                decided[at].append(next(inside))
        of_groups = [(number, tuple(uris[number:])) for uris in decided for number in range(len(uris))]
        counted = made("count", _COUNTS, of_groups, CountRemoved(store, compare), self.memory)
        counts = [tuple(next(counted) for _ in uris) for uris in decided]
        rows = [
            (uri, tuple(decided[at]), counts[at], number)
            for at, of_batch in enumerate(blocks)
            for number, uri in enumerate(of_batch)
        ]
        return list(made("members", _MEMBERS, rows, WriteMembers(store, compare, self.firsts), self.memory))


@dataclass(frozen=True)
class Splits:
    """The starts of a large batch's blocks: rank and position of the first document of each block but the first."""

    ranks: np.ndarray
    positions: np.ndarray

    @classmethod
    def of(cls, ranks: np.ndarray, positions: np.ndarray, samples: int) -> "Splits":
        """The starts from a sample of the batch. samples: documents of the sample in a block."""
        order = np.lexsort((positions, ranks))[samples::samples]
        return cls(ranks[order], positions[order])

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.ranks) + 1

    def blocks_of(self, ranks: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """int64[C]: the block of each of C documents."""
        splits = len(self.ranks)
        by_rank = np.concatenate([self.ranks, ranks]), np.concatenate([self.positions, positions])
        order = np.lexsort((by_rank[1], by_rank[0]))  # stable, so that a split comes before its document
        found = np.empty(len(order), np.int64)
        found[order] = np.cumsum(order < splits)
        return found[splits:]


def sample_every(block: int, ranges: int) -> int:
    """The sampling interval n of large batches: the sample has one of each n documents of a range.

    The documents after the last sampled one of a range are not counted, so a block has up to a quarter more documents
    than `block`.
    """
    return max(1, min(256, block // (4 * ranges)))


def sample_of(ranks: np.ndarray, positions: np.ndarray, every: int) -> bytes:
    """The sample of a batch's documents in one range, as bytes. positions: ascending. every: as of `sample_every`."""
    order = np.argsort(ranks, kind="stable")[every - 1 :: every]
    return ranks[order].tobytes() + positions[order].tobytes()


def splits_of(samples: Iterable[np.ndarray], block: int, every: int) -> Splits:
    """The starts of a batch's blocks, from the samples uint64[2, N] of all ranges."""
    ranks, positions = np.concatenate([np.empty((2, 0), np.uint64), *samples], axis=1)
    return Splits.of(ranks.view(np.float64), positions.view(np.int64), max(1, block // every))


@dataclass(frozen=True)
class Gather:
    """The work of the stage `gather`. files: candidates of every range."""

    store: Store
    compare: Compare
    files: SlicedFiles

    def __call__(self, number: int, scratch: Scratch) -> Counters:
        rows = joined(self.files.slice(number).read(self.store, table_of))
        assert rows is not None, "every block has candidates"
        rows = rows.take(np.argsort(self.compare.ranks(rows), kind="stable"))
        compared = rows.select(list(_COMPARED))
        scratch.write_slices(_BLOCKS, [table_slice(compared), table_slice(rows.drop_columns(list(_COMPARED)))])
        return {"documents": float(rows.num_rows)}


@dataclass(frozen=True)
class CompareBefore:
    """The work of the stages `before`.

    A unit: (number of the earlier block, URI of its decided documents, URI of the documents of the block).
    """

    store: Store
    compare: Compare
    output: str

    def __call__(self, unit: tuple[int, str, str], scratch: Scratch) -> Counters:
        number, decided, block = unit
        firsts, rows = _table(self.store, decided, _FIRSTS), _table(self.store, block, 0)
        found = compare_before(self.compare, number, firsts, rows)
        scratch.write_slices(self.output, [table_slice(found)])
        return {"documents": float(found.num_rows)}


def compare_before(compare: Compare, number: int, firsts: pa.Table, rows: pa.Table) -> pa.Table:
    """The documents of a block that are like a kept document of one earlier block. Another block may have a better one.

    Args:
        number: of the earlier block. firsts: its slice _FIRSTS. rows: _COMPARED of the block.

    Returns:
        Columns row (in the block), kept_block, kept, exact, similarity. A copy of a removed document has the values of
        that document.
    """
    count, is_new = firsts.num_rows, rows["position"].to_numpy() >= compare.runs[-1]
    columns = ["source", "text_hash", "signature"]
    both = pa.concat_tables([firsts.select(columns), rows.select(columns)])
    column = [both["signature"]]
    both = both.drop_columns(["signature"]).combine_chunks()
    candidates = Candidates.of(compare.keys, both, column.pop().chunks)
    first = first_of_text(compare.keys.texts(both), np.zeros(both.num_rows))
    of_block = np.arange(count, both.num_rows)
    leaders = np.flatnonzero(candidates.signed[:count])  # `firsts` has signatures of kept documents only
    compared = of_block[(first[of_block] == of_block) & candidates.signed[count:] & is_new]
    order = np.concatenate([leaders, compared])
    partner, similarity = candidates.remove_near_duplicates(order, len(leaders), keeps=False)
    copies, near = of_block[first[of_block] < count], of_block[partner[of_block] >= 0]
    of_copies = firsts.take(first[copies])
    of_first = of_copies["similarity"].to_numpy()
    return pa.table(
        {
            "row": np.concatenate([copies, near]) - count,
            "kept_block": np.concatenate([of_copies["kept_block"].to_numpy(), np.full(len(near), number)]),
            "kept": np.concatenate([of_copies["kept"].to_numpy(), partner[near]]),
            "exact": np.concatenate([np.ones(len(copies), bool), np.zeros(len(near), bool)]),
            "similarity": np.concatenate([np.where(np.isnan(of_first), 1.0, of_first), similarity[near]]),
        }
    )


@dataclass(frozen=True)
class CompareInside:
    """The work of the stages `block`.

    A unit: (number of the block, URI of its documents, URIs of the results of `before` for each earlier block).
    """

    store: Store
    compare: Compare
    output: str

    def __call__(self, unit: tuple[int, str, tuple[str, ...]], scratch: Scratch) -> Counters:
        number, block, before = unit
        rows = _table(self.store, block, 0)
        names = _table(self.store, block, 1)["id"]
        found = (_table(self.store, uri, 0) for uri in before)
        firsts, results = compare_inside(self.compare, number, rows, found)
        is_removed = pa.array(~np.isnan(results["similarity"].to_numpy()))
        removed = results.append_column("position", rows["position"]).filter(is_removed)
        removed = removed.take(np.argsort(removed["kept_block"].to_numpy(), kind="stable"))
        ends = np.searchsorted(removed["kept_block"].to_numpy(), np.arange(number + 1), side="right")
        of_firsts = rows.append_column("id", names).select(list(KEPT_COLUMNS)).take(firsts["row"])
        parts = [table_slice(firsts.drop_columns(["row"])), table_slice(of_firsts), table_slice(results)]
        scratch.write_slices(
            self.output, [*parts, *table_slices(removed.select(["kept", "exact", "position"]), ends.tolist())]
        )
        return {"documents": float(rows.num_rows)}


def compare_inside(
    compare: Compare, number: int, rows: pa.Table, before: Iterable[pa.Table]
) -> tuple[pa.Table, pa.Table]:
    """For each document of a block, the document of this or an earlier block that its group keeps.

    Args:
        rows: _COMPARED, in keeper order. before: from compare_before, of each earlier block in order.

    Returns:
        (firsts, results): results has the columns kept_block, kept, exact and similarity (NaN for kept) for each
        document. firsts has the firsts: the same columns without exact, source, text_hash, row, and signature, which is
        null for removed ones.
    """
    count = rows.num_rows
    kept_block, kept = np.full(count, number), np.full(count, -1)
    exact, similarity = np.zeros(count, bool), np.full(count, np.nan)
    for found in before:
        row, is_copy = found["row"].to_numpy(), found["exact"].to_numpy()
        better = is_copy | ~exact[row] & ~(found["similarity"].to_numpy() <= similarity[row])
        at = row[better]
        for values, name in ((kept_block, "kept_block"), (kept, "kept"), (exact, "exact"), (similarity, "similarity")):
            values[at] = found[name].to_numpy()[better]
    unsigned = rows.drop_columns(["signature"]).combine_chunks()
    candidates = Candidates.of(compare.keys, unsigned, rows["signature"].chunks)
    own = np.arange(count)
    first = first_of_text(compare.keys.texts(unsigned), np.zeros(count))
    is_first = (first == own) & ~exact
    compared = own[is_first & candidates.signed]
    kept_before = int(np.count_nonzero(unsigned["position"].to_numpy()[compared] < compare.runs[-1]))
    similar_before = np.where(exact, np.nan, similarity)
    partner, similar = candidates.remove_near_duplicates(compared, kept_before, similar_before, keeps=compare.among)
    firsts, copies = own[is_first], own[(first != own) & ~exact]
    number_of_first = np.cumsum(is_first) - 1
    similarity[firsts] = similar[firsts]
    here = firsts[(partner[firsts] >= 0) | np.isnan(similar[firsts])]
    kept_block[here] = number
    kept[here] = number_of_first[np.where(partner[here] >= 0, partner[here], here)]
    exact[copies] = True
    kept_block[copies], kept[copies] = kept_block[first[copies]], kept[first[copies]]
    of_first = similarity[first[copies]]
    similarity[copies] = np.where(np.isnan(of_first), 1.0, of_first)
    results = pa.table({"kept_block": kept_block, "kept": kept, "exact": exact, "similarity": similarity})
    of_firsts = results.drop_columns(["exact"]).take(firsts)
    is_new = unsigned["position"].to_numpy()[firsts] >= compare.runs[-1]
    compared_later = np.isnan(similarity[firsts]) & (compare.among | ~is_new)
    signature = rows["signature"].take(pa.array(firsts, mask=~compared_later))
    table = unsigned.select(["source", "text_hash"]).take(firsts)
    table = table.append_column("signature", signature).append_column("row", pa.array(firsts))
    for name in of_firsts.column_names:
        table = table.append_column(name, of_firsts[name])
    return table, results


@dataclass(frozen=True)
class CountRemoved:
    """The work of the stage `count`. A unit: (number of a block, URIs of `decided` of it and all later blocks)."""

    store: Store
    compare: Compare

    def __call__(self, unit: tuple[int, tuple[str, ...]], scratch: Scratch) -> Counters:
        """Writes the number of documents removed for each first of the block, and the pairs that a report may show."""
        number, decided = unit
        position = _table(self.store, decided[0], _NAMES)["position"].to_numpy()
        counts = np.zeros(len(position), np.int64)
        near, copy = np.full((2, len(position)), _NO_POSITION)
        for uri in decided:
            if (removed := read_slice(self.store, uri, _REMOVED + number, table_of)) is None:
                continue
            kept, exact, at = (removed[name].to_numpy() for name in ("kept", "exact", "position"))
            counts += np.bincount(kept, minlength=len(counts))
            np.minimum.at(near, kept[~exact], at[~exact])
            np.minimum.at(copy, kept[exact], at[exact])
        shown = np.flatnonzero((counts > 0) & (position >= self.compare.runs[-1]))
        shown = shown[np.lexsort((position[shown], -counts[shown]))][:MOST_GROUPS_SHOWN]
        partner = np.where(near[shown] < _NO_POSITION, near[shown], copy[shown])
        pairs = pa.table([counts[shown] + 1, position[shown], partner], schema=PAIRS_SCHEMA)
        scratch.write_slices(_COUNTS, [counts, table_slice(pairs)])
        return {}


@dataclass(frozen=True)
class WriteMembers:
    """The work of the stage `members`.

    A unit: (URI of a block, URIs of `decided` of all blocks, URIs of `counts` of all blocks, the block's number).
    """

    store: Store
    compare: Compare
    firsts: tuple[int, ...]

    def __call__(self, unit: tuple[str, tuple[str, ...], tuple[str, ...], int], scratch: Scratch) -> Counters:
        block, decided, counts, number = unit
        rows = _table(self.store, block, 0).drop_columns(["signature"])
        for name, column in zip((rest := _table(self.store, block, 1)).column_names, rest.columns, strict=True):
            rows = rows.append_column(name, column)
        results = _table(self.store, decided[number], _RESULTS)
        kept_block, kept = results["kept_block"].to_numpy(), results["kept"].to_numpy()
        found, at = [], []
        count = np.empty(rows.num_rows, np.int64)
        for other in np.unique(kept_block).tolist():
            here = np.flatnonzero(kept_block == other)
            found.append(_table(self.store, decided[other], _NAMES).take(kept[here]))
            at.append(here)
            count[here] = 1 + read_slice(self.store, counts[other], 0, array_of(np.int64))[kept[here]]
        partners = pa.concat_tables(found).take(np.argsort(np.concatenate(at)))
        is_member = (count > 1) & (rows["position"].to_numpy() >= self.compare.runs[-1])
        members = np.flatnonzero(is_member)
        members = members[np.argsort(rows["position"].to_numpy()[members])]
        written = self.compare.members(
            rows.take(members),
            partners.take(members),
            count[members],
            results["exact"].to_numpy()[members],
            results["similarity"].to_numpy()[members],
        )
        ends = np.searchsorted(written["position"].to_numpy(), [*self.firsts[1:], _NO_POSITION])
        scratch.write_slices(
            _MEMBERS, [*table_slices(written, ends.tolist()), read_slice(self.store, counts[number], 1, bytes)]
        )
        return {"documents": float(rows.num_rows)}


def _table(store: Store, uri: str, number: int) -> pa.Table:
    if (found := read_slice(store, uri, number, table_of)) is None:
        raise changed(uri)
    return found.combine_chunks()
