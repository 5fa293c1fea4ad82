"""Torch's DistributedDataParallel: every worker holds the whole model and its optimizer state.

Memory of each worker: 16 bytes per trained parameter (float32 weight, gradient and both averages; in a bf16 run too,
where only matrix products are bf16, by autocast), plus the frozen parameters. Host memory at start: one copy of the
model in each worker, freed as it moves to the device.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from raymill.training.config import TrainConfig
from raymill.training.engines.engine import Fetch, StateSlice, even_share, load_slices
from raymill.training.engines.optimizer import (
    make_optimizer,
    saved_states,
    set_steps_taken,
    start_state,
    state_names,
    take_step,
)
from raymill.training.engines.weight_average import make_average


class Ddp:
    """DistributedDataParallel as a `raymill.training.engines.engine.TrainingEngine`."""

    def __init__(self, config: TrainConfig, module: torch.nn.Module, device: torch.device) -> None:
        module.to(device)
        self.device = device
        self.trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self.optimizer = make_optimizer(config, module)
        start_state(self.optimizer, self.trained.values(), state_names(config.optimizer))
        self.average = make_average(config.optimizer, self.optimizer, self.trained.values())
        with warnings.catch_warnings():
            # torch 2.13 deprecates `broadcast_buffers` for a name that older versions lack.
            warnings.simplefilter("ignore", FutureWarning)
            self.ddp = DistributedDataParallel(
                module,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        # backward() has the argument `last`, so synchronisation is switched on there.
        self.ddp.require_backward_grad_sync = False
        self.module: torch.nn.Module = self.ddp
        self._settle_buckets()

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        with ExitStack() as stack:
            if last:
                # The preparations that DDP's forward makes when synchronisation is on.
                self.ddp.reducer.prepare_for_forward()
                self.ddp.reducer.prepare_for_backward([])
                self.ddp.require_backward_grad_sync = True
                stack.callback(setattr, self.ddp, "require_backward_grad_sync", False)
            (loss * torch.distributed.get_world_size()).backward()  # DDP averages over workers

    def _settle_buckets(self) -> None:
        """Fix the layout of DDP's gradient buckets before the first step, by a backward with zero gradients.

        DDP rebuilds its buckets after its first backward, in the order in which gradients arrived, and with three or
        more workers the order of summation depends on a value's place in its bucket. Without this call the first step
        after a resume would sum in another order than the same step of an uninterrupted run.
        """
        zero = sum((one.sum() for one in self.trained.values()), torch.zeros((), device=self.device)) * 0.0
        self.backward(zero, last=True)
        self.optimizer.zero_grad(set_to_none=False)

    def step(self, learning_rate: float, clip: float | None) -> float:
        norm = take_step(self.optimizer, learning_rate, clip, sharded=False)
        if self.average and math.isfinite(norm):
            self.average.update()
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self.average:
            self.average.swap()
        try:
            yield
        finally:
            if self.average:
                self.average.swap()

    def slices(self) -> Iterator[StateSlice]:
        """Each worker saves an equal share of the state that all of them hold."""
        return self._slices(torch.distributed.get_rank())

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        """Each worker reads its share from storage and broadcasts it, so that storage is read once in all."""
        load_slices(self.slices(), fetch)
        for worker in range(torch.distributed.get_world_size()):
            for one in self._slices(worker):
                torch.distributed.broadcast(one.values, worker)
        set_steps_taken(self.optimizer, steps_taken)
        if self.average:
            self.average.updates = steps_taken

    def close(self) -> None:
        self.optimizer.state.clear()
        self.trained.clear()

    def _slices(self, worker: int) -> Iterator[StateSlice]:
        """The worker's share of all trained values, with the parameters laid end to end."""
        total = sum(parameter.numel() for parameter in self.trained.values())
        first, last = even_share(total, worker, torch.distributed.get_world_size())
        begin = 0
        for name, parameter in self.trained.items():
            start, stop = max(first - begin, 0), min(last - begin, parameter.numel())
            begin += parameter.numel()
            if start < stop:
                for state, one in saved_states(self.optimizer, parameter):
                    yield StateSlice(name, state, tuple(parameter.shape), start, one.view(-1)[start:stop])
