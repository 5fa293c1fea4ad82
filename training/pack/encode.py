"""Documents as token ids, each with a flag `trained`: whether the loss counts the prediction of the token.

    text    every token and the end-of-text token, except the first token, which is not predicted
    pair    with a chat template a conversation of two turns; else the completion and the end-of-text token
    chat    the assistant's turns, with the token that ends each

A text is tokenised as a whole, as at inference. If a trained span starts or ends inside a token, the text is cut there
and the parts are tokenised separately, because at inference the prompt ends there (counter `tokenised_apart`). Control
tokens in a message are encoded as text, see special_text.py (counter `special_tokens_as_text`).
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from cluster.errors import ConfigError
from cluster.guard import Exceeded, Failed, Guard, WorkBounds
from training.pack.chat import Marked, as_chat, marked_renderings
from training.pack.documents import Chat, Document, Pair
from training.pack.loss_keys import BadWeight, Weighted, turn_notes, weights_of_turn
from training.pack.overflow import NOT_TRAINED
from training.pack.special_text import RestoredText, SpecialText
from training.pack.template import LIMITS, Unfit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Memory for the tokens of a text: about 60 bytes for each of its bytes, and several times that if each byte is a token.
_BYTES = 512 << 20
_BYTES_PER_BYTE = 512
# Reasons that are due to the template or tokenizer rather than to the document.
TEMPLATE_REASONS = (
    "template_error",
    "template_too_slow",
    "template_too_large",
    "tokenizer_error",
    "tokenizer_too_slow",
    "tokenizer_too_large",
    "unknown_role",
    "prompt_is_no_prefix",
    "no_end_of_turn",
    "doubled_bos",
    "message_not_rendered",
    "tool_calls_not_rendered",
    "reasoning_not_rendered",
)


class Example(NamedTuple):
    """ids: int32[T]. trained: bool[T]. document: index in the table. piece: number of the rendering of the document.
    weights: float32[T], of each token's loss; None if all are 1.
    """

    document: int
    piece: int
    ids: np.ndarray
    trained: np.ndarray
    weights: np.ndarray | None = None


class _Tokens(NamedTuple):
    """What Example has of a text. apart: whether it was tokenised in parts."""

    ids: np.ndarray
    trained: np.ndarray
    weights: np.ndarray | None
    apart: bool


class Misfit(NamedTuple):
    """A document of the table, or one of its renderings, without an example. preview: the rendering.

    turns: assistant turns of the rendering.
    """

    document: int
    reason: str
    preview: str
    turns: int = 0


@dataclass
class Encoded:
    """Examples of some documents. notes: counters of what was changed in them."""

    examples: list[Example]
    misfits: list[Misfit]
    notes: Counter[str]


class Encoder:
    """Encodes documents with a tokenizer. Not safe to share between threads.

    vocabulary: number of the model's embeddings; None if unknown.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", vocabulary: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.special_text = SpecialText(tokenizer)
        # A chat template is a program of whoever made the model, and so are the expressions of a tokenizer.
        self._renderings = Guard(partial(marked_renderings, tokenizer))
        self._text_tokens = Guard(self._tokens_of_text)
        self._marked_tokens = Guard(self._tokens_of_marked)
        # This class adds special tokens itself, and truncates nothing. Post-processing would trim spaces off offsets.
        plain = json.loads(tokenizer.backend_tokenizer.to_str())
        self.backend = Tokenizer.from_str(
            json.dumps(plain | dict.fromkeys(("post_processor", "truncation", "padding")))
        )
        self.without_specials = Tokenizer.from_str(self.backend.to_str())
        self.without_specials.encode_special_tokens = True
        self.start = _start(tokenizer, self.backend)
        self.bos = tokenizer.bos_token_id
        self.end = [tokenizer.eos_token_id]
        self.added = frozenset(tokenizer.added_tokens_decoder)

    def encode(self, documents: Sequence[Document]) -> Encoded:
        """Encode documents of one form (text, pair or chat).

        Raises:
            ConfigError: a document has a token without an embedding in the model.
        """
        encoded = Encoded([], [], Counter())
        if documents and isinstance(documents[0].content, str):
            found = self._texts(documents, encoded)
        else:
            found = self._marked(documents, encoded)
        for example in found:
            self._require_embeddings(example, documents)
            problem = self._problem(example)
            if problem:
                encoded.misfits.append(Misfit(example.document, problem, self._read(example.ids[:200].tolist())))
            else:
                encoded.examples.append(example)
        used = {example.document for example in encoded.examples}
        for misfit in encoded.misfits:
            if misfit.document in used:
                encoded.notes[f"{NOT_TRAINED}{misfit.reason}"] += misfit.turns
        return encoded

    def _texts(self, documents: Sequence[Document], encoded: Encoded) -> Iterator[Example]:
        texts = [str(document.content) for document in documents]
        found = self._text_tokens.map(texts, [_bounds(text) for text in texts])
        trained = np.ones(max((len(ids) for ids in found if not isinstance(ids, Failed)), default=0), np.bool_)
        trained[:1] = False
        for number, ids in enumerate(found):
            if isinstance(ids, Failed):
                encoded.misfits.append(Misfit(number, *_refused(ids.error, "tokenizer")))
            else:
                yield Example(number, 0, ids, trained[: len(ids)])

    def _tokens_of_text(self, text: str) -> np.ndarray:
        (encoding,) = self.backend.encode_batch_fast([text], add_special_tokens=False)
        return np.array(self._framed(encoding.ids)[0], np.int32)

    def _marked(self, documents: Sequence[Document], encoded: Encoded) -> Iterator[Example]:
        owners: list[tuple[int, int, bool]] = []
        weighted: list[list[Weighted]] = []
        marked: list[RestoredText] = []
        rendered = self._rendered(documents) if self.tokenizer.chat_template else []
        for number, document in enumerate(documents):
            chat = document.content
            if isinstance(chat, Pair) and not self.tokenizer.chat_template:
                text = chat.prompt + chat.completion
                owners.append((number, 0, False))
                marked.append(RestoredText(text, ((len(chat.prompt), len(text)),), ()))
                weighted.append([])
                continue
            chat, hidden, outcome = rendered[number]
            if isinstance(outcome, Failed):
                reason, preview = _refused(outcome.error, "template")
                encoded.misfits.append(Misfit(number, reason, self.special_text.restore(preview).text))
                continue
            marks, notes = outcome
            renderings = [self.special_text.restore(one.text, one.spans) for one in marks]
            try:
                weighted += [_weighted(chat, mark.turns, one) for mark, one in zip(marks, renderings, strict=True)]
            except BadWeight as error:
                encoded.misfits.append(Misfit(number, "train_detail_not_rendered", str(error)))
                continue
            encoded.notes.update(turn_notes(chat.messages))
            if hidden is not chat:
                encoded.notes["special_tokens_as_text"] += 1
            owners += [(number, piece, True) for piece in range(len(renderings))]
            marked += renderings
            encoded.notes.update(notes)
            encoded.notes["extra_renderings"] += len(renderings) - 1
        found = self._marked_tokens.map(
            list(zip(marked, weighted, (is_chat for *_, is_chat in owners), strict=True)),
            [_bounds(one.text) for one in marked],
        )
        for (number, piece, _), one, tokens in zip(owners, marked, found, strict=True):
            if isinstance(tokens, Failed):
                encoded.misfits.append(Misfit(number, *_refused(tokens.error, "tokenizer"), len(one.spans)))
            elif tokens is None:
                encoded.misfits.append(Misfit(number, "no_end_of_turn", one.text, len(one.spans)))
            else:
                encoded.notes["tokenised_apart"] += tokens.apart
                yield Example(number, piece, tokens.ids, tokens.trained, tokens.weights)

    def _tokens_of_marked(self, item: tuple[RestoredText, list[Weighted], bool]) -> "_Tokens | None":
        """The tokens of (text, weights, whether it is a chat); None if no added token ends a turn."""
        one, spans, is_chat = item
        encoding = self.backend.encode(one.text, add_special_tokens=False)
        ids, ends = self._with_text(encoding, one.text, one.positions)
        ranges = _token_ranges(np.array(ends, np.int64), one.spans)
        if apart := ranges is None:
            ids, ends, ranges = self._apart(one)
        assert ranges is not None
        if not is_chat:
            ids, shift = self._framed(ids)
            ranges = [(ranges[0][0] + shift, len(ids))]
        elif (ended := self._until_end_of_turn(ids, ranges)) is None:
            return None
        else:
            ranges = ended
        trained = np.zeros(len(ids), np.bool_)
        for first, stop in ranges:
            trained[first:stop] = True
        trained[0] = False
        weights = None
        if spans:
            weights = _token_weights(np.array(ends, np.int64), spans)
            trained &= weights > 0
        return _Tokens(np.array(ids, np.int32), trained, weights, apart)

    def _rendered(
        self, documents: Sequence[Document]
    ) -> list[tuple[Chat, Chat, tuple[list[Marked], Counter[str]] | Failed]]:
        """(the conversation, the same without control tokens, its renderings) of each document, a pair or chat."""
        contents = [as_chat(one.content) if isinstance(one.content, Pair) else one.content for one in documents]
        chats = [one for one in contents if isinstance(one, Chat)]
        hidden = [self.special_text.hide(chat) for chat in chats]
        bounds = [LIMITS.of_parser(one.id, one.bytes) for one in documents]
        return list(zip(chats, hidden, self._renderings.map(hidden, bounds), strict=True))

    def _framed(self, ids: list[int]) -> tuple[list[int], int]:
        """(the ids with BOS and EOS, which are added if they are missing; number of tokens added at the start)."""
        start = [] if ids[: len(self.start)] == self.start else self.start
        end = [] if ids[-1:] == self.end else self.end
        return [*start, *ids, *end], len(start)

    def _with_text(self, encoding: Encoding, text: str, positions: Sequence[int]) -> tuple[list[int], list[int]]:
        """(ids, end of each token in characters). positions: positions of control tokens that are text."""
        if not positions:
            return encoding.ids, [end for _, end in encoding.offsets]
        ids: list[int] = []
        ends: list[int] = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self.added and any(start <= position < end for position in positions):
                plain = self.without_specials.encode(text[start:end], add_special_tokens=False)
                ids += plain.ids
                ends += [start + stop for _, stop in plain.offsets]
            else:
                ids.append(token)
                ends.append(end)
        return ids, ends

    def _apart(self, marked: RestoredText) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """(ids, their ends in characters, trained ranges of tokens) of the text, tokenised in parts.

        It is cut at both ends of each span.
        """
        ends = sorted({0, len(marked.text), *(position for span in marked.spans for position in span)})
        found = []
        for start, end in pairwise(ends):
            part = marked.text[start:end]
            positions = [position - start for position in marked.positions if start <= position < end]
            found.append(self._with_text(self.backend.encode(part, add_special_tokens=False), part, positions))
        at = dict(zip(ends, np.cumsum([0, *(len(ids) for ids, _ in found)]).tolist(), strict=True))
        ids = [token for part, _ in found for token in part]
        token_ends = [start + end for start, (_, part) in zip(ends, found, strict=False) for end in part]
        return ids, token_ends, [(at[start], at[end]) for start, end in marked.spans]

    def _require_embeddings(self, example: Example, documents: Sequence[Document]) -> None:
        """Verify that the model has an embedding for each token of an example.

        Raises:
            ConfigError: a token's id is not below the vocabulary.
        """
        if self.vocabulary is None or int(example.ids.max()) < self.vocabulary:
            return
        token = int(example.ids[example.ids >= self.vocabulary][0])
        name = self.tokenizer.convert_ids_to_tokens(token)
        raise ConfigError(
            f"document {documents[example.document].id}: has the token {name!r}, whose id {token:,} is not below the "
            f"model's vocab_size, {self.vocabulary:,}. Enlarge the model's embeddings "
            f"(`resize_token_embeddings({len(self.tokenizer)})` of transformers) and save it, or give the "
            "model's own tokenizer."
        )

    def _until_end_of_turn(self, ids: list[int], ranges: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
        """The trained ranges, each cut after the token that ends the turn; None if no added token ends a turn.

        Text that a template writes after this token, mostly a line feed, is not trained on: it is never generated.
        """
        ended = []
        for first, stop in ranges:
            last = next((index for index in reversed(range(first, stop)) if ids[index] in self.added), None)
            if last is None or self._read(ids[last + 1 : stop]).strip():
                return None
            ended.append((first, last + 1))
        return ended

    def _read(self, ids: list[int]) -> str:
        return self.backend.decode(ids, skip_special_tokens=False)

    def _problem(self, example: Example) -> str | None:
        """Why an example is refused; None if it is not."""
        ids = example.ids
        if self.bos is not None and len(ids) > 1 and ids[0] == ids[1] == self.bos:
            return "doubled_bos"
        if np.count_nonzero(example.trained):
            return None
        return "no_label" if example.weights is None else "weights_are_zero"


def _bounds(text: str) -> WorkBounds:
    """The bounds on tokenising a text."""
    size = len(text.encode("utf-8", "surrogatepass"))
    return LIMITS.of_parser("", size)._replace(memory=_BYTES + _BYTES_PER_BYTE * size)


def _refused(error: Exception, part: str) -> tuple[str, str]:
    """(the reason why a document is no example, its rendering or what is known of it). part: what refused it."""
    if isinstance(error, Unfit):
        return error.reason, error.preview
    if isinstance(error, Exceeded):
        return f"{part}_{'error' if error.problem == 'died' else error.problem}", error.seen
    raise error


def _weighted(chat: Chat, turns: Sequence[int], rendering: RestoredText) -> list[Weighted]:
    """The weights of characters of a rendering; empty if all are 1. turns: the message of each span."""
    each = [
        weights_of_turn(chat.messages[turn], rendering.text, start, end)
        for turn, (start, end) in zip(turns, rendering.spans, strict=True)
    ]
    return [span for spans in each for span in spans or ()]


def _token_weights(ends: np.ndarray, spans: Sequence[Weighted]) -> np.ndarray:
    """The weight of each token, float32[T]: the least of the spans that have a character of it; 1 without a span.

    ends: int64[T], end of each token in characters; those of several tokens of one character are equal.
    """
    weights = np.full(len(ends), np.inf, np.float32)
    first = np.minimum(np.concatenate([[0], ends[:-1]]), ends - 1)
    for start, stop, weight in spans:
        touched = (ends > start) & (first < stop)
        weights[touched] = np.minimum(weights[touched], weight)
    weights[np.isinf(weights)] = 1
    return weights


def _token_ranges(ends: np.ndarray, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """The range of tokens of each span of characters; None if a span starts or ends inside a token.

    ends: int64[T], end of each token in characters. If several tokens are one character, their ends are equal.
    """
    bounds = np.array(spans, np.int64).reshape(-1, 2)
    tokens = np.searchsorted(ends, bounds, side="right")
    at = np.concatenate([[0], ends])[tokens]
    return [(int(first), int(stop)) for first, stop in tokens] if (at == bounds).all() else None


def _start(tokenizer: "PreTrainedTokenizerFast", plain: "object") -> list[int]:
    """The ids that the tokenizer adds before a text: BOS, or none."""
    with_specials = tokenizer("a")["input_ids"]
    without = plain.encode("a", add_special_tokens=False).ids  # type: ignore[attr-defined]
    first = next(
        (at for at in range(len(with_specials)) if with_specials[at : at + len(without)] == without), len(with_specials)
    )
    return list(with_specials[:first])
