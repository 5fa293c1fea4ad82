"""Base models: the weights of a folder, or random ones by config; always safetensors, never code of the model's."""

import difflib
import logging
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from cluster.errors import ConfigError, DataError
from cluster.store.store import Store
from training.config_parts import Model
from training.models.folder import model_folder, weight_files

log = logging.getLogger(__name__)

# Read by models whose config classes do not declare them, or written into every config.json.
_COMMON_SETTINGS = {
    "head_dim",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "torch_dtype",
    "transformers_version",
}


def load_base(
    store: Store,
    model: Model,
    seed: int,
    dtype: torch.dtype,
    attention: str | None,
    *,
    body_only: bool = False,
    **how: Any,
) -> PreTrainedModel:
    """The model with its lm_head (`body_only`: without), on the CPU unless `how` says otherwise.

    seed: decides random weights, which are drawn in float32 on the CPU, so that they are the same on every machine
    whatever dtype they are used in. how: passed on to `from_pretrained` (quantisation, device_map).

    Raises:
        ConfigError: the settings of a random model, or a model that wants code of its own.
        DataError: no safetensors, or weights are missing in them.
    """
    kind: Any = AutoModel if body_only else AutoModelForCausalLM
    if model.config is not None:
        return _random(model.config, seed, dtype, attention, kind)
    folder = model_folder(store, model)
    weight_files(folder)
    try:
        loaded, seen = kind.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True, **how,
        )  # fmt: skip
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of transformers, safetensors and what quantises: they have no class in common
        said = (str(error).strip() or repr(error)).splitlines()[0][:300]
        raise ConfigError(
            f"model {model.name}: transformers cannot load it as {kind.__name__.removeprefix('Auto')} ({said}). A "
            "causal language model of a kind that transformers itself knows is wanted; code from a model's folder "
            "is never run."
        ) from error
    missing = sorted(seen["missing_keys"])
    if missing:
        raise DataError(
            f"model {model.name}: {len(missing)} weights are not in its files, as {missing[0]}; they would be random. "
            "Is it a model without lm_head, or a download cut short?"
        )
    _require_finite(model.name, loaded)
    if unused := sorted(key for key in seen["unexpected_keys"] if not (body_only and key.startswith("lm_head."))):
        log.warning(
            "model %s: %d tensors of its files are not used, such as %s: config.json describes a model without them",
            model.name, len(unused), unused[0],
        )  # fmt: skip
    return loaded


def _require_finite(name: str | None, loaded: PreTrainedModel) -> None:
    """
    Raises:
        DataError: a weight is NaN or infinite, so that every loss would be.
    """
    for place, values in loaded.named_parameters():
        if values.is_meta or not values.is_floating_point():  # 4-bit weights are whole numbers
            continue
        if not values.detach().sum(dtype=torch.float32).isfinite():
            raise DataError(
                f"model {name}: {place} holds NaN or infinite values, so every loss would be NaN. The training that "
                "wrote it diverged, or the file was converted wrongly: take other weights."
            )


def _random(
    settings: dict[str, Any], seed: int, dtype: torch.dtype, attention: str | None, kind: Any
) -> PreTrainedModel:
    config = model_config(settings)
    # Not `with torch.device`: a GPU draws other numbers, and an export made on a CPU needs the same frozen weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = kind.from_config(config, attn_implementation=attention, dtype=torch.float32)
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
            raise _impossible(error) from error
    # Buffers stay: a rotary frequency in bf16 is wrong by several radians at position 4,096.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _impossible(error: Exception) -> ConfigError:
    said = " ".join(str(error).split())[:300]
    return ConfigError(f"model.config: transformers makes no such model ({type(error).__name__}: {said}).")


def model_config(settings: dict[str, Any]) -> Any:
    """
    Raises:
        ConfigError: the model type, or a setting that it does not have (transformers would pass over it in silence).
    """
    given = dict(settings)
    kind = given.pop("model_type")
    try:
        known = AutoConfig.for_model(kind)
    except ValueError as error:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        near = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=3)
        raise ConfigError(
            f"model.config.model_type: {kind} is none that transformers knows. "
            f"Did you mean {', '.join(near) or 'llama'}?"
        ) from error
    names = {*known.to_dict(), *known.attribute_map, *_COMMON_SETTINGS}
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"model.config.{name}: {kind} has no such setting.{hint}")
    try:
        return AutoConfig.for_model(kind, **given)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise _impossible(error) from error


def named_config(store: Store, model: Model) -> Any:
    """A model's transformers config, without its weights."""
    if model.config is not None:
        return model_config(model.config)
    try:
        return AutoConfig.from_pretrained(model_folder(store, model), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a class of settings makes of values that it does not expect
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"model {model.name}: transformers cannot read its config.json ({said}). Code from a model's "
            "folder is never run."
        ) from error


def check_vocabulary(model: PreTrainedModel, vocabulary: int) -> None:
    """
    Raises:
        ConfigError: the tokenizer has ids that the model has no embedding for.
    """
    rows = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if vocabulary > rows:
        raise ConfigError(
            f"model.tokenizer: it has {vocabulary} tokens, and the model embeds {rows}. Give the model's own tokenizer "
            f"(leave `tokenizer` out), or for random weights set config.vocab_size: {vocabulary}."
        )


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model, in order: what is compiled, checkpointed and sharded one by one.

    They are the members of the list of modules of one class that holds the most parameters.
    """
    lists: list[nn.Module] = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(member) for member in module}) == 1
    ]
    return list(max(lists, key=_parameters).children()) if lists else []


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
