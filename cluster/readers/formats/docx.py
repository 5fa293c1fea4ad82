"""Word documents (Office Open XML, ISO/IEC 29500): a file is one document, a paragraph or a row of a table one line.

Text boxes, content controls and tracked insertions belong to the text; deletions, comments, notes, headers and footers
do not. Cells of a row are separated by tabs. The XML is parsed as a stream, so memory does not depend on its size.

The standard library does all of it. python-docx 1.2, with which the tests write files, has every part of a file in
memory, and the texts of its paragraphs lack content controls, tracked insertions and moved text, as a test shows.
"""

import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from raymill.cluster.guard import Guard
from raymill.cluster.readers.formats.text_files import OneDocument
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import Rows
from raymill.cluster.readers.streams import UnreadableRest

# Both editions of the standard: that which Word writes, and the strict one.
_WORD = (
    "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}",
    "{http://purl.oclc.org/ooxml/wordprocessingml/main}",
)
# Another form of the same content, for programs that do not support the first one.
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SPACES = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_BODY = "word/document.xml"

# Word before 2007, and files with a password, are in this container.
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")

_BLOCK = 1 << 16


class Docx(OneDocument):
    """The text of Word documents."""

    endings = (".docx",)
    extracts = True
    bytes_per_text = 4

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the text of the body."""
        rows.add(_texts((content, rows.limits), rows.limits.of_parser(uri, len(content))), uri, id, carried)


def _text(file: tuple[bytes, Limits]) -> str:
    """The paragraphs of a file, one a line.

    Raises:
        UnreadableRest: there is no text, or the file is damaged, needs a password or exceeds a bound.
    """
    content, limits = file
    if content.startswith(_COMPOUND_FILE):
        raise UnreadableRest("encrypted" if _ENCRYPTED in content else "old_word_file")
    if not content.startswith(b"PK"):
        raise UnreadableRest("damaged_file")
    body = _Body(limits.max_document_bytes)
    parser = ElementTree.XMLParser(target=body)
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive, archive.open(_BODY) as part:
            size, wanted = 0, _BLOCK
            while block := part.read(wanted):
                size += len(block)
                if limits.is_bomb(size, len(content)):
                    raise UnreadableRest("expansion_bomb")
                before = body.events
                parser.feed(block)
                # expat scans an unfinished tag again from its beginning for each block, so blocks grow with the tag.
                wanted = _BLOCK if body.events != before else 2 * wanted
                if wanted > limits.max_document_bytes + _BLOCK:
                    raise UnreadableRest("too_large")
        parser.close()
    except zipfile.BadZipFile as error:
        # The directory is at the end of the file.
        raise UnreadableRest("truncated" if "not a zip file" in str(error) else "damaged_file") from error
    except RuntimeError as error:  # raised by zipfile for a part with a password
        raise UnreadableRest("encrypted" if "encrypted" in str(error) else "damaged_file") from error
    except (LookupError, ElementTree.ParseError, zlib.error, OSError, EOFError, ValueError) as error:
        raise UnreadableRest("damaged_file") from error
    if not body.lines:
        raise UnreadableRest("no_text")
    return "\n".join(body.lines)


_texts = Guard(_text)


@dataclass
class _Body:
    """What the XML parser calls: collects the paragraphs, without a tree.

    A paragraph may contain text boxes, and a cell other tables, so that open ones are on stacks.

    Attributes:
        lines: finished lines of the body.
        paragraphs: open paragraphs, as pieces of text.
        rows: open rows, as cells.
        cells: open cells, as lines.
        characters: number of characters found so far.
        events: number of tags and texts found so far.
    """

    max_bytes: int
    lines: list[str] = field(default_factory=list)
    paragraphs: list[list[str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    in_text: bool = False
    fallbacks: int = 0
    characters: int = 0
    events: int = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self.events += 1
        if tag == _FALLBACK:
            self.fallbacks += 1
        name = self._name(tag)
        if name == "p":
            self.paragraphs.append([])
        elif name == "tr":
            self.rows.append([])
        elif name == "tc":
            self.cells.append([])
        elif name == "t":
            self.in_text = True
        elif name in _SPACES:
            self._add(_SPACES[name])

    def end(self, tag: str) -> None:
        """An element ends."""
        self.events += 1
        name = self._name(tag)
        if tag == _FALLBACK:
            self.fallbacks -= 1
        elif name == "t":
            self.in_text = False
        elif name == "p" and self.paragraphs:
            self._line("".join(self.paragraphs.pop()).strip())
        elif name == "tc" and self.cells:
            cell = " ".join(" ".join(self.cells.pop()).split())
            if self.rows:
                self.rows[-1].append(cell)
        elif name == "tr" and self.rows:
            self._line("\t".join(self.rows.pop()).rstrip("\t"))

    def data(self, text: str) -> None:
        """Characters between tags."""
        self.events += 1
        if self.in_text and not self.fallbacks:
            self._add(text)

    def close(self) -> Any:
        """The XML ends."""

    def _name(self, tag: str) -> str:
        """The name of an element of the text; empty for others."""
        if self.fallbacks or not tag.startswith(_WORD):
            return ""
        return tag.rpartition("}")[2]

    def _add(self, text: str) -> None:
        self.characters += len(text)
        if self.characters > self.max_bytes:
            raise UnreadableRest("too_large")
        if self.paragraphs:
            self.paragraphs[-1].append(text)

    def _line(self, line: str) -> None:
        if line:
            (self.cells[-1] if self.cells else self.lines).append(line)
