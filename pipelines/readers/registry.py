"""Every format by name. A new one is a class with what `reader.Reader` asks for, a line here and one in `Format`."""

from pipelines.readers.compression import compression_ending
from pipelines.readers.jsonl import Jsonl
from pipelines.readers.parquet import Parquet
from pipelines.readers.reader import Reader
from pipelines.readers.whole import PlainText

READERS: dict[str, Reader] = {
    "parquet": Parquet(),
    "jsonl": Jsonl(),
    "text": PlainText(".txt", ".text"),
    "markdown": PlainText(".md", ".markdown", ".rst"),
}


def format_of(uri: str) -> str | None:
    """The format that a file's ending names."""
    name = uri.lower()
    bare = name.removesuffix(compression_ending(name))
    for format, reader in READERS.items():
        if (bare if reader.compressible else name).endswith(reader.endings):
            return format
    return None
