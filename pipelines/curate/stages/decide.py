"""The stage `decide`: compares the signals of each document with the bounds of the language and the rules.

    attributes  ->  verdicts (one row for each document to remove), tallies for the report

A unit covers neighbouring units of `measure`. It writes the verdicts of each of them to separate files, and the tallies
of all to one file.

The language is checked first, then each rule's checks in order; the first check that fails gives the document's reason.
The stage reads numbers and the language, no text, so it takes seconds for millions of documents.

Words: attributes are the columns that `measure` writes; a signal is an attribute that checks can compare. A check
compares one signal with one bound, a minimum or a maximum; verdicts and ledger record the bound as `threshold`. A
reason is the name of a failed check or of a kind of duplicate. The column `stage` is what removed the document: a
rule's name, `language`, or, in the ledger, the search for duplicates.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.curate.config import Filters
from pipelines.curate.stages.memory import NUMBERS_MEMORY
from pipelines.curate.stages.neighbours import neighbours
from pipelines.curate.stages.tallies import TALLIES_SCHEMA, add_tallies, tally_unit
from pipelines.language.identification import REASONS as LANGUAGE_REASONS
from pipelines.language.identification import language_verdict
from pipelines.rules import Check

VERDICTS = "_work/verdicts"
TALLIES = "_work/tallies"
DECIDE_VERSION = "2"
LANGUAGE_NOT_KEPT, LOW_SCORE = LANGUAGE_REASONS

# A unit covers units of `measure` up to both limits: one or two seconds of computing, and of requests.
DOCUMENTS_OF_A_UNIT = 250_000
MEASURED_UNITS_OF_A_UNIT = 64

Name = tuple[str, str]  # the name of a check: (its rule or `language`, its reason)

VERDICTS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("stage", pa.string()),  # removed by: a rule's name, or `language`
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check on D documents.

    rule: name of the rule, or `language`. fails: bool[D]. value, threshold: float64[D], the signal and its bound.
    """

    rule: str
    reason: str
    fails: np.ndarray
    value: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The first failed check of each of D documents. The artifact VERDICTS has rows for the removed ones only.

    reasons: (rule or `language`, reason) of all checks. code: int16[D], index in `reasons`, -1 for documents that stay.
    value, threshold: float64[D], NaN for documents that stay.
    """

    reasons: tuple[Name, ...]
    code: np.ndarray
    value: np.ndarray
    threshold: np.ndarray

    @property
    def removed(self) -> np.ndarray:
        """bool[D]."""
        return self.code >= 0


def all_reasons(filters: Filters) -> tuple[Name, ...]:
    """(rule or `language`, reason) of every check of these filters, in order."""
    found = [("language", reason) for reason in LANGUAGE_REASONS] if filters.language else []
    return tuple(dict.fromkeys(found + [(rule, check.reason) for rule, check in checks(filters)]))


def checks(filters: Filters) -> list[tuple[str, Check]]:
    """(rule's name, check) of all rules, in order; without the language."""
    return [(rule.name, check) for rule in filters.rules for check in rule.checks(filters.dialect)]


def checks_by_signal(filters: Filters) -> dict[str, list[Check]]:
    """The checks on each signal. For `language_score` the bound is the default min_score; languages in min_scores have
    others.
    """
    found: dict[str, list[Check]] = {}
    for _, check in checks(filters):
        found.setdefault(check.signal, []).append(check)
    if filters.language:
        found["language_score"] = [Check(LOW_SCORE, "language_score", minimum=filters.language.min_score)]
    return found


def check_settings(filters: Filters) -> dict[Name, object]:
    """The settings that decide each check, by its name; equal settings of a check give equal results."""
    found: dict[Name, object] = {
        ("language", reason): filters.language for reason in LANGUAGE_REASONS if filters.language
    }
    for rule, check in checks(filters):
        found[rule, check.reason] = (*found.get((rule, check.reason), ()), check)  # type: ignore[misc]
    return found


def needed_columns(filters: Filters, only: Collection[Name] | None = None) -> list[str]:
    """The columns of the attributes that `check_results` reads, with the same `only`."""
    wanted = _is_named(only)
    names = (
        ["language", "language_score"]
        if filters.language and any(wanted("language", r) for r in LANGUAGE_REASONS)
        else []
    )
    return names + sorted({check.signal for rule, check in checks(filters) if wanted(rule, check.reason)} - set(names))


def check_results(
    attributes: pa.Table, filters: Filters, only: Collection[Name] | None = None
) -> Iterator[CheckResult]:
    """The result on all documents of every check, or of those named in `only`, in the order of the checks."""
    wanted = _is_named(only)
    if filters.language and any(wanted("language", reason) for reason in LANGUAGE_REASONS):
        scores = attributes["language_score"].to_numpy()
        reasons, value, threshold = language_verdict(attributes["language"], scores, filters.language)
        given = reasons.to_numpy(zero_copy_only=False)
        none = np.full(len(value), np.nan)  # the language is not a number
        yield CheckResult("language", LANGUAGE_NOT_KEPT, given == LANGUAGE_NOT_KEPT, none, none)
        yield CheckResult("language", LOW_SCORE, given == LOW_SCORE, value, threshold)
    for rule, check in checks(filters):
        if wanted(rule, check.reason):
            values = attributes[check.signal].to_numpy().astype(np.float64)
            yield CheckResult(rule, check.reason, check.fails(values), values, np.full(len(values), check.threshold))


def _is_named(only: Collection[Name] | None) -> Callable[[str, str], bool]:
    return lambda rule, reason: only is None or (rule, reason) in only


def decide(attributes: pa.Table, filters: Filters) -> Verdicts:
    """The first failed check of each document. attributes: D documents with `needed_columns`."""
    reasons = all_reasons(filters)
    code = np.full(attributes.num_rows, -1, np.int16)
    value, threshold = np.full((2, attributes.num_rows), np.nan)
    for check in check_results(attributes, filters):
        first = check.fails & (code < 0)
        code[first] = reasons.index((check.rule, check.reason))
        value[first], threshold[first] = check.value[first], check.threshold[first]
    return Verdicts(reasons, code, value, threshold)


def decide_stage(filters: Filters, attributes: Artifact, units: int) -> Stage:
    """The stage that compares signals with their bounds.

    Reads: of the attributes the columns that the rules and the language filter name.
    Writes: VERDICTS, a row for each document that is removed, and TALLIES, counts for the report.
    Cost: 6 to 10 core-seconds for a million documents; 0.5 GiB (NUMBERS_MEMORY).

    units: number of units of the stage `measure`. The files of VERDICTS are listed under these units.
    """
    outputs = (Output(VERDICTS, VERDICTS_SCHEMA), Output(TALLIES, TALLIES_SCHEMA))
    stage_fingerprint = fingerprint(
        {
            "version": [DECIDE_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "language": filters.language and dataclasses.asdict(filters.language),
            "rules": [[rule.name, _settings(rule)] for rule in filters.rules],
        }
    )
    measured = [MeasuredFiles(unit, files) for unit, files in enumerate(attributes.files_by_unit(units))]
    documents = attributes.rows_by_unit(units)
    joined = list(neighbours(measured, documents, DOCUMENTS_OF_A_UNIT, MEASURED_UNITS_OF_A_UNIT))
    work, store = Decide(attributes.store, filters), attributes.store
    return Stage(
        "decide", outputs, joined, work, stage_fingerprint, store, _files, memory=NUMBERS_MEMORY, per_input=True
    )


def _files(unit: "list[MeasuredFiles]") -> str:
    return files_from([uri for one in unit for uri in one.attributes])


def _settings(rule: object) -> dict[str, object]:
    return dataclasses.asdict(rule)  # type: ignore[call-overload]


@dataclass(frozen=True)
class MeasuredFiles:
    """The files of attributes of a unit of `measure`, by its index."""

    unit: int
    attributes: list[str]


@dataclass(frozen=True)
class Decide:
    """The work of a unit: applies the checks to the documents of its attribute files; counts them for the report."""

    store: Store
    filters: Filters

    def __call__(self, measured: list[MeasuredFiles], scratch: Scratch) -> Counters:
        """Counters: `documents`, `text_bytes`, `passed`, and `reason/REASON` for each reason."""
        counters: Counters = {"documents": 0, "text_bytes": 0, "passed": 0}
        bounds = checks_by_signal(self.filters)
        tallies = TALLIES_SCHEMA.empty_table()
        for unit, attributes in self._tables(measured):
            verdicts = decide(attributes, self.filters)
            removed = np.flatnonzero(verdicts.removed)
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
            tallies = add_tallies([tallies, tally_unit(attributes, removed, names, bounds)])
            counters["documents"] += attributes.num_rows
            counters["passed"] += attributes.num_rows - len(removed)
            counters["text_bytes"] += int(attributes["bytes"].to_numpy().sum())
            for index, count in zip(*np.unique(code, return_counts=True), strict=True):
                name = f"reason/{verdicts.reasons[index][1]}"
                counters[name] = counters.get(name, 0) + int(count)
        scratch.write(TALLIES, tallies)
        return counters

    def _tables(self, measured: list[MeasuredFiles]) -> Iterator[tuple[int, pa.Table]]:
        """(unit of `measure`, a table of the needed columns of its attributes)."""
        for one in measured:
            for table in read_tables(self.store, one.attributes, is_needed):
                yield one.unit, table


def is_needed(name: str) -> bool:
    """Whether a column is read; signature, hash and id are large and not needed."""
    return name not in ("signature", "text_hash", "id")
