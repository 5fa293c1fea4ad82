"""Lines of a file of any size, in bounded memory."""

from collections.abc import Iterable, Iterator
from contextlib import closing

from cluster.readers.files.compression import compression_ending, stream
from cluster.readers.files.limits import Limits
from cluster.readers.files.span import Span
from cluster.store.store import Store

BOM = b"\xef\xbb\xbf"


def lines(blocks: Iterable[bytes], max_line_bytes: int, offset: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """(offset of the line, its bytes without the line feed), in order; None in place of a line over `max_line_bytes`.

    Carriage returns remain. A byte-order mark at offset 0 is removed. A last line without a line feed is a line. If
    `blocks` raises, the line that it interrupts is lost.

    Args:
        offset: position of the first block in the file.
    """
    pending: list[bytes] = []
    held = 0
    too_long = False
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            whole = b"".join([*pending, block[:end]])
            pending, held = [], 0
            for line in whole[:-1].split(b"\n"):
                size = len(line) + 1
                if too_long:
                    too_long = False
                else:
                    yield offset, _line(line, offset, max_line_bytes)
                offset += size
        rest = block[end:]
        if too_long:
            offset += len(rest)
        elif rest:
            pending.append(rest)
            held += len(rest)
        if held > max_line_bytes:
            yield offset, None
            too_long = True
            offset += held
            pending, held = [], 0
    if held:
        yield offset, _line(b"".join(pending), offset, max_line_bytes)


def span_lines(store: Store, span: Span, limits: Limits) -> Iterator[tuple[int, bytes | None]]:
    """The lines that begin in a span of bytes, each with its offset; of a compressed file all lines, numbered from 1.

    None stands in place of a line over `limits.max_line_bytes`.

    Raises:
        UnreadableRest: the file is damaged, ends too early or exceeds the limits on expansion.
        StorageError: the store failed.
    """
    if compression_ending(span.uri):
        with closing(stream(store, span.uri, limits)) as blocks:
            for number, (_, line) in enumerate(lines(blocks, limits.max_line_bytes), start=1):
                yield number, line
        return
    # Reading starts one byte before the span: what follows the first line feed is then a line that begins in the span.
    begin = max(span.start - 1, 0)
    with closing(stream(store, span.uri, limits, begin, span.end)) as blocks:
        found = lines(blocks, limits.max_line_bytes, begin)
        if span.start:
            next(found, None)
        for offset, line in found:
            if offset >= span.end:
                return
            yield offset, line


def _line(line: bytes, offset: int, max_line_bytes: int) -> bytes | None:
    if len(line) > max_line_bytes:
        return None
    return line.removeprefix(BOM) if offset == 0 else line
