"""Sentences with counts and shares about documents that were left out and examples that are longer than a row.

An example is a tokenised document; of a chat whose template rewrites history, one rendering of it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from cluster.artifact import Counters
from training.data.schema import SPLITS

# A note is a warning if it is about a larger share of documents, examples or tokens.
WARNED_SHARE = 0.01

# Counters of examples longer than a row (pieces.py): examples -> (tokens, sentence).
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


class Note(NamedTuple):
    """words: a sentence without its full stop. share: the largest share of something lost in it."""

    words: str
    share: float

    @property
    def warned(self) -> bool:
        return self.share > WARNED_SHARE


def totals(tokenised: Counters) -> dict[str, int]:
    """{examples, tokens, label_tokens} of a corpus before packing, from the counters of tokenising."""
    sums = {
        name: sum(int(tokenised.get(f"{name}/{split}", 0)) for split in SPLITS) for name in ("tokens", "label_tokens")
    }
    return {"examples": int(tokenised.get("examples", tokenised.get("documents", 0)))} | sums


def left_out(tokenised: Counters) -> list[Note]:
    """A note about documents that were left out, by reason, from the counters of tokenising; else none."""
    reasons = {name.partition("/")[2]: count for name, count in tokenised.items() if name.startswith("left_out/")}
    lost = sum(reasons.values())
    if not lost:
        return []
    by_reason = ", ".join(
        f"{count:,.0f} {name}" for name, count in sorted(reasons.items(), key=lambda one: -one[1]) if count
    )
    whole = lost + tokenised.get("documents", 0)
    return [Note(f"{_of(lost, whole, 'documents')} are left out: {by_reason}", _share(lost, whole))]


def notes(whole: Mapping[str, int], counted: Mapping[str, float], length: int) -> list[Note]:
    """A note for each way in which examples longer than a row were treated.

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
