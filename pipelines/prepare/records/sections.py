"""Divides long texts, such as manuals, into sections that can be records: at headings, else at paragraphs.

A section that is too long by itself is divided at blank lines, then at ends of lines, of sentences, at spaces, and last
between characters. Code fences, tables and lists are divided only if they are too long by themselves: a fence between
its lines, closed and opened again; a table between its rows, with its header in each part; a list between its items.
Sections joined in order are the text, but for what is repeated there.

A heading is a line with `#` of Markdown, or a line above a row of `=` or `-`. In a text without these it is a line of
at most 80 characters that begins with a capital letter or a number, does not end as a sentence does, and stands between
paragraphs.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import NamedTuple

from raymill.cluster.character_references import unescaped

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

# Of `title_of`.
_TITLE_CHARS = 200
_HEADING_CHARS = 1000  # longest line with its marks, which take time that grows with the square of its length
_MOST_HEADINGS = 100  # lines that are looked at; one may have letters in its marks alone
# Front matter of Markdown in YAML; group 1 is the title.
_FRONT_MATTER = re.compile(
    r"\s*---[ \t]*\n(?=(?:[^\n]*\n){1,100}?---[ \t]*(?:\n|\Z))"
    r"(?:(?!title:|---)[^\n]*\n)*(?:title:[ \t]*[\"']?([^\n]*?)[\"']?[ \t]*\n(?:(?!---)[^\n]*\n)*)?---[ \t]*(?:\n|\Z)"
)

_LEAST_CHARS = 100  # of a section; a shorter one, such as a heading alone, is part of the next
_LONGEST_HEADING = 80
_LONGEST_TITLE = 80  # of a text that stands before the headings of its sections
_TABLE_RULE = re.compile(r"[ \t]*+(?:\|[ \t]*+)?:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+\|?[ \t]*+$")
_BLANK_LINES_IN_A_LIST = 3
_TABLE_LINE = re.compile(r"[ \t]*(?:\||\+[-=+]{2,}\+?)")
_MARKED = re.compile(r"#{1,6}\s+\S")
_UNDERLINE = re.compile(r"(=|-|~|\*){3,}\s*$")
_ENDS_PARAGRAPH = re.compile(r"[.!?:…。！？][\"'”’)\]]*$")
_NO_HEADING = re.compile(r"[.!?,;:…。！？|][\"'”’)\]]*$")
_BEGINS_HEADING = re.compile(r"(?:[0-9]+(?:\.[0-9]+)*\.?\s+)?[^\W\d_]")
_BEGINS_ITEM = re.compile(r"[^\w\s]|\(?(?:[0-9]{1,3}|[a-zA-Z])[.)]\s")  # of a list
# Where a text is divided, in the order in which it is tried: after what these match.
_DIVISIONS = tuple(re.compile(one) for one in (r"\n[^\S\n]*\n\s*", r"\n", r"[.!?…。！？][\"'”’)\]]*\s+", r"\s+"))


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
    plain = unescaped(text.strip("#=*- \t")).translate({_PRIVATE + mark: mark for mark in range(128)})
    return " ".join(plain.split())


def title_of(text: str) -> str:
    """The title in the front matter, else the first line with a letter or digit, without marks.

    At most 200 characters.
    """
    if matter := _FRONT_MATTER.match(text):
        text = matter[1] or text[matter.end() :]
    with_words = (line for line in text.splitlines() if any(map(str.isalnum, line[:_HEADING_CHARS])))
    lines = (plain_heading(line[:_HEADING_CHARS]) for line in islice(with_words, _MOST_HEADINGS))
    return next((line for line in lines if any(map(str.isalnum, line))), "")[:_TITLE_CHARS].strip()


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
        found += [(title, piece) for piece in _pieces(section, max_chars)]
    # Parts of white space alone belong to the one before, or to the first.
    joined: list[tuple[str, str]] = []
    for title, piece in found:
        if joined and not (piece.strip() and joined[-1][1].strip()):
            title = title if piece.strip() else joined[-1][0]
            joined[-1] = (title, joined[-1][1] + piece)
        else:
            joined.append((title, piece))
    # Equal titles get numbers, or they would be equal questions.
    total, seen, numbered = Counter(title for title, _ in joined), Counter[str](), []
    for title, piece in joined:
        seen[title] += 1
        named = f"{title} (part {seen[title]} of {total[title]})" if total[title] > 1 else title
        numbered.append(TextPart(named, piece))
    return numbered


def _sections(text: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it begins with a heading) of each section; a short one is part of the next."""
    lines = text.splitlines(keepends=True)
    plain = [line.rstrip() for line in lines]
    prose = ["" if in_code else line for line, in_code in zip(plain, fenced(plain), strict=True)]
    around = list(zip(prose, ["", *prose], [*prose[1:], ""], strict=False))
    marked = [_is_marked(*one) for one in around]
    starts = marked if any(marked) else [_stands_alone(*one) for one in around]
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


class _Chunk(NamedTuple):
    """Lines that belong together. kind: fence, table, list or empty."""

    text: str
    kind: str = ""


def _pieces(text: str, max_chars: int) -> Iterator[str]:
    """The text in pieces, as long as possible; the last one is not much shorter than the others if that is possible."""
    size = len(text.strip())
    if size <= max_chars:
        yield text
        return
    found = list(_filled(text, max_chars))
    if len(found) > 1 and len(found[-1].strip()) < min(_LEAST_CHARS, max_chars // 2):
        # The last two are divided anew, so that no piece is too short to be a record.
        last = found[-2] + found[-1]
        divided = list(_filled(last, max(len(last.strip()) * 2 // 3, 1)))
        if len(divided) == 2 and all(len(one.strip()) <= max_chars for one in divided):
            found[-2:] = divided
    yield from found


def _filled(text: str, max_chars: int) -> Iterator[str]:
    piece = ""
    for chunk in _chunks(text):
        # A heading alone is no record, so what follows it is divided rather than parted from it; and so is prose that
        # follows a short text.
        is_short = 0 < len(piece.strip()) < min(_LEAST_CHARS, max_chars // 2)
        is_short = is_short and (not chunk.kind or "\n" not in piece.strip())
        room = max_chars - len(piece.lstrip()) if is_short else max_chars
        room = room if room > 0 else max_chars  # spaces after a short text may take all of it
        for part in [chunk.text] if len(chunk.text.strip()) <= room else _divided_chunk(chunk, room):
            if piece and len((piece + part).strip()) > max_chars:
                yield piece
                piece = ""
            piece += part
    if piece:
        yield piece


def _divided_chunk(chunk: _Chunk, max_chars: int) -> Iterator[str]:
    """The chunk in parts within the bound: a fence, table or list between its lines or items, if they are short enough.

    A fence is closed at the end of each part and opened again; a table has its header in each part. If these lines take
    over half of a part, the chunk is divided as a text: parts would have many times the characters of the chunk.
    """
    most_repeated = max_chars // 2
    lines = chunk.text.splitlines(keepends=True)
    blank = "".join(reversed([*takewhile(lambda line: not line.strip(), reversed(lines))]))
    if blank and chunk.kind in ("fence", "table"):
        *whole, last = _divided_chunk(chunk._replace(text=chunk.text.removesuffix(blank)), max_chars)
        yield from (*whole, last + blank)
        return
    if chunk.kind == "fence" and (opened := FENCE.match(lines[0])) is not None:
        close = f"{opened[0]}\n"
        body = lines[1:] if has_open_fence(chunk.text) else lines[1:-1]
        repeated = len(lines[0]) + len(close) + 1
        room = max_chars - repeated
        if repeated <= most_repeated and room >= max((len(line) for line in body), default=1):
            for group in _groups(body, room):
                end = "" if group.endswith("\n") else "\n"
                yield f"{lines[0]}{group}{end}{close}"
            return
    if chunk.kind == "table" and len(lines) > 2 and _TABLE_RULE.match(lines[1]):
        head = lines[0] + lines[1]
        room = max_chars - len(head)
        if len(head) <= most_repeated and room >= max(len(line) for line in lines[2:]):
            yield from (head + group for group in _groups(lines[2:], room))
            return
    if chunk.kind == "list":
        for item in _items(lines):
            yield from [item] if len(item.strip()) <= max_chars else _divided_text(item, max_chars, 0)
        return
    yield from _divided_text(chunk.text, max_chars, 1 if chunk.kind else 0)


def _groups(lines: Sequence[str], max_chars: int) -> Iterator[str]:
    """The lines joined, as many as fit."""
    group = ""
    for line in lines:
        if group and len(group + line) > max_chars:
            yield group
            group = ""
        group += line
    yield group


def _items(lines: Sequence[str]) -> Iterator[str]:
    """The items of a list, each with the lines below it."""
    depth = min(len(line) - len(line.lstrip()) for line in lines if LIST_ITEM.match(line))
    item = ""
    for line in lines:
        if item and LIST_ITEM.match(line) and len(line) - len(line.lstrip()) <= depth:
            yield item
            item = ""
        item += line
    yield item


def _chunks(text: str) -> Iterator[_Chunk]:
    """The text in paragraphs with the blank lines after them; fences, tables and lists are not divided."""
    lines = text.splitlines(keepends=True)
    in_code = fenced([line.rstrip() for line in lines])
    start = 0
    while start < len(lines):
        kind = _kind(lines, start, in_code)
        end = start + 1
        while end < len(lines) and _goes_on(kind, lines, end, in_code):
            end += 1
        while end < len(lines) and not lines[end].strip() and not in_code[end]:
            end += 1
        yield _Chunk("".join(lines[start:end]), kind)
        start = end


def _kind(lines: Sequence[str], at: int, in_code: Sequence[int]) -> str:
    if in_code[at]:
        return "fence"
    if LIST_ITEM.match(lines[at]):
        return "list"
    follows = lines[at + 1] if at + 1 < len(lines) else ""
    has_bars = "|" in lines[at] and bool(_TABLE_RULE.match(follows))
    return "table" if has_bars or _TABLE_LINE.match(lines[at]) else ""


def _goes_on(kind: str, lines: Sequence[str], at: int, in_code: Sequence[int]) -> bool:
    """Whether a line belongs to the fence, table, list or paragraph before it."""
    line = lines[at]
    if kind == "fence":
        return in_code[at] == in_code[at - 1]
    if kind == "list":  # an item after blank lines belongs to the list, and so do indented lines
        if line.strip() and lines[at - 1].strip():
            return not in_code[at] or line[:1] in (" ", "\t")
        follows = next((one for one in lines[at : at + _BLANK_LINES_IN_A_LIST] if one.strip()), "")
        return bool(LIST_ITEM.match(follows)) or follows[:1] in (" ", "\t")
    if not line.strip() or in_code[at]:
        return False
    return "|" in line or line.startswith("+") if kind == "table" else not _kind(lines, at, in_code)


def _divided_text(text: str, max_chars: int, division: int) -> Iterator[str]:
    """A text without structure in pieces, as long as possible."""
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
        *whole, piece = [*([piece] if piece else []), *_divided_text(part, max_chars, division + 1)]
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
