"""What deduplication compares of records: of whole ones, of questions, or of answers."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.dedup import signatures
from pipelines.dedup.settings import Dedup
from pipelines.dedup.sketches import SKETCH_TYPE, Sketches
from pipelines.text.lines import count_characters
from pipelines.text.texts import Texts

ATTRIBUTES_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("text_hash", pa.binary(16)),
        ("characters", pa.int64()),
        ("signature", SKETCH_TYPE),
    ]
)


def same(text: str) -> str:
    """The text without what does not make another question: case, white space, and marks at the end."""
    return " ".join(text.lower().split()).rstrip(" .?!")


def attributes(
    rows: Sequence[int] | np.ndarray,
    ids: Sequence[str | None],
    sources: Sequence[str],
    strings: Sequence[str],
    dedup: Dedup | None,
    key: Callable[[str], str] = same,
) -> pa.Table:
    """The table that deduplication takes, a row for each text.

    dedup: None: without signatures. key: texts for which it is equal are exact duplicates.
    """
    texts = Texts.from_strings(list(strings))
    hashes = [hashlib.blake2b(key(one).encode(), digest_size=16).digest() for one in strings]
    columns: dict[str, Any] = {
        "row": rows,
        "id": ids,
        "source": sources,
        "text_hash": pa.array(hashes, pa.binary(16)),
        "characters": count_characters(texts),
        "signature": pa.nulls(len(texts), SKETCH_TYPE),
    }
    if dedup:
        a, b = signatures.permutations(math.prod(dedup.banding), dedup.seed)
        words, starts, _ = signatures.signatures_or_sets(
            texts, dedup.ngram_words, a, b, exact_short=dedup.exact_short, symbols=dedup.symbols
        )
        columns["signature"] = Sketches(words, starts).to_column()
    return pa.table(columns, schema=ATTRIBUTES_SCHEMA)
