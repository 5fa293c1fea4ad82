"""Write the folders of an export on this machine, as `from_pretrained` of transformers and peft reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerFast

from training.config_parts import Model
from training.evaluation.generate import stop_ids
from training.export.loading import Base
from training.pack.load_tokenizer import pad_id

SHARD_SIZE = "5GB"


def base_of(model: Model, model_fingerprint: str, root: str) -> Base:
    """The base model on which an adapter or a probe of this run is loaded. root: URI of the export."""
    name = model.name
    if name is None:
        return Base(f"{root}/base", shown="../base")
    prefix = f"{name}@"
    if model_fingerprint.startswith(prefix):
        return Base(name, model_fingerprint.removeprefix(prefix))
    return Base(name, model.revision)


def generation_settings(model: Any, tokenizer: PreTrainedTokenizerFast, own_tokenizer: bool) -> GenerationConfig:
    """The model's generation config, with the token ids that end an answer in the training data as stop ids.

    own_tokenizer: the tokenizer came with the model, so the model's own stop ids stay valid.
    """
    own = model.generation_config.to_diff_dict() if own_tokenizer and model.generation_config else {}
    before = own.pop("eos_token_id", None)
    stops = [before] if isinstance(before, int) else list(before or [])
    stops += [token for token in stop_ids(tokenizer) if token not in stops]
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": pad_id(tokenizer)}
    return GenerationConfig(**own | ids, eos_token_id=stops if len(stops) > 1 else (stops or [None])[0])


def save_model(
    model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, dtype: torch.dtype, own_tokenizer: bool
) -> None:
    """Save a whole causal language model and its tokenizer. The model is cast to dtype in place."""
    settings = generation_settings(model, tokenizer, own_tokenizer)
    if not own_tokenizer:
        model.config.bos_token_id, model.config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        model.config.pad_token_id = settings.pad_token_id
    model.generation_config = settings
    model.to(dtype).save_pretrained(folder, max_shard_size=SHARD_SIZE)
    tokenizer.save_pretrained(folder)


def save_adapter(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, base: Base, own_tokenizer: bool) -> None:
    """Save a peft model's adapter in float32, its generation config and tokenizer."""
    (adapter,) = model.peft_config.values()
    adapter.base_model_name_or_path, adapter.revision = base.name, base.revision
    settings = generation_settings(model.get_base_model(), tokenizer, own_tokenizer)
    # Embeddings are never trained as a whole here; by default peft would query the hub about them.
    model.save_pretrained(folder, save_embedding_layers=False)
    settings.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_probe(
    objective: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, base: Base, classes: Sequence[str]
) -> None:
    """Save the head's tensors, and probe.json with the base, pool, labels and hidden size, and the tokenizer."""
    folder.mkdir()
    head = {name: values.detach().float().contiguous() for name, values in objective.classifier.state_dict().items()}
    save_file(head, folder / "head.safetensors", metadata={"format": "pt"})
    settings = {
        "base": {"name": base.name, "revision": base.revision},
        "pool": objective.pool,
        "labels": list(classes),
        "hidden_size": objective.classifier.in_features,
    }
    (folder / "probe.json").write_text(json.dumps(settings, indent=1), "utf-8")
    tokenizer.save_pretrained(folder)
