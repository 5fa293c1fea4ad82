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
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.examples.content import Shape, Sides, from_shape, sides_of
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.prepare.config import Curriculum
from pipelines.text.phrases import Phrases
from pipelines.text.texts import Texts
from pipelines.text.tokens import count_tokens, split_tokens

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


def words_stage(settings: Curriculum, shape: Shape, records: Artifact, units: int, memory: int) -> Stage:
    """The stage that writes WORDS, with a row for each of `records`. memory: bytes of a unit."""
    depends_on = [COMPLEXITY_VERSION, records.manifest.fingerprint, settings.reasoning, settings.domain]
    work, parts = CountWords(records.store, settings, shape), records.files_by_unit(units)
    outputs = (Output(WORDS, WORDS_SCHEMA),)
    return Stage("words", outputs, parts, work, fingerprint(depends_on), records.store, files_from, memory=memory)


def complexity_stage(settings: Curriculum, words: Artifact, units: int) -> Stage:
    """The stage that writes COMPLEXITY."""
    made_from = fingerprint([COMPLEXITY_VERSION, words.manifest.fingerprint, settings.weights.model_dump()])
    outputs, memory = (Output(COMPLEXITY, COMPLEXITY_SCHEMA),), _LIBRARIES + _OF_A_RECORD * words.manifest.rows
    work = ScoreRecords(settings, words, units)
    return Stage("complexity", outputs, (None,), work, made_from, words.store, memory=memory)


@dataclass(frozen=True)
class CountWords:
    """The work of the stage `words`."""

    store: Store
    settings: Curriculum
    shape: Shape

    def __call__(self, uris: list[str], scratch: Scratch) -> Counters:
        reasoning, domain = Phrases(self.settings.reasoning), Phrases(self.settings.domain)
        for table in read_tables(self.store, uris):
            for start in range(0, table.num_rows, _ROWS):
                records = table.slice(start, _ROWS).to_pylist()
                found = [sides_of(from_shape(one, self.shape)) for one in records]
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


@dataclass(frozen=True)
class ScoreRecords:
    """The work of the stage `complexity`. units: of input."""

    settings: Curriculum
    words: Artifact
    units: int

    def __call__(self, _: None, scratch: Scratch) -> Counters:
        records_with = np.zeros(1 << _WORD_BITS, np.int64)
        for table in self.words.tables(["words"]):
            records_with += np.bincount(_values(table), minlength=len(records_with))
        total = self.words.manifest.rows
        bits = np.log2(max(total, 1) / np.maximum(records_with, 1))
        found: dict[str, list[np.ndarray]] = {name: [] for name in (*MEASURED, "rarity")}
        for table in self.words.tables():
            for name in MEASURED:
                found[name].append(table[name].to_numpy())
            found["rarity"].append(_means(bits[_values(table)], _lengths(table)))
        numbers = {name: np.concatenate([np.empty(0), *parts]) for name, parts in found.items()}
        score = complexity(numbers, self._weights())
        end = 0
        for unit, rows in enumerate(self.words.rows_by_unit(self.units)):
            if rows:
                scratch.write(COMPLEXITY, pa.table([score[end : end + rows]], schema=COMPLEXITY_SCHEMA), unit)
                end += rows
        return {}

    def _weights(self) -> dict[str, float]:
        weights = self.settings.weights.model_dump()
        return weights if self.settings.domain else weights | {"domain": 0.0}


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


def _values(table: pa.Table) -> np.ndarray:
    return table["words"].combine_chunks().flatten().to_numpy()


def _lengths(table: pa.Table) -> np.ndarray:
    return np.diff(table["words"].combine_chunks().offsets.to_numpy())


def _means(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """float64[N]: the mean of each run of values; 0 of an empty one."""
    sums = np.bincount(np.repeat(np.arange(len(lengths)), lengths), values, len(lengths))
    return sums / np.maximum(lengths, 1)
