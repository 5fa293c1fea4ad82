"""The training objective: a module whose call gives the sum of losses and the correct predictions of a micro-batch.

It runs the model and chooses what is predicted: the next token, or the class of a row. loss.py has the arithmetic of
the cross entropy in chunks.

Letters: B rows, T positions, D hidden size, V vocabulary.

The model's body runs once over all positions. The lm_head and any logit caps or scales run chunk by chunk: the model's
own forward is called with its body replaced by one that returns a chunk of hidden states. So the logits are exactly the
model's own, and only a chunk of them is in memory. Where the logits are the lm_head's product alone and the engine has
that weight whole, the faster fused loss is used (loss.py).
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from raymill.cluster.errors import ConfigError
from raymill.training.data.batch import Batch
from raymill.training.data.packed import NO_TARGET
from raymill.training.models.attention import boundaries
from raymill.training.models.context import ContextParallel
from raymill.training.models.loss import (
    Elementwise,
    RouterBalance,
    chunked_loss,
    elementwise,
    float32_product,
    fused_loss,
    router_balance,
    token_losses,
)
from raymill.training.models.neftune import EmbeddingNoise


class Measures:
    """Sums of what an objective measures besides its loss, over the micro-batches of one worker."""

    def __init__(self, count: int) -> None:
        self.sums = torch.zeros(count, dtype=torch.float64)

    def add(self, sums: Tensor) -> None:
        """sums: float64[count]."""
        self.sums = self.sums.to(sums.device) + sums.detach()

    def take(self) -> list[float]:
        """The sums so far, which start again at zero."""
        found = self.sums.tolist()
        self.sums = torch.zeros_like(self.sums)
        return found


class Objective(nn.Module):
    """Base class of the objectives.

    model: the transformers or peft model. bf16: compute in bf16 by autocast. balance: the load-balancing loss of a
    mixture of experts, if its config asks for one. noise: on the embeddings in training, if the config asks for it.
    context: the workers that share rows, if several do; batches are then parts of rows. measures: what it measures
    besides the loss.
    """

    def __init__(self, model: Any, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16
        self.balance: RouterBalance | None = None
        self.noise: EmbeddingNoise | None = None
        self.context: ContextParallel | None = None
        self.measures = Measures(0)

    @property
    def attention(self) -> str:
        """transformers' name of the attention that computes the model."""
        return self.model.config._attn_implementation

    def loss_denominator(self, batch: Batch) -> float:
        """The sum of the weights of the targets that the sum of losses counts; their number if all weights are 1.

        A step divides its loss by the sum of these over its micro-batches and workers.
        """
        return batch.loss_weight

    def label_count(self, batch: Batch) -> int:
        """The number of targets, of which accuracy is a share."""
        return batch.label_tokens

    def tensors(self, batch: Batch, device: torch.device | str, step: int | None = None) -> dict[str, Tensor]:
        """The batch's arrays as the arguments of `forward`, on the device.

        step: of training, which decides the noise on the embeddings; None: no training, so no noise.
        """
        noise = {} if self.noise is None or step is None else {"noise": self.noise.of(batch, step, device)}
        names = ["input_ids", "position_ids", "targets", "classes", "ends", "starts", "target_positions"]
        if self.balance is not None:
            names.append("real")
        if batch.weights is not None:
            names.append("weights")
        tensors = {name: torch.from_numpy(getattr(batch, name)) for name in names}
        if torch.device(device).type == "cpu":
            return tensors | noise
        return {name: values.pin_memory().to(device, non_blocking=True) for name, values in tensors.items()} | noise

    def step_sum(self, batch: Batch) -> float:
        """A sum over the micro-batches and workers of a step that the loss needs, besides the denominator."""
        return 0.0

    def begin_step(self, denominator: float, total: float) -> None:
        """Start a step. denominator, total: `loss_denominator` and `step_sum` of all its micro-batches and workers."""

    def means(self, sums: Sequence[float], labels: float) -> dict[str, float]:
        """Names and means of what is measured besides the loss.

        sums: of `measures`, over all workers. labels: `loss_denominator` of all workers.
        """
        return {}

    def tables(self, sums: Sequence[float]) -> dict[str, Any]:
        """What is measured of held-out rows besides means, by keys of Measured. sums: as of `means`."""
        return {}

    @contextmanager
    def as_base_model(self) -> Iterator[None]:
        """Inside this context, an untrained objective gives the base model's loss."""
        yield

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)


class NextToken(Objective):
    """Cross entropy of the next token, over the positions that have a target.

    Args:
        loss_chunk_tokens: positions whose logits are in memory at once.
        virtual: how peft puts virtual tokens before a row: None, `prompt` (embeddings) or `prefix` (keys and values).
        lm_head_is_unsharded: the engine has the lm_head's weight whole during the forward pass.
        after_logits: as in `loss.fused_loss`.
    """

    def __init__(
        self,
        model: Any,
        bf16: bool,
        loss_chunk_tokens: int,
        virtual: str | None = None,
        lm_head_is_unsharded: bool = False,
        after_logits: Elementwise = elementwise,
    ) -> None:
        super().__init__(model, bf16)
        self.loss_chunk_tokens = loss_chunk_tokens
        self.after_logits = after_logits
        self.virtual = virtual
        self.body_name = body_name(self.causal)
        self.fused = lm_head_is_unsharded and self._has_plain_head()
        self.balance = router_balance(self.causal)

    @contextmanager
    def as_base_model(self) -> Iterator[None]:
        """Leave out the virtual tokens, which are random before training; LoRA's initial change is zero anyway."""
        virtual, self.virtual = self.virtual, None
        try:
            yield
        finally:
            self.virtual = virtual

    @property
    def causal(self) -> Any:
        """The transformers model with its lm_head, without peft's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def body(self) -> nn.Module:
        """The part of the model from tokens to hidden states."""
        return self.causal._modules[self.body_name]

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        targets: Tensor,
        classes: Tensor,
        ends: Tensor,
        starts: Tensor,
        target_positions: Tensor,
        real: Tensor | None = None,
        weights: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of one micro-batch.

        Args:
            input_ids, position_ids, targets: int64[B, T]. classes, ends: int64[B], not used here. starts: int32[S + 1].
            target_positions: int64[L]. real: bool[B, T], for the load-balancing loss. weights: float32[B, T].
            noise: float32[B, T, D], added to the embeddings.
            See `raymill.training.data.batch.Batch`.

        Returns:
            (weighted sum of losses, float32 scalar; number of correct predictions, int64 scalar). Within a step of
            `balance` its loss is added to the sum.
        """
        with self._autocast(input_ids.device):
            with self._with_noise(noise):
                output = self._output(input_ids, position_ids, starts)
            hidden = output.last_hidden_state[:, -input_ids.shape[1] :].flatten(0, 1)
            factors = None if weights is None else weights.flatten().index_select(0, target_positions)
            loss, correct = self.cross_entropy(hidden, targets.flatten(), target_positions, factors)
        return self._balanced(loss, output, real), correct

    def _with_noise(self, noise: Tensor | None) -> AbstractContextManager[None]:
        return nullcontext() if self.noise is None else self.noise.added(noise)

    def _balanced(self, loss: Tensor, output: Any, real: Tensor | None) -> Tensor:
        """The loss, within a step of `balance` with its loss added. output: of the model's body."""
        if self.balance is None or not self.balance.active:
            return loss
        assert real is not None
        virtual = output.last_hidden_state.shape[1] - real.shape[1]
        # The first position of a row is real unless the whole row is padding.
        everywhere = torch.cat([real[:, :1].expand(-1, virtual), real], 1)
        return loss + self.balance.loss(output.router_logits, everywhere)

    def cross_entropy(
        self, hidden: Tensor, targets: Tensor, target_positions: Tensor, factors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(sum of the targets' losses, each times its factor; number of correct predictions).

        Args:
            hidden: [B T, D]. targets: int64[B T]. target_positions: int64[L]. factors: float32[L]; None: all are 1.
        """
        if self.fused:
            counted, wanted = (values.index_select(0, target_positions) for values in (hidden, targets))
            weight = self.causal.lm_head.weight
            return fused_loss(counted, weight, wanted, self.loss_chunk_tokens, self.after_logits, factors)
        if factors is not None:
            factors = factors.new_zeros(len(hidden)).index_copy(0, target_positions, factors)
        return chunked_loss(self.logits, hidden, targets, self.loss_chunk_tokens, factors)

    def target_losses(self, hidden: Tensor, targets: Tensor, target_positions: Tensor) -> Tensor:
        """The loss of each target, float32[L], without a gradient. Arguments as of `cross_entropy`."""
        if self.fused:
            counted, wanted = (values.index_select(0, target_positions) for values in (hidden, targets))
            return token_losses(self._plain_logits, counted, wanted, self.loss_chunk_tokens)
        of_all = token_losses(self.logits, hidden, targets, self.loss_chunk_tokens)
        return of_all.index_select(0, target_positions)

    def _plain_logits(self, hidden: Tensor) -> Tensor:
        """The logits of a plain lm_head, computed as the fused loss does: [N, D] to float32[N, V]."""
        device = hidden.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            return float32_product(hidden.to(kind), self.causal.lm_head.weight.to(kind).T)

    def hidden(self, input_ids: Tensor, position_ids: Tensor, starts: Tensor) -> Tensor:
        """Last hidden states [B, T, D]; those of `prompt`'s virtual tokens are cut off again."""
        return self._output(input_ids, position_ids, starts).last_hidden_state[:, -input_ids.shape[1] :]

    def _output(self, input_ids: Tensor, position_ids: Tensor, starts: Tensor) -> Any:
        """The output of the model's body; with `prompt`, the output of the virtual tokens comes first.

        With virtual tokens a row must be one document.
        """
        more = {"output_router_logits": True} if self.balance is not None and self.balance.active else {}
        if self.virtual is None:
            more |= boundaries(self.attention, starts, input_ids.shape[1], self.context)
            return self.body(input_ids=input_ids, position_ids=position_ids, use_cache=False, **more)
        prompt = self.model.get_prompt(len(input_ids), max_cache_len=input_ids.shape[1])
        if self.virtual == "prefix":
            return self.body(input_ids=input_ids, past_key_values=prompt, use_cache=True, **more)
        words = self.causal.get_input_embeddings()(input_ids)
        embeddings = torch.cat([prompt.to(words.dtype), words], dim=1)
        return self.body(inputs_embeds=embeddings, use_cache=False, **more)

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own logits of last hidden states: [N, D] to [N, V]."""
        with _body_returning(self.causal, self.body_name, hidden.unsqueeze(0)):
            # `forward` instead of a call: calling it would run FSDP's or ZeRO's hooks a second time.
            return self.causal.forward(input_ids=None, use_cache=False).logits.squeeze(0)

    def _has_plain_head(self) -> bool:
        """Whether the logits are the product of hidden states and the lm_head's matrix and nothing more.

        Checked by one small product.
        """
        head = getattr(self.causal, "lm_head", None)
        if type(head) is not nn.Linear or head.bias is not None or head.weight.is_meta:
            return False
        seen = torch.linspace(-3, 3, 2 * head.in_features, dtype=head.weight.dtype, device=head.weight.device)
        with torch.no_grad():
            hidden = seen.view(2, head.in_features)
            return torch.allclose(self.logits(hidden), head(hidden), rtol=1e-3)


def body_name(causal: Any) -> str:
    """The name of the model's body: its only child that is a transformers model itself.

    Raises:
        ConfigError: there is none, or more than one.
    """
    names = [name for name, child in causal.named_children() if isinstance(child, PreTrainedModel)]
    if len(names) != 1:
        raise ConfigError(
            f"model: {type(causal).__name__} has no body apart from its lm_head, so its loss cannot be computed in "
            "chunks. Give a causal language model of transformers."
        )
    return names[0]


class _FixedBody(nn.Module):
    """A body that returns given hidden states. OPT calls a child of its body directly, so children are replaced too."""

    def __init__(self, hidden: Tensor, children: Collection[str]) -> None:
        super().__init__()
        self.outputs = _Outputs(hidden)
        self.parts = frozenset(children)

    def __getattr__(self, name: str) -> Any:
        return self if name in self.__dict__.get("parts", ()) else super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> "_Outputs":
        return self.outputs


class _Outputs:
    """A body's outputs with the last hidden state; every other attribute is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, which: int | slice) -> Any:
        return (self.last_hidden_state,)[which]


@contextmanager
def _body_returning(causal: Any, name: str, hidden: Tensor) -> Iterator[None]:
    """Inside this context, the child `name` of the model returns `hidden` as its last hidden state."""
    modules = causal._modules
    body = modules[name]
    modules[name] = _FixedBody(hidden, body._modules)
    try:
        yield
    finally:
        modules[name] = body


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32. Engines that shard have its weight in bf16 in a bf16 run."""

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] to float32[B, classes]."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(features.float(), self.weight.float(), bias)


class RowClassifier(Objective):
    """Cross entropy of a row's class, from the frozen base's hidden states through one linear layer.

    pool: `last`, the hidden state of the last real token; `mean`, of all real tokens.
    """

    def __init__(self, model: Any, bf16: bool, classes: int, pool: str) -> None:
        super().__init__(model, bf16)
        self.pool = pool
        self.classifier = Float32Linear(model.config.get_text_config().hidden_size, classes)

    def train(self, mode: bool = True) -> "RowClassifier":
        """Set the mode of the classifier; the base stays in eval mode, so that its features have no dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def loss_denominator(self, batch: Batch) -> float:
        """The number of rows with a label."""
        return self.label_count(batch)

    def label_count(self, batch: Batch) -> int:
        """The number of rows with a label."""
        return int((batch.classes != NO_TARGET).sum())

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        targets: Tensor,
        classes: Tensor,
        ends: Tensor,
        starts: Tensor,
        target_positions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Like NextToken.forward, but one loss per row. targets and target_positions are ignored."""
        scores = self.scores(input_ids, position_ids, starts, ends)
        loss = F.cross_entropy(scores, classes, ignore_index=NO_TARGET, reduction="sum")
        return loss, (scores.detach().argmax(-1) == classes).sum()

    def scores(self, input_ids: Tensor, position_ids: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
        """Scores of the classes, float32[B, classes]."""
        with torch.no_grad(), self._autocast(input_ids.device):
            documents = boundaries(self.model.config._attn_implementation, starts, input_ids.shape[1])
            hidden = self.model(
                input_ids=input_ids, position_ids=position_ids, use_cache=False, **documents
            ).last_hidden_state
        return self.classifier(pooled(hidden.float(), ends, self.pool))


def pooled(hidden: Tensor, ends: Tensor, pool: str) -> Tensor:
    """One hidden state per row, [B, T, D] to [B, D]: at position `ends` (`last`), or the mean up to it (`mean`)."""
    if pool == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), ends]
    real = torch.arange(hidden.shape[1], device=hidden.device) <= ends[:, None]
    return (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
