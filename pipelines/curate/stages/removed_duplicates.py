"""The stage `duplicates`: counts the documents that `group` found to be duplicates of others.

    groups  ->  duplicates (documents and characters by unit, source, language and reason), similarity (a histogram)

The driver plans `select` and writes the report from these counts. Their number grows with the number of units and
languages, not with that of duplicates.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.curate.stages.neighbours import neighbours
from pipelines.dedup.compare import NEAR
from pipelines.memory import NUMBERS_MEMORY

DUPLICATES = "_work/duplicates"
SIMILARITY = "_work/similarity"
DUPLICATES_VERSION = "1"
SIMILARITY_BINS = 40  # of equal width, from 0 to 1

ROWS_OF_A_UNIT = 2_000_000
_SMALL = 2_000_000  # rows that are counted faster than Ray starts

_KEYS = ["unit", "source", "language", "reason"]
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
    rows = [file.rows for file in groups.manifest.files]
    units = list(neighbours(groups.file_uris, rows, ROWS_OF_A_UNIT))
    outputs = (Output(DUPLICATES, DUPLICATES_SCHEMA), Output(SIMILARITY, SIMILARITY_SCHEMA))
    stage_fingerprint = fingerprint([DUPLICATES_VERSION, groups.manifest.fingerprint])
    work, small = CountDuplicates(groups.store), groups.manifest.rows <= _SMALL
    return Stage(
        "duplicates",
        outputs,
        units,
        work,
        stage_fingerprint,
        groups.store,
        files_from,
        small,
        memory=NUMBERS_MEMORY,
        per_file=True,
    )


@dataclass(frozen=True)
class CountDuplicates:
    """The work of a unit: counts the rows of some files of groups. Counters: `documents`, those of the files."""

    store: Store

    def __call__(self, files: list[str], scratch: Scratch) -> Counters:
        wanted = {*_KEYS, "characters", "similarity"}
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
        removed = table.filter(pc.is_valid(table["reason"])).group_by(_KEYS, use_threads=False)
        counted = removed.aggregate([("characters", "count"), ("characters", "sum")])
        counts.append(counted.rename_columns(DUPLICATES_SCHEMA.names))
        bins += _bins(table.filter(pc.equal(table["reason"], NEAR))["similarity"].to_numpy())
    filled = np.flatnonzero(bins)
    similarity = pa.table([pa.array(filled, pa.int32()), bins[filled]], schema=SIMILARITY_SCHEMA)
    return rows, _sum(pa.concat_tables(counts), _KEYS), similarity


def sum_of_units(duplicates: Iterable[pa.Table]) -> pa.Table:
    """Rows of DUPLICATES, added up over units: the columns source, language, reason, documents and characters.

    Tables are added one after the other; only one is in memory, because the rows grow with units times languages.
    """
    keys = _KEYS[1:]
    total = _sum(DUPLICATES_SCHEMA.empty_table(), keys)
    for table in duplicates:
        total = _sum(pa.concat_tables([total, table.select(total.column_names)]), keys)
        del table  # before the next one is read
    return total


def _sum(duplicates: pa.Table, keys: list[str]) -> pa.Table:
    total = duplicates.group_by(keys, use_threads=False).aggregate([("documents", "sum"), ("characters", "sum")])
    return total.rename_columns([*keys, "documents", "characters"])


def _bins(similarity: np.ndarray) -> np.ndarray:
    """int64[SIMILARITY_BINS]: number of values in each bin. The last bin includes 1."""
    bins = np.minimum((similarity * SIMILARITY_BINS).astype(np.int64), SIMILARITY_BINS - 1)
    return np.bincount(bins, minlength=SIMILARITY_BINS)
