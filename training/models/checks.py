"""What makes a training impossible and stands in a model's small files: config.json, tokenizer.json, names of weights.

They are read without torch and transformers, whose import takes seconds, and without fetching weights. Where they do
not settle a question, the meta model of transformers does, or the check is left to who loads the model.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from cluster.store import storage
from training.config import TrainConfig
from training.config_parts import Model
from training.models.folder import cached_folder, require_safetensors
from training.models.linear_names import LINEAR_NAMES

_POSITIONS = ("max_position_embeddings", "n_positions")


def check_model(config: TrainConfig) -> list[str]:
    """Refuse what this model cannot do; warnings, a sentence each.

    A hub name is looked up in this machine's cache only, and passes where it is not there.

    Raises:
        ConfigError: `lora.target`, `sequence_length` or the tokenizer does not fit the model.
        DataError: the model's folder holds no safetensors.
        StorageError: there is no such folder.
    """
    folder = _folder(config.model)
    if config.model.config is None and folder is None:
        return []
    if folder is not None:
        names = {file.uri.removeprefix(folder).lstrip("/") for file in storage.list_files(folder)}
        require_safetensors(folder, names)
    described = _described(config.model, folder)
    _check_targets(config, described)
    return [*_check_length(config, described), *_check_tokenizer(config.model, folder, described)]


def _folder(model: Model) -> str | None:
    """URI of the folder of a named model; None where it would have to be fetched from a hub first."""
    if model.name is None:
        return None
    if storage.is_remote(model.name):
        return storage.absolute(model.name)
    path = Path(storage.absolute(model.name))
    return str(path) if path.is_dir() else cached_folder(model)


def _described(model: Model, folder: str | None) -> dict[str, Any]:
    """config.json, or the config of a random model; of a model with several parts, that of the text model."""
    plain = model.config if folder is None else json.loads(storage.read_bytes(storage.join(folder, "config.json")))
    assert plain is not None
    return plain | plain.get("text_config", {})


def _check_length(config: TrainConfig, described: dict[str, Any]) -> list[str]:
    """A sequence_length above the positions that the model was made for."""
    positions = next((described[name] for name in _POSITIONS if described.get(name)), None)
    if positions is None and config.model.config is not None:
        positions = _default_positions(config.model)
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


def _default_positions(model: Model) -> int | None:
    """What transformers takes where a random model's config does not state it."""
    from training.plan.shape import transformers_config

    text = transformers_config(model).get_text_config()
    return next((getattr(text, name) for name in _POSITIONS if getattr(text, name, None)), None)


def _has_rope_scaling(described: dict[str, Any]) -> bool:
    """`rope_scaling`, or `rope_parameters` of transformers 5, of a type other than default; maybe by layer type."""
    for name in ("rope_scaling", "rope_parameters"):
        found = described.get(name) or {}
        for part in (found, *(value for value in found.values() if isinstance(value, dict))):
            if part.get("rope_type", part.get("type", "default")) != "default":
                return True
    return False


def _check_tokenizer(model: Model, folder: str | None, described: dict[str, Any]) -> list[str]:
    """A tokenizer with more tokens than the model has embeddings for."""
    embedded = described.get("vocab_size")
    source = _tokenizer_folder(model, folder)
    if source is None or embedded is None:
        return []
    tokens = tokenizer_size(storage.join(source, "tokenizer.json"))
    if tokens is None or tokens <= embedded:
        return []
    if source == folder:
        return [
            f"model {model.name}: its tokenizer has {tokens:,} tokens, and the model embeds {embedded:,}. A document "
            "with one of the others cannot be trained on: resize the model's embeddings if you added tokens."
        ]
    raise ConfigError(
        f"model.tokenizer: it has {tokens:,} tokens, and the model embeds {embedded:,}. Give the model's own "
        f"(leave `tokenizer` out), or for random weights set config.vocab_size: {tokens}."
    )


def _tokenizer_folder(model: Model, folder: str | None) -> str | None:
    if model.tokenizer is None:
        return folder
    if model.tokenizer == "train":
        return None
    if storage.is_remote(model.tokenizer) or Path(storage.absolute(model.tokenizer)).is_dir():
        return storage.absolute(model.tokenizer)
    return cached_folder(Model(name=model.tokenizer))


def tokenizer_size(uri: str) -> int | None:
    """One more than the highest id of a tokenizer.json; None where there is none."""
    try:
        plain = json.loads(storage.read_bytes(uri))
    except storage.NotFound:
        return None
    vocabulary = plain["model"].get("vocab") or {}
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return 1 + max((*ids, *(token["id"] for token in plain.get("added_tokens", []))), default=-1)


def _check_targets(config: TrainConfig, described: dict[str, Any]) -> None:
    """Every name of `lora.target` is that of a module, or the end of a module's path, as peft compares them."""
    target = config.lora.target
    if config.method not in ("lora", "qlora") or target == "all-linear":
        return
    wanted = (target,) if isinstance(target, str) else target
    names: Sequence[str] = LINEAR_NAMES.get(described["model_type"], ())
    if not names or any("." in name for name in wanted):
        from training.plan.shape import module_names

        names = module_names(config.model)
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
