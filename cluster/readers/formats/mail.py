"""E-mail: the threads of an mbox file, or the only message of an .eml file, as questions and answers.

A thread is the messages that refer to each other by Message-ID, In-Reply-To and References, by date. Of each message
its new text is read: without quoted lines, the lines that announce them, and signature (mail_text.py). Of forwarded
mails, in the text or attached, the text stays, unless an earlier message of the thread has it. Automatic replies are no
turns. Plain text is preferred to HTML, unless it is blank; attachments are
left out. Columns that can be the text, carried or the id:

    subject     of the first message
    prompt      what its sender wrote, before another person did
    completion  what the next person wrote; null if nobody answered
    messages    the whole thread as JSON, the first sender as user and all others as assistant
    date        of the first message, ISO 8601
    thread      its Message-ID

Another text than these is the subject and the texts of all messages. The parents of a document that was joined of
several messages are the Message-IDs of these.

Speed: 3,000 messages of 1 kB a second on one core. Memory: 128 MB of new texts; a file with more is read in parts, and
a thread is not joined across them.
Source: RFC 4155 (mbox), RFC 5322, section 3.6.4 (threads), RFC 3676 (flowed text, signatures), RFC 3834 (automatic
replies); Content-Length and mboxrd: https://doc.dovecot.org/main/core/config/mailbox/formats/mbox.html.
"""

import email
import json
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import Header, decode_header, make_header
from email.message import Message
from email.utils import parseaddr, parsedate_to_datetime, unquote
from itertools import chain, groupby, pairwise
from typing import NamedTuple, cast

import pyarrow as pa
from lxml.etree import ParserError
from lxml.html import HTMLParser, document_fromstring

from raymill.cluster.guard import Exceeded, Failed, Guard, WorkBounds
from raymill.cluster.readers.formats.html_bounds import has_huge_tag
from raymill.cluster.readers.formats.mail_text import SIGNATURE, read_mail
from raymill.cluster.readers.formats.mail_words import AUTOMATIC_SUBJECT, plain
from raymill.cluster.readers.inputs import Cut, Input, Limits
from raymill.cluster.readers.reader import CONTENT_CHARACTERS, Reader, ReaderCounts, Rows, refused
from raymill.cluster.readers.streams import LINE_WORK, RecordWork, Span, UnreadableRest, in_charset, lines, stream
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

# Names of charsets in mails that Python has under another one, or whose bytes are those of a wider one.
_CHARSETS = {
    "x-mac-roman": "mac_roman", "macintosh": "mac_roman", "x-mac-cyrillic": "mac_cyrillic", "x-sjis": "cp932",
    "shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949", "windows-874": "cp874", "iso-8859-8-i": "iso-8859-8", "x-big5": "big5hkscs",
    "unicode-1-1-utf-7": "utf-7", "iso-8859-1": "windows-1252", "us-ascii": "utf-8",
}  # fmt: skip
_COLUMNS = ("subject", "prompt", "completion", "messages", "date", "thread")
_TEXT_TYPES = ("text/plain", "text/html")
# Characters of a thread among which its forwarded texts are looked for: a second. Later ones count as new.
_MOST_SEARCHED = 500_000_000
_BYTES_PER_TEXT = 4  # a message with its attachments to a document
_MAX_HELD_BYTES = 192 << 20
_MESSAGE_WORK = 4000  # bytes of text that take as long as a message of a line, 300 microseconds (see RecordWork)
_MESSAGE_BYTES = 500  # of the objects of a message, besides its texts
_PARSED_BYTES, _PARSED_MESSAGES = 1 << 20, 256  # in one request to the child process

_MESSAGE_ID = re.compile(r"<[^<>\s]+>")
_ESCAPED_FROM = re.compile(rb">+From ")
_DAY, _MONTH = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_CLOCK, _ZONE = rb"\d{1,2}:\d\d(?::\d\d)?", rb"(?: +[A-Z]{1,5}| +[+-]\d{4})?"
_SEPARATOR = re.compile(
    rb"From (?:\S+ +){0,6}(?:"
    + _DAY + rb" +" + _MONTH + rb" +\d{1,2} +" + _CLOCK + _ZONE + rb" +\d{4}" + _ZONE
    + rb"|(?:" + _DAY + rb", *)?\d{1,2} +" + _MONTH + rb" +\d{4} +" + _CLOCK + _ZONE
    + rb")(?: +remote from .*)?\s*"
)  # fmt: skip
# What `git format-patch` writes above each patch. In a mail it is above one that is attached or pasted.
_PATCH_SEPARATOR = re.compile(rb"From [0-9a-f]{40,64} Mon Sep 17 00:00:00 2001\s*")
_AFTER_SEPARATOR = re.compile(rb"[!-9;-~]+[ \t]*:|>From ")  # a header
_CONTENT_LENGTH = re.compile(rb"content-length:\s*(\d{1,12})\s*", re.IGNORECASE)
_LOOKED_AHEAD = 1000  # separators within a message by its Content-Length
_MOST_WRONG_LENGTHS = 1000  # of a file, which are looked for in vain; later ones are not read

_NEEDS_HTML = re.compile(r"\bhtml\b", re.IGNORECASE)
_NOTICE = 200  # most characters of a text that only refers to the HTML part
_BLOCKS = ("p", "div", "tr", "li", "ul", "ol", "table", "h1", "h2", "h3", "h4", "blockquote", "pre")
_QUOTE_BEGINS, _QUOTE_ENDS, _BLOCK_ENDS = "\ue00e", "\ue00f", "\ue01f"  # private characters, which XML allows
_AT_BLOCK_ENDS = re.compile(f"(?<![ \t\r\n])[ \t\r\n]*+{_BLOCK_ENDS}(?:[ \t]*+{_BLOCK_ENDS})*+")


@dataclass
class _Message:
    """A message.

    Attributes:
        id: Message-ID, else its number.
        references: Message-IDs of the messages that it answers.
        sender: address in lower case.
        text: the sender's own text.
        forwarded: texts of others that it forwards.
        cut: text that was left out of it.
        is_automatic: whether no person wrote it.
    """

    id: str
    references: list[str]
    sender: str
    subject: str
    date: datetime | None
    text: str
    forwarded: list[str] = field(default_factory=list)
    cut: list[Cut] = field(default_factory=list)
    is_automatic: bool = False

    @property
    def held(self) -> int:
        """Approximate memory, in bytes of text that is ASCII."""
        texts = (self.id, *self.references, self.sender, self.subject, self.text, *self.forwarded)
        return _MESSAGE_BYTES + sum(map(len, texts)) + sum(len(text) for _, text in self.cut)


class Mail(Reader):
    """A document for each thread of a file."""

    endings = (".mbox", ".eml")
    columns = "fixed"
    own_id = "thread"
    extracts = True

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """The columns in the module's docstring."""
        return _COLUMNS

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """The threads in the order of their first messages, after the messages that cannot be read."""
        rows = Rows(input, limits, counts)
        messages: dict[str, _Message] = {}
        held = number = 0
        try:
            work = RecordWork()
            with closing(stream(store, span.uri, limits, work=work)) as blocks:
                found = _messages(blocks, _BYTES_PER_TEXT * limits.max_document_bytes, work)
                for where, raw, message in _all_parsed(found, span.uri, limits):
                    number += 1
                    if rows.full:
                        yield rows.table()
                    if message is None:
                        rows.refuse("too_large", where, content=raw)
                        continue
                    if isinstance(message, Failed):
                        # The parser raises many kinds of exceptions, and one message must not stop the run.
                        error = message.error
                        problem = refused(error, "bad_message") if isinstance(error, Exceeded) else "bad_message"
                        seen = error.seen if isinstance(error, Exceeded) else type(error).__name__
                        rows.refuse(problem, f"{where} ({seen})", content=raw)
                        continue
                    if not input.origins:
                        message.cut.clear()
                    if (first := messages.get(message.id)) is not None:
                        rows.skip("message with a repeated Message-ID")
                        if message.text != first.text and input.origins:
                            first.cut.append(("repeated_message", message.text))
                            held += len(message.text)
                    else:
                        messages[message.id] = message
                        held += message.held
                    if held > _MAX_HELD_BYTES:
                        yield from _tables(rows, messages, span.uri, input)
                        messages, held = {}, 0
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after message {number}")
        yield from _tables(rows, messages, span.uri, input)


def _tables(rows: Rows, messages: dict[str, _Message], uri: str, input: Input) -> Iterator[pa.Table]:
    for thread in _threads(messages):
        _add(rows, thread, uri, input)
        if rows.full:
            yield rows.table()
    if len(rows):
        yield rows.table()


def _add(rows: Rows, thread: list[_Message], uri: str, input: Input) -> None:
    written = [message for message in thread if not message.is_automatic]
    for _ in range(len(thread) - len(written)):
        rows.skip("automatic reply")
    first = (written or thread)[0]
    texts, cut = _texts(thread)
    with_text = [(message, text) for message, text in zip(thread, texts, strict=True) if text]
    by_asker = [(message.sender == first.sender, text) for message, text in with_text]
    turns = [("\n\n".join(text for _, text in group), asks) for asks, group in groupby(by_asker, lambda one: one[0])]
    questions = [text for text, asks in turns if asks]
    messages = [{"role": "user" if asks else "assistant", "content": text} for text, asks in turns]
    values = {
        "subject": first.subject or None,
        "prompt": questions[0] if questions else None,
        "completion": next((text for text, asks in turns if not asks), None),
        "messages": json.dumps(messages, ensure_ascii=False),
        "date": first.date.isoformat() if first.date else None,
        "thread": first.id if first.id.startswith("<") else None,
    }
    where = f"{uri} thread {first.id}"
    id = values.get(input.id, values["thread"]) if input.id else None
    carried = [values.get(name) for name in input.columns]
    whole = "\n\n".join(filter(None, [first.subject, *(text for text, _ in turns)]))
    text = values.get(input.text, whole)
    if not turns:
        content = "\n\n".join(filter(None, [first.subject, *(text for _, text in cut)])) if cut else None
        rows.refuse("no_new_text" if written else "automatic_message", where, id, carried, content)
    elif text is None:
        rows.refuse("null_text", where, id, carried)
    else:
        ids = [one.id if one.id.startswith("<") else f"{uri} message {one.id}" for one, _ in with_text]
        rows.add(text, where, id, carried, parents=ids if len(ids) > 1 else (), cut=cut)


def _texts(thread: list[_Message]) -> tuple[list[str], list[Cut]]:
    """(the text of each message, empty of an automatic one; what was taken out of all).

    A forwarded text that the thread has already is left out.
    """
    texts, cut, before, searched = list[str](), list[Cut](), "", 0
    forwards = any(one.forwarded for one in thread)
    for message in thread:
        kept = [message.text]
        for forwarded in message.forwarded:
            searched += len(before)
            if not message.is_automatic and (searched > _MOST_SEARCHED or _letters(forwarded) not in before):
                kept.append(forwarded)
            elif not message.is_automatic:
                cut.append(("forwarded_again", forwarded))
        text = "\n\n".join(filter(None, kept))
        texts.append("" if message.is_automatic else text)
        cut += [*message.cut, *([("automatic_reply", text)] if message.is_automatic and text else [])]
        if forwards and not message.is_automatic:
            before += f"{_letters(text)} "
    return texts, cut


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


# ---- a file to messages ----


class _RawMessage(NamedTuple):
    """The bytes of a message; its beginning, and is_whole false, if it is over the bound."""

    content: bytes
    is_whole: bool


@dataclass
class _Piece:
    """The lines after a line that separates messages of an mbox file, up to the next one.

    Attributes:
        separator: the line before the piece; None before the first.
        held: lines of the piece; of one over the bound, the lines within it.
        held_bytes: bytes of these.
        bytes: size of all lines.
        body: size of the lines after the header.
    """

    separator: bytes | None
    held: list[bytes] = field(default_factory=list)
    bytes: int = 0
    body: int = 0
    is_whole: bool = True
    content_length: int | None = None
    held_bytes: int = 0


def _messages(blocks: Iterable[bytes], max_bytes: int, work: RecordWork) -> Iterator[_RawMessage]:
    """Each message. A file that does not begin with `From ` is one message.

    A line that separates messages is between a blank line and a header, and ends with a date if the first one of the
    file does. Within the Content-Length of a message there is none, if the message ends there. Patches of git are
    messages if the file begins with one.

    work: receives what messages and lines count in the ratio of expansion.
    """
    pieces = _pieces(blocks, max_bytes, work)
    ahead = deque[_Piece]()
    wrong_lengths = 0
    while (piece := ahead.popleft() if ahead else next(pieces, None)) is not None:
        if piece.content_length is not None and wrong_lengths < _MOST_WRONG_LENGTHS:
            whole = _whole(piece, ahead, pieces, max_bytes)
            wrong_lengths += whole is piece and piece.body < piece.content_length - 1
            piece = whole
        is_mbox = piece.separator is not None
        found = (line[1:] if is_mbox and _ESCAPED_FROM.match(line) else line for line in piece.held)
        yield _RawMessage(b"\n".join(found), piece.is_whole)


def _whole(piece: _Piece, ahead: deque[_Piece], pieces: Iterator[_Piece], max_bytes: int) -> _Piece:
    """The message with the next pieces that are within its Content-Length; alone, if no piece ends there."""
    wanted, joined, size = piece.content_length or 0, [piece], piece.body
    while size < wanted - 1 and size <= max_bytes and len(joined) < _LOOKED_AHEAD:
        following = ahead.popleft() if ahead else next(pieces, None)
        if following is None:
            break
        joined.append(following)
        size += len(following.separator or b"") + 1 + following.bytes
    if len(joined) == 1:
        return piece
    if not wanted - 1 <= size <= wanted + 2:  # a blank line may follow that does not count
        ahead.extendleft(reversed(joined[1:]))
        return piece
    held = [*piece.held]
    for one in joined[1:]:
        held += [one.separator or b"", *one.held]
    is_whole = all(one.is_whole for one in joined) and size <= max_bytes
    return _Piece(piece.separator, held, size, size, is_whole)


def _divides(line: bytes, following: bytes, first: bytes) -> bool:
    """Whether a line after a blank one begins a message. first: the line with which the file begins."""
    if not line.startswith(b"From ") or not _AFTER_SEPARATOR.match(following):
        return False
    if _PATCH_SEPARATOR.fullmatch(line):
        return bool(_PATCH_SEPARATOR.fullmatch(first))
    return not _SEPARATOR.fullmatch(first) or bool(_SEPARATOR.fullmatch(line))


def _pieces(blocks: Iterable[bytes], max_bytes: int, work: RecordWork) -> Iterator[_Piece]:
    piece: _Piece | None = None
    first: bytes | None = None  # the line with which an mbox file begins
    after_blank = in_header = False
    for (_, line), (_, following) in pairwise(chain(lines(blocks, max_bytes), [(0, b"")])):
        work.bytes += LINE_WORK
        if piece is None and line is not None and not line.strip():
            continue
        if piece is None and line is not None and line.startswith(b"From "):
            first = line
        if first is not None and line and (piece is None or (after_blank and _divides(line, following or b"", first))):
            if piece is not None:
                yield piece
            piece, after_blank, in_header = _Piece(line), False, True
            work.bytes += _MESSAGE_WORK
            continue
        if piece is None:
            piece, in_header = _Piece(None), True
        after_blank = line is not None and not line.strip()
        size = max_bytes + 1 if line is None else len(line) + 1
        piece.bytes += size
        piece.body += 0 if in_header else size
        if in_header and line is not None and first and (length := _CONTENT_LENGTH.fullmatch(line)):
            piece.content_length = int(length[1])
        in_header &= not after_blank
        if line is None or piece.bytes > max_bytes:
            piece.is_whole = False
        if piece.is_whole or piece.held_bytes < CONTENT_CHARACTERS:
            piece.held.append(line or b"")
            piece.held_bytes += len(piece.held[-1]) + 1
    if piece is not None:
        yield piece


def _all_parsed(
    messages: Iterable[_RawMessage], uri: str, limits: Limits
) -> Iterator[tuple[str, bytes, _Message | Failed | None]]:
    """(place, content, message) of each message; None of one that is not whole.

    Raises:
        what the iterator of messages raises, after those before it.
    """
    held, size = list[tuple[int, _RawMessage]](), 0
    try:
        for number, raw in enumerate(messages, 1):
            held.append((number, raw))
            size += len(raw.content)
            if size >= _PARSED_BYTES or len(held) == _PARSED_MESSAGES:
                yield from _parsed_together(held, uri, limits)
                held, size = [], 0
    except UnreadableRest:
        yield from _parsed_together(held, uri, limits)
        raise
    yield from _parsed_together(held, uri, limits)


def _parsed_together(
    messages: Sequence[tuple[int, _RawMessage]], uri: str, limits: Limits
) -> Iterator[tuple[str, bytes, _Message | Failed | None]]:
    wanted, bounds, found = list[tuple[bytes, int]](), list[WorkBounds](), dict[int, _Message | Failed]()
    for number, raw in messages:
        try:
            if raw.is_whole:
                bounds.append(limits.of_parser(_place(uri, number), len(raw.content)))
                wanted.append((raw.content, number))
        except Exceeded as error:
            found[number] = Failed(error)
    found.update(zip((number for _, number in wanted), _parser.map(wanted, bounds), strict=True))
    for number, raw in messages:
        yield _place(uri, number), raw.content, found.get(number)


def _place(uri: str, number: int) -> str:
    return f"{uri} message {number}"


def _parsed(one: tuple[bytes, int]) -> _Message:
    """The message. one: its content, and the number that names it if it has no Message-ID.

    Raises:
        ValueError, or anything: it is no message.
    """
    raw, number = one
    message = email.message_from_bytes(raw)  # the newer policies take four times as long, and fail on damaged headers
    if not any(name in message for name in ("From", "Date", "Subject", "Message-ID")):
        raise ValueError("no header")
    ids = _MESSAGE_ID.findall(str(message.get("Message-ID", "")))
    found = _Message(
        ids[0] if ids else str(number),
        _MESSAGE_ID.findall(f"{message.get('References', '')} {message.get('In-Reply-To', '')}"),
        parseaddr(str(message.get("From", "")))[1].lower(),
        _subject(message),
        _date(str(message.get("Date", ""))),
        "",
        is_automatic=_is_automatic(message),
    )
    _read_into(found, message)
    return found


_parser = Guard(_parsed)


def _read_into(found: _Message, message: Message) -> None:
    """Add the texts of a message, and those of the mails attached to it."""
    body = read_mail(_body(message, found.cut), _subject(message))
    found.text = body.new
    found.forwarded += body.forwarded
    found.cut += body.cut
    for attached in _attached_mails(message):
        inner = _Message("", [], "", "", None, "")
        _read_into(inner, attached)
        found.forwarded += filter(None, [inner.text, *inner.forwarded])
        found.cut += inner.cut


def _subject(message: Message) -> str:
    return " ".join(_decoded(message.get("Subject", "")).split())


def _is_automatic(message: Message) -> bool:
    """Whether a program answered: by RFC 3834, and by what programs wrote before it."""
    submitted = str(message.get("Auto-Submitted", "no")).split(";")[0].strip().lower()
    if submitted not in ("no", "") or any(name in message for name in ("X-Autoreply", "X-Autorespond")):
        return str(message.get("X-Autoreply", "yes")).strip().lower() != "no" or submitted not in ("no", "")
    if message.get_content_type() == "multipart/report":
        return True
    precedence = str(message.get("Precedence", "")).strip().lower()
    is_named = plain(_subject(message).replace("：", ":").partition(":")[0]) in AUTOMATIC_SUBJECT
    return precedence in ("auto_reply", "auto-reply") or (precedence in ("bulk", "junk") and is_named)


def _decoded(header: str | Header) -> str:
    """A header with its encoded words as text; as it is if they are damaged."""
    try:
        words = decode_header(header)
        for word, charset in words:
            if charset and isinstance(word, bytes):
                in_charset(b"", charset)  # make_header knows all codecs of Python
        return str(make_header(words))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        return str(header)


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _body(message: Message, cut: list[Cut]) -> str:
    """The text that a mail program shows; empty without one. Adds the names of attachments to `cut`."""
    if message.get_content_maintype() == "multipart" and message.is_multipart():
        parts = cast("list[Message]", message.get_payload())
        if message.get_content_type() == "multipart/alternative":
            parts = sorted(parts, key=lambda part: part.get_content_type() != "text/plain")
            texts = [text for part in parts if _has_characters(text := _body(part, cut))]
            # A plain text that only refers to the HTML part is no text of the sender.
            return (
                next((text for text in texts if not _NEEDS_HTML.search(text) or len(text) > _NOTICE), texts[-1])
                if texts
                else ""
            )
        return "\n\n".join(text.strip("\n") for part in parts if _has_characters(text := _body(part, cut)))
    if message.get_content_disposition() == "attachment":
        if not message.is_multipart():
            name = _parameter(message, "filename", "content-disposition") or _parameter(message, "name", "content-type")
            cut.append(("attachment", f"{_decoded(name)} ({message.get_content_type()})"))
        return ""
    # A message whose end is missing may be of several parts without one.
    return _text(message) if message.get_content_type() in _TEXT_TYPES else ""


def _text(part: Message) -> str:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    text = _of_charset(content, (_parameter(part, "charset", "content-type") or "utf-8").lower())
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if part.get_content_type() == "text/html":
        return _text_of_html(text)
    return _unwrapped(text) if part.get_param("format") == "flowed" else text


def _parameter(part: Message, name: str, header: str) -> str:
    """A parameter of a header, decoded as RFC 2231 says; empty without one. `email` would take any codec for it."""
    value = part.get_param(name, "", header)
    if isinstance(value, tuple):
        return _of_charset(value[2].encode("raw_unicode_escape"), (value[0] or "us-ascii").lower())
    return unquote(str(value)).strip()


def _of_charset(content: bytes, charset: str) -> str:
    """The text of bytes. What is not of its charset, or of an unknown one, is UTF-8, else Windows-1252, as mail
    programs that state none or a wrong one write.
    """
    for name in (_CHARSETS.get(charset, charset), "utf-8", "windows-1252"):
        with suppress(LookupError, ValueError):  # ValueError of a name with a NUL
            return in_charset(content, name)
    return content.decode("utf-8", "replace")


def _has_characters(text: str) -> bool:
    """Whether a text has more than white space and characters without a form."""
    return any(not one.isspace() and unicodedata.category(one) != "Cf" for one in text)


def _attached_mails(message: Message) -> Iterator[Message]:
    if message.is_multipart() and message.get_content_type() != "multipart/report":
        for part in cast("list[Message]", message.get_payload()):
            if message.get_content_type() == "message/rfc822":
                yield part
            else:
                yield from _attached_mails(part)


def _text_of_html(html: str) -> str:
    """The text of a page in lines; those of quotes begin with >."""
    html = html.replace(_QUOTE_BEGINS, " ").replace(_QUOTE_ENDS, " ").replace(_BLOCK_ENDS, " ")
    if has_huge_tag(html.encode("utf-8", "replace")):
        raise ValueError("a tag has too many attributes")
    try:
        tree = document_fromstring(html.encode("utf-8", "replace"), HTMLParser(encoding="utf-8"))
    except ParserError:  # nothing but blanks or comments
        return ""
    for element in list(tree.iter("script", "style", "head")):
        if element.getparent() is not None:
            element.drop_tree()
    for element in tree.iter("br"):
        element.tail = "\n" + (element.tail or "")
    for element in tree.iter("td", "th"):
        element.tail = " " + (element.tail or "")
    for element in tree.iter(*_BLOCKS):
        is_quote = element.tag == "blockquote" or str(element.get("id", "")).startswith("yahoo_quoted")
        element.text = _BLOCK_ENDS + _QUOTE_BEGINS * is_quote + (element.text or "")
        element.tail = _QUOTE_ENDS * is_quote + _BLOCK_ENDS + (element.tail or "")
    shown, depth = list[str](), 0
    for line in _AT_BLOCK_ENDS.sub("\n", tree.text_content()).split("\n"):
        depth += line.count(_QUOTE_BEGINS)
        text = " ".join(line.replace(_QUOTE_BEGINS, "").replace(_QUOTE_ENDS, "").split())
        shown.append(f"{'>' * depth} {text}" if depth else text)
        depth -= line.count(_QUOTE_ENDS)
    return "\n".join(shown)


def _unwrapped(text: str) -> str:
    """Flowed text with each paragraph in one line."""
    joined: list[str] = []
    goes_on = False
    for line in text.split("\n"):
        unstuffed = line.removeprefix(" ")
        if goes_on and not unstuffed.startswith(">") and not SIGNATURE.fullmatch(unstuffed):
            joined[-1] += unstuffed
        else:
            joined.append(unstuffed)
        goes_on = unstuffed.endswith(" ") and not unstuffed.startswith(">") and unstuffed != "-- "
    return "\n".join(joined)


# ---- messages to threads ----


def _threads(messages: dict[str, _Message]) -> list[list[_Message]]:
    """The messages of each thread by date, or as in the file if one has none; threads in the order of the file."""
    parent: dict[str, str] = {}

    def root(id: str) -> str:
        while (above := parent.setdefault(id, id)) != id:
            parent[id] = parent[above]
            id = parent[id]
        return id

    for message in messages.values():
        for reference in message.references:
            parent[root(reference)] = root(message.id)
    threads: dict[str, list[_Message]] = {}
    for message in messages.values():
        threads.setdefault(root(message.id), []).append(message)
    found = []
    for thread in threads.values():
        dated = [(message.date, at) for at, message in enumerate(thread) if message.date]
        found.append([thread[at] for _, at in sorted(dated)] if len(dated) == len(thread) else thread)
    return found
