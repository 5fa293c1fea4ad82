"""`raymill what-if`: decides a measured run again with other settings.

Reads attributes alone and writes nothing, so it takes seconds for millions of documents. Its numbers are those before
deduplication, because which documents are duplicates depends on which stay.
"""

import json
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from cluster.errors import ConfigError, DataError
from cluster.run import changes
from cluster.store.store import Store
from pipelines.curate.config import CurateConfig, Filters
from pipelines.curate.decide import check_results, decide, needed_columns
from pipelines.curate.job import result_settings
from pipelines.curate.measure import dependencies, measure_stage
from pipelines.curate.report.gather import CHARACTERS_PER_TOKEN
from pipelines.curate.run_reader import RunReader

Counts = dict[str, int]

# Entries of measure.dependencies whose settings have another name.
_SETTINGS = {"dialect": "rules.dialect", "signatures": "dedup"}


def compare(before: CurateConfig, after: CurateConfig) -> dict[str, Any]:
    """The decisions of two configs on the measurements at the output of `before`.

    Returns:
        total, sources.NAME, languages.NAME: {before, after} with the documents, characters and tokens that stay.
        reasons: for every check (`stage` is its rule, or `language`) `alone`, all documents that fail this check, and
        `first`, those that fail no earlier check; each {before, after}.

    Raises:
        ConfigError: the configs differ in `dedup`.
        DataError: nothing is measured there, or the configs need other measurements.
    """
    run = RunReader(before.store, before.output, before.inputs)
    if before.dedup and after.dedup and before.dedup != after.dedup:
        raise ConfigError(
            "what-if decides languages and rules again, but not duplicates, so a change of dedup has no effect. "
            "Leave it out here, or run `raymill curate` with it and another output."
        )
    for name, config, other in (("the config", before, _config_of(run)), ("the changed config", after, before)):
        if measure_stage(config.measure_settings, run.inputs).fingerprint != run.attributes.manifest.fingerprint:
            changed = _to_measure_again(other, config, run.store) if other else []
            cause = "; ".join(changed) or "they were made by other code, other files or other settings"
            raise DataError(
                f"{run.uri}: the measurements there do not fit {name}: {cause}. What-if can change bounds alone. "
                "Run `raymill curate` with these settings and another output."
            )
    columns = sorted({"characters", "source", *needed_columns(before.filters), *needed_columns(after.filters)})
    comparison = _Comparison()
    for table in run.attributes.tables(columns):
        comparison.add("before", table, before.filters)
        comparison.add("after", table, after.filters)
    return comparison.result()


def _config_of(run: RunReader) -> CurateConfig | None:
    """The config that made the run; None if it is unfinished, or if its settings are those of another version."""
    try:
        return CurateConfig.model_validate(run.manifest["config"] | {"output": run.uri}) if run.manifest else None
    except ValidationError:
        return None


def _to_measure_again(before: CurateConfig, after: CurateConfig, store: Store) -> list[str]:
    """The differing settings on which the measurements depend, a line each."""
    then, now = (dependencies(config.measure_settings, store) for config in (before, after))
    measured = [_SETTINGS.get(name, name) for name, _, _ in changes(then, now)]
    return [
        f"{name} was {json.dumps(old)}, now {json.dumps(new)}"
        for name, old, new in changes(result_settings(before), result_settings(after))
        if any(f"{name}.".startswith(f"{one}.") or f"{one}.".startswith(f"{name}.") for one in measured)
    ]


class _Comparison:
    """Counts of both sides, `before` and `after`."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], Counts] = defaultdict(_zero)
        self.reasons: dict[tuple[str, str], dict[str, dict[str, Counts]]] = {}

    def add(self, side: str, table: pa.Table, filters: Filters) -> None:
        characters = table["characters"].to_numpy()
        verdicts = decide(table, filters)
        for check in check_results(table, filters):
            entry = self._reason(check.rule, check.reason)
            _count(entry["alone"][side], check.fails, characters)
        for code, (rule, reason) in enumerate(verdicts.reasons):
            _count(self._reason(rule, reason)["first"][side], verdicts.code == code, characters)
        stays = ~verdicts.removed
        _count(self.kept["total", "", side], stays, characters)
        for group, column in (("sources", "source"), ("languages", "language")):
            if column in table.column_names:
                names = table[column].to_numpy()
                for name in np.unique(names):
                    _count(self.kept[group, name, side], stays & (names == name), characters)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {"sources": {}, "languages": {}}
        for (group, name, side), counts in sorted(self.kept.items()):
            sides = found.setdefault("total", {}) if group == "total" else found[group].setdefault(name, {})
            sides[side] = counts | {"tokens_estimate": counts["characters"] // CHARACTERS_PER_TOKEN}
        found["reasons"] = [
            {"stage": rule, "reason": reason, **entry} for (rule, reason), entry in self.reasons.items()
        ]
        return found

    def _reason(self, rule: str, reason: str) -> dict[str, dict[str, Counts]]:
        zeros = {kind: {side: _zero() for side in ("before", "after")} for kind in ("alone", "first")}
        return self.reasons.setdefault((rule, reason), zeros)


def _zero() -> Counts:
    return {"documents": 0, "characters": 0}


def _count(counts: Counts, mask: np.ndarray, characters: np.ndarray) -> None:
    counts["documents"] += int(mask.sum())
    counts["characters"] += int(characters[mask].sum())


def table_text(comparison: dict[str, Any]) -> str:
    """The comparison as text: what stays, the sources and languages that change, and what each reason removes."""
    total = comparison.get("total")
    if total is None:
        return "The run has no documents."
    lines = [f"{'stays (before deduplication)':<34}{'before':>14}{'after':>14}{'change':>14}"]
    for key, label in (("documents", "documents"), ("characters", "characters"), ("tokens_estimate", "tokens, about")):
        lines.append(_line(f"  {label}", total["before"][key], total["after"][key]))
    for group in ("sources", "languages"):
        changed = [
            (name, sides["before"], sides["after"])
            for name, sides in comparison[group].items()
            if sides["before"] != sides["after"]
        ]
        if changed:
            lines.append(f"\n{group} that change (documents, tokens)")
        for name, old, new in sorted(changed, key=lambda e: -abs(e[2]["documents"] - e[1]["documents"])):
            lines.append(_line(f"  {name}", old["documents"], new["documents"]))
            lines.append(_line("    tokens, about", old["tokens_estimate"], new["tokens_estimate"]))
    lines.append(f"\n{'removed documents':<34}{'before':>14}{'after':>14}{'change':>14}   by this check alone")
    repeated = {name for name, count in Counter(r["reason"] for r in comparison["reasons"]).items() if count > 1}
    for entry in comparison["reasons"]:
        name = f"{entry['stage']}_{entry['reason']}" if entry["reason"] in repeated else entry["reason"]
        old, new = entry["first"]["before"]["documents"], entry["first"]["after"]["documents"]
        alone = (entry["alone"]["before"]["documents"], entry["alone"]["after"]["documents"])
        if old or new or any(alone):
            lines.append(_line(f"  {name}", old, new) + f"   {alone[0]:,} -> {alone[1]:,}")
    return "\n".join(lines)


def _line(label: str, before: int, after: int) -> str:
    return f"{label[:33]:<34}{before:>14,}{after:>14,}{after - before:>+14,}"
