"""Stage 1: read every document once and write down what is known of it, without its text.

    unit of input  ->  attributes (one row per readable document), quarantine (one row per unreadable one)

Everything later is decided from attributes, so text is read only twice in a run: here, and when the corpus is written.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import cluster
from cluster.artifact import Counters, fingerprint
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.curate.config import CurateConfig
from pipelines.dedup import signatures
from pipelines.language import fasttext_model as classifiers
from pipelines.language import identification as language
from pipelines.language.identification import LanguageId
from pipelines.readers import read_unit
from pipelines.readers.reader import ReaderCounts
from pipelines.readers.units import InputManifest, Reading, Unit
from pipelines.rules import Rule
from pipelines.rules.rule import Analysis
from pipelines.text import personal_data
from pipelines.text.characters import UNICODE_VERSION
from pipelines.text.lines import count_characters
from pipelines.text.normalize import NORMALIZE_VERSION, normalize
from pipelines.text.texts import Texts

ATTRIBUTES = "attributes"
QUARANTINE = "quarantine"
MEASURE_VERSION = "4"

# Counters of what readers pass over are named SKIPPED + source + "/" + reason.
SKIPPED = "skipped/"
# Counters of documents, each followed by the source: without the id that the source's column should give, with an empty
# text (normalised), and of records with a key that is given twice.
NO_ID, EMPTY_TEXT, REPEATED_KEY = "no_id/", "empty_text/", "repeated_key/"

QUARANTINE_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("row", pa.int64()),
        ("source", pa.string()),
        ("problem", pa.string()),
        ("where", pa.string()),
    ]
)


def attributes_schema(config: CurateConfig) -> pa.Schema:
    """One row per readable document; its position is (the file's unit, row)."""
    columns = [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("text_hash", pa.binary(16)),
        ("characters", pa.int64()),
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
    ]
    if config.language:
        columns += [("language", pa.string()), ("language_score", pa.float32())]
    columns += [(signal, pa.float64()) for rule in config.active_rules() for signal in rule.signals]
    if config.personal_data:
        columns += [(f"personal_{kind}", pa.int32()) for kind in personal_data.KINDS]
    if config.dedup:
        bands, rows = config.dedup.banding
        columns.append(("signature", pa.binary(4 * bands * rows)))
    return pa.schema(columns)


def measure_stage(config: CurateConfig, inputs: InputManifest) -> Stage:
    outputs = (
        Output(ATTRIBUTES, attributes_schema(config), row_group_bytes=8 << 20),
        Output(QUARANTINE, QUARANTINE_SCHEMA),
    )
    work = Measure(config, inputs.reading)
    return Stage("measure", outputs, inputs.units, work, _fingerprint(config, inputs), config.store, _files)


def _files(unit: Unit) -> str:
    return files_from(unit.uris)


def measuring(store: Store, rule: Rule | LanguageId) -> dict[str, object]:
    """The settings of a rule that change what is measured; all others only move bounds."""
    files = [classifiers.fingerprint(store, path) for path in getattr(rule, "fingerprint_files", tuple)()]
    return {name: getattr(rule, name) for name in rule.measured_by} | {"files": files}


def _fingerprint(config: CurateConfig, inputs: InputManifest) -> str:
    dedup, store = config.dedup, config.store
    return fingerprint(
        {
            "version": [cluster.__version__, MEASURE_VERSION, NORMALIZE_VERSION, UNICODE_VERSION],
            "inputs": inputs.fingerprint,
            "limits": config.limits.model_dump(),
            "language": config.language
            and measuring(store, config.language) | {"model": classifiers.fingerprint(store, config.language.model)},
            "dialect": config.rules and config.rules.dialect,
            "rules": {rule.name: measuring(store, rule) for rule in config.active_rules()},
            "personal_data": config.personal_data and personal_data.PERSONAL_DATA_VERSION,
            "signatures": dedup and [signatures.SIGNATURES_VERSION, dedup.ngram_words, *dedup.banding, dedup.seed],
        }
    )


@dataclass(frozen=True)
class Measure:
    """The stage's work: a pure function of a unit."""

    config: CurateConfig
    reading: Reading

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        counters: Counters = {"documents": 0, "characters": 0, "text_bytes": 0, "quarantined": 0}
        noted = Counter[str]()
        counts = ReaderCounts()
        named = self.reading.input_of(unit.source).id is not None
        for table in read_unit(unit, self.reading, self.config.limits, counts=counts):
            readable, unreadable = split_problems(table)
            if unreadable.num_rows:
                counters["quarantined"] += unreadable.num_rows
                place = {"unit": pa.repeat(pa.scalar(unit.index, pa.int32()), unreadable.num_rows)}
                place["source"] = pa.repeat(unit.source, unreadable.num_rows)
                scratch.write(QUARANTINE, pa.table(place | {n: unreadable[n] for n in ("row", "problem", "where")}))
            if readable.num_rows:
                attributes = self.attributes(unit.source, readable)
                scratch.write(ATTRIBUTES, attributes)
                counters["documents"] += attributes.num_rows
                counters["characters"] += pc.sum(attributes["characters"]).as_py()
                counters["text_bytes"] += pc.sum(attributes["bytes"]).as_py()
                noted[NO_ID] += readable["id"].null_count if named else 0
                noted[EMPTY_TEXT] += pc.sum(pc.equal(attributes["bytes"], 0)).as_py()
        noted[REPEATED_KEY] += counts.repeated_keys
        counters |= {f"{kind}{unit.source}": count for kind, count in noted.items() if count}
        return counters | {f"{SKIPPED}{unit.source}/{reason}": count for reason, count in counts.skipped.items()}

    def attributes(self, source: str, documents: pa.Table) -> pa.Table:
        """What is known of each document; the same rows, no text."""
        config = self.config
        texts = normalize(Texts.from_arrow(documents["text"]))
        hashes = text_hashes(texts)
        columns: dict[str, object] = {
            "row": documents["row"],
            "id": pc.coalesce(documents["id"], pa.array([h.hex() for h in hashes]))
            if documents["id"].null_count
            else documents["id"],
            "source": pa.repeat(source, len(texts)),
            "text_hash": pa.array(hashes, pa.binary(16)),
            "characters": count_characters(texts),
            "bytes": texts.byte_lengths,
        }
        if config.language:
            classifier = language.load(config.store, config.language)
            columns["language"], columns["language_score"] = language.identify(
                texts, classifier, config.language.max_chars
            )
            documents = documents.append_column("language", columns["language"])
        if config.rules:
            analysis = Analysis(texts, config.dialect, documents.drop_columns(["text"]), config.store)
            for rule in config.active_rules():
                columns |= {name: values.astype(np.float64) for name, values in rule.measure(analysis).items()}
        if config.personal_data:
            found = personal_data.count(personal_data.find(texts, personal_data.KINDS), len(texts))
            columns |= {f"personal_{kind}": found[:, at] for at, kind in enumerate(personal_data.KINDS)}
        columns |= self._signatures(texts)
        return pa.table(columns)

    def _signatures(self, texts: Texts) -> dict[str, object]:
        dedup = self.config.dedup
        if dedup is None:
            return {"tokens": signatures.count_tokens(texts)}
        bands, rows = dedup.banding
        a, b = signatures.permutations(bands * rows, dedup.seed)
        found, tokens = signatures.signatures(texts, dedup.ngram_words, a, b)
        short = pa.array(tokens < dedup.ngram_words)
        packed = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(4 * bands * rows), len(texts), [None, pa.py_buffer(found.astype("<u4"))]
        )
        return {"tokens": tokens, "signature": pc.if_else(short, pa.scalar(None, packed.type), packed)}


def split_problems(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(readable, unreadable) rows of what a reader gave."""
    if table["problem"].null_count == table.num_rows:
        return table, table.slice(0, 0)
    fine = pc.is_null(table["problem"])
    return table.filter(fine), table.filter(pc.invert(fine))


def text_hashes(texts: Texts) -> list[bytes]:
    """A 128-bit BLAKE2b of each document: cryptographic, because a collision would remove somebody's document."""
    return list(_hashes(texts))


def _hashes(texts: Texts) -> Iterator[bytes]:
    data = memoryview(texts.data)  # type: ignore[arg-type]
    ends = texts.offsets.tolist()
    for start, end in pairwise(ends):
        yield hashlib.blake2b(data[start:end], digest_size=16).digest()
