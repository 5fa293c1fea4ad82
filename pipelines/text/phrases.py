"""Finds words and phrases in texts, whole and in any case."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipelines.text.texts import Texts
from pipelines.text.tokens import split_tokens


class Phrases:
    """Words and phrases to find. lengths: int64[P], their tokens."""

    def __init__(self, phrases: Sequence[str]) -> None:
        hashes, starts = split_tokens(Texts.from_strings(list(phrases)))
        self.lengths = np.diff(starts)
        self._tokens = [hashes[start:end] for start, end in pairwise(starts.tolist())]
        assert all(map(len, self._tokens)), "a phrase has a word"

    def find(self, tokens: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(text, phrase) of every match, int64[M] each. A phrase within another one is found as well.

        tokens, starts: of `split_tokens`. Cost: 4 bytes a phrase and match.
        """
        text = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        first = [phrase[0] for phrase in self._tokens]
        begins = np.flatnonzero(np.isin(tokens, first)) if first else np.empty(0, np.int64)
        texts, phrases = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, phrase in enumerate(self._tokens):
            here = begins[tokens[begins] == phrase[0]]
            here = here[here + len(phrase) <= len(tokens)]
            for offset, token in enumerate(phrase[1:], 1):
                here = here[(tokens[here + offset] == token) & (text[here + offset] == text[here])]
            texts.append(text[here])
            phrases.append(np.full(len(here), number))
        return np.concatenate(texts), np.concatenate(phrases)
