"""The stage `split`: where each record goes.

    one unit: keys and groups of all records  ->  _work/splits, a file for each unit of input

Of records that meet all rules, those with unrelated answers, duplicates, contradictory ones and outliers are left out
as the config says, then those over the share of their source; the others are divided by split.py; then the training
split is balanced by leaving records out and repeating others. With a curriculum, records that go to a split are divided
into stages of equal sizes by their complexity before.

Memory: 150 bytes a record.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.examples.splits import SPLITS
from cluster.stage import Output, Scratch, Stage
from pipelines.prepare.assess.metrics import contradictory
from pipelines.prepare.config import Found, Mixture, Outliers, Split
from pipelines.prepare.records.hashes import hash64, hashes_in_order
from pipelines.prepare.records.provenance import relatives
from pipelines.prepare.stages.amounts import copies, first_by_hash, sizes_by_share
from pipelines.prepare.stages.complexity import stages_of
from pipelines.prepare.stages.duplicates import DuplicateGroups
from pipelines.prepare.stages.kept import count_of_folds, places_of
from pipelines.prepare.stages.outliers import bounds
from pipelines.prepare.stages.relevance import Unrelated, is_below
from pipelines.prepare.stages.split import assign, components, folds, older_than_training, straddling

SPLIT_FILES = "_work/splits"
SPLIT_VERSION = "8"

# Records that go to no split.
DUPLICATE, OVER_SHARE, OVER_CLASS, CONTRADICTORY, SAME_QUESTION, SAME_ANSWER, OUTLIER = -1, -2, -3, -4, -5, -6, -7
UNRELATED = -8

# Duplicates by what is alike, as of `find_repeats`.
REPEATED = {"record": DUPLICATE, "question": SAME_QUESTION, "answer": SAME_ANSWER}

SPLITS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("split", pa.int8()),  # index in SPLITS, or one of the numbers above
        ("copies", pa.int32()),  # how often the record is written
        ("fold", pa.int8()),  # null without `split.folds`, and for records for testing
        ("complexity", pa.float64()),  # null without `curriculum`
        ("stage", pa.int8()),  # null without `curriculum`, and for records that go to no split by DUPLICATE, OVER_SHARE
        # Records with an equal question and different answers have one number, from 1 in order; null: no such record.
        ("contradictory", pa.int64()),
        ("of_contradictory", pa.int64()),  # its place among these, from 0
        ("contradicts", pa.string()),  # the id of the first of these with another answer; then its source
        ("contradicts_source", pa.string()),
        ("outlier", pa.string()),  # measure and value of an outlier; then what is none
        ("outlier_limit", pa.string()),
        ("unrelated", pa.string()),  # the cosine of a record that is removed as UNRELATED; then the least allowed one
        ("unrelated_limit", pa.string()),
    ]
)

_LIBRARIES = 512 << 20
_OF_A_RECORD = 150
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd: hashes of equal values differ by stage


@dataclass(frozen=True)
class SplitSettings:
    """The settings of the stage. shares: of the inputs, None without any. stages: of the curriculum, 0 without one.
    staged_strata, staged_classes: whether strata and classes differ by stage.
    """

    split: Split
    mixture: Mixture
    shares: tuple[float, ...] | None
    contradictory: Found
    outliers: Outliers | None
    stages: int = 0
    staged_strata: bool = False
    staged_classes: bool = False


def split_stage(
    settings: SplitSettings,
    keys: Artifact,
    attributes: Artifact,
    repeats: dict[str, DuplicateGroups],
    complexity: Artifact | None,
    units: int,
    kept: dict[str, list[Artifact]],
    before: Artifact | None = None,
    unrelated: Unrelated | None = None,
) -> Stage:
    """The stage that writes SPLIT_FILES.

    attributes: of the same records, which have their ids. repeats: as of `find_repeats`. complexity: None without a
    curriculum. kept: splits of each earlier run. before: as of `splits_before`. unrelated: as of `find_unrelated`.
    """
    depends_on = {
        "version": SPLIT_VERSION,
        "keys": keys.manifest.fingerprint,
        "repeats": {name: [one.groups.manifest.fingerprint, one.found] for name, one in repeats.items()},
        "contradictory": settings.contradictory,
        "outliers": settings.outliers and settings.outliers.model_dump(),
        "complexity": complexity and [complexity.manifest.fingerprint, settings.stages],
        "split": settings.split.model_dump(exclude={"keep"}),
        "mixture": [settings.mixture.model_dump(), settings.shares],
        "kept": [[one.manifest.digest for one in splits] for splits in kept.values()],
        "before": before and before.manifest.fingerprint,
        "unrelated": unrelated and [unrelated.cosines.manifest.fingerprint, unrelated.min_cosine],
    }
    work = AssignSplits(settings, keys, attributes, repeats, complexity, units, kept, before, unrelated)
    outputs, memory = (Output(SPLIT_FILES, SPLITS_SCHEMA),), split_memory(keys.manifest.rows)
    return Stage("split", outputs, (None,), work, fingerprint(depends_on), keys.store, memory=memory)


def split_memory(records: int) -> int:
    """Bytes of the stage `split`."""
    return _LIBRARIES + _OF_A_RECORD * records


@dataclass(frozen=True)
class AssignSplits:
    """The work of the stage `split`."""

    settings: SplitSettings
    keys: Artifact
    attributes: Artifact
    repeats: dict[str, DuplicateGroups]
    complexity: Artifact | None
    units: int
    kept: dict[str, list[Artifact]]
    before: Artifact | None
    unrelated: Unrelated | None

    def __call__(self, _: None, scratch: Scratch) -> Counters:
        """Counters: `records` that go to a split, by split `assigned/S` before balancing, `same_id` with the id of
        another one, `new` ones beside earlier runs, by group `straddling/G`, by stage `stage/N`, with `by_time`
        `older`, see `older_than_training`, and of `_largest_component` and `_balance`.
        """
        by_unit = [pa.concat_tables(self._tables(uris)) for uris in self.keys.files_by_unit(self.units)]
        ends = np.cumsum([table.num_rows for table in by_unit])
        table = pa.concat_tables(by_unit)
        columns = {name: table[name].to_numpy() for name in table.column_names if name not in ("row", "parents")}
        hashes = hashes_in_order(columns["id"], self.settings.split.seed)
        earlier, kept_folds = self._earlier(columns["id"])
        groups = {name: column for name, column in columns.items() if name.startswith("group/")}
        if pc.max(pc.list_value_length(table["parents"])).as_py():
            groups["group/parents"] = _relatives(columns["id"], columns["source"], table["parents"])
        groups["group/duplicates"] = np.zeros(table.num_rows, np.uint64)
        splits, conflicts = np.zeros((2, table.num_rows), np.int64)
        unrelated = self._unrelated(splits)
        for name in REPEATED:
            if name in self.repeats:
                removed, together = self._repeated(self.repeats[name], by_unit, ends)
                if self.repeats[name].removes:
                    splits[removed & (splits == 0)] = REPEATED[name]
                elif name != "answer":  # records with an equal answer may be in different splits
                    groups["group/duplicates" if name == "record" else "group/questions"] = together
            if name == "record" and self.settings.contradictory == "remove":
                conflicts = contradictions(columns["question"], columns["answer"], splits == 0)
                splits[conflicts > 0] = CONTRADICTORY
        outliers = self._outliers(columns, splits)
        self._leave_out_over_shares(splits, columns["source"], hashes, earlier)
        if self.settings.contradictory == "list":  # or a question of training has another answer in a test
            conflicts = contradictions(columns["question"], columns["answer"], splits == 0)
            groups["group/contradictory"] = conflicts.astype(np.uint64)
        groups.setdefault("group/questions", columns["question"])  # those that are exactly equal
        stays = np.flatnonzero(splits == 0)
        component = components(len(stays), [column[stays] for column in groups.values()])
        complexity, stage = self._stages(stays, hashes)
        strata, classes = columns["stratum"], columns["class"]
        if self.settings.staged_strata:
            strata = strata + stage.astype(np.uint64) * _SPREAD
        if self.settings.staged_classes:
            classes = classes + stage.astype(np.uint64) * _SPREAD
        by_time = self.settings.split.by_time is not None
        splits[stays] = assign(
            hashes[stays],
            strata[stays],
            component,
            self.settings.split.shares,
            None if earlier is None else earlier[stays],
            columns["time"][stays] if by_time else None,
        )
        fold = np.full(table.num_rows, -1, np.int8)
        if self.settings.split.folds:
            trained = splits[stays] < SPLITS.index("test")
            some = stays[trained]
            before = None if kept_folds is None else kept_folds[some]
            fold[some] = folds(hashes[some], strata[some], component[trained], self.settings.split.folds, before)
        assigned = splits[stays]
        times, of_balance = self._balance(splits, classes, hashes)
        if self.settings.contradictory == "list":  # without those that balancing left out
            conflicts = contradictions(columns["question"], columns["answer"], splits >= 0)
        found = {
            "split": pa.array(splits, pa.int8()),
            "copies": pa.array(times, pa.int32()),
            "fold": pa.array(fold, mask=fold < 0),
            "stage": pa.array(stage, mask=stage == 0),
            "complexity": pa.array(complexity, mask=np.isnan(complexity)),
            "contradictory": pa.array(conflicts, mask=conflicts == 0),
            **self._contradicted(conflicts, columns),
            **outliers,
            **unrelated,
        }
        self._write(scratch, pa.table({"row": table["row"]} | found), ends)
        counters: Counters = {"records": float(len(stays)), "contradictory": float((conflicts > 0).sum())} | of_balance
        counters["same_id"] = float(len(stays) - len(np.unique(columns["id"][stays])))
        for number, name in enumerate(SPLITS):
            counters[f"assigned/{name}"] = float((assigned == number).sum())
        of_stays = {name.partition("/")[2]: values[stays] for name, values in groups.items()}
        counters |= _largest_component(component, of_stays, columns["source"][stays], assigned)
        if earlier is not None:
            counters["new"] = float((earlier[stays] < 0).sum())
        for name, column in groups.items():
            counters[f"straddling/{name.partition('/')[2]}"] = float(straddling(splits[stays], column[stays]))
        if by_time:
            counters["older"] = float(older_than_training(assigned, columns["time"][stays]))
        for number in range(1, self.settings.stages + 1):
            counters[f"stage/{number}"] = float((stage == number).sum())
        return counters

    def _stages(self, stays: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(float64[N], the complexity of each record, NaN without a curriculum; int8[N], its stage, 0 for none)."""
        scores, stage = np.full(len(hashes), np.nan), np.zeros(len(hashes), np.int8)
        if self.complexity is not None:
            scores = self.complexity.table()["complexity"].to_numpy()
            stage[stays] = stages_of(scores[stays], hashes[stays], self.settings.stages)
        return scores, stage

    def _contradicted(self, conflicts: np.ndarray, columns: dict[str, np.ndarray]) -> dict[str, pa.Array]:
        """The columns of contradictory records in SPLIT_FILES besides their number, `conflicts`."""
        at = np.flatnonzero(conflicts)
        places, partners = np.full((2, len(conflicts)), -1)
        if len(at):
            places[at], others = places_and_partners(conflicts[at], columns["answer"][at])
            rows, partners[at] = np.unique(at[others], return_inverse=True)
            named = self._named(rows)
        else:
            named = {"id": [], "source": []}
        wanted = pa.array(partners, mask=partners < 0)
        return {
            "of_contradictory": pa.array(places, mask=places < 0),
            "contradicts": pa.array(named["id"], pa.string()).take(wanted),
            "contradicts_source": pa.array(named["source"], pa.string()).take(wanted),
        }

    def _named(self, rows: np.ndarray) -> dict[str, list[str]]:
        """Ids and sources of some records. rows: their places, ascending."""
        found: dict[str, list[str]] = {"id": [], "source": []}
        first = 0
        for uris in self.attributes.files_by_unit(self.units):
            for table in read_tables(self.attributes.store, uris, {"id", "source"}.__contains__):
                here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + table.num_rows)]
                for name, values in found.items():
                    values += table[name].take(pa.array(here - first)).to_pylist()
                first += table.num_rows
        return found

    def _unrelated(self, splits: np.ndarray) -> dict[str, pa.Array]:
        """The columns of unrelated answers in SPLIT_FILES. Sets UNRELATED."""
        values, limits = np.full((2, len(splits)), None, object)
        if (rule := self.unrelated) is not None:
            cosines = rule.cosines.table()["cosine"]
            found = np.flatnonzero(is_below(cosines, rule.min_cosine))
            splits[found] = UNRELATED
            values[found] = [f"{cosine:.4g}" for cosine in cosines.take(pa.array(found)).to_pylist()]
            limits[found] = f"{rule.min_cosine:g}"
        return {"unrelated": pa.array(values, pa.string()), "unrelated_limit": pa.array(limits, pa.string())}

    def _outliers(self, columns: dict[str, np.ndarray], splits: np.ndarray) -> dict[str, pa.Array]:
        """The columns of outliers in SPLIT_FILES. Sets OUTLIER if they are removed."""
        names, outliers = ("outlier", "outlier_limit"), self.settings.outliers
        if outliers is None:
            return dict.fromkeys(names, pa.nulls(len(splits), pa.string()))
        values, limits = np.full((2, len(splits)), None, object)
        stays = np.flatnonzero(splits == 0)
        for measure in reversed(outliers.measures):  # so that the first one is the reason
            measured = columns[f"measure/{measure}"][stays]
            low, high = bounds(measure, measured, columns["outliers"][stays], outliers.deviations)
            found = np.flatnonzero((measured < low) | (measured > high))
            values[stays[found]] = [f"{measure}: {measured[at]:.4g}" for at in found]
            limits[stays[found]] = [f"{low[at]:.3g} to {high[at]:.3g}" for at in found]
            if outliers.found == "remove":
                splits[stays[found]] = OUTLIER
        return dict(zip(names, (pa.array(values, pa.string()), pa.array(limits, pa.string())), strict=True))

    def _leave_out_over_shares(
        self, splits: np.ndarray, source: np.ndarray, hashes: np.ndarray, earlier: np.ndarray | None
    ) -> None:
        """Set OVER_SHARE. Records of earlier runs are taken first."""
        if self.settings.shares is None:
            return
        stays = np.flatnonzero(splits == 0)
        counts = np.bincount(source[stays], minlength=len(self.settings.shares))
        mixture = self.settings.mixture
        sizes = sizes_by_share(counts.tolist(), self.settings.shares, mixture.records, fill=mixture.fill)
        order = hashes[stays] if earlier is None else np.where(earlier[stays] >= 0, np.uint64(0), hashes[stays])
        splits[stays[~first_by_hash(order, source[stays], dict(enumerate(sizes)))]] = OVER_SHARE

    def _balance(self, splits: np.ndarray, classes: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, Counters]:
        """(int32[N], how often each record is written; counters). Sets OVER_CLASS.

        Counters, if a class stays smaller than wanted: `balance/wanted` records of a class, `balance/smaller` classes
        that have fewer, `balance/smallest` records of the smallest before they are repeated; of values with numbers of
        their own `lacking/VALUE`, the records that are written.
        """
        times, counters = (splits >= 0).astype(np.int32), Counters()
        if (balance := self.settings.split.balance) is not None:
            train = np.flatnonzero(splits == SPLITS.index("train"))
            names, counts = np.unique(classes[train], return_counts=True)
            if isinstance(balance.to, dict):
                to: int | dict[int, int] = {self._class_of(value): number for value, number in balance.to.items()}
                has = dict(zip(names.tolist(), counts.tolist(), strict=True))
                for value, number in balance.to.items():
                    written = has.get(self._class_of(value), 0) * balance.most_copies
                    if written < number:
                        counters[f"lacking/{value}"] = float(written)
            elif len(counts):
                ends = {"smallest": int(counts.min()), "largest": int(counts.max())}
                to = ends[balance.to] if isinstance(balance.to, str) else balance.to
                if smaller := int((counts * balance.most_copies < to).sum()):
                    found = {"wanted": to, "smaller": smaller, "smallest": int(counts.min())}
                    counters = {f"balance/{name}": float(number) for name, number in found.items()}
            if len(counts):
                times[train] = copies(hashes[train], classes[train], to, balance.most_copies)
                splits[train[times[train] == 0]] = OVER_CLASS
        return times, counters

    def _class_of(self, value: str) -> int:
        """The hash of a class of one field, as records have it."""
        if self.settings.staged_classes:
            return (hash64("") + int(value) * int(_SPREAD)) % (1 << 64)
        return hash64(value)

    def _write(self, scratch: Scratch, table: pa.Table, ends: np.ndarray) -> None:
        starts = [0, *ends[:-1].tolist()]
        for unit, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True)):
            if end > start:
                scratch.write(SPLIT_FILES, table.slice(start, end - start), unit)

    def _tables(self, uris: list[str]) -> list[pa.Table]:
        return [self.keys.schema.empty_table(), *read_tables(self.keys.store, uris)]

    def _repeated(
        self, repeats: DuplicateGroups, by_unit: list[pa.Table], ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(bool[N], whether each record is like an earlier one; uint64[N], a number for each group, 0 for none)."""
        count = int(ends[-1]) if len(ends) else 0
        removed, together = np.zeros(count, bool), np.zeros(count, np.uint64)
        for table in repeats.groups.tables(["unit", "row", "reason", "group_id"]):
            for unit in pc.unique(table["unit"]).to_pylist():
                own = table.filter(pc.equal(table["unit"], unit))
                first = int(ends[unit]) - by_unit[unit].num_rows
                at = first + np.searchsorted(by_unit[unit]["row"].to_numpy(), own["row"].to_numpy())
                removed[at] = own["reason"].is_valid().to_numpy()
                together[at] = own["group_id"].to_numpy().astype(np.uint64) + np.uint64(1)
        return removed, together

    def _earlier(self, ids: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(int8[N], the split of each record in the earlier runs, -1 for new ones; the same of folds, None if none has
        as many).

        ids: uint64[N], their hashes.
        """
        if not self.kept and self.before is None:
            return None, None
        split, fold = np.full((2, len(ids)), -1, np.int8)
        order = np.argsort(ids)
        ordered = ids[order]

        def keep(old: pa.Table) -> None:
            hashes = old["id"].to_numpy()
            at = np.minimum(np.searchsorted(ordered, hashes), max(len(ids) - 1, 0))
            here = ordered[at] == hashes if len(ids) else np.zeros(len(hashes), bool)
            split[order[at[here]]] = old["split"].to_numpy()[here]
            if count_of_folds(old["fold"]) == self.settings.split.folds:
                fold[order[at[here]]] = pc.fill_null(old["fold"], -1).to_numpy()[here]

        if self.before is not None:
            keep(self.before.table())
        for splits in self.kept.values():
            keep(places_of(splits))
        return split, fold if (fold >= 0).any() else None


def _relatives(ids: np.ndarray, sources: np.ndarray, parents: pa.ChunkedArray) -> np.ndarray:
    """uint64[N]: as of `relatives`, by source, in which ids are known. parents: hashes of each record's parents."""
    of_source = sources.astype(np.uint64) * _SPREAD
    rows = np.repeat(np.arange(len(ids)), pc.list_value_length(parents).to_numpy())
    return relatives(ids ^ of_source, rows, pc.list_flatten(parents).to_numpy() ^ of_source[rows])


def _largest_component(
    component: np.ndarray, groups: dict[str, np.ndarray], sources: np.ndarray, splits: np.ndarray
) -> Counters:
    """Counters of the largest component: `component/records`, its `component/split`, by number of the source
    `component/source/N`, and by group that joins some of its records `component/without/G`: records of its largest part
    without this group. Contradictory records have equal questions and count as these.

    component: int64[N], as of `components`. groups: uint64[N] each, hashes of values. sources, splits: int[N].
    """
    if not len(component):
        return {}
    members = np.flatnonzero(component == np.bincount(component).argmax())
    found: Counters = {"component/records": float(len(members)), "component/split": float(splits[members[0]])}
    for number, records in enumerate(np.bincount(sources[members])):
        if records:
            found[f"component/source/{number}"] = float(records)
    joining = {name: values[members] for name, values in groups.items()}
    for name in joining.keys() - {"contradictory"}:
        left_out = {name, "contradictory"} if name == "questions" else {name}
        others = [values for other, values in joining.items() if other not in left_out]
        part = int(np.bincount(components(len(members), others)).max())
        if part < len(members):
            found[f"component/without/{name}"] = float(part)
    return found


def contradictions(questions: np.ndarray, answers: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """int64[N]: a number from 1 for the records of each question with different answers, in order of their first
    records, 0 for others.

    questions, answers: uint64[N], hashes; question 0: none. stays: bool[N], the records that are compared.
    """
    groups = np.zeros(len(questions), np.int64)
    compared = np.flatnonzero(stays & (questions != 0))
    found = compared[contradictory(questions[compared], answers[compared])]
    if len(found):
        _, first, inverse = np.unique(questions[found], return_index=True, return_inverse=True)
        number = np.empty(len(first), np.int64)
        number[np.argsort(first)] = np.arange(1, len(first) + 1)
        groups[found] = number[inverse]
    return groups


def places_and_partners(groups: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64[N], the place of each record in its group, from 0; int64[N], the first record of its group with another
    answer).

    groups: int64[N], the number of each record's group, which has different answers. answers: uint64[N], hashes.
    """
    order = np.argsort(groups, kind="stable")
    grouped, ordered = groups[order], answers[order]
    firsts = np.searchsorted(grouped, grouped)
    places, partners = np.empty((2, len(groups)), np.int64)
    places[order] = np.arange(len(groups)) - firsts
    differs = ordered != ordered[firsts]  # from the answer of the group's first record
    others = np.flatnonzero(differs)
    second = others[np.searchsorted(grouped[others], grouped)]
    partners[order] = order[np.where(differs, firsts, second)]
    return places, partners
