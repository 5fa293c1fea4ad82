"""Looks at the tables of a page."""

import re
from html import unescape

_NUMBER = re.compile(r"(at (least|most) )?[−+]?\d[\d.,]*(e-?\d+)? ?(%|[a-zA-Z]{1,4})?( \d+ \w+)*|–")


def misaligned(page: str) -> list[str]:
    """The columns whose cells are all numbers but aligned as words, or the other way round: `TABLE: COLUMN`."""
    found = []
    for table in re.findall(r"<table>(.*?)</table>", page, re.DOTALL):
        caption = _text(re.findall(r"<caption>(.*?)</caption>", table, re.DOTALL)[0])
        head, *rows = [
            re.findall(r"<t[hd]([^>]*)>(.*?)</t[hd]>", row, re.DOTALL)
            for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        ]
        for at, (attributes, title) in enumerate(head):
            cells = [(kind, _text(cell)) for kind, cell in (row[at] for row in rows) if _text(cell)]
            numeric = bool(cells) and all(_NUMBER.fullmatch(cell) for _, cell in cells)
            marked = {'class="n"' in kind for kind, _ in cells} if at else set()
            if cells and _text(title) and marked | {'class="n"' in attributes} != {numeric}:
                found.append(f"{caption}: {_text(title)}")
    return found


def _text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
