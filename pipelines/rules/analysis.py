"""One table of documents under measurement, and what several rules want to know of it, computed at most once.

The dialect decides what a word is:

    paper      a run of characters between spaces; in scripts written without spaces, every character
    datatrove  a token of spaCy's blank English tokenizer, as datatrove 0.10.1 uses it: punctuation marks are words

Deduplication does not depend on the dialect: it has tokens of its own (see signatures.py).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.text.texts import Texts
from pipelines.text.words import Words, split_words

# Labels, of lid.176 and of GlotLID, whose scripts put no space between words.
WITHOUT_SPACES = (
    *("zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "bo", "dz"),
    *("cmn", "zho", "lzh", "hak", "jpn", "tha", "lao", "khm", "mya", "bod", "dzo", "shn", "nod"),
)


@dataclass(frozen=True)
class Analysis:
    """D normalised documents; `columns` are their other columns (source, url, language, ...), D rows."""

    texts: Texts
    dialect: str
    columns: pa.Table

    @cached_property
    def words(self) -> Words:
        return split_words(self.texts, self.dialect)

    @cached_property
    def written_with_spaces(self) -> np.ndarray:
        """bool[D]. Where not, a character is a word in the `paper` dialect, and what counts on longer words does not
        apply. `datatrove` knows one tokenizer, and without a language every document is taken for English: all True.
        """
        if self.dialect == "datatrove" or "language" not in self.columns.column_names:
            return np.ones(len(self.texts), bool)
        labels = self.columns["language"].combine_chunks().cast(pa.string())
        bare = pc.fill_null(pc.replace_substring_regex(labels, "_.*", ""), "")
        return pc.invert(pc.is_in(bare, pa.array(WITHOUT_SPACES))).to_numpy(zero_copy_only=False)
