"""The objectives of training: the loss of each, its settings, and its words in reports.

    sft      cross entropy of the next token
    dpo      a chosen answer should gain more probability over the reference model than a rejected one
    ipo      as dpo, up to a fixed gain
    simpo    a chosen answer should be more probable for each token than a rejected one; no reference
    orpo     cross entropy of the chosen answer, and the odds of both; no reference
    kto      answers that are each judged desirable or not
    reward   a score of each answer, by which the chosen one should win
    grpo     answers that the model itself samples, with rewards

The formulas are in models/answer_losses.py. `objective` decides what is read of a corpus: sft reads texts and
conversations, kto labelled answers, the others pairs of a chosen and a rejected answer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from raymill.cluster.answer_rewards import JudgeReward, LanguageReward, LengthReward
from raymill.cluster.json_schema import check_json_schema
from raymill.cluster.score_plugins import ScoreUse, names_once
from raymill.training.methods import MetricWords, metric_words

if TYPE_CHECKING:
    from raymill.training.config import TrainConfig

ObjectiveName = Literal["sft", "dpo", "ipo", "simpo", "orpo", "kto", "reward", "grpo"]
# What documents are made of the rows of a corpus: texts and conversations, pairs of answers, or labelled answers.
Records = Literal["text", "pairs", "labelled"]

_BETA = "Factor of the log-probability ratio to the reference model; small: the model may move far from it"
_SFT = (
    "Weight of the cross entropy of the chosen answers, a mean over their tokens in the whole step, which is added to "
    "the loss"
)


class _Block(BaseModel, extra="forbid", frozen=True):
    pass


class Dpo(_Block):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    other_names: ClassVar = {"loss_type": "loss", "dpo_beta": "beta", "pref_beta": "beta", "rpo_alpha": "sft"}

    beta: float = Field(0.1, gt=0, description=_BETA)
    loss: Literal["sigmoid", "robust", "hinge"] = Field(
        "sigmoid",
        description="Loss of a pair: sigmoid (-log of the logistic function), robust (unbiased where labels are "
        "swapped with probability `label_smoothing`), or hinge",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Probability that the labels of a pair are swapped, for losses sigmoid and robust",
    )
    by_length: bool = Field(
        False, description="Whether the log-probability ratio of each answer is divided by its number of tokens"
    )
    sft: float = Field(0.0, ge=0, description=_SFT)

    @model_validator(mode="after")
    def _smoothing_of_labels(self) -> Self:
        if self.loss == "hinge" and self.label_smoothing:
            raise ValueError("label_smoothing: loss hinge has none; remove it, or set loss: sigmoid or robust")
        return self


class Ipo(_Block):
    """Identity preference optimisation (Azar et al. 2024)."""

    beta: float = Field(
        0.1,
        gt=0,
        description="Factor of the bond to the reference model: the wanted difference of log-probability ratios is "
        "1 / (2 beta), in nats",
    )
    by_length: bool = Field(
        True,
        description="Whether the log-probability ratio of each answer is divided by its number of tokens, as in TRL; "
        "false: the sum, as in OpenRLHF",
    )
    sft: float = Field(0.0, ge=0, description=_SFT)


class Simpo(_Block):
    """Simple preference optimisation (Meng et al. 2024)."""

    other_names: ClassVar = {"simpo_gamma": "gamma", "gamma_beta_ratio": "gamma"}

    beta: float = Field(2.0, gt=0, description="Factor of the mean log-probability of an answer's tokens")
    gamma: float = Field(
        1.0,
        ge=0,
        description="Number by which the reward of the chosen answer should be higher; the paper has 0.1 to 0.8 times "
        "`beta`",
    )
    sft: float = Field(0.0, ge=0, description=_SFT)


class Orpo(_Block):
    """Odds-ratio preference optimisation (Hong et al. 2024)."""

    other_names: ClassVar = {"lambda": "beta"}

    beta: float = Field(0.1, gt=0, description="Weight of the odds-ratio loss beside the cross entropy")


class Kto(_Block):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024)."""

    beta: float = Field(0.1, gt=0, description=_BETA)
    desirable_weight: float = Field(1.0, gt=0, description="Weight of the loss of desirable answers")
    undesirable_weight: float = Field(1.0, gt=0, description="Weight of the loss of undesirable answers")


class Reward(_Block):
    """A reward model by Bradley and Terry's probability that the chosen answer wins."""

    other_names: ClassVar = {"center_rewards_coefficient": "centring"}

    centring: float = Field(
        0.0, ge=0, description="Weight of the squared sum of both scores of a pair, which keeps scores around zero"
    )


class RewardUse(_Block):
    """A reward of sampled answers: one of the settings but `weight`."""

    score: Literal["exact_match", "f1", "rougeL", "number_match", "number_match_flexible"] | None = Field(
        None, description="Score of the answer against its reference, from 0 to 1; null: another kind of reward"
    )
    pattern: str | None = Field(
        None,
        description="Regular expression; the reward is 1 if the whole answer matches it, with `.` for any character, "
        "else 0; null: another kind of reward",
    )
    json_schema: dict[str, Any] | None = Field(
        None,
        description="JSON schema (draft 2020-12); the reward is 1 if the answer is JSON of this schema, else 0; null: "
        "another kind of reward",
    )
    program: Literal["python"] | None = Field(
        None,
        description="Language of answers that are programs; the reward is 1 if the answer, followed by its reference "
        "(tests, such as assert statements), runs without an error, else 0; null: another kind of reward",
    )
    model: str | None = Field(
        None,
        description="Reward model with the tokenizer of the trained model, whose score is the reward: output of "
        "`train` with objective reward, or folder of its export `full`, `merged` or `adapter`; null: another kind of "
        "reward",
    )
    length: LengthReward | None = Field(
        None,
        description="Reward by length, 0 or negative, such as {max: 256, soft: 64}; null: another kind of reward",
    )
    language: LanguageReward | None = Field(
        None, description="Language that the answer should have, such as de; null: another kind of reward"
    )
    judge: JudgeReward | None = Field(
        None,
        description="Judge that gives points by a rubric, from 0 to 1; answers that it does not score are not trained "
        "on; null: another kind of reward",
    )
    custom: ScoreUse | None = Field(
        None,
        description="Reward of your own, a class or function from a dictionary with `document`, `prompt`, `reference` "
        "and `generated` to a number; null: another kind of reward",
    )
    weight: float = Field(1.0, description="Weight of the reward in the sum of all rewards", allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        kinds = [name for name in type(self).model_fields if name != "weight"]
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'none'} given; wanted exactly one of {', '.join(kinds)}")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"pattern: no regular expression ({error})") from None
        if self.json_schema is not None:
            try:
                check_json_schema(self.json_schema)
            except ValueError as error:
                raise ValueError(f"json_schema: {error}") from None
        return self

    @property
    def kind(self) -> str:
        """The setting that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def name(self) -> str:
        """The name of the score or of the user's function, else the kind."""
        return self.score or (self.custom and self.custom.plugin and self.custom.plugin.name) or self.kind


SAMPLED_TOKENS = 32_768  # of a batch of answers that are sampled together, with their prompts


class Grpo(_Block):
    """Reinforcement with rewards of sampled answers, in groups of answers to one prompt (Shao et al. 2024)."""

    other_names: ClassVar = {
        "num_generations": "samples", "max_completion_length": "max_new_tokens", "num_iterations": "updates",
        "epsilon": "clip", "epsilon_high": "clip_high", "kl_coef": "kl", "reward_funcs": "rewards",
    }  # fmt: skip

    samples: int = Field(8, ge=2, description="Number of answers that are sampled for each prompt of a step")
    max_new_tokens: int = Field(256, ge=1, description="Maximum number of tokens of a sampled answer")
    rewards: tuple[RewardUse, ...] = Field(
        (),
        description="Rewards of an answer, which are added, each times its `weight`, such as [{score: number_match}, "
        "{pattern: '[0-9]+', weight: 0.1}]",
    )
    reward_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Time in seconds that a pattern, schema, program or reward of your own may take for an answer "
        "(processor time, for programs also wall time), above which this reward is 0",
    )
    advantage: Literal["normalised", "centred", "leave_one_out"] = Field(
        "normalised",
        description="Advantage of an answer in its group: reward less the mean, divided by the standard deviation "
        "(normalised, as GRPO), not divided (centred, as Dr. GRPO), or less the mean of the others (leave_one_out, as "
        "RLOO)",
    )
    mean: Literal["tokens", "answers", "length"] = Field(
        "tokens",
        description="Mean of the loss over a step: over the tokens of all answers (tokens, as DAPO), over answers "
        "after the mean of each (answers, as GRPO), or the sum over tokens divided by answers and `max_new_tokens` "
        "(length, as Dr. GRPO)",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What samples the answers: the model in the worker (transformers), or a server of vLLM beside each "
        "worker, which gets the adapter before each sampling (vllm: `pip install vllm`, method lora)",
    )
    vllm_memory: float = Field(
        0.4, gt=0, lt=1, description="Fraction of the memory of its worker's GPU that a server of vLLM reserves"
    )
    updates: int = Field(1, ge=1, description="Number of consecutive steps that train on the same sampled answers")
    clip: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Distance from 1 of a token's probability ratio to the model that sampled it, below which a token "
        "with a negative advantage is not trained any more; has an effect from the second of `updates` on",
    )
    clip_high: float | None = Field(
        None,
        gt=0,
        description="Distance from 1 of that ratio, above which a token with a positive advantage is not trained any "
        "more, such as 0.28 in DAPO; null: `clip`",
    )
    kl: float = Field(
        0.0,
        ge=0,
        description="Weight of the divergence from the model without its adapter, estimated for each token, which is "
        "added to the loss; methods lora and qlora",
    )

    @model_validator(mode="after")
    def _rewarded(self) -> Self:
        names_once([one.custom for one in self.rewards if one.custom])
        return self

    @property
    def names(self) -> list[str]:
        """The name of each reward; the second one of a name ends with -2."""
        names = [one.name for one in self.rewards]
        return [
            name if names[:at].count(name) == 0 else f"{name}-{names[: at + 1].count(name)}"
            for at, name in enumerate(names)
        ]

    @property
    def high(self) -> float:
        """`clip_high`, or `clip` where that is null."""
        return self.clip if self.clip_high is None else self.clip_high

    @property
    def needs_log_probabilities(self) -> bool:
        """Whether the loss depends on log-probabilities of the time of sampling."""
        return self.updates > 1 or self.kl > 0


@dataclass(frozen=True)
class TrainingObjective:
    """An objective.

    Attributes:
        name: value of the setting `objective`, and of its group of settings.
        records: what it reads.
        reference: whether it compares with the log-probabilities of the model before training.
        words: of its measurements; None: those of the method.
    """

    name: ObjectiveName
    records: Records = "text"
    reference: bool = False
    words: MetricWords | None = None


_OF_PAIRS = MetricWords(
    labels="pairs",
    right="preferred answer",
    accuracy="Accuracy is the share of pairs whose chosen answer has the higher reward; equal rewards count half.",
    scores="Greedy answers to held-out prompts; from 0 to 1, BLEU from 0 to 100",
    perplexity=False,
)
_OF_ANSWERS = MetricWords(
    labels="answers",
    right="judgement",
    accuracy="Accuracy is the share of answers whose reward is positive if they are desirable, and negative if not.",
    scores=_OF_PAIRS.scores,
    perplexity=False,
)
_OF_SAMPLES = MetricWords(
    labels="prompts",
    right="positive reward",
    accuracy="The loss is minus the mean reward of greedy answers; accuracy is the share with a positive reward.",
    scores=_OF_PAIRS.scores,
    perplexity=False,
    is_reward=True,
)
# Of grpo, of the sampled answers of a step: mean reward, mean standard deviation within groups, groups whose answers
# all have one reward and so teach nothing, fraction of answers that were cut at `max_new_tokens`, mean tokens, answers
# with a reward that took too long, answers without a reward, prompts that leave no room for an answer, and seconds of
# sampling.
SAMPLE_MEASURES = (
    *("reward_mean", "reward_std", "groups_without_spread", "truncated", "answer_tokens", "rewards_failed"),
    *("rewards_missing", "prompts_too_long", "rollout_s"),
)
# Of grpo: with several updates or a penalty the fraction of an update's tokens that are not trained any more; with an
# adapter the mean estimate of the divergence from the model without it, of the tokens of an update, or without a
# penalty of the first answer to each prompt when it was sampled.
UPDATE_MEASURES = ("clipped", "kl")
# Of pairs, means over a step or split. Rewards are beta times the log-probability ratio to the reference (of simpo and
# orpo: times the mean log-probability; of reward: the score).
PAIR_MEASURES = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "logp_chosen", "logp_rejected")
OBJECTIVES: Mapping[str, TrainingObjective] = {
    one.name: one
    for one in (
        TrainingObjective("sft"),
        TrainingObjective("dpo", "pairs", True, _OF_PAIRS),
        TrainingObjective("ipo", "pairs", True, _OF_PAIRS),
        TrainingObjective("simpo", "pairs", False, _OF_PAIRS),
        TrainingObjective("orpo", "pairs", False, _OF_PAIRS),
        TrainingObjective("kto", "labelled", True, _OF_ANSWERS),
        TrainingObjective("reward", "pairs", False, _OF_PAIRS),
        TrainingObjective("grpo", words=_OF_SAMPLES),
    )
}


def recipe_words(recipe: Mapping[str, Any]) -> MetricWords:
    """The words for measurements, of the recipe of a report: its `method`, and its `objective` if there is one."""
    found = OBJECTIVES.get(recipe.get("objective", "sft"))  # a report's text is foreign
    return (found and found.words) or metric_words(recipe["method"])


def check_objective(config: "TrainConfig") -> None:
    """Compare the objective of a config with its other settings.

    Raises:
        ValueError: it cannot be trained with them.
    """
    name, method, overflow = config.objective, config.training_method, config.packing.overflow
    if name == "sft":
        return
    if method.classifies or method.virtual:
        raise ValueError(f"method: objective {name} trains methods full, lora and qlora, not {config.method}")
    if config.prompt_loss_weight:
        raise ValueError(f"prompt_loss_weight: objective {name} has no loss of prompts; remove it")
    if overflow not in (None, "drop"):
        raise ValueError(
            f"packing.overflow: objective {name} needs whole prompts and answers, so what is longer than a row is left "
            "out (drop); increase sequence_length to keep more"
        )
    if name == "reward" and config.generate:
        raise ValueError("generate: a reward model (objective reward) generates no text; remove `generate`")
    if name != "grpo":
        return
    how, length = config.grpo, config.sequence_length
    if not how.rewards:
        raise ValueError("grpo: no reward; give `rewards`, such as [{score: number_match}]")
    if config.engine not in ("ddp", "zero1", "zero2"):
        raise ValueError(f"engine: {config.engine} shards weights, and sampling needs whole ones; use zero2")
    if config.packing.mode != "none":
        raise ValueError("packing: objective grpo reads one prompt a row; set packing: {mode: none}")
    if how.engine == "vllm" and (config.method != "lora" or config.model.name is None):
        raise ValueError(
            f"grpo.engine: vllm needs an adapter on a model with weights, and method is {config.method}; set method: "
            "lora and the name of a `model`, or engine: transformers"
        )
    if how.max_new_tokens >= length:
        raise ValueError(f"grpo.max_new_tokens: {how.max_new_tokens} of sequence_length {length} leave no prompt")
    if config.neftune_alpha:
        raise ValueError("neftune_alpha: objective grpo samples without noise; remove it")
    if how.kl and (method.trains_base or config.lora.init == "pissa"):
        raise ValueError(
            "grpo.kl: the penalty compares with the model without its adapter, so it needs method lora or qlora, and "
            "lora.init other than pissa"
        )
    if any(columns.form == "text" for columns in config.all_columns) and "columns" in config.model_fields_set:
        raise ValueError("columns: objective grpo needs {prompt: COLUMN, completion: COLUMN}, or {messages: COLUMN}")
