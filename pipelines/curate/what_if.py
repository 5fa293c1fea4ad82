"""`raymill what-if`: other settings on the same measurements, before a run is committed to them.

Nothing is read but attributes and nothing is written, so a corpus of millions of documents answers in seconds. What it
shows is before deduplication: which duplicates exist depends on what else stays.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import ConfigError, DataError
from cluster.run import differences
from pipelines.curate.config import CurateConfig
from pipelines.curate.decide import decide, needed_columns, objections
from pipelines.curate.job import settings
from pipelines.curate.measure import measure_stage
from pipelines.curate.report.gather import CHARACTERS_PER_TOKEN
from pipelines.curate.run_reader import FinishedRun

Counts = dict[str, int]


def compare(before: CurateConfig, after: CurateConfig) -> dict[str, Any]:
    """Both configs on the measurements that `before` left at its output.

    Returns:
        total, sources.NAME, languages.NAME: {before, after} of what stays; reasons: for every (stage, reason) `alone`
        (documents it fails whatever the other rules say) and `first` (documents whose reason it is), before and after.

    Raises:
        DataError: nothing is measured there, or the new settings need another measurement.
    """
    run = FinishedRun(before.store, before.output, before.inputs)
    if before.dedup and after.dedup and before.dedup != after.dedup:
        raise ConfigError(
            "what-if decides rules and languages again, not duplicates, so a change of dedup would show nothing. "
            "Leave it out here, or run `raymill curate` with it and another output."
        )
    made_with = (run.manifest or {}).get("config")
    for name, config in (("the config", before), ("the changed config", after)):
        if measure_stage(config, run.inputs).fingerprint != run.attributes.manifest.fingerprint:
            changed = differences(made_with, settings(config)) if made_with else []
            raise DataError(
                f"{run.uri}: what is measured there does not fit {name}"
                + (f" ({'; '.join(changed)})" if changed else "")
                + ": the code differs, or a setting that changes what is measured and not only a bound. "
                "Run `raymill curate` with these settings and another output."
            )
    columns = sorted({"characters", "source", *needed_columns(before), *needed_columns(after)})
    tally = _Comparison()
    for table in run.attributes.tables(columns):
        tally.add("before", table, before)
        tally.add("after", table, after)
    return tally.result()


class _Comparison:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], Counts] = defaultdict(_none)
        self.reasons: dict[tuple[str, str], dict[str, dict[str, Counts]]] = {}

    def add(self, side: str, table: pa.Table, config: CurateConfig) -> None:
        characters = table["characters"].to_numpy()
        verdicts = decide(table, config)
        for objection in objections(table, config):
            entry = self._reason(objection.stage, objection.reason)
            _count(entry["alone"][side], objection.fails, characters)
        for code, (stage, reason) in enumerate(verdicts.causes):
            _count(self._reason(stage, reason)["first"][side], verdicts.code == code, characters)
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
            place = found.setdefault("total", {}) if group == "total" else found[group].setdefault(name, {})
            place[side] = counts | {"tokens_estimate": counts["characters"] // CHARACTERS_PER_TOKEN}
        found["reasons"] = [{"stage": s, "reason": r, **entry} for (s, r), entry in self.reasons.items()]
        return found

    def _reason(self, stage: str, reason: str) -> dict[str, dict[str, Counts]]:
        fresh = {kind: {side: _none() for side in ("before", "after")} for kind in ("alone", "first")}
        return self.reasons.setdefault((stage, reason), fresh)


def _none() -> Counts:
    return {"documents": 0, "characters": 0}


def _count(counts: Counts, chosen: np.ndarray, characters: np.ndarray) -> None:
    counts["documents"] += int(chosen.sum())
    counts["characters"] += int(characters[chosen].sum())


def table_text(comparison: dict[str, Any]) -> str:
    """For people: what stays, then what each rule removes; lines that do not change are left out of the breakdowns."""
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
    lines.append(f"\n{'removed documents':<34}{'before':>14}{'after':>14}{'change':>14}   whatever other rules say")
    for entry in comparison["reasons"]:
        old, new = entry["first"]["before"]["documents"], entry["first"]["after"]["documents"]
        alone = (entry["alone"]["before"]["documents"], entry["alone"]["after"]["documents"])
        if old or new or any(alone):
            lines.append(_line(f"  {entry['reason']}", old, new) + f"   {alone[0]:,} -> {alone[1]:,}")
    return "\n".join(lines)


def _line(label: str, before: int, after: int) -> str:
    return f"{label[:33]:<34}{before:>14,}{after:>14,}{after - before:>+14,}"
