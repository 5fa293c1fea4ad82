"""The stage `augment`: variants of training records.

unit of input: its records, and where they go  ->  _work/augmented        the variants, as the records
                                                   _work/not-augmented    invalid variants, with the reason

A unit also reads the hashes of all questions of the data set, 8 bytes a record: a variant repeats no question of
another record, which may be in another split or have another label.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.entry import Entry
from raymill.cluster.examples.content import Shape, from_shape, to_shape
from raymill.cluster.examples.messages import without_nulls
from raymill.cluster.readers.formats.row_sizes import row_bytes
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.augment.settings import Augment
from raymill.pipelines.prepare.augment.thesaurus import fingerprint_of, thesaurus_memory
from raymill.pipelines.prepare.augment.variants import Variant, Variants
from raymill.pipelines.prepare.records.fields import AUGMENT, metadata_of, value_of
from raymill.pipelines.prepare.stages.collect import RECORDS
from raymill.pipelines.prepare.stages.split_stage import ASKED, SPLIT_FILES, SPLITS_SCHEMA

AUGMENTED, NOT_AUGMENTED = "_work/augmented", "_work/not-augmented"
AUGMENT_VERSION = "1"
_LONGEST = 100  # maximum characters of a class in counters
_QUESTION_MEMORY = 16  # bytes of each question of the data set
_ROWS = 1000  # records that are Python objects at a time
_MOST_HELD = 64 << 20  # bytes of variants that are; a record may have a hundred of its own size
# Loads wordfreq, an optional package.
_synonyms = Entry("raymill.pipelines.prepare.augment.synonyms:synonyms")
_thesaurus = Entry("raymill.pipelines.prepare.augment.synonyms:load")

NOT_AUGMENTED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the variant
        ("source", pa.string()),
        ("reason", pa.string()),  # a key of variants.REASONS
        ("value", pa.string()),
        ("limit", pa.string()),
        ("partner", pa.string()),  # the record
        ("partner_source", pa.string()),
        ("similarity", pa.float64()),
        ("content", pa.large_string()),  # the variant's columns as JSON, those of the record if there is none
    ]
)


def augment_stage(settings: Augment, artifacts: dict[str, Artifact], units: int, shape: Shape, memory: int) -> Stage:
    """The stage that writes AUGMENTED and NOT_AUGMENTED.

    artifacts: artifacts of earlier stages. units: number of units of input. memory: bytes of a unit's records.
    """
    records, splits, asked = (artifacts[name] for name in (RECORDS, SPLIT_FILES, ASKED))
    store, synonyms = records.store, settings.operations.synonyms
    row = pa.field("row", pa.int64())  # of the record, in its unit
    outputs = (Output(AUGMENTED, pa.schema([row, *records.schema])), Output(NOT_AUGMENTED, NOT_AUGMENTED_SCHEMA))
    depends_on = {
        "version": AUGMENT_VERSION,
        "made from": [records.manifest.fingerprint, splits.manifest.fingerprint],
        "settings": settings.model_dump(mode="json"),
        "thesaurus": synonyms and fingerprint_of(store, synonyms.thesaurus),
    }
    memory += augment_memory(store, settings, asked.manifest.rows)
    work = partial(augment, settings, shape, asked, records.schema)
    parts = list(zip(records.files_by_unit(units), splits.files_by_unit(units), strict=True))
    return Stage("augment", outputs, parts, work, fingerprint(depends_on), store, memory=memory)


def augment_memory(store: Store, settings: Augment | None, records: int) -> int:
    """Bytes of memory of a unit besides its records. records: number of records of the data set."""
    if settings is None:
        return 0
    synonyms = settings.operations.synonyms
    return _QUESTION_MEMORY * records + (thesaurus_memory(store, synonyms.thesaurus) if synonyms else 0)


def augment(
    settings: Augment,
    shape: Shape,
    asked: Artifact,
    schema: pa.Schema,
    unit: tuple[list[str], list[str]],
    scratch: Scratch,
) -> Counters:
    """The work of a unit. unit: its files of records and of their splits.

    Counters: `augmented`, and by operation `augmented/O`; with `by` the records of each class in training as
    `class/VALUE`, and its variants as `class-variants/VALUE`.
    """
    (uris, places), store, counters = unit, asked.store, Counter[str]({"augmented": 0})
    splits = pa.concat_tables([SPLITS_SCHEMA.empty_table(), *read_tables(store, places)])
    known = asked.table()["asked"].to_numpy()
    makes = Variants(settings, partial(_is_in, known), _synonyms_of(settings, store))
    first = 0
    for table in read_tables(store, uris):
        own = splits.slice(first, table.num_rows)
        wanted = own["variants"].to_numpy()
        if settings.by:
            in_train = np.flatnonzero(own["split"].to_numpy() == 0)
            fields = table.select(["metadata", "annotations"]).take(pa.array(in_train)).to_pylist()
            times = own["copies"].to_numpy()[in_train].tolist()
            for record, copies in zip(fields, times, strict=True):
                counters[f"class/{_class_of(record, settings.by)}"] += copies
        for start in range(0, table.num_rows, _ROWS):
            rows = start + np.flatnonzero(wanted[start : start + _ROWS])
            _write(settings, makes, shape, schema, table, rows, wanted, first, scratch, counters)
        first += table.num_rows
    return dict(counters)


def _write(
    settings: Augment,
    makes: Variants,
    shape: Shape,
    schema: pa.Schema,
    table: pa.Table,
    rows: np.ndarray,
    wanted: np.ndarray,
    first: int,
    scratch: Scratch,
    counters: Counter[str],
) -> None:
    """Write the variants of some rows of a table. first: the number of its first row in the unit."""
    made, refused, held = list[dict[str, Any]](), list[dict[str, Any]](), 0

    def write() -> None:
        if made:
            scratch.write(AUGMENTED, pa.Table.from_pylist(made, pa.schema([("row", pa.int64()), *schema])))
        if refused:
            scratch.write(NOT_AUGMENTED, pa.Table.from_pylist(refused, NOT_AUGMENTED_SCHEMA))
        made.clear()
        refused.clear()

    chosen = table.take(pa.array(rows)).combine_chunks()
    sizes = np.concatenate([np.zeros(0, np.int64), *map(row_bytes, chosen.to_batches())])
    for row, record, size in zip(rows.tolist(), chosen.to_pylist(), sizes.tolist(), strict=True):
        for one in makes.of(record["id"], from_shape(record, shape), int(wanted[row])):
            held += size
            if held > _MOST_HELD:
                write()
                held = size
            if one.reason is not None:
                refused.append(_refused(record, one, shape))
                continue
            made.append(_as_record(record, one, shape) | {"row": first + row})
            counters.update({"augmented": 1, f"augmented/{one.operation}": 1})
            if settings.by:
                counters[f"class-variants/{_class_of(record, settings.by)}"] += 1
    write()


def _is_in(known: np.ndarray, hashed: int) -> bool:
    at = int(np.searchsorted(known, np.uint64(hashed)))
    return at < len(known) and int(known[at]) == hashed


def _synonyms_of(settings: Augment, store: Store) -> Any:
    """The operation `synonyms` with its thesaurus; None if it is off."""
    options = settings.operations.synonyms
    return options and partial(_synonyms.load(), options.words, _thesaurus(store, options.thesaurus))


def _class_of(record: dict[str, Any], by: Sequence[str]) -> str:
    """The class of a record: its values of `by`, joined by commas."""
    metadata = metadata_of(record)
    return ", ".join(value_of(name, metadata.get(name)) or "" for name in by)[:_LONGEST]


def _id_of(record: dict[str, Any], variant: Variant) -> str:
    return f"{record['id']}#{variant.operation}-{variant.number}"


def _as_record(record: dict[str, Any], variant: Variant, shape: Shape) -> dict[str, Any]:
    """The columns of a variant."""
    assert variant.content is not None
    provenance = {"parents": [record["id"]], "operation": f"{AUGMENT}{variant.operation}"}
    return record | to_shape(variant.content, shape) | {"id": _id_of(record, variant), "provenance": provenance}


def _refused(record: dict[str, Any], variant: Variant, shape: Shape) -> dict[str, Any]:
    """The row of NOT_AUGMENTED of a variant."""
    content = from_shape(record, shape) if variant.content is None else variant.content
    columns = json.dumps(without_nulls(to_shape(content, shape)), ensure_ascii=False)
    source = record["metadata"]["source"]
    return {
        "id": _id_of(record, variant),
        "source": source,
        "reason": variant.reason,
        "value": None if variant.similarity is None else f"{variant.similarity:.3g}",
        "limit": variant.limit,
        "partner": record["id"],
        "partner_source": source,
        "similarity": variant.similarity,
        "content": columns,
    }
