"""Readers of the user: `format: "my_reader:Rtf"` of an input.

A reader is a function `read(content, path)`, or a class with this method, which returns the text of a file, or several
documents: texts, or dictionaries with `text`, and if there are any `id` and the columns that the class names in
`columns`. It runs in a child process with the bounds of the other parsers (cluster/guard.py), and a file on which it
raises an exception is one that could not be read.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from raymill.cluster.errors import DataError
from raymill.cluster.guard import Exceeded, Guard
from raymill.cluster.plugins import Plugin, PluginError, call, shown_value
from raymill.cluster.readers.formats.text_files import whole_file
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import PLUGIN_ERROR, Reader, ReaderCounts, Rows, refused
from raymill.cluster.readers.streams import Span, UnreadableRest
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

# Bytes of a file for one byte of the largest document, as formats with pictures have them.
_BYTES_PER_TEXT = 100

_Document = tuple[str, str | None, dict[str, str]]  # (text, id, columns)


class CustomReader(Reader):
    """A reader of the user. Its columns are `path`, and those that its class names."""

    columns = "fixed"
    own_id = "path"

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        made = plugin.make()
        self.stated_endings = tuple(getattr(made, "endings", ()))
        self._columns: tuple[str, ...] = tuple(getattr(made, "columns", ()))
        self._guard = Guard(self._documents)

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """`path`, the URI of the file, and the columns that the class names."""
        return ("path", *self._columns)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """Tables with the documents of the file; one row with a problem if it cannot be read.

        Raises:
            DataError: the reader returned something else than text.
        """
        rows = Rows(input, limits, counts)
        of_file = [span.uri if name == "path" else None for name in input.columns]
        try:
            content = whole_file(store, span, limits, _BYTES_PER_TEXT * limits.max_document_bytes)
            documents = self._guard((content, span.uri), limits.of_parser(span.uri, len(content))) if content else []
        except UnreadableRest as broken:
            rows.refuse(broken.problem, span.uri, span.uri, of_file)
        except Exceeded as exceeded:
            rows.refuse(refused(exceeded, PLUGIN_ERROR), f"{span.uri} ({exceeded.seen})", span.uri, of_file)
        except PluginError as error:
            rows.refuse(PLUGIN_ERROR, f"{span.uri} ({self._plugin.use}: {error})", span.uri, of_file)
        else:
            for number, (text, id, columns) in enumerate(documents):
                of_document = span.uri if len(documents) == 1 else f"{span.uri}#{number}"
                carried = [span.uri if name == "path" else columns.get(name) for name in input.columns]
                rows.add(text, of_document, (id or of_document) if input.id else None, carried)
                if rows.full:
                    yield rows.table()
            if not documents:
                rows.skip("file without documents")
        yield rows.table()

    def _documents(self, file: tuple[bytes, str]) -> list[_Document]:
        """The documents of a file, in the child process. file: its content and URI."""
        made = self._plugin.make()
        found = call(lambda: _listed(getattr(made, "read", made)(*file)))
        if found is None:
            raise self._wrong(file[1], "None")
        return [self._document(one, file[1]) for one in found]

    def _document(self, found: Any, uri: str) -> _Document:
        given = found if isinstance(found, Mapping) else {"text": found}
        text, id = given.get("text"), given.get("id")
        columns = {name: value for name, value in given.items() if name not in ("text", "id") and value is not None}
        if not isinstance(text, str) or not isinstance(id, str | None):
            raise self._wrong(uri, shown_value(found))
        if unknown := [name for name in columns if name not in self._columns]:
            raise self._wrong(uri, f"the column {unknown[0]}, which its `columns` does not name,")
        return text, id, {name: value if isinstance(value, str) else str(value) for name, value in columns.items()}

    def _wrong(self, uri: str, seen: str) -> DataError:
        return DataError(
            f"{self._plugin.use}: returned {seen} for {uri}; wanted text, or an iterable of texts or of dictionaries "
            "with `text`, `id` (text) and the columns that its attribute `columns` names. Correct the reader."
        )


def _listed(found: Any) -> list[Any] | None:
    if isinstance(found, str | Mapping):
        return [found]
    return list(found) if isinstance(found, Iterable) and not isinstance(found, bytes) else None
