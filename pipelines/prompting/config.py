"""The settings of a `kind: prompt` config."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from raymill.cluster.asking.answers import ANSWERS, AnswerFolder
from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.asking.settings import AskingExecution, ModelSettings, Sampling
from raymill.cluster.frame.run_name import RunName
from raymill.cluster.readers.inputs import as_list
from raymill.cluster.score_plugins import ScoreUse, names_once
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store

ByMethod = Literal["random", "similar", "diverse", "both"]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
VariantName = Annotated[str, Field(pattern=_NAME)]


class PromptText(BaseModel, extra="forbid", frozen=True):
    """What the model is asked about an item."""

    system: str = Field("", description="Jinja2 template of the system message; empty: none")
    prompt: str = Field(
        "{{ prompt }}",
        min_length=1,
        description="Jinja2 template of the user's message, of the item's {{ prompt }}; where it names {{ examples }}, "
        "a list of {prompt, answer}, they stand in it, else they are turns before it",
    )
    examples: int | None = Field(
        None, ge=0, le=1000, description="Number of examples with this prompt; null: those of `examples.number`"
    )
    by: ByMethod | None = Field(None, description="How its examples are chosen; null: each way of `examples.by`")


class ShownExamples(BaseModel, extra="forbid", frozen=True):
    """Which records of the split train are shown before an item."""

    number: Annotated[tuple[Annotated[int, Field(ge=0, le=1000)], ...], BeforeValidator(as_list)] = Field(
        (0, 4), min_length=1, description="Numbers of examples that are compared"
    )
    by: Annotated[tuple[ByMethod, ...], BeforeValidator(as_list)] = Field(
        ("similar",),
        min_length=1,
        description="Ways to choose that are compared: random; similar to the item; diverse, far from each other; or "
        "both, similar to the item and far from each other",
    )
    balanced: bool = Field(
        False, description="Whether answers take turns, so that each class has equally many examples"
    )
    pool: int = Field(
        2000, ge=1, le=100_000, description="Largest number of records of train that examples are chosen from"
    )
    near: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Fraction of equal word triples from which a record is a near-duplicate of the item, and is "
        "not shown",
    )
    model: EmbeddingModel | None = Field(
        None,
        description="Model that computes vectors of texts: the folder, URI or hub name of a sentence-transformers "
        "model, or settings with an `endpoint`; null: TF-IDF with truncated SVD",
    )


class PromptConfig(BaseModel, extra="forbid", frozen=True):
    """Prompts, examples and models, compared on the records of a data set."""

    kind: Literal["prompt"] = Field(description="Kind of run: prompt")
    name: RunName = ""
    data: paths.AbsolutePath = Field(description="Output of `raymill prepare`: items are asked, records of train shown")
    split: Literal["validation", "test"] = Field(
        "validation", description="Split whose records are the items: validation to choose a prompt, test to report it"
    )
    items: int | None = Field(
        200, ge=1, description="Largest number of items, drawn by their ids; null: all of the split"
    )
    models: dict[VariantName, ModelSettings] = Field(
        min_length=1, description="Models that are asked, by name, such as an endpoint and an exported fine-tuned model"
    )
    prompts: dict[VariantName, PromptText] = Field(
        {"plain": PromptText()}, min_length=1, description="Prompts that are compared, by name"
    )
    examples: ShownExamples = Field(ShownExamples(), description="Examples before an item")
    answer: Literal["text", "label", "number"] = Field(
        "text",
        description="Comparison of answers with references: text (F1 of words), label (equal), or number (the one "
        "after `####`, else the last)",
    )
    custom: tuple[ScoreUse, ...] = Field(
        (),
        description="Scores of your own, classes or functions from a dictionary with `prompt`, `reference` and "
        "`generated` to a number, as in `generate.custom` of `train`",
    )
    rank_by: str | None = Field(
        None,
        description="Name of the score of your own by which variants are ranked, with intervals; null: the one of "
        "`answer`, which is f1, exact_match or number_match",
    )
    sampling: Sampling = Field(
        Sampling(temperature=0, max_tokens=256), description="How answers are drawn from the models"
    )
    budget: float | None = Field(
        None, gt=0, description="Money that the run may spend on each model, by its `prices`; null: any amount"
    )
    answers: AnswerFolder = None
    output: paths.OutputFolder
    execution: AskingExecution = Field(AskingExecution(), description="Retries and CPU cores; no effect on the result")
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.budget is not None and (free := [name for name, one in self.models.items() if one.prices is None]):
            raise ValueError(f"budget: goes with `prices` of each model; {', '.join(free)} has none")
        names_once(self.custom)
        named = [one.plugin.name for one in self.custom if one.plugin]
        if self.rank_by is not None and self.rank_by not in named and len(named) == len(self.custom):
            raise ValueError(
                f"rank_by: {self.rank_by} is none of the scores in `custom` ({', '.join(named) or 'none'})"
            )
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `custom` and `rank_by` where they are empty, so that records of earlier versions are equal."""
        left_out = {"custom": not self.custom, "rank_by": self.rank_by is None}
        return {name: value for name, value in handler(self).items() if not left_out.get(name)}

    @property
    def store(self) -> Store:
        """The store of the output and of the data set."""
        return Store(self.storage)

    @property
    def embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors, if there is one."""
        if (model := self.examples.model) is None:
            return {}
        if model.endpoint and not model.answers:
            model = model.model_copy(update={"answers": self.answer_store})
        return {"examples.model": model}

    @property
    def answer_store(self) -> str:
        """The URI of the answer store."""
        return self.answers or paths.join(paths.absolute(self.output), ANSWERS)
