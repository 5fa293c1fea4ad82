"""Held-out prompts, recovered from packed rows: what a model is given, and what it should say.

A packed row holds whole documents one after the other. Of a pair or a chat, the prompt is everything before the last
labelled run and the reference is that run; of a text, the prompt is its first tokens and the reference what follows.
Documents that were cut (they stand in several rows, or fill one to the brim) are passed over: their answers may have no
end. Texts may be cut anywhere, so every piece of one will do.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

# Rows looked at for each prompt that is wanted, since some give none. They are read one row group at a time.
_ROWS_PER_PROMPT = 4


@dataclass(frozen=True)
class Prompt:
    """`document`: its id. `ids`: tokens given. `reference`: tokens that should follow, the end of turn included."""

    document: str
    ids: tuple[int, ...]
    reference: tuple[int, ...]


class Rows(Protocol):
    """What of `training.data.packed.PackedRows` is used here."""

    rows: int

    def read(self, indices: Sequence[int]) -> list[pa.Table]: ...


def held_out_prompts(
    rows: Rows,
    documents: Iterable[pa.Table],
    form: str,
    count: int,
    prompt_tokens: int,
    reference_tokens: int,
    full: int,
) -> list[Prompt]:
    """At most `count` prompts of one packed split, the same ones every time, from rows all over it.

    Args:
        documents: the split's tables, with the column `documents` alone.
        form: text, pair or chat. prompt_tokens, reference_tokens: of a text.
        full: tokens of a full row.
    """
    found = [
        prompt
        for table in rows.read(spread(rows.rows, _ROWS_PER_PROMPT * count))
        for piece in pieces(table)
        if (prompt := _prompt(piece, form, prompt_tokens, reference_tokens, full))
    ]
    if form != "text":
        seen = _occurrences({prompt.document for prompt in found}, documents)
        found = [prompt for prompt in found if seen[prompt.document] == 1]
    return [found[at] for at in spread(len(found), count)]


def spread(total: int, count: int) -> list[int]:
    """`count` of the numbers below `total`, evenly, the first and the last among them; all where there are fewer."""
    return np.linspace(0, total - 1, min(total, count)).astype(int).tolist()


@dataclass(frozen=True)
class Piece:
    """One document of a row. `labels`: whether the loss counts the prediction of each of its tokens."""

    document: str
    ids: np.ndarray
    labels: np.ndarray


def pieces(table: pa.Table) -> Iterator[Piece]:
    """The documents of a table's rows, in order."""
    for row in range(table.num_rows):
        ids, labels, lengths = (
            table[name][row].values.to_numpy(zero_copy_only=False) for name in ("ids", "labels", "lengths")
        )
        ends = np.cumsum(lengths)
        for document, start, end in zip(table["documents"][row].as_py(), ends - lengths, ends, strict=True):
            yield Piece(document, ids[start:end], labels[start:end])


def _prompt(piece: Piece, form: str, prompt_tokens: int, reference_tokens: int, full: int) -> Prompt | None:
    if form == "text":
        start, stop = prompt_tokens, prompt_tokens + reference_tokens
    else:
        if len(piece.ids) >= full or (run := last_run(piece.labels)) is None:
            return None
        start, stop = run
    given, wanted = piece.ids[:start], piece.ids[start:stop]
    if not len(given) or not len(wanted):
        return None
    return Prompt(piece.document, tuple(map(int, given)), tuple(map(int, wanted)))


def last_run(labels: np.ndarray) -> tuple[int, int] | None:
    """Where the last unbroken run of true values starts and stops; None where nothing is true."""
    true = np.flatnonzero(labels)
    if not len(true):
        return None
    stop = int(true[-1]) + 1
    before = np.flatnonzero(~labels[:stop].astype(bool))
    return (int(before[-1]) + 1 if len(before) else 0), stop


def _occurrences(wanted: set[str], tables: Iterable[pa.Table]) -> Counter[str]:
    """In how many places of the rows each wanted document stands; memory goes with `wanted`, not with the rows."""
    seen: Counter[str] = Counter()
    for table in tables:
        for ids in table["documents"].to_pylist():
            seen.update(wanted.intersection(ids))
    return seen
