"""DeepSpeed's ZeRO: optimizer state in parts (1), gradients too (2), weights too (3); on request in CPU memory.

Memory of each of W workers, a trained parameter of a float32 run: masters and averages 12 / W bytes, and as many
gradient bytes (4, or 4 / W from stage 2) and weights (4, or 4 / W in stage 3; a bf16 run: 2). `offload: optimizer`
moves masters, averages and the update to the CPU, `parameters` the parts of the weights too. Host memory at start: one
copy of the model in each worker; a bf16 run keeps the float32 values of trained parameters until masters are made.

DeepSpeed is used for the parts and the communication. Denominator, learning rate and the moment of a step are ours;
AdamW is torch's fused one, so nothing is compiled. Clipping and the norm are DeepSpeed's, which are the same as ours.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.distributed

from training.config import TrainConfig
from training.engines import BUCKET_VALUES, WHOLE_BELOW_VALUES, Fetch, Slice
from training.engines.adamw import make_adamw, set_learning_rate, set_steps_taken
from training.engines.zero_state import FlatState, PartedState


class Zero:
    """See training.engines.Engine."""

    def __init__(self, config: TrainConfig, module: torch.nn.Module, device: torch.device) -> None:
        deepspeed = _deepspeed(device)
        settings = zero_settings(config, torch.distributed.get_world_size())
        stage = settings["zero_optimization"]["stage"]
        trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        shapes = {name: tuple(one.shape) for name, one in trained.items()}
        masters = {name: one.detach() for name, one in trained.items()} if config.bf16 else {}
        optimizer = make_adamw(config.optimizer, module)
        if config.bf16:
            for parameter in module.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        if stage == 3:
            for buffer in module.buffers():
                buffer.data = buffer.data.to(device)
            # In parts one tensor after the other: whole, the model may not fit into the device.
            deepspeed.zero.Init(module=module, config_dict_or_path=settings)
        self.module, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
        self.state = (PartedState if stage == 3 else FlatState)(self.module.optimizer, optimizer, trained, shapes)
        self.optimizer = optimizer
        if masters:
            self.state.set_masters(lambda name, state, start, stop: masters[name].view(-1)[start:stop])

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.module.set_gradient_accumulation_boundary(last)
        self.module.backward(loss * torch.distributed.get_world_size())  # DeepSpeed averages over workers

    def step(self, learning_rate: float, clip: float | None) -> float:
        self.module.optimizer.clip_grad = clip or 0.0
        set_learning_rate(self.optimizer, learning_rate)
        self.module.step()
        return float(self.module.get_global_grad_norm())

    def slices(self) -> Iterator[Slice]:
        return self.state.slices()

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        self.state.set_masters(fetch)
        self.state.set_averages(fetch)
        set_steps_taken(self.optimizer, steps_taken)

    def close(self) -> None:
        self.module.destroy()


def zero_settings(config: TrainConfig, world: int) -> dict[str, Any]:
    """DeepSpeed's settings for this config. One micro-batch a step as DeepSpeed counts: we say which is the last."""
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
        # Products in bf16; masters, averages and the sums of gradients in float32.
        settings |= {
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    return settings


def _deepspeed(device: torch.device) -> ModuleType:
    """DeepSpeed, computing on this kind of device, compiling nothing, and quiet.

    Its log holds warnings alone and goes to standard error, since standard output is for results.
    """
    # Read when it is imported. It would take a GPU even where we want the CPU.
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    # On CPUs its first act would be to compile, for half a minute, an all-reduce that only its inference calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It calls torch.distributed by names that torch 2.13 has others for.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    log = logging.getLogger("DeepSpeed")
    log.setLevel(logging.WARNING)
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    # Takes over torch's process group. Until then DeepSpeed believes in a world of one.
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return deepspeed
