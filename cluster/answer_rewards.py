"""Rewards of answers that need no reference: by length, by language, and by a judge. Their settings.

`grpo.rewards` of `train`, `reward` of `generate` and `rewards` of `compare` have them in common. Languages and judges
are computed by pipelines/rewards.py.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from raymill.cluster.asking.answers import AnswerFolder
from raymill.cluster.asking.settings import ModelSettings, Sampling
from raymill.cluster.readers.inputs import WithShortForm


class LengthReward(BaseModel, extra="forbid", frozen=True):
    """The soft overlong punishment of DAPO (Yu et al. 2025, equation 13, https://arxiv.org/abs/2503.14476).

    `max` is L_max there, and `soft` is L_cache.
    """

    max: int = Field(ge=1, description="Maximum number of tokens or characters; the reward of more is -1")
    soft: int = Field(
        0, ge=0, description="Number of tokens or characters up to `max` over which the reward falls evenly to -1"
    )
    unit: Literal["tokens", "characters"] = Field(
        "tokens", description="Unit of both lengths; tokens, with the one that ends an answer, are known in grpo alone"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.soft > self.max:
            raise ValueError(f"soft: {self.soft} is above max, {self.max}; wanted at most that")
        return self

    def of(self, length: int) -> float:
        """The reward of a length: 0 up to max - soft, -1 above max, in between (max - soft - length) / soft."""
        least = self.max - self.soft
        if length <= least:
            return 0.0
        return -1.0 if length > self.max else (least - length) / self.soft


class LanguageReward(WithShortForm, extra="forbid", frozen=True):
    """1 for an answer that is identified as in one language, else 0."""

    short_form: ClassVar[str] = "code"

    code: str = Field(
        min_length=1, description="Language of answers with reward 1, as the built-in classifier names it, such as de"
    )
    min_score: float = Field(
        0.65, ge=0, le=1, description="Minimum probability of the identified language; below it the reward is 0"
    )


class JudgeReward(BaseModel, extra="forbid", frozen=True):
    """Points by a rubric that a model gives an answer, divided by the number of its statements."""

    model: ModelSettings = Field(description="Model that is asked: an endpoint, or a folder that each worker loads")
    rubric: tuple[str, ...] = Field(
        min_length=1,
        max_length=10,
        description="Statements about question and answer, such as [The answer is correct., The answer is polite.]; "
        "the reward is the fraction of them that the judge finds true",
    )
    sampling: Sampling = Field(
        Sampling(temperature=0.0, max_tokens=512), description="How the judge's answers are drawn"
    )
    budget: float | None = Field(
        None,
        gt=0,
        description="Money that the run may spend on the judge, by the price of tokens in `model.prices`; null: any",
    )
    answers: AnswerFolder = None

    @field_validator("model")
    @classmethod
    def _in_the_worker(cls, model: ModelSettings) -> ModelSettings:
        if model.engine == "vllm":
            raise ValueError("engine: a judge in a folder is computed by transformers; start vLLM, and give `endpoint`")
        return model

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides its scores, as JSON values. Of a folder it is known once the model is located."""
        plain = self.model_dump(mode="json", include={"rubric", "sampling"})
        return plain | {"model": self.model.decisive}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.budget is not None and self.model.prices is None:
            raise ValueError("budget: goes with `model.prices`, the prices of tokens")
        return self


class ScoringReward(WithShortForm, extra="forbid", frozen=True):
    """A reward of answers: one of a reward model, length, language, and a judge."""

    short_form: ClassVar[str] = "path"

    path: str | None = Field(
        None,
        min_length=1,
        description="Reward model: output of `train` with objective reward, its export `adapter`, or folder, URI or "
        "hub name of a sequence classifier with one label and a chat template; null: another kind of reward",
    )
    gpus: int = Field(0, ge=0, le=1, description="Number of GPUs that each worker with the reward model reserves")
    length: LengthReward | None = Field(
        None,
        description="Reward by the number of characters, such as {max: 800, soft: 200, unit: characters}; null: "
        "another kind of reward",
    )
    language: LanguageReward | None = Field(
        None, description="Language that the answer should have, such as de; null: another kind of reward"
    )
    judge: JudgeReward | None = Field(
        None, description="Judge that gives points by a rubric; null: another kind of reward"
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        kinds = ("path", "length", "language", "judge")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'none'} given; wanted exactly one of {', '.join(kinds)}")
        if self.length and self.length.unit == "tokens":
            raise ValueError("length.unit: tokens are of a tokenizer, and there is none here; set unit: characters")
        if self.gpus and not self.path:
            raise ValueError("gpus: are of a reward model; leave them out")
        return self

    @property
    def words(self) -> str:
        """What computes it, for a dry run."""
        if self.judge:
            return f"by the judge {self.judge.model.name or self.judge.model.path}"
        if self.path:
            return f"by {self.path}, computed by the run's own workers"
        return "by length" if self.length else f"by language {self.language and self.language.code}"
