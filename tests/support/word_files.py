"""Writes Word files with the XML of a body."""

import io
import zipfile

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006"
END = "</w:body></w:document>"


def word(body: str, *, namespace: str = WORD, name: str = "word/document.xml", head: str = "", end: str = END) -> bytes:
    """A DOCX with this XML in its body."""
    xml = f'{head}<w:document xmlns:w="{namespace}" xmlns:mc="{FALLBACK}"><w:body>{body}{end}'
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, xml)
    return out.getvalue()


def p(text: str) -> str:
    return f'<w:p><w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'
