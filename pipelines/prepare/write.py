"""The stage `write`: the splits and the ledger as files.

unit of input: its records, and where they go  ->  train, validation, test, removed
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
from cluster.store.store import Store
from pipelines.dedup.group import files_of
from pipelines.prepare.collect import RECORDS, REJECTED, REJECTED_SCHEMA
from pipelines.prepare.complexity import COMPLEXITY
from pipelines.prepare.split import SPLITS
from pipelines.prepare.split_stage import DUPLICATE, OVER_CLASS, OVER_SHARE, SPLITS_SCHEMA
from pipelines.prepare.tables import frame

REMOVED = "removed"
WRITE_VERSION = "2"

# Why records that meet all rules and are no duplicates are not in the data set, by the number in SPLIT_FILES.
_LEFT_OUT = {
    OVER_SHARE: ("mixture", "over_share"),
    OVER_CLASS: ("balance", "over_class"),
}

_OF_CURRICULUM = {"complexity": pa.float64(), "stage": pa.int8()}

REMOVED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),  # table, validate, duplicates, mixture or balance
        ("reason", pa.string()),
        ("value", pa.string()),
        ("limit", pa.string()),
        ("partner", pa.string()),  # of a duplicate: the id of the record that is kept; then its source
        ("partner_source", pa.string()),
        ("similarity", pa.float64()),
        ("content", pa.large_string()),  # the record's columns as JSON
    ]
)


def write_stage(artifacts: dict[str, Artifact], groups: Artifact | None, splits: Artifact, units: int) -> Stage:
    """The stage that writes the artifacts of SPLITS and REMOVED. artifacts: of `collect`. groups: of duplicates."""
    records, rejected = artifacts[RECORDS], artifacts[REJECTED]
    staged = COMPLEXITY in artifacts
    added = {"split": pa.string(), "fold": pa.int8()} | (_OF_CURRICULUM if staged else {})
    schema = pa.schema([*records.schema, *added.items()])
    outputs = (*(Output(name, schema) for name in SPLITS), Output(REMOVED, REMOVED_SCHEMA))
    counts = np.array(records.rows_by_unit(units), np.int64)
    spans = zip((np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True)
    of_groups = files_of(groups, spans) if groups else ([] for _ in range(units))
    files = (one.files_by_unit(units) for one in (records, rejected, splits))
    parts = [UnitFiles(number, *some) for number, *some in zip(range(units), *files, of_groups, strict=True)]
    made_from = fingerprint([WRITE_VERSION, *(one.manifest.fingerprint for one in (records, rejected, splits))])
    return Stage("write", outputs, parts, WriteSplits(records.store, staged), made_from, records.store)


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
    """The work of the stage `write`. staged: the records have stages of a curriculum."""

    store: Store
    staged: bool

    def __call__(self, unit: UnitFiles, scratch: Scratch) -> Counters:
        """Counters: `split/S` and `split/S/SOURCE` of each split, `repeated`, and removed records as
        `removed/STAGE/REASON`.
        """
        counters = Counter[str]()
        splits = pa.concat_tables([SPLITS_SCHEMA.empty_table(), *read_tables(self.store, unit.splits)])
        duplicates = self._duplicates(unit)
        first = 0
        for records in read_tables(self.store, unit.records):
            own = splits.slice(first, records.num_rows)
            first += records.num_rows
            sources = pc.struct_field(records["metadata"].combine_chunks(), "source")
            for number, name in enumerate(SPLITS):
                here = np.flatnonzero(own["split"].to_numpy() == number)
                if len(here):
                    times = own["copies"].to_numpy()[here]
                    at = pa.array(np.repeat(here, times))
                    chosen = _with_names_of_copies(records.take(at), times)
                    chosen = chosen.append_column("split", pa.repeat(name, chosen.num_rows))
                    for column in ("fold", *(_OF_CURRICULUM if self.staged else ())):
                        chosen = chosen.append_column(column, own[column].take(at))
                    scratch.write(name, chosen)
                    counters[f"split/{name}"] += chosen.num_rows
                    counters["repeated"] += chosen.num_rows - len(here)
                    for found in pc.value_counts(sources.take(at)).to_pylist():
                        counters[f"split/{name}/{found['values']}"] += found["counts"]
            gone = pc.less(own["split"], 0)
            rows = zip(own["row"].filter(gone).to_pylist(), own["split"].filter(gone).to_pylist(), strict=True)
            pairs = zip(records.filter(gone).to_pylist(), rows, strict=True)
            removed = [_removed(record, why, duplicates.get(row)) for record, (row, why) in pairs]
            if removed:
                scratch.write(REMOVED, pa.Table.from_pylist(removed, REMOVED_SCHEMA))
                counters.update(f"removed/{row['stage']}/{row['reason']}" for row in removed)
        for rejected in read_tables(self.store, unit.rejected):
            columns = {name: rejected[name] for name in REJECTED_SCHEMA.names if name != "row"}
            missing = {field.name: pa.nulls(rejected.num_rows, field.type) for field in REMOVED_SCHEMA}
            stages = ["table" if reason in frame.REASONS else "validate" for reason in rejected["reason"].to_pylist()]
            scratch.write(REMOVED, pa.table(missing | columns | {"stage": pa.array(stages, pa.string())}))
            pairs = zip(stages, rejected["reason"].to_pylist(), strict=True)
            counters.update(f"removed/{stage}/{reason}" for stage, reason in pairs)
        return dict(counters)

    def _duplicates(self, unit: UnitFiles) -> dict[int, dict[str, Any]]:
        """The rows of the groups with a removed record of the unit, by its row."""
        found: dict[int, dict[str, Any]] = {}
        for groups in read_tables(self.store, unit.groups):
            own = groups.filter(pc.and_(pc.equal(groups["unit"], unit.number), groups["reason"].is_valid()))
            found |= {row["row"]: row for row in own.to_pylist()}
        return found


def _with_names_of_copies(records: pa.Table, times: np.ndarray) -> pa.Table:
    """The records, of which the second and later copies have ids of their own, and the first one as their parent.

    times: how often each record stands here, one after the other.
    """
    if (times == 1).all():
        return records
    number = np.concatenate([np.arange(1, count + 1) for count in times.tolist()]).tolist()
    ids = records["id"].to_pylist()
    named = [id if copy == 1 else f"{id}#{copy}" for id, copy in zip(ids, number, strict=True)]
    parents = [
        before if copy == 1 else {"parents": [id], "operation": "repeat"}
        for id, copy, before in zip(ids, number, records["provenance"].to_pylist(), strict=True)
    ]
    columns = {"id": pa.array(named), "provenance": pa.array(parents, records.schema.field("provenance").type)}
    return pa.table({name: columns.get(name, records[name]) for name in records.column_names})


def _removed(record: dict[str, Any], why: int, duplicate: dict[str, Any] | None) -> dict[str, Any]:
    """The ledger's row of a record that meets all rules. duplicate: its row of a group, if it is removed for that."""
    content = {name: value for name, value in record.items() if name not in ("id", "metadata", "provenance")}
    shared = {"id": record["id"], "source": record["metadata"]["source"]}
    shared["content"] = json.dumps(content, ensure_ascii=False)
    if why == DUPLICATE:
        assert duplicate is not None, "a removed duplicate has a row in its group"
        columns = ("reason", "partner", "partner_source", "similarity")
        return shared | {"stage": "duplicates"} | {name: duplicate[name] for name in columns}
    stage, reason = _LEFT_OUT[why]
    return shared | {"stage": stage, "reason": reason}
