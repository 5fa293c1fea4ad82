"""One table of documents under measurement, and what several rules want to know of it, computed at most once.

The dialect decides what a word is:

    paper      a run of characters between spaces; in scripts written without spaces, every character
    datatrove  a token of spaCy's blank English tokenizer, as datatrove 0.10.1 uses it: punctuation marks are words

Deduplication does not depend on the dialect: it has tokens of its own (see signatures.py).
"""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from pipelines.text.texts import Texts
from pipelines.text.words import Words, split_words


@dataclass(frozen=True)
class Analysis:
    """D normalised documents; `columns` are their other columns (source, url, language, ...), D rows."""

    texts: Texts
    dialect: str
    columns: pa.Table

    @cached_property
    def words(self) -> Words:
        return split_words(self.texts, self.dialect)
