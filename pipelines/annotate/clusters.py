"""Clusters of the vectors of records, by k-means."""

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits


def clusters_of(vectors: np.ndarray, count: int) -> np.ndarray:
    """int64[N]: the cluster of each vector, by k-means. Vectors in the same order give the same ones."""
    with threadpool_limits(1):  # a sum over other threads has other last bits
        found: np.ndarray = KMeans(min(count, len(vectors)), n_init=1, random_state=0).fit_predict(vectors)
    return found.astype(np.int64)
