"""A server whose answers are bytes, and hostile ones for a page, its robots.txt, an API and a store."""

import gzip
import json
import random
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.hostile_files import TEXTS, html


def _answer(body: bytes, *fields: str, status: str = "200 OK", length: object = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    return "\r\n".join([*head, *fields, "", ""]).encode("utf-8", "replace") + body


@contextmanager
def server(answers: dict[str, list[bytes]]) -> Iterator[str]:
    """The address of a server. answers: path -> answers, one after the other, the last one again; `*`: other paths."""

    class Handler(socketserver.StreamRequestHandler):
        timeout = 5

        def handle(self) -> None:
            try:
                first = self.rfile.readline(65_536).decode("latin-1")
                while self.rfile.readline(65_536).strip():
                    pass
                path = [*first.split(" "), "", ""][1].partition("?")[0]
                waiting = answers.get(path) or answers["*"]
                self.wfile.write(waiting.pop(0) if len(waiting) > 1 else waiting[0])
            except OSError:
                pass  # the client has left

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, request: object, address: object) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_address[1]}"
        finally:
            serving.shutdown()
            thread.join()


ENCODINGS = ("gzip", "x" * 500, "gzip, gzip")

ROBOTS = {
    "none": _answer(b"", status="404 Not Found"),
    "a delay that is no number": _answer("User-agent: *\nCrawl-delay: ²\n".encode()),
    "a delay of many digits": _answer(b"User-agent: *\nCrawl-delay: " + b"9" * 5_000),
    "rules without end": _answer(b"User-agent: *\n" + b"Disallow: /" + b"*a" * 20_000 + b"$\nAllow: /\n"),
    "many rules": _answer(b"User-agent: *\n" + b"Allow: /x\n" * 50_000),
    "bytes of no encoding": _answer(b"\xff\xfe\0User-agent\0: *"),
    "a redirect to itself": _answer(b"", "Location: /robots.txt", status="301 Moved"),
    "a page": _answer(b"<html><body>login</body></html>", "Content-Type: text/html"),
}


def hostile_answer(draw: random.Random, body: bytes) -> tuple[str, bytes]:
    """(what, answer) with this body, or something else in its place."""
    text = draw.choice(list(TEXTS.values()))
    line = text.replace("\r", "").replace("\n", "")[:2000]
    answers = {
        "the body": _answer(body, "Content-Type: text/html"),
        "the body as JSON": _answer(body, "Content-Type: application/json"),
        "no HTTP": draw.randbytes(200),
        "nothing": b"",
        "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
        "a status that is none": _answer(body, status="99999 \x1b[2J"),
        "a status of servers": _answer(b"", "Retry-After: " + draw.choice(["²", "9" * 5_000, "-1", line[:50]]),
                                       status="503 Busy"),
        "a header that is hostile": _answer(body, f"Content-Type: text/html; charset={line}"),
        "a charset that is none": _answer(body, f"Content-Type: text/html; charset={draw.choice(['hex', 'punycode'])}"),
        "many headers": _answer(body, *[f"X-{n}: y" for n in range(5_000)]),
        "a header without end": _answer(body, "X: " + "y" * 300_000),
        "a length that is none": _answer(body, length=draw.choice(["²", "-1", "9" * 5_000, "1, 2", 10**12])),
        "two lengths": _answer(body, "Content-Length: 1"),
        "chunks that are none": _answer(b"fffffffffffffffff\r\nx", "Transfer-Encoding: chunked"),
        "a body that expands": _answer(gzip.compress(b"<p>" * (10 << 20)), "Content-Encoding: gzip"),
        "an encoding that is none": _answer(body, f"Content-Encoding: {draw.choice(ENCODINGS)}"),
        "a redirect": _answer(b"", "Location: " + draw.choice(REDIRECTS), status="302 Found"),
        "a link to the next page": _answer(b"[]", f"Link: <{draw.choice(REDIRECTS)}>; rel=next"),
        "a cookie and more": _answer(body, "Set-Cookie: a=b", "Refresh: 0; url=file:///etc/passwd"),
    }  # fmt: skip
    return draw.choice(list(answers.items()))


REDIRECTS = (
    "file:///etc/passwd", "http://169.254.169.254/latest/meta-data/", "http://[::1]:1/", "gopher://x", "//", "http://[",
    "http://" + "x" * 300, "javascript:alert(1)", "/\x1b[2J", "http://user:pass@127.0.0.1:1/", "?" + "a" * 5_000, "",
    "http://127.0.0.1:99999/", "http://0x7f.1:1/", "http://xn--\u202e.example/", "data:text/html,x",
)  # fmt: skip


def hostile_body(draw: random.Random) -> tuple[str, bytes]:
    """(what, bytes): a page, or an answer of an API."""
    if draw.random() < 0.5:
        page = html(draw)
        return page.what, page.content
    what, text = draw.choice(list(TEXTS.items()))
    values = {
        what: json.dumps({"items": [{"text": text, "id": 1}], "next": text[:200]}).encode(),
        "brackets": b"[" * 100_000,
        "digits": b'{"items": [{"text": "a", "n": ' + b"9" * 10_000 + b"}]}",
        "no list": b'{"items": {"a": 1}, "next": 5}',
        "rows that are none": b'{"items": [1, null, "a", []], "next": {"a": 1}}',
        "XML": b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><Error><Code>&x;</Code></Error>",
        "an error of a store": b"<Error><Code>SlowDown\x1b[2J</Code><Message>%s</Message></Error>"
        % text.encode("utf-8", "replace")[:2000],
        "a list of a store": b"<ListBucketResult><Contents><Key>../../x</Key><Size>-1</Size></Contents>"
        b"<IsTruncated>true</IsTruncated></ListBucketResult>",
    }  # fmt: skip
    return draw.choice(list(values.items()))
