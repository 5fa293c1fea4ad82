"""The settings of a `kind: compare` config."""

import string
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from raymill.cluster.answer_rewards import ScoringReward
from raymill.cluster.asking.answers import ANSWERS, AnswerFolder
from raymill.cluster.asking.settings import AskingExecution, ModelSettings, Sampling
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.frame.run_name import RunName, named_after_output, run_name
from raymill.cluster.readers.inputs import WithShortForm
from raymill.cluster.score_plugins import ScoreUse, names_once
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.compare.swaps import check_pairs
from raymill.pipelines.prompting.config import ByMethod, PromptConfig, PromptText, ShownExamples

# Measures that are better if smaller; names that a score of `custom` cannot have.
LESS_IS_BETTER = ("bits_per_byte", "seconds", "output_tokens", "cost")
_OF_REFERENCES = ("exact_match", "f1", "bleu", "rouge1", "rouge2", "rougeL")
MEASURES = ("score", "refused", "log_likelihood", "judge", *LESS_IS_BETTER)


class ComparedModel(ModelSettings, WithShortForm):
    """A model, its prompt, and the examples shown before an item."""

    short_form: ClassVar[str] = "path"

    path: str | None = Field(
        None,
        min_length=1,
        description="Output of `train`, or folder or URI of a model, as `model` of `train`; null: `endpoint` is given",
    )
    system: str = Field("", description="Jinja2 template of the system message; empty: none")
    prompt: str = Field(
        "{{ prompt }}",
        min_length=1,
        description="Jinja2 template of the user's message, of the item's {{ prompt }}, as in `prompts` of `prompt`",
    )
    examples: int = Field(0, ge=0, le=1000, description="Number of records of the split train shown before an item")
    by: ByMethod = Field("similar", description="How the examples are chosen, as in `examples.by` of `prompt`")

    @property
    def title(self) -> str:
        """Its name in the report."""
        parts = (self.path or "").rstrip("/").split("/")
        last = self.name if self.endpoint else "/".join(parts[-3:] if parts[-2:-1] == ["export"] else parts[-2:])
        return f"{last}, {self.examples} examples" if self.examples else last


class HourPrices(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Prices of machines, in the money of the models' `prices`."""

    core: float = Field(ge=0, description="Price of a CPU core for an hour")
    gpu: float | None = Field(None, ge=0, description="Price of a GPU for an hour; null: not known")

    def money(self, cpu_hours: float, gpu_hours: float) -> float | None:
        """What these hours cost; None if the price of a GPU is needed and not known."""
        if not gpu_hours:
            return cpu_hours * self.core
        return None if self.gpu is None else cpu_hours * self.core + gpu_hours * self.gpu


class GeneralText(WithShortForm, extra="forbid", frozen=True):
    """Plain texts on which forgetting is measured."""

    short_form: ClassVar[str] = "path"

    path: paths.AbsolutePath = Field(
        description="Corpus of plain texts of no task: folder, glob, file or URI as in `inputs` of `curate`, such as "
        "the artifact `corpus` of its output"
    )
    text: str = Field("text", min_length=1, description="Name of the column with the text, in formats with columns")
    documents: int = Field(200, ge=2, le=100_000, description="Number of documents, drawn by their hashes")
    characters: int = Field(
        2000, ge=1, le=100_000, description="Characters at the beginning of each document that are measured"
    )
    base: str | None = Field(
        None,
        min_length=1,
        description="Folder, URI or hub name of the model that every training started from; null: the base that each "
        "training states",
    )
    most_loss: float = Field(
        0.05,
        ge=0,
        description="Rise of bits per byte that is allowed: a model whose 95% interval is above it is recommended only "
        "if each candidate is",
    )


class PairJudge(BaseModel, extra="forbid", frozen=True):
    """A model that decides which of two answers is better; it is asked in both orders."""

    model: ModelSettings = Field(description="Model that is asked")
    criterion: str = Field(
        "more correct, more helpful, clearer",
        min_length=1,
        description="Criterion by which an answer is better, in words",
    )
    sampling: Sampling = Field(Sampling(temperature=0.0), description="How answers are drawn from the model")


class GateBounds(BaseModel, extra="forbid", frozen=True):
    """Bounds on the gain of the first model in one measure: its difference, or minus it if smaller is better."""

    least_gain: float | None = Field(
        None, ge=0, description="Gain that the whole 95% interval must be above; 0: any gain; null: no bound"
    )
    most_loss: float | None = Field(
        None, ge=0, description="Loss that the whole 95% interval must be below; null: no bound"
    )
    most_slice_loss: float | None = Field(
        None,
        ge=0,
        description="Loss of `score` in a slice; the gate fails if interval and corrected p of any slice show a "
        "larger one; null: no bound",
    )


class CompareConfig(BaseModel, extra="forbid", frozen=True):
    """Models on the same items of a data set, compared."""

    kind: Literal["compare"] = Field(description="Kind of run: compare")
    name: RunName = ""
    models: tuple[ComparedModel, ...] = Field(
        min_length=2,
        max_length=26,
        description="Models, called A, B and so on: the first is compared with each other one; a path is short for "
        "{path: PATH}",
    )
    on: paths.AbsolutePath = Field(
        description="Output of `raymill prepare`, whose split test is used, or the folder of a split in it"
    )
    items: int | None = Field(
        1000, ge=1, description="Largest number of items, drawn by their ids; null: all of the split"
    )
    group: str | None = Field(
        None,
        description="Metadata field, such as the document of several questions; intervals resample items with the same "
        "value together; null: each item by itself",
    )
    gaps: tuple[str, ...] = Field(
        (),
        description="Metadata fields, such as a customer group; each model's gaps between their values are reported: "
        "score, `custom`, `rewards`, errors, missing answers, refusals, length, parity and equalised odds of labels",
    )
    swaps: tuple[tuple[str, str], ...] | paths.AbsolutePath | None = Field(
        None,
        description="Pairs of words such as [he, she], or the path of a YAML file with these: items with such a word "
        "are asked a second time with the words exchanged, and answers and scores compared; null: none",
    )
    answer: Literal["text", "label", "number"] = Field(
        "text",
        description="Comparison of answers with references, the measure `score`: text (F1 of words), label (equal), or "
        "number (the one after `####`, else the last)",
    )
    custom: tuple[ScoreUse, ...] = Field((), description="Scores of your own, as in `custom` of `prompt`")
    refusals: tuple[str, ...] = Field(
        ("i can't", "i cannot", "i can not", "i'm sorry", "i am sorry", "i'm unable", "i am unable", "i won't",
         "i will not", "sorry, "),
        description="An answer that begins with one of these phrases, in upper or lower case, is `refused`",
    )  # fmt: skip
    likelihood: bool = Field(
        True,
        description="Whether the log-likelihood of references and of own answers is computed for model folders, for "
        "`bits_per_byte` and the calibration",
    )
    general: GeneralText | None = Field(
        None,
        description="General text on which the bits per byte of each trained model are compared with those of its "
        "base, for forgetting; a path is short for {path: PATH}; null: forgetting is not measured",
    )
    rewards: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], ScoringReward] = Field(
        {},
        description="Rewards of answers to the items' questions, by the name of the measure that each makes: reward "
        "models, length, language or judges; a path is short for {path: PATH}",
    )
    kl_from: str | None = Field(
        None,
        min_length=1,
        description="Folder, URI or hub name of the model from which the divergence (KL) of each model folder is "
        "estimated, such as the base; null: not measured",
    )
    judge: PairJudge | None = Field(None, description="Model that judges pairs of answers; null: none")
    gate: dict[str, GateBounds] = Field(
        {},
        description="Bounds by measure, such as {score: {least_gain: 0.0}}, that the first model must meet against "
        "each other one; else the command ends with exit code 2",
    )
    sampling: Sampling = Field(
        Sampling(temperature=0, max_tokens=256), description="How answers are drawn from the models"
    )
    budget: float | None = Field(
        None, gt=0, description="Money that the run may spend on each model, by its `prices`; null: any amount"
    )
    hour_prices: HourPrices | None = Field(
        None,
        description="Prices of machines for an hour, for the cost of trainings and of answers of model folders in the "
        "table of approaches; null: their money is not known",
    )
    answers: AnswerFolder = None
    output: paths.OutputFolder
    execution: AskingExecution = Field(AskingExecution(), description="Retries and CPU cores; no effect on the result")
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _named_after_output(cls, settings: Any) -> Any:
        return named_after_output(settings, "comparison")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.budget is not None and (free := [one.title for one in self.models if one.prices is None]):
            raise ValueError(f"budget: goes with `prices` of each model; {', '.join(free)} has none")
        if isinstance(self.swaps, tuple):
            check_pairs(self.swaps)
        names_once(self.custom)
        named = [one.plugin.name for one in self.custom if one.plugin]
        if taken := sorted({*named} & {*MEASURES}):
            raise ValueError(f"custom: {taken[0]} is a measure of `compare`; give the score another `name`")
        if taken := sorted({*self.rewards} & {*self._own_measures, *LESS_IS_BETTER, *MEASURES, *_OF_REFERENCES}):
            raise ValueError(f"rewards: {taken[0]} is another measure; give the reward another name")
        if self.kl_from is not None and not self.likelihood:
            raise ValueError("kl_from: compares log-probabilities; set likelihood: true")
        for measure, bounds in self.gate.items():
            if measure not in self.measures:
                raise ValueError(f"gate: {measure} is not measured of all models; there are {', '.join(self.measures)}")
            if bounds.most_slice_loss is not None and measure != "score":
                raise ValueError(f"gate.{measure}.most_slice_loss: slices are compared by `score`; give it there")
        return self

    @property
    def store(self) -> Store:
        """The store of the output and of the data set."""
        return Store(self.storage)

    @property
    def data(self) -> tuple[str, str]:
        """(output of `prepare`, split)."""
        root, _, last = self.on.rstrip("/").rpartition("/")
        return (root, last) if last in SPLITS else (self.on, "test")

    @property
    def _own_measures(self) -> list[str]:
        return [one.plugin.name if one.plugin else str(one) for one in self.custom]

    @property
    def measures(self) -> list[str]:
        """The measures that all models have and that can have a bound."""
        found = ["score", *_OF_REFERENCES, "refused", *self._own_measures, *self.rewards]
        found += ["output_tokens", "seconds"]
        if self.likelihood and all(one.path for one in self.models):
            found += ["log_likelihood", "bits_per_byte"]
        found += ["judge"] if self.judge else []
        return found + (["cost"] if all(one.request_prices for one in self.models) else [])

    @property
    def letters(self) -> dict[str, ComparedModel]:
        """Letter -> model."""
        return dict(zip(string.ascii_uppercase, self.models, strict=False))

    @property
    def prompting(self) -> PromptConfig:
        """The models as variants of one set of items, each with a prompt of its own."""
        data, split = self.data
        return PromptConfig.model_construct(
            kind="prompt",
            name=self.name or run_name(self.output, "comparison"),
            data=data,
            split=split,  # type: ignore[arg-type]
            items=self.items,
            models=dict(self.letters),
            prompts={
                letter: PromptText(system=one.system, prompt=one.prompt, examples=one.examples, by=one.by)
                for letter, one in self.letters.items()
            },
            examples=ShownExamples(),
            answer=self.answer,
            custom=self.custom,
            sampling=self.sampling,
            budget=self.budget,
            answers=self.answers or paths.join(paths.absolute(self.output), ANSWERS),
            output=self.output,
            execution=self.execution,
            storage=self.storage,
        )
