"""Best-fit decreasing bin packing: pieces of documents into rows of a fixed length, with little padding.

Pieces are taken by decreasing size. Each is put into the row with the least room that is large enough, or into a new
row. Rows of equal room are on a stack, and a binary tree over the rooms 0..length marks the stacks that are not empty,
so a piece costs O(log length) for any number of rows. The kernels are in a separate file, because numba compiles a
kernel again whenever its file changes.

Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", https://arxiv.org/abs/2404.10830.
"""

import numpy as np
from numba import njit


def best_fit(sizes: np.ndarray, length: int) -> tuple[np.ndarray, int]:
    """The row of each piece, int64[P], and the number of rows.

    Args:
        sizes: int64[P], each from 1 to `length`. Pieces of equal size are taken in their order.
    """
    assert not len(sizes) or (sizes.min() >= 1 and sizes.max() <= length), "pieces must fit a row"
    order = np.argsort(-sizes, kind="stable")
    rows = np.empty(len(sizes), np.int64)
    return rows, _fit(sizes.astype(np.int64), order, length, rows)


@njit(cache=True, nogil=True)
def _fit(sizes, order, length, rows):
    leaves = 1
    while leaves <= length:
        leaves *= 2
    holds = np.zeros(2 * leaves, np.bool_)  # the tree: node n has children 2n and 2n + 1, room r is leaf `leaves + r`
    top = np.full(length + 1, -1, np.int64)  # the row on top of each room's stack
    below = np.empty(len(sizes), np.int64)  # the row under each row in its stack
    count = 0
    for piece in order:
        room = _least_room(holds, leaves, sizes[piece])
        if room < 0:
            row, room = count, length
            count += 1
        else:
            row = top[room]
            top[room] = below[row]
            if top[room] < 0:
                _clear(holds, leaves + room)
        rows[piece] = row
        left = room - sizes[piece]
        below[row] = top[left]
        top[left] = row
        node = leaves + left
        while node and not holds[node]:
            holds[node] = True
            node >>= 1
    return count


@njit(cache=True, nogil=True)
def _least_room(holds, leaves, size):
    """The smallest room of a row that is at least `size`; -1 if there is none."""
    node = leaves + size
    if holds[node]:
        return size
    while node > 1:
        if node % 2 == 0 and holds[node + 1]:
            node += 1
            while node < leaves:
                node = 2 * node if holds[2 * node] else 2 * node + 1
            return node - leaves
        node >>= 1
    return -1


@njit(cache=True, nogil=True)
def _clear(holds, node):
    holds[node] = False
    node >>= 1
    while node and not (holds[2 * node] or holds[2 * node + 1]):
        holds[node] = False
        node >>= 1


@njit(cache=True, nogil=True)
def copy_runs(source, starts, sizes, target):
    """Concatenate `source[start : start + size]` of all runs in `target`; runs may overlap."""
    at = 0
    for run in range(len(starts)):
        for offset in range(sizes[run]):
            target[at + offset] = source[starts[run] + offset]
        at += sizes[run]
