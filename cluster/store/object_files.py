"""Objects as files: `Onward` for sequential reading, `Parts` for reading announced parts. Both fetch ahead.

    Onward   text, archives, copies: pieces that grow to 8 MiB; the next one is fetched while one is used
    Parts    Parquet: the announced column chunks, neighbours in one request, up to 16 MiB before they are used

pyarrow's own `pre_buffer` merges chunks less than 8 KiB apart, fetches one range at a time through a Python file and
nothing ahead; obstore's `get_ranges` merges chunks up to 1 MiB apart, so it fetches most of the unread columns too.
"""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import pyarrow as pa

FIRST_BYTES = 1 << 20
PIECE_BYTES = 8 << 20
TAIL_BYTES = 256 << 10  # a Parquet footer, or a whole small file
_AHEAD_BYTES = 16 << 20
_MAX_HOLE_BYTES = 64 << 10  # fetched at 100 MB/s in less than a tenth of the time of another request
_THREADS = 8

Fetch = Callable[[int, int], bytes]  # fetch(start, end) of one object, one request
Range = tuple[int, int]


@cache
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "fetch")


class _ObjectFile(io.RawIOBase):
    """Base class. A subclass has `_read(start, end)`, which returns these bytes; the range is inside the object."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"cannot seek to byte {at}")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        start = self._at
        end = self._size if size < 0 else min(start + size, self._size)
        data = self._read(start, end) if start < end else b""
        self._at = start + len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, start: int, end: int) -> bytes:
        raise NotImplementedError


class Onward(_ObjectFile):
    """A file for sequential reading. A read at another position starts again there, with a piece of FIRST_BYTES.

    stop: bytes from here on are fetched only when they are read. size: of the object, in bytes.
    """

    def __init__(self, fetch: Fetch, size: int, stop: int | None = None) -> None:
        super().__init__(size)
        self._fetch = fetch
        self._stop = size if stop is None else min(stop, size)
        self._piece, self._start, self._length = memoryview(b""), 0, FIRST_BYTES
        self._next: Future[bytes] | None = None

    def close(self) -> None:
        self._next = None
        super().close()

    def _read(self, start: int, end: int) -> bytes:
        found = []
        while start < end:
            if not self._start <= start < self._start + len(self._piece):
                self._load(start, end - start)
            part = self._piece[start - self._start : end - self._start]
            found.append(part)
            start += len(part)
        return b"".join(found)

    def _load(self, start: int, wanted: int) -> None:
        goes_on = len(self._piece) > 0 and start == self._start + len(self._piece) and start != self._stop
        self._length = min(2 * self._length, PIECE_BYTES) if goes_on else FIRST_BYTES
        if goes_on and self._next is not None:
            piece = self._next.result()
        else:
            piece = self._fetch(start, self._end(start, max(self._length, wanted)))
        self._piece, self._start = memoryview(piece), start
        following = start + len(piece)
        is_next = goes_on and following < self._stop
        ahead = min(2 * self._length, PIECE_BYTES)
        self._next = _fetchers().submit(self._fetch, following, self._end(following, ahead)) if is_next else None

    def _end(self, start: int, length: int) -> int:
        return min(start + length, self._stop if start < self._stop else self._size)


@dataclass
class _Download:
    """A range that one request fetches. unread: bytes of it that are still to be read."""

    start: int
    end: int
    unread: int
    data: Future[bytes] | None = None


class Parts(_ObjectFile):
    """A file for reading parts. Announced parts are fetched ahead; each other part takes one request.

    tail: the last bytes of the object, which were read before. size: of the object, in bytes.
    inspect: called with (position, bytes) of each read before it returns; may raise.
    """

    def __init__(self, fetch: Fetch, size: int, tail: bytes) -> None:
        super().__init__(size)
        self._fetch = fetch
        self.inspect: Callable[[int, bytes], None] = lambda start, data: None
        self._tail, self._tail_start = tail, size - len(tail)
        self._held: list[_Download] = []
        self._planned: list[_Download] = []

    def close(self) -> None:
        self._held, self._planned = [], []
        super().close()

    def will_read(self, groups: Sequence[Sequence[Range]]) -> None:
        """Announce the ranges that will be read. groups: in this order; the ranges of one group are read in turns."""
        inside = [[(start, min(end, self._tail_start)) for start, end in group] for group in groups]
        self._held, self._planned = [], merged([[part for part in group if part[0] < part[1]] for group in inside])
        self._fetch_ahead()

    def _read(self, start: int, end: int) -> bytes:
        found, first = [], start
        while start < end:
            if start >= self._tail_start:
                part = self._tail[start - self._tail_start : end - self._tail_start]
            elif (piece := self._piece_at(start)) is not None:
                assert piece.data is not None
                part = piece.data.result()[start - piece.start : end - piece.start]
                piece.unread -= len(part)
                if piece.unread <= 0:
                    self._held.remove(piece)
                self._fetch_ahead()
            else:
                part = self._fetch(start, min(end, self._tail_start))
            found.append(part)
            start += len(part)
        data = found[0] if len(found) == 1 else b"".join(found)
        self.inspect(first, data)
        return data

    def _piece_at(self, at: int) -> _Download | None:
        for pieces in (self._held, self._planned):
            for piece in pieces:
                if piece.start <= at < piece.end:
                    if piece.data is None:  # read earlier than expected
                        self._planned.remove(piece)
                        self._hold(piece)
                    return piece
        return None

    def _fetch_ahead(self) -> None:
        while self._planned and sum(piece.end - piece.start for piece in self._held) < _AHEAD_BYTES:
            self._hold(self._planned.pop(0))

    def _hold(self, piece: _Download) -> None:
        piece.data = _fetchers().submit(self._fetch, piece.start, piece.end)
        self._held.append(piece)
        if sum(held.end - held.start for held in self._held) > 2 * _AHEAD_BYTES:
            self._held.pop(0)  # it was announced, but not read to its end


class PartsFile(pa.PythonFile):
    """`Parts` as a file of pyarrow, for its readers. mode: "r"."""

    def __init__(self, parts: Parts, mode: str) -> None:  # pyarrow takes both arguments before this is called
        self.parts = parts


def merged(groups: Sequence[Sequence[Range]]) -> list[_Download]:
    """The pieces that contain the ranges, in the order of use. Neighbouring ranges share a piece.

    A piece has at most PIECE_BYTES: longer ranges are cut. The pieces of a group are sorted by the fraction of their
    range that precedes them, because the ranges of a group are read in turns.
    """
    pieces: list[_Download] = []
    for group in groups:
        cut = [
            ((at - start) / (end - start), at, min(at + PIECE_BYTES, end))
            for start, end in group
            for at in range(start, end, PIECE_BYTES)
        ]
        for _, start, end in sorted(cut):
            last = pieces[-1] if pieces else None
            if last and 0 <= start - last.end <= _MAX_HOLE_BYTES and end - last.start <= PIECE_BYTES:
                last.end, last.unread = end, last.unread + end - start
            else:
                pieces.append(_Download(start, end, end - start))
    return pieces
