"""Every format by name. A new one is a subclass of `reader.Reader`, a line here and one in `Format`."""

from cluster.read.compression import compression_ending
from pipelines.readers.delimited import Delimited
from pipelines.readers.hub import Hub
from pipelines.readers.jsonl import Jsonl
from pipelines.readers.pages import Html
from pipelines.readers.parquet import Parquet
from pipelines.readers.plain import PlainText
from pipelines.readers.reader import Reader
from pipelines.readers.warc import Warc, Wet

READERS: dict[str, Reader] = {
    "parquet": Parquet(),
    "jsonl": Jsonl(),
    "csv": Delimited(",", ".csv"),
    "tsv": Delimited("\t", ".tsv"),
    "text": PlainText(".txt", ".text"),
    "markdown": PlainText(".md", ".markdown", ".rst"),
    "html": Html(),
    "warc": Warc(),
    "wet": Wet(),
    "hf": Hub(),
}


def format_of(uri: str) -> str | None:
    """The format that a file's ending names."""
    name = uri.lower()
    bare = name.removesuffix(compression_ending(name))
    for format, reader in READERS.items():
        if (bare if reader.compressible else name).endswith(reader.endings):
            return format
    return None
