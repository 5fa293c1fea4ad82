"""Readers: files of any format in `READERS` to tables of documents.

    listing.py  the inputs of a config -> their files, from listings alone
    freeze.py   their files -> InputManifest: files, units, carried columns
    divide.py   how much text a unit has, and which pieces of files belong to it
    recorded.py the manifest on the store of a run
    units.py    the manifest; and `read_unit`: a unit -> tables of documents, readable and unreadable

A new format is a subclass of `reader.Reader`, a line in `READERS` and one in `inputs.Format`.
"""

from cluster.read.compression import compression_ending
from pipelines.readers.delimited import Delimited
from pipelines.readers.docx import Docx
from pipelines.readers.fetched import Fetched
from pipelines.readers.hub import Hub
from pipelines.readers.json_values import JsonValues
from pipelines.readers.jsonl import Jsonl
from pipelines.readers.mail import Mail
from pipelines.readers.parquet import Parquet
from pipelines.readers.pdf import Pdf
from pipelines.readers.reader import Reader
from pipelines.readers.text_files import Html, PlainText
from pipelines.readers.transcripts import Transcript
from pipelines.readers.warc import Warc, Wet

READERS: dict[str, Reader] = {
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
    "wet": Wet(),
    "hf": Hub(),
    "fetched": Fetched(),
}


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
