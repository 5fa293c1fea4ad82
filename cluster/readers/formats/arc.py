"""ARC, the format of web archives before WARC (Common Crawl until 2012, Internet Archive until 2008).

A record is a line with the URL, an IP address, the time, the type and the length, and the response of the server:

    http://example.org/ 192.0.2.1 20090102030405 text/html 1234

Version 2 of the format has more fields between type and length. The first record of a file (`filedesc:`) describes it.
Source: https://archive.org/web/researcher/ArcFileFormat.php
"""

import re
from collections.abc import Iterator

from raymill.cluster.readers.formats.page_columns import PAGE_COLUMNS
from raymill.cluster.readers.formats.warc import ByteReader, Header, Warc, WarcRecord
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import UnreadableRest
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

# A URL may have spaces.
_LINE = re.compile(rb"(\S[^\n]*?) ([0-9.]{7,15}|[0-9a-fA-F:]{2,39}|-) ([0-9]{14}) ([^\n]*)")
_TIME = re.compile(rb" [0-9]{14} ")  # of every record's line
_MAX_LINE_BYTES = 1 << 14
_DIGITS = re.compile(rb"[0-9]{1,18}")


class Arc(Warc):
    """Crawled pages in the older format: the main content of HTML responses."""

    endings = (".arc",)
    own_id = "url"
    ids = ("url", "date")

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """`url` and `date`, from the line of a record, and PAGE_COLUMNS."""
        return (*self.ids, *PAGE_COLUMNS)

    def records(self, source: ByteReader, max_content_bytes: int, counts: ReaderCounts) -> Iterator[WarcRecord]:
        """All records but the descriptions of files, which are counted, with the header that WARC has for them."""
        lost = False  # whether the bytes here belong to a place without a valid record, of which there is a row
        while source.skip_blank_lines():
            offset = source.offset
            line = source.until_line_end(_MAX_LINE_BYTES)
            found = _parsed(line) if line is not None else None
            if found is None:
                if not lost:
                    yield WarcRecord(source.place(offset), None)
                lost = True
                if line is None:
                    source.skip_to(b"\n")
                else:
                    source.skip_to_line_with(_TIME, _MAX_LINE_BYTES)
                continue
            lost = False
            where = source.place(offset)
            header, size = found
            counts.records += 1
            whole = size <= max_content_bytes
            content = source.take(size if whole else _MAX_LINE_BYTES)
            got = len(content) + (0 if whole else source.skip(size - len(content)))
            if got < size:
                raise UnreadableRest("truncated")
            if header["warc-target-uri"].startswith("filedesc:"):
                counts.skipped["record of kind filedesc"] += 1
                continue
            if not content.startswith(b"HTTP/"):
                header["warc-type"] = "resource"
            yield WarcRecord(where, header, content, whole)


def _parsed(line: bytes) -> tuple[Header, int] | None:
    """(header, length of the content) of a record's first line; None if it is none."""
    fields, _, size = line.rstrip().rpartition(b" ")
    found = _LINE.fullmatch(fields) if _DIGITS.fullmatch(size) else None
    if found is None:
        return None
    url, _, time, rest = (one.decode("utf-8", "replace") for one in found.groups())
    date = f"{time[:4]}-{time[4:6]}-{time[6:8]}T{time[8:10]}:{time[10:12]}:{time[12:]}Z"
    type = rest.partition(" ")[0]
    return {"warc-type": "response", "warc-target-uri": url, "warc-date": date, "content-type": type}, int(size)
