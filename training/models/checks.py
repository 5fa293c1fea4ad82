"""What makes a training impossible and stands in a model's small files: config.json, tokenizer.json, names of weights.

They are read without torch and transformers, whose import takes seconds, and without fetching weights. Where they do
not settle a question, the meta model of transformers does, or the check is left to who loads the model.
"""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, DataError
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Model
from training.models.folder import cached_folder, on_hub, require_safetensors
from training.models.json_files import read_object
from training.models.linear_names import ENCODERS, LINEAR_NAMES
from training.models.safetensors_files import weight_shapes
from training.models.tokenizer_checks import check_tokenizer
from training.models.weights_fit import differences

# Besides config.json and tokenizer.json, what transformers reads of a folder if it is there.
_JSON_FILES = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json"}
_POSITIONS = ("max_position_embeddings", "n_positions")


def check_model(config: TrainConfig) -> list[str]:
    """Refuse what this model cannot do; warnings, a sentence each.

    A hub name is looked up in this machine's cache only, and passes where it is not there.

    Raises:
        ConfigError: transformers has no causal language model of this type, or `lora.target`, `sequence_length` or the
            tokenizer does not fit it.
        DataError: a file of the model's folder is missing, damaged, or does not fit its config.json.
        StorageError: there is no such folder.
    """
    folder = _folder(config.model)
    if config.model.config is None and folder is None:
        return []
    names = set() if folder is None else _names(config.store, folder)
    if folder is not None and not _fetched_in_part(config.model, names):
        require_safetensors(folder, names)
    plain = _plain_config(config.store, config.model, folder)
    check_architecture(plain, _where(config.model, folder), probe=config.method == "probe")
    described = _text_config(plain)
    _check_targets(config, described)
    warnings = _check_length(config, described)
    if folder is not None:
        for name in names & _JSON_FILES:
            read_object(config.store, paths.join(folder, name))
        if not _fetched_in_part(config.model, names):
            _check_weights(config, folder, names, plain)
    return [*warnings, *check_tokenizer(config.store, config.model, folder, described.get("vocab_size"))]


def embedded_tokens(store: Store, model: Model) -> int | None:
    """How many tokens a model has embeddings for, as its config states it; None where that is not known here.

    Raises:
        DataError, StorageError: its config.json cannot be read.
    """
    folder = _folder(model)
    if model.config is None and folder is None:
        return None
    size = _text_config(_plain_config(store, model, folder)).get("vocab_size")
    return size if isinstance(size, int) else None


def _folder(model: Model) -> str | None:
    """URI of the folder of a named model; None where it would have to be fetched from a hub first."""
    if model.name is None:
        return None
    if paths.is_remote(model.name):
        return paths.absolute(model.name)
    path = Path(paths.absolute(model.name))
    return str(path) if path.is_dir() else cached_folder(model)


def _names(store: Store, folder: str) -> set[str]:
    return {file.uri.removeprefix(folder).lstrip("/") for file in store.list_files(folder)}


def _fetched_in_part(model: Model, names: Collection[str]) -> bool:
    """Whether the hub's cache holds a model without its weights."""
    return on_hub(model) and not any(name.endswith(".safetensors") for name in names)


def _where(model: Model, folder: str | None) -> str:
    return "model.config" if folder is None else paths.join(folder, "config.json")


def _plain_config(store: Store, model: Model, folder: str | None) -> dict[str, Any]:
    """config.json, or the config of a random model."""
    if folder is None:
        assert model.config is not None
        return model.config
    return read_object(store, paths.join(folder, "config.json"), {"model_type": str})


def _text_config(plain: dict[str, Any]) -> dict[str, Any]:
    """Of a model with several parts, that of the text model."""
    inner = plain.get("text_config")
    return plain | inner if isinstance(inner, dict) else plain


def check_architecture(plain: dict[str, Any], where: str, probe: bool) -> None:
    """
    Args:
        plain: a config.json. where: it came from. probe: only the model's body is used.

    Raises:
        ConfigError: transformers has no model of this type, or none that predicts each token from those before it.
    """
    kind = plain["model_type"]
    if kind in ENCODERS and not plain.get("causal" if kind == "xlm" else "is_decoder"):
        raise ConfigError(
            f"{where}: {kind} is an encoder: each of its positions sees later tokens too, so it would learn to copy "
            "them and not to predict. Give a causal language model, such as a llama or qwen3."
        )
    if plain.get("is_encoder_decoder"):
        raise ConfigError(
            f"{where}: {kind} is an encoder with a decoder, and a causal language model (a decoder alone) was wanted."
        )
    if kind not in LINEAR_NAMES:
        _check_type(kind, where, probe)


def _check_type(kind: str, where: str, probe: bool) -> None:
    """By the names that transformers has, whose import takes seconds but needs no torch."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        near = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=3)
        raise ConfigError(
            f"{where}: model_type: {kind} is none that transformers has. Did you mean {', '.join(near) or 'llama'}? "
            "Code from a model's folder is never run."
        )
    if kind not in (MODEL_MAPPING_NAMES if probe else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise ConfigError(
            f"{where}: transformers has no causal language model of the type {kind}. Give one, such as a "
            "llama or qwen3."
        )


def _check_weights(config: TrainConfig, folder: str, names: Collection[str], plain: dict[str, Any]) -> None:
    """Every file whole, and the tensors those of the config."""
    quantised = plain.get("quantization_config")
    if quantised is not None:
        how = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        if not (config.method == "qlora" and how == "bitsandbytes"):
            raise ConfigError(
                f"{paths.join(folder, 'config.json')}: the weights are quantised (quant_method {how}), and weights "
                "in float32, bf16 or float16 were wanted. Give the model in its original precision; method qlora "
                "quantises it by itself."
            )
    shapes = weight_shapes(config.store, folder, names)
    if quantised is None and (found := differences(plain, shapes, needs_head=config.method != "probe")):
        more = f" and {len(found) - 2} more" if len(found) > 2 else ""
        raise DataError(
            f"model {folder}: its weights do not fit its config.json: {'; '.join(found[:2])}{more}. Fetch both again "
            "from the same version of the model, or correct config.json."
        )


def _check_length(config: TrainConfig, described: dict[str, Any]) -> list[str]:
    """A sequence_length above the positions that the model was made for."""
    positions = next((described[name] for name in _POSITIONS if described.get(name)), None)
    if positions is None and config.model.config is not None:
        positions = _default_positions(config.store, config.model)
    if positions is None or config.sequence_length <= positions:
        return []
    seen = f"sequence_length: {config.sequence_length:,} is above the model's max_position_embeddings, {positions:,}"
    if _has_rope_scaling(described):
        return [
            f"{seen}. Its RoPE scaling lets it run, but it has not seen such positions: compare the loss of long and "
            "short documents."
        ]
    where = (
        f"set model.config.max_position_embeddings to {config.sequence_length}"
        if config.model.config is not None
        else "add a rope_scaling to its config.json"
    )
    raise ConfigError(f"{seen}, and it has no RoPE scaling. Set sequence_length to {positions} or less, or {where}.")


def _default_positions(store: Store, model: Model) -> int | None:
    """What transformers takes where a random model's config does not state it."""
    from training.plan.shape import transformers_config

    text = transformers_config(store, model).get_text_config()
    return next((getattr(text, name) for name in _POSITIONS if getattr(text, name, None)), None)


def _has_rope_scaling(described: dict[str, Any]) -> bool:
    """`rope_scaling`, or `rope_parameters` of transformers 5, of a type other than default; maybe by layer type."""
    for name in ("rope_scaling", "rope_parameters"):
        found = described.get(name) or {}
        for part in (found, *(value for value in found.values() if isinstance(value, dict))):
            if part.get("rope_type", part.get("type", "default")) != "default":
                return True
    return False


def _check_targets(config: TrainConfig, described: dict[str, Any]) -> None:
    """Every name of `lora.target` is that of a module, or the end of a module's path, as peft compares them."""
    target = config.lora.target
    if config.method not in ("lora", "qlora") or target == "all-linear":
        return
    wanted = (target,) if isinstance(target, str) else target
    names: Sequence[str] = LINEAR_NAMES.get(described["model_type"], ())
    if not names or any("." in name for name in wanted):
        from training.plan.shape import module_names

        names = module_names(config.store, config.model)
    missing = [name for name in wanted if not any(name == one or one.endswith(f".{name}") for one in names)]
    if missing:
        raise ConfigError(_no_such_module(missing[0], names, described["model_type"]))


def _no_such_module(wanted: str, names: Sequence[str], model_type: str) -> str:
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    near = difflib.get_close_matches(wanted.rpartition(".")[2], ends, n=3)
    hint = f" The nearest: {', '.join(near)}." if near else ""
    return (
        f"lora.target: no module of this {model_type} is named {wanted}.{hint} Its modules: {', '.join(ends)}; or "
        "all-linear."
    )
