"""Lines of a file of any size, in bounded memory."""

from collections.abc import Iterable, Iterator

BOM = b"\xef\xbb\xbf"


def lines(blocks: Iterable[bytes], max_line_bytes: int, offset: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """(offset of the line, its bytes without the line feed); None in place of a line over `max_line_bytes`.

    A carriage return stays. A byte-order mark at offset 0 goes. A last line without line feed counts. Where `blocks`
    raises, the unfinished line is not delivered: it is part of what was lost.
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


def _line(line: bytes, offset: int, max_line_bytes: int) -> bytes | None:
    if len(line) > max_line_bytes:
        return None
    return line.removeprefix(BOM) if offset == 0 else line
