"""Which records of a pool are the examples before an item.

    random    by a hash of the seed, the item and the record
    similar   the nearest to the item by the cosine of vectors
    diverse   by farthest-first traversal of the pool: each is far from those before it (Gonzalez 1985)
    both      by maximal marginal relevance: near the item, and far from those chosen before (Carbonell, Goldstein 1998)

A choice depends on the item, the pool and the seed alone: not on other items, their order or their number. A record
that is the item again, or a near-duplicate of it, is never chosen. The best example of an order is next to the item.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raymill.cluster.examples.splits import hash64

_WORD = re.compile(r"\w+")
_RELEVANCE = 0.5  # weight of the similarity to the item, against that to examples
_CANDIDATES = 50  # for each example, of those that marginal relevance chooses from


@dataclass(frozen=True)
class Pool:
    """Records that can be examples.

    Attributes:
        ids, questions, answers: of each record, in the order of `ids`.
        vectors: float32[N, D] of the questions, of length 1 or 0.
        seed: of draws. near: fraction of equal word triples from which two questions are near-duplicates.
        balanced: whether answers take turns.
    """

    ids: Sequence[str]
    questions: Sequence[str]
    answers: Sequence[str]
    vectors: np.ndarray
    seed: int
    near: float
    balanced: bool = False

    def examples(self, method: str, number: int, item: str, question: str, vector: np.ndarray) -> list[int]:
        """The records to show before an item, in the order in which they stand; fewer than `number` if the pool ends.

        item: its id. vector: float32[D] of its question.
        """
        if number == 0:
            return []
        order = {
            "random": self._at_random,
            "similar": self._nearest,
            "diverse": self._farthest_first,
            "both": self._relevant,
        }[method](number, item, vector)
        own = word_triples(question)
        usable = (at for at in order if not self._is_near(at, own))
        return self._taking_turns(usable, number)[::-1]

    # --- orders of the pool, the best first

    def _at_random(self, number: int, item: str, vector: np.ndarray) -> Iterator[int]:
        drawn = [hash64(str(self.seed).encode(), item.encode(), one.encode()) for one in self.ids]
        yield from np.argsort(np.array(drawn, np.uint64), kind="stable").tolist()

    def _nearest(self, number: int, item: str, vector: np.ndarray) -> Iterator[int]:
        yield from np.argsort(-(self.vectors @ vector), kind="stable").tolist()

    def _farthest_first(self, number: int, item: str, vector: np.ndarray) -> Iterator[int]:
        yield from self._traversal

    @cached_property
    def _traversal(self) -> list[int]:
        """All records, from the one nearest to the middle, each the farthest from those before it."""
        middle = self.vectors.mean(axis=0)
        at, nearest, found = int(np.argmax(self.vectors @ middle)), np.full(len(self.ids), -2.0, np.float32), []
        for _ in self.ids:
            found.append(at)
            nearest = np.maximum(nearest, self.vectors @ self.vectors[at])
            nearest[at] = np.inf
            at = int(np.argmin(nearest))
        return found

    def _relevant(self, number: int, item: str, vector: np.ndarray) -> Iterator[int]:
        similar = self.vectors @ vector
        left = np.argsort(-similar, kind="stable")[: max(_CANDIDATES, _CANDIDATES * number)]
        nearest = np.zeros(len(left), np.float32)
        while len(left):
            best = int(np.argmax(_RELEVANCE * similar[left] - (1 - _RELEVANCE) * nearest))
            at = int(left[best])
            yield at
            left, nearest = np.delete(left, best), np.delete(nearest, best)
            nearest = np.maximum(nearest, self.vectors[left] @ self.vectors[at])

    # --- what is taken of an order

    def _taking_turns(self, order: Iterator[int], number: int) -> list[int]:
        """The first of an order; if balanced, so that no answer has two more examples than another that is left."""
        if not self.balanced:
            return [at for _, at in zip(range(number), order, strict=False)]
        by_answer: dict[str, list[int]] = {}
        for at in order:
            by_answer.setdefault(self.answers[at], []).append(at)
        found: list[int] = []
        for turn in range(number):
            of_turn = [some[turn] for some in by_answer.values() if turn < len(some)]
            found += of_turn
            if len(found) >= number or not of_turn:
                break
        return found[:number]

    def _is_near(self, at: int, own: frozenset[tuple[str, ...]]) -> bool:
        theirs = self._triples[at]
        return len(own & theirs) >= self.near * len(own | theirs)

    @cached_property
    def _triples(self) -> list[frozenset[tuple[str, ...]]]:
        return [word_triples(one) for one in self.questions]


def word_triples(text: str) -> frozenset[tuple[str, ...]]:
    """The sets of three words in a row; of a shorter text all its words."""
    words = _WORD.findall(text.casefold())
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset([tuple(words)])
