"""Example documents for the report: some for each reason, some that stay, and pairs of the largest duplicate groups.

The examples are the documents with the smallest text hashes: a random sample that is the same in every run and can be
merged from those of the units. Of cut texts, the most frequent are shown. Personal data is replaced in all excerpts,
also if the config does not replace it in the corpus, because reports are shared.
"""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.text import personal_data
from pipelines.text.texts import Texts

SAMPLES = "_work/samples"
KEPT_REASON = "kept"
CUT_REASON = "cut"  # the reason of cut texts; `value` is the number of documents that have the text
CUT_SHOWN = 20
EXCERPT_CHARACTERS = 1200

SAMPLES_SCHEMA = pa.schema(
    [
        ("reason", pa.string()),  # why the document was removed; or KEPT_REASON, CUT_REASON
        ("stage", pa.string()),
        ("rank", pa.uint64()),  # the report shows the smallest
        ("group_id", pa.int64()),  # of a pair of duplicates, else null
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
    """Collects the `most` examples with the smallest ranks for each reason, table by table."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.best: dict[str, list[dict]] = defaultdict(list)
        self.pairs: list[dict] = []
        self.cut: dict[str, list[dict]] = defaultdict(list)  # by stage

    def add(self, source: str, texts: Texts, rows: pa.Table, removed: pa.Table, groups: pa.Table) -> None:
        """Add D documents of a unit. rows: their attributes. removed, groups: of all documents of the unit."""
        if not len(texts):
            return
        hashes = rows["text_hash"].combine_chunks()
        rank = np.frombuffer(hashes.buffers()[1], "<u8", 2 * len(hashes), 16 * hashes.offset)[::2]
        rows_in_unit = rows["row"].to_numpy()
        index_in_removed = _lookup(removed, rows_in_unit)
        label, labels = _labels(removed)
        label = np.where(index_in_removed >= 0, label[index_in_removed], -1) if len(label) else index_in_removed
        for code in np.unique(label):
            same = np.flatnonzero(label == code)
            best = self.best[labels[code]]
            for index in same[np.argsort(rank[same], kind="stable")][: self.most]:
                if len(best) == self.most and rank[index] >= best[-1]["rank"]:
                    break
                given = removed.slice(index_in_removed[index], 1).to_pylist()[0] if code >= 0 else {}
                best.append(self._row(source, texts, rows, int(index), given, int(rank[index])))
                best.sort(key=lambda row: row["rank"])
                del best[self.most :]
        shown = groups.filter(groups["shown"])
        for index_in_shown, index in _matches(shown, rows_in_unit):
            row = shown.slice(index_in_shown, 1).to_pylist()[0]
            given = {"reason": row["reason"], "value": row["similarity"], "partner": row["partner"]}
            self.pairs.append(
                self._row(source, texts, rows, index, given, int(rank[index]))
                | {"group_id": row["group_id"], "duplicate_count": row["duplicate_count"]}
            )

    def add_cut(self, stage: str, listed: pa.Table) -> None:
        """Add cut texts. listed: `text`, `documents`, and `source` and `id` of the first document that has it."""
        best = listed.sort_by([("documents", "descending"), ("id", "ascending")]).slice(0, CUT_SHOWN)
        rows = self.cut[stage]
        for row in best.to_pylist():
            given = {"reason": CUT_REASON, "stage": stage, "rank": np.iinfo(np.int64).max - row["documents"]}
            given |= {"id": row["id"], "source": row["source"], "value": float(row["documents"])}
            rows.append(_EMPTY | given | {"excerpt": _excerpt(row["text"])})
        rows.sort(key=lambda one: (one["rank"], one["id"]))
        del rows[CUT_SHOWN:]

    def table(self) -> pa.Table:
        """The examples (SAMPLES_SCHEMA)."""
        rows = [row for key in sorted(self.best) for row in self.best[key]]
        rows += [row for stage in sorted(self.cut) for row in self.cut[stage]]
        return pa.Table.from_pylist(rows + self.pairs, SAMPLES_SCHEMA)

    def _row(self, source: str, texts: Texts, rows: pa.Table, index: int, given: dict, rank: int) -> dict:
        return _EMPTY | {
            "reason": given.get("reason") or KEPT_REASON,
            "stage": given.get("stage") or "corpus",
            "rank": rank,
            "id": rows["id"][index].as_py(),
            "source": source,
            "language": rows["language"][index].as_py() if "language" in rows.column_names else "",
            "value": given.get("value"),
            "threshold": given.get("threshold"),
            "partner": given.get("partner"),
            "excerpt": _excerpt(texts[index]),
        }


_EMPTY: dict[str, object] = dict.fromkeys(SAMPLES_SCHEMA.names)


def _excerpt(text: str) -> str:
    """The beginning of a text, with personal data replaced."""
    cut = "…" if len(text) > EXCERPT_CHARACTERS else ""
    excerpt = Texts.from_strings([text[:EXCERPT_CHARACTERS] + cut])
    return personal_data.redact(excerpt, personal_data.find(excerpt, personal_data.KINDS))[0]


def _labels(removed: pa.Table) -> tuple[np.ndarray, list[str]]:
    """(number of the reason of each removed row int64[R], `stage/reason` by number; index -1 is KEPT_REASON)."""
    if not removed.num_rows:
        return np.empty(0, np.int64), [KEPT_REASON]
    reasons = pc.binary_join_element_wise(removed["stage"], removed["reason"], "/").combine_chunks().dictionary_encode()
    return reasons.indices.to_numpy().astype(np.int64), [*reasons.dictionary.to_pylist(), KEPT_REASON]


def _lookup(removed: pa.Table, rows: np.ndarray) -> np.ndarray:
    """int64[D]: the index in `removed` of each document, by its row in the unit; -1 if it stays."""
    if not removed.num_rows:
        return np.full(len(rows), -1)
    removed_rows = removed["row"].to_numpy()
    at = np.minimum(np.searchsorted(removed_rows, rows), len(removed_rows) - 1)
    return np.where(removed_rows[at] == rows, at, -1)


def _matches(table: pa.Table, rows: np.ndarray) -> list[tuple[int, int]]:
    """(index in the table, index in `rows`) of the rows of the unit that are in both."""
    if not table.num_rows:
        return []
    index_in_table = {row: index for index, row in enumerate(table["row"].to_pylist())}
    return [(index_in_table[row], index) for index, row in enumerate(rows.tolist()) if row in index_in_table]
