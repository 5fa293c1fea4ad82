"""The comparison of candidates: exact duplicates, then the verified greedy loop, and a row for each member of a group.

A batch of candidates holds whole components, so its result depends on nothing outside of it.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dedup.candidates import shared_keys
from pipelines.dedup.documents import KEY_COLUMNS, Keys, hash_words
from pipelines.dedup.greedy import remove_near_duplicates
from pipelines.dedup.settings import Dedup
from pipelines.dedup.sketches import Sketches

EXACT, NEAR = "exact_duplicate", "near_duplicate"
NEWEST_BY = "newest_by"  # the attribute that `keeper: newest` compares: newest.py
MOST_GROUPS_SHOWN = 100  # in a report; `report.groups` is how many of them it shows

GROUPS_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("row", pa.int64()),
        ("reason", pa.string()),  # null for the document that the group keeps
        ("partner", pa.string()),  # id of the kept document; then its source, and its row in the attributes
        ("partner_source", pa.string()),
        ("partner_position", pa.int64()),
        ("partner_run", pa.string()),  # of an earlier run (`dedup.against`); null: of this one
        ("similarity", pa.float64()),
        ("group_id", pa.int64()),
        ("duplicate_count", pa.int64()),  # documents of the group, the kept one included
        ("shown", pa.bool_()),  # belongs to a pair that the report shows
        ("characters", pa.int64()),
        ("source", pa.string()),
        ("language", pa.string()),
    ]
)

# The kept document and a removed one of the largest groups of a batch, preferably a near-duplicate.
PAIRS_SCHEMA = pa.schema([("documents", pa.int64()), ("kept", pa.int64()), ("removed", pa.int64())])


def candidate_columns(dedup: Dedup) -> frozenset[str]:
    """The attributes of a candidate that the comparison reads, besides `unit` and `position`."""
    return KEY_COLUMNS | {"id", "row", "characters", "language", *_keeper_columns(dedup)}


@dataclass(frozen=True)
class Compare:
    """Finds the groups among the candidates of a batch.

    runs: position of the first document of each run, the last of which is this one, and the URIs of the earlier ones.
    """

    keys: Keys
    runs: tuple[int, ...] = (0,)
    earlier: tuple[str, ...] = ()

    def __call__(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """(a row for each member of a group, the pairs that a report may show).

        The first has GROUPS_SCHEMA without `shown`, and `position`.

        Args:
            rows: C candidates in order of position: their attributes, `unit` int32 and `position` int64.

        Memory: about 1.2 KB a candidate: 448 bytes of signature twice at H = 112, 24 bytes a key, its row.
        """
        dedup = self.keys.dedup
        sketches = Sketches.from_column(rows["signature"])
        rows = rows.drop_columns(["signature"]).combine_chunks()
        signatures, signed, sets = (
            self.keys.signatures(sketches),
            sketches.signed,
            sketches.sets(math.prod(dedup.banding)),
        )
        del sketches  # as large as the signatures
        starts, keys, key_count = shared_keys(self.keys.of_signatures(rows, signatures, signed))
        kept_before = int(np.searchsorted(rows["position"].to_numpy(), self.runs[-1]))
        new = kept_before + keeper_order(rows.slice(kept_before), dedup)
        order = np.concatenate([np.arange(kept_before), new])
        first_copy = first_of_text(rows["text_hash"], self.keys.scopes_of(rows), order)
        is_first_copy = first_copy[order] == order
        compared = order[is_first_copy & signed[order]]
        similar, similarity = remove_near_duplicates(
            compared,
            starts,
            keys,
            key_count,
            signatures,
            *sets,
            dedup.threshold,
            int(np.count_nonzero(compared < kept_before)),
        )
        exact = first_copy != np.arange(len(first_copy))
        # An exact duplicate is removed for its first copy if that is kept, else for the kept document similar to it.
        similar_to_copy = similar[first_copy]
        is_similar = similar_to_copy >= 0
        kept = np.where(is_similar, similar_to_copy, first_copy)
        similarity_to_kept = np.where(is_similar, similarity[first_copy], np.where(exact, 1.0, np.nan))
        members = self._members(rows, kept, exact, similarity_to_kept, kept_before)
        return members, _largest(rows, kept, exact, kept_before)

    def _members(
        self, rows: pa.Table, kept: np.ndarray, exact: np.ndarray, similarity: np.ndarray, kept_before: int
    ) -> pa.Table:
        """One row for every document of a group of at least two, in order of position, but those of earlier runs.

        kept: int64[C], the kept document of each candidate's group. exact: bool[C]. similarity: float64[C].
        kept_before: candidates of earlier runs, which are the first.
        """
        removed = kept != np.arange(len(kept))
        count = np.bincount(kept, minlength=len(kept))
        members = kept_before + np.flatnonzero(count[kept[kept_before:]] > 1)
        partners = kept[members]
        position, source = rows["position"].to_numpy(), rows["source"]
        run = np.searchsorted(self.runs, position[partners], side="right") - 1
        runs = pa.array([*self.earlier, None], pa.string())
        reason = np.where(exact, EXACT, NEAR)[members]
        is_removed = pa.array(removed[members])
        language = pc.fill_null(rows["language"], "") if "language" in rows.column_names else pa.repeat("", len(kept))

        def of_removed(values: pa.Array, kind: pa.DataType) -> pa.Array:
            return pc.if_else(is_removed, values, pa.scalar(None, kind))

        return pa.table(
            {
                "position": position[members],
                "unit": rows["unit"].take(members),
                "row": rows["row"].take(members),
                "reason": of_removed(pa.array(reason, pa.string()), pa.string()),
                "partner": of_removed(rows["id"].take(partners), pa.string()),
                "partner_source": of_removed(source.take(partners), pa.string()),
                "partner_position": of_removed(pa.array(position[partners] - np.array(self.runs)[run]), pa.int64()),
                "partner_run": of_removed(runs.take(pa.array(run)), pa.string()),
                "similarity": of_removed(pa.array(similarity[members]), pa.float64()),
                "group_id": hash_words(rows["text_hash"])[partners, 0].view(np.int64),
                "duplicate_count": count[partners],
                "characters": rows["characters"].take(members),
                "source": source.take(members),
                "language": language.take(members),
            }
        )


def _largest(rows: pa.Table, kept: np.ndarray, exact: np.ndarray, kept_before: int) -> pa.Table:
    """PAIRS_SCHEMA: a pair of each of the largest groups, the largest first, then the one with the first position.

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


def keeper_order(rows: pa.Table, dedup: Dedup) -> np.ndarray:
    """int64[C]: candidates in the order of precedence by `dedup.keeper`; equal ones in order of position.

    Those without a score or date come last.
    """
    position = np.arange(rows.num_rows)
    if not rows.num_rows:
        return position  # the attributes of earlier runs may lack columns
    match dedup.keeper:
        case "longest":
            return np.lexsort((position, -rows["characters"].to_numpy()))
        case "score" | "newest":
            (column,) = _keeper_columns(dedup)
            value = rows[column].to_numpy()
            return np.lexsort((position, -np.nan_to_num(value, nan=-np.inf)))
        case "source":
            rank = {source: number for number, source in enumerate(dedup.sources)}
            ranks = [rank.get(source, len(rank)) for source in rows["source"].to_pylist()]
            return np.lexsort((position, np.array(ranks, np.int64)))
    return position


def _keeper_columns(dedup: Dedup) -> tuple[str, ...]:
    """The attributes that only the order of keepers needs."""
    return (dedup.keeper_score,) if dedup.keeper_score else (NEWEST_BY,) if dedup.newest_by else ()


def first_of_text(hashes: pa.ChunkedArray, scopes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int64[C]: for each candidate the first one, in keeper order, with the same text and scope; itself if alone."""
    words = hash_words(hashes)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    by_text = np.lexsort((rank, words[:, 1], words[:, 0], scopes))
    sorted_words, sorted_scopes = words[by_text], scopes[by_text]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (sorted_words[1:] != sorted_words[:-1]).any(axis=1) | (sorted_scopes[1:] != sorted_scopes[:-1])
    first = np.empty(len(order), np.int64)
    first[by_text] = by_text[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    return first
