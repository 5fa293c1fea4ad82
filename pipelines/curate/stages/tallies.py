"""Tallies: the counts of a unit for the report. The tallies of units are added by key, for any number of units.

A row is a key (table, source, language, name, bin) with numbers of documents and characters. Tables:

    input      every readable document
    removed    by reason, named `stage/reason`
    kept       the documents of the corpus
    histogram  a signal's distribution; `bin` is the index of a bin of `edges(signal, its checks)`
    personal   documents with a kind of personal data (`name`); `characters` is the number of occurrences
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipelines.rules import Check

TALLIES_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("name", pa.string()),
        ("bin", pa.int32()),
        ("documents", pa.int64()),
        ("characters", pa.int64()),
    ]
)
# An estimate; it depends on the language and on the tokenizer.
CHARACTERS_PER_TOKEN = 4

_KEYS = ["table", "source", "language", "name", "bin"]

# Attribute columns without a histogram.
_NO_SIGNALS = {"row", "id", "source", "text_hash", "language", "signature"}

_FRACTION_EDGES = np.linspace(0, 1, 41)
_MEAN_LENGTH_EDGES = np.linspace(0, 20, 41)
_COUNT_EDGES = np.concatenate([[0.0], np.logspace(0, 8, 41)])  # 0, then five bins for each factor of 10


def add_tallies(tallies: list[pa.Table]) -> pa.Table:
    """The sum of the tallies: one row for each key, sorted by key."""
    if not tallies:
        return TALLIES_SCHEMA.empty_table()
    total = pa.concat_tables(tallies).group_by(_KEYS, use_threads=False)
    summed = total.aggregate([("documents", "sum"), ("characters", "sum")])
    summed = summed.rename_columns([*_KEYS, "documents", "characters"])
    return summed.select(TALLIES_SCHEMA.names).sort_by([(key, "ascending") for key in _KEYS])


def tally(
    table: str, source: object, language: object, name: object, documents: object, characters: object
) -> pa.Table:
    """Rows of one table. source to name: a scalar for all rows, or an array as long as `documents`."""
    length = len(documents)  # type: ignore[arg-type]
    columns = [table, source, language, name, -1, documents, characters]
    arrays = [
        pa.repeat(pa.scalar(c, f.type), length) if isinstance(c, str | int) else pa.array(c).cast(f.type)
        for c, f in zip(columns, TALLIES_SCHEMA, strict=True)
    ]
    return pa.table(arrays, schema=TALLIES_SCHEMA)


def is_count(signal: str) -> bool:
    """Whether a signal is an unbounded whole number, by its name. Its histogram has a logarithmic scale."""
    return not any(part in signal for part in ("frac", "ratio", "score", "_gram", "_per_", "mean"))


def edges(signal: str, checks: Iterable[Check] = ()) -> np.ndarray:
    """float64[bins + 1], edges of a histogram. Bounds of the checks are edges, so no bin is on both sides of one.

    Values beyond the edges are counted in the first and the last bin.
    """
    base = _COUNT_EDGES if is_count(signal) else _MEAN_LENGTH_EDGES if "mean" in signal else _FRACTION_EDGES
    # A bin contains its lower edge. A document with the value of a maximum stays, so the edge is just above it.
    bounds = [c.threshold if c.minimum is not None else np.nextafter(c.threshold, np.inf) for c in checks]
    return np.union1d(base, [bound for bound in bounds if base[0] < bound < base[-1]])


def histograms(signals: Mapping[str, np.ndarray], checks: Mapping[str, Sequence[Check]]) -> pa.Table:
    """Rows of the table `histogram`. signals: name -> float64[D]. NaN, a value that does not apply, is not counted."""
    counted = [_fill_bins(values, edges(name, checks.get(name, ()))) for name, values in signals.items()]
    bins = np.concatenate([np.flatnonzero(counts) for counts in counted])
    documents = np.concatenate([counts[counts > 0] for counts in counted])
    names = np.repeat(list(signals), [np.count_nonzero(counts) for counts in counted])
    rows = tally("histogram", "", "", names, documents, np.zeros(len(bins), np.int64))
    return rows.set_column(4, "bin", pa.array(bins, pa.int32()))


def _fill_bins(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """int64[bins]: number of values in each bin."""
    found = np.searchsorted(bounds, values[~np.isnan(values)], side="right") - 1
    return np.bincount(np.clip(found, 0, len(bounds) - 2), minlength=len(bounds) - 1)


def tally_unit(
    attributes: pa.Table, removed: np.ndarray, names: pa.Array, checks: Mapping[str, Sequence[Check]]
) -> pa.Table:
    """The tallies of a table of attributes.

    Args:
        removed: indexes of the rows that `decide` removes.
        names: `stage/reason` of each of them.
        checks: signal -> its checks.
    """
    rows = attributes.num_rows
    language = attributes["language"] if "language" in attributes.column_names else pa.repeat("", rows)
    ones = np.ones(rows, np.int64)
    tables = [tally("input", attributes["source"], language, "", ones, attributes["characters"])]
    if len(removed):
        subset = pa.table({"s": attributes["source"], "l": language, "c": attributes["characters"]}).take(removed)
        tables.append(tally("removed", subset["s"], subset["l"], names, ones[: len(removed)], subset["c"]))
    signals = {}
    for name in attributes.column_names:
        if name.startswith("personal_"):
            counts = attributes[name].to_numpy()
            found = counts[counts > 0].astype(np.int64)
            kind = name.removeprefix("personal_")
            tables.append(tally("personal", "", "", kind, np.ones(len(found), np.int64), found))
        elif name not in _NO_SIGNALS:
            signals[name] = attributes[name].to_numpy().astype(np.float64)
    return add_tallies([*tables, histograms(signals, checks)])
