"""Torch's `fully_shard` (FSDP2): every worker holds a shard of each tensor; decoder layers are gathered one by one.

Memory of each worker: 16 bytes per trained parameter divided by the number of workers (weight, gradient, averages),
plus the one or two whole layers that are being computed and, during a micro-batch, the parameters outside the layers
(embeddings, lm_head). Gradients are reduce-scattered after every micro-batch; with `reduce_every_micro_batch: false`
once a step, and until then each worker holds 4 bytes more per trained parameter. Host memory at start: the weights stay
in the model's files, which the workers of a machine share, until they are on the device. Only a random model, or files
with weights of several types, are whole in each worker.

With `shard: machine` the workers of each machine divide the model, and every machine has all of it: weights are
gathered within machines, and machines sum the reduced gradients once a step.

In a bf16 run the gathered weights are bf16; the shards that are kept and updated are float32, and gradients are summed
in float32.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from raymill.cluster.errors import ConfigError
from raymill.training.config import TrainConfig
from raymill.training.engines.engine import (
    Fetch,
    StateSlice,
    even_share,
    load_slices,
    local_values,
    to_float32,
)
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

_REPLICATE, _SHARD = "replicate", "shard"  # the dimensions of the mesh


class Fsdp:
    """FSDP2 as a `raymill.training.engines.engine.TrainingEngine`."""

    def __init__(self, config: TrainConfig, module: torch.nn.Module, device: torch.device) -> None:
        mesh = self.mesh = make_mesh(config.shard, device)
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
        self.module.set_requires_all_reduce(last)  # between machines, with `shard: machine`
        (loss * torch.distributed.get_world_size()).backward()  # FSDP averages over workers

    def step(self, learning_rate: float, clip: float | None) -> float:
        norm = take_step(self.optimizer, learning_rate, clip, sharded=True, group=self.mesh.get_group(_SHARD))
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
        """Each worker saves its shard; of a shard that several machines have, an equal share."""
        machine, machines = 0, 1
        if self.mesh.ndim > 1:
            machine, machines = self.mesh.get_local_rank(_REPLICATE), self.mesh[_REPLICATE].size()
        for one in self._slices():
            start, stop = even_share(one.values.numel(), machine, machines)
            if stop > start:
                yield replace(one, start=one.start + start, values=one.values[start:stop])

    def _slices(self) -> Iterator[StateSlice]:
        for name, parameter in self.trained.items():
            assert isinstance(parameter, DTensor)
            for state, part in saved_states(self.optimizer, parameter):
                if (values := local_values(part).view(-1)).numel():  # the last workers may hold none
                    yield StateSlice(name, state, tuple(parameter.shape), first_value(parameter), values)

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        self._reshard()
        load_slices(self._slices(), fetch)
        set_steps_taken(self.optimizer, steps_taken)
        if self.average:
            self.average.updates = steps_taken

    def close(self) -> None:
        self.optimizer.state.clear()
        self.trained.clear()


def make_mesh(shard: str, device: torch.device) -> DeviceMesh:
    """The mesh of the workers that divide the model; with shard `machine`, of machines by the workers of each.

    shard: as in the config.

    Raises:
        ConfigError: with `machine`, machines have different numbers of workers, or ranks do not follow each other
            machine by machine.
    """
    world = torch.distributed.get_world_size()
    if shard == "all":
        return init_device_mesh(device.type, (world,), mesh_dim_names=(_SHARD,))
    within = int(os.environ["LOCAL_WORLD_SIZE"])
    own = torch.tensor([within, int(os.environ["LOCAL_RANK"])])
    everyone = [torch.empty_like(own) for _ in range(world)]
    torch.distributed.all_gather(everyone, own)
    places = [tuple(one.tolist()) for one in everyone]
    if places != [(within, rank % within) for rank in range(world)]:
        counts = sorted({count for count, _ in places})
        raise ConfigError(
            "shard: machine needs equally many workers on each machine, with consecutive ranks; the machines have "
            f"{', '.join(map(str, counts))} workers. Change workers.count, or set shard: all."
        )
    return init_device_mesh(device.type, (world // within, within), mesh_dim_names=(_REPLICATE, _SHARD))


def first_value(parameter: DTensor) -> int:
    """First value of this worker's shard in the flattened parameter.

    `fully_shard` gives each worker ceil(rows / workers) consecutive rows, so the last workers may have fewer or none.
    """
    rows, mesh = parameter.shape[0], parameter.device_mesh[_SHARD]
    row = min(-(-rows // mesh.size()) * mesh.get_local_rank(), rows)
    return row * (parameter.numel() // rows)
