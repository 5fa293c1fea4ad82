"""What functions answer: JSON values or text, as a program reads them and as a person does."""

import html
from collections.abc import Mapping
from typing import Any

from raymill.cluster.wording import for_the_caller


class Answer(dict[str, Any]):
    """JSON values. `str(answer)`, and what the Python prompt and a notebook show, is the text that a command prints.

    Commands in the text are shown as calls (wording.py).
    """

    def __init__(self, values: Mapping[str, Any], text: str) -> None:
        super().__init__(values)
        self.text = text

    def __repr__(self) -> str:
        return for_the_caller(self.text)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(for_the_caller(self.text))}</pre>"


class Text(str):
    """Text of several lines, which the Python prompt and a notebook show without quotes and escapes."""

    def __repr__(self) -> str:
        return str(self)
