"""Hugging Face `datasets`: a folder that `save_to_disk` wrote, or a data set of the hub, as Arrow stream files."""

from collections.abc import Iterator

import pyarrow as pa

from cluster.errors import DataError
from cluster.python_values import python_rows
from cluster.readers.files.arrow_streams import record_batches, schema_of
from cluster.readers.files.compression import UnreadableRest
from cluster.readers.files.json_lines import Unreadable
from cluster.readers.files.limits import Limits
from cluster.readers.files.span import Span
from cluster.readers.inputs import Input
from cluster.readers.reader import FilePieces, Reader, ReaderCounts, Row, documents, one_problem
from cluster.store.interface import FileInfo
from cluster.store.store import Store


class Hub(Reader):
    """One Arrow stream file of a data set."""

    endings = ()
    compressible = False
    columns = "typed"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """One piece, the whole file, with its schema.

        Raises:
            DataError: the file is not an Arrow stream.
        """
        if not file.size:
            return FilePieces(())
        try:
            with store.open_input(file.uri) as handle:
                schema = schema_of(handle, Limits())
        except UnreadableRest as error:
            raise DataError(f"{file.uri}: not an Arrow stream. Save the data set again.") from error
        return FilePieces(((0, file.size, file.size),), None, schema)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """Tables of about 8 MB. The rest of a damaged file is one unreadable row."""
        first = expanded_bytes = 0
        with store.open_input(span.uri) as handle:
            try:
                for batch in record_batches(handle, limits):
                    batch = batch.select(input.columns_in(batch.schema.names))
                    table = documents(batch, input, limits, span.uri, first)
                    expanded_bytes += table.nbytes
                    if limits.is_bomb(expanded_bytes, span.size):
                        raise UnreadableRest("expansion_bomb")
                    yield table
                    first += batch.num_rows
            except UnreadableRest as broken:
                yield one_problem(input, broken.problem, f"{span.uri} row {first}")

    def rows(self, store: Store, span: Span, input: Input, limits: Limits) -> Iterator[tuple[Row | Unreadable, str]]:
        """The rows of the file, with all columns. See Reader."""
        number = 0
        with store.open_input(span.uri) as handle:
            for batch in record_batches(handle, limits):
                for row in python_rows(batch):
                    yield row, f"{span.uri} row {number}"
                    number += 1
