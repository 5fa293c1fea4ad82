"""What an assessment counts in a data set, as the stage `summary` writes it and scores and repairs read it."""

import json
from typing import TypedDict

from cluster.artifact import Artifact
from pipelines.prepare.assess.bias import Lengths, Scores
from pipelines.prepare.assess.leaks import Leaks
from pipelines.prepare.assess.learn import Learned


class Some(TypedDict):
    """Records with a property: how many, and the ids of the first ones."""

    records: int
    ids: list[str]


class RepeatedTexts(TypedDict):
    """Texts that repeat an earlier one. compared: how many texts there are."""

    compared: int
    exact: int
    near: int
    ids: list[str]


class Values(TypedDict):
    """How records are spread over the values of a field. shown: the most frequent values. ids: of the first records
    with each of these, and with the least frequent value.
    """

    distinct: int
    evenness: float | None
    shown: dict[str, int]
    ids: dict[str, list[str]]


class LexicalDiversity(TypedDict):
    """Lexical diversity of a sample."""

    records: int
    tokens: int
    distinct_1: float | None
    distinct_2: float | None
    mtld: float | None


class Represented(TypedDict):
    """Shares of a field's values. wanted: empty: equal ones. likeness: see `representation`. shown: records of the most
    frequent values.
    """

    likeness: float | None
    wanted: dict[str, float]
    shown: dict[str, int]


class Periods(TypedDict):
    """Records of each month or year from the first to the last; of a field with dates."""

    evenness: float | None
    records: dict[str, int]


class Agreed(TypedDict):
    """Labels of several annotators. records: with two labels or more. differing: of these."""

    records: int
    alpha: float | None
    differing: Some


class Findings(TypedDict):
    """What was counted.

    records: without copies, the records that balancing made of others. copies: these; they count in values,
    represented and periods alone. forms, dates: records whose answer has each form. other_format: those with
    another one than most of their task type. terms: with a term that cleaning replaces; None: there are no terms.
    languages: those identified with certainty. topics: records that mention each. rules: records that break each rule;
    None: the data set was made with these rules. agreement, periods, learned: None: not
    asked for. represented, lengths, sentiments: by field; sentiments of a classifier's scores, empty: not asked for.
    """

    records: int
    copies: int
    missing: dict[str, int]
    incomplete: Some
    not_allowed: Some
    contradictory: Some
    forms: dict[str, int]
    dates: dict[str, int]
    other_format: Some
    terms: Some | None
    inconsistent: int
    questions: RepeatedTexts
    answers: RepeatedTexts
    leaks: Leaks
    languages: dict[str, int]
    expected: list[str]
    other_language: Some
    damaged: Some
    poor_language: int
    topics: dict[str, int]
    on_topic: int
    off_topic: Some
    values: dict[str, Values]
    words: LexicalDiversity
    rules: dict[str, int] | None
    violating: Some
    agreement: Agreed | None
    represented: dict[str, Represented]
    lengths: dict[str, Lengths | None]
    sentiments: dict[str, Scores | None]
    periods: Periods | None
    learned: Learned | None


def findings_of(summary: Artifact) -> Findings:
    """The findings that the stage wrote."""
    return json.loads(summary.table()["findings"][0].as_py())
