"""Example documents for the report: some for each reason, some that stay, and pairs of the largest duplicate groups.

The examples are the documents with the smallest text hashes: a random sample that is the same in every run and can be
merged from those of the units. Of cut texts, the most frequent are shown. Personal data is replaced in all excerpts,
also if the config does not replace it in the corpus, because reports are shared.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.pipelines.text import personal_data
from raymill.pipelines.text.texts import Texts

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
        index_in_removed = index_in(removed["row"].to_numpy(), rows_in_unit)
        reasons = pc.binary_join_element_wise(removed["stage"], removed["reason"], "/").combine_chunks()
        reasons = reasons.dictionary_encode()
        labels = [*reasons.dictionary.to_pylist(), KEPT_REASON]  # by number; -1: documents that stay
        label = np.append(reasons.indices.to_numpy().astype(np.int64), -1)[index_in_removed]
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
        index_in_shown = index_in(shown["row"].to_numpy(), rows_in_unit)
        for index in np.flatnonzero(index_in_shown >= 0).tolist():
            row = shown.slice(index_in_shown[index], 1).to_pylist()[0]
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


def index_in(removed: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64[D]: the index of each of `rows` in `removed`, which is sorted; -1 if it is not there."""
    if not len(removed):
        return np.full(len(rows), -1)
    at = np.minimum(np.searchsorted(removed, rows), len(removed) - 1)
    return np.where(removed[at] == rows, at, -1)


def best_samples(samples: Sequence[pa.Table], most: int) -> pa.Table:
    """The samples with the smallest ranks for each reason, and all pairs of duplicates (SAMPLES_SCHEMA).

    most: samples for each reason; for cut texts they are CUT_SHOWN.
    """
    table = pa.concat_tables([SAMPLES_SCHEMA.empty_table(), *samples])
    is_pair = pc.is_valid(table["group_id"])
    single = table.filter(pc.invert(is_pair)).sort_by([("rank", "ascending"), ("id", "ascending")])
    shown = pc.if_else(pc.equal(single["reason"], CUT_REASON), CUT_SHOWN, most).to_numpy()
    single = single.filter(pa.array(number_of_its_kind(single, "stage", "reason") < shown))
    return pa.concat_tables([single, table.filter(is_pair)])


def number_of_its_kind(table: pa.Table, *columns: str) -> np.ndarray:
    """int64[D]: for each row, the number of rows before it with the same values in these columns."""
    kinds = pc.binary_join_element_wise(*(table[name] for name in columns), "\0").combine_chunks().dictionary_encode()
    code = kinds.indices.to_numpy()
    order = np.argsort(code, kind="stable")
    begins = np.searchsorted(code[order], code[order])
    number = np.empty(len(code), np.int64)
    number[order] = np.arange(len(code)) - begins
    return number
