"""Adapters of any folder on their base model."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import safe_open

from raymill.cluster.errors import DataError
from raymill.cluster.store.copies import local_folder
from raymill.cluster.store.store import Store
from raymill.training.model_folder.adapter_settings import adapter_settings
from raymill.training.model_folder.folder import Addition, read_shapes, refuse_foreign_files
from raymill.training.models.base import load_base

_FLOATS = {"F32", "F16", "BF16", "F64"}


def load_adapted(
    store: Store, folder: str, found: Addition, kinds: Sequence[str], task: str, dtype: torch.dtype, **how: Any
) -> PeftModel:
    """The base model of an adapter, with the adapter.

    Args:
        kinds, task: of adapters that are loaded, as in `adapter_settings`.
        how: further arguments of `load_base`.

    Raises:
        ConfigError, DataError: as of `load_base` and `adapter_settings`; the adapter does not fit the base, has
            tensors that its settings do not describe, or values that are not finite.
    """
    settings = adapter_settings(store, folder, found, kinds, task)
    local = Path(local_folder(store, folder))
    refuse_foreign_files(local)
    base = load_base(store, found.base, 0, dtype, how.pop("attention", None), **how)
    with safe_open(local / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
        of_base = {name for name in names if _is_of_base(base, name, file)}
        types = {file.get_slice(name).get_dtype() for name in names}
    if odd := types - _FLOATS:
        raise DataError(f"{folder}: its adapter has numbers of type {min(odd)}, which no weights have. Take another.")
    config = PEFT_TYPE_TO_CONFIG_MAPPING[found.settings["peft_type"]](task_type=task, inference_mode=True, **settings)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            model = PeftModel.from_pretrained(base, str(local), config=config, local_files_only=True)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # peft and torch raise unrelated classes
            reason = (str(error).strip() or repr(error)).splitlines()[0][:300]
            raise DataError(
                f"{folder}: its adapter does not fit its base {found.base.name} ({type(error).__name__}: {reason}). "
                "Export the run again, or give its merged model."
            ) from error
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing = next((str(one.message) for one in seen if "missing adapter keys" in str(one.message)), "")
    strange = read_shapes(store, found.tensors).keys() - tensors.keys() - of_base
    if missing or strange:
        raise DataError(
            f"{folder}: its adapter has other tensors than its settings describe "
            f"({missing[:200] or f'not used: {min(strange):.200}'}). Export the run again, or give its merged model."
        )
    if not all(bool(one.isfinite().all()) for one in tensors.values()):
        raise DataError(
            f"{folder}: its adapter holds NaN or infinite values: the training that wrote it diverged. Take another."
        )
    return model


def _is_of_base(base: Any, name: str, file: Any) -> bool:
    """Whether a tensor of an adapter is an unchanged one of the base: peft saves an adapted embedding with it."""
    if not name.endswith(".base_layer.weight"):
        return False
    own = base.state_dict().get(name.removeprefix("base_model.model.").replace(".base_layer.", "."))
    saved = file.get_tensor(name)
    return own is not None and own.shape == saved.shape and torch.equal(own, saved.to(own))
