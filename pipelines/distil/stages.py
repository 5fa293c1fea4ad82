"""The stages of a distillation besides those of the judges, which are runs of `generate`.

    draw.0   draws documents of a unit whose hash is below a bound      -> _work/drawn.0, quarantine
    take     takes those with the smallest hashes of all units          -> _work/taken, _work/attributes, _work/verdicts
    group    finds near-duplicates among them                           -> _work/groups
    sample   leaves the near-duplicates out                             -> sample
    train    trains, calibrates and tests the classifier                -> scores, _work/classifier, _work/seconds

A document is drawn by the keyed hash of its text, so neither the order of the documents nor their division into units
changes the sample. The bound on the hash follows from an estimate of the number of documents; if too few are drawn,
`draw.1` and so on read the input again with a larger bound.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.errors import DataError
from raymill.cluster.examples.plain_numbers import number_in
from raymill.cluster.output import Output, changed_run
from raymill.cluster.plan.sample import document_count
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.quarantine import lost_counters
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.units import InputManifest, Reading, Unit, read_unit, split_problems
from raymill.cluster.stage import RunStageIn, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.group import GROUPS, group_stage
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.distil.classifier import SampleVectors, Scored, make_classifier
from raymill.pipelines.distil.config import DistilConfig
from raymill.pipelines.embedder import embedder_of
from raymill.pipelines.generate.stages import QUARANTINE, QUARANTINE_SCHEMA
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.memory import task_memory
from raymill.pipelines.prepare.records.fields import hash_of_text
from raymill.pipelines.prepare.stages.duplicates import ATTRIBUTES_SCHEMA, VERDICTS_SCHEMA, attributes
from raymill.pipelines.text.normalize import NORMALIZE_VERSION, normalize
from raymill.pipelines.text.texts import Texts

VERSION = "1"
_TAKEN, _ATTRIBUTES, _VERDICTS = "_work/taken", "_work/attributes", "_work/verdicts"
SAMPLE, SCORES, CLASSIFIER, SECONDS = "sample", "scores", "_work/classifier", "_work/seconds"
_NO_COLUMNS = pa.schema([])
_DIGEST_BYTES = 16
_HASHES = 1 << 64
_EXAMPLES, _EXCERPT = 2, 300  # documents of each score in the report, and characters shown of each
# Documents drawn for each that is wanted: the number of documents is an estimate.
_DRAWN = 2.0
# Bytes of memory for each document of the sample during training: its text, words and n-grams.
_DOCUMENT_MEMORY = 40_000
_OF_VECTORS = 1 << 30  # the libraries, a model of text vectors, and the fit
_DRAWN_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # hash of the text, keyed with the seed
        ("document", pa.string()),  # id of the document in the input, else the hash of its text
        ("source", pa.string()),
        ("text", pa.large_string()),
    ]
)
SCORES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("document", pa.string()),
        ("source", pa.string()),
        ("part", pa.string()),  # train, validation or test; null of a document that no judge scored
        ("score", pa.float64()),  # mean of the judges
        ("judges", pa.list_(pa.struct([("judge", pa.string()), ("score", pa.float64()), ("reason", pa.string())]))),
        ("people", pa.float64()),
        ("classifier", pa.float64()),  # expected score
    ]
)


def sample_of(config: DistilConfig, inputs: InputManifest, run: RunStageIn) -> dict[str, Artifact]:
    """The artifacts of the sample, with `sample` and `quarantine`. run: makes or finds the artifacts of a stage."""
    artifacts = dict[str, Artifact]()
    store, units = inputs.reading.store, inputs.units
    made_from = fingerprint([VERSION, inputs.fingerprint, len(units), config.seed, config.limits.model_dump()])
    fraction = min(1.0, _DRAWN * (config.sample + 100) / max(1, document_count(inputs)))
    for number in range(64):
        drawn = f"_work/drawn.{number}"
        outputs = (Output(drawn, _DRAWN_SCHEMA), *([] if number else [Output(QUARANTINE, QUARANTINE_SCHEMA)]))
        work = Draw(config.seed, min(_HASHES, round(fraction * _HASHES)), config.limits, inputs.reading, drawn)
        artifacts |= run(
            Stage(
                f"draw.{number}",
                outputs,
                units,
                work,
                fingerprint([made_from, fraction]),
                store,
                _files,
                memory=task_memory(config.limits),
            )
        )
        kept = _smallest(artifacts[drawn], len(units), config.sample)
        found = sum(map(len, kept))
        if found >= config.sample or fraction >= 1:
            break
        fraction = min(1.0, fraction * max(2.0, _DRAWN * config.sample / max(1, found)))
    files = artifacts[drawn].files_by_unit(len(units))
    parts = [(of_unit, rows) for of_unit, rows in zip(files, kept, strict=True) if rows]
    outputs = Output(_TAKEN, _DRAWN_SCHEMA), Output(_ATTRIBUTES, ATTRIBUTES_SCHEMA), Output(_VERDICTS, VERDICTS_SCHEMA)
    compared_by = config.dedup and config.dedup.model_dump(mode="json")
    taken_from = fingerprint([made_from, fraction, config.sample, compared_by])
    memory = task_memory(config.limits) + _DOCUMENT_MEMORY * config.sample
    take = partial(_take, store, config.dedup)
    artifacts |= run(Stage("take", outputs, [parts], take, taken_from, store, memory=memory))
    groups: list[str] = []
    if config.dedup:
        compared, none = artifacts[_ATTRIBUTES], artifacts[_VERDICTS]
        groups = run(group_stage(config.dedup, inputs.inputs, compared, none, 1))[GROUPS].file_uris
    unit = artifacts[_TAKEN].file_uris, groups
    leave_out, output = partial(_without_duplicates, store), Output(SAMPLE, _DRAWN_SCHEMA)
    artifacts |= run(Stage("sample", (output,), [unit], leave_out, taken_from, store))
    _refuse_other_rows(artifacts, drawn, sum(map(len, kept)))
    return artifacts


def _refuse_other_rows(artifacts: Mapping[str, Artifact], drawn: str, wanted: int) -> None:
    """Verify that the documents that were drawn were taken, and those that were taken are in the sample or repeat one.

    drawn: name of the artifact of the last draw. wanted: rows taken of it.

    Raises:
        DataError: files of the unfinished run were changed.
    """
    of_draw, taken, sample = (artifacts[name] for name in (drawn, _TAKEN, SAMPLE))
    counted = sample.manifest.counters
    if not (
        of_draw.rows == of_draw.manifest.counters.get("drawn", of_draw.rows)
        and taken.rows == wanted == counted["documents"]
        and artifacts[_ATTRIBUTES].rows in (0, taken.rows)
        and sample.rows == taken.rows - counted["near_duplicates"]
    ):
        raise changed_run(sample.uri.removesuffix(f"/{SAMPLE}"), "_work")


def _files(unit: Unit) -> str:
    return files_from(unit.uris)


@dataclass(frozen=True)
class Draw:
    """The work of a stage `draw.N`. bound: documents with a hash below it are drawn. output: name of the artifact."""

    seed: int
    bound: int
    limits: Limits
    reading: Reading
    output: str

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        """Counters: `documents`, `quarantined`, `drawn`, and those of `lost_counters`."""
        counters, counts = Counter[str](), ReaderCounts()
        key, first = str(self.seed).encode(), self.output.endswith(".0")
        for table in read_unit(unit, self.reading, self.limits, counts=counts):
            readable, unreadable = split_problems(table)
            if unreadable.num_rows and first:
                found = unreadable.select(["row", "problem", "where"])
                scratch.write(QUARANTINE, found.append_column("source", pa.repeat(unit.source, found.num_rows)))
            counters.update({"documents": table.num_rows, "quarantined": unreadable.num_rows})
            texts = Texts.from_arrow(readable["text"])
            data = memoryview(texts.data)  # type: ignore[arg-type]
            ends, rows, digests = texts.offsets.tolist(), [], []
            for row in range(len(texts)):
                digest = hashlib.blake2b(data[ends[row] : ends[row + 1]], digest_size=_DIGEST_BYTES, key=key).digest()
                if int.from_bytes(digest[:8]) < self.bound and texts[row].strip():
                    rows.append(row)
                    digests.append(digest.hex())
            counters["drawn"] += len(rows)
            if rows:
                drawn = readable.take(pa.array(rows))
                own = [id or hash_of_text(texts[row]) for id, row in zip(drawn["id"].to_pylist(), rows, strict=True)]
                columns = {"id": digests, "document": own, "source": [unit.source] * len(rows), "text": drawn["text"]}
                scratch.write(self.output, pa.table(columns, schema=_DRAWN_SCHEMA))
        counters.update({"documents": counts.lost.total(), "quarantined": counts.lost.total()})
        counters.update(lost_counters(unit.source, counts))
        return dict(counters)


def _smallest(drawn: Artifact, units: int, count: int) -> list[list[int]]:
    """The rows of each unit with the `count` smallest different hashes; of equal hashes, the first row."""
    ids = [
        [id for table in read_tables(drawn.store, files, {"id"}.__contains__) for id in table["id"].to_pylist()]
        for files in drawn.files_by_unit(units)
    ]
    first: dict[str, tuple[int, int]] = {}
    for unit, of_unit in enumerate(ids):
        for row, id in enumerate(of_unit):
            first.setdefault(id, (unit, row))
    kept: list[list[int]] = [[] for _ in ids]
    for id in sorted(first)[:count]:
        unit, row = first[id]
        kept[unit].append(row)
    return [sorted(rows) for rows in kept]


def _take(
    store: Store, dedup: Dedup | None, parts: Sequence[tuple[list[str], list[int]]], scratch: Scratch
) -> Counters:
    """The work of the stage `take`: write the sample in the order of its hashes.

    parts: (files of a unit of `draw`, rows to take of them).
    """
    found = [_DRAWN_SCHEMA.empty_table()]
    for files, rows in parts:
        wanted, first = np.array(rows), 0
        for table in read_tables(store, files):
            here = wanted[(wanted >= first) & (wanted < first + table.num_rows)] - first
            first += table.num_rows
            found.append(table.take(pa.array(here)))
    taken = pa.concat_tables(found).sort_by("id")
    scratch.write(_TAKEN, taken)
    if dedup and taken.num_rows:
        ids, sources, texts = (taken[name].to_pylist() for name in ("id", "source", "text"))
        scratch.write(_ATTRIBUTES, attributes(range(taken.num_rows), ids, sources, texts, dedup))
    return {"documents": taken.num_rows}


def _without_duplicates(store: Store, unit: tuple[Sequence[str], Sequence[str]], scratch: Scratch) -> Counters:
    """The work of the stage `sample`: leave near-duplicates out. unit: files of `take`, and of `group`."""
    taken, groups = unit
    copies = [
        table["row"].filter(table["reason"].is_valid()).to_numpy()
        for table in read_tables(store, groups, {"row", "reason"}.__contains__)
    ]
    left_out, first = np.concatenate([np.empty(0, np.int64), *copies]), 0
    for table in read_tables(store, taken):
        rows = np.arange(first, first + table.num_rows)
        first += table.num_rows
        scratch.write(SAMPLE, table.filter(pa.array(~np.isin(rows, left_out))))
    return {"documents": first, "near_duplicates": len(left_out)}


def train_stage(
    config: DistilConfig,
    sample: Artifact,
    judged: Mapping[str, Artifact],
    people: Mapping[str, float],
    most: int,
    embedding: EmbeddingRun,
) -> Stage:
    """The stage that trains the classifier.

    judged: records of each judge. people: document -> score. most: as in `make_classifier`. embedding: the endpoints
    for text vectors.
    """
    made_from = fingerprint(
        [
            VERSION,
            NORMALIZE_VERSION,
            sample.manifest.digest,
            {name: one.manifest.digest for name, one in judged.items()},
            dict(people),
            most,
            config.model_dump(mode="json", include={"held_out", "threshold", "classifier", "seed"}),
            *([config.embedding.decisive] if config.embedding else []),
        ]
    )
    outputs = (Output(SCORES, SCORES_SCHEMA), Output(CLASSIFIER, _NO_COLUMNS), Output(SECONDS, _NO_COLUMNS))
    records = {name: tuple(one.file_uris) for name, one in judged.items()}
    work = Train(config, sample.store, people, most, embedding)
    of_model = _OF_VECTORS if config.embedding else 12 * config.classifier.dimension * config.classifier.buckets
    rows = _DOCUMENT_MEMORY * sample.rows + of_model
    unit = tuple(sample.file_uris), records
    return Stage("train", outputs, [unit], work, made_from, sample.store, memory=(1 << 30) + rows)


def _examples(scored: Scored, documents: Sequence[str], reasons: Sequence[str]) -> list[dict[str, str]]:
    """The first documents of each score, as rows of a table for the report."""
    found: dict[int, list[dict[str, str]]] = {}
    for row, score in enumerate(scored.score.tolist()):
        if score == score and len(of_score := found.setdefault(int(score + 0.5), [])) < _EXAMPLES:
            text = " ".join(scored.texts[row].split())[:_EXCERPT]
            shown = {"score": f"{score:g}", "document": documents[row], "text": text, "reason": reasons[row][:_EXCERPT]}
            of_score.append(shown)
    return [one for _, rows in sorted(found.items()) for one in rows]


@dataclass(frozen=True)
class Train:
    """The work of the stage `train`."""

    config: DistilConfig
    store: Store
    people: Mapping[str, float]
    most: int
    embedding: EmbeddingRun

    def __call__(self, unit: tuple[Sequence[str], Mapping[str, Sequence[str]]], scratch: Scratch) -> Counters:
        files, records = unit
        sample = pa.concat_tables([_DRAWN_SCHEMA.empty_table(), *read_tables(self.store, files)]).sort_by("id")
        judges = {name: dict(self._scores(name, uris)) for name, uris in records.items()}
        given = [
            [(name, *judges[name][id]) for name in judges if id in judges[name]] for id in sample["id"].to_pylist()
        ]
        scored = Scored(
            ids=sample["id"].to_pylist(),
            texts=normalize(Texts.from_arrow(sample["text"])),  # as `curate` does
            by_judge={
                name: np.array([scores.get(id, (np.nan, ""))[0] for id in sample["id"].to_pylist()])
                for name, scores in judges.items()
            },
            people=np.array([self.people.get(one, np.nan) for one in sample["document"].to_pylist()]),
        )
        vectors = self._vectors(scored.texts)
        started = time.perf_counter()
        made = make_classifier(scored, self.config, self.most, vectors)
        seconds = {"train": time.perf_counter() - started, "score": made.seconds, "scored": len(scored.ids)}
        columns = {
            "id": sample["id"],
            "document": sample["document"],
            "source": sample["source"],
            "part": scored.parts(self.config.held_out),
            "score": pa.array(scored.score, from_pandas=True),
            "judges": [[{"judge": name, "score": score, "reason": why} for name, score, why in one] for one in given],
            "people": pa.array(scored.people, from_pandas=True),
            "classifier": pa.array(made.scores.astype(np.float64), from_pandas=True),
        }
        scratch.write(SCORES, pa.table(columns, schema=SCORES_SCHEMA))
        reasons = [one[0][2] if one else "" for one in given]
        examples = _examples(scored, sample["document"].to_pylist(), reasons)
        measures = json.dumps(made.measures | {"examples": examples}).encode()
        scratch.write_slices(CLASSIFIER, [made.model, measures])
        scratch.write_slices(SECONDS, [json.dumps(seconds).encode()])
        return {"documents": len(scored.ids)}

    def _vectors(self, texts: Texts) -> SampleVectors | None:
        """The vectors of the texts; None without a model of text vectors."""
        model = self.config.embedding_models.get("embedding")
        if model is None:
            return None
        embedder = embedder_of(model, self.store, self.embedding, "embedding")
        lines = excerpts(texts, self.config.classifier.max_chars).to_arrow().to_pylist()
        started = time.perf_counter()
        rows = embedder.embed(lines)
        return SampleVectors(rows, None if model.endpoint else time.perf_counter() - started)

    def _scores(self, judge: str, uris: Sequence[str]) -> Iterator[tuple[str, tuple[float, str]]]:
        """(id in the sample, (score, reason)) of each record of a judge."""
        wanted = {"score", "reason", "provenance"}
        for table in read_tables(self.store, uris, wanted.__contains__):
            reasons = table["reason"].to_pylist() if "reason" in table.column_names else [""] * table.num_rows
            parents = pc.list_element(pc.struct_field(table["provenance"], "parents"), 0).to_pylist()
            for id, score, reason in zip(parents, table["score"].to_pylist(), reasons, strict=True):
                value = number_in(score)
                if not 0 <= value <= 100:
                    raise DataError(
                        f"judge {judge}: the score {score!r:.80} is not a number from 0 to 100. Correct `score` in the "
                        "`record` of its template."
                    )
                yield id, (value, reason)
