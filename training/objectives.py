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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from raymill.cluster.score_plugins import ScoreUse, names_once
from raymill.training.methods import MetricWords, metric_words

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


class Grpo(_Block):
    """Reinforcement with rewards of sampled answers, in groups of answers to one prompt (Shao et al. 2024)."""

    other_names: ClassVar = {"num_generations": "samples", "max_completion_length": "max_new_tokens"}

    samples: int = Field(8, ge=2, description="Number of answers that are sampled for each prompt of a step")
    max_new_tokens: int = Field(256, ge=1, description="Maximum number of tokens of a sampled answer")
    score: dict[Literal["exact_match", "f1", "rougeL", "number_match", "number_match_flexible"], float] = Field(
        {},
        description="Weights in the reward of scores of an answer against its reference, by name, such as "
        "{number_match: 1.0}",
    )
    custom: tuple[ScoreUse, ...] = Field(
        (),
        description="Rewards of your own, classes or functions from a dictionary with `document`, `prompt`, "
        "`reference` and `generated` to a number, which are added to the reward",
    )
    reward_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Processor time in seconds of the custom rewards of an answer, above which they are 0",
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

    @model_validator(mode="after")
    def _rewarded(self) -> Self:
        names_once(self.custom)
        return self


@dataclass(frozen=True)
class TrainingObjective:
    """An objective.

    Attributes:
        name: value of the setting `objective`, and of its group of settings.
        records: what it reads.
        reference: whether it compares with the log-probabilities of the model before training.
        measures: names of what it measures of answers besides its loss, in the order of `AnswerLoss.measures`.
        words: of its measurements; None: those of the method.
    """

    name: ObjectiveName
    records: Records = "text"
    reference: bool = False
    measures: tuple[str, ...] = ()
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
)
# Of grpo, of the sampled answers of a step: mean reward, mean standard deviation within groups, groups whose answers
# all have one reward and so teach nothing, fraction of answers that were cut at `max_new_tokens`, mean tokens, answers
# whose custom rewards took too long, and seconds of sampling.
SAMPLE_MEASURES = (
    *("reward_mean", "reward_std", "groups_without_spread", "truncated", "answer_tokens", "rewards_failed"),
    "rollout_s",
)
# Of pairs, means over a step or split. Rewards are beta times the log-probability ratio to the reference (of simpo and
# orpo: times the mean log-probability; of reward: the score).
PAIR_MEASURES = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "logp_chosen", "logp_rejected")
SCORE_MEASURES = PAIR_MEASURES[:4]
OBJECTIVES: Mapping[str, TrainingObjective] = {
    one.name: one
    for one in (
        TrainingObjective("sft"),
        TrainingObjective("dpo", "pairs", True, PAIR_MEASURES, _OF_PAIRS),
        TrainingObjective("ipo", "pairs", True, PAIR_MEASURES, _OF_PAIRS),
        TrainingObjective("simpo", "pairs", False, PAIR_MEASURES, _OF_PAIRS),
        TrainingObjective("orpo", "pairs", False, PAIR_MEASURES, _OF_PAIRS),
        TrainingObjective("kto", "labelled", True, PAIR_MEASURES, _OF_ANSWERS),
        TrainingObjective("reward", "pairs", False, SCORE_MEASURES, _OF_PAIRS),
        TrainingObjective("grpo", words=_OF_SAMPLES),
    )
}


def recipe_words(recipe: Mapping[str, Any]) -> MetricWords:
    """The words for measurements, of the recipe of a report: its `method`, and its `objective` if there is one."""
    found = OBJECTIVES.get(recipe.get("objective", "sft"))  # a report's text is foreign
    return (found and found.words) or metric_words(recipe["method"])
