"""The files of all inputs, from listings alone: a folder, glob, file, saved data set or data set of the hub each.

No file is opened. A finished run is recognised by the fingerprint of the listing.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.readers.formats import READERS, format_of
from raymill.cluster.readers.formats.hub import hub_files, is_hub_data, is_saved_dataset, saved_files
from raymill.cluster.readers.inputs import Input, input_stores
from raymill.cluster.readers.streams import compression_ending
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo, NotFound
from raymill.cluster.store.local import CIRCULAR, DANGLING, LEADS_OUT, NOT_UTF8
from raymill.cluster.store.paths import glob_regex, matches
from raymill.cluster.store.store import Store

_LISTED = 12  # names in an error

# Kinds of skipped files, besides their endings and the kinds of `Store.list_unreadable`.
HIDDEN, NO_ENDING, ZERO_BYTES, EXCLUDED = "hidden", "(no ending)", "zero bytes", "excluded"
REPEATED = "link to a file that is read"
_PLURALS = {DANGLING: f"{DANGLING}s", CIRCULAR: f"{CIRCULAR}s", REPEATED: "links to a file that is read"}

# A file named .json is not read as JSON Lines: it usually contains one value over many lines.
_JSON_HINT = "For a JSON array, or objects over several lines, set `format: json`; for lines `format: jsonl`."

_EMPTY = re.compile(r"(?<!:)//+")

# Kinds of paths that are unreadable files, not skipped ones -> what to do.
_UNREADABLE = {
    NOT_UTF8: "the name is not UTF-8. Rename it.",
    LEADS_OUT: "a link that leads out of the input's folder. Copy what it leads to into the folder, leave it out with "
    "`exclude`, or set `follow_links: true` in this input.",
}


@dataclass
class ListedSource:
    """An input with its files.

    title: its name in messages. store: what it is read from. files, skipped, unreadable: see FoundFiles. errors: (URI
    or empty text, message). digest: of the artifact that its folder is, if it has exactly the artifact's files.
    """

    title: str
    input: Input
    store: Store
    files: list[tuple[FileInfo, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: tuple[tuple[str, str], ...] = ()
    errors: list[tuple[str, str]] = field(default_factory=list)
    digest: str | None = None


@dataclass(frozen=True)
class InputListing:
    """The files of all inputs. store: for the inputs without `storage`."""

    store: Store
    inputs: tuple[Input, ...]
    sources: tuple[ListedSource, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the inputs' settings, and of name, size and version of each file; of an artifact, its digest.

        So an artifact that was made again with the same rows is the same input. For inputs with HTML pages also of the
        extractor and its version.
        """
        settings = [one.model_dump(mode="json", exclude={"storage", "extractor"}) for one in self.inputs]
        files: list[Any] = [
            [source.input.source, file.uri, file.size, file.version, format]
            for source in self.sources
            for file, format in (source.files if source.digest is None else ())
        ]
        files += [[source.input.source, source.digest] for source in self.sources if source.digest is not None]
        extraction = {
            source.input.source: found
            for source in self.sources
            for format in dict.fromkeys(format for _, format in source.files)
            if (found := READERS[format].extraction(source.input))
        }
        content = [settings, files, *([extraction] if extraction else [])]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def list_inputs(store: Store, inputs: Sequence[Input]) -> InputListing:
    """List the files of the inputs. Errors of an input are in its `errors`; `freeze` raises them with those of files.

    Args:
        store: for the inputs without `storage`.

    Raises:
        ConfigError: two inputs have the same source name.
    """
    for name, count in Counter(one.source for one in inputs).items():
        if count > 1:
            numbers = " and ".join(str(number) for number, one in enumerate(inputs) if one.source == name)
            raise ConfigError(f"inputs {numbers} are both called {name}. Give each a `source` of its own.")
    sources = tuple(
        ListedSource(f"inputs[{number}] ({one.source})", one, of_input)
        for number, (one, of_input) in enumerate(zip(inputs, input_stores(store, inputs), strict=True))
    )
    for source in sources:
        try:
            found = find_files(source.store, source.input)
            source.files, source.skipped, source.unreadable = found.files, found.skipped, found.unreadable
            source.digest = _artifact_digest(source)
        except UserError as error:
            source.errors.append(("", str(error)))
    owner: dict[tuple[str, str], str] = {}
    for source in sources:
        for file, _ in source.files:
            first = owner.setdefault((source.store.endpoint_of(file.uri), file.uri), source.title)
            if first != source.title:
                message = f"already read by {first}. A file belongs to one input: narrow one of the paths."
                source.errors.append((file.uri, message))
    return InputListing(store, tuple(inputs), sources)


def _artifact_digest(source: ListedSource) -> str | None:
    """The digest of the artifact whose folder the input is, if its files are there with their sizes, and no other."""
    if not source.files or HIDDEN not in source.skipped:  # its manifest is a hidden file
        return None
    try:
        found = Artifact.find(source.store, source.input.path)
    except DataError:
        return None
    if found is None:
        return None
    sizes = {found.file_uri(file): file.bytes for file in found.manifest.files}
    return found.manifest.digest if sizes == {file.uri: file.size for file, _ in source.files} else None


# ---- the files of one input ----


@dataclass(frozen=True)
class FoundFiles:
    """The files of an input.

    files: (file, format) in the order of their names. empty: those of zero bytes. skipped: number of skipped files by
    ending or kind. unreadable: (path, why it cannot be read) of names that are not UTF-8, with escapes, and of links
    that lead out of the folder.
    """

    files: list[tuple[FileInfo, str]]
    empty: tuple[tuple[FileInfo, str], ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: tuple[tuple[str, str], ...] = ()


def find_files(store: Store, input: Input) -> FoundFiles:
    """The files of an input.

    Skipped are excluded and empty files; names that begin with `.` or `_` below the folder or the fixed part of the
    glob; and files with an unknown ending, unless the path names the file, or is a glob with `format` set.

    Raises:
        DataError: no file is found; the message lists the nearest names.
        StorageError: the store cannot be read.
    """
    if is_hub_data(input.path):
        return FoundFiles([(file, "hf") for file in hub_files(input.path, input.split)])
    path, inside = input.path, not input.follow_links
    if input.format_name == "fetched":
        files = [file for file in store.list_files(path, inside=inside) if file.uri.endswith(".parquet")]
        if not files:
            raise DataError(f"{path}: nothing was fetched yet. Run `raymill prepare`, whose first step fetches.")
        return FoundFiles([(file, "fetched") for file in files if not _is_hidden(file.uri, path)])
    if _is_glob(path):
        root = folder_of(path)
        files = store.glob(path, skip_bad_names=True, inside=inside)
        # A name with an empty part is one that the glob would match without it.
        listed = store.list_unreadable(root, inside=inside)
        others = [(one, kind) for one, kind in listed if matches(path, _EMPTY.sub("/", one))]
        return _select(input, path, root, files, others)
    file = None
    if paths.is_remote(path) or not Path(path).is_dir():
        with suppress(NotFound):
            file = store.info(path)
    if file is not None:
        format = input.format_name or format_of(path)
        if format is None:
            hint = f" {_JSON_HINT}" if path.lower().endswith(".json") else ""
            raise DataError(f"{path}: no format has this ending.{hint} {_unknown_format()}")
        if not file.size:
            return FoundFiles([], ((file, format),), Counter({ZERO_BYTES: 1}))
        return FoundFiles([(file, format)])
    if os.path.islink(path) and not os.path.exists(path):
        raise DataError(
            f"{path}: is a {DANGLING}: its target {os.readlink(path)} does not exist. Name the file itself."
        )
    files = store.list_files(path, skip_bad_names=True, inside=inside)
    if is_saved_dataset(path, files) and input.format_name in (None, "hf"):
        return FoundFiles([(file, "hf") for file in saved_files(store, path, files, input.split)])
    if input.format_name == "hf":
        raise DataError(f"{path}: no state.json or dataset_dict.json here. Give the folder that `save_to_disk` wrote.")
    return _select(
        input, path, path.rstrip("/") + "/", files, store.list_unreadable(path, inside=inside), is_folder=True
    )


def _is_glob(path: str) -> bool:
    """Whether an absolute path or URI is a glob. If a local file has this name, its brackets are part of the name."""
    return bool(re.search(r"[*?\[]", path)) and (paths.is_remote(path) or not Path(path).exists())


def folder_of(path: str) -> str:
    """The folder of an input's files, with a slash at its end: the path itself, or the fixed part of the glob."""
    if path.startswith("hf://"):
        return ""
    wild = re.search(r"[*?\[]", path)
    return path[: path.rindex("/", 0, wild.start()) + 1] if wild and _is_glob(path) else path.rstrip("/") + "/"


def _select(
    input: Input,
    path: str,
    root: str,
    files: Iterable[FileInfo],
    others: Iterable[tuple[str, str]],
    is_folder: bool = False,
) -> FoundFiles:
    """The files to read of those found, and the number of skipped ones. others: (path, kind) of what is not a file."""
    selected: list[tuple[FileInfo, str]] = []
    globs = [
        glob_regex(glob if "/" in glob else f"**/{glob}") for glob in input.exclude
    ]  # a name, or a path below root

    def excluded(path: str) -> bool:
        return any(regex.fullmatch(path.removeprefix(root)) for regex in globs)

    others = [(one, kind) for one, kind in others if not _is_hidden(one, root) and not excluded(one)]

    def format_to_read(uri: str) -> str | None:
        named = format_of(uri)
        format = input.format_name or named
        if not is_folder or format is None or named == format:
            return format
        name = uri.lower()
        stated = READERS[format].stated_endings  # endings that are read if the config names the format
        return format if name.removesuffix(compression_ending(name)).endswith(stated or ("\0",)) else None

    skipped: Counter[str] = Counter()
    empty, unreadable = [], []
    for one, kind in others:
        if kind not in _UNREADABLE:
            skipped[kind] += 1
        elif kind == LEADS_OUT and os.path.isfile(one) and format_to_read(one) is None:
            skipped[_ending(one) or NO_ENDING] += 1
        else:
            unreadable.append((one, _UNREADABLE[kind]))
    for file in files:
        format = format_to_read(file.uri)
        if _is_hidden(file.uri, root):
            skipped[HIDDEN] += 1
        elif excluded(file.uri):
            skipped[EXCLUDED] += 1
        elif format is None:
            skipped[_ending(file.uri) or NO_ENDING] += 1
        elif not file.size:
            skipped[ZERO_BYTES] += 1
            empty.append((file, format))
        else:
            selected.append((file, format))
    if not selected and skipped and ZERO_BYTES not in skipped:
        seen = skipped_text(dict(skipped.most_common(_LISTED)))
        hint = f" {_JSON_HINT}" if ".json" in skipped else ""
        raise DataError(f"{path}: none of the files there can be read ({seen}).{hint} {_unknown_format(input)}")
    if not selected and not skipped and not unreadable:
        raise _no_file(path, is_folder)
    if not paths.is_remote(path):
        count = len(selected)
        selected = _without_repeats(selected, root)
        if len(selected) < count:
            skipped[REPEATED] += count - len(selected)
    return FoundFiles(selected, tuple(empty), skipped, tuple(unreadable))


def _without_repeats(files: list[tuple[FileInfo, str]], root: str) -> list[tuple[FileInfo, str]]:
    """One name of each file. If links give it several, the one without a link, else the first."""
    real_root, folders = os.path.realpath(root), dict[str, str]()
    first: dict[str, tuple[bool, str]] = {}  # real path -> (is a link, name)
    for file, _ in files:
        folder, name = os.path.split(file.uri)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        is_link = real != os.path.join(real_root, file.uri.removeprefix(root))
        first[real] = min(first.get(real, (True, file.uri)), (is_link, file.uri))
    names = {name for _, name in first.values()}
    return [(file, format) for file, format in files if file.uri in names]


def _is_hidden(uri: str, root: str) -> bool:
    parts = uri.removeprefix(root).split("/")
    return any(part[0] in "._" and part not in (".", "..") for part in parts if part)


def _ending(uri: str) -> str:
    """The ending of a name in lower case, such as `.png` or `.tar.gz`; empty if it has none."""
    compression = compression_ending(uri)
    return PurePosixPath(uri.lower().removesuffix(compression)).suffix + compression


def skipped_text(skipped: Mapping[str, int]) -> str:
    """Numbers of skipped files as text: `2 .png, 1 dangling link, 3 of zero bytes`."""
    return ", ".join(
        f"{count:,} of {kind}" if kind == ZERO_BYTES else f"{count:,} {_PLURALS.get(kind, kind) if count > 1 else kind}"
        for kind, count in skipped.items()
    )


def _unknown_format(input: Input | None = None) -> str:
    if input is not None and input.format_name:
        reader = READERS[input.format_name]
        if endings := ", ".join(reader.endings or reader.stated_endings):
            return f"With `format: {input.format_name}` a folder gives its {endings} files; name others by a glob."
        return f"The reader {input.format_name} has no `endings`, so name the files of a folder by a glob."
    endings = ", ".join(
        ending
        for reader in READERS.values()
        for ending in (*reader.endings, *(f"{one}.gz" for one in reader.compressed_endings))
    )
    return f"Known endings: {endings}. For others set `format`, and name a folder's files by a glob."


def _no_file(path: str, is_folder: bool) -> DataError:
    """The error for a path without files: it lists the nearest folder that exists."""
    if paths.is_remote(path):
        what = "no file of this name and none below it" if is_folder else "no file matches"
        return DataError(f"{path}: {what}. Check the bucket and the prefix.")
    folder = next(parent for parent in [Path(path), *Path(path).parents] if parent.is_dir())
    if folder == Path(path):
        inside = sorted(f"{entry.name}/" for entry in folder.iterdir())
        shown = ", ".join(inside[:_LISTED]) + ", ..." * (len(inside) > _LISTED)
        what = f"it holds only folders ({shown}), and no file lies below it" if inside else "the folder is empty"
        return DataError(f"{path}: {what}. Check the path.")
    what = (
        "no file matches"
        if not is_folder
        else "the file does not exist"
        if format_of(path)
        else "the folder does not exist"
    )
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    missing = str(Path(path).relative_to(folder)).split("/")[0]
    near = get_close_matches(missing, [name.rstrip("/") for name in names], 1)
    fix = f"Did you mean {near[0]}?" if near else "Check the path."
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    content = f"holds {', '.join(names[:_LISTED])}{more}" if names else "is empty"
    return DataError(f"{path}: {what}. The nearest folder, {folder}, {content}. {fix}")
