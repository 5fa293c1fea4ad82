"""JSON files: objects in arrays, or one after the other, over any number of lines.

Read only with `format: json`, since files named .json usually hold settings. Memory: one object.
"""

import json
from collections.abc import Generator
from contextlib import closing

from cluster.readers.files.decoding import utf8_stream
from cluster.readers.files.json_values import json_values
from cluster.readers.files.limits import Limits
from cluster.readers.files.span import Span
from cluster.readers.formats.jsonl import JsonObjects
from cluster.readers.formats.records import FoundValue
from cluster.readers.inputs import Input
from cluster.store.store import Store


class JsonValues(JsonObjects):
    """A document is an object. What follows a value that is not JSON is lost, and has one row."""

    stated_endings = (".json",)
    unit = "value"

    def json_values(
        self, store: Store, span: Span, input: Input, limits: Limits, parser: json.JSONDecoder
    ) -> Generator[FoundValue, None, None]:
        """Each value of the arrays, or of the file. Raises BrokenRest at what is no JSON."""
        with closing(utf8_stream(store, span.uri, limits, input.encoding)) as blocks:
            for number, (value, text) in enumerate(json_values(blocks, limits.max_line_bytes, parser), 1):
                yield f"value {number}", text.encode("utf-8", "surrogateescape"), value
