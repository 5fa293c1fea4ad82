"""The stage `write`: the splits and the ledger as files.

unit of input: its records, where they go,  ->  train, validation, test
and variants of them                            removed   the ledger
                                                listed    records of the splits that a setting `list` found
                                                examples  of contradictory records, those that the report shows
                                                classes   how many records of each class are where
                                                removed-examples  rows of the ledger, one for each reason
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.examples.content import Shape, columns_in_use, from_shape, sides_of
from raymill.cluster.examples.messages import without_nulls
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.readers.formats.row_sizes import row_bytes
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records import tables
from raymill.pipelines.prepare.records.fields import (
    CLASSES,
    CLASSES_SCHEMA,
    ClassCounter,
    class_fields,
    is_synthetic,
    metadata_of,
)
from raymill.pipelines.prepare.stages.augment import AUGMENTED, NOT_AUGMENTED
from raymill.pipelines.prepare.stages.collect import RECORDS, REJECTED, REJECTED_SCHEMA
from raymill.pipelines.prepare.stages.complexity import COMPLEXITY
from raymill.pipelines.prepare.stages.duplicates import DuplicateGroups
from raymill.pipelines.prepare.stages.split_stage import (
    CONTRADICTORY,
    OUTLIER,
    OVER_CLASS,
    OVER_SHARE,
    OVER_SYNTHETIC,
    REPEATED,
    SPLIT_FILES,
    SPLITS_SCHEMA,
    UNRELATED,
)

REMOVED, LISTED, EXAMPLES, REMOVED_EXAMPLES = "removed", "listed", "_work/examples", "_work/removed-examples"
WRITE_VERSION = "8"

EXAMPLES_SHOWN = 5  # questions with contradictory answers
_ANSWERS_SHOWN = 3  # of each
_NO_CONTENT = ("id", "metadata", "annotations", "provenance")
_CONTENT_SHOWN = 2000  # characters of the content in REMOVED_EXAMPLES
_TEXT_SHOWN = 2000  # characters of a question or answer in LISTED
_MOST_COPIED = 64 << 20  # bytes of copies of records in memory; a record may have a thousand

# Why records that meet all rules and are no duplicates are not in the data set, by the number in SPLIT_FILES.
_LEFT_OUT = {
    UNRELATED: ("relevance", "unrelated_answer"),
    CONTRADICTORY: ("contradictions", "contradictory"),
    OUTLIER: ("outliers", "outlier"),
    OVER_SHARE: ("mixture", "over_share"),
    OVER_CLASS: ("balance", "over_class"),
    OVER_SYNTHETIC: ("synthetic", "over_synthetic"),
}

_OF_CURRICULUM = {"complexity": pa.float64(), "stage": pa.int8()}

# What duplicates are called, by what is alike and by the reason that deduplication gives.
_REASONS = {
    "record": {"exact_duplicate": "exact_duplicate", "near_duplicate": "near_duplicate"},
    "question": {"exact_duplicate": "same_question", "near_duplicate": "near_question"},
    "answer": {"exact_duplicate": "same_answer", "near_duplicate": "near_answer"},
}

REMOVED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        # table, validate, relevance, duplicates, contradictions, outliers, mixture, synthetic, balance or augment
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("value", pa.string()),
        ("limit", pa.string()),
        # Of a duplicate the id of the kept record, of a contradictory one the id of a record with another answer;
        # then its source.
        ("partner", pa.string()),
        ("partner_source", pa.string()),
        ("similarity", pa.float64()),
        ("content", pa.large_string()),  # the record's columns as JSON
    ]
)


LISTED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("reason", pa.string()),  # as in REMOVED
        ("value", pa.string()),
        ("limit", pa.string()),
        ("partner", pa.string()),  # as in REMOVED
        ("partner_source", pa.string()),
        ("similarity", pa.float64()),
        ("contradictory", pa.int64()),  # equal for records with the same question
        ("question", pa.large_string()),  # their beginnings
        ("answer", pa.large_string()),
    ]
)
Partners = dict[str, dict[int, dict[str, Any]]]


def write_stage(artifacts: dict[str, Artifact], repeats: dict[str, DuplicateGroups], units: int, shape: Shape) -> Stage:
    """The stage that writes the artifacts named above.

    artifacts: of the stages before. repeats: as of `find_repeats`.
    """
    records, rejected, splits = (artifacts[name] for name in (RECORDS, REJECTED, SPLIT_FILES))
    staged = COMPLEXITY in artifacts
    added = {"split": pa.string(), "fold": pa.int8()} | (_OF_CURRICULUM if staged else {})
    content = columns_in_use(shape, {name.removeprefix("with/") for name in records.manifest.counters})
    others = {name: records.schema.field(name).type for name in _NO_CONTENT}
    own = pa.schema({"id": others.pop("id"), **content, **others})
    schema = pa.schema([*own, *added.items()])
    outputs = (
        *(Output(name, schema) for name in SPLITS),
        Output(REMOVED, REMOVED_SCHEMA),
        Output(LISTED, LISTED_SCHEMA),
        Output(EXAMPLES, LISTED_SCHEMA),
        Output(CLASSES, CLASSES_SCHEMA),
        Output(REMOVED_EXAMPLES, REMOVED_SCHEMA),
    )
    of_repeats = {name: one.files_by_unit(units) for name, one in repeats.items()}
    variants = [artifacts[name] for name in (AUGMENTED, NOT_AUGMENTED) if name in artifacts]
    files = zip(*(one.files_by_unit(units) for one in (records, rejected, splits, *variants)), strict=True)
    parts = [
        WriteUnit(number, own, rejects, places, {name: uris[number] for name, uris in of_repeats.items()}, *of_variants)
        for number, (own, rejects, places, *of_variants) in enumerate(files)
    ]
    read = (records, rejected, splits, *variants)
    made_from = fingerprint([WRITE_VERSION, *(one.manifest.fingerprint for one in read)])
    removes = frozenset(name for name, one in repeats.items() if one.removes)
    work = WriteSplits(records.store, own, staged, shape, removes, class_fields(own))
    return Stage("write", outputs, parts, work, made_from, records.store)


@dataclass(frozen=True)
class WriteUnit:
    """A unit of `write`: the number of a unit of input, and its files; those of repeats have others' rows too."""

    number: int
    records: list[str]
    rejected: list[str]
    splits: list[str]
    repeats: dict[str, list[str]]
    augmented: Sequence[str] = ()
    not_augmented: Sequence[str] = ()


@dataclass(frozen=True)
class WriteSplits:
    """The work of the stage `write`.

    schema: of the records. staged: they have stages of a curriculum. removes: the repeats that are removed. fields: of
    classes.
    """

    store: Store
    schema: pa.Schema
    staged: bool
    shape: Shape
    removes: frozenset[str]
    fields: list[str]

    def __call__(self, unit: WriteUnit, scratch: Scratch) -> Counters:
        """Counters: `split/S` and `split/S/SOURCE` of each split, `repeated`, `augmented`, those that a model or
        augmentation made as `made/S/OPERATION`, generated ones as `generated/S/[MODEL, TERMS]`, removed records as
        `removed/STAGE/REASON`, and listed ones as `listed/REASON`.
        """
        counters = Counter[str]()
        classes = ClassCounter(self.fields)
        examples: dict[tuple[str, str], dict[str, Any]] = {}
        splits = pa.concat_tables([SPLITS_SCHEMA.empty_table(), *read_tables(self.store, unit.splits)])
        # By what is alike and row: the rows of the groups with a record of the unit that is like an earlier one.
        partners: Partners = {name: {} for name in unit.repeats}
        for name, uris in unit.repeats.items():
            for groups in read_tables(self.store, uris):
                own = groups.filter(pc.and_(pc.equal(groups["unit"], unit.number), groups["reason"].is_valid()))
                partners[name] |= {row["row"]: row for row in own.to_pylist()}
        first = 0
        for records in read_tables(self.store, unit.records):
            records = records.select(self.schema.names).cast(self.schema)
            own = splits.slice(first, records.num_rows)
            first += records.num_rows
            for number, name in enumerate(SPLITS):
                here = np.flatnonzero(own["split"].to_numpy() == number)
                times = own["copies"].to_numpy()[here]
                for at, copies in _copies(records, here, times):
                    chosen = _with_names_of_copies(records.take(at), copies)
                    chosen = chosen.append_column("split", pa.repeat(name, chosen.num_rows))
                    for column in ("fold", *(_OF_CURRICULUM if self.staged else ())):
                        chosen = chosen.append_column(column, own[column].take(at))
                    self._write(scratch, name, chosen, counters)
                    counters["repeated"] += int(np.count_nonzero(copies > 1))
            gone = pc.less(own["split"], 0)
            pairs = zip(records.filter(gone).to_pylist(), own.filter(gone).to_pylist(), strict=True)
            removed = [_removed(record, place, partners) for record, place in pairs]
            if removed:
                scratch.write(REMOVED, pa.Table.from_pylist(removed, REMOVED_SCHEMA))
                counters.update(f"removed/{row['stage']}/{row['reason']}" for row in removed)
                for row in removed:
                    examples.setdefault((row["stage"], row["reason"]), row)
            reasons = (f"{row['stage']}/{row['reason']}" for row in removed)
            places = [SPLITS[split] if split >= 0 else next(reasons) for split in own["split"].to_pylist()]
            fields = records.select(["metadata", "annotations"]).to_pylist()
            for one, place in zip(fields, places, strict=True):
                classes.add(metadata_of(one), place)
            self._list(scratch, records, own, partners, counters)
        for variants in read_tables(self.store, unit.augmented):
            chosen = variants.select(self.schema.names).cast(self.schema)
            chosen = chosen.append_column("split", pa.repeat(SPLITS[0], chosen.num_rows))
            for column in ("fold", *(_OF_CURRICULUM if self.staged else ())):
                chosen = chosen.append_column(column, splits[column].take(variants["row"]))
            self._write(scratch, SPLITS[0], chosen, counters)
            counters["augmented"] += chosen.num_rows
        for refused in read_tables(self.store, unit.not_augmented):
            stage = pa.repeat("augment", refused.num_rows)
            scratch.write(REMOVED, refused.append_column("stage", stage).select(REMOVED_SCHEMA.names))
            counters.update(f"removed/augment/{reason}" for reason in refused["reason"].to_pylist())
            for row in refused.to_pylist():
                examples.setdefault(("augment", row["reason"]), row | {"stage": "augment"})
        for rejected in read_tables(self.store, unit.rejected):
            columns = {name: rejected[name] for name in REJECTED_SCHEMA.names if name not in ("row", "classes")}
            missing = {field.name: pa.nulls(rejected.num_rows, field.type) for field in REMOVED_SCHEMA}
            stages = ["table" if reason in tables.REASONS else "validate" for reason in rejected["reason"].to_pylist()]
            table = pa.table(missing | columns | {"stage": pa.array(stages, pa.string())}, schema=REMOVED_SCHEMA)
            scratch.write(REMOVED, table)
            reasons_of = list(zip(stages, rejected["reason"].to_pylist(), strict=True))
            counters.update(f"removed/{stage}/{reason}" for stage, reason in reasons_of)
            for at, reason in enumerate(reasons_of):
                if reason not in examples:
                    examples[reason] = table.slice(at, 1).to_pylist()[0]
            for one, reason in zip(rejected["classes"].to_pylist(), reasons_of, strict=True):
                classes.add(json.loads(one), "/".join(reason))
        scratch.write(CLASSES, classes.table())
        shown = [row | {"content": row["content"][:_CONTENT_SHOWN]} for row in examples.values()]
        if shown:
            scratch.write(REMOVED_EXAMPLES, pa.Table.from_pylist(shown, REMOVED_SCHEMA))
        return dict(counters)

    def _write(self, scratch: Scratch, split: str, records: pa.Table, counters: Counter[str]) -> None:
        """Write records of a split, and count them."""
        scratch.write(split, records)
        counters[f"split/{split}"] += records.num_rows
        for source in pc.value_counts(pc.struct_field(records["metadata"].combine_chunks(), "source")).to_pylist():
            counters[f"split/{split}/{source['values']}"] += source["counts"]
        counters.update(f"generated/{split}/{by}" for by in _generated(records["metadata"]))
        operations = pc.struct_field(records["provenance"].combine_chunks(), "operation")
        for found in pc.value_counts(operations.drop_null()).to_pylist():
            if is_synthetic(found["values"]):
                counters[f"made/{split}/{found['values']}"] += found["counts"]

    def _list(
        self, scratch: Scratch, records: pa.Table, own: pa.Table, partners: Partners, counters: Counter[str]
    ) -> None:
        """Write LISTED and EXAMPLES. own: where the records go."""
        listed = {name: rows for name, rows in partners.items() if name not in self.removes}
        alike = pa.array(sorted({row for rows in listed.values() for row in rows}), pa.int64())
        noted = pc.or_(own["contradictory"].is_valid(), own["outlier"].is_valid())
        wanted = pc.or_(noted, pc.is_in(own["row"], alike))
        rows, examples = [], []
        for record, place in zip(records.filter(wanted).to_pylist(), own.filter(wanted).to_pylist(), strict=True):
            found = self._listed(record, place, listed)
            if place["split"] >= 0:
                rows += found
            if (place["contradictory"] or EXAMPLES_SHOWN + 1) <= EXAMPLES_SHOWN:
                examples += found[-1:] if place["of_contradictory"] < _ANSWERS_SHOWN else []
        for output, some in ((LISTED, rows), (EXAMPLES, examples)):
            if some:
                scratch.write(output, pa.Table.from_pylist(some, LISTED_SCHEMA))
        counters.update(f"listed/{row['reason']}" for row in rows)

    def _listed(self, record: dict[str, Any], place: dict[str, Any], listed: Partners) -> list[dict[str, Any]]:
        """The rows of a record, the last one for contradictory answers. place: its row of SPLIT_FILES."""
        text = sides_of(from_shape(record, self.shape))
        shared = {
            "id": record["id"],
            "source": record["metadata"]["source"],
            "split": SPLITS[place["split"]] if place["split"] >= 0 else None,
            "question": text.question[:_TEXT_SHOWN],
            "answer": text.answer[:_TEXT_SHOWN],
        }
        found = [shared | _partner(name, rows[place["row"]]) for name, rows in listed.items() if place["row"] in rows]
        if place["outlier"] is not None:
            found.append(shared | {"reason": "outlier", "value": place["outlier"], "limit": place["outlier_limit"]})
        if place["contradictory"] is not None:
            found.append(
                shared | {"reason": "contradictory", "contradictory": place["contradictory"]} | _contradicted(place)
            )
        return found


def _generated(metadata: pa.ChunkedArray) -> list[str]:
    """[MODEL, TERMS] as JSON of each record that a model generated. metadata: structs."""
    if "generator" not in metadata.type.names:
        return []
    rows = [(one["generator"], one.get("terms")) for one in metadata.to_pylist()]
    return [json.dumps(by, ensure_ascii=False) for by in rows if by[0]]


def _copies(records: pa.Table, rows: np.ndarray, times: np.ndarray) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """(rows of copies, the number of each copy from 1), in pieces of about _MOST_COPIED bytes.

    times: how often each of the rows is written, one after the other.
    """
    at = np.repeat(rows, times)
    number = np.arange(len(at)) - np.repeat(np.cumsum(times) - times, times) + 1
    sizes = np.concatenate([np.zeros(0, np.int64), *map(row_bytes, records.combine_chunks().to_batches())])
    piece = np.cumsum(sizes[at]) // _MOST_COPIED
    ends = np.flatnonzero(np.diff(piece, append=-1)) + 1
    for start, end in pairwise([0, *ends.tolist()]):
        yield pa.array(at[start:end]), number[start:end]


def _with_names_of_copies(records: pa.Table, number: np.ndarray) -> pa.Table:
    """The records, of which the second and later copies have ids of their own, and the first one as their parent.

    number: of each copy, from 1.
    """
    if (number == 1).all():
        return records
    copies, ids = number.tolist(), records["id"].to_pylist()
    named = [id if copy == 1 else f"{id}#{copy}" for id, copy in zip(ids, copies, strict=True)]
    parents = [
        before if copy == 1 else {"parents": [id], "operation": "repeat"}
        for id, copy, before in zip(ids, copies, records["provenance"].to_pylist(), strict=True)
    ]
    columns = {"id": pa.array(named), "provenance": pa.array(parents, records.schema.field("provenance").type)}
    return pa.table({name: columns.get(name, records[name]) for name in records.column_names})


def _removed(record: dict[str, Any], place: dict[str, Any], partners: Partners) -> dict[str, Any]:
    """The ledger's row of a record that meets all rules. place: its row of SPLIT_FILES."""
    content = without_nulls({name: value for name, value in record.items() if name not in _NO_CONTENT})
    shared = {"id": record["id"], "source": record["metadata"]["source"]}
    shared["content"] = json.dumps(content, ensure_ascii=False)
    for name, number in REPEATED.items():
        if place["split"] == number:
            return shared | {"stage": "duplicates"} | _partner(name, partners[name][place["row"]])
    stage, reason = _LEFT_OUT[place["split"]]
    more: dict[str, Any] = {}
    if place["split"] == OUTLIER:
        more = {"value": place["outlier"], "limit": place["outlier_limit"]}
    elif place["split"] == UNRELATED:
        more = {"value": place["unrelated"], "limit": place["unrelated_limit"]}
    elif place["split"] == CONTRADICTORY:
        more = _contradicted(place)
    return shared | {"stage": stage, "reason": reason} | more


def _contradicted(place: dict[str, Any]) -> dict[str, Any]:
    """The columns with the partner of a contradictory record. place: its row of SPLIT_FILES."""
    return {"partner": place["contradicts"], "partner_source": place["contradicts_source"]}


def _partner(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a record that is like another one. name: what is alike. row: of GROUPS."""
    columns = {column: row[column] for column in ("partner", "partner_source", "similarity")}
    return columns | {"reason": _REASONS[name][row["reason"]]}
