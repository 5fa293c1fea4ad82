"""Vectors of a sentence-transformers model, an optional package that loads torch. Only workers import this module."""

import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import huggingface_hub
import numpy as np
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from cluster.errors import ConfigError, DataError
from cluster.model_settings import refuse_hostile
from cluster.store.copies import local_folder
from cluster.store.interface import NotFound
from cluster.store.store import Store
from pipelines.prepare.assess.settings import MODELS, TextVectors

try:
    from sentence_transformers import SentenceTransformer
except ImportError:
    SentenceTransformer = None

_BATCH = 64  # texts at a time
_LARGEST_CONFIG = 16 << 20  # bytes
# What is fetched of a hub's repository: no pickled weights, and no copies for other libraries.
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_OTHER_LIBRARIES = ["onnx/*", "openvino/*"]


class SentenceModel:
    """An `Embedder` of vectors.py: a model in a local folder, on the CPU. Code in the folder is not run.

    Raises:
        ConfigError: sentence-transformers is not installed.
        DataError: the folder holds no model.
    """

    def __init__(self, folder: str, setting: str) -> None:
        if SentenceTransformer is None:
            raise ConfigError(
                f"{setting}: {folder} given, and sentence-transformers is not installed. Run "
                "`pip install 'raymill[embeddings]'` on every machine, or leave `model` out."
            )
        _refuse_hostile_files(Path(folder), setting)
        try:
            self.model = SentenceTransformer(folder, device="cpu", local_files_only=True)
            finite = np.isfinite(self.embed(["text"])).all()
        except Exception as error:  # a folder can be damaged in ways for which libraries raise errors of any type
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"{setting}: {folder} cannot be loaded ({reason[:200]}). {MODELS}") from error
        if not finite:
            raise DataError(f"{setting}: {folder} gives vectors with NaN or infinite numbers. {MODELS}")

    def embed(self, texts: list[str]) -> np.ndarray:
        """float32[N, D] of length 1. The last bits depend on which texts are given together."""
        found = self.model.encode(texts, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, np.float32)


def _refuse_hostile_files(folder: Path, setting: str) -> None:
    """Check the files of a model's folder before libraries open them.

    Raises:
        DataError: weights are pickled, or a file is a FIFO, socket or device.
        ConfigError: a config names code of a hub, or more layers than any model has.
    """
    for path in sorted(folder.rglob("*")):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(f"{setting}: {path} is a FIFO, socket or device; a file was wanted. Remove it.")
        if path.match("pytorch_model*.bin") and not any(path.parent.glob("*.safetensors")):
            raise DataError(
                f"{setting}: {path} is pickled; *.safetensors is needed (reading a .bin can run code that it "
                'contains). If you trust it, convert it once: python -c "from sentence_transformers import '
                f"SentenceTransformer as S; S('{folder}').save('NEW_FOLDER')\""
            )
        if path.name == "config.json" and path.is_file():
            settings = None
            with suppress(ValueError, RecursionError):  # the library names what is no JSON
                settings = json.loads(Store().read_bytes(str(path), _LARGEST_CONFIG))
            refuse_hostile(settings, f"{setting}: {path}")


@lru_cache(maxsize=1)
def load(store: Store, name: str, setting: str = "assess.embeddings.model") -> SentenceModel:
    """The model, loaded once a worker and not once a unit. name: of a folder, its URI, or a name of the hub. setting:
    that names it, for errors.

    Raises:
        ConfigError, DataError: as SentenceModel, or there is no such model.
    """
    return SentenceModel(str(_folder(store, name, setting)), setting)


def _folder(store: Store, name: str, setting: str) -> Path:
    """The folder of a model on this machine; what is elsewhere is fetched."""
    if SentenceTransformer is None:  # before anything is fetched
        return Path(name)
    if TextVectors(model=name).is_folder:
        try:
            return local_folder(store, name)
        except NotFound as error:
            raise DataError(f"{setting}: there is no folder {name}. {MODELS}") from error
    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=_OTHER_LIBRARIES)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{setting}: there is no folder {name}, and the hub did not provide a model of this name "
            f"({reason[:200]}). {MODELS} Without a network, give a folder or URI."
        ) from error
