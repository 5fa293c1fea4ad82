"""Training engines: DDP, DeepSpeed ZeRO 1 to 3 and FSDP2 behind one protocol (engine.py)."""

import torch

from raymill.training.config import TrainConfig
from raymill.training.engines.ddp import Ddp
from raymill.training.engines.engine import TrainingEngine
from raymill.training.engines.fsdp import Fsdp
from raymill.training.engines.zero import Zero


def make_engine(config: TrainConfig, module: torch.nn.Module, device: torch.device) -> TrainingEngine:
    """The engine that `config.engine` names, around a module whose weights are equal on every worker.

    Parameters without `requires_grad` are frozen: they are neither updated nor saved. torch.distributed must be
    initialised.
    """
    match config.engine:
        case "ddp":
            return Ddp(config, module, device)
        case "fsdp2":
            return Fsdp(config, module, device)
        case _:
            return Zero(config, module, device)
