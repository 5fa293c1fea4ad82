"""Documents as token ids, each with a label that says whether the loss counts its prediction.

    text    every token, and the end of the text; not the first token, which nothing predicts
    pair    with a chat template a conversation of two turns; else prompt and completion as they stand, and the end
    chat    what the assistant says, the token that ends its turn included

A text is tokenised whole, so its tokens are those of the model's own tokenizer. Where a token would straddle the place
at which labels begin or end, the parts are tokenised apart, because at inference the prompt ends there: counted as
`tokenised_apart`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from training.pack.chat import Marked, Unfit, as_chat, mark
from training.pack.documents import Chat, Document, Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Checks on what a template and a tokenizer make of a document, rather than on the document.
TEMPLATE_REASONS = ("template_error", "unknown_role", "prompt_is_no_prefix", "no_end_of_turn", "doubled_bos")


class Example(NamedTuple):
    """ids: int32[tokens]. labels: bool[tokens]. document: index in the table. piece: which of its renderings."""

    document: int
    piece: int
    ids: np.ndarray
    labels: np.ndarray


class Misfit(NamedTuple):
    """A document of the table that gives no example."""

    document: int
    reason: str
    preview: str


@dataclass
class Encoded:
    """What became of some documents. notes: what was done to some of them, counted."""

    examples: list[Example]
    misfits: list[Misfit]
    notes: Counter[str]


class Encoder:
    """A tokenizer made ready. One thread; not to be shared between threads."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        from tokenizers import Tokenizer

        self.tokenizer = tokenizer
        # Special tokens are put here, and never truncated away; and post-processing would trim spaces off the offsets.
        plain = json.loads(tokenizer.backend_tokenizer.to_str())
        self.backend = Tokenizer.from_str(
            json.dumps(plain | dict.fromkeys(("post_processor", "truncation", "padding")))
        )
        self.start = _start(tokenizer, self.backend)
        self.bos = tokenizer.bos_token_id
        self.end = [tokenizer.eos_token_id]
        self.added = frozenset(tokenizer.added_tokens_decoder)

    def encode(self, documents: Sequence[Document]) -> Encoded:
        """All documents have the same form."""
        encoded = Encoded([], [], Counter())
        if documents and isinstance(documents[0].content, str):
            found = self._texts([str(document.content) for document in documents])
        else:
            found = self._marked(documents, encoded)
        for example in found:
            trouble = self._trouble(example)
            if trouble:
                encoded.misfits.append(Misfit(example.document, trouble, self._read(example.ids[:200].tolist())))
            else:
                encoded.examples.append(example)
        return encoded

    def _texts(self, texts: list[str]) -> Iterator[Example]:
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        found = [np.array(self._framed(encoding.ids)[0], np.int32) for encoding in encodings]
        learnt = np.ones(max(map(len, found), default=0), np.bool_)
        learnt[:1] = False
        for number, ids in enumerate(found):
            yield Example(number, 0, ids, learnt[: len(ids)])

    def _marked(self, documents: Sequence[Document], encoded: Encoded) -> Iterator[Example]:
        owners: list[tuple[int, int, bool]] = []
        marked: list[Marked] = []
        for number, document in enumerate(documents):
            chat = document.content
            if isinstance(chat, Pair) and not self.tokenizer.chat_template:
                text = chat.prompt + chat.completion
                owners.append((number, 0, False))
                marked.append(Marked(text, ((len(chat.prompt), len(text)),)))
                continue
            try:
                assert isinstance(chat, Chat | Pair)
                renderings, unlearnt = mark(self.tokenizer, as_chat(chat) if isinstance(chat, Pair) else chat)
            except Unfit as unfit:
                encoded.misfits.append(Misfit(number, unfit.reason, unfit.preview))
                continue
            owners += [(number, piece, True) for piece in range(len(renderings))]
            marked += renderings
            encoded.notes["unlearnt_turns"] += unlearnt
            encoded.notes["extra_renderings"] += len(renderings) - 1
        found = self.backend.encode_batch([one.text for one in marked], add_special_tokens=False)
        for (number, piece, is_chat), one, encoding in zip(owners, marked, found, strict=True):
            ids = encoding.ids
            runs = _runs(np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 1], one.spans)
            if runs is None:
                ids, runs = self._apart(one)
                encoded.notes["tokenised_apart"] += 1
            if not is_chat:
                ids, shift = self._framed(ids)
                runs = [(runs[0][0] + shift, len(ids))]
            elif (ended := self._until_end_of_turn(ids, runs)) is None:
                encoded.misfits.append(Misfit(number, "no_end_of_turn", one.text))
                continue
            else:
                runs = ended
            labels = np.zeros(len(ids), np.bool_)
            for first, stop in runs:
                labels[first:stop] = True
            labels[0] = False
            yield Example(number, piece, np.array(ids, np.int32), labels)

    def _framed(self, ids: list[int]) -> tuple[list[int], int]:
        """With what begins and what ends a text, unless it brings them along; and how far its tokens moved."""
        start = [] if ids[: len(self.start)] == self.start else self.start
        end = [] if ids[-1:] == self.end else self.end
        return [*start, *ids, *end], len(start)

    def _apart(self, marked: Marked) -> tuple[list[int], list[tuple[int, int]]]:
        """The text cut at every end of a span, each part tokenised on its own."""
        ends = sorted({0, len(marked.text), *(place for span in marked.spans for place in span)})
        parts = [marked.text[start:end] for start, end in pairwise(ends)]
        found = [encoding.ids for encoding in self.backend.encode_batch_fast(parts, add_special_tokens=False)]
        at = dict(zip(ends, np.cumsum([0, *map(len, found)]).tolist(), strict=True))
        return [token for part in found for token in part], [(at[start], at[end]) for start, end in marked.spans]

    def _until_end_of_turn(self, ids: list[int], runs: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
        """Each run up to the token that ends the turn; None where a turn ends with no token of its own.

        What a template writes after it, a line feed mostly, is never generated.
        """
        ended = []
        for first, stop in runs:
            last = next((place for place in reversed(range(first, stop)) if ids[place] in self.added), None)
            if last is None or self._read(ids[last + 1 : stop]).strip():
                return None
            ended.append((first, last + 1))
        return ended

    def _read(self, ids: list[int]) -> str:
        return self.backend.decode(ids, skip_special_tokens=False)

    def _trouble(self, example: Example) -> str | None:
        ids = example.ids
        if self.bos is not None and len(ids) > 1 and ids[0] == ids[1] == self.bos:
            return "doubled_bos"
        return None if np.count_nonzero(example.labels) else "no_label"


def _runs(ends: np.ndarray, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """The tokens of each span of characters; None where a token straddles the beginning or the end of one.

    ends: where each token's characters end; the tokens of one character that is several share it.
    """
    places = np.array(spans, np.int64).reshape(-1, 2)
    tokens = np.searchsorted(ends, places, side="right")
    at = np.concatenate([[0], ends])[tokens]
    return [(int(first), int(stop)) for first, stop in tokens] if (at == places).all() else None


def _start(tokenizer: "PreTrainedTokenizerFast", plain: "object") -> list[int]:
    """What the tokenizer itself puts before a text: the BOS token, or nothing."""
    with_specials = tokenizer("a")["input_ids"]
    without = plain.encode("a", add_special_tokens=False).ids  # type: ignore[attr-defined]
    first = next(
        (at for at in range(len(with_specials)) if with_specials[at : at + len(without)] == without), len(with_specials)
    )
    return list(with_specials[:first])
