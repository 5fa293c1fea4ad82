"""Whether the chat template and tokenizer of a folder end: both are programs of whoever made it.

Each text has a bound on its time and memory. A folder that needs about as much for each of many texts would take hours,
so it is refused: when it is loaded, by a few short conversations, and later by the processor time of all texts so far.
"""

from transformers import PreTrainedTokenizerFast

from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.guard import Exceeded
from raymill.training.pack.template import render_checked

# Seconds of processor time for which a folder is refused: in any case, for each text, and for each of its bytes. A text
# of 1 kB takes about a millisecond.
_SECONDS, _PER_TEXT, _PER_BYTE = 100.0, 0.3, 5e-6


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
                raise self._error("on a conversation of a few words", error) from error
            except Exception:  # with other messages it may do
                pass

    def count(self, texts: int, size: int, seconds: float) -> None:
        """Count texts of `size` bytes together that took `seconds` of processor time.

        Raises:
            DataError: all texts so far took longer than 100 s, 0.3 s for each and 5 s per megabyte.
        """
        self._texts += texts
        self._bytes += size
        self._seconds += seconds
        if self._seconds > _SECONDS + _PER_TEXT * self._texts + _PER_BYTE * self._bytes:
            raise self._error(f"on {plural(self._texts, 'text')}", f"{self._seconds:,.0f} s for {self._bytes:,} bytes")

    def _error(self, where: str, bound: object) -> DataError:
        return DataError(
            f"{self._folder}: its chat template or tokenizer goes beyond its bounds {where} ({bound}). Look at the "
            "files of the folder."
        )
