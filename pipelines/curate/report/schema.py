"""What report.json holds. Every key is always there unless marked NotRequired; a part switched off is empty or null.

Reasons, stages and signals have the names that the ledger and the attributes use, so that a number in the report leads
to its rows. Characters are Unicode code points, text_bytes are bytes of UTF-8, times are seconds.
"""

from typing import Any, Literal, NotRequired, TypedDict


class Amount(TypedDict):
    documents: int
    characters: int


class CorpusAmount(Amount):
    tokens_estimate: int


class Machine(TypedDict):
    cpus: int
    platform: str
    python: str
    ray: str | None


class Run(TypedDict):
    """`finished` is ISO 8601 with its offset; `config` is plain data without secrets."""

    name: str
    kind: str
    output: str
    version: str
    finished: str
    machine: Machine
    config: dict[str, Any]


class Totals(TypedDict):
    """`core_s` adds up what every worker spent."""

    input: Amount
    corpus: CorpusAmount
    wall_s: float
    core_s: float


class ReasonAmount(Amount):
    reason: str


class FunnelStage(TypedDict):
    """`left` is after the stage: the previous stage's `left` less this one's `removed`, which its `reasons` add up to.

    The last, `corpus`, removes nothing, but may have fewer characters: placeholders and cut lines are counted there.
    """

    stage: str
    left: Amount
    removed: Amount
    reasons: list[ReasonAmount]


class Language(TypedDict):
    language: str
    input: Amount
    corpus: Amount


class SourceReason(ReasonAmount):
    stage: str


class Source(TypedDict):
    """`without_id`: documents that its `id` column does not name. `repeated_keys`: records that give a key twice."""

    source: str
    licence: str | None
    weight: float
    input: Amount
    corpus: Amount
    reasons: list[SourceReason]
    without_id: int
    empty_texts: int
    repeated_keys: int


class Bound(TypedDict):
    """What lies under `minimum` or over `maximum` is removed; one of the two is null."""

    reason: str
    minimum: float | None
    maximum: float | None


class Histogram(TypedDict):
    """`documents[i]` counts values in [edges[i], edges[i + 1]); `stage` is the one whose bounds judge the signal.

    Without `stage`, the funnel's reasons tell it, as far as they removed anything. A logarithmic scale is for counts,
    and may begin at 0: its first bin is then drawn as wide as the second.
    """

    signal: str
    description: str
    stage: NotRequired[str]
    scale: Literal["linear", "log"]
    edges: list[float]
    documents: list[int]
    bounds: list[Bound]


class Similarity(TypedDict):
    """Removed near-duplicates by their estimated Jaccard similarity with the document that was kept."""

    edges: list[float]
    documents: list[int]
    threshold: float


class Excerpt(TypedDict):
    """`excerpt` is the document's beginning, or another part; one that was cut ends with an ellipsis, U+2026."""

    id: str
    source: str
    excerpt: str


class Group(TypedDict):
    """One of the largest duplicate groups: its kept document and one of those removed for it.

    `similarity` is theirs, estimated; null where they were found by their equal text.
    """

    group_id: str
    documents: int
    kept: Excerpt
    removed: Excerpt
    similarity: float | None


class Sample(Excerpt):
    """`reason` is "kept" for a document of the corpus, whose value and threshold are null."""

    reason: str
    stage: str
    language: str | None
    value: float | None
    threshold: float | None


class PersonalData(TypedDict):
    """`found` counts occurrences. The values themselves are nowhere in a report."""

    kind: str
    documents: int
    found: int
    redacted: bool


class Quarantine(TypedDict):
    """`examples` say where: a file with its row or line."""

    source: str
    problem: str
    documents: int
    examples: list[str]


class DuplicateIds(TypedDict):
    """`ids` are used by more than one document of the source, by `documents` in all; `examples` are the first few."""

    source: str
    ids: int
    documents: int
    examples: list[str]


class Skipped(TypedDict):
    """What was passed over because it is no document: whole files, or records and such `inside` files."""

    source: str
    inside: bool
    reason: str
    count: int


class StageTime(TypedDict):
    """`units`: all of the stage, also those that left no file because no document reached it."""

    stage: str
    units: int
    documents: int
    text_bytes: int
    wall_s: float
    core_s: float


class Report(TypedDict):
    schema: Literal[1]
    run: Run
    totals: Totals
    funnel: list[FunnelStage]
    languages: list[Language]
    sources: list[Source]
    histograms: list[Histogram]
    similarity: Similarity | None
    groups: list[Group]
    samples: list[Sample]
    personal_data: list[PersonalData]
    quarantine: list[Quarantine]
    skipped: list[Skipped]
    duplicate_ids: list[DuplicateIds]
    stages: list[StageTime]
    warnings: list[str]
