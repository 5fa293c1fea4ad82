"""Vectors of a sentence-transformers model, an optional package that loads torch. Only workers import this module."""

import json
import math
import re
import tempfile
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError, is_panic
from raymill.cluster.hub_client import hub_folder
from raymill.cluster.model_settings import (
    check_size,
    check_tokenizer,
    is_tokenizer_file,
    refuse_hostile,
    without_file_arguments,
)
from raymill.cluster.store.copies import local_folder
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.pipelines.embedder import MODELS

try:
    from sentence_transformers import SentenceTransformer
except ImportError:
    SentenceTransformer = None

_AUTO_TOKENIZER = Entry("transformers:AutoTokenizer")
_AUTO_CONFIG, _AUTO_MODEL = Entry("transformers:AutoConfig"), Entry("transformers:AutoModel")
_DEVICE, _SET_NUM_THREADS = Entry("torch:device"), Entry("torch:set_num_threads")
_FAST_TOKENIZER = Entry("transformers:PreTrainedTokenizerFast")
_BATCH = 64  # texts at a time
_LARGEST_CONFIG = 64 << 20  # bytes; the largest is tokenizer.json, with each word of the vocabulary
# What is fetched of a hub's repository: no pickled weights, and no copies for other libraries.
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_OTHER_LIBRARIES = ["onnx/*", "openvino/*"]
_ARGUMENTS = re.compile(r"(?:model|config|tokenizer|processor)_(?:kw)?args")
_MODULES = ("Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout", "StaticEmbedding")
_MODULE = re.compile(rf"sentence_transformers(?:\.\w+)*\.(?:{'|'.join(_MODULES)})")


class SentenceModel:
    """An `Embedder` of embedder.py: a model in a local folder, on the CPU. Code in the folder is not run.

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
        self._folder, self._setting = folder, setting
        try:
            with tempfile.TemporaryDirectory(prefix="raymill-model-") as files:
                _link_data(Path(folder), Path(files), setting)
                for one in sorted({path.parent for path in Path(files).rglob("*") if is_tokenizer_file(path.name)}):
                    where = f"{setting}: {Path(folder) / one.relative_to(files)}"
                    check_tokenizer(partial(_tokenizer, one), where)
                for config in sorted(Path(files).rglob("config.json")):
                    if "model_type" in json.loads(config.read_bytes()):
                        stored = sum(path.stat().st_size for path in config.parent.glob("*.safetensors"))
                        check_size(partial(_without_memory, config.parent), stored, f"{setting}: {folder}")
                self.model = SentenceTransformer(files, device="cpu", local_files_only=True)
            positions = getattr(getattr(self.model[0], "auto_model", None), "config", None)
            longest = getattr(positions, "max_position_embeddings", None)
            if longest and self.model.max_seq_length:
                self.model.max_seq_length = min(self.model.max_seq_length, longest)
            finite = np.isfinite(self.embed(["text"])).all()
        except (ConfigError, DataError):
            raise
        except Exception as error:  # a folder can be damaged in ways for which libraries raise errors of any type
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            reason = reason.replace(files, folder)[:200]
            raise DataError(f"{setting}: {folder} cannot be loaded ({reason}). {MODELS}") from error
        if not finite:
            raise DataError(f"{setting}: {folder} gives vectors with NaN or infinite numbers. {MODELS}")

    def embed(self, texts: list[str]) -> np.ndarray:
        """float32[N, D] of length 1. The last bits depend on which texts are given together.

        Raises:
            DataError: an expression of the tokenizer takes too long for a text.
        """
        try:
            found = self.model.encode(texts, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
        except BaseException as error:  # tokenizers is written in Rust, of which a panic is no Exception
            if not is_panic(error):
                raise
            raise DataError(
                f"{self._setting}: the tokenizer of {self._folder} fails on a text ({str(error)[:200]}). {MODELS}"
            ) from error
        return np.asarray(found, np.float32)


def _tokenizer(folder: Path) -> Any:
    """The tokenizer that sentence-transformers would load from a folder; None if there is none."""
    auto: Any = _AUTO_TOKENIZER.load()
    try:
        return auto.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except MemoryError:
        raise
    except Exception:  # the folder of StaticEmbedding may have this file alone
        file = folder / "tokenizer.json"
        return _FAST_TOKENIZER(tokenizer_file=str(file)) if file.is_file() else None


def _without_memory(folder: Path) -> Any:
    """The transformer of a folder, on torch's device `meta`. For a child process, where threads would wait forever."""
    set_num_threads, device = _SET_NUM_THREADS.load(), _DEVICE.load()
    set_num_threads(1)
    config: Any = _AUTO_CONFIG.load()
    model: Any = _AUTO_MODEL.load()
    with device("meta"):
        return model.from_config(config.from_pretrained(folder, trust_remote_code=False, local_files_only=True))


def _link_data(folder: Path, into: Path, setting: str) -> None:
    """Check a model's configs, and link them, its vocabulary and its safetensors into an empty folder to load it from.

    Pickled files are not linked, so no config can have them loaded.

    Raises:
        DataError: weights are pickled, or a file is a FIFO, socket or device.
        ConfigError: a config names code, arguments of loading, or more layers than any model has.
    """
    for path in sorted(folder.rglob("*")):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(f"{setting}: {path} is a FIFO, socket or device; a file was wanted. Remove it.")
        if path.match("pytorch_model*.bin") and not any(path.parent.glob("model*.safetensors")):
            raise DataError(
                f"{setting}: {path} is pickled; model.safetensors is needed (reading a .bin can run code that it "
                'contains). If you trust it, convert it once: python -c "from sentence_transformers import '
                f"SentenceTransformer as S; S('{folder}').save('NEW_FOLDER')\""
            )
        if path.name == "adapter_config.json":
            raise DataError(
                f"{setting}: {path} is an adapter, and a whole model is needed. Merge it into its base with peft, and "
                "give the folder of the merged model."
            )
        if not path.is_file() or not any(path.match(one) for one in _HUB_FILES):
            continue
        if path.suffix == ".json" and path.name not in ("vocab.json", "tokenizer.json"):
            settings, where = None, f"{setting}: {path}"
            with suppress(ValueError, RecursionError):  # the library names what is no JSON
                settings = json.loads(Store().read_bytes(str(path), _LARGEST_CONFIG))
            refuse_hostile(settings, where)
            _refuse_code(settings, where)
            _refuse_size(settings, sum(one.stat().st_size for one in path.parent.glob("*.safetensors")), where)
        link = into / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if is_tokenizer_file(path.name) else b""
        if (kept := without_file_arguments(path.name, data)) != data:
            link.write_bytes(kept)
        else:
            link.symlink_to(path.resolve())


def _refuse_code(settings: Any, where: str) -> None:
    """Check a config for arguments and classes that sentence-transformers would use when it loads the model.

    Raises:
        ConfigError: it has arguments for loading, which can read, run or write any file, or names a class that is no
            module of a text model.
    """
    for entry in settings if isinstance(settings, list) else [settings]:
        if not isinstance(entry, dict):
            continue
        if given := [name for name, value in entry.items() if _ARGUMENTS.fullmatch(name) and value]:
            raise ConfigError(
                f"{where}: {given[0]} has arguments of loading, {str(entry[given[0]])[:80]!a}, which can run code or "
                "write files. Remove this line from the file."
            )
        named = [entry.get("type"), *(entry.get("types") or {}).values()] if "type" in entry or "types" in entry else []
        for name in named:
            if not isinstance(name, str) or not _MODULE.fullmatch(name):
                raise ConfigError(
                    f"{where}: {str(name)[:80]!a} is none of the modules that are loaded: "
                    f"{', '.join(_MODULES)} of sentence_transformers. Choose another model."
                )


def _refuse_size(settings: Any, stored: int, where: str) -> None:
    """Check the sizes in the config of a Dense or LayerNorm with its files of weights, which have `stored` bytes.

    Raises:
        ConfigError: the module would have more weights than the files.
    """
    if not isinstance(settings, dict) or "model_type" in settings:
        return
    sizes = [settings.get(name, 1) for name in ("in_features", "out_features", "dimension")]
    if not all(isinstance(size, int) for size in sizes) or math.prod(sizes) > 4 * stored + (1 << 20):
        raise ConfigError(
            f"{where}: describes a matrix of {' x '.join(map(str, sizes))} values, and the files of weights beside it "
            f"have {stored:,} bytes. Choose another model."
        )


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
    if EmbeddingModel(path=name).is_folder:
        try:
            return local_folder(store, name)
        except NotFound as error:
            raise DataError(f"{setting}: there is no folder {name}. {MODELS}") from error
    try:
        return hub_folder(name, None, _HUB_FILES, ignore_patterns=_OTHER_LIBRARIES)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{setting}: there is no folder {name}, and the hub did not provide a model of this name "
            f"({reason[:200]}). {MODELS} Without a network, give a folder or URI."
        ) from error
