"""Sketches, from which similarities are computed: of a short document its shingle set, else its MinHash signature.

A document is short if it has fewer distinct shingles than a signature has columns (H). Its set takes less room than a
signature and gives the exact Jaccard similarity with another short document; signatures of 112 columns estimate it with
a standard error of 0.04. The signature and the band keys of a short document are computed from its set. H words are a
signature, fewer are a set: a document with exactly H shingles has a signature.

Two different shingles have the same 32-bit hash with a probability of 2^-32. Two sets of fewer than 112 have at most
222 shingles together, so for one pair of documents in 175,000 the similarity is wrong, by about 0.01.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import DataError
from pipelines.dedup.signatures import band_keys, signatures_of

# Bytes of a signature or set: little-endian uint32, one after the other; null for a document without a shingle.
SKETCH_TYPE = pa.large_binary()


@dataclass(frozen=True)
class Sketches:
    """Sketches of D documents, with H signature columns.

    words: uint32[W]. starts: int64[D + 1]: document d has words[starts[d]:starts[d + 1]]. H words are its signature,
    fewer are its distinct shingle hashes, sorted; a document without a shingle has none.
    """

    words: np.ndarray
    starts: np.ndarray

    @classmethod
    def from_column(cls, column: pa.ChunkedArray, columns: int) -> "Sketches":
        """Read the column `signature` of the attributes. columns: H.

        Raises:
            DataError: it holds no sketches, or one of more than H words. The kernels do not check lengths, and the
                attributes can be those of a run that somebody else made.
        """
        if column.type != SKETCH_TYPE:
            raise _changed(f"has the type {column.type}; wanted {SKETCH_TYPE}")
        parts, lengths = [np.empty(0, np.uint32)], [np.zeros(1, np.int64)]
        for chunk in filter(len, column.chunks):
            offsets = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            if (offsets % 4).any() or np.diff(offsets).max() > 4 * columns:
                raise _changed(f"has a value that is not of at most {columns} numbers of 4 bytes")
            starts = offsets // 4
            parts.append(np.frombuffer(chunk.buffers()[2], "<u4")[starts[0] : starts[-1]])
            lengths.append(np.diff(starts))
        # One chunk is not copied, since sketches are large.
        words = parts[1] if len(parts) == 2 else np.concatenate(parts)
        return cls(words, np.cumsum(np.concatenate(lengths)))

    def to_column(self) -> pa.Array:
        """The column `signature` of the attributes."""
        count = len(self.starts) - 1
        data = [None, pa.py_buffer(self.starts * 4), pa.py_buffer(self.words.astype("<u4", copy=False))]
        column = pa.Array.from_buffers(SKETCH_TYPE, count, data)
        return pc.if_else(pa.array(self.signed), column, pa.scalar(None, SKETCH_TYPE))

    @property
    def signed(self) -> np.ndarray:
        """bool[D]: whether each document has a shingle."""
        return np.diff(self.starts) > 0

    def signatures(self, a: np.ndarray, b: np.ndarray, found: np.ndarray | None = None) -> np.ndarray:
        """uint32[D, H]: the signature of every document, 2^32 - 1 in every column for one without a shingle.

        found: where to write them.
        """
        return signatures_of(self.words, self.starts, a, b, found)

    def band_keys(self, documents: np.ndarray, bands: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """uint64[N, bands]: the keys of N documents. documents: int64[N], their numbers."""
        return band_keys(self.words, self.starts, documents, bands, a, b)

    def sets(self, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """(uint32[S], int64[D + 1]): words and starts with the sets only; empty for documents with a signature.

        columns: H.
        """
        lengths = np.diff(self.starts)
        is_set = lengths < columns
        return self.words[np.repeat(is_set, lengths)], np.concatenate([[0], np.cumsum(lengths * is_set)])


def _changed(what: str) -> DataError:
    return DataError(
        f"attributes: the column signature {what}. The attributes of this run, or of one that dedup.against names, "
        "were changed after they were written: make that run again at another output."
    )
