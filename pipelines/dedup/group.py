"""The stage `group`: finds duplicate groups among the documents that passed the rules, however many there are.

Exact duplicates (equal normalised text) are found first. Of the other documents, those that share a band key pass
through the verified greedy loop of greedy.py. No text is read. Positions are cut into ranges of 2^19 documents. With
one range, one unit does all of the work. With more, these stages prepare the stage `group`:

    texts       per range: the first document of each text, cut by text;         -> texts, text-edges
                edges from it to the copies in the range: see exact.py
    firsts      per slice: edges between the first of a text and those of other  -> first-edges, copies
                ranges; their positions, cut by range
    keys        per range: (key, document) pairs of the firsts, cut by key;      -> keys, edges
                edges between documents of the range that share a key
    merge       per slice: edges between documents of different ranges           -> edges
    mark        one unit: the documents with an edge, which are the candidates   -> marks
    components  one unit: connected documents, put together into batches         -> batches
    ...         instead of these two, for more edges than one task can connect: see stars.py
    route       per range: the attributes of its candidates, cut by batch        -> candidates
    compare     per batch: keeper order, exact and near-duplicates, cut by range -> found
    ...         instead, for a batch that is too large for one task: see blocks.py
    group       per range: the rows of the members of groups                     -> _work/groups

The stages before the last write sliced files (cluster/output.py) of numbers and Arrow tables, which are removed
when the last is finished. With many ranges, the slices pass through more stages (cluster/exchange.py). The result is
the same for any size of range, slice and batch, and for any number of workers.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.exchange import MEMORY as EXCHANGE_MEMORY
from raymill.cluster.exchange import Slice, SlicedFiles, exchange
from raymill.cluster.output import array_of, read_slice, read_slices, table_of, table_slice, table_slices
from raymill.cluster.readers.inputs import Input
from raymill.cluster.stage import Output, RunStage, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.blocks import Blocks, Splits, sample_every, sample_of, splits_of
from raymill.pipelines.dedup.candidates import edges_between, edges_within
from raymill.pipelines.dedup.compare import (
    GROUPS_SCHEMA,
    MOST_GROUPS_SHOWN,
    Compare,
    candidate_columns,
    joined,
    keeper_columns,
)
from raymill.pipelines.dedup.components import Batches, BatchFiles, mark_candidates, memory_to_connect, memory_to_mark
from raymill.pipelines.dedup.cost import (
    DEFAULT_SIZES,
    FIRSTS_MEMORY,
    KEYS_MEMORY,
    LIBRARIES,
    MERGE_MEMORY,
    OF_A_CANDIDATE,
    ROUTE_MEMORY,
    TEXTS_MEMORY,
    GroupCost,
    Sizes,
    block_memory,
    slices_of_keys,
    slices_of_texts,
    stars_memory,
)
from raymill.pipelines.dedup.documents import (
    KEY_COLUMNS,
    EarlierRun,
    Keys,
    Range,
    earlier_ranges,
    judged,
    passed,
    ranges,
    scopes,
)
from raymill.pipelines.dedup.exact import TEXT_COLUMNS, Copies, FindFirsts, FindTexts, RangeTexts
from raymill.pipelines.dedup.settings import NO_EFFECT_ON_RESULT, Dedup
from raymill.pipelines.dedup.stars import PositionSpans, Stars

GROUPS = "_work/groups"
GROUP_VERSION = "6"
KNOWN = "known"  # `partner_run` of a duplicate of one of the first `known` documents of `group_stage`
_PREPARE_VERSION = "2"  # of the stages before the last, whose result is the same

# Sliced outputs of the stages that prepare `group`.
_TEXTS, _TEXT_EDGES = "_work/group/texts", "_work/group/text-edges"
_FIRST_EDGES, _COPIES = "_work/group/first-edges", "_work/group/copies"
_KEYS, _EDGES, _MERGED = "_work/group/keys", "_work/group/edges", "_work/group/merged"
_BATCHES, _CANDIDATES, _FOUND = "_work/group/batches", "_work/group/candidates", "_work/group/found"
_MARKS, _SAMPLES = "_work/group/marks", "_work/group/samples"
_NO_COLUMNS = pa.schema([])


Work = Callable[[Any, Scratch], Counters]


def group_stage(
    dedup: Dedup,
    inputs: Sequence[Input],
    attributes: Artifact,
    verdicts: Artifact,
    units: int,
    sizes: Sizes = DEFAULT_SIZES,
    earlier: Sequence[EarlierRun] = (),
    *,
    known: int = 0,
    chained: bool = False,
) -> Stage:
    """The stage that finds duplicates among the documents that passed the rules.

    Reads: of the attributes the signatures, text hashes and what the keeper compares; the verdicts.
    Writes: GROUPS, a row for each duplicate with its kept partner, in a file for each range of positions.
    Cost: 4 to 15 core-seconds for a million documents; memory of the tasks by `memory_by_stage`.

    inputs: their sources and snapshots are the scopes. units: number of units of both artifacts. earlier: the runs of
    `dedup.against`, whose kept documents come before all others. known: number of the first documents, which are not
    compared with each other; each later one is compared with all of these, and with no other (then `partner_run` of
    a duplicate of one of them is KNOWN). chained: documents that are similar over others have one `group_id`, those of
    a batch above `dedup.component_documents` excepted.
    """
    assert not (known and earlier)
    keys = Keys(dedup, scopes(dedup.scope, inputs, earlier))
    made_from = fingerprint(
        {
            "version": [GROUP_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "verdicts": verdicts.manifest.fingerprint,
            "dedup": dedup.model_dump(exclude={"remove", "against", *NO_EFFECT_ON_RESULT}),
            "scopes": keys.scopes,
            "range": sizes.documents,
            "earlier": [run.digest for run in earlier],
        }
        | ({"known": known} if known else {})
        | ({"chained": chained} if chained else {})
    )
    store, outputs = attributes.store, (Output(GROUPS, GROUPS_SCHEMA),)
    before: list[Range] = []
    runs: list[int] = []
    for run in earlier:
        runs.append(len(before) * sizes.documents)
        before += earlier_ranges(run, sizes.documents, runs[-1])
    runs.append(len(before) * sizes.documents)
    cut = ranges(attributes, verdicts, units, sizes.documents, runs[-1])
    uris = tuple(run.uri for run in earlier)
    compare = Compare(keys, (0, known), (KNOWN,), among=False) if known else Compare(keys, tuple(runs), uris)
    compare = replace(compare, chained=chained)
    if not before and len(cut) == 1:
        most = LIBRARIES + OF_A_CANDIDATE * attributes.manifest.rows
        return Stage("group", outputs, cut, GroupRange(store, compare), made_from, store, _files, memory=most)
    of_earlier = sum(run.attributes.manifest.rows for run in earlier)
    documents = int(verdicts.manifest.counters.get("passed", 0)) + of_earlier
    prepare = PrepareGroups(store, compare, [*before, *cut], len(before), documents, sizes, made_from)
    # The units of the last stage are known when the stages before it are finished.
    model = GroupCost(dedup, sizes, attributes, len(before) + len(cut), documents, of_earlier)
    work = WriteGroups(store)
    return Stage("group", outputs, (), work, made_from, store, memory=LIBRARIES, prepare=prepare, model=model)


def files_of(groups: Artifact, spans: Iterable[tuple[int, int]], sizes: Sizes = DEFAULT_SIZES) -> Iterator[list[str]]:
    """The files of GROUPS that can have documents of each span. spans: (first position, number of positions)."""
    by_range: dict[int, list[str]] = defaultdict(list)
    for uri, file in zip(groups.file_uris, groups.manifest.files, strict=True):
        by_range[file.unit].append(uri)
    for first, count in spans:
        wanted = range(first // sizes.documents, -(-(first + count) // sizes.documents))
        yield [uri for number in wanted for uri in by_range.get(number, ())]


def _files(documents: Range) -> str:
    return files_from(documents.uris)


@dataclass(frozen=True)
class RangeRows:
    """A unit of the last stage: the found rows of a range, and the pairs of all ranges that a report may show."""

    rows: Slice
    pairs: Slice


@dataclass(frozen=True)
class PrepareGroups:
    """Runs the stages before the last one, which are listed above.

    ranges: those of earlier runs first. earlier: number of those. documents: number of those that passed, with all of
    the earlier runs.
    """

    store: Store
    compare: Compare
    ranges: Sequence[Range]
    earlier: int
    documents: int
    sizes: Sizes
    made_from: str

    def __call__(self, run: RunStage) -> list[RangeRows]:
        """The units of the last stage."""
        store, keys, positions = self.store, self.compare.keys, self.ranges[-1].end
        firsts = tuple(one.start for one in self.ranges)
        copies, same = self._copies(run, firsts)
        slices = slices_of_keys(self.documents, keys.dedup, self.sizes)
        make_keys = MakeKeys(store, keys, copies, slices, self.sizes)
        made = run(self._stage("keys", (_KEYS, _EDGES), self.ranges, make_keys, KEYS_MEMORY))
        merge = MergePairs(store, self._exchange(run, made[_KEYS].file_uris, slices, "keys", _KEYS), firsts, slices)
        merged = run(self._stage("merge", (_MERGED,), range(slices), merge, MERGE_MEMORY))[_MERGED]
        with_edges = (*same, made[_EDGES], merged)
        edges = tuple(uri for artifact in with_edges for uri in artifact.file_uris)
        count = sum(int(artifact.manifest.counters["edges"]) for artifact in with_edges)
        batched, counts = self._batches(run, edges, positions, count)
        found: list[str] = []
        if len(counts):
            limit = keys.dedup.component_documents
            large = np.flatnonzero(counts > limit).tolist()
            slots = Slots.of(len(counts), self._splits(run, batched, large) if large else {})
            route = Route(store, self.compare, batched, copies, slots, self.sizes)
            routed = run(self._stage("route", (_CANDIDATES,), self.ranges, route, ROUTE_MEMORY, limit))[_CANDIDATES]
            files = self._exchange(run, routed.file_uris, slots.first[-1], "candidates", _CANDIDATES, limit)
            if whole := [slots.first[batch] for batch in range(len(counts)) if batch not in slots.splits]:
                compare = CompareBatch(store, self.compare, files, firsts)
                most = LIBRARIES + OF_A_CANDIDATE * int(counts[counts <= limit].max())
                found += run(self._stage("compare", (_FOUND,), whole, compare, most, limit))[_FOUND].file_uris
            if large:
                blocks = Blocks(store, self.compare, files, firsts, block_memory(self.sizes))
                found += blocks(run, partial(self._stage, depends=limit), [slots.of_batch(batch) for batch in large])
        count = len(self.ranges)
        files = self._exchange(run, found, count + 1, "found", _FOUND, keys.dedup.component_documents)
        pairs = files.slice(count)
        return [RangeRows(files.slice(number), pairs) for number in range(self.earlier, count)]

    def _copies(self, run: RunStage, firsts: tuple[int, ...]) -> tuple[Copies, tuple[Artifact, Artifact]]:
        """(the copies of each range, artifacts with edges to them). firsts: position of the first document of each."""
        compare, slices = self.compare, slices_of_texts(self.documents, self.sizes)
        columns = frozenset(keeper_columns(compare.keys.dedup))
        find = FindTexts(self.store, compare.keys, compare.ranks, columns, slices, _TEXTS, _TEXT_EDGES)
        found = run(self._stage("texts", (_TEXTS, _TEXT_EDGES), self.ranges, find, TEXTS_MEMORY))
        texts = self._exchange(run, found[_TEXTS].file_uris, slices, "texts", _TEXTS)
        merge = FindFirsts(self.store, texts, firsts, _FIRST_EDGES, _COPIES)
        merged = run(self._stage("firsts", (_FIRST_EDGES, _COPIES), range(slices), merge, FIRSTS_MEMORY))
        by_range = self._exchange(run, merged[_COPIES].file_uris, len(firsts), "copies", _COPIES)
        return Copies(tuple(found[_TEXT_EDGES].file_uris), by_range), (found[_TEXT_EDGES], merged[_FIRST_EDGES])

    def _batches(
        self, run: RunStage, edges: tuple[str, ...], positions: int, count: int
    ) -> tuple[BatchFiles, np.ndarray]:
        """(the batch of each candidate, the candidates of each batch int64[B]). edges: files with `count` edges."""
        ranges = len(self.ranges)
        if count > self.compare.keys.dedup.connected_at_once:
            spans = PositionSpans(self.sizes.documents, self.sizes.span, -(-ranges // self.sizes.span))
            stars = Stars(self.store, spans, self.sizes.edges, self.sizes.batch, stars_memory(self.sizes))
            return stars(run, self._stage, edges)
        most = LIBRARIES + memory_to_mark(positions)
        marked = run(self._stage("mark", (_MARKS,), [edges], MarkCandidates(self.store, positions), most))[_MARKS]
        candidates = int(marked.manifest.counters["candidates"])
        connect = Connect(self.store, marked.file_uris[0], candidates, ranges, self.sizes)
        most = LIBRARIES + memory_to_connect(positions, candidates)
        connected = run(self._stage("components", (_BATCHES,), [edges], connect, most))[_BATCHES]
        batched = BatchFiles(tuple(connected.file_uris), ranges)
        return batched, read_slice(self.store, batched.uris[0], ranges, array_of(np.int64))

    def _exchange(
        self, run: RunStage, uris: Sequence[str], slices: int, name: str, output: str, depends: int | None = None
    ) -> SlicedFiles:
        def stage(name: str, output: str, units: Sequence[Any], work: Work) -> Stage:
            return self._stage(name, (output,), units, work, EXCHANGE_MEMORY, depends)

        return exchange(run, self.store, SlicedFiles.of(uris, slices, self.sizes.fan), name, output, stage)

    def _splits(self, run: RunStage, batched: BatchFiles, large: list[int]) -> dict[int, Splits]:
        """The starts of the blocks of the large batches, by batch."""
        every = sample_every(self.sizes.block, len(self.ranges))
        work = SampleRanks(self.store, self.compare, batched, tuple(large), every, self.sizes)
        limit = self.compare.keys.dedup.component_documents
        uris = run(self._stage("sample", (_SAMPLES,), self.ranges, work, ROUTE_MEMORY, limit))[_SAMPLES].file_uris
        return {
            batch: splits_of(read_slices(self.store, uris, number, array_of(np.uint64, 2, -1)), self.sizes.block, every)
            for number, batch in enumerate(large)
        }

    def _stage(
        self,
        name: str,
        outputs: Sequence[str],
        units: Sequence[Any],
        work: Callable[[Any, Scratch], Counters],
        memory: int,
        depends: int | None = None,
    ) -> Stage:
        made_from = fingerprint([self.made_from, _PREPARE_VERSION, name, asdict(self.sizes), depends])
        sliced = tuple(Output(output, _NO_COLUMNS) for output in outputs)
        return Stage(f"group.{name}", sliced, units, work, made_from, self.store, memory=memory)


@dataclass(frozen=True)
class GroupRange:
    """The work of the only unit of a run with one range."""

    store: Store
    compare: Compare

    def __call__(self, documents: Range, scratch: Scratch) -> Counters:
        compare, keys = self.compare, self.compare.keys
        dedup = keys.dedup
        found: list[tuple[np.ndarray, np.ndarray]] = []
        columns = KEY_COLUMNS | TEXT_COLUMNS | frozenset(keeper_columns(dedup))

        def texts() -> Iterator[tuple[np.ndarray, pa.Table]]:
            for _, at, table in passed(self.store, documents, columns):
                of_table, signed = keys.of(table, np.ones(len(at), bool))
                found.append((of_table, at[signed] - documents.start))
                yield at, table

        same = RangeTexts.of(keys, compare.ranks, texts()).edges
        is_first = ~_marked(documents, same[:, 1])
        of_firsts = [(made[is_first[numbers]], numbers[is_first[numbers]]) for made, numbers in found]
        found.clear()
        edges, _ = edges_within(of_firsts, 1)
        is_candidate = _marked(documents, same)
        is_candidate[edges] = True
        tables = _candidates(self.store, candidate_columns(dedup), documents, is_candidate, same[:, 1])
        if not tables:
            return {"documents": 0.0}
        members, pairs = compare(pa.concat_tables(tables))
        return _write(members, pairs, scratch)


@dataclass(frozen=True)
class MakeKeys:
    """The work of the stage `keys`. slices: number of slices of the keys."""

    store: Store
    keys: Keys
    copies: Copies
    slices: int
    sizes: Sizes

    def __call__(self, documents: Range, scratch: Scratch) -> Counters:
        is_first = ~_marked(documents, self.copies.of_range(self.store, documents.start // self.sizes.documents))
        found = []
        for _, at, table, stays in judged(self.store, documents, KEY_COLUMNS):
            # Not filtered, because that would copy the signatures.
            numbers = at - documents.start
            of_table, signed = self.keys.of(table, stays & is_first[numbers])
            found.append((of_table, numbers[signed]))
        edges, pairs = edges_within(found, self.slices)
        scratch.write_slices(_KEYS, pairs)
        scratch.write_slices(_EDGES, [edges + documents.start])
        return {"documents": float(documents.end - documents.start), "edges": float(len(edges))}


@dataclass(frozen=True)
class MergePairs:
    """The work of the stage `merge`. files: the pairs of every range. firsts: position of its first document."""

    store: Store
    files: SlicedFiles
    firsts: tuple[int, ...]
    slices: int

    def __call__(self, number: int, scratch: Scratch) -> Counters:
        pairs = self.files.slice(number).read(self.store, array_of(np.uint64))
        edges = edges_between(pairs, np.array(self.firsts), number, self.slices)
        scratch.write_slices(_MERGED, [edges])
        return {"edges": float(len(edges))}


@dataclass(frozen=True)
class MarkCandidates:
    """The work of the stage `mark`. positions: their number."""

    store: Store
    positions: int

    def __call__(self, uris: Sequence[str], scratch: Scratch) -> Counters:
        bits = mark_candidates(_edges(self.store, uris), self.positions)
        scratch.write_slices(_MARKS, [bits])
        return {"candidates": float(np.bitwise_count(bits).sum())}


@dataclass(frozen=True)
class Connect:
    """The work of the stage `components`. marked: URI of the marks. candidates, ranges: their number."""

    store: Store
    marked: str
    candidates: int
    ranges: int
    sizes: Sizes

    def __call__(self, uris: Sequence[str], scratch: Scratch) -> Counters:
        """Writes number and batch of each candidate, by range; then the number of candidates of each batch."""
        bits = read_slice(self.store, self.marked, 0, array_of(np.uint64))
        batches = Batches.of(_edges(self.store, uris), bits, self.candidates, self.sizes.batch)
        starts = [number * self.sizes.documents for number in range(self.ranges + 1)]
        slices = (np.concatenate(batches.between(start, end)) for start, end in pairwise(starts))
        of_ranges = 2 * 4 * np.diff([batches.candidates_before(start) for start in starts])
        scratch.write_slices(
            _BATCHES, chain(slices, [batches.counts]), np.array([*of_ranges, batches.counts.nbytes], np.int64)
        )
        return {"candidates": float(self.candidates)}


@dataclass(frozen=True)
class Slots:
    """The slices of the candidates: one for each batch, but of a large batch one for each block. A task reads one.

    first: number of the first slice of each batch, then the number of all slices. splits: of the large batches.
    """

    first: tuple[int, ...]
    splits: dict[int, Splits]

    @classmethod
    def of(cls, batches: int, splits: dict[int, Splits]) -> "Slots":
        """The slices of `batches` batches. splits: those of the large ones."""
        counts = [splits[batch].blocks if batch in splits else 1 for batch in range(batches)]
        return cls(tuple(accumulate(counts, initial=0)), splits)

    def of_batch(self, batch: int) -> range:
        """The slices of a batch."""
        return range(self.first[batch], self.first[batch + 1])

    def of_documents(self, batch: np.ndarray, ranks: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """int64[C]: the slice of each of C documents, by its batch, rank (`Compare.ranks`) and position."""
        found = np.array(self.first)[batch]
        for large, splits in self.splits.items():
            here = batch == large
            found[here] += splits.blocks_of(ranks[here], positions[here])
        return found


@dataclass(frozen=True)
class SampleRanks:
    """The work of the stage `sample`: ranks and positions of one in `every` documents of each large batch."""

    store: Store
    compare: Compare
    batched: BatchFiles
    large: tuple[int, ...]
    every: int
    sizes: Sizes

    def __call__(self, documents: Range, scratch: Scratch) -> Counters:
        columns = frozenset({"row", "source", *keeper_columns(self.compare.keys.dedup)})
        rows, batch = _in_batches(self.store, columns, self.batched, documents, self.sizes, np.empty(0, np.int64))
        slices: list[bytes] = [b""] * len(self.large)
        if rows is not None:
            ranks, positions = self.compare.ranks(rows), rows["position"].to_numpy()
            slices = [
                sample_of(ranks[here], positions[here], self.every) for here in (batch == one for one in self.large)
            ]
        scratch.write_slices(_SAMPLES, slices)
        return {"documents": float(len(batch))}


@dataclass(frozen=True)
class Route:
    """The work of the stage `route`."""

    store: Store
    compare: Compare
    batched: BatchFiles
    copies: Copies
    slots: Slots
    sizes: Sizes

    def __call__(self, documents: Range, scratch: Scratch) -> Counters:
        columns = candidate_columns(self.compare.keys.dedup)
        copies = self.copies.of_range(self.store, documents.start // self.sizes.documents)
        rows, batch = _in_batches(self.store, columns, self.batched, documents, self.sizes, copies)
        slices: list[pa.Buffer | bytes] = [b""] * self.slots.first[-1]
        if rows is not None:
            slots = self.slots.of_documents(batch, self.compare.ranks(rows), rows["position"].to_numpy())
            ends = np.cumsum(np.bincount(slots, minlength=len(slices)))
            slices = table_slices(rows.take(np.argsort(slots, kind="stable")), ends.tolist())
        scratch.write_slices(_CANDIDATES, slices)
        return {"documents": float(len(batch))}


@dataclass(frozen=True)
class CompareBatch:
    """The work of the stage `compare`. files: candidates of every range. firsts: position of its first document.

    A unit is the number of a slice.
    """

    store: Store
    compare: Compare
    files: SlicedFiles
    firsts: tuple[int, ...]

    def __call__(self, number: int, scratch: Scratch) -> Counters:
        """Writes the found rows by range, then the pairs that a report may show."""
        # `compare` frees the columns that it has used, so this function keeps no reference to the rows.
        rows = [joined(self.files.slice(number).read(self.store, table_of))]
        assert rows[0] is not None, "every batch has candidates"
        count = rows[0].num_rows
        members, pairs = self.compare(rows.pop())
        ends = np.searchsorted(members["position"].to_numpy(), [*self.firsts[1:], np.iinfo(np.int64).max])
        scratch.write_slices(_FOUND, [*table_slices(members, ends.tolist()), table_slice(pairs)])
        return {"documents": float(count)}


@dataclass(frozen=True)
class WriteGroups:
    """The work of the last stage."""

    store: Store

    def __call__(self, unit: RangeRows, scratch: Scratch) -> Counters:
        members, pairs = joined(unit.rows.read(self.store, table_of)), joined(unit.pairs.read(self.store, table_of))
        if members is None or pairs is None:
            return {"documents": 0.0}
        return _write(members.sort_by("position"), pairs, scratch)


def _edges(store: Store, uris: Iterable[str]) -> Iterator[np.ndarray]:
    """The edges int64[E, 2] of each file, between positions."""
    return (read_slice(store, uri, 0, array_of(np.int64, -1, 2)) for uri in uris)


def _marked(documents: Range, positions: np.ndarray) -> np.ndarray:
    """bool[N], by number in the range: True for these positions."""
    found = np.zeros(documents.end - documents.start, bool)
    found[positions - documents.start] = True
    return found


def _in_batches(
    store: Store, columns: frozenset[str], batched: BatchFiles, documents: Range, sizes: Sizes, copies: np.ndarray
) -> tuple[pa.Table | None, np.ndarray]:
    """(candidates of a range in order of position, None without any; the batch of each, int32[C]).

    copies: as for `_candidates`.
    """
    numbers, batch = batched.of_range(store, documents.start // sizes.documents)
    is_candidate = np.zeros(documents.end - documents.start, bool)
    is_candidate[numbers] = True
    tables = _candidates(store, columns, documents, is_candidate, copies)
    return (pa.concat_tables(tables) if tables else None), batch


def _candidates(
    store: Store, columns: frozenset[str], documents: Range, wanted: np.ndarray, copies: np.ndarray
) -> list[pa.Table]:
    """Attributes, `unit` and `position` of the documents of a range. wanted: bool[N], by number in the range.

    copies: positions of documents whose signature is left out, as it equals the one of the first with their text.
    """
    found, is_copy = [], _marked(documents, copies)
    for unit, at, rows in passed(store, documents, columns, wanted):
        here = is_copy[at - documents.start]
        if "signature" in columns and here.any():
            signature = rows["signature"].take(pa.array(np.arange(len(at)), mask=here))
            rows = rows.set_column(rows.column_names.index("signature"), "signature", signature)
        unit_column = pa.array(np.full(rows.num_rows, unit, np.int32))
        found.append(rows.append_column("unit", unit_column).append_column("position", pa.array(at)))
    return [rows for rows in found if rows.num_rows]


def _write(members: pa.Table, pairs: pa.Table, scratch: Scratch) -> Counters:
    """Write the rows of GROUPS. Counters: their number, and removed documents by reason.

    pairs: of the largest groups of every batch.
    """
    largest = pairs.sort_by([("documents", "descending"), ("kept", "ascending")]).slice(0, MOST_GROUPS_SHOWN)
    shown = np.concatenate([largest["kept"].to_numpy(), largest["removed"].to_numpy()])
    is_shown = pa.array(np.isin(members["position"].to_numpy(), shown))
    scratch.write(GROUPS, members.append_column("shown", is_shown))
    counters: Counters = {"documents": float(members.num_rows)}
    for found in pc.value_counts(members["reason"].drop_null()).to_pylist():
        counters[f"reason/{found['values']}"] = found["counts"]
    return counters
