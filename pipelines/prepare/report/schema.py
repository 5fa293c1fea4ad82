"""What report.json of a data set holds."""

from typing import Any, NotRequired, TypedDict

from pipelines.prepare.stages.classes import ClassCounts

# stage -> what the report calls its removed records.
STAGES = {
    "collect": "not readable",
    "table": "rows dropped",
    "validate": "fail a rule",
    "relevance": "unrelated",
    "duplicates": "duplicates",
    "contradictions": "contradictory",
    "outliers": "outliers",
    "mixture": "over a share",
    "balance": "over a class",
}
LEFT_OUT_STAGES = ("relevance", "contradictions", "outliers", "mixture", "balance")
ANSWER_SHOWN = 300  # characters
EXAMPLE_SHOWN = 600  # characters of a removed record


class SourceCounts(TypedDict):
    """Records of a source. records: that were read and are records; passed: of these, those that meet all rules."""

    source: str
    licence: str | None
    quarantined: int
    records: int
    passed: int
    splits: dict[str, int]


class RemovedExample(TypedDict):
    """One removed record. value, limit: as in the ledger; of quarantine where it was. text: its beginning."""

    id: str | None
    source: str
    value: str | None
    limit: str | None
    partner: str | None
    text: str


class Reason(TypedDict):
    """stage: a key of STAGES; collect is quarantine. example: the first record; none of listed ones."""

    stage: str
    reason: str
    meaning: str
    records: int
    example: NotRequired[RemovedExample]


class CutKind(TypedDict):
    """Texts of a kind that readers and cleaning took out of records. example: the beginning of one."""

    source: str
    kind: str
    meaning: str
    pieces: int
    characters: int
    example: str


class AnswerExcerpt(TypedDict):
    """The id of a record, and the beginning of its answer."""

    id: str
    answer: str


class Contradiction(TypedDict):
    """A question and some of its answers."""

    question: str
    answers: list[AnswerExcerpt]


class PrepareReport(TypedDict):
    """What a run did.

    listed: records of the splits that were found and stay. contradictions: examples. straddling: group -> number of
    values that are in more than one split. older: records for validation or testing that are older than the newest
    training record; None without `split.by_time`. stages: of the curriculum -> records. assigned: records of each split
    before balancing. classes: of each field that has few values. personal_data: findings that were replaced, by place.
    """

    name: str
    finished: str
    version: str
    output: str
    shape: str
    totals: dict[str, int]
    splits: dict[str, int]
    sources: list[SourceCounts]
    reasons: list[Reason]
    cut: list[CutKind]
    listed: list[Reason]
    contradictions: list[Contradiction]
    straddling: dict[str, int]
    older: NotRequired[int | None]
    stages: NotRequired[dict[str, int]]
    assigned: NotRequired[dict[str, int]]
    personal_data: NotRequired[dict[str, int]]
    classes: NotRequired[dict[str, list[ClassCounts]]]
    warnings: list[str]
    notes: list[str]
    config: dict[str, Any]


def counts_below(counters: dict[str, float], prefix: str) -> dict[str, int]:
    """The counters whose names begin with a prefix, by the rest of their names."""
    return {key.removeprefix(prefix): int(value) for key, value in counters.items() if key.startswith(prefix)}
