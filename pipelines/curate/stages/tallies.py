"""Counts of documents for the report: those of units, of removed duplicates, and their sums over all units.

    decide, select   write the tallies of each unit                              -> _work/tallies, _work/kept
    duplicates       counts the documents that `group` found to be duplicates    -> _work/duplicates, _work/similarity
    merge            merges the small files that units wrote for the report      -> _work/tally_sums,
                                                                                    _work/best_samples, _work/problems

The number of rows grows with the numbers of units and languages, not of documents, so the driver can read them. A row
of a tally is a key (table, source, language, name, bin) with numbers of documents and characters. Tables:

    input      every readable document
    removed    by reason, named `stage/reason`
    kept       the documents of the corpus
    histogram  a signal's distribution; `bin` is the index of a bin of `edges(signal, its checks)`
    copies     the documents of the corpus by their number of copies (`name`), with `corpus.copies`
    host, published, collected, opt_out: pages of the web, by page_tallies.py
    personal   documents with a kind of personal data (`name`); `characters` is the number of occurrences
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.stage import Output, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages.samples import SAMPLES_SCHEMA, best_samples, number_of_its_kind
from raymill.pipelines.dedup.compare import NEAR
from raymill.pipelines.memory import NUMBERS_MEMORY
from raymill.pipelines.rules import Check

T = TypeVar("T")
Merge = Callable[[list[pa.Table]], pa.Table]

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
_NO_SIGNALS = {"row", "id", "source", "text_hash", "language", "signature", "where"}

_FRACTION_EDGES = np.linspace(0, 1, 41)
_MEAN_LENGTH_EDGES = np.linspace(0, 20, 41)
# Scores by a rubric, and their distance from a threshold.
_JUDGE_EDGES = {"judge_score": np.linspace(0, 10, 41), "judge_score_margin": np.linspace(-5, 5, 41)}
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
    return not any(part in signal for part in ("frac", "ratio", "score", "percentile", "_gram", "_per_", "mean"))


def edges(signal: str, checks: Iterable[Check] = ()) -> np.ndarray:
    """float64[bins + 1], edges of a histogram. Bounds of the checks are edges, so no bin is on both sides of one.

    Values beyond the edges are counted in the first and the last bin.
    """
    others = _COUNT_EDGES if is_count(signal) else _MEAN_LENGTH_EDGES if "mean" in signal else _FRACTION_EDGES
    base = _JUDGE_EDGES.get(signal, others)
    # A bin contains its lower edge. A document with the value of a maximum stays, so the edge is just above it.
    bounds = [c.threshold if c.minimum is not None else np.nextafter(c.threshold, np.inf) for c in checks]
    return np.union1d(base, [bound for bound in bounds if base[0] < bound < base[-1]])


def histograms(signals: Mapping[str, np.ndarray], checks: Mapping[str, Sequence[Check]]) -> pa.Table:
    """Rows of the table `histogram`. signals: name -> float64[D]. NaN, a value that does not apply, is not counted."""
    counted = []
    for name, values in signals.items():
        bounds = edges(name, checks.get(name, ()))
        found = np.searchsorted(bounds, values[~np.isnan(values)], side="right") - 1
        counted.append(np.bincount(np.clip(found, 0, len(bounds) - 2), minlength=len(bounds) - 1))
    bins = np.concatenate([np.flatnonzero(counts) for counts in counted])
    documents = np.concatenate([counts[counts > 0] for counts in counted])
    names = np.repeat(list(signals), [np.count_nonzero(counts) for counts in counted])
    rows = tally("histogram", "", "", names, documents, np.zeros(len(bins), np.int64))
    return rows.set_column(4, "bin", pa.array(bins, pa.int32()))


def tally_unit(
    attributes: pa.Table,
    removed: np.ndarray,
    names: pa.Array,
    checks: Mapping[str, Sequence[Check]],
    of_url: np.ndarray,
) -> pa.Table:
    """The tallies of a table of attributes.

    Args:
        removed: indexes of the rows that `decide` removes.
        names: `stage/reason` of each of them.
        checks: signal -> its checks.
        of_url: those of `removed` that rules of the URL remove. One without a character was not extracted (measure.py),
            and its size is in no histogram.
    """
    rows = attributes.num_rows
    language = attributes["language"] if "language" in attributes.column_names else pa.repeat("", rows)
    ones = np.ones(rows, np.int64)
    tables = [tally("input", attributes["source"], language, "", ones, attributes["characters"])]
    if len(removed):
        subset = pa.table({"s": attributes["source"], "l": language, "c": attributes["characters"]}).take(removed)
        tables.append(tally("removed", subset["s"], subset["l"], names, ones[: len(removed)], subset["c"]))
    signals = {}
    not_extracted = of_url[attributes["characters"].to_numpy()[of_url] == 0]
    for name in attributes.column_names:
        if name.startswith("personal_"):
            counts = attributes[name].to_numpy()
            found = counts[counts > 0].astype(np.int64)
            kind = name.removeprefix("personal_")
            tables.append(tally("personal", "", "", kind, np.ones(len(found), np.int64), found))
        elif name not in _NO_SIGNALS:
            signals[name] = attributes[name].to_numpy().astype(np.float64)
            if name in ("characters", "bytes", "tokens"):
                signals[name][not_extracted] = np.nan
    return add_tallies([*tables, histograms(signals, checks)])


def neighbours(items: Iterable[T], sizes: Iterable[float], full: float, most: int | None = None) -> Iterator[list[T]]:
    """Lists of neighbouring items, in order. A list ends when its sizes add up to `full` or it has `most` items."""
    joined: list[T] = []
    total = 0.0
    for item, size in zip(items, sizes, strict=True):
        joined.append(item)
        total += size
        if total >= full or len(joined) == most:
            yield joined
            joined, total = [], 0.0
    if joined:
        yield joined


# --- removed duplicates

DUPLICATES = "_work/duplicates"
SIMILARITY = "_work/similarity"
DUPLICATES_VERSION = "1"
SIMILARITY_BINS = 40  # of equal width, from 0 to 1

ROWS_OF_A_UNIT = 2_000_000
_FEW_ROWS = 2_000_000  # rows that are counted faster than Ray starts

_DUPLICATE_KEYS = ["unit", "source", "language", "reason"]
DUPLICATES_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("reason", pa.string()),
        ("documents", pa.int64()),
        ("characters", pa.int64()),
    ]
)
SIMILARITY_SCHEMA = pa.schema([("bin", pa.int32()), ("documents", pa.int64())])


def duplicates_stage(groups: Artifact) -> Stage:
    """The stage that counts removed duplicates for the report.

    Reads: GROUPS, one row for each duplicate.
    Writes: DUPLICATES and SIMILARITY, counts by unit and by similarity.
    Cost: 0.5 GiB (NUMBERS_MEMORY) for units of two million rows.
    """
    return Stage(
        "duplicates",
        (Output(DUPLICATES, DUPLICATES_SCHEMA), Output(SIMILARITY, SIMILARITY_SCHEMA)),
        list(neighbours(groups.file_uris, [file.rows for file in groups.manifest.files], ROWS_OF_A_UNIT)),
        CountDuplicates(groups.store),
        fingerprint([DUPLICATES_VERSION, groups.manifest.fingerprint]),
        groups.store,
        files_from,
        small=groups.manifest.rows <= _FEW_ROWS,
        memory=NUMBERS_MEMORY,
        per_file=True,
    )


@dataclass(frozen=True)
class CountDuplicates:
    """The work of a unit: counts the rows of some files of groups. Counters: `documents`, those of the files."""

    store: Store

    def __call__(self, files: list[str], scratch: Scratch) -> Counters:
        wanted = {*_DUPLICATE_KEYS, "characters", "similarity"}
        rows, duplicates, similarity = count_duplicates(read_tables(self.store, files, wanted.__contains__))
        scratch.write(DUPLICATES, duplicates)
        scratch.write(SIMILARITY, similarity)
        return {"documents": rows}


def count_duplicates(groups: Iterable[pa.Table]) -> tuple[int, pa.Table, pa.Table]:
    """(rows, their duplicates as DUPLICATES_SCHEMA, the near-duplicates by similarity as SIMILARITY_SCHEMA).

    groups: tables with the columns unit, source, language, reason (null for kept documents), characters, similarity.
    """
    rows = 0
    counts = [DUPLICATES_SCHEMA.empty_table()]
    bins = np.zeros(SIMILARITY_BINS, np.int64)
    for table in groups:
        rows += table.num_rows
        removed = table.filter(pc.is_valid(table["reason"])).group_by(_DUPLICATE_KEYS, use_threads=False)
        counted = removed.aggregate([("characters", "count"), ("characters", "sum")])
        counts.append(counted.rename_columns(DUPLICATES_SCHEMA.names))
        near = table.filter(pc.equal(table["reason"], NEAR))["similarity"].to_numpy()
        bin = np.minimum((near * SIMILARITY_BINS).astype(np.int64), SIMILARITY_BINS - 1)  # the last bin includes 1
        bins += np.bincount(bin, minlength=SIMILARITY_BINS)
    filled = np.flatnonzero(bins)
    similarity = pa.table([pa.array(filled, pa.int32()), bins[filled]], schema=SIMILARITY_SCHEMA)
    return rows, _sum(pa.concat_tables(counts), _DUPLICATE_KEYS), similarity


def sum_of_units(duplicates: Iterable[pa.Table]) -> pa.Table:
    """Rows of DUPLICATES, added up over units: the columns source, language, reason, documents and characters.

    Tables are added one after the other; only one is in memory, because the rows grow with units times languages.
    """
    keys = _DUPLICATE_KEYS[1:]
    total = _sum(DUPLICATES_SCHEMA.empty_table(), keys)
    for table in duplicates:
        total = _sum(pa.concat_tables([total, table.select(total.column_names)]), keys)
        del table  # before the next one is read
    return total


def _sum(duplicates: pa.Table, keys: list[str]) -> pa.Table:
    total = duplicates.group_by(keys, use_threads=False).aggregate([("documents", "sum"), ("characters", "sum")])
    return total.rename_columns([*keys, "documents", "characters"])


# --- the sums over all units

TALLY_SUMS = "_work/tally_sums"
BEST_SAMPLES = "_work/best_samples"
PROBLEMS = "_work/problems"
MERGE_VERSION = "1"

FILES_OF_A_UNIT = 256
_FEW_FILES = 1000  # files that are merged faster than Ray starts
_STORE_THREADS = 16
PLACES = 3  # examples of documents with a problem

# At most PLACES rows for each source and problem. The sum of `documents` is the number of documents with the problem.
PROBLEMS_SCHEMA = pa.schema(
    [("source", pa.string()), ("problem", pa.string()), ("where", pa.string()), ("documents", pa.int64())]
)


def merge_stage(tallies: Sequence[Artifact], samples: Artifact, quarantine: Artifact, most: int) -> Stage:
    """The stage that adds up what units counted, for the report. most: samples of each reason.

    Reads: the files of tallies, samples and quarantine, FILES_OF_A_UNIT a unit. Of 20,000 units the driver then reads
    80 files of each kind; merged files can be merged again.
    Writes: TALLY_SUMS, BEST_SAMPLES and PROBLEMS.
    Cost: half a core-second and 0.5 GiB (NUMBERS_MEMORY) a unit.
    """

    outputs = (
        Output(TALLY_SUMS, TALLIES_SCHEMA),
        Output(BEST_SAMPLES, SAMPLES_SCHEMA),
        Output(PROBLEMS, PROBLEMS_SCHEMA),
    )
    files = {
        TALLY_SUMS: [uri for artifact in tallies for uri in artifact.file_uris],
        BEST_SAMPLES: samples.file_uris,
        PROBLEMS: quarantine.file_uris,
    }
    units = [
        (output, uris[at : at + FILES_OF_A_UNIT])
        for output, uris in files.items()
        for at in range(0, len(uris), FILES_OF_A_UNIT)
    ]
    read = [artifact.manifest.fingerprint for artifact in (*tallies, samples, quarantine)]
    return Stage(
        "merge",
        outputs,
        units,
        MergeTallies(samples.store, most),
        fingerprint([MERGE_VERSION, *read, most]),
        samples.store,
        _files,
        small=sum(len(uris) for uris in files.values()) <= _FEW_FILES,
        memory=NUMBERS_MEMORY,
        per_file=True,
    )


def _files(unit: tuple[str, Sequence[str]]) -> str:
    return files_from(unit[1])


@dataclass(frozen=True)
class MergeTallies:
    """The work of a unit: an output, and the files that are merged into it. Counters: `files`."""

    store: Store
    most: int

    def __call__(self, unit: tuple[str, Sequence[str]], scratch: Scratch) -> Counters:
        output, uris = unit
        merges: dict[str, Merge] = {
            TALLY_SUMS: add_tallies,
            BEST_SAMPLES: partial(best_samples, most=self.most),
            PROBLEMS: add_problems,
        }
        for name, merge in merges.items():
            scratch.write(name, merged(self.store, uris if name == output else (), merge))
        return {"files": len(uris)}


def merged(store: Store, uris: Sequence[str], merge: Merge) -> pa.Table:
    """The rows of these files, merged. Many files are read at once, each by one row group at a time."""

    def read(uri: str) -> pa.Table:
        found = merge([])
        for table in read_tables(store, [uri]):
            found = merge([found, table])
        return found

    with ThreadPoolExecutor(_STORE_THREADS) as pool:
        return merge(list(pool.map(read, uris)))


def add_problems(problems: Sequence[pa.Table]) -> pa.Table:
    """The number of documents by source and problem, with the first PLACES of each (PROBLEMS_SCHEMA).

    problems: tables of PROBLEMS_SCHEMA, or of the quarantine, in which a row is a document.
    """
    tables = [PROBLEMS_SCHEMA.empty_table()]
    for table in problems:
        if "documents" not in table.column_names:
            table = table.append_column("documents", pa.array(np.ones(table.num_rows, np.int64)))
        tables.append(table.select(PROBLEMS_SCHEMA.names))
    table = pa.concat_tables(tables)
    number = number_of_its_kind(table, "source", "problem")
    sums = table.group_by(["source", "problem"], use_threads=False).aggregate([("documents", "sum")])["documents_sum"]
    documents = np.zeros(table.num_rows, np.int64)
    documents[number == 0] = sums.to_numpy()  # both in the order in which the kinds are first seen
    table = table.set_column(3, "documents", pa.array(documents))
    return table.filter(pa.array(number < PLACES))
