"""Read the small JSON files of a model's folder, and the headers of its safetensors files.

Of a safetensors file only the header is read, so no weights are fetched from an object store. The format: 8 bytes with
the length N of the header, N bytes of JSON (name -> dtype, shape, data_offsets), then the tensors' bytes without gaps.
Source: https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.errors import DataError
from cluster.store import paths
from cluster.store.store import Store

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
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
    if SINGLE in names:
        return read_shapes(store, paths.join(folder, SINGLE))
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
    return {tensor: shapes[str(name)][tensor] for tensor, name in placed.items()}


def read_shapes(store: Store, uri: str) -> Shapes:
    """Shapes by tensor name in one file.

    Raises:
        DataError: it is no safetensors file, or its size is not the one in its header.
    """
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
    try:
        plain = json.loads(header)
        tensors = {name: one for name, one in plain.items() if name != "__metadata__"}
        end = max((one["data_offsets"][1] for one in tensors.values()), default=0)
        shapes = {name: tuple(map(int, one["shape"])) for name, one in tensors.items()}
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _damaged(uri, f"has a broken header ({type(error).__name__}: {str(error)[:100]})") from error
    if (stated := _LENGTH_BYTES + length + end) != size:
        raise _damaged(uri, f"has {size:,} bytes, and its header states {stated:,}")
    return shapes


def _damaged(uri: str, seen: str) -> DataError:
    return DataError(
        f"{uri}: {seen}; it is no complete safetensors file. The download or copy was cut short, or the file is "
        "of another kind: fetch it again."
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for messages, as `32,000 x 4,096`."""
    return " x ".join(f"{size:,}" for size in shape) or "one value"
