"""`raymill what-if`: applies other settings of languages, rules or deduplication to the measurements of a run.

Reads attributes and verdicts and writes nothing at the run. The counts are those before deduplication, because
duplicates depend on the documents that stay; if settings of deduplication change, they are those after it: duplicates
are found again by the signatures of the run. What boilerplate and repeats cut
depends on the documents that stay, too, and is not counted.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cluster.artifact import Artifact
from cluster.engine import Engine
from cluster.errors import ConfigError, DataError
from cluster.formats import plural
from cluster.frame.job import limits_of
from cluster.nodes import without_accelerators
from cluster.run import changes
from cluster.session import Session, imported_ray
from cluster.store.store import Store
from pipelines.curate.config import CurateConfig
from pipelines.curate.job import result_settings
from pipelines.curate.questions.decide_again import AFTER, BEFORE, Counts, DecideAgain, UnitFiles
from pipelines.curate.questions.run_reader import RunReader
from pipelines.curate.stages.boilerplate import BOILERPLATE
from pipelines.curate.stages.decide import VERDICTS
from pipelines.curate.stages.measure import dependencies, measure_stage
from pipelines.curate.stages.neighbours import neighbours
from pipelines.curate.stages.removed_duplicates import DUPLICATES, duplicates_stage, sum_of_units
from pipelines.curate.stages.repeats import REPEATS
from pipelines.curate.stages.tallies import CHARACTERS_PER_TOKEN
from pipelines.curate.stages.write_corpus import DEDUP_STAGES
from pipelines.dedup.earlier import open_runs
from pipelines.dedup.group import GROUPS, group_stage
from pipelines.dedup.settings import NO_EFFECT_ON_RESULT
from pipelines.rules.filters import Name, all_reasons

# Documents that are decided in this process. More take longer than Ray's start.
_MOST_HERE = 1_000_000
_DOCUMENTS_OF_A_TASK = 250_000

# The settings of stages that cut texts which several documents have, in order.
_CUTS = (BOILERPLATE, REPEATS)

# Entries of measure.dependencies whose settings have another name.
_SETTINGS = {"dialect": "rules.dialect", "signatures": "dedup"}


def compare_decisions(
    before: CurateConfig, after: CurateConfig, session: Session | None = None, sample: int | None = None
) -> dict[str, Any]:
    """The decisions of two configs on the measurements at the output of `before`.

    Args:
        session: for runs of more than a million documents; None: in this process.
        sample: number of documents to decide on, from units at even distances; None: all.

    Returns:
        documents: {decided, of}: the documents that were decided, and those of the run.
        deduplicated: whether the counts are those after deduplication.
        not_counted: the stages of one of the configs that remove documents or cut text after that.
        total, sources.NAME, languages.NAME: {before, after} with the documents, characters and tokens that stay.
        reasons: for every check (`stage` is its rule, or `language`) `first`, the documents that fail this check and no
        earlier one, and `alone`, all that fail it; each {before, after}. `alone` is null for checks that do not change,
        unless nothing changes.

    Raises:
        ConfigError: the configs differ in `dedup` and in rules; or in `boilerplate` or `repeats`.
        DataError: nothing is measured there, or the configs need other measurements.
    """
    run = RunReader(before.store, before.output, before.inputs)
    regroup = _changed_dedup(before, after) if before.dedup and after.dedup else []
    if changed := _changed_cuts(before, after):
        of_run = f" What this run cut is in {run.uri}/report.html." if _cuts(before) else ""
        raise ConfigError(
            f"{', '.join(changed)}: what-if counts documents before text is cut, so that its counts do not show this "
            f"change.{of_run} Compare without this change, or run `raymill curate` with it and another output."
        )
    recorded = run.config
    _refuse_other_measurements(run, recorded, before, after)
    verdicts, duplicates = run.artifact(VERDICTS), run.artifact(DUPLICATES)  # below _work/, which may be deleted
    same = recorded is not None and (recorded.filters, recorded.dedup) == (before.filters, before.dedup)
    known = same and verdicts is not None
    if regroup and (before.filters != after.filters or not known or duplicates is None):
        raise ConfigError(
            f"{', '.join(regroup)}: what-if finds duplicates again in a finished run of the config, if nothing but "
            "`dedup` changes. Change the rules in another call, or run `raymill curate` with these settings and "
            "another output."
        )
    if not (same and _removes_duplicates(before) and (regroup or not _removes_duplicates(after))):
        duplicates = None  # the counts are those before deduplication
    units = _units(run, verdicts, sample)
    again = DecideAgain(run.store, before.filters, after.filters, known, every=before == after)
    counts: Counts = Counter()
    for part in _count(again, units, session):
        counts.update(part)
    reasons = list(dict.fromkeys((*all_reasons(before.filters), *all_reasons(after.filters))))
    if duplicates is not None:
        counts.update(_duplicates(duplicates, units, BEFORE))
        if regroup and _removes_duplicates(after):
            counts.update(_grouped_again(run, after, verdicts, units, session))
        reasons += [(stage, reason) for reason, stage in DEDUP_STAGES.items()]
    documents = {"decided": sum(unit.documents for unit in units), "of": run.attributes.manifest.rows}
    not_counted = list(dict.fromkeys((*_cuts(before), *_cuts(after))))
    whole = {"documents": documents, "deduplicated": duplicates is not None, "not_counted": not_counted}
    return whole | _result(counts, reasons)


def _changed_dedup(before: CurateConfig, after: CurateConfig) -> list[str]:
    """The changed settings of `dedup` that decide which documents are duplicates."""
    left_out = {"remove", *NO_EFFECT_ON_RESULT}
    then, now = (config.dedup and config.dedup.model_dump(exclude=left_out) for config in (before, after))
    return [f"dedup.{name}" for name, _, _ in changes(then, now)]


def _changed_cuts(before: CurateConfig, after: CurateConfig) -> list[str]:
    """The changed settings of boilerplate and repeats."""
    then, now = (config.model_dump(include=set(_CUTS)) for config in (before, after))
    return [name for name, _, _ in changes(then, now)]


def _cuts(config: CurateConfig) -> list[str]:
    """The stages of a config that cut text out of documents, in order."""
    repeats = config.repeats is not None and config.repeats.cut
    return [name for name, cuts in zip(_CUTS, (config.boilerplate is not None, repeats), strict=True) if cuts]


def _removes_duplicates(config: CurateConfig) -> bool:
    return config.dedup is not None and config.dedup.remove


def _refuse_other_measurements(
    run: RunReader, recorded: CurateConfig | None, before: CurateConfig, after: CurateConfig
) -> None:
    """Verify that the run has the measurements of both configs.

    Raises:
        DataError: one of them needs a measurement that the run does not have.
    """
    mend = "Run `raymill curate` with these settings and another output."
    measured = recorded or before
    if measure_stage(measured.measure_settings, run.inputs).fingerprint != run.attributes.manifest.fingerprint:
        raise DataError(
            f"{run.uri}: the measurements there do not fit the config: they were made by other code, other files or "
            f"other settings. {mend}"
        )
    for name, config in (("the config", before), ("the changed config", after)):
        if changed := _to_measure_again(measured, config, run.store):
            raise DataError(
                f"{run.uri}: the measurements there do not fit {name}: {', '.join(changed)} would be measured in "
                f"another way. What-if can change bounds, and leave out checks. {mend}"
            )


def _to_measure_again(measured: CurateConfig, wanted: CurateConfig, store: Store) -> list[str]:
    """The differing settings on which the wanted measurements depend. Other measurements of the run may differ."""
    there, needed = (dependencies(config.measure_settings, store) for config in (measured, wanted))
    there["rules"] = {name: value for name, value in there["rules"].items() if name in needed["rules"]}
    names = [_SETTINGS.get(name, name) for name, _, now in changes(there, needed) if now is not None]
    changed = [name for name, _, _ in changes(result_settings(measured), result_settings(wanted))]
    return [
        name for name in changed if any(f"{name}.".startswith(f"{n}.") or f"{n}.".startswith(f"{name}.") for n in names)
    ] or names


def _units(run: RunReader, verdicts: Artifact | None, sample: int | None) -> list[UnitFiles]:
    """The units of the run with documents; with `sample`, units at even distances with about `sample` documents."""
    count = len(run.inputs.units)
    parts = zip(
        run.attributes.rows_by_unit(count),
        run.attributes.files_by_unit(count),
        verdicts.files_by_unit(count) if verdicts else [[]] * count,
        strict=True,
    )
    units = [UnitFiles(index, *part) for index, part in enumerate(parts) if part[0]]
    documents = run.attributes.manifest.rows
    if sample is None or sample >= documents:
        return units
    wanted = max(1, round(sample / documents * len(units)))
    return [units[int(at)] for at in (np.arange(wanted) + 0.5) * len(units) / wanted]


def _count(again: DecideAgain, units: Sequence[UnitFiles], session: Session | None) -> Iterator[Counts]:
    """The counts of all units, in parts; on Ray if there are many documents."""
    if session is None or sum(unit.documents for unit in units) <= _MOST_HERE:
        yield again(units)
        return
    session.start()
    ray = imported_ray()
    shared = ray.put(again)
    task = ray.remote(num_cpus=1, label_selector=without_accelerators(session.nodes()) or None)(_call)
    parts = neighbours(units, [unit.documents for unit in units], _DOCUMENTS_OF_A_TASK)
    waiting = [task.remote(shared, part) for part in parts]
    while waiting:
        done, waiting = ray.wait(waiting)
        yield ray.get(done[0])


def _call(again: DecideAgain, units: Sequence[UnitFiles]) -> Counts:
    return again(units)


def _grouped_again(
    run: RunReader, config: CurateConfig, verdicts: Artifact | None, units: Sequence[UnitFiles], session: Session | None
) -> Counts:
    """The counts of the duplicates by the settings of a config, from the signatures of the run.

    Raises:
        ConfigError: the session is that of a cluster, whose workers cannot read a folder of this machine.
    """
    assert config.dedup and verdicts
    session = session or Session()
    if session.address not in (None, "local"):
        raise ConfigError("--address: what-if finds duplicates again on this machine alone. Leave it out.")
    with tempfile.TemporaryDirectory(prefix="raymill-what-if-") as folder:
        engine = Engine(folder, session, session.progress, limits_of(config))
        count, earlier = len(run.inputs.units), open_runs(config.dedup, run.store)
        stage = group_stage(config.dedup, config.inputs, run.attributes, verdicts, count, earlier=earlier)
        found = engine.run(duplicates_stage(engine.run(stage)[GROUPS]))[DUPLICATES]
        return _duplicates(found, units, AFTER)


def _duplicates(duplicates: Artifact, units: Sequence[UnitFiles], side: str) -> Counts:
    """Counts of the removed duplicates of these units: by reason, and subtracted from the documents that stayed."""
    counts: Counts = Counter()
    wanted = np.array([unit.index for unit in units])
    of_units = (table.filter(np.isin(table["unit"].to_numpy(), wanted)) for table in duplicates.tables())
    for row in sum_of_units(of_units).to_pylist():
        for unit in ("documents", "characters"):
            amount = row[unit]
            counts["first", f"{DEDUP_STAGES[row['reason']]}/{row['reason']}", side, unit] += amount
            counts["total", "", side, unit] -= amount
            counts["sources", row["source"], side, unit] -= amount
            if row["language"]:
                counts["languages", row["language"], side, unit] -= amount
    return counts


def _result(counts: Counts, reasons: Sequence[Name]) -> dict[str, Any]:
    """The counts as `compare_decisions` returns them."""

    def sides(kind: str, name: str) -> dict[str, dict[str, int]]:
        return {
            side: {unit: counts[kind, name, side, unit] for unit in ("documents", "characters")}
            for side in (BEFORE, AFTER)
        }

    def with_tokens(kind: str, name: str = "") -> dict[str, dict[str, int]]:
        found = sides(kind, name)
        return {
            side: one | {"tokens_estimate": one["characters"] // CHARACTERS_PER_TOKEN} for side, one in found.items()
        }

    there: dict[str, dict[str, None]] = {kind: {} for kind in ("total", "sources", "languages", "alone")}
    for kind, name, _, _ in sorted(counts):
        if kind in there:
            there[kind][name] = None
    result: dict[str, Any] = {"total": with_tokens("total")} if there["total"] else {}
    result |= {group: {name: with_tokens(group, name) for name in there[group]} for group in ("sources", "languages")}
    result["reasons"] = [
        {
            "stage": rule,
            "reason": reason,
            "alone": sides("alone", name) if (name := f"{rule}/{reason}") in there["alone"] else None,
            "first": sides("first", name),
        }
        for rule, reason in reasons
    ]
    return result


def table_text(comparison: dict[str, Any]) -> str:
    """The comparison as text: documents that stay, sources and languages that change, documents removed by reason."""
    total = comparison.get("total")
    if total is None:
        return "The run has no documents."
    stays = "stays" if comparison["deduplicated"] else "stays (before deduplication)"
    lines = [f"{stays:<34}{'before':>14}{'after':>14}{'change':>14}"]
    decided, of = comparison["documents"]["decided"], comparison["documents"]["of"]
    if decided < of:
        lines.insert(0, f"A sample: {decided:,} of {plural(of, 'document')}, from units at even distances.")
    if not_counted := comparison["not_counted"]:
        lines.insert(0, f"Not counted: text that {' and '.join(not_counted)} cut, and documents removed for it.")
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
        alone = entry["alone"] and [entry["alone"][side]["documents"] for side in (BEFORE, AFTER)]
        if old or new or (alone and any(alone)):
            lines.append(_line(f"  {name}", old, new) + (f"   {alone[0]:,} -> {alone[1]:,}" if alone else ""))
    return "\n".join(lines)


def _line(label: str, before: int, after: int) -> str:
    return f"{label[:33]:<34}{before:>14,}{after:>14,}{after - before:>+14,}"
