"""The stage `decide`: compares the measurements of each document with the bounds of the language and the rules.

    attributes  ->  verdicts (one row for each document to remove), tallies for the report

The language is checked first, then each rule's checks in order; the first check that fails is the document's reason.
It reads numbers and no text, so it takes seconds for millions of documents.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import cluster
from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.curate.config import Filters
from pipelines.curate.report.tallies import TALLIES_SCHEMA, add_tallies, tally_unit
from pipelines.language.identification import REASONS as LANGUAGE_REASONS
from pipelines.language.identification import language_verdict
from pipelines.rules import Check

VERDICTS = "_work/verdicts"
TALLIES = "_work/tallies"
DECIDE_VERSION = "1"
LANGUAGE_NOT_KEPT, LOW_SCORE = LANGUAGE_REASONS

VERDICTS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check on D documents. fails: bool[D]. value, threshold: float64[D], the measured value and its bound."""

    stage: str
    reason: str
    fails: np.ndarray
    value: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The first failed check of each of D documents.

    causes: (stage, reason) of all checks. code: int16[D], index in `causes`, -1 for documents that stay. value,
    threshold: float64[D], NaN for documents that stay.
    """

    causes: tuple[tuple[str, str], ...]
    code: np.ndarray
    value: np.ndarray
    threshold: np.ndarray

    @property
    def removed(self) -> np.ndarray:
        """bool[D]."""
        return self.code >= 0


def causes(filters: Filters) -> tuple[tuple[str, str], ...]:
    """Every (stage, reason) of these filters, in the order of the checks."""
    found = [("language", reason) for reason in LANGUAGE_REASONS] if filters.language else []
    return tuple(dict.fromkeys(found + [(stage, check.reason) for stage, check in checks(filters)]))


def checks(filters: Filters) -> list[tuple[str, Check]]:
    """(stage, check) of all rules, in order; without the language."""
    return [(rule.name, check) for rule in filters.rules for check in rule.checks(filters.dialect)]


def checks_by_signal(filters: Filters) -> dict[str, list[Check]]:
    """The checks on each signal. That of `language_score` has the bound of languages without one of their own."""
    found: dict[str, list[Check]] = {}
    for _, check in checks(filters):
        found.setdefault(check.signal, []).append(check)
    if filters.language:
        found["language_score"] = [Check(LOW_SCORE, "language_score", minimum=filters.language.min_score)]
    return found


def needed_columns(filters: Filters) -> list[str]:
    """The columns of the attributes that `decide` reads."""
    names = ["language", "language_score"] if filters.language else []
    return names + sorted({check.signal for _, check in checks(filters)} - set(names))


def check_results(attributes: pa.Table, filters: Filters) -> Iterator[CheckResult]:
    """The result of every check on all documents, in the order of the checks."""
    if filters.language:
        scores = attributes["language_score"].to_numpy()
        reasons, value, threshold = language_verdict(attributes["language"], scores, filters.language)
        given = reasons.to_numpy(zero_copy_only=False)
        none = np.full(len(value), np.nan)  # the language is not a number
        yield CheckResult("language", LANGUAGE_NOT_KEPT, given == LANGUAGE_NOT_KEPT, none, none)
        yield CheckResult("language", LOW_SCORE, given == LOW_SCORE, value, threshold)
    for stage, check in checks(filters):
        values = attributes[check.signal].to_numpy().astype(np.float64)
        yield CheckResult(stage, check.reason, check.fails(values), values, np.full(len(values), check.threshold))


def decide(attributes: pa.Table, filters: Filters) -> Verdicts:
    """The first failed check of each document. attributes: D documents with `needed_columns`."""
    all_causes = causes(filters)
    code = np.full(attributes.num_rows, -1, np.int16)
    value, threshold = np.full((2, attributes.num_rows), np.nan)
    for check in check_results(attributes, filters):
        first = check.fails & (code < 0)
        code[first] = all_causes.index((check.stage, check.reason))
        value[first], threshold[first] = check.value[first], check.threshold[first]
    return Verdicts(all_causes, code, value, threshold)


def decide_stage(filters: Filters, attributes: Artifact, units: int) -> Stage:
    """The stage that writes the artifacts VERDICTS and TALLIES from attributes. units: number of their units."""
    outputs = (Output(VERDICTS, VERDICTS_SCHEMA), Output(TALLIES, TALLIES_SCHEMA))
    stage_fingerprint = fingerprint(
        {
            "version": [cluster.__version__, DECIDE_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "language": filters.language and dataclasses.asdict(filters.language),
            "rules": [[rule.name, _settings(rule)] for rule in filters.rules],
        }
    )
    work, store = Decide(attributes.store, filters), attributes.store
    return Stage("decide", outputs, attributes.files_by_unit(units), work, stage_fingerprint, store, files_from)


def _settings(rule: object) -> dict[str, object]:
    return dataclasses.asdict(rule)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Decide:
    """The work of a unit: decides the documents of its attribute files and counts them for the report."""

    store: Store
    filters: Filters

    def __call__(self, files: list[str], scratch: Scratch) -> Counters:
        """Counters: `documents`, `text_bytes`, `passed`, and `reason/REASON` for each reason."""
        counters: Counters = {"documents": 0, "text_bytes": 0, "passed": 0}
        bounds = checks_by_signal(self.filters)
        tallies = []
        for attributes in read_tables(self.store, files, _is_narrow):
            verdicts = decide(attributes, self.filters)
            removed = np.flatnonzero(verdicts.removed)
            stages = pa.array([stage for stage, _ in verdicts.causes], pa.string())
            reasons = pa.array([reason for _, reason in verdicts.causes], pa.string())
            code = verdicts.code[removed]
            table = pa.table(
                {
                    "row": attributes["row"].take(removed),
                    "stage": stages.take(code),
                    "reason": reasons.take(code),
                    "value": pa.array(verdicts.value[removed], from_pandas=True),
                    "threshold": pa.array(verdicts.threshold[removed], from_pandas=True),
                }
            )
            scratch.write(VERDICTS, table)
            names = pc.binary_join_element_wise(table["stage"], table["reason"], "/")
            tallies.append(tally_unit(attributes, removed, names, bounds))
            counters["documents"] += attributes.num_rows
            counters["passed"] += attributes.num_rows - len(removed)
            counters["text_bytes"] += int(attributes["bytes"].to_numpy().sum())
            for index, count in zip(*np.unique(code, return_counts=True), strict=True):
                name = f"reason/{verdicts.causes[index][1]}"
                counters[name] = counters.get(name, 0) + int(count)
        scratch.write(TALLIES, add_tallies(tallies))
        return counters


def _is_narrow(name: str) -> bool:
    """Whether a column is read: the others are most bytes of the attributes and decide nothing."""
    return name not in ("signature", "text_hash", "id")
