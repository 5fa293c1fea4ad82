"""Pages that take a parser of HTML the square of their size, or much memory; and seeded mixtures of such parts."""

import random

PROSE = "<p>The mill grinds raw text into a corpus, and the corpus into a model; nothing is lost on the way.</p>"


def _attributes(count: int, value: str) -> str:
    return "<p " + " ".join(f"a{number}={value}" for number in range(count)) + ">text</p>"


# Name -> page. Those of ../shared/research/web_extraction.md, with sizes of a few seconds where they are not bounded.
PAGES: dict[str, str] = {
    "nested elements": "<div>" * 100_000 + "text",
    "nested and ended in a wrong order": "<span><div></span></div>" * 50_000,
    "unclosed bold and italic": "<b><i>word " * 20_000,
    "spans": "<span>word </span>" * 1_000_000,
    "paragraphs": PROSE * 16_000,
    "a table": "<table>" + "<tr><td>a</td><td>b</td><td>c</td><td>d</td></tr>" * 50_000 + "</table>",
    "a wide cell": "<table><tr><td colspan=9000000000000000>a</td></tr></table>" + PROSE,
    "a long attribute": f'<p title="{"x" * 8_000_000}">text</p>' + PROSE,
    "attributes": _attributes(100_000, "1"),
    "attributes with >": _attributes(100_000, '">"'),
    "attributes with <": _attributes(100_000, '"<"'),
    "options": "<select>" + "<option>a" * 100_000,
    "NUL characters": "<p>a\0b</p>" * 50_000,
    "links": "<a href=x>word</a> " * 100_000,
    "nested lists": "<ul><li>" * 3_000 + "text",
    "a script": "<script>" + "if (a<b) c();" * 300_000 + "</script>" + PROSE,
    "an open comment": "<!--" + "<b>" * 1_000_000,
    "entities": "&amp;" * 1_000_000,
    "less-than signs": "<" * 5_000_000,
    "titles": "<title>" * 100_000,
    "open quotes": "<p a='" + "<p " * 100_000,
    "nested forms of mathematics": "<math><mi>" * 20_000,
    "templates": "<svg><template>" * 20_000,
    "frames": "<table><td><frameset><frame>" * 20_000,
}


_ENDS = ("</div>", "</p>", "</table>", "'", '"', ">", "<", "-->", "</script>", "<![CDATA[")


def random_page(seed: int, most: int = 60_000) -> bytes:
    """A page of parts of PAGES, cut at random places, repeated, nested in each other, and with damaged bytes."""
    draw = random.Random(seed)
    parts = [PROSE]
    while sum(map(len, parts)) < most:
        page = PAGES[draw.choice([*PAGES])]
        start = draw.randrange(max(1, len(page) - 200))
        piece = page[start : start + draw.randrange(1, 200)]
        parts.append(piece * draw.choice([1, 1, 2, 10, draw.randrange(1, 1 + most // len(piece))]))
        if draw.random() < 0.3:
            parts.append(draw.choice(_ENDS))
    draw.shuffle(parts)
    page = bytearray("".join(parts).encode())
    for _ in range(draw.choice([0, 0, 5, 500])):
        page[draw.randrange(len(page))] = draw.randrange(256)
    return bytes(page)
