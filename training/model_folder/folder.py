"""A named model as a folder on this machine: its small files, the headers of its weights, and its fingerprint.

A name is a path, a URI of an object store, or a hub name with a revision.

Of a safetensors file only the header is read, so no weights are fetched from an object store. The format: 8 bytes with
the length N of the header, N bytes of JSON (name -> dtype, shape, data_offsets), then the tensors' bytes without gaps.
Source: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from raymill.cluster.artifact import canonical_json
from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.hub_client import checked_hub, hub_folder
from raymill.cluster.model_settings import is_tokenizer_file, refuse_hostile, without_file_arguments
from raymill.cluster.run import RUN_MANIFEST
from raymill.cluster.store import paths
from raymill.cluster.store.copies import local_folder
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model

_SETTINGS = ("config.json", "params.json")  # of the hub's and of Mistral's format
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
# Marks of JSON that begin a value, and how many a header may have: 8 for each tensor, and the largest models have some
# 100,000 tensors. Each takes up to 64 bytes.
_PARTS, _MOST_PARTS = (b"[", b"{", b","), 4_000_000
_LARGEST_JSON = 256 << 20  # bytes; the largest tokenizers have about 35 MB
_LENGTH_BYTES = 8
_GIT_LFS = b"version https://git-lfs"
_THREADS = 16

Shapes = dict[str, tuple[int, ...]]

_TYPES = {dict: "an object", list: "a list", str: "text", int: "a whole number"}


def read_object(store: Store, uri: str, keys: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        keys: required keys, with the types of their values.

    Raises:
        NotFound: there is no such file.
        DataError: the file is no JSON or no object, or a required key is missing or has another type.
    """
    data = store.read_bytes(uri, _LARGEST_JSON)
    try:
        plain = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if not data.strip():
            raise DataError(f"{uri}: is empty; JSON was expected. Fetch the file again.") from error
        raise DataError(
            f"{uri}: is not JSON ({error}); it begins with {data[:40]!r}. Correct the file, or fetch it again."
        ) from error
    if not isinstance(plain, dict):
        raise DataError(f"{uri}: holds {str(plain)[:40]!r}, where a JSON object was expected. Fetch the file again.")
    for key, kind in (keys or {}).items():
        if not isinstance(plain.get(key), kind):
            seen = f"{key!r} is {str(plain[key])[:40]!r}" if key in plain else f"has no {key!r}"
            raise DataError(
                f"{uri}: {seen}; {_TYPES[kind]} was expected there. Correct the file, or fetch the model again."
            )
    return plain


def weight_shapes(store: Store, folder: str, names: Collection[str]) -> Shapes:
    """Shapes by tensor name in the files that transformers reads: model.safetensors, else the files of the index.

    Args:
        names: files in the folder, at least one of them a safetensors file.

    Raises:
        DataError: a file is missing, damaged or truncated, or lacks a tensor that the index places in it.
    """
    return {
        tensor: shape for shapes in _read_weights(store, folder, names).values() for tensor, shape in shapes.items()
    }


def _read_weights(store: Store, folder: str, names: Collection[str]) -> dict[str, Shapes]:
    """As `weight_shapes`, by the name of the file, of those tensors that are read from it."""
    if SINGLE in names:
        return {SINGLE: read_shapes(store, paths.join(folder, SINGLE))}
    found = sorted(name for name in names if "/" not in name and name.endswith(".safetensors"))
    if INDEX not in names:
        raise DataError(
            f"model {folder}: holds {', '.join(found[:3])}, and neither {SINGLE} nor {INDEX}, of which transformers "
            "reads one. The download or copy is not complete: fetch it again."
        )
    index = paths.join(folder, INDEX)
    placed = read_object(store, index, {"weight_map": dict})["weight_map"]
    wanted = sorted(set(map(str, placed.values())))
    if missing := [name for name in wanted if name not in names]:
        raise DataError(
            f"{index}: names {len(wanted)} files of weights, and {len(missing)} of them are not in the folder: "
            f"{', '.join(missing[:3])}. The download or copy is not complete: fetch it again."
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda name: read_shapes(store, paths.join(folder, name)), wanted)
        shapes = dict(zip(wanted, read, strict=True))
    for tensor, name in placed.items():
        if tensor not in shapes[str(name)]:
            raise DataError(
                f"{paths.join(folder, str(name))}: holds no tensor {tensor}, and {INDEX} states that it does. "
                "Fetch both files again from the same version of the model."
            )
    used = dict[str, Shapes]((name, {}) for name in wanted)
    for tensor, name in placed.items():
        used[str(name)][tensor] = shapes[str(name)][tensor]
    return used


def read_shapes(store: Store, uri: str) -> Shapes:
    """Shapes by tensor name in one file.

    Raises:
        DataError: it is no safetensors file, or its size is not the one in its header.
    """
    return {name: shape for name, (_, shape) in _read_header(store, uri).items()}


def stored_types(store: Store, uri: str) -> Counter[str]:
    """The number of values in one file by their type, such as `BF16`. Errors: as `read_shapes`."""
    values: Counter[str] = Counter()
    for kind, shape in _read_header(store, uri).values():
        values[kind] += math.prod(shape)
    return values


def _read_header(store: Store, uri: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(type, shape) by tensor name in one file."""
    size = store.info(uri).size
    if size <= _LENGTH_BYTES:
        raise _damaged(uri, f"has {size} bytes" if size else "is empty")
    with store.open_input(uri) as file:
        beginning = file.read(64)
        length = int.from_bytes(beginning[:_LENGTH_BYTES], "little")
        if beginning.startswith(_GIT_LFS):
            raise DataError(
                f"{uri}: is a Git LFS pointer of {size} bytes instead of the weights. Run `git lfs "
                "pull` in the clone of the model, or fetch the model again."
            )
        if beginning[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{" or length > _MAX_HEADER_BYTES:
            raise _damaged(uri, f"does not begin like a safetensors file but with {beginning[:32]!r}")
        if _LENGTH_BYTES + length > size:
            raise _damaged(uri, f"has {size:,} bytes, and its header alone takes {length:,}")
        file.seek(_LENGTH_BYTES)
        header = file.read(length)
    if (parts := sum(map(header.count, _PARTS))) > _MOST_PARTS:
        raise _damaged(uri, f"has a header of {parts:,} numbers and lists, and those of large models have 1,000,000")
    try:
        plain = json.loads(header)
        tensors = {name: one for name, one in plain.items() if name != "__metadata__"}
        end = max((one["data_offsets"][1] for one in tensors.values()), default=0)
        found = {name: (str(one["dtype"]), tuple(map(int, one["shape"]))) for name, one in tensors.items()}
    except (ValueError, ArithmeticError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(uri, f"has a broken header ({type(error).__name__}: {str(error)[:100]})") from error
    if (stated := _LENGTH_BYTES + length + end) != size:
        raise _damaged(uri, f"has {size:,} bytes, and its header states {stated:,}")
    return found


def _damaged(uri: str, seen: str) -> DataError:
    return DataError(
        f"{uri}: {seen}; it is no complete safetensors file. The download or copy was cut short, or the file is "
        "of another kind: fetch it again."
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for messages, as `32,000 x 4,096`."""
    return " x ".join(f"{size:,}" for size in shape) or "one value"


# Files of a model and its tokenizer in formats that run no code; of a hub repository, no others are fetched.
DATA_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_HUB_TIMEOUT_S = 10
_COMMIT = re.compile(r"[0-9a-f]{40}")

# Parts of each weight file that the fingerprint reads.
_SAMPLES, _SAMPLE_BYTES = 16, 4096
_THREADS = 16  # they wait for the store

log = logging.getLogger(__name__)


def located(model: Model) -> Model:
    """The model with local paths made absolute and a hub name pinned to its current commit.

    If neither the hub nor the local cache gives a commit, the revision stays; loading the model reports the problem.
    """
    places = {name: getattr(model, name) for name in ("name", "tokenizer", "chat_template")}
    local = {
        name: paths.absolute(place)
        for name, place in places.items()
        if place and not paths.is_remote(place) and Path(paths.absolute(place)).exists()
    }
    if model.name is None or "name" in local or is_path(model.name) or _COMMIT.fullmatch(model.revision or ""):
        return model.model_copy(update=local)
    return model.model_copy(update=local | {"revision": _commit(model.name, model.revision) or model.revision})


def model_folder(store: Store, model: Model) -> Path:
    """The folder of a named model on this machine: the given path, a local copy of the URI, or the hub's cache.

    Fetches what is not here yet.

    Raises:
        StorageError: the model does not exist or cannot be reached.
    """
    assert model.name is not None, "a model of random weights has no folder"
    if paths.is_remote(model.name):
        return local_folder(store, model.name)
    path = Path(paths.absolute(model.name))
    if path.is_dir():
        refuse_foreign_files(path)
        return path
    if is_path(model.name):
        raise no_folder(model.name)
    return hub_copy(model.name, model.revision, DATA_FILES)


def hub_copy(name: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder of a hub name in this machine's cache, with all files of these patterns.

    Raises:
        StorageError: the model does not exist or cannot be reached.
    """
    problem = hub_problem(name, revision)
    try:
        return hub_folder(name, revision, patterns, local_files_only=problem is not None)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        reason = problem or str(error).strip().splitlines()[0][:200]
        raise StorageError(
            f"model {name}{at}: no folder of that name here, and the hub did not provide it ({reason}). Check the name "
            "and revision; a gated model needs HF_TOKEN. Without a network, put the model's folder on this machine or "
            "an object store and give its path or URI."
        ) from error


def refuse_foreign_files(folder: Path) -> None:
    """Check what the text files of a local folder with a model or tokenizer are: exports and uploads copy them.

    Links of weights may lead anywhere; those of a hub's cache lead to its folder `blobs`.

    Raises:
        DataError: a link of another file leads out of the folder, or a file is a FIFO, socket or device.
    """
    root = folder.resolve()
    allowed = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    for path in [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]:
        target = path.resolve()
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(f"{path}: is a FIFO, socket or device; a file was wanted. Remove it from the folder.")
        if path.suffix != ".safetensors" and not any(target.is_relative_to(one) for one in allowed):
            raise DataError(
                f"{path}: a link to {target}, outside of {folder}. Text of a model's folder ends in exports and "
                "uploads: copy the file into the folder, or remove the link."
            )


def model_fingerprint(store: Store, model: Model, seed: int = 0) -> str:
    """A string that is equal for equal weights, without reading them whole; checkpoints carry it.

    Random weights: a hash of the config and the seed. A hub name: `name@commit`. A folder: a hash of its config.json
    and, for each weight file, its size, header (names, shapes and types of all tensors) and 16 samples of 4 KiB. So a
    copy of a folder has the same fingerprint, and weights that were trained further have another one.

    Raises:
        DataError, StorageError: as `model_folder` and `weight_files`.
    """
    if model.config is not None:
        return "random-" + _sha256(canonical_json([model.config, seed]))
    assert model.name is not None
    if paths.is_remote(model.name):
        return _weights_fingerprint(store, model.name.rstrip("/"))
    folder = model_folder(store, model)
    if folder.parent.name == "snapshots":
        return f"{model.name}@{folder.name}"
    return _weights_fingerprint(Store(), str(folder))


def located_with_fingerprint(store: Store, name: str) -> tuple[str, str]:
    """(the absolute path, the URI or the name on the hub of a model folder, a fingerprint of what decides its answers).

    It is equal for equal weights, by samples as those of `model_fingerprint`, and an equal tokenizer and chat template.

    Raises:
        StorageError, DataError: there is none, or it is no model.
    """
    model = located(Model(name=name))
    assert model.name is not None
    if (found := addition_in(store, model.name)) is None:
        return model.name, _answers_fingerprint(store, model)
    of_base = _answers_fingerprint(store, located(found.base))
    plain = {key: one for key, one in found.settings.items() if key not in ("base", *_NAMES_OF_BASE)}
    own = [_sampled(store, found.tensors), _texts(store, model.name)]
    return model.name, "on-base-" + _sha256(b"".join([canonical_json([plain, of_base]), *own]))


def _answers_fingerprint(store: Store, model: Model) -> str:
    """As `located_with_fingerprint`, of a whole model."""
    of_weights = model_fingerprint(store, model)
    if model.config is not None or on_hub(model):  # the name on the hub has a commit
        return of_weights
    assert model.name is not None
    return "model-" + _sha256(of_weights.encode() + _texts(store, model.name.rstrip("/")))


def _texts(store: Store, folder: str) -> bytes:
    """Names and hashes of the files of a folder that belong to its tokenizer and chat template."""
    names = [file.uri.removeprefix(f"{folder}/") for file in store.list_files(folder)]
    names = [name for name in names if "/" not in name or name.startswith("additional_chat_templates/")]
    texts = sorted(name for name in names if is_tokenizer_file(name) or "chat_template" in name)
    return canonical_json([[name, _sha256(store.read_bytes(paths.join(folder, name)))] for name in texts])


@dataclass(frozen=True)
class Addition:
    """An adapter or a classification head, in a folder without its base.

    Attributes:
        settings: content of adapter_config.json or probe.json. tensors: URI of its weights. base: the model below it.
    """

    settings: dict[str, Any]
    tensors: str
    base: Model


# A name of a base in a record: no control characters, no half of a surrogate pair, and no other user's home.
_NAME = re.compile("[^\x00-\x1f\x7f\ud800-\udfff~][^\x00-\x1f\x7f\ud800-\udfff]{0,1023}")
_LONGEST_PART = 255  # bytes of a file's name
_NAMES_OF_BASE = ("base_model_name_or_path", "revision")
ADAPTER, PROBE = "adapter_config.json", "probe.json"


def addition_in(store: Store, folder: str) -> Addition | None:
    """The adapter or classification head in a folder; None if a whole model is there, or it is a name on the hub.

    Raises:
        DataError: its files are damaged, or it names a base on another store.
    """
    if on_hub(Model(name=folder)) or store.exists(paths.join(folder, "config.json")):
        return None
    for file, tensors in ((ADAPTER, "adapter_model.safetensors"), (PROBE, "head.safetensors")):
        at = paths.join(folder, file)
        if store.exists(at):
            settings = read_object(store, at)
            named = (
                settings.get("base")
                if file == PROBE
                else {"name": settings.get(_NAMES_OF_BASE[0]), "revision": settings.get(_NAMES_OF_BASE[1])}
            )
            if not isinstance(named, dict) or not isinstance(named.get("name"), str):
                raise DataError(f"{at}: names no base model. Export the run again.")
            return Addition(settings, paths.join(folder, tensors), base_below(store, folder, at, named))
    return None


def base_below(store: Store, folder: str, at: str, named: Mapping[str, Any]) -> Model:
    """The base of an exported adapter or head: `named`; or `../base`, if that is its name or it is not within reach.

    Raises:
        DataError: it is on another store: whoever wrote the run would choose where requests with the user's keys go;
            or it is no name of a model.
    """
    own, name = paths.join(folder.rpartition("/")[0], "base"), str(named["name"])
    # An export of random weights names its own folder `base`; another adapter may lie beside one of another model.
    is_away = paths.is_remote(name) and paths.store_of(name) != paths.store_of(folder)
    is_away |= name.startswith("/") and not Path(name).is_dir()
    if (is_away or name.rstrip("/").rpartition("/")[2] == "base") and store.list_files(own):
        return Model(name=own)
    if not _NAME.fullmatch(name) or any(len(part.encode()) > _LONGEST_PART for part in name.split("/")):
        raise DataError(f"{at}: its base {name!r:.80} is no name of a model. Copy the base to {own}.")
    if paths.is_remote(name) and paths.store_of(name) != paths.store_of(folder):
        raise DataError(f"{at}: its base {name} is on another store. Copy the base to {own}.")
    revision = named.get("revision")
    return Model(name=name, revision=revision if isinstance(revision, str) else None)


def _weights_fingerprint(store: Store, folder: str) -> str:
    """As `model_fingerprint`, of a folder on this machine or on a store, from which only the samples are read."""
    if not store.exists(paths.join(folder, "config.json")):  # the folder of others may have any number of files
        if not store.holds_files(folder):
            raise NotFound(folder, "no files below it")
        known = (RUN_MANIFEST, ADAPTER, *(f"{name}/config.json" for name in _WHOLE))
        require_safetensors(folder, {name for name in known if store.exists(paths.join(folder, name))})
    names = {file.uri.removeprefix(f"{folder}/") for file in store.list_files(folder)}
    require_safetensors(folder, names)
    weight_shapes(store, folder, names)
    files = sorted(name for name in names if "/" not in name and name.endswith(".safetensors"))
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(lambda name: _sampled(store, paths.join(folder, name)), files))
    return "weights-" + _sha256(b"".join([store.read_bytes(paths.join(folder, "config.json")), *parts]))


def _sampled(store: Store, uri: str) -> bytes:
    """Name, size, header and samples of a weight file."""
    size = store.info(uri).size
    with store.open_input(uri) as file:
        # Of a file that transformers does not read, the header was not checked.
        header = min(int.from_bytes(file.read(8), "little"), max(0, size - 8), _MAX_HEADER_BYTES)
        parts = [uri.rpartition("/")[2].encode(), str(size).encode(), file.read(header)]
        for number in range(_SAMPLES):
            file.seek(8 + header + max(0, size - 8 - header - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            parts.append(file.read(_SAMPLE_BYTES))
    return b"".join(parts)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def on_hub(model: Model) -> bool:
    """Whether the name is a hub name, neither a local folder nor a URI."""
    return model.name is not None and not is_path(model.name) and not Path(paths.absolute(model.name)).is_dir()


def is_path(name: str) -> bool:
    """Whether a model's name is written as a path or URI, and is no name of the hub."""
    return paths.is_remote(name) or name.startswith(("/", "./", "../", "~", "file:")) or name.count("/") > 1


def _commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub's branch or tag: from the hub, else from this machine's cache; None if neither has it."""
    try:
        with checked_hub():
            return huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_S).sha
    except Exception as error:
        log.info("model %s: the hub gives no commit: %s", name, error)
    try:
        with checked_hub():
            return Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True)).name
    except Exception as error:
        log.info("model %s: not in the local cache: %s", name, error)
    return None


def hub_problem(name: str, revision: str | None) -> str | None:
    """Why the hub cannot be reached; None if it answers. One request, since a download would retry for every file."""
    try:
        with checked_hub():
            huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_S)
    except (HfHubHTTPError, HFValidationError):
        return None  # the hub answered; the download reports a wrong name
    except Exception as error:  # the HTTP library below, and so its exceptions, differ from version to version
        reason = str(error).strip() or type(error).__name__
        return f"it cannot be reached: {reason.splitlines()[0][:200]}"
    return None


def cached_folder(model: Model) -> str | None:
    """The folder of a hub name in this machine's cache, without a request to the hub; None if it is not there."""
    assert model.name is not None
    if is_path(model.name):
        raise no_folder(model.name)
    found = huggingface_hub.try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    return str(Path(found).parent) if isinstance(found, str) else None


def no_folder(name: str) -> StorageError:
    """The error about a path where there is no folder."""
    seen = "a file, not a folder" if Path(paths.absolute(name)).is_file() else "no such folder on this machine"
    return StorageError(
        f"model {name}: {seen}. Give the folder of a model, its URI on an object store, or its name on the hub."
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder that transformers reads, sorted by name.

    Raises:
        ConfigError: there is an adapter beside the model.
        DataError: the folder holds no model in safetensors, or a damaged file of weights.
    """
    names = {path.name for path in folder.iterdir()}
    require_safetensors(str(folder), names)
    refuse_adapter(str(folder), names)
    return [folder / name for name in sorted(_read_weights(Store(), str(folder), names))]


def link_data(folder: Path, into: Path, where: str) -> None:
    """Link the data of a model's folder into an empty folder: no pickled weights, no code, and no names of files in the
    settings of the tokenizer.

    Raises:
        ConfigError: the settings name code or have sizes beyond all models.
    """
    for path in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*")]):
        if not path.is_file() or not any(path.match(one) for one in DATA_FILES):
            continue
        if path.name in _SETTINGS:
            refuse_hostile(read_object(Store(), str(path)), f"{where}: {path.name}")
        link = into / path.relative_to(folder)
        link.parent.mkdir(exist_ok=True)
        data = path.read_bytes() if is_tokenizer_file(path.name) else b""
        if (kept := without_file_arguments(path.name, data)) != data:
            link.write_bytes(kept)
        else:
            link.symlink_to(path.resolve())


def refuse_adapter(folder: str, names: Collection[str]) -> None:
    """
    Raises:
        ConfigError: there is an adapter beside a whole model, which transformers would load without being asked.
    """
    if "adapter_config.json" in names:
        raise ConfigError(
            f"{folder}: has an adapter (adapter_config.json) beside a whole model, and transformers would load both as "
            "one. Move the adapter into a folder of its own; `raymill compose` adds it to the model."
        )


# Exported models that load without a base, below the output of a training or its export; the preferred ones first.
_WHOLE = tuple(f"{folder}{kind}" for folder in ("export/", "") for kind in ("full", "merged"))


def require_safetensors(folder: str, names: Collection[str]) -> None:
    """Check the file names of a model's folder.

    Raises:
        DataError: they are not those of a model in safetensors.
    """
    if "config.json" not in names:
        whole = [f"{folder}/{name}" for name in _WHOLE if f"{name}/config.json" in names]
        if whole or RUN_MANIFEST in names:
            there = f"Give its model, {whole[0]}." if whole else f"Give a model in it, such as {folder}/export/full."
            raise DataError(f"model {folder}: this is the output of a run. {there}")
        if "adapter_config.json" in names:
            raise DataError(
                f"model {folder}: this is an adapter; a base model is needed. Give the folder of the merged model "
                "(`merged/` beside it in a run's export)."
            )
        raise DataError(f"model {folder}: has no config.json, so it is not a model in the hub's format.")
    if any("/" not in name and name.endswith(".safetensors") for name in names):
        return
    pickled = sorted(name for name in names if "/" not in name and name.endswith((".bin", ".pth", ".pt")))
    if not pickled:
        raise DataError(
            f"model {folder}: has a config.json but no *.safetensors. The download or copy is not complete: fetch "
            "it again."
        )
    raise DataError(
        f"model {folder}: holds {', '.join(pickled[:3])}; *.safetensors is needed (reading a .bin can run any "
        'code that it contains). If you trust it, convert it once: python -c "from transformers import '
        f"AutoModelForCausalLM as M; M.from_pretrained('{folder}', use_safetensors=False)"
        ".save_pretrained('NEW_FOLDER')\""
    )
