"""Base models from a folder or with random weights. Weights are read from safetensors only; a model's code is never
run.
"""

import difflib
import logging
from collections import Counter
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.guard import once
from raymill.cluster.model_settings import check_size, refuse_hostile
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.model_folder.checks import refuse_later_tokens
from raymill.training.model_folder.folder import model_folder, read_object, stored_types, weight_files
from raymill.training.models.quiet import quiet_libraries

log = logging.getLogger(__name__)

# Settings that some models read although their config class does not declare them, or that every config.json has.
_COMMON_SETTINGS = {
    "head_dim", "rope_theta", "rope_scaling", "partial_rotary_factor", "torch_dtype", "transformers_version",
}  # fmt: skip

_OF_ATTENTION = ("model_type", "is_decoder", "causal", "is_causal", "use_bidirectional_attention")

# Bounds of files that transformers reads in this process, at 10 MB/s or less.
_MOST_BYTES = {"config.json": 16 << 20, "generation_config.json": 1 << 20}


def load_base(
    store: Store,
    model: Model,
    seed: int,
    dtype: torch.dtype,
    attention: str | None,
    *,
    kind: Any = AutoModelForCausalLM,
    may_lack: Collection[str] = (),
    **how: Any,
) -> PreTrainedModel:
    """The base model with its lm_head, on the CPU unless `how` has a device_map.

    Args:
        seed: of random weights. They are drawn in float32 on the CPU and then converted, so they are the same on every
            machine and for every dtype.
        attention: transformers' name of the attention; None for its default.
        kind: class of transformers that makes the model, such as AutoModel for one without the lm_head.
        may_lack: names of weights that the files need not have.
        how: further arguments of `from_pretrained` (quantisation, device_map).

    Raises:
        ConfigError: transformers does not accept the settings of a random model, or does not support the model, or it
            is far larger than its files, or an adapter is beside it.
        DataError: the folder has no safetensors, or weights in them are missing, NaN or infinite.
    """
    if model.config is not None:
        config = model_config(model.config)
        # On the CPU always: a GPU's generator differs, and an export on a CPU must draw the same frozen weights.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                made = kind.from_config(config, attn_implementation=attention, dtype=torch.float32)
            except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
                raise _refused(error) from error
        # Buffers keep float32: a rotary frequency in bf16 is off by several radians at position 4,096.
        for parameter in made.parameters():
            parameter.data = parameter.data.to(dtype)
        return made
    folder = model_folder(store, model)
    files = weight_files(folder)
    config = _checked_config(folder, model.name)
    if odd := _NO_WEIGHTS & _values_in(files).keys():
        raise DataError(
            f"model {model.name}: its files have numbers of type {min(odd)}, which no weights have, and which would be "
            "taken for weights as they are. The file was damaged or converted wrongly: take other weights."
        )
    stored = sum(path.stat().st_size for path in files)
    try:
        # Once per process: each fold of a cross-validation loads the same model.
        once(
            ("size", kind.__name__, config.to_json_string(use_diff=False), stored),
            lambda: check_size(partial(without_memory, kind, config), stored, f"model {folder}"),
        )
        with quiet_libraries():  # they would print a table of all tensors that are missing or not used
            loaded, seen = kind.from_pretrained(
                folder, dtype=dtype, attn_implementation=attention, use_safetensors=True, trust_remote_code=False,
                local_files_only=True, output_loading_info=True, **how,
            )  # fmt: skip
    except (torch.OutOfMemoryError, ConfigError):
        raise
    except Exception as error:  # transformers, safetensors and quantising libraries raise unrelated classes
        reason = (str(error).strip() or repr(error)).splitlines()[0][:300]
        raise ConfigError(
            f"model {model.name}: transformers cannot load it as {kind.__name__.removeprefix('Auto')} ({reason}). "
            "Give a causal language model that transformers itself supports; code from a model's folder is never run."
        ) from error
    missing = sorted({*seen["missing_keys"]} - {*may_lack})
    if missing:
        raise DataError(
            f"model {model.name}: {len(missing)} weights are missing in its files, for example {missing[0]}. "
            "Check that the model has an lm_head and that the download is complete."
        )
    for place, values in loaded.named_parameters():
        if values.is_meta or not values.is_floating_point():  # 4-bit weights are whole numbers
            continue
        if not values.detach().sum(dtype=torch.float32).isfinite():
            raise DataError(
                f"model {model.name}: {place} holds NaN or infinite values, so every loss would be NaN. The training "
                "that wrote it diverged, or the file was converted wrongly: take other weights."
            )
    if unused := sorted(
        key for key in seen["unexpected_keys"] if not (kind is AutoModel and key.startswith("lm_head."))
    ):
        log.warning(
            "model %s: %d tensors of its files are not used, such as %s: config.json does not describe them",
            model.name, len(unused), unused[0],
        )  # fmt: skip
    return loaded


def without_memory(kind: Any, config: Any) -> PreTrainedModel:
    """The model with its weights on torch's device `meta`. For a child process, in which threads would wait forever."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        return kind.from_config(config)


def _refused(error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:300]
    return ConfigError(f"model.config: transformers cannot make this model ({type(error).__name__}: {reason}).")


def model_config(settings: dict[str, Any]) -> Any:
    """The transformers config of a random model.

    Raises:
        ConfigError: transformers lacks the model type, or the type lacks a setting (transformers itself ignores it).
    """
    given = dict(settings)
    kind = given.pop("model_type")
    try:
        known = AutoConfig.for_model(kind)
    except ValueError as error:
        near = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=3)
        raise ConfigError(
            f"model.config.model_type: transformers has no model type {kind}. "
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
        raise _refused(error) from error


def named_config(store: Store, model: Model) -> Any:
    """The transformers config of a named or random model, without weights."""
    if model.config is not None:
        return model_config(model.config)
    return _checked_config(model_folder(store, model), model.name)


def _checked_config(folder: Path, name: str | None) -> Any:
    for file, most in _MOST_BYTES.items():
        if (path := folder / file).is_file() and path.stat().st_size > most:
            raise ConfigError(f"model {name}: {file} has over {most >> 20} MiB, and those of models have some kB.")
    try:
        plain = read_object(Store(), str(folder / "config.json"))
        refuse_hostile(plain, f"model {name}: config.json")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        for part in (config, config.get_text_config()):
            # The values that models read, which classes of settings change.
            found = {name: getattr(part, name) for name in _OF_ATTENTION if hasattr(part, name)}
            refuse_later_tokens(found, f"model {name}: config.json")
        return config
    except (ConfigError, DataError):
        raise
    except Exception as error:  # whatever a class of settings makes of values that it does not expect
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"model {name}: transformers cannot read its config.json ({reason}). Code from a model's "
            "folder is never run."
        ) from error


_NO_WEIGHTS = {"I16", "U16"}
_NUMBER_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def base_dtype(store: Store, model: Model) -> str:
    """The number type of most weights in a base model's files; float32 for random weights.

    Types that are only stored, such as 8-bit numbers, count as bfloat16, the type that they are computed in.
    """
    if model.name is None:
        return "float32"
    values = _stored_values(store, model)
    return _NUMBER_TYPES.get(values.most_common(1)[0][0], "bfloat16") if values else "float32"


def stored_dtype(store: Store, model: Model) -> torch.dtype:
    """The type in which the weights of a model of files can be loaded without rounding any of them.

    It is the type of the files, if all of their weights have one that PyTorch computes in; else float32. Weights that
    are loaded in the type of their file stay in the file, which processes of one machine share, until they are used.
    """
    values = _stored_values(store, model)
    (kind,) = values if len(values) == 1 else ("",)
    return getattr(torch, _NUMBER_TYPES.get(kind, "float32"))


def _stored_values(store: Store, model: Model) -> Counter[str]:
    """The number of values in a model's files by their type, such as `BF16`."""
    return _values_in(weight_files(model_folder(store, model)))


def _values_in(files: Iterable[Path]) -> Counter[str]:
    return sum((stored_types(Store(), str(path)) for path in files), Counter[str]())


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model, in order; they are compiled, checkpointed and sharded one by one.

    They are the members of the nn.ModuleList, with members of a single class, that holds the most parameters.
    """
    lists: list[nn.Module] = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(member) for member in module}) == 1
    ]
    most = max(lists, key=lambda module: sum(parameter.numel() for parameter in module.parameters()), default=None)
    return list(most.children()) if most is not None else []
