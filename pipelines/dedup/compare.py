"""The comparison of candidates: exact duplicates, then the verified greedy loop, and a row for each member of a group.

A batch of candidates holds whole components, so its result depends on nothing outside of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.pipelines.dedup.candidates import shared_keys
from raymill.pipelines.dedup.documents import KEY_COLUMNS, Keys, hash_words
from raymill.pipelines.dedup.exact import first_of_text
from raymill.pipelines.dedup.greedy import connect_near_duplicates, remove_near_duplicates
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.signatures import Sketches

EXACT, NEAR = "exact_duplicate", "near_duplicate"
NEWEST_BY = "newest_by"  # the attribute that `keeper: newest` compares, from `newness`
MOST_GROUPS_SHOWN = 100  # in a report; `report.groups` is how many of them it shows

_DAY_S = 86_400
_OF_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

GROUPS_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("row", pa.int64()),
        ("reason", pa.string()),  # null for the document that the group keeps
        ("partner", pa.string()),  # id of the kept document
        ("partner_source", pa.string()),
        ("partner_position", pa.int64()),  # its row in the attributes
        ("partner_run", pa.string()),  # URI of the earlier run (`dedup.against`) that has it; null: this run
        ("similarity", pa.float64()),
        ("group_id", pa.int64()),
        ("duplicate_count", pa.int64()),  # documents of the group, the kept one included
        ("shown", pa.bool_()),  # belongs to a pair that the report shows
        ("characters", pa.int64()),
        ("source", pa.string()),
        ("language", pa.string()),
    ]
)

# The attributes of a kept document in the rows of its group.
KEPT_COLUMNS = ("position", "id", "source", "text_hash")

# For the largest groups of a batch: positions of the kept document and of a removed one, preferably a near-duplicate.
PAIRS_SCHEMA = pa.schema([("documents", pa.int64()), ("kept", pa.int64()), ("removed", pa.int64())])


def candidate_columns(dedup: Dedup) -> frozenset[str]:
    """The attributes of a candidate that the comparison reads, besides `unit` and `position`."""
    return KEY_COLUMNS | {"id", "text_hash", "characters", "language", *keeper_columns(dedup)}


@dataclass(frozen=True)
class Compare:
    """Finds the groups among the candidates of a batch.

    runs: position of the first document of each run; this run is the last. earlier: URIs of the earlier runs.
    among: whether documents of this run are compared with each other, or only with those of earlier runs.
    chained: documents that are similar over others have one `group_id`.
    """

    keys: Keys
    runs: tuple[int, ...] = (0,)
    earlier: tuple[str, ...] = ()
    among: bool = True
    chained: bool = False

    def __call__(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """(a row for each member of a group, the pairs that a report may show).

        The first has GROUPS_SCHEMA without `shown`, and `position`.

        Args:
            rows: C candidates in order of position: their attributes, `unit` int32 and `position` int64. A copy needs
                no signature.

        Memory: about 1.2 KB per candidate: twice its signature (448 bytes at H = 112), 24 bytes per key, and its row.
        """
        column = [rows["signature"]]
        rows = rows.drop_columns(["signature"]).combine_chunks()
        candidates = Candidates.of(self.keys, rows, column.pop().chunks)
        kept_before = int(np.searchsorted(rows["position"].to_numpy(), self.runs[-1]))
        ranks = self.ranks(rows)
        order, first_copy = np.argsort(ranks, kind="stable"), first_of_text(self.keys.texts(rows), ranks)
        is_first_copy = first_copy[order] == order
        compared = order[is_first_copy & candidates.signed[order]]
        similar, similarity = candidates.remove_near_duplicates(
            compared, int(np.count_nonzero(compared < kept_before)), keeps=self.among
        )
        exact = first_copy != np.arange(len(first_copy))
        # An exact duplicate is removed for its first copy if that is kept, else for the kept document similar to it.
        similar_to_copy = similar[first_copy]
        is_similar = similar_to_copy >= 0
        kept = np.where(is_similar, similar_to_copy, first_copy)
        similarity_to_kept = np.where(is_similar, similarity[first_copy], np.where(exact, 1.0, np.nan))
        count = np.bincount(kept, minlength=len(kept))
        group = candidates.connected(compared)[first_copy] if self.chained else kept
        of_group = np.bincount(group, minlength=len(group))
        members = kept_before + np.flatnonzero(of_group[group[kept_before:]] > 1)
        found = self.members(
            rows.take(members),
            rows.select(list(KEPT_COLUMNS)).take(kept[members]),
            count[kept[members]],
            exact[members],
            similarity_to_kept[members],
            rows["text_hash"].take(group[members]),
        )
        return found, _largest(rows, kept, exact, kept_before)

    def ranks(self, rows: pa.Table) -> np.ndarray:
        """float64[C]: candidates are compared in the order of their ranks, equal ones in order of position.

        Those of earlier runs come first.

        Args:
            rows: C candidates in order of position, with `position` and the columns of the keeper.
        """
        kept_before = int(np.searchsorted(rows["position"].to_numpy(), self.runs[-1]))
        return np.concatenate([np.full(kept_before, -np.inf), keeper_ranks(rows.slice(kept_before), self.keys.dedup)])

    def members(
        self,
        rows: pa.Table,
        kept: pa.Table,
        count: np.ndarray,
        exact: np.ndarray,
        similarity: np.ndarray,
        group: pa.ChunkedArray | None = None,
    ) -> pa.Table:
        """The rows of M documents in groups of at least two, as `__call__` returns them.

        Args:
            rows: their attributes. kept: KEPT_COLUMNS of the document that each one's group keeps.
            count: int64[M], documents of the group. exact: bool[M]. similarity: float64[M], to the kept document.
            group: hash of the text that names each one's group; None: the hash of the kept document.
        """
        position, of_kept = rows["position"].to_numpy(), kept["position"].to_numpy()
        run = np.searchsorted(self.runs, of_kept, side="right") - 1
        runs = pa.array([*self.earlier, None], pa.string())
        is_removed = pa.array(position != of_kept)
        language = rows["language"] if "language" in rows.column_names else pa.nulls(rows.num_rows, pa.string())

        def of_removed(values: pa.Array, kind: pa.DataType) -> pa.Array:
            return pc.if_else(is_removed, values, pa.scalar(None, kind))

        return pa.table(
            {
                "position": position,
                "unit": rows["unit"],
                "row": rows["row"],
                "reason": of_removed(pa.array(np.where(exact, EXACT, NEAR), pa.string()), pa.string()),
                "partner": of_removed(kept["id"], pa.string()),
                "partner_source": of_removed(kept["source"], pa.string()),
                "partner_position": of_removed(pa.array(of_kept - np.array(self.runs)[run]), pa.int64()),
                "partner_run": of_removed(runs.take(pa.array(run)), pa.string()),
                "similarity": of_removed(pa.array(similarity), pa.float64()),
                "group_id": hash_words(kept["text_hash"] if group is None else group)[:, 0].view(np.int64),
                "duplicate_count": count,
                "characters": rows["characters"],
                "source": rows["source"],
                "language": pc.fill_null(language, ""),
            }
        )


@dataclass(frozen=True)
class Candidates:
    """The arguments of the greedy loop for C candidates (greedy.py). signed: bool[C], whether they have a signature."""

    threshold: float
    signed: np.ndarray
    signatures: np.ndarray
    sets: tuple[np.ndarray, np.ndarray]
    shared: tuple[np.ndarray, np.ndarray, int]

    @classmethod
    def of(cls, keys: Keys, rows: pa.Table, column: list[pa.Array]) -> "Candidates":
        """rows: with `source`. column: chunks of their attribute `signature`, which are large: the list is emptied."""
        columns, end = math.prod(keys.dedup.banding), 0
        signatures, signed = np.empty((rows.num_rows, columns), np.uint32), np.empty(rows.num_rows, bool)
        words, lengths = [np.empty(0, np.uint32)], [np.zeros(1, np.int64)]
        while column:
            sketches = Sketches.from_column(pa.chunked_array([column.pop(0)]), columns)
            start, end = end, end + len(sketches.starts) - 1
            keys.write_signatures(sketches, signatures[start:end])
            signed[start:end] = sketches.signed
            of_sets, starts = sketches.sets(columns)
            words.append(of_sets)
            lengths.append(np.diff(starts))
        sets = np.concatenate(words), np.cumsum(np.concatenate(lengths))
        # Keys are made from the signatures, so that those of sets are not computed a second time.
        whole, numbers = Sketches(signatures.ravel(), columns * np.arange(end + 1)), np.flatnonzero(signed)
        shared = shared_keys(keys.of_sketches(rows, whole, numbers), numbers, end)
        return cls(keys.dedup.threshold, signed, signatures, sets, shared)

    def remove_near_duplicates(
        self, order: np.ndarray, kept_before: int, similar_before: np.ndarray | None = None, *, keeps: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """As the function of greedy.py."""
        return remove_near_duplicates(
            order, *self.shared, self.signatures, *self.sets, self.threshold, kept_before, similar_before, keeps=keeps
        )

    def connected(self, order: np.ndarray) -> np.ndarray:
        """As `connect_near_duplicates` of greedy.py."""
        return connect_near_duplicates(order, *self.shared, self.signatures, *self.sets, self.threshold)


def _largest(rows: pa.Table, kept: np.ndarray, exact: np.ndarray, kept_before: int) -> pa.Table:
    """PAIRS_SCHEMA: a pair of each of the largest groups, sorted by size, largest first, then by position.

    A group that an earlier run keeps is left out, because its text is not read here.
    """
    removed = kept != np.arange(len(kept))
    count = np.bincount(kept, minlength=len(kept))
    with_duplicates = kept_before + np.flatnonzero((count[kept_before:] > 1) & ~removed[kept_before:])
    of_largest = with_duplicates[np.lexsort((with_duplicates, -count[with_duplicates]))][:MOST_GROUPS_SHOWN]
    position, partners = rows["position"].to_numpy(), []
    for document in of_largest:
        duplicates = np.flatnonzero(removed & (kept == document))
        partners.append(duplicates[np.argmin(exact[duplicates])])
    columns = [count[of_largest], position[of_largest], position[np.array(partners, np.int64)]]
    return pa.table(columns, schema=PAIRS_SCHEMA)


def keeper_ranks(rows: pa.Table, dedup: Dedup) -> np.ndarray:
    """float64[C]: the order of precedence of candidates by `dedup.keeper`, the lowest first.

    Those without a score or date come last.
    """
    if not rows.num_rows or dedup.keeper == "position":
        return np.zeros(rows.num_rows)  # the attributes of earlier runs may lack columns
    match dedup.keeper:
        case "longest":
            return -rows["characters"].to_numpy().astype(np.float64)
        case "source":
            rank = {source: number for number, source in enumerate(dedup.sources)}
            return np.array([rank.get(source, len(rank)) for source in rows["source"].to_pylist()], np.float64)
    (column,) = keeper_columns(dedup)
    value = rows[column].to_numpy()
    return np.where(np.isnan(value), np.inf, -value)


def keeper_columns(dedup: Dedup) -> tuple[str, ...]:
    """The attributes that the order of keepers needs."""
    by_setting = {"longest": "characters", "source": "source", "score": dedup.keeper_score, "newest": NEWEST_BY}
    return tuple(filter(None, [by_setting.get(dedup.keeper)]))


def is_comparable(type: pa.DataType) -> bool:
    """Whether a carried column of this type can be `dedup.newest_by`."""
    kinds = pa.types
    checks = (kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_temporal, kinds.is_string, kinds.is_null)
    return any(check(type) for check in checks) and not (kinds.is_time(type) or kinds.is_duration(type))


def newness(column: pa.ChunkedArray) -> np.ndarray:
    """float64[D]: the numbers that `keeper: newest` compares. Larger is newer; NaN: null or infinite.

    Dates and timestamps are seconds since 1970, UTC if they have no zone; numbers are as they are, such as years or
    Unix seconds; text is a number, or a date, month or time in ISO 8601, else NaN. Times are exact to a microsecond,
    whole numbers up to 2^53.
    """

    def numbers(column: pa.ChunkedArray) -> np.ndarray:
        return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()

    kind = column.type
    if pa.types.is_string(kind):
        found = np.array([_newness_of_text(text) for text in column.to_pylist()], np.float64)
    elif pa.types.is_timestamp(kind):
        unit = _OF_A_SECOND[kind.unit]
        values = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
        found = np.where(column.is_valid().to_numpy(), values // unit + values % unit / unit, np.nan)
    elif pa.types.is_date(kind):
        found = numbers(column.cast(pa.date32()).cast(pa.int32())) * _DAY_S
    else:
        found = numbers(column)
    return np.where(np.isfinite(found), found, np.nan)


def _newness_of_text(text: str | None) -> float:
    if text is None:
        return np.nan
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        pass
    is_month = len(text) == len("2026-11")
    try:
        time = datetime.fromisoformat(f"{text}-01" if is_month else text)
    except ValueError:
        return np.nan
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def joined(parts: Sequence[pa.Table | None]) -> pa.Table | None:
    """The rows of slices as from `table_of`, one after the other; None if all are empty."""
    tables = [part for part in parts if part is not None]
    # The attributes of an earlier run may lack columns that the comparison reads only of new documents.
    return pa.concat_tables(tables, promote_options="default") if tables else None
