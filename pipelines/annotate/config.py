"""The settings of a `kind: annotate` config."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.frame.execution import FilesExecution
from raymill.cluster.frame.run_name import RunName, named_after_output
from raymill.cluster.readers.inputs import Input, Limits, WithShortForm, as_list, long_form
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.fields import refuse_origin

TaskType = Literal["classify", "rate", "compare", "rank", "correct", "write", "span", "check"]
Strategy = Literal["random", "least_confidence", "margin", "entropy", "diversity"]
STRATEGIES = ("random", "uncertainty", "disagreement", "diversity", "coverage", "label_errors")
# Labels of the types that have their own.
CHECKED = ("supported", "contradicted", "not in the source")
TIE = "tie"

AnnotatorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$", max_length=100)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
# "." also stands for the other names, and no label is empty.
Label = Annotated[str, Field(min_length=1, max_length=200)]


class Task(BaseModel, extra="forbid", frozen=True):
    """What annotators see of a record, and what they are asked."""

    type: TaskType = Field(
        description="Kind of task: classify, rate, compare (which answer is better), rank (answers), correct (a text), "
        "write (a text), span (mark parts of a text), or check (a statement against a source)"
    )
    show: tuple[str, ...] = Field(min_length=1, description="Columns of the records that are shown, in this order")
    question: str = Field("", max_length=1000, description="Question above the record; empty: one for the type")
    labels: tuple[Label, ...] = Field(
        (), max_length=1000, description="Labels of classify and span; of check: supported, contradicted, not in the "
        "source",
    )  # fmt: skip
    several: bool = Field(False, description="Whether classify takes any number of labels")
    points: int = Field(5, ge=2, le=100, description="Number of points of rate, from 1")
    answers: tuple[str, ...] = Field((), description="Columns with the answers that compare (two) and rank take")
    tie: bool = Field(True, description=f"Whether compare has a tie, the label `{TIE}`")
    field: str | None = Field(
        None, description="Column with the text of correct, span and check; null: the first of `show`"
    )
    source: str | None = Field(None, description="Column with the source that check compares with")
    guideline: paths.AbsolutePath | None = Field(
        None, description="Markdown file with the guideline, whose version each label carries; null: none"
    )

    @model_validator(mode="after")
    def _fits_the_type(self) -> Self:
        needs_labels, needs_answers = self.type in ("classify", "span"), self.type in ("compare", "rank")
        if needs_labels and len(self.labels) < (2 if self.type == "classify" and not self.several else 1):
            raise ValueError(f"labels: {self.type} needs them, such as [yes, no]")
        if self.labels and not needs_labels:
            raise ValueError(f"labels: {self.type} has its own; leave them out")
        if twice := sorted({one for one in self.labels if self.labels.count(one) > 1}):
            raise ValueError(f"labels: {', '.join(twice)} is named twice")
        number = "two" if self.type == "compare" else "the"
        if needs_answers and not (len(self.answers) == 2 or (self.type == "rank" and len(self.answers) > 2)):
            raise ValueError(f"answers: {self.type} needs {number} columns with answers, such as [answer_a, answer_b]")
        if self.answers and not needs_answers:
            raise ValueError(f"answers: {self.type} compares none; leave them out")
        if (self.type == "check") != (self.source is not None):
            raise ValueError("source: goes with `type: check`, which needs it")
        if self.several and self.type != "classify":
            raise ValueError("several: goes with `type: classify`")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a task has of a record, each once, in the order in which they are shown."""
        named = [*self.show, *self.answers, self.field, self.source]
        return tuple(dict.fromkeys(one for one in named if one is not None))

    @property
    def text(self) -> str:
        """The column that correct, span and check are about."""
        return self.field or self.show[0]

    @property
    def choices(self) -> tuple[str, ...]:
        """The labels that a vote can have, if it is one label of a few; empty of the others."""
        if self.type == "classify" and not self.several:
            return self.labels
        if self.type == "rate":
            return tuple(str(point) for point in range(1, self.points + 1))
        if self.type == "compare":
            return (*self.answers, *([TIE] if self.tie else []))
        return CHECKED if self.type == "check" else ()


class Choose(BaseModel, extra="forbid", frozen=True):
    """Which records are labelled: how many, and the fraction of them by each strategy."""

    count: int = Field(200, ge=1, le=1_000_000, description="Number of records")
    random: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Fraction that is drawn at random from what the strategies leave; null: the rest",
    )
    uncertainty: _Fraction = Field(0, description="Fraction of which a classifier is least certain")
    disagreement: _Fraction = Field(0, description="Fraction on which the columns `votes` disagree most")
    diversity: _Fraction = Field(0, description="Fraction that is far from each other (k-centre)")
    coverage: _Fraction = Field(
        0, description="Fraction that is nearest to `topics`, or records of `reference`, which few records are near"
    )
    clusters: int = Field(
        1,
        ge=1,
        le=200,
        description="Number of clusters (k-means on text vectors) that have equal parts of the `diversity` records",
    )
    label_errors: _Fraction = Field(
        0, description="Fraction whose value in the column `label` is least probable by a classifier of the others"
    )
    measure: Literal["least_confidence", "margin", "entropy"] = Field(
        "entropy", description="Measure of uncertainty, of the probabilities of the labels"
    )
    strata: tuple[str, ...] = Field((), description="Columns by whose values the random fraction is divided")
    allocation: Literal["proportional", "equal", "neyman"] = Field(
        "proportional",
        description="Random records of each stratum: proportional to its size, equally many, or proportional to its "
        "size times the spread of the probabilities by the classifier",
    )
    label: str | None = Field(
        None, description="Column with the label that a record has, from which a classifier learns; null: none"
    )
    probabilities: str | None = Field(
        None,
        description="Column with the probability of each label, as a list or by name; null: those of a classifier that "
        "learns from `labelled`, `label` and the names of the labels",
    )
    classifier: paths.AbsolutePath | None = Field(
        None,
        description="Finished run of `train` whose model gives the probabilities: of method probe, or a model that was "
        "trained to answer with a label; null: `probabilities` or the built-in classifier",
    )
    votes: tuple[str, ...] = Field((), description="Columns with labels by models or judges, for `disagreement`")
    labelled: tuple[paths.AbsolutePath, ...] = Field(
        (), description="Finished rounds whose labels the classifier learns from; their records are not chosen again"
    )
    topics: tuple[str, ...] = Field((), description="Topics in a few words each, for `coverage`")
    reference: paths.AbsolutePath | None = Field(
        None,
        description="Files with records of what has to be covered, for `coverage`, with the columns of `task`; at most "
        "1,000 are used; null: none",
    )
    model: EmbeddingModel | None = Field(
        None, description="Model of text vectors, for `diversity` and `coverage`; null: TF-IDF with truncated SVD"
    )
    seed: int = Field(0, ge=0, lt=1 << 31, description="Random seed")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        others = sum(getattr(self, name) for name in STRATEGIES if name != "random")
        if (self.random is None and others > 1 + 1e-9) or (
            self.random is not None and abs(others + self.random - 1) > 1e-9
        ):
            given = others + (self.random or 0)
            raise ValueError(f"the fractions of the strategies add up to {given:g}; they must add up to 1")
        if self.random is None and others > 1 - 1e-9:
            raise ValueError("random: the strategies leave nothing to it, and estimates for all records need it")
        for name, needed in (("disagreement", "votes"), ("label_errors", "label")):
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"{name}: needs `{needed}`")
        if self.clusters > 1 and not self.diversity:
            raise ValueError("clusters: divide the records of `diversity`; give it a fraction")
        if self.classifier is not None and self.probabilities is not None:
            raise ValueError("classifier: gives the probabilities in place of `probabilities`; leave one out")
        if self.coverage and not self.topics and self.reference is None:
            raise ValueError("coverage: needs `topics` or a `reference`")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Strategy -> its fraction, of those that have one; random comes last."""
        found = {name: getattr(self, name) for name in STRATEGIES if name != "random"}
        rest = 1 - sum(found.values()) if self.random is None else self.random
        return {name: share for name, share in found.items() if share} | ({"random": rest} if rest > 1e-9 else {})


class Annotator(WithShortForm):
    """A person who labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    short_form: ClassVar[str] = "name"

    name: AnnotatorName = Field(description="Name of the annotator, which labels carry")
    expert: bool = Field(False, description="Whether the annotator decides where the others disagree")
    topics: tuple[str, ...] = Field(
        (), description="Values of `expertise` whose records the annotator is given first; empty: any"
    )


class Simulate(BaseModel, extra="forbid", frozen=True):
    """Rounds of active learning without people, on records whose labels are known."""

    label: str = Field(description="Column with the known label")
    strategies: tuple[Strategy, ...] = Field(
        ("random", "least_confidence", "margin", "entropy", "diversity"),
        min_length=2,
        description="Strategies that are compared; random is one of them",
    )
    rounds: int = Field(10, ge=2, le=1000, description="Number of rounds of `choose.count` labels each")
    seeds: int = Field(5, ge=1, le=1000, description="Number of repetitions, with other records held out in each")
    held_out: float = Field(0.3, gt=0, lt=1, description="Fraction of the records that measure the classifier")
    records: int = Field(20_000, ge=10, le=1_000_000, description="Maximum number of records, drawn by their ids")

    @model_validator(mode="after")
    def _has_random(self) -> Self:
        if "random" not in self.strategies:
            raise ValueError("strategies: random is compared with the others; add it")
        return self


class Rounds(BaseModel, extra="forbid", frozen=True):
    """What trains before each round of `raymill annotate round`, and what labels cost, by which it stops."""

    train: paths.AbsolutePath | None = Field(
        None,
        description="Config of `raymill train`, whose corpus, columns and output are replaced: before each round but "
        "the first it trains on all labels, for `choose.classifier`; null: the built-in classifier",
    )
    price: float | None = Field(None, ge=0, description="Price of a label by one annotator; null: not known")
    budget: float | None = Field(
        None, gt=0, description="Maximum to spend on the labels of all rounds, in the currency of `price`; null: none"
    )
    point_value: float | None = Field(
        None,
        gt=0,
        description="What one percentage point more accuracy is worth, in the currency of `price`; no round is made "
        "whose predicted gain is worth less than it costs. null: not known",
    )

    stop_when_stable: bool = Field(
        False,
        description="Whether no further round is made once three classifiers in a row predict almost the same as the "
        "one before (mean kappa of at least 0.99)",
    )

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        for name in ("budget", "point_value"):
            if self.price is None and getattr(self, name) is not None:
                raise ValueError(f"{name}: needs `price`, of a label by one annotator")
        return self


class Corrects(BaseModel, extra="forbid", frozen=True):
    """What labels correct in the records of `prepare`."""

    field: str = Field(
        min_length=1,
        description="Field of `prepare`'s records that the labels correct: `completion`, `prompt`, `text`, or the name "
        "of metadata or annotations",
    )
    column: str = Field(min_length=1, description="Column with the present value of the field")

    @field_validator("field")
    @classmethod
    def _is_no_origin(cls, field: str) -> str:
        return refuse_origin(field)


class AnnotateConfig(BaseModel, extra="forbid", frozen=True):
    """Tasks for annotators, of chosen records, and one label of each from their votes."""

    short_names: ClassVar = {"input": "inputs"}

    kind: Literal["annotate"] = Field(description="Kind of run: annotate")
    name: RunName = ""
    inputs: Annotated[tuple[Input, ...], BeforeValidator(as_list)] = Field(
        min_length=1, description="Sources of records, as in `curate`; `input` is short for one"
    )
    task: Task = Field(description="What annotators see and are asked")
    choose: Choose = Field(Choose(), description="Which records are labelled")
    annotators: tuple[Annotator, ...] = Field(min_length=1, description="Names of the annotators, or settings of each")
    overlap: int = Field(1, ge=1, le=100, description="Number of annotators who label each task")
    expertise: str | None = Field(
        None, description="Column with the topic of a record, for `annotators[].topics`; null: none"
    )
    gold: str | None = Field(
        None,
        description="Column with the known label of a record; tasks that have one measure the annotators; null: none",
    )
    gold_share: float = Field(0.1, ge=0, le=1, description="Fraction of the tasks with a known label, if `gold` is set")
    corrects: Corrects | None = Field(
        None,
        description="Field of `prepare`'s records that the labels correct, by labels/patch.jsonl of `finish`; null: "
        "none",
    )
    rounds: Rounds = Field(Rounds(), description="Price and budget of `raymill annotate round`")
    simulate: Simulate | None = Field(
        None, description="Simulated rounds on known labels in place of tasks for annotators; null: tasks"
    )
    output: paths.OutputFolder
    limits: Limits = Field(
        Limits(), description="Bounds on the size of documents and files, and on the time for parsing them"
    )
    execution: FilesExecution = Field(
        FilesExecution(), description="Retries, CPU cores, and units of work; no effect on the result"
    )
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, settings: Any) -> Any:
        return named_after_output(long_form(settings), "round")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [one.name for one in self.annotators]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"annotators: {', '.join(twice)} is named twice")
        if self.overlap > len(names):
            raise ValueError(f"overlap: {self.overlap} annotators for each task, and there are {len(names)}")
        if self.rounds.train and (self.choose.classifier or self.choose.probabilities):
            raise ValueError(
                "rounds.train: trains the classifier; leave out choose.classifier and choose.probabilities"
            )
        if self.rounds.train and not self.task.choices:
            raise ValueError(f"rounds.train: needs labels, which `type: {self.task.type}` has not")
        if self.expertise is None and any(one.topics for one in self.annotators):
            raise ValueError("annotators.topics: go with `expertise`, the column that they are values of")
        if self.simulate and not self.task.choices:
            raise ValueError(f"simulate: needs labels, which `type: {self.task.type}` has not")
        learns = {"uncertainty", "label_errors"} & self.choose.shares.keys()
        learns |= {"classifier"} if self.choose.classifier else set()
        if learns and not self.task.choices:
            raise ValueError(f"choose.{min(learns)}: needs labels, which `type: {self.task.type}` has not")
        return self

    @property
    def store(self) -> Store:
        """The store of the output, and of inputs without `storage` of their own."""
        return Store(self.storage)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read of records, each once; the first is one that is shown."""
        return tuple(self.named_columns)

    @property
    def named_columns(self) -> dict[str, str]:
        """Column that is read of records -> the first setting that names it."""
        choose = self.choose
        known = self.simulate.label if self.simulate else None
        task = self.task
        named = [
            *((one, "task.show") for one in task.show),
            *((one, "task.answers") for one in task.answers),
            (task.field, "task.field"),
            (task.source, "task.source"),
            (known, "simulate.label"),
            *((one, "choose.strata") for one in choose.strata),
            (choose.label, "choose.label"),
            (choose.probabilities, "choose.probabilities"),
            *((one, "choose.votes") for one in choose.votes),
            (self.expertise, "expertise"),
            (self.gold, "gold"),
            (self.corrects.column if self.corrects else None, "corrects.column"),
        ]
        found: dict[str, str] = {}
        for column, setting in named:
            if column is not None:
                found.setdefault(column, setting)
        return found

    @property
    def embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors, if there is one."""
        if (model := self.choose.model) is None:
            return {}
        if model.endpoint and not model.answers:
            model = model.model_copy(update={"answers": paths.join(paths.absolute(self.output), "embeddings")})
        return {"choose.model": model}
