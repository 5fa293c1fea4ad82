"""Sentences as spaCy's sentencizer cuts them, on the tokens of the datatrove dialect."""

import numpy as np
from numba import njit

from pipelines.text.characters import code_point
from pipelines.text.datatrove.words import ENDS_SENTENCE, ONLY_MARKS, split_tokens
from pipelines.text.texts import Texts


def count_sentence_breaks(texts: Texts) -> np.ndarray:
    """int64[D]: how often another sentence begins inside a line.

    Every line (between line feeds) is cut alone, so a document's sentences are its lines plus its breaks.
    """
    words = split_tokens(texts)
    return _count_breaks(texts.data, texts.offsets, words.starts, words.begins, words.lengths, words.flags)


@njit(cache=True, nogil=True)
def _count_breaks(data, offsets, starts, begins, lengths, flags):
    """int64[D]: how often spaCy's sentencizer begins another sentence inside a line.

    After a sentence's end it does so at the first token that is not punctuation. A run of spaces, other than a single
    one, is such a token.
    """
    breaks = np.zeros(len(offsets) - 1, np.int64)
    for document in range(len(breaks)):
        ended = False
        for word in range(starts[document], starts[document + 1]):
            if flags[word] & ENDS_SENTENCE:
                ended = True
            elif ended and not flags[word] & ONLY_MARKS:
                breaks[document] += 1
                ended = False
            if not ended:
                continue
            gap = begins[word]
            for _ in range(lengths[word]):
                gap += code_point(data, gap)[1]
            limit = begins[word + 1] if word + 1 < starts[document + 1] else offsets[document + 1]
            at = gap
            while at < limit and data[at] != 10:
                at += 1
            if at - gap > 1 or (at - gap == 1 and data[gap] != 32):
                breaks[document] += 1
                ended = False
            if at < limit:
                ended = False
    return breaks
