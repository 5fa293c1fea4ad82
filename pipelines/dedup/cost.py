"""The sizes of the units of a grouping (group.py), their memory, and what a grouping of several ranges takes.

A sample has one range, so the stages of several have a model here.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from raymill.cluster.artifact import Artifact, open_parquet
from raymill.cluster.cost import Cost, Planning, requests_to_read, requests_to_write
from raymill.cluster.exchange import FAN, Levels, cost_of_level
from raymill.cluster.plan.whole import PlannedArtifact
from raymill.pipelines.dedup.candidates import LOCAL_BITS
from raymill.pipelines.dedup.compare import candidate_columns, keeper_columns
from raymill.pipelines.dedup.components import memory_to_connect, memory_to_mark
from raymill.pipelines.dedup.documents import KEY_COLUMNS
from raymill.pipelines.dedup.exact import TEXT, TEXT_COLUMNS
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.stars import memory_of_stars

# A document that shares a band key with another one is a candidate. In a group of three, one is kept and two removed.
CANDIDATES_OF_A_DUPLICATE = 1.5
# Used if the sample has fewer: duplicates far apart in the input are not in a sample.
LEAST_DUPLICATES = 0.2
# Large and small stars where one task does not connect all candidates; groups of 2 to 5 documents take 3.
STARS = 8
# A near-duplicate or copy shares most of its keys with the kept document, and each of them makes an edge of 16 bytes.
EDGES_OF_A_CANDIDATE = 10

# Processor seconds by stage: `python -m tests.benchmarks group` with 2 million documents, 32% of them in groups (AMD
# EPYC, 2026-11-25, in a slow hour).
_DOCUMENT_S = {"texts": 0.5e-6, "firsts": 0.3e-6, "keys": 1.9e-6, "merge": 0.7e-6, "route": 1.7e-6}  # that passed
_CANDIDATE_S = {"compare": 3.6e-6, "": 1.2e-6}
# Of `mark` and `components` with 20 million documents, which do not fit into the processor's cache (AMD EPYC,
# 2026-11-25); of a star with 2 million (2026-11-23).
_EDGE_S = {"mark": 8e-9, "components": 75e-9, "star": 0.5e-6}
_WRITTEN = {"route": 531, "compare": 125, "": 16}  # bytes of a candidate, from the first run above
_EDGE_BYTES, _STAR_BYTES = 16, 30  # of an edge of `keys` and `merge`; that a star writes for one
_GIB = 1 << 30
LIBRARIES = _GIB // 2
TEXTS_MEMORY = FIRSTS_MEMORY = KEYS_MEMORY = MERGE_MEMORY = _GIB
ROUTE_MEMORY = 3 * _GIB // 2
OF_A_CANDIDATE = 1500  # bytes, in `compare`


@dataclass(frozen=True)
class Sizes:
    """The sizes of units. The result does not depend on them.

    documents: positions of a range, at most 2^20. pairs: of a slice of the keys; a text counts as four. batch:
    candidates of a batch; one with a larger component has more. block: candidates of a block of a batch above
    `dedup.component_documents`. fan: files that a unit reads, see cluster/exchange.py. span, edges: ranges and edges of
    a unit of stars.py.
    """

    documents: int = 1 << 19
    pairs: int = 1 << 24
    batch: int = 1 << 19
    block: int = 1 << 19
    fan: int = FAN
    span: int = 32
    edges: int = 1 << 22

    def __post_init__(self) -> None:
        assert self.documents <= 1 << LOCAL_BITS, "a pair has LOCAL_BITS bits for the number of a document"


DEFAULT_SIZES = Sizes()


def memory_to_group(documents: int, dedup: Dedup) -> int:
    """The most bytes that a task of the grouping of `documents` documents can take, whichever keys they share.

    A component above `component_documents` is compared in blocks, of which a task holds two, and more edges than
    `connected_at_once` are connected by stars.py.
    """
    most = [*memory_by_stage(documents, min(documents, 2 * dedup.connected_at_once)).values()]
    if documents > DEFAULT_SIZES.documents:
        most.append(LIBRARIES + OF_A_CANDIDATE * min(documents, dedup.component_documents))
        if documents > dedup.connected_at_once:
            most.append(stars_memory(DEFAULT_SIZES))
    if documents > dedup.component_documents:
        most.append(2 * block_memory(DEFAULT_SIZES))
    return max(most)


def block_memory(sizes: Sizes) -> int:
    """Bytes of a task with one block, which has at most a quarter more documents than `sizes.block`."""
    return LIBRARIES + OF_A_CANDIDATE * sizes.block * 5 // 4


def stars_memory(sizes: Sizes) -> int:
    """Bytes of a task of stars.py. Its first stage reads all edges of a slice of the keys, fewer than the pairs."""
    return LIBRARIES + memory_of_stars(sizes.documents * sizes.span, max(sizes.edges, sizes.pairs))


def memory_by_stage(documents: int, candidates: int | None = None) -> dict[str, int]:
    """Bytes of a task of `group` over `documents` documents, and of each stage that prepares it, if there are any.

    candidates: number of documents that share a key with another one; None: not known, all of them are assumed.
    """
    whole = DEFAULT_SIZES.documents
    if documents <= whole:
        return {"group": LIBRARIES + OF_A_CANDIDATE * documents}
    return {
        "group.texts": TEXTS_MEMORY,
        "group.firsts": FIRSTS_MEMORY,
        "group.keys": KEYS_MEMORY,
        "group.merge": MERGE_MEMORY,
        "group.mark": LIBRARIES + memory_to_mark(documents),
        "group.components": LIBRARIES + memory_to_connect(documents, documents if candidates is None else candidates),
        "group.route": ROUTE_MEMORY,
        "group.compare": LIBRARIES + OF_A_CANDIDATE * whole,
        "group": LIBRARIES,
    }


def slices_of_keys(documents: int, dedup: Dedup, sizes: Sizes = DEFAULT_SIZES) -> int:
    """The number of slices of the keys of `documents` documents."""
    return max(1, -(-documents * dedup.banding[0] // sizes.pairs))


def slices_of_texts(documents: int, sizes: Sizes = DEFAULT_SIZES) -> int:
    """The number of slices of the texts of `documents` documents. A text takes TEXT.itemsize bytes, a pair 8."""
    return max(1, -(-documents * TEXT.itemsize // (8 * sizes.pairs)))


@dataclass(frozen=True)
class GroupCost:
    """The model of the stage `group` of several ranges.

    attributes: of the documents. ranges: their number, with those of earlier runs. documents: those that
    passed, with all of the earlier runs, whose number is `earlier`.
    """

    dedup: Dedup
    sizes: Sizes
    attributes: Artifact
    ranges: int
    documents: int
    earlier: int

    def __call__(self, planning: Planning, sampled: Cost | None) -> Iterator[Cost]:
        dedup, sizes, ranges, passed = self.dedup, self.sizes, self.ranges, self.documents
        assert isinstance(self.attributes, PlannedArtifact)
        files, documents = len(self.attributes.manifest.files), self.attributes.manifest.rows + self.earlier
        columns = column_bytes(self.attributes.sampled)
        counters, compared = sampled.counters if sampled else {}, passed - self.earlier
        share = planning.assumed.get("duplicates", max(duplicates_among(counters, compared), LEAST_DUPLICATES))
        candidates = min(compared, CANDIDATES_OF_A_DUPLICATE * compared * share)
        edges = candidates * EDGES_OF_A_CANDIDATE
        memory = memory_by_stage(max(documents, DEFAULT_SIZES.documents + 1), round(candidates))

        def read(names: Iterable[str]) -> float:
            return documents * sum(columns.get(name, 0) for name in names)

        def cost(name: str, units: int, read: float, written: float, gets: float, outputs: int = 1) -> Cost:
            seconds = passed * _DOCUMENT_S.get(name, 0) + candidates * _CANDIDATE_S.get(name, 0)
            seconds += edges * _EDGE_S.get(name, 0)
            puts = units * (1 + outputs * requests_to_write(written / units / outputs))
            stage = f"group.{name}".rstrip(".")
            return Cost(stage, units, seconds, read, written, gets, puts, memory[stage], written / units)

        def exchange(name: str, levels: Levels, size: float) -> Iterator[Cost]:
            for level in range(1, levels.count):
                yield replace(cost_of_level(levels, level, size), name=f"group.{name}-{level}")

        def reads(levels: Levels) -> int:
            """Requests of the units that read the slices of the last level."""
            return 2 * levels.reads(levels.count)

        # A file that two ranges have is read by both. Each text counts as different, and each candidate as a copy.
        slices, text_slices = slices_of_keys(passed, dedup, sizes), slices_of_texts(passed, sizes)
        batches = max(1, math.ceil(candidates / sizes.batch))
        part_gets = (files + ranges - 1) * (1 + requests_to_read(self.attributes.manifest.bytes / max(files, 1)))
        texts, copies, shuffled = passed * TEXT.itemsize, candidates * 8, passed * dedup.banding[0] * 8
        routed, answers = candidates * _WRITTEN["route"], candidates * _WRITTEN["compare"]
        levels = {
            name: Levels.of(sources, targets, sizes.fan)
            for name, sources, targets in (
                ("texts", ranges, text_slices), ("copies", text_slices, ranges), ("keys", ranges, slices),
                ("candidates", ranges, batches), ("found", batches, ranges + 1),
            )
        }  # fmt: skip
        copy_gets = 2 * ranges + reads(levels["copies"])
        keeper = keeper_columns(dedup)
        yield cost("texts", ranges, read({*TEXT_COLUMNS, *keeper}), texts, part_gets, 2)
        yield from exchange("texts", levels["texts"], texts)
        yield cost("firsts", text_slices, texts, copies, reads(levels["texts"]), 2)
        yield from exchange("copies", levels["copies"], copies)
        within = candidates * _EDGE_BYTES / ranges  # a forest of the pairs whose documents are in one range
        yield cost("keys", ranges, read(KEY_COLUMNS), shuffled + within, part_gets + copy_gets, 2)
        yield from exchange("keys", levels["keys"], shuffled)
        yield cost("merge", slices, shuffled, edges * _EDGE_BYTES, reads(levels["keys"]))
        if edges <= dedup.connected_at_once:
            gets = 2 * (2 * ranges + text_slices + slices)
            yield cost("mark", 1, edges * _EDGE_BYTES, documents / 8, gets)
            yield cost("components", 1, edges * _EDGE_BYTES, candidates * 8, gets)
        else:
            yield _stars(candidates, edges, ranges, sizes)
        yield cost("route", ranges, read(candidate_columns(dedup)), routed, part_gets + 2 * ranges + copy_gets)
        yield from exchange("candidates", levels["candidates"], routed)
        yield cost("compare", batches, routed, answers, reads(levels["candidates"]))
        yield from exchange("found", levels["found"], answers)
        found = cost("", ranges, answers, candidates * _WRITTEN[""], 2 * reads(levels["found"]))
        yield replace(found, rows=candidates)


def duplicates_among(counters: Mapping[str, float], passed: float) -> float:
    """The share of the documents that passed that are duplicates. counters: of GROUPS."""
    return sum(count for name, count in counters.items() if name.startswith("reason/")) / max(passed, 1)


def _stars(candidates: float, edges: float, ranges: int, sizes: Sizes) -> Cost:
    """All stages of stars.py together.

    Equal edges come from different slices of the keys. Of ten, the first star writes eight and the second two or three,
    so the first two are counted with all edges, and the others with one of each candidate.
    """
    spans, later = math.ceil(ranges / sizes.span), STARS - 2
    files = sum(
        stars * max(spans, math.ceil(of_edges / sizes.edges)) for stars, of_edges in ((2, edges), (later, candidates))
    )
    units, moved = STARS * spans + files, 2 * edges + later * candidates
    size = moved * _STAR_BYTES
    # A unit of `least` reads a slice of every file, and those of `move` together one of every file for each span.
    core_s, memory = moved * _EDGE_S["star"], stars_memory(sizes)
    return Cost("group.star", units, core_s, size, size, 4 * spans * files, 3 * units, memory, size / units)


def column_bytes(artifact: Artifact | None) -> dict[str, float]:
    """Compressed bytes of each column for a row; empty without an artifact."""
    total: dict[str, float] = defaultdict(float)
    if artifact is None:
        return total
    for uri in artifact.file_uris:
        with open_parquet(artifact.store, uri) as parquet:
            for group in range(parquet.num_row_groups):
                for name in parquet.schema_arrow.names:
                    total[name] += sum(chunk.total_compressed_size for chunk in parquet.column_chunks(group, [name]))
    return {name: size / max(artifact.manifest.rows, 1) for name, size in total.items()}
