"""What `prepare` cleans out of texts: HTML that is left in plain text, and typographic quotation marks.

HTML is tags, comments and entities. Only tags of HTML and entities with a semicolon count, so `a < b`, `vector<int>`
and `?a=1&copy=2` stay as they are. Code in backticks stays too. The time is linear in the length of the text, whatever
it contains.
"""

import re
from collections import Counter

from raymill.cluster.character_references import unescaped
from raymill.cluster.readers.inputs import Cut

_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
_ENDS_LINE = "p|div|br|hr|tr|table|ul|ol|h[1-6]|blockquote|pre|section|article|header|footer"
# Inline elements that a tag ends, and others.
_PAIRED = "a|abbr|b|big|center|code|em|font|i|ins|label|mark|nobr|o:p|q|s|small|span|strike|strong|sub|sup|title|tt|u"
_SINGLE = "body|dd|dl|dt|head|html|img|li|link|meta|tbody|td|tfoot|th|thead|wbr"
# Attributes of HTML with a value, and those that need none, so `<b and c>` is no tag.
_ATTRIBUTE = (
    r"(?:[a-z_:@][\w:.-]*\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+)"
    r"|(?:allowfullscreen|async|autofocus|autoplay|checked|compact|contenteditable|controls|declare|default|defer"
    r"|disabled|download|hidden|inert|ismap|itemscope|loop|multiple|muted|nohref|nomodule|noresize|noshade|novalidate"
    r"|nowrap|open|playsinline|readonly|required|reversed|selected)(?![\w-]))"
)
_REST = rf"(?:\s+{_ATTRIBUTE})*\s*/?"
_HIDDEN = re.compile(rf"<!--|<(script|style){_REST}>", re.IGNORECASE)
_ENDS = {
    "": re.compile("-->"),
    "script": re.compile(r"</script\s*>", re.IGNORECASE),
    "style": re.compile(r"</style\s*>", re.IGNORECASE),
}
_ITEM = re.compile(rf"<li{_REST}>", re.IGNORECASE)
_CELL = re.compile(r"</t[dh]>", re.IGNORECASE)
_LINE = re.compile(rf"</?(?:{_ENDS_LINE}){_REST}>", re.IGNORECASE)
_TAG = re.compile(rf"<(/?)(?:({_PAIRED})|{_SINGLE}){_REST}>|<!doctype[^<>]*>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def without_html(text: str, cut: list[Cut] | None = None) -> str:
    """The text without tags and comments, with the characters that entities stand for.

    Paragraphs, line breaks and rows of tables end lines; items of lists become lines with a dash. Unchanged if there is
    neither tag nor entity. cut: comments, scripts and style sheets are added to it.
    """
    if "<" not in text and "&" not in text:
        return text
    parts = _CODE.split(text)  # every second one is code
    paired = _paired("".join(parts[::2]))
    found = "".join(part if number % 2 else _plain(part, paired, cut) for number, part in enumerate(parts))
    return text if found == text else found.strip()


def _paired(text: str) -> set[str]:
    """The names of inline elements of which a tag that begins and one that ends are in the text."""
    begun, ended = Counter[str](), Counter[str]()
    for found in _TAG.finditer(text):
        if found[2]:
            (ended if found[1] else begun)[found[2].lower()] += 1
    return {name for name in begun if ended[name]}


def _plain(text: str, paired: set[str], cut: list[Cut] | None) -> str:
    def is_tag(found: re.Match[str]) -> bool:
        # `a<b>c` is a comparison, and `<title>` stands for a title, unless a tag ends it. Attributes show a tag.
        return not found[2] or found[2].lower() in paired or "=" in found.group()

    if "<" in text:
        shown = _without_hidden(text, cut)
        lines = _LINE.sub("\n", _ITEM.sub("\n- ", shown))
        text = _TAG.sub(lambda found: "" if is_tag(found) else found.group(), _CELL.sub(" ", lines))
        text = text if lines == shown else _in_lines(text)
    return _ENTITY.sub(lambda entity: unescaped(entity.group()).replace("\xa0", " "), text)


def _without_hidden(text: str, cut: list[Cut] | None) -> str:
    """The text without comments, scripts and styles. What has no end stays."""
    kept, at, endless = [], 0, set[str]()
    while (found := _HIDDEN.search(text, at)) is not None:
        kind = (found[1] or "").lower()
        end = None if kind in endless else _ENDS[kind].search(text, found.end())
        if end is None:
            endless.add(kind)
        kept.append(text[at : found.end() if end is None else found.start()])
        if cut is not None and end is not None and (hidden := text[found.end() : end.start()].strip()):
            cut.append(("html_hidden", hidden))
        at = found.end() if end is None else end.end()
    return "".join([*kept, text[at:]])


def _in_lines(text: str) -> str:
    """The text without blanks at the ends of lines, with at most one blank line in a row and none before an item."""
    first, *rest = text.split("\n")
    if not rest:
        return text
    kept = [first.rstrip()]
    for number, line in enumerate(rest):
        line = line.lstrip() if number == len(rest) - 1 else line.strip()  # code may follow the last one
        if line.startswith("- ") or not line:
            while len(kept) > 1 and not kept[-1]:
                kept.pop()
        kept.append(line)
    return "\n".join(kept)


# --- Typographic quotation marks as the two of ASCII, outside of code.
#
#     U+2018 to U+201B    become '
#     U+201C to U+201F    become "
#
# Guillemets stay, because in French a space belongs to them, and so do primes and the letters U+02BB and U+02BC. Code
# is what Markdown takes for it: fenced blocks, and one to three backticks within a line. The time is linear in the
# length of the text.


_STRAIGHT = str.maketrans(
    {**dict.fromkeys("\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("\u201c\u201d\u201e\u201f", '"')}
)
# What is possessive (`+` after a quantifier) is not tried again with less, which would take quadratic time.
_FENCED = r"^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[^`\n]*+$(?s:.*?)(?:^[ \t]*+(?P=fence)[`~]*+[ \t]*+$|\Z)"
_INLINE = r"(?<!`)(?P<ticks>`{1,3})(?!`)[^\n]*?[^`\n](?P=ticks)(?!`)"
_MARKDOWN_CODE = re.compile(f"{_FENCED}|{_INLINE}", re.MULTILINE)


def straight_quotes(text: str) -> str:
    """The text with straight quotation marks; code is unchanged."""
    straight = text.translate(_STRAIGHT)
    if straight == text or ("`" not in text and "~~~" not in text):
        return straight
    # A mark is replaced by one character, so that code is at the same place in both texts.
    pieces, at = [], 0
    for code in _MARKDOWN_CODE.finditer(text):
        pieces += [straight[at : code.start()], code.group()]
        at = code.end()
    return "".join([*pieces, straight[at:]])
