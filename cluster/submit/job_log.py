"""Lines of a log that arrives as bytes, over connections that each begin at its first byte."""

LONGEST_LINE = 1 << 20  # bytes; a longer line, such as one without an end, is given in pieces of this size


def split_lines(text: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines of a text, and the beginning of the one that is not complete."""
    *lines, rest = text.split(b"\n")
    if max(map(len, (*lines, rest))) <= LONGEST_LINE:
        return lines, rest
    lines = [line[at : at + LONGEST_LINE] for line in lines for at in range(0, len(line) or 1, LONGEST_LINE)]
    whole = len(rest) - len(rest) % LONGEST_LINE
    return lines + [rest[at : at + LONGEST_LINE] for at in range(0, whole, LONGEST_LINE)], rest[whole:]


class LogLines:
    """Splits a log into lines, each yielded once, whatever the number of connections that its bytes arrive over.

    A log is only ever appended to, so the number of bytes seen is the place to continue at.
    """

    def __init__(self) -> None:
        self._seen = 0  # bytes of the log
        self._skip = 0  # bytes that this connection repeats from here on
        self._rest = b""  # the beginning of a line that is not complete

    def connected(self) -> None:
        """A new connection begins, at the first byte of the log."""
        self._skip = self._seen

    def add(self, chunk: bytes) -> list[str]:
        """The lines that these bytes complete."""
        skipped = min(self._skip, len(chunk))
        self._skip -= skipped
        chunk = chunk[skipped:]
        self._seen += len(chunk)
        lines, self._rest = split_lines(self._rest + chunk)
        return [_text(line) for line in lines]

    def end(self) -> list[str]:
        """The last line, if the log does not end with a line feed."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r")
