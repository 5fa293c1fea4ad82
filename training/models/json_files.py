"""Read the small JSON files of a model's folder, with errors that name the file."""

import json
from collections.abc import Mapping
from typing import Any

from cluster.errors import DataError
from cluster.store.store import Store

_TYPES = {dict: "an object", list: "a list", str: "text", int: "a whole number"}


def read_object(store: Store, uri: str, keys: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        keys: required keys, with the types of their values.

    Raises:
        NotFound: there is no such file.
        DataError: the file is no JSON or no object, or a required key is missing or has another type.
    """
    data = store.read_bytes(uri)
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
