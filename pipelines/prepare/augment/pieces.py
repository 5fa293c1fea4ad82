"""Division of a text into words, gaps between them and protected parts; similarity of two texts."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

Kept = Literal["numbers", "code", "quotes", "links"]
_PATTERNS: dict[str, tuple[re.Pattern[str], ...]] = {
    "numbers": (re.compile(r"\d+(?:[.,:/-]\d+)*%?"),),
    "code": (re.compile(r"```.*?```", re.DOTALL), re.compile(r"`[^`\n]+`")),
    "quotes": (re.compile(r'"[^"\n]{1,300}"'), re.compile(r"“[^“”\n]{1,300}”"), re.compile(r"«[^«»\n]{1,300}»")),
    "links": (
        re.compile(r"(?:https?://|www\.)\S+"),
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
    ),
}
# Placeholders of `clean.redact`, and fields of templates.
_ALWAYS = (re.compile(r"<[A-Z][A-Za-z0-9_]{0,80}>"), re.compile(r"\{[\w. ]{0,40}\}"))
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_GRAM = 3


class TextPiece(NamedTuple):
    """A part of a text. kind: a word, the characters between words, or a protected part."""

    text: str
    kind: Literal["word", "gap", "kept"]


@dataclass(frozen=True)
class Keep:
    """The protected parts of a text, which stay in a variant.

    Attributes:
        kinds: built-in patterns.
        terms: whole words or phrases, in any letter case.
        patterns: regular expressions.
    """

    kinds: tuple[Kept, ...]
    terms: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    @cached_property
    def _expressions(self) -> list[re.Pattern[str]]:
        found = [*_ALWAYS, *(one for kind in self.kinds for one in _PATTERNS[kind])]
        found += [re.compile(rf"(?<!\w){re.escape(term)}(?!\w)", re.IGNORECASE) for term in self.terms]
        return found + [re.compile(pattern) for pattern in self.patterns]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each protected part, in order, without overlaps."""
        found: list[tuple[int, int]] = []
        for start, end in sorted(one.span() for pattern in self._expressions for one in pattern.finditer(text)):
            if found and start < found[-1][1]:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            elif start < end:
                found.append((start, end))
        return found

    def found(self, text: str) -> list[str]:
        """The protected parts of a text, in order."""
        return [text[start:end] for start, end in self.spans(text)]

    def pieces(self, text: str) -> list[TextPiece]:
        """The text divided into pieces; `joined` restores it."""
        pieces, at = list[TextPiece](), 0
        for start, end in [*self.spans(text), (len(text), len(text))]:
            for word in _WORD.finditer(text, at, start):
                if word.start() > at:
                    pieces.append(TextPiece(text[at : word.start()], "gap"))
                pieces.append(TextPiece(word.group(), "word"))
                at = word.end()
            if start > at:
                pieces.append(TextPiece(text[at:start], "gap"))
            if end > start:
                pieces.append(TextPiece(text[start:end], "kept"))
            at = end
        return pieces


def joined(pieces: Sequence[TextPiece]) -> str:
    """The text of pieces."""
    return "".join(one.text for one in pieces)


def similarity(one: str, other: str) -> float:
    """Similarity of two texts from 0 to 1: the Dice coefficient of their three-character sequences in lower case."""
    first, second = _grams(one), _grams(other)
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


@lru_cache(2)  # one text is compared with many
def _grams(text: str) -> Counter[str]:
    text = f"  {' '.join(text.lower().split())} "
    return Counter(text[at : at + _GRAM] for at in range(len(text) - _GRAM + 1))
