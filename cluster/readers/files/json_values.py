"""The values of a JSON file: the elements of its arrays, or values one after the other over any number of lines.

Memory: one value, and what was read ahead of it.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from cluster.readers.files.compression import UnreadableRest
from cluster.readers.files.json_lines import Unreadable, end_of_value, json_value

_PARSER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,]*")
_LEAST_READ = 1 << 16  # characters before a value is tried again
_TOKEN_CHARS = 16  # more than those of -Infinity and of an escaped pair of surrogates


class BrokenRest(UnreadableRest):
    """rest: the text that is no JSON value."""

    def __init__(self, problem: str, rest: str) -> None:
        super().__init__(problem)
        self.rest = rest


def json_values(
    blocks: Iterable[bytes], max_chars: int, parser: json.JSONDecoder = _PARSER
) -> Iterator[tuple[Any, str]]:
    """(value, its text) of each value of an array, and of each value that is in no array.

    A file may have several arrays, one after the other, as concatenated files have. The value is an Unreadable if its
    text is not UTF-8. In an object, values of keys can be DeepJson.

    Raises:
        UnreadableRest: a text is no value (`broken_json`), a value is too large, or the file is damaged.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    waiting = iter(blocks)
    held, at, is_last, in_array = "", 0, False, False

    def more(least: int) -> None:
        nonlocal held, at, is_last
        pieces, size = [held[at:]], len(held) - at
        while size < least and not is_last:
            block = next(waiting, None)
            is_last = block is None
            pieces.append(decoder.decode(block or b"", final=is_last))
            size += len(pieces[-1])
        held, at = "".join(pieces), 0

    more(_LEAST_READ)
    held = held.removeprefix("\ufeff")
    while True:
        at = _BETWEEN.match(held, at).end()  # type: ignore[union-attr]  # it may be empty
        if at == len(held) and not is_last:
            more(_LEAST_READ)
            continue
        if at == len(held):
            if in_array:
                raise UnreadableRest("truncated")
            return
        if held[at] == ("]" if in_array else "["):
            in_array, at = not in_array, at + 1
            continue
        try:
            value, end = _value_at(held, at, parser)
        except ValueError as error:
            if is_last or not _may_be_cut_off(error, len(held)):
                raise BrokenRest("broken_json", held[at:]) from error
            if (size := len(held) - at) > max_chars:
                raise BrokenRest("too_large", held[at : at + max_chars]) from error
            more(max(2 * size, _LEAST_READ))
            continue
        if len(held) - end < _TOKEN_CHARS and not is_last and held[end - 1] not in ']}"':  # a number may go on
            more(max(2 * (len(held) - at), _LEAST_READ))
            continue
        text = held[at:end]
        yield value if _is_unicode(text) else Unreadable("bad_utf8"), text
        at = end


def _value_at(text: str, at: int, parser: json.JSONDecoder) -> tuple[Any, int]:
    """(value, its end) of the JSON at a place of the text.

    Raises:
        ValueError: there is none.
    """
    try:
        return parser.raw_decode(text, at)
    except RecursionError:
        end = end_of_value(text, at)
        if end < 0:
            raise json.JSONDecodeError("the value has no end", text, len(text)) from None
        return json_value(text[at:end].encode("utf-8", "surrogateescape"), parser.decode), end


def _is_unicode(text: str) -> bool:
    """Whether the text has no byte that was not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _may_be_cut_off(error: Exception, size: int) -> bool:
    """Whether the decoder failed where the text ends, rather than at a defect before. size: characters of the text."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > size - _TOKEN_CHARS
