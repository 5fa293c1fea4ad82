"""C4's rules: remove lines that are not prose, and pages with few sentences, code or placeholder text."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.datatrove.tokenizer import count_sentence_breaks
from raymill.pipelines.text.lines import count_characters, strip_each
from raymill.pipelines.text.prose_lines import (
    CURLY_BRACKET,
    JAVASCRIPT,
    LOREM_IPSUM,
    POLICY,
    KeptLines,
    keep_prose_lines,
)
from raymill.pipelines.text.texts import Texts


@dataclass(frozen=True, kw_only=True, slots=True)
class C4:
    """Remove lines that are not prose, then documents with lorem ipsum, a curly bracket or too few sentences.

    Source: C4, Raffel et al. 2020, section 2.2, https://arxiv.org/abs/1910.10683, as datatrove 0.10.1 implements it.

    A line (str.splitlines) is removed if it has a word of more than `max_word_length` characters, fewer than
    `min_words_per_line` words, the word javascript or a phrase about cookies or policies; with
    `require_terminal_punctuation` also if it ends without terminal punctuation or in an ellipsis. The paper has that
    setting on; FineWeb has it off, which is the default here. Wikipedia's citation marks ([1], [edit]) are removed from
    lines. A document is dropped for lorem ipsum or a bracket only if the line has not been removed by an earlier test
    (lorem ipsum is tested before javascript, the bracket after it and before policies); the first such line gives the
    reason.

    The signals are measured on the text without the removed lines. The corpus is written without them only if
    `remove_lines` is set (see `clean`).

    Dialects. `datatrove`: spaces separate words; sentences are those of spaCy's sentencizer in each line, at least one
    per line; . ? ! " and ' are terminal. `paper`: a letter of an unspaced script is a word; a sentence has a character
    that is not a symbol, and ends with the line or with a word that ends in sentence-final punctuation of any script,
    quotes and brackets after it ignored; such punctuation and closing quotes are terminal.
    """

    min_sentences: Annotated[
        int, Field(ge=0, description="Minimum number of sentences in the lines of a document that are not removed")
    ] = 5
    min_words_per_line: Annotated[
        int, Field(ge=0, description="Minimum number of words of a line; lines with fewer are removed")
    ] = 3
    max_word_length: Annotated[
        int, Field(ge=1, description="Maximum number of characters of a word; lines with a longer word are removed")
    ] = 1000
    require_terminal_punctuation: Annotated[
        bool, Field(description="Whether lines that do not end in terminal punctuation are removed")
    ] = False
    remove_citations: Annotated[
        bool, Field(description="Whether Wikipedia's citation marks, such as [1] and [edit], are removed from lines")
    ] = True
    remove_javascript_lines: Annotated[
        bool, Field(description="Whether lines with the word javascript are removed")
    ] = True
    remove_policy_lines: Annotated[
        bool, Field(description="Whether lines with a phrase about cookies or policies are removed")
    ] = True
    drop_lorem_ipsum: Annotated[bool, Field(description="Whether documents with a line of lorem ipsum are removed")] = (
        True
    )
    drop_curly_bracket: Annotated[
        bool, Field(description="Whether documents with a line that has a curly bracket { are removed")
    ] = True
    remove_lines: Annotated[
        bool,
        Field(
            description="Whether the corpus is written without removed lines and citation marks; false: they are "
            "left out of measurements alone"
        ),
    ] = False

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "c4"
    reasons: ClassVar = ("lorem_ipsum", "curly_bracket", "too_few_sentences")
    signals: ClassVar = {
        "c4_lorem_ipsum": "2: a line with lorem ipsum; 1: such a line, and one with { before it; 0: none",
        "c4_curly_bracket": "1: a line with {; 0: none",
        "c4_sentences": "sentences in the lines that stay",
        "c4_kept_characters": "characters of the text without the lines and marks that are taken out",
    }
    measured_by: ClassVar = (
        "min_words_per_line",
        "max_word_length",
        "require_terminal_punctuation",
        "remove_citations",
        "remove_javascript_lines",
        "remove_policy_lines",
    )

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """The two flags int8[D], the two counts int64[D]."""
        kept = self._keep_lines(analysis.texts, analysis.dialect)
        sentences = kept.sentences
        if analysis.dialect == "datatrove":
            sentences = kept.lines + count_sentence_breaks(kept.texts)
        return {
            "c4_lorem_ipsum": (kept.found & LOREM_IPSUM != 0).astype(np.int8) + (kept.first == LOREM_IPSUM),
            "c4_curly_bracket": (kept.found & CURLY_BRACKET != 0).astype(np.int8),
            "c4_sentences": sentences,
            "c4_kept_characters": count_characters(strip_each(kept.texts)),
        }

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        # A bracket before lorem ipsum gives the reason, if brackets drop documents.
        lorem_ipsum = Check("lorem_ipsum", "c4_lorem_ipsum", maximum=int(self.drop_curly_bracket))
        return (
            *((lorem_ipsum,) if self.drop_lorem_ipsum else ()),
            *((Check("curly_bracket", "c4_curly_bracket", maximum=0),) if self.drop_curly_bracket else ()),
            Check("too_few_sentences", "c4_sentences", minimum=self.min_sentences),
        )

    def clean(self, texts: Texts, dialect: Dialect = "paper") -> Texts:
        """The documents without removed lines and citation marks; the remaining lines are joined by line feeds."""
        return strip_each(self._keep_lines(texts, dialect).texts)

    def _keep_lines(self, texts: Texts, dialect: str) -> KeptLines:
        return keep_prose_lines(
            texts,
            datatrove=dialect == "datatrove",
            min_words=self.min_words_per_line,
            max_word_length=self.max_word_length,
            require_terminal_punctuation=self.require_terminal_punctuation,
            remove_citations=self.remove_citations,
            remove_line_on=JAVASCRIPT * self.remove_javascript_lines | POLICY * self.remove_policy_lines,
        )
