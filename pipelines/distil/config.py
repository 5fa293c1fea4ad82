"""The settings of a `kind: distil` config."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from raymill.cluster.asking.answers import AnswerFolder
from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.asking.settings import ModelSettings, Sampling
from raymill.cluster.frame.run_name import NAME, RunName, named_after_output, run_name
from raymill.cluster.readers.inputs import Input, Limits, WithShortForm, as_list
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.generate.config import GenerateExecution, Make
from raymill.pipelines.language.fasttext_training import TrainingSettings


class Judge(BaseModel, extra="forbid", frozen=True):
    """A model that scores documents."""

    name: str = Field(
        "", max_length=100, pattern=rf"^$|{NAME}", description="Name of the judge in the report; empty: the model's"
    )
    model: ModelSettings = Field(description="Model that is asked")
    make: Make = Field(
        Make(template="score"),
        description="Template of the question, whose records have a `score`, and its variables, such as `rubric`, the "
        "list of statements that earn a point each",
    )
    sampling: Sampling = Field(Sampling(temperature=0.0), description="How answers are drawn from the model")

    @model_validator(mode="before")
    @classmethod
    def _named_after_model(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and not settings.get("name") and isinstance(settings.get("model"), dict):
            model = settings["model"]
            return settings | {"name": run_name(str(model.get("name") or model.get("path") or ""), "judge")}
        return settings


class PeopleScores(WithShortForm):
    """Scores that people gave documents of the sample, for comparison with the judges."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    short_form: ClassVar[str] = "path"

    path: paths.AbsolutePath = Field(description="CSV, JSON Lines or Parquet file with a row for each score")
    id: str = Field(
        "document", description="Column with the id of the document, as in the column `document` of `sample/`"
    )
    score: str = Field("score", description="Column with the score; the mean of several scores of a document is used")


class Threshold(BaseModel, extra="forbid", frozen=True):
    """The choice of the threshold on the classifier's score."""

    score: int = Field(3, ge=1, le=100, description="Minimum score by the judges of a good document")
    share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fraction of the documents to keep; null: the threshold with the best F1 of good documents",
    )


class DistilConfig(BaseModel, extra="forbid", frozen=True):
    """Training of a classifier of documents on the scores that models give a sample of them."""

    kind: Literal["distil"] = Field(description="Kind of run: distil")
    name: RunName = ""
    inputs: Annotated[tuple[Input, ...], BeforeValidator(as_list)] = Field(
        min_length=1, description="Sources of documents, as in `curate`"
    )
    sample: int = Field(
        5000,
        ge=20,
        le=10_000_000,
        description="Number of different documents, drawn by a hash of their text",
    )
    dedup: Dedup | None = Field(
        Dedup(), description="Removal of near-duplicates from the sample before it is judged; null: none"
    )
    judges: tuple[Judge, ...] = Field(
        min_length=1, description="Models that score the sample; the mean of several is used"
    )
    people: PeopleScores | None = Field(
        None, description="Scores by people, for the agreement of the judges with them; null: none"
    )
    held_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Fraction of the sample that the classifier is not trained on; with one half the threshold is "
        "chosen, and with the other the classifier is tested",
    )
    threshold: Threshold = Field(
        Threshold(), description="Threshold on the classifier's score, from which documents are kept"
    )
    classifier: TrainingSettings = Field(
        TrainingSettings(), description="The classifier, in the format of fastText, and its training"
    )
    embedding: EmbeddingModel | None = Field(
        None,
        description="Model of text vectors, for a linear classifier on them, whose only setting of `classifier` is "
        "`max_chars`; null: a classifier of words",
    )
    seed: int = Field(0, ge=0, lt=1 << 31, description="Random seed of the sample and of the training")
    budget: float | None = Field(
        None, gt=0, description="Money that all judges together may cost, by their `model.prices`; null: any amount"
    )
    answers: AnswerFolder = None
    output: paths.OutputFolder
    limits: Limits = Field(
        Limits(), description="Bounds on the size of documents and files, and on the time for parsing them"
    )
    execution: GenerateExecution = Field(
        GenerateExecution(), description="Retries, CPU cores, and units of work; no effect on the result"
    )
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _named_after_output(cls, settings: Any) -> Any:
        return named_after_output(settings, "classifier")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dedup and (self.dedup.keeper not in ("position", "longest") or self.dedup.against):
            raise ValueError("dedup: documents have no score and no earlier runs; keeper is position or longest")
        names = [one.name for one in self.judges]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"judges: {', '.join(twice)} is the name of several; give each a `name` of its own")
        if self.budget is not None and (free := [one.name for one in self.judges if one.model.prices is None]):
            raise ValueError(f"budget: goes with the `model.prices` of each judge; {', '.join(free)} has none")
        return self

    @property
    def embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors, if there is one."""
        if (model := self.embedding) is None:
            return {}
        if model.endpoint and not model.answers and self.answers:
            model = model.model_copy(update={"answers": self.answers})
        return {"embedding": model}

    @property
    def store(self) -> Store:
        """The store of the output, and of inputs without `storage` of their own."""
        return Store(self.storage)
