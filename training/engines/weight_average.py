"""The exponential moving average of the trained weights, in float32 beside the master weights and sharded as they are.

After update n (from 1) with the weights w, the average a becomes a + (1 - d) (w - a), where

    d = min(decay, (1 + n) / (10 + n))

so that a training of few updates is not the average of its first weights (as in TensorFlow's ExponentialMovingAverage
and in diffusers). It begins with the first weights. The average is one more state in the optimizer, so it is saved in
checkpoints and restored by any engine on any number of workers.
"""

from collections.abc import Iterable

import torch

from raymill.training.config_parts import Optimizer
from raymill.training.engines.engine import AVERAGE, local_values


class WeightAverage:
    """The averages of one worker.

    masters: its master weights, which are keys of the optimizer's state. updates: number of optimizer steps so far.
    """

    def __init__(self, decay: float, optimizer: torch.optim.Optimizer, masters: Iterable[torch.Tensor]) -> None:
        self.decay = decay
        self.updates = 0
        pairs = [(local_values(one.detach()), local_values(optimizer.state[one][AVERAGE])) for one in masters]
        self.masters, self.averages = [master for master, _ in pairs], [average for _, average in pairs]
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Begin with the weights that the engine has."""
        torch._foreach_copy_(self.averages, self.masters)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more optimizer step into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, self.masters, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages, one tensor after the other, in place."""
        for master, average in zip(self.masters, self.averages, strict=True):
            before = master.clone()
            master.copy_(average)
            average.copy_(before)


def make_average(
    settings: Optimizer, optimizer: torch.optim.Optimizer, masters: Iterable[torch.Tensor]
) -> WeightAverage | None:
    """The average that the settings ask for; None if they ask for none."""
    return None if settings.ema_decay is None else WeightAverage(settings.ema_decay, optimizer, masters)
