"""Paths and URIs as text: made absolute, joined, matched with globs, and checked if they are from a record.

Nothing here opens a file.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field

from raymill.cluster.errors import StorageError

_UNTIDY = re.compile(r"//|/\./|/\.?$")  # what `Path` changes in an absolute path

OBJECT_SCHEMES = ("s3", "gs", "az")

# Control characters, halves of a UTF-16 pair, and characters that change the direction of the text around them.
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_LONGEST_PATH, _LONGEST_NAME = 1024, 255  # bytes: of the keys of object stores, and of a name on a disk


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
        try:
            return str(Path(uri).expanduser().absolute())
        except RuntimeError:
            raise StorageError(f"{uri}: there is no user of this name. Write the path without ~.") from None
    if kind == "file":
        path = unquote(rest.removeprefix("localhost"))
        if not path.startswith("/"):
            raise StorageError(f"{uri}: names a machine. Write file:///PATH with three slashes, or a plain path.")
        return str(Path(path))
    return f"{kind}://{rest.rstrip('/')}"


class RelativePath(str):
    """A path below the folder of the record that names it. Only its text is checked; for links see
    `Store.refuse_links_out`.

    Anybody may have written a record, so each path in it becomes a `RelativePath` when the record is read.

    Raises:
        ValueError: it is no text; is empty, absolute or too long; or has an empty part, `.`, `..`, `~` at its start, a
            backslash or a character that is not printed.
    """

    __slots__ = ()

    def __new__(cls, path: Any) -> Self:
        if not isinstance(path, str):
            raise ValueError(f"{str(path)[:40]!r} is not a path")
        if _UNPRINTED.search(path) or "\\" in path or path.startswith("~"):
            raise ValueError(f"{path[:80]!a} is not a path below this folder")
        parts = path.split("/")
        if not {"", ".", ".."}.isdisjoint(parts):
            raise ValueError(f"{path[:80]!r} is not a path below this folder")
        if len(path.encode()) > _LONGEST_PATH or max(len(part.encode()) for part in parts) > _LONGEST_NAME:
            raise ValueError(f"{path[:80]!r}... is too long for a path")
        return super().__new__(cls, path)


class FileName(RelativePath):
    """A `RelativePath` without a slash."""

    __slots__ = ()

    def __new__(cls, name: Any) -> Self:
        if "/" in (found := super().__new__(cls, name)):
            raise ValueError(f"{found[:80]!r} is not the name of a file")
        return found


class RecordedUri(str):
    """An absolute path or URI in a record that refers to another folder, such as the run that a version names.

    Such a folder is read, and its own records are checked. It is written only if the config of the run names it too.

    Raises:
        ValueError: it is no text, is relative, is of an unknown scheme, or has a character that is not printed.
    """

    __slots__ = ()

    def __new__(cls, uri: Any) -> Self:
        if not isinstance(uri, str) or not (uri.startswith("/") or scheme(uri) in (*OBJECT_SCHEMES, "hf")):
            raise ValueError(f"{str(uri)[:80]!a} is not an absolute path or URI")
        if _UNPRINTED.search(uri):
            raise ValueError(f"{uri[:80]!a} has characters that are not printed")
        return super().__new__(cls, uri)


def _absolute_setting(uri: str) -> str:
    try:
        return absolute(uri)
    except StorageError as error:
        raise ValueError(str(error).removesuffix(".")) from None


# A path or URI in a config; absolute once the config is loaded. So two configs that name the same file have equal
# settings wherever they lie, and a job in another working directory reads the same file.
AbsolutePath = Annotated[str, Field(min_length=1), AfterValidator(_absolute_setting)]

# The setting `output` of a run.
OutputFolder = Annotated[str, Field(min_length=1, description="Folder or URI below which the run writes everything")]


def store_of(uri: str) -> str:
    """The bucket of a URI, with its scheme; "this machine" for a local path."""
    return f"{scheme(uri)}://{uri.split('/')[2]}" if is_remote(uri) else "this machine"


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
    """The regex of a whole path or URI: `*` and `?` stay inside a folder, `**` crosses folders, `[ab]` is a set.

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
