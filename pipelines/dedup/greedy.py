"""The verified greedy loop, which finds the near-duplicates of kept documents.

Candidates are taken one by one in keeper order. A candidate is removed if an earlier *kept* one shares a band with it
and their similarity reaches the threshold; its partner is the most similar such document, the earliest among equals.
Otherwise it is kept and indexed. This is the `MinHashLSH` query-then-insert loop with verification, so every removed
document has a kept partner that is really similar, and a chain of similar documents does not remove unrelated text.

The similarity of two short documents (signatures.py) is the Jaccard similarity of their shingle sets. Others are
estimated as the share of equal signature columns. The lowest bytes of the columns are compared first, because most
pairs have too few equal ones, and equal columns have equal lowest bytes. With 112 columns that takes 3 ns instead of 13
(AMD EPYC).
"""

import numpy as np

from raymill.pipelines.text.kernel import inner_kernel, kernel

_BYTES = 255  # columns whose lowest bytes are compared: as many as can be counted in one byte


def remove_near_duplicates(
    order: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    key_count: int,
    signatures: np.ndarray,
    sets: np.ndarray,
    set_starts: np.ndarray,
    threshold: float,
    kept_before: int = 0,
    similar_before: np.ndarray | None = None,
    *,
    keeps: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the loop over C candidates.

    Args:
        order: int64[O], the candidates to compare, in keeper order; the others are not compared and get -1.
        starts, keys: int64[C + 1], int64[K]: candidate c has the band keys keys[starts[c]:starts[c + 1]], dense ids
            below key_count.
        signatures: uint32[C, H].
        sets, set_starts: uint32[S], int64[C + 1]: short candidate c has the distinct shingle hashes
            sets[set_starts[c]:set_starts[c + 1]], sorted; others have none there.
        threshold: least similarity of a duplicate.
        kept_before: the first `kept_before` of `order` are kept without a comparison.
        similar_before: float64[C], for candidates that are similar to a kept document which is not among these and
            comes before all of them: its similarity; NaN for others.
        keeps: whether candidates after `kept_before` are also compared with each other, or only with those before.

    Returns:
        partner int64[C], -1 for none among these; similarity float64[C], without a partner as in similar_before.

    Memory: 1 byte per signature column, 24 bytes per key and 48 bytes per candidate.
    """
    partner = np.full(len(starts) - 1, -1, np.int64)
    similarity = np.full(len(starts) - 1, np.nan) if similar_before is None else similar_before.copy()
    lowest, least = _lowest_bytes(signatures, threshold)
    head, following = np.full(key_count, -1, np.int64), np.full(len(keys), -1, np.int64)
    owner = np.empty(len(keys), np.int64)
    rank, compared = np.full(len(starts) - 1, -1, np.int64), np.full(len(starts) - 1, -1, np.int64)
    _loop(
        order, kept_before, keeps, starts, keys, signatures, lowest, sets, set_starts, threshold, least, partner,
        similarity, head, following, owner, rank, compared,
    )  # fmt: skip
    return partner, similarity


@kernel
def _loop(
    order, kept_before, keeps, starts, keys, signatures, lowest, sets, set_starts, threshold, least, partner,
    similarity, head, following, owner, rank, compared,
):  # fmt: skip
    """Fill partner and similarity.

    lowest, least: as returned by `_lowest_bytes`.
    head, following, owner: the kept documents of a key form a list. head[key] is the newest link, -1 for none; a link
    is an index into `keys`. rank, compared: int64[C], -1.
    """
    for place in range(len(order)):
        document = order[place]
        rank[document] = place
        best = np.int64(-1)
        most = similarity[document]
        own_set = sets[set_starts[document] : set_starts[document + 1]]
        for link in range(starts[document], starts[document + 1]):
            other_link = head[keys[link]] if place >= kept_before else np.int64(-1)
            while other_link >= 0:
                other = owner[other_link]
                if compared[other] != document:
                    compared[other] = document
                    other_set = sets[set_starts[other] : set_starts[other + 1]]
                    alike = _similarity(own_set, other_set, signatures, lowest, least, document, other, threshold)
                    # A comparison with NaN is false.
                    if alike >= threshold and (
                        not alike <= most or (alike == most and best >= 0 and rank[other] < rank[best])
                    ):
                        best, most = other, alike
                other_link = following[other_link]
        if best >= 0:
            partner[document] = best
            similarity[document] = most
        elif place < kept_before or (keeps and np.isnan(most)):
            for link in range(starts[document], starts[document + 1]):
                owner[link] = document
                following[link] = head[keys[link]]
                head[keys[link]] = link


def connect_near_duplicates(
    order: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    key_count: int,
    signatures: np.ndarray,
    sets: np.ndarray,
    set_starts: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """The connected component of each candidate: int64[C], the smallest candidate in it.

    Edges join candidates that share a band and reach the threshold. Arguments as for `remove_near_duplicates`.
    Candidates of one component are skipped together, so the time grows with the pairs that share a band and are in
    different components.
    """
    lowest, least = _lowest_bytes(signatures, threshold)
    label = np.arange(len(starts) - 1)
    links = np.full((4, len(keys)), -1, np.int64)
    head, compared = np.full(key_count, -1, np.int64), np.full(len(starts) - 1, -1, np.int64)
    _connect(order, starts, keys, signatures, lowest, sets, set_starts, threshold, least, label, head, *links, compared)
    return label


@kernel
def _connect(
    order, starts, keys, signatures, lowest, sets, set_starts, threshold, least, label, head, owner, following, member,
    tail, compared,
):  # fmt: skip
    """Fill `label` with the smallest candidate of each component.

    lowest, least, head, owner: as in `_loop`. The links of a key form a list of components by `following`, and the
    links of a component a list by `member`, whose last link is `tail` of the first one.
    """
    for document in order:
        own_set = sets[set_starts[document] : set_starts[document + 1]]
        for link in range(starts[document], starts[document + 1]):
            key = keys[link]
            own = np.int64(-1)  # the first link of the document's component in this list
            before, component = np.int64(-1), head[key]
            while component >= 0:
                after = following[component]
                alike = _root(label, owner[component]) == _root(label, document)
                other_link = component
                while other_link >= 0 and not alike:
                    other = owner[other_link]
                    if compared[other] != document:
                        compared[other] = document
                        other_set = sets[set_starts[other] : set_starts[other + 1]]
                        similar = _similarity(own_set, other_set, signatures, lowest, least, document, other, threshold)
                        alike = similar >= threshold
                        if alike:
                            one, two = _root(label, document), _root(label, other)
                            label[max(one, two)] = min(one, two)
                    other_link = member[other_link]
                if alike and own >= 0:  # the component joins the document's
                    member[tail[own]], tail[own] = component, tail[component]
                    following[before] = after
                else:
                    own = component if alike else own
                    before = component
                component = after
            owner[link] = document
            if own >= 0:
                member[tail[own]], tail[own] = link, link
            else:
                following[link], head[key], tail[link] = head[key], link, link
    for document in range(len(label)):
        label[document] = _root(label, document)


@inner_kernel
def _root(label, document):
    """The smallest candidate found so far in the document's component. Halves the path to it (union-find)."""
    while label[document] != document:
        label[document] = label[label[document]]
        document = label[document]
    return document


def _lowest_bytes(signatures: np.ndarray, threshold: float) -> tuple[np.ndarray, int]:
    """The lowest bytes of the first columns, uint8[C, B], and how many are equal at least in similar documents."""
    columns, lowest = signatures.shape[1], signatures[:, :_BYTES].astype(np.uint8)
    # The columns that are not in `lowest` may all be equal. argmax finds one, because columns / columns >= threshold.
    return lowest, int(np.argmax(np.arange(columns + 1) / columns >= threshold)) - (columns - lowest.shape[1])


@inner_kernel
def _similarity(own_set, other_set, signatures, lowest, least, one, other, threshold):
    """Similarity of two candidates; 0 if set sizes or lowest bytes show that it is below the threshold."""
    if len(own_set) and len(other_set):
        return _jaccard(own_set, other_set, threshold)
    if _equal_bytes(lowest, one, other) < least:
        return 0.0
    equal = 0
    for column in range(signatures.shape[1]):
        equal += signatures[one, column] == signatures[other, column]
    return equal / signatures.shape[1]


@inner_kernel
def _equal_bytes(lowest, one, other):
    """Number of columns with equal lowest bytes. Counted in a byte, so that the processor adds 32 of them at once."""
    equal = np.uint8(0)
    for column in range(lowest.shape[1]):
        equal = np.uint8(equal + np.uint8(lowest[one, column] == lowest[other, column]))
    return np.int64(equal)


@inner_kernel
def _jaccard(one, other, threshold):
    """Jaccard similarity of two sorted sets; 0 if their sizes alone keep it below the threshold."""
    if min(len(one), len(other)) / max(len(one), len(other)) < threshold:
        return 0.0
    at = of_other = shared = 0
    while at < len(one) and of_other < len(other):
        left, right = one[at], other[of_other]
        shared += left == right
        at += left <= right
        of_other += right <= left
    return shared / (len(one) + len(other) - shared)
