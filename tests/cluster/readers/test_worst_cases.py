"""Files of 10 MB in which every part is the most costly that we know of: each reader ends, in linear time.

`make patterns` runs them, with the worst cases of regular expressions (tests/test_patterns.py). The ways by which each
reader is bounded have tests of their own: the table WORST_CASES of test_time_bounds.py.
"""

import time
from collections.abc import Callable

import pytest

from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.store.store import Store
from tests.support import pdf as pdf_files
from tests.support.input_rows import rows_of
from tests.support.sampled import sampled
from tests.support.word_files import p, word

_SIZE = 10_000_000


def _repeated(start: bytes, part: bytes) -> bytes:
    return start + part * (_SIZE // len(part))


# Format -> (ending, content).
FILES: dict[str, list[tuple[str, Callable[[], bytes]]]] = {
    "csv": [(".csv", lambda: _repeated(b"text\n", b'"a\n')), (".csv", lambda: _repeated(b"text\n", b'""'))],
    "tsv": [(".tsv", lambda: _repeated(b"text\n", b'"\n'))],
    "jsonl": [
        (".jsonl", lambda: _repeated(b'{"text": ', b"[")),
        (".jsonl", lambda: _repeated(b"", b"{\n")),
        (".jsonl", lambda: b'{"text": "a", "n": ' + b"9" * _SIZE + b"}\n"),
        (".jsonl", lambda: b'{"text": "' + b"\\ud800" * (_SIZE // 6) + b'"}\n'),
    ],
    "json": [
        (".json", lambda: _repeated(b"[", b'{"a":')),
        (".json", lambda: _repeated(b"[", b"1,")),
        (".json", lambda: _repeated(b'["', b"\\u0041")),
    ],
    "text": [
        (".txt", lambda: _repeated(b"a", "\u0315\u0316".encode())),
        (".txt", lambda: _repeated(b"", "\ufdfa".encode())),
        (".txt", lambda: _repeated(b"", b"\xff\xfe")),
    ],
    "markdown": [(".md", lambda: _repeated(b"", b"[a](")), (".md", lambda: _repeated(b"", b"# a\n"))],
    "html": [
        (".html", lambda: _repeated(b"<html><body>", b"<div><p>a")),
        (".html", lambda: _repeated(b"<html><body>", b"<b><i>a</b>")),
        (".html", lambda: _repeated(b"<html><body><table>", b"<tr><td>a")),
        (".html", lambda: _repeated(b"<html><body>", b"&amp")),
        (".html", lambda: _repeated(b"<html><body>", b"<!--")),
    ],
    "pdf": [(".pdf", lambda: pdf_files.pdf([["a " * 1000] * (_SIZE // 2000)]))],
    "docx": [(".docx", lambda: word(p("a") * (_SIZE // len(p("a")))))],
    "transcript": [
        (".vtt", lambda: _repeated(b"WEBVTT\n\n00:01.000 --> 00:02.000\n<v.a", b" ")),
        (".vtt", lambda: _repeated(b"WEBVTT\n\n00:01.000 --> 00:02.000\n", b"<v a>b\n")),
        (".srt", lambda: _repeated(b"", b"1\n00:00:01,000 --> 00:00:02,000\na\n\n")),
    ],
    "mail": [
        (".eml", lambda: _repeated(b"From: a@b.org\nSubject: ", b"=?utf-8?q?a?= ")),
        (".eml", lambda: _repeated(b"From: ", b"<a@b>,(")),
        (".eml", lambda: _repeated(b"From: a@b.org\nReferences: ", b"<a@b>\n ")),
        (".eml", lambda: _repeated(b'Content-Type: multipart/mixed; boundary="a"\n\n', b"--a\n\n")),
        (".mbox", lambda: _repeated(b"From a Mon Jan  1 00:00:00 2024\nFrom: a@b\n\n", b"\n")),
        (".mbox", lambda: _repeated(b"", b"From a Mon Jan  1 00:00:00 2024\n\n")),
    ],
    "warc": [
        (".warc", lambda: _repeated(b"", b"WARC/1.0\r\n")),
        (".warc", lambda: _repeated(b"", b"WARC/1.0\r\nContent-Length: 1\r\n\r\n")),
        (".warc", lambda: _repeated(b"WARC/1.0\r\nContent-Length: 0\r\n\r\n", b"\r\n") + b"a"),
    ],
    "arc": [
        (".arc", lambda: _repeated(b"", b"a 1.1.1.1 20200101000000 ")),
        (".arc", lambda: _repeated(b"", b"a 1.1.1.1 20200101000000 b 0\n") + b"a\n"),
        (".arc", lambda: _repeated(b"", b"a\n")),
    ],
    "wet": [(".wet", lambda: _repeated(b"", b"WARC/1.0\r\nContent-Length: "))],
}
# The sizes of their blocks are bounded before they are decoded, and text in them is not parsed.
OF_BLOCKS = {"parquet", "hf", "fetched"}


def test_every_reader_has_files_here_or_reads_blocks():
    assert FILES.keys() | OF_BLOCKS == READERS.keys()


# Ending -> a part of which a file of many has a problem each.
BAD_PARTS = {
    ".warc": b"WARC/1.0\r\n",
    ".wet": b"WARC/1.0\r\n",
    ".arc": b"a\na 1.1.1.1 20200101000000 text/dns 0\n",
    ".mbox": b"From a@b Thu Jan  1 00:00:00 2026\nA: b\n\n",
    ".jsonl": b"a\n",
    ".json": b"1\n",
    ".csv": b'a,"b"c\n',
}


@pytest.mark.parametrize("ending", sampled(BAD_PARTS, 3))
def test_problems_are_in_tables_of_bounded_size(tmp_path, ending):
    """A table is held in memory whole, and a small compressed file has millions of problems."""
    (tmp_path / f"a{ending}").write_bytes(b"text,other\n" * (ending == ".csv") + BAD_PARTS[ending] * 70_000)
    source = Input(path=f"{tmp_path}", format=ending[1:] if ending == ".json" else None)
    [unit] = freeze(Store(), [source], 64 << 20).units
    rows = [
        table.num_rows
        for span in unit.spans
        for table in READERS[span.format].read(Store(), span, source, Limits(), ReaderCounts())
    ]
    assert sum(rows) >= 70_000 and max(rows) <= 1 << 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ending", "content"),
    [pytest.param(name, *file, id=f"{name}-{at}") for name, files in FILES.items() for at, file in enumerate(files)],
)
def test_a_worst_case_of_10_mb_ends_within_its_bounds(tmp_path, name, ending, content):
    (tmp_path / f"a{ending}").write_bytes(content())
    began = time.process_time()
    assert rows_of(tmp_path, Limits(document_s=1), unit_bytes=16 << 20, format=name)
    # Of this process; the child process of a parser has bounds of its own. Ten times what the slowest takes: 5,000,000
    # lines that are a row of quarantine each.
    assert time.process_time() - began < 300
