"""Whether the chat template and tokenizer of a folder end: both are programs of whoever made it.

Each text has a bound on its time and memory. A folder that goes beyond it on many texts would take hours, so it is
refused: when it is loaded, by a few short conversations, and later by the fraction of texts beyond their bounds.
"""

from transformers import PreTrainedTokenizerFast

from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.guard import Exceeded
from raymill.training.pack.encode import Encoded
from raymill.training.pack.template import render_checked

_LEAST, _FRACTION = 10, 0.1  # texts beyond their bounds for which a folder is refused; of all so far
_EXCEEDED = "_too_slow", "_too_large"  # ends of the reasons of an encoder


class TextBounds:
    """Counts the texts on which a folder's chat template or tokenizer goes beyond its bounds.

    Raises:
        DataError: the chat template goes beyond them on a conversation of a few words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, folder: str) -> None:
        self._folder, self._texts, self._exceeded = folder, 0, 0
        if tokenizer.chat_template:
            try:
                render_checked(tokenizer)
            except Exceeded as error:
                raise self._error("on a conversation of a few words", error) from error
            except Exception:  # with other messages it may do
                pass

    def count(self, exceeded: object) -> None:
        """Count a text. exceeded: the bound that it exceeded; None if it did not.

        Raises:
            DataError: there are at least ten, and at least a tenth of all texts so far.
        """
        self._texts += 1
        self._exceeded += bool(exceeded)
        if exceeded and self._exceeded >= max(_LEAST, _FRACTION * self._texts):
            raise self._error(f"on {self._exceeded:,} of {plural(self._texts, 'text')}", exceeded)

    def count_encoded(self, encoded: Encoded, number: int) -> None:
        """Count the first `number` documents of what `Encoder.encode` returned."""
        exceeded = {one.document: one.reason for one in encoded.misfits if one.reason.endswith(_EXCEEDED)}
        for at in range(number):
            self.count(exceeded.get(at))

    def _error(self, where: str, bound: object) -> DataError:
        return DataError(
            f"{self._folder}: its chat template or tokenizer goes beyond its bounds {where} ({bound}). Look at the "
            "files of the folder."
        )
