"""The stage `measure`: reads every document and writes its measurements, without the text.

    unit of input  ->  attributes (one row for each readable document), quarantine (one row for each unreadable one),
                       texts, of a unit whose reader extracts them (measured_texts.py)

Of a page that a rule of the URL removes, no text is extracted: it is a document with an empty text, of which only the
signals of these rules are measured.

The later stages read attributes. Only `select` needs the text again. Speed: 44 MB/s of text on one core with all
rules, for texts of 3.3 kB (`make bench`).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Counters, fingerprint
from raymill.cluster.errors import ConfigError
from raymill.cluster.readers.quarantine import lost_counters
from raymill.cluster.readers.reader import PLUGIN_ERROR, ReaderCounts
from raymill.cluster.readers.units import InputManifest, Reading, Unit, read_unit, split_problems
from raymill.cluster.stage import Output, Scratch, Stage, files_from
from raymill.cluster.store.copies import local_file, sha256_of
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.stages.measured_texts import TEXTS, TEXTS_VERSION, texts_outputs
from raymill.pipelines.curate.stages.repeated_pages import Repeated, made_from, rule_of
from raymill.pipelines.dedup.compare import NEWEST_BY, is_comparable, newness
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.signatures import SIGNATURES_VERSION, SKETCH_TYPE, Sketches, permutations
from raymill.pipelines.kernel_cache import each_in_turn
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.identification import LanguageId
from raymill.pipelines.memory import files_memory, task_memory
from raymill.pipelines.rules import Rule
from raymill.pipelines.rules.custom import plain_settings
from raymill.pipelines.rules.filters import Filters, RemovedByUrl, signals
from raymill.pipelines.rules.rule import files_read_by
from raymill.pipelines.text import personal_data
from raymill.pipelines.text.characters import UNICODE_VERSION
from raymill.pipelines.text.lines import count_characters
from raymill.pipelines.text.normalize import NORMALIZE_VERSION, normalize
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import count_tokens

ATTRIBUTES = "attributes"
PLACE = "where"  # the column of attributes with the place of a record of an archive
QUARANTINE = "quarantine"
MEASURE_VERSION = "8"

# Counters by source: a counter's name is one of these prefixes and the source.
SKIPPED = "skipped/"  # records, and files inside archives, that are not documents; then source + "/" + reason
RECORDS = "records/"  # records of archives, those that are not documents included
NOT_EXTRACTED = "not_extracted/"  # documents whose text was not extracted, since a rule of the URL removes them
NO_ID = "no_id/"  # documents without an id in the source's id column
EMPTY_TEXT = "empty_text/"  # documents whose text is empty after normalisation
NO_NEWEST_BY = "no_newest_by/"  # documents whose value of `dedup.newest_by` is missing or not comparable
NOTES = "note/"  # what readers leave out of documents; then source + "/" + sentence
REPEATED_KEY = "repeated_key/"  # records with a repeated key

QUARANTINE_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # the document's number in the unit, as in the attributes
        ("source", pa.string()),
        ("problem", pa.string()),
        ("where", pa.string()),
    ]
)


def attributes_schema(config: CurateConfig, filters: Filters, places: bool = False) -> pa.Schema:
    """The columns of the attributes, with one row per readable document. `row`: its number in the unit, from 0.

    places: whether there are web archives, of which `where` is the place of the record in its file.
    """
    columns = [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("text_hash", pa.binary(16)),
        ("characters", pa.int64()),
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
    ]
    if places:
        columns.append((PLACE, pa.string()))
    if filters.language:
        columns += [("language", pa.string()), ("language_score", pa.float32())]
    columns += [(signal, pa.float64()) for rule in filters.rules for signal in rule.signals]
    if config.personal_data:
        columns += [(f"personal_{kind}", pa.int32()) for kind in personal_data.KINDS]
    if config.dedup:
        columns.append(("signature", SKETCH_TYPE))
        columns += [(NEWEST_BY, pa.float64())] if config.dedup.newest_by else []
    return pa.schema(columns)


def measure_stage(
    config: CurateConfig, filters: Filters, inputs: InputManifest, repeated: Repeated | None = None
) -> Stage:
    """The stage that measures every document. filters: those of the config. repeated: with the rule `repeated_pages`.

    Reads: the input files, each once, as far as its units go.
    Writes: ATTRIBUTES, a row for each document, and QUARANTINE, a row for each document that cannot be read; TEXTS, the
    documents of units whose readers extract them.
    Cost: 18 to 33 ms of a core for 1 MB of text, in documents of 16 to 0.5 kB; 1 GiB (task_memory) and scratch for the
    unit's attributes, a third of its text or less.

    Raises:
        ConfigError: the column of `dedup.newest_by` has a type that cannot be compared.
    """
    newest_by = config.dedup and config.dedup.newest_by
    if newest_by and not is_comparable(kind := inputs.carried.field(newest_by).type):
        raise ConfigError(
            f"dedup.newest_by: column {newest_by} is {kind}; wanted dates, times, numbers, or text of these. "
            "Choose another column."
        )
    store = inputs.reading.store
    of_url: list[Any] = [[rule.name, plain_settings(rule)] for rule in filters.of_url]
    if rule_of(filters, inputs):
        of_url.append(made_from(config, filters, inputs))
    places = any(map(inputs.reading.leaves_out, inputs.units))
    key = UnitKey(fingerprint(dependencies(config, filters, store)), inputs.reading, of_url, places)
    content = {"units": [key(unit) for unit in inputs.units], "carried": [str(field) for field in inputs.carried]}
    return Stage(
        "measure",
        (
            Output(ATTRIBUTES, attributes_schema(config, filters, places), row_group_bytes=8 << 20),
            Output(QUARANTINE, QUARANTINE_SCHEMA),
            *texts_outputs(inputs),
        ),
        inputs.units,
        Measure(config, filters, inputs.reading, repeated, places),
        fingerprint(content),
        store,
        _files,
        memory=task_memory(config.limits) + files_memory(store, (filters.language, *filters.rules)),
        key=key,
    )


def _files(unit: Unit) -> str:
    return files_from(unit.uris)


# The settings of an input that do not change what is measured in a file. `path` and `exclude` only choose the files.
_NO_EFFECT_ON_A_UNIT = {"path", "exclude", "follow_links", "licence", "weight", "snapshot", "storage", "extractor"}


@dataclass(frozen=True)
class UnitKey:
    """Fingerprint of all that a unit's measurements depend on: the settings, and the version and span of each file.

    settings: fingerprint of `dependencies`. of_url: name and settings of the rules of the URL; what they depend on.
    """

    settings: str
    reading: Reading
    of_url: list[Any]
    places: bool

    def __call__(self, unit: Unit) -> str:
        input = self.reading.input_of(unit.source)
        carried = [str(self.reading.carried.field(name)) for name in input.columns]
        # Without `rows` where a span has none, as in earlier versions, whose measurements stay valid.
        spans = [astuple(span)[: None if span.rows else -1] for span in unit.spans]
        content: list[Any] = [
            self.settings,
            input.model_dump(mode="json", exclude=_NO_EFFECT_ON_A_UNIT),
            carried,
            spans,
        ]
        if self.reading.extracts(unit):
            content.append(["texts", TEXTS_VERSION, self.reading.extraction(unit)])
        if self.places:
            content.append([PLACE])
        if self.of_url and self.reading.leaves_out(unit):
            content.append(["not extracted", self.of_url])
        return fingerprint(content)


def _rule_dependencies(store: Store, rule: Rule | LanguageId) -> dict[str, object]:
    """The settings on which a rule's signals depend, and the sha256 of its files.

    Settings that are only bounds are left out.
    """
    files = [sha256_of(local_file(store, path, "filters")) for path in files_read_by(rule)]
    plain = plain_settings(rule) if not isinstance(rule, LanguageId) else asdict(rule)
    return {name: plain[name] for name in rule.measured_by} | {"files": files}


def dependencies(config: CurateConfig, filters: Filters, store: Store) -> dict[str, Any]:
    """Everything on which the attributes of a document depend besides its file, as JSON values."""
    dedup = config.dedup
    return {
        "version": [MEASURE_VERSION, NORMALIZE_VERSION, UNICODE_VERSION],
        "limits": config.limits.model_dump(),
        "language": filters.language
        and _rule_dependencies(store, filters.language)
        | {"model": fasttext_classifier.fingerprint(store, filters.language.model)},
        "dialect": filters.dialect if filters.rules else None,
        "rules": {rule.name: _rule_dependencies(store, rule) for rule in filters.rules},
        "personal_data": personal_data.PERSONAL_DATA_VERSION if config.personal_data else None,
        "signatures": dedup
        and [SIGNATURES_VERSION, dedup.ngram_words, *dedup.banding, dedup.seed, dedup.exact_short]
        + ["symbols"] * dedup.symbols,
        "newest_by": dedup and dedup.newest_by,
    }


@dataclass(frozen=True)
class Measure:
    """The work of a unit: reads and measures its documents."""

    config: CurateConfig
    filters: Filters
    reading: Reading
    repeated: Repeated | None = None
    places: bool = False

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        """Counters: `documents`, `characters`, `text_bytes`, `quarantined`, and the counters by source above.

        Also those of `lost_counters`.
        """
        counters: Counters = {"documents": 0, "characters": 0, "text_bytes": 0, "quarantined": 0}
        by_kind = Counter[str]()
        counts = ReaderCounts()
        has_id_column = self.reading.input_of(unit.source).id is not None
        stored = self.reading.extracts(unit)
        repeated = self.repeated.in_unit(unit.index) if self.repeated else {}
        unwanted = self.unwanted(repeated)
        for table in read_unit(unit, self.reading, self.config.limits, counts=counts, unwanted=unwanted):
            readable, unreadable = split_problems(table)
            if unreadable.num_rows:
                counters["quarantined"] += unreadable.num_rows
                origin = {"source": pa.repeat(unit.source, unreadable.num_rows)}
                scratch.write(QUARANTINE, pa.table(origin | {n: unreadable[n] for n in ("row", "problem", "where")}))
            if readable.num_rows:
                failures: dict[int, str] = {}
                early = unwanted.early if unwanted else {}
                attributes = self.attributes(unit.source, readable, failures, repeated, early)
                if failures:
                    measured = np.ones(readable.num_rows, bool)
                    measured[list(failures)] = False
                    scratch.write(QUARANTINE, _failed(unit, attributes, failures))
                    counters["quarantined"] += len(failures)
                    readable, attributes = (one.filter(pa.array(measured)) for one in (readable, attributes))
                    if not readable.num_rows:
                        continue
                scratch.write(ATTRIBUTES, attributes)
                if stored:
                    scratch.write(TEXTS, _with_texts(readable))
                counters["documents"] += attributes.num_rows
                counters["characters"] += pc.sum(attributes["characters"]).as_py()
                counters["text_bytes"] += pc.sum(attributes["bytes"]).as_py()
                by_kind[NO_ID] += readable["id"].null_count if has_id_column else 0
                not_extracted = readable["text"].null_count
                by_kind[NOT_EXTRACTED] += not_extracted
                by_kind[EMPTY_TEXT] += pc.sum(pc.equal(attributes["bytes"], 0)).as_py() - not_extracted
                if NEWEST_BY in attributes.column_names:
                    by_kind[NO_NEWEST_BY] += pc.sum(pc.is_nan(attributes[NEWEST_BY])).as_py()
        by_kind[REPEATED_KEY] += counts.repeated_keys
        by_kind[RECORDS] += counts.records
        counters["quarantined"] += counts.lost.total()
        counters |= lost_counters(unit.source, counts)
        counters |= {f"{kind}{unit.source}": count for kind, count in by_kind.items() if count}
        counters |= {f"{NOTES}{unit.source}/{note}": count for note, count in counts.notes.items() if count}
        return counters | {f"{SKIPPED}{unit.source}/{reason}": count for reason, count in counts.skipped.items()}

    def unwanted(self, repeated: Mapping[str, str]) -> RemovedByUrl | None:
        """The documents that rules of the URL remove; None without such a rule. repeated: of the unit."""
        if not self.filters.of_url:
            return None
        return RemovedByUrl(self.filters, self.reading.store, repeated)

    def attributes(
        self,
        source: str,
        documents: pa.Table,
        failures: dict[int, str] | None = None,
        repeated: Mapping[str, str] | None = None,
        early: Mapping[str, float] | None = None,
    ) -> pa.Table:
        """The measurements of each document: the same rows, without the text.

        Args:
            documents: a table of read_unit, of readable documents.
            failures, repeated, early: as in `signals`.
        """
        config, filters, store = self.config, self.filters, self.reading.store
        not_extracted = pc.is_null(documents["text"]).to_numpy()
        documents = _with_texts(documents)
        texts = normalize(Texts.from_arrow(documents["text"]))
        hashes = text_hashes(texts)
        ids = documents["id"]
        for row in np.flatnonzero(not_extracted):  # so that examples are drawn from all of them
            hashes[row] = hashlib.blake2b((ids[int(row)].as_py() or "").encode(), digest_size=16).digest()
        columns: dict[str, object] = {
            "row": documents["row"],
            "id": pc.coalesce(ids, pa.array([h.hex() for h in hashes])) if ids.null_count else ids,
            "source": pa.repeat(source, len(texts)),
            "text_hash": pa.array(hashes, pa.binary(16)),
            "characters": count_characters(texts),
            "bytes": texts.byte_lengths,
        }

        parts: dict[str, Callable[[], dict[str, object]]] = {
            "signals": lambda: signals(
                texts, documents.drop_columns(["text"]), filters, store, failures, repeated, early
            )
        }
        if config.personal_data:
            parts["personal_data"] = lambda: personal_data_counts(texts)
        parts["signatures"] = lambda: signatures(texts, config.dedup)
        for found in each_in_turn(parts).values():
            columns |= found
        if config.dedup and config.dedup.newest_by:
            columns[NEWEST_BY] = newness(documents[config.dedup.newest_by])
        if self.places:
            # Without the folder, so that a run on the same files elsewhere has the same digest.
            columns[PLACE] = pc.replace_substring_regex(documents[PLACE], "^.*/", "")
        if not_extracted.any():
            self._forget(columns, not_extracted)
        return pa.table(columns)

    def _forget(self, columns: dict[str, Any], rows: np.ndarray) -> None:
        """Remove what was measured on an empty text that stands for one that was not extracted. rows: bool[D]."""
        of_url = {signal for rule in self.filters.of_url for signal in rule.signals}
        for rule in self.filters.rules:
            for signal in set(rule.signals) - of_url:
                columns[signal] = np.where(rows, np.nan, columns[signal])
        if self.filters.language:
            mask = pa.array(rows)
            columns["language"] = pc.if_else(mask, "", pa.array(columns["language"]))
            columns["language_score"] = pc.if_else(mask, pa.scalar(np.nan, pa.float32()), columns["language_score"])


def _with_texts(documents: pa.Table) -> pa.Table:
    """The documents, with an empty text where none was extracted."""
    at = documents.column_names.index("text")
    return (
        documents.set_column(at, "text", pc.fill_null(documents["text"], ""))
        if documents["text"].null_count
        else documents
    )


def _failed(unit: Unit, attributes: pa.Table, failures: dict[int, str]) -> pa.Table:
    """The rows of QUARANTINE of the documents on which a rule of the user raised an exception. failures: by row."""
    rows = sorted(failures)
    found = attributes.select(["row", "id", "source"]).take(pa.array(rows))
    files = files_from(unit.uris)
    where = [f"{files}, document {id} ({failures[row]})" for row, id in zip(rows, found["id"].to_pylist(), strict=True)]
    return pa.table(
        {"row": found["row"], "source": found["source"], "problem": pa.repeat(PLUGIN_ERROR, len(rows)), "where": where}
    )


def personal_data_counts(texts: Texts) -> dict[str, object]:
    """The columns with the number of findings of each kind of personal data."""
    found = personal_data.count(personal_data.find(texts, personal_data.KINDS), len(texts))
    return {f"personal_{kind}": found[:, at] for at, kind in enumerate(personal_data.KINDS)}


def signatures(texts: Texts, dedup: Dedup | None) -> dict[str, object]:
    """The columns `tokens` and, with deduplication, `signature` (signatures.py)."""
    if dedup is None:
        return {"tokens": count_tokens(texts)}
    a, b = permutations(math.prod(dedup.banding), dedup.seed)
    sketches, tokens = Sketches.of(texts, dedup.ngram_words, a, b, exact_short=dedup.exact_short, symbols=dedup.symbols)
    return {"tokens": tokens, "signature": sketches.to_column()}


def text_hashes(texts: Texts) -> list[bytes]:
    """The 128-bit BLAKE2b hash of each document. Cryptographic, because documents with equal hashes are duplicates."""
    data = memoryview(texts.data)  # type: ignore[arg-type]
    spans = pairwise(texts.offsets.tolist())
    return [hashlib.blake2b(data[start:end], digest_size=16).digest() for start, end in spans]
