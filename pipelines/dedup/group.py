"""Stage 3: duplicate groups among the documents that passed the rules.

Exact duplicates (equal normalised text) collapse first; the rest go through the verified greedy loop of `greedy.py`.
The stage is one unit, run by one task. It reads attributes three times, never text:

    1. keys of every document that passed  ->  which documents share a key (candidates.py spills to local disk)
    2. what is known of those candidates   ->  keeper order, exact duplicates, greedy loop
    3. verdicts out, by position

Memory: per candidate 4 H bytes of signature (448 at H = 112), 32 bytes for each band it shares, its id, and about 100
bytes more: 1 to 1.5 KB, so 16 GB hold 10 to 15 million candidates. Per document that is no candidate: nothing, but for
one partition of spilled keys at a time (128 MB up to 140 million documents). Disk: 16 (bands + 1) bytes per document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import cluster
from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from pipelines.curate.config import CurateConfig, Dedup
from pipelines.dedup.candidates import shared_keys
from pipelines.dedup.greedy import remove_near_duplicates
from pipelines.dedup.signatures import band_keys

GROUPS = "_work/groups"
GROUP_VERSION = "2"
EXACT, NEAR = "exact_duplicate", "near_duplicate"

GROUPS_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("row", pa.int64()),
        ("reason", pa.string()),  # null: the document its group keeps
        ("partner", pa.string()),  # the kept document's id, then its source and its row in the attributes
        ("partner_source", pa.string()),
        ("partner_position", pa.int64()),
        ("similarity", pa.float64()),
        ("group_id", pa.int64()),
        ("duplicate_count", pa.int64()),  # documents of the group, the kept one included
        ("shown", pa.bool_()),  # one of the pairs that the report shows
        ("characters", pa.int64()),
        ("source", pa.string()),
        ("language", pa.string()),
    ]
)


def group_stage(config: CurateConfig, attributes: Artifact, verdicts: Artifact, units: int) -> Stage:
    assert config.dedup is not None
    made_from = fingerprint(
        {
            "version": [cluster.__version__, GROUP_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "verdicts": verdicts.manifest.fingerprint,
            "dedup": config.dedup.model_dump(exclude={"remove"}),
            "scopes": _scopes(config),
            "shown": config.report.groups,
        }
    )
    unit = {
        "attributes": attributes.files_by_unit(units),
        "verdicts": verdicts.files_by_unit(units),
        "passed": int(verdicts.manifest.counters.get("passed", 0)),
    }
    return Stage("group", (Output(GROUPS, GROUPS_SCHEMA),), [unit], Group(config), made_from, _files)


def _files(unit: dict[str, Any]) -> str:
    return files_from([uri for files in unit["attributes"] for uri in files])


@dataclass(frozen=True)
class Candidates:
    """C documents that share a key with another, in order of position. `pairs`: the keys each shares."""

    positions: np.ndarray
    unit: np.ndarray
    rows: pa.Table
    signatures: np.ndarray  # uint32[C, H]; zeros where there is none
    signed: np.ndarray  # bool[C]
    starts: np.ndarray
    keys: np.ndarray
    key_count: int

    def __len__(self) -> int:
        return len(self.unit)


@dataclass(frozen=True)
class Group:
    config: CurateConfig

    def __call__(self, unit: dict[str, Any], scratch: Scratch) -> Counters:
        dedup = self.config.dedup
        assert dedup is not None
        bands, _ = dedup.banding
        keyed = ((self._keys(table), positions) for _, positions, table in self._passed(unit, _KEY_COLUMNS))
        ids, documents = shared_keys(keyed, unit["passed"] * (bands + 1))
        candidates = self._candidates(unit, ids, documents)
        return self._write(candidates, scratch)

    def _passed(self, unit: dict[str, Any], wanted: frozenset[str]) -> Iterator[tuple[int, np.ndarray, pa.Table]]:
        """(unit, positions, attributes) of documents without a reason; a position is a row of the attributes."""
        first = 0
        for index, (attributes, verdicts) in enumerate(zip(unit["attributes"], unit["verdicts"], strict=True)):
            removed = [table["row"].to_numpy() for table in read_tables(verdicts, "row".__eq__)]
            gone = np.concatenate(removed) if removed else np.empty(0, np.int64)
            for table in read_tables(attributes, wanted.__contains__):
                stays = ~np.isin(table["row"].to_numpy(), gone)
                yield index, first + np.flatnonzero(stays), table.filter(pa.array(stays))
                first += table.num_rows

    def _keys(self, table: pa.Table) -> np.ndarray:
        """uint64[D, bands + 1]: the key of the exact text, then those of the bands; equal only within one scope."""
        assert self.config.dedup is not None
        hashes = _hash_words(table["text_hash"])
        signatures, signed = _signatures(table["signature"])
        near = band_keys(signatures, *self.config.dedup.banding)
        # A document too short for a signature has only its exact key, repeated.
        near[~signed] = hashes[~signed, :1]
        keys = np.concatenate([hashes[:, :1], near], axis=1)
        return keys ^ self._scope(table)[:, None] * np.uint64(0x9E3779B97F4A7C15)

    def _scope(self, table: pa.Table) -> np.ndarray:
        """uint64[D]: a number for what duplicates must have in common."""
        scopes = _scopes(self.config)
        sources = table["source"].combine_chunks().dictionary_encode()
        numbers = np.array([scopes[source] for source in sources.dictionary.to_pylist()], np.uint64)
        return numbers[sources.indices.to_numpy()] if len(numbers) else np.empty(0, np.uint64)

    def _candidates(self, unit: dict[str, Any], ids: np.ndarray, documents: np.ndarray) -> Candidates:
        positions, place = np.unique(documents, return_inverse=True)
        wanted = _KEY_COLUMNS | {"id", "row", "characters", "language", _score_column(self.config.dedup)}
        units, tables = [], []
        for index, found, table in self._passed(unit, frozenset(wanted)):
            mine = np.isin(found, positions, assume_unique=True)
            if mine.any():
                tables.append(table.filter(pa.array(mine)))
                units.append(np.full(tables[-1].num_rows, index, np.int32))
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(len(positions) + 1))
        rows = pa.concat_tables(tables).combine_chunks() if tables else None
        if rows is None:
            empty = np.empty(0, np.int64)
            return Candidates(
                empty, empty, pa.table({}), np.empty((0, 1), np.uint32), empty.astype(bool), starts, ids, 0
            )
        signatures, signed = _signatures(rows["signature"])
        key_count = int(ids.max()) + 1
        rows = rows.drop_columns(["signature"])
        return Candidates(positions, np.concatenate(units), rows, signatures, signed, starts, ids[order], key_count)

    def _write(self, candidates: Candidates, scratch: Scratch) -> Counters:
        dedup = self.config.dedup
        assert dedup is not None
        counters: Counters = {"documents": float(len(candidates))}
        if not len(candidates):
            return counters
        order = keeper_order(candidates.rows, self.config)
        first = _first_of_text(candidates.rows["text_hash"], self._scope(candidates.rows), order)
        fresh = first[order] == order
        near, similarity = remove_near_duplicates(
            order[fresh & candidates.signed[order]],
            candidates.starts,
            candidates.keys,
            candidates.key_count,
            candidates.signatures,
            dedup.threshold,
        )
        exact = first != np.arange(len(first))
        # An exact duplicate's partner is what became of its first copy: that copy, or the document it resembles.
        near, similarity = near[first], np.where(near[first] >= 0, similarity[first], np.where(exact, 1.0, np.nan))
        leader = np.where(near >= 0, near, first)
        removed = leader != np.arange(len(leader))
        table = self._table(candidates, leader, removed, exact, similarity)
        scratch.write(GROUPS, table)
        for reason, count in zip(*np.unique(table["reason"].drop_null().to_numpy(), return_counts=True), strict=True):
            counters[f"reason/{reason}"] = int(count)
        return counters

    def _table(
        self, candidates: Candidates, leader: np.ndarray, removed: np.ndarray, exact: np.ndarray, similarity: np.ndarray
    ) -> pa.Table:
        """One row for every document of a group of at least two, by position."""
        count = np.bincount(leader, minlength=len(leader))
        members = np.flatnonzero(count[leader] > 1)
        rows = candidates.rows
        lead = leader[members]
        ids = rows["id"].combine_chunks()
        reason = np.where(exact, EXACT, NEAR)[members]
        gone = pa.array(removed[members])
        hashes = _hash_words(rows["text_hash"])
        language = rows["language"] if "language" in rows.column_names else pa.repeat("", rows.num_rows)
        return pa.table(
            {
                "unit": candidates.unit[members],
                "row": rows["row"].take(members),
                "reason": pc.if_else(gone, pa.array(reason, pa.string()), pa.scalar(None, pa.string())),
                "partner": pc.if_else(gone, ids.take(lead), pa.scalar(None, pa.string())),
                "partner_source": pc.if_else(gone, rows["source"].take(lead), pa.scalar(None, pa.string())),
                "partner_position": pc.if_else(gone, pa.array(candidates.positions[lead]), pa.scalar(None, pa.int64())),
                "similarity": pc.if_else(gone, pa.array(similarity[members]), pa.scalar(None, pa.float64())),
                "group_id": hashes[lead, 0].view(np.int64),
                "duplicate_count": count[lead],
                "shown": self._shown(members, leader, removed, exact, count),
                "characters": rows["characters"].take(members),
                "source": rows["source"].take(members),
                "language": language.take(members),
            }
        )

    def _shown(
        self, members: np.ndarray, leader: np.ndarray, removed: np.ndarray, exact: np.ndarray, count: np.ndarray
    ) -> np.ndarray:
        """bool[M]: of each of the largest groups the kept document and one removed, near rather than exact."""
        shown = np.zeros(len(leader), bool)
        leaders = np.flatnonzero((count > 1) & ~removed)
        largest = leaders[np.lexsort((leaders, -count[leaders]))][: self.config.report.groups]
        for lead in largest:
            gone = np.flatnonzero(removed & (leader == lead))
            shown[[lead, gone[np.argmin(exact[gone])]]] = True
        return shown[members]


_KEY_COLUMNS = frozenset({"row", "text_hash", "signature", "source"})


def keeper_order(rows: pa.Table, config: CurateConfig) -> np.ndarray:
    """int64[C]: candidates in the order in which they may claim to be kept; ties go to the earlier position."""
    dedup = config.dedup
    assert dedup is not None
    position = np.arange(rows.num_rows)
    match dedup.keeper:
        case "longest":
            return np.lexsort((position, -rows["characters"].to_numpy()))
        case "score":
            score = rows[_score_column(dedup)].to_numpy()
            return np.lexsort((position, -np.nan_to_num(score, nan=-np.inf)))
        case "source":
            rank = {source: place for place, source in enumerate(dedup.sources)}
            ranks = [rank.get(source, len(rank)) for source in rows["source"].to_pylist()]
            return np.lexsort((position, np.array(ranks, np.int64)))
    return position


def _score_column(dedup: Dedup | None) -> str:
    return (dedup.keeper_score if dedup else None) or "characters"


def _scopes(config: CurateConfig) -> dict[str, int]:
    """A number for each source: sources of one number are searched for duplicates together."""
    assert config.dedup is not None
    names = {
        entry.source: {"all": "", "source": entry.source, "snapshot": entry.snapshot or ""}[config.dedup.scope]
        for entry in config.inputs
    }
    numbers = {name: number for number, name in enumerate(sorted(set(names.values())))}
    return {source: numbers[name] for source, name in names.items()}


def _first_of_text(hashes: pa.ChunkedArray, scopes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int64[C]: of each candidate the first, in keeper order, of the same text and scope; itself if alone."""
    words = _hash_words(hashes)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    by_text = np.lexsort((rank, words[:, 1], words[:, 0], scopes))
    sorted_words, sorted_scopes = words[by_text], scopes[by_text]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (sorted_words[1:] != sorted_words[:-1]).any(axis=1) | (sorted_scopes[1:] != sorted_scopes[:-1])
    first = np.empty(len(order), np.int64)
    first[by_text] = by_text[np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))]
    return first


def _hash_words(hashes: pa.ChunkedArray) -> np.ndarray:
    """uint64[D, 2]: the 128 bits of each text hash."""
    return _fixed(hashes, np.dtype("<u8"))


def _signatures(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(uint32[D, H], bool[D] which documents have one)."""
    return _fixed(column, np.dtype("<u4")), pc.is_valid(column).combine_chunks().to_numpy(zero_copy_only=False)


def _fixed(column: pa.ChunkedArray, dtype: np.dtype) -> np.ndarray:
    """A fixed-size binary column as an array of numbers; what a null holds is undefined."""
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    flat = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    return flat.view(dtype).reshape(len(column), width // dtype.itemsize)
