"""The stage `assess`: measures every record of the splits.

files of splits  ->  FACTS      of each record what `summary` counts
                     SAMPLE     the texts of the records with the smallest hashes
                     QUESTIONS  of each record what deduplication compares: of its question, or of its text
                     ANSWERS    the same of its answer; none of plain texts
                     VERDICTS   nothing: all records are compared

Copies that balancing made are in FACTS alone, because the shares of a field's values are those of what is trained.

Sizes: 100 to 150 bytes a record and what dedup's signatures take.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.examples.content import Shape, Sides, from_shape, sides_of
from raymill.cluster.examples.texts import texts_of
from raymill.cluster.stage import Output, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.identification import LanguageId, excerpts, identify
from raymill.pipelines.memory import model_memory
from raymill.pipelines.prepare.assess.metrics import dates_in, form_of
from raymill.pipelines.prepare.assess.settings import Sentiment
from raymill.pipelines.prepare.records.clean import Clean, Cleaner
from raymill.pipelines.prepare.records.fields import (
    AUGMENT,
    hash64,
    labels_by_annotators,
    metadata_of,
    value_of,
    values_of,
)
from raymill.pipelines.prepare.records.validate import Validator
from raymill.pipelines.prepare.stages.collect import rules_memory
from raymill.pipelines.prepare.stages.duplicates import ATTRIBUTES_SCHEMA, VERDICTS_SCHEMA, attributes, same
from raymill.pipelines.text.lines import count_characters
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import Phrases, split_tokens

FOLDER = "_work/assess"  # of a run: the artifacts of its assessment
FACTS, SAMPLE, VERDICTS = "facts", "sample", "verdicts"
# Not below the folders of their groups, `questions` and `answers`, which are outputs of their own.
QUESTIONS, ANSWERS = "question-attributes", "answer-attributes"
FACTS_VERSION = "7"
TOGETHER = "all"  # the source of all records in QUESTIONS and ANSWERS, which are compared whatever their sources are

CHARACTERS = 4000  # of a text whose words are sampled or embedded
ROWS = 10_000  # records that are Python objects at a time
UNIT_BYTES = 8 << 20  # of compressed files
_LANGUAGE = LanguageId()

# U+FFFD, C1 controls, and how UTF-8 looks that was read as Windows-1252.
DAMAGED = (
    "\ufffd|[\u0080-\u009f]|\u00c3[\u00a0-\u00bf\u2018-\u203a]|\u00c2[\u00a0-\u00bf]|\u00e2\u20ac|\u00ef\u00bb\u00bf"
)

SAMPLE_SCHEMA = pa.schema([("hash", pa.uint64()), ("text", pa.large_string())])


@dataclass(frozen=True)
class FactsSettings:
    """The settings on which the facts depend.

    Attributes:
        shape: of the records.
        topics: topic -> words and phrases.
        sample: number of texts of SAMPLE.
        dedup: how questions and answers are compared.
        complete: fields that a record should have.
        allowed: values that a field may have.
        fields: metadata whose values are counted.
        kept: metadata for other measures.
        rules: that are counted; None: the data set was made with them.
        terms: that no record should have, as of `load_terms`.
        sentiment: a classifier.
        annotated: whether the labels of annotators are compared.
    """

    shape: Shape
    topics: Mapping[str, tuple[str, ...]]
    sample: int
    dedup: Dedup
    complete: tuple[str, ...]
    allowed: Mapping[str, tuple[str, ...]]
    fields: tuple[str, ...]
    kept: tuple[str, ...]
    rules: Validator | None
    terms: Mapping[str, str] = field(default_factory=dict)
    sentiment: Sentiment | None = None
    annotated: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The columns of FACTS."""
        return pa.schema(
            [
                ("id", pa.string()),
                ("hash", pa.uint64()),  # of the id
                ("copy", pa.bool_()),  # balancing or augmentation made the record of another one
                ("question", pa.uint64()),  # hashes of system message and question, and of the answer; 0 of plain texts
                ("answer", pa.uint64()),
                ("language", pa.string()),  # null: not identified with certainty
                ("damaged", pa.bool_()),  # a match of DAMAGED
                ("missing", pa.list_(pa.string())),  # fields without a value
                ("not_allowed", pa.bool_()),  # a value that is not in `validate.allowed`
                ("topics", pa.list_(pa.int32())),  # numbers of the topics that it mentions
                ("term", pa.bool_()),  # a term that `clean.terminology` replaces
                ("form", pa.string()),  # of the answer, JSON or text; null of a plain text
                ("dates", pa.list_(pa.string())),  # forms of the dates in the answer
                ("violation", pa.string()),  # the first of the rules that the record does not meet
                ("characters", pa.int64()),
                ("turns", pa.int32()),  # answers; 0 of plain texts
                *((f"value/{name}", pa.string()) for name in self.fields),
                *((f"kept/{name}", pa.string()) for name in self.kept),
                *([("labels", pa.list_(pa.string()))] if self.annotated else []),  # each of another annotator
                *([("sentiment", pa.float32())] if self.sentiment else []),  # probability of its label
            ]
        )

    def missing(self, metadata: Mapping[str, str | None], one: Sides) -> list[str]:
        """The fields of a record that are empty; `content` for its question or answer."""
        found = [name for name in self.complete if not (metadata[name] or "").strip()]
        return found + (["content"] if not one.question.strip() or (one.turns and not one.answer.strip()) else [])

    def refuses(self, metadata: Mapping[str, str | None]) -> bool:
        """Whether a record has a value that is not allowed."""
        allowed = self.allowed.items()
        return any(value not in values for name, values in allowed for value in values_of(name, metadata[name]))


def facts_stage(settings: FactsSettings, splits: Sequence[Artifact], memory: int) -> Stage:
    """The stage that writes the artifacts named above. memory: bytes of a unit of records."""
    store, dedup = splits[0].store, settings.dedup
    outputs = (
        Output(FACTS, settings.schema),
        Output(SAMPLE, SAMPLE_SCHEMA),
        Output(QUESTIONS, ATTRIBUTES_SCHEMA),
        Output(ANSWERS, ATTRIBUTES_SCHEMA),
        Output(VERDICTS, VERDICTS_SCHEMA),
    )
    depends_on = {
        "version": FACTS_VERSION,
        "splits": [one.manifest.digest for one in splits],
        "shape": settings.shape,
        "assess": [settings.topics, settings.sample],
        "signatures": [dedup.ngram_words, *dedup.banding, dedup.seed],
        "exact_short": dedup.exact_short,
        "symbols": dedup.symbols,
        "fields": [settings.complete, settings.allowed, settings.fields, settings.kept, settings.annotated],
        "rules": settings.rules and settings.rules.depends_on(),
        "terms": dict(settings.terms),
        "language": fasttext_classifier.fingerprint(store, None),
    }
    memory += rules_memory(store, settings.rules.settings) if settings.rules else 0
    if sentiment := settings.sentiment:
        depends_on["sentiment"] = [sentiment.model_dump(), fasttext_classifier.fingerprint(store, sentiment.model)]
        memory += model_memory(store, sentiment.model)
    work, made_from = partial(measure_records, store, settings), fingerprint(depends_on)
    return Stage("assess", outputs, units_of(splits), work, made_from, store, files_from, memory=memory)


def smallest_of_sample(sample: Artifact, count: int) -> list[str]:
    """The texts of SAMPLE with the smallest hashes, in their order."""
    found: list[tuple[int, str]] = []
    for table in sample.tables():
        rows = zip(table["hash"].to_pylist(), table["text"].to_pylist(), strict=True)
        found = heapq.nsmallest(count, [*found, *rows])
    return [text for _, text in found]


def units_of(splits: Sequence[Artifact]) -> list[tuple[str, ...]]:
    """The files of all splits in order, put together to units."""
    units: list[list[str]] = [[]]
    size = 0
    for split in splits:
        for uri, file in zip(split.file_uris, split.manifest.files, strict=True):
            if units[-1] and size + file.bytes > UNIT_BYTES:
                units.append([])
                size = 0
            units[-1].append(uri)
            size += file.bytes
    return [tuple(uris) for uris in units]


def measure_records(store: Store, settings: FactsSettings, uris: tuple[str, ...], scratch: Scratch) -> Counters:
    """The work of the stage.

    Counters: `passed`, all records; `on_topic`, those that mention a topic; by number of a topic `topic/N`; both
    without copies.
    """
    counters = Counter[str]({"passed": 0, "on_topic": 0})
    topics, terms = Topics(settings.topics), Terms(settings.terms)
    sample: list[tuple[int, str]] = []
    for table in read_tables(store, uris):
        for start in range(0, table.num_rows, ROWS):
            records = table.slice(start, ROWS).to_pylist()
            contents, metadata = [from_shape(one, settings.shape) for one in records], list(map(metadata_of, records))
            found = [sides_of(one) for one in contents]
            texts = Texts.from_strings([one.text for one in found])
            copy, hashes = np.array([is_copy(one) for one in records]), [hash64(one["id"]) for one in records]
            mentioned = topics.mentioned(texts)
            counters["on_topic"] += int(mentioned[~copy].any(axis=1).sum())
            counters.update({f"topic/{at}": int(n) for at, n in enumerate(mentioned[~copy].sum(axis=0))})
            broken = (
                settings.rules(list(zip(contents, metadata, strict=True))) if settings.rules else [None] * len(copy)
            )
            known = {
                "hash": hashes,
                "copy": copy,
                "topics": [np.flatnonzero(one).tolist() for one in mentioned],
                "violation": [one and one.reason for one in broken],
                "term": terms.found([texts_of(one) for one in contents]),
            }
            scratch.write(FACTS, _facts(store, settings, records, metadata, found, texts, known))
            compared = np.flatnonzero(~copy)
            for output, chosen in (
                (QUESTIONS, compared),
                (ANSWERS, compared[[found[at].turns > 0 for at in compared]]),
            ):
                if len(chosen):
                    of = [found[at].question if output == QUESTIONS else found[at].answer for at in chosen]
                    ids, sources = [records[at]["id"] for at in chosen], [TOGETHER] * len(chosen)
                    rows = counters["passed"] + chosen
                    scratch.write(output, attributes(rows, ids, sources, of, settings.dedup))
            shown = ((hashes[at], found[at].text[:CHARACTERS]) for at in compared)
            sample = heapq.nsmallest(settings.sample, [*sample, *shown])
            counters["passed"] += len(records)
    if sample:
        scratch.write(SAMPLE, pa.table(list(zip(*sample, strict=True)), schema=SAMPLE_SCHEMA))
    return dict(counters)


def _facts(
    store: Store,
    settings: FactsSettings,
    records: list[dict[str, Any]],
    metadata: list[dict[str, str | None]],
    found: list[Sides],
    texts: Texts,
    known: dict[str, Any],
) -> pa.Table:
    """The rows of FACTS. known: columns of them."""
    languages, scores = identify(texts, fasttext_classifier.load(store, None), _LANGUAGE.max_chars)
    columns = known | {
        "id": [one["id"] for one in records],
        "question": [hash64(one.system, same(one.question)) if one.turns else 0 for one in found],
        "answer": [hash64(same(one.answer)) if one.turns else 0 for one in found],
        "language": pc.if_else(pa.array(scores >= _LANGUAGE.min_score), languages, None),
        "damaged": pc.match_substring_regex(texts.to_arrow(), DAMAGED),
        "missing": [settings.missing(*one) for one in zip(metadata, found, strict=True)],
        "not_allowed": [settings.refuses(one) for one in metadata],
        "characters": count_characters(texts),
        "turns": [one.turns for one in found],
        "form": [form_of(one.answer) if one.turns else None for one in found],
        "dates": dates_in([one.answer for one in found]),
    }
    for one, record in zip(metadata, records, strict=True):
        if "stage" in record:
            one.setdefault("complexity", str(record["stage"]))
    for kind, names in (("value", settings.fields), ("kept", settings.kept)):
        columns |= {f"{kind}/{name}": [value_of(name, one[name]) for one in metadata] for name in names}
    if settings.annotated:
        columns["labels"] = [labels_by_annotators(one) for one in records]
    if sentiment := settings.sentiment:
        classifier = fasttext_classifier.load(store, sentiment.model)
        columns["sentiment"] = classifier.score(excerpts(texts, sentiment.max_chars), sentiment.plain_label)
    return pa.table(columns, schema=settings.schema)


def is_copy(record: Mapping[str, Any]) -> bool:
    """Whether balancing or augmentation made the record of another one."""
    operation = (record["provenance"] or {}).get("operation") or ""
    return operation == "repeat" or operation.startswith(AUGMENT)


def check_sentiment(store: Store, sentiment: Sentiment) -> None:
    """Open the classifier.

    Raises:
        ConfigError, StorageError: it is missing or damaged, or lacks the label.
    """
    fasttext_classifier.load(store, sentiment.model).require(sentiment.plain_label, "assess.sentiment.label")


class Terms:
    """Finds terms that cleaning replaces. Those whose replacement has the term itself are left out: `PC: the PC`."""

    def __init__(self, terms: Mapping[str, str]) -> None:
        plain = Clean(normalize=False)
        uses = [Cleaner(plain, terms={term: use})([[use]])[0][0][0] for term, use in terms.items()]
        kept = {term: use for (term, use), again in zip(terms.items(), uses, strict=True) if use == again}
        self.cleaner = Cleaner(plain, terms=kept)

    def found(self, records: Sequence[Sequence[str]]) -> list[bool]:
        """Whether a record has a term. records: of each its texts."""
        if not self.cleaner.terms:
            return [False] * len(records)
        cleaned, _ = self.cleaner(records)
        return [list(before) != after for before, after in zip(records, cleaned, strict=True)]


class Topics:
    """Finds the words and phrases of topics, whole and in any case."""

    def __init__(self, topics: Mapping[str, Sequence[str]]) -> None:
        self.phrases = Phrases([phrase for phrases in topics.values() for phrase in phrases])
        self.topic = np.repeat(np.arange(len(topics)), [len(phrases) for phrases in topics.values()])
        self.count = len(topics)

    def mentioned(self, texts: Texts) -> np.ndarray:
        """bool[D, topics]: whether a text has a phrase of a topic. Speed: 150 MB/s."""
        found = np.zeros((len(texts), self.count), np.bool_)
        if self.count:
            text, phrase = self.phrases.find(*split_tokens(texts))
            found[text, self.topic[phrase]] = True
        return found
