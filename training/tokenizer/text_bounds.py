"""Whether the chat template and tokenizer of a folder end: both are programs of whoever made it.

Each text has a bound on its time and memory. A folder that needs about as much for each of many texts would take hours,
so it is refused: when it is loaded, by a few short conversations, and later by the processor time of all texts so far.
"""

from transformers import PreTrainedTokenizerFast

from raymill.cluster.guard import Exceeded
from raymill.training.pack.template import render_checked
from raymill.training.pack.text_time import out_of_bounds, refuse_slow


class TextBounds:
    """The bound on the time that a folder's chat template and tokenizer take for all texts together.

    Raises:
        DataError: the chat template goes beyond them on a conversation of a few words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, folder: str) -> None:
        self._folder, self._texts, self._bytes, self._seconds = folder, 0, 0, 0.0
        if tokenizer.chat_template:
            try:
                render_checked(tokenizer)
            except Exceeded as error:
                raise out_of_bounds(folder, "on a conversation of a few words", error) from error
            except Exception:  # with other messages it may do
                pass

    def count(self, texts: int, size: int, seconds: float) -> None:
        """Count texts of `size` bytes together that took `seconds` of processor time.

        Raises:
            DataError: as by `refuse_slow`, of all texts so far.
        """
        self._texts += texts
        self._bytes += size
        self._seconds += seconds
        refuse_slow(self._folder, self._texts, self._bytes, self._seconds)
