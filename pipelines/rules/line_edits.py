"""RefinedWeb's corrections of lines: headings in capitals, counters, single words, `Read more...` and their like go."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.characters import DIGIT, SPACE, UNSPACED, WORD, code_point, tables
from raymill.pipelines.text.instructions import copy_bytes
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.lines import strip_each
from raymill.pipelines.text.texts import Texts

_SHORT_LINE_WORDS = 10  # at most, of a line that loses phrases
_COUNTED = (
    *("likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes"),
    *("downloads", "views", "followers"),
)
_CART, _READ_MORE, _SIGN_IN = (
    np.frombuffer(phrase, np.uint8) for phrase in (b"items in cart", b"read more...", b"sign-in")
)
_NEWLINE, _ZERO, _NINE, _COMMA, _DOT, _UNDERSCORE = (ord(character) for character in "\n09,._")
_THOUSANDS = tuple(ord(letter) for letter in "kmb")


@dataclass(frozen=True, kw_only=True, slots=True)
class LineEdits:
    """Cut lines that are no prose out of documents, and remove documents of which that is too large a part.

    Line feeds separate lines. A line is cut if more than `max_uppercase_fraction` of its characters are upper case, if
    all of them are digits, if it is a counter (a number and one of likes, shares, comments and the like), or if it has
    fewer than `min_words` words. A remaining line of at most 10 words loses `items in cart` anywhere, `Read more...` at
    its end and `Sign-in` at its beginning, in any case. Blank lines stay, but not two in a row where a line is cut.

    In both dialects white space separates words, and each letter of a script written without spaces is a word. The
    corpus is written without what is cut; other rules, languages and deduplication see the whole text.

    Source: RefinedWeb, Penedo et al. 2023, appendix G.2, https://arxiv.org/abs/2306.01116; kinds of counters and order
    of the edits: DataComp-LM, https://github.com/mlfoundations/dclm, `dclm_baseline_refinedweb.yaml`.
    """

    max_uppercase_fraction: Annotated[
        float, Field(ge=0, le=1, description="Maximum fraction of upper-case characters in a line; others are cut")
    ] = 0.5
    min_words: Annotated[int, Field(ge=0, description="Minimum number of words of a line; shorter ones are cut")] = 2
    max_removed_fraction: Annotated[
        float, Field(ge=0, lt=1, description="Maximum fraction of a document's words that are cut")
    ] = 0.05

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "line_edits"
    reasons: ClassVar = ("too_many_words_cut",)
    signals: ClassVar = {"line_edits_removed_fraction": "words in the lines and phrases that are cut / words"}
    measured_by: ClassVar = ("max_uppercase_fraction", "min_words")
    remove_lines: ClassVar = True

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """line_edits_removed_fraction: float64[D], NaN for a document without words."""
        _, words = self._edit(analysis.texts)
        with np.errstate(invalid="ignore"):
            return {"line_edits_removed_fraction": (words[:, 0] - words[:, 1]) / words[:, 0]}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("too_many_words_cut", "line_edits_removed_fraction", maximum=self.max_removed_fraction),)

    def clean(self, texts: Texts, dialect: Dialect = "paper") -> Texts:
        """The documents without the lines and phrases that are cut."""
        return strip_each(self._edit(texts)[0])

    def _edit(self, texts: Texts) -> tuple[Texts, np.ndarray]:
        """(the documents without what is cut; int64[D, 2]: words before and after)."""
        kept = np.empty(int(texts.offsets[-1] - texts.offsets[0]), np.uint8)
        offsets = np.zeros(len(texts) + 1, np.int64)
        words = np.zeros((len(texts), 2), np.int64)
        _edit_lines(
            texts.data, texts.offsets, self.max_uppercase_fraction, self.min_words, *tables(), *_counted(),
            kept, offsets, words,
        )  # fmt: skip
        return Texts(kept[: offsets[-1]], offsets), words


@cache
def _counted() -> tuple[np.ndarray, np.ndarray]:
    """(letters uint8, ends int64): the words of _COUNTED, one after the other."""
    return (
        np.frombuffer("".join(_COUNTED).encode(), np.uint8),
        np.cumsum([len(word) for word in _COUNTED]),
    )


@kernel
def _edit_lines(
    data, offsets, max_uppercase, min_words, char_flags, lower, counted, counted_ends, kept, kept_offsets, words
):
    """Fill kept (bytes) and kept_offsets with the remaining lines, and words, int64[D, 2], with those before, after."""
    written = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        cut = False  # whether lines were cut since the last line with text
        blank = True  # whether the line before is blank, or there is none
        while at < end:
            stop, characters, upper, digits, count = _scan(data, at, end, char_flags, lower)
            begin, at = at, stop + 1
            words[document, 0] += count
            if count == 0:
                if not (cut and blank):
                    written = copy_bytes(data, begin, min(stop + 1, end), kept, written)
                blank = True
                continue
            if (
                upper > max_uppercase * characters
                or digits == characters
                or count < min_words
                or _is_counter(data, begin, stop, char_flags, counted, counted_ends)
            ):
                cut = True
                continue
            line = written
            written = copy_bytes(data, begin, stop, kept, written)
            if count <= _SHORT_LINE_WORDS:
                edited = _without_phrases(kept, line, written)
                if edited < written:
                    _, _, _, _, count = _scan(kept, line, edited, char_flags, lower)
                    written = edited
                    if count == 0:
                        written = line
                        cut = True
                        continue
            words[document, 1] += count
            cut = blank = False
            if stop < end:
                kept[written] = _NEWLINE
                written += 1
        kept_offsets[document + 1] = written


@inner_kernel
def _scan(data, begin, end, char_flags, lower):
    """(end, characters, those in upper case, digits, words) of the line that begins at `begin`."""
    characters = upper = digits = words = 0
    inside = False  # a word of a script with spaces
    at = begin
    while at < end and data[at] != _NEWLINE:
        point, width = code_point(data, at)
        at += width
        bits = char_flags[point]
        characters += 1
        upper += lower[point] != point
        digits += (bits & DIGIT) != 0
        if bits & (SPACE | UNSPACED):
            words += (bits & UNSPACED) != 0
            inside = False
        else:
            words += not inside
            inside = True
    return at, characters, upper, digits, words


@inner_kernel
def _is_counter(data, begin, end, char_flags, counted, counted_ends):
    """Whether a line is a number, k, m or b after it, and a word of `counted`, besides punctuation at both ends."""
    at = _after_punctuation(data, begin, end, char_flags)
    if at == end or not _ZERO <= data[at] <= _NINE:
        return False
    while at < end and (_ZERO <= data[at] <= _NINE or data[at] == _COMMA or data[at] == _DOT):
        at += 1
    if at < end and (data[at] | 0x20) in _THOUSANDS:
        at += 1
    word = at
    while word < end:
        point, width = code_point(data, word)
        if not char_flags[point] & SPACE:
            break
        word += width
    if word == at:
        return False
    start = 0
    for stop in counted_ends:
        length = stop - start
        if word + length <= end:
            same = True
            for place in range(length):
                same &= (data[word + place] | 0x20) == counted[start + place]
            if same and _after_punctuation(data, word + length, end, char_flags) == end:
                return True
        start = stop
    return False


@inner_kernel
def _after_punctuation(data, at, end, char_flags):
    """The next place of a letter, mark, number or underscore."""
    while at < end:
        point, width = code_point(data, at)
        if char_flags[point] & WORD or point == _UNDERSCORE:
            break
        at += width
    return at


@inner_kernel
def _without_phrases(line, begin, end):
    """Cut the phrases out of line[begin:end], in place; returns its new end."""
    at = begin
    while at + len(_CART) <= end:
        if _is_at(line, at, _CART):
            first = at - (at > begin and line[at - 1] == 0x20)
            end = _cut_out(line, first, at + len(_CART), end)
            at = first
        else:
            at += 1
    if end - begin >= len(_READ_MORE) and _is_at(line, end - len(_READ_MORE), _READ_MORE):
        end -= len(_READ_MORE)
        end -= end > begin and line[end - 1] == 0x20
    if end - begin >= len(_SIGN_IN) and _is_at(line, begin, _SIGN_IN):
        after = begin + len(_SIGN_IN)
        after += after < end and line[after] == 0x20
        end = _cut_out(line, begin, after, end)
    return end


@inner_kernel
def _cut_out(line, first, stop, end):
    """Move line[stop:end] to `first`, in place; returns its new end."""
    for at in range(stop, end):
        line[first + at - stop] = line[at]
    return first + end - stop


@inner_kernel
def _is_at(line, at, phrase):
    """Whether `phrase`, in lower case, is at this place, in any case."""
    same = True
    for place in range(len(phrase)):
        letter = line[at + place]
        same &= (letter | 0x20 if 0x41 <= letter <= 0x5A else letter) == phrase[place]
    return same
