"""The stage `collect`: reads every record, cleans it, and checks it against the rules.

unit of input  ->  _work/records     the records that meet all rules, in the columns of their shape
                   _work/attributes  of each of them what deduplication compares; then the same of its question and
                                     of its answer, if `duplicates` looks for these
                   _work/keys        of each of them what splitting needs
                   _work/rejected    the others, with the rule that they do not meet
                   quarantine        rows that are no records
                   cut               what readers and cleaning took out of texts, if `clean.keep_cut`
                   _work/cut         an example of each kind of it
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from cluster.artifact import Counters, fingerprint
from cluster.examples.content import (
    COLUMNS,
    FIELDS,
    Role,
    Shape,
    Sides,
    Unusable,
    content_of,
    sides_of,
    texts_of,
    with_texts,
)
from cluster.readers.inputs import COLLECTED_AT, CONTENT, CUT, FILE, PARENTS, Cut, Limits
from cluster.readers.reader import CONTENT_CHARACTERS, ReaderCounts
from cluster.readers.units import InputManifest, Reading, Unit, read_unit, split_problems
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.dedup.settings import Dedup
from pipelines.language import fasttext_classifier
from pipelines.language.identification import LanguageId, identify
from pipelines.memory import files_memory, model_memory, task_memory
from pipelines.prepare.config import BASE_METADATA, Duplicates, PrepareConfig, Records, Source, Validate, plain_label
from pipelines.prepare.records.annotations import (
    ANNOTATIONS,
    ANNOTATIONS_TYPE,
    annotations_of,
    as_text,
    listed,
    value_of,
)
from pipelines.prepare.records.clean import Cleaner, load_terms
from pipelines.prepare.records.conversion import Collected, Conversion, from_template
from pipelines.prepare.records.hashes import hash64, hash_of_text
from pipelines.prepare.records.provenance import PROVENANCE, PROVENANCE_TYPE, provenance_of
from pipelines.prepare.records.templates import Template
from pipelines.prepare.records.times import in_iso, microseconds
from pipelines.prepare.records.validate import FailedRule, Validator, load_validator, texts_of_records
from pipelines.prepare.sources import Fields
from pipelines.prepare.stages.classes import class_fields, classes_json
from pipelines.prepare.stages.compared import ATTRIBUTES_SCHEMA, attributes, same
from pipelines.prepare.stages.outliers import measure
from pipelines.prepare.tables.frame import Dropped, Known, finished, typed
from pipelines.prepare.tables.stage import TablesFound
from pipelines.rules.quality_classifier import QualityClassifier
from pipelines.rules.rule import Analysis
from pipelines.text.lines import count_characters
from pipelines.text.normalize import NORMALIZE_VERSION
from pipelines.text.personal_data import PERSONAL_DATA_VERSION
from pipelines.text.texts import Texts

RECORDS, ATTRIBUTES, KEYS = "_work/records", "_work/attributes", "_work/keys"
# Not below the folders of their duplicates, _work/questions and _work/answers, which are outputs of their own.
QUESTIONS, ANSWERS = "_work/question-attributes", "_work/answer-attributes"
REJECTED, VERDICTS, QUARANTINE = "_work/rejected", "_work/verdicts", "quarantine"
CUT_TEXTS, CUT_EXAMPLES = "cut", "_work/cut"
COLLECT_VERSION = "8"

QUARANTINE_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # its number in the unit
        ("source", pa.string()),
        ("problem", pa.string()),  # of a reader (reader.PROBLEMS), or of a record (content.REASONS)
        ("where", pa.string()),
        # The beginning of what was read, as it was there; of rows that were read as fields, these as JSON.
        ("content", pa.string()),
    ]
)

REJECTED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("value", pa.string()),
        ("limit", pa.string()),
        ("content", pa.large_string()),  # the record's columns as JSON
        ("classes", pa.string()),  # as of `classes_json`
    ]
)

CUT_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # of the unit
        ("id", pa.string()),  # of the record; of a text that was divided, that of the whole
        ("source", pa.string()),
        ("kind", pa.string()),  # a key of CUT_KINDS
        ("text", pa.large_string()),
    ]
)

_LANGUAGE = LanguageId()

Rejected = tuple[Collected, dict[str, Any], FailedRule]


def records_schema(shape: Shape, metadata: Sequence[str]) -> pa.Schema:
    """The columns of a record. metadata: names of the fields besides those of BASE_METADATA; also of annotations."""
    names = (*BASE_METADATA, *(name for name in metadata if name not in {*BASE_METADATA, *ANNOTATIONS}))
    types = {"quality_score": pa.float64()}
    return pa.schema(
        [
            ("id", pa.string()),
            *COLUMNS[shape].items(),
            ("metadata", pa.struct([(name, types.get(name, pa.string())) for name in names])),
            ("annotations", ANNOTATIONS_TYPE),
            # Of records that were made of others: the ids of these, and how.
            ("provenance", PROVENANCE_TYPE),
        ]
    )


@dataclass(frozen=True)
class CollectSettings:
    """The settings on which the records depend."""

    limits: Limits
    shape: Shape
    sources: tuple[Source, ...]
    fields: tuple[Fields, ...]
    conversions: tuple[Conversion, ...]  # of each source
    task_types: tuple[str, ...]
    cleaner: Cleaner
    validator: Validator
    dedup: Dedup | None
    duplicates: Duplicates
    metadata: tuple[str, ...]
    stratify: tuple[str, ...]
    group: tuple[str, ...]
    balance: tuple[str, ...]


def keys_schema(settings: CollectSettings) -> pa.Schema:
    """The columns of KEYS: the source by number; the time of `split.by_time` in microseconds from 1970 (0 without it);
    hashes of 64 bits, 0 for a record without the group or answer, and of its parents; and what outliers are found by,
    NaN for a record without such a text.
    """
    hashes = ["id", "stratum", "class", *(f"group/{name}" for name in settings.group)]
    hashes += ["question"] + (["answer"] if settings.duplicates.contradictory != "ignore" else [])
    outliers = settings.validator.settings.outliers
    hashes += ["outliers"] if outliers else []
    measures = [f"measure/{name}" for name in outliers.measures] if outliers else []
    columns = [(name, pa.uint64()) for name in hashes] + [(name, pa.float64()) for name in measures]
    parents = ("parents", pa.list_(pa.uint64()))
    return pa.schema([("row", pa.int64()), ("source", pa.int32()), ("time", pa.int64()), parents, *columns])


def collect_settings(config: PrepareConfig, fields: tuple[Fields, ...], key: bytes) -> CollectSettings:
    """The part of a config that the stage takes. key: of pseudonyms."""
    task_types = tuple(one.task_type or config.records.task_type for one in config.inputs)
    conversions = tuple(_conversion(config, config.records.template(task_type)) for task_type in task_types)
    return CollectSettings(
        limits=config.limits,
        shape=config.records.shape,
        sources=config.inputs,
        fields=fields,
        conversions=conversions,
        task_types=task_types,
        cleaner=Cleaner(config.clean, key, load_terms(config.store, config.clean)),
        validator=load_validator(config.store, config.validation, config.split.by_time),
        dedup=config.dedup,
        duplicates=config.duplicates,
        metadata=config.metadata,
        stratify=config.split.stratify,
        group=config.split.group,
        balance=config.split.balance.by if config.split.balance else (),
    )


def _conversion(config: PrepareConfig, template: Template) -> Conversion:
    records = config.records
    most = _section_chars(records, config.validation, template)
    return Conversion(records.shape, template, records.preferences, records.chats_as_text, most)


def _section_chars(records: Records, rules: Validate, template: Template) -> int | None:
    """The most characters of a part of a text; None where texts are not divided."""
    wanted, becomes_answer = records.section_chars, records.shape != "text"
    if becomes_answer and "{text}" not in template.completion:
        return None
    if wanted == "answer_chars":
        wanted = rules.answer_chars[1] if rules.answer_chars and becomes_answer else None
    around = len(template.completion) - len("{text}") if becomes_answer else 0
    return None if wanted is None else max(wanted - around, 1)


def collect_stage(settings: CollectSettings, inputs: InputManifest, tables: TablesFound | None) -> Stage:
    """The stage that writes the artifacts named above. tables: None without a table."""
    outputs = (
        Output(RECORDS, records_schema(settings.shape, settings.metadata)),
        Output(ATTRIBUTES, ATTRIBUTES_SCHEMA),
        Output(KEYS, keys_schema(settings)),
        *(Output(name, ATTRIBUTES_SCHEMA) for name in (QUESTIONS, ANSWERS)),
        Output(VERDICTS, pa.schema([("row", pa.int64())])),
        Output(REJECTED, REJECTED_SCHEMA),
        Output(QUARANTINE, QUARANTINE_SCHEMA),
        Output(CUT_EXAMPLES, CUT_SCHEMA),
        *([Output(CUT_TEXTS, CUT_SCHEMA)] if settings.cleaner.settings.keep_cut else []),
    )
    clean, dedup = settings.cleaner.settings, settings.dedup
    sides = [one != "ignore" for one in settings.duplicates.model_dump().values()]
    depends_on = {
        "version": [COLLECT_VERSION, NORMALIZE_VERSION, PERSONAL_DATA_VERSION],
        "inputs": inputs.fingerprint,
        "units": len(inputs.units),
        "limits": settings.limits.model_dump(),
        "shape": settings.shape,
        "sources": [[one.source, one.licence, one.domain] for one in settings.sources],
        "fields": [{"columns": dict(one.columns), "main": one.main} for one in settings.fields],
        "speakers": [one.speakers for one in settings.sources],
        "day_first": [one.day_first for one in settings.sources],
        "templates": [one.template.model_dump() for one in settings.conversions],
        "forms": [
            [one.preferences, one.chats_as_text and one.chats_as_text.model_dump()] for one in settings.conversions
        ],
        "task_types": settings.task_types,
        "section_chars": [one.section_chars for one in settings.conversions],
        "clean": [clean.model_dump(exclude={"terminology"}), dict(settings.cleaner.terms)],
        "language": fasttext_classifier.fingerprint(inputs.reading.store, None),
        "key": hashlib.blake2b(settings.cleaner.key, digest_size=8, person=b"pseudonyms").hexdigest(),
        "validate": settings.validator.depends_on(),
        "signatures": dedup
        and [dedup.ngram_words, *dedup.banding, dedup.seed, dedup.exact_short] + ["symbols"] * dedup.symbols,
        "sides": sides,
        "split": [settings.metadata, settings.stratify, settings.group, settings.balance, settings.validator.by_time],
    }
    if tables is not None:
        depends_on["tables"] = [
            tables.tables.manifest.fingerprint,
            [one.columns for one in settings.sources if one.table is not None],
        ]
    return Stage(
        "collect",
        outputs,
        inputs.units,
        Collect(settings, inputs.reading, tables),
        fingerprint(depends_on),
        inputs.reading.store,
        _files,
        memory=collect_memory(settings.limits) + rules_memory(inputs.reading.store, settings.validator.settings),
    )


def collect_memory(limits: Limits) -> int:
    """Bytes of a unit. Texts are Python strings here, and a record holds its texts twice."""
    return 2 * task_memory(limits)


def rules_memory(store: Store, validation: Validate) -> int:
    """Bytes of the models and lists that the validation of a unit loads."""
    rules = (validation.language, validation.bad_words, *validation.filters.rules)
    of_model = model_memory(store, validation.inappropriate.model) if validation.inappropriate else 0
    return files_memory(store, rules) + of_model


def _files(unit: Unit) -> str:
    return files_from(unit.uris)


@dataclass(frozen=True)
class Collect:
    """The work of a unit. tables: what depends on all rows of tables; None without a table."""

    settings: CollectSettings
    reading: Reading
    tables: TablesFound | None

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        """Counters: `records`, `passed`, `quarantined`, `replaced` (findings of personal data), also by place as
        `replaced/PLACE` (text, metadata.FIELD, id, provenance, ledger, quarantine, cut), and by source and reason
        `records/S`, `passed/S`, `problem/S/R`, `rejected/S/R`, and of texts that were divided `divided/S`, with their
        parts `parts/S`; what was taken out of texts `cut/S/KIND`, with its characters `cut-characters/S/KIND`, and
        what readers passed over `skipped/S/REASON`, and what they left out of texts `note/S/NOTE`.
        """
        number = next(at for at, one in enumerate(self.settings.sources) if one.source == unit.source)
        counters = Counter[str]({"records": 0, "passed": 0, "quarantined": 0, "replaced": 0})
        passed_over = ReaderCounts()
        for table in read_unit(unit, self.reading, self.settings.limits, counts=passed_over):
            readable, unreadable = split_problems(table)
            self._quarantine(scratch, unit, unreadable, counters)
            if self.settings.sources[number].table is None:
                found = list(self._records(number, readable, unit, scratch, counters))
            else:
                found = self._records_of_table(number, readable, unit, scratch, counters)
            cleaned = self._cleaned(number, found, unit, scratch, counters)
            counters["records"] += len(cleaned)
            counters[f"records/{unit.source}"] += len(cleaned)
            self._write(number, unit, cleaned, scratch, counters)
        counters.update({f"skipped/{unit.source}/{reason}": count for reason, count in passed_over.skipped.items()})
        counters.update({f"note/{unit.source}/{note}": count for note, count in passed_over.notes.items() if count})
        return dict(counters)

    # --- rows to records

    @cached_property
    def _validators(self) -> list[Validator]:
        """The rules of each source. A field that a source has no column for is not required of its records."""
        rules = self.settings.validator
        found = []
        for source, fields in zip(self.settings.sources, self.settings.fields, strict=True):
            has = {*source.columns, *BASE_METADATA} | ({*fields.columns} if source.table is None else set())
            required = tuple(name for name in rules.settings.require if name in has)
            found.append(replace(rules, settings=rules.settings.model_copy(update={"require": required})))
        return found

    @cached_property
    def _class_fields(self) -> list[str]:
        return class_fields(records_schema(self.settings.shape, self.settings.metadata))

    @cached_property
    def _times(self) -> tuple[str, ...]:
        """Metadata that rules and the split take for dates or times."""
        rules, by_time = self.settings.validator.settings, self.settings.validator.by_time
        return tuple(dict.fromkeys([*rules.since, *rules.until, *([by_time] if by_time else [])]))

    @cached_property
    def _labels(self) -> dict[str, dict[str, str]]:
        """Metadata -> plain spelling -> the value to use."""
        return {
            name: {plain_label(one): value for value, others in values.items() for one in (value, *others)}
            for name, values in self.settings.cleaner.settings.labels.items()
        }

    def _records(
        self, number: int, table: pa.Table, unit: Unit, scratch: Scratch, counters: Counter[str]
    ) -> Iterator[Collected]:
        values = self.settings.fields[number].of(table)
        source = self.settings.sources[number]
        base = self._base(number)
        times = table[COLLECTED_AT].to_pylist()
        refused = []
        rows, ids = table["row"].to_pylist(), self._ids(table["id"].to_pylist(), "id", counters)
        joined = [self._ids(json.loads(ids or "[]"), "provenance", counters) for ids in table[PARENTS].to_pylist()]
        left_out = [[(kind, text) for kind, text in json.loads(one or "[]")] for one in table[CUT].to_pylist()]
        files = table[FILE].to_pylist()
        damaged = self.settings.fields[number].damaged(table)
        for at, (row, id, parents, cut, file) in enumerate(zip(rows, ids, joined, left_out, files, strict=True)):
            fields = {name: column[at] for name, column in values.items()}
            # A column of the source goes before what holds for all of it, unless it is empty.
            own = {name: value for name, value in fields.items() if name not in FIELDS}
            metadata = {**own, **base, "collected_at": times[at]}
            metadata |= {name: value for name, value in own.items() if value}
            content = {name: value for name, value in fields.items() if name in FIELDS}
            try:
                if at in damaged:
                    raise Unusable("bytes_not_utf8")
                metadata = self._standardised(metadata, source.day_first)
                found = content_of(content, _roles(source.speakers, metadata), cut)
                before, made = provenance_of(own)
                made = (*made, "thread") if parents else made
                before = tuple(self._ids(before, "provenance", counters))
                yield Collected(row, id, found, metadata, (*before, *parents), made, tuple(cut), file=file)
            except Unusable as error:
                refused.append((row, error.reason, fields, file))
        self._refuse(scratch, unit, refused, counters)

    def _standardised(self, metadata: dict[str, str | None], day_first: bool | None) -> dict[str, str | None]:
        """The fields of a record with the spellings of `clean.labels`, annotations as of `as_text`, times in ISO 8601.

        day_first: see `in_iso`.

        Raises:
            Unusable: `quality_score` is no finite number.
        """
        found = metadata | {name: as_text(listed(metadata[name])) for name in ANNOTATIONS if name in metadata}
        for name in self._times:
            found[name] = in_iso(found.get(name), day_first) or found.get(name)
        for name, spellings in self._labels.items():
            found[name] = _respelled(name, found.get(name), spellings)
        try:
            is_number = math.isfinite(_score(found) or 0)
        except ValueError:
            is_number = False
        if not is_number:
            raise Unusable("bad_quality_score")
        return found

    def _base(self, number: int) -> dict[str, str | None]:
        """What all records of a source have."""
        source, task_type = self.settings.sources[number], self.settings.task_types[number]
        return {"source": source.source, "licence": source.licence, "domain": source.domain, "task_type": task_type}

    @cached_property
    def _known(self) -> dict[str, Known]:
        """What depends on all rows, by source."""
        tables = self.tables
        return {one.source: tables.known(one.source) for one in self.settings.sources if one.table} if tables else {}

    def _records_of_table(
        self, number: int, rows: pa.Table, unit: Unit, scratch: Scratch, counters: Counter[str]
    ) -> list[Collected]:
        source = self.settings.sources[number]
        assert source.table is not None and self.tables is not None
        raw = self.settings.fields[number].of(rows)
        frame, wrong = typed(raw, source.table, source.day_first)
        done, dropped = finished(frame, source.table, self._known[source.source])
        repeated = self.tables.repeated_rows(unit.index)
        base = self._base(number)
        times, files = rows[COLLECTED_AT].to_pylist(), rows[FILE].to_pylist()
        records, refused = [], []
        rejected: list[Rejected] = []
        ids = self._ids(rows["id"].to_pylist(), "id", counters)
        plain = zip(rows["row"].to_pylist(), ids, wrong, dropped, done.to_dicts(), strict=True)
        for at, (row, id, *why, values) in enumerate(plain):
            given = {name: column[at] for name, column in raw.items()}
            first = Dropped("repeated_row", "", "another row") if row in repeated else None
            name = id or hash_of_text(json.dumps(given, ensure_ascii=False))
            if failed := why[0] or why[1] or first:
                record = Collected(row, name, "", {})
                shown = self._redacted_fields(given, "ledger", counters)
                rejected.append((record, shown, FailedRule(failed.reason, failed.value, failed.limit)))
                continue
            metadata = (
                base | {"collected_at": times[at]} | {field: values[column] for field, column in source.columns.items()}
            )
            try:
                metadata = self._standardised(metadata, source.day_first)
                content = from_template(source.table.template, {**values, "source": source.source})
            except Unusable as error:
                refused.append((row, error.reason, given, files[at]))
            else:
                before, made = provenance_of(metadata)
                before = tuple(self._ids(before, "provenance", counters))
                records.append(Collected(row, id, content, metadata, (name, *before), (*made, "table"), file=files[at]))
        counters["records"] += len(rejected)
        counters[f"records/{unit.source}"] += len(rejected)
        counters.update(f"rejected/{unit.source}/{failed.reason}" for _, _, failed in rejected)
        rejected = self._with_redacted_values(rejected, counters)
        if rejected:
            scratch.write(REJECTED, _rejected_table(unit.source, rejected, self._class_fields))
        self._refuse(scratch, unit, refused, counters)
        return records

    def _cleaned(
        self, number: int, records: list[Collected], unit: Unit, scratch: Scratch, counters: Counter[str]
    ) -> list[tuple[Collected, dict[str, Any]]]:
        """The records with cleaned texts, and the columns of their shape."""
        cut = [list(one.cut) for one in records]
        texts = self.settings.cleaner.cleaned([texts_of(one.content) for one in records], cut)
        records, texts = self._redacted(records, texts, counters)
        self._write_cut(records, cut, unit, scratch, counters)
        found: list[tuple[Collected, dict[str, Any]]] = []
        refused: list[tuple[int, str, dict[str, str | None], str]] = []
        first, conversion = counters["records"], self.settings.conversions[number]
        for record, cleaned in zip(records, texts, strict=True):
            try:
                some = conversion(record, with_texts(record.content, cleaned))
            except Unusable as error:
                given: dict[str, str | None] = {"texts": json.dumps(cleaned, ensure_ascii=False)}
                refused.append((record.row, error.reason, given, record.file))
                continue
            if len(some) > 1:
                counters.update({f"divided/{unit.source}": 1, f"parts/{unit.source}": len(some)})
            for one, columns in some:
                # Parts of one row need numbers of their own.
                row = record.row if conversion.section_chars is None else first + len(found)
                found.append((replace(one, row=row), columns))
        self._refuse(scratch, unit, refused, counters)
        return found

    def _write_cut(
        self,
        records: Sequence[Collected],
        cut: Sequence[Sequence[Cut]],
        unit: Unit,
        scratch: Scratch,
        counters: Counter[str],
    ) -> None:
        """Count what was taken out of the texts of records, and write it: the first text of each kind, or all."""
        examples, rows = list[dict[str, Any]](), list[dict[str, Any]]()
        for record, pieces in zip(records, cut, strict=True):
            for kind, text in pieces:
                row = {"row": record.row, "id": record.id, "source": unit.source, "kind": kind, "text": text}
                if not counters[f"cut/{unit.source}/{kind}"]:
                    examples.append(row | {"text": text[:CONTENT_CHARACTERS]})
                if self.settings.cleaner.settings.keep_cut:
                    rows.append(row)
                counters[f"cut/{unit.source}/{kind}"] += 1
                counters[f"cut-characters/{unit.source}/{kind}"] += len(text)
        for output, some in ((CUT_EXAMPLES, examples), (CUT_TEXTS, rows)):
            if some:
                # Counted once: all of them are written, or an example of each kind.
                counted = counters if output == CUT_TEXTS or not rows else Counter()
                plain = self._without_personal_data([row["text"] for row in some], "cut", counted)
                found = [row | {"text": text} for row, text in zip(some, plain, strict=True)]
                scratch.write(output, pa.Table.from_pylist(found, CUT_SCHEMA))

    # --- personal data

    def _redacted(
        self, records: list[Collected], texts: list[list[str]], counters: Counter[str]
    ) -> tuple[list[Collected], list[list[str]]]:
        """(the records with redacted metadata, their texts redacted)."""
        cleaner = self.settings.cleaner
        if not cleaner.settings.redact:
            return records, texts
        kept = {*BASE_METADATA, *PROVENANCE, *cleaner.settings.redact_except}
        names = [[name for name, value in one.metadata.items() if value and name not in kept] for one in records]
        strings = [
            [*some, *(str(record.metadata[name]) for name in of_record)]
            for record, some, of_record in zip(records, texts, names, strict=True)
        ]
        found, counts = cleaner.redacted(strings)
        for at, (record, some, of_record) in enumerate(zip(records, texts, names, strict=True)):
            count = len(some)
            self._count_replaced("text", sum(counts[at][:count]), counters)
            changed = {}
            for name, value, number in zip(of_record, found[at][count:], counts[at][count:], strict=True):
                if number:
                    changed[name] = value
                    self._count_replaced(f"metadata.{name}", number, counters)
            if changed:
                originals = {name: record.metadata[name] for name in changed}
                records[at] = replace(record, metadata={**record.metadata, **changed}, originals=originals)
        return records, [of_record[: len(some)] for of_record, some in zip(found, texts, strict=True)]

    def _ids(self, ids: Sequence[Any], place: str, counters: Counter[str]) -> list[Any]:
        """Ids, some of which may be None, without personal data."""
        cleaner = self.settings.cleaner
        if not cleaner.settings.redact or place in cleaner.settings.redact_except or not any(ids):
            return list(ids)
        found, counts = cleaner.redacted_ids([id or "" for id in ids])
        self._count_replaced(place, sum(counts), counters)
        return [id and new for id, new in zip(ids, found, strict=True)]

    def _without_personal_data(self, values: Sequence[str], place: str, counters: Counter[str]) -> list[str]:
        """Values that stand outside of records, each by itself."""
        # What could not be read may have lone surrogates.
        found, counts = self.settings.cleaner.redacted([[one.encode("utf-8", "replace").decode()] for one in values])
        self._count_replaced(place, sum(number for (number,) in counts), counters)
        return [value for (value,) in found]

    def _with_redacted_values(self, rejected: list[Rejected], counters: Counter[str]) -> list[Rejected]:
        """The records with the values that the rules saw, redacted."""
        values = self._without_personal_data([failed.value for _, _, failed in rejected], "ledger", counters)
        return [
            (record, columns, failed._replace(value=value))
            for (record, columns, failed), value in zip(rejected, values, strict=True)
        ]

    def _redacted_fields(
        self, fields: Mapping[str, str | None], place: str, counters: Counter[str]
    ) -> dict[str, str | None]:
        named = {name: value for name, value in fields.items() if value}
        redacted = self._without_personal_data(list(named.values()), place, counters)
        return {**fields, **dict(zip(named, redacted, strict=True))}

    @staticmethod
    def _count_replaced(place: str, number: int, counters: Counter[str]) -> None:
        if number:
            counters["replaced"] += number
            counters[f"replaced/{place}"] += number

    # --- records to files

    def _write(
        self,
        number: int,
        unit: Unit,
        records: list[tuple[Collected, dict[str, Any]]],
        scratch: Scratch,
        counters: Counter[str],
    ) -> None:
        self._identify_languages([record for record, _ in records])
        self._score_quality([record for record, _ in records])
        goes_on = [one.goes_on for one, _ in records]
        verdicts = self._validators[number]([(one.content, one.unredacted) for one, _ in records], goes_on)
        checked = list(zip(records, verdicts, strict=True))
        rejected: list[Rejected] = [(*one, failed) for one, failed in checked if failed is not None]
        rejected = self._with_redacted_values(rejected, counters)
        passed = [one for one, failed in checked if failed is None]
        counters["passed"] += len(passed)
        counters[f"passed/{unit.source}"] += len(passed)
        counters.update(f"rejected/{unit.source}/{failed.reason}" for _, _, failed in rejected)
        if rejected:
            scratch.write(REJECTED, _rejected_table(unit.source, rejected, self._class_fields))
        if passed:
            schema = records_schema(self.settings.shape, self.settings.metadata)
            names = [field.name for field in schema.field("metadata").type]
            rows = [
                {
                    "id": record.id,
                    **columns,
                    "metadata": {name: record.metadata.get(name) for name in names}
                    | {"quality_score": _score(record.metadata)},
                    "annotations": annotations_of(record.metadata),
                    "provenance": record.provenance,
                }
                for record, columns in passed
            ]
            scratch.write(RECORDS, pa.Table.from_pylist(rows, schema))
            stay = [record for record, _ in passed]
            texts = ["\n".join(filter(None, texts_of(one.content))) for one in stay]
            places, ids, sources = [one.row for one in stay], [one.id for one in stay], [unit.source] * len(stay)
            scratch.write(ATTRIBUTES, attributes(places, ids, sources, texts, self.settings.dedup, key=str))
            sides = [sides_of(one.content) for one in stay]
            self._sides(scratch, unit.source, stay, sides)
            scratch.write(KEYS, self._keys(number, stay, sides))

    def _keys(self, number: int, records: list[Collected], sides: list[Sides]) -> pa.Table:
        by_length = "length" in {*self.settings.stratify, *self.settings.balance} - {*self.settings.metadata}
        found = {"length": self._lengths(records)} if by_length else {}

        def hashed(names: Sequence[str]) -> list[int]:
            values = [
                found.get(name) or [value_of(name, one.unredacted.get(name)) or "" for one in records] for name in names
            ]
            return [hash64(*some) for some in zip(*values, strict=True)] if names else [hash64()] * len(records)

        by_time = self.settings.validator.by_time
        columns: dict[str, Any] = {
            "row": [one.row for one in records],
            "source": [number] * len(records),
            "time": [microseconds(one.metadata[by_time]) if by_time else 0 for one in records],
            "id": [hash64(one.id or "") for one in records],
            "parents": [[hash64(id) for id in one.parents] for one in records],
            "stratum": hashed(self.settings.stratify),
            "class": hashed(self.settings.balance),
        }
        for name in self.settings.group:
            values = (value_of(name, one.unredacted.get(name)) for one in records)
            columns[f"group/{name}"] = [hash64(value) if value else 0 for value in values]
        columns["question"] = [hash64(one.system, same(one.question)) if one.turns else 0 for one in sides]
        if self.settings.duplicates.contradictory != "ignore":
            columns["answer"] = [hash64(same(one.answer)) if one.turns else 0 for one in sides]
        if outliers := self.settings.validator.settings.outliers:
            columns["outliers"] = hashed(outliers.by)
            columns |= {f"measure/{name}": measure(name, sides) for name in outliers.measures}
        return pa.table(columns, schema=keys_schema(self.settings))

    def _identify_languages(self, records: list[Collected]) -> None:
        """Give every record without the metadata `language` its language, or none if that is not certain."""
        unknown = [one for one in records if not one.metadata.get("language")]
        texts = Texts.from_strings([sides_of(one.content).text for one in unknown])
        languages, scores = identify(texts, fasttext_classifier.load(self.reading.store, None), _LANGUAGE.max_chars)
        certain = zip(unknown, languages.to_pylist(), (scores >= _LANGUAGE.min_score).tolist(), strict=True)
        for record, language, is_certain in certain:
            record.metadata["language"] = language if is_certain else None

    def _score_quality(self, records: list[Collected]) -> None:
        """Give every record without the metadata `quality_score` that of the rule `quality_classifier`, if it is on."""
        filters = self.settings.validator.settings.filters
        rule = next((one for one in filters.rules if isinstance(one, QualityClassifier)), None)
        unknown = [one for one in records if not one.metadata.get("quality_score")]
        if rule is None or not unknown:
            return
        texts = texts_of_records([(one.content, one.metadata) for one in unknown])
        scores = rule.measure(Analysis(texts, filters.dialect, pa.table({}), self.reading.store))["quality_score"]
        for record, score in zip(unknown, scores.tolist(), strict=True):
            record.metadata["quality_score"] = f"{score:.6g}"

    def _lengths(self, records: list[Collected]) -> list[str]:
        """The class of each record's length."""
        texts = Texts.from_strings([sides_of(one.content).text for one in records])
        return [str(count.bit_length()) for count in count_characters(texts).tolist()]

    def _sides(self, scratch: Scratch, source: str, records: list[Collected], sides: list[Sides]) -> None:
        """Write what is compared of questions and of answers, of records that have them."""
        answered = [at for at, one in enumerate(sides) if one.turns]
        rows, ids = [records[at].row for at in answered], [records[at].id for at in answered]
        for output, asked in (
            (QUESTIONS, self.settings.duplicates.questions),
            (ANSWERS, self.settings.duplicates.answers),
        ):
            if asked != "ignore" and answered:
                texts = [sides[at].question if output == QUESTIONS else sides[at].answer for at in answered]
                dedup = self.settings.dedup or Dedup()
                scratch.write(output, attributes(rows, ids, [source] * len(rows), texts, dedup))

    # --- rows that are no records

    def _quarantine(self, scratch: Scratch, unit: Unit, rows: pa.Table, counters: Counter[str]) -> None:
        if rows.num_rows:
            columns = {name: rows[name] for name in ("row", "problem")}
            columns |= {
                "where": self._places(unit, rows["where"].to_pylist(), counters),
                "source": pa.repeat(unit.source, rows.num_rows),
                "content": pa.array(self._contents(unit, rows, counters), pa.string()),
            }
            scratch.write(QUARANTINE, pa.table(columns))
            counters["quarantined"] += rows.num_rows
            counters.update(f"problem/{unit.source}/{problem}" for problem in rows["problem"].to_pylist())

    def _places(self, unit: Unit, places: list[str], counters: Counter[str]) -> list[str]:
        """Where rows are; a Message-ID, as of a thread of mails, may be an address."""
        files = [next(filter(place.startswith, unit.uris), "") for place in places]
        rest = [place.removeprefix(file) for place, file in zip(places, files, strict=True)]
        redacted = self._without_personal_data(rest, "quarantine", counters)
        return [file + new for file, new in zip(files, redacted, strict=True)]

    def _contents(self, unit: Unit, rows: pa.Table, counters: Counter[str]) -> list[str | None]:
        """What was there, of rows that cannot be read; where the reader keeps none of it, the fields that were read."""
        number = next(at for at, one in enumerate(self.settings.sources) if one.source == unit.source)
        fields = {"id": rows["id"].to_pylist()} | self.settings.fields[number].of(rows)
        found = []
        for at, content in enumerate(rows[CONTENT].to_pylist()):
            if content is None and (read := {name: values[at] for name, values in fields.items() if values[at]}):
                content = json.dumps(read, ensure_ascii=False)[:CONTENT_CHARACTERS]
            found.append(content)
        redacted = self._without_personal_data([one or "" for one in found], "quarantine", counters)
        return [content and new for content, new in zip(found, redacted, strict=True)]

    def _refuse(
        self,
        scratch: Scratch,
        unit: Unit,
        refused: Sequence[tuple[int, str, Mapping[str, str | None], str]],
        counters: Counter[str],
    ) -> None:
        if not refused:
            return
        redacted = [self._redacted_fields(fields, "quarantine", counters) for _, _, fields, _ in refused]
        shown = [json.dumps(fields, ensure_ascii=False)[:CONTENT_CHARACTERS] for fields in redacted]
        columns = {
            "row": [row for row, *_ in refused],
            "source": [unit.source] * len(refused),
            "problem": [reason for _, reason, *_ in refused],
            "where": [f"record {row} of {file}" for row, _, _, file in refused],
            "content": shown,
        }
        scratch.write(QUARANTINE, pa.table(columns, schema=QUARANTINE_SCHEMA))
        counters["quarantined"] += len(refused)
        counters.update(f"problem/{unit.source}/{reason}" for _, reason, *_ in refused)


def _roles(speakers: Mapping[str, Role], metadata: Mapping[str, str | None]) -> dict[str, Role]:
    """The roles of the speakers of a record: `{FIELD}` stands for the one that its metadata names."""
    named = {metadata.get(one[1:-1]): role for one, role in speakers.items() if one.startswith("{")}
    plain = {one: role for one, role in speakers.items() if not one.startswith("{")}
    return plain | {one: role for one, role in named.items() if one}


def _respelled(name: str, text: str | None, spellings: Mapping[str, str]) -> str | None:
    """A field of metadata or annotations with the spellings to use. spellings: plain spelling -> the value."""
    if name in ANNOTATIONS:
        return as_text([one if one is None else spellings.get(plain_label(one), one) for one in listed(text)])
    return text if text is None else spellings.get(plain_label(text), text)


def _score(metadata: Mapping[str, str | None]) -> float | None:
    return float(text) if (text := metadata.get("quality_score") or "").strip() else None


def _rejected_table(source: str, rejected: Sequence[Rejected], fields: Sequence[str]) -> pa.Table:
    rows = [
        {
            "row": record.row,
            "id": record.id,
            "source": source,
            **failed._asdict(),
            "content": json.dumps(columns, ensure_ascii=False),
            "classes": classes_json(record.metadata, fields),
        }
        for record, columns, failed in rejected
    ]
    return pa.Table.from_pylist(rows, REJECTED_SCHEMA)
