"""The stages `words` and `complexity`: how difficult each record is.

records of a unit  ->  _work/words       numbers of each record, and its words
one unit for all   ->  _work/complexity  the complexity of each record, from 0 to 1, a file for each unit of input

Complexity is the weighted mean of five numbers, each as its rank among all records, from 0 to 1:

    question_length, answer_length   words of what is asked, with the system message, and of the answer
    rarity                           mean over the different words of a record of log2(records / records with the word)
    reasoning                        how often the answer has one of `curriculum.reasoning`
    domain                           share of the words that belong to `curriculum.domain`; only with such words

Of a plain text the text is both question and answer. Words are counted by a hash of 20 bits, so that a few in a million
share a count. Ranks make numbers of different scales comparable, and leave outliers no weight of their own.

Sizes: 4 bytes a word on the store; 100 bytes a record in the memory of the one unit.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, model_validator

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.examples.content import Shape, Sides, from_shape, sides_of
from raymill.cluster.stage import Output, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import Phrases, count_tokens, split_tokens

# Words and phrases of English answers that give reasons or go step by step.
REASONING = (
    "because", "therefore", "thus", "hence", "so that", "as a result", "consequently", "since", "due to", "if",
    "unless", "however", "although", "whereas", "on the other hand", "first", "second", "third", "then", "next",
    "finally", "step", "in order to", "for example", "in other words", "which means", "let us", "we get", "equals",
)  # fmt: skip
WORDS, COMPLEXITY = "_work/words", "_work/complexity"
COMPLEXITY_VERSION = "1"
_WORD_BITS = 20
_ROWS = 10_000  # records that are Python objects at a time
_LIBRARIES = 512 << 20
_OF_A_RECORD = 100
# Numbers of a record that WORDS has; `rarity` is the mean of a value of all records.
MEASURED = ("question_length", "answer_length", "reasoning", "domain")
WORDS_SCHEMA = pa.schema(
    [
        *((name, pa.float32()) for name in MEASURED),
        ("words", pa.list_(pa.uint32())),  # the different ones, as the first _WORD_BITS bits of their hashes
    ]
)
COMPLEXITY_SCHEMA = pa.schema([("complexity", pa.float64())])


class ComplexityWeights(BaseModel, extra="forbid", frozen=True):
    """Weights of what makes a record difficult; see pipelines/prepare/stages/complexity.py."""

    question_length: float = Field(
        1, ge=0, description="Weight in a record's complexity of the number of words of the question"
    )
    answer_length: float = Field(
        1, ge=0, description="Weight in a record's complexity of the number of words of the answer"
    )
    rarity: float = Field(
        1, ge=0, description="Weight in a record's complexity of the rarity of its words among all records"
    )
    reasoning: float = Field(
        1, ge=0, description="Weight in a record's complexity of the number of words of reasoning in the answer"
    )
    domain: float = Field(
        1,
        ge=0,
        description="Weight in a record's complexity of the fraction of its words that belong to the domain; not "
        "used if `domain` names none",
    )


class Curriculum(BaseModel, extra="forbid", frozen=True):
    """Stages of records from easy to hard, which `order: curriculum` of a train config follows."""

    stages: int = Field(
        4, ge=2, le=100, description="Number of stages from easy (stage 1) to hard, of equal numbers of records"
    )
    weights: ComplexityWeights = Field(ComplexityWeights(), description="Weights of what makes a record complex")
    reasoning: tuple[str, ...] = Field(
        REASONING, description="Words and phrases of reasoning, which are counted in answers"
    )
    domain: tuple[str, ...] = Field((), description="Words and phrases of the domain, which are counted in records")

    @property
    def used_weights(self) -> dict[str, float]:
        """The weights by name; the weight of the domain is 0 without words of it."""
        weights = self.weights.model_dump()
        return weights if self.domain else weights | {"domain": 0.0}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("reasoning", "domain"):
            for phrase in getattr(self, name):
                if not any(map(str.isalnum, phrase)):
                    raise ValueError(f"{name}: {phrase!r} has no word")
        if not any(self.used_weights.values()):
            raise ValueError("weights: all are 0; give one of them")
        return self


def words_stage(settings: Curriculum, shape: Shape, records: Artifact, units: int, memory: int) -> Stage:
    """The stage that writes WORDS, with a row for each of `records`. memory: bytes of a unit."""
    made_from = fingerprint([COMPLEXITY_VERSION, records.manifest.fingerprint, settings.reasoning, settings.domain])
    outputs, work = (Output(WORDS, WORDS_SCHEMA),), partial(count_words, records.store, settings, shape)
    parts = records.files_by_unit(units)
    return Stage("words", outputs, parts, work, made_from, records.store, files_from, memory=memory)


def complexity_stage(settings: Curriculum, words: Artifact, units: int) -> Stage:
    """The stage that writes COMPLEXITY. units: number of units of input."""
    made_from = fingerprint([COMPLEXITY_VERSION, words.manifest.fingerprint, settings.weights.model_dump()])
    outputs, memory = (Output(COMPLEXITY, COMPLEXITY_SCHEMA),), _LIBRARIES + _OF_A_RECORD * words.manifest.rows
    work = partial(score_records, settings.used_weights, words, units)
    return Stage("complexity", outputs, (None,), work, made_from, words.store, memory=memory)


def count_words(store: Store, settings: Curriculum, shape: Shape, uris: list[str], scratch: Scratch) -> Counters:
    """The work of the stage `words`. No counters."""
    reasoning, domain = Phrases(settings.reasoning), Phrases(settings.domain)
    for table in read_tables(store, uris):
        for start in range(0, table.num_rows, _ROWS):
            found = [sides_of(from_shape(one, shape)) for one in table.slice(start, _ROWS).to_pylist()]
            scratch.write(WORDS, _words(found, reasoning, domain))
    return {}


def _words(records: Sequence[Sides], reasoning: Phrases, domain: Phrases) -> pa.Table:
    count = len(records)
    asked = count_tokens(Texts.from_strings([f"{one.system}\n{one.question}" for one in records]))
    answers, answered = split_tokens(Texts.from_strings([one.answer or one.question for one in records]))
    tokens, starts = split_tokens(Texts.from_strings([f"{one.system}\n{one.text}" for one in records]))
    text, phrase = domain.find(tokens, starts)
    of_domain = np.bincount(text, domain.lengths[phrase], count) if len(text) else np.zeros(count)
    columns = {
        "question_length": asked,
        "answer_length": np.diff(answered),
        "reasoning": np.bincount(reasoning.find(answers, answered)[0], minlength=count),
        "domain": np.minimum(of_domain / np.maximum(np.diff(starts), 1), 1),
    }
    record = np.repeat(np.arange(count, dtype=np.uint64), np.diff(starts))
    different = np.unique(record << np.uint64(_WORD_BITS) | tokens >> np.uint64(64 - _WORD_BITS))
    ends = np.searchsorted(different >> np.uint64(_WORD_BITS), np.arange(count + 1, dtype=np.uint64))
    words = (different & np.uint64((1 << _WORD_BITS) - 1)).astype(np.uint32)
    plain = {name: pa.array(values.astype(np.float32)) for name, values in columns.items()}
    plain["words"] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(words))
    return pa.table(plain, schema=WORDS_SCHEMA)


def score_records(weights: Mapping[str, float], words: Artifact, units: int, _: None, scratch: Scratch) -> Counters:
    """The work of the stage `complexity`. No counters."""
    records_with = np.zeros(1 << _WORD_BITS, np.int64)
    for table in words.tables(["words"]):
        records_with += np.bincount(table["words"].combine_chunks().flatten().to_numpy(), minlength=len(records_with))
    bits = np.log2(max(words.manifest.rows, 1) / np.maximum(records_with, 1))
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*MEASURED, "rarity")}
    for table in words.tables():
        for name in MEASURED:
            found[name].append(table[name].to_numpy())
        of_records = table["words"].combine_chunks()
        lengths = np.diff(of_records.offsets.to_numpy())
        records = np.repeat(np.arange(len(lengths)), lengths)
        sums = np.bincount(records, bits[of_records.flatten().to_numpy()], len(lengths))
        found["rarity"].append(sums / np.maximum(lengths, 1))
    score = complexity({name: np.concatenate([np.empty(0), *parts]) for name, parts in found.items()}, weights)
    end = 0
    for unit, rows in enumerate(words.rows_by_unit(units)):
        if rows:
            scratch.write(COMPLEXITY, pa.table([score[end : end + rows]], schema=COMPLEXITY_SCHEMA), unit)
            end += rows
    return {}


def complexity(numbers: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """float64[N]: the weighted mean of the ranks of N records. numbers: name -> float[N]."""
    score = sum(weight * ranks(numbers[name]) for name, weight in weights.items() if weight)
    return np.asarray(score / sum(weights.values()))


def ranks(values: np.ndarray) -> np.ndarray:
    """float64[N]: of each value the share of the others that are smaller, half of the equal ones included."""
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    smaller = np.cumsum(counts) - counts
    return (smaller + (counts - 1) / 2)[number] / max(len(values) - 1, 1)


def stages_of(scores: np.ndarray, hashes: np.ndarray, count: int) -> np.ndarray:
    """int8[N]: the stage of each of N records, 1 to `count` from easy to hard, all of equal sizes.

    hashes: uint64[N], the order of records of equal scores.
    """
    found = np.empty(len(scores), np.int8)
    found[np.lexsort((hashes, scores))] = 1 + np.arange(len(scores)) * count // max(len(scores), 1)
    return found
