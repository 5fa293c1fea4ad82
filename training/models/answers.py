"""The objectives of answers that were compared or judged, as modules whose call gives the loss of a micro-batch.

Letters: B rows, T positions, L positions with a target, A answers (documents of the rows, in order).

The loss is a function of the log-probabilities of whole answers. It has the gradient of a weighted cross entropy, in
which the weight of a token is minus the derivative of the loss by the log-probability of its answer. So the losses of
tokens are computed first, without gradients; then the loss of the answers and these weights; then the weighted cross
entropy of NextToken, by its kernels. The logits are computed twice, and never held at once.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from raymill.cluster.errors import ConfigError
from raymill.training.data.batch import Batch
from raymill.training.models.answer_losses import AnswerScores, bradley_terry, dpo, ipo, kto, orpo, pairs, simpo
from raymill.training.models.loss import float32_product, token_losses
from raymill.training.models.objective import Float32Linear, NextToken


def measures_of(sums: Sequence[float], labels: float) -> dict[str, float]:
    """Means by the names of PAIR_MEASURES, of the sums of `Measures` of all workers. labels: pairs, of kto answers."""
    reward, logp, count, worse_reward, worse_logp, worse_count, right = sums
    found = {"reward_accuracy": right / labels}
    if count:
        found |= {"reward_chosen": reward / count, "logp_chosen": logp / count}
    if worse_count:
        found |= {"reward_rejected": worse_reward / worse_count, "logp_rejected": worse_logp / worse_count}
    if count and worse_count:
        found["reward_margin"] = found["reward_chosen"] - found["reward_rejected"]
    return found


def baseline_of(sums: Sequence[Sequence[float]]) -> float:
    """z of kto. sums: what `AnswerLoss.gains` gives, of each worker."""
    total, count = (sum(one) for one in zip(*sums, strict=True))
    return max(0.0, total / count) if count else 0.0


class AnswerLoss(NextToken):
    """A loss of the log-probabilities of answers: dpo, ipo, simpo, orpo or kto.

    name, how: the objective and its settings. The others are as in NextToken.

    Attributes:
        baseline: z of kto for the step.
        logp: float64[A], log-probabilities of the last micro-batch's answers.
    """

    of_answers = True

    def __init__(self, name: str, how: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.name, self.how = name, how
        self.baseline = 0.0
        self.logp = torch.zeros(0, dtype=torch.float64)
        self._sft = 0.0  # factor of the chosen answers' cross entropy in this step

    def loss_denominator(self, batch: Batch) -> float:
        """The number of pairs; of kto the number of answers."""
        return self.label_count(batch)

    def label_count(self, batch: Batch) -> int:
        """As `loss_denominator`."""
        return len(batch.answer_tokens) // (1 if self.name == "kto" else 2)

    def step_sum(self, batch: Batch) -> float:
        """The number of tokens of the chosen answers, of which `sft` takes the mean."""
        return float(batch.answer_tokens[::2].sum()) if getattr(self.how, "sft", 0) else 0.0

    def begin_step(self, denominator: float, total: float) -> None:
        """Start a step. denominator, total: `loss_denominator` and `step_sum` of all its micro-batches and workers."""
        self._sft = self.how.sft * denominator / total if total else 0.0

    def tensors(self, batch: Batch, device: torch.device | str, step: int | None = None) -> dict[str, Tensor]:
        """See Objective."""
        return super().tensors(batch, device, step) | answer_tensors(batch, device)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        targets: Tensor,
        classes: Tensor,
        ends: Tensor,
        starts: Tensor,
        target_positions: Tensor,
        answer_tokens: Tensor,
        answer_ends: Tensor,
        judgements: Tensor,
        reference: Tensor,
        real: Tensor | None = None,
        weights: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As NextToken.forward, for pairs (kto: answers) instead of targets.

        Args:
            answer_tokens, answer_ends, judgements, reference: see Batch. weights: not used.

        Returns:
            (sum of losses, float32 scalar; right ones, float64 scalar: pairs whose chosen answer has the higher reward,
            of kto answers whose reward has the sign of their judgement; zero counts half).
        """
        with self._autocast(input_ids.device):
            with self.noise.added(noise) if self.noise is not None else nullcontext():
                output = self._output(input_ids, position_ids, starts)
            hidden = output.last_hidden_state[:, -input_ids.shape[1] :].flatten(0, 1)
            logp = self._log_probabilities(hidden.detach(), targets.flatten(), target_positions, answer_tokens)
            self.logp = logp.detach()
            with torch.enable_grad():
                answers = AnswerScores(logp.requires_grad_(), answer_tokens.double(), reference.double())
                losses, rewards = self._losses(answers, judgements)
                total = losses.sum()
                (slope,) = torch.autograd.grad(total, logp) if len(logp) else (logp.detach(),)
            right = self._measure(answers, rewards.detach(), judgements)
            loss = total.detach().float()
            if torch.is_grad_enabled():
                factors = -slope
                if self._sft:
                    factors[0::2] += self._sft
                of_targets = factors.float().repeat_interleave(answer_tokens)
                weighted, _ = self.cross_entropy(hidden, targets.flatten(), target_positions, of_targets)
                # The value is the loss's, the gradient the weighted cross entropy's.
                sft = -self._sft * logp.detach()[0::2].sum().float() if self._sft else 0.0
                loss = weighted + (loss + sft - weighted).detach()
        if self.balance is not None and self.balance.active:
            assert real is not None
            loss = loss + self.balance.loss(output.router_logits, real)
        return loss, right

    def gains(self, batch: Batch) -> tuple[float, float]:
        """(sum of r over the answers that count, their number) of the last micro-batch, which was a mismatched one."""
        counts = batch.judgements > 0
        return float((self.logp.cpu().numpy() - batch.reference)[counts].sum()), float(counts.sum())

    def _log_probabilities(
        self, hidden: Tensor, targets: Tensor, target_positions: Tensor, answer_tokens: Tensor
    ) -> Tensor:
        """float64[A], without a gradient. hidden: [B T, D]. targets: int64[B T]."""
        if self.fused:
            counted, wanted = (values.index_select(0, target_positions) for values in (hidden, targets))
            losses = token_losses(self._plain_logits, counted, wanted, self.loss_chunk_tokens)
        else:
            of_all = token_losses(self.logits, hidden, targets, self.loss_chunk_tokens)
            losses = of_all.index_select(0, target_positions)
        if not len(answer_tokens):  # of padding; segment_reduce refuses it
            return losses.new_zeros(0, dtype=torch.float64)
        return -torch.segment_reduce(losses.double(), "sum", lengths=answer_tokens, initial=0)

    def _plain_logits(self, hidden: Tensor) -> Tensor:
        """The logits of a plain lm_head, computed as the fused loss does: [N, D] to float32[N, V]."""
        device = hidden.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            return float32_product(hidden.to(kind), self.causal.lm_head.weight.to(kind).T)

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

    def _measure(self, answers: AnswerScores, rewards: Tensor, judgements: Tensor) -> Tensor:
        """Add to `measures`. Returns the number of right ones."""
        values = torch.stack([rewards, answers.logp.detach(), torch.ones_like(rewards)])
        if self.name == "kto":
            desirable = judgements > 0.5
            right = halves(torch.where(desirable, rewards, -rewards))
            better, worse = values[:, desirable].sum(1), values[:, ~desirable].sum(1)
        else:
            chosen, rejected = pairs(rewards)
            right = halves(chosen - rejected)
            better, worse = values[:, 0::2].sum(1), values[:, 1::2].sum(1)
        self.measures.add(better, worse, right)
        return right


def halves(gains: Tensor) -> Tensor:
    """The number of positive gains, with zeros as halves: float64 scalar."""
    return ((gains > 0).double() + 0.5 * (gains == 0).double()).sum()


def answer_tensors(batch: Batch, device: torch.device | str) -> dict[str, Tensor]:
    """The arrays of the answers of a batch as tensors on the device."""
    arrays = (batch.answer_tokens, batch.answer_ends, batch.judgements, batch.reference)
    names = ("answer_tokens", "answer_ends", "judgements", "reference")
    return {name: torch.tensor(values, device=device) for name, values in zip(names, arrays, strict=True)}


class RolloutLoss(NextToken):
    """The policy gradient of sampled answers (rollouts/steps.py): a cross entropy weighted by their advantages."""

    def loss_denominator(self, batch: Batch) -> float:
        """The number of targets, for which the weights are scaled: advantages sum to about zero."""
        return batch.label_tokens


def score_head(causal: Any) -> Float32Linear:
    """The layer from a hidden state to a score, with random weights. An lm_head of its own is frozen, as it is unused.

    Raises:
        ConfigError: transformers has no sequence classifier of this kind of model, as which it would be exported.
    """
    settings = causal.config
    if type(settings) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"objective: reward: transformers has no sequence classifier of model type {settings.model_type}, and a "
            "model of rewards is exported as one. Use another base model."
        )
    width = settings.get_text_config().hidden_size
    score = Float32Linear(width, 1, bias=False)
    nn.init.normal_(score.weight, std=1 / (width + 1) ** 0.5)  # Stiennon et al. 2020
    head, embeddings = causal.get_output_embeddings(), causal.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        head.requires_grad_(False)
    return score


class RewardModel(NextToken):
    """A score of each answer, of the hidden state of its last token. The lm_head is not used.

    centring: of the settings. The others are as in NextToken.
    """

    of_answers = True

    def __init__(self, centring: float, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.centring = centring
        self.score = score_head(self.causal)

    def loss_denominator(self, batch: Batch) -> float:
        """The number of pairs."""
        return self.label_count(batch)

    def label_count(self, batch: Batch) -> int:
        """As `loss_denominator`."""
        return len(batch.answer_tokens) // 2

    def tensors(self, batch: Batch, device: torch.device | str, step: int | None = None) -> dict[str, Tensor]:
        """See Objective."""
        return super().tensors(batch, device, step) | answer_tensors(batch, device)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        targets: Tensor,
        classes: Tensor,
        ends: Tensor,
        starts: Tensor,
        target_positions: Tensor,
        answer_tokens: Tensor,
        answer_ends: Tensor,
        judgements: Tensor,
        reference: Tensor,
        real: Tensor | None = None,
        weights: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As AnswerLoss.forward. judgements: the margin of each answer's pair; NaN: 0."""
        with self._autocast(input_ids.device), self.noise.added(noise) if self.noise is not None else nullcontext():
            output = self._output(input_ids, position_ids, starts)
        hidden = output.last_hidden_state.flatten(0, 1)
        scores = self.score(hidden.index_select(0, answer_ends)).squeeze(-1)
        margins = torch.nan_to_num(judgements[0::2])
        # Without answers, as of padding, the sum is zero and still has a gradient, which engines wait for.
        loss = bradley_terry(scores, margins, self.centring).sum() + 0 * scores.sum() + 0 * hidden[:1].sum()
        found = scores.detach().double()
        right = halves(found[0::2] - found[1::2])
        values = torch.stack([found, torch.zeros_like(found), torch.ones_like(found)])
        self.measures.add(values[:, 0::2].sum(1), values[:, 1::2].sum(1), right)
        if self.balance is not None and self.balance.active:
            assert real is not None
            loss = loss + self.balance.loss(output.router_logits, real)
        return loss, right
