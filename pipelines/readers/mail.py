"""E-mail: the threads of an mbox file, or the only message of an .eml file, as questions and answers.

A thread is the messages that refer to each other by Message-ID, In-Reply-To and References, by date. Of
each message its new text is read: without quoted lines, the lines that announce them, forwarded headers, and
signature. Plain text is preferred to HTML; attachments are left out. Columns that can be the text, carried or the id:

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
Source: RFC 4155 (mbox), RFC 5322, section 3.6.4 (threads), RFC 3676 (flowed text, signatures).
"""

import email
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import Header, decode_header, make_header
from email.message import Message
from email.utils import parseaddr, parsedate_to_datetime
from itertools import groupby
from typing import NamedTuple, cast

import pyarrow as pa
from lxml.etree import ParserError
from lxml.html import HTMLParser, document_fromstring

from cluster.read.compression import UnreadableRest, stream
from cluster.read.limits import Limits
from cluster.read.lines import lines
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.reader import Reader, ReaderCounts, Rows
from pipelines.text.mail_text import SIGNATURE, new_text

_COLUMNS = ("subject", "prompt", "completion", "messages", "date", "thread")
_BYTES_PER_TEXT = 4  # a message with its attachments to a document
_MAX_HELD_CHARACTERS = 128 << 20

_MESSAGE_ID = re.compile(r"<[^<>\s]+>")
_ESCAPED_FROM = re.compile(rb">+From ")
_BLOCKS = ("br", "p", "div", "tr", "li", "h1", "h2", "h3", "h4")


class _Message(NamedTuple):
    """references: Message-IDs of the messages that it answers. sender: address in lower case."""

    id: str
    references: list[str]
    sender: str
    subject: str
    date: datetime | None
    text: str


class Mail(Reader):
    """A document for each thread of a file."""

    endings = (".mbox", ".eml")
    columns = "fixed"
    own_id = "thread"

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Those of the module's docstring."""
        return _COLUMNS

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """The threads in the order of their first messages, after the messages that cannot be read."""
        rows = Rows(input, limits, counts)
        messages: dict[str, _Message] = {}
        held = number = 0
        try:
            with closing(stream(store, span.uri, limits)) as blocks:
                for number, raw in enumerate(_messages(blocks, _BYTES_PER_TEXT * limits.max_document_bytes), 1):
                    where = f"{span.uri} message {number}"
                    if raw is None:
                        rows.refuse("too_large", where)
                        continue
                    try:
                        message = _parsed(raw, number)
                    except Exception as error:
                        # The parser raises many kinds of exceptions, and one message must not stop the run.
                        rows.refuse("bad_message", f"{where} ({type(error).__name__})", content=raw)
                        continue
                    if message.id in messages:
                        rows.skip("message with a repeated Message-ID")
                        continue
                    messages[message.id] = message
                    held += len(message.text)
                    if held > _MAX_HELD_CHARACTERS:
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
    first = thread[0]
    with_text = [message for message in thread if message.text]
    said = [(message.sender == first.sender, message.text) for message in with_text]
    turns = [("\n\n".join(text for _, text in group), asks) for asks, group in groupby(said, lambda one: one[0])]
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
        rows.refuse("no_new_text", where, id, carried)
    elif text is None:
        rows.refuse("null_text", where, id, carried)
    else:
        ids = [one.id if one.id.startswith("<") else f"{uri} message {one.id}" for one in with_text]
        rows.add(text, where, id, carried, parents=ids if len(ids) > 1 else ())


# ---- a file to messages ----


def _messages(blocks: Iterable[bytes], max_bytes: int) -> Iterator[bytes | None]:
    """Each message, None in place of one over `max_bytes`. A file that does not begin with `From ` is one message."""
    held: list[bytes] = []
    size = 0
    is_mbox = after_blank = False
    started = False
    for _, line in lines(blocks, max_bytes):
        if not started and line is not None and not line.strip():
            continue
        begins = (line or b"").startswith(b"From ") and (after_blank or not started)
        is_mbox |= begins and not started
        if begins and is_mbox:
            if started:
                yield b"\n".join(held) if size <= max_bytes else None
            held, size, started, after_blank = [], 0, True, False
            continue
        started = True
        after_blank = line is not None and not line.strip()
        size += max_bytes + 1 if line is None else len(line) + 1
        if line is None or size > max_bytes:
            held = []
        else:
            held.append(line[1:] if is_mbox and _ESCAPED_FROM.match(line) else line)
    if started:
        yield b"\n".join(held) if size <= max_bytes else None


def _parsed(raw: bytes, number: int) -> _Message:
    """The message. number: names it if it has no Message-ID.

    Raises:
        ValueError, or anything: it is no message.
    """
    message = email.message_from_bytes(raw)  # the newer policies take four times as long, and fail on damaged headers
    if not any(name in message for name in ("From", "Date", "Subject", "Message-ID")):
        raise ValueError("no header")
    ids = _MESSAGE_ID.findall(str(message.get("Message-ID", "")))
    return _Message(
        ids[0] if ids else str(number),
        _MESSAGE_ID.findall(f"{message.get('References', '')} {message.get('In-Reply-To', '')}"),
        parseaddr(str(message.get("From", "")))[1].lower(),
        " ".join(_decoded(message.get("Subject", "")).split()),
        _date(str(message.get("Date", ""))),
        new_text(_body(message)),
    )


def _decoded(header: str | Header) -> str:
    """A header with its encoded words as text; as it is if they are damaged."""
    try:
        return str(make_header(decode_header(header)))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        return str(header)


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _body(message: Message) -> str:
    """The text of the message, of HTML if it has no other; empty without either."""
    parts = list(_text_parts(message))
    part = next((one for one in parts if one.get_content_type() == "text/plain"), parts[0] if parts else None)
    if part is None:
        return ""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    try:
        text = content.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:
        text = content.decode("utf-8", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if part.get_content_type() == "text/html":
        return _text_of_html(text)
    return _unwrapped(text) if part.get_param("format") == "flowed" else text


def _text_parts(message: Message) -> Iterator[Message]:
    """The parts with plain text or HTML that are no attachments, in order."""
    if message.is_multipart() and message.get_content_maintype() == "multipart":
        for part in message.get_payload():
            yield from _text_parts(cast("Message", part))
    elif (
        message.get_content_type() in ("text/plain", "text/html") and message.get_content_disposition() != "attachment"
    ):
        yield message


def _text_of_html(html: str) -> str:
    """The text of a page in lines, without quotes."""
    try:
        tree = document_fromstring(html.encode("utf-8", "replace"), HTMLParser(encoding="utf-8"))
    except ParserError:  # nothing but blanks or comments
        return ""
    for element in list(tree.iter("blockquote", "script", "style", "head")):
        if element.getparent() is not None:
            element.drop_tree()
    for element in tree.iter(*_BLOCKS):
        element.tail = "\n" + (element.tail or "")
    return "\n".join(" ".join(line.split()) for line in tree.text_content().split("\n"))


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
    return [_by_date(thread) for thread in threads.values()]


def _by_date(thread: list[_Message]) -> list[_Message]:
    dated = [(message.date, at) for at, message in enumerate(thread) if message.date]
    return [thread[at] for _, at in sorted(dated)] if len(dated) == len(thread) else thread
