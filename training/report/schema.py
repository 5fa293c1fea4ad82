"""What the report.json of a training holds. Every key is always there; a part that was switched off is empty or null.

Steps count from 1; step 0 is before the first. Losses are means over label tokens, in nats. Times are seconds.
"""

from typing import Any, Literal, TypedDict

from training.fit.records import Answer, Measured

Point = tuple[float, float]


class Run(TypedDict):
    """`finished` is ISO 8601 with its offset; `config` is plain data without secrets."""

    name: str
    kind: str
    output: str
    version: str
    finished: str
    config: dict[str, Any]


class Recipe(TypedDict):
    """What was done, in words. `base_model`: a name, or what a randomly initialised one is. `attention_warning`: see
    training.fit.records.Attempt.
    """

    base_model: str
    method: str
    engine: str
    precision: str
    attention: str
    attention_warning: str | None
    sequence_length: int
    tokens_per_step: int


class Totals(TypedDict):
    """`unlogged_steps`: taken, and not in steps.jsonl. `tokens`: trained on, without padding. `tokens_per_s`, `mfu`:
    medians of the steps; null where not measured. `compile_s`, `validation_s`: of `seconds`, what torch.compile
    and validation took.
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
    step: int


class Curves(TypedDict):
    """A point is (step, value). Long ones are thinned: of each of some hundred columns the lowest and highest stay."""

    loss: list[Point]
    loss_smooth: list[Point]
    learning_rate: list[Point]
    grad_norm: list[Point]
    tokens_per_s: list[Point]
    memory_gib: list[Point]
    data_wait: list[Point]


class Event(TypedDict):
    """A restart after `step`, or a step that was passed over."""

    step: int
    words: str


class StepRow(TypedDict):
    """A few steps in numbers, for those who cannot see a curve."""

    step: int
    loss: float | None
    loss_smooth: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_s: float | None
    memory_gib: float | None
    data_wait: float | None


class SplitData(TypedDict):
    """Of one split of one corpus, as it was packed. `filled`: share of the rows' places that hold a token."""

    split: str
    documents: int
    rows: int
    tokens: int
    label_tokens: int
    filled: float


class Corpus(TypedDict):
    """`documents`: that give an example. `left_out`: the others by reason, before packing. `tokenised`: examples,
    tokens and label tokens of all splits before packing. `packing`: what happened to examples longer than a row.
    """

    name: str
    path: str
    documents: int
    text_bytes: int
    left_out: dict[str, int]
    tokenised: dict[str, int]
    packing: dict[str, int]
    splits: list[SplitData]


class Folder(TypedDict):
    """An exported model. `kind`: see export/job.py. `code`: loads it, run in its folder."""

    kind: str
    uri: str
    bytes: int
    code: str


class Fit(TypedDict):
    """One training; a run of phases has several. `unmoved`: trained matrices that are as they were.

    damaged_checkpoints: a sentence for each that was passed over, with what was trained again for it.
    """

    name: str
    output: str
    recipe: Recipe
    totals: Totals
    validation: list[Validated]
    curves: Curves
    events: list[Event]
    damaged_checkpoints: list[str]
    rows: list[StepRow]
    corpora: list[Corpus]
    before: dict[str, Measured]
    after: dict[str, Measured]
    best_step: int | None
    ended: str
    unmoved: list[str]
    generation: dict[str, float]
    answers: list[Answer]
    merged_check: dict[str, Any] | None
    folders: list[Folder]


def chosen(fit: Fit) -> Validated | None:
    """The validation of the weights that are exported: the best after step 0, even where step 0 was better."""
    validation = fit["validation"]
    found = [measured for measured in validation if measured["step"] == fit["best_step"]] or validation
    return found[-1] if found else None


class Report(TypedDict):
    schema: Literal[1]
    run: Run
    fits: list[Fit]
    warnings: list[str]
