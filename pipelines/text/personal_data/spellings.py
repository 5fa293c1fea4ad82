"""Personal data in further spellings, and one form of a value for all of its spellings.

`find` (spans.py) defines what is found. A text is brought into its spelling first:

    dashes, spaces     typographic ones become ASCII: +1 (206) 555‑1212 (U+2011); characters without width are left out
    full width         ＠, ＋, ．, brackets and digits become ASCII; so do digits of Arabic, Persian and Indian scripts
    percent, escapes   %40 and %2B of links become @ and +; so do &#64; of HTML and the escapes of JSON
    trunk prefix       (0) after a country code is left out: +33 (0)1 42 68 53 00

and these are found besides:

    email   with letters of any script before and after the @ (RFC 6531), and with an apostrophe: o'brien@example.ie
    phone   international with 00, or 011 and a separator, in place of the +
    iban    in lower case, and with hyphens: de89-3704-0044-0532-0130-00
    ip      private, link-local and shared addresses, and those of documentation: 10.0.0.12, fd12:3456::1, 203.0.113.7

`prepare` uses it. `curate`, which replaces nothing but what is public, uses `find` alone, which is 20 times as fast.
"""

import ipaddress
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

import numpy as np

from raymill.pipelines.text.personal_data.spans import EMAIL, IBAN, IP, PHONE, Spans, find
from raymill.pipelines.text.personal_data.tables import BEFORE_A_VERSION, IBAN_LENGTHS
from raymill.pipelines.text.texts import Texts

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_SPACES = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_WITHOUT_WIDTH = (
    "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_ZEROS = (0x0660, 0x06F0, 0x0966, 0x09E6)  # of the digits of scripts in which phone numbers are written
_PLAIN = dict.fromkeys(_DASHES, "-") | dict.fromkeys(_SPACES, " ") | dict.fromkeys(_WITHOUT_WIDTH, "")
_PLAIN |= {chr(ord(one) + 0xFEE0): one for one in "@+.()0123456789"} | {"\u2019": "'", "%40": "@", "%2B": "+"}
_PLAIN |= {chr(zero + digit): str(digit) for zero in _ZEROS for digit in range(10)}
_PLAIN |= {"&#64;": "@", "&#X40;": "@", "&COMMAT;": "@", "&#43;": "+", "\\U0040": "@", "\\U002B": "+"}
_SEPARATOR = f"[ .{_DASHES}{_SPACES}-]"
_FOLDED = re.compile(
    rf"(?<=\d){_SEPARATOR}?\(0\){_SEPARATOR}?(?=\d)|%2b|{'|'.join(map(re.escape, _PLAIN))}", re.IGNORECASE
)

# Letters of scripts that have cases and write spaces between words. Others, such as Chinese, have words of their own.
_LETTER = "A-Za-z0-9_\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u052f\u1e00-\u1fff"
_LOCAL_PART = re.compile(rf"(?<![{_LETTER}])(?:(?![FfBbRrUu]')[{_LETTER}](?:[{_LETTER}.+%-]|'(?=[{_LETTER}]))*)\Z")
_ANY_LETTERS = re.compile(r"[^\W_]+(?:[._-][^\W_]+)*\Z")
_LABEL = rf"[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?"
_OTHER_LABEL = r"[^\W_\x00-\x7f]{1,63}"
_DOMAIN = re.compile(rf"(?:(?:{_LABEL}|{_OTHER_LABEL})\.)+(?:xn--[A-Za-z0-9-]+|[A-Za-z]{{2,63}}|{_OTHER_LABEL})")
_MOST_BEFORE = 64  # characters of the part before the @

_EXIT_CODE = re.compile(r"(?<![\w.+%@-])(?:00[ .-]?|011[ .-])(?=[1-9])")
_MOST_OF_A_NUMBER = 32  # characters

_VERSION = rf"(?:\b(?:{'|'.join(BEFORE_A_VERSION.split())})[ :=]*|\w/|[=<>~!]=)\Z"
_IS_VERSION = re.compile(_VERSION, re.IGNORECASE)
_ADDRESS = re.compile(
    r"(?<![\w.+%@-])(?:(?:10|100\.\d{2,3}|169\.254|172\.(?:1[6-9]|2\d|3[01])|192\.168|192\.0\.2|198\.51\.100|203\.0\.113)"
    r"(?:\.\d{1,3}){1,3}|(?:f[cd][0-9a-f]{2}|fe80|2001:0?db8):[0-9a-f:]++(?:%[a-z][a-z0-9]{1,14})?)(?![\w+%@]|[.-]\w)",
    re.IGNORECASE,
)
_NOT_PUBLIC = (
    "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 169.254.0.0/16 100.64.0.0/10 fc00::/7 fe80::/10 "
    "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32"
)
_PRIVATE = tuple(map(ipaddress.ip_network, _NOT_PUBLIC.split()))
_LOWER_OR_HYPHENS = re.compile(
    r"(?<![A-Za-z0-9-])(?=[a-z]{2}\d|[A-Z]{2}\d\d-)[A-Za-z]{2}\d\d(?:[ -]?[A-Za-z0-9]){11,30}"
)

# Texts without a match have the spelling of `find`, and none of what is found besides.
_UNUSUAL = re.compile(
    rf"[^\x00-\x7f]|%40|%2b|&#|&commat;|\\u00|\(0\)|'[\w.+%-]*@|{_EXIT_CODE.pattern}|{_ADDRESS.pattern}"
    rf"|(?-i:{_LOWER_OR_HYPHENS.pattern})",
    re.IGNORECASE,
)
# A delimiter of a link before the address: mailto%3Aann@example.com
_ENCODED = re.compile(r".*%(?:20|22|26|2[CF]|3[A-F]|5B|7B)", re.IGNORECASE | re.DOTALL)

Finding = tuple[int, int, int]  # start, end, kind


def find_spellings(strings: Sequence[str], kinds: Collection[str]) -> tuple[Spans, list[str]]:
    """(all findings of the wanted kinds, as of `find`; one form of each value for all of its spellings).

    Raises:
        ConfigError: a kind is not in KINDS.
    """
    folded = [_Folded(one) if _UNUSUAL.search(one) else None for one in strings]
    plain = [one if fold is None else fold.text for one, fold in zip(strings, folded, strict=True)]
    found = find(Texts.from_strings(plain), kinds)
    ends = np.searchsorted(found.document, np.arange(1, len(strings) + 1))
    rows: list[tuple[int, int, int, int]] = []
    values: list[str] = []
    first = 0
    for document, end in enumerate(ends.tolist()):
        fold = folded[document]
        columns = (one[first:end].tolist() for one in (found.start, found.end, found.kind))
        some, first = list(zip(*columns, strict=True)), end
        text, data = plain[document], plain[document].encode()
        spans: Iterable[Finding] = some
        if fold is not None:
            spans = _characters(data, some)
            spans = _without_delimiters(text, _longest([*spans, *_besides(text, kinds)]))
            values += [same_value(text[start:stop], kind) for start, stop, kind in spans]
            spans = _bytes(strings[document], fold.original(spans))
            rows += [(document, *span) for span in spans]
        else:
            for start, stop, kind in spans:
                values.append(same_value(data[start:stop].decode(), kind))
                rows.append((document, start, stop, kind))
    table = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    return Spans(table[0], table[1], table[2], table[3].astype(np.uint8)), values


def same_value(value: str, kind: int) -> str:
    """The form of a value that all of its spellings have: of addresses lower case, of numbers the digits."""
    if kind == EMAIL:
        local, _, domain = unicodedata.normalize("NFKC", value).casefold().rpartition("@")
        with suppress(UnicodeError):  # a label that is too long
            domain = domain.encode("idna").decode()
        return f"{local}@{domain}"
    if kind == PHONE:
        digits = re.sub(r"\D", "", re.sub(r"\(0\)", "", value))
        if not value.startswith("+"):
            digits = re.sub(r"^(?:00|011(?=\d{8}))", "", digits)
        return f"1{digits}" if len(digits) == 10 and not value.startswith(("+", "00", "011")) else digits
    if kind == IP:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            return value.lower()
    return re.sub(r"[\s-]", "", value).lower()


class _Folded:
    """A text in the spelling of `find`, and where its characters were."""

    def __init__(self, text: str) -> None:
        pieces: list[str] = []
        self.starts, self.before, self.after = [0], [0], [0]  # of each piece: in `text`; where it began, and ended
        at = size = 0
        for match in _FOLDED.finditer(text):
            plain = _PLAIN.get(match[0], _PLAIN.get(match[0].upper(), " " if "(" in match[0] else ""))
            pieces += [text[at : match.start()], plain]
            size += match.start() - at + len(plain)
            at = match.end()
            if len(plain) == 1 and match.end() - match.start() == 1:
                continue
            self.starts += [size - len(plain), size] if plain else [size]
            self.before += [match.start(), at] if plain else [at]
            self.after += [match.start(), at] if plain else [at]
        pieces.append(text[at:])
        self.text = "".join(pieces)

    def original(self, spans: Iterable[Finding]) -> list[Finding]:
        """The spans in the text as it was."""
        return [(self._at(start), self._at(end - 1, last=True), kind) for start, end, kind in spans]

    def _at(self, position: int, *, last: bool = False) -> int:
        """Where a character began; or, `last`, ended."""
        piece = bisect_right(self.starts, position) - 1
        if not last:
            return self.before[piece] + position - self.starts[piece]
        is_replaced = piece + 1 < len(self.starts) and self.starts[piece + 1] - self.starts[piece] == 1
        if is_replaced:
            return self.before[piece + 1]
        return self.before[piece] + position - self.starts[piece] + 1


def _besides(text: str, kinds: Collection[str]) -> Iterable[Finding]:
    if "email" in kinds:
        yield from _addresses(text)
    if "phone" in kinds:
        for match in _EXIT_CODE.finditer(text):
            number = Texts.from_strings([f"+{text[match.end() : match.end() + _MOST_OF_A_NUMBER]}"])
            found = find(number, ("phone",))
            if len(found) and found.start[0] == 0:
                yield match.start(), match.end() + int(found.end[0]) - 1, PHONE
    if "iban" in kinds:
        for match in _LOWER_OR_HYPHENS.finditer(text):
            yield from _iban(text, match)
    if "ip" in kinds:
        for match in _ADDRESS.finditer(text):
            try:
                address = ipaddress.ip_address(match[0].rstrip(":"))
            except ValueError:
                continue
            is_version = _IS_VERSION.search(text[max(0, match.start() - 24) : match.start()])
            if any(address in network for network in _PRIVATE) and not is_version:
                yield match.start(), match.start() + len(match[0].rstrip(":")), IP


def _iban(text: str, candidate: re.Match[str]) -> Iterable[Finding]:
    """The IBAN at the beginning of letters, digits, spaces and hyphens."""
    places = [place for place in range(*candidate.span()) if text[place].isalnum()]
    number = "".join(text[place] for place in places).upper()
    size = int(IBAN_LENGTHS[26 * (ord(number[0]) - ord("A")) + ord(number[1]) - ord("A")])
    if 0 < size <= len(number) and len(find(Texts.from_strings([number[:size]]), ("iban",))):
        end = places[size - 1] + 1
        if not text[end : end + 1].isalnum():
            yield candidate.start(), end, IBAN


def _addresses(text: str) -> Iterable[Finding]:
    """E-mail addresses with other letters than ASCII, or an apostrophe."""
    at = text.find("@")
    while at >= 0:
        before = text[max(0, at - _MOST_BEFORE) : at]
        local, domain = _LOCAL_PART.search(before) or _ANY_LETTERS.search(before), _DOMAIN.match(text, at + 1)
        if local and domain:
            start, end = at - len(local[0]), domain.end()
            is_url = text[max(0, start - 2) : start] == "//"
            is_path = text[end : end + 1] == "(" or re.match(r":\S", text[end : end + 2])
            unusual = not text[start:end].isascii() or "'" in local[0]
            if unusual and not is_url and not is_path:
                yield start, end, EMAIL
        at = text.find("@", at + 1)


def _longest(spans: list[Finding]) -> list[Finding]:
    """The findings without overlap, in order: of those that overlap the longest, the first of equals."""
    kept: list[Finding] = []
    for span in sorted(spans, key=lambda one: (one[0] - one[1], one[0])):
        at = bisect_left(kept, span)
        if all(span[1] <= start or end <= span[0] for start, end, _ in kept[max(0, at - 1) : at + 1]):
            kept.insert(at, span)
    return kept


def _without_delimiters(text: str, spans: Iterable[Finding]) -> list[Finding]:
    found = []
    for start, end, kind in spans:
        encoded = _ENCODED.match(text[start:end].rpartition("@")[0]) if kind == EMAIL else None
        found.append((start + (encoded.end() if encoded else 0), end, kind))
    return found


def _characters(data: bytes, spans: Iterable[Finding]) -> list[Finding]:
    """Spans in characters. spans: in bytes, in order."""
    found, at, before = [], 0, 0
    for start, end, kind in spans:
        first = before + len(data[at:start].decode())
        before, at = first + len(data[start:end].decode()), end
        found.append((first, before, kind))
    return found


def _bytes(text: str, spans: Iterable[Finding]) -> list[Finding]:
    """Spans in bytes. spans: in characters, in order."""
    found, at, before = [], 0, 0
    for start, end, kind in spans:
        first = before + len(text[at:start].encode())
        before, at = first + len(text[start:end].encode()), end
        found.append((first, before, kind))
    return found
