"""A reader for each format. A new one is a subclass of `Reader`, a line in `READERS` and one in `inputs.Format`."""

from functools import lru_cache

from raymill.cluster.errors import ConfigError
from raymill.cluster.plugins import Plugin
from raymill.cluster.readers.formats.arc import Arc
from raymill.cluster.readers.formats.custom import CustomReader
from raymill.cluster.readers.formats.delimited import Delimited
from raymill.cluster.readers.formats.docx import Docx
from raymill.cluster.readers.formats.hub import Hub
from raymill.cluster.readers.formats.mail import Mail
from raymill.cluster.readers.formats.parquet import Parquet
from raymill.cluster.readers.formats.pdf import Pdf
from raymill.cluster.readers.formats.records import Fetched, Jsonl, JsonValues
from raymill.cluster.readers.formats.text_files import Html, PlainText
from raymill.cluster.readers.formats.transcripts import Transcript
from raymill.cluster.readers.formats.warc import Warc, Wet
from raymill.cluster.readers.inputs import LOADED_READERS, Limits
from raymill.cluster.readers.reader import Reader
from raymill.cluster.readers.streams import Span, compression_ending, decompression_problem, first_bytes
from raymill.cluster.store.store import Store


class _Readers(dict[str, Reader]):
    """The readers by format, with those of the user that the configs of this process name."""

    def __missing__(self, format: str) -> Reader:
        if format not in LOADED_READERS:
            raise ConfigError(
                f"{format}: this reader is code that the record of a run names, and such code is not imported. Give "
                "the config of the run: --config CONFIG."
            )
        return custom_reader(LOADED_READERS[format])


@lru_cache
def custom_reader(plugin: Plugin) -> Reader:
    """The reader of a plug-in, with its child process."""
    return CustomReader(plugin)


READERS: dict[str, Reader] = _Readers({
    "parquet": Parquet(),
    "jsonl": Jsonl(),
    "json": JsonValues(),
    "csv": Delimited(",", ".csv"),
    "tsv": Delimited("\t", ".tsv"),
    "text": PlainText(".txt", ".text"),
    "markdown": PlainText(".md", ".markdown", ".rst"),
    "html": Html(),
    "pdf": Pdf(),
    "docx": Docx(),
    "transcript": Transcript(".vtt", ".srt"),
    "mail": Mail(),
    "warc": Warc(),
    "arc": Arc(),
    "wet": Wet(),
    "hf": Hub(),
    "fetched": Fetched(),
})  # fmt: skip


def format_of(uri: str) -> str | None:
    """The format with this file's ending, None if there is none."""
    name = uri.lower()
    uncompressed = name.removesuffix(compression_ending(name))
    for format, reader in READERS.items():
        if reader.endings and (uncompressed if reader.compressible else name).endswith(reader.endings):
            return format
        if uncompressed != name and uncompressed.endswith(reader.compressed_endings):
            return format
    return None


def file_problem(store: Store, span: Span, limits: Limits, is_stated: bool = False) -> str | None:
    """The problem of a whole file that its first bytes show; None if there is none, or if its reader looks for none.

    is_stated: whether the encoding is a setting; then only the compression is checked.
    """
    if compression_ending(span.uri) and (problem := decompression_problem(store, span, limits)):
        return problem
    reader = READERS[span.format]
    if is_stated or type(reader).file_problem is Reader.file_problem:
        return None
    return reader.file_problem(first_bytes(store, span, limits))
