"""Documents that are longer than a row: split, truncated or dropped, and every token of them counted.

A split document goes on in the next piece with its last token repeated: the loss does not count that token again (the
first label of a piece is false), and it is what the next token is predicted from. So each labelled token of a document
is learnt exactly once, whatever the length of a row.

A truncated document keeps its start up to the last learnt token that fits, so each answer that is kept has its whole
question before it, and no half of a question stands at the end. Where the question alone fills the row, the document is
left out.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cluster.artifact import Counters


@dataclass(frozen=True)
class Pieces:
    """P runs of tokens of D documents. Token n of piece p is `ids[starts[p] + n]`.

    ids: int32[T], labels: bool[T], of all documents one after the other. documents, starts, sizes: int64[P].
    names: string[D], classes: int32[D].
    """

    ids: np.ndarray
    labels: np.ndarray
    documents: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    names: pa.Array
    classes: pa.Array

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, chosen: np.ndarray) -> "Pieces":
        """Some of the pieces, in the order of `chosen` (indices, or a mask)."""
        documents, starts, sizes = self.documents[chosen], self.starts[chosen], self.sizes[chosen]
        return replace(self, documents=documents, starts=starts, sizes=sizes)

    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels of all pieces one after the other; the first label of each piece is false."""
        from training.pack.best_fit import copy_runs  # numba takes a second to import

        ids, labels = np.empty(self.sizes.sum(), np.int32), np.empty(self.sizes.sum(), np.bool_)
        copy_runs(self.ids, self.starts, self.sizes, ids)
        copy_runs(self.labels, self.starts, self.sizes, labels)
        labels[np.cumsum(self.sizes) - self.sizes] = False
        return ids, labels

    def label_tokens(self) -> np.ndarray:
        """int64[P]: tokens of each piece that the loss counts."""
        before = np.concatenate([[0], np.cumsum(self.labels)])
        return before[self.starts + self.sizes] - before[np.minimum(self.starts + 1, self.starts + self.sizes)]

    def asks(self) -> np.ndarray:
        """bool[P]: pieces that have a question: tokens after the first that are read and not learnt."""
        return self.label_tokens() < self.sizes - 1


def cut(examples: pa.Table, length: int, overflow: str, classify: bool) -> tuple[Pieces, Counters]:
    """Pieces of at most `length` tokens, in the order of the documents, and what became of the rest.

    Pieces from which nothing is learnt (no label but the first token's) are left out, unless rows are to `classify`.
    """
    examples = examples.combine_chunks()
    whole = _whole(examples)
    long = whole.sizes > length
    counters: Counters = {}
    if overflow == "split":
        # A piece adds length - 1 new tokens, the first one `length`.
        counts = np.where(long, 1 + -(-(whole.sizes - length) // (length - 1)), 1)
        documents = np.repeat(np.arange(len(whole)), counts)
        number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
        pieces = whole.take(documents)
        skipped = number * (length - 1)
        pieces = replace(pieces, starts=pieces.starts + skipped, sizes=np.minimum(pieces.sizes - skipped, length))
        counters["documents_split"] = long.sum()
        counters["tokens_repeated"] = (counts - 1).sum()
        if not classify:
            counters["label_tokens_apart"] = pieces.label_tokens()[(number > 0) & whole.asks()[documents]].sum()
    elif overflow == "truncate":
        sizes = np.minimum(whole.sizes, length)
        if not classify:
            sizes[long] = [learnt_end(whole.labels[start : start + length]) for start in whole.starts[long]]
        all_question = sizes == 0
        counters["documents_truncated"] = (long & ~all_question).sum()
        counters["tokens_truncated"] = (whole.sizes - sizes)[~all_question].sum()
        counters["documents_all_question"] = all_question.sum()
        counters["tokens_all_question"] = whole.sizes[all_question].sum()
        pieces = replace(whole, sizes=sizes).take(~all_question)
    else:
        pieces = whole.take(~long)
        counters["documents_dropped"] = long.sum()
        counters["tokens_dropped"] = whole.sizes[long].sum()
    if not classify:
        useful = pieces.label_tokens() > 0
        counters["pieces_without_label"] = (~useful).sum()
        counters["tokens_without_label"] = pieces.sizes[~useful].sum()
        pieces = pieces.take(useful)
    return pieces, {name: int(value) for name, value in counters.items()}


def learnt_end(labels: np.ndarray) -> int:
    """Tokens up to and with the last one that the loss counts; 0 where it counts none. The first is never counted."""
    counted = np.flatnonzero(labels[1:])
    return int(counted[-1]) + 2 if len(counted) else 0


def _whole(examples: pa.Table) -> Pieces:
    """Every document that has a token as one piece."""
    ids, labels, names, classes = (_only_chunk(examples[name]) for name in ("ids", "labels", "document", "label"))
    offsets = ids.offsets.to_numpy().astype(np.int64)
    first, last = offsets[0], offsets[-1]
    flat = labels.values.slice(labels.offsets[0].as_py(), last - first)
    pieces = Pieces(
        ids=ids.values.to_numpy()[first:last],
        labels=flat.to_numpy(zero_copy_only=False),
        documents=np.arange(len(ids)),
        starts=offsets[:-1] - first,
        sizes=np.diff(offsets),
        names=names,
        classes=classes,
    )
    return pieces.take(pieces.sizes > 0)


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
