"""Documents as token ids, each with a flag `trained`: whether the loss counts the prediction of the token.

    text    every token and the end-of-text token, except the first token, which is not predicted
    pair    with a chat template a conversation of two turns; else the completion and the end-of-text token
    chat    the assistant's turns, with the token that ends each

A text is tokenised as a whole, as at inference. If a trained span starts or ends inside a token, the text is cut there
and the parts are tokenised separately, because at inference the prompt ends there (counter `tokenised_apart`).

Control tokens in messages are encoded as text (counter `special_tokens_as_text`). A message may quote `<|im_end|>`. As
a token it would end the turn, so a user's message could contain turns of the assistant. Control tokens are the tokens
that begin or end a text, and those that the chat template writes around turns. Tokens with a meaning inside messages,
such as `<think>`, are still encoded as tokens.
"""

import json
import re
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from raymill.cluster.errors import ConfigError
from raymill.cluster.guard import Exceeded, Failed, Guard, WorkBounds
from raymill.training.pack.chat import NOT_TRAINED, marked_renderings
from raymill.training.pack.documents import Chat, Document, Pair, TwoAnswers, as_chat
from raymill.training.pack.loss_keys import BadWeight, Weighted, turn_notes, weights_of_turn
from raymill.training.pack.template import CHECKED, LIMITS, OF_A_CHECK, Unfit, written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FIRST = 0x10F000
_IN_MESSAGES = frozenset({"<think>", "</think>"})


class RestoredText(NamedTuple):
    """A restored text. positions: position of the first character of each control token that is text, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]
    positions: tuple[int, ...]


class SpecialText:
    """Replaces the control tokens of a tokenizer and its chat template in conversations, and restores them."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self._pattern = re.compile("|".join(map(re.escape, sorted(self.tokens, key=len, reverse=True))) or r"(?!)")
        self._character = {token: chr(_FIRST + number) for number, token in enumerate(self.tokens)}
        self._token = {character: token for token, character in self._character.items()}
        self._hidden = re.compile("[" + "".join(self._token) + "]" if self._token else r"(?!)")

    def hide(self, chat: Chat) -> Chat:
        """The conversation with one character in place of each control token; the same object if there is none."""
        if not any(self._found(message) for message in chat.messages) and not self._found(chat.tools):
            return chat
        return Chat([self._replaced(message) for message in chat.messages], self._replaced(chat.tools))

    def restore(self, text: str, spans: tuple[tuple[int, int], ...] = ()) -> RestoredText:
        """The text with its control tokens, and the spans in it. spans: characters of `text`, in order and disjoint."""
        positions, parts, end, grown = [], [], 0, 0
        shifts = [(0, 0)]  # (from this character on, characters added)
        for found in self._hidden.finditer(text):
            token = self._token[found[0]]
            positions.append(found.start() + grown)
            parts += [text[end : found.start()], token]
            end, grown = found.end(), grown + len(token) - 1
            shifts.append((end, grown))
        if not positions:
            return RestoredText(text, spans, ())

        def moved(position: int) -> int:
            return position + shifts[bisect_right(shifts, position, key=itemgetter(0)) - 1][1]

        whole = "".join([*parts, text[end:]])
        return RestoredText(whole, tuple((moved(start), moved(stop)) for start, stop in spans), tuple(positions))

    def _found(self, value: Any) -> bool:
        match value:
            case str():
                return self._pattern.search(value) is not None
            case dict():
                return any(self._found(inner) for inner in value.values())
            case list():
                return any(map(self._found, value))
        return False

    def _replaced(self, value: Any) -> Any:
        match value:
            case str():
                return self._pattern.sub(lambda found: self._character[found[0]], value)
            case dict():
                return {key: self._replaced(inner) for key, inner in value.items()}
            case list():
                return [self._replaced(inner) for inner in value]
        return value


# What the child process of an encoder is asked for.
_WRITTEN, _RENDER, _TEXTS, _MARKED = "written", "render", "texts", "marked"
# Memory for the tokens of a text: about 60 bytes for each of its bytes, and several times that if each byte is a token.
_BYTES = 512 << 20
_BYTES_PER_BYTE = 512
_TOGETHER_BYTES = 1 << 20  # texts that are tokenised by one call, which is faster than a call for each
# Reasons that are due to the template or tokenizer rather than to the document.
TEMPLATE_REASONS = (
    "template_error",
    "template_too_slow",
    "template_too_large",
    "tokenizer_error",
    "tokenizer_too_slow",
    "tokenizer_too_large",
    "no_chat_template",
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
    weights: float32[T], of each token's loss; None if all are 1. chosen: of a pair, number of tokens of the first
    conversation, which the other one follows; 0: no pair.
    """

    document: int
    piece: int
    ids: np.ndarray
    trained: np.ndarray
    weights: np.ndarray | None = None
    chosen: int = 0


def with_prompts(example: Example, weight: float) -> Example:
    """The example with a loss on all other tokens too, such as prompts, each counted `weight` times (0 to 1).

    Tokens that the author excluded stay excluded, and the first token is never predicted.
    """
    before = np.ones(len(example.ids), np.float32) if example.weights is None else example.weights
    weights = np.where(example.trained, before, before * np.float32(weight))
    trained = weights > 0
    trained[0] = False
    return example._replace(trained=trained, weights=None if (weights[trained] == 1).all() else weights)


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


def _work(encoder: "Encoder", request: tuple[str, Any]) -> Any:
    """What the child process does with (WRITTEN, conversation), (RENDER, chat), (TEXTS, texts), (MARKED, rendering)."""
    step, item = request
    if step == _WRITTEN:
        return written(encoder.tokenizer, item)
    if step == _RENDER:
        return marked_renderings(encoder.tokenizer, item)
    return encoder.tokens_of_texts(item) if step == _TEXTS else encoder.tokens_of_marked(item)


class Encoder:
    """Encodes documents with a tokenizer. Not safe to share between threads.

    vocabulary: number of the model's embeddings; None if unknown.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", vocabulary: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        # A chat template is a program of whoever made the model, and so are the expressions of a tokenizer.
        # By a reference to itself it would outlive its last use, and its child process with it.
        self._child: Guard[tuple[str, Any], Any] = Guard(partial(_work, weakref.proxy(self)))
        # This class adds special tokens itself, and truncates nothing. Post-processing would trim spaces off offsets.
        plain = json.loads(tokenizer.backend_tokenizer.to_str())
        self.backend = Tokenizer.from_str(
            json.dumps(plain | dict.fromkeys(("post_processor", "truncation", "padding")))
        )
        self.without_specials = Tokenizer.from_str(self.backend.to_str())
        self.without_specials.encode_special_tokens = True
        # The ids that the tokenizer adds before a text: BOS, or none.
        with_specials, alone = tokenizer("a")["input_ids"], self.backend.encode("a", add_special_tokens=False).ids
        places = (at for at in range(len(with_specials)) if with_specials[at : at + len(alone)] == alone)
        self.start = list(with_specials[: next(places, len(with_specials))])
        self.bos = tokenizer.bos_token_id
        self.end = [tokenizer.eos_token_id]
        self.added = frozenset(tokenizer.added_tokens_decoder)
        # The first use of the child, which has all of the above.
        self.special_text = SpecialText(self._control_tokens())

    def _control_tokens(self) -> list[str]:
        """BOS, EOS, padding and the special tokens around turns; none without a chat template."""
        tokenizer = self.tokenizer
        if not tokenizer.chat_template:
            return []
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        found = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
        rendered = ""
        with suppress(Exception):  # a template may refuse any conversation; documents report it
            rendered = self._child((_WRITTEN, CHECKED[3]), OF_A_CHECK)
        found |= {token for token in special if token in rendered}
        return sorted(token for token in found & special if token not in _IN_MESSAGES)

    @property
    def seconds(self) -> float:
        """Processor time that the chat template and tokenizer took so far."""
        return self._child.seconds

    def encode(self, documents: Sequence[Document]) -> Encoded:
        """Encode documents of one form (text, pair, chat or two answers).

        Raises:
            ConfigError: a document has a token without an embedding in the model.
        """
        encoded = Encoded([], [], Counter())
        if documents and isinstance(documents[0].content, TwoAnswers):
            return self._answers(documents)
        if documents and isinstance(documents[0].content, str):
            found = self._texts(documents, encoded)
        else:
            found = self._marked(documents, encoded)
        for example in found:
            ids = example.ids
            if self.vocabulary is not None and int(ids.max()) >= self.vocabulary:
                token = int(ids[ids >= self.vocabulary][0])
                name = self.tokenizer.convert_ids_to_tokens(token)
                raise ConfigError(
                    f"document {documents[example.document].id}: has the token {name!r}, whose id {token:,} is not "
                    f"below the model's vocab_size, {self.vocabulary:,}. Enlarge the model's embeddings "
                    f"(`resize_token_embeddings({len(self.tokenizer)})` of transformers) and save it, or give the "
                    "model's own tokenizer."
                )
            problem = None
            if self.bos is not None and len(ids) > 1 and ids[0] == ids[1] == self.bos:
                problem = "doubled_bos"
            elif not np.count_nonzero(example.trained):
                problem = "no_label" if example.weights is None else "weights_are_zero"
            if problem:
                encoded.misfits.append(Misfit(example.document, problem, self._read(ids[:200].tolist())))
            else:
                encoded.examples.append(example)
        if documents and documents[0].desirable is not None:
            several = self._in_several_renderings(encoded.examples)
            encoded.examples[:] = [one for one in encoded.examples if one.document not in several]
            encoded.misfits += several.values()
        used = {example.document for example in encoded.examples}
        for misfit in encoded.misfits:
            if misfit.document in used:
                encoded.notes[f"{NOT_TRAINED}{misfit.reason}"] += misfit.turns
        return encoded

    def _answers(self, documents: Sequence[Document]) -> Encoded:
        """One example of each question with two answers. Left out are those that differ in the tokens of the question,
        those whose answers are the same tokens, and those with an answer in several renderings.
        """
        contents = [document.content for document in documents]
        chats = [(one.chosen, one.rejected) for one in contents if isinstance(one, TwoAnswers)]
        each = zip(documents, chats, strict=True)
        apart = self.encode([replace(one, content=chat) for one, both in each for chat in both])
        found = {example.document: example for example in apart.examples}
        refused = {misfit.document: misfit for misfit in reversed(apart.misfits)}
        refused |= (several := self._in_several_renderings(apart.examples))
        found = {document: example for document, example in found.items() if document not in several}
        encoded = Encoded([], [], apart.notes)
        for number in range(len(documents)):
            chosen, rejected = found.get(2 * number), found.get(2 * number + 1)
            if chosen is None or rejected is None:
                misfit = refused[2 * number if chosen is None else 2 * number + 1]
                encoded.misfits.append(misfit._replace(document=number, turns=0))
                continue
            question, other = (one.ids[: int(one.trained.argmax())] for one in (chosen, rejected))
            problem = "question_tokens_differ" if not np.array_equal(question, other) else ""
            if not problem and np.array_equal(chosen.ids, rejected.ids):
                problem = "equal_answers"
            if problem:
                encoded.misfits.append(Misfit(number, problem, self._read(rejected.ids[:200].tolist())))
                continue
            ids, trained = (np.concatenate(both) for both in zip(chosen[2:4], rejected[2:4], strict=True))
            encoded.examples.append(Example(number, 0, ids, trained, chosen=len(chosen.ids)))
        return encoded

    def _in_several_renderings(self, examples: Sequence[Example]) -> dict[int, Misfit]:
        """By document, the answers of several turns of which the template changes earlier ones as the chat goes on. The
        log-probability of such an answer is in no single rendering.
        """
        renderings = Counter(one.document for one in examples)
        return {
            one.document: Misfit(one.document, "answer_in_several_renderings", self._read(one.ids[:200].tolist()))
            for one in examples
            if renderings[one.document] > 1
        }

    def _texts(self, documents: Sequence[Document], encoded: Encoded) -> Iterator[Example]:
        texts = [str(document.content) for document in documents]
        bounds = [_bounds(document.bytes) for document in documents]
        found: list[np.ndarray | Failed] = []
        if sum(document.bytes for document in documents) <= _TOGETHER_BYTES:
            # A text within a list that stays within the least of its bounds stays within its own.
            least = WorkBounds(min(one.seconds for one in bounds), max(one.memory for one in bounds))
            with suppress(Exceeded):  # one of them, or all together: then each is judged by itself
                tokens, lengths = self._child((_TEXTS, texts), least)
                found += np.split(tokens, np.cumsum(lengths)[:-1])
        if not found:
            alone = self._child.map([(_TEXTS, [text]) for text in texts], bounds)
            found = [one if isinstance(one, Failed) else one[0] for one in alone]
        trained = np.ones(max((len(ids) for ids in found if not isinstance(ids, Failed)), default=0), np.bool_)
        trained[:1] = False
        for number, ids in enumerate(found):
            if isinstance(ids, Failed):
                encoded.misfits.append(Misfit(number, *_refused(ids.error, "tokenizer")))
            else:
                yield Example(number, 0, ids, trained[: len(ids)])

    def tokens_of_texts(self, texts: list[str]) -> tuple[np.ndarray, list[int]]:
        """(tokens of all texts, number of each): one array, which passes to another process in a tenth of the time."""
        ids: list[int] = []
        lengths = []
        for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False):
            framed, _ = self._framed(encoding.ids)
            ids += framed
            lengths.append(len(framed))
        return np.array(ids, np.int32), lengths

    def _marked(self, documents: Sequence[Document], encoded: Encoded) -> Iterator[Example]:
        """The examples of pairs and conversations."""
        owners: list[tuple[int, int]] = []  # document, piece
        items: list[tuple[RestoredText, list[Weighted], bool]] = []
        contents = [as_chat(one.content) if isinstance(one.content, Pair) else one.content for one in documents]
        chats = [one for one in contents if isinstance(one, Chat)]
        if not self.tokenizer.chat_template:
            for number, document in enumerate(documents):
                pair = document.content
                if isinstance(pair, Chat):
                    encoded.misfits.append(Misfit(number, "no_chat_template", str(pair.messages[0])))
                    continue
                assert isinstance(pair, Pair)
                text = pair.prompt + pair.completion
                owners.append((number, 0))
                items.append((RestoredText(text, ((len(pair.prompt), len(text)),), ()), [], False))
            chats = []
        hidden = [self.special_text.hide(chat) for chat in chats]  # without control tokens
        bounds = [LIMITS.of_parser(one.id, one.bytes) for one in documents[: len(chats)]]
        renderings_of = self._child.map([(_RENDER, chat) for chat in hidden], bounds)
        for number, outcome in enumerate(renderings_of):
            chat = chats[number]
            if isinstance(outcome, Failed):
                reason, preview = _refused(outcome.error, "template")
                encoded.misfits.append(Misfit(number, reason, self.special_text.restore(preview).text))
                continue
            marks, notes = outcome
            renderings = [self.special_text.restore(one.text, one.spans) for one in marks]
            try:
                weighted = [
                    [
                        span
                        for turn, (start, end) in zip(mark.turns, one.spans, strict=True)
                        for span in weights_of_turn(chat.messages[turn], one.text, start, end) or ()
                    ]
                    for mark, one in zip(marks, renderings, strict=True)
                ]
            except BadWeight as error:
                encoded.misfits.append(Misfit(number, "train_detail_not_rendered", str(error)))
                continue
            encoded.notes.update(turn_notes(chat.messages))
            if hidden[number] is not chat:
                encoded.notes["special_tokens_as_text"] += 1
            owners += [(number, piece) for piece in range(len(renderings))]
            items += zip(renderings, weighted, [True] * len(renderings), strict=True)
            encoded.notes.update(notes)
            encoded.notes["extra_renderings"] += len(renderings) - 1
        found = self._child.map(
            [(_MARKED, item) for item in items],
            [_bounds(len(one.text.encode("utf-8", "surrogatepass"))) for one, _, _ in items],
        )
        for (number, piece), (one, _, _), tokens in zip(owners, items, found, strict=True):
            if isinstance(tokens, Failed):
                encoded.misfits.append(Misfit(number, *_refused(tokens.error, "tokenizer"), len(one.spans)))
            elif tokens is None:
                encoded.misfits.append(Misfit(number, "no_end_of_turn", one.text, len(one.spans)))
            else:
                ids, trained, weights, apart = tokens
                encoded.notes["tokenised_apart"] += apart
                of_tokens = None if weights is None else np.frombuffer(weights, np.float32)
                yield Example(number, piece, np.frombuffer(ids, np.int32), np.frombuffer(trained, np.bool_), of_tokens)

    def tokens_of_marked(
        self, item: tuple[RestoredText, list[Weighted], bool]
    ) -> tuple[bytes, bytes, bytes | None, bool] | None:
        """(ids, trained and weights of Example; whether the text was tokenised in parts) of (text, weights, whether it
        is a chat); None if no added token ends a turn. Bytes pass to another process in a tenth of the time of arrays.
        """
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
        as_bytes = None if weights is None else weights.tobytes()
        return np.array(ids, np.int32).tobytes(), trained.tobytes(), as_bytes, apart

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


def _bounds(size: int) -> WorkBounds:
    """The bounds on tokenising a text of `size` bytes."""
    return LIMITS.of_parser("", size)._replace(memory=_BYTES + _BYTES_PER_BYTE * size)


def _refused(error: Exception, part: str) -> tuple[str, str]:
    """(the reason why a document is no example, its rendering or what is known of it). part: what refused it."""
    if isinstance(error, Unfit):
        return error.reason, error.preview
    if isinstance(error, Exceeded):
        return f"{part}_{'error' if error.problem == 'died' else error.problem}", error.seen
    raise error


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
