"""A model by its name as a folder on this machine: a path, an object store's URI, or a hub name with a revision.

Needs no torch, so the driver and the tokenising workers can call it.
"""

import logging
import re
from collections.abc import Collection
from pathlib import Path

from cluster.errors import DataError, StorageError
from cluster.store import paths
from cluster.store.copies import local_folder
from cluster.store.store import Store
from training.config_parts import Model
from training.models.safetensors_files import weight_shapes

# What a hub repository holds of a model and its tokenizer in safe formats.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_HUB_ANSWERS_S = 10
_COMMIT = re.compile(r"[0-9a-f]{40}")

log = logging.getLogger(__name__)


def located(model: Model) -> Model:
    """The same model for whoever reads it, wherever and whenever: local paths absolute, a hub name at its commit.

    A hub that does not answer changes nothing; who needs the model says so better.
    """
    places = {name: getattr(model, name) for name in ("name", "tokenizer", "chat_template")}
    local = {
        name: paths.absolute(place)
        for name, place in places.items()
        if place and not paths.is_remote(place) and Path(paths.absolute(place)).exists()
    }
    if model.name is None or "name" in local or _is_path(model.name) or _COMMIT.fullmatch(model.revision or ""):
        return model.model_copy(update=local)
    return model.model_copy(update=local | {"revision": _commit(model.name, model.revision) or model.revision})


def model_folder(store: Store, model: Model) -> Path:
    """A named model's files on this machine: the folder itself, a copy of the URI's, or the hub's cache.

    Raises:
        StorageError: there is no such model, or it cannot be reached.
    """
    assert model.name is not None, "a model of random weights has no folder"
    if paths.is_remote(model.name):
        return local_folder(store, model.name)
    path = Path(paths.absolute(model.name))
    if path.is_dir():
        return path
    if _is_path(model.name):
        raise _no_folder(model.name)
    return _from_hub(model.name, model.revision)


def on_hub(model: Model) -> bool:
    """Whether the name is one of a hub, and no folder's or URI's."""
    return model.name is not None and not _is_path(model.name) and not Path(paths.absolute(model.name)).is_dir()


def _is_path(name: str) -> bool:
    return paths.is_remote(name) or name.startswith(("/", "./", "../", "~", "file:")) or name.count("/") > 1


def _commit(name: str, revision: str | None) -> str | None:
    """What a hub's branch or tag stands for: as the hub says, else as the cache on this machine does."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        return HfApi().model_info(name, revision=revision, timeout=_HUB_ANSWERS_S).sha
    except Exception as error:
        log.info("the hub does not say what %s stands for: %s", name, error)
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True)).name
    except Exception as error:
        log.info("and no copy of it is here: %s", error)
    return None


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    problem = hub_problem(name, revision)
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=_HUB_FILES, local_files_only=problem is not None
        )
        return Path(found)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        said = problem or str(error).strip().splitlines()[0][:200]
        raise StorageError(
            f"model {name}{at}: no folder of that name here, and the hub does not give it ({said}). Check the name and "
            "revision; a gated model wants HF_TOKEN. Without a network, put the model's folder on this machine or an "
            "object store and give its path or URI."
        ) from error


def hub_problem(name: str, revision: str | None) -> str | None:
    """Why the hub cannot be asked for a model: asked once, as a download would try each file many times over."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(name, revision=revision, timeout=_HUB_ANSWERS_S)
    except (HfHubHTTPError, HFValidationError):
        return None  # it answers, or the name alone is wrong: the download says it better
    except Exception as error:  # of the HTTP library beneath, which changes from version to version
        said = str(error).strip() or type(error).__name__
        return f"it cannot be reached: {said.splitlines()[0][:200]}"
    return None


def cached_folder(model: Model) -> str | None:
    """The folder of a hub name in this machine's cache, without asking the hub; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    assert model.name is not None
    if _is_path(model.name):
        raise _no_folder(model.name)
    found = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    return str(Path(found).parent) if isinstance(found, str) else None


def _no_folder(name: str) -> StorageError:
    return StorageError(
        f"model {name}: no such folder on this machine. Every worker reads it: give a folder that all "
        "machines share, the URI of one on an object store, or a hub name."
    )


def weight_files(folder: Path) -> list[Path]:
    """
    Raises:
        DataError: the folder holds no model in safetensors, or a damaged file of weights.
    """
    names = {path.name for path in folder.iterdir()}
    require_safetensors(str(folder), names)
    weight_shapes(Store(), str(folder), names)
    return sorted(folder.glob("*.safetensors"))


def require_safetensors(folder: str, names: Collection[str]) -> None:
    """
    Args:
        names: of the files in the folder.

    Raises:
        DataError: they are not those of a model in safetensors.
    """
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise DataError(
                f"model {folder}: is an adapter, and a base model was wanted. Give the folder of the merged model "
                "(`merged/` beside it in a run's export)."
            )
        raise DataError(f"model {folder}: has no config.json, so it is not a model in the hub's format.")
    if any("/" not in name and name.endswith(".safetensors") for name in names):
        return
    pickled = sorted(name for name in names if "/" not in name and name.endswith((".bin", ".pth", ".pt")))
    if not pickled:
        raise DataError(
            f"model {folder}: has a config.json and no weights; *.safetensors was wanted. The download or copy is "
            "not complete: fetch it again."
        )
    raise DataError(
        f"model {folder}: holds {', '.join(pickled[:3])}, and *.safetensors was wanted (reading a .bin can run any "
        'code that someone put into it). If you trust it, convert it once: python -c "from transformers import '
        f"AutoModelForCausalLM as M; M.from_pretrained('{folder}', use_safetensors=False)"
        ".save_pretrained('NEW_FOLDER')\""
    )
