"""Vectors of texts: TF-IDF with truncated SVD, or another model. Only workers import this module.

The default is latent semantic analysis: Deerwester et al. 1990, Indexing by latent semantic analysis. It is fitted to a
sample of the records, so it needs no download and has the words of the domain.
"""

import heapq
import json
import math

import numpy as np
import pyarrow as pa
import scipy.sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from raymill.cluster.artifact import Artifact, Counters, read_tables
from raymill.cluster.entry import Entry
from raymill.cluster.examples.content import from_shape, sides_of
from raymill.cluster.stage import Scratch
from raymill.pipelines.embedder import Embedder, embedder_of
from raymill.pipelines.prepare.assess.embed import (
    COSINES,
    COSINES_SCHEMA,
    LEARNED,
    LEARNED_SCHEMA,
    MODEL,
    MODEL_SCHEMA,
    VECTORS,
    EmbedSettings,
    vectors_schema,
)
from raymill.pipelines.prepare.assess.facts import CHARACTERS, ROWS, is_copy, same, smallest_of_sample
from raymill.pipelines.prepare.assess.findings import Learned, Similar
from raymill.pipelines.prepare.records.fields import hash64, metadata_of, value_of
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import split_tokens

_TEXT_SHOWN = 300  # characters of a record whose label is predicted
_WORDS = 1 << 16  # of the sample, the most frequent ones
# Loads cleanlab, which takes a second more than scikit-learn and which most runs do without.
predicted_labels = Entry("raymill.pipelines.prepare.assess.labels:predicted_labels")
_SAMPLE = 10_000  # vectors to which k-means is fitted
_IDS_SHOWN = 5


class LatentSemantics:
    """TF-IDF of words, projected by truncated SVD.

    tokens: uint64[V], ascending hashes of words. idf: float32[V]. components: float32[V, D].
    """

    def __init__(self, tokens: np.ndarray, idf: np.ndarray, components: np.ndarray) -> None:
        self.tokens, self.components = tokens, components
        self.weights = TfidfTransformer(sublinear_tf=True)
        self.weights.idf_ = idf.astype(np.float64)

    def embed(self, texts: list[str]) -> np.ndarray:
        """See Embedder. Speed: 20 MB/s."""
        if not len(self.tokens):
            return np.zeros((len(texts), 1), np.float32)
        weighted = self.weights.transform(_counts(Texts.from_strings(texts), self.tokens))
        return normalize(weighted.astype(np.float32) @ self.components)


def fit_embedding(texts: list[str], dimensions: int) -> LatentSemantics:
    """The default embedding of a sample of texts. The same texts give the same model.

    Memory: 1 KB a word of the sample, at most 65,536 words.
    """
    columns = Texts.from_strings(texts)
    tokens = np.unique(split_tokens(columns)[0])
    if not len(tokens):
        return LatentSemantics(tokens, np.empty(0, np.float32), np.empty((0, 1), np.float32))
    counts = _counts(columns, tokens)
    if len(tokens) > _WORDS:
        frequent = np.sort(np.argsort(-counts.getnnz(axis=0), kind="stable")[:_WORDS])
        tokens, counts = tokens[frequent], counts[:, frequent]
    weights = TfidfTransformer(sublinear_tf=True)
    weighted = weights.fit_transform(counts)
    size = min(dimensions, *weighted.shape)
    if weighted.shape[1] < 2:  # of which there is no decomposition
        return LatentSemantics(tokens, weights.idf_.astype(np.float32), np.ones((len(tokens), 1), np.float32))
    # A sum over other threads has other last bits. Equal texts have no variance, by which scikit-learn divides.
    with threadpool_limits(1), np.errstate(divide="ignore", invalid="ignore"):
        components = TruncatedSVD(size, random_state=0).fit(weighted).components_.T
    return LatentSemantics(tokens, weights.idf_.astype(np.float32), np.ascontiguousarray(components, np.float32))


def _counts(texts: Texts, tokens: np.ndarray) -> scipy.sparse.csr_matrix:
    """[D, V]: how often each text has each token; others are left out. tokens: uint64[V], ascending."""
    hashes, starts = split_tokens(texts)
    at = np.minimum(np.searchsorted(tokens, hashes), len(tokens) - 1)
    known = tokens[at] == hashes
    rows = np.repeat(np.arange(len(texts)), np.diff(starts))[known]
    shape = (len(texts), len(tokens))
    return scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, at[known])), shape)  # adds equal places up


# --- the work of the stages


def fit_model(settings: EmbedSettings, sample: Artifact, _: None, scratch: Scratch) -> Counters:
    """The work of `fit_stage`. Counters: `texts` and `words`."""
    texts = smallest_of_sample(sample, settings.embeddings.sample)
    model = fit_embedding(texts, settings.embeddings.dimensions)
    columns = [model.tokens, model.weights.idf_, list(model.components)]
    scratch.write(MODEL, pa.table(columns, schema=MODEL_SCHEMA))
    return {"texts": len(texts), "words": len(model.tokens)}


def embed_records(settings: EmbedSettings, model: Artifact | None, uris: tuple[str, ...], scratch: Scratch) -> Counters:
    """The work of `embed_stage`. Counters: `records`."""
    embedder = _embedder(settings, model)
    examples = embedder.embed([text[:CHARACTERS] for text in settings.examples]) if settings.examples else None
    schema, count = vectors_schema(settings.labels, settings.predictions), 0
    for table in read_tables(settings.store, uris):
        for start in range(0, table.num_rows, ROWS):
            records = [one for one in table.slice(start, ROWS).to_pylist() if not is_copy(one)]
            if not records:
                continue
            found = [sides_of(from_shape(one, settings.shape)) for one in records]
            answers = embedder.embed([(one.answer or one.question)[:CHARACTERS] for one in found])
            nearest = None if examples is None else (answers @ examples.T).max(axis=1)
            # Of a conversation the end: what the answer follows.
            questions = embedder.embed([one.question[-CHARACTERS:] if one.turns else "" for one in found])
            columns = {
                "id": [one["id"] for one in records],
                "key": [hash64(same(one.question)) for one in found],
                "fold": [one["fold"] for one in records],
                "similarity": pa.nulls(len(records)) if nearest is None else _rounded(nearest),
                "relevance": _cosines(questions, answers, np.array([one.turns > 0 for one in found])),
                "vector": list(embedder.embed([one.text[:CHARACTERS] for one in found]).astype(np.float16)),
            }
            metadata = [metadata_of(one) for one in records]
            columns |= {f"label/{n}": [value_of(n, one[n]) for one in metadata] for n in settings.labels}
            if settings.labels:
                columns["text"] = [one.text[:_TEXT_SHOWN] for one in found]
            if settings.predictions:
                columns["predicted"] = [one[settings.predictions] for one in metadata]
            scratch.write(VECTORS, pa.table(columns, schema=schema))
            count += len(records)
    return {"records": count}


def measure_relevance(settings: EmbedSettings, model: Artifact | None, uris: list[str], scratch: Scratch) -> Counters:
    """The work of `cosines_stage`. Counters: `measured`, the records with a cosine."""
    embedder, count = _embedder(settings, model), 0
    for table in read_tables(settings.store, uris):
        for start in range(0, table.num_rows, ROWS):
            found = [sides_of(from_shape(one, settings.shape)) for one in table.slice(start, ROWS).to_pylist()]
            questions = embedder.embed([one.question[-CHARACTERS:] for one in found])
            answers = embedder.embed([one.answer[:CHARACTERS] for one in found])
            cosines = _cosines(questions, answers, np.array([one.turns > 0 for one in found]))
            scratch.write(COSINES, pa.table([cosines], schema=COSINES_SCHEMA))
            count += len(cosines) - cosines.null_count
    return {"measured": count}


def _cosines(questions: np.ndarray, answers: np.ndarray, answered: np.ndarray) -> pa.Array:
    """Of each record the cosine of question and answer; null of a plain text, or where one has no known word.

    questions, answers: float32[N, D]. answered: bool[N].
    """
    measured = answered & questions.any(axis=1) & answers.any(axis=1)
    return pa.array(_rounded((questions * answers).sum(axis=1)), mask=~measured)


def _rounded(cosines: np.ndarray) -> np.ndarray:
    """Four decimals, at least 0: the last bits of a product depend on how many texts are compared at once."""
    return np.round(np.clip(cosines, 0, 1), 4)


def _embedder(settings: EmbedSettings, model: Artifact | None) -> Embedder:
    if model is None:
        assert settings.embeddings.model
        return embedder_of(settings.embeddings.model, settings.store, settings.embedding_run, settings.setting)
    table = model.table()
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1 if table.num_rows else 1)
    return LatentSemantics(table["token"].to_numpy(), table["idf"].to_numpy(), vectors)


def learn(
    vectors: Artifact,
    groups: int,
    fields: tuple[str, ...],
    label: str | None,
    predictions: str | None,
    _: None,
    scratch: Scratch,
) -> Counters:
    """The work of `learn_stage`. No counters."""
    predicted = {
        name: predicted_labels(vectors, name, scratch, predictions)
        if name == label
        else predicted_labels(vectors, name)
        for name in fields
    }
    sizes, largest = groups_of(vectors, groups)
    learned = Learned(
        groups=sizes,
        largest=largest,
        similar=least_similar(vectors, "similarity"),
        relevant=least_similar(vectors, "relevance"),
        labels=predicted,
    )
    scratch.write(LEARNED, pa.table([[json.dumps(learned, ensure_ascii=False)]], schema=LEARNED_SCHEMA))
    return {}


def groups_of(vectors: Artifact, groups: int) -> tuple[list[int], list[str]]:
    """(records of each k-means group, largest first; ids of the first records of the largest).

    There are at most as many groups as distinct vectors. k-means (Lloyd 1982) is fitted to the records with the
    smallest hashes.
    """
    keys, sample = np.empty(0, np.uint64), np.empty((0, 0), np.float16)
    for table in vectors.tables(["key", "vector"]):
        found = matrix(table)
        keys = np.append(keys, table["key"].to_numpy())
        sample = np.concatenate([sample.reshape(-1, found.shape[1]), found])
        if len(keys) > _SAMPLE:
            chosen = np.sort(np.argsort(keys, kind="stable")[:_SAMPLE])
            keys, sample = keys[chosen], sample[chosen]
    if not len(keys):
        return [], []
    k = min(groups, len(np.unique(sample, axis=0)))
    with threadpool_limits(1):  # a sum over other threads has other last bits
        model = KMeans(k, n_init=3, random_state=0).fit(sample.astype(np.float32))
        sizes, first = np.zeros(k, np.int64), [list[str]() for _ in range(k)]
        for table in vectors.tables(["id", "vector"]):
            found = model.predict(matrix(table).astype(np.float32))
            sizes += np.bincount(found, minlength=k)
            for group, ids in enumerate(first):
                rows = np.flatnonzero(found == group)[: _IDS_SHOWN - len(ids)]
                ids += table["id"].take(pa.array(rows)).to_pylist()
    # Of equally large groups the one with the first id by name: the numbers of groups mean nothing.
    largest = min(range(k), key=lambda group: (-sizes[group], first[group]))
    return sorted(sizes.tolist(), reverse=True), first[largest]


def least_similar(vectors: Artifact, column: str) -> Similar:
    """The mean of a column of similarities, and the records with the lowest; None if it is null everywhere."""
    sums: list[float] = []
    records = 0
    lowest: list[tuple[float, str]] = []
    for table in vectors.tables(["id", column]):
        known = table.filter(table[column].is_valid())
        values = known[column].to_pylist()
        sums = [math.fsum([*sums, *values])]
        records += len(values)
        lowest = heapq.nsmallest(_IDS_SHOWN, [*lowest, *zip(values, known["id"].to_pylist(), strict=True)])
    return Similar(records=records, mean=round(sums[0] / records, 4) if records else None, ids=[id for _, id in lowest])


def matrix(table: pa.Table) -> np.ndarray:
    """float16[N, D]: the vectors of a table."""
    column = table["vector"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(table.num_rows, len(values) // max(1, table.num_rows))
