"""FineWeb's additional rules: remove pages made of lists, menus and repeated lines."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.characters import SPACE, code_point, tables
from raymill.pipelines.text.datatrove.tables import TERMINAL, character_classes
from raymill.pipelines.text.instructions import empty_table, find_or_insert, slots_for
from raymill.pipelines.text.kernel import kernel

Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class FineWeb:
    r"""Remove documents with few lines that end in punctuation, or many lines that are short, repeated or of few words.

    Source: FineWeb, Penedo et al. 2024, section 3.6, https://arxiv.org/abs/2406.17557. Line feeds separate lines; blank
    lines do not count. A line ends in punctuation if its last character, which may be a space, is sentence-final in
    some script (datatrove's TERMINAL_PUNCTUATION, in both dialects). A repeated line counts from its second occurrence
    on. As in datatrove 0.10.1, a line of exactly `short_line_characters` is short, and a document without text is
    removed as `empty`.

    `more_line_ends` are further characters that end a line in punctuation. datatrove 0.10.1 has none; the version that
    made FineWeb counted . ! ? and the quotation marks ' and ", which `more_line_ends: "'\""` adds.

    Dialects differ in words, and in the bound on characters in repeated lines: 0.1 in the paper, 0.01 in datatrove (and
    in the published FineWeb). `max_char_dup_ratio: null` takes the dialect's bound.
    """

    min_line_punct_ratio: Annotated[
        Fraction, Field(description="Minimum fraction of lines that end in terminal punctuation")
    ] = 0.12
    max_short_line_ratio: Annotated[
        Fraction, Field(description="Maximum fraction of lines with at most `short_line_characters` characters")
    ] = 0.67
    more_line_ends: Annotated[
        str,
        Field(
            description="Characters, besides terminal punctuation, that count as such at the end of a line, for "
            "example quotation marks"
        ),
    ] = ""
    short_line_characters: Annotated[
        int, Field(ge=0, description="Maximum number of characters of a line that counts as short")
    ] = 30
    max_char_dup_ratio: Annotated[
        Fraction | None,
        Field(
            description="Maximum fraction of characters in lines that repeat an earlier line; null: 0.1 in "
            "dialect paper, 0.01 in dialect datatrove"
        ),
    ] = None
    max_list_ratio: Annotated[float, Field(ge=0, description="Maximum ratio of line feeds to words")] = 0.3

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "fineweb"
    reasons: ClassVar = ("empty", "line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio")
    signals: ClassVar = {
        "fineweb_lines": "lines that are not blank",
        "fineweb_line_punct_ratio": "lines that end in terminal punctuation / lines",
        "fineweb_short_line_ratio": "short lines / lines",
        "fineweb_char_dup_ratio": "characters in lines equal to an earlier one / characters other than line feeds",
        "fineweb_list_ratio": "line feeds / words",
    }
    measured_by: ClassVar = ("more_line_ends", "short_line_characters")

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """The number of lines int64[D], the ratios float64[D], NaN for a document without text."""
        cut, newlines = analysis.lines, analysis.lines.newlines
        char_flags, _ = tables()
        counts = np.zeros((len(analysis.texts), 4), np.int64)
        _count_lines(
            analysis.texts.data, cut.starts, cut.begins, cut.ends, cut.hashes, cut.characters,
            self.short_line_characters, char_flags, _classes(self.more_line_ends), counts, *empty_table(cut.longest),
        )  # fmt: skip
        lines, ended, short, repeated = counts.T
        with np.errstate(invalid="ignore"):  # 0 / 0 gives NaN, which passes; the document is `empty`
            return {
                "fineweb_lines": lines,
                "fineweb_line_punct_ratio": ended / lines,
                "fineweb_short_line_ratio": short / lines,
                "fineweb_char_dup_ratio": repeated / (analysis.characters - newlines),
                "fineweb_list_ratio": newlines / np.where(lines, analysis.words.counts, np.nan),
            }

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        of_dialect = 0.1 if dialect == "paper" else 0.01
        max_char_dup_ratio = of_dialect if self.max_char_dup_ratio is None else self.max_char_dup_ratio
        return (
            Check("empty", "fineweb_lines", minimum=1),
            Check("line_punct_ratio", "fineweb_line_punct_ratio", minimum=self.min_line_punct_ratio),
            Check("short_line_ratio", "fineweb_short_line_ratio", maximum=self.max_short_line_ratio),
            Check("char_dup_ratio", "fineweb_char_dup_ratio", maximum=max_char_dup_ratio),
            Check("list_ratio", "fineweb_list_ratio", maximum=self.max_list_ratio),
        )


@cache
def _classes(more_line_ends: str) -> np.ndarray:
    """`character_classes` with further terminal characters."""
    classes = character_classes()
    if more_line_ends:
        classes = classes.copy()
        classes[[ord(character) for character in more_line_ends]] |= TERMINAL
        classes.setflags(write=False)
    return classes


@kernel
def _count_lines(
    data, starts, begins, ends, hashes, characters, short_characters, char_flags, classes, counts, keys, stamps
):  # fmt: skip
    """Add to `counts`, int64[D, 4], of lines that are not blank: all; ending in punctuation; short; characters in
    repeated ones.
    """
    for document in range(len(starts) - 1):
        mask = slots_for(starts[document + 1] - starts[document]) - 1
        for line in range(starts[document], starts[document + 1]):
            at, end = begins[line], ends[line]
            while at < end:
                point, width = code_point(data, at)
                if not char_flags[point] & SPACE:
                    break
                at += width
            if at == end:
                continue  # blank
            last = end - 1
            while data[last] & 0xC0 == 0x80:
                last -= 1
            counts[document, 0] += 1
            counts[document, 1] += (classes[code_point(data, last)[0]] & TERMINAL) != 0
            counts[document, 2] += characters[line] <= short_characters
            if not find_or_insert(keys, stamps, mask, document + 1, hashes[line])[1]:
                counts[document, 3] += characters[line]
