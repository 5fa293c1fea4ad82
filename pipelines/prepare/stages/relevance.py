"""Records whose answer is not near its question, by the vectors of both (`validate.answer_relevance`).

    sample     of each unit the texts with the smallest hashes   -> _work/relevance/sample
    fit        words and directions of the default embedding     -> _work/relevance/model
    cosines    the similarity of each answer to its question     -> _work/relevance/cosines
    unrelated  rows with a smaller one than the config allows    -> _work/relevance/verdicts

With a model of sentence-transformers there are the last two. The default embedding is fitted to all records that meet
the other rules, so these stages follow `collect`. They precede the search for duplicates: of two records with one
question, that with the right answer stays.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.examples.content import Shape, from_shape, sides_of
from cluster.readers.inputs import Limits
from cluster.stage import Output, RunStageIn, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.prepare.assess.embed import (
    COSINES,
    MODEL,
    EmbedSettings,
    cosines_stage,
    embed_memory,
    fit_memory,
    fit_stage,
)
from pipelines.prepare.assess.facts import CHARACTERS, ROWS, SAMPLE, SAMPLE_SCHEMA
from pipelines.prepare.config import AnswerRelevance, PrepareConfig
from pipelines.prepare.records.hashes import hash64
from pipelines.prepare.stages.collect import KEYS, RECORDS, collect_memory

FOLDER = "_work/relevance"
SETTING = "validate.answer_relevance.model"
_VERDICTS = "verdicts"


@dataclass(frozen=True)
class Unrelated:
    """Cosines of all records that meet the other rules, and which rows of each unit have less than `min_cosine`."""

    cosines: Artifact
    verdicts: Artifact
    min_cosine: float


def find_unrelated(
    config: PrepareConfig, artifacts: dict[str, Artifact], units: int, run_in: RunStageIn
) -> Unrelated | None:
    """The records whose answer is not near its question; None without the rule.

    artifacts: of `collect`. run_in: makes or finds the artifacts of a stage.
    """
    rule, run = config.validation.answer_relevance, partial(run_in, folder=FOLDER)
    if rule is None:
        return None
    records, keys, shape = artifacts[RECORDS], artifacts[KEYS], config.records.shape
    settings = EmbedSettings(records.store, shape, rule, (), (), setting=SETTING)
    model = None
    if rule.model is None:
        sample = run(sample_stage(rule, shape, records, units, collect_memory(config.limits)))[SAMPLE]
        model = run(fit_stage(settings, sample))[MODEL]
    cosines = run(cosines_stage(settings, records, model, units, config.limits))[COSINES]
    verdicts = run(unrelated_stage(cosines, keys, rule.min_cosine, units))[_VERDICTS]
    return Unrelated(cosines, verdicts, rule.min_cosine)


def relevance_memory(rule: AnswerRelevance | None, limits: Limits) -> int:
    """Bytes of the largest unit of these stages; 0 without the rule."""
    return max(fit_memory(rule), embed_memory(limits)) if rule else 0


def is_below(cosines: pa.ChunkedArray, least: float) -> np.ndarray:
    """bool[N]: whether there is a cosine, and it is less. cosines: float32, rounded."""
    return cosines.to_numpy() < np.float32(least)  # null becomes NaN


def sample_stage(rule: AnswerRelevance, shape: Shape, records: Artifact, units: int, memory: int) -> Stage:
    """The stage that writes SAMPLE. memory: bytes of a unit."""
    made_from = fingerprint([records.manifest.fingerprint, rule.sample])
    work, parts = DrawSample(records.store, shape, rule.sample), records.files_by_unit(units)
    outputs = (Output(SAMPLE, SAMPLE_SCHEMA),)
    return Stage("sample", outputs, parts, work, made_from, records.store, files_from, memory=memory)


@dataclass(frozen=True)
class DrawSample:
    """The work of the stage `sample`. count: of texts."""

    store: Store
    shape: Shape
    count: int

    def __call__(self, uris: list[str], scratch: Scratch) -> Counters:
        """No counters."""
        found: list[tuple[int, str]] = []
        for table in read_tables(self.store, uris):
            for start in range(0, table.num_rows, ROWS):
                part = table.slice(start, ROWS)
                hashes = np.array([hash64(id) for id in part["id"].to_pylist()], np.uint64)
                # All records of the last hash: which of these is taken depends on their texts alone.
                chosen = np.flatnonzero(hashes <= np.sort(hashes)[: self.count][-1])
                texts = [sides_of(from_shape(one, self.shape)).text for one in part.take(pa.array(chosen)).to_pylist()]
                rows = zip(hashes[chosen].tolist(), (text[:CHARACTERS] for text in texts), strict=True)
                found = heapq.nsmallest(self.count, [*found, *rows])
        if found:
            scratch.write(SAMPLE, pa.table(list(zip(*found, strict=True)), schema=SAMPLE_SCHEMA))
        return {}


@dataclass(frozen=True)
class UnitCosines:
    """A unit of `unrelated`: its files of COSINES and of KEYS, whose rows are those of the same records."""

    cosines: Sequence[str]
    keys: Sequence[str]


def unrelated_stage(cosines: Artifact, keys: Artifact, min_cosine: float, units: int) -> Stage:
    """The stage that writes the rows of unrelated answers, as VERDICTS of `collect` has them."""
    made_from = fingerprint([cosines.manifest.fingerprint, min_cosine])
    files = zip(cosines.files_by_unit(units), keys.files_by_unit(units), strict=True)
    parts = [UnitCosines(*of_unit) for of_unit in files]
    outputs = (Output(_VERDICTS, pa.schema([("row", pa.int64())])),)
    return Stage("unrelated", outputs, parts, FindUnrelated(cosines.store, min_cosine), made_from, cosines.store)


@dataclass(frozen=True)
class FindUnrelated:
    """The work of the stage `unrelated`."""

    store: Store
    min_cosine: float

    def __call__(self, unit: UnitCosines, scratch: Scratch) -> Counters:
        """Counters: `passed`, the other records."""
        below = [is_below(table["cosine"], self.min_cosine) for table in read_tables(self.store, unit.cosines)]
        rows = [table["row"].to_numpy() for table in read_tables(self.store, unit.keys, "row".__eq__)]
        if not rows:
            return {"passed": 0.0}
        removed = np.concatenate(below)
        if removed.any():
            scratch.write(_VERDICTS, pa.table({"row": np.concatenate(rows)[removed]}))
        return {"passed": float((~removed).sum())}
