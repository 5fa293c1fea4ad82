"""Every worker holds everything: torch's DistributedDataParallel.

Memory of each worker: all weights, float32 masters (of a bf16 run too: matrix products alone are bf16, by autocast),
gradients and both averages: 16 bytes a trained parameter, and the frozen ones as they come. Host memory at start: one
copy of the model in each worker, given up as it moves to the device.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from training.config import TrainConfig
from training.engines import STATES, Fetch, Slice
from training.engines.adamw import make_adamw, set_steps_taken, start_state, take_step
from training.engines.runs import Run, fill_runs, read_runs, share


class Ddp:
    """See training.engines.Engine."""

    def __init__(self, config: TrainConfig, module: torch.nn.Module, device: torch.device) -> None:
        module.to(device)
        self.device = device
        self.trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self.optimizer = make_adamw(config.optimizer, module)
        start_state(self.optimizer, self.trained.values())
        with warnings.catch_warnings():
            # torch 2.13 has a new name for `broadcast_buffers`, which 2.10 does not know.
            warnings.simplefilter("ignore", FutureWarning)
            self.ddp = DistributedDataParallel(
                module,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        # Whether a micro-batch is the last is known only after its forward pass, so backward() decides.
        self.ddp.require_backward_grad_sync = False
        self.module: torch.nn.Module = self.ddp
        self._settle_buckets()

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        with ExitStack() as stack:
            if last:
                # What DDP's forward does when it is to synchronise.
                self.ddp.reducer.prepare_for_forward()
                self.ddp.reducer.prepare_for_backward([])
                self.ddp.require_backward_grad_sync = True
                stack.callback(setattr, self.ddp, "require_backward_grad_sync", False)
            (loss * torch.distributed.get_world_size()).backward()  # DDP averages over workers

    def _settle_buckets(self) -> None:
        """Let DDP arrange its buckets before the first step, by a backward whose gradients are all zero.

        DDP lays gradients out anew after its first backward, in the order in which they came, and three workers or more
        add a value in an order that depends on its place. So the first step after a resume would add in another order
        than the same step of a run that was not interrupted. This order is that of a model's backward: the last first.
        """
        zero = sum((one.sum() for one in self.trained.values()), torch.zeros((), device=self.device)) * 0.0
        self.backward(zero, last=True)
        self.optimizer.zero_grad(set_to_none=False)

    def step(self, learning_rate: float, clip: float | None) -> float:
        return take_step(self.optimizer, learning_rate, clip, sharded=False)

    def slices(self) -> Iterator[Slice]:
        """Every worker saves an equal part of what all of them hold."""
        return read_runs(self._runs(torch.distributed.get_rank()))

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        """Every worker reads its part and sends it to the others: storage is read once, not once a worker."""
        fill_runs(self._runs(torch.distributed.get_rank()), fetch)
        for worker in range(torch.distributed.get_world_size()):
            for run in self._runs(worker):
                for values in run.states.values():
                    torch.distributed.broadcast(values, worker)
        set_steps_taken(self.optimizer, steps_taken)

    def close(self) -> None:
        self.optimizer.state.clear()
        self.trained.clear()

    def _runs(self, worker: int) -> Iterator[Run]:
        """The worker's part of all trained values, the parameters lying one after the other."""
        total = sum(parameter.numel() for parameter in self.trained.values())
        first, last = share(total, worker, torch.distributed.get_world_size())
        begin = 0
        for name, parameter in self.trained.items():
            start, stop = max(first - begin, 0), min(last - begin, parameter.numel())
            begin += parameter.numel()
            if start < stop:
                own = self.optimizer.state[parameter]
                flat = (parameter.detach(), own["exp_avg"], own["exp_avg_sq"])
                states = {state: one.view(-1)[start:stop] for state, one in zip(STATES, flat, strict=True)}
                yield Run(name, tuple(parameter.shape), start, states)
