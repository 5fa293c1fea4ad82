"""The losses of answers that were compared or judged: pure functions of their log-probabilities.

Letters: A answers of a micro-batch, P pairs. Answers 2 p and 2 p + 1 are the chosen and the rejected one of pair p.

    s   log-probability of an answer: the sum over its tokens, given its prompt
    n   number of its tokens, with the one that ends it
    r   s less the same of the reference model;  m = s / n;  d = r(chosen) - r(rejected)

    dpo      sigmoid     -(1 - e) log f(b d) - e log f(-b d)                      f: logistic function, e: smoothing
             robust      [-(1 - e) log f(b d) + e log f(-b d)] / (1 - 2 e)
             hinge       max(0, 1 - b d)
             by length, r / n stands for r
    ipo      (d - 1 / (2 b))^2                                                    d of r / n, or of r
    simpo    -log f(b (m(chosen) - m(rejected)) - gamma)
    orpo     -m(chosen) - b log f(o),  o = log odds(m(chosen)) - log odds(m(rejected)),  log odds(m) = m - log(1 - e^m)
    kto      desirable: w (1 - f(b (r - z)));  undesirable: w (1 - f(b (z - r)))
    reward   -log f(R(chosen) - R(rejected) - margin) + c (R(chosen) + R(rejected))^2
    grpo     of a token: -min(p A, clip(p, 1 - low, 1 + high) A) + b (e^g - g - 1)
             p: its probability divided by its value when it was sampled, A: advantage, g: log-probability by the model
             without its adapter less that by this one

z of kto is the mean of r over answers that stand after prompts of other records, and 0 if that is negative.

Sources: Rafailov et al. 2023; Chowdhury et al. 2024 (robust); Zhao et al. 2023 (hinge); Azar et al. 2024; Meng et al.
2024; Hong et al. 2024; Ethayarajh et al. 2024; Bradley and Terry 1952; Eisenstein et al. 2023 (centring);
Shao et al. 2024, Yu et al. 2025 (grpo).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raymill.training.objectives import Dpo, Grpo, Ipo, Kto, Orpo, Simpo


@dataclass(frozen=True)
class AnswerScores:
    """The answers of a micro-batch. All float64[A].

    logp: their log-probabilities, which may have a gradient. tokens: their numbers of tokens. reference: `logp` of the
    reference model; zeros for objectives without one.
    """

    logp: Tensor
    tokens: Tensor
    reference: Tensor

    @property
    def ratio(self) -> Tensor:
        return self.logp - self.reference

    @property
    def mean(self) -> Tensor:
        return self.logp / self.tokens


def pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """(values of the chosen answers, of the rejected ones), float64[P] each."""
    return values[0::2], values[1::2]


def dpo(answers: AnswerScores, how: Dpo) -> tuple[Tensor, Tensor]:
    """(loss of each pair, float64[P]; reward of each answer, float64[A])."""
    ratio = answers.ratio / answers.tokens if how.by_length else answers.ratio
    rewards = how.beta * ratio
    chosen, rejected = pairs(rewards)
    gain, smoothing = chosen - rejected, how.label_smoothing
    match how.loss:
        case "sigmoid":
            losses = -(1 - smoothing) * F.logsigmoid(gain) - smoothing * F.logsigmoid(-gain)
        case "robust":
            right, swapped = -F.logsigmoid(gain), -F.logsigmoid(-gain)
            losses = ((1 - smoothing) * right - smoothing * swapped) / (1 - 2 * smoothing)
        case "hinge":
            losses = torch.relu(1 - gain)
    return losses, rewards


def ipo(answers: AnswerScores, how: Ipo) -> tuple[Tensor, Tensor]:
    """As `dpo`."""
    ratio = answers.ratio / answers.tokens if how.by_length else answers.ratio
    chosen, rejected = pairs(ratio)
    return (chosen - rejected - 1 / (2 * how.beta)) ** 2, how.beta * ratio


def simpo(answers: AnswerScores, how: Simpo) -> tuple[Tensor, Tensor]:
    """As `dpo`."""
    rewards = how.beta * answers.mean
    chosen, rejected = pairs(rewards)
    return -F.logsigmoid(chosen - rejected - how.gamma), rewards


def orpo(answers: AnswerScores, how: Orpo) -> tuple[Tensor, Tensor]:
    """As `dpo`."""
    chosen, rejected = pairs(answers.mean)
    odds = log_odds(chosen) - log_odds(rejected)
    return -chosen - how.beta * F.logsigmoid(odds), how.beta * answers.mean


def log_odds(m: Tensor) -> Tensor:
    """m - log(1 - e^m) for m < 0, exact near 0 and far from it (Maechler 2012, log1mexp)."""
    below = torch.clamp(m, max=-torch.finfo(m.dtype).tiny)
    near = below > -0.6931471805599453
    # Each branch gets arguments that it can compute, because the gradient of `where` has both.
    of_near = torch.log(-torch.expm1(torch.where(near, below, -1.0)))
    of_far = torch.log1p(-torch.exp(torch.where(near, -1.0, below)))
    return below - torch.where(near, of_near, of_far)


def kto(answers: AnswerScores, desirable: Tensor, z: float, how: Kto) -> tuple[Tensor, Tensor]:
    """(loss of each answer, its reward), float64[A] each. desirable: bool[A]."""
    gain = torch.where(desirable, answers.ratio - z, z - answers.ratio)
    weights = torch.full_like(gain, how.undesirable_weight).masked_fill(desirable, how.desirable_weight)
    return weights * (1 - torch.sigmoid(how.beta * gain)), how.beta * answers.ratio


def bradley_terry(scores: Tensor, margins: Tensor, centring: float) -> Tensor:
    """Loss of each pair, float[P]. scores: of the answers, float[A]. margins: float[P]."""
    chosen, rejected = pairs(scores)
    return -F.logsigmoid(chosen - rejected - margins) + centring * (chosen + rejected) ** 2


def clipped(logp: Tensor, policy: Tensor, how: Grpo) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of sampled tokens.

    Args:
        logp: float32[L], log-probabilities of the tokens.
        policy: float32[3, L], advantages, and log-probabilities by the model that sampled and by the base model.

    Returns:
        (losses, float32[L]; minus their derivatives by `logp`, float32[L]; float64[3], the number of tokens that are
        not trained any more, the sum of the estimates of the divergence, the number of tokens).
    """
    advantages, sampled, base = policy
    ratio, distance = (logp - sampled).exp(), base - logp
    bounded = ratio.clamp(1 - how.clip, 1 + how.high)
    is_trained = torch.where(advantages > 0, ratio <= 1 + how.high, ratio >= 1 - how.clip)
    divergence = distance.exp() - distance - 1
    losses = how.kl * divergence - torch.minimum(ratio * advantages, bounded * advantages)
    factors = ratio * advantages * is_trained + how.kl * (distance.exp() - 1)
    sums = torch.stack([(~is_trained).sum(), divergence.sum(dtype=torch.float64), losses.new_tensor(len(losses))])
    return losses, factors, sums.double()
