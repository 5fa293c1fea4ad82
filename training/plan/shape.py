"""A model's parameters one by one, without a byte of weights: the real model and its adapter on torch's meta device.

So every count is that of the model that will be trained, for any architecture that transformers knows: tied weights
count once, adapters stand where they will stand. An 8B model takes about five seconds.
"""

import functools
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, StorageError
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Model


@dataclass(frozen=True)
class Parameter:
    """layer: the decoder layer it belongs to; None outside of them (embedding, last norm, lm_head)."""

    name: str
    shape: tuple[int, ...]
    trained: bool
    layer: int | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Shape:
    """What the memory model and the price ask of a model.

    Letters: hidden H, feed_forward F, query Q = heads x head size, key K = key-value heads x head size.

    exact: the architecture is a decoder of the Llama kind, whose activations the formulas know; of others they are an
    estimate. varlen: the kernel without a mask can compute it, on a GPU in bf16.
    """

    model_type: str
    parameters: tuple[Parameter, ...]
    layers: int
    hidden: int
    feed_forward: int
    query: int
    key: int
    heads: int
    vocabulary: int
    exact: bool
    varlen: bool

    @functools.cached_property
    def total(self) -> int:
        return sum(parameter.size for parameter in self.parameters)

    @functools.cached_property
    def trained(self) -> int:
        return sum(parameter.size for parameter in self.parameters if parameter.trained)

    @property
    def frozen(self) -> int:
        return self.total - self.trained


def shape_of(config: TrainConfig, classes: int = 2) -> Shape:
    """
    Args:
        classes: of method probe, whose number only the data tell.

    Raises:
        ConfigError: transformers knows no such model, or the adapter does not fit it.
        StorageError: the model's config.json cannot be read.
    """
    described = transformers_config(config.store, config.model)
    return _measured(described, _parameters(config, described, classes))


def _parameters(config: TrainConfig, described: Any, classes: int) -> tuple[Parameter, ...]:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    from training.models.base import decoder_layers
    from training.models.build import objective_around

    # Weights in 4 bits are counted as those they stand for, and compilation changes no count.
    method = "lora" if config.method == "qlora" else config.method
    plain = config.model_copy(update={"method": method, "compile": False, "activation_checkpointing": False})
    kind = AutoModel if method == "probe" else AutoModelForCausalLM
    with torch.device("meta"):
        try:
            base = kind.from_config(described, dtype=torch.float32)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"model: transformers makes no causal language model of {described.model_type}: "
                f"{str(error).strip().splitlines()[0][:300]}"
            ) from error
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
    """Paths of the modules of a model that have a matrix of weights: what an adapter can stand beside.

    Raises:
        ConfigError, StorageError: as `shape_of`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    described = transformers_config(store, model)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(described)
    return [name for name, module in base.named_modules() if getattr(getattr(module, "weight", None), "ndim", 0) >= 2]


def transformers_config(store: Store, model: Model) -> Any:
    """A model's description without its weights: of a URI or hub name, only config.json is read.

    Raises:
        ConfigError: transformers knows no model of that type.
        StorageError: there is no such file, or the hub is not to be reached.
    """
    from transformers import AutoConfig

    from training.models.base import named_config
    from training.models.json_files import read_object

    if model.config is not None or not _elsewhere(model):
        return named_config(store, model)
    assert model.name is not None
    if paths.is_remote(model.name):
        plain = read_object(store, paths.join(model.name, "config.json"), {"model_type": str})
        with tempfile.TemporaryDirectory(prefix="plan-") as folder:
            Path(folder, "config.json").write_text(json.dumps(plain))
            return named_config(store, model.model_copy(update={"name": folder}))
    try:
        return AutoConfig.from_pretrained(model.name, revision=model.revision, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise StorageError(
            f"model {model.name}: no folder of that name here, and the hub does not give its config.json "
            f"({str(error).strip().splitlines()[0][:200]}). Check the name; without a network, put the model's folder "
            "on this machine or an object store and give its path or URI."
        ) from error


def _elsewhere(model: Model) -> bool:
    assert model.name is not None
    return paths.is_remote(model.name) or not Path(paths.absolute(model.name)).is_dir()


def _measured(described: Any, parameters: tuple[Parameter, ...]) -> Shape:
    from training.models.attention import VARLEN, choose_attention

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
