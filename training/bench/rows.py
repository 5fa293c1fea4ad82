"""Random packed rows: documents of random tokens, in random numbers and of random lengths, that fill a row exactly.

The tokens are drawn from a Zipf-like distribution, so that the embedding's gradient has the collisions of real text.
"""

import numpy as np
import pyarrow as pa

from training.data.batch import Batch, collate
from training.data.schema import PACKED


def random_batch(seed: tuple[int, ...], rows: int, length: int, documents: int, vocabulary: int) -> Batch:
    """`rows` rows of 1 to 2 x `documents` - 1 documents each, so `documents` on average.

    As in packed text, hardly two micro-batches have equally many documents. The same for the same arguments.
    """
    random = np.random.default_rng(seed)
    counts = random.integers(1, min(2 * documents, length), rows)
    table = pa.Table.from_pylist([_row(random, length, int(count), vocabulary) for count in counts], PACKED)
    return collate([table], rows, length, 0, documents)


def document_lengths(batches: list[Batch]) -> list[int]:
    """Of every document in the batches, whose rows are full."""
    starts = np.concatenate([(batch.position_ids == 0).ravel() for batch in batches])
    return np.diff(np.append(np.flatnonzero(starts), len(starts))).tolist()


def _row(random: np.random.Generator, length: int, documents: int, vocabulary: int) -> dict[str, object]:
    cuts = np.sort(random.choice(np.arange(1, length), documents - 1, replace=False))
    lengths = np.diff(np.concatenate([[0], cuts, [length]]))
    labels = np.ones(length, bool)
    labels[np.concatenate([[0], cuts])] = False
    return {
        "ids": (vocabulary * random.random(length) ** 3).astype(np.int32),
        "labels": labels,
        "lengths": lengths.astype(np.int32),
        "documents": [f"random-{number}" for number in range(documents)],
        "label": None,
    }
