"""The verified greedy loop: which documents are near-duplicates of which kept ones.

Candidates pass one by one in keeper order. One is removed when an earlier *kept* candidate shares a band with it and
their estimated similarity (share of equal signature columns) reaches the threshold; its partner is the most similar
such document, the earliest among equals. Otherwise it is kept and indexed. This is the `MinHashLSH` query-then-insert
loop with verification, so every removed document has a kept partner that is really similar, and no chain of look-alikes
removes unrelated text.
"""

import numpy as np
from numba import njit


def remove_near_duplicates(
    order: np.ndarray, starts: np.ndarray, keys: np.ndarray, key_count: int, signatures: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Run the loop over C candidates.

    Args:
        order: int64[O], the candidates to compare, in keeper order; the others are not compared and get -1.
        starts, keys: int64[C + 1], int64[K]: candidate c has the band keys keys[starts[c]:starts[c + 1]], dense ids
            below key_count.
        signatures: uint32[C, H].
        threshold: least share of equal columns of a duplicate.

    Returns:
        partner int64[C], -1 for kept; similarity float64[C], NaN for kept.
    """
    partner = np.full(len(starts) - 1, -1, np.int64)
    similarity = np.full(len(starts) - 1, np.nan)
    _loop(order, starts, keys, key_count, signatures, threshold, partner, similarity)
    return partner, similarity


@njit(cache=True, nogil=True)
def _loop(order, starts, keys, key_count, signatures, threshold, partner, similarity):
    columns = signatures.shape[1]
    # Kept documents of a key form a list: head[key] is the newest link, a link is an index into `keys`.
    head = np.full(key_count, -1, np.int64)
    following = np.full(len(keys), -1, np.int64)
    owner = np.empty(len(keys), np.int64)
    rank = np.full(len(starts) - 1, -1, np.int64)
    compared = np.full(len(starts) - 1, -1, np.int64)
    for place in range(len(order)):
        document = order[place]
        rank[document] = place
        best = np.int64(-1)
        most = -1
        for link in range(starts[document], starts[document + 1]):
            other_link = head[keys[link]]
            while other_link >= 0:
                other = owner[other_link]
                if compared[other] != document:
                    compared[other] = document
                    equal = 0
                    for column in range(columns):
                        equal += signatures[document, column] == signatures[other, column]
                    if equal / columns >= threshold and (equal > most or (equal == most and rank[other] < rank[best])):
                        best, most = other, equal
                other_link = following[other_link]
        if best >= 0:
            partner[document] = best
            similarity[document] = most / columns
        else:
            for link in range(starts[document], starts[document + 1]):
                owner[link] = document
                following[link] = head[keys[link]]
                head[keys[link]] = link
