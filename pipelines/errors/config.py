"""The settings of a `kind: errors` config."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.frame.execution import FilesExecution
from raymill.cluster.frame.run_name import RunName, named_after_output
from raymill.cluster.readers.inputs import Input, Limits, as_list, long_form
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store

Compare = Literal["text", "label", "number"]


class ErrorColumns(BaseModel, extra="forbid", frozen=True):
    """Columns of files with answers of a model."""

    prompt: str = Field("prompt", description="Column with the question")
    answer: str = Field("answer", description="Column with the model's answer")
    expected: str | None = Field(None, description="Column with the right answer; null: none")
    score: str | None = Field(None, description="Column with a score of the answer, from 0 to 1 (right); null: none")
    rating: str | None = Field(
        None, description="Column with a user's rating: thumbs (up and down, true and false, 1 and 0), or `points`; "
        "null: none",
    )  # fmt: skip
    correction: str | None = Field(None, description="Column with a user's correction of the answer; null: none")
    edited_by: str | None = Field(None, description="Column with the name of who corrected it; null: none")
    confidence: str | None = Field(None, description="Column with the model's probability of its answer; null: none")
    fields: tuple[str, ...] = Field(
        (), description="Columns whose values are slices, such as a channel or a customer group"
    )


class ErrorsConfig(BaseModel, extra="forbid", frozen=True):
    """Slices with more errors, confusions, label errors and missing knowledge of an evaluation or of logs."""

    short_names: ClassVar = {"input": "inputs"}

    kind: Literal["errors"] = Field(description="Kind of run: errors")
    name: RunName = ""
    run: paths.AbsolutePath | None = Field(
        None, description="Finished run of `train` or `prompt` whose answers are analysed; null: `inputs`"
    )
    inputs: Annotated[tuple[Input, ...], BeforeValidator(as_list)] = Field(
        (), description="Files with answers in place of `run`, such as logs; `input` is short for one"
    )
    columns: ErrorColumns = Field(ErrorColumns(), description="Columns of `inputs`")
    compare: Compare = Field(
        "text",
        description="Comparison of answers of `inputs` with `columns.expected`: text (F1 of words), label (equal), or "
        "number; a run has its own",
    )
    points: int | None = Field(
        None, ge=2, le=100, description="Highest value of `columns.rating`, from 1 on; null: thumbs"
    )
    error_from: float = Field(
        0.5, gt=0, le=1, description="Error, from 0 to 1, from which an item counts as one; 1 - score, or 1 - F1"
    )
    level: float = Field(
        0.05, gt=0, lt=0.5, description="Probability that any slice is found although none has more errors (Holm)"
    )
    data: paths.AbsolutePath | None = Field(
        None,
        description="Output of `raymill prepare` whose split train the model learned from; null: the one that `run` "
        "names, or none",
    )
    model: EmbeddingModel | None = Field(
        None,
        description="Model that computes vectors of texts: the folder, URI or hub name of a sentence-transformers "
        "model, or settings with an `endpoint`; null: TF-IDF with truncated SVD",
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
        return named_after_output(long_form(settings), "errors")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.run is None) == (not self.inputs):
            raise ValueError("run: give a run, or `inputs`, and not both")
        columns = self.columns
        judged = (columns.expected, columns.score, columns.rating, columns.correction)
        if self.inputs and not any(judged):
            raise ValueError(
                "columns: nothing states which answers are errors; name `expected`, `score`, `rating` or `correction`"
            )
        if self.points is not None and columns.rating is None:
            raise ValueError("points: goes with `columns.rating`")
        return self

    @property
    def store(self) -> Store:
        """The store of the output, of the run and its data, and of inputs without `storage` of their own."""
        return Store(self.storage)

    @property
    def named_columns(self) -> dict[str, str]:
        """Column that is read of files -> the first setting that names it."""
        found: dict[str, str] = {}
        for name, value in self.columns:
            for column in value if isinstance(value, tuple) else (value,):
                if column is not None:
                    found.setdefault(column, f"columns.{name}")
        return found

    @property
    def embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors, if there is one."""
        if (model := self.model) is None:
            return {}
        if model.endpoint and not model.answers:
            model = model.model_copy(update={"answers": paths.join(paths.absolute(self.output), "embeddings")})
        return {"model": model}
