"""Gopher's repetition rules: remove documents with repeated lines, paragraphs or word n-grams."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from pipelines.rules.rule import Analysis, Check, Dialect
from pipelines.text.lines import count_repeated_lines, count_repeated_paragraphs
from pipelines.text.ngrams import DUPLICATED_N, TOP_N, count_ngram_repetition

Fraction = Annotated[float, Field(ge=0)]  # may exceed 1: occurrences of the most frequent n-gram may overlap

_FRACTIONS = {
    "dup_para_frac": "paragraphs equal to an earlier one / paragraphs",
    "dup_para_char_frac": "characters in paragraphs equal to an earlier one / characters",
    "dup_line_frac": "lines equal to an earlier one / lines",
    "dup_line_char_frac": "characters in lines equal to an earlier one / characters",
    **{f"top_{n}_gram": f"characters in the commonest word {n}-gram / characters" for n in TOP_N},
    **{f"duplicated_{n}_n_grams": f"characters in repeated word {n}-grams / characters" for n in DUPLICATED_N},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GopherRepetition:
    """Remove documents with too large a fraction of repeated lines, paragraphs or word n-grams.

    The bounds are table A1 of Gopher: Rae et al. 2021, https://arxiv.org/abs/2112.11446. Definitions that the paper
    leaves open are those of datatrove 0.10.1: a line or paragraph counts as repeated from its second occurrence on; two
    or more line feeds separate paragraphs, one or more separate lines; repeated n-grams are counted from the left
    without overlap; the denominator is all characters of the document, spaces included. One definition differs: an
    n-gram is a sequence of words, so "ab c" does not repeat "a bc". An empty document is removed as `empty`.

    Dialects differ only in words. In a language written without spaces every character is a word in the `paper`
    dialect, so the n-gram checks do not apply to it.
    """

    max_dup_para_frac: Fraction = 0.30
    max_dup_para_char_frac: Fraction = 0.20
    max_dup_line_frac: Fraction = 0.30
    max_dup_line_char_frac: Fraction = 0.20
    max_top_2_gram: Fraction = 0.20
    max_top_3_gram: Fraction = 0.18
    max_top_4_gram: Fraction = 0.16
    max_duplicated_5_n_grams: Fraction = 0.15
    max_duplicated_6_n_grams: Fraction = 0.14
    max_duplicated_7_n_grams: Fraction = 0.13
    max_duplicated_8_n_grams: Fraction = 0.12
    max_duplicated_9_n_grams: Fraction = 0.11
    max_duplicated_10_n_grams: Fraction = 0.10

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "gopher_repetition"
    reasons: ClassVar = ("empty", *_FRACTIONS)
    signals: ClassVar = {"repetition_characters": "characters of the document", **_FRACTIONS}
    measured_by: ClassVar = ()

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """repetition_characters int64[D], the fractions float64[D]; NaN where the n-gram checks do not apply."""
        texts = analysis.texts
        characters = analysis.characters
        paragraphs = count_repeated_paragraphs(texts, analysis.lines)
        lines = count_repeated_lines(analysis.lines)
        top, duplicated = count_ngram_repetition(analysis.words)
        spaced = np.where(analysis.written_with_spaces, 1.0, np.nan)  # NaN: not applicable
        over = np.maximum(characters, 1)  # the fractions of an empty document are 0
        return {
            "repetition_characters": characters,
            "dup_para_frac": paragraphs[:, 1] / paragraphs[:, 0],
            "dup_para_char_frac": paragraphs[:, 2] / over,
            "dup_line_frac": lines[:, 1] / lines[:, 0],
            "dup_line_char_frac": lines[:, 2] / over,
            **{f"top_{n}_gram": spaced * top[:, column] / over for column, n in enumerate(TOP_N)},
            **{
                f"duplicated_{n}_n_grams": spaced * duplicated[:, column] / over
                for column, n in enumerate(DUPLICATED_N)
            },
        }

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (
            Check("empty", "repetition_characters", minimum=1),
            *(Check(fraction, fraction, maximum=getattr(self, f"max_{fraction}")) for fraction in _FRACTIONS),
        )
