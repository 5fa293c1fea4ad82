"""`raymill what-if`: applies other settings of languages, rules or deduplication to the measurements of a run.

Reads attributes and verdicts and writes nothing at the run. The counts are those before deduplication, because
duplicates depend on the documents that stay; if settings of deduplication change, they are those after it: duplicates
are found again by the signatures of the run. Text that is cut out of documents depends on the documents that stay, too,
and is not counted.

Only the columns of attributes that can change the result are read. The first failed check of each document by the
earlier settings is in the verdicts of the run. So the signals of checks that differ are read for all documents. The
signals of other checks are read only in row groups with a document that a differing check removed before and not now.
"""

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from raymill.cluster.answer import Answer
from raymill.cluster.artifact import Artifact, open_parquet, read_tables
from raymill.cluster.config import key_of
from raymill.cluster.engine import Engine
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.formats import plural
from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress, changes_of, config_of
from raymill.cluster.frame.commands import Address, ConfigFile, Overrides
from raymill.cluster.frame.job import limits_of
from raymill.cluster.nodes import without_accelerators
from raymill.cluster.plugins import plugins_in
from raymill.cluster.progress_display import chosen_progress
from raymill.cluster.run import changes as setting_changes
from raymill.cluster.session import Session, imported_ray, opened
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CUTS, CurateConfig
from raymill.pipelines.curate.job import result_settings
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.stages.decide import VERDICTS
from raymill.pipelines.curate.stages.measure import NOT_EXTRACTED, dependencies, measure_stage
from raymill.pipelines.curate.stages.samples import index_in
from raymill.pipelines.curate.stages.tallies import (
    CHARACTERS_PER_TOKEN,
    DUPLICATES,
    duplicates_stage,
    neighbours,
    sum_of_units,
)
from raymill.pipelines.curate.stages.write_corpus import DEDUP_STAGES
from raymill.pipelines.dedup.documents import open_runs
from raymill.pipelines.dedup.group import GROUPS, group_stage
from raymill.pipelines.dedup.settings import NO_EFFECT_ON_RESULT
from raymill.pipelines.rules.custom import CustomRule
from raymill.pipelines.rules.filters import Filters, Name, all_reasons, check_results, check_settings, needed_columns

# Documents that are decided in this process. More take longer than Ray's start.
_MOST_HERE = 1_000_000
_DOCUMENTS_OF_A_TASK = 250_000

# Entries of measure.dependencies whose settings have another name.
_SETTINGS = {"dialect": "rules.dialect", "signatures": "dedup"}

BEFORE, AFTER = "before", "after"

# (`total`, `sources`, `languages`, `first` or `alone`; name; side; `documents` or `characters`). Names of `first` and
# `alone` are `rule/reason`.
Count = tuple[str, str, str, str]
Counts = Counter[Count]


@dataclass(frozen=True)
class UnitFiles:
    """The index, number of documents, and files of a unit of `measure`."""

    index: int
    documents: int
    attributes: Sequence[str]
    verdicts: Sequence[str]


@dataclass(frozen=True)
class DecideAgain:
    """Counts the documents of units by two settings.

    known: whether the verdicts of the run are those of `before`. every: whether the documents that fail a check are
    counted for every check, or only for the checks that differ.
    """

    store: Store
    before: Filters
    after: Filters
    known: bool
    every: bool

    def __call__(self, units: Iterable[UnitFiles]) -> Counts:
        counts: Counts = Counter()
        for unit in units:
            codes = self._codes(unit.verdicts) if self.known else None
            for uri in unit.attributes:
                with open_parquet(self.store, uri) as parquet:
                    for group in range(parquet.num_row_groups):
                        self._add(counts, parquet, group, codes)
        return counts

    @cached_property
    def changed(self) -> frozenset[Name]:
        """The checks that differ, or are in one of the settings only; with `every`, all of them."""
        before, after = check_settings(self.before), check_settings(self.after)
        return frozenset(name for name in before | after if self.every or before.get(name) != after.get(name))

    @cached_property
    def names(self) -> tuple[tuple[Name, ...], tuple[Name, ...]]:
        """The checks before and after, in order."""
        return all_reasons(self.before), all_reasons(self.after)

    @cached_property
    def in_order(self) -> bool:
        """Whether the checks that stay have the same order before and after."""
        before, after = self.names
        return [name for name in before if name in after] == [name for name in after if name in before]

    def _codes(self, verdicts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64[R], index of the failed check int16[R]) of the removed documents of a unit."""
        codes = {name: code for code, name in enumerate(self.names[0])}
        tables = list(read_tables(self.store, verdicts, {"row", "stage", "reason"}.__contains__))
        if not tables:
            return np.empty(0, np.int64), np.empty(0, np.int16)
        table = pa.concat_tables(tables)
        stages, reasons = (table[name].combine_chunks().dictionary_encode() for name in ("stage", "reason"))
        pairs = np.array(
            [[codes.get((s, r), -1) for r in reasons.dictionary.to_pylist()] for s in stages.dictionary.to_pylist()],
            np.int16,
        )
        return table["row"].to_numpy(), pairs[stages.indices.to_numpy(), reasons.indices.to_numpy()]

    def _add(
        self, counts: Counts, parquet: pq.ParquetFile, group: int, codes: tuple[np.ndarray, np.ndarray] | None
    ) -> None:
        def read(columns: Iterable[str]) -> pa.Table:
            there = [name for name in parquet.schema_arrow.names if name in set(columns)]
            return parquet.read_row_group(group, columns=there, use_threads=False)

        if codes is None or not self.in_order:
            everything = {*needed_columns(self.before), *needed_columns(self.after)}
            table = read({"characters", "source", "language"} | everything)
            before, after = self._first_of(table, self.before), self._first_of(table, self.after)
        else:
            signals = {*needed_columns(self.before, self.changed), *needed_columns(self.after, self.changed)}
            table = read({"row", "characters", "source", "language"} | signals)
            removed, code = codes
            before = np.append(code, np.int16(-1))[index_in(removed, table["row"].to_numpy())]
            after = self._after(table, before, read)
        self._count(counts, table, before, after)

    def _first_of(self, table: pa.Table, filters: Filters) -> np.ndarray:
        """int16[D]: the index of the first failed check, -1 for documents that stay."""
        return _first(all_reasons(filters), table, filters, None)

    def _after(self, table: pa.Table, before: np.ndarray, read: Callable[[Iterable[str]], pa.Table]) -> np.ndarray:
        """int16[D]: the first failed check by the later settings, from `before` and the checks that differ."""
        old, new = self.names
        # For each check before, and for -1: its index after, or -1 if there is none; and whether it differs.
        index_after = np.array([new.index(name) if name in new else -1 for name in old] + [-1], np.int16)
        differs = np.array([name in self.changed for name in old] + [False])
        first = _first(new, table, self.after, self.changed)
        released = differs[before]
        kept = np.where(released, -1, index_after[before])
        after = np.where((kept >= 0) & ((first < 0) | (kept < first)), kept, first)
        # Released documents may fail an unchanged check that follows the one that removed them.
        unknown = released & ((first < 0) | (first > index_after[before]))
        later = (
            {name for name in old[before[unknown].min() + 1 :] if name in new} - self.changed if unknown.any() else ()
        )
        if later:
            others = read(needed_columns(self.after, later)).filter(pa.array(unknown))
            second = _first(new, others, self.after, later)
            here = after[unknown]
            after[unknown] = np.where((second >= 0) & ((here < 0) | (second < here)), second, here)
        return after

    def _count(self, counts: Counts, table: pa.Table, before: np.ndarray, after: np.ndarray) -> None:
        characters = table["characters"].to_numpy()

        def add(kind: str, name: str, side: str, mask: np.ndarray) -> None:
            counts[kind, name, side, "documents"] += int(mask.sum())
            counts[kind, name, side, "characters"] += int(characters[mask].sum())

        groups: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for kind, column in (("sources", "source"), ("languages", "language")):
            if column in table.column_names:
                values = table[column].combine_chunks().dictionary_encode()
                indices = values.indices.to_numpy()
                groups[kind] = {name: indices == at for at, name in enumerate(values.dictionary.to_pylist())}
        for side, first, filters in ((BEFORE, before, self.before), (AFTER, after, self.after)):
            for code, (rule, reason) in enumerate(all_reasons(filters)):
                add("first", f"{rule}/{reason}", side, first == code)
            for check in check_results(table, filters, self.changed):
                add("alone", f"{check.rule}/{check.reason}", side, check.fails)
            stays = first < 0
            add("total", "", side, stays)
            for kind, masks in groups.items():
                for name, mask in masks.items():
                    add(kind, name, side, stays & mask)


def _first(names: Sequence[Name], table: pa.Table, filters: Filters, only: Collection[Name] | None) -> np.ndarray:
    """int16[D]: the index in `names` of the first failed check among those in `only`; -1 if none fails."""
    first = np.full(table.num_rows, -1, np.int16)
    for check in check_results(table, filters, only):
        first[check.fails & (first < 0)] = names.index((check.rule, check.reason))
    return first


def print_comparison(
    config: ConfigFile,
    override: Overrides = None,
    address: Address = None,
    sample: Annotated[int | None, typer.Option(min=1, help="number of documents to decide on; default: all")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Compare a run with other settings: the number of documents that each rule would remove. Writes nothing.

    More than a million documents are decided on Ray; other settings of `dedup` start Ray on this machine.
    """
    comparison = what_if(config, override, address=address, sample=sample)
    print(json.dumps(comparison, indent=1) if json_ else comparison)


def what_if(
    config: AnyConfig,
    override: Changes = None,
    *,
    address: str | None = None,
    sample: int | None = None,
    progress: ShownProgress = None,
) -> Answer:
    """Compare a run with other settings: the number of documents that each rule would remove. Writes nothing.

    Args:
        config: of the run: a file, a dict, or a config object.
        override: the changes, as in {"rules.gopher_quality.min_words": 30}. Those of `output` and `storage` also apply
            to the run that is compared.
        address: of a Ray cluster, for runs of more than a million documents; None: this machine.
        sample: number of documents to decide on; None: all.
        progress: as of `raymill.curate`.

    Raises:
        ConfigError: the changes cannot be compared.
        DataError: nothing is measured at the run's output, or the changes need other measurements.
    """
    changes = changes_of(override)
    location = [one for one in changes if key_of(one).split(".")[0] in ("output", "storage")]
    before = config_of(config, None, location, "curate")
    after = config_of(config, None, changes, "curate")
    return what_if_changed(before, after, address=address, sample=sample, progress=progress)


def what_if_changed(
    before: CurateConfig,
    after: CurateConfig,
    *,
    address: str | None = None,
    sample: int | None = None,
    progress: ShownProgress = None,
) -> Answer:
    """As `what_if`, of the run of `before` with the settings of `after`."""
    with opened(address, after.execution.cpus, chosen_progress(progress)) as session:
        comparison = compare_decisions(before, after, session, sample)
    return Answer(comparison, table_text(comparison))


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
        ConfigError: the configs differ in `dedup` and in rules, or in what is cut out of documents.
        DataError: nothing is measured there, or the configs need other measurements.
    """
    run = RunReader(before.store, before.output, before.inputs, plugins_in(before))
    # The changed settings of `dedup` that decide which documents are duplicates.
    left_out = {"remove", *NO_EFFECT_ON_RESULT}
    regroup: list[str] = []
    if before.dedup and after.dedup:
        then, now = (dedup.model_dump(exclude=left_out) for dedup in (before.dedup, after.dedup))
        regroup = [f"dedup.{name}" for name, _, _ in setting_changes(then, now)]
    then, now = (config.model_dump(include={cut.name for cut in CUTS}) for config in (before, after))
    if changed := [name for name, _, _ in setting_changes(then, now)]:
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


def _cuts(config: CurateConfig) -> list[str]:
    """The stages of a config that cut text out of documents, in order."""
    return [cut.name for cut in config.cuts if cut.cut]


def _removes_duplicates(config: CurateConfig) -> bool:
    return config.dedup is not None and config.dedup.remove


def _refuse_other_measurements(
    run: RunReader, recorded: CurateConfig | None, before: CurateConfig, after: CurateConfig
) -> None:
    """Verify that the run has the measurements of both configs. Other measurements of the run may differ.

    Raises:
        DataError: one of them needs a measurement that the run does not have. Names the settings that differ.
    """
    fix = "Run `raymill curate` with these settings and another output."
    for rule in recorded.filters.rules if recorded else ():
        if isinstance(rule, CustomRule) and not rule.is_loaded:
            raise DataError(
                f"{run.uri}: {rule.name} has other code than in the run, or is not in the config. If it is "
                f"the same code, give a config that has the rule: `raymill what-if CONFIG`. Else: {fix}"
            )
    measured = recorded or before
    if measure_stage(measured, measured.filters, run.inputs).fingerprint != run.attributes.manifest.fingerprint:
        raise DataError(
            f"{run.uri}: the measurements there do not fit the config: they were made by other code, other files or "
            f"other settings. {fix}"
        )
    counters = run.attributes.manifest.counters
    not_extracted = sum(number for name, number in counters.items() if name.startswith(NOT_EXTRACTED))
    if not_extracted and measured.filters.of_url != after.filters.of_url:
        rules = ", ".join(f"rules.{rule.name}" for rule in measured.filters.of_url)
        raise DataError(
            f"{run.uri}: {plural(int(not_extracted), 'page')} that {rules} remove have no text in this run, so "
            f"what-if cannot say what other rules would do with them. {fix}"
        )
    for config_name, config in (("the config", before), ("the changed config", after)):
        there, needed = (dependencies(one, one.filters, run.store) for one in (measured, config))
        there["rules"] = {name: value for name, value in there["rules"].items() if name in needed["rules"]}
        names = [_SETTINGS.get(name, name) for name, _, now in setting_changes(there, needed) if now is not None]
        changed = [name for name, _, _ in setting_changes(result_settings(measured), result_settings(config))]
        found = [
            name
            for name in changed
            if any(f"{name}.".startswith(f"{n}.") or f"{n}.".startswith(f"{name}.") for n in names)
        ]
        if differing := found or names:
            raise DataError(
                f"{run.uri}: the measurements there do not fit {config_name}: {', '.join(differing)} would be measured "
                f"in another way. What-if can change bounds, and leave out checks. {fix}"
            )


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
    task = ray.remote(num_cpus=1, label_selector=without_accelerators(session.nodes()) or None)(
        lambda again, units: again(units)
    )
    parts = neighbours(units, [unit.documents for unit in units], _DOCUMENTS_OF_A_TASK)
    waiting = [task.remote(shared, part) for part in parts]
    while waiting:
        done, waiting = ray.wait(waiting)
        yield ray.get(done[0])


def _grouped_again(
    run: RunReader, config: CurateConfig, verdicts: Artifact | None, units: Sequence[UnitFiles], session: Session | None
) -> Counts:
    """The counts of the duplicates by the settings of a config, from the signatures of the run.

    Raises:
        ConfigError: the session is on a cluster, whose workers cannot read a folder of this machine.
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
