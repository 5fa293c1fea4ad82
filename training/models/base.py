"""Base models: a folder, a URI, a hub name, or random weights by config; always safetensors, never code of the model's.

Whatever the name, it becomes a folder on this machine first (`model_folder`), so the rest knows one case only.
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from cluster import storage
from cluster.artifact import canonical_json
from cluster.errors import ConfigError, DataError, StorageError
from cluster.local_copies import local_folder
from training.settings import Model

# What a hub repository holds of a model and its tokenizer in safe formats.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
# Read by models whose config classes do not declare them, or written into every config.json.
_COMMON_SETTINGS = {"head_dim", "rope_theta", "rope_scaling", "partial_rotary_factor", "torch_dtype", "transformers_version"}
_SAMPLES, _SAMPLE_BYTES = 16, 4096


def model_folder(model: Model) -> Path:
    """A named model's files on this machine: the folder itself, a copy of the URI's, or the hub's cache.

    Raises:
        StorageError: there is no such model, or it cannot be reached.
    """
    assert model.name is not None, "a model of random weights has no folder"
    if storage.is_remote(model.name):
        return local_folder(model.name)
    path = Path(storage.absolute(model.name))
    if path.is_dir():
        return path
    if model.name.startswith(("/", "./", "../", "~", "file:")) or model.name.count("/") > 1:
        raise StorageError(
            f"model {model.name}: no such folder on this machine. Every worker reads it: give a folder that all "
            "machines share, the URI of one on an object store, or a hub name."
        )
    return _from_hub(model.name, model.revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise StorageError(
            f"model {name}{at}: no folder of that name here, and the hub does not give it "
            f"({str(error).strip().splitlines()[0][:200]}). Check the name and revision; a gated model wants HF_TOKEN. "
            "Without a network, put the model's folder on this machine or an object store and give its path or URI."
        ) from error


def model_identity(model: Model, seed: int = 0) -> str:
    """What tells this model from every other, without reading it whole; a checkpoint carries it.

    Random weights: a hash of the config and the seed. A hub name: the commit it resolves to. A folder: a hash of its
    config.json and, of each weight file, size, header (names, shapes, types of all tensors) and 16 samples of 4 KiB;
    so a copy of a folder, wherever it lies, is the same model, and one trained further is another.
    """
    if model.config is not None:
        return "random-" + _hash(canonical_json([model.config, seed]))
    folder = model_folder(model)
    if folder.parent.name == "snapshots":
        return f"{model.name}@{folder.name}"
    parts = [(folder / "config.json").read_bytes()]
    for path in _weight_files(folder):
        with path.open("rb") as file:
            size, header = path.stat().st_size, int.from_bytes(file.read(8), "little")
            parts += [path.name.encode(), str(size).encode(), file.read(min(header, size))]
            for number in range(_SAMPLES):
                file.seek(8 + header + max(0, size - 8 - header - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                parts.append(file.read(_SAMPLE_BYTES))
    return "weights-" + _hash(b"".join(parts))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _weight_files(folder: Path) -> list[Path]:
    """
    Raises:
        DataError: the folder holds no model in safetensors.
    """
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise DataError(
                f"model {folder}: is an adapter, and a base model was wanted. Give the folder of the merged model "
                "(`merged/` beside it in a run's export)."
            )
        raise DataError(f"model {folder}: has no config.json, so it is not a model in the hub's format.")
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pth"), *folder.glob("*.pt")))
    raise DataError(
        f"model {folder}: holds {', '.join(pickled[:3]) or 'no weights'}, and *.safetensors was wanted"
        + (" (reading a .bin can run any code that someone put into it)" if pickled else "")
        + '. If you trust it, convert it once: python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('NEW_FOLDER')\""
    )


def load_base(
    model: Model, seed: int, dtype: torch.dtype, attention: str | None, body_only: bool = False, **how: Any
) -> PreTrainedModel:
    """The model with its lm_head (`body_only`: without), on the CPU unless `how` says otherwise.

    seed: decides random weights, which are drawn in float32 on the CPU, so that they are the same on every machine
    whatever dtype they are used in. how: passed on to `from_pretrained` (quantisation, device_map).

    Raises:
        ConfigError: the settings of a random model, or a model that wants code of its own.
        DataError: no safetensors, or weights are missing in them.
    """
    kind = AutoModel if body_only else AutoModelForCausalLM
    if model.config is not None:
        return _random(model.config, seed, dtype, attention, kind)
    folder = model_folder(model)
    _weight_files(folder)
    try:
        loaded, seen = kind.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True, **how,
        )  # fmt: skip
    except (ValueError, KeyError, OSError, RuntimeError) as error:
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
    return loaded


def _random(settings: dict[str, Any], seed: int, dtype: torch.dtype, attention: str | None, kind: Any) -> PreTrainedModel:
    config = model_config(settings)
    # Not `with torch.device`: a GPU draws other numbers, and an export made on a CPU needs the same frozen weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return kind.from_config(config, attn_implementation=attention, dtype=torch.float32).to(dtype)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(
                f"model.config: transformers makes no such model: {str(error).strip().splitlines()[0][:300]}"
            ) from error


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
            f"model.config.model_type: {kind} is none that transformers knows. Did you mean {', '.join(near) or 'llama'}?"
        ) from error
    names = {*known.to_dict(), *known.attribute_map, *_COMMON_SETTINGS}
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"model.config.{name}: {kind} has no such setting.{hint}")
    return AutoConfig.for_model(kind, **given)


def named_config(model: Model) -> Any:
    """A model's transformers config, without its weights."""
    if model.config is not None:
        return model_config(model.config)
    try:
        return AutoConfig.from_pretrained(model_folder(model), trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"model {model.name}: transformers cannot read its config.json "
            f"({str(error).strip().splitlines()[0][:300]}). Code from a model's folder is never run."
        ) from error


def check_vocabulary(model: PreTrainedModel, vocabulary: int) -> None:
    """
    Raises:
        ConfigError: the tokenizer has ids that the model has no embedding for.
    """
    rows = model.get_input_embeddings().num_embeddings
    if vocabulary > rows:
        raise ConfigError(
            f"model.tokenizer: it has {vocabulary} tokens, and the model embeds {rows}. Give the model's own tokenizer "
            f"(leave `tokenizer` out), or for random weights set config.vocab_size: {vocabulary}."
        )


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model, in order: what is compiled, checkpointed and sharded one by one.

    They are the members of the longest list of modules of one class.
    """
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(member) for member in module}) == 1
    ]
    return list(max(lists, key=lambda members: sum(p.numel() for p in members.parameters()))) if lists else []


def plain_json(config: Any) -> dict[str, Any]:
    """A transformers config as JSON values."""
    return json.loads(config.to_json_string(use_diff=False))
