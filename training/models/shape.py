"""The shape of a model: its parameters one by one, without weights, from the model and its adapter on torch's meta
device.

The counts are those of the model that will be trained, for any architecture of transformers: tied weights count once,
adapters are where they will be. An 8B model takes about five seconds.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig

from cluster.errors import ConfigError, StorageError
from cluster.model_settings import refuse_hostile
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Model
from training.model_folder.files import read_object
from training.models.attention import VARLEN, choose_attention
from training.models.base import decoder_layers, named_config
from training.models.build import objective_around
from training.plan.memory import Parameter, Shape


def shape_of(config: TrainConfig, classes: int = 2) -> Shape:
    """The shape of the model that a config trains.

    Args:
        classes: number of classes of method probe.

    Raises:
        ConfigError: transformers has no such model, or the adapter does not fit it.
        StorageError: the model's config.json cannot be read.
    """
    described = transformers_config(config.store, config.model)
    return _shape(described, _parameters(config, described, classes))


def _parameters(config: TrainConfig, described: Any, classes: int) -> tuple[Parameter, ...]:
    # 4-bit weights are counted as values, and compilation changes no count.
    method = "lora" if config.method == "qlora" else config.method
    plain = config.model_copy(update={"method": method, "compile": False, "activation_checkpointing": False})
    kind = AutoModel if method == "probe" else AutoModelForCausalLM
    with torch.device("meta"):
        base = _without_weights(kind, described, dtype=torch.float32)
        objective = objective_around(plain, base, classes, "meta")
    layer_of = {
        id(parameter): number
        for number, layer in enumerate(decoder_layers(objective))
        for parameter in layer.parameters()
    }
    return tuple(
        Parameter(name, tuple(one.shape), one.requires_grad, layer_of.get(id(one)))
        for name, one in objective.named_parameters()
    )


def module_names(store: Store, model: Model) -> list[str]:
    """Paths of the modules of a model that have a weight matrix, to which an adapter can be added.

    Raises:
        ConfigError, StorageError: as `shape_of`.
    """
    described = transformers_config(store, model)
    with torch.device("meta"):
        base = _without_weights(AutoModelForCausalLM, described)
    return [name for name, module in base.named_modules() if getattr(getattr(module, "weight", None), "ndim", 0) >= 2]


def _without_weights(kind: Any, described: Any, **how: Any) -> Any:
    try:
        return kind.from_config(described, **how)
    except Exception as error:  # whatever a class of models makes of settings that it does not expect
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"model: transformers cannot make a causal language model of type {described.model_type} with these "
            f"settings ({type(error).__name__}: {reason}). Correct its config.json, or fetch it again."
        ) from error


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
    try:
        plain, _ = PreTrainedConfig.get_config_dict(model.name, revision=model.revision)
        refuse_hostile(plain, f"model {model.name}: config.json")
        return AutoConfig.from_pretrained(model.name, revision=model.revision, trust_remote_code=False)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StorageError(
            f"model {model.name}: no folder of that name here, and the hub does not give its config.json "
            f"({reason}). Check the name; without a network, put the model's folder "
            "on this machine or an object store and give its path or URI."
        ) from error


def _is_remote(model: Model) -> bool:
    assert model.name is not None
    return paths.is_remote(model.name) or not Path(paths.absolute(model.name)).is_dir()


def _shape(described: Any, parameters: tuple[Parameter, ...]) -> Shape:
    config = described.get_text_config()
    hidden = config.hidden_size
    heads = getattr(config, "num_attention_heads", None) or 1
    head = getattr(config, "head_dim", None) or hidden // heads
    gated = {"llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "phi3"}
    return Shape(
        model_type=config.model_type,
        parameters=parameters,
        layers=config.num_hidden_layers,
        hidden=hidden,
        feed_forward=getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden,
        query=heads * head,
        key=(getattr(config, "num_key_value_heads", None) or heads) * head,
        heads=heads,
        vocabulary=config.vocab_size,
        exact=config.model_type in gated,
        varlen=choose_attention("auto", described, "cuda", bf16=True, virtual_tokens=False) == VARLEN,
    )
