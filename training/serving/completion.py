"""A requested completion, and its text as it is generated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Completion:
    """A prompt and its completion.

    Attributes:
        ids: tokens of the prompt.
        most: largest number of tokens of the completion.
        temperature: sampling temperature; 0: greedy.
        top_p: probability mass of nucleus sampling.
        seed: random seed of the sampling.
        ignore_eos: whether the end-of-sequence token is a token as any other, so that `most` tokens are generated.
        stop: texts that end the completion and are not part of it.
        streams: whether `on_text` is called with parts of the text; else with the whole text.
        on_text: called with text, from another thread; with None at the end.
        cancelled: the completion ends before its next token.
        output: tokens so far, with the end-of-sequence token.
        finish: `stop` or `length` at the end.
        error: the exception if it failed.
    """

    ids: Sequence[int]
    most: int
    temperature: float
    top_p: float
    seed: int
    ignore_eos: bool
    stop: Sequence[str]
    streams: bool
    on_text: Callable[[str | None], object]
    cancelled: bool = False
    output: list[int] = field(default_factory=list)
    finish: str = ""
    error: Exception | None = None


class GrowingText:
    """Detokenised text of a completion; a part is sent as soon as no later token can change it.

    The concatenated parts equal `text_of` all tokens, up to the first stop text.

    Args:
        text_of: the text of tokens, without special tokens.
        is_cleaned: whether `text_of` removes spaces before punctuation (`clean_up_tokenization_spaces`).
    """

    def __init__(self, completion: Completion, text_of: Callable[[list[int]], str], is_cleaned: bool) -> None:
        self._completion, self._text_of, self._is_cleaned = completion, text_of, is_cleaned
        self._sent = 0
        self.text = ""

    def grow(self, tokens: list[int], is_last: bool) -> bool:
        """Send the new text of these tokens, which are all so far. Returns whether a stop text ended the completion.

        Tokens are decoded only if text is streamed, there are stop texts, or the completion is at its end.
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
            # An incomplete character is decoded to U+FFFD, and the end may be the beginning of a stop text.
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
    """Number of characters at the end of a text that may be the beginning of a stop text."""
    return max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
