"""The content of report.json. All keys are present except NotRequired ones; a part that is off is empty or null.

Reasons, stages and signals have the names of the ledger and the attributes. Characters are Unicode code points,
text_bytes are bytes of UTF-8, times are seconds.
"""

from typing import Any, Literal, NotRequired, TypedDict


class Amount(TypedDict):
    """A number of documents, and of characters in them."""

    documents: int
    characters: int


class CorpusAmount(Amount):
    """tokens_estimate: characters / 4."""

    tokens_estimate: int


class DriverMachine(TypedDict):
    """The machine of the driver. cpus: logical cores. ray: version of Ray."""

    cpus: int
    platform: str
    python: str
    ray: str | None


class RunInfo(TypedDict):
    """finished: ISO 8601 with offset. config: the settings without secrets."""

    name: str
    kind: str
    output: str
    version: str
    finished: str
    machine: DriverMachine
    config: dict[str, Any]


class Totals(TypedDict):
    """wall_s: sum over the stages, null if one has none. core_s: sum over the workers."""

    input: Amount
    corpus: CorpusAmount
    wall_s: float | None
    core_s: float


class ReasonAmount(Amount):
    """What a reason removed."""

    reason: str


class FunnelStage(TypedDict):
    """left: after the stage, the previous stage's `left` minus `removed`. removed: the sum of `reasons`.

    The last stage, `corpus`, removes no document; `left` has the characters after lines were removed and personal data
    was replaced.
    """

    stage: str
    left: Amount
    removed: Amount
    reasons: list[ReasonAmount]


class Language(TypedDict):
    """What was read and kept in a language, by its detected label."""

    language: str
    input: Amount
    corpus: Amount


class SourceReason(ReasonAmount):
    """What a reason of a stage removed from a source."""

    stage: str


class SourceAmounts(TypedDict):
    """Documents of a source.

    without_id: without a value in the `id` column. repeated_keys: records with a repeated key. without_newest_by: those
    without a value of `dedup.newest_by` that can be compared. notes: what readers left out of documents or found
    missing -> number.
    """

    source: str
    licence: str | None
    weight: float
    input: Amount
    corpus: Amount
    reasons: list[SourceReason]
    without_id: int
    empty_texts: int
    repeated_keys: int
    without_newest_by: int
    notes: dict[str, int]


class Bound(TypedDict):
    """Documents below `minimum` or above `maximum` are removed. One of the two is null."""

    reason: str
    minimum: float | None
    maximum: float | None


class Histogram(TypedDict):
    """documents[i]: number of values in [edges[i], edges[i + 1]). stage: the one whose bounds apply to the signal.

    In reports without `stage`, it is the stage of the bounds' reasons in the funnel. A logarithmic scale is for counts
    and may begin at 0; its first bin is then drawn as wide as the second.
    """

    signal: str
    description: str
    stage: NotRequired[str]
    scale: Literal["linear", "log"]
    edges: list[float]
    documents: list[int]
    bounds: list[Bound]


class Similarity(TypedDict):
    """Number of removed near-duplicates by their Jaccard similarity with the kept document."""

    edges: list[float]
    documents: list[int]
    threshold: float


class Excerpt(TypedDict):
    """excerpt: the beginning of a document. If it was cut, it ends with an ellipsis, U+2026."""

    id: str
    source: str
    excerpt: str


class Group(TypedDict):
    """One of the largest duplicate groups: its kept document and one that was removed.

    similarity: of these two; null for equal texts.
    """

    group_id: str
    documents: int
    kept: Excerpt
    removed: Excerpt
    similarity: float | None


class SampledDocument(Excerpt):
    """reason: "kept" for a document of the corpus; its value and threshold are null."""

    reason: str
    stage: str
    language: str | None
    value: float | None
    threshold: float | None


class PersonalDataCounts(TypedDict):
    """found: number of occurrences. The report does not contain the values."""

    kind: str
    documents: int
    found: int
    redacted: bool


class CutText(TypedDict):
    """A cut text. documents: number of kept documents that have it; for boilerplate, those of its source."""

    source: str
    text: str
    documents: int


class BoilerplateCounts(TypedDict):
    """Lines or paragraphs that were cut out of the documents that the rules and deduplication kept.

    cut, max_documents: settings. different: number of those with different words. pieces: number of all. documents:
    number of documents out of which one was cut. characters: number of characters cut, with line feeds. texts: the most
    frequent ones.
    """

    cut: str
    max_documents: int
    different: int
    pieces: int
    documents: int
    characters: int
    texts: list[CutText]


class RepeatCounts(TypedDict):
    """Runs of words that several documents have, among those that the rules and deduplication kept.

    min_words, cut: settings. runs: number in all documents. documents: number of documents with a run. later_runs,
    later_words: number of runs, and words in them, that an earlier document has; they are cut if `cut` is set. texts:
    the most frequent ones.
    """

    min_words: int
    cut: bool
    runs: int
    documents: int
    later_runs: int
    later_words: int
    texts: list[CutText]


class Quarantine(TypedDict):
    """examples: files with row or line."""

    source: str
    problem: str
    documents: int
    examples: list[str]


class DuplicateIds(TypedDict):
    """ids: number of ids that several documents of the source have. documents: number of these. examples: such ids."""

    source: str
    ids: int
    documents: int
    examples: list[str]


class Skipped(TypedDict):
    """Files, or records and files inside of files, that are not documents."""

    source: str
    inside: bool
    reason: str
    count: int


class StageTime(TypedDict):
    """units: number of units, also without documents. wall_s: null if an earlier call did some of them."""

    stage: str
    units: int
    documents: int
    text_bytes: int
    wall_s: float | None
    core_s: float


class CurateReport(TypedDict):
    """The whole of report.json."""

    schema: Literal[1]
    run: RunInfo
    totals: Totals
    funnel: list[FunnelStage]
    languages: list[Language]
    sources: list[SourceAmounts]
    histograms: list[Histogram]
    similarity: Similarity | None
    groups: list[Group]
    samples: list[SampledDocument]
    personal_data: list[PersonalDataCounts]
    boilerplate: NotRequired[BoilerplateCounts]
    repeats: NotRequired[RepeatCounts]
    quarantine: list[Quarantine]
    skipped: list[Skipped]
    duplicate_ids: list[DuplicateIds]
    stages: list[StageTime]
    warnings: list[str]


_STAGE_NAMES = {"read": "Read", "c4": "C4", "fineweb": "FineWeb"}


def stage_name(stage: str) -> str:
    """A stage's name in a heading: `Gopher quality` for `gopher_quality`."""
    spaced = stage.replace("_", " ")
    return _STAGE_NAMES.get(stage, spaced[:1].upper() + spaced[1:])
