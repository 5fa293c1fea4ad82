"""Deduplication by a plain loop over all pairs."""

import numpy as np

from raymill.pipelines.dedup.candidates import shared_keys
from raymill.pipelines.dedup.greedy import remove_near_duplicates
from raymill.pipelines.dedup.signatures import Sketches, permutations
from raymill.pipelines.text.texts import Texts

BANDS, ROWS = 14, 8


A, B = permutations(BANDS * ROWS, 1)


def signatures(texts: Texts, ngram_words: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(signatures uint32[D, H], token counts int64[D]) of texts."""
    sketches, tokens = Sketches.of(texts, ngram_words, a, b, exact_short=False)
    return sketches.signatures(a, b), tokens


def our_loop(texts: list[str], threshold: float, exact_short: bool = True) -> dict[int, tuple[int, float]]:
    sketches, _ = Sketches.of(Texts.from_strings(texts), 5, A, B, exact_short=exact_short)
    found, signed, every = sketches.signatures(A, B), np.flatnonzero(sketches.signed), np.arange(len(texts))
    starts, keys, count = shared_keys(sketches.band_keys(every, BANDS, A, B), every, len(texts))
    sets = sketches.sets(BANDS * ROWS)
    partner, similarity = remove_near_duplicates(signed, starts, keys, count, found, *sets, threshold)
    return {int(at): (int(partner[at]), float(similarity[at])) for at in np.flatnonzero(partner >= 0)}


def jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def close_pairs(shingles: list[set], least: float) -> int:
    """Pairs of at least this Jaccard similarity, exactly: they share one of the rarest tenth of their shingles."""
    count: dict[int, int] = {}
    for one in shingles:
        for shingle in one:
            count[shingle] = count.get(shingle, 0) + 1
    holders: dict[int, list[int]] = {}
    found = 0
    for number, one in enumerate(shingles):
        rare = sorted(one, key=lambda shingle: (count[shingle], shingle))[: int((1 - least) * len(one)) + 1]
        near = {other for shingle in rare for other in holders.get(shingle, ())}
        found += sum(jaccard(one, shingles[other]) >= least for other in near)
        for shingle in rare:
            holders.setdefault(shingle, []).append(number)
    return found
