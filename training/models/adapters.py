"""Adapters on a frozen base, through peft: LoRA (with rsLoRA, DoRA), prefix tuning and prompt tuning.

Prompt tuning puts virtual tokens before a row; objective.py drops their hidden states before the loss. Those of prefix
tuning are keys and values of attention, without hidden states.
"""

import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, PromptTuningInit, get_peft_model
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedModel

from cluster.errors import ConfigError
from training.config import TrainConfig
from training.config_parts import Lora
from training.model_folder.checks import tied_target

ALL_LINEAR = "all-linear"


def with_adapter(config: TrainConfig, base: PreTrainedModel) -> Any:
    """A peft model: the frozen base with the method's adapter in it, whose initial values depend on the seed only.

    Trained parameters are float32.

    Raises:
        ConfigError: the adapter's settings do not fit this base.
    """
    _check(config, base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _with_peft(base, _adapter(config, base))
        if config.method in ("lora", "qlora") and config.lora.target == ALL_LINEAR:
            # peft finds the experts of many models itself; the names of other models' experts are passed to it.
            names = expert_parameters(model)
            if names:
                model = _with_peft(model.unload(), _adapter(config, base, names))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if config.bf16:
        _without_input_casts(model)
    return model


def _without_input_casts(model: nn.Module) -> None:
    """Turn off peft's cast of each LoRA layer's input to float32, the type of its weights.

    In a bf16 run autocast casts the input back to bf16 for the product, so the result has the same bits without the two
    copies (8 to 9% of an eager step, estimated). The cast stays with DoRA, which computes norms in the input's type,
    and with dropout, which scales in it.
    """
    for module in model.modules():
        if isinstance(module, lora.Linear) and not module.lora_variant and not _has_dropout(module):
            module.cast_input_dtype_enabled = False


def _has_dropout(module: lora.Linear) -> bool:
    return any(not isinstance(dropout, nn.Identity) for dropout in module.lora_dropout.values())


def _with_peft(base: PreTrainedModel, adapter: PeftConfig) -> Any:
    with warnings.catch_warnings():
        # Warnings about rank patterns that peft itself adds for some models, and about names deprecated in
        # transformers.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="peft")
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        try:
            return get_peft_model(base, adapter)
        except (ValueError, NotImplementedError) as error:
            linear = sorted({name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, nn.Linear)})
            raise ConfigError(
                f"{str(adapter.peft_type).rpartition('.')[2].lower()}: peft refuses this adapter for "
                f"{type(base).__name__}: {str(error).strip().splitlines()[0][:300]} "
                f"The model's linear modules are {', '.join(linear)}."
            ) from error


def _check(config: TrainConfig, base: PreTrainedModel) -> None:
    """
    Raises:
        ConfigError: the method does not work with these settings or this base.
    """
    if config.method == "prefix" and config.activation_checkpointing:
        raise ConfigError(
            "activation_checkpointing: method prefix passes its virtual tokens as a cache, which transformers drops "
            "when it recomputes layers, so nothing would be trained. Use method prompt, or set "
            "activation_checkpointing: false."
        )
    if config.method in ("lora", "qlora") and base.config.get_text_config().tie_word_embeddings:
        shared = (base.get_input_embeddings(), base.get_output_embeddings())
        for module_name, module in base.named_modules():
            for name in _names(config.lora):
                if module in shared and f".{module_name}".endswith(f".{name}"):
                    raise ConfigError(tied_target(name))


def _names(settings: Lora) -> tuple[str, ...]:
    return (settings.target,) if isinstance(settings.target, str) else settings.target


def _adapter(config: TrainConfig, base: PreTrainedModel, experts: list[str] | None = None) -> PeftConfig:
    match config.method:
        case "prefix":
            return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=config.prefix.tokens)
        case "prompt":
            # Embeddings of vocabulary tokens are a better initialisation than noise: Lester et al. 2021, figure 3.
            return PromptTuningConfig(
                task_type="CAUSAL_LM",
                num_virtual_tokens=config.prompt.tokens,
                prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
            )
        case _:
            settings = config.lora
            return LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.rank,
                lora_alpha=settings.alpha,  # type: ignore[arg-type]
                lora_dropout=settings.dropout,
                target_modules=ALL_LINEAR if settings.target == ALL_LINEAR else list(_names(settings)),
                target_parameters=experts,
                use_rslora=settings.rslora,
                use_dora=settings.dora,
                fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in base.modules()),
            )


def expert_parameters(model: nn.Module) -> list[str]:
    """Names of the three-dimensional parameters (the experts of a mixture) that are frozen and have no adapter."""
    return sorted(
        {
            ".".join(name.split(".")[-2:])
            for name, parameter in model.named_parameters()
            if parameter.dim() == 3 and not parameter.requires_grad and "base_layer" not in name and "lora_" not in name
        }
    )
