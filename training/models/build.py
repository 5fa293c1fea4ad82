"""From a config to a module ready for an engine: the base, its adapter, its attention, its objective."""

import logging
from typing import TYPE_CHECKING, Any

import torch

from cluster.errors import ConfigError
from training.config import TrainConfig
from training.models.adapters import with_adapter
from training.models.attention import choose_attention, dense_mask_warning
from training.models.base import check_vocabulary, decoder_layers, load_base, named_config
from training.models.compiling import compile_layers, compile_refusal, elementwise_part
from training.models.independence import require_independence
from training.models.linear_names import LINEAR_NAMES
from training.models.objective import NextToken, Objective, Probe, body_name
from training.versions import enable_activation_checkpointing

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

log = logging.getLogger(__name__)


def build_objective(
    config: TrainConfig,
    classes: int = 0,
    vocabulary: int | None = None,
    device: torch.device | str = "cpu",
    compute: torch.device | str | None = None,
) -> Objective:
    """The objective on the device, with equal weights in every process that builds it.

    What does not train needs no gradient and is stored in bf16 when the config computes in bf16; what trains is
    float32.

    Args:
        classes: of method probe.
        vocabulary: of the tokenizer, checked where given.
        compute: the device that will compute, which decides the attention; default: `device`. An engine that shards
            takes a model built on the CPU to a GPU.

    Raises:
        ConfigError, DataError, StorageError: as `load_base`, `with_adapter` and `choose_attention` say.
    """
    device, compute = torch.device(device), torch.device(compute or device)
    frozen = config.method != "full"
    attention = choose_attention(
        config.attention,
        named_config(config.store, config.model),
        compute.type,
        config.bf16,
        _puts_tokens_before(config),
    )
    how: dict[str, Any] = _quantised(compute) if config.method == "qlora" else {}
    if config.model.name is not None and (device.type == "cuda" or how):
        how["device_map"] = {"": device}  # 4-bit weights go to a GPU otherwise, wherever the others are
    dtype = torch.bfloat16 if frozen and config.bf16 else torch.float32
    model = load_base(
        config.store, config.model, config.seed, dtype, attention, body_only=config.method == "probe", **how
    )
    if vocabulary is not None:
        check_vocabulary(model, vocabulary)
    if model.config.model_type not in LINEAR_NAMES:  # these are tested
        body = model if config.method == "probe" else model._modules[body_name(model)]
        require_independence(body, config.packing.mode != "none", config.bf16)
    return objective_around(config, model, classes, device)


def attention_warning(config: TrainConfig, objective: Objective, compute: torch.device) -> str | None:
    """What it costs that this model computes with a dense mask on a GPU; None where it need not."""
    return dense_mask_warning(
        config.attention, objective.attention, objective.model.config, compute.type, config.bf16,
        _puts_tokens_before(config), config.sequence_length,
    )  # fmt: skip


def _puts_tokens_before(config: TrainConfig) -> bool:
    return config.method in ("prefix", "prompt")


def objective_around(config: TrainConfig, model: Any, classes: int, device: torch.device | str) -> Objective:
    """The objective of a base model that is loaded already (the benchmark draws its own, on the GPU)."""
    model.requires_grad_(config.method == "full")
    if config.activation_checkpointing:
        _checkpoint_activations(config, model)
    objective = _objective(config, model, classes).to(device)
    if (refusal := compile_refusal(config, named_config(config.store, config.model).model_type)) is None:
        compile_layers(config, decoder_layers(objective.model))
    else:
        log.info("layers are not compiled: %s", refusal)
    return objective.train()


def _objective(config: TrainConfig, model: Any, classes: int) -> Objective:
    if config.method == "probe":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return Probe(model, config.bf16, classes, config.probe.pool)
    if config.method != "full":
        model = with_adapter(config, model)
    virtual = config.method if _puts_tokens_before(config) else None
    # fsdp2 gathers what stands outside of layers at the beginning of the objective's forward pass; zero3 gathers a
    # module's weights when the module is called, which the fused loss does not do.
    whole_weights = config.engine != "zero3"
    return NextToken(model, config.bf16, config.loss_chunk, virtual, whole_weights, elementwise_part(config))


def _checkpoint_activations(config: TrainConfig, model: Any) -> None:
    """Keep only each layer's input, and compute the layer again in the backward pass.

    The non-reentrant kind: the other one runs a backward inside the backward, which fires DDP's hooks twice. It needs
    DeepSpeed 0.19.8 under ZeRO-3 (before, a layer computed again met weights that were given back: DeepSpeed #8148).
    """
    enable_activation_checkpointing(model, use_reentrant=False)
    if config.method != "full":
        # peft and engines with reentrant checkpointing of their own need a gradient to enter the first layer.
        model.enable_input_require_grads()


def _quantised(compute: torch.device) -> dict[str, Any]:
    """
    Raises:
        ConfigError: no GPU or no bitsandbytes.
    """
    import importlib.util

    if compute.type != "cuda":
        raise ConfigError(
            f"method: qlora computes on 4-bit weights, which needs an NVIDIA GPU; this worker has {compute.type}. Use "
            "method lora, or workers that have GPUs with workers.gpus_each: 1."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("method: qlora needs the package bitsandbytes. Install raymill[qlora], or use method lora.")
    return {"quantization_config": four_bit_settings()}


def four_bit_settings() -> "BitsAndBytesConfig":
    """Dettmers et al. 2023: the NF4 data type, its scales quantised too, products in bf16."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
