"""The objectives of answers that were compared, judged or sampled, as modules whose call gives a micro-batch's loss.

Letters: B rows, T positions, L positions with a target, A answers (documents of the rows, in order).

The loss is a function of the log-probabilities of whole answers, or of sampled tokens. It has the gradient of a
weighted cross entropy, in which the weight of a token is minus the derivative of the loss by the log-probability of its
answer, or by its own. So the losses of tokens are computed first, without gradients; then the loss and these weights;
then the weighted cross entropy of NextToken, by its kernels. The logits are computed twice, and never held at once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from raymill.cluster.errors import ConfigError
from raymill.training.data.batch import Batch
from raymill.training.models.answer_losses import (
    AnswerScores,
    bradley_terry,
    clipped,
    dpo,
    ipo,
    kto,
    orpo,
    simpo,
)
from raymill.training.models.objective import Float32Linear, Measures, NextToken
from raymill.training.objectives import Grpo


def baseline_of(sums: Sequence[Sequence[float]]) -> float:
    """z of kto. sums: what `AnswerLoss.gains` gives, of each worker."""
    total, count = (sum(one) for one in zip(*sums, strict=True))
    return max(0.0, total / count) if count else 0.0


_MEANS = 7  # sums of which `means` are made
_CONFIDENCES = 10  # intervals of the probability that the answer with the higher reward wins, 0.5 to 1
_LENGTHS = ("shorter", "equal", "longer")  # the chosen answer beside the rejected one, in tokens


class OfAnswers(NextToken):
    """Base class of the objectives of answers that were compared or judged.

    per_loss: answers to a label: 2 of a pair, 1 of a judged answer. The others are as in NextToken.
    """

    def __init__(self, per_loss: int, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.per_loss = per_loss
        self.measures = Measures(_MEANS + 3 * _CONFIDENCES + 2 * len(_LENGTHS))

    def loss_denominator(self, batch: Batch) -> float:
        """The number of pairs; of kto the number of answers."""
        return self.label_count(batch)

    def label_count(self, batch: Batch) -> int:
        """As `loss_denominator`."""
        return len(batch.answer_tokens) // self.per_loss

    def tensors(self, batch: Batch, device: torch.device | str, step: int | None = None) -> dict[str, Tensor]:
        """See Objective."""
        names = ("answer_tokens", "answer_ends", "judgements", "reference")
        answers = {name: torch.tensor(getattr(batch, name), device=device) for name in names}
        return super().tensors(batch, device, step) | answers

    def means(self, sums: Sequence[float], labels: float) -> dict[str, float]:
        """See Objective; by the names of PAIR_MEASURES."""
        reward, logp, count, worse_reward, worse_logp, worse_count, right = sums[:_MEANS]
        found = {"reward_accuracy": right / labels}
        if count:
            found |= {"reward_chosen": reward / count, "logp_chosen": logp / count}
        if worse_count:
            found |= {"reward_rejected": worse_reward / worse_count, "logp_rejected": worse_logp / worse_count}
        if count and worse_count:
            found["reward_margin"] = found["reward_chosen"] - found["reward_rejected"]
        return found

    def tables(self, sums: Sequence[float]) -> dict[str, Any]:
        """See Objective. Of pairs: by confidence, and by which answer is the longer one; see Measured."""
        if self.per_loss == 1:
            return {}
        by_confidence = np.reshape(sums[_MEANS : _MEANS + 3 * _CONFIDENCES], (_CONFIDENCES, 3))
        by_length = np.reshape(sums[_MEANS + 3 * _CONFIDENCES :], (-1, 2))
        return {
            "calibration": [[int(n), total / n, right / n] for n, total, right in by_confidence.tolist() if n],
            "by_length": {
                name: [int(n), right / n] for name, (n, right) in zip(_LENGTHS, by_length.tolist(), strict=True) if n
            },
        }

    def _measure(self, values: Tensor, is_better: Tensor, gains: Tensor, answer_tokens: Tensor) -> Tensor:
        """Add to `measures`. Returns the number of right pairs or answers.

        Args:
            values: float64[2, A], rewards and log-probabilities. is_better: bool[A], whether an answer is chosen or
                desirable.
            gains: of each pair or answer, positive if it is right.
        """
        right = (gains > 0).double() + 0.5 * (gains == 0).double()
        values = torch.cat([values, torch.ones_like(values[:1])])
        sums = [values[:, is_better].sum(1), values[:, ~is_better].sum(1), right.sum()[None]]
        if self.training or self.per_loss == 1:
            sums.append(sums[0].new_zeros(3 * _CONFIDENCES + 2 * len(_LENGTHS)))
        else:
            confidence, ones = gains.abs().sigmoid(), torch.ones_like(right)
            bins = ((confidence - 0.5) * 2 * _CONFIDENCES).long().clamp(max=_CONFIDENCES - 1)
            order = (answer_tokens[0::2] - answer_tokens[1::2]).sign() + 1
            for at, kinds, columns in (
                (bins, _CONFIDENCES, (ones, confidence, right)), (order, len(_LENGTHS), (ones, right)),
            ):  # fmt: skip
                sums.append((F.one_hot(at, kinds).double().T @ torch.stack(columns, 1)).flatten())
        self.measures.add(torch.cat(sums))
        return right.sum()


class AnswerLoss(OfAnswers):
    """A loss of the log-probabilities of answers: dpo, ipo, simpo, orpo or kto.

    name, how: the objective and its settings. The others are as in NextToken.

    Attributes:
        baseline: z of kto for the step.
        logp: float64[A], log-probabilities of the last micro-batch's answers.
    """

    def __init__(self, name: str, how: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(1 if name == "kto" else 2, *arguments, **more)
        self.name, self.how = name, how
        self.baseline = 0.0
        self.logp = torch.zeros(0, dtype=torch.float64)
        self._sft = 0.0  # factor of the chosen answers' cross entropy in this step

    def step_sum(self, batch: Batch) -> float:
        """The number of tokens of the chosen answers, of which `sft` takes the mean."""
        return float(batch.answer_tokens[::2].sum()) if getattr(self.how, "sft", 0) else 0.0

    def begin_step(self, denominator: float, total: float) -> None:
        """Start a step. denominator, total: `loss_denominator` and `step_sum` of all its micro-batches and workers."""
        self._sft = self.how.sft * denominator / total if total else 0.0

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        targets: Tensor,
        starts: Tensor,
        target_positions: Tensor,
        answer_tokens: Tensor,
        judgements: Tensor,
        reference: Tensor,
        real: Tensor | None = None,
        noise: Tensor | None = None,
        **_: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As NextToken.forward, for pairs (kto: answers) instead of targets.

        Args:
            answer_tokens, judgements, reference: see Batch.

        Returns:
            (sum of losses, float32 scalar; right ones, float64 scalar: pairs whose chosen answer has the higher reward,
            of kto answers whose reward has the sign of their judgement; zero counts half).
        """
        with self._autocast(input_ids.device):
            with self._with_noise(noise):
                output = self._output(input_ids, position_ids, starts)
            hidden = output.last_hidden_state.flatten(0, 1)
            of_tokens = self.target_losses(hidden.detach(), targets.flatten(), target_positions).double()
            logp = of_tokens.new_zeros(0)
            if len(answer_tokens):  # none in padding, which segment_reduce refuses
                logp = -torch.segment_reduce(of_tokens, "sum", lengths=answer_tokens, initial=0)
            self.logp = logp
            with torch.enable_grad():
                answers = AnswerScores(logp.clone().requires_grad_(), answer_tokens.double(), reference.double())
                losses, rewards = self._losses(answers, judgements)
                total = losses.sum()
                (slope,) = torch.autograd.grad(total, answers.logp) if len(logp) else (logp,)
            rewards, value = rewards.detach(), total.detach()
            if self.name == "kto":
                is_better = judgements > 0.5
                gains = torch.where(is_better, rewards, -rewards)
            else:
                is_better, gains = _is_chosen(rewards), rewards[0::2] - rewards[1::2]
            right = self._measure(torch.stack([rewards, logp]), is_better, gains, answer_tokens)
            loss = value.float()
            if torch.is_grad_enabled():
                factors = -slope
                if self._sft:
                    factors[0::2] += self._sft
                    value = value - self._sft * logp[0::2].sum()
                of_targets = factors.float().repeat_interleave(answer_tokens)
                weighted = self.cross_entropy(hidden, targets.flatten(), target_positions, of_targets)[0]
                # The value is the loss's, the gradient the weighted cross entropy's.
                loss = weighted + (value.float() - weighted).detach()
        return self._balanced(loss, output, real), right

    def gains(self, batch: Batch) -> tuple[float, float]:
        """(sum of r over the answers that count, their number) of the last micro-batch, which was a mismatched one."""
        counts = batch.judgements > 0
        return float((self.logp.cpu().numpy() - batch.reference)[counts].sum()), float(counts.sum())

    def _losses(self, answers: AnswerScores, judgements: Tensor) -> tuple[Tensor, Tensor]:
        """(loss of each pair or answer, reward of each answer), float64."""
        match self.name:
            case "dpo":
                return dpo(answers, self.how)
            case "ipo":
                return ipo(answers, self.how)
            case "simpo":
                return simpo(answers, self.how)
            case "orpo":
                return orpo(answers, self.how)
            case _:
                return kto(answers, judgements > 0.5, self.baseline, self.how)


def _is_chosen(values: Tensor) -> Tensor:
    """Whether each answer is the chosen one of its pair, bool[A]. values: [A]."""
    return torch.arange(len(values), device=values.device) % 2 == 0


class RolloutLoss(NextToken):
    """The loss of sampled answers (rollouts/steps.py).

    With one update for each sampling and no penalty it is a cross entropy weighted by advantages, whose gradient is
    the policy gradient. Else it is the clipped loss, which compares with the log-probabilities of the time of sampling.

    how: settings of objective grpo. The others are as in NextToken.
    """

    def __init__(self, how: Grpo, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.how = how
        self.measures = Measures(3 if how.needs_log_probabilities else 0)

    def loss_denominator(self, batch: Batch) -> float:
        """The number of targets, for which the weights are scaled: advantages sum to about zero."""
        return batch.label_tokens

    def tensors(self, batch: Batch, device: torch.device | str, step: int | None = None) -> dict[str, Tensor]:
        """See Objective."""
        policy = {} if batch.policy is None else {"policy": torch.tensor(batch.policy, device=device)}
        return super().tensors(batch, device, step) | policy

    def log_probabilities(self, batch: Batch, device: torch.device) -> Tensor:
        """Log-probabilities of the targets by the current weights, float32[L]."""
        tensors = self.tensors(batch, device)
        with torch.no_grad(), self._autocast(device):
            hidden = self.hidden(*(tensors[name] for name in ("input_ids", "position_ids", "starts"))).flatten(0, 1)
            return -self.target_losses(hidden, tensors["targets"].flatten(), tensors["target_positions"])

    def forward(self, *, policy: Tensor | None = None, **batch: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As NextToken.forward.

        Args:
            policy: float32[3, L], see Batch; None: the weights of the targets have their advantages as a factor.
        """
        if policy is None:
            return super().forward(**batch)
        targets, positions = batch["targets"].flatten(), batch["target_positions"]
        with self._autocast(targets.device):
            output = self._output(batch["input_ids"], batch["position_ids"], batch["starts"])
            hidden = output.last_hidden_state.flatten(0, 1)
            logp = -self.target_losses(hidden.detach(), targets, positions)
            scale = batch["weights"].flatten().index_select(0, positions)
            losses, factors, sums = clipped(logp, policy, self.how)
            self.measures.add(sums)
            loss = (scale * losses).sum()
            if torch.is_grad_enabled():
                weighted, _ = self.cross_entropy(hidden, targets, positions, scale * factors)
                loss = weighted + (loss - weighted).detach()
        return self._balanced(loss, output, batch.get("real")), targets.new_zeros(())

    def means(self, sums: Sequence[float], labels: float) -> dict[str, float]:
        """See Objective; by the names of UPDATE_MEASURES."""
        if not sums:
            return {}
        clipped_tokens, divergence, tokens = sums
        return {"clipped": clipped_tokens / tokens} | ({"kl": divergence / tokens} if self.how.kl else {})


def score_head(causal: Any) -> Float32Linear:
    """The layer from a hidden state to a score, with random weights. An lm_head of its own is frozen, as it is unused.

    Raises:
        ConfigError: transformers has no sequence classifier of this kind of model, as which it would be exported.
    """
    settings = causal.config
    if type(settings) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"objective: reward: transformers has no sequence classifier of model type {settings.model_type}, and a "
            "reward model is exported as one. Use another base model."
        )
    width = settings.get_text_config().hidden_size
    score = Float32Linear(width, 1, bias=False)
    nn.init.normal_(score.weight, std=1 / (width + 1) ** 0.5)  # Stiennon et al. 2020
    head, embeddings = causal.get_output_embeddings(), causal.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        head.requires_grad_(False)
    return score


class RewardModel(OfAnswers):
    """A score of each answer, of the hidden state of its last token. The lm_head is not used.

    centring: of the settings. The others are as in NextToken.
    """

    def __init__(self, centring: float, *arguments: Any, **more: Any) -> None:
        super().__init__(2, *arguments, **more)
        self.centring = centring
        self.score = score_head(self.causal)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        starts: Tensor,
        answer_ends: Tensor,
        answer_tokens: Tensor,
        judgements: Tensor,
        real: Tensor | None = None,
        noise: Tensor | None = None,
        **_: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As AnswerLoss.forward. judgements: the margin of each answer's pair; NaN: 0."""
        with self._autocast(input_ids.device), self._with_noise(noise):
            output = self._output(input_ids, position_ids, starts)
        hidden = output.last_hidden_state.flatten(0, 1)
        scores = self.score(hidden.index_select(0, answer_ends)).squeeze(-1)
        margins = torch.nan_to_num(judgements[0::2])
        # Without answers, as of padding, the sum is zero and still has a gradient, which engines wait for.
        loss = bradley_terry(scores, margins, self.centring).sum() + 0 * scores.sum() + 0 * hidden[:1].sum()
        found = scores.detach().double()
        values = torch.stack([found, torch.zeros_like(found)])
        right = self._measure(values, _is_chosen(found), found[0::2] - found[1::2], answer_tokens)
        return self._balanced(loss, output, real), right

    def means(self, sums: Sequence[float], labels: float) -> dict[str, float]:
        """See Objective; a score has no log-probability."""
        return {name: mean for name, mean in super().means(sums, labels).items() if not name.startswith("logp")}
