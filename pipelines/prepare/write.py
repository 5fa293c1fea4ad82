"""The stages `split` and `write`: which split each record goes to, then the splits and the ledger as files.

    split   one unit: keys and groups of all records      -> _work/splits, a file for each unit of input
    write   per unit of input: its records, their splits  -> train, validation, test, removed

Memory of `split`: 70 bytes a record.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage
from cluster.store import paths
from cluster.store.store import Store
from pipelines.dedup.group import files_of
from pipelines.prepare.collect import RECORDS, REJECTED, REJECTED_SCHEMA, hash64, hashes_in_order
from pipelines.prepare.config import Split
from pipelines.prepare.split import SPLITS, assign, components, folds, straddling

SPLIT_FILES = "_work/splits"
REMOVED = "removed"
SPLIT_VERSION = "1"

_SPLITS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("split", pa.int8()),  # index in SPLITS, -1 for a duplicate that is removed
        ("fold", pa.int8()),  # null without `split.folds`, and for records for testing
    ]
)

REMOVED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),  # validate or duplicates
        ("reason", pa.string()),
        ("value", pa.string()),
        ("limit", pa.string()),
        ("partner", pa.string()),  # of a duplicate: the id of the record that is kept; then its source
        ("partner_source", pa.string()),
        ("similarity", pa.float64()),
        ("content", pa.large_string()),  # the record's columns as JSON
    ]
)

_LIBRARIES = 512 << 20
_OF_A_RECORD = 70


def split_stage(
    settings: Split, keys: Artifact, groups: Artifact | None, units: int, kept: dict[str, list[Artifact]]
) -> Stage:
    """The stage that writes SPLIT_FILES. groups: None without deduplication. kept: splits of each earlier run."""
    made_from = {
        "version": SPLIT_VERSION,
        "keys": keys.manifest.fingerprint,
        "groups": groups and groups.manifest.fingerprint,
        "settings": settings.model_dump(exclude={"keep"}),
        "kept": [[one.manifest.digest for one in splits] for splits in kept.values()],
    }
    work = AssignSplits(settings, keys, groups, units, kept)
    outputs, memory = (Output(SPLIT_FILES, _SPLITS_SCHEMA),), split_memory(keys.manifest.rows)
    return Stage("split", outputs, (None,), work, fingerprint(made_from), keys.store, memory=memory)


def split_memory(records: int) -> int:
    """Bytes of the stage `split`."""
    return _LIBRARIES + _OF_A_RECORD * records


@dataclass(frozen=True)
class AssignSplits:
    """The work of the stage `split`."""

    settings: Split
    keys: Artifact
    groups: Artifact | None
    units: int
    kept: dict[str, list[Artifact]]

    def __call__(self, _: None, scratch: Scratch) -> Counters:
        """Counters: `records`, `new` and `moved` beside earlier runs, and by group `straddling/G`."""
        by_unit = [pa.concat_tables(self._tables(uris)) for uris in self.keys.files_by_unit(self.units)]
        ends = np.cumsum([table.num_rows for table in by_unit])
        table = pa.concat_tables(by_unit)
        removed, together = self._duplicates(by_unit, ends)
        stays = np.flatnonzero(~removed)
        columns = {name: table[name].to_numpy()[stays] for name in table.column_names if name != "row"}
        groups = {name: column for name, column in columns.items() if name.startswith("group/")}
        of_duplicates = together[stays]
        component = components(len(stays), [*groups.values(), of_duplicates])
        earlier = self._earlier(columns["id"])
        hashes = hashes_in_order(columns["id"], self.settings.seed)
        found = assign(hashes, columns["stratum"], component, self.settings.shares, earlier)
        splits, fold = np.full(table.num_rows, -1, np.int8), np.full(table.num_rows, -1, np.int8)
        splits[stays] = found
        if self.settings.folds:
            trained = found < SPLITS.index("test")
            fold[stays[trained]] = folds(hashes[trained], component[trained], self.settings.folds)
        starts = [0, *ends[:-1].tolist()]
        for unit, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True)):
            if end > start:
                rows = {
                    "row": table["row"].slice(start, end - start),
                    "split": splits[start:end],
                    "fold": pa.array(fold[start:end], mask=fold[start:end] < 0),
                }
                scratch.write(SPLIT_FILES, pa.table(rows), unit)
        counters: Counters = {"records": float(len(stays))}
        if earlier is not None:
            counters["new"] = float((earlier < 0).sum())
        for name, column in {**groups, "group/duplicates": of_duplicates}.items():
            counters[f"straddling/{name.partition('/')[2]}"] = float(straddling(found, column))
        return counters

    def _tables(self, uris: list[str]) -> list[pa.Table]:
        return [self.keys.schema.empty_table(), *read_tables(self.keys.store, uris)]

    def _duplicates(self, by_unit: list[pa.Table], ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(bool[N], whether each record is a removed duplicate; uint64[N], a number for each group, 0 for none)."""
        count = int(ends[-1]) if len(ends) else 0
        removed, together = np.zeros(count, bool), np.zeros(count, np.uint64)
        if self.groups is None:
            return removed, together
        for table in self.groups.tables(["unit", "row", "reason", "group_id"]):
            for unit in pc.unique(table["unit"]).to_pylist():
                own = table.filter(pc.equal(table["unit"], unit))
                first = int(ends[unit]) - by_unit[unit].num_rows
                at = first + np.searchsorted(by_unit[unit]["row"].to_numpy(), own["row"].to_numpy())
                removed[at] = own["reason"].is_valid().to_numpy()
                together[at] = own["group_id"].to_numpy().astype(np.uint64) + np.uint64(1)
        return removed, together

    def _earlier(self, ids: np.ndarray) -> np.ndarray | None:
        """int8[N]: the split of each record in the earlier runs, -1 for new ones. ids: uint64[N], their hashes."""
        if not self.kept:
            return None
        found = np.full(len(ids), -1, np.int8)
        order = np.argsort(ids)
        for splits in self.kept.values():
            for number, artifact in enumerate(splits):
                for table in artifact.tables(["id"]):
                    old = np.array([hash64(id) for id in table["id"].to_pylist()], np.uint64)
                    at = np.minimum(np.searchsorted(ids[order], old), max(len(ids) - 1, 0))
                    here = ids[order[at]] == old if len(ids) else np.zeros(len(old), bool)
                    found[order[at[here]]] = number
        return found


def find_kept(store: Store, runs: tuple[str, ...]) -> dict[str, list[Artifact]]:
    """The splits of each earlier run, by its output.

    Raises:
        DataError: one of them is not there, or not finished.
    """
    return {run: [Artifact.load(store, paths.join(run, name)) for name in SPLITS] for run in runs}


def write_stage(artifacts: dict[str, Artifact], groups: Artifact | None, splits: Artifact, units: int) -> Stage:
    """The stage that writes the artifacts of SPLITS and REMOVED. artifacts: of `collect`. groups: of duplicates."""
    records, rejected = artifacts[RECORDS], artifacts[REJECTED]
    schema = records.schema.append(pa.field("split", pa.string())).append(pa.field("fold", pa.int8()))
    outputs = (*(Output(name, schema) for name in SPLITS), Output(REMOVED, REMOVED_SCHEMA))
    counts = np.array(records.rows_by_unit(units), np.int64)
    spans = zip((np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True)
    of_groups = files_of(groups, spans) if groups else ([] for _ in range(units))
    files = (one.files_by_unit(units) for one in (records, rejected, splits))
    parts = [UnitFiles(number, *some) for number, *some in zip(range(units), *files, of_groups, strict=True)]
    made_from = fingerprint([one.manifest.fingerprint for one in (records, rejected, splits)])
    return Stage("write", outputs, parts, WriteSplits(records.store), made_from, records.store)


@dataclass(frozen=True)
class UnitFiles:
    """A unit of `write`: the number of a unit of input, and its files; those of groups have others' rows too."""

    number: int
    records: list[str]
    rejected: list[str]
    splits: list[str]
    groups: list[str]


@dataclass(frozen=True)
class WriteSplits:
    """The work of the stage `write`."""

    store: Store

    def __call__(self, unit: UnitFiles, scratch: Scratch) -> Counters:
        """Counters: `split/S` and `split/S/SOURCE` of each split, and removed records as `removed/STAGE/REASON`."""
        counters = Counter[str]()
        splits = pa.concat_tables([_SPLITS_SCHEMA.empty_table(), *read_tables(self.store, unit.splits)])
        duplicates = self._duplicates(unit)
        first = 0
        for records in read_tables(self.store, unit.records):
            own = splits.slice(first, records.num_rows)
            first += records.num_rows
            sources = pc.struct_field(records["metadata"].combine_chunks(), "source")
            for number, name in enumerate(SPLITS):
                here = pc.equal(own["split"], number)
                chosen = records.filter(here)
                if chosen.num_rows:
                    chosen = chosen.append_column("split", pa.repeat(name, chosen.num_rows))
                    scratch.write(name, chosen.append_column("fold", own["fold"].filter(here)))
                    counters[f"split/{name}"] += chosen.num_rows
                    for found in pc.value_counts(sources.filter(here)).to_pylist():
                        counters[f"split/{name}/{found['values']}"] += found["counts"]
            gone = pc.less(own["split"], 0)
            rows = own["row"].filter(gone).to_pylist()
            pairs = zip(records.filter(gone).to_pylist(), rows, strict=True)
            removed = [_removed(record, duplicates[row]) for record, row in pairs]
            if removed:
                scratch.write(REMOVED, pa.Table.from_pylist(removed, REMOVED_SCHEMA))
                counters.update(f"removed/duplicates/{row['reason']}" for row in removed)
        for rejected in read_tables(self.store, unit.rejected):
            columns = {name: rejected[name] for name in REJECTED_SCHEMA.names if name != "row"}
            missing = {field.name: pa.nulls(rejected.num_rows, field.type) for field in REMOVED_SCHEMA}
            stage = {"stage": pa.repeat("validate", rejected.num_rows)}
            scratch.write(REMOVED, pa.table(missing | columns | stage))
            counters.update(f"removed/validate/{reason}" for reason in rejected["reason"].to_pylist())
        return dict(counters)

    def _duplicates(self, unit: UnitFiles) -> dict[int, dict[str, Any]]:
        """The rows of the groups with a removed record of the unit, by its row."""
        found: dict[int, dict[str, Any]] = {}
        for groups in read_tables(self.store, unit.groups):
            own = groups.filter(pc.and_(pc.equal(groups["unit"], unit.number), groups["reason"].is_valid()))
            found |= {row["row"]: row for row in own.to_pylist()}
        return found


def _removed(record: dict[str, Any], duplicate: dict[str, Any]) -> dict[str, Any]:
    """The ledger's row of a duplicate."""
    content = {name: value for name, value in record.items() if name not in ("id", "metadata", "provenance")}
    shared = {name: duplicate[name] for name in ("reason", "partner", "partner_source", "similarity")}
    return {
        "id": record["id"],
        "source": record["metadata"]["source"],
        "stage": "duplicates",
        "content": json.dumps(content, ensure_ascii=False),
        **shared,
    }
