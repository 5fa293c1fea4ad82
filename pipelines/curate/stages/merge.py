"""The stage `merge`: merges the small files that the units of earlier stages write for the report.

    tallies of decide and select, samples, quarantine  ->  tally_sums, best_samples, problems

A unit merges 256 files into one, so the driver reads few files when it writes the report: of 20,000 units, 80 of each
kind. Merged files can be merged again, which `gather` does.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.curate.stages.samples import CUT_REASON, CUT_SHOWN, SAMPLES_SCHEMA
from pipelines.curate.stages.tallies import TALLIES_SCHEMA, add_tallies
from pipelines.memory import NUMBERS_MEMORY

TALLY_SUMS = "_work/tally_sums"
BEST_SAMPLES = "_work/best_samples"
PROBLEMS = "_work/problems"
MERGE_VERSION = "1"

FILES_OF_A_UNIT = 256
_SMALL = 1000  # files that are merged faster than Ray starts
_STORE_THREADS = 16
PLACES = 3  # examples of documents with a problem

# At most PLACES rows for each source and problem. The sum of `documents` is the number of documents with the problem.
PROBLEMS_SCHEMA = pa.schema(
    [("source", pa.string()), ("problem", pa.string()), ("where", pa.string()), ("documents", pa.int64())]
)


@dataclass(frozen=True)
class SmallFiles:
    """Files of one kind; the other lists are empty."""

    tallies: Sequence[str] = ()
    samples: Sequence[str] = ()
    quarantine: Sequence[str] = ()


def merge_stage(tallies: Sequence[Artifact], samples: Artifact, quarantine: Artifact, most: int) -> Stage:
    """The stage that adds up what units counted, for the report. most: samples of each reason.

    Reads: the files of tallies, samples and quarantine, FILES_OF_A_UNIT a unit.
    Writes: TALLY_SUMS, BEST_SAMPLES and PROBLEMS.
    Cost: half a core-second and 0.5 GiB (NUMBERS_MEMORY) a unit.
    """
    outputs = (
        Output(TALLY_SUMS, TALLIES_SCHEMA),
        Output(BEST_SAMPLES, SAMPLES_SCHEMA),
        Output(PROBLEMS, PROBLEMS_SCHEMA),
    )
    units = [SmallFiles(tallies=uris) for uris in _some([uri for artifact in tallies for uri in artifact.file_uris])]
    units += [SmallFiles(samples=uris) for uris in _some(samples.file_uris)]
    units += [SmallFiles(quarantine=uris) for uris in _some(quarantine.file_uris)]
    read = [artifact.manifest.fingerprint for artifact in (*tallies, samples, quarantine)]
    stage_fingerprint = fingerprint([MERGE_VERSION, *read, most])
    small = sum(len(artifact.manifest.files) for artifact in (*tallies, samples, quarantine)) <= _SMALL
    work = MergeTallies(samples.store, most)
    return Stage(
        "merge", outputs, units, work, stage_fingerprint, samples.store, _files, small, NUMBERS_MEMORY, per_file=True
    )


def _some(uris: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(uris), FILES_OF_A_UNIT):
        yield uris[at : at + FILES_OF_A_UNIT]


def _files(unit: SmallFiles) -> str:
    return files_from([*unit.tallies, *unit.samples, *unit.quarantine])


@dataclass(frozen=True)
class MergeTallies:
    """The work of a unit. Counters: `files`."""

    store: Store
    most: int

    def __call__(self, unit: SmallFiles, scratch: Scratch) -> Counters:
        scratch.write(TALLY_SUMS, merged(self.store, unit.tallies, add_tallies))
        scratch.write(BEST_SAMPLES, merged(self.store, unit.samples, partial(best_samples, most=self.most)))
        scratch.write(PROBLEMS, merged(self.store, unit.quarantine, add_problems))
        return {"files": len(unit.tallies) + len(unit.samples) + len(unit.quarantine)}


def merged(store: Store, uris: Sequence[str], merge: Callable[[list[pa.Table]], pa.Table]) -> pa.Table:
    """The rows of these files, merged. Many files are read at once, each by one row group at a time."""

    def read(uri: str) -> pa.Table:
        found = merge([])
        for table in read_tables(store, [uri]):
            found = merge([found, table])
        return found

    with ThreadPoolExecutor(_STORE_THREADS) as pool:
        return merge(list(pool.map(read, uris)))


def best_samples(samples: Sequence[pa.Table], most: int) -> pa.Table:
    """The samples with the smallest ranks for each reason, and all pairs of duplicates (SAMPLES_SCHEMA).

    most: samples for each reason; for cut texts they are CUT_SHOWN.
    """
    table = pa.concat_tables([SAMPLES_SCHEMA.empty_table(), *samples])
    is_pair = pc.is_valid(table["group_id"])
    single = table.filter(pc.invert(is_pair)).sort_by([("rank", "ascending"), ("id", "ascending")])
    shown = pc.if_else(pc.equal(single["reason"], CUT_REASON), CUT_SHOWN, most).to_numpy()
    single = single.filter(pa.array(_number_of_its_kind(single, "stage", "reason") < shown))
    return pa.concat_tables([single, table.filter(is_pair)])


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
    number = _number_of_its_kind(table, "source", "problem")
    sums = table.group_by(["source", "problem"], use_threads=False).aggregate([("documents", "sum")])["documents_sum"]
    documents = np.zeros(table.num_rows, np.int64)
    documents[number == 0] = sums.to_numpy()  # both in the order in which the kinds are first seen
    table = table.set_column(3, "documents", pa.array(documents))
    return table.filter(pa.array(number < PLACES))


def _number_of_its_kind(table: pa.Table, *columns: str) -> np.ndarray:
    """int64[D]: for each row, the number of rows before it with the same values in these columns."""
    kinds = pc.binary_join_element_wise(*(table[name] for name in columns), "\0").combine_chunks().dictionary_encode()
    code = kinds.indices.to_numpy()
    order = np.argsort(code, kind="stable")
    begins = np.searchsorted(code[order], code[order])
    number = np.empty(len(code), np.int64)
    number[order] = np.arange(len(code)) - begins
    return number
