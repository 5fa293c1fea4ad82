"""The schema of a training's report.json. Every key is always present; a part that was switched off is empty or null.

Steps count from 1; step 0 is the state before training. Losses are means over label tokens, in nats. Times are in
seconds.
"""

from typing import Any, Literal, NotRequired, TypedDict

from training.records.schema import GeneratedAnswer, Measured

Point = tuple[float, float]


class RunInfo(TypedDict):
    """The run. finished: ISO 8601 with offset. config: JSON values without secrets."""

    name: str
    kind: str
    output: str
    version: str
    finished: str
    config: dict[str, Any]


class Recipe(TypedDict):
    """How the weights were trained. base_model: a name, or a description of a randomly initialised model.
    attention_warning: see training.records.schema.AttemptRecord. order: of the examples; reports of earlier versions
    lack it.
    """

    base_model: str
    method: str
    engine: str
    precision: str
    attention: str
    attention_warning: str | None
    sequence_length: int
    tokens_per_step: int
    order: NotRequired[str]


class FitTotals(TypedDict):
    """Sums over the training.

    unlogged_steps: steps taken but missing in steps.jsonl. tokens: without padding. tokens_per_s, mfu: medians over
    steps; null if not measured. compile_s, validation_s: the parts of `seconds` in torch.compile and in validation.
    """

    steps: int
    planned_steps: int
    unlogged_steps: int
    tokens: int
    label_tokens: int
    seconds: float
    tokens_per_s: float | None
    mfu: float | None
    compile_s: float
    validation_s: float
    workers: list[int]
    trainable_parameters: int
    all_parameters: int


class Validated(Measured):
    """A validation after `step` steps."""

    step: int


class Curves(TypedDict):
    """Curves of points (step, value). Long ones are reduced to the lowest and highest point of some hundred columns."""

    loss: list[Point]
    loss_smooth: list[Point]
    learning_rate: list[Point]
    grad_norm: list[Point]
    tokens_per_s: list[Point]
    memory_gib: list[Point]
    data_wait: list[Point]


class Event(TypedDict):
    """A restart of the workers after `step`, or a step that was skipped; `words` says which."""

    step: int
    words: str


class StepRow(TypedDict):
    """A step in the table of numbers beside the curves."""

    step: int
    loss: float | None
    loss_smooth: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_s: float | None
    memory_gib: float | None
    data_wait: float | None


class SplitData(TypedDict):
    """One split of one corpus, as packed. filled: fraction of the rows' positions that hold a token."""

    split: str
    documents: int
    rows: int
    tokens: int
    label_tokens: int
    filled: float


class DataSet(TypedDict):
    """A data set of `raymill prepare`. name: in its config. versions: NAME:VERSION of those tagged with its digest when
    the report was made, the oldest first. report: URI of the page of its report.
    """

    name: str
    versions: list[str]
    digest: str
    report: str


class CorpusData(TypedDict):
    """documents: those that became examples. left_out: numbers of the others, by reason, before packing. tokenised:
    examples, tokens and label tokens of all splits before packing. packing: counts of examples longer than a row, by
    what was done with them. turns: counts of assistant turns, and of those that are not trained on. passed_over: a
    sentence about the files that were not read. stages: of a curriculum, with the rows to train on, the easiest first.
    prepared: the data set that was packed, if it is one. Reports of earlier versions lack the last four.
    """

    name: str
    path: str
    passed_over: NotRequired[str]
    documents: int
    text_bytes: int
    left_out: dict[str, int]
    tokenised: dict[str, int]
    packing: dict[str, int]
    turns: NotRequired[dict[str, int]]
    splits: list[SplitData]
    stages: NotRequired[dict[str, int]]
    prepared: NotRequired[DataSet]


class Folder(TypedDict):
    """An exported folder. kind: see export/folders.py. code: Python that loads it, to be run in the folder."""

    kind: str
    uri: str
    bytes: int
    code: str


class Fit(TypedDict):
    """One training; a run of phases has several.

    continues: lines about the run that this one continues; reports of earlier versions lack it. unmoved: names of
    trained matrices that did not change. damaged_checkpoints: a sentence for each checkpoint that could not be read,
    with the steps that were repeated. evaluation_notes: sentences about what was not measured.
    """

    name: str
    output: str
    recipe: Recipe
    continues: NotRequired[list[str]]
    totals: FitTotals
    validation: list[Validated]
    curves: Curves
    events: list[Event]
    damaged_checkpoints: list[str]
    rows: list[StepRow]
    corpora: list[CorpusData]
    before: dict[str, Measured]
    after: dict[str, Measured]
    best_step: int | None
    ended: str
    unmoved: list[str]
    generation: dict[str, float]
    set_generation: NotRequired[dict[str, dict[str, float]]]
    answers: list[GeneratedAnswer]
    merged_check: dict[str, Any] | None
    evaluation_notes: list[str]
    folders: list[Folder]


def exported_validation(fit: Fit) -> Validated | None:
    """The validation of the exported weights (the best after step 0); None if there was no validation."""
    validation = fit["validation"]
    found = [measured for measured in validation if measured["step"] == fit["best_step"]] or validation
    return found[-1] if found else None


class TrainReport(TypedDict):
    """report.json."""

    schema: Literal[1]
    run: RunInfo
    fits: list[Fit]
    warnings: list[str]
