"""Checks of a model before a training starts, from its small files and the headers of its weight files.

No weights are fetched, and torch and transformers are loaded only where the files do not settle a question (their
import takes seconds). A question that cannot be settled here is left to the worker that loads the model.
"""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cluster.entry import Entry
from cluster.errors import ConfigError, DataError
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Model
from training.model_folder.architecture import LINEAR_NAMES, check_architecture, differences
from training.model_folder.files import read_object, weight_shapes
from training.model_folder.folder import cached_folder, on_hub, refuse_foreign_files, require_safetensors
from training.model_folder.tokenizer_checks import check_tokenizer

_module_names = Entry("training.models.cost:module_names")
_transformers_config = Entry("training.models.cost:transformers_config")

# Optional files that transformers reads, besides config.json and tokenizer.json.
_JSON_FILES = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json"}
# Names of embeddings and of heads, of all model types.
_EMBEDDINGS = ("embed_tokens", "embed_in", "wte", "lm_head", "embed_out")
_POSITIONS = ("max_position_embeddings", "n_positions")


def check_model(config: TrainConfig) -> list[str]:
    """Warnings about this model, a sentence each.

    A hub name is looked up in this machine's cache only; if it is not there, nothing is checked.

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
    if folder is not None and not _lacks_cached_weights(config.model, names):
        require_safetensors(folder, names)
    plain = _model_config(config.store, config.model, folder)
    check_architecture(plain, _where(config.model, folder), probe=config.method == "probe")
    described = _text_config(plain)
    if config.method in ("lora", "qlora") and config.lora.target != "all-linear":
        names_of = (config.lora.target,) if isinstance(config.lora.target, str) else config.lora.target
        _check_targets(config.store, config.model, names_of, described)
        _refuse_tied(config, names_of, described)
    warnings = _check_length(config, described)
    if folder is not None:
        for name in names & _JSON_FILES:
            read_object(config.store, paths.join(folder, name))
        if not _lacks_cached_weights(config.model, names):
            _check_weights(config, folder, names, plain)
    return [*warnings, *check_tokenizer(config.store, config.model, folder, described.get("vocab_size"))]


def embedded_tokens(store: Store, model: Model) -> int | None:
    """The number of tokens that a model has embeddings for, by its config; None if the config is not here or lacks it.

    Raises:
        DataError, StorageError: its config.json cannot be read.
    """
    folder = _folder(model)
    if model.config is None and folder is None:
        return None
    size = _text_config(_model_config(store, model, folder)).get("vocab_size")
    return size if isinstance(size, int) else None


def _folder(model: Model) -> str | None:
    """URI of the folder of a named model; None if it would have to be fetched from a hub first."""
    if model.name is None:
        return None
    if paths.is_remote(model.name):
        return paths.absolute(model.name)
    path = Path(paths.absolute(model.name))
    if path.is_dir():
        refuse_foreign_files(path)
        return str(path)
    return cached_folder(model)


def _names(store: Store, folder: str) -> set[str]:
    """Names of the files in a folder, relative to it."""
    return {file.uri.removeprefix(folder).lstrip("/") for file in store.list_files(folder)}


def _lacks_cached_weights(model: Model, names: Collection[str]) -> bool:
    """Whether the hub's cache holds a model without its weights."""
    return on_hub(model) and not any(name.endswith(".safetensors") for name in names)


def _where(model: Model, folder: str | None) -> str:
    """Where the model's config comes from, for messages."""
    return "model.config" if folder is None else paths.join(folder, "config.json")


def _model_config(store: Store, model: Model, folder: str | None) -> dict[str, Any]:
    """config.json, or the config of a random model."""
    if folder is None:
        assert model.config is not None
        return model.config
    return read_object(store, paths.join(folder, "config.json"), {"model_type": str})


def _text_config(plain: dict[str, Any]) -> dict[str, Any]:
    """A config in which the settings of a `text_config`, if it has one, override the others."""
    inner = plain.get("text_config")
    return plain | inner if isinstance(inner, dict) else plain


def _check_weights(config: TrainConfig, folder: str, names: Collection[str], plain: dict[str, Any]) -> None:
    """Check that every weight file is complete and that the tensors are those that the config describes.

    Raises:
        ConfigError: the weights are quantised. DataError: a file is damaged or does not fit the config.
    """
    quantised = plain.get("quantization_config")
    if quantised is not None:
        how = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        if not (config.method == "qlora" and how == "bitsandbytes"):
            raise ConfigError(
                f"{paths.join(folder, 'config.json')}: the weights are quantised (quant_method {how}); weights "
                "in float32, bf16 or float16 are needed. Give the model in its original precision; method qlora "
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
    """A warning, or an error, if sequence_length is above the model's number of positions."""
    found = (described.get(name) for name in _POSITIONS)
    positions = next((one for one in found if isinstance(one, int) and one > 0), None)
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
    """The number of positions that transformers assumes where a random model's config does not state it."""
    text = _transformers_config(store, model).get_text_config()
    return next((getattr(text, name) for name in _POSITIONS if getattr(text, name, None)), None)


def _has_rope_scaling(described: dict[str, Any]) -> bool:
    """Whether `rope_scaling` (or `rope_parameters` of transformers 5) has a type other than default, for any layers."""
    for name in ("rope_scaling", "rope_parameters"):
        found = described.get(name)
        if not isinstance(found, dict):
            continue
        for part in (found, *(value for value in found.values() if isinstance(value, dict))):
            if part.get("rope_type", part.get("type", "default")) != "default":
                return True
    return False


def _check_targets(store: Store, model: Model, wanted: Sequence[str], described: dict[str, Any]) -> None:
    """Check that each name of `lora.target` is a module's name or the end of a module's path, as peft matches them.

    Raises:
        ConfigError: no module matches a name.
    """
    names: Sequence[str] = LINEAR_NAMES.get(described["model_type"], ())
    if not names or any("." in name for name in wanted):
        names = _module_names(store, model)
    missing = [name for name in wanted if not any(name == one or one.endswith(f".{name}") for one in names)]
    if missing:
        raise ConfigError(_no_such_module(missing[0], names, described["model_type"]))


def _refuse_tied(config: TrainConfig, wanted: Sequence[str], described: dict[str, Any]) -> None:
    """
    Raises:
        ConfigError: an adapter of the lm_head or of the embedding is wanted, and both have one weight.
    """
    shared = next((name for name in wanted if name.rpartition(".")[2] in _EMBEDDINGS), None)
    if shared is None:
        return
    tied = described.get("tie_word_embeddings")
    if tied is None:
        tied = _transformers_config(config.store, config.model).get_text_config().tie_word_embeddings
    if tied:
        raise ConfigError(tied_target(shared))


def tied_target(name: str) -> str:
    """The error about a target of LoRA whose weight the lm_head and the embedding share."""
    return (
        f"lora.target: this model's embedding and lm_head share one weight, so an adapter of {name} could not be "
        f"merged. Leave {name} out."
    )


def _no_such_module(wanted: str, names: Sequence[str], model_type: str) -> str:
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    near = difflib.get_close_matches(wanted.rpartition(".")[2], ends, n=3)
    hint = f" The nearest: {', '.join(near)}." if near else ""
    return (
        f"lora.target: no module of this {model_type} is named {wanted}.{hint} Its modules: {', '.join(ends)}; or "
        "all-linear."
    )
