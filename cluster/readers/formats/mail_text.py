"""The new text of an e-mail: without quoted replies, signature and disclaimer. What is taken out is returned, too.

Texts have line ends of one character. Blank lines in a row become one, and none is left at the ends.
Source: RFC 3676, section 4.3 (signatures) and 4.5 (quotes); the words are those of the usual mail programs, see
mail_words.py.
"""

import re
from dataclasses import dataclass, field
from itertools import islice, takewhile

import raymill.cluster.readers.formats.mail_words as words
from raymill.cluster.readers.inputs import Cut

SIGNATURE = re.compile(r"--[ ]?")  # the line before a signature

_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")  # marks around right-to-left text
_COLON = "[:：]"
# A colon between two digits is a time of day.
_END = rf"(?:[^:：]|(?<=[0-9]):(?=[0-9])|:(?=[ ][0-9])){{0,150}}{_COLON}"
_ATTRIBUTION = re.compile(rf"{words.OPENING}(?!\w).{{1,300}}{words.WROTE}{_END}")
_SHORT_ATTRIBUTION = re.compile(rf".{{0,250}}{words.WROTE}{_END}")
_SAID = re.compile(rf".{{1,250}}{words.SAID}[ ]?{_COLON}", re.IGNORECASE)
_OF_AN_ADDRESS = re.compile(r"[^\s<>()@]@[^\s<>()@]")
_TIME_OR_YEAR = re.compile(r"\d{1,2}[:.]\d{2}|\d{4}")
_TIME_AND_YEAR = re.compile(r"\A(?=.*\d{4})(?=.*\d{1,2}[:.]\d{2})")
_ATTRIBUTION_LINES = 3

_BETWEEN_RULES = re.compile(r"[-_=*]{2,}+\s*+([^\s\-_=*].{2,100}?)\s*+[-_=*]{2,}")
_RULE = re.compile(r"[-_=]{5,}")
_LABELS = {
    label: name
    for name, labels in (
        ("from", words.FROM), ("sent", words.SENT), ("to", words.TO), ("subject", words.SUBJECT), ("cc", words.CC)
    )
    for label in labels
}  # fmt: skip
_HEADER_LINES = 100
_TAG_OF_A_LIST = re.compile(r"(?:\[[^\[\]]*+\]\s*+)++")
_COUNT = re.compile(r"(?<!\s)\s*+(?:\[\d+\]|\(\d+\))$")
_BLANK_LINES = re.compile(r"\n{3,}")
_DEEPEST = 20  # mails forwarded within each other; a deeper one is a quote

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
_RULE_OF_FOOTER = re.compile("[-_=*#]{20,}")
_FOOTER = re.compile(r"mailing[ -]?list|unsubscribe|/listinfo/|/mailman", re.IGNORECASE)
_LINK_OR_ADDRESS = re.compile(r"https?://|\S@\S")
_FOOTER_LINES = 10
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


@dataclass
class MailText:
    """What a mail says.

    new: the text of its sender. forwarded: the texts of the mails that it forwards, the outermost first. cut: what was
    taken out, in order.
    """

    new: str = ""
    forwarded: list[str] = field(default_factory=list)
    cut: list[Cut] = field(default_factory=list)


def read_mail(text: str, subject: str = "") -> MailText:
    """The text of a mail in its parts.

    A signature is what follows a line `-- ` or a rule above the footer of a mailing list, up to a quoted or forwarded
    mail. A mail below headers alone is forwarded if the subject begins with `Fwd:` or the like, else quoted.
    """
    return _read(text.split("\n"), subject, signatures=True)


def without_quotes(text: str) -> tuple[str, list[Cut]]:
    """The text without lines that begin with >, what announces them, and quoted mails below headers; what was cut.

    Of forwarded mails the header lines go.
    """
    found = _read(text.split("\n"), "", signatures=False)
    return "\n\n".join(filter(None, [found.new, *found.forwarded])), found.cut


@dataclass
class _Block:
    """Header lines above a quoted or forwarded mail, from one line to before another."""

    end: int
    marker: str  # original, forwarded, or empty: headers alone
    is_nordic: bool = False
    subject: str = ""


def _read(lines: list[str], subject: str, *, signatures: bool, depth: int = 0) -> MailText:
    found, kept = MailText(), list[str]()
    has_marks = _DIRECTION.search("\n".join(lines)) is not None
    plain = [(_DIRECTION.sub("", line) if has_marks else line).strip() for line in lines]
    quote, at = list[str](), 0

    def close_quote() -> None:
        if text := _tidy(quote):
            found.cut.append(("quote", text))
        quote.clear()

    def forward(block: _Block, header: list[str], below: list[str]) -> None:
        close_quote()
        found.cut.append(("forwarded_header", _tidy(header)))
        inner = _read(below, block.subject, signatures=signatures, depth=depth + 1)
        found.forwarded += filter(None, [inner.new, *inner.forwarded])
        found.cut += inner.cut

    while at < len(lines):
        if block := _block(plain, at):
            if depth < _DEEPEST and _is_forwarded(block, subject):
                forward(block, lines[at : block.end], _unquoted(lines[block.end :]))
            else:
                quote += lines[at:]
            break
        if signatures and (SIGNATURE.fullmatch(lines[at]) or _begins_footer(plain, at)):
            others = (  # quoted and forwarded mails
                one
                for one in range(at + 1, len(lines))
                if plain[one].startswith(">") or _attribution(plain, one) or _block(plain, one) is not None
            )
            end = next(others, len(lines))
            close_quote()
            if text := _tidy(lines[at + 1 : end]):
                found.cut.append(("signature", text))
            at = end
        elif plain[at].startswith(">"):
            end = next((one for one in range(at, len(lines)) if not plain[one].startswith(">")), len(lines))
            inner = [_inner(line) for line in lines[at:end]]
            first = next((one for one, line in enumerate(inner) if line.strip()), 0)
            block = _block([_DIRECTION.sub("", line).strip() for line in inner], first)
            if block and block.marker == "forwarded" and depth < _DEEPEST:
                forward(block, inner[: block.end], inner[block.end :])
            else:
                quote += lines[at:end]
            at = end
        elif size := _attribution(plain, at):
            quote += lines[at : at + size]
            at += size
        else:
            if plain[at] and quote:
                close_quote()
            kept.append(lines[at])
            at += 1
    close_quote()
    found.new = _tidy(kept)
    return found


def _begins_footer(plain: list[str], at: int) -> bool:
    """Whether the footer of a mailing list begins here: a rule above the last lines, with an address and such words."""
    if not _RULE_OF_FOOTER.fullmatch(plain[at]):
        return False
    following = (plain[one] for one in range(at + 1, len(plain)) if plain[one])
    below = list(islice(takewhile(lambda line: not line.startswith(">"), following), _FOOTER_LINES + 1))
    footer = "\n".join(below)
    return len(below) <= _FOOTER_LINES and bool(_FOOTER.search(footer) and _LINK_OR_ADDRESS.search(footer))


def _inner(line: str) -> str:
    return _DIRECTION.sub("", line).lstrip().removeprefix(">").removeprefix(" ")


def _unquoted(lines: list[str]) -> list[str]:
    """The lines without their mark of a quote, if all have one; Apple Mail forwards texts like this."""
    return [_inner(line) for line in lines] if all(_inner(line) != line for line in lines if line.strip()) else lines


def _block(plain: list[str], at: int) -> _Block | None:
    """The header lines that begin here, with the line that announces them; None if there are none.

    Headers that nothing announces begin with the sender. The time follows, or there is a subject or an address, since
    `From: Berlin` and `To: Paris` are no mail.
    """
    if not (":" in plain[at] or "：" in plain[at] or plain[at].startswith(("-", "_", "=", "*"))):
        return None
    marker = _marker(plain[at])
    is_rule = not marker and bool(_RULE.fullmatch(plain[at]))
    start = at + 1 if marker or is_rule else at
    while (marker or is_rule) and start < min(len(plain), at + 3) and not _unmarked(plain[start]):
        start += 1
    end, kinds, values = start, list[str](), dict[str, str]()
    is_nordic = goes_on = False
    while end < min(len(plain), start + _HEADER_LINES) and (line := _unmarked(plain[end])):
        label, value = _label(line)
        kind = _LABELS.get(label, "")
        if not (kind or (goes_on and kinds)) or (kind == "from" and "from" in kinds):
            break
        if not marker and not kinds and kind != "from":
            break
        if kind:
            is_nordic |= label == words.NORDIC_FROM
            kinds.append(kind)
            values.setdefault(kind, value)
        goes_on = line.endswith((";", ","))  # a list of addresses
        end += 1
    if marker:
        return _Block(end, marker, is_nordic, values.get("subject", ""))
    if len(kinds) < 2 or not {*kinds[1:]} & {"sent", "to", "subject"}:
        return None
    is_mail = kinds[1] == "sent" or "subject" in kinds or _OF_AN_ADDRESS.search(values["from"])
    return _Block(end, "", is_nordic, values.get("subject", "")) if is_mail else None


def _marker(line: str) -> str:
    """`original` or `forwarded` of a line that announces a mail; else empty."""
    between = _BETWEEN_RULES.fullmatch(line)
    text = words.plain(between[1] if between else line.rstrip(":： ") if line.endswith((":", "：")) else "")
    for name, found in (("original", words.ORIGINAL), ("forwarded", words.FORWARDED)):
        if text in found or (between and text.startswith(_FOLLOWED[name])):
            return name
    return ""


_FOLLOWED = {"original": tuple(words.ORIGINAL), "forwarded": tuple(words.FORWARDED)}  # by a name or a time


def _label(line: str) -> tuple[str, str]:
    """(the word before the first colon, as of `words.plain`; what follows), both empty without one."""
    at = min((one for one in (line.find(":"), line.find("：")) if one >= 0), default=-1)
    return (words.plain(line[:at].strip(" *_")), line[at + 1 :].strip(" *_")) if at > 0 else ("", "")


def _unmarked(line: str) -> str:
    """A line of headers without the mark of a quote."""
    return line.removeprefix(">").strip()


def _is_forwarded(block: _Block, subject: str) -> bool:
    if block.marker == "forwarded":
        return True
    prefix = _COUNT.sub("", _label(_TAG_OF_A_LIST.sub("", _DIRECTION.sub("", subject).strip()))[0])
    return prefix in words.FORWARD_PREFIX or (block.is_nordic and prefix == words.NORDIC_FORWARD_PREFIX)


def without_signature(text: str) -> tuple[str, list[Cut]]:
    """The text without what follows a line `--`, the footer of a mailing list, and a closing phrase at the end; these.

    A closing phrase such as `Kind regards` is a line of its own, and at most eight short lines follow it, none of which
    ends like a sentence.
    """
    found = text.rstrip().split("\n")
    plain = [line.strip() for line in found]
    ends = (at for at, line in enumerate(found) if SIGNATURE.fullmatch(line) or _begins_footer(plain, at))
    end = next(ends, len(found))
    while end and (not plain[end - 1] or _SENT_FROM.fullmatch(plain[end - 1])):
        end -= 1
    for at in range(max(end - _SIGNATURE_LINES - 1, 1), end):
        below = plain[at + 1 : end]
        is_short = all(len(line) <= _SIGNATURE_CHARS and not line.endswith((".", "?", "!", ":")) for line in below)
        if is_short and _CLOSING.fullmatch(plain[at]):
            end = at
            break
    signature = _tidy(found[end:])
    return _tidy(found[:end]), [("signature", signature)] if signature else []


def without_disclaimers(text: str) -> tuple[str, list[Cut]]:
    """The text without paragraphs that say what a reader may not do with the message; these."""
    paragraphs = re.split(r"\n[ \t]*\n", text)
    kept = [one for one in paragraphs if not _DISCLAIMER.search(one)]
    cut = [("disclaimer", one.strip()) for one in paragraphs if _DISCLAIMER.search(one)]
    return _tidy("\n\n".join(kept).split("\n")), cut


def _tidy(found: list[str]) -> str:
    return _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in found)).strip()


def _attribution(plain: list[str], at: int) -> int:
    """How many of the lines from here announce a quote, as `On Monday Ann wrote:` does; 0 if they do not."""
    found = plain[at : at + _ATTRIBUTION_LINES]
    if not any(line.endswith((":", "：")) for line in found):
        return 0
    for size, line in enumerate(found, 1):
        if not line:
            return 0
        if line.endswith((":", "：")):
            # A later line that begins like one is the beginning.
            starts = [start for start in range(size) if _ATTRIBUTION.fullmatch(" ".join(found[start:size]))]
            if starts:
                return size if starts[-1] == 0 else 0
            follows = next((one for one in plain[at + size : at + size + 2] if one), "")
            starts = [start for start in range(size) if _announces(found[start:size], follows)]
            return size if starts and starts[-1] == 0 else 0
    return 0


def _announces(lines: list[str], follows: str) -> bool:
    """Whether lines that begin with no known word announce a quote. follows: the next line with text."""
    joined = " ".join(lines)
    has_verb, has_address = bool(_SHORT_ATTRIBUTION.fullmatch(joined)), bool(_OF_AN_ADDRESS.search(joined))
    is_quoted = follows.startswith(">")
    if len(lines) == 1 and is_quoted and (has_verb or _SAID.fullmatch(joined)):
        return True
    time = _TIME_OR_YEAR if len(lines) == 1 else _TIME_AND_YEAR
    if has_verb and (has_address or time.search(joined)):
        return True
    # Gmail has no verb in Russian and Japanese, and Horde begins with it: `Quoting Ann <ann@example.org>:`.
    return has_address and is_quoted
