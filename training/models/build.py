"""From a config to the objective that an engine trains: base model, attention, adapter, compiled layers.

Adapters on a frozen base are made by peft: LoRA (with rsLoRA, DoRA), prefix tuning and prompt tuning. Prompt tuning
puts virtual tokens before a row; objective.py drops their hidden states before the loss. Those of prefix tuning are
keys and values of attention, without hidden states.
"""

import logging
import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, PromptTuningInit, get_peft_model
from peft.tuners import lora
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from cluster.entry import require_extra
from cluster.errors import ConfigError
from training.config import TrainConfig
from training.config_parts import Lora
from training.model_folder.checks import LINEAR_NAMES, tied_target
from training.models.attention import choose_attention, dense_mask_warning, require_independence
from training.models.base import check_vocabulary, decoder_layers, load_base, named_config
from training.models.compiling import compile_layers, compile_refusal, elementwise_part
from training.models.objective import LinearProbe, NextToken, Objective, body_name
from training.versions import enable_activation_checkpointing

log = logging.getLogger(__name__)


def build_objective(
    config: TrainConfig,
    classes: int = 0,
    vocabulary: int | None = None,
    device: torch.device | str = "cpu",
    compute: torch.device | str | None = None,
) -> Objective:
    """The objective of a config on the device, with equal weights in every process that builds it.

    Trained parameters are float32. Frozen ones have no gradient and are bf16 in a bf16 run.

    Args:
        classes: number of classes (method probe).
        vocabulary: number of the tokenizer's tokens; if given, the model is checked to embed them all.
        device: where the objective is built.
        compute: the device that will compute, which decides the attention; default: `device`. They differ for engines
            that shard: they move a model from the CPU to GPUs part by part.

    Raises:
        ConfigError, DataError, StorageError: see `load_base`, `with_adapter` and `choose_attention`.
    """
    device, compute = torch.device(device), torch.device(compute or device)
    frozen = config.method != "full"
    attention = choose_attention(
        config.attention,
        named_config(config.store, config.model),
        compute.type,
        config.bf16,
        _has_virtual_tokens(config),
    )
    how: dict[str, Any] = _quantisation(compute) if config.method == "qlora" else {}
    if config.model.name is not None and (device.type == "cuda" or how):
        how["device_map"] = {"": device}  # without it, 4-bit weights go to a GPU wherever the others are
    dtype = torch.bfloat16 if frozen and config.bf16 else torch.float32
    model = load_base(
        config.store, config.model, config.seed, dtype, attention, body_only=config.method == "probe", **how
    )
    if vocabulary is not None:
        check_vocabulary(model, vocabulary)
    if model.config.model_type not in LINEAR_NAMES:  # the types in LINEAR_NAMES pass, which a test checks
        body = model if config.method == "probe" else model._modules[body_name(model)]
        require_independence(body, config.packing.mode != "none", config.bf16)
    return objective_around(config, model, classes, device)


def attention_warning(config: TrainConfig, objective: Objective, compute: torch.device) -> str | None:
    """A warning if this model computes with a dense mask on a GPU; see `dense_mask_warning`."""
    return dense_mask_warning(
        config.attention, objective.attention, objective.model.config, compute.type, config.bf16,
        _has_virtual_tokens(config), config.sequence_length,
    )  # fmt: skip


def _has_virtual_tokens(config: TrainConfig) -> bool:
    return config.method in ("prefix", "prompt")


def objective_around(config: TrainConfig, model: Any, classes: int, device: torch.device | str) -> Objective:
    """The objective around a loaded base model (the benchmark passes a model that it made on the GPU)."""
    model.requires_grad_(config.method == "full")
    if config.activation_checkpointing:
        _checkpoint_activations(model, frozen=config.method != "full")
    objective = _objective(config, model, classes).to(device)
    if (refusal := compile_refusal(config, named_config(config.store, config.model).model_type)) is None:
        compile_layers(decoder_layers(objective.model), required=config.compile is True)
    else:
        log.info("layers are not compiled: %s", refusal)
    return objective.train()


def _objective(config: TrainConfig, model: Any, classes: int) -> Objective:
    if config.method == "probe":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return LinearProbe(model, config.bf16, classes, config.probe.pool)
    if config.method != "full":
        model = with_adapter(config, model)
    virtual = config.method if _has_virtual_tokens(config) else None
    # fsdp2 gathers parameters outside the layers at the start of the objective's forward pass; zero3 gathers a module's
    # weights when the module is called, and the fused loss does not call the lm_head.
    lm_head_is_unsharded = config.engine != "zero3"
    after_logits = elementwise_part(config.compile, config.workers.gpus_each > 0)
    return NextToken(model, config.bf16, config.loss_chunk, virtual, lm_head_is_unsharded, after_logits)


def _checkpoint_activations(model: Any, frozen: bool) -> None:
    """Keep only each layer's input and recompute the layer in the backward pass.

    Non-reentrant, because reentrant checkpointing runs a backward inside the backward, which fires DDP's hooks twice.
    Under ZeRO-3 this needs DeepSpeed 0.19.8 (before, a recomputed layer used weights already freed: DeepSpeed #8148).
    """
    enable_activation_checkpointing(model, use_reentrant=False)
    if frozen:
        # peft, and engines with reentrant checkpointing of their own, need the first layer's input to require a
        # gradient.
        model.enable_input_require_grads()


def _quantisation(compute: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for 4-bit weights.

    Raises:
        ConfigError: the device that computes is no GPU, or bitsandbytes is not installed.
    """
    if compute.type != "cuda":
        raise ConfigError(
            f"method: qlora computes on 4-bit weights, which needs an NVIDIA GPU; this worker computes on "
            f"{compute.type}. Use method lora, or workers.gpus_each: 1 on machines with GPUs."
        )
    require_extra("qlora", "method: qlora", "Or use method lora.")
    return {"quantization_config": four_bit_settings()}


def four_bit_settings() -> BitsAndBytesConfig:
    """Settings of QLoRA's weights: NF4 with quantised scales, products in bf16 (Dettmers et al. 2023)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


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
