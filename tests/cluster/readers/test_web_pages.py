"""Text of HTML pages, and of pages and texts in web archives."""

import gzip
import random
import time
import zlib
from functools import partial

import brotli
import pytest
import trafilatura.main_extractor
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree, html

from raymill.cluster.guard import Guard
from raymill.cluster.readers.formats import warc, web_pages
from raymill.cluster.readers.formats.extractors import strip_tags
from raymill.cluster.readers.formats.page_columns import PAGE_COLUMNS, page_columns
from raymill.cluster.readers.formats.web_pages import _main_content
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from tests.support.inline import curate_inline
from tests.support.input_rows import rows_of
from tests.support.pdf import pdf
from tests.support.warc_records import COMPRESS, record, response

PARAGRAPH = "The mill grinds raw text into a corpus, and the corpus into a model; nothing is lost on the way. " * 10
PARAGRAPH = PARAGRAPH.strip()
GREATER = PARAGRAPH.replace("raw", "größere")
PAGE = (
    "<html><head><title>T</title></head><body><nav><a href='/'>Home</a><a href='/x'>More</a></nav>"
    f"<article><p>{PARAGRAPH}</p></article><footer>Copyright, all rights reserved</footer></body></html>"
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PAGE.encode(), PARAGRAPH),
        (PAGE.replace("<head>", "<head><meta charset=latin-1>").replace("raw", "größere").encode("latin-1"), GREATER),
        (PAGE.replace("<head>", "<head><meta charset=latin-1>").replace("raw", "größere").encode(), GREATER),
        (('<?xml version="1.0" encoding="utf-8"?>' + PAGE.replace("raw", "größere")).encode(), GREATER),
        (PAGE.replace("raw", "größere").encode("utf-16"), GREATER),
        (b"<html><body></body></html>", "<empty_extraction>"),
        (b"\x00\x01\x02", "<empty_extraction>"),
        (b"<div>" * 100_000, "<bounded_extraction>"),
    ],
    ids=["page", "latin-1", "UTF-8 that says latin-1", "XHTML", "UTF-16", "no content", "no HTML", "deeply nested"],
)
def test_html_is_its_main_content(tmp_path, content, expected):
    (tmp_path / "a.html").write_bytes(content)
    (row,) = rows_of(tmp_path, columns=["path"])
    assert (row["text"] or f"<{row['problem']}>") == expected
    assert row["path"] == str(tmp_path / "a.html")


def test_a_page_that_breaks_the_extraction_is_a_problem_with_the_error_by_name(tmp_path, monkeypatch):
    def fail(page, name, count_shown):
        raise RecursionError("too deep")

    monkeypatch.setattr("raymill.cluster.readers.formats.web_pages.extract", fail)
    # Its child has the new function.
    monkeypatch.setattr("raymill.cluster.readers.formats.web_pages._pages", Guard(_main_content))
    (tmp_path / "a.html").write_bytes(PAGE.encode())
    (row,) = rows_of(tmp_path)
    assert (row["problem"], row["where"]) == ("failed_extraction", f"{tmp_path}/a.html (RecursionError)")


STATING = """<!DOCTYPE html><!-- <title>no</title> --><html lang="de-AT"><head><script>"<title>no</title>"</script>
<title>Mills &amp;
  <b>bread</b></title><meta property=og:title content=Other><META NAME='Author' content='Ann Lee'>
<meta property="article:published_time" content="2021-03-04T05:06:07Z"><link href="http://x/a?b&amp;c" rel="canonical">
<meta name=robots content="NoIndex, noai"><meta name="tdm-reservation" content="1"><meta name=robots content=nofollow>
</head><body><title>no</title><meta name=author content=Bob>"""
STATED = {
    "title": "Mills & <b>bread</b>",
    "canonical_url": "http://x/a?b&c",
    "author": "Ann Lee",
    "published": "2021-03-04T05:06:07Z",
    "page_language": "de-AT",
    "robots": "noindex, noai, nofollow",
    "tdm_reservation": "1",
}


def test_what_a_page_states_of_itself_is_in_columns(tmp_path):
    (tmp_path / "a.html").write_text(f"{STATING}<p>{PARAGRAPH}</p>")
    (tmp_path / "b.html").write_text(f"<body><p>{PARAGRAPH}</p>")
    columns = ["robots", "path", *(name for name in STATED if name != "robots")]
    stating, plain = rows_of(tmp_path, columns=columns)
    assert {name: stating[name] for name in STATED} == STATED and stating["path"] == f"{tmp_path}/a.html"
    assert {plain[name] for name in STATED} == {None} and plain["path"] == f"{tmp_path}/b.html"
    assert STATED.keys() == set(PAGE_COLUMNS)


def test_headers_of_an_archive_state_what_holds_for_a_page(tmp_path):
    extra = "X-Robots-Tag: noai\r\nTDM-Reservation: 1\r\nContent-Language: fr\r\n"
    pages = [response(BODY, extra=extra), response(f"{STATING}<p>{PARAGRAPH}</p>".encode(), extra=extra)]
    (tmp_path / "a.warc").write_bytes(b"".join(record("response", page, n) for n, page in enumerate(pages)))
    names = ["url", "robots", "tdm_reservation", "page_language"]
    found = [[row[name] for name in names] for row in rows_of(tmp_path, columns=names)]
    assert found == [
        ["http://x/0", "noai", "1", "fr"],
        ["http://x/1", "noindex, noai, nofollow", "1", "de-AT"],
    ]


RESERVED = {
    "a second header": ("", "X-Robots-Tag: noindex\r\nX-Robots-Tag: noai\r\n", "robots", "noindex, noai"),
    "0 in the page and 1 in the header": (
        "<meta name=tdm-reservation content=0>",
        "TDM-Reservation: 1\r\n",
        "tdm_reservation",
        "1",
    ),
    "headers of 0 and 1": ("", "TDM-Reservation: 0\r\nTDM-Reservation: 1\r\n", "tdm_reservation", "1"),
    "after an empty comment": ("<!--><meta name=robots content=noai>", "", "robots", "noai"),
    "after a comment with another end": ("<!-- a --!><meta name=robots content=noai>", "", "robots", "noai"),
    "after an element with a name like body": ("<body-x><meta name=robots content=noai>", "", "robots", "noai"),
    "a name with spaces": ("<meta name=' robots ' content=noai>", "", "robots", "noai"),
    "after a quote too many": ('<link a="b""><meta name=robots content=noai>', "", "robots", "noai"),
    "beside a quote": ('<meta " name=robots content=noai>', "", "robots", "noai"),
    "after an apostrophe": ("<meta name=it's><meta name='robots' content='noai'>", "", "robots", "noai"),
    "after a body in an attribute": ("<a title='<body>'></a><meta name=robots content=noai>", "", "robots", "noai"),
    "after a body in a section": ("<![CDATA[<body>]]><meta name=robots content=noai>", "", "robots", "noai"),
    "after a body in an instruction": ("<?x <body> ?><meta name=robots content=noai>", "", "robots", "noai"),
    "in the body": (f"</head><body><p>{'İ ' * 5000}<meta name=robots content=noai>", "", "robots", "noai"),
    "in the body of a long page": (
        f"<body>{'<p> ' * 70_000}<meta name=tdm-reservation content=1>",
        "",
        "tdm_reservation",
        "1",
    ),
    "a name of references": ("<body><meta name='r&#111;bots' content='no&#97;i'>", "", "robots", "noai"),
    "among endless numbers": (
        f"<meta name='&#{'9' * 5000};' content='&#{'9' * 5000};'><meta name=robots content='no&#{'0' * 5000}97;i'>",
        *("", "robots", "noai"),
    ),
    "after a robot with an endless name": (
        f"<meta name={'x' * 100_000}bot content={',' * 50_000}><meta name=robots content=noai>",
        *("", "robots", "noai"),
    ),
    "without scripts": ("<noscript><meta name=robots content=noai>", "", "robots", "noai"),
    "many directives": (
        f"<meta name=robots content='{', '.join(f'x{n}' for n in range(600))}, noai'>",
        "",
        "robots",
        f"{', '.join(f'x{n}' for n in range(600))}, noai",
    ),
    "for one robot": ("<meta name=GPTBot content='noindex, noai'>", "", "robots", "gptbot: noindex, gptbot: noai"),
    "a number in quotes": ("", 'TDM-Reservation: "1"\r\n', "tdm_reservation", "1"),
    "a number with a parameter": ("", "TDM-Reservation: 01; a=b\r\n", "tdm_reservation", "1"),
}


@pytest.mark.parametrize(("head", "extra", "column", "stated"), RESERVED.values(), ids=RESERVED)
def test_a_page_that_is_reserved_in_an_unusual_way_is_reserved(tmp_path, head, extra, column, stated):
    page = response(f"<html><head>{head}</head><body><p>{PARAGRAPH}</p>".encode(), extra=extra)
    (tmp_path / "a.warc").write_bytes(record("response", page))
    [row] = rows_of(tmp_path, columns=[column])
    assert row[column] == stated


def test_what_is_no_tag_of_a_page_reserves_nothing(tmp_path):
    quoted = "<meta name=robots content=noai>"
    hidden = f"<!-- {quoted} --><script>'{quoted}'</script><textarea>{quoted}</textarea><p title='{quoted}'>"
    (tmp_path / "a.html").write_text(f"<head>{hidden}</head><body>{hidden}<p>{PARAGRAPH}</p>")
    [row] = rows_of(tmp_path, columns=["robots"])
    assert row["robots"] is None


def test_a_title_is_no_id(tmp_path):
    (tmp_path / "a.html").write_text(STATING + PARAGRAPH)
    inputs = freeze(Store(), [Input(path=str(tmp_path), id="title")], 1 << 20)
    assert "cannot have a column title (id): path is the id instead" in inputs.notes[0]


@pytest.mark.parametrize("part", ["<meta a", "<title>", "<meta content='", "<!--", "<link rel", "<meta x=", "<script>",
     "<meta ", "<meta bot ", "<meta a=\"<meta b='", "<meta &", "<a ", "</", "<!", "<meta name=robots>"])  # fmt: skip
def test_columns_of_a_page_take_linear_time(part):
    began = time.process_time()
    page_columns(part * (2_000_000 // len(part)), {}, ["title", "robots"])
    assert time.process_time() - began < 2


def test_html_over_the_bound_is_not_parsed(tmp_path):
    (tmp_path / "a.html").write_bytes(PAGE.encode())
    (row,) = rows_of(tmp_path, limits=Limits(max_document_bytes=100))
    assert row["problem"] == "too_large"


def chunked(body: bytes) -> bytes:
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


BODY = PAGE.encode()
# Random numbers, so that the end of the compressed page has its text.
LONG = BODY.replace(b"</body>", b"<p>%s</p></body>" % random.Random(0).randbytes(3000).hex().encode())
CUT = {
    "gzip": response(gzip.compress(LONG)[:-2000], extra="Content-Encoding: gzip\r\n"),
    "deflate": response(zlib.compress(LONG)[:-2000], extra="Content-Encoding: deflate\r\n"),
    "brotli": response(brotli.compress(LONG)[:-2000], extra="Content-Encoding: br\r\n"),
    "a page in chunks": response(chunked(LONG)[:-2000], extra="Transfer-Encoding: chunked\r\n"),
    "gzip in chunks": response(
        chunked(gzip.compress(LONG))[:-2000], extra="Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"
    ),
}
RESPONSES = {
    "a page": (response(BODY), PARAGRAPH),
    "XHTML": (response(BODY, type="application/xhtml+xml; charset=utf-8"), PARAGRAPH),
    "gzip": (response(gzip.compress(BODY), extra="Content-Encoding: gzip\r\n"), PARAGRAPH),
    "gzip undone by the crawler": (response(BODY, extra="Content-Encoding: gzip\r\n"), PARAGRAPH),
    "deflate": (response(zlib.compress(BODY), extra="Content-Encoding: deflate\r\n"), PARAGRAPH),
    "deflate without header": (response(zlib.compress(BODY)[2:-4], extra="Content-Encoding: deflate\r\n"), PARAGRAPH),
    "chunks": (response(chunked(BODY), extra="Transfer-Encoding: chunked\r\n"), PARAGRAPH),
    "chunks undone by the crawler": (response(BODY, extra="Transfer-Encoding: chunked\r\n"), PARAGRAPH),
    "chunks of gzip": (
        response(chunked(gzip.compress(BODY)), extra="Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"),
        PARAGRAPH,
    ),
    "the server's charset": (
        response(PAGE.replace("raw", "сырой").encode("koi8-r"), type="text/html; charset=KOI8-R"),
        PARAGRAPH.replace("raw", "сырой"),
    ),
    "a charset that nobody knows": (response(BODY, type="text/html; charset=klingon"), PARAGRAPH),
    "an image": (response(b"\x89PNG", type="image/png"), None),
    "a page that is not there": (response(BODY, status="404 Not Found"), None),
    "brotli": (response(brotli.compress(BODY), extra="Content-Encoding: br\r\n"), PARAGRAPH),
    "brotli undone by the crawler": (response(BODY, extra="Content-Encoding: br\r\n"), PARAGRAPH),
    "damaged brotli": (response(b"\xff" * 50, extra="Content-Encoding: br\r\n"), "<bad_http_response>"),
    "zstd": (response(zstandard.compress(BODY), extra="Content-Encoding: zstd\r\n"), PARAGRAPH),
    "zstd undone by the crawler": (response(BODY, extra="Content-Encoding: zstd\r\n"), PARAGRAPH),
    "damaged zstd": (
        response(zstandard.compress(BODY)[:9] + b"\xff" * 50, extra="Content-Encoding: zstd\r\n"),
        "<bad_http_response>",
    ),
    "two encodings": (
        response(gzip.compress(brotli.compress(BODY)), extra="Content-Encoding: br, GZip\r\n"),
        PARAGRAPH,
    ),
    "a charset given as encoding": (response(BODY, extra="Content-Encoding: UTF-8\r\n"), PARAGRAPH),
    "an unknown encoding": (response(b"\x01" * 50, extra="Content-Encoding: dcb\r\n"), "<unknown_encoding>"),
    "many encodings": (response(b"\x01" * 50, extra=f"Content-Encoding: {'br,' * 9000}\r\n"), "<unknown_encoding>"),
    "many encodings undone": (response(BODY, extra=f"Content-Encoding: {'br,' * 9000}\r\n"), PARAGRAPH),
    "damaged gzip": (
        response(b"\x1f\x8b\x08\0\0\0\0\0" + b"\xff" * 50, extra="Content-Encoding: gzip\r\n"),
        "<bad_http_response>",
    ),
    "gzip of two members": (
        response(gzip.compress(BODY[:40]) + gzip.compress(BODY[40:]), extra="Content-Encoding: gzip\r\n"),
        PARAGRAPH,
    ),
    "zstd of two frames": (
        response(zstandard.compress(BODY[:40]) + zstandard.compress(BODY[40:]), extra="Content-Encoding: zstd\r\n"),
        PARAGRAPH,
    ),
    "gzip and a line end": (response(gzip.compress(BODY) + b"\r\n", extra="Content-Encoding: gzip\r\n"), PARAGRAPH),
    **{f"{name} that is cut": (content, "<bad_http_response>") for name, content in CUT.items()},
    "no HTTP": (b"nonsense", "<bad_http_response>"),
    "lines that end in LF alone": (response(BODY).replace(b"\r\n", b"\n", 4), PARAGRAPH),
    "a continued line": (response(BODY, extra="X: a\n b\n\tc\n").replace(b"\r\n", b"\n", 4), PARAGRAPH),
    "a status without its end": (b"HTTP/1.1 200 OK", "<bad_http_response>"),
    "a status that is no number": (response(BODY, status="OK"), "<bad_http_response>"),
    "HTTP/2": (response(BODY, status="200").replace(b"HTTP/1.1", b"HTTP/2"), PARAGRAPH),
    "HTML without its type": (b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n<!-- a -->\n" + BODY, PARAGRAPH),
    "no header lines": (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, PARAGRAPH),
    "bytes without their type": (b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n\x89PNG", None),
    "a film over the bound": (response(b"x" * 200_000, type="video/mp4"), None),
    "an error page over the bound": (response(b"x" * 200_000, status="500 No"), None),
    "no content": (response(b"<html></html>"), "<empty_extraction>"),
    "a page over the bound": (response(b"x" * 20_000), "<too_large>"),
    **{
        f"a page of {name} that unfolds over the bound": (
            response(compress(b"x" * 20_000_000), extra=f"Content-Encoding: {name}\r\n"),
            "<too_large>",
        )
        for name, compress in {
            "gzip": gzip.compress,
            "br": partial(brotli.compress, quality=1),
            "zstd": zstandard.compress,
        }.items()
    },
    "a record over the bound": (response(b"x" * 200_000), "<too_large>"),
}


@pytest.mark.parametrize("name", CUT)
def test_of_a_page_that_the_crawler_says_it_cut_the_beginning_is_read_and_counted(tmp_path, name):
    cut = record("response", CUT[name]).replace(b"Content-Length", b"WARC-Truncated: length\r\nContent-Length", 1)
    (tmp_path / "a.warc").write_bytes(cut)
    manifest, counts = freeze(Store(), [Input(path=str(tmp_path))], 1 << 20), ReaderCounts()
    (table,) = read_unit(manifest.units[0], manifest.reading, Limits(), counts=counts)
    (text,) = table["text"].to_pylist()
    assert text.startswith(PARAGRAPH)
    assert counts.notes["pages end where the crawler cut them (WARC-Truncated)"] == 1


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_a_page_of_many_compressed_members_is_refused(tmp_path, monkeypatch, encoding, compress):
    """Each member costs a copy of the rest, and a megabyte can hold 100,000 without content."""
    monkeypatch.setattr(warc, "_MOST_MEMBERS", 5)
    pages = [response(empty * compress(b"") + compress(BODY), extra=f"Content-Encoding: {encoding}\r\n")
             for empty in (4, 5)]  # fmt: skip
    (tmp_path / "a.warc").write_bytes(b"".join(record("response", page, n) for n, page in enumerate(pages)))
    assert [row["text"] or row["problem"] for row in rows_of(tmp_path)] == [PARAGRAPH, "bad_http_response"]


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_response_in_a_web_archive_is_a_document_a_problem_or_neither(tmp_path, name, ending):
    content, expected = RESPONSES[name]
    records = [
        record("warcinfo", b"software: x"),
        record("response", response(BODY), 1),
        record("request", b"GET / HTTP/1.1\r\n\r\n", 2),
        record("response", content, 3),
        record("response", response(BODY), 4),
    ]
    (tmp_path / f"a.warc{ending}").write_bytes(b"".join(COMPRESS[ending](one) for one in records))
    rows = rows_of(tmp_path, limits=Limits(max_document_bytes=10_000), id="record_id", columns=["url", "date"])
    found = [(row["url"], row["text"] or f"<{row['problem']}>") for row in rows]
    middle = [] if expected is None else [("http://x/3", expected)]
    assert found == [("http://x/1", PARAGRAPH), *middle, ("http://x/4", PARAGRAPH)]
    assert rows[0]["id"] == "<urn:uuid:1>"
    assert rows[0]["date"] == "2026-01-02T03:04:05Z"


RESOURCES = {
    "a page": (b"Content-Type: text/html; charset=utf-8\r\n", BODY, PARAGRAPH),
    "a page whose type was detected": (b"WARC-Identified-Payload-Type: text/html\r\n", BODY, PARAGRAPH),
    "a page without type": (b"", BODY, PARAGRAPH),
    "a picture": (b"Content-Type: image/png\r\n", b"\x89PNG", None),
    "a page over the bound": (b"Content-Type: text/html\r\n", b"x" * 200_000, "<too_large>"),
}


@pytest.mark.parametrize("kind", ["resource", "response"])
@pytest.mark.parametrize("name", RESOURCES)
def test_a_record_without_http_is_a_page_by_the_type_of_the_record(tmp_path, name, kind):
    type, content, expected = RESOURCES[name]
    if kind == "response" and b"Content-Type" not in type:
        expected = "<bad_http_response>"
    (tmp_path / "a.warc").write_bytes(record(kind, content, 7).replace(b"WARC-Date", type + b"WARC-Date"))
    rows = rows_of(tmp_path, limits=Limits(max_document_bytes=10_000))
    assert [row["text"] or f"<{row['problem']}>" for row in rows] == ([] if expected is None else [expected])


def test_a_response_of_another_protocol_is_no_page(tmp_path):
    lookup = record("response", b"20260102\nx.example. 300 IN A 192.0.2.1\n")
    (tmp_path / "a.warc").write_bytes(lookup.replace(b"WARC-Date", b"Content-Type: text/dns\r\nWARC-Date"))
    assert rows_of(tmp_path) == []


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_url_in_angle_brackets_is_the_url_and_records_may_end_lines_in_lf(tmp_path, end):
    whole = record("conversion", b"a").replace(b"http://x/0", b"<http://x/0>").replace(b"\r\n", end)
    (tmp_path / "a.wet").write_bytes(whole + whole)
    rows = rows_of(tmp_path, id="url", columns=["record_id"])
    assert [(row["id"], row["record_id"], row["text"]) for row in rows] == [("http://x/0", "<urn:uuid:0>", "a")] * 2


def wet(*contents: bytes) -> list[bytes]:
    return [record("warcinfo", b"x"), *(record("conversion", text, n) for n, text in enumerate(contents))]


DAMAGED_ARCHIVES = {
    "bytes between records": ([0, b"rubbish\r\n\r\nmore", 1], ["a", "<bad_warc_record>", "b"]),
    "a length that is no number": (
        [0, record("conversion", b"x").replace(b"Length: 1", b"Length: -1"), 1],
        ["a", "<bad_warc_record>", "b"],
    ),
    "no length": ([0, b"WARC/1.0\r\nWARC-Type: conversion\r\n\r\nx\r\n\r\n", 1], ["a", "<bad_warc_record>", "b"]),
    "a length that is too short": (
        [0, record("conversion", b"long text", length=4), 1],
        ["a", "long", "<bad_warc_record>", "b"],
    ),
    "bad UTF-8": ([0, record("conversion", b"\xff"), 1], ["a", "<bad_utf8>", "b"]),
    "an end too early": ([0, 1, record("conversion", b"x" * 100)[:-50]], ["a", "b", "<truncated>"]),
    "a header without end": ([0, b"WARC/1.0\r\n" + b"A: b\r\n" * 50_000, 1], ["a", "<bad_warc_record>", "b"]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("name", DAMAGED_ARCHIVES)
def test_damage_in_an_archive_of_texts_costs_no_other_record(tmp_path, name):
    parts, expected = DAMAGED_ARCHIVES[name]
    whole = [record("conversion", b"a", 0), record("conversion", b"b", 1)]
    (tmp_path / "a.warc.wet").write_bytes(b"".join(whole[part] if isinstance(part, int) else part for part in parts))
    (tmp_path / "b.warc.wet.gz").write_bytes(b"".join(map(gzip.compress, wet(b"next file"))))
    rows = rows_of(tmp_path)
    assert [row["text"] or f"<{row['problem']}>" for row in rows] == [*expected, "next file"]


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(0, 250))
def test_no_bytes_can_stop_the_reading_of_an_archive(tmp_path_factory, rubbish, at):
    path = tmp_path_factory.mktemp("warc") / "a.warc.wet"
    whole = b"".join(wet(b"text"))
    path.write_bytes(whole[:at] + rubbish + whole[at:])
    for row in rows_of(path):
        assert (row["text"] is None) == (row["problem"] is not None)


def test_texts_side_by_side_are_one_after_elements_are_stripped():
    """Queries of lxml walk back over each text node; many of them in one paragraph take the square of the time."""
    for inner in ("<b>x</b> y ", "<a>x</a>", "x<i>y<b>z</b></i>"):
        theirs, ours = (html.fromstring(f"<div><p>{inner * 1000}</p>tail <u>z</u> end</div>") for _ in range(2))
        etree.strip_tags(theirs, "b", "i", "a", "u")
        strip_tags(ours, "b", "i", "a", "u")
        assert etree.tostring(ours) == etree.tostring(theirs)
        assert len(theirs.xpath(".//text()")) >= 1000 and len(ours.xpath(".//text()")) == 2


@pytest.mark.parametrize(
    ("module", "inner"),
    [("htmlprocessing", "<b>word</b> "), ("main_extractor", "<a href=x>word</a> and more text ")],
)
def test_a_page_with_many_words_in_elements_of_their_own_is_read_in_a_moment(tmp_path, module, inner):
    """It took 18 s to a minute; no time is measured here, but who breaks it will notice."""
    (tmp_path / "a.html").write_text(f"<html><body><p>{inner * 20_000}</p></body></html>")
    (row,) = rows_of(tmp_path, extractor="trafilatura_fast")
    assert len(row["text"].split()) >= 20_000
    assert getattr(trafilatura, module).strip_tags is strip_tags


def test_what_readers_leave_out_of_pages_is_counted_in_the_run(tmp_path, monkeypatch):
    prose = "".join(f"<p>Harbour {n} was built in the twelfth century and is in use today.</p>" for n in range(9))
    menu = "<nav><a href=x>Home</a> <a href=y>About</a></nav><script>var x = 1</script>"
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.html").write_text(f"<html><title>T</title><body>{menu}{prose}</body></html>")
    words = ("Alpha", "Beta", "Gamma", "Delta")
    pages = [[f"Annual report {page}", f"{word} stands here.", str(page)] for page, word in enumerate(words)]
    (tmp_path / "in" / "c.pdf").write_bytes(pdf(pages))
    inputs = [{"source": "web", "path": str(tmp_path / "in")}]
    run = curate_inline({"inputs": inputs, "output": str(tmp_path / "run")}, monkeypatch)
    (source,) = run.report["sources"]
    html_note, pdf_note = sorted(source["notes"])
    assert "outside the main content" in html_note and source["notes"][html_note] == 2 * len("HomeAbout")
    assert "running heads" in pdf_note and source["notes"][pdf_note] == 4 * (len("Annualreport") + 1 + 1)
    assert f"Source web: 18 {html_note}." in run.report["warnings"]


def test_characters_left_out_of_many_pages_of_a_file_are_estimated_from_some_of_them(tmp_path, monkeypatch):
    prose = "".join(f"<p>Harbour {n} was built in the twelfth century and is in use today.</p>" for n in range(9))
    page = f"<html><body><nav><a href=x>Home</a> <a href=y>About</a></nav>{prose}</body></html>".encode()
    (tmp_path / "a.warc").write_bytes(b"".join(record("response", response(page), number) for number in range(132)))
    shown = []
    extract = web_pages.extract
    monkeypatch.setattr(web_pages, "extract", lambda *given: shown.append(given[2]) or extract(*given))
    monkeypatch.setattr(web_pages, "_pages", lambda task, bounds: web_pages._main_content(task))
    counts = ReaderCounts()
    inputs = freeze(Store(), [Input(path=str(tmp_path))], 1 << 20)
    (table,) = read_unit(inputs.units[0], inputs.reading, Limits(), counts=counts)
    assert table.num_rows == 132 and sum(shown) == 20 + 7
    assert [*counts.notes.values()] == [132 * len("HomeAbout")]
