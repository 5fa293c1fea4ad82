"""Trees of files where one file is one document."""

from collections.abc import Iterator
from contextlib import closing

import pyarrow as pa

from cluster.read.compression import Broken, stream
from cluster.read.limits import Limits
from cluster.read.lines import BOM
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.reader import Reader, ReaderCounts, Rows
from pipelines.readers.whole_file import encoding_problem


class OneDocument(Reader):
    """Base of readers for which a file is a document. Its only column is `path`, its URI. An empty file is none."""

    columns = "fixed"
    own_id = "path"

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        return ("path",)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        rows = Rows(input, limits, counts)
        id = span.uri if input.id else None
        carried = [span.uri if name == "path" else None for name in input.columns]
        try:
            content = _content(store, span, limits)
        except Broken as broken:
            rows.refuse(broken.problem, span.uri, id, carried)
        else:
            if content:
                self.add(rows, content, span.uri, id, carried)
            else:
                rows.skip("empty file")
        yield rows.table()

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        raise NotImplementedError


class PlainText(OneDocument):
    """UTF-8 text as it stands: prose, Markdown, reStructuredText."""

    def __init__(self, *endings: str) -> None:
        self.endings = endings

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        try:
            text = content.removeprefix(BOM).decode()
        except UnicodeDecodeError as error:
            rows.refuse(self.file_problem(content) or "bad_utf8", f"{uri} byte {error.start}", id, carried)
            return
        if "\0" in text and (problem := self.file_problem(content)):  # English in UTF-16 is valid UTF-8, too
            rows.refuse(problem, uri, id, carried)
        else:
            rows.add(text, uri, id, carried)

    def file_problem(self, head: bytes) -> str | None:
        return encoding_problem(head)


def _content(store: Store, span: Span, limits: Limits) -> bytes:
    """The whole file, unless it is too large to be a document."""
    blocks = []
    size = 0
    with closing(stream(store, span.uri, limits)) as content:
        for block in content:
            blocks.append(block)
            size += len(block)
            if size > limits.max_document_bytes + len(BOM):
                raise Broken("too_large")
    return b"".join(blocks)
