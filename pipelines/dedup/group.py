"""The stage `group`: duplicate groups among the documents that passed the rules.

Exact duplicates (equal normalised text) are found first. Of the other documents, those that share a band key pass
through the verified greedy loop of greedy.py. The stage is one unit, run by one task, and reads no text:

    1. read the keys of all documents that passed the rules; find candidates, which share a key (candidates.py)
    2. read the attributes of the candidates; find keeper order, exact duplicates and near-duplicates
    3. write one row (GROUPS_SCHEMA) for each document of a group of at least two

Memory: 1 to 1.5 KB per candidate (4 H bytes of signature, H = signature columns: 448 bytes at H = 112; at most as much
for the shingle set of a short document; 32 bytes for each band that it shares; its id; about 100 bytes more), so 16 GB
hold 10 to 15 million candidates; and one partition of keys at a time, 128 MB up to 140 million documents. Disk:
16 (bands + 1) bytes per document.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasketch import MinHashLSH
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.dedup.candidates import shared_keys
from pipelines.dedup.greedy import remove_near_duplicates
from pipelines.dedup.signatures import band_keys, permutations
from pipelines.dedup.sketches import Sketches
from pipelines.readers.inputs import Input

GROUPS = "_work/groups"
GROUP_VERSION = "4"
MOST_GROUPS_SHOWN = 100  # in a report; `report.groups` is how many of them it shows
EXACT, NEAR = "exact_duplicate", "near_duplicate"

GROUPS_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("row", pa.int64()),
        ("reason", pa.string()),  # null for the document that the group keeps
        ("partner", pa.string()),  # id of the kept document; then its source, and its row in the attributes
        ("partner_source", pa.string()),
        ("partner_position", pa.int64()),
        ("similarity", pa.float64()),
        ("group_id", pa.int64()),
        ("duplicate_count", pa.int64()),  # documents of the group, the kept one included
        ("shown", pa.bool_()),  # belongs to a pair that the report shows
        ("characters", pa.int64()),
        ("source", pa.string()),
        ("language", pa.string()),
    ]
)


# Weights of false positives and false negatives when the banding is derived: a false candidate costs only time.
_LSH_WEIGHTS = (0.1, 0.9)
_LEAST_RECALL_AT_THRESHOLD = 0.5

# Each signature column costs 4 bytes per document. Speed falls in proportion to their number: 238 MB/s of text with
# 128 columns, 1/32 of it with 4,096.
_MOST_COLUMNS = 4096
_PERMUTATIONS = 128

# Odd, with well mixed bits (2^64 divided by the golden ratio), so keys of different scopes differ in many bits.
_SCOPE_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Dedup(BaseModel):
    """The settings of deduplication.

    Its words are runs of letters, marks and numbers, lower-cased. signatures.py and the column `tokens` call them
    tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    threshold: float = Field(0.8, gt=0, le=1, description="least Jaccard similarity of a duplicate")
    ngram_words: int = Field(5, ge=1, le=64, description="words of a shingle")
    bands: int | None = Field(
        14, ge=1, le=_MOST_COLUMNS, description="null (then rows_per_band too): derived from threshold and permutations"
    )
    rows_per_band: int | None = Field(8, ge=1, le=_MOST_COLUMNS, description="signature columns of each band")
    permutations: int = Field(
        _PERMUTATIONS, ge=2, le=_MOST_COLUMNS, description="signature columns if bands are derived"
    )
    seed: int = Field(1, ge=0, lt=1 << 32, description="of the permutations")
    exact_short: bool = Field(
        True, description="compare documents with fewer shingles than signature columns exactly; false: by signatures"
    )
    keeper: Literal["position", "longest", "score", "source"] = Field(
        "position",
        description="the document that a group keeps: the first, the longest, the best scored, of the preferred source",
    )
    keeper_score: str | None = Field(None, description="the signal that `keeper: score` compares; more is better")
    sources: tuple[str, ...] = Field((), description="`keeper: source`: most trusted first; unlisted sources come last")
    scope: Literal["all", "source", "snapshot"] = Field("all", description="where duplicates are looked for")
    remove: bool = Field(True, description="false: keep duplicates in the corpus, with group_id and duplicate_count")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.bands is None) != (self.rows_per_band is None):
            raise ValueError("bands and rows_per_band go together: give both, or null for both")
        if (self.keeper == "score") != (self.keeper_score is not None):
            raise ValueError("keeper_score, the name of a signal, is required with keeper: score and refused otherwise")
        if (self.keeper == "source") != bool(self.sources):
            raise ValueError(
                "sources, the most trusted first, is required with keeper: source and refused otherwise; give both, or "
                "neither"
            )
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources: {list(self.sources)} names a source twice; name each once")
        columns = (self.bands or 0) * (self.rows_per_band or 0)
        if columns > _MOST_COLUMNS:
            raise ValueError(
                f"{self.bands} bands of {self.rows_per_band} columns are {columns:,} signature columns of every "
                f"document; at most {_MOST_COLUMNS:,} are computed, and 112 are usual. Lower one"
            )
        if columns and self.permutations != _PERMUTATIONS:
            raise ValueError(
                f"permutations: {self.permutations} has no effect beside bands and rows_per_band, which make {columns} "
                "columns; set both to null, or leave permutations out"
            )
        recall = self.caught(self.threshold)
        if recall < _LEAST_RECALL_AT_THRESHOLD:
            bands, columns = self.banding
            raise ValueError(
                f"{bands} bands of {columns} signature columns catch only {recall:.0%} of the pairs at similarity "
                f"{self.threshold}; set bands and rows_per_band to null to derive them from the threshold"
            )
        return self

    @cached_property
    def banding(self) -> tuple[int, int]:
        """(number of bands, signature columns of each)."""
        if self.bands is not None and self.rows_per_band is not None:
            return self.bands, self.rows_per_band
        index = MinHashLSH(threshold=self.threshold, num_perm=self.permutations, weights=_LSH_WEIGHTS)
        return index.b, index.r

    def caught(self, similarity: float) -> float:
        """Probability that two documents of this similarity share a band: 1 - (1 - s^columns)^bands."""
        bands, columns = self.banding
        return 1 - (1 - similarity**columns) ** bands


def group_stage(dedup: Dedup, inputs: Sequence[Input], attributes: Artifact, verdicts: Artifact, units: int) -> Stage:
    """The stage that writes the artifact GROUPS from attributes and verdicts.

    inputs: their sources and snapshots are the scopes. units: number of units of both artifacts.
    """
    scopes = _scopes(dedup.scope, inputs)
    stage_fingerprint = fingerprint(
        {
            "version": [GROUP_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "verdicts": verdicts.manifest.fingerprint,
            "dedup": dedup.model_dump(exclude={"remove"}),
            "scopes": scopes,
        }
    )
    unit = {
        "attributes": attributes.files_by_unit(units),
        "verdicts": verdicts.files_by_unit(units),
        "passed": int(verdicts.manifest.counters.get("passed", 0)),
    }
    outputs = (Output(GROUPS, GROUPS_SCHEMA),)
    work = Group(attributes.store, dedup, scopes)
    return Stage("group", outputs, [unit], work, stage_fingerprint, attributes.store, _files)


def _files(unit: dict[str, Any]) -> str:
    return files_from([uri for files in unit["attributes"] for uri in files])


@dataclass(frozen=True)
class Candidates:
    """C documents that share a key with another one, in order of position (row in the attributes artifact).

    positions: int64[C]. unit: int32[C]. rows: C rows, the attributes except for the signature.
    signatures: uint32[C, H], H = signature columns. sets, set_starts: uint32[S], int64[C + 1], shingle sets of the
        short ones, as in `remove_near_duplicates`. signed: bool[C], whether the document has a shingle.
    starts, keys: int64[C + 1], int64[K]: candidate c has the shared keys keys[starts[c]:starts[c + 1]], all below
        key_count.
    """

    positions: np.ndarray
    unit: np.ndarray
    rows: pa.Table
    signatures: np.ndarray
    sets: np.ndarray
    set_starts: np.ndarray
    signed: np.ndarray
    starts: np.ndarray
    keys: np.ndarray
    key_count: int

    def __len__(self) -> int:
        return len(self.unit)


@dataclass(frozen=True)
class Group:
    """The work of the stage's unit: finds the groups and writes their rows.

    scopes: number of each source's scope.
    """

    store: Store
    dedup: Dedup
    scopes: dict[str, int]

    def __call__(self, unit: dict[str, Any], scratch: Scratch) -> Counters:
        bands, _ = self.dedup.banding
        keyed = ((self._keys(table), positions) for _, positions, table in self._passed(unit, _KEY_COLUMNS))
        ids, documents = shared_keys(keyed, unit["passed"] * (bands + 1))
        candidates = self._candidates(unit, ids, documents)
        return self._write(candidates, scratch)

    def _passed(self, unit: dict[str, Any], wanted: frozenset[str]) -> Iterator[tuple[int, np.ndarray, pa.Table]]:
        """(unit, positions int64[D], attributes with the `wanted` columns) of the documents that passed, by table."""
        first = 0
        for index, (attributes, verdicts) in enumerate(zip(unit["attributes"], unit["verdicts"], strict=True)):
            removed = [table["row"].to_numpy() for table in read_tables(self.store, verdicts, "row".__eq__)]
            removed_rows = np.concatenate(removed) if removed else np.empty(0, np.int64)
            for table in read_tables(self.store, attributes, wanted.__contains__):
                passed = ~np.isin(table["row"].to_numpy(), removed_rows)
                yield index, first + np.flatnonzero(passed), table.filter(pa.array(passed))
                first += table.num_rows

    def _keys(self, table: pa.Table) -> np.ndarray:
        """uint64[D, bands + 1]: a key of the exact text and one of each band; equal only within one scope."""
        hashes = _hash_words(table["text_hash"])
        sketches = Sketches.from_column(table["signature"])
        near = band_keys(self._signatures(sketches), *self.dedup.banding)
        # A document without a shingle repeats the key of its text.
        near[~sketches.signed] = hashes[~sketches.signed, :1]
        keys = np.concatenate([hashes[:, :1], near], axis=1)
        return keys ^ self._scope(table)[:, None] * _SCOPE_FACTOR

    def _signatures(self, sketches: Sketches) -> np.ndarray:
        """uint32[D, H]: the signatures of D documents."""
        return sketches.signatures(*permutations(math.prod(self.dedup.banding), self.dedup.seed))

    def _scope(self, table: pa.Table) -> np.ndarray:
        """uint64[D]: the number of each document's scope; duplicates are found within one scope."""
        sources = table["source"].combine_chunks().dictionary_encode()
        numbers = np.array([self.scopes[source] for source in sources.dictionary.to_pylist()], np.uint64)
        return numbers[sources.indices.to_numpy()] if len(numbers) else np.empty(0, np.uint64)

    def _candidates(self, unit: dict[str, Any], ids: np.ndarray, documents: np.ndarray) -> Candidates:
        """Read the attributes of the candidates; ids and documents are those of shared_keys."""
        positions, candidate = np.unique(documents, return_inverse=True)
        wanted = _KEY_COLUMNS | {"id", "row", "characters", "language", _score_column(self.dedup)}
        units, tables = [], []
        for index, found, table in self._passed(unit, frozenset(wanted)):
            is_candidate = np.isin(found, positions, assume_unique=True)
            if is_candidate.any():
                tables.append(table.filter(pa.array(is_candidate)))
                units.append(np.full(tables[-1].num_rows, index, np.int32))
        order = np.argsort(candidate, kind="stable")
        starts = np.searchsorted(candidate[order], np.arange(len(positions) + 1))
        if not tables:
            none, words = np.empty(0, np.int64), np.empty(0, np.uint32)
            return Candidates(
                none, none, pa.table({}), words.reshape(0, 1), words, starts, none.astype(bool), starts, ids, 0
            )
        rows = pa.concat_tables(tables)
        sketches = Sketches.from_column(rows["signature"])
        return Candidates(
            positions,
            np.concatenate(units),
            rows.drop_columns(["signature"]).combine_chunks(),
            self._signatures(sketches),
            *sketches.sets(math.prod(self.dedup.banding)),
            sketches.signed,
            starts,
            ids[order],
            int(ids.max()) + 1,
        )

    def _write(self, candidates: Candidates, scratch: Scratch) -> Counters:
        """Find the groups and write their rows. Counters: candidates, and removed documents by reason."""
        # Candidates, which progress shows as documents/s. Another name would change the run's digest.
        counters: Counters = {"documents": float(len(candidates))}
        if not len(candidates):
            return counters
        order = keeper_order(candidates.rows, self.dedup)
        first_copy = _first_of_text(candidates.rows["text_hash"], self._scope(candidates.rows), order)
        is_first_copy = first_copy[order] == order
        similar, similarity = remove_near_duplicates(
            order[is_first_copy & candidates.signed[order]],
            candidates.starts,
            candidates.keys,
            candidates.key_count,
            candidates.signatures,
            candidates.sets,
            candidates.set_starts,
            self.dedup.threshold,
        )
        exact = first_copy != np.arange(len(first_copy))
        # An exact duplicate is removed for its first copy if that is kept, else for the kept document similar to it.
        similar_to_copy = similar[first_copy]
        is_similar = similar_to_copy >= 0
        kept = np.where(is_similar, similar_to_copy, first_copy)
        similarity_to_kept = np.where(is_similar, similarity[first_copy], np.where(exact, 1.0, np.nan))
        removed = kept != np.arange(len(kept))
        table = self._table(candidates, kept, removed, exact, similarity_to_kept)
        scratch.write(GROUPS, table)
        for reason, count in zip(*np.unique(table["reason"].drop_null().to_numpy(), return_counts=True), strict=True):
            counters[f"reason/{reason}"] = int(count)
        return counters

    def _table(
        self, candidates: Candidates, kept: np.ndarray, removed: np.ndarray, exact: np.ndarray, similarity: np.ndarray
    ) -> pa.Table:
        """One row (GROUPS_SCHEMA) for every document of a group of at least two, in order of position.

        kept: int64[C], the kept document of each candidate's group. removed, exact: bool[C]. similarity: float64[C].
        """
        count = np.bincount(kept, minlength=len(kept))
        members = np.flatnonzero(count[kept] > 1)
        rows = candidates.rows
        kept_of_members = kept[members]
        ids = rows["id"].combine_chunks()
        reason = np.where(exact, EXACT, NEAR)[members]
        is_removed = pa.array(removed[members])
        hashes = _hash_words(rows["text_hash"])
        language = rows["language"] if "language" in rows.column_names else pa.repeat("", rows.num_rows)
        return pa.table(
            {
                "unit": candidates.unit[members],
                "row": rows["row"].take(members),
                "reason": pc.if_else(is_removed, pa.array(reason, pa.string()), pa.scalar(None, pa.string())),
                "partner": pc.if_else(is_removed, ids.take(kept_of_members), pa.scalar(None, pa.string())),
                "partner_source": pc.if_else(
                    is_removed, rows["source"].take(kept_of_members), pa.scalar(None, pa.string())
                ),
                "partner_position": pc.if_else(
                    is_removed, pa.array(candidates.positions[kept_of_members]), pa.scalar(None, pa.int64())
                ),
                "similarity": pc.if_else(is_removed, pa.array(similarity[members]), pa.scalar(None, pa.float64())),
                "group_id": hashes[kept_of_members, 0].view(np.int64),
                "duplicate_count": count[kept_of_members],
                "shown": self._is_shown(members, kept, removed, exact, count),
                "characters": rows["characters"].take(members),
                "source": rows["source"].take(members),
                "language": language.take(members),
            }
        )

    def _is_shown(
        self, members: np.ndarray, kept: np.ndarray, removed: np.ndarray, exact: np.ndarray, count: np.ndarray
    ) -> np.ndarray:
        """bool[M]: the kept document and one removed document, preferably a near-duplicate, of the largest groups."""
        is_shown = np.zeros(len(kept), bool)
        with_duplicates = np.flatnonzero((count > 1) & ~removed)
        of_largest = with_duplicates[np.lexsort((with_duplicates, -count[with_duplicates]))][:MOST_GROUPS_SHOWN]
        for document in of_largest:
            duplicates = np.flatnonzero(removed & (kept == document))
            is_shown[[document, duplicates[np.argmin(exact[duplicates])]]] = True
        return is_shown[members]


_KEY_COLUMNS = frozenset({"row", "text_hash", "signature", "source"})


def keeper_order(rows: pa.Table, dedup: Dedup) -> np.ndarray:
    """int64[C]: candidates in the order of precedence by `dedup.keeper`; equal ones in order of position."""
    position = np.arange(rows.num_rows)
    match dedup.keeper:
        case "longest":
            return np.lexsort((position, -rows["characters"].to_numpy()))
        case "score":
            score = rows[_score_column(dedup)].to_numpy()
            return np.lexsort((position, -np.nan_to_num(score, nan=-np.inf)))
        case "source":
            rank = {source: number for number, source in enumerate(dedup.sources)}
            ranks = [rank.get(source, len(rank)) for source in rows["source"].to_pylist()]
            return np.lexsort((position, np.array(ranks, np.int64)))
    return position


def _score_column(dedup: Dedup) -> str:
    return dedup.keeper_score or "characters"


def _scopes(scope: str, inputs: Sequence[Input]) -> dict[str, int]:
    """The number of each source's scope. scope: the setting, all, source or snapshot."""
    names = {
        entry.source: {"all": "", "source": entry.source, "snapshot": entry.snapshot or ""}[scope] for entry in inputs
    }
    numbers = {name: number for number, name in enumerate(sorted(set(names.values())))}
    return {source: numbers[name] for source, name in names.items()}


def _first_of_text(hashes: pa.ChunkedArray, scopes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int64[C]: for each candidate the first one, in keeper order, with the same text and scope; itself if alone."""
    words = _hash_words(hashes)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    by_text = np.lexsort((rank, words[:, 1], words[:, 0], scopes))
    sorted_words, sorted_scopes = words[by_text], scopes[by_text]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (sorted_words[1:] != sorted_words[:-1]).any(axis=1) | (sorted_scopes[1:] != sorted_scopes[:-1])
    first = np.empty(len(order), np.int64)
    first[by_text] = by_text[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    return first


def _hash_words(hashes: pa.ChunkedArray) -> np.ndarray:
    """uint64[D, 2]: the 128 bits of each text hash, as two numbers."""
    return _fixed(hashes, np.dtype("<u8"))


def _fixed(column: pa.ChunkedArray, dtype: np.dtype) -> np.ndarray:
    """A column of fixed-size binary as dtype[D, size / itemsize]; the numbers of a null are undefined."""
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    flat = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    return flat.view(dtype).reshape(len(column), width // dtype.itemsize)
