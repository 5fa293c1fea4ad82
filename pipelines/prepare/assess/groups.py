"""The work of the stage `learn`, and k-means groups of vectors. Only workers import this module."""

import heapq
import math

import numpy as np
import pyarrow as pa
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from cluster.artifact import Artifact, Counters
from cluster.entry import Entry
from cluster.stage import Scratch
from pipelines.prepare.assess.learn import LEARNED, Learned, Similar, learned_table, matrix

# Loads cleanlab, which takes a second more than scikit-learn and which most runs do without.
predicted_labels = Entry("pipelines.prepare.assess.labels:predicted_labels")

_SAMPLE = 10_000  # vectors to which k-means is fitted
_IDS_SHOWN = 5


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
    scratch.write(LEARNED, learned_table(learned))
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
