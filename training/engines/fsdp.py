"""Torch's `fully_shard` (FSDP2): every worker holds a shard of each tensor; decoder layers are gathered one by one.

Memory of each worker: 16 bytes per trained parameter divided by the number of workers (weight, gradient, averages),
plus the one or two whole layers that are being computed and, during a micro-batch, the parameters outside the layers
(embeddings, lm_head). Gradients are reduce-scattered after every micro-batch; with `reduce_every_micro_batch: false`
once a step, and until then each worker holds 4 bytes more per trained parameter. Host memory at start: the weights stay
in the model's files, which the workers of a machine share, until they are on the device. Only a random model, or files
with weights of several types, are whole in each worker.

In a bf16 run the gathered weights are bf16; the shards that are kept and updated are float32, and gradients are summed
in float32.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from raymill.training.config import TrainConfig
from raymill.training.engines.engine import Fetch, StateSlice, load_slices, local_values, to_float32
from raymill.training.engines.optimizer import (
    make_optimizer,
    saved_states,
    set_steps_taken,
    start_state,
    state_names,
    take_step,
)
from raymill.training.engines.weight_average import make_average
from raymill.training.models.base import decoder_layers


class Fsdp:
    """FSDP2 as a `raymill.training.engines.engine.TrainingEngine`."""

    def __init__(self, config: TrainConfig, module: torch.nn.Module, device: torch.device) -> None:
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        # cast_forward_inputs: the module casts its inputs itself, by autocast.
        policy = (
            MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
            if config.bf16
            else MixedPrecisionPolicy()
        )
        for layer in decoder_layers(module):
            to_float32(layer, device)
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        to_float32(module, device)
        fully_shard(module, mesh=mesh, mp_policy=policy)
        self.module: Any = module
        self.reduces_always = config.reduce_every_micro_batch
        self.trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self.optimizer = make_optimizer(config, module)
        start_state(self.optimizer, self.trained.values(), state_names(config.optimizer))
        self.average = make_average(config.optimizer, self.optimizer, self.trained.values())

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.module.set_requires_gradient_sync(last or self.reduces_always)
        (loss * torch.distributed.get_world_size()).backward()  # FSDP averages over workers

    def step(self, learning_rate: float, clip: float | None) -> float:
        norm = take_step(self.optimizer, learning_rate, clip, sharded=True)
        if self.average and math.isfinite(norm):
            self.average.update()
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        if self.average:
            self._reshard()
            self.average.swap()

    def _reshard(self) -> None:
        """A forward without a backward leaves the outermost module gathered, with the weights from before."""
        for one in self.module.modules():
            if isinstance(one, FSDPModule):
                one.reshard()

    def slices(self) -> Iterator[StateSlice]:
        for name, parameter in self.trained.items():
            assert isinstance(parameter, DTensor)
            for state, part in saved_states(self.optimizer, parameter):
                if (values := local_values(part).view(-1)).numel():  # the last workers may hold none
                    yield StateSlice(name, state, tuple(parameter.shape), first_value(parameter), values)

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        self._reshard()
        load_slices(self.slices(), fetch)
        set_steps_taken(self.optimizer, steps_taken)
        if self.average:
            self.average.updates = steps_taken

    def close(self) -> None:
        self.optimizer.state.clear()
        self.trained.clear()


def first_value(parameter: DTensor) -> int:
    """First value of this worker's shard in the flattened parameter.

    `fully_shard` gives each worker ceil(rows / workers) consecutive rows, so the last workers may have fewer or none.
    """
    rows, workers = parameter.shape[0], parameter.device_mesh.size()
    row = min(-(-rows // workers) * parameter.device_mesh.get_local_rank(), rows)
    return row * (parameter.numel() // rows)
