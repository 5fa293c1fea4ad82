"""Paths and URIs as text: made absolute, joined, and matched against patterns. Nothing here opens a file."""

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


# A path or URI in a config, absolute once the config is loaded. So equal files give equal settings wherever the config
# lies, and a job with another working directory reads the same ones.
AbsolutePath = Annotated[str, Field(min_length=1), AfterValidator(_absolute_setting)]


def is_remote(uri: str) -> bool:
    """Whether it names an object of a bucket, not a local file."""
    return scheme(uri) in OBJECT_SCHEMES


def join(uri: str, *parts: str) -> str:
    """The parts below a path or URI, with one slash between them."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def matches(pattern: str, path: str) -> bool:
    """Whether a path or URI matches a pattern of `Store.glob`; neither has to exist."""
    return glob_regex(pattern).fullmatch(path) is not None


def glob_regex(pattern: str) -> re.Pattern[str]:
    """What a whole path or URI must match: `*` and `?` stay inside a folder, `**` crosses folders, `[ab]` is a set.

    Raises:
        StorageError: a set in brackets is wrong.
    """
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif found := re.compile(r"\[([!^]?)(\]?[^\]]*)\]").match(pattern, at):
            negated, inside = found.groups()
            out += "(?!/)[" + "^" * bool(negated) + re.escape(inside).replace(r"\-", "-") + "]"
            at = found.end()
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    try:
        return re.compile(out, re.DOTALL)
    except re.error as error:
        raise StorageError(
            f"{pattern}: a set in brackets is not right ({error}). Write [abc], [a-z] or [!a]."
        ) from error
