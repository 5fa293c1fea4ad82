"""Bounds on the sizes of documents and files: `limits` of a config."""

from pydantic import BaseModel, ConfigDict, Field

# Bytes of a line for other keys and columns than the text, which have no bound of their own. While a line is parsed, it
# takes up to five times its bytes of memory.
OTHER_BYTES = 64 << 20


class Limits(BaseModel):
    """Bounds on the sizes of a document and of a decompressed file. Larger ones are quarantined."""

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
        "batch of an Arrow file; MiB",
    )

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
