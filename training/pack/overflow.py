"""Documents that are longer than a row: split, truncated or dropped; counters of these, and sentences about them.

An example is a tokenised document, or one of the renderings of a chat whose template changes earlier turns.

The pieces of a split document overlap by one token, from which the next token is predicted. The loss does not count it
again, because the first flag `trained` of a piece is false. So the loss counts each trained token of a document exactly
once, for any length of a row.

A truncated document ends with the last trained token that fits, so it does not end with a part of a question. If the
question fills the row, the document is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster.artifact import Counters
from cluster.entry import Entry
from cluster.examples.splits import SPLITS
from training.data.packed import token_weights

_copy_runs = Entry("training.pack.best_fit:copy_runs")  # numba takes a second to import

# Counters of assistant turns whose conversation is an example. NOT_TRAINED is a prefix, which the reason follows.
NOT_TRAINED = "turns_not_trained/"
WITHOUT_REASONING = "turns_without_reasoning"
THINKING_OFF = "turns_with_thinking_off"

# A note is a warning if it is about a larger share of documents, examples or tokens.
WARNED_SHARE = 0.01

# Counters of examples longer than a row (see `cut`): examples -> (tokens, sentence).
_LOST = {
    "documents_dropped": (
        "tokens_dropped",
        "are longer than a row of {length} tokens and left out, with {tokens}",
    ),
    "documents_truncated": (
        "tokens_truncated",
        "are longer than a row of {length} tokens and truncated: {tokens} are lost",
    ),
    "documents_all_question": (
        "tokens_all_question",
        "have a question that fills a row of {length} tokens and are left out, with {tokens}",
    ),
}
COUNTERS = (
    *(name for documents, (tokens, _) in _LOST.items() for name in (documents, tokens)),
    "documents_split",
    "label_tokens_apart",
)


@dataclass(frozen=True)
class DocumentPieces:
    """P pieces of D documents with T tokens. Token n of piece p is `ids[starts[p] + n]`.

    ids: int32[T], trained: bool[T], weights: float32[T], of all documents concatenated; weights is None if all are 1.
    documents: int64[P], index of a piece's document.
    starts, sizes: int64[P]. names: string[D]. classes: int32[D].
    """

    ids: np.ndarray
    trained: np.ndarray
    documents: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    names: pa.Array
    classes: pa.Array
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, chosen: np.ndarray) -> "DocumentPieces":
        """The pieces at `chosen`, int64[N] indices or bool[P], in that order."""
        documents, starts, sizes = self.documents[chosen], self.starts[chosen], self.sizes[chosen]
        return replace(self, documents=documents, starts=starts, sizes=sizes)

    def tokens(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """`ids`, `trained` and `weights` of all pieces, concatenated; the first flag of each piece is false."""
        ids, trained = self._copied(self.ids), self._copied(self.trained)
        trained[np.cumsum(self.sizes) - self.sizes] = False
        return ids, trained, None if self.weights is None else self._copied(self.weights)

    def _copied(self, values: np.ndarray) -> np.ndarray:
        copied = np.empty(self.sizes.sum(), values.dtype)
        _copy_runs(values, self.starts, self.sizes, copied)
        return copied

    def label_tokens(self) -> np.ndarray:
        """Tokens of each piece that the loss counts: int64[P]."""
        before = np.concatenate([[0], np.cumsum(self.trained)])
        return before[self.starts + self.sizes] - before[np.minimum(self.starts + 1, self.starts + self.sizes)]

    def have_question(self) -> np.ndarray:
        """Whether a piece has tokens after its first that are not trained on: bool[P]."""
        return self.label_tokens() < self.sizes - 1


def cut(examples: pa.Table, length: int, overflow: str, classify: bool) -> tuple[DocumentPieces, Counters]:
    """(pieces of at most `length` tokens, in the order of the documents; counters of what was cut or left out).

    Pieces without a trained token after their first one are left out, unless `classify` (see PackingRule).
    """
    examples = examples.combine_chunks()
    whole = _whole(examples)
    long = whole.sizes > length
    counters: Counters = {}
    if overflow == "split":
        # The first piece has `length` tokens, each further one length - 1 new ones.
        counts = np.where(long, 1 + -(-(whole.sizes - length) // (length - 1)), 1)
        documents = np.repeat(np.arange(len(whole)), counts)
        number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
        pieces = whole.take(documents)
        skipped = number * (length - 1)
        pieces = replace(pieces, starts=pieces.starts + skipped, sizes=np.minimum(pieces.sizes - skipped, length))
        counters["documents_split"] = long.sum()
        counters["tokens_repeated"] = (counts - 1).sum()
        if not classify:
            counters["label_tokens_apart"] = pieces.label_tokens()[
                (number > 0) & whole.have_question()[documents]
            ].sum()
    elif overflow == "truncate":
        sizes = np.minimum(whole.sizes, length)
        if not classify:
            sizes[long] = [trained_end(whole.trained[start : start + length]) for start in whole.starts[long]]
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


def trained_end(trained: np.ndarray) -> int:
    """Number of tokens up to the last one that the loss counts; 0 if it counts none. The first is never counted."""
    counted = np.flatnonzero(trained[1:])
    return int(counted[-1]) + 2 if len(counted) else 0


def _whole(examples: pa.Table) -> DocumentPieces:
    """Each document with a token as one piece."""
    ids, trained, names, classes = (_only_chunk(examples[name]) for name in ("ids", "labels", "document", "label"))
    offsets = ids.offsets.to_numpy().astype(np.int64)
    first, last = offsets[0], offsets[-1]
    flat = trained.values.slice(trained.offsets[0].as_py(), last - first)
    pieces = DocumentPieces(
        ids=ids.values.to_numpy()[first:last],
        trained=flat.to_numpy(zero_copy_only=False),
        documents=np.arange(len(ids)),
        starts=offsets[:-1] - first,
        sizes=np.diff(offsets),
        names=names,
        classes=classes,
        weights=token_weights(_only_chunk(examples["weights"]), np.diff(offsets)),
    )
    return pieces.take(pieces.sizes > 0)


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


class Note(NamedTuple):
    """A sentence about examples. words: without a full stop. share: the largest lost share that it names."""

    words: str
    share: float

    @property
    def warned(self) -> bool:
        """Whether more than WARNED_SHARE is lost."""
        return self.share > WARNED_SHARE


def totals(tokenised: Counters) -> dict[str, int]:
    """{examples, tokens, label_tokens} of a corpus before packing, from the counters of tokenising."""
    sums = {
        name: sum(int(tokenised.get(f"{name}/{split}", 0)) for split in SPLITS) for name in ("tokens", "label_tokens")
    }
    return {"examples": int(tokenised.get("examples", tokenised.get("documents", 0)))} | sums


def left_out(tokenised: Counters) -> list[Note]:
    """At most one note: the number of documents left out for each reason, from the counters of tokenising."""
    reasons = {name.partition("/")[2]: count for name, count in tokenised.items() if name.startswith("left_out/")}
    lost = sum(reasons.values())
    if not lost:
        return []
    by_reason = ", ".join(
        f"{count:,.0f} {name}" for name, count in sorted(reasons.items(), key=lambda one: -one[1]) if count
    )
    whole = lost + tokenised.get("documents", 0)
    return [Note(f"{_of(lost, whole, 'documents')} are left out: {by_reason}", _share(lost, whole))]


def turns(tokenised: Mapping[str, float]) -> list[Note]:
    """Notes about assistant turns, from the counters of tokenising: not trained on, without reasoning, not thinking."""
    every = tokenised.get("turns", 0)
    reasons = {
        name.removeprefix(NOT_TRAINED): int(count) for name, count in tokenised.items() if name.startswith(NOT_TRAINED)
    }
    found = []
    if lost := sum(reasons.values()):
        by_reason = ", ".join(f"{count:,} {name}" for name, count in sorted(reasons.items(), key=lambda one: -one[1]))
        found.append(
            Note(f"{_of(lost, every, 'assistant turns')} are not trained on: {by_reason}", _share(lost, every))
        )
    if bare := tokenised.get(WITHOUT_REASONING, 0):
        words = "are trained on without their reasoning, which the chat template does not write"
        found.append(Note(f"{_of(bare, every, 'assistant turns')} {words}", _share(bare, every)))
    if off := tokenised.get(THINKING_OFF, 0):
        words = (
            "have no reasoning and are trained on after the prompt with thinking switched off: switch it off at "
            "inference too, or make it the default by model.chat_template_kwargs (enable_thinking: false)"
        )
        found.append(Note(f"{_of(off, every, 'assistant turns')} {words}", 0))
    return found


def notes(whole: Mapping[str, int], counted: Mapping[str, float], length: int) -> list[Note]:
    """Notes about examples longer than a row: one for each of dropped, truncated, all question, and split.

    Args:
        whole: `totals` of the corpus. counted: COUNTERS of its packing. length: tokens of a row.
    """
    found = []
    for documents, (tokens, words) in _LOST.items():
        if number := counted.get(documents, 0):
            lost = counted.get(tokens, 0)
            sentence = words.format(length=f"{length:,}", tokens=_of(lost, whole["tokens"], "tokens"))
            share = max(_share(number, whole["examples"]), _share(lost, whole["tokens"]))
            found.append(Note(f"{_of(number, whole['examples'], 'examples')} {sentence}", share))
    if number := counted.get("documents_split", 0):
        sentence = f"{_of(number, whole['examples'], 'examples')} are longer than a row of {length:,} tokens and split"
        apart = counted.get("label_tokens_apart", 0)
        if apart:
            sentence += f": {_of(apart, whole['label_tokens'], 'label tokens')} are in pieces without their question"
        found.append(Note(sentence, _share(apart, whole["label_tokens"])))
    return found


def _of(part: float, whole: float, what: str) -> str:
    return f"{part:,.0f} of {whole:,.0f} {what} ({_share(part, whole):.1%})"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
