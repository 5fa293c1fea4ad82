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
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from raymill.cluster.entry import require_extra
from raymill.cluster.errors import ConfigError
from raymill.training.compile_choice import compile_refusal, refuse_selective
from raymill.training.config import TrainConfig
from raymill.training.model_folder.checks import LINEAR_NAMES, tied_target
from raymill.training.models.answers import AnswerLoss, RewardModel, RolloutLoss
from raymill.training.models.attention import (
    VARLEN,
    choose_attention,
    dense_mask_warning,
    register_cost,
    require_independence,
)
from raymill.training.models.base import decoder_layers, load_base, named_config, stored_dtype
from raymill.training.models.compiling import compile_layers, elementwise_part
from raymill.training.models.context import ContextParallel
from raymill.training.models.experts import compute_experts_in_bf16
from raymill.training.models.float8 import compute_in_float8
from raymill.training.models.neftune import EmbeddingNoise
from raymill.training.models.objective import NextToken, Objective, RowClassifier, body_name
from raymill.training.models.pissa import begin_with_principal_parts

log = logging.getLogger(__name__)


ALL_LINEAR = "all-linear"


def build_objective(
    config: TrainConfig,
    classes: int = 0,
    device: torch.device | str = "cpu",
    compute: torch.device | str | None = None,
    as_stored: bool = False,
    context: ContextParallel | None = None,
) -> Objective:
    """The objective of a config on the device, with equal weights in every process that builds it.

    Trained parameters are float32, or with `as_stored` of the type of the model's files, for an engine that makes them
    float32 part by part. Frozen ones have no gradient and are bf16 in a bf16 run.

    Args:
        classes: number of classes, of a method that predicts them.
        device: where the objective is built.
        compute: the device that will compute, which decides the attention; default: `device`. They differ for engines
            that shard: they move a model from the CPU to GPUs part by part.
        context: the workers that share rows, if several do.

    Raises:
        ConfigError, DataError, StorageError: see `load_base`, `with_adapter` and `choose_attention`.
    """
    device, compute, method = torch.device(device), torch.device(compute or device), config.training_method
    described = named_config(config.store, config.model)
    sharing = 1 if context is None else context.workers
    attention = choose_attention(config.attention, described, compute.type, config.bf16, method.virtual, sharing)
    how: dict[str, Any] = {}
    if method.four_bit:
        if compute.type != "cuda":
            raise ConfigError(
                f"method: qlora computes on 4-bit weights, which needs an NVIDIA GPU; this worker computes on "
                f"{compute.type}. Use method lora, or workers.gpus_each: 1 on machines with GPUs."
            )
        require_extra("qlora", "method: qlora", "Or use method lora.")
        how = {"quantization_config": four_bit_settings()}
    if config.model.name is not None and (device.type == "cuda" or how):
        how["device_map"] = {"": device}  # without it, 4-bit weights go to a GPU wherever the others are
    dtype = torch.bfloat16 if config.bf16 and not method.trains_base else torch.float32
    if as_stored and method.trains_base and config.model.name is not None:
        dtype = stored_dtype(config.store, config.model)
    kind = AutoModel if method.classifies else AutoModelForCausalLM
    model = load_base(config.store, config.model, config.seed, dtype, attention, kind=kind, **how)
    if model.config.model_type not in LINEAR_NAMES:  # the types in LINEAR_NAMES pass, which a test checks
        body = model if method.classifies else model._modules[body_name(model)]
        head = None if method.classifies else model.get_output_embeddings()
        require_independence(body, config.packing.mode != "none", config.bf16, head)
    objective = objective_around(config, model, classes, device)
    objective.context = context
    return objective


def four_bit_settings() -> BitsAndBytesConfig:
    """Settings of QLoRA's weights: NF4 with quantised scales, products in bf16 (Dettmers et al. 2023)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def attention_warning(config: TrainConfig, objective: Objective, compute: torch.device) -> str | None:
    """A warning if this model computes with a dense mask on a GPU; see `dense_mask_warning`."""
    return dense_mask_warning(
        config.attention, objective.attention, objective.model.config, compute.type, config.bf16,
        config.training_method.virtual, config.sequence_length,
    )  # fmt: skip


def objective_around(config: TrainConfig, model: Any, classes: int, device: torch.device | str) -> Objective:
    """The objective around a loaded base model (the benchmark passes a model that it made on the GPU)."""
    method = config.training_method
    model_type = named_config(config.store, config.model).model_type
    refuse_selective(config, model_type)
    model.requires_grad_(method.trains_base)
    if config.activation_checkpointing is True:
        enable_activation_checkpointing(model, use_reentrant=False)
        if not method.trains_base:
            # peft, and engines with reentrant checkpointing of their own, need the first layer's input to require a
            # gradient.
            model.enable_input_require_grads()
    if config.bf16 and config.engine == "ddp" and method.trains_base:
        compute_experts_in_bf16(model)
    if config.precision == "float8":
        compute_in_float8(decoder_layers(model), config.workers.gpus_each > 0)
    objective: Objective
    if method.classifies:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            objective = RowClassifier(model, config.bf16, classes, config.probe.pool)
    else:
        if not method.trains_base:
            model = with_adapter(config, model)
        # fsdp2 gathers parameters outside the layers at the start of the objective's forward pass; zero3 gathers a
        # module's weights when the module is called, and the fused loss does not call the lm_head.
        lm_head_is_unsharded = config.engine != "zero3"
        after_logits = elementwise_part(config.compile, config.workers.gpus_each > 0)
        virtual = method.name if method.virtual else None
        how: Any = (model, config.bf16, config.loss_chunk, virtual, lm_head_is_unsharded, after_logits)
        if config.objective == "sft":
            objective = NextToken(*how)
        elif config.objective == "grpo":
            objective = RolloutLoss(config.grpo, *how)
        elif config.objective == "reward":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                objective = RewardModel(config.reward.centring, *how)
        else:
            objective = AnswerLoss(config.objective, getattr(config, config.objective), *how)
        if config.neftune_alpha is not None:
            embeddings = objective.causal.get_input_embeddings()
            objective.noise = EmbeddingNoise(config.neftune_alpha, config.seed, embeddings)
    objective = objective.to(device)
    if (refusal := compile_refusal(config, model_type)) is None:
        selective = config.activation_checkpointing == "selective"
        if selective and objective.attention == VARLEN:
            register_cost(torch.ops.torch_attn._varlen_attn)
        compile_layers(decoder_layers(objective.model), required=config.compile is True, selective=selective)
    else:
        log.info("layers are not compiled: %s", refusal)
    return objective.train()


def enable_activation_checkpointing(model: Any, **settings: Any) -> None:
    """Keep only each layer's input and recompute the layer in the backward pass, by the method's name in transformers
    5.23 or in 5.21.

    Non-reentrant, because reentrant checkpointing runs a backward inside the backward, which fires DDP's hooks twice.
    Under ZeRO-3 this needs DeepSpeed 0.19.8 (before, a recomputed layer used weights already freed: DeepSpeed #8148).

    settings: arguments of torch.utils.checkpoint.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(settings)


def with_adapter(config: TrainConfig, base: PreTrainedModel) -> Any:
    """A peft model: the frozen base with the method's adapter in it, whose initial values depend on the seed only.

    Trained parameters are float32.

    Raises:
        ConfigError: the adapter's settings do not fit this base.
    """
    if config.method == "prefix" and config.activation_checkpointing is True:
        raise ConfigError(
            "activation_checkpointing: method prefix passes its virtual tokens as a cache, which transformers drops "
            "when it recomputes layers, so nothing would be trained. Use method prompt, or set "
            "activation_checkpointing: false."
        )
    merges = config.training_method.merges
    if merges and base.config.get_text_config().tie_word_embeddings:
        shared = (base.get_input_embeddings(), base.get_output_embeddings())
        for module_name, module in base.named_modules():
            for name in config.lora.targets:
                if module in shared and f".{module_name}".endswith(f".{name}"):
                    raise ConfigError(tied_target(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _with_peft(base, _adapter(config, base))
        # peft finds the experts of many models itself; the names of other models' experts are passed to it.
        if merges and config.lora.target == ALL_LINEAR and (names := expert_parameters(model)):
            model = _with_peft(model.unload(), _adapter(config, base, names))
    if merges:
        _check_saved(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if merges and config.lora.init == "pissa":
        begin_with_principal_parts(model)
    if config.bf16:
        # peft casts each LoRA layer's input to float32, the type of its weights. In a bf16 run autocast casts it back
        # for the product, so without the two copies the result has the same bits (8 to 9% of an eager step, estimated).
        # The cast stays with DoRA, which computes norms in the input's type, and with dropout, which scales in it.
        for module in model.modules():
            if isinstance(module, lora.Linear) and not module.lora_variant:
                has_dropout = any(not isinstance(dropout, nn.Identity) for dropout in module.lora_dropout.values())
                module.cast_input_dtype_enabled = has_dropout
    return model


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


def _check_saved(config: TrainConfig, model: Any) -> None:
    """Check that each of `lora.modules_to_save` is a module that is trained in full.

    Raises:
        ConfigError: the model has no such module.
    """
    saved = [name for name, one in model.named_modules() if isinstance(one, ModulesToSaveWrapper)]
    for wanted in config.lora.modules_to_save:
        if not any(f".{name}".endswith(f".{wanted}") for name in saved):
            raise ConfigError(f"lora.modules_to_save: the model has no module {wanted}. Leave it out, or correct it.")


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
            # One weight that the embedding and the lm_head share stays one.
            tied = base.config.get_text_config().tie_word_embeddings
            return LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.rank,
                lora_alpha=settings.alpha,  # type: ignore[arg-type]
                lora_dropout=settings.dropout,
                target_modules=ALL_LINEAR if settings.target == ALL_LINEAR else list(settings.targets),
                target_parameters=experts,
                use_rslora=settings.rslora,
                use_dora=settings.dora,
                modules_to_save=list(settings.modules_to_save) or None,
                ensure_weight_tying=tied and bool(settings.modules_to_save),
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
