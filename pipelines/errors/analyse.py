"""The stage `analyse`: slices, confusions, causes and findings of all items. Only workers import this module.

The order of the files and of their rows changes nothing: items and records are taken in the order of their ids, and
halves and samples are drawn by a hash of the id.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from raymill.cluster.artifact import Counters, read_tables
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.examples.splits import hash64
from raymill.cluster.proportions import wilson
from raymill.cluster.stage import Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.embedder import Embedder, embedder_of
from raymill.pipelines.errors.causes import (
    CAUSES,
    NEIGHBOURS,
    Cause,
    cause_of,
    classes_of,
    contradictions,
    near_bound,
    nearest,
    suspected_records,
)
from raymill.pipelines.errors.config import ErrorsConfig
from raymill.pipelines.errors.findings import (
    Finding,
    candidate,
    candidate_record,
    corrections,
    relabelled,
    seeds,
)
from raymill.pipelines.errors.items import EvaluatedItem
from raymill.pipelines.errors.outputs import (
    FACTS,
    FACTS_SCHEMA,
    FINDINGS,
    FINDINGS_SCHEMA,
    ITEMS,
    ITEMS_SCHEMA,
    NEAREST,
    NEAREST_SCHEMA,
)
from raymill.pipelines.errors.runs import EvaluatedRun, TrainingRecord, answer_field, records_of
from raymill.pipelines.errors.sample import SmallestHashes, rows_of
from raymill.pipelines.errors.slices import ErrorSlice, candidates, compared, divided, leaves
from raymill.pipelines.language import identification
from raymill.pipelines.language.identification import LanguageId
from raymill.pipelines.prepare.assess.facts import CHARACTERS
from raymill.pipelines.prepare.assess.vectors import fit_embedding
from raymill.pipelines.prepare.stages.duplicates import same
from raymill.pipelines.text.texts import Texts

_DIMENSIONS = 128
_FITTED = 20_000  # texts to which the default vectors are fitted
_OF_A_CLUSTER, _MOST_CLUSTERS = 50, 20  # items, on average
_WORDS_OF_A_CLUSTER = 3
_SHOWN = 5  # neighbours in NEAREST; examples of a finding
_CONFUSIONS = 5  # findings of confusions
_CONFUSED = 5  # items of a confusion that is a finding
_OTHER = "(no class)"


@dataclass(frozen=True)
class Analyse:
    """The work of the stage. uris: files of `read`. data: output of `prepare`; None: no training records are known."""

    config: ErrorsConfig
    store: Store
    run: EvaluatedRun | None
    data: str | None
    embedding: EmbeddingRun

    def __call__(self, uris: Sequence[str], scratch: Scratch) -> Counters:
        """Counters: `items`, `errors`, `repeated`, `drawn_out`, `records`."""
        items, repeated, drawn_out = _items(self.store, uris)
        label = self.run.label if self.run else None
        records = records_of(self.store, self.data, ("train",), label) if self.data else []
        of_answer = answer_field(self.store, self.data, label) if self.data else "completion"
        with threadpool_limits(1):  # a sum over other threads has other last bits
            found = _Analysis(self.config, self.store, self.embedding, items, records, of_answer)
            scratch.write(ITEMS, found.items_table())
            scratch.write(NEAREST, found.nearest_table())
            scratch.write(FACTS, pa.table([[json.dumps(found.facts(), ensure_ascii=False)]], FACTS_SCHEMA))
            for one in found.findings:
                for file, lines in one.files.items():
                    table = pa.table(
                        [[one.name] * len(lines), [file] * len(lines),
                         [json.dumps(line, ensure_ascii=False) for line in lines]],
                        FINDINGS_SCHEMA,
                    )  # fmt: skip
                    scratch.write(FINDINGS, table)
        errors = int(found.errors.sum())
        counters: Counters = {"items": len(items), "errors": errors, "repeated": repeated, "drawn_out": drawn_out}
        return counters | {"records": len(records)}


def _items(store: Store, uris: Sequence[str]) -> tuple[list[EvaluatedItem], int, int]:
    """(items in the order of their ids, number left out with the id of another, number left out by a hash)."""
    found = SmallestHashes[dict[str, Any]]()
    rows = repeated = 0
    for row in (row for table in read_tables(store, uris) for row in rows_of(table)):
        rows += 1
        if not found.wants(row["id"]):
            continue
        if (there := found.get(row["id"])) is not None:
            repeated += 1
            # Of items with one id the first by content, whatever the order of the files.
            if json.dumps(row, sort_keys=True) >= json.dumps(there, sort_keys=True):
                continue
        found.put(row["id"], row, sum(sys.getsizeof(one) for one in row.values() if isinstance(one, str)))
    items = [EvaluatedItem(**row | {"fields": json.loads(row["fields"])}) for row in found.values()]
    return items, repeated, rows - repeated - len(items)


@dataclass(frozen=True)
class _Analysis:
    """What is found of the items.

    records: of train, in the order of their ids. of_answer: the field that is their answer.
    """

    config: ErrorsConfig
    store: Store
    embedding: EmbeddingRun
    items: Sequence[EvaluatedItem]
    records: Sequence[TrainingRecord]
    of_answer: str

    # --- vectors and features

    @cached_property
    def errors(self) -> np.ndarray:
        """bool[N]: whether each item is an error."""
        return np.array([(one.error or 0) >= self.config.error_from - 1e-9 for one in self.items], bool)

    @cached_property
    def wrong(self) -> list[int]:
        """The numbers of the errors."""
        return np.flatnonzero(self.errors).tolist()

    @cached_property
    def embedder(self) -> Embedder:
        if model := self.config.embedding_models.get("model"):
            return embedder_of(model, self.store, self.embedding, "model")
        texts = [(one.id, one.prompt) for one in self.items] + [(one.id, one.question) for one in self.records]
        drawn = sorted(texts, key=lambda one: (hash64(one[0].encode()), one[1]))[:_FITTED]
        return fit_embedding([text[:CHARACTERS] for _, text in drawn], _DIMENSIONS)

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(self.embedder.embed([text[:CHARACTERS] for text in texts]), np.float32)

    @cached_property
    def vectors(self) -> np.ndarray:
        """float32[N, D] of the prompts."""
        return self._embedded([one.prompt for one in self.items])

    @cached_property
    def record_vectors(self) -> np.ndarray:
        """float32[M, D] of the training records' questions."""
        return self._embedded([one.question for one in self.records])

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.array([len(one.prompt) for one in self.items], np.int64)

    @cached_property
    def languages(self) -> list[str]:
        settings = LanguageId()
        classifier = identification.load(Store(), settings)
        found, _ = identification.identify(
            Texts.from_strings([one.prompt for one in self.items]), classifier, settings.max_chars
        )
        return found.to_pylist()

    @cached_property
    def clusters(self) -> list[str]:
        """Of each item its cluster: the words that it has more often than the other items. Empty of few items."""
        count = min(_MOST_CLUSTERS, len(self.items) // _OF_A_CLUSTER)
        count = min(count, len(np.unique(self.vectors, axis=0)))
        if count < 2:
            return [""] * len(self.items)
        places = KMeans(count, n_init=3, random_state=0).fit_predict(self.vectors)
        words = [set(same(one.prompt[:CHARACTERS]).split()) for one in self.items]
        everywhere = Counter(word for one in words for word in one)
        names = []
        for cluster in range(count):
            here = np.flatnonzero(places == cluster).tolist()
            inside = Counter(word for at in here for word in words[at])

            def lift(word: str, inside: Counter[str] = inside, size: int = len(here)) -> float:
                outside = (everywhere[word] - inside[word] + 1) / (len(self.items) - size + 2)
                return inside[word] / size * float(np.log((inside[word] / size) / outside))

            best = sorted(inside, key=lambda word: (-round(lift(word), 6), word))[:_WORDS_OF_A_CLUSTER]
            names.append(f"{cluster + 1} ({', '.join(word[:30] for word in best)})")
        return [names[place] for place in places.tolist()]

    @cached_property
    def fields(self) -> dict[str, list[str | None]]:
        """Name of a field -> the value of each item."""
        names = sorted({name for one in self.items for name in one.fields})
        return {name: [one.fields.get(name) for one in self.items] for name in names}

    # --- slices and confusions

    @cached_property
    def slices(self) -> list[tuple[ErrorSlice, dict[str, Any]]]:
        """The slices that were tested, with their numbers, the smallest p-value first."""
        first = np.array([hash64(b"half", one.id.encode()) % 2 == 0 for one in self.items], bool)
        features = divided(self.fields)[0], self.lengths, self.languages, self.clusters
        named = [one for one in candidates(*features) if one.rule != "cluster "]
        return compared([*named, *leaves(*features, self.errors, first)], self.errors)

    @cached_property
    def found_slices(self) -> list[tuple[ErrorSlice, dict[str, Any]]]:
        """Those with more errors than the rest."""
        return [one for one in self.slices if one[1]["p_corrected"] <= self.config.level]

    @cached_property
    def confused(self) -> list[tuple[str, str] | None]:
        """(expected class, answer) of each item; None without an expected class. Empty if answers are no classes."""
        expected = [None if one.expected is None else same(one.expected) for one in self.items]
        names = set(classes_of([one for one in expected if one is not None]))
        if not names:
            return []
        given = (answer if (answer := same(one.answer)) in names else _OTHER for one in self.items)
        return [None if one is None else (one, other) for one, other in zip(expected, given, strict=True)]

    @cached_property
    def confusions(self) -> list[dict[str, Any]]:
        """Pairs of an expected class and another answer, the most frequent first."""
        of_class = Counter(pair[0] for pair in self.confused if pair)
        pairs = Counter(one for one, wrong in zip(self.confused, self.errors, strict=False) if one and wrong)
        found = []
        for (expected, answer), count in sorted(pairs.items(), key=lambda one: (-one[1], one[0])):
            low, high = wilson(count, of_class[expected])
            share = count / of_class[expected]
            found.append(
                {"expected": expected, "answer": answer, "items": count, "of": of_class[expected], "share": share,
                 "share_low": low, "share_high": high}
            )  # fmt: skip
        return found

    # --- causes

    @cached_property
    def _keys(self) -> np.ndarray:
        return np.array([hash64(same(one.question).encode()) for one in self.records], np.uint64)

    @cached_property
    def bound(self) -> float:
        return near_bound(self.record_vectors, self._keys)

    @cached_property
    def neighbours(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Number of an error -> (training records, cosines), the nearest first."""
        if not self.records or not self.wrong:
            return {}
        found = nearest(self.vectors[self.wrong], self.record_vectors, NEIGHBOURS)
        return {at: (found.rows[n], found.cosines[n]) for n, at in enumerate(self.wrong)}

    @cached_property
    def causes(self) -> dict[int, Cause]:
        """Number of an error -> its cause; empty without training records."""
        return {at: cause_of(self.items[at], self.records, *near, self.bound) for at, near in self.neighbours.items()}

    @cached_property
    def near_errors(self) -> set[int]:
        """The training records near an error."""
        return {at for rows, cosines in self.neighbours.values() for at in rows[cosines >= self.bound].tolist()}

    # --- findings

    @cached_property
    def findings(self) -> list[Finding]:
        return [one for one in self._findings() if one.files]

    def _findings(self) -> Iterator[Finding]:
        run = self.config.name
        for number, (one, numbers) in enumerate(self.found_slices, 1):
            title = f"{one.rule}: {numbers['rate']:.0%} errors, {numbers['rate_outside']:.0%} elsewhere"
            yield self._of_items(f"slice-{number}", "slice", title, np.flatnonzero(one.members & self.errors).tolist())
        frequent = [one for one in self.confusions if one["items"] >= _CONFUSED][:_CONFUSIONS]
        for number, pair in enumerate(frequent, 1):
            title = f"{pair['answer']} in place of {pair['expected']}"
            rows = [at for at, one in enumerate(self.confused) if one == (pair["expected"], pair["answer"])]
            yield self._of_items(f"confusion-{number}", "confusion", title, rows)
        suspected = self._caused("label_error")
        labels = [(one.id, one.expected or "", one.answer) for one in map(self.items.__getitem__, suspected)]
        name = "label-errors"
        finding = self._of_items(name, "label_error", "Expected answers that are probably wrong", suspected)
        yield _with(finding, seeds=(), patch=list(relabelled(run, name, labels, self.of_answer)))
        yield self._suspected_records()
        yield self._contradictions()
        missing = "Errors without a training record near them"
        yield self._of_items("missing-knowledge", "missing", missing, self._caused("missing"))
        corrected = [at for at in self.wrong if self.items[at].corrected]
        name = "corrections"
        finding = self._of_items(name, "correction", "Answers that users corrected", corrected)
        patch = list(corrections(run, name, [self.items[at] for at in corrected], self.of_answer))
        yield _with(finding, seeds=(), patch=patch)

    def _of_items(self, name: str, kind: str, title: str, rows: Sequence[int]) -> Finding:
        """A finding about items: those with the largest errors first, then by a hash."""

        def place(at: int) -> tuple[float, int]:
            return -(self.items[at].error or 0), hash64(self.items[at].id.encode())

        chosen = [self.items[at] for at in sorted(rows, key=place)]
        lines = list(map(candidate, chosen))
        return Finding(name, kind, title, lines, seeds(chosen), examples=lines[:_SHOWN])

    def _caused(self, cause: str) -> list[int]:
        return [at for at, one in self.causes.items() if one.cause == cause]

    def _suspected_records(self) -> Finding:
        name, near = "training-label-errors", self.near_errors
        found = suspected_records(self.records, self.record_vectors, self._keys) if near else {}
        rows = [at for at in found if at in near and same(found[at]) != same(self.records[at].answer)]
        labels = [(self.records[at].id, self.records[at].answer, found[at]) for at in rows]
        lines = [candidate_record(self.records[at]) for at in rows]
        title = "Labels of training records near errors that are probably wrong"
        patch = list(relabelled(self.config.name, name, labels, self.of_answer))
        return Finding(name, "label_error", title, lines, patch=patch, examples=lines[:_SHOWN])

    def _contradictions(self) -> Finding:
        """Training records near errors that have almost the prompt of another one, and another answer."""
        found: dict[str, TrainingRecord] = {}
        for at in self.causes:
            rows, cosines = self.neighbours[at]
            for pair in contradictions([self.records[one] for one in rows[cosines >= self.bound].tolist()]):
                found |= {one.id: one for one in pair}
        lines = [candidate_record(one) for one in found.values()]
        title = "Training records near errors with almost equal prompts and different answers"
        return Finding("contradictions", "contradictory", title, lines, examples=lines[:_SHOWN])

    # --- what is written

    def items_table(self) -> pa.Table:
        of_item: list[list[str]] = [[] for _ in self.items]
        for one, _ in self.found_slices:
            for at in np.flatnonzero(one.members).tolist():
                of_item[at].append(one.rule)
        rows = [
            one.row
            | {
                "is_error": bool(self.errors[at]),
                "cause": self.causes[at].cause if at in self.causes else None,
                "length": int(self.lengths[at]),
                "language": self.languages[at],
                "cluster": self.clusters[at] or None,
                "slices": of_item[at],
            }
            for at, one in enumerate(self.items)
        ]
        return pa.Table.from_pylist(rows, ITEMS_SCHEMA)

    def nearest_table(self) -> pa.Table:
        rows = [
            {
                "id": self.items[at].id,
                "record": self.records[row].id,
                "cosine": float(cosine),
                "prompt": self.records[row].question,
                "answer": self.records[row].answer,
            }
            for at, (near, cosines) in self.neighbours.items()
            for row, cosine in zip(near[:_SHOWN].tolist(), cosines[:_SHOWN].tolist(), strict=True)
        ]
        return pa.Table.from_pylist(rows, NEAREST_SCHEMA)

    def facts(self) -> dict[str, Any]:
        """What the report and its files have."""
        counts = Counter(one.cause for one in self.causes.values())
        slices = [{"by": one.by, "slice": one.rule} | numbers for one, numbers in self.slices]
        return {
            "slices": [one | {"found": one["p_corrected"] <= self.config.level} for one in slices],
            "fields_left_out": divided(self.fields)[1],
            "confusions": self.confusions,
            "causes": [{"cause": one, "errors": counts[one]} for one in CAUSES] if self.records else [],
            "near": self.bound if self.records else None,
            "findings": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "title": one.title,
                    "files": {name: len(lines) for name, lines in one.files.items()},
                    "examples": [_short(example) for example in one.examples],
                }
                for one in self.findings
            ],
        }


def _with(finding: Finding, **changes: Any) -> Finding:
    return Finding(**vars(finding) | changes)


def _short(line: Mapping[str, Any]) -> dict[str, Any]:
    """An example with its texts cut."""
    return {name: one[:2000] if isinstance(one, str) else one for name, one in line.items()}
