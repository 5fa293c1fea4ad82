"""The stage `decide`: compares the signals of each document with the bounds of the language and the rules.

    attributes  ->  verdicts (one row for each document to remove), tallies for the report

A unit covers neighbouring units of `measure`. It writes the verdicts of each of them to separate files, and the tallies
of all to one file.

The first check that fails gives the document's reason (pipelines/rules/filters.py). The stage reads numbers and the
language, no text, so it takes seconds for millions of documents.

Words: attributes are the columns that `measure` writes; a signal is an attribute that checks can compare. Verdicts and
ledger record the bound of a check as `threshold`. A reason is the name of a failed check or of a kind of duplicate. The
column `stage` is what removed the document: a rule's name, `language`, or, in the ledger, the search for duplicates.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.stage import Output, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages.tallies import TALLIES_SCHEMA, add_tallies, neighbours, tally_unit
from raymill.pipelines.memory import NUMBERS_MEMORY
from raymill.pipelines.rules.custom import plain_settings
from raymill.pipelines.rules.filters import Filters, checks_by_signal, decide

VERDICTS = "_work/verdicts"
TALLIES = "_work/tallies"
DECIDE_VERSION = "3"

# A unit covers units of `measure` up to both limits: one or two seconds of computing, and of requests.
DOCUMENTS_OF_A_UNIT = 250_000
MEASURED_UNITS_OF_A_UNIT = 64

VERDICTS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("stage", pa.string()),  # removed by: a rule's name, or `language`
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
    ]
)


@dataclass(frozen=True)
class MeasuredFiles:
    """The files of attributes of a unit of `measure`, by its index."""

    unit: int
    attributes: list[str]


def decide_stage(filters: Filters, attributes: Artifact, units: int) -> Stage:
    """The stage that compares signals with their bounds.

    Reads: of the attributes the columns that the rules and the language filter name.
    Writes: VERDICTS, a row for each document that is removed, and TALLIES, counts for the report.
    Cost: 6 to 10 core-seconds for a million documents; 0.5 GiB (NUMBERS_MEMORY).

    units: number of units of the stage `measure`. The files of VERDICTS are listed under these units.
    """
    settings = {
        "version": [DECIDE_VERSION],
        "attributes": attributes.manifest.fingerprint,
        "language": filters.language and asdict(filters.language),
        "rules": [[rule.name, plain_settings(rule)] for rule in filters.rules],
    } | ({"by_language": filters.by_language} if filters.by_language else {})
    measured = [MeasuredFiles(unit, files) for unit, files in enumerate(attributes.files_by_unit(units))]
    documents = attributes.rows_by_unit(units)
    return Stage(
        "decide",
        (Output(VERDICTS, VERDICTS_SCHEMA), Output(TALLIES, TALLIES_SCHEMA)),
        list(neighbours(measured, documents, DOCUMENTS_OF_A_UNIT, MEASURED_UNITS_OF_A_UNIT)),
        Decide(attributes.store, filters),
        fingerprint(settings),
        attributes.store,
        _files,
        memory=NUMBERS_MEMORY,
        per_input=True,
    )


def _files(unit: list[MeasuredFiles]) -> str:
    return files_from([uri for one in unit for uri in one.attributes])


@dataclass(frozen=True)
class Decide:
    """The work of a unit: applies the checks to the documents of its attribute files; counts them for the report."""

    store: Store
    filters: Filters

    def __call__(self, measured: list[MeasuredFiles], scratch: Scratch) -> Counters:
        """Counters: `documents`, `text_bytes`, `passed`, and `reason/REASON` for each reason."""
        counters: Counters = {"documents": 0, "text_bytes": 0, "passed": 0}
        bounds, rules_of_url = checks_by_signal(self.filters), [rule.name for rule in self.filters.of_url]
        tallies = TALLIES_SCHEMA.empty_table()
        tables = ((one.unit, table) for one in measured for table in read_tables(self.store, one.attributes, is_needed))
        for unit, attributes in tables:
            verdicts = decide(attributes, self.filters)
            removed = np.flatnonzero(verdicts.code >= 0)
            rules = pa.array([rule for rule, _ in verdicts.reasons], pa.string())
            reasons = pa.array([reason for _, reason in verdicts.reasons], pa.string())
            code = verdicts.code[removed]
            table = pa.table(
                {
                    "row": attributes["row"].take(removed),
                    "stage": rules.take(code),
                    "reason": reasons.take(code),
                    "value": pa.array(verdicts.value[removed], from_pandas=True),
                    "threshold": pa.array(verdicts.threshold[removed], from_pandas=True),
                }
            )
            scratch.write(VERDICTS, table, unit)
            names = pc.binary_join_element_wise(table["stage"], table["reason"], "/")
            of_url = removed[np.isin(table["stage"].to_numpy(), rules_of_url)]
            tallies = add_tallies([tallies, tally_unit(attributes, removed, names, bounds, of_url)])
            counters["documents"] += attributes.num_rows
            counters["passed"] += attributes.num_rows - len(removed)
            counters["text_bytes"] += int(attributes["bytes"].to_numpy().sum())
            for index, count in zip(*np.unique(code, return_counts=True), strict=True):
                name = f"reason/{verdicts.reasons[index][1]}"
                counters[name] = counters.get(name, 0) + int(count)
        scratch.write(TALLIES, tallies)
        return counters


def is_needed(name: str) -> bool:
    """Whether a column is read; signature, hash, id and place are large and not needed."""
    return name not in ("signature", "text_hash", "id", "where")
