"""Operations on the words and punctuation of a text: errors and variants as people and machines make them.

Each takes the pieces of a text and random numbers, and returns the text, which may be unchanged. Only pieces of the
kind `word` or `gap` are changed.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import islice, pairwise

from raymill.pipelines.prepare.augment.draws import Draws
from raymill.pipelines.prepare.augment.pieces import TextPiece, joined

# Rows of letters, and the shift of each row to the right, in keys.
_LAYOUTS = {
    "qwerty": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    "qwertz": ("qwertzuiopü", "asdfghjklöä", "yxcvbnm"),
    "azerty": ("azertyuiop", "qsdfghjklm", "wxcvbn"),
}
_SHIFTS = (0.0, 0.25, 0.75)
_NEAR = 1.2  # maximum distance of neighbouring keys, in keys from centre to centre
_SHORTEST = 3  # minimum number of letters of a word that gets a typo
# Letters, and those that OCR reads in their place.
_CONFUSIONS = {
    "rn": ("m",), "m": ("rn",), "cl": ("d",), "d": ("cl",), "li": ("h",), "h": ("b", "li"), "b": ("h", "6"),
    "vv": ("w",), "w": ("vv",), "ii": ("u",), "u": ("v", "ii"), "n": ("ri",), "ri": ("n",), "nn": ("m",),
    "l": ("1", "I"), "I": ("l", "1"), "i": ("l", "j"), "O": ("0", "Q"), "o": ("0",), "S": ("5",), "s": ("5",),
    "B": ("8",), "Z": ("2",), "z": ("2",), "G": ("6", "C"), "g": ("9", "q"), "q": ("g",), "e": ("c",), "c": ("e",),
    "t": ("f",), "f": ("t",), "a": ("o",), "y": ("v",), "E": ("F",), "D": ("O",), "T": ("7",),
}  # fmt: skip
_APOSTROPHES = "'’"
# A change of a word: the characters from start to end are replaced.
Edit = tuple[int, int, str]
_ENDS = ".?!"


def _count(words: int, fraction: float) -> int:
    """The number of words that change: the nearest to the fraction, at least one."""
    return max(1, math.floor(words * fraction + 0.5))


def with_changed_words(
    pieces: Sequence[TextPiece], draws: Draws, fraction: float, edits: Callable[[str], Iterable[Edit]]
) -> str:
    """The text with one of their `edits` in some of its words; words without any stay.

    edits: is called again for the one that is drawn, because a word of a million letters has as many.
    """
    words = [at for at, one in enumerate(pieces) if one.kind == "word"]
    texts, left = [one.text for one in pieces], _count(len(words), fraction)
    for at in draws.shuffled(words):
        if left and (count := sum(1 for _ in edits(texts[at]))):
            start, end, new = next(islice(edits(texts[at]), draws.below(count), None))
            texts[at] = texts[at][:start] + new + texts[at][end:]
            left -= 1
        if not left:
            break
    return "".join(texts)


# --- typos


@cache
def _neighbours(layout: str) -> Mapping[str, str]:
    """The letters of the neighbouring keys, by letter."""
    places = [
        (letter, column + shift, row)
        for row, (letters, shift) in enumerate(zip(_LAYOUTS[layout], _SHIFTS, strict=True))
        for column, letter in enumerate(letters)
    ]
    found = defaultdict[str, str](str)
    for letter, x, y in places:
        for other, x2, y2 in places:
            if letter != other and math.hypot(x - x2, y - y2) < _NEAR:
                found[letter] += other
    return found


def typos(pieces: Sequence[TextPiece], draws: Draws, words: float, layout: str) -> str:
    """The text with a typing error in some words: a neighbouring letter, or one doubled, left out or exchanged."""
    near = _neighbours(layout)

    def mistyped(word: str) -> Iterator[Edit]:
        in_capitals = word.isupper()
        for at, letter in enumerate(word if len(word) >= _SHORTEST else ""):
            others, after = near.get(letter.lower(), ""), word[at + 1 : at + 2]
            if others:
                yield from ((at, at + 1, one.upper() if letter.isupper() else one) for one in others)
                yield at, at + 1, letter + (letter if in_capitals else letter.lower())
                yield at, at + 1, ""
                if after and after != letter:
                    yield at, at + 2, after + letter

    return with_changed_words(pieces, draws, words, mistyped)


# --- OCR errors


def ocr(pieces: Sequence[TextPiece], draws: Draws, words: float) -> str:
    """The text with an OCR error in some words."""

    def confused(word: str) -> Iterator[Edit]:
        for seen, others in _CONFUSIONS.items():
            at = word.find(seen)
            while at >= 0:
                yield from ((at, at + len(seen), other) for other in others)
                at = word.find(seen, at + 1)

    return with_changed_words(pieces, draws, words, confused)


# --- case and marks


def _first_changing(text: str, forms: Sequence[str], draws: Draws, made: Callable[[str], str]) -> str:
    """The text in one of the forms that change it, at random; unchanged if none does."""
    return next((found for form in draws.shuffled(forms) if (found := made(form)) != text), text)


def case(pieces: Sequence[TextPiece], draws: Draws, forms: Sequence[str]) -> str:
    """The text in lower case, upper case, title case, or with a small first letter."""

    def made(form: str) -> str:
        if form == "first":
            at = next((at for at, one in enumerate(pieces) if one.kind != "gap"), -1)
            return "".join(
                one.text[0].lower() + one.text[1:] if index == at and one.kind == "word" else one.text
                for index, one in enumerate(pieces)
            )
        change = {"lower": str.lower, "upper": str.upper, "title": _capitalized}[form]
        return "".join(change(one.text) if one.kind == "word" else one.text for one in pieces)

    return _first_changing(joined(pieces), forms, draws, made)


def _capitalized(word: str) -> str:
    return word[0].upper() + word[1:]


def punctuation(pieces: Sequence[TextPiece], draws: Draws, forms: Sequence[str]) -> str:
    """The text without its final mark, with several, without commas, without apostrophes, or without any marks."""

    def made(form: str) -> str:
        text = joined(pieces)
        if form == "no_end":
            return text.rstrip().rstrip(_ENDS) if pieces and pieces[-1].kind == "gap" else text
        if form == "several":
            end = text.rstrip()[-1:]
            return text.rstrip() + end * 2 if end and end in _ENDS and pieces[-1].kind == "gap" else text
        marks = {"no_commas": ",", "no_apostrophes": _APOSTROPHES, "none": ",;:.?!" + _APOSTROPHES}[form]
        return "".join(
            one.text if one.kind == "kept" else "".join(letter for letter in one.text if letter not in marks)
            for one in pieces
        )

    return _first_changing(joined(pieces), forms, draws, made)


# --- words left out and exchanged


def drop(pieces: Sequence[TextPiece], draws: Draws, words: float) -> str:
    """The text without some of its words; at least one word or protected part is left."""
    places = [at for at, one in enumerate(pieces) if one.kind == "word"]
    most = len(places) if any(one.kind == "kept" for one in pieces) else len(places) - 1
    gone = set(islice(draws.shuffled(places), max(min(_count(len(places), words), most), 0)))
    stay = [""]
    for at, one in enumerate(pieces):
        # Of the spaces around a word, one stays; none before a mark.
        is_before_space = at + 1 < len(pieces) and pieces[at + 1].text[0].isspace()
        if at in gone:
            stay[-1] = stay[-1] if is_before_space else stay[-1].removesuffix(" ")
            if len(stay) > 1 and not stay[-1]:
                stay.pop()
        else:
            is_double = at - 1 in gone and one.text[0].isspace() and (not stay[-1] or stay[-1][-1].isspace())
            stay += filter(None, [one.text[1:] if is_double else one.text])
    return "".join(stay)


def swap(pieces: Sequence[TextPiece], draws: Draws, words: float) -> str:
    """The text with some neighbouring words exchanged, each at most once; only white space separates them."""
    texts = [one.text for one in pieces]
    places = [at for at, one in enumerate(pieces) if one.kind == "word"]
    pairs = [
        (one, other)
        for one, other in pairwise(places)
        if other == one + 2 and texts[one + 1].isspace() and texts[one].lower() != texts[other].lower()
    ]
    moved = set[int]()
    for one, other in islice(draws.shuffled(pairs), _count(len(places), words)):
        if not moved & {one, other}:
            texts[one], texts[other] = texts[other], texts[one]
            moved |= {one, other}
    return "".join(texts)


# --- spelling


@cache
def _spellings(kind: str) -> Mapping[str, tuple[str, ...]]:
    """Other spellings of each word. kind: regional or mistakes."""
    text = resources.files("raymill.pipelines.prepare.augment").joinpath("spellings.txt").read_text("utf-8")
    regional, _, mistakes = (part.partition("\n")[2].strip() for part in text.partition("\n\n"))
    found = defaultdict[str, list[str]](list)
    for line in (regional if kind == "regional" else mistakes).splitlines():
        usual, *others = line.split()
        for other in others:
            for one, two in zip(_forms(usual), _forms(other), strict=True) if kind == "regional" else [(usual, other)]:
                found[one].append(two)
                if kind == "regional":
                    found[two].append(one)
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items()}


def _forms(word: str) -> tuple[str, ...]:
    if word.endswith("e"):
        return word, f"{word}s", f"{word}d", f"{word[:-1]}ing", f"{word[:-1]}ation"
    return word, f"{word}s", f"{word}ed", f"{word}ing", f"{word}ation"


def spelling(pieces: Sequence[TextPiece], draws: Draws, words: float, kinds: Sequence[str]) -> str:
    """The text with other spellings of some words: British or American ones, or frequent mistakes."""
    tables = [_spellings(kind) for kind in kinds]

    def others(word: str) -> list[Edit]:
        return [(0, len(word), in_case_of(word, one)) for table in tables for one in table.get(word.lower(), ())]

    return with_changed_words(pieces, draws, words, others)


def in_case_of(word: str, other: str) -> str:
    """`other` in the letter case of `word`."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return _capitalized(other) if word[:1].isupper() else other
