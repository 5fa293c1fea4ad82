"""Paths and URIs as text: made absolute and joined. Nothing here opens a file."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, Field

from cluster.errors import StorageError

_UNTIDY = re.compile(r"//|/\./|/\.?$")  # what `Path` changes in an absolute path

OBJECT_SCHEMES = ("s3", "gs", "az")


def scheme(uri: str) -> str:
    """The scheme in lower case; empty for a path without one."""
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", uri)
    return match[1].lower() if match else ""


def absolute(uri: str) -> str:
    """A local path made absolute (`~` expanded); a URI without a trailing slash.

    Only file:// URIs are percent-decoded: in an object's name `%20` is three characters, as the stores have it.
    """
    if uri.startswith("/") and not _UNTIDY.search(uri):
        return uri
    kind = scheme(uri)
    rest = uri.partition("://")[2]
    if kind == "":
        return str(Path(uri).expanduser().absolute())
    if kind == "file":
        path = unquote(rest.removeprefix("localhost"))
        if not path.startswith("/"):
            raise StorageError(f"{uri}: names a machine. Write file:///PATH with three slashes, or a plain path.")
        return str(Path(path))
    return f"{kind}://{rest.rstrip('/')}"


def _absolute_setting(uri: str) -> str:
    try:
        return absolute(uri)
    except StorageError as error:
        raise ValueError(str(error).removesuffix(".")) from None


# A path or URI in a config; absolute once the config is loaded. So two configs that name the same file have equal
# settings wherever they lie, and a job in another working directory reads the same file.
AbsolutePath = Annotated[str, Field(min_length=1), AfterValidator(_absolute_setting)]


def is_remote(uri: str) -> bool:
    """Whether it names an object of a bucket, not a local file."""
    return scheme(uri) in OBJECT_SCHEMES


def join(uri: str, *parts: str) -> str:
    """The parts below a path or URI, with one slash between them."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])
