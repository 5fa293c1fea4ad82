"""Stage 2: attributes to reasons. A pure function of numbers, so that bounds can be tried again in seconds.

The language verdict comes first, then each rule's checks in order; a document's reason is the first that fails.
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
from pipelines.curate.config import CurateConfig
from pipelines.curate.tallies import TALLIES_SCHEMA, add_tallies, tally_unit
from pipelines.language.identification import REASONS as LANGUAGE_REASONS
from pipelines.language.identification import language_verdict
from pipelines.rules import Check

VERDICTS = "_work/verdicts"
TALLIES = "_work/tallies"
DECIDE_VERSION = "1"
NOT_KEPT, LOW_SCORE = LANGUAGE_REASONS

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
class Objection:
    """One check's say on D documents: which fail, with the value seen and the bound it broke."""

    stage: str
    reason: str
    fails: np.ndarray
    value: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The first objection to each of D documents. `code` int16[D] indexes `causes`; -1 = stays."""

    causes: tuple[tuple[str, str], ...]
    code: np.ndarray
    value: np.ndarray
    threshold: np.ndarray

    @property
    def removed(self) -> np.ndarray:
        return self.code >= 0


def causes(config: CurateConfig) -> tuple[tuple[str, str], ...]:
    """Every (stage, reason) that this config can give, in the order they are tried."""
    found = [("language", reason) for reason in LANGUAGE_REASONS] if config.language else []
    return tuple(dict.fromkeys(found + [(stage, check.reason) for stage, check in checks(config)]))


def checks(config: CurateConfig) -> list[tuple[str, Check]]:
    return [(rule.name, check) for rule in config.active_rules() for check in rule.checks(config.dialect)]


def checks_by_signal(config: CurateConfig) -> dict[str, list[Check]]:
    """The checks on each signal; the language score's is that of languages without a bound of their own."""
    found: dict[str, list[Check]] = {}
    for _, check in checks(config):
        found.setdefault(check.signal, []).append(check)
    if config.language:
        found["language_score"] = [Check(LOW_SCORE, "language_score", minimum=config.language.min_score)]
    return found


def needed_columns(config: CurateConfig) -> list[str]:
    names = ["language", "language_score"] if config.language else []
    return names + sorted({check.signal for _, check in checks(config)} - set(names))


def objections(attributes: pa.Table, config: CurateConfig) -> Iterator[Objection]:
    """Each check on its own, in order."""
    if config.language:
        scores = attributes["language_score"].to_numpy()
        reasons, value, threshold = language_verdict(attributes["language"], scores, config.language)
        given = reasons.to_numpy(zero_copy_only=False)
        none = np.full(len(value), np.nan)  # which language it is has no number
        yield Objection("language", NOT_KEPT, given == NOT_KEPT, none, none)
        yield Objection("language", LOW_SCORE, given == LOW_SCORE, value, threshold)
    for stage, check in checks(config):
        values = attributes[check.signal].to_numpy().astype(np.float64)
        yield Objection(stage, check.reason, check.fails(values), values, np.full(len(values), check.threshold))


def decide(attributes: pa.Table, config: CurateConfig) -> Verdicts:
    known = causes(config)
    code = np.full(attributes.num_rows, -1, np.int16)
    value, threshold = np.full((2, attributes.num_rows), np.nan)
    for objection in objections(attributes, config):
        first = objection.fails & (code < 0)
        code[first] = known.index((objection.stage, objection.reason))
        value[first], threshold[first] = objection.value[first], objection.threshold[first]
    return Verdicts(known, code, value, threshold)


def decide_stage(config: CurateConfig, attributes: Artifact, units: int) -> Stage:
    outputs = (Output(VERDICTS, VERDICTS_SCHEMA), Output(TALLIES, TALLIES_SCHEMA))
    made_from = fingerprint(
        {
            "version": [cluster.__version__, DECIDE_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "language": config.language and plain_settings(config.language),
            "rules": [[rule.name, plain_settings(rule)] for rule in config.active_rules()],
        }
    )
    return Stage(
        "decide", outputs, attributes.files_by_unit(units), Decide(config), made_from, config.store, files_from
    )


def plain_settings(rule: object) -> dict[str, object]:
    return dataclasses.asdict(rule)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Decide:
    config: CurateConfig

    def __call__(self, files: list[str], scratch: Scratch) -> Counters:
        counters: Counters = {"documents": 0, "text_bytes": 0, "passed": 0}
        bounds = checks_by_signal(self.config)
        tallies = []
        for attributes in read_tables(self.config.store, files, _without_wide_columns):
            verdicts = decide(attributes, self.config)
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


def _without_wide_columns(name: str) -> bool:
    """The signature is most of an attribute row's bytes, and no decision looks at it."""
    return name not in ("signature", "text_hash", "id")
