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
from functools import partial
from typing import Any

import pyarrow as pa

from raymill.cluster.artifact import Counters, fingerprint
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.errors import DataError
from raymill.cluster.examples.content import (
    COLUMNS,
    FIELDS,
    OPTIONAL,
    Chat,
    Content,
    Role,
    Sides,
    Unusable,
    sides_of,
    to_shape,
)
from raymill.cluster.examples.plain_numbers import number_in
from raymill.cluster.examples.rows import content_of
from raymill.cluster.examples.texts import compared_texts, data_of, texts_of, with_texts
from raymill.cluster.plugins import PluginError
from raymill.cluster.readers.inputs import COLLECTED_AT, CONTENT, CUT, FILE, PARENTS, Cut, Limits
from raymill.cluster.readers.quarantine import lost_counters
from raymill.cluster.readers.reader import CONTENT_CHARACTERS, PLUGIN_ERROR, ReaderCounts
from raymill.cluster.readers.units import InputManifest, Reading, Unit, read_unit, split_problems
from raymill.cluster.stage import Output, Scratch, Stage, files_from
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.identification import LanguageId, identify
from raymill.pipelines.memory import files_memory, model_memory, task_memory
from raymill.pipelines.prepare.config import BASE_METADATA, PrepareConfig
from raymill.pipelines.prepare.records.clean import Cleaner, load_terms, plain_label
from raymill.pipelines.prepare.records.conversion import (
    MOST_REPEATED,
    Collected,
    Conversion,
    TaskType,
    TooMuchRepeated,
    from_template,
)
from raymill.pipelines.prepare.records.fields import (
    ANNOTATIONS,
    ANNOTATIONS_TYPE,
    EDITED,
    PROVENANCE,
    PROVENANCE_TYPE,
    FailedRule,
    annotations_of,
    as_text,
    class_fields,
    classes_json,
    hash64,
    hash_of_text,
    is_synthetic,
    listed,
    provenance_of,
    value_of,
)
from raymill.pipelines.prepare.records.forms import formed
from raymill.pipelines.prepare.records.outliers import measure
from raymill.pipelines.prepare.records.patches import Edit, Patches, edited
from raymill.pipelines.prepare.records.tables import finished, typed
from raymill.pipelines.prepare.records.times import in_iso, microseconds
from raymill.pipelines.prepare.records.validate import Validate, Validator, load_validator, texts_of_records
from raymill.pipelines.prepare.sources import Fields
from raymill.pipelines.prepare.stages.duplicates import (
    ANSWERS,
    ATTRIBUTES,
    ATTRIBUTES_SCHEMA,
    QUESTIONS,
    VERDICTS_SCHEMA,
    attributes,
    question_hash,
    same,
)
from raymill.pipelines.prepare.stages.tables import TablesFound
from raymill.pipelines.rules.judge_score import JudgeScore
from raymill.pipelines.rules.quality_classifier import QualityClassifier
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.lines import count_characters
from raymill.pipelines.text.normalize import NORMALIZE_VERSION
from raymill.pipelines.text.personal_data import PERSONAL_DATA_VERSION
from raymill.pipelines.text.texts import Texts

RECORDS, KEYS = "_work/records", "_work/keys"
REJECTED, VERDICTS, QUARANTINE = "_work/rejected", "_work/verdicts", "quarantine"
CUT_TEXTS, CUT_EXAMPLES = "cut", "_work/cut"
COLLECT_VERSION = "11"
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
        ("id", pa.string()),  # of the record; of a text that was divided, the whole text's
        ("source", pa.string()),
        ("kind", pa.string()),  # a key of CUT_KINDS
        ("text", pa.large_string()),
    ]
)
# Characters that corrections put into the records of a unit. One correction changes every record with its id.
MOST_CORRECTED = 256 << 20
_LANGUAGE = LanguageId()
Rejected = tuple[Collected, dict[str, Any], FailedRule]


@dataclass(frozen=True)
class CollectSettings:
    """The settings on which the records depend.

    Attributes:
        config: its inputs are the files that are read.
        fields: of each input.
        cleaner, validator, patches: with what the config's files hold at this moment.
        embedding: the endpoints for text vectors.
    """

    config: PrepareConfig
    fields: tuple[Fields, ...]
    cleaner: Cleaner
    validator: Validator
    embedding: EmbeddingRun
    patches: Patches

    @classmethod
    def of(cls, config: PrepareConfig, fields: tuple[Fields, ...], key: bytes) -> "CollectSettings":
        """Reads the files that `clean`, `validate` and `patches` name. key: of pseudonyms."""
        cleaner = Cleaner(config.clean, key, load_terms(config.store, config.clean))
        forbidden = config.terms.forbid if config.terms else ()
        models, root = [*config.embedding_models.values()], paths.absolute(config.output)
        embedding = EmbeddingRun.of(config.store, root, config.name, models)
        validator = load_validator(config.store, config.validation, config.split.by_time, forbidden, embedding)
        patches = Patches.read(config.store, config.patches, config.limits.max_document_bytes)
        return cls(config, fields, cleaner, validator, embedding, patches)

    @property
    def balance(self) -> tuple[str, ...]:
        return self.config.split.balance.by if self.config.split.balance else ()

    @property
    def task_types(self) -> tuple[TaskType, ...]:
        """The task type of each source."""
        return tuple(one.task_type or self.config.records.task_type for one in self.config.inputs)

    @property
    def conversions(self) -> list[Conversion]:
        """The conversion of each source."""
        records, bounds, found = self.config.records, self.config.validation.answer_chars, []
        for template in map(records.template, self.task_types):
            most, becomes_answer = records.section_chars, records.shape != "text"
            if most == "answer_chars":
                most = bounds[1] if bounds and becomes_answer else None
            if most is not None and becomes_answer:
                around = len(template.completion) - len("{text}")
                most = max(most - around, 1) if "{text}" in template.completion else None
            found.append(Conversion(records.shape, template, records.preferences, records.chats_as_text, most))
        return found

    @property
    def schema(self) -> pa.Schema:
        """The columns of RECORDS."""
        names = (*BASE_METADATA, *(one for one in self.config.metadata if one not in {*BASE_METADATA, *ANNOTATIONS}))
        types = {"quality_score": pa.float64()}
        return pa.schema(
            {
                "id": pa.string(),
                **COLUMNS[self.config.records.shape],
                "metadata": pa.struct([(name, types.get(name, pa.string())) for name in names]),
                "annotations": ANNOTATIONS_TYPE,
                # Of records that were made of others: the ids of these, and how.
                "provenance": PROVENANCE_TYPE,
            }
        )

    @property
    def keys_schema(self) -> pa.Schema:
        """The columns of KEYS: the source by number; the time of `split.by_time` in microseconds from 1970 (0 without
        it); hashes of 64 bits, 0 for a record without the group or answer and for undesirable answers, and of its
        parents; and what outliers are found by, NaN for a record without such a text. `augment` is the class that
        variants are numbered by, `asked` the question, or the text, which no variant may repeat; `synthetic` is
        whether a model or `augment` made it.
        """
        hashes = ["id", "stratum", "class", *(f"group/{name}" for name in self.config.split.group), "question"]
        hashes += ["answer"] if self.config.duplicates.contradictory != "ignore" else []
        outliers = self.config.validation.outliers
        hashes += ["outliers"] if outliers else []
        hashes += ["augment", "asked"] if self.config.augment else []
        measures = [f"measure/{name}" for name in outliers.measures] if outliers else []
        columns = dict.fromkeys(hashes, pa.uint64()) | dict.fromkeys(measures, pa.float64())
        shared = {"row": pa.int64(), "source": pa.int32(), "time": pa.int64(), "parents": pa.list_(pa.uint64())}
        shared["synthetic"] = pa.bool_()
        return pa.schema(shared | columns)


def collect_stage(settings: CollectSettings, inputs: InputManifest, tables: TablesFound | None) -> Stage:
    """The stage that writes the artifacts named above. tables: None without a table."""
    config, clean, dedup = settings.config, settings.cleaner.settings, settings.config.dedup
    store, sources, conversions = inputs.reading.store, settings.config.inputs, settings.conversions
    outputs = (
        Output(RECORDS, settings.schema),
        Output(ATTRIBUTES, ATTRIBUTES_SCHEMA),
        Output(KEYS, settings.keys_schema),
        *(Output(name, ATTRIBUTES_SCHEMA) for name in (QUESTIONS, ANSWERS)),
        Output(VERDICTS, VERDICTS_SCHEMA),
        Output(REJECTED, REJECTED_SCHEMA),
        Output(QUARANTINE, QUARANTINE_SCHEMA),
        Output(CUT_EXAMPLES, CUT_SCHEMA),
        *([Output(CUT_TEXTS, CUT_SCHEMA)] if clean.keep_cut else []),
    )
    depends_on = {
        "version": [COLLECT_VERSION, NORMALIZE_VERSION, PERSONAL_DATA_VERSION],
        "inputs": inputs.fingerprint,
        "units": len(inputs.units),
        "limits": config.limits.model_dump(),
        "shape": config.records.shape,
        "sources": [[one.source, one.licence, one.domain] for one in sources],
        "fields": [{"columns": dict(one.columns), "main": one.main} for one in settings.fields],
        "speakers": [one.speakers for one in sources],
        "day_first": [one.day_first for one in sources],
        "templates": [one.template.model_dump() for one in conversions],
        "forms": [[one.preferences, one.chats_as_text and one.chats_as_text.model_dump()] for one in conversions],
        "task_types": settings.task_types,
        "section_chars": [one.section_chars for one in conversions],
        "clean": [clean.model_dump(mode="json", exclude={"terminology"}), dict(settings.cleaner.terms)],
        "language": fasttext_classifier.fingerprint(store, None),
        "key": hashlib.blake2b(settings.cleaner.key, digest_size=8, person=b"pseudonyms").hexdigest(),
        "validate": settings.validator.depends_on(),
        "signatures": dedup
        and [dedup.ngram_words, *dedup.banding, dedup.seed, dedup.exact_short] + ["symbols"] * dedup.symbols,
        "sides": [one != "ignore" for one in config.duplicates.model_dump().values()],
        "split": [config.metadata, config.split.stratify, config.split.group, settings.balance, config.split.by_time],
        "augment": config.augment and config.augment.by,
    }
    if any(one.inner for one in settings.fields):
        depends_on["inner"] = [one.inner for one in settings.fields]
    if config.records.undesirable == "keep":
        depends_on["undesirable"] = "keep"
    if settings.patches.by_id:
        depends_on["patches"] = settings.patches.fingerprint
    if any(one.form for one in sources):
        depends_on["own_forms"] = [one.form and one.form.model_dump(mode="json") for one in sources]
    if tables is not None:
        depends_on["tables"] = [
            tables.tables.manifest.fingerprint,
            [one.columns for one in sources if one.table is not None],
        ]
    memory = collect_memory(config.limits) + rules_memory(store, config.validation) + settings.patches.memory
    work, made_from = partial(collect, settings, inputs.reading, tables), fingerprint(depends_on)
    return Stage("collect", outputs, inputs.units, work, made_from, store, _files, memory=memory)


def _files(unit: Unit) -> str:
    return files_from(unit.uris)


def collect_memory(limits: Limits) -> int:
    """Bytes of a unit. Texts are Python strings here, and a record holds its texts twice."""
    return 2 * task_memory(limits)


def rules_memory(store: Store, validation: Validate) -> int:
    """Bytes of the models and lists that the validation of a unit loads."""
    rules = (validation.language, validation.bad_words, *validation.filters.rules)
    of_model = model_memory(store, validation.inappropriate.model) if validation.inappropriate else 0
    return files_memory(store, rules) + of_model


def collect(
    settings: CollectSettings, reading: Reading, tables: TablesFound | None, unit: Unit, scratch: Scratch
) -> Counters:
    """The work of a unit.

    Counters: `records`, `passed`, `quarantined`, `replaced` (findings of personal data), also by place as
    `replaced/PLACE` (text, metadata.FIELD, id, provenance, ledger, quarantine, cut), and by source and reason
    `records/S`, `passed/S`, `problem/S/R`, `rejected/S/R`, and of texts that were divided `divided/S`, with their parts
    `parts/S`; what was taken out of texts `cut/S/KIND`, with its characters `cut-characters/S/KIND`, and what readers
    passed over `skipped/S/REASON`, and what they left out of texts `note/S/NOTE`. Records with a column, or a key of
    messages, that not all records of the shape have: `with/NAME`. Corrections: `patched/SOURCE`, and
    `patch-other-value` of records that have another value. Also those of `lost_counters`.
    """
    of_unit, passed_over = _Unit(settings, reading, tables, unit, scratch), ReaderCounts()
    counters = of_unit.counters
    for table in read_unit(unit, reading, settings.config.limits, counts=passed_over):
        readable, unreadable = split_problems(table)
        of_unit.quarantine_unreadable(unreadable)
        records = of_unit.records(readable) if of_unit.source.table is None else of_unit.records_of_table(readable)
        for some in of_unit.converted(records):
            patched = of_unit.patched(some)
            counters.update({"records": len(patched), f"records/{unit.source}": len(patched)})
            of_unit.write(patched)
    counters.update({f"problem/{unit.source}/{problem}": number for problem, number in passed_over.lost.items()})
    counters.update({"quarantined": passed_over.lost.total()} | lost_counters(unit.source, passed_over))
    counters.update({f"skipped/{unit.source}/{reason}": count for reason, count in passed_over.skipped.items()})
    counters.update({f"note/{unit.source}/{note}": count for note, count in passed_over.notes.items() if count})
    return dict(counters)


class _Unit:
    """A unit of input on its way from rows to files."""

    def __init__(
        self, settings: CollectSettings, reading: Reading, tables: TablesFound | None, unit: Unit, scratch: Scratch
    ) -> None:
        config, rules = settings.config, settings.validator.settings
        self.number = next(at for at, one in enumerate(config.inputs) if one.source == unit.source)
        self.source, self.fields = config.inputs[self.number], settings.fields[self.number]
        self.conversion, self.cleaner = settings.conversions[self.number], settings.cleaner
        self.settings, self.config, self.store, self.tables = settings, config, reading.store, tables
        self.unit, self.scratch = unit, scratch
        self.counters = Counter[str]({"records": 0, "passed": 0, "quarantined": 0, "replaced": 0})
        self.corrected = 0  # characters, see MOST_CORRECTED
        self.schema, self.class_fields = settings.schema, class_fields(settings.schema)
        # A field that a source has no column for is not required of its records.
        has = {*self.source.columns, *BASE_METADATA} | ({*self.fields.columns} if self.source.table is None else set())
        required = tuple(name for name in rules.require if name in has)
        self.validator = replace(settings.validator, settings=rules.model_copy(update={"require": required}))
        # What all records of the source have.
        task_type = settings.task_types[self.number]
        self.base = {"source": self.source.source, "licence": self.source.licence}
        self.base |= {"domain": self.source.domain, "task_type": task_type}
        # Metadata that rules and the split take for dates or times.
        by_time = [config.split.by_time] if config.split.by_time else []
        self.times = tuple(dict.fromkeys([*rules.since, *rules.until, *by_time]))
        # Metadata -> plain spelling -> the value to use.
        self.labels = {
            name: {plain_label(one): value for value, others in values.items() for one in (value, *others)}
            for name, values in config.clean.labels.items()
        }

    # --- rows to records

    def records(self, table: pa.Table) -> list[Collected]:
        """The records of a source without a template. table: readable rows."""
        values, damaged = self.fields.of(table), self.fields.damaged(table)
        times, files, rows = (table[name].to_pylist() for name in (COLLECTED_AT, FILE, "row"))
        ids = self._ids(table["id"].to_pylist(), "id")
        joined = [self._ids(json.loads(ids or "[]"), "provenance") for ids in table[PARENTS].to_pylist()]
        left_out = [[(kind, text) for kind, text in json.loads(one or "[]")] for one in table[CUT].to_pylist()]
        records, refused = [], []
        for at, (row, id, parents, cut, file) in enumerate(zip(rows, ids, joined, left_out, files, strict=True)):
            fields = {name: column[at] for name, column in values.items()}
            # A column of the source goes before what holds for all of it, unless it is empty.
            own = {name: value for name, value in fields.items() if name not in FIELDS}
            metadata = {**own, **self.base, "collected_at": times[at]}
            metadata |= {name: value for name, value in own.items() if value}
            content = {name: value for name, value in fields.items() if name in FIELDS}
            try:
                if at in damaged:
                    raise Unusable("bytes_not_utf8")
                if self.source.form is not None:
                    content = formed(self.source.form.loaded(), fields)
                metadata = self._standardised(metadata)
                keeps_undesirable = self.config.records.undesirable == "keep"
                found = content_of(content, _roles(self.source.speakers, metadata), cut, keeps_undesirable)
                before, made = provenance_of(own)
                made = (*made, "thread") if parents else made
                before = tuple(self._ids(before, "provenance"))
                records.append(Collected(row, id, found, metadata, (*before, *parents), made, tuple(cut), file=file))
            except Unusable as error:
                refused.append((row, error.reason, fields, file))
            except PluginError as error:
                assert self.source.form is not None
                refused.append((row, PLUGIN_ERROR, fields, f"{file} ({self.source.form.use}: {error})"))
        self._refuse(refused)
        return records

    def records_of_table(self, table: pa.Table) -> list[Collected]:
        """The records of a source with a template. table: readable rows."""
        source, template = self.source, self.source.table
        assert template is not None and self.tables is not None
        raw = self.fields.of(table)
        frame, wrong = typed(raw, template, source.day_first)
        done, dropped = finished(frame, template, self.tables.known(source.source))
        repeated = self.tables.repeated_rows(self.unit.index)
        times, files, rows = (table[name].to_pylist() for name in (COLLECTED_AT, FILE, "row"))
        records, refused = [], []
        rejected: list[Rejected] = []
        ids = self._ids(table["id"].to_pylist(), "id")
        for at, (row, id, *why, values) in enumerate(zip(rows, ids, wrong, dropped, done.to_dicts(), strict=True)):
            given = {name: column[at] for name, column in raw.items()}
            first = FailedRule("repeated_row", "", "another row") if row in repeated else None
            name = id or hash_of_text(json.dumps(given, ensure_ascii=False))
            if failed := why[0] or why[1] or first:
                rejected.append((Collected(row, name, "", {}), self._redacted_fields(given, "ledger"), failed))
                continue
            of_columns = {field: values[column] for field, column in source.columns.items()}
            try:
                metadata = self._standardised(self.base | {"collected_at": times[at]} | of_columns)
                content = from_template(template.template, {**values, "source": source.source})
            except Unusable as error:
                refused.append((row, error.reason, given, files[at]))
            else:
                before, made = provenance_of(metadata)
                before = tuple(self._ids(before, "provenance"))
                records.append(Collected(row, id, content, metadata, (name, *before), (*made, "table"), file=files[at]))
        self.counters.update({"records": len(rejected), f"records/{self.unit.source}": len(rejected)})
        self._reject(rejected)
        self._refuse(refused)
        return records

    def _standardised(self, metadata: dict[str, str | None]) -> dict[str, str | None]:
        """The fields of a record with the spellings of `clean.labels`, annotations as of `as_text`, times in ISO 8601.

        Raises:
            Unusable: `quality_score` is no finite number.
        """
        found = metadata | {name: as_text(listed(metadata[name])) for name in ANNOTATIONS if name in metadata}
        for name in self.times:
            found[name] = in_iso(found.get(name), self.source.day_first) or found.get(name)
        for name, spellings in self.labels.items():
            text = found.get(name)
            if name in ANNOTATIONS:
                values = [one if one is None else spellings.get(plain_label(one), one) for one in listed(text)]
                found[name] = as_text(values)
            else:
                found[name] = text if text is None else spellings.get(plain_label(text), text)
        if math.isnan(_score(found) or 0):
            raise Unusable("bad_quality_score")
        return found

    def converted(self, records: list[Collected]) -> Iterator[list[tuple[Collected, dict[str, Any]]]]:
        """The records with cleaned texts and without personal data, and the columns of their shape.

        In several lists if sections of texts repeat over MOST_REPEATED bytes. The caller counts the records of a list
        before it takes the next one.
        """
        cut = [list(one.cut) for one in records]
        texts = self.cleaner.cleaned([texts_of(one.content) for one in records], cut)
        if self.cleaner.settings.redact:
            texts = [[*said, *data_of(one.content)] for said, one in zip(texts, records, strict=True)]
        records, texts = self._redacted(records, texts)
        self._write_cut(records, cut)
        found: list[tuple[Collected, dict[str, Any]]] = []
        refused: list[tuple[int, str, Mapping[str, str | None], str]] = []
        first, repeated = self.counters["records"], 0
        for record, cleaned in zip(records, texts, strict=True):
            try:
                some = self.conversion(record, with_texts(record.content, cleaned))
            except (Unusable, TooMuchRepeated) as error:
                reason = error.reason if isinstance(error, Unusable) else "too_large"
                given = {"texts": json.dumps(cleaned, ensure_ascii=False)}
                refused.append((record.row, reason, given, record.file))
                continue
            if len(some) > 1:
                repeated += len(some) * self.conversion.repeated_bytes(record)
                self.counters.update({f"divided/{self.unit.source}": 1, f"parts/{self.unit.source}": len(some)})
            for one, columns in some:
                # Parts of one row need numbers of their own.
                row = record.row if self.conversion.section_chars is None else first + len(found)
                found.append((replace(one, row=row), columns))
            if repeated > MOST_REPEATED:
                yield found
                found, first, repeated = [], self.counters["records"], 0
        self._refuse(refused)
        yield found

    def patched(self, records: list[tuple[Collected, dict[str, Any]]]) -> list[tuple[Collected, dict[str, Any]]]:
        """The records with their corrections, whose texts are cleaned and checked as the others.

        records: as of `converted`.
        """
        found = []
        refused: list[tuple[int, str, Mapping[str, str | None], str]] = []
        for record, columns in records:
            is_usable = True
            for edit in self.settings.patches.by_id.get(record.id or "", ()):
                new = edited(record.content, record.metadata, edit)
                if new is not None:
                    new = edited(record.content, record.metadata, self._cleaned_edit(edit))
                if new is not None and math.isnan(_score(new[1]) or 0):
                    new = None
                self.counters["patch-other-value" if new is None else f"patched/{edit.source}"] += 1
                if new is None:
                    continue
                self.corrected += len(edit.new)
                if self.corrected > MOST_CORRECTED:
                    raise DataError(
                        f"patches: corrections of the records of {_files(self.unit)} have over "
                        f"{MOST_CORRECTED:,} characters, the last one for the id {edit.id[:100]!r}. Give each record "
                        "an id of its own: a correction changes all that have its id."
                    )
                content, metadata = new
                (by,) = self._without_personal_data([" ".join(edit.edited_by.replace(",", " ").split())], "provenance")
                stays = {name for name, value in metadata.items() if value == record.metadata[name]}
                originals = {name: one for name, one in record.originals.items() if name in stays}
                operations = (*record.operations, f"{EDITED}{by}")
                record = replace(record, content=content, metadata=metadata, operations=operations, originals=originals)
                try:
                    with_texts(content, texts_of(content))
                except Unusable as error:
                    given = {"id": record.id, "field": edit.field, "new": edit.new, "edited_by": by}
                    refused.append((record.row, error.reason, given, record.file))
                    is_usable = False
                    break
                columns = to_shape(content, self.config.records.shape)
            if is_usable:
                found.append((record, columns))
        self._refuse(refused)
        return found

    def _cleaned_edit(self, edit: Edit) -> Edit:
        (texts,) = self.cleaner.cleaned([[edit.new]], [[]])
        return edit.model_copy(update={"new": self._without_personal_data(texts, "text")[0]})

    def _write_cut(self, records: Sequence[Collected], cut: Sequence[Sequence[Cut]]) -> None:
        """Count what was taken out of the texts of records, and write it: the first text of each kind, or all."""
        examples, rows = list[dict[str, Any]](), list[dict[str, Any]]()
        for record, pieces in zip(records, cut, strict=True):
            for kind, text in pieces:
                row = {"row": record.row, "id": record.id, "source": self.unit.source, "kind": kind, "text": text}
                of_kind = f"{self.unit.source}/{kind}"
                if not self.counters[f"cut/{of_kind}"]:
                    examples.append(row | {"text": text[:CONTENT_CHARACTERS]})
                if self.cleaner.settings.keep_cut:
                    rows.append(row)
                self.counters.update({f"cut/{of_kind}": 1, f"cut-characters/{of_kind}": len(text)})
        for output, some in ((CUT_EXAMPLES, examples), (CUT_TEXTS, rows)):
            if some:
                # Counted once: all of them are written, or an example of each kind.
                is_counted = output == CUT_TEXTS or not rows
                plain = self._without_personal_data([row["text"] for row in some], "cut" if is_counted else None)
                found = [row | {"text": text} for row, text in zip(some, plain, strict=True)]
                self.scratch.write(output, pa.Table.from_pylist(found, CUT_SCHEMA))

    # --- personal data

    def _redacted(self, records: list[Collected], texts: list[list[str]]) -> tuple[list[Collected], list[list[str]]]:
        """(the records with redacted metadata, their texts redacted)."""
        if not self.cleaner.settings.redact:
            return records, texts
        kept = {*BASE_METADATA, *PROVENANCE, *self.cleaner.settings.redact_except}
        names = [[name for name, value in one.metadata.items() if value and name not in kept] for one in records]
        strings = [
            [*some, *(str(record.metadata[name]) for name in of_record)]
            for record, some, of_record in zip(records, texts, names, strict=True)
        ]
        found, counts = self.cleaner.redacted(strings)
        for at, (record, some, of_record) in enumerate(zip(records, texts, names, strict=True)):
            count = len(some)
            self._count_replaced("text", sum(counts[at][:count]))
            changed = {}
            for name, value, number in zip(of_record, found[at][count:], counts[at][count:], strict=True):
                if number:
                    changed[name] = value
                    self._count_replaced(f"metadata.{name}", number)
            if changed:
                originals = {name: record.metadata[name] for name in changed}
                records[at] = replace(record, metadata={**record.metadata, **changed}, originals=originals)
        return records, [of_record[: len(some)] for of_record, some in zip(found, texts, strict=True)]

    def _ids(self, ids: Sequence[Any], place: str) -> list[Any]:
        """Ids, some of which may be None, without personal data."""
        if not self.cleaner.settings.redact or place in self.cleaner.settings.redact_except or not any(ids):
            return list(ids)
        found, counts = self.cleaner.redacted_ids([id or "" for id in ids])
        self._count_replaced(place, sum(counts))
        return [id and new for id, new in zip(ids, found, strict=True)]

    def _without_personal_data(self, values: Sequence[str], place: str | None) -> list[str]:
        """Values that stand outside of records, each by itself. place: None: findings are not counted."""
        # What could not be read may have lone surrogates.
        found, counts = self.cleaner.redacted([[one.encode("utf-8", "replace").decode()] for one in values])
        if place is not None:
            self._count_replaced(place, sum(number for (number,) in counts))
        return [value for (value,) in found]

    def _redacted_fields(self, fields: Mapping[str, str | None], place: str) -> dict[str, str | None]:
        named = {name: value for name, value in fields.items() if value}
        return {**fields, **dict(zip(named, self._without_personal_data(list(named.values()), place), strict=True))}

    def _count_replaced(self, place: str, number: int) -> None:
        if number:
            self.counters.update({"replaced": number, f"replaced/{place}": number})

    # --- records to files

    def write(self, records: list[tuple[Collected, dict[str, Any]]]) -> None:
        """Check records, and write each where it belongs. records: as of `converted`."""
        self._complete_metadata([record for record, _ in records])
        goes_on = [one.goes_on for one, _ in records]
        verdicts = self.validator([(one.content, one.unredacted) for one, _ in records], goes_on)
        self._reject([(*one, failed) for one, failed in zip(records, verdicts, strict=True) if failed is not None])
        passed = [one for one, failed in zip(records, verdicts, strict=True) if failed is None]
        self.counters.update({"passed": len(passed), f"passed/{self.unit.source}": len(passed)})
        if not passed:
            return
        names = [field.name for field in self.schema.field("metadata").type]
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
        self.scratch.write(RECORDS, pa.Table.from_pylist(rows, self.schema))
        for _, columns in passed:
            messages = [one for value in columns.values() if isinstance(value, list) for one in value]
            keys = {key for one in messages for key in one}
            self.counters.update(f"with/{name}" for name in {*columns, *keys} if name in OPTIONAL)
        stay, dedup = [record for record, _ in passed], self.config.dedup
        sides = [sides_of(one.content) for one in stay]
        texts = ["\n".join(filter(None, compared_texts(one.content))) for one in stay]
        # Backwards, an undesirable answer is like other undesirable ones, and like no desirable one.
        texts = [text[::-1] if _is_undesirable(one.content) else text for one, text in zip(stay, texts, strict=True)]
        self._write_attributes(ATTRIBUTES, stay, texts, dedup, key=str)
        answered = [at for at, one in enumerate(sides) if one.turns]
        for output, asked in ((QUESTIONS, self.config.duplicates.questions), (ANSWERS, self.config.duplicates.answers)):
            if asked != "ignore" and answered:
                texts = [sides[at].question if output == QUESTIONS else sides[at].answer for at in answered]
                self._write_attributes(output, [stay[at] for at in answered], texts, dedup or Dedup())
        self.scratch.write(KEYS, self._keys(stay, sides))

    def _write_attributes(
        self, output: str, records: list[Collected], texts: list[str], dedup: Dedup | None, **key: Any
    ) -> None:
        rows, ids, sources = [one.row for one in records], [one.id for one in records], [self.unit.source] * len(texts)
        self.scratch.write(output, attributes(rows, ids, sources, texts, dedup, **key))

    def _complete_metadata(self, records: list[Collected]) -> None:
        """Give every record without the metadata `language` its language, or none if that is not certain, and every one
        without `quality_score` the score of the rule `quality_classifier` or `judge_score`, if one is on.
        """
        unknown = [one for one in records if not one.metadata.get("language")]
        texts = Texts.from_strings([sides_of(one.content).text for one in unknown])
        languages, scores = identify(texts, fasttext_classifier.load(self.store, None), _LANGUAGE.max_chars)
        certain = zip(unknown, languages.to_pylist(), (scores >= _LANGUAGE.min_score).tolist(), strict=True)
        for record, language, is_certain in certain:
            record.metadata["language"] = language if is_certain else None
        filters = self.config.validation.filters
        rule = next((one for one in filters.rules if isinstance(one, QualityClassifier | JudgeScore)), None)
        unknown = [one for one in records if not one.metadata.get("quality_score")]
        if rule is not None and unknown:
            texts = texts_of_records([(one.content, one.metadata) for one in unknown])
            measured = rule.measure(Analysis(texts, filters.dialect, pa.table({}), self.store, self.settings.embedding))
            scores = measured[next(iter(rule.signals))]
            for record, score in zip(unknown, scores.tolist(), strict=True):
                record.metadata["quality_score"] = None if math.isnan(score) else f"{score:.6g}"

    def _keys(self, records: list[Collected], sides: list[Sides]) -> pa.Table:
        stratify, balance, by_time = self.config.split.stratify, self.settings.balance, self.config.split.by_time
        lengths: dict[str, list[str]] = {}
        if "length" in {*stratify, *balance} - {*self.config.metadata}:
            counts = count_characters(Texts.from_strings([one.text for one in sides]))
            lengths["length"] = [str(count.bit_length()) for count in counts.tolist()]

        def hashed(names: Sequence[str]) -> list[int]:
            values = [
                lengths.get(name) or [value_of(name, one.unredacted.get(name)) or "" for one in records]
                for name in names
            ]
            return [hash64(*some) for some in zip(*values, strict=True)] if names else [hash64()] * len(records)

        columns: dict[str, Any] = {
            "row": [one.row for one in records],
            "source": [self.number] * len(records),
            "time": [microseconds(one.metadata[by_time]) if by_time else 0 for one in records],
            "id": [hash64(one.id or "") for one in records],
            "parents": [[hash64(id) for id in one.parents] for one in records],
            "synthetic": [is_synthetic(", ".join(one.operations)) for one in records],
            "stratum": hashed(stratify),
            "class": hashed(balance),
        }
        for name in self.config.split.group:
            values = (value_of(name, one.unredacted.get(name)) for one in records)
            columns[f"group/{name}"] = [hash64(value) if value else 0 for value in values]
        columns["question"] = [question_hash(one) if one.turns else 0 for one in sides]
        if self.config.duplicates.contradictory != "ignore":
            columns["answer"] = [
                hash64(same(side.answer)) if side.turns and not _is_undesirable(one.content) else 0
                for one, side in zip(records, sides, strict=True)
            ]
        if outliers := self.config.validation.outliers:
            columns["outliers"] = hashed(outliers.by)
            columns |= {f"measure/{name}": measure(name, sides) for name in outliers.measures}
        if augment := self.config.augment:
            columns["augment"], columns["asked"] = hashed(augment.by), list(map(question_hash, sides))
        return pa.table(columns, schema=self.settings.keys_schema)

    def _reject(self, rejected: list[Rejected]) -> None:
        """Write records that do not meet the rules."""
        values = self._without_personal_data([failed.value for _, _, failed in rejected], "ledger")
        self.counters.update(f"rejected/{self.unit.source}/{failed.reason}" for _, _, failed in rejected)
        rows = [
            {
                "row": record.row,
                "id": record.id,
                "source": self.unit.source,
                **failed._replace(value=value)._asdict(),
                "content": json.dumps(columns, ensure_ascii=False),
                "classes": classes_json(record.metadata, self.class_fields),
            }
            for (record, columns, failed), value in zip(rejected, values, strict=True)
        ]
        if rows:
            self.scratch.write(REJECTED, pa.Table.from_pylist(rows, REJECTED_SCHEMA))

    # --- rows that are no records

    def quarantine_unreadable(self, rows: pa.Table) -> None:
        """Write what was there, of rows that cannot be read; where the reader keeps none of it, the fields that were
        read.
        """
        if not rows.num_rows:
            return
        places = rows["where"].to_pylist()
        files = [next(filter(place.startswith, self.unit.uris), "") for place in places]
        # A Message-ID, as of a thread of mails, may be an address.
        rest = [place.removeprefix(file) for place, file in zip(places, files, strict=True)]
        where = [file + new for file, new in zip(files, self._without_personal_data(rest, "quarantine"), strict=True)]
        fields = {"id": rows["id"].to_pylist()} | self.fields.of(rows)
        found = []
        for at, content in enumerate(rows[CONTENT].to_pylist()):
            if content is None and (read := {name: values[at] for name, values in fields.items() if values[at]}):
                content = json.dumps(read, ensure_ascii=False)[:CONTENT_CHARACTERS]
            found.append(content)
        redacted = self._without_personal_data([one or "" for one in found], "quarantine")
        contents = [content and new for content, new in zip(found, redacted, strict=True)]
        self._quarantine(rows["row"].to_pylist(), rows["problem"].to_pylist(), where, contents)

    def _refuse(self, refused: Sequence[tuple[int, str, Mapping[str, str | None], str]]) -> None:
        """Quarantine rows that are no records. refused: row, problem, fields and file of each."""
        redacted = [self._redacted_fields(fields, "quarantine") for _, _, fields, _ in refused]
        contents = [json.dumps(fields, ensure_ascii=False)[:CONTENT_CHARACTERS] for fields in redacted]
        where = [f"record {row} of {file}" for row, _, _, file in refused]
        self._quarantine([row for row, *_ in refused], [reason for _, reason, *_ in refused], where, contents)

    def _quarantine(
        self, rows: list[int], problems: list[str], where: list[str], contents: Sequence[str | None]
    ) -> None:
        if rows:
            columns = [rows, [self.unit.source] * len(rows), problems, where, contents]
            self.scratch.write(QUARANTINE, pa.table(columns, schema=QUARANTINE_SCHEMA))
            self.counters["quarantined"] += len(rows)
            self.counters.update(f"problem/{self.unit.source}/{problem}" for problem in problems)


def _is_undesirable(content: Content) -> bool:
    return isinstance(content, Chat) and content.desirable is False


def _roles(speakers: Mapping[str, Role], metadata: Mapping[str, str | None]) -> dict[str, Role]:
    """The roles of the speakers of a record: `{FIELD}` stands for the one that its metadata names."""
    named = {metadata.get(one[1:-1]): role for one, role in speakers.items() if one.startswith("{")}
    plain = {one: role for one, role in speakers.items() if not one.startswith("{")}
    return plain | {one: role for one, role in named.items() if one}


def _score(metadata: Mapping[str, str | None]) -> float | None:
    return number_in(text) if (text := metadata.get("quality_score") or "").strip() else None
