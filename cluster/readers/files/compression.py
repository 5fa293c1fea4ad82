"""Decompression of files as streams of bytes, with everything before a defect delivered.

gzip of many members, zstd of many frames and bzip2 of many streams are read to the last one. Memory is bounded by a
block of output however strongly the input is compressed.
"""

import bz2
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import PurePosixPath
from typing import Protocol

import zstandard

from cluster.readers.files.limits import Limits
from cluster.store.store import Store

_PLAIN_BLOCK = 1 << 20
_INPUT_BLOCK = 1 << 16
_OUTPUT_BLOCK = 1 << 16
# A zstd block of 4 bytes can stand for 128 KiB, and zstd has no bound on output: 2 KiB at a time make 64 MiB at worst.
_ZSTD_SLICE = 1 << 11
# A megabyte holds 100,000 members without content, each of which costs a decoder. Tools write single ones, as an end.
_MOST_EMPTY_MEMBERS = 1000
_STARTS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"BZh": ".bz2"}
_BZIP2_BLOCK = b"1AY&SY"  # after "BZh" and a digit: text may begin with these three letters, too


class UnreadableRest(Exception):
    """The rest of a file cannot be read; what came before was delivered.

    problem: not_compressed, corrupt_compression, expansion_bomb, large_block or truncated; readers have further ones.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def compression_of(head: bytes) -> str:
    """.gz, .zst or .bz2 by the first bytes of a file; else nothing."""
    if head.startswith(b"BZh") and head[4:10] != _BZIP2_BLOCK:
        return ""
    return next((ending for start, ending in _STARTS.items() if head.startswith(start)), "")


def compression_ending(uri: str) -> str:
    """.gz, .zst, .bz2 or nothing."""
    ending = PurePosixPath(uri).suffix.lower()
    return ending if ending in DECODERS else ""


def expanded_size(size: int, uri: str) -> int:
    """Estimate of the decompressed bytes: typical ratios of web text at each tool's default level."""
    return int(size * {".gz": 3, ".zst": 3.5, ".bz2": 4}.get(compression_ending(uri), 1))


def stream(
    store: Store, uri: str, limits: Limits, start: int = 0, stop: int | None = None
) -> Generator[bytes, None, None]:
    """The decompressed content of the file; plain files from byte `start`, and fetched ahead to `stop`.

    Raises:
        UnreadableRest: the file is damaged, ends too early or exceeds the limits on expansion.
        StorageError: the store failed.
    """
    ending = compression_ending(uri)
    with store.open_input(uri, None if ending else stop) as file:
        if not ending:
            file.seek(start)
            while block := file.read(_PLAIN_BLOCK):
                yield block
        else:
            yield from _expanded(lambda: file.read(_INPUT_BLOCK), ending, limits)


def _expanded(read: Callable[[], bytes], ending: str, limits: Limits) -> Iterator[bytes]:
    decoder_of = DECODERS[ending]
    decoder = decoder_of(limits)
    inside = False  # between the start and the end of a member
    compressed_bytes = expanded_bytes = before_member = empty_members = 0
    while data := read():
        compressed_bytes += len(data)
        while data or (inside and not decoder.needs_input):
            try:
                block = decoder.decompress(data, _OUTPUT_BLOCK)
            except (zlib.error, zstandard.ZstdError, OSError, EOFError, ValueError) as error:
                if "too much memory" in str(error):  # the window of a zstd frame
                    raise UnreadableRest("large_block") from error
                is_first = not expanded_bytes and compressed_bytes == len(data)
                is_other = is_first and compression_of(data) != ending
                raise UnreadableRest("not_compressed" if is_other else "corrupt_compression") from error
            inside, data = True, b""
            expanded_bytes += len(block)
            if limits.is_bomb(expanded_bytes, compressed_bytes):
                raise UnreadableRest("expansion_bomb")
            if block:
                yield block
            if decoder.eof:
                # Tape and disk tools pad files with zeros; anything else must be the next member.
                data = decoder.unused_data.lstrip(b"\0")
                decoder, inside = decoder_of(limits), False
                empty_members = empty_members + 1 if expanded_bytes == before_member else 0
                if empty_members > _MOST_EMPTY_MEMBERS:
                    raise UnreadableRest("corrupt_compression")
                before_member = expanded_bytes
    if inside:
        raise UnreadableRest("truncated")


class Decoder(Protocol):
    """As bz2.BZ2Decompressor: at most `max_length` bytes a call (zstd: a bounded number), the rest on the next."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    def __init__(self, limits: Limits) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        block = self._member.decompress(self._member.unconsumed_tail + data, max_length)
        self.needs_input = not self._member.unconsumed_tail and len(block) < max_length
        return block

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data


class _Zstd:
    def __init__(self, limits: Limits) -> None:
        # As large as a window may be that zstd can make; a file that needs less uses less.
        self._frame = zstandard.ZstdDecompressor(max_window_size=min(limits.block_bytes, 1 << 31)).decompressobj()
        self._waiting = self._ready = memoryview(b"")

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._waiting = memoryview(bytes(self._waiting) + data)
        if not self._ready:
            piece, self._waiting = self._waiting[:_ZSTD_SLICE], self._waiting[_ZSTD_SLICE:]
            self._ready = memoryview(self._frame.decompress(piece))
        block, self._ready = bytes(self._ready[:max_length]), self._ready[max_length:]
        return block

    @property
    def needs_input(self) -> bool:
        return not self._waiting and not self._ready

    @property
    def eof(self) -> bool:
        return self._frame.eof and not self._ready

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data + bytes(self._waiting)


DECODERS: dict[str, Callable[[Limits], Decoder]] = {
    ".gz": _Gzip,
    ".zst": _Zstd,
    ".bz2": lambda limits: bz2.BZ2Decompressor(),
}
