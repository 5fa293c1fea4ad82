"""Components: documents that are connected by shared keys. Duplicates are found within a component alone.

The documents of a removal, and all earlier ones that it depends on, share keys, so they lie in one component. Small
components are put together into batches; each batch is compared by one task.
"""

from collections.abc import Iterable

import numpy as np

from pipelines.text.kernel import kernel

_BATCH = np.dtype(np.int32)


def of_a_document(documents: int) -> int:
    """Bytes of memory that `batches` has for each of so many documents: 8, and 12 from 2^32 documents on."""
    return _parent(documents).itemsize + _BATCH.itemsize


def _parent(documents: int) -> np.dtype:
    return np.dtype(np.uint32 if documents < 1 << 32 else np.uint64)


def batches(edges: Iterable[np.ndarray], documents: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The batch of each document that has an edge.

    Args:
        edges: int64[E, 2] each, pairs of positions below `documents`.
        size: a batch ends with the component that brings it to so many documents.

    Returns:
        batch int32[D], -1 for a document without an edge; and the documents of each batch, int64[B]. Components are
        numbered by their smallest position, and their batches do not decrease.

    Memory: `of_a_document`, and one array of edges.
    """
    parents = np.arange(documents, dtype=_parent(documents))
    for some in edges:
        _connect(parents, some)
    found, counts = np.full(documents, -1, _BATCH), np.zeros(documents // size + 1, np.int64)
    return found, counts[: _number(parents, found, size, counts)]


@kernel
def _connect(parents, edges):
    """Join the components of both ends of each edge. The root of a component is its smallest position."""
    for edge in range(len(edges)):
        one, other = np.uint64(edges[edge, 0]), np.uint64(edges[edge, 1])
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = np.uint64(parents[one])
        while parents[other] != other:
            parents[other] = parents[parents[other]]
            other = np.uint64(parents[other])
        if one < other:
            parents[other] = one
        elif other < one:
            parents[one] = other


@kernel
def _number(parents, found, size, counts):
    """Write the batch of each document with an edge to `found`, the documents of each batch to `counts`; returns how
    many batches there are.
    """
    # A parent has a smaller position, so its own parent is the root already. Below 0: minus the documents of a root.
    for document in range(len(parents)):
        parents[document] = parents[parents[document]]
        found[parents[document]] -= 1
    batch, filled = 0, np.int64(0)
    for document in range(len(parents)):
        root = parents[document]
        if root != document:
            found[document] = found[root]
            continue
        of_component = -1 - np.int64(found[document])
        if of_component < 2:
            found[document] = -1
            continue
        if filled >= size:
            batch += 1
            filled = np.int64(0)
        found[document] = batch
        filled += of_component
        counts[batch] = filled
    return batch + (filled > 0)
