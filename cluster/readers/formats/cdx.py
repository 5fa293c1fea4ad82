"""Indexes of web archives: CDX and CDXJ files that lie beside them, as crawlers and `cdxj-indexer` write them.

    CDX    a line for each record, fields separated by spaces; the first line, ` CDX N b a m s k r M S V g`, names them
    CDXJ   a line for each record: key, time and a JSON object with `url`, `offset` and `filename`

The offset is the byte of the archive at which the record begins, in a compressed one its member.
Source: https://iipc.github.io/warc-specifications/specifications/cdx-format/cdx-2015/
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.streams import LINE_WORK, RecordWork, UnreadableRest, compression_ending, lines, stream
from raymill.cluster.store.store import Store

_ENDINGS = tuple(f".{kind}{packed}" for kind in ("cdxj", "cdx") for packed in ("", ".gz"))
_FIELDS = tuple("NbamskrMSVg")  # of a file that does not name them
_URL, _OFFSET, _NAME = "a", "V", "g"
_MAX_LINE_BYTES = 1 << 20
_MOST_WITHOUT = 100  # archives without an index, after which no other is looked at


class IndexedRecord(NamedTuple):
    """A record that an index names. archive: name of its archive, empty if the index does not state it."""

    archive: str
    offset: int


def indexes_beside(archives: Iterable[str], exists: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """(archive, its index) of the archives that have one, in their order. For a.warc.gz: a.cdx, a.warc.gz.cdx, ...

    Indexes of a run have one kind of names. So after the first one, one file is looked for beside each archive, and
    after 100 archives without one nothing more.

    exists: whether there is a file, by its URI.
    """
    known: tuple[int, str] | None = None
    for number, archive in enumerate(archives):
        plain = archive.removesuffix(compression_ending(archive))
        names = (archive, plain, plain.removesuffix(".warc").removesuffix(".arc"))
        kinds = [known] if known else [(at, ending) for at in range(len(names)) for ending in _ENDINGS]
        found = next((kind for kind in kinds if exists(names[kind[0]] + kind[1])), None)
        if found:
            known = found
            yield archive, names[found[0]] + found[1]
        elif known is None and number >= _MOST_WITHOUT:
            return


def records_of(store: Store, index: str, url: str, limits: Limits) -> Iterator[IndexedRecord]:
    """The records of a URL in an index, in its order. Lines that cannot be read are left out."""
    wanted, fields = url.encode(), _FIELDS
    try:
        work = RecordWork()
        with closing(stream(store, index, limits, work=work)) as blocks:
            for _, line in lines(blocks, _MAX_LINE_BYTES):
                work.bytes += LINE_WORK
                if line is not None and line.startswith(b" CDX "):
                    fields = tuple(line.decode("utf-8", "replace").split()[1:])
                elif line is not None and wanted in line:
                    stated = _of_json(line) if b"{" in line and not _is_cdx(index) else _of_fields(line, fields)
                    if stated is not None and stated[0] == url:
                        yield IndexedRecord(stated[2].rpartition("/")[2], stated[1])
    except UnreadableRest:
        return


def _is_cdx(index: str) -> bool:
    return index.removesuffix(compression_ending(index)).endswith(".cdx")


def _of_json(line: bytes) -> tuple[str, int, str] | None:
    """(URL, offset, name of the archive) of a line of CDXJ."""
    try:
        stated = json.loads(line[line.index(b"{") :])
        offset = str(stated["offset"])
        return (str(stated["url"]), int(offset), str(stated.get("filename", ""))) if _is_offset(offset) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _of_fields(line: bytes, fields: tuple[str, ...]) -> tuple[str, int, str] | None:
    """(URL, offset, name of the archive) of a line of CDX."""
    values = dict(zip(fields, line.decode("utf-8", "replace").split(), strict=False))
    offset = values.get(_OFFSET, "")
    if not _is_offset(offset):
        return None
    return values.get(_URL, ""), int(offset), values.get(_NAME, "")
