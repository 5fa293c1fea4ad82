"""Checks that neither the output of a run contains input files nor an input the output."""

import os
from collections.abc import Sequence

from cluster import output_folder
from cluster.errors import ConfigError
from cluster.output_folder import real_path, refuse_impossible_output
from cluster.readers.inputs import Input, input_stores
from cluster.readers.listing import InputListing
from cluster.store import paths
from cluster.store.store import Store

# An example of each kind of file that a run writes below its output.
_FILES_OF_A_RUN = (
    "report.html",
    "report.json",
    "inputs.json",
    "inputs.parquet",
    "manifest.json",
    "corpus/000000-000-0.parquet",
)


def refuse_output_among_inputs(store: Store, inputs: Sequence[Input], root: str) -> None:
    """Compare the output with the folder of each input, with links resolved. Neither has to exist.

    Args:
        store: that of the output, and of inputs without `storage`.

    Raises:
        ConfigError: they are the same folder, or a later call would read the files of the run as input.
    """
    for number, (entry, input_store) in enumerate(zip(inputs, input_stores(store, inputs), strict=True)):
        if entry.path.startswith("hf://"):
            continue
        path = entry.path
        if input_store.endpoint_of(path) != store.endpoint_of(root):
            continue
        named = f"inputs[{number}] ({entry.source}, {path})"
        output_folder.refuse_output_among_inputs("output", root, named, path, _FILES_OF_A_RUN, "curated")
    refuse_impossible_output(root)


def refuse_files_inside(root: str, listing: InputListing) -> None:
    """Compare the output with every input file, with links resolved.

    Raises:
        ConfigError: an input file lies below the output.
    """
    real_root = real_path(root)
    real_folders: dict[str, str] = {}
    listed = (
        (source, file)
        for source in listing.sources
        if source.store.endpoint_of(root) == listing.store.endpoint_of(root)
        for file, _ in source.files
    )
    for source, file in listed:
        folder, _, name = file.uri.rpartition("/")
        if folder not in real_folders:
            real_folders[folder] = real_path(folder)
        real = f"{real_folders[folder]}/{name}"
        if not paths.is_remote(file.uri) and os.path.islink(file.uri):
            real = os.path.realpath(file.uri)
        if f"{real}/".startswith(f"{real_root.rstrip('/')}/"):
            via = "" if real == file.uri else f" (as {real})"
            raise ConfigError(
                f"output: {root} holds the input file {file.uri}{via} of {source.title}, so the run would "
                "write among the raw files. Choose an output that is not above the input."
            )
