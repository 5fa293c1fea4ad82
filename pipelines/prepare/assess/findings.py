"""What an assessment counts in a data set, as the stage `summary` writes it and scores and fixes read it."""

from typing import NotRequired

from typing_extensions import TypedDict


class Ratio(TypedDict):
    """Geometric mean length of a value's records by the most frequent value's. low, high: 95% confidence interval."""

    value: str
    records: int
    ratio: float
    low: float
    high: float


class Lengths(TypedDict):
    """Lengths of the values of a field. against: the most frequent value."""

    against: str
    ratios: list[Ratio]


class Difference(TypedDict):
    """Mean score of a value's records, and its difference from the most frequent value's, with a 95% interval."""

    value: str
    records: int
    mean: float
    difference: float
    low: float
    high: float


class Scores(TypedDict):
    """Scores of the values of a field. against: the most frequent value. mean: of its records."""

    against: str
    mean: float
    differences: list[Difference]


class Leaks(TypedDict):
    """Records of validation and test whose question, or text, is in train. compared: all records of these two splits.
    exact: of the records, those whose question is equal. ids: of the first ones.
    """

    compared: int
    validation: int
    test: int
    exact: int
    ids: list[str]


class Suspect(TypedDict):
    """A record whose label is probably wrong. probability: of its label."""

    id: str
    label: str
    suggested: str
    probability: float
    text: NotRequired[str]


class Similar(TypedDict):
    """Similarity of answers to something. ids: of the least similar records."""

    records: int
    mean: float | None
    ids: list[str]


class Labels(TypedDict):
    """What was predicted of a field.

    records: that were predicted. left_out: records with a value that fewer than 5 records have. rare, rare_ids: the
    first such values with their records, and the ids of the first ones. classes: other distinct values. most_frequent:
    share of the most frequent one. scores: of each fold, by name. missed: records that are predicted otherwise.
    hardest: the first ones of these, the least probable value first. judged: records whose label is judged. errors:
    probably wrong labels; None if the predictions are no better than chance. suspects: the first ones.
    """

    records: int
    left_out: int
    rare: dict[str, int]
    rare_ids: list[str]
    classes: int
    most_frequent: float
    scores: dict[str, list[float]]
    missed: int
    hardest: list[Suspect]
    judged: int
    errors: int | None
    suspects: list[Suspect]


class Learned(TypedDict):
    """groups: records of each k-means group, largest first. largest: ids of the first records of the largest. similar:
    of answers to the nearest example. relevant: of answers to their questions. labels: by field.
    """

    groups: list[int]
    largest: list[str]
    similar: Similar
    relevant: Similar
    labels: dict[str, Labels]


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
