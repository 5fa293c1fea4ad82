"""The documents of a unit after `measure`, for the stages and questions that need their text again.

    a unit whose reader extracts texts (HTML, web archives, PDF, Word, mail)  ->  the texts that `measure` stored
    any other unit                                                           ->  its files, read again

Extraction from HTML takes more time than all other work on a page, and its text is a small part of it. The stored texts
are those that were extracted: before normalisation, and before personal data is replaced.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from raymill.cluster.artifact import Artifact, read_tables
from raymill.cluster.errors import DataError
from raymill.cluster.output import Output
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import TABLE_BYTES
from raymill.cluster.readers.units import InputManifest, Reading, Unit, read_unit, split_problems

TEXTS = "_work/texts"
TEXTS_VERSION = "1"


def texts_outputs(inputs: InputManifest) -> tuple[Output, ...]:
    """The output TEXTS of `measure`, if a unit of the input has texts to store."""
    if not any(map(inputs.reading.extracts, inputs.units)):
        return ()
    schema = pa.schema([("row", pa.int64()), ("id", pa.string()), ("text", pa.large_string()), *inputs.carried])
    return (Output(TEXTS, schema, row_group_bytes=TABLE_BYTES),)


def texts_by_unit(texts: Artifact | None, inputs: InputManifest) -> list[list[str] | None]:
    """The files with the stored texts of each unit, by unit; None for a unit that is read again.

    texts: the artifact TEXTS; None if there is none.
    """
    if texts is None:
        return [None] * len(inputs.units)
    files = texts.files_by_unit(len(inputs.units))
    return [found if inputs.reading.extracts(unit) else None for unit, found in zip(inputs.units, files, strict=True)]


def measured_documents(unit: Unit, texts: Sequence[str] | None, reading: Reading, limits: Limits) -> Iterator[pa.Table]:
    """Tables of the documents that were measured, in their order, of about 8 MB.

    Columns: row, id, text and the carried ones, as of `read_unit`.

    texts: as of `texts_by_unit`. An empty list is a unit without documents, which is not read again.

    Raises:
        DataError: a file changed since it was measured, or one of `texts` is gone or damaged.
        StorageError: the store failed.
    """
    if texts is not None:
        for table in read_tables(reading.store, texts):
            try:
                table.validate(full=True)
            except pa.ArrowInvalid as error:
                raise DataError(f"{TEXTS}, of {unit.spans[0].uri}: not UTF-8. Run again with --replace.") from error
            yield table.combine_chunks()
        return
    for table in read_unit(unit, reading, limits):
        readable, _ = split_problems(table)
        yield readable.drop_columns(["problem", "where"])
