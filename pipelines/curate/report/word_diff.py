"""What differs between two near-duplicates, word by word."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

# Scripts written without spaces give one character a word, as everywhere in this project.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_WORDS = re.compile(rf"\s+|[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")
_CUT = "…"
_MOST_WORDS = 2_000  # difflib's time grows with the square: 0.2 s for two prose texts of this length


@dataclass(frozen=True, slots=True)
class Piece:
    """`same` is in both texts, `removed` in the first alone, `added` in the second alone.

    A `skipped` piece stands for equal text that was left out; its text is the number of words, spaces not counted.
    """

    kind: Literal["same", "removed", "added", "skipped"]
    text: str


def word_diff(first: str, second: str, *, context: int = 40) -> list[Piece]:
    """The second text as changes to the first; equal runs keep `context` words and gaps beside a change.

    Runs of spaces are equal to each other. Only the first 2,000 words and gaps of each text are compared. Where both
    texts were cut, which an ellipsis at their ends says, a difference in their last words only comes from the cutting,
    and is left out.
    """
    a, b = (_WORDS.findall(text)[:_MOST_WORDS] for text in (first, second))
    pieces: list[Piece] = []
    for same, run in groupby(_runs(a, b), key=lambda run: run[0]):
        old, new = (
            [word for part in parts for word in part] for parts in zip(*((r[1], r[2]) for r in run), strict=True)
        )
        if same:
            pieces += _shortened(new, context)
        else:
            pieces += [Piece("removed", "".join(old)), Piece("added", "".join(new))]
    pieces = [piece for piece in pieces if piece.text]
    return _without_torn_end(pieces) if first.endswith(_CUT) and second.endswith(_CUT) else pieces


def _without_torn_end(pieces: list[Piece]) -> list[Piece]:
    """Without the difference just before the common ellipsis, unless it is the only one."""
    end = len(pieces) - 1
    while end > 0 and pieces[end - 1].kind in ("removed", "added"):
        end -= 1
    if all(piece.kind in ("same", "skipped") for piece in pieces[:end]):
        return pieces
    return [*pieces[:end], pieces[-1]]


def _runs(a: list[str], b: list[str]) -> Iterator[tuple[bool, list[str], list[str]]]:
    """(equal, words of a, words of b) in order. A gap between two changes belongs to them: phrases stay whole."""
    keys_a, keys_b = ([" " if word.isspace() else word for word in words] for words in (a, b))
    changes = difflib.SequenceMatcher(None, keys_a, keys_b, autojunk=False).get_opcodes()
    for index, (kind, a0, a1, b0, b1) in enumerate(changes):
        gap = kind == "equal" and 0 < index < len(changes) - 1 and "".join(a[a0:a1]).isspace()
        yield kind == "equal" and not gap, a[a0:a1], b[b0:b1]


def _shortened(words: list[str], context: int) -> list[Piece]:
    if len(words) <= 2 * context + 10:
        return [Piece("same", "".join(words))]
    middle = words[context:-context]
    skipped = sum(not word.isspace() for word in middle)
    return [
        Piece("same", "".join(words[:context])),
        Piece("skipped", f"{skipped:,}"),
        Piece("same", "".join(words[-context:])),
    ]
