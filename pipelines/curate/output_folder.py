"""Where a run may write: apart from its input, and only where files can be made."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import ConfigError
from cluster.store import storage
from pipelines.curate.config import CurateConfig
from pipelines.readers.find import absolute_path
from pipelines.readers.units import InputFile

# One name for each kind of file that a run leaves below its output, as a glob may match them.
_LEFT_BY_A_RUN = ("report.html", "report.json", "inputs.json", "manifest.json", "corpus/000000-000-0.parquet")


def refuse_output_among_inputs(config: CurateConfig, root: str, base: str) -> None:
    """Compare the output with each input's folder, links followed. Nothing has to exist yet.

    Raises:
        ConfigError: they are one folder, or a later call would take the run's own files for input.
    """
    for number, entry in enumerate(config.inputs):
        if entry.path.startswith("hf://"):
            continue
        path = absolute_path(entry.path, base)
        wild = re.search(r"[*?\[]", path)
        if wild and not storage.is_remote(path) and os.path.exists(path):
            wild = None  # a name with brackets in it, not a pattern
        folder = path[: path.rindex("/", 0, wild.start())] if wild else path.rstrip("/")
        named = f"inputs[{number}] ({entry.source}, {path})"
        choose = f"Choose an output of its own, such as {folder}-curated."
        if same := _same(root, folder or "/"):
            raise ConfigError(f"output: {root} {same} {named}, so the run would write among the raw files. {choose}")
        inside = _path_below(root, folder or "/")
        if inside is not None and (not wild or _matches_own_files(path[len(folder) :], inside)):
            raise ConfigError(
                f"output: {root} lies inside {named}, so the next call would read this run's own files. {choose}"
            )


def refuse_files_inside(root: str, files: Iterable[InputFile]) -> None:
    """
    Raises:
        ConfigError: an input file lies below the output, links followed.
    """
    real_root = _real(root)
    real_folders: dict[str, str] = {}
    for file in files:
        folder, _, name = file.uri.rpartition("/")
        if folder not in real_folders:
            real_folders[folder] = _real(folder)
        real = f"{real_folders[folder]}/{name}"
        if not storage.is_remote(file.uri) and os.path.islink(file.uri):
            real = os.path.realpath(file.uri)
        if f"{real}/".startswith(f"{real_root.rstrip('/')}/"):
            via = "" if real == file.uri else f" (as {real})"
            raise ConfigError(
                f"output: {root} holds the input file {file.uri}{via} of source {file.source}, so the run would write "
                "among the raw files. Choose an output that is not above the input."
            )


def check_output(root: str) -> None:
    """Make the output and write one small file there; remove both again.

    Raises:
        StorageError: the output cannot be made, or the store has no conditional writes.
    """
    missing = []
    if not storage.is_remote(root):
        missing = [folder for folder in (Path(root), *Path(root).parents) if not os.path.exists(folder)]
    try:
        storage.require_conditional_writes(root)
    finally:
        for folder in missing:
            storage.delete_empty_folder(str(folder))


def _same(root: str, folder: str) -> str | None:
    """How the two are one folder, as the middle of a sentence; None where they are not."""
    if storage.is_remote(root) or storage.is_remote(folder):
        return "is the folder of" if root == folder else None
    if _real(root) == _real(folder) or _same_file(root, folder):
        return "is the folder of"
    if _real(root).casefold() == _real(folder).casefold():
        return "differs only in upper and lower case, which many file systems do not tell apart, from"
    return None


def _path_below(root: str, folder: str) -> str | None:
    """The path of `root` from `folder` on, with a slash before it; None where it does not lie inside."""
    if storage.is_remote(root) or storage.is_remote(folder):
        start = folder.rstrip("/") + "/"
        return "/" + root.removeprefix(start) if root.startswith(start) else None
    real = Path(_real(root))
    for parent in real.parents:
        if _same_file(str(parent), folder):
            return "/" + str(real.relative_to(parent))
    return None


def _matches_own_files(pattern: str, below: str) -> bool:
    """Whether a glob, from its fixed folder on, matches any file of a run at `below` that folder."""
    return any(storage.matches(pattern, f"{below}/{name}") for name in _LEFT_BY_A_RUN)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _real(path: str) -> str:
    return path.rstrip("/") if storage.is_remote(path) else os.path.realpath(path)
