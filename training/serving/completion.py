"""One completion that is asked for, and its text as it grows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Completion:
    """A prompt that is completed.

    Attributes:
        ids: tokens of the prompt.
        most: tokens of the completion, at most.
        temperature: 0 takes the most probable token. top_p: probability of the tokens that are drawn from.
        seed: of the drawn tokens.
        stop: texts that end the completion, and are not part of it.
        streams: whether `on_text` is called for parts, else once for the whole text.
        on_text: called with each part of the text, in another thread; with None at the end.
        cancelled: set by who asks; the completion ends at its next token.
        output: tokens so far, with the one that ends it. finish: `stop` or `length` at the end.
        error: why it failed, or None.
    """

    ids: Sequence[int]
    most: int
    temperature: float
    top_p: float
    seed: int
    stop: Sequence[str]
    streams: bool
    on_text: Callable[[str | None], object]
    cancelled: bool = False
    output: list[int] = field(default_factory=list)
    finish: str = ""
    error: Exception | None = None


class GrowingText:
    """The text of a completion, whose parts are sent as soon as no later token can change them.

    The parts together are `text_of` of all tokens, up to the first stop text.

    Args:
        text_of: the text of tokens, without special tokens.
        is_cleaned: whether it removes spaces before marks, such as ` .`, as tokenizers can do.
    """

    def __init__(self, completion: Completion, text_of: Callable[[list[int]], str], is_cleaned: bool) -> None:
        self._completion, self._text_of, self._is_cleaned = completion, text_of, is_cleaned
        self._sent = 0
        self.text = ""

    def grow(self, tokens: list[int], is_last: bool) -> bool:
        """Send what these tokens, all so far, add. Returns whether a stop text has ended it.

        Tokens are read only if parts are wanted, there are stop texts, or they are the last.
        """
        one = self._completion
        if not (one.streams or one.stop or is_last):
            return False
        self.text = self._text_of(tokens)
        ends = [at for stop in one.stop if (at := self.text.find(stop)) >= 0]
        if ends:
            self.text = self.text[: min(ends)]
        if ends or is_last:
            self._send(len(self.text))
        elif one.streams:
            # A character of several tokens is U+FFFD until its last one, and a stop text may have begun.
            kept = self.text.rstrip("\ufffd")
            if self._is_cleaned:  # the longest of what is replaced, ` ' `, has two spaces
                kept = kept[: max(0, kept.rfind(" ", 0, max(0, kept.rfind(" "))))]
            self._send(len(kept) - _begun(kept, one.stop))
        return bool(ends)

    def _send(self, end: int) -> None:
        if end > self._sent:
            self._completion.on_text(self.text[self._sent : end])
            self._sent = end


def _begun(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of a text that may be the beginning of a stop text."""
    return max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
