"""Special tokens that stand in what people wrote: there they are text.

A message may quote `<|im_end|>`. Taken as the token it would end the turn in the middle, and a user could write the
assistant's turns. Control tokens are those that begin or end a text or that the chat template writes around turns;
others with a meaning inside of messages, such as `<think>`, stay tokens.

Before a template writes a conversation, each control token in it is replaced by one character of Unicode's private use
area; afterwards the text is put back, and the places are remembered for the encoder.
"""

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from training.pack.documents import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FIRST = 0x10F000
_IN_MESSAGES = frozenset({"<think>", "</think>"})
_CONVERSATION = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


class Restored(NamedTuple):
    """A text with its own words again. places: of the first character of each control token that is text, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]
    places: tuple[int, ...]


class SpecialText:
    """The control tokens of a tokenizer and its chat template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.tokens = _control_tokens(tokenizer)
        self._pattern = re.compile("|".join(map(re.escape, sorted(self.tokens, key=len, reverse=True))) or r"(?!)")
        self._character = {token: chr(_FIRST + number) for number, token in enumerate(self.tokens)}
        self._token = {character: token for token, character in self._character.items()}
        self._hidden = re.compile("[" + "".join(self._token) + "]" if self._token else r"(?!)")

    def hide(self, chat: Chat) -> Chat:
        """The conversation with a character in the place of each control token; itself where there is none."""
        if not any(self._found(message) for message in chat.messages) and not self._found(chat.tools):
            return chat
        return Chat([self._replaced(message) for message in chat.messages], self._replaced(chat.tools))

    def restore(self, text: str, spans: tuple[tuple[int, int], ...] = ()) -> Restored:
        """spans: of characters, in order and apart from each other."""
        places, parts, end, grown = [], [], 0, 0
        shifts = [(0, 0)]  # from this character on, so much longer
        for found in self._hidden.finditer(text):
            token = self._token[found[0]]
            places.append(found.start() + grown)
            parts += [text[end : found.start()], token]
            end, grown = found.end(), grown + len(token) - 1
            shifts.append((end, grown))
        if not places:
            return Restored(text, spans, ())

        def moved(place: int) -> int:
            return place + next(shift for start, shift in reversed(shifts) if place >= start)

        whole = "".join([*parts, text[end:]])
        return Restored(whole, tuple((moved(start), moved(stop)) for start, stop in spans), tuple(places))

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
    """Beginning and end of a text, padding, and the special tokens around turns; none without a chat template."""
    if not tokenizer.chat_template:
        return ()
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    try:
        written = tokenizer.apply_chat_template([_CONVERSATION], tokenize=False, add_generation_prompt=True)
    except Exception:  # a template may refuse any conversation; each document shows it again, with its message
        written = [""]
    found |= {token for token in special if token in str(written[0])}
    return tuple(sorted(token for token in found & special if token not in _IN_MESSAGES))
