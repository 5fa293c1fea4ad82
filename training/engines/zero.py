"""DeepSpeed ZeRO: optimizer state sharded (stage 1), gradients too (2), weights too (3); optionally in CPU memory.

Memory of each of W workers per trained parameter of a float32 run: master weight and averages 12 / W bytes, gradient
4 bytes (4 / W from stage 2), weight 4 bytes (4 / W in stage 3; in a bf16 run half of that). `offload: optimizer` moves
master weights, averages and the update to the CPU, `offload: parameters` the sharded weights too. Host memory at start:
in a bf16 run the weights stay in the model's files, which the workers of a machine share, if these have bf16 weights;
else one copy of the model in each worker.

DeepSpeed shards and communicates. The loss denominator, the learning rate and the moment of a step are set here; AdamW
is torch's fused kernel, so nothing is compiled. Clipping and gradient norm are DeepSpeed's and equal those of the other
engines.
"""

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed

from raymill.training.config import TrainConfig
from raymill.training.engines.engine import STATES, Fetch, StateSlice, fetched, load_slices, to_float32
from raymill.training.engines.optimizer import (
    make_optimizer,
    set_learning_rate,
    set_steps_taken,
    start_state,
    state_names,
)
from raymill.training.engines.weight_average import make_average
from raymill.training.plan.memory import BUCKET_VALUES, WHOLE_BELOW_VALUES

_MASTER = STATES[0]


class Zero:
    """DeepSpeed ZeRO as a `raymill.training.engines.engine.TrainingEngine`."""

    def __init__(self, config: TrainConfig, module: torch.nn.Module, device: torch.device) -> None:
        deepspeed = _import_deepspeed(device)
        settings = zero_settings(config, torch.distributed.get_world_size())
        stage = settings["zero_optimization"]["stage"]
        trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        shapes = {name: tuple(one.shape) for name, one in trained.items()}
        masters = {name: one.detach() for name, one in trained.items()} if config.bf16 else {}
        optimizer = make_optimizer(config, module)
        if config.bf16:
            for parameter in module.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        else:
            to_float32(module, "cpu")
        if stage == 3:
            for buffer in module.buffers():
                buffer.data = buffer.data.to(device)
            # Shards tensor by tensor, since the whole model may not fit on the device.
            deepspeed.zero.Init(module=module, config_dict_or_path=settings)
        self.module, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
        states = state_names(config.optimizer)
        self.state: FlatState | ShardedState
        if stage == 3:
            self.state = ShardedState(self.module.optimizer, optimizer, trained, shapes, states, deepspeed.utils)
        else:
            self.state = FlatState(self.module.optimizer, optimizer, trained, shapes, states)
        self.optimizer = optimizer
        if masters:
            self.state.set_masters(lambda name, state, start, stop: masters[name].view(-1)[start:stop])
        self.average = make_average(config.optimizer, optimizer, self.state.flat)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.module.set_gradient_accumulation_boundary(last)
        self.module.backward(loss * torch.distributed.get_world_size())  # DeepSpeed averages over workers

    def step(self, learning_rate: float, clip: float | None) -> float:
        self.module.optimizer.clip_grad = clip or 0.0
        set_learning_rate(self.optimizer, learning_rate)
        self.module.step()
        norm = float(self.module.get_global_grad_norm())
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
            with self.state.changing_masters():
                self.average.swap()

    def slices(self) -> Iterator[StateSlice]:
        return self.state.slices()

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        self.state.set_masters(fetch)
        self.state.set_averages(fetch)
        set_steps_taken(self.optimizer, steps_taken)
        if self.average:
            self.average.updates = steps_taken

    def close(self) -> None:
        self.module.destroy()


class FlatState:
    """The optimizer state of this worker in stages 1 and 2.

    DeepSpeed keeps one flat float32 tensor for each parameter group, cut into equal parts. This worker's part holds
    some parameters whole and one or two in part; a parameter's `_hp_mapping` gives the range. Master weights are set
    first, then the weights that the model computes with are updated from them.

    zero: DeepSpeed's optimizer around `adamw`. trained, shapes: trained parameters and their whole shapes, by name.
    states: those of a parameter. flat: this worker's master weights.
    """

    def __init__(
        self,
        zero: Any,
        adamw: torch.optim.AdamW,
        trained: dict[str, torch.nn.Parameter],
        shapes: dict[str, tuple[int, ...]],
        states: tuple[str, ...],
    ) -> None:
        self.zero, self.adamw, self.trained, self.shapes, self.states = zero, adamw, trained, shapes, states
        # DeepSpeed has replaced the parameters of each AdamW group by one tensor: this worker's part.
        self.flat = [group["params"][0] for group in adamw.param_groups]
        start_state(adamw, self.flat, states)

    def slices(self) -> Iterator[StateSlice]:
        """The slices of this worker's part, see `Engine.slices`."""
        return self._slices(self.states)

    @contextmanager
    def changing_masters(self) -> Iterator[None]:
        """At the end of this context, the weights that the model computes with are made from the master weights."""
        yield
        self.zero.update_lp_params()

    def set_masters(self, fetch: Fetch) -> None:
        """Set the master weights, and update the weights that the model computes with."""
        with self.changing_masters():
            load_slices(self._slices((_MASTER,)), fetch)

    def set_averages(self, fetch: Fetch) -> None:
        """Set AdamW's two running averages, and the one of the weights."""
        load_slices(self._slices(self.states[1:]), fetch)

    def _slices(self, states: tuple[str, ...]) -> Iterator[StateSlice]:
        for name, parameter in self.trained.items():
            held = parameter._hp_mapping  # type: ignore[attr-defined]
            if held is None:
                continue
            part = self.flat[held.param_group_index]
            flat = {_MASTER: part.detach()} | {one: self.adamw.state[part][one] for one in self.states[1:]}
            where, first = held.hp_fragment_address, held.lp_fragment_address.start
            for state in states if where.numel else ():
                values = flat[state].narrow(0, where.start, where.numel)
                yield StateSlice(name, state, self.shapes[name], first, values)


class ShardedState:
    """The optimizer state of this worker in ZeRO stage 3.

    DeepSpeed flattens every parameter and cuts it into equal parts, the last one padded with zeros. Arguments as
    FlatState's; utils: the module `deepspeed.utils`.
    """

    def __init__(
        self,
        zero: Any,
        adamw: torch.optim.AdamW,
        trained: dict[str, torch.nn.Parameter],
        shapes: dict[str, tuple[int, ...]],
        states: tuple[str, ...],
        utils: ModuleType,
    ) -> None:
        self.zero, self.adamw, self.trained, self.shapes, self.states = zero, adamw, trained, shapes, states
        self.utils = utils
        self.flat = zero.fp32_partitioned_groups_flat
        start_state(adamw, self.flat, states)

    def slices(self) -> Iterator[StateSlice]:
        """The slices of this worker's parts without their padding, see `Engine.slices`."""
        for name, parameter in self.trained.items():
            start, real = self._range(name)
            for state in self.states if real else ():
                yield StateSlice(name, state, self.shapes[name], start, self._part(parameter, state)[:real])

    def set_masters(self, fetch: Fetch) -> None:
        """Set the master weights, and update the weights that the model computes with."""
        with self.changing_masters():
            self._fill((_MASTER,), fetch)

    @contextmanager
    def changing_masters(self) -> Iterator[None]:
        """At the end of this context, the weights that the model computes with are made from the master weights."""
        self.zero.checkpoint_event_prologue()  # frees gathered parameters, which would be out of date
        yield
        for group in range(len(self.zero.fp16_groups)):
            self.zero._reassign_or_swap_out_partitioned_parameters(group)
        self.zero.checkpoint_event_epilogue()

    def set_averages(self, fetch: Fetch) -> None:
        """Set AdamW's two running averages, and the one of the weights."""
        self._fill(self.states[1:], fetch)

    def _fill(self, states: tuple[str, ...], fetch: Fetch) -> None:
        ranges = {name: self._range(name) for name in self.trained}
        wanted = (
            ((name, state), (name, state, start, start + real))
            for name, (start, real) in ranges.items()
            for state in (states if real else ())
        )
        for (name, state), values in fetched(wanted, fetch):
            part = self._part(self.trained[name], state)
            part[: len(values)] = values
            self._set_part(self.trained[name], state, part)

    def _range(self, name: str) -> tuple[int, int]:
        """(start of this worker's part in the flattened parameter, number of its values that are not padding)."""
        values = math.prod(self.shapes[name])
        size = self.trained[name].partition_numel()  # type: ignore[attr-defined]
        start = min(size * torch.distributed.get_rank(), values)
        return start, min(size, values - start)

    def _part(self, parameter: torch.nn.Parameter, state: str) -> torch.Tensor:
        """This worker's part, float32[n]: a view, or a copy on the device if it is offloaded to the CPU."""
        if state == _MASTER:
            return self.utils.safe_get_local_fp32_param(parameter).detach()
        return self.utils.safe_get_local_optimizer_state(parameter, state)

    def _set_part(self, parameter: torch.nn.Parameter, state: str, part: torch.Tensor) -> None:
        if state == _MASTER:
            self.utils.safe_set_local_fp32_param(parameter, part)
        else:
            self.utils.safe_set_local_optimizer_state(parameter, part, state)


def zero_settings(config: TrainConfig, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration for `world` workers.

    `gradient_accumulation_steps` is 1 because the engine itself marks the last micro-batch of a step.
    """
    gpu = config.workers.gpus_each > 0
    stage = int(config.engine.removeprefix("zero"))
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": gpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET_VALUES,
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": BUCKET_VALUES,
            "stage3_param_persistence_threshold": WHOLE_BELOW_VALUES,
        }
    else:
        zero["allgather_bucket_size"] = BUCKET_VALUES
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": gpu}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": gpu}
    settings: dict[str, Any] = {
        "train_batch_size": world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.clip or 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
    }
    if config.bf16:
        # Matrix products in bf16; master weights, averages and summed gradients in float32.
        settings |= {
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    return settings


def _import_deepspeed(device: torch.device) -> ModuleType:
    """DeepSpeed with its communication on the given device type, its extensions uncompiled, warnings on stderr only.

    It is imported here because it is an optional package and reads DS_ACCELERATOR when it is imported; without the
    variable it uses a GPU where there is one.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    # On CPUs, init would spend half a minute compiling an all-reduce that only DeepSpeed's inference calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It uses names of torch.distributed that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    log = logging.getLogger("DeepSpeed")
    log.setLevel(logging.WARNING)
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    # Makes DeepSpeed use torch's process group; before this call it assumes a world size of one.
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return deepspeed
