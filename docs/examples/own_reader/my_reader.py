"""A reader of one's own for curate.yaml in this folder: logbooks, in which a line `== TITLE` begins a document."""

from collections.abc import Iterator


class Logbook:
    """Reads the entries of a logbook that have at least `min_characters`."""

    endings = (".log",)  # the files of a folder that are read
    columns = ("title",)  # what documents carry besides `text`, `id` and `path`

    def __init__(self, min_characters: int = 20) -> None:
        self.min_characters = min_characters

    def read(self, content: bytes, path: str) -> Iterator[dict[str, str]]:
        """The documents of a file. An exception makes the file a row of the quarantine."""
        first, *entries = content.decode().split("== ")
        if first:
            raise ValueError(f"the file begins with {first[:20]!r} and not with a title")
        for entry in entries:
            title, _, text = entry.partition("\n")
            if len(text) >= self.min_characters:
                yield {"text": text, "id": f"{path}: {title}", "title": title}
