"""The settings of a `kind: generate` config."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from raymill.cluster.answer_rewards import ScoringReward
from raymill.cluster.asking.answers import ANSWERS, AnswerFolder
from raymill.cluster.asking.settings import AskingExecution, ModelSettings, Sampling
from raymill.cluster.frame.execution import FilesExecution
from raymill.cluster.frame.run_name import RunName, named_after_output
from raymill.cluster.readers.inputs import Input, Limits, as_list
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.generate.draw import DrawSetting
from raymill.pipelines.prepare.records.validate import Validate


class Make(BaseModel, extra="allow", frozen=True):
    """What is made of each seed: a template, and values of its variables."""

    template: str | dict[str, Any] = Field(
        description="Template of the requests and records: a name of the package, the path of a YAML file, the text of "
        "a prompt with {{ text }}, or a template as settings"
    )

    @property
    def variables(self) -> dict[str, Any]:
        """The further settings: values of the template's variables."""
        return dict(self.model_extra or {})


class GenerateExecution(AskingExecution, FilesExecution):
    """Those of a run over files that asks a model."""


class RewardSelection(ScoringReward):
    """A reward of the records, and which of them are kept by it."""

    per_seed: int | None = Field(
        None,
        ge=1,
        description="Number of records of each seed that are kept, those with the highest scores; 1 with `samples: 8` "
        "is best of 8; null: all",
    )
    min_score: float | None = Field(
        None, allow_inf_nan=False, description="Lowest score of a record that is kept; null: any"
    )
    fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Fraction, of the records that meet the bounds above, that is kept: those with the highest scores; "
        "null: all",
    )

    @property
    def selection(self) -> dict[str, Any]:
        """The bounds alone."""
        return self.model_dump(mode="json", include={"per_seed", "min_score", "fraction"})


class GenerateConfig(BaseModel, extra="forbid", frozen=True):
    """Seeds to records, by a model."""

    kind: Literal["generate"] = Field(description="Kind of run: generate")
    name: RunName = ""
    inputs: Annotated[tuple[Input, ...], BeforeValidator(as_list)] = Field(
        min_length=1, description="Sources of seeds: documents, records, rows of tables, topics"
    )
    model: ModelSettings = Field(description="Model that is asked")
    make: Make = Field(description="Template of what is asked and made, with its variables")
    draw: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], DrawSetting] = Field(
        {},
        description="Values that are drawn for each seed and sample, by name: a list, weights as {VALUE: WEIGHT}, or a "
        "text file with a value on each line; prompts name them as variables, and records have them as metadata",
    )
    carry: tuple[str, ...] = Field(
        (),
        description="Columns of the seeds (`columns` of the inputs) that records have as metadata, such as labels of "
        "texts that are rewritten",
    )
    sampling: Sampling = Field(Sampling(), description="How answers are drawn from the model")
    samples: int = Field(1, ge=1, le=10_000, description="Number of times that each seed is asked about")
    languages: tuple[str, ...] = Field((), description="Languages that records may have, by ISO 639-1; empty: any")
    validation: Validate | None = Field(
        None,
        alias="validate",
        description="Rules of `prepare` that records must meet, with its default rules if it is {}; others are in the "
        "ledger, with the reason; null: none",
    )
    reward: RewardSelection | None = Field(
        None,
        description="Reward of each record (a reward model, length, language or a judge), as column `reward`, before "
        "`dedup`, and the records that are kept by it; a path is short for {path: PATH}; null: none",
    )
    dedup: Dedup | None = Field(Dedup(threshold=0.7), description="Removal of records that are like others; null: none")
    budget: float | None = Field(
        None,
        gt=0,
        description="Money that the run may spend, by `model.prices`; no effect on the records; null: any amount",
    )
    answers: AnswerFolder = None
    output: paths.OutputFolder
    limits: Limits = Field(
        Limits(), description="Bounds on the size of documents and files, and on the time for parsing them"
    )
    execution: GenerateExecution = Field(
        GenerateExecution(), description="Retries, CPU cores, and units of work; no effect on the records"
    )
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _named_after_output(cls, settings: Any) -> Any:
        return named_after_output(settings, "records")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.budget is not None and self.model.prices is None:
            raise ValueError("budget: goes with `model.prices`, the prices of tokens")
        if self.dedup and (self.dedup.keeper not in ("position", "longest") or self.dedup.against):
            raise ValueError("dedup: records have no score and no earlier runs; keeper is position or longest")
        if self.validation and (compared := self.validation.of_all_records(Validate())):
            raise ValueError(
                f"validate.{compared[0]}: compares a record with all others; leave it to `prepare`, which reads them"
            )
        return self

    @property
    def store(self) -> Store:
        """The store of the output, and of inputs without `storage` of their own."""
        return Store(self.storage)

    @property
    def answer_store(self) -> str:
        """The URI of the answer store."""
        return self.answers or paths.join(paths.absolute(self.output), ANSWERS)
