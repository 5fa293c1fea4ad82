"""Divides long texts, such as manuals, into sections that can be records: at headings, else at paragraphs.

A section that is too long by itself is divided at blank lines, then at ends of lines, of sentences, at spaces, and last
between characters. Sections joined in order are the text.

A heading is a line with `#` of Markdown, or a line above a row of `=` or `-`. In a text without these it is a line of
at most 80 characters that begins with a capital letter or a number, does not end as a sentence does, and stands between
paragraphs.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.prepare.records.templates import title_of

_LEAST_CHARS = 100  # of a section; a shorter one, such as a heading alone, is part of the next
_LONGEST_HEADING = 80
_LONGEST_TITLE = 80  # of a text that stands before the headings of its sections

_FENCE = re.compile(r"\s*(```|~~~)")
_MARKED = re.compile(r"#{1,6}\s+\S")
_UNDERLINE = re.compile(r"(=|-|~|\*){3,}\s*$")
_ENDS_PARAGRAPH = re.compile(r"[.!?:…。！？][\"'”’)\]]*$")
_NO_HEADING = re.compile(r"[.!?,;:…。！？|][\"'”’)\]]*$")
_BEGINS_HEADING = re.compile(r"(?:[0-9]+(?:\.[0-9]+)*\.?\s+)?[^\W\d_]")
_BEGINS_ITEM = re.compile(r"[^\w\s]|\(?(?:[0-9]{1,3}|[a-zA-Z])[.)]\s")  # of a list

# Where a text is divided, in the order in which it is tried: after what these match.
_DIVISIONS = tuple(re.compile(one) for one in (r"\n[^\S\n]*\n\s*", r"\n", r"[.!?…。！？][\"'”’)\]]*\s+", r"\s+"))


class TextPart(NamedTuple):
    """A part of a text. title: of its section, with its number where sections would have equal titles."""

    title: str
    text: str


def parts_of(text: str, max_chars: int) -> list[TextPart]:
    """The parts of a text, each of at most `max_chars` characters besides white space at its ends. A text that is not
    longer is one part.
    """
    if len(text.strip()) <= max_chars:
        return [TextPart(title_of(text), text)]
    whole = title_of(text)
    found: list[tuple[str, str]] = []
    for section, has_heading in _sections(text):
        heading = title_of(section) if has_heading else whole
        title = heading if heading == whole or len(whole) > _LONGEST_TITLE else f"{whole}: {heading}"
        found += [(title, piece) for piece in _pieces(section, max_chars, 0)]
    return _numbered(_with_words(found))


def _with_words(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parts, of which those of white space alone belong to the one before, or to the first."""
    found: list[tuple[str, str]] = []
    for title, text in parts:
        if found and not (text.strip() and found[-1][1].strip()):
            title = title if text.strip() else found[-1][0]
            found[-1] = (title, found[-1][1] + text)
        else:
            found.append((title, text))
    return found


def _numbered(parts: list[tuple[str, str]]) -> list[TextPart]:
    """The parts with numbers in equal titles, or these would be equal questions."""
    total: dict[str, int] = {}
    for title, _ in parts:
        total[title] = total.get(title, 0) + 1
    seen: dict[str, int] = {}
    found = []
    for title, text in parts:
        seen[title] = seen.get(title, 0) + 1
        named = f"{title} (part {seen[title]} of {total[title]})" if total[title] > 1 else title
        found.append(TextPart(named, text))
    return found


def _sections(text: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it begins with a heading) of each section; a short one is part of the next."""
    lines = text.splitlines(keepends=True)
    starts = _headings([line.rstrip() for line in lines])
    section: list[str] = []
    has_heading, length = False, 0
    for line, starts_section in zip(lines, starts, strict=True):
        if starts_section and length >= _LEAST_CHARS:
            yield "".join(section), has_heading
            section, has_heading, length = [], False, 0
        has_heading = has_heading or (starts_section and not length)
        section.append(line)
        length += len(line.strip())
    yield "".join(section), has_heading


def _headings(lines: list[str]) -> list[bool]:
    """Whether each line is a heading."""
    prose, in_code = [], False
    for line in lines:
        in_code ^= bool(_FENCE.match(line))
        prose.append("" if in_code else line)
    around = list(zip(prose, ["", *prose], [*prose[1:], ""], strict=False))
    marked = [_is_marked(*one) for one in around]
    return marked if any(marked) else [_stands_alone(*one) for one in around]


def _is_marked(line: str, before: str, after: str) -> bool:
    if _MARKED.match(line):
        return True
    begins = not before.strip() or bool(_ENDS_PARAGRAPH.search(before))
    return begins and bool(line.strip() and _UNDERLINE.match(after)) and not _UNDERLINE.match(line)


def _stands_alone(line: str, before: str, after: str) -> bool:
    """Whether a line without marks is a heading, by its look and its neighbours."""
    if not 0 < len(line) <= _LONGEST_HEADING or "\t" in line or _NO_HEADING.search(line):
        return False
    if not _BEGINS_HEADING.match(line) or line.lstrip("0123456789. ")[0].islower():
        return False
    if before and not _ENDS_PARAGRAPH.search(before):
        return False
    if not after:
        return True
    is_paragraph = len(after) > _LONGEST_HEADING or bool(_ENDS_PARAGRAPH.search(after))
    is_item = _BEGINS_ITEM.match(line) and _BEGINS_ITEM.match(after)
    return is_paragraph and not is_item and not after[0].islower()


def _pieces(text: str, max_chars: int, division: int) -> Iterator[str]:
    """The text in pieces, as long as possible."""
    if len(text.strip()) <= max_chars:
        yield text
        return
    if division == len(_DIVISIONS):
        word, space = text.rstrip(), text[len(text.rstrip()) :]
        *whole, last = (word[start : start + max_chars] for start in range(0, len(word), max_chars))
        yield from (*whole, last + space)
        return
    piece = ""
    for part in _divided(text, _DIVISIONS[division]):
        if len((piece + part).strip()) <= max_chars:
            piece += part
            continue
        *whole, piece = [*([piece] if piece else []), *_pieces(part, max_chars, division + 1)]
        yield from whole
    yield piece


def _divided(text: str, after: re.Pattern[str]) -> Iterator[str]:
    """The text in parts that end with what matches."""
    start = 0
    for match in after.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    if start < len(text):
        yield text[start:]
