"""Text in other encodings than UTF-8: files as blocks of UTF-8, and bytes in a charset that a page or mail names."""

import codecs
from collections.abc import Generator
from contextlib import closing
from itertools import chain

from cluster.readers.files.compression import UnreadableRest, stream
from cluster.readers.files.limits import Limits
from cluster.store.store import Store

_MARKS = {
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}
# Codecs of Python that are no charset of a text. That of punycode takes time with the square of the length.
_NO_CHARSETS = ("punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined")


def in_charset(content: bytes, charset: str) -> str:
    """The text of bytes in the charset that a page or a mail names.

    Raises:
        LookupError: there is no such charset. UnicodeError: the bytes are not of it.
    """
    if codecs.lookup(charset).name.replace("-", "_") in _NO_CHARSETS:
        raise LookupError(f"{charset} is no charset")
    return content.decode(charset)


def utf8_stream(store: Store, uri: str, limits: Limits, encoding: str | None) -> Generator[bytes, None, None]:
    """The decompressed file in blocks of UTF-8. encoding: Python's name of the file's encoding; None: UTF-8.

    A byte that the encoding does not have stays as it is, so that its line is found to be no UTF-8.

    Raises:
        UnreadableRest: as `stream`; or the file ends within a character (`truncated`), or has bytes that no character
            of the encoding begins with (`wrong_encoding`).
        StorageError: the store failed.
    """
    with closing(stream(store, uri, limits)) as blocks:
        if encoding is None:
            yield from blocks
            return
        first = next(blocks, b"")
        encoding = with_byte_order(encoding, first)
        # Halves of surrogate pairs of UTF-16 and UTF-32 become bytes that are no UTF-8, too.
        errors = "surrogatepass" if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")) else "surrogateescape"
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        try:
            for block in chain([first], blocks):
                yield decoder.decode(block).encode("utf-8", errors)
        except UnicodeError as error:
            raise UnreadableRest("wrong_encoding") from error
        try:
            yield decoder.decode(b"", final=True).encode("utf-8", errors)
        except UnicodeError as error:
            raise UnreadableRest("truncated") from error


def with_byte_order(encoding: str, head: bytes) -> str:
    """The encoding; of UTF-16 and UTF-32 without a byte-order mark with the order in which most text has it.

    head: the first bytes of the file.
    """
    name = codecs.lookup(encoding).name
    if name not in ("utf-16", "utf-32") or head.startswith(_MARKS[name]):
        return encoding
    width = 2 if name == "utf-16" else 4
    first, last = head[0:1000:width].count(0), head[width - 1 : 1000 : width].count(0)
    return f"{name}-{'be' if first > last else 'le'}"
