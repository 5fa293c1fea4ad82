"""Reading a supervised fastText model from its file, .bin or quantised .ftz; writing one as .bin.

Layout: FastText::saveModel of fastText 0.9.2, little-endian. Files are not trusted: every count is compared with what
is left of the file before anything is allocated, and every index with what it points into.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

import numpy as np

from raymill.cluster.errors import ConfigError, StorageError
from raymill.pipelines.text.instructions import copy
from raymill.pipelines.text.kernel import kernel
from raymill.pipelines.text.texts import Texts

LABEL_PREFIX = "__label__"

_MAGIC, _NEWEST_VERSION, _SUPERVISED = 793712314, 12, 3
_AFTER_ENTRY = 10  # bytes after the text of an entry: a zero, its count, its kind
# Supervised models of this version or before have no character n-grams, whatever their header has.
_WITHOUT_NGRAMS = 11
_CENTROIDS = 256
# A quantised row has 4 bytes a dimension in memory, and in the file a byte for each part, which has `-dsub` dimensions:
# 2 by default, so rows grow 8 times. More than 16 dimensions a part are refused, and rows of any model above 8 GiB.
_MOST_GROWTH = 64
_MOST_ROW_BYTES = 1 << 33
_MOST_COUNT = 10**15
# Far above those of any model, which has 16 to 300 dimensions, up to some thousand labels, n-grams of up to 6, and
# weights below 100. Time and memory of a text grow with them, and with larger weights a sum may not be finite.
_MOST_DIMENSIONS, _MOST_LABELS, _LONGEST_NGRAM, _MOST_BUCKETS, _LARGEST_WEIGHT = 1024, 1 << 15, 20, 1 << 28, 10**6


class Loss(IntEnum):
    """How a model gives a label its probability, by fastText's number."""

    HIERARCHICAL_SOFTMAX = 1
    NEGATIVE_SAMPLING = 2
    SOFTMAX = 3
    ONE_VS_ALL = 4


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds, quantised matrices as numbers.

    A text is the mean of rows: W rows of words, then those of buckets. Bucket b has row W + b, or in a pruned model
    W + rows_of_buckets[i] where kept_buckets[i] == b, and no row if it is not kept.

    minn, maxn: lengths of the character n-grams of words, in characters; none if maxn is 0. word_ngrams: longest n-gram
    of words; 1 for none. buckets: number of hash values of n-grams of both kinds.
    entries: W words and then L labels.
    label_counts: int64[L], texts of each label in the training data.
    kept_buckets, rows_of_buckets: int64[K] each, None if the model is not pruned.
    rows: float32[R, dimension]. output: float32[L, dimension], output_scales: float32[L], the factor of each product.
    """

    loss: Loss
    dimension: int
    minn: int
    maxn: int
    word_ngrams: int
    buckets: int
    words: int
    entries: Texts
    label_counts: np.ndarray
    kept_buckets: np.ndarray | None
    rows_of_buckets: np.ndarray | None
    rows: np.ndarray
    output: np.ndarray
    output_scales: np.ndarray

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the model's order, without fastText's prefix."""
        data, offsets = self.entries.data, self.entries.offsets[self.words :].tolist()
        texts = (data[start:end].tobytes().decode(errors="replace") for start, end in pairwise(offsets))
        return tuple(text.removeprefix(LABEL_PREFIX) for text in texts)


class _Reader:
    """Takes values from a file, one after the other."""

    def __init__(self, path: Path, data: np.ndarray) -> None:
        self.path, self.data, self.at = path, np.asarray(data), 0

    def take(self, layout: str) -> tuple:
        """Values of a `struct` layout."""
        layout = f"<{layout}"
        return struct.unpack(layout, self.array(np.uint8, struct.calcsize(layout)).tobytes())

    def array(self, kind: type[np.generic], count: int) -> np.ndarray:
        """The next `count` numbers, copied."""
        self.check(count >= 0, f"a negative number of values ({count})")
        end = self.at + count * np.dtype(kind).itemsize
        if end > len(self.data):
            raise _cut_short(self.path)
        found = self.data[self.at : end].copy().view(kind)
        self.at = end
        return found

    def floats(self, count: int) -> np.ndarray:
        """The next `count` weights."""
        found = self.array(np.float32, count)
        for weight in (found.min(initial=0), found.max(initial=0)):  # NaN if a weight is
            self.check(bool(abs(weight) <= _LARGEST_WEIGHT), f"a weight of {weight:g}")
        return found

    def check(self, holds: bool, otherwise: str) -> None:
        """Refuse the file unless `holds`. otherwise: what it holds instead."""
        if not holds:
            raise ConfigError(f"{self.path}: this fastText model is damaged: {otherwise}. Copy or download it again.")


def read_model_file(path: Path) -> ModelFile:
    """Read a model. Memory: its rows as float32, once.

    Raises:
        StorageError: the file is truncated.
        ConfigError: it is not a supervised fastText model, or is damaged.
    """
    if path.stat().st_size < 8:
        raise _cut_short(path)
    reader = _Reader(path, np.memmap(path, np.uint8, "r"))
    magic, version = reader.take("2i")
    if magic != _MAGIC or version > _NEWEST_VERSION:
        raise ConfigError(
            f"{reader.path}: this is not a fastText model. Point `model` at a .bin or .ftz file that fastText wrote."
        )
    dimension, _, _, _, _, word_ngrams, loss, kind, buckets, minn, maxn, _ = reader.take("12i")
    reader.take("d")
    if kind != _SUPERVISED:
        raise ConfigError(
            f"{reader.path}: this fastText model holds word vectors and has no labels. "
            "Point `model` at a supervised model."
        )
    if version <= _WITHOUT_NGRAMS:
        maxn = 0
    reader.check(loss in tuple(Loss), f"loss {loss}")
    reader.check(dimension > 0, f"{dimension} dimensions")
    reader.check(0 <= buckets <= _MOST_BUCKETS, f"{buckets} buckets")
    reader.check(maxn <= _LONGEST_NGRAM, f"n-grams of {maxn} characters")
    reader.check(word_ngrams <= _LONGEST_NGRAM, f"n-grams of {word_ngrams} words")
    reader.check(buckets > 0 or (maxn <= 0 and word_ngrams <= 1), "n-grams and no bucket")

    count, words, labels, _, kept = reader.take("3i2q")
    reader.check(words >= 0 and labels > 0 and count == words + labels, f"{words} words, {labels} labels of {count}")
    if dimension > _MOST_DIMENSIONS or labels > _MOST_LABELS:
        raise ConfigError(
            f"{reader.path}: this fastText model has {dimension:,} dimensions and {labels:,} labels; at most "
            f"{_MOST_DIMENSIONS:,} and {_MOST_LABELS:,} are possible. Use a smaller model."
        )
    if count > len(reader.data):
        raise _cut_short(reader.path)
    offsets, counts, is_label = np.zeros(count + 1, np.int64), np.empty(count, np.int64), np.empty(count, np.bool_)
    first, reader.at = reader.at, _find_entries(reader.data, reader.at, offsets, counts, is_label)
    if reader.at < 0:
        raise _cut_short(reader.path)
    reader.check(bool(np.array_equal(is_label, np.arange(count) >= words)), "labels among its words")
    entries = np.empty(offsets[-1], np.uint8)
    _copy_entries(reader.data, first, offsets, entries)
    label_counts = counts[words:]
    reader.check(bool((label_counts >= 0).all() and (label_counts < _MOST_COUNT).all()), "an impossible label count")

    kept_buckets = rows_of_buckets = None
    if kept >= 0:
        pairs = reader.array(np.int32, 2 * kept).reshape(-1, 2).astype(np.int64)
        kept_buckets, rows_of_buckets = pairs[:, 0], pairs[:, 1]
        for name, values, limit in (("bucket", kept_buckets, buckets), ("row", rows_of_buckets, kept)):
            reader.check(bool((values >= 0).all() and (values < limit).all()), f"a kept {name} out of range")

    (quantised,) = reader.take("B")
    reader.check(quantised or kept < 0, "pruned and not quantised")
    rows, scales = _quantised(reader, dimension) if quantised else _dense(reader, dimension)
    wanted = words + (buckets if kept < 0 else kept)
    # A model without n-grams is sometimes saved without the rows of its buckets.
    unused = kept < 0 and maxn <= 0 and word_ngrams <= 1
    reader.check(len(rows) == wanted or (unused and len(rows) >= words), f"{len(rows)} rows, and wanted {wanted}")
    if scales is not None:
        rows *= scales[:, None]
    (output_quantised,) = reader.take("B")
    output, scales = _quantised(reader, dimension) if quantised and output_quantised else _dense(reader, dimension)
    reader.check(len(output) == labels, f"{len(output)} rows of labels, and wanted {labels}")
    return ModelFile(
        loss=Loss(loss), dimension=dimension, minn=minn, maxn=max(maxn, 0), word_ngrams=max(word_ngrams, 1),
        buckets=buckets, words=words, entries=Texts(entries, offsets), label_counts=label_counts,
        kept_buckets=kept_buckets, rows_of_buckets=rows_of_buckets, rows=rows, output=output,
        output_scales=np.ones(labels, np.float32) if scales is None else scales,
    )  # fmt: skip


def model_bytes(model: ModelFile, epochs: int, texts: int) -> bytes:
    """The .bin file of a model that is neither pruned nor quantised.

    epochs, texts: numbers of its training, for the header.
    """
    assert model.kept_buckets is None and (model.output_scales == 1).all()
    # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate; t follows.
    arguments = (
        model.dimension, 5, epochs, 1, 5, model.word_ngrams, model.loss, _SUPERVISED, model.buckets, model.minn,
        model.maxn, 100,
    )  # fmt: skip
    labels = len(model.label_counts)
    offsets, data = model.entries.offsets.tolist(), model.entries.data.tobytes()
    # fastText divides by the sum and the counts of words when it loads a model, and uses neither for predictions.
    counts = [1] * model.words + model.label_counts.tolist()
    entries = (
        data[start:end] + b"\0" + struct.pack("<qb", count, number >= model.words)
        for number, ((start, end), count) in enumerate(zip(pairwise(offsets), counts, strict=True))
    )
    parts = [
        struct.pack("<2i12id", _MAGIC, _NEWEST_VERSION, *arguments, 1e-4),
        struct.pack("<3i2q", model.words + labels, model.words, labels, max(texts, 1), -1),
        *entries,
    ]
    for matrix in (model.rows, model.output):
        parts += [struct.pack("<?2q", False, *matrix.shape), matrix.astype("<f4", copy=False).tobytes()]
    return b"".join(parts)


def _dense(reader: _Reader, dimension: int) -> tuple[np.ndarray, None]:
    """(float32[R, dimension], None)."""
    rows, columns = reader.take("2q")
    reader.check(columns == dimension, f"a matrix of {columns} columns, and wanted {dimension}")
    return reader.floats(rows * columns).reshape(rows, columns), None


def _quantised(reader: _Reader, dimension: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(float32[R, dimension], float32[R], the factor of each row, or None).

    Source: Jegou et al. 2011, product quantisation: a row is divided into parts, and each part is one of 256 centroids.
    """
    with_norms, rows, columns, size = reader.take("B2qi")
    reader.check(columns == dimension, f"a matrix of {columns} columns, and wanted {dimension}")
    codes = reader.array(np.uint8, size)
    parts, width, centroids = _centroids(reader, dimension)
    reader.check(rows >= 0 and rows * parts == size, f"{size} codes for {rows} rows of {parts} parts")
    most = min(_MOST_GROWTH * len(reader.data), _MOST_ROW_BYTES)
    if 4 * rows * dimension > most:
        raise ConfigError(
            f"{reader.path}: this quantised fastText model of {len(reader.data):,} bytes takes "
            f"{4 * rows * dimension:,} bytes in memory; at most {most:,} are possible: {_MOST_GROWTH} times the file, "
            f"and {_MOST_ROW_BYTES >> 30} GiB. Use a smaller model, or one that is quantised with a smaller -dsub."
        )
    codes, found = codes.reshape(rows, parts), np.empty((rows, dimension), np.float32)
    for part in range(parts):
        start = part * width
        of_part = centroids[part * _CENTROIDS * width :][: _CENTROIDS * min(width, dimension - start)]
        found[:, start : start + width] = of_part.reshape(_CENTROIDS, -1)[codes[:, part]]
    if not with_norms:
        return found, None
    norm_codes = reader.array(np.uint8, rows)
    _, _, norms = _centroids(reader, 1)
    return found, norms[norm_codes]


def _centroids(reader: _Reader, dimension: int) -> tuple[int, int, np.ndarray]:
    """(parts, dimensions of a part but the last, centroids of all parts: float32[256 * dimension])."""
    columns, parts, width, last = reader.take("4i")
    fits = columns == dimension and width > 0 and parts == -(-dimension // width)
    reader.check(fits and last == dimension - (parts - 1) * width, f"{parts} parts of {width} of {columns} columns")
    return parts, width, reader.floats(_CENTROIDS * dimension)


@kernel
def _find_entries(data, at, offsets, counts, is_label):
    """Read the entries from `at` on. Returns their end in the file; -1 if the file is too short.

    Fills offsets int64[E + 1], of their bytes one after the other from 0 on; counts int64[E]; is_label bool[E].
    """
    for found in range(len(counts)):
        end = at
        while end < len(data) and data[end]:
            end += 1
        if end + _AFTER_ENTRY > len(data):
            return -1
        number = np.uint64(0)
        for byte in range(8):
            number |= np.uint64(data[end + 1 + byte]) << np.uint64(8 * byte)
        counts[found], is_label[found] = np.int64(number), data[end + 9] != 0
        offsets[found + 1] = offsets[found] + end - at
        at = end + _AFTER_ENTRY
    return at


@kernel
def _copy_entries(data, first, offsets, entries):
    """Copy the entries, which begin at `first` in the file, to `entries` one after the other."""
    for entry in range(len(offsets) - 1):
        start = first + offsets[entry] + _AFTER_ENTRY * entry
        copy(data, start, start + offsets[entry + 1] - offsets[entry], entries, offsets[entry])


def _cut_short(path: Path) -> StorageError:
    return StorageError(f"{path}: this fastText model is shorter than its header requires. Copy or download it again.")
