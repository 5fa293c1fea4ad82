"""fastText model files of every kind, with random weights."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raymill.pipelines.language.fasttext_file import Loss

_CENTROIDS = 256


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a written model is like.

    pruned: the share of buckets that have a row; None: all of them, unpruned. ties: many labels are equally probable.
    scale: of the weights; with large ones a label is certain and others impossible.
    """

    loss: Loss = Loss.SOFTMAX
    dimension: int = 8
    minn: int = 2
    maxn: int = 4
    word_ngrams: int = 1
    buckets: int = 500
    labels: int = 5
    names: tuple[str, ...] = ()  # of the labels; default: l0, l1, ...
    quantised: bool = False
    norms: bool = False
    output_quantised: bool = False
    part: int = 2
    pruned: float | None = None
    words: tuple[str, ...] = field(default=())
    end: bool = True
    version: int = 12
    ties: bool = False
    scale: float = 1.0


def write_model(path: Path, kind: Kind, seed: int = 0) -> Path:
    """Write a model in fastText's layout."""
    random = np.random.default_rng(seed)
    # The labels' counts fall, as fastText sorts them, with equal ones among them.
    counts = np.sort(random.integers(1, 40, kind.labels))[::-1]
    names = kind.names or [f"l{number}" for number in range(kind.labels)]
    words = (["</s>"] if kind.end else []) + list(dict.fromkeys(kind.words))
    entries = [(word, 1, 0) for word in words]
    entries += [(f"__label__{name}", int(count), 1) for name, count in zip(names, counts, strict=True)]
    kept = None
    if kind.pruned is not None:
        kept = np.flatnonzero(random.random(kind.buckets) < kind.pruned)
        random.shuffle(kept)
    rows = len(words) + (kind.buckets if kept is None else len(kept))
    with path.open("wb") as file:
        write = file.write
        write(struct.pack("<2i", 793712314, kind.version))
        write(struct.pack(
            "<12i", kind.dimension, 5, 5, 1, 5, kind.word_ngrams, kind.loss, 3, kind.buckets, kind.minn, kind.maxn, 100
        ))  # fmt: skip
        write(struct.pack("<d", 1e-4))
        write(struct.pack("<3i2q", len(entries), len(words), kind.labels, 1000, -1 if kept is None else len(kept)))
        for word, count, label in entries:
            write(word.encode() + b"\0" + struct.pack("<qb", count, label))
        if kept is not None:
            for row, bucket in enumerate(kept):
                write(struct.pack("<2i", bucket, row))
        write(struct.pack("<?", kind.quantised))
        matrix = _quantised if kind.quantised else _dense
        write(matrix(random, rows, kind))
        write(struct.pack("<?", kind.output_quantised))
        matrix = _quantised if kind.quantised and kind.output_quantised else _dense
        write(_zeros(kind) if kind.ties else matrix(random, kind.labels, kind))
    return path


def _dense(random: np.random.Generator, rows: int, kind: Kind) -> bytes:
    weights = random.normal(size=(rows, kind.dimension)).astype("<f4") * np.float32(kind.scale)
    return struct.pack("<2q", rows, kind.dimension) + weights.tobytes()


def _zeros(kind: Kind) -> bytes:
    return struct.pack("<2q", kind.labels, kind.dimension) + bytes(4 * kind.labels * kind.dimension)


def _quantised(random: np.random.Generator, rows: int, kind: Kind) -> bytes:
    parts = -(-kind.dimension // kind.part)
    codes = random.integers(0, _CENTROIDS, (rows, parts), dtype=np.uint8)
    found = struct.pack("<?2qi", kind.norms, rows, kind.dimension, codes.size) + codes.tobytes()
    found += _quantiser(random, kind.dimension, kind.part)
    if kind.norms:
        found += random.integers(0, _CENTROIDS, rows, dtype=np.uint8).tobytes() + _quantiser(random, 1, 1)
    return found


def _quantiser(random: np.random.Generator, dimension: int, part: int) -> bytes:
    parts = -(-dimension // part)
    header = struct.pack("<4i", dimension, parts, part, dimension - (parts - 1) * part)
    return header + random.normal(size=_CENTROIDS * dimension).astype("<f4").tobytes()
