"""Lines of a log that arrives as bytes, over connections that each begin at its first byte."""


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
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [_text(line) for line in lines]

    def end(self) -> list[str]:
        """The last line, if the log does not end with a line feed."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r")
