"""Records whose answer is not near its question, by the vectors of both (`validate.answer_relevance`).

    sample     of each unit the texts with the smallest hashes   -> _work/relevance/sample
    fit        words and directions of the default embedding     -> _work/relevance/model
    cosines    the similarity of each answer to its question     -> _work/relevance/cosines
    unrelated  rows with a smaller one than the config allows    -> _work/relevance/verdicts

With another model there are the last two. The default embedding is fitted to all records that meet
the other rules, so these stages follow `collect`. They precede the search for duplicates: of two records with one
question, that with the right answer stays.
"""

import heapq
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.examples.content import Shape, from_shape, sides_of
from raymill.cluster.stage import Output, RunStageIn, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.embed import (
    COSINES,
    MODEL,
    EmbedSettings,
    cosines_stage,
    embed_memory,
    fit_memory,
    fit_stage,
)
from raymill.pipelines.prepare.assess.facts import CHARACTERS, ROWS, SAMPLE, SAMPLE_SCHEMA
from raymill.pipelines.prepare.records.fields import hash64
from raymill.pipelines.prepare.records.validate import AnswerRelevance
from raymill.pipelines.prepare.stages.collect import KEYS, RECORDS
from raymill.pipelines.prepare.stages.duplicates import VERDICTS_SCHEMA

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
    rule: AnswerRelevance | None,
    embedding_run: EmbeddingRun,
    shape: Shape,
    artifacts: dict[str, Artifact],
    units: int,
    memory: int,
    run_in: RunStageIn,
) -> Unrelated | None:
    """The records whose answer is not near its question; None without the rule.

    embedding_run: the endpoints for text vectors. artifacts: of `collect`. memory: bytes of a unit of records. run_in:
    makes or finds the artifacts of a stage.
    """
    if rule is None:
        return None
    run, records, store = partial(run_in, folder=FOLDER), artifacts[RECORDS], artifacts[RECORDS].store
    settings = EmbedSettings(store, shape, rule, (), (), embedding_run, setting=SETTING)
    model = None
    if rule.model is None:
        made_from = fingerprint([records.manifest.fingerprint, rule.sample])
        outputs, parts = (Output(SAMPLE, SAMPLE_SCHEMA),), records.files_by_unit(units)
        work = partial(draw_sample, store, shape, rule.sample)
        sample = run(Stage("sample", outputs, parts, work, made_from, store, files_from, memory=memory))[SAMPLE]
        model = run(fit_stage(settings, sample))[MODEL]
    cosines = run(cosines_stage(settings, records, model, units, embed_memory(memory)))[COSINES]
    # Of each unit its files of COSINES and of KEYS, whose rows are those of the same records.
    files = list(zip(cosines.files_by_unit(units), artifacts[KEYS].files_by_unit(units), strict=True))
    made_from = fingerprint([cosines.manifest.fingerprint, rule.min_cosine])
    outputs, find = (Output(_VERDICTS, VERDICTS_SCHEMA),), partial(find_below, store, rule.min_cosine)
    return Unrelated(
        cosines, run(Stage("unrelated", outputs, files, find, made_from, store))[_VERDICTS], rule.min_cosine
    )


def relevance_memory(rule: AnswerRelevance | None, memory: int) -> int:
    """Bytes of the largest unit of these stages; 0 without the rule. memory: of a unit of records."""
    return max(fit_memory(rule), embed_memory(memory)) if rule else 0


def is_below(cosines: pa.ChunkedArray, least: float) -> np.ndarray:
    """bool[N]: whether there is a cosine, and it is less. cosines: float32, rounded."""
    return cosines.to_numpy() < np.float32(least)  # null becomes NaN


def draw_sample(store: Store, shape: Shape, count: int, uris: list[str], scratch: Scratch) -> Counters:
    """The work of the stage `sample`. count: of texts. No counters."""
    found: list[tuple[int, str]] = []
    for table in read_tables(store, uris):
        for start in range(0, table.num_rows, ROWS):
            part = table.slice(start, ROWS)
            hashes = np.array([hash64(id) for id in part["id"].to_pylist()], np.uint64)
            # All records of the last hash: which of these is taken depends on their texts alone.
            chosen = np.flatnonzero(hashes <= np.sort(hashes)[:count][-1])
            texts = [sides_of(from_shape(one, shape)).text for one in part.take(pa.array(chosen)).to_pylist()]
            rows = zip(hashes[chosen].tolist(), (text[:CHARACTERS] for text in texts), strict=True)
            found = heapq.nsmallest(count, [*found, *rows])
    if found:
        scratch.write(SAMPLE, pa.table(list(zip(*found, strict=True)), schema=SAMPLE_SCHEMA))
    return {}


def find_below(store: Store, least: float, files: tuple[list[str], list[str]], scratch: Scratch) -> Counters:
    """The work of the stage `unrelated`. Counters: `passed`, the other records."""
    below = [is_below(table["cosine"], least) for table in read_tables(store, files[0])]
    rows = [table["row"].to_numpy() for table in read_tables(store, files[1], "row".__eq__)]
    removed = np.concatenate([np.empty(0, bool), *below])
    if removed.any():
        scratch.write(_VERDICTS, pa.table({"row": np.concatenate(rows)[removed]}))
    return {"passed": float((~removed).sum())}
