"""A few documents for the report: for each reason and for what stays, and the pairs of the largest duplicate groups.

Which ones is decided by the smallest text hashes, so the choice is random in effect, the same in every run, and can be
merged from any number of units. Excerpts are redacted whatever the config says: a report travels further than a corpus.
"""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.text import personal_data
from pipelines.text.texts import Texts

SAMPLES = "_work/samples"
KEPT_REASON = "kept"
EXCERPT_CHARACTERS = 1200

SAMPLES_SCHEMA = pa.schema(
    [
        ("reason", pa.string()),  # KEPT_REASON, or why it was removed
        ("stage", pa.string()),
        ("rank", pa.uint64()),  # the smaller, the sooner it is shown
        ("group_id", pa.int64()),  # set for the pair that shows a duplicate group, else null
        ("id", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("partner", pa.string()),
        ("duplicate_count", pa.int64()),
        ("excerpt", pa.string()),
    ]
)


class Sampler:
    """Keeps the `most` smallest of each reason as tables of one unit pass by."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.best: dict[str, list[dict]] = defaultdict(list)
        self.pairs: list[dict] = []

    def look(self, source: str, texts: Texts, rows: pa.Table, removed: pa.Table, groups: pa.Table) -> None:
        """D documents in order, with their attributes; `removed` and `groups` are those of the whole unit."""
        if not len(texts):
            return
        hashes = rows["text_hash"].combine_chunks()
        rank = np.frombuffer(hashes.buffers()[1], "<u8", 2 * len(hashes), 16 * hashes.offset)[::2]
        positions = rows["row"].to_numpy()
        places = _lookup(removed, positions)
        label, labels = _labels(removed)
        label = np.where(places >= 0, label[places], -1) if len(label) else places
        for code in np.unique(label):
            mine = np.flatnonzero(label == code)
            best = self.best[labels[code]]
            for index in mine[np.argsort(rank[mine], kind="stable")][: self.most]:
                if len(best) == self.most and rank[index] >= best[-1]["rank"]:
                    break
                given = removed.slice(places[index], 1).to_pylist()[0] if code >= 0 else {}
                best.append(self._row(source, texts, rows, int(index), given, int(rank[index])))
                best.sort(key=lambda row: row["rank"])
                del best[self.most :]
        shown = groups.filter(groups["shown"])
        for place, index in _matches(shown, positions):
            row = shown.slice(place, 1).to_pylist()[0]
            given = {"reason": row["reason"], "value": row["similarity"], "partner": row["partner"]}
            self.pairs.append(
                self._row(source, texts, rows, index, given, int(rank[index]))
                | {"group_id": row["group_id"], "duplicate_count": row["duplicate_count"]}
            )

    def table(self) -> pa.Table:
        rows = [row for key in sorted(self.best) for row in self.best[key]]
        return pa.Table.from_pylist(rows + self.pairs, SAMPLES_SCHEMA)

    def _row(self, source: str, texts: Texts, rows: pa.Table, index: int, given: dict, rank: int) -> dict:
        text = texts[index]
        cut = "…" if len(text) > EXCERPT_CHARACTERS else ""
        excerpt = Texts.from_strings([text[:EXCERPT_CHARACTERS] + cut])
        redacted = personal_data.redact(excerpt, personal_data.find(excerpt, personal_data.KINDS))
        return {
            "reason": given.get("reason") or KEPT_REASON,
            "stage": given.get("stage") or "corpus",
            "rank": rank,
            "group_id": None,
            "id": rows["id"][index].as_py(),
            "source": source,
            "language": rows["language"][index].as_py() if "language" in rows.column_names else "",
            "value": given.get("value"),
            "threshold": given.get("threshold"),
            "partner": given.get("partner"),
            "duplicate_count": None,
            "excerpt": redacted[0],
        }


def _labels(removed: pa.Table) -> tuple[np.ndarray, list[str]]:
    """(int64[R] a number for each removed row's cause, the causes; index -1 is what stays)."""
    if not removed.num_rows:
        return np.empty(0, np.int64), [KEPT_REASON]
    causes = pc.binary_join_element_wise(removed["stage"], removed["reason"], "/").combine_chunks().dictionary_encode()
    return causes.indices.to_numpy().astype(np.int64), [*causes.dictionary.to_pylist(), KEPT_REASON]


def _lookup(removed: pa.Table, positions: np.ndarray) -> np.ndarray:
    """int64[D]: the place in `removed` of each position, -1 where it stays."""
    if not removed.num_rows:
        return np.full(len(positions), -1)
    rows = removed["row"].to_numpy()
    at = np.minimum(np.searchsorted(rows, positions), len(rows) - 1)
    return np.where(rows[at] == positions, at, -1)


def _matches(table: pa.Table, positions: np.ndarray) -> list[tuple[int, int]]:
    """(place in the table, index among the positions) of rows that stand in both."""
    if not table.num_rows:
        return []
    found = {row: place for place, row in enumerate(table["row"].to_pylist())}
    return [(found[row], index) for index, row in enumerate(positions.tolist()) if row in found]
