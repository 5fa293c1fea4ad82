"""The section `augment` of a config of `prepare`."""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from raymill.cluster.store import paths
from raymill.pipelines.prepare.augment.pieces import Keep, Kept
from raymill.pipelines.prepare.augment.thesaurus import PACKAGE

MOST_VARIANTS = 100  # of a record
_Fraction = Annotated[float, Field(gt=0, le=1)]


class Typos(BaseModel, extra="forbid", frozen=True):
    """Typing errors: a letter of a neighbouring key, or one doubled, left out or exchanged with the next."""

    words: _Fraction = Field(0.1, description="Fraction of the words that get a typo")
    layout: Literal["qwerty", "qwertz", "azerty"] = Field("qwerty", description="Layout of the keyboard")


class Ocr(BaseModel, extra="forbid", frozen=True):
    """OCR errors: letters read as others that look alike, such as rn as m."""

    words: _Fraction = Field(0.1, description="Fraction of the words that get an OCR error")


class Case(BaseModel, extra="forbid", frozen=True):
    """Other letter case."""

    forms: tuple[Literal["lower", "upper", "title", "first"], ...] = Field(
        ("lower", "upper", "first"),
        min_length=1,
        description="Forms of which a variant has one: lower case, upper case, capitals at the beginning of words, or "
        "a small first letter",
    )


class Punctuation(BaseModel, extra="forbid", frozen=True):
    """Other punctuation marks."""

    forms: tuple[Literal["no_end", "several", "no_commas", "no_apostrophes", "none"], ...] = Field(
        ("no_end", "several", "no_commas", "no_apostrophes", "none"),
        min_length=1,
        description="Forms of which a variant has one: without the final mark, with several, without commas, without "
        "apostrophes, or without marks",
    )


class Drop(BaseModel, extra="forbid", frozen=True):
    """Words left out."""

    words: _Fraction = Field(0.1, description="Fraction of the words that are left out")


class Swap(BaseModel, extra="forbid", frozen=True):
    """Neighbouring words exchanged."""

    words: _Fraction = Field(0.1, description="Maximum number of exchanges, as a fraction of the number of words")


class Spelling(BaseModel, extra="forbid", frozen=True):
    """Other spellings of English words."""

    words: _Fraction = Field(0.3, description="Maximum fraction of the words that are spelt in another way")
    kinds: tuple[Literal["regional", "mistakes"], ...] = Field(
        ("regional", "mistakes"),
        min_length=1,
        description="Spellings that are used: British for American and American for British, or frequent mistakes",
    )


class Synonyms(BaseModel, extra="forbid", frozen=True):
    """English words replaced by synonyms of a thesaurus; many synonyms fit only some sentences."""

    words: _Fraction = Field(0.1, description="Fraction of the words that are replaced by synonyms")
    thesaurus: str = Field(
        PACKAGE,
        min_length=1,
        description="Path or URI of a file of the Moby thesaurus (a line for each word: the word and its synonyms, "
        f"with commas between) or of a folder of WordNet; {PACKAGE}: the installed package of this name",
    )

    @field_validator("thesaurus")
    @classmethod
    def _absolute(cls, thesaurus: str) -> str:
        return thesaurus if thesaurus == PACKAGE else paths.absolute(thesaurus)


class Entities(BaseModel, extra="forbid", frozen=True):
    """Other numbers, dates and names, the same ones in the whole record."""

    numbers: bool = Field(
        True,
        description="Whether numbers of two digits or more are replaced. A record whose answer has a number that its "
        "question lacks has no such variant",
    )
    dates: bool = Field(True, description="Whether the dates of a record are moved by the same number of days")
    names: tuple[Annotated[tuple[str, ...], Field(min_length=2)], ...] = Field(
        (), description="Lists of names that can stand for each other, as [[Ann, Bob, Chris], [Oslo, Rome]]"
    )


class Operations(BaseModel, extra="forbid", frozen=True):
    """Operations that make variants; `{}` means the default settings."""

    typos: Typos | None = Field(None, description="Typing errors; null: none")
    ocr: Ocr | None = Field(None, description="OCR errors; null: none")
    case: Case | None = Field(None, description="Other letter case; null: none")
    punctuation: Punctuation | None = Field(None, description="Other punctuation marks; null: none")
    drop: Drop | None = Field(None, description="Words left out; null: none")
    swap: Swap | None = Field(None, description="Neighbouring words exchanged; null: none")
    spelling: Spelling | None = Field(None, description="Other spellings of English words; null: none")
    synonyms: Synonyms | None = Field(None, description="Synonyms of a thesaurus; null: none")
    entities: Entities | None = Field(None, description="Other numbers, dates and names; null: none")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the operations that are on."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.names:
            raise ValueError(f"none named; wanted some of {', '.join(type(self).model_fields)}, as in {{typos: {{}}}}")
        return self


class Augment(BaseModel, extra="forbid", frozen=True):
    """Variants of training records, made without a model."""

    operations: Operations = Field(description="Operations that make the variants, by turns")
    variants: int = Field(
        1, ge=1, le=MOST_VARIANTS, description="Number of variants of each training record; not used with `to`"
    )
    by: tuple[str, ...] = Field((), description="Metadata fields whose values together are the class of a record")
    to: (
        Literal["largest"]
        | Annotated[int, Field(ge=1)]
        | Annotated[float, Field(gt=0, lt=1)]
        | dict[str, Annotated[int, Field(ge=1)]]
        | None
    ) = Field(
        None,
        description="Number of training records that each class of `by` is filled up to: as many as the largest class "
        "has, a fraction of that, a number, or {VALUE: NUMBER} for one field; null: every record has `variants`",
    )
    most_variants: int = Field(
        5, ge=1, le=MOST_VARIANTS, description="Maximum number of variants of a training record with `to`"
    )
    texts: Literal["question", "answer", "both"] = Field(
        "question",
        description="Texts that are changed: the questions (of a plain text, the text), the answers, or both; "
        "`entities` changes all texts of a record",
    )
    keep: tuple[Kept, ...] = Field(
        ("numbers", "code", "quotes", "links"),
        description="Parts that are not changed: numbers, code in backquotes, quoted words, addresses of pages and "
        "e-mail; `entities` replaces numbers in any case",
    )
    keep_terms: tuple[str, ...] = Field((), description="Words and phrases that are not changed")
    keep_patterns: tuple[str, ...] = Field((), description="Regular expressions of parts that are not changed")
    min_similarity: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Minimum similarity of a variant and its record, from 0 to 1: the fraction of three-character "
        "sequences that they have in common",
    )
    max_similarity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Similarity to its record at and above which a variant is left out; null: only equal texts are "
        "left out",
    )
    seed: int = Field(1, ge=0, lt=1 << 32, description="Random seed of the variants")

    @property
    def kept(self) -> Keep:
        return Keep(self.keep, self.keep_terms, self.keep_patterns)

    @field_validator("to", mode="before")
    @classmethod
    def _values_are_texts(cls, to: object) -> object:
        return {str(value): number for value, number in to.items()} if isinstance(to, dict) else to

    @field_validator("keep_patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern}: is no regular expression: {error}") from error
        return patterns

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.to is None) != (not self.by):
            raise ValueError("by and to go together: `by` names the fields of a class, `to` the number of its records")
        if isinstance(self.to, dict) and len(self.by) > 1:
            raise ValueError(f"to: values have numbers with one field in `by`, which has {', '.join(self.by)}")
        if self.max_similarity is not None and self.max_similarity <= self.min_similarity:
            raise ValueError(
                f"max_similarity: {self.max_similarity:g} given, which is not above min_similarity "
                f"({self.min_similarity:g}), so no variant could stay"
            )
        return self
