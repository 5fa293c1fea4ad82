"""Bounds on the sizes of documents and files, and on the time for a document: `limits` of a config."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from cluster.guard import Exceeded, WorkBounds

# Bytes of a line for other keys and columns than the text, which have no bound of their own. While a line is parsed, it
# takes up to five times its bytes of memory.
OTHER_BYTES = 64 << 20

# Memory for extracting the text of a document: for any document, and for each of its bytes.
_PARSER_BYTES = 512 << 20
_PARSER_BYTES_PER_BYTE = 32
# Documents that are read again have this multiple of the time of the first reading.
_AGAIN = 4


class Limits(BaseModel):
    """Bounds on the size of a document and the time for it, and on the size of a decompressed file.

    Documents and files beyond them are quarantined.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_document_bytes: int = Field(
        default=10_000_000,
        ge=1,
        le=2_000_000_000,
        description="largest text, in bytes of UTF-8; for a web page, largest HTML",
    )
    max_expansion_ratio: float = Field(default=1000.0, gt=1, description="decompressed bytes per byte of a file")
    max_expanded_gib: float = Field(default=64.0, gt=0, description="decompressed size of one file")
    max_block_mib: int = Field(
        default=256,
        ge=1,
        le=1 << 20,
        description="largest part of a file that has to be in memory at once: the window of a zstd file, a record "
        "batch of an Arrow file, a page of a Parquet file; MiB",
    )
    document_s: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="processor time in seconds for extracting the text of one document (HTML, PDF, Word, transcript, "
        "e-mail message), and again for each megabyte of it",
    )
    # Place of a document -> (problem, bound) of the first reading.
    _exceeded: Mapping[str, tuple[str, str]] = PrivateAttr(default_factory=dict)

    def of_parser(self, where: str, size: int) -> WorkBounds:
        """The bounds on extracting the text of a document of `size` bytes. where: its place.

        Raises:
            Exceeded: it exceeded them when it was read first.
        """
        if where in self._exceeded:
            raise Exceeded(*self._exceeded[where])
        return WorkBounds(self.document_s * (1 + size / 1e6), _PARSER_BYTES + _PARSER_BYTES_PER_BYTE * size)

    def again(self, exceeded: Mapping[str, tuple[str, str]]) -> Self:
        """The limits of a later reading, so that the same documents exceed them.

        Each of `exceeded`, by its place, exceeds them at once; all others have more time than before.
        """
        later = self.model_copy(update={"document_s": _AGAIN * self.document_s})
        later._exceeded = exceeded
        return later

    @property
    def block_bytes(self) -> int:
        """Largest part of a file in memory; never too small for one with a few of the largest documents."""
        return max(self.max_block_mib << 20, 4 * self.max_document_bytes)

    @property
    def harmless_bytes(self) -> int:
        """Decompressed size up to which expansion is not checked: blanks in a small file also compress 1,000 to 1."""
        return 4 * self.max_document_bytes + (1 << 20)

    @property
    def max_line_bytes(self) -> int:
        """Longest line that is read. JSON escapes take up to three bytes for one byte of UTF-8."""
        return 3 * self.max_document_bytes + OTHER_BYTES

    def is_bomb(self, expanded_bytes: int, compressed_bytes: int) -> bool:
        """Whether a file that expanded to `expanded_bytes` is over max_expansion_ratio or max_expanded_gib."""
        if expanded_bytes <= self.harmless_bytes:
            return False
        ratio_exceeded = expanded_bytes > self.max_expansion_ratio * max(compressed_bytes, 1)
        return ratio_exceeded or expanded_bytes > self.max_expanded_gib * 2**30
