"""The new text of an e-mail: without quoted replies, signature and disclaimer.

Texts have line ends of one character. Blank lines in a row become one, and none is left at the ends.
Source: RFC 3676, section 4.3 (signatures) and 4.5 (quotes); the words are those of the usual mail programs in English,
German, French, Spanish, Italian and Dutch.
"""

import re

SIGNATURE = re.compile(r"--[ ]?")  # the line before a signature

_WROTE = r"(?:wrote|writes|schrieb|a écrit|escribió|ha scritto|schreef)"
_ATTRIBUTION = re.compile(rf"(?:On|Am|Le|El|Il|Op)\b.{{1,300}}\b{_WROTE}\b[^:]{{0,100}}:")
_SHORT_ATTRIBUTION = re.compile(rf".{{0,100}}[@0-9<].{{0,100}}\b{_WROTE}:")
_ATTRIBUTION_LINES = 3
_ORIGINAL = re.compile(r"-{2,} ?(?:Original Message|Forwarded message|Ursprüngliche Nachricht) ?-{2,}", re.IGNORECASE)
_FORWARDED = re.compile(r"\*?(?:From|Von|De|Da):\*? ")
_FORWARDED_NEXT = re.compile(r"\*?(?:Sent|Date|To|Gesendet|Datum|An|Envoyé|À):\*? ")
_BLANK_LINES = re.compile(r"\n{3,}")

_CLOSING = re.compile(
    r"(?:(?:kind|best|warm|warmest|many)? ?regards|best wishes|(?:yours )?(?:sincerely|faithfully|truly)"
    r"|sincerely yours|cheers|thanks|many thanks|thank you|all the best|best"
    r"|(?:mit )?(?:freundlichen|freundliche|beste|viele|liebe|herzliche) gr(?:ü|ue)(?:ß|ss)en?|mfg"
    r"|cordialement|bien à vous|saludos(?: cordiales)?|un saludo|cordiali saluti|met vriendelijke groet(?:en)?)[ ,.!]*",
    re.IGNORECASE,
)
_SENT_FROM = re.compile(
    r"(?:sent from my|get outlook for|von meinem \w+ gesendet|envoyé de mon) ?.{0,40}", re.IGNORECASE
)
_SIGNATURE_LINES = 8
_SIGNATURE_CHARS = 80  # of a line

_DISCLAIMER = re.compile(
    r"intended (?:solely |only )?for the (?:use of the )?(?:named |above )?(?:addressee|recipient|individual)"
    r"|(?:not|are not) the (?:intended|named) (?:recipient|addressee)"
    r"|received this (?:e-?mail|message|communication|transmission) in error"
    r"|(?:e-?mail|message|communication)[^.]{0,60} (?:is|are|may be|may contain)[^.]{0,60}\b(?:confidential|privileged)"
    r"|(?:consider|think of) the environment before printing"
    r"|(?:this e-?mail|this message) has been (?:scanned|checked) (?:for|by)"
    r"|diese (?:e-?mail|nachricht) enthält vertrauliche|nicht der (?:richtige|beabsichtigte) (?:adressat|empfänger)"
    r"|ce (?:message|courriel)[^.]{0,60} confidentiel|este (?:mensaje|correo)[^.]{0,60} confidencial",
    re.IGNORECASE,
)


def new_text(text: str) -> str:
    """The text without quoted lines, what announces them, forwarded headers with what follows, and signature.

    The signature is what follows a line `-- `.
    """
    found = text.split("\n")
    end = next((at for at, line in enumerate(found) if SIGNATURE.fullmatch(line)), len(found))
    return without_quotes("\n".join(found[:end]))


def without_quotes(text: str) -> str:
    """The text without lines that begin with >, what announces them, and forwarded headers with what follows."""
    kept: list[str] = []
    found = text.split("\n")
    at = 0
    while at < len(found):
        line = found[at].strip()
        follows = found[at + 1].strip() if at + 1 < len(found) else ""
        if _ORIGINAL.fullmatch(line) or (_FORWARDED.match(line) and _FORWARDED_NEXT.match(follows)):
            break
        if line.startswith(">"):
            at += 1
        elif size := _attribution(found[at : at + _ATTRIBUTION_LINES]):
            at += size
        else:
            kept.append(found[at].rstrip())
            at += 1
    return _tidy(kept)


def without_signature(text: str) -> str:
    """The text without what follows a line `--`, or a closing phrase at the end.

    A closing phrase such as `Kind regards` is a line of its own, and at most eight short lines follow it, none of which
    ends like a sentence.
    """
    found = text.rstrip().split("\n")
    end = next((at for at, line in enumerate(found) if SIGNATURE.fullmatch(line)), len(found))
    while end and (not found[end - 1].strip() or _SENT_FROM.fullmatch(found[end - 1].strip())):
        end -= 1
    for at in range(max(end - _SIGNATURE_LINES - 1, 1), end):
        follows = (line.strip() for line in found[at + 1 : end])
        if _CLOSING.fullmatch(found[at].strip()) and all(map(_is_of_signature, follows)):
            end = at
            break
    return _tidy(found[:end])


def _is_of_signature(line: str) -> bool:
    return len(line) <= _SIGNATURE_CHARS and not line.endswith((".", "?", "!", ":"))


def without_disclaimers(text: str) -> str:
    """The text without paragraphs that say what a reader may not do with the message."""
    kept = [paragraph for paragraph in re.split(r"\n[ \t]*\n", text) if not _DISCLAIMER.search(paragraph)]
    return _tidy("\n\n".join(kept).split("\n"))


def _tidy(found: list[str]) -> str:
    return _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in found)).strip()


def _attribution(found: list[str]) -> int:
    """How many of the lines announce a quote, as `On Monday Ann wrote:` does; 0 if they do not."""
    for size in range(1, len(found) + 1):
        if not found[size - 1].strip():
            return 0
        if found[size - 1].strip().endswith(":"):
            # A later line that begins like one is the beginning.
            starts = [start for start in range(size) if _ATTRIBUTION.fullmatch(_joined(found[start:size]))]
            is_one = starts[-1] == 0 if starts else size == 1 and _SHORT_ATTRIBUTION.fullmatch(found[0].strip())
            return size if is_one else 0
    return 0


def _joined(found: list[str]) -> str:
    return " ".join(line.strip() for line in found)
