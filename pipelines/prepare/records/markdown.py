"""Fences, lists and headings of Markdown, as far as texts are divided and named by them."""

import html
import re
from collections.abc import Sequence

FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
LIST_ITEM = re.compile(r"[ \t]*(?:[-*+\u2022]|\(?[0-9]{1,3}[.)]|[a-zA-Z][.)])[ \t]+\S")

_IMAGE = re.compile(r"!\[([^\[\]]*)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])")
_LINK = re.compile(r"\[([^\[\]]*)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])")
_ADDRESS = re.compile(r"<((?:https?|mailto):[^<>\s]+)>")
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9-]*(?:\s[^<>]*)?/?>|<!--.*?-->")
_ANCHOR = re.compile(r"[ \t]*(?:\{[#.:][^{}]*\}|\u00b6|\[\^[^\[\]]*\])")
_ROLE = re.compile(r":[a-z][a-z:+.-]*:`([^`<]*?)\s*(?:<[^`<>]*>)?`")
_CODE = re.compile(r"(?<!`)(`++)(.+?)(?<!`)\1(?!`)")
_EMPHASIS = re.compile(r"(\*{1,3}|~~|(?<!\w)_{1,3})(?=\S)(.+?)(?<=\S)(?:\1)(?!\w)")
_PRIVATE = 0xE000
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")


def fenced(lines: Sequence[str]) -> list[int]:
    """Of each line the number of the code fence that it is in, from 1, with the lines of the fence; 0 outside.

    A fence ends with a line of as many of the same characters, or more, and nothing else; or with the text.
    """
    found, opened, number = list[int](), "", 0
    for line in lines:
        mark = FENCE.match(line)
        if opened:
            found.append(number)
            is_end = mark and mark[1].startswith(opened) and not line.strip().strip(opened[0])
            opened = "" if is_end else opened
        elif mark and not (mark[1][0] == "`" and "`" in line[mark.end() :]):
            opened, number = mark[1], number + 1
            found.append(number)
        else:
            found.append(0)
    return found


def has_open_fence(text: str) -> bool:
    """Whether the text ends within a code fence."""
    # A line after it that belongs to the last fence shows that nothing has ended it.
    return bool(fenced([*text.split("\n"), ""])[-1])


def plain_heading(line: str) -> str:
    """A heading without marks of Markdown, reStructuredText and HTML: as a reader sees it."""
    text = _ESCAPED.sub(lambda mark: chr(_PRIVATE + ord(mark[1])), line)  # such a mark is a character of the text
    text = _ROLE.sub(r"\1", _IMAGE.sub(r"\1", text.strip("#=- \t").removeprefix("* ")))
    text = _ANCHOR.sub("", _LINK.sub(r"\1", text))
    text = _TAG.sub("", _ADDRESS.sub(r"\1", text))
    text = _EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", _CODE.sub(r"\2", text)))
    plain = html.unescape(text.strip("#=*- \t")).translate({_PRIVATE + mark: mark for mark in range(128)})
    return " ".join(plain.split())
