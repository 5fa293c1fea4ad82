"""The stages of a round of annotation.

    look     reads the records of a unit: a random number, stratum and votes of each   -> _work/looked, quarantine
    fit      a classifier, if a strategy needs one                                     -> _work/classifier
    score    reads the records again, for the probabilities of their labels            -> _work/scored
    choose   chooses the records that are labelled                                     -> _work/chosen
    take     reads these again                                                         -> _work/taken
    tasks    puts them in order, and gives them to annotators                          -> tasks

With the setting `simulate`:

    known       reads the records with a known label                                   -> _work/known, quarantine
    simulate    rounds of active learning, by a strategy with a seed (simulate.py)     -> curves

The random number of a record is a hash of the seed and its id, so neither the order of the records nor their division
into units changes the choice.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.entry import Entry
from raymill.cluster.examples.plain_numbers import number_in
from raymill.cluster.examples.splits import hash64
from raymill.cluster.output import Output, read_slice
from raymill.cluster.plan.sample import document_count
from raymill.cluster.readers.columns import value_in
from raymill.cluster.readers.quarantine import lost_counters
from raymill.cluster.readers.reader import ReaderCounts, python_rows
from raymill.cluster.readers.units import InputManifest, Unit, read_unit, split_problems
from raymill.cluster.stage import RunStageIn, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.annotate.choose import TaskCandidates, assigned, choose, entropy, priorities, uncertainty
from raymill.pipelines.annotate.config import AnnotateConfig, Strategy
from raymill.pipelines.annotate.tasks import SCORED, TASKS, shown, tasks_schema
from raymill.pipelines.annotate.trained import TrainedClassifier
from raymill.pipelines.embedder import Embedder, embedder_of
from raymill.pipelines.generate.stages import QUARANTINE, QUARANTINE_SCHEMA
from raymill.pipelines.memory import task_memory
from raymill.pipelines.prepare.records.fields import hash_of_text

# They load scikit-learn.
_fit_embedding = Entry("raymill.pipelines.prepare.assess.vectors:fit_embedding")
_fit_classifier = Entry("raymill.pipelines.annotate.classifier:fit")
_classifier = Entry("raymill.pipelines.annotate.classifier:RecordClassifier")
_clusters_of = Entry("raymill.pipelines.annotate.clusters:clusters_of")
_known_records = Entry("raymill.pipelines.annotate.simulate:KnownRecords")
_simulate_rounds = Entry("raymill.pipelines.annotate.simulate:simulate")

VERSION = "3"
_LOOKED, _CLASSIFIER = "_work/looked", "_work/classifier"
_CHOSEN, _TAKEN = "_work/chosen", "_work/taken"
_POOL = 20_000  # candidates that diversity, coverage and the classifier see, about
_DIMENSIONS = 128
_KNOWN, CURVES = "_work/known", "curves"
_DOCUMENT_MEMORY = 20_000  # bytes for each record of a simulation, with its words
_NO_COLUMNS = pa.schema([])
_ALL = 1 << 64
_CANDIDATE_BYTES = 400  # of memory while candidates are chosen
_MODEL_MEMORY = 2 << 30
_LOOKED_SCHEMA = pa.schema(
    [
        ("draw", pa.uint64()),
        ("stratum", pa.string()),
        ("label", pa.string()),
        ("gold", pa.bool_()),
        ("disagreement", pa.float64()),
        ("text", pa.large_string()),  # of the pool
    ]
)
_KNOWN_SCHEMA = pa.schema([("draw", pa.uint64()), ("label", pa.string()), ("text", pa.large_string())])
_CURVES_SCHEMA = pa.schema(
    [
        ("strategy", pa.string()),
        ("seed", pa.int64()),
        ("round", pa.int64()),
        ("labels", pa.int64()),
        ("accuracy", pa.float64()),
        ("macro_f1", pa.float64()),
        ("stability", pa.float64()),  # kappa of the predictions with those of the round before
    ]
)
_SCORED_SCHEMA = pa.schema(
    [
        ("draw", pa.uint64()),
        ("uncertainty", pa.float64()),
        ("spread", pa.float64()),
        ("label_errors", pa.float64()),
        ("prediction", pa.string()),
        ("certainty", pa.float64()),
    ]
)
_CHOSEN_SCHEMA = pa.schema(
    [
        ("draw", pa.uint64()),
        ("chosen_by", pa.string()),
        ("probability", pa.float64()),
        ("stratum", pa.string()),
        ("score", pa.float64()),
        ("prediction", pa.string()),
        ("certainty", pa.float64()),
        ("priority", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Labelled:
    """Labels of earlier rounds. texts, labels: of each record. ids: of all records of these rounds."""

    texts: Sequence[str]
    labels: Sequence[str]
    ids: frozenset[str]


def run_stages(
    config: AnnotateConfig,
    inputs: InputManifest,
    labelled: Labelled,
    reference: Sequence[str],
    embedding: EmbeddingRun,
    trained: TrainedClassifier | None,
    run: RunStageIn,
) -> dict[str, Artifact]:
    """The artifacts of a round, with `tasks` and `quarantine`.

    trained: model of `choose.classifier`. run: makes or finds the artifacts of a stage.
    """
    store, units = inputs.reading.store, inputs.units
    records = document_count(inputs)
    bound = min(_ALL, round(_POOL / max(1, records) * _ALL))
    decisive = config.model_dump(mode="json", include={"task", "choose", "annotators", "overlap", "expertise", "gold",
                                                       "gold_share", "corrects"})  # fmt: skip
    made_from = fingerprint([VERSION, inputs.fingerprint, len(units), decisive, config.limits.model_dump(), bound,
                             sorted(labelled.ids), list(labelled.labels), list(labelled.texts),
                             *map(list, filter(None, [reference])),
                             *([trained.digest] if trained else [])])  # fmt: skip
    read = Read(config, inputs, labelled.ids)
    memory = task_memory(config.limits)
    outputs = (Output(_LOOKED, _LOOKED_SCHEMA), Output(QUARANTINE, QUARANTINE_SCHEMA))
    look = partial(_look, read, bound)
    artifacts = dict(run(Stage("look", outputs, units, look, made_from, store, _files, memory=memory)))
    looked, scored = artifacts[_LOOKED].files_by_unit(len(units)), None
    if needs_probabilities(config):
        model = None
        if config.choose.probabilities is None and trained is None:
            fit = partial(_fit, config, store, labelled)
            output = Output(_CLASSIFIER, _NO_COLUMNS)
            uris = artifacts[_LOOKED].file_uris
            artifacts |= run(Stage("fit", (output,), [uris], fit, made_from, store, memory=_MODEL_MEMORY))
            (model,) = artifacts[_CLASSIFIER].file_uris
        score = partial(_score, read, Scorer(store, model, trained, bound))
        output = Output(SCORED, _SCORED_SCHEMA)
        size = memory + (_MODEL_MEMORY + 2 * trained.bytes if trained else _MODEL_MEMORY // 2)
        artifacts |= run(Stage("score", (output,), units, score, made_from, store, _files, memory=size))
        scored = artifacts[SCORED].files_by_unit(len(units))
    all_files = [uri for files in looked for uri in files], [uri for files in scored or () for uri in files]
    work = partial(_choose, config, store, embedding, (*config.choose.topics, *reference))
    size = _CANDIDATE_BYTES * artifacts[_LOOKED].rows + _MODEL_MEMORY
    output = Output(_CHOSEN, _CHOSEN_SCHEMA)
    artifacts |= run(Stage("choose", (output,), [all_files], work, made_from, store, memory=size))
    take = partial(_take, read, tuple(artifacts[_CHOSEN].file_uris), trained)
    output = Output(_TAKEN, _taken_schema(config))
    size = memory + (_MODEL_MEMORY + 2 * trained.bytes if trained else 0)
    artifacts |= run(Stage("take", (output,), units, take, made_from, store, _files, memory=size))
    order = partial(_tasks, config, store)
    output = Output(TASKS, tasks_schema(config.task))
    artifacts |= run(Stage("tasks", (output,), [artifacts[_TAKEN].file_uris], order, made_from, store))
    return artifacts


def needs_probabilities(config: AnnotateConfig) -> bool:
    """Whether a strategy, the allocation over strata or the consensus needs the probabilities of labels."""
    learns = {"uncertainty", "label_errors"} & config.choose.shares.keys() or config.choose.allocation == "neyman"
    given = config.choose.probabilities or config.choose.classifier
    return bool(learns or given) and bool(config.task.choices)


def _files(unit: Unit) -> str:
    return files_from(unit.uris)


@dataclass(frozen=True)
class Record:
    """A record of a unit. values: column -> value, as read."""

    id: str
    draw: int
    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Read:
    """Reads the records of a unit. labelled: ids of records of earlier rounds, which are left out."""

    config: AnnotateConfig
    inputs: InputManifest
    labelled: frozenset[str]

    def __call__(self, unit: Unit, counts: ReaderCounts, unreadable: Any = None) -> Iterator[Record]:
        """The records; unreadable: `unreadable(table)` is called with those that cannot be read."""
        reading, seed = self.inputs.reading, str(self.config.choose.seed).encode()
        text = reading.input_of(unit.source).text
        for table in read_unit(unit, reading, self.config.limits, counts=counts):
            readable, bad = split_problems(table)
            if unreadable is not None:
                unreadable(table, bad)
            for row in python_rows(readable.select([name for name in readable.column_names if name != "row"])):
                id = row["id"] or hash_of_text(row["text"])
                if id in self.labelled:
                    continue
                row[text] = row["text"]
                values = {name: value_in(row, name) for name in self.config.columns}
                yield Record(id, hash64(seed, id.encode()), unit.source, values)

    def text_of(self, record: Record) -> str:
        """What classifiers and vectors see of a record: the columns of its task."""
        return "\n".join(shown(record.values[name]) or "" for name in self.config.task.columns)

    def stratum_of(self, record: Record) -> str:
        """The values of the strata, as text."""
        return ", ".join(f"{name}={shown(record.values[name])}" for name in self.config.choose.strata)


def _look(read: Read, bound: int, unit: Unit, scratch: Scratch) -> Counters:
    """The work of the stage `look`. Counters: `documents`, `quarantined`, and those of `lost_counters`."""
    config, counters, counts = read.config, Counter[str](), ReaderCounts()

    def row_of(record: Record) -> dict[str, Any]:
        choose_by = config.choose
        return {
            "draw": record.draw,
            "stratum": read.stratum_of(record),
            "label": shown(record.values[choose_by.label]) if choose_by.label else None,
            "gold": bool(config.gold and shown(record.values[config.gold])),
            "disagreement": _disagreement([record.values[name] for name in choose_by.votes]),
            "text": read.text_of(record) if record.draw < bound else None,
        }

    for batch in _batches(read(unit, counts, partial(_unreadable, unit, scratch, counters))):
        scratch.write(_LOOKED, pa.Table.from_pylist(list(map(row_of, batch)), _LOOKED_SCHEMA))
    counters.update({"documents": counts.lost.total(), "quarantined": counts.lost.total()})
    counters.update(lost_counters(unit.source, counts))
    return dict(counters)


def _unreadable(unit: Unit, scratch: Scratch, counters: Counter[str], table: pa.Table, bad: pa.Table) -> None:
    """Count the rows of a table, and write those that cannot be read."""
    counters.update({"documents": table.num_rows, "quarantined": bad.num_rows})
    if bad.num_rows:
        found = bad.select(["row", "problem", "where"])
        scratch.write(QUARANTINE, found.append_column("source", pa.repeat(unit.source, found.num_rows)))


def _disagreement(votes: Sequence[Any]) -> float | None:
    """Entropy of the labels by several models; None of less than two."""
    counts = np.array([*Counter(shown(one) for one in votes if one is not None).values()], float)
    return float(entropy(counts[None] / counts.sum())[0]) if counts.sum() >= 2 else None


def _fit(config: AnnotateConfig, store: Store, labelled: Labelled, uris: Sequence[str], scratch: Scratch) -> Counters:
    """The work of the stage `fit`. Counters: `trained_on`, records with a label."""
    names = list(config.task.choices)
    texts, labels, draw = list(labelled.texts), list(labelled.labels), []
    draw += [hash64(text.encode()) for text in texts]
    for table in read_tables(store, uris, {"draw", "label", "text"}.__contains__):
        for row in table.filter(table["text"].is_valid()).to_pylist():
            if row["label"] in names:
                texts.append(row["text"])
                labels.append(row["label"])
                draw.append(row["draw"])
    order = sorted(range(len(texts)), key=lambda at: (draw[at], texts[at]))
    model = _fit_classifier.load()(
        [texts[at] for at in order],
        [names.index(labels[at]) for at in order],
        names,
        np.array([draw[at] for at in order], np.uint64),
        out_of_fold=config.choose.label is not None,
    )
    shape = np.array(model.weights.shape, np.int64)
    scratch.write_slices(_CLASSIFIER, [shape.tobytes(), model.weights.tobytes(), model.bias.tobytes()])
    return {"trained_on": len(texts)}


@lru_cache(maxsize=1)
def _loaded(store: Store, uri: str) -> Any:
    shape = tuple(read_slice(store, uri, 0, lambda data: np.frombuffer(data, np.int64)).tolist())
    weights = read_slice(store, uri, 1, lambda data: np.frombuffer(data, np.float32)).reshape(shape)
    bias = read_slice(store, uri, 2, lambda data: np.frombuffer(data, np.float32)).reshape(shape[:2])
    return _classifier.load()(weights, bias)


@dataclass(frozen=True)
class Scorer:
    """What gives the probabilities of labels.

    Attributes:
        store: of the classifier. uri: of the built-in classifier; None: another one, or records have probabilities.
        trained: model of `choose.classifier`, which sees the pool alone: records whose draw is below `bound`.
    """

    store: Store
    uri: str | None
    trained: TrainedClassifier | None
    bound: int

    def __call__(self, read: Read, batch: Sequence[Record], draw: np.ndarray) -> np.ndarray:
        """float64[N, L]: the probability of each label; NaN of a record without."""
        names, column = list(read.config.task.choices), read.config.choose.probabilities or ""
        if self.trained is not None:
            found = np.full((len(batch), len(names)), np.nan)
            pool = [at for at, one in enumerate(batch) if one.draw < self.bound]
            if pool:
                found[pool] = self.trained.probabilities([read.text_of(batch[at]) for at in pool], names)
            return found
        if self.uri is None:
            return np.array([given_probabilities(one.values[column], names) for one in batch])
        return _loaded(self.store, self.uri).probabilities([read.text_of(one) for one in batch], draw)


def _score(read: Read, scorer: Scorer, unit: Unit, scratch: Scratch) -> Counters:
    """The work of the stage `score`.

    Counters: `without`, records whose own probabilities cannot be used.
    """
    names = list(read.config.task.choices)
    without, counts = 0, ReaderCounts()
    for batch in _batches(read(unit, counts)):
        draw = np.array([one.draw for one in batch], np.uint64)
        found = scorer(read, batch, draw)
        without += int(np.isnan(found[:, 0]).sum()) if read.config.choose.probabilities else 0
        labels = [shown(one.values[label]) if (label := read.config.choose.label) else None for one in batch]
        scratch.write(SCORED, _scores(read.config, draw, found, labels, names))
    return {"without": without}


def given_probabilities(value: Any, names: Sequence[str]) -> list[float]:
    """The probability of each label; NaN if the value has none: a list in their order, or label to probability."""
    none = [math.nan] * len(names)
    try:
        plain = json.loads(value) if isinstance(value, str) else value
        given = [plain.get(name) or 0 for name in names] if isinstance(plain, dict) else list(plain)
        found = [*map(number_in, given)]
    except (ValueError, TypeError, RecursionError):
        return none
    total = sum(found)
    if len(found) != len(names) or not math.isfinite(total) or total <= 0 or min(found) < 0:
        return none
    return [one / total for one in found]


def _batches(records: Iterator[Record], size: int = 2000) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _scores(
    config: AnnotateConfig, draw: np.ndarray, probabilities: np.ndarray, labels: Sequence[str | None], names: list[str]
) -> pa.Table:
    """Scores by probabilities, float64[N, L]."""
    best, known = probabilities.max(axis=1), ~np.isnan(probabilities[:, 0])
    own = np.array([names.index(one) if one in names else -1 for one in labels])
    of_own = np.where(own >= 0, probabilities[np.arange(len(own)), own], np.nan)
    columns = {
        "draw": draw,
        "uncertainty": pa.array(uncertainty(probabilities, config.choose.measure), from_pandas=True),
        "spread": pa.array(np.sqrt(best * (1 - best)), from_pandas=True),
        "label_errors": pa.array(-of_own, from_pandas=True),
        "prediction": [names[at] if ok else None for at, ok in zip(probabilities.argmax(axis=1), known, strict=True)],
        "certainty": pa.array(best, from_pandas=True),
    }
    return pa.table(columns, schema=_SCORED_SCHEMA)


def _choose(
    config: AnnotateConfig,
    store: Store,
    embedding: EmbeddingRun,
    topics: Sequence[str],
    files: tuple[Sequence[str], Sequence[str]],
    scratch: Scratch,
) -> Counters:
    """The work of the stage `choose`. Counters: `candidates`, `repeated` records whose id another has, `gold` ones."""
    choose_by = config.choose
    looked = pa.concat_tables([_LOOKED_SCHEMA.empty_table(), *read_tables(store, files[0])])
    scored = pa.concat_tables([_SCORED_SCHEMA.empty_table(), *read_tables(store, files[1])])
    draw, first = np.unique(looked["draw"].to_numpy(), return_index=True)
    repeated = looked.num_rows - len(draw)
    looked = looked.take(pa.array(first))
    if scored.num_rows:
        at = np.unique(scored["draw"].to_numpy(), return_index=True)[1]
        scored = scored.take(pa.array(at))
    scores = {"disagreement": _numbers(looked["disagreement"])}
    for name in ("uncertainty", "label_errors"):
        scores[name] = _numbers(scored[name]) if scored.num_rows else np.full(len(draw), np.nan)
    spread = _numbers(scored["spread"]) if scored.num_rows else np.zeros(len(draw))
    encoded = looked["stratum"].combine_chunks().dictionary_encode()
    strata, of_code = np.unique(np.array(encoded.dictionary.to_pylist(), object), return_inverse=True)
    stratum = of_code[encoded.indices.to_numpy()]
    pool, vectors, of_topics = _vectors(config, store, embedding, topics, looked)
    clusters = choose_by.clusters > 1 and len(pool)
    cluster = _clusters_of.load()(vectors, choose_by.clusters) if clusters else np.zeros(len(pool), np.int64)
    candidates = TaskCandidates(draw, stratum, scores, spread, pool, vectors, of_topics, cluster)
    gold = _gold(config, looked["gold"].to_numpy(zero_copy_only=False), draw)
    usable = np.delete(np.arange(len(draw)), gold)
    found = choose(_only(candidates, usable), choose_by.shares, choose_by.count - len(gold), choose_by.allocation)
    index = np.concatenate([gold, usable[found.index]]).astype(np.int64)
    none = np.full(len(gold), np.nan)
    chosen_by = np.concatenate([np.full(len(gold), "gold", object), found.strategy])
    columns = {
        "draw": draw[index],
        "chosen_by": chosen_by,
        "probability": pa.array(np.concatenate([none, found.probability]), from_pandas=True),
        "stratum": [strata[one] for one in stratum[index]],
        "score": pa.array(np.concatenate([none, found.score]), from_pandas=True),
        "prediction": scored["prediction"].take(pa.array(index)) if scored.num_rows else pa.nulls(len(index)),
        "certainty": scored["certainty"].take(pa.array(index)) if scored.num_rows else pa.nulls(len(index)),
        "priority": priorities(chosen_by),
    }
    scratch.write(_CHOSEN, pa.table(columns, schema=_CHOSEN_SCHEMA))
    return {"candidates": len(draw), "repeated": repeated, "gold": len(gold)}


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.float64)


def _gold(config: AnnotateConfig, gold: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """int64[G]: candidates with a known label that are among the tasks: those with the smallest random numbers."""
    known = np.flatnonzero(gold)
    return known[np.argsort(draw[known])][: round(config.gold_share * config.choose.count)]


def _only(candidates: TaskCandidates, usable: np.ndarray) -> TaskCandidates:
    """The candidates with these numbers, in ascending order."""
    kept = np.isin(candidates.pool, usable)
    return TaskCandidates(
        candidates.draw[usable],
        candidates.stratum[usable],
        {name: scores[usable] for name, scores in candidates.scores.items()},
        candidates.spread[usable],
        np.searchsorted(usable, candidates.pool[kept]),
        candidates.vectors[kept],
        candidates.topics,
        candidates.cluster[kept],
    )


def _vectors(
    config: AnnotateConfig, store: Store, embedding: EmbeddingRun, topics: Sequence[str], looked: pa.Table
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(candidates of the pool, their vectors, those of the topics), as in `TaskCandidates`; empty if none is needed."""
    nothing = np.empty(0, np.int64), np.empty((0, 1), np.float32), np.empty((0, 1), np.float32)
    if not {"diversity", "coverage"} & config.choose.shares.keys():
        return nothing
    pool = np.flatnonzero(looked["text"].is_valid().to_numpy())
    texts = looked["text"].take(pa.array(pool)).to_pylist()
    if not texts:
        return nothing
    embedder: Embedder
    if (model := config.embedding_models.get("choose.model")) is None:
        embedder = _fit_embedding.load()(texts, _DIMENSIONS)
    else:
        embedder = embedder_of(model, store, embedding, "choose.model")
    return pool, embedder.embed(texts), embedder.embed(list(topics)) if topics else nothing[2]


def _taken_schema(config: AnnotateConfig) -> pa.Schema:
    schema = tasks_schema(config.task)
    return schema.append(pa.field("draw", pa.uint64()))


def _take(
    read: Read, chosen: Sequence[str], trained: TrainedClassifier | None, unit: Unit, scratch: Scratch
) -> Counters:
    """The work of the stage `take`: the tasks of a unit's records. chosen: files of the stage `choose`.

    Tasks outside of the pool get their prediction here: those of random ones measure the classifier.
    """
    config, rows, without = read.config, [], list[Record]()
    found = pa.concat_tables([_CHOSEN_SCHEMA.empty_table(), *read_tables(read.inputs.reading.store, chosen)])
    wanted = {row["draw"]: row for row in found.to_pylist()}
    for record in read(unit, ReaderCounts()):
        if (row := wanted.pop(record.draw, None)) is None:
            continue
        is_gold = row["chosen_by"] == "gold"
        rows.append(
            row
            | {
                "id": record.id,
                "source": record.source,
                "record": {name: shown(record.values[name]) for name in config.task.columns},
                "gold": shown(record.values[config.gold]) if config.gold and is_gold else None,
                "present": shown(record.values[config.corrects.column]) if config.corrects else None,
                "topic": shown(record.values[config.expertise]) if config.expertise else None,
                "annotators": [],
            }
        )
        without += [record] if row["prediction"] is None else []
    if trained is not None and without:
        names, by_draw = list(config.task.choices), {row["draw"]: row for row in rows}
        probabilities = trained.probabilities([read.text_of(one) for one in without], names)
        for one, of_one in zip(without, probabilities, strict=True):
            if not np.isnan(of_one).any():
                best = int(of_one.argmax())
                by_draw[one.draw].update({"prediction": names[best], "certainty": float(of_one[best])})
    if rows:
        scratch.write(_TAKEN, pa.Table.from_pylist(rows, _taken_schema(config)))
    return {"tasks": len(rows)}


def _tasks(config: AnnotateConfig, store: Store, uris: Sequence[str], scratch: Scratch) -> Counters:
    """The work of the stage `tasks`: a random order, so that each annotator meets records of all strategies."""
    taken = pa.concat_tables([_taken_schema(config).empty_table(), *read_tables(store, uris)])
    by_draw = {row["draw"]: row for row in reversed(taken.to_pylist())}  # of equal ids the first record
    rows = sorted(by_draw.values(), key=lambda row: hash64(row["id"].encode()))
    people = [(one.name, frozenset(one.topics)) for one in config.annotators]
    given = assigned([row["topic"] for row in rows], people, config.overlap)
    tasks = [row | {"annotators": names} for row, names in zip(rows, given, strict=True)]
    scratch.write(TASKS, pa.Table.from_pylist(tasks, tasks_schema(config.task)))
    return {"tasks": len(tasks)}


# --- simulated rounds


def run_simulation(config: AnnotateConfig, inputs: InputManifest, run: RunStageIn) -> dict[str, Artifact]:
    """The artifacts of simulated rounds, with `curves` and `quarantine`. run: makes or finds those of a stage."""
    assert config.simulate is not None
    store, units, given = inputs.reading.store, inputs.units, config.simulate
    bound = min(_ALL, round(given.records / max(1, document_count(inputs)) * _ALL))
    decisive = config.model_dump(mode="json", include={"task", "choose", "simulate"})
    made_from = fingerprint([VERSION, inputs.fingerprint, len(units), decisive, config.limits.model_dump(), bound])
    read = Read(config, inputs, frozenset())
    outputs = (Output(_KNOWN, _KNOWN_SCHEMA), Output(QUARANTINE, QUARANTINE_SCHEMA))
    memory = task_memory(config.limits)
    known = partial(_known, read, given.label, bound)
    artifacts = dict(run(Stage("known", outputs, units, known, made_from, store, _files, memory=memory)))
    pairs = [(strategy, config.choose.seed + number) for strategy in given.strategies for number in range(given.seeds)]
    work = partial(_simulate, config, store, tuple(artifacts[_KNOWN].file_uris))
    size = _MODEL_MEMORY + _DOCUMENT_MEMORY * artifacts[_KNOWN].rows
    output = Output(CURVES, _CURVES_SCHEMA)
    artifacts |= run(Stage("simulate", (output,), pairs, work, made_from, store, memory=size))
    return artifacts


def _known(read: Read, column: str, bound: int, unit: Unit, scratch: Scratch) -> Counters:
    """The work of the stage `known`. Counters: as of `look`, and `unknown`, records without one of the labels."""
    counters, counts, names = Counter[str](), ReaderCounts(), frozenset(read.config.task.choices)
    records = read(unit, counts, partial(_unreadable, unit, scratch, counters))
    for batch in _batches(one for one in records if one.draw < bound):
        labels = [shown(one.values[column]) for one in batch]
        rows = [
            {"draw": one.draw, "label": label, "text": read.text_of(one)}
            for one, label in zip(batch, labels, strict=True)
            if label in names
        ]
        counters["unknown"] += len(batch) - len(rows)
        if rows:
            scratch.write(_KNOWN, pa.Table.from_pylist(rows, _KNOWN_SCHEMA))
    counters.update({"documents": counts.lost.total(), "quarantined": counts.lost.total()})
    counters.update(lost_counters(unit.source, counts))
    return dict(counters)


def _simulate(
    config: AnnotateConfig, store: Store, uris: Sequence[str], unit: tuple[Strategy, int], scratch: Scratch
) -> Counters:
    """The work of the stage `simulate`. unit: strategy and seed."""
    assert config.simulate is not None
    (strategy, seed), names = unit, list(config.task.choices)
    found = pa.concat_tables([_KNOWN_SCHEMA.empty_table(), *read_tables(store, uris)]).sort_by("draw")
    labels = np.array([names.index(one) for one in found["label"].to_pylist()], np.int64)
    records = _known_records.load()(found["text"].to_pylist(), labels, names, found["draw"].to_numpy())
    given = config.simulate
    rows = _simulate_rounds.load()(records, strategy, seed, given.rounds, config.choose.count, given.held_out)
    scratch.write(CURVES, pa.Table.from_pylist(rows, _CURVES_SCHEMA))
    return {"rounds": len(rows)}
