"""The methods that train little beside a frozen base, all through peft: LoRA and its kin, prefix and prompt tuning.

And the check that they do train: how much is trainable, which matrices have an adapter, and which of them never moved.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, PromptTuningInit, get_peft_model
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from cluster.errors import ConfigError
from training.config import TrainConfig
from training.config_parts import Lora

ALL_LINEAR = "all-linear"


def with_adapter(config: TrainConfig, base: PreTrainedModel) -> Any:
    """The base, frozen, with the method's adapter in it; a peft model. Its random start depends on the seed only.

    Raises:
        ConfigError: the adapter's settings do not fit this base.
    """
    _check(config, base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _wrapped(base, _adapter(config, base))
        if config.method in ("lora", "qlora") and config.lora.target == ALL_LINEAR:
            # peft knows the experts of many models; of those it does not, their names are given to it.
            names = expert_parameters(model)
            if names:
                model = _wrapped(model.unload(), _adapter(config, base, names))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if config.bf16:
        _without_input_casts(model)
    return model


def _without_input_casts(model: nn.Module) -> None:
    """Keep peft from casting each LoRA layer's input to float32, the type of its weights, in a bf16 run.

    Autocast casts it back to bf16 for the product, so the result has the same bits without the two copies (8 to 9% of
    an eager step, estimated). DoRA computes norms and dropout its scaling in the input's type: there the cast stays.
    """
    for module in model.modules():
        if isinstance(module, lora.Linear) and not module.lora_variant and not _drops(module):
            module.cast_input_dtype_enabled = False


def _drops(module: lora.Linear) -> bool:
    return any(not isinstance(dropout, nn.Identity) for dropout in module.lora_dropout.values())


def _wrapped(base: PreTrainedModel, adapter: PeftConfig) -> Any:
    with warnings.catch_warnings():
        # Of rank patterns that peft itself adds for some models, and of names deprecated in transformers.
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
    if config.method == "prefix" and config.activation_checkpointing:
        raise ConfigError(
            "activation_checkpointing: method prefix gives its virtual tokens as a cache, which transformers drops "
            "when it computes layers again, so nothing would be trained. Use method prompt, or set "
            "activation_checkpointing: false."
        )
    tied = base.config.get_text_config().tie_word_embeddings
    if config.method in ("lora", "qlora") and tied and "lm_head" in _names(config.lora):
        raise ConfigError(
            "lora.target: this model's lm_head is its embedding too, so an adapter of it could not be merged. "
            "Leave lm_head out."
        )


def _names(settings: Lora) -> tuple[str, ...]:
    return (settings.target,) if isinstance(settings.target, str) else settings.target


def _adapter(config: TrainConfig, base: PreTrainedModel, experts: list[str] | None = None) -> PeftConfig:
    match config.method:
        case "prefix":
            return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=config.prefix.tokens)
        case "prompt":
            # Rows of the embedding are a better start than noise: Lester et al. 2021, figure 3.
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
    """Matrices that a mixture of experts keeps as one three-dimensional parameter, and that no adapter covers."""
    return sorted(
        {
            ".".join(name.split(".")[-2:])
            for name, parameter in model.named_parameters()
            if parameter.dim() == 3 and not parameter.requires_grad and "base_layer" not in name and "lora_" not in name
        }
    )


@dataclass(frozen=True)
class Coverage:
    """What of a model is trained. adapted: names of the matrices that have an adapter of their own."""

    trainable_parameters: int
    all_parameters: int
    adapted: tuple[str, ...]

    @property
    def share(self) -> float:
        return self.trainable_parameters / self.all_parameters

    def __str__(self) -> str:
        of = f" in {len(self.adapted)} adapted matrices" if self.adapted else ""
        return f"{self.trainable_parameters:,} of {self.all_parameters:,} parameters are trained ({self.share:.3%}){of}"


def coverage(objective: nn.Module) -> Coverage:
    """Counted before an engine shards the model; 4-bit weights count as the weights they stand for."""
    counts = [(_elements(parameter), parameter.requires_grad) for parameter in objective.parameters()]
    adapted = [
        f"{name}.{module.parameter_name}" if hasattr(module, "parameter_name") else name
        for name, module in objective.named_modules()
        if isinstance(module, BaseTunerLayer) and _learns(module)
    ]
    return Coverage(sum(n for n, trained in counts if trained), sum(n for n, _ in counts), tuple(adapted))


def _learns(module: Any) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _elements(parameter: nn.Parameter) -> int:
    quantised = getattr(parameter, "quant_state", None)
    return quantised.shape.numel() if quantised is not None else parameter.numel()


def must_move(trained: Iterable[str]) -> list[str]:
    """Of the names of trained parameters, those that any training changes: of LoRA every B, which starts at zero."""
    names = list(trained)
    return [name for name in names if "lora_B" in name or "lora_embedding_B" in name] or names


def marks(named: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[float, float]]:
    """Two numbers a tensor that tell whether it has changed, instead of a copy."""
    return {
        name: (float(values.detach().double().sum()), float(values.detach().double().square().sum()))
        for name, values in named
    }


def unmoved(before: dict[str, tuple[float, float]], now: dict[str, tuple[float, float]]) -> list[str]:
    """The names whose marks are what they were."""
    return [name for name, mark in before.items() if now[name] == mark]
