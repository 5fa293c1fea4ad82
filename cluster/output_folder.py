"""Checks that an output folder is not in a folder of input, and that it can be made. Links are followed.

The folders need not exist. Only `check_output` writes.
"""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from raymill.cluster.errors import ConfigError
from raymill.cluster.readers.listing import InputListing
from raymill.cluster.store import paths
from raymill.cluster.store.paths import matches
from raymill.cluster.store.store import Store

# An example of each kind of file that a run over files writes below its output.
_FILES_OF_A_RUN = (
    *("report.html", "report.json", "inputs.json", "inputs.parquet", "manifest.json"),
    "corpus/000000-000-0.parquet",
)


def refuse_impossible_output(output: str) -> None:
    """Find mistakes in the text of an output, and a file in its place.

    Raises:
        ConfigError: it contains a shell variable or a drive letter, or is a file of this machine.
    """
    if paths.is_remote(output):
        return
    if variable := re.search(r"\$(\w+|\{\w+\})", output):
        raise ConfigError(
            f"output: {output} contains {variable[0]}, which is not replaced by the variable's value. Write the path "
            "itself; ~ is your home folder."
        )
    if re.search(r"(^|/)[A-Za-z]:\\", output):
        raise ConfigError(f"output: {output} is a path of Windows. Write a path of this system, or a URI.")
    if Path(paths.absolute(output)).is_file():
        raise ConfigError(f"output: {output} is a file; a folder is wanted. Choose another output.")


def refuse_output_among_inputs(root: str, listing: InputListing, fetched: Collection[str] = ()) -> None:
    """Compare the output with the folder and with every file of each input.

    fetched: sources whose files are below the output, apart from what the run writes.

    Raises:
        ConfigError: the output is the folder of an input, a later run would read the files of this one as input, or an
            input file lies below the output.
    """
    sources = [
        one
        for one in listing.sources
        if one.input.source not in fetched and one.store.endpoint_of(root) == listing.store.endpoint_of(root)
    ]
    for one in sources:
        if not (path := one.input.path).startswith("hf://"):
            named = f"{one.title.removesuffix(')')}, {path})"
            refuse_output_in_folder("output", root, named, path, _FILES_OF_A_RUN, "curated")
    refuse_impossible_output(root)
    real_root = real_path(root).rstrip("/")
    real_folders: dict[str, str] = {}
    for source, file in ((one, file) for one in sources for file, _ in one.files):
        folder, _, name = file.uri.rpartition("/")
        if folder not in real_folders:
            real_folders[folder] = real_path(folder)
        real = f"{real_folders[folder]}/{name}"
        if not paths.is_remote(file.uri) and os.path.islink(file.uri):
            real = os.path.realpath(file.uri)
        if f"{real}/".startswith(f"{real_root}/"):
            via = "" if real == file.uri else f" (as {real})"
            raise ConfigError(
                f"output: {root} holds the input file {file.uri}{via} of {source.title}, so the run would "
                "write among the raw files. Choose an output that is not above the input."
            )


def refuse_output_in_folder(
    setting: str, output: str, named: str, path: str, written: Sequence[str], suffix: str
) -> None:
    """Compare an output with the folder of an input. Neither has to exist.

    Args:
        setting: the config's name of the output. named: the input, for messages. path: of the input, or its glob.
        written: an example of each file that a run writes, relative to the output. suffix: of the suggested output.

    Raises:
        ConfigError: they are the same folder, or a later run would read the files of this one as input.
    """
    folder, pattern = fixed_folder(path)
    choose = f"Choose an output of its own, such as {folder}-{suffix}."
    if same := _same_folder(output, folder):
        raise ConfigError(f"{setting}: {output} {same} {named}, so the run would write among its files. {choose}")
    below = path_below(output, folder)
    if below is not None and (pattern is None or any(matches(pattern, f"{below}/{name}") for name in written)):
        raise ConfigError(
            f"{setting}: {output} lies inside {named}, so the next run would read this run's own files. {choose}"
        )


def _same_folder(output: str, folder: str) -> str | None:
    """The middle of a sentence if both are one folder; None if they are not."""
    if paths.is_remote(output) or paths.is_remote(folder):
        return "is the folder of" if output.rstrip("/") == folder.rstrip("/") else None
    if real_path(output) == real_path(folder) or _same_file(output, folder):
        return "is the folder of"
    if real_path(output).casefold() == real_path(folder).casefold():
        return "differs only in upper and lower case, which many file systems do not tell apart, from"
    return None


def path_below(inner: str, folder: str) -> str | None:
    """The path of `inner` relative to `folder`, with a slash before it; None if it is not inside."""
    if paths.is_remote(inner) or paths.is_remote(folder):
        start = folder.rstrip("/") + "/"
        return "/" + inner.removeprefix(start) if inner.startswith(start) else None
    real = Path(real_path(inner))
    for parent in real.parents:
        if _same_file(str(parent), folder) or str(parent) == real_path(folder):
            return "/" + str(real.relative_to(parent))
    return None


def fixed_folder(path: str) -> tuple[str, str | None]:
    """(the folder above the first wildcard, the rest of the glob); (the path, None) if it is not a glob."""
    wild = re.search(r"[*?\[]", path)
    if wild is None or (
        not paths.is_remote(path) and os.path.exists(path)
    ):  # an existing name with brackets is not a glob
        return path.rstrip("/") or "/", None
    folder = path[: path.rindex("/", 0, wild.start())]
    return folder or "/", path[len(folder) :]


def check_output(store: Store, root: str) -> None:
    """Make the output and write one small file there; remove both again.

    Raises:
        StorageError: the output cannot be made, or the store has no conditional writes.
    """
    missing = []
    if not paths.is_remote(root):
        missing = [folder for folder in (Path(root), *Path(root).parents) if not os.path.exists(folder)]
    try:
        store.require_conditional_writes(root)
    finally:
        for folder in missing:
            store.delete_empty_folder(str(folder))


def real_path(path: str) -> str:
    """A local path with its links followed; a URI without a trailing slash."""
    return path.rstrip("/") if paths.is_remote(path) else os.path.realpath(path)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
