"""Where a run may write: apart from its input."""

import os

from cluster.errors import ConfigError
from cluster.output_folder import fixed_folder, path_below, real_path, same_folder
from cluster.store import paths
from pipelines.curate.config import CurateConfig
from pipelines.readers.find import absolute_path
from pipelines.readers.inputs import input_stores
from pipelines.readers.units import InputManifest

# One name for each kind of file that a run leaves below its output, as a glob may match them.
_LEFT_BY_A_RUN = ("report.html", "report.json", "inputs.json", "manifest.json", "corpus/000000-000-0.parquet")


def refuse_output_among_inputs(config: CurateConfig, root: str, base: str) -> None:
    """Compare the output with each input's folder, links followed. Nothing has to exist yet.

    Raises:
        ConfigError: they are one folder, or a later call would take the run's own files for input.
    """
    for number, (entry, store) in enumerate(zip(config.inputs, input_stores(config.store, config.inputs), strict=True)):
        if entry.path.startswith("hf://"):
            continue
        path = absolute_path(entry.path, base)
        if store.endpoint_of(path) != config.store.endpoint_of(root):
            continue
        folder, pattern = fixed_folder(path)
        named = f"inputs[{number}] ({entry.source}, {path})"
        choose = f"Choose an output of its own, such as {folder}-curated."
        if same := same_folder(root, folder):
            raise ConfigError(f"output: {root} {same} {named}, so the run would write among the raw files. {choose}")
        inside = path_below(root, folder)
        if inside is not None and (pattern is None or _matches_own_files(pattern, inside)):
            raise ConfigError(
                f"output: {root} lies inside {named}, so the next call would read this run's own files. {choose}"
            )


def refuse_files_inside(root: str, inputs: InputManifest) -> None:
    """
    Raises:
        ConfigError: an input file lies below the output, links followed.
    """
    real_root = real_path(root)
    real_folders: dict[str, str] = {}
    reading = inputs.reading
    endpoints = {one.source: reading.store_of(one.source).endpoint_of(root) for one in inputs.inputs}
    for file in inputs.files:
        if endpoints[file.source] != reading.store.endpoint_of(root):
            continue
        folder, _, name = file.uri.rpartition("/")
        if folder not in real_folders:
            real_folders[folder] = real_path(folder)
        real = f"{real_folders[folder]}/{name}"
        if not paths.is_remote(file.uri) and os.path.islink(file.uri):
            real = os.path.realpath(file.uri)
        if f"{real}/".startswith(f"{real_root.rstrip('/')}/"):
            via = "" if real == file.uri else f" (as {real})"
            raise ConfigError(
                f"output: {root} holds the input file {file.uri}{via} of source {file.source}, so the run would write "
                "among the raw files. Choose an output that is not above the input."
            )


def _matches_own_files(pattern: str, below: str) -> bool:
    """Whether a glob, from its fixed folder on, matches any file of a run at `below` that folder."""
    return any(paths.matches(pattern, f"{below}/{name}") for name in _LEFT_BY_A_RUN)
