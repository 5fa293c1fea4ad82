"""Control tokens in messages are encoded as text.

A message may quote `<|im_end|>`. As a token it would end the turn, so a user's message could contain turns of the
assistant. Control tokens are the tokens that begin or end a text, and those that the chat template writes around turns.
Tokens with a meaning inside messages, such as `<think>`, are still encoded as tokens.

Before a conversation is rendered, each control token in it is replaced by one character of Unicode's private use area.
Afterwards the text is restored, and the positions of the control tokens are given to the encoder.
"""

import re
from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from training.pack.documents import Chat
from training.pack.template import CHECKED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FIRST = 0x10F000
_IN_MESSAGES = frozenset({"<think>", "</think>"})
_CONVERSATION, _ = CHECKED[3]


class RestoredText(NamedTuple):
    """A restored text. positions: position of the first character of each control token that is text, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]
    positions: tuple[int, ...]


class SpecialText:
    """Replaces the control tokens of a tokenizer and its chat template in conversations, and restores them."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.tokens = _control_tokens(tokenizer)
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


def _control_tokens(tokenizer: "PreTrainedTokenizerFast") -> tuple[str, ...]:
    """BOS, EOS, padding and the special tokens around turns; none without a chat template."""
    if not tokenizer.chat_template:
        return ()
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    try:
        # The template ends: it is one of the conversations with which it was checked.
        written = tokenizer.apply_chat_template([_CONVERSATION], tokenize=False, add_generation_prompt=True)[0]
    except Exception:  # a template may refuse any conversation; documents report it
        written = ""
    found |= {token for token in special if token in str(written)}
    return tuple(sorted(token for token in found & special if token not in _IN_MESSAGES))
