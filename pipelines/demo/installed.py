"""Text installed on this machine, as documents: licences, documentation and docstrings of Python and its packages.

    packages()  ->  the installed packages: the standard library, then every distribution in order of its name
    collect()   ->  documents of three sources, bounded in number and size

    licences    licence texts and notices: hundreds of near-duplicates of a few dozen texts
    docs        readme texts, .rst, .md and .txt files, and the language reference of `help()`
    docstrings  of modules, classes and functions, parsed from source by `ast`; no package is imported

The same installation gives the same documents in the same order. Files that are unreadable or not UTF-8 are skipped.
"""

import ast
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from importlib import metadata
from itertools import islice
from pathlib import PurePosixPath

from raymill.cluster.errors import StorageError
from raymill.cluster.store.store import Store

_DOC_ENDINGS = (".rst", ".md", ".txt")
_LICENCE_NAME = re.compile(r"licen[cs]e|copying|copyright|notice", re.IGNORECASE)
_CODE_ENDINGS = (".py", ".pyi", ".pyc", ".pyx", ".js", ".json", ".css", ".html", ".toml", ".xml", ".so")
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_MAX_LICENCE_NAME_CHARS = 60  # of `License:` in old metadata, which may hold the whole text

# The language reference, a module with one dictionary: topic -> text.
_TOPICS = "pydoc_data/topics.py"


@dataclass(frozen=True, slots=True)
class CollectionLimits:
    """Upper bounds of what is collected, except for the last one. Bytes are those of UTF-8."""

    documents: int = 20_000
    text_bytes: int = 30_000_000
    file_bytes: int = 1_000_000  # larger files are skipped
    docstrings_of_package: int = 200  # so that one large package does not fill the set
    source_chars_of_package: int = 1_000_000  # of Python code; `ast` parses about 5 MB/s
    min_docstring_chars: int = 300  # shorter ones are skipped


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package.

    files: paths below `root`, sorted, with forward slashes, without tests. readme: its long description, or empty.
    """

    name: str
    version: str
    licence: str | None
    root: str
    files: tuple[str, ...]
    readme: str = ""


@dataclass(frozen=True, slots=True)
class InstalledDocument:
    """A collected text. `id`: path of its file in the installation; for a docstring with `#` and the qualified name."""

    source: str
    id: str
    text: str
    package: str
    version: str
    licence: str | None


def collect(packages: Iterable[Package], bounds: CollectionLimits = CollectionLimits()) -> Iterator[InstalledDocument]:
    """Licences of all packages, then docs, then docstrings, until a bound is reached. Ids are unique."""
    packages = list(packages)
    seen: set[str] = set()
    size = 0
    for source, find in FINDERS.items():
        for package in packages:
            for id, text in find(package, bounds):
                encoded = _utf8(text)
                if id in seen or not encoded.strip():
                    continue
                size += len(encoded)
                if len(seen) == bounds.documents or size > bounds.text_bytes:
                    return
                seen.add(id)
                yield InstalledDocument(source, id, text, package.name, package.version, package.licence)


def packages() -> list[Package]:
    """The packages installed for this interpreter, its standard library first."""
    folders = dict.fromkeys(os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
    return [standard_library(), *(package for folder in folders for package in distributions(folder))]


def standard_library() -> Package:
    """Python's standard library as one package, named `python`."""
    root = sysconfig.get_path("stdlib")
    files = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in _SKIPPED_FOLDERS)
        files += [os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/") for name in names]
    return Package("python", platform.python_version(), "PSF-2.0", root, tuple(sorted(files)))


def distributions(folder: str) -> list[Package]:
    """The distributions installed in a folder of site-packages, in order of name, without raymill."""
    found = [_package(installed, folder) for installed in metadata.distributions(path=[folder])]
    return sorted(
        (package for package in found if package and package.name.lower() != "raymill"),
        key=lambda package: (package.name.lower(), package.version),
    )


def _package(installed: metadata.Distribution, folder: str) -> Package | None:
    """The package of a distribution; None if its metadata is missing or damaged."""
    try:
        about = message_from_string(installed.read_text("METADATA") or installed.read_text("PKG-INFO") or "")
    except UnicodeDecodeError:
        return None
    if not about["Name"]:
        return None
    files = sorted(file.as_posix() for file in installed.files or [])
    wanted = tuple(file for file in files if not _SKIPPED_FOLDERS & set(file.split("/")[:-1]))
    readme = about.get_payload() or about["Description"] or ""
    return Package(about["Name"], about["Version"] or "", _licence(about), folder, wanted, str(readme))


def _licence(about: Message) -> str | None:
    """Name of the licence in the metadata: its expression, else its classifier, else a short `License:`."""
    if about.get("License-Expression"):
        return about["License-Expression"]
    classifiers = [text for text in about.get_all("Classifier") or [] if text.startswith("License :: ")]
    if classifiers:
        return classifiers[0].rpartition(" :: ")[2]
    named = (about.get("License") or "").strip()
    return named if 0 < len(named) <= _MAX_LICENCE_NAME_CHARS and "\n" not in named else None


def _licences(package: Package, bounds: CollectionLimits) -> Iterator[tuple[str, str]]:
    for file in package.files:
        if _is_licence(file) and (text := _read(package, file, bounds)):
            yield _id(package, file), text


def _docs(package: Package, bounds: CollectionLimits) -> Iterator[tuple[str, str]]:
    if package.readme.strip():
        yield f"{package.name}/readme", package.readme
    for file in package.files:
        if file == _TOPICS:
            for topic, text in _topics(_read(package, file, bounds)):
                yield f"{package.name}/help/{topic}", text
        elif _is_doc(file) and (text := _read(package, file, bounds)):
            yield _id(package, file), text


def _docstrings(package: Package, bounds: CollectionLimits) -> Iterator[tuple[str, str]]:
    found = _long_docstrings(package, bounds)
    return islice(found, bounds.docstrings_of_package)


def _long_docstrings(package: Package, bounds: CollectionLimits) -> Iterator[tuple[str, str]]:
    left = bounds.source_chars_of_package
    for file in package.files:
        if file.endswith(".py") and file != _TOPICS:
            code = _read(package, file, bounds)
            left -= len(code)
            if left < 0:
                return
            for name, text in docstrings(code):
                if len(text) >= bounds.min_docstring_chars:
                    yield f"{_id(package, file)}#{name}", text


FINDERS: dict[str, Callable[[Package, CollectionLimits], Iterator[tuple[str, str]]]] = {
    "licences": _licences,
    "docs": _docs,
    "docstrings": _docstrings,
}


def docstrings(code: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring without indentation) of code, in order; a module is named `module`."""
    module = _parsed(code)
    if module is not None:
        yield from _docstrings_below(module, "")


def _docstrings_below(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield name or "module", text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_below(child, f"{name}.{child.name}".lstrip("."))
        elif isinstance(child, ast.stmt):
            yield from _docstrings_below(child, name)


def _topics(code: str) -> Iterator[tuple[str, str]]:
    module = _parsed(code)
    for node in module.body if module else ():
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield str(key.value), value.value


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in strings
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # syntax of other versions, templates, deeply nested generated code


def _is_licence(file: str) -> bool:
    name = PurePosixPath(file).name
    return bool(_LICENCE_NAME.search(name)) and not name.lower().endswith(_CODE_ENDINGS)


def _is_doc(file: str) -> bool:
    return file.lower().endswith(_DOC_ENDINGS) and not _is_licence(file) and ".dist-info/" not in file


def _id(package: Package, file: str) -> str:
    """Id of a file. Paths of distributions begin with an import name; those of the standard library get `python/`."""
    return f"python/{file}" if package.name == "python" else file.removeprefix("/").replace("../", "")


def _read(package: Package, file: str, bounds: CollectionLimits) -> str:
    """Text of a file; empty if the file does not exist, is too large or is not UTF-8."""
    path, store = os.path.join(package.root, file), Store()
    try:
        if store.info(path).size > bounds.file_bytes:
            return ""
        return store.read_bytes(path).decode("utf-8-sig")
    except (StorageError, UnicodeDecodeError):
        return ""


def _utf8(text: str) -> bytes:
    """UTF-8 of a text; empty if the text has half of a surrogate pair, as an escape in a docstring can write."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return b""
