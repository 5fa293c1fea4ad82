"""Adapters that vLLM takes.

Sources: vLLM 0.11 to 0.21, `lora/peft_helper.py` (DoRA, modules_to_save), `config/lora.py` (ranks), its #9280, #32599.
"""

from raymill.training.config import TrainConfig

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values of --max-lora-rank


def _rank(config: TrainConfig) -> int:
    """The rank of the exported adapter: twice the trained one with PiSSA."""
    return config.lora.rank * (2 if config.lora.init == "pissa" else 1)


def max_lora_rank(config: TrainConfig) -> int:
    """The smallest bound of vLLM on ranks that allows the adapter."""
    return next(one for one in _RANKS if one >= _rank(config))


def refused_adapter(config: TrainConfig, experts: bool) -> str:
    """The reason why vLLM refuses the adapter of a training, or gives other answers; empty if it supports it.

    experts: whether the base is a mixture of experts.
    """
    lora = config.lora
    if config.training_method.virtual:
        return "it has virtual tokens, and vLLM takes LoRA alone"
    if lora.dora:
        return "it is a DoRA adapter"
    if lora.modules_to_save:
        return f"it has modules that are trained in full, {', '.join(lora.modules_to_save)}"
    if experts and lora.target == "all-linear":
        return "it has matrices of experts, which vLLM does not read"
    if "lm_head" in lora.targets:
        return "it has an adapter of the lm_head"
    if _rank(config) > _RANKS[-1]:
        return f"its rank is {_rank(config)}, and vLLM takes at most {_RANKS[-1]}"
    return ""
