"""Settings of adapters that others wrote: those that say which matrices of the base the tensors are for.

peft reads adapter_config.json as it is. Some settings have it compute for hours (regular expressions for names
of modules, an initialisation of the matrices), take any amount of memory (ranks of single modules) or change the
base, so only the others are given to it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from raymill.cluster.errors import DataError
from raymill.cluster.store.store import Store
from raymill.training.model_folder.folder import Addition, read_shapes

_MOST_NAMES, _MOST_PATTERNS = 10_000, 1_000
_MOST_RANK = 4096  # also of virtual tokens: memory by it is of the order of the base
# A name of modules, by `re.escape` or not: no repetition, so that its time grows with its length alone.
_NAME = re.compile(r"(?:[\w.-]|\\[.-]){1,300}")
LARGEST_ALPHA = 1e30
# Values of `init_lora_weights` that do not change the base when the adapter is loaded.
PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "orthogonal")
# What adapters hold besides, without an effect on a model that is not trained.
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "encoder_hidden_size",
        "inference_mode",
        "init_weights",
        "lora_dropout",
        "megatron_core",
        "num_attention_heads",
        "num_layers",
        "num_transformer_submodules",
        "peft_type",
        "peft_version",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "token_dim",
        "tokenizer_kwargs",
        "tokenizer_name_or_path",
    }
)


def adapter_settings(store: Store, folder: str, found: Addition, kinds: Sequence[str], task: str) -> dict[str, Any]:
    """The settings of the adapter in a folder that are given to peft.

    Args:
        kinds: values of `peft_type` that the caller loads. task: value of `task_type`.

    Raises:
        DataError: it is of another kind or task, or has a setting of another kind; or a rank or a number of virtual
            tokens that is no size of its tensors.
    """
    settings, shapes = found.settings, read_shapes(store, found.tensors)
    sizes = {size for shape in shapes.values() for size in shape}
    kind = settings.get("peft_type")
    if kind not in kinds or settings.get("task_type") != task:
        raise DataError(
            f"{folder}: its adapter ({kind!s:.40}, {settings.get('task_type')!s:.40}) is none that is loaded here: "
            f"{' or '.join(kinds)}, {task}. Export the run again, or give its merged model."
        )

    def is_size(value: Any) -> bool:
        return type(value) is int and value in sizes and 0 < value <= _MOST_RANK

    if kind == "LORA":
        checks: dict[str, Callable[[Any], bool]] = {"r": is_size, "lora_alpha": _is_number, **_OF_LORA}
        checks["rank_pattern"] = lambda value: _is_pattern(value, is_size)
    else:
        checks = {"num_virtual_tokens": is_size}
    for name, value in settings.items():
        if name in checks:
            fits = checks[name](value)
        else:
            fits = name in _WITHOUT_EFFECT or not value or value == "none"
        if not fits:
            raise DataError(
                f"{folder}: adapter_config.json: {name[:60]!a} is {value!r:.100}, which is not loaded from adapters of "
                "others. Give the merged model."
            )
    if lacking := {"r", "lora_alpha", "target_modules", "num_virtual_tokens"} & checks.keys() - settings.keys():
        raise DataError(f"{folder}: adapter_config.json has no {', '.join(sorted(lacking))}. Export the run again.")
    return {name: value for name, value in settings.items() if name in checks}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST_ALPHA


def _are_names(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return value is None or (
        isinstance(names, list)
        and len(names) <= _MOST_NAMES
        and all(isinstance(one, str) and _NAME.fullmatch(one) for one in names)
    )


def _are_layers(value: Any) -> bool:
    layers = [value] if type(value) is int else value
    return value is None or (
        isinstance(layers, list) and len(layers) <= _MOST_NAMES and all(type(one) is int for one in layers)
    )


def _is_pattern(value: Any, fits: Callable[[Any], bool]) -> bool:
    if value is None or not isinstance(value, dict):
        return value is None
    return len(value) <= _MOST_PATTERNS and _are_names(list(value)) and all(map(fits, value.values()))


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


_OF_LORA: dict[str, Callable[[Any], bool]] = {
    "target_modules": _are_names,
    "target_parameters": _are_names,
    "exclude_modules": _are_names,
    "modules_to_save": _are_names,
    "layers_pattern": _are_names,
    "layers_to_transform": _are_layers,
    "alpha_pattern": lambda value: _is_pattern(value, _is_number),
    "use_rslora": _is_switch,
    "use_dora": _is_switch,
    "ensure_weight_tying": _is_switch,
    "fan_in_fan_out": _is_switch,
    "init_lora_weights": lambda value: value in PLAIN_INITIALISATIONS,
}
