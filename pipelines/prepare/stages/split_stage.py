"""The stage `split`: where each record goes.

    one unit: keys and groups of all records  ->  _work/splits, a file for each unit of input
                                                  _work/asked, hashes of all questions, if there are variants

Of records that meet all rules, those with unrelated answers, duplicates, contradictory ones and outliers are left out
as the config says, then those over the share of their source; the others are divided by split.py; then the training
split is balanced by leaving records out and repeating others, and records are chosen of which `augment` makes variants.
Synthetic records without others that they belong to are for training alone, and those over `split.synthetic` are left
out. With a curriculum, records that go to a split are divided
into stages of equal sizes by their complexity before.

Records of earlier runs stay where they are: those of the runs that `split.keep` names, and of the run that this one
replaces. A run with `--replace` first notes, in BEFORE, where the finished run at its output has its records, because
its own splits take the place of these. It does so if both have equal settings of `split`, but for those that move no
record.

Memory: 150 bytes a record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.stage import Output, RunStage, Scratch, Stage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.metrics import contradictory
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.records.fields import hash64
from raymill.pipelines.prepare.records.outliers import bounds
from raymill.pipelines.prepare.stages.collect import KEYS
from raymill.pipelines.prepare.stages.complexity import COMPLEXITY, stages_of
from raymill.pipelines.prepare.stages.duplicates import ATTRIBUTES, DuplicateGroups
from raymill.pipelines.prepare.stages.relevance import Unrelated, is_below
from raymill.pipelines.prepare.stages.split import (
    Balance,
    Split,
    assign,
    components,
    copies,
    first_by_hash,
    folds,
    hashes_in_order,
    most_synthetic,
    numbers_of_variants,
    older_than_training,
    relatives,
    sizes_by_share,
    straddling,
)

BEFORE = "_work/before"
_MOVES_NONE = {"keep", "stable", "balance", "folds", "synthetic"}  # settings of `split`
_BEFORE_LIBRARIES = 256 << 20
_BEFORE_OF_A_RECORD = 100
_BEFORE_SCHEMA = pa.schema([("id", pa.uint64()), ("split", pa.int8()), ("fold", pa.int8())])
SPLIT_FILES, ASKED = "_work/splits", "_work/asked"
SPLIT_VERSION = "9"
# Records that go to no split.
DUPLICATE, OVER_SHARE, OVER_CLASS, CONTRADICTORY, SAME_QUESTION, SAME_ANSWER, OUTLIER = -1, -2, -3, -4, -5, -6, -7
UNRELATED, OVER_SYNTHETIC = -8, -9
# Duplicates by what is alike, as of `find_repeats`.
REPEATED = {"record": DUPLICATE, "question": SAME_QUESTION, "answer": SAME_ANSWER}
SPLITS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("split", pa.int8()),  # index in SPLITS, or one of the numbers above
        ("copies", pa.int32()),  # how often the record is written
        ("variants", pa.int32()),  # how many variants of it are made
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
ASKED_SCHEMA = pa.schema([("asked", pa.uint64())])  # ascending, as of `question_hash`
_LIBRARIES = 512 << 20
_OF_A_RECORD = 150
_OF_NUMBERS = {"variants", "by", "to", "most_variants"}  # settings of `augment` that decide the numbers
_NOT_DIVIDED = -1
_ANY_NUMBER = 1 << 31  # of variants of a record
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd: hashes of equal values differ by stage


def splits_before(
    store: Store, root: str, split: Split, replaced: dict[str, Any] | None, run: RunStage
) -> Artifact | None:
    """The places of the records that keep them; None if all are divided anew.

    Args:
        root: the output. replaced: the manifest of the finished run there, which this one replaces; None if there is
            none, or this run goes on after it removed it. run: makes or replaces the artifacts of a stage.
    """
    noted = noted_splits(store, root, split)
    if replaced is None or not _keeps(split):
        return noted
    plain, name = _moving_settings(split), _before_name(split)
    earlier = {key: value for key, value in replaced["config"].get("split", {}).items() if key not in _MOVES_NONE}
    found = [Artifact.find(store, paths.join(root, one)) for one in SPLITS if earlier == plain]
    splits = [one for one in found if one is not None]
    if not splits and noted is None:
        return None
    made_from = fingerprint([BEFORE, *(one.manifest.digest for one in splits)])
    memory = _BEFORE_LIBRARIES + _BEFORE_OF_A_RECORD * sum(one.manifest.rows for one in splits)
    outputs, work = (Output(name, _BEFORE_SCHEMA),), partial(note_splits, name, splits)
    return run(Stage("before", outputs, (None,), work, made_from, store, memory=memory))[name]


def noted_splits(store: Store, root: str, split: Split) -> Artifact | None:
    """What `splits_before` noted for a run that is not finished yet."""
    return Artifact.find(store, paths.join(root, _before_name(split))) if _keeps(split) else None


def _keeps(split: Split) -> bool:
    return split.stable and split.by_time is None


def _moving_settings(split: Split) -> dict[str, Any]:
    return split.model_dump(mode="json", exclude=_MOVES_NONE)


def _before_name(split: Split) -> str:
    return f"{BEFORE}/{fingerprint(_moving_settings(split))[:16]}"


def note_splits(name: str, splits: list[Artifact], _: None, scratch: Scratch) -> Counters:
    """The work of the stage `before`. name: of its artifact. splits: of a run; none: nothing is noted. No counters."""
    if splits:
        scratch.write(name, places_of(splits))
    return {}


def places_of(splits: list[Artifact]) -> pa.Table:
    """The hash of each record's id, its split and its fold, of a run's splits."""
    found = [_BEFORE_SCHEMA.empty_table()]
    for number, artifact in enumerate(splits):
        for table in artifact.tables(["id", "fold"]):
            hashes = pa.array([hash64(id) for id in table["id"].to_pylist()], pa.uint64())
            split = pa.array(np.full(table.num_rows, number, np.int8))
            found.append(pa.table([hashes, split, table["fold"].combine_chunks()], schema=_BEFORE_SCHEMA))
    return pa.concat_tables(found)


def find_kept(store: Store, runs: tuple[str, ...]) -> dict[str, list[Artifact]]:
    """The splits of each earlier run, by its output.

    Raises:
        DataError: one of them is not there, or not finished.
    """
    try:
        return {run: [Artifact.load(store, paths.join(run, name)) for name in SPLITS] for run in runs}
    except DataError as error:
        raise DataError(f"split.keep: {error}") from error


def split_stage(
    config: PrepareConfig,
    artifacts: Mapping[str, Artifact],
    repeats: dict[str, DuplicateGroups],
    units: int,
    kept: dict[str, list[Artifact]],
    before: Artifact | None,
    unrelated: Unrelated | None,
) -> Stage:
    """The stage that writes SPLIT_FILES.

    artifacts: of the stages before. repeats: as of `find_repeats`. kept: splits of each earlier run. before: as of
    `splits_before`. unrelated: as of `find_unrelated`.
    """
    keys, complexity, outliers = artifacts[KEYS], artifacts.get(COMPLEXITY), config.validation.outliers
    depends_on = {
        "version": SPLIT_VERSION,
        "keys": keys.manifest.fingerprint,
        "repeats": {name: [one.groups.manifest.fingerprint, one.found] for name, one in repeats.items()},
        "contradictory": config.duplicates.contradictory,
        "outliers": outliers and outliers.model_dump(),
        "complexity": complexity and [complexity.manifest.fingerprint, config.curriculum and config.curriculum.stages],
        "split": config.split.model_dump(exclude={"keep"}),
        "augment": config.augment and config.augment.model_dump(include=_OF_NUMBERS),
        "mixture": [config.mixture.model_dump(), [one.share for one in config.inputs if one.share is not None] or None],
        "kept": [[one.manifest.digest for one in splits] for splits in kept.values()],
        "before": before and before.manifest.fingerprint,
        "unrelated": unrelated and [unrelated.cosines.manifest.fingerprint, unrelated.min_cosine],
    }
    work = AssignSplits(config, keys, artifacts[ATTRIBUTES], repeats, complexity, units, kept, before, unrelated)
    outputs: tuple[Output, ...] = (Output(SPLIT_FILES, SPLITS_SCHEMA),)
    outputs += (Output(ASKED, ASKED_SCHEMA),) if config.augment else ()
    memory = split_memory(keys.manifest.rows)
    return Stage("split", outputs, (None,), work, fingerprint(depends_on), keys.store, memory=memory)


def split_memory(records: int) -> int:
    """Bytes of the stage `split`."""
    return _LIBRARIES + _OF_A_RECORD * records


@dataclass(frozen=True)
class AssignSplits:
    """The work of the stage `split`. attributes: of the records of `keys`. units: number of units of input."""

    config: PrepareConfig
    keys: Artifact
    attributes: Artifact
    repeats: dict[str, DuplicateGroups]
    complexity: Artifact | None
    units: int
    kept: dict[str, list[Artifact]]
    before: Artifact | None
    unrelated: Unrelated | None

    def __call__(self, _: None, scratch: Scratch) -> Counters:
        """Counters: `records` that go to a split, by split `assigned/S` before balancing, without those that only
        training may have, `same_id` with the id of another one, `new` ones beside earlier runs, by group
        `straddling/G`, by stage `stage/N`, with `by_time` `older`, see `older_than_training`, and of
        `_largest_component`, `_balance` and `_variants`.
        """
        split, listed = self.config.split, self.config.duplicates.contradictory
        by_unit = [
            pa.concat_tables([self.keys.schema.empty_table(), *read_tables(self.keys.store, uris)])
            for uris in self.keys.files_by_unit(self.units)
        ]
        ends = np.cumsum([table.num_rows for table in by_unit])
        table = pa.concat_tables(by_unit)
        columns = {name: table[name].to_numpy() for name in table.column_names if name not in ("row", "parents")}
        hashes = hashes_in_order(columns["id"], split.seed)
        earlier, kept_folds = self._earlier(columns["id"])
        groups = {name: column for name, column in columns.items() if name.startswith("group/")}
        if pc.max(pc.list_value_length(table["parents"])).as_py():
            of_source = columns["source"].astype(np.uint64) * _SPREAD  # in which ids are known
            rows = np.repeat(np.arange(table.num_rows), pc.list_value_length(table["parents"]).to_numpy())
            parents = pc.list_flatten(table["parents"]).to_numpy() ^ of_source[rows]
            groups["group/parents"] = relatives(columns["id"] ^ of_source, rows, parents)
            # A model may have been asked about a record of any source.
            made = columns["synthetic"][rows]
            plain = pc.list_flatten(table["parents"]).to_numpy()
            if made.any():
                groups["group/generated"] = relatives(columns["id"], rows[made], plain[made])
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
            if name == "record" and listed == "remove":
                conflicts = contradictions(columns["question"], columns["answer"], splits == 0)
                splits[conflicts > 0] = CONTRADICTORY
        outliers = self._outliers(columns, splits)
        self._leave_out_over_shares(splits, columns["source"], hashes, earlier)
        if listed == "list":  # or a question of training has another answer in a test
            conflicts = contradictions(columns["question"], columns["answer"], splits == 0)
            groups["group/contradictory"] = conflicts.astype(np.uint64)
        groups.setdefault("group/questions", columns["question"])  # those that are exactly equal
        stays = np.flatnonzero(splits == 0)
        component = components(len(stays), [column[stays] for column in groups.values()])
        complexity, stage = np.full(table.num_rows, np.nan), np.zeros(table.num_rows, np.int8)
        stages = self.config.curriculum.stages if self.config.curriculum else 0
        if self.complexity is not None:
            complexity = self.complexity.table()["complexity"].to_numpy()
            stage[stays] = stages_of(complexity[stays], hashes[stays], stages)
        strata, classes = columns["stratum"], columns["class"]
        if self._is_staged(split.stratify):
            strata = strata + stage.astype(np.uint64) * _SPREAD
        if self._is_staged(split.balance.by if split.balance else ()):
            classes = classes + stage.astype(np.uint64) * _SPREAD
        by_time, synthetic = split.by_time is not None, columns["synthetic"]
        divided = self._divided(component, synthetic[stays])
        some = stays[divided]
        splits[some] = assign(
            hashes[some],
            strata[some],
            component[divided],
            split.shares,
            None if earlier is None else earlier[some],
            columns["time"][some] if by_time else None,
        )
        placed = splits[stays]
        assigned = np.where(divided, placed, _NOT_DIVIDED)
        self._leave_out_synthetic(splits, stays, synthetic, hashes)
        fold = np.full(table.num_rows, -1, np.int8)
        if split.folds:
            trained = (splits[stays] >= 0) & (splits[stays] < SPLITS.index("test"))
            some = stays[trained]
            before = None if kept_folds is None else kept_folds[some]
            fold[some] = folds(hashes[some], strata[some], component[trained], split.folds, before)
        times, of_balance = self._balance(splits, classes, hashes)
        variants, of_variants = self._variants(splits, times, columns, hashes)
        if listed == "list":  # without those that balancing left out
            conflicts = contradictions(columns["question"], columns["answer"], splits >= 0)
        found = {
            "split": pa.array(splits, pa.int8()),
            "copies": pa.array(times, pa.int32()),
            "variants": pa.array(variants, pa.int32()),
            "fold": pa.array(fold, mask=fold < 0),
            "stage": pa.array(stage, mask=stage == 0),
            "complexity": pa.array(complexity, mask=np.isnan(complexity)),
            "contradictory": pa.array(conflicts, mask=conflicts == 0),
            **self._contradicted(conflicts, columns),
            **outliers,
            **unrelated,
        }
        written, first = pa.table({"row": table["row"]} | found), 0
        for unit, end in enumerate(ends.tolist()):
            if end > first:
                scratch.write(SPLIT_FILES, written.slice(first, end - first), unit)
            first = end
        if self.config.augment:
            scratch.write(ASKED, pa.table([np.unique(columns["asked"][splits >= 0])], schema=ASKED_SCHEMA))
        counters: Counters = {"records": float(len(stays)), "contradictory": float((conflicts > 0).sum())}
        counters |= of_balance | of_variants
        counters["same_id"] = float(len(stays) - len(np.unique(columns["id"][stays])))
        for number, name in enumerate(SPLITS):
            counters[f"assigned/{name}"] = float((assigned == number).sum())
        of_stays = {name.partition("/")[2]: values[stays] for name, values in groups.items()}
        counters |= _largest_component(component, of_stays, columns["source"][stays], placed)
        if earlier is not None:
            counters["new"] = float((earlier[stays] < 0).sum())
        written = np.flatnonzero(splits >= 0)
        for name, column in groups.items():
            counters[f"straddling/{name.partition('/')[2]}"] = float(straddling(splits[written], column[written]))
        if by_time:
            counters["older"] = float(older_than_training(splits[written], columns["time"][written]))
        for number in range(1, stages + 1):
            counters[f"stage/{number}"] = float((stage == number).sum())
        return counters

    def _is_staged(self, names: Sequence[str]) -> bool:
        """Whether strata or classes of these fields differ by the stage of the curriculum."""
        return "complexity" in {*names} - {*self.config.metadata}

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
        names, outliers = ("outlier", "outlier_limit"), self.config.validation.outliers
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
        mixture, shares = self.config.mixture, [one.share for one in self.config.inputs if one.share is not None]
        if not shares:
            return
        stays = np.flatnonzero(splits == 0)
        counts = np.bincount(source[stays], minlength=len(shares))
        sizes = sizes_by_share(counts.tolist(), shares, mixture.records, fill=mixture.fill)
        order = hashes[stays] if earlier is None else np.where(earlier[stays] >= 0, np.uint64(0), hashes[stays])
        splits[stays[~first_by_hash(order, source[stays], dict(enumerate(sizes)))]] = OVER_SHARE

    def _balance(self, splits: np.ndarray, classes: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, Counters]:
        """(int32[N], how often each record is written; counters). Sets OVER_CLASS.

        Counters, if a class stays smaller than wanted: `balance/wanted` records of a class, `balance/smaller` classes
        that have fewer, `balance/smallest` records of the smallest before they are repeated; of values with numbers of
        their own `lacking/VALUE`, the records that are written.
        """
        times, counters = (splits >= 0).astype(np.int32), Counters()
        if (balance := self.config.split.balance) is not None:
            train = np.flatnonzero(splits == SPLITS.index("train"))
            names, counts = np.unique(classes[train], return_counts=True)
            if isinstance(balance.to, dict):
                of = {value: self._class_of(value, balance) for value in balance.to}
                to: int | dict[int, int] = {of[value]: number for value, number in balance.to.items()}
                has = dict(zip(names.tolist(), counts.tolist(), strict=True))
                for value, number in balance.to.items():
                    written = has.get(of[value], 0) * balance.most_copies
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

    def _divided(self, component: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
        """bool[N]: the records that are divided among the splits. The others are for training: synthetic records that
        belong to no other record, if neither validation nor testing may have any.

        component: int64[N], as of `components`. synthetic: bool[N].
        """
        if self.config.split.synthetic.validation or self.config.split.synthetic.test or not synthetic.any():
            return np.ones(len(component), bool)
        has_others = np.zeros(len(component), bool)
        has_others[component[~synthetic]] = True
        return has_others[component]

    def _leave_out_synthetic(
        self, splits: np.ndarray, stays: np.ndarray, synthetic: np.ndarray, hashes: np.ndarray
    ) -> None:
        """Set OVER_SYNTHETIC: in each split the last synthetic records by hash over the allowed fraction."""
        for number, fraction in enumerate(self.config.split.synthetic.fractions):
            here = stays[splits[stays] == number]
            made = here[synthetic[here]]
            most = most_synthetic(len(here) - len(made), fraction)
            if most is not None and len(made) > most:
                splits[made[np.argsort(hashes[made], kind="stable")][most:]] = OVER_SYNTHETIC

    def _variants(
        self, splits: np.ndarray, times: np.ndarray, columns: dict[str, np.ndarray], hashes: np.ndarray
    ) -> tuple[np.ndarray, Counters]:
        """(int64[N], how many variants are made of each record; counters).

        Counters: `variants/wanted`, variants of all records; `variants/over`, variants that `split.synthetic` excludes;
        and `variants/smaller`, classes that `augment.most_variants` keeps smaller than wanted.
        """
        found, augment = np.zeros(len(splits), np.int64), self.config.augment
        if augment is None:
            return found, {}
        train = np.flatnonzero(splits == SPLITS.index("train"))
        given = augment.to
        to = {hash64(value): number for value, number in given.items()} if isinstance(given, dict) else given
        each = augment.variants if to is None else augment.most_variants
        made = int(times[train[columns["synthetic"][train]]].sum())
        most = most_synthetic(int(times[train].sum()) - made, self.config.split.synthetic.train)
        classes = columns["augment"][train]
        wanted, without_limit = (
            numbers_of_variants(hashes[train], classes, times[train], number, to) for number in (each, _ANY_NUMBER)
        )
        found[train] = wanted
        if most is not None:
            found[train] = numbers_of_variants(hashes[train], classes, times[train], each, to, max(most - made, 0))
        counters = {"variants/wanted": float(found.sum()), "variants/over": float(wanted.sum() - found.sum())}
        if to is not None:
            smaller = len(np.unique(classes[wanted < without_limit]))
            counters["variants/smaller"] = float(smaller)
        return found, counters

    def _class_of(self, value: str, balance: Balance) -> int:
        """The hash of a class of one field, as records have it."""
        if self._is_staged(balance.by):
            return (hash64("") + int(value) * int(_SPREAD)) % (1 << 64)
        return hash64(value)

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
            last = pc.max(old["fold"]).as_py()  # null: the run has no folds
            if (None if last is None else last + 1) == self.config.split.folds:
                fold[order[at[here]]] = pc.fill_null(old["fold"], -1).to_numpy()[here]

        if self.before is not None:
            keep(self.before.table())
        for splits in self.kept.values():
            keep(places_of(splits))
        return split, fold if (fold >= 0).any() else None


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

    questions, answers: uint64[N], hashes; 0: none, or an undesirable answer. stays: bool[N], the records that are
    compared.
    """
    groups = np.zeros(len(questions), np.int64)
    compared = np.flatnonzero(stays & (questions != 0) & (answers != 0))
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
