"""Prompts and reference answers from the packed rows of a held-out split.

The reference of a pair or a chat is the last span of trained tokens, and its prompt is everything before it. The prompt
of a text is its first tokens, and its reference the tokens after them. Pairs and chats that may have been cut, because
they are in several rows or fill a whole row, are left out: their answer may be incomplete.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

# Rows read for each wanted prompt, because some rows have none.
_ROWS_PER_PROMPT = 4


@dataclass(frozen=True)
class Prompt:
    """A prompt. document: id of its document. ids: its tokens. reference: the answer's tokens, with the end of turn."""

    document: str
    ids: tuple[int, ...]
    reference: tuple[int, ...]


class RowReader(Protocol):
    """The part of `training.data.packed.PackedRows` that is used here."""

    rows: int

    def read(self, indices: Sequence[int]) -> list[pa.Table]:
        """The rows at these indices, a table of one row each."""


def held_out_prompts(
    rows: RowReader,
    documents: Iterable[pa.Table],
    form: str,
    count: int,
    prompt_tokens: int,
    reference_tokens: int,
    full: int,
) -> list[Prompt]:
    """At most `count` prompts of a packed split, from rows at even distances; every call gives the same ones.

    Args:
        rows: the split's rows. documents: the split's tables, with only the column `documents`.
        form: text, pair or chat. prompt_tokens, reference_tokens: lengths for form text.
        full: tokens of a full row.
    """
    found = [
        prompt
        for table in rows.read(evenly_spaced(rows.rows, _ROWS_PER_PROMPT * count))
        for document in row_documents(table)
        if (prompt := _prompt(document, form, prompt_tokens, reference_tokens, full))
    ]
    if form != "text":
        seen = _occurrences({prompt.document for prompt in found}, documents)
        found = [prompt for prompt in found if seen[prompt.document] == 1]
    return [found[at] for at in evenly_spaced(len(found), count)]


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` evenly spaced numbers from 0 to total - 1, both included; all numbers if there are at most `count`."""
    return np.linspace(0, total - 1, min(total, count)).astype(int).tolist()


@dataclass(frozen=True)
class RowDocument:
    """A document, or a part of a split one, in a row. trained: for each token, whether the loss counts it."""

    document: str
    ids: np.ndarray
    trained: np.ndarray


def row_documents(table: pa.Table) -> Iterator[RowDocument]:
    """The documents of a table's rows, in order."""
    for row in range(table.num_rows):
        ids, trained, lengths = (
            table[name][row].values.to_numpy(zero_copy_only=False) for name in ("ids", "labels", "lengths")
        )
        ends = np.cumsum(lengths)
        for document, start, end in zip(table["documents"][row].as_py(), ends - lengths, ends, strict=True):
            yield RowDocument(document, ids[start:end], trained[start:end])


def _prompt(document: RowDocument, form: str, prompt_tokens: int, reference_tokens: int, full: int) -> Prompt | None:
    if form == "text":
        start, stop = prompt_tokens, prompt_tokens + reference_tokens
    else:
        if len(document.ids) >= full or (span := last_trained_span(document.trained)) is None:
            return None
        start, stop = span
    given, wanted = document.ids[:start], document.ids[start:stop]
    if not len(given) or not len(wanted):
        return None
    return Prompt(document.document, tuple(map(int, given)), tuple(map(int, wanted)))


def last_trained_span(trained: np.ndarray) -> tuple[int, int] | None:
    """(start, stop) of the last contiguous span of true values; None if no value is true."""
    true = np.flatnonzero(trained)
    if not len(true):
        return None
    stop = int(true[-1]) + 1
    before = np.flatnonzero(~trained[:stop].astype(bool))
    return (int(before[-1]) + 1 if len(before) else 0), stop


def _occurrences(wanted: set[str], tables: Iterable[pa.Table]) -> Counter[str]:
    """How often each wanted document occurs in the rows. Memory grows with `wanted`, not with the rows."""
    seen: Counter[str] = Counter()
    for table in tables:
        for ids in table["documents"].to_pylist():
            seen.update(wanted.intersection(ids))
    return seen
