"""What a model costs: its parameters one by one, and the floating-point operations of a trained token.

The parameters are those of the model that will be trained, for any architecture of transformers, from the model and its
adapter on torch's meta device, without weights: tied weights count once, adapters are where they will be. An 8B model
takes about five seconds.

    MFU = tokens per second x flops per token / (devices x peak flops of one device, see training/gpus.py)

Letters: W weights that a token is multiplied with, c mean number of positions that a token attends to, itself included;
L layers, H heads, q and v the sizes of a head's key and value. A forward pass takes 2 W + attention, and attention
2 L H (q + v) c; methods.py has the operations of a training.

W excludes vectors and embeddings (unless the lm_head shares their weight), and counts only the experts of a mixture
that a token is routed to. Recomputation (activation checkpointing, chunked loss) and overhead of an implementation
(padding, masked scores) are not counted: this is MFU, not hardware utilisation. Objectives of answers (objectives.py)
compute the logits twice, which is counted; kto one forward pass more, of mismatched answers; reward no logits.

Conventions differ in c. Here it is exact: (T + 1) / 2 for a row of one document, for packed rows the mean of
(length + 1) / 2 over tokens. torchtitan, TRL and llm-foundry (6 N + 12 L d T) count attention as if it were not causal:
use c = T to compare with their numbers. Rates of LoRA are often published with 6 W ("6N-equivalent").
"""

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM

from raymill.cluster.errors import ConfigError
from raymill.cluster.guard import once
from raymill.cluster.model_settings import check_size
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Model
from raymill.training.gpus import peak_flops
from raymill.training.methods import METHODS
from raymill.training.model_folder.folder import hub_copy, is_path, no_folder, read_object
from raymill.training.models.attention import VARLEN, choose_attention
from raymill.training.models.base import decoder_layers, named_config, without_memory
from raymill.training.models.build import objective_around
from raymill.training.models.objective import Objective
from raymill.training.objectives import OBJECTIVES
from raymill.training.plan.memory import Parameter, Shape


def shape_of(config: TrainConfig, classes: int = 2) -> Shape:
    """The shape of the model that a config trains.

    Args:
        classes: number of classes, of a method that predicts them.

    Raises:
        ConfigError: transformers has no such model, or the adapter does not fit it.
        StorageError: the model's config.json cannot be read.
    """
    described = transformers_config(config.store, config.model)
    # 4-bit weights are counted as values, and compilation changes no count.
    method = "lora" if config.training_method.four_bit else config.method
    plain = config.model_copy(update={"method": method, "compile": False, "activation_checkpointing": False})
    kind = AutoModel if config.training_method.classifies else AutoModelForCausalLM
    with torch.device("meta"):
        base = _without_weights(kind, described, dtype=torch.float32)
        objective = objective_around(plain, base, classes, "meta")
    layer_of = {
        id(parameter): number
        for number, layer in enumerate(decoder_layers(objective))
        for parameter in layer.parameters()
    }
    text = described.get_text_config()
    hidden, heads = text.hidden_size, getattr(text, "num_attention_heads", None) or 1
    head = getattr(text, "head_dim", None) or hidden // heads
    return Shape(
        model_type=text.model_type,
        parameters=tuple(
            Parameter(name, tuple(one.shape), one.requires_grad, layer_of.get(id(one)))
            for name, one in objective.named_parameters()
        ),
        layers=text.num_hidden_layers,
        hidden=hidden,
        feed_forward=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden,
        query=heads * head,
        key=(getattr(text, "num_key_value_heads", None) or heads) * head,
        heads=heads,
        vocabulary=text.vocab_size,
        exact=text.model_type in {"llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "phi3"},
        varlen=choose_attention("auto", described, "cuda", bf16=True, virtual_tokens=False) == VARLEN,
    )


def module_names(store: Store, model: Model, dimensions: int = 2) -> list[str]:
    """Paths of the modules of a model whose weight has this number of dimensions or more: 2, a matrix, can be adapted.

    Raises:
        ConfigError, StorageError: as `shape_of`.
    """
    described = transformers_config(store, model)
    with torch.device("meta"):
        base = _without_weights(AutoModelForCausalLM, described)
    return [
        name
        for name, module in base.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) >= dimensions
    ]


def _without_weights(kind: Any, described: Any, **how: Any) -> Any:
    try:
        make, where = partial(without_memory, kind, described), f"model of type {described.model_type}"
        once(("size", kind.__name__, described.to_json_string(use_diff=False)), lambda: check_size(make, None, where))
        return kind.from_config(described, **how)
    except ConfigError:
        raise
    except Exception as error:  # whatever a class of models makes of settings that it does not expect
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"model: transformers cannot make a causal language model of type {described.model_type} with these "
            f"settings ({type(error).__name__}: {reason}). Correct its config.json, or fetch it again."
        ) from error


def bytes_in_files(config: TrainConfig) -> int:
    """Bytes of a weight of the base in the model's files, if it stays there until it is on the device; else 0.

    Then the workers of a machine share the weights; else each worker has a copy. By the type in config.json.

    Raises:
        StorageError: the model's config.json cannot be read.
    """
    method = config.training_method
    if config.engine == "ddp" or config.model.name is None or method.four_bit:
        return 0
    stored = transformers_config(config.store, config.model).dtype
    if method.trains_base:
        stays = config.engine == "fsdp2" or (config.bf16 and stored == torch.bfloat16)
    else:
        stays = stored == (torch.bfloat16 if config.bf16 else torch.float32)
    return stored.itemsize if stays and stored is not None else 0


def transformers_config(store: Store, model: Model) -> Any:
    """The transformers config of a model. Of a URI or hub name only config.json is read.

    Raises:
        ConfigError: transformers has no model of that type.
        StorageError: there is no such file, or the hub cannot be reached.
    """
    if model.config is not None or not _is_remote(model):
        return named_config(store, model)
    assert model.name is not None
    if paths.is_remote(model.name):
        plain = read_object(store, paths.join(model.name, "config.json"), {"model_type": str})
        with tempfile.TemporaryDirectory(prefix="plan-") as folder:
            Path(folder, "config.json").write_text(json.dumps(plain))
            return named_config(store, model.model_copy(update={"name": folder}))
    if is_path(model.name):
        raise no_folder(model.name)
    copy = hub_copy(model.name, model.revision, ["config.json"])
    return named_config(store, model.model_copy(update={"name": str(copy)}))


def has_experts(config: Any) -> bool:
    """Whether a model with this transformers config is a mixture of experts."""
    text = config.get_text_config()
    return (getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None) or 0) > 1


def _is_remote(model: Model) -> bool:
    assert model.name is not None
    return paths.is_remote(model.name) or not Path(paths.absolute(model.name)).is_dir()


def flops_per_token(
    config: Any, trainable_parameters: int, method: str, context: float, objective: str = "sft"
) -> float:
    """Floating-point operations of one trained token: forward and backward.

    Args:
        config: the base model's transformers config.
        trainable_parameters: of the adapter; used by lora and qlora only. Adapters of experts count in full.
        method: the training config's method.
        context: c in the formulas of this file.
        objective: the training config's.
    """
    weights, attention = multiplied(config), attention_flops(config, context)
    lm_head = 0 if objective == "reward" else weights.lm_head
    found = METHODS[method].flops(weights.body, lm_head, trainable_parameters, attention)
    if OBJECTIVES[objective].records != "text":
        found += 2 * lm_head
    if objective == "kto":
        found += forward_flops(config, trainable_parameters, method, context)
    return found


def forward_flops(config: Any, trainable_parameters: int, method: str, context: float) -> float:
    """Floating-point operations of one token in a forward pass. The arguments are those of `flops_per_token`."""
    adapter = trainable_parameters if METHODS[method].merges else 0
    return 2 * (multiplied(config).all + adapter) + attention_flops(config, context)


@dataclass(frozen=True)
class Multiplied:
    """The number of weights that a token is multiplied with, in the layers (body) and in the lm_head."""

    body: float
    lm_head: int

    @property
    def all(self) -> float:
        """Weights of the layers and the lm_head."""
        return self.body + self.lm_head


def multiplied(config: Any) -> Multiplied:
    """Count the weights on a meta model, which takes no memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    experts = experts or getattr(text, "n_routed_experts", None) or 1
    share = (getattr(text, "num_experts_per_tok", None) or 1) / experts if experts > 1 else 1
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    lm_head = model.get_output_embeddings().weight
    body = sum(
        parameter.numel() * (share if parameter.dim() == 3 and "expert" in name else 1)
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in looked_up and parameter is not lm_head
    )
    return Multiplied(body, lm_head.numel())


def attention_flops(config: Any, context: float) -> float:
    """Operations of attention (scores and weighted sums) in one token's forward pass, over all layers.

    Layers with a sliding window attend to at most that many positions.
    """
    text = config.get_text_config()
    heads, layers = text.num_attention_heads, text.num_hidden_layers
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    key = (getattr(text, "qk_nope_head_dim", None) or 0) + (getattr(text, "qk_rope_head_dim", None) or 0) or head
    value = getattr(text, "v_head_dim", None) or head
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * layers
    window = getattr(text, "sliding_window", None) or context
    seen = {"full_attention": context, "sliding_attention": min(context, window)}
    return sum(2 * heads * (key + value) * seen.get(kind, 0.0) for kind in kinds)


def parameter_counts(objective: Objective) -> tuple[int, int]:
    """(number of trained parameters, of all). Of a 4-bit base the values are counted, not the bytes."""
    if hasattr(objective.model, "get_nb_trainable_parameters"):
        trained, total = objective.model.get_nb_trainable_parameters()
        return int(trained), int(total)
    sizes = [(one.numel(), one.requires_grad) for one in objective.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def adapter_parameters(objective: Objective) -> int:
    """Number of trained parameters, without those of modules of the base that are trained in full beside an adapter."""
    named = objective.named_parameters()
    return sum(one.numel() for name, one in named if one.requires_grad and ".modules_to_save." not in name)


class Mfu:
    """Model FLOPs utilisation: operations per second of training as a share of the devices' peak; see above.

    Attention counts the positions that tokens attend to, which are fewer in packed rows than in rows of one document.

    model: the base model's transformers config. method, trained_parameters, objective: as in `flops_per_token`. peak:
    of all devices together.
    """

    def __init__(self, model: Any, method: str, trained_parameters: int, peak: float, objective: str = "sft") -> None:
        self.model, self.peak = model, peak
        self.products = flops_per_token(model, trained_parameters, method, 0.0, objective)
        with_attention = flops_per_token(model, trained_parameters, method, 1.0, objective)
        self.passes = (with_attention - self.products) / attention_flops(model, 1.0)

    def of(self, tokens_per_s: float, context: float) -> float:
        """MFU in [0, 1].

        tokens_per_s: over all workers. context: mean number of positions that a token attends to, its own included.
        """
        return tokens_per_s * (self.products + self.passes * attention_flops(self.model, context)) / self.peak


def peak_of_workers(device: torch.device, workers: int, bf16: bool) -> float | None:
    """Peak operations per second of all workers' devices; None if unknown, as on CPUs and in float32."""
    if device.type != "cuda" or not bf16:
        return None
    one = peak_flops(torch.cuda.get_device_name(device))
    return one and one * workers
