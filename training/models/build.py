"""From a config to the objective that an engine trains: base model, attention, adapter, compiled layers."""

import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from cluster.errors import ConfigError
from cluster.extras import require_extra
from training.config import TrainConfig
from training.model_folder.architecture import LINEAR_NAMES
from training.models.adapters import with_adapter
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
