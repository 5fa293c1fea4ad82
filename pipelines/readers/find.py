"""Which files an input means."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from cluster.errors import DataError
from cluster.store import paths
from cluster.store.interface import FileInfo, NotFound
from cluster.store.local import CIRCULAR, DANGLING
from cluster.store.store import Store
from pipelines.readers.hub import hub_files, is_saved_dataset, saved_files
from pipelines.readers.inputs import Input
from pipelines.readers.registry import READERS, format_of

_LISTED = 12

# How files are counted that are passed over, beside their endings and the kinds of `storage.list_unreadable`.
HIDDEN, NO_ENDING, ZERO_BYTES = "hidden", "(no ending)", "zero bytes"
REPEATED = "link to a file that is read"
_PLURALS = {DANGLING: f"{DANGLING}s", CIRCULAR: f"{CIRCULAR}s", REPEATED: "links to a file that is read"}

# JSON Lines have endings of their own, as a .json file usually holds one value over many lines.
_JSON_HINT = "Of a JSON array make one object a line, as `jq -c '.[]'` does, in a .jsonl file."

_NO_FOLDER = "the folder does not exist"

Found = tuple[list[tuple[FileInfo, str]], Counter[str]]


def find(store: Store, input: Input, base: str) -> Found:
    """((file, format) in the order of their names, how many files were passed over by ending).

    Names that begin with `.` or `_` below the folder or the fixed part of the glob are passed over, and so are unknown
    endings, unless the path names the file, or `format` is given and the path is a glob.

    Raises:
        DataError: nothing matches; the message says what is there instead.
        StorageError: the store cannot be read.
    """
    if input.path.startswith("hf://"):
        return [(file, "hf") for file in hub_files(input.path.removeprefix("hf://"), input.split)], Counter()
    path = absolute_path(input.path, base)
    wild = re.search(r"[*?\[]", path)
    if wild and not paths.is_remote(path) and Path(path).exists():
        wild = None  # a name with brackets in it, not a pattern
    if wild:
        root = path[: path.rindex("/", 0, wild.start()) + 1]
        others = [(one, kind) for one, kind in store.list_unreadable(root) if paths.matches(path, one)]
        return _chosen(input, path, root, store.glob(path), others)
    file = _file(store, path)
    if file is not None:
        format = input.format or format_of(path)
        if format is None:
            hint = f" {_JSON_HINT}" if path.lower().endswith(".json") else ""
            raise DataError(f"{path}: its ending names no format.{hint} {_unknown_format()}")
        return ([(file, format)], Counter()) if file.size else ([], Counter({ZERO_BYTES: 1}))
    if os.path.islink(path) and not os.path.exists(path):
        raise DataError(
            f"{path}: is a {DANGLING}: it leads to {os.readlink(path)}, which is not there. Name the file itself."
        )
    files = store.list_files(path)
    if is_saved_dataset(path, files) and input.format in (None, "hf"):
        return [(file, "hf") for file in saved_files(store, path, files, input.split)], Counter()
    if input.format == "hf":
        raise DataError(f"{path}: no state.json or dataset_dict.json here. Give the folder that `save_to_disk` wrote.")
    return _chosen(input, path, path.rstrip("/") + "/", files, store.list_unreadable(path), is_folder=True)


def _file(store: Store, path: str) -> FileInfo | None:
    if not paths.is_remote(path) and Path(path).is_dir():
        return None
    try:
        return store.info(path)
    except NotFound:
        return None


def absolute_path(path: str, base: str) -> str:
    """An input's path or URI, a relative one below `base`."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", path):
        return paths.absolute(path)
    path = os.path.expanduser(path)
    return os.path.normpath(path) if os.path.isabs(path) or not base else _joined(base, path)


def _joined(base: str, path: str) -> str:
    if paths.is_remote(base):
        return paths.join(base, os.path.normpath(path))
    return os.path.normpath(os.path.join(paths.absolute(base), path))


def _chosen(
    input: Input,
    path: str,
    root: str,
    files: Iterable[FileInfo],
    others: Iterable[tuple[str, str]],
    is_folder: bool = False,
) -> Found:
    """`others`: (path, kind) of what is there and no file."""
    chosen: list[tuple[FileInfo, str]] = []
    skipped = Counter(kind for one, kind in others if not _is_hidden(one, root))
    for file in files:
        named = format_of(file.uri)
        format = input.format or named
        if _is_hidden(file.uri, root):
            skipped[HIDDEN] += 1
        elif format is None or (is_folder and named != format):
            skipped[PurePosixPath(file.uri).suffix.lower() or NO_ENDING] += 1
        elif not file.size:
            skipped[ZERO_BYTES] += 1
        else:
            chosen.append((file, format))
    if not chosen and skipped and ZERO_BYTES not in skipped:
        seen = skipped_text(dict(skipped.most_common(_LISTED)))
        hint = f" {_JSON_HINT}" if ".json" in skipped else ""
        raise DataError(f"{path}: of the files there none can be read ({seen}).{hint} {_unknown_format(input)}")
    if not chosen and not skipped:
        raise _nothing(path, is_folder)
    if not paths.is_remote(path):
        several = len(chosen)
        chosen = _without_repeats(chosen, root)
        if len(chosen) < several:
            skipped[REPEATED] += several - len(chosen)
    return chosen, skipped


def _without_repeats(chosen: list[tuple[FileInfo, str]], root: str) -> list[tuple[FileInfo, str]]:
    """Of the names that lead to one file by links, the one that is no link; else the first."""
    real_root, folders = os.path.realpath(root), dict[str, str]()
    first: dict[str, tuple[bool, str]] = {}  # real path -> (is a link, name)
    for file, _ in chosen:
        folder, name = os.path.split(file.uri)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        is_link = real != os.path.join(real_root, file.uri.removeprefix(root))
        first[real] = min(first.get(real, (True, file.uri)), (is_link, file.uri))
    names = {name for _, name in first.values()}
    return [(file, format) for file, format in chosen if file.uri in names]


def _is_hidden(uri: str, root: str) -> bool:
    return any(part[0] in "._" for part in uri.removeprefix(root).split("/") if part)


def skipped_text(skipped: Mapping[str, int]) -> str:
    """What was passed over, for people: `2 .png, 1 dangling link, 3 of zero bytes`."""
    return ", ".join(
        f"{count:,} of {kind}" if kind == ZERO_BYTES else f"{count:,} {_PLURALS.get(kind, kind) if count > 1 else kind}"
        for kind, count in skipped.items()
    )


def _unknown_format(input: Input | None = None) -> str:
    if input is not None and input.format:
        endings = ", ".join(READERS[input.format].endings)
        return f"With `format: {input.format}` a folder gives its {endings} files; name others by a glob."
    endings = ", ".join(ending for reader in READERS.values() for ending in reader.endings)
    return f"Known endings: {endings}. For others set `format`, and name a folder's files by a glob."


def _nothing(path: str, is_folder: bool) -> DataError:
    """No such path: name the nearest folder that exists and what is in it."""
    if paths.is_remote(path):
        what = "no file of this name and none below it" if is_folder else "no file matches"
        return DataError(f"{path}: {what}. Check the bucket and the prefix.")
    folder = next(parent for parent in [Path(path), *Path(path).parents] if parent.is_dir())
    if folder == Path(path):
        inside = sorted(f"{entry.name}/" for entry in folder.iterdir())
        shown = ", ".join(inside[:_LISTED]) + ", ..." * (len(inside) > _LISTED)
        what = f"it holds only folders ({shown}), and no file lies below it" if inside else "the folder is empty"
        return DataError(f"{path}: {what}. Check the path.")
    what = "no file matches" if not is_folder else "the file does not exist" if format_of(path) else _NO_FOLDER
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    missing = str(Path(path).relative_to(folder)).split("/")[0]
    near = get_close_matches(missing, [name.rstrip("/") for name in names], 1)
    mend = f"Did you mean {near[0]}?" if near else "Check the path."
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    content = f"holds {', '.join(names[:_LISTED])}{more}" if names else "is empty"
    return DataError(f"{path}: {what}. The nearest folder, {folder}, {content}. {mend}")
