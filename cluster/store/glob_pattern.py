"""Glob patterns of paths and URIs: what `*`, `?`, `**` and `[ab]` match."""

import re

from cluster.errors import StorageError


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
