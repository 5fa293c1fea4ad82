"""The differences between two near-duplicates, word by word."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

# A character of a script without spaces is a word, as in pipelines/text/words.py.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_WORDS = re.compile(rf"\s+|[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
_CUT = "…"
_MOST_WORDS = 2_000  # difflib's time grows with the square: 0.2 s for two prose texts of this length


@dataclass(frozen=True, slots=True)
class DiffPart:
    """A part of two texts: `same` is in both, `removed` only in the first, `added` only in the second.

    A `skipped` part replaces equal text; its text is the number of words, without spaces.
    """

    kind: Literal["same", "removed", "added", "skipped"]
    text: str


def word_diff(first: str, second: str, *, context: int = 40) -> list[DiffPart]:
    """The changes from the first text to the second. Equal text is shortened to `context` words beside a change.

    All runs of spaces are equal. Runs of spaces are counted as words, and only the first 2,000 words of each text are
    compared. If both texts end with an ellipsis, they were cut at different words, so a difference in their last words
    is left out.
    """
    a, b = (_WORDS.findall(text)[:_MOST_WORDS] for text in (first, second))
    parts: list[DiffPart] = []
    for same, run in groupby(_runs(a, b), key=lambda run: run[0]):
        old, new = (
            [word for part in parts for word in part] for parts in zip(*((r[1], r[2]) for r in run), strict=True)
        )
        if same:
            parts += _shortened(new, context)
        else:
            parts += [DiffPart("removed", "".join(old)), DiffPart("added", "".join(new))]
    parts = [part for part in parts if part.text]
    return _without_torn_end(parts) if first.endswith(_CUT) and second.endswith(_CUT) else parts


def _without_torn_end(parts: list[DiffPart]) -> list[DiffPart]:
    """The parts without the difference before the common ellipsis, unless it is the only one."""
    end = len(parts) - 1
    while end > 0 and parts[end - 1].kind in ("removed", "added"):
        end -= 1
    if all(part.kind in ("same", "skipped") for part in parts[:end]):
        return parts
    return [*parts[:end], parts[-1]]


def _runs(a: list[str], b: list[str]) -> Iterator[tuple[bool, list[str], list[str]]]:
    """(equal, words of a, words of b) in order. Spaces between two changes belong to them, so phrases are whole."""
    keys_a, keys_b = ([" " if word.isspace() else word for word in words] for words in (a, b))
    changes = difflib.SequenceMatcher(None, keys_a, keys_b, autojunk=False).get_opcodes()
    for index, (kind, a0, a1, b0, b1) in enumerate(changes):
        gap = kind == "equal" and 0 < index < len(changes) - 1 and "".join(a[a0:a1]).isspace()
        yield kind == "equal" and not gap, a[a0:a1], b[b0:b1]


def _shortened(words: list[str], context: int) -> list[DiffPart]:
    if len(words) <= 2 * context + 10:
        return [DiffPart("same", "".join(words))]
    middle = words[context:-context]
    skipped = sum(not word.isspace() for word in middle)
    return [
        DiffPart("same", "".join(words[:context])),
        DiffPart("skipped", f"{skipped:,}"),
        DiffPart("same", "".join(words[-context:])),
    ]
