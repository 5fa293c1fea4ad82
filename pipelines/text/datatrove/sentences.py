"""Sentences of the datatrove dialect: those of spaCy's sentencizer, counted on the tokens of the same dialect."""

import numpy as np

from pipelines.text.characters import code_point
from pipelines.text.datatrove.tokenizer import ENDS_SENTENCE, ONLY_PUNCTUATION, split_tokens
from pipelines.text.kernel import kernel
from pipelines.text.texts import Texts


def count_sentence_breaks(texts: Texts) -> np.ndarray:
    """int64[D]: how many sentences begin inside a line, after another sentence.

    Lines (separated by line feeds) are cut one by one, so a document has lines + breaks sentences.
    """
    words = split_tokens(texts)
    breaks = np.zeros(len(texts), np.int64)
    _count_breaks(texts.data, texts.offsets, words.starts, words.begins, words.lengths, words.flags, breaks)
    return breaks


@kernel
def _count_breaks(data, offsets, starts, begins, lengths, flags, breaks):
    """Add to `breaks`, int64[D], see count_sentence_breaks.

    The sentencizer begins a sentence at the first token after a sentence end that is not punctuation. White space other
    than a single space is such a token.
    """
    for document in range(len(breaks)):
        ended = False
        for word in range(starts[document], starts[document + 1]):
            if flags[word] & ENDS_SENTENCE:
                ended = True
            elif ended and not flags[word] & ONLY_PUNCTUATION:
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
