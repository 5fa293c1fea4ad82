"""Hugging Face `datasets`: a folder that `save_to_disk` wrote, or a data set of the hub, as Arrow stream files.

The package `datasets` downloads a data set of the hub to its cache (HF_HOME), which every worker reads: on a cluster,
put HF_HOME on a shared file system, or save the data set to the store first.
"""

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa

from cluster.errors import DataError
from cluster.read.compression import UnreadableRest
from cluster.read.limits import Limits
from cluster.read.span import Span
from cluster.store import paths
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.reader import FilePieces, Reader, ReaderCounts, documents, one_problem


class Hub(Reader):
    """One Arrow stream file of a data set."""

    endings = ()
    compressible = False
    columns = "typed"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """One piece, the whole file, with its schema.

        Raises:
            DataError: the file is not an Arrow stream.
        """
        if not file.size:
            return FilePieces(())
        try:
            with store.open_input(file.uri) as handle:
                schema = pa.ipc.open_stream(handle).schema
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{file.uri}: not an Arrow stream ({str(error).splitlines()[0]}). Save the data set again."
            ) from error
        return FilePieces(((0, file.size, file.size),), None, schema)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """A table for each record batch. The rest of a truncated file is one unreadable row."""
        first = 0
        with store.open_input(span.uri) as handle:
            try:
                for batch in _batches(handle):
                    yield documents(batch.select(input.columns_in(batch.schema.names)), input, limits, span.uri, first)
                    first += batch.num_rows
            except UnreadableRest as broken:
                yield one_problem(input, broken.problem, f"{span.uri} row {first}")


def _batches(handle: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    try:
        yield from pa.ipc.open_stream(handle)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network, not the data
        raise UnreadableRest("truncated") from error


def is_saved_dataset(folder: str, files: Sequence[FileInfo]) -> bool:
    """Whether `save_to_disk` wrote the folder. files: all files below it."""
    marks = {paths.join(folder, "state.json"), paths.join(folder, "dataset_dict.json")}
    return any(file.uri in marks for file in files)


def saved_files(store: Store, folder: str, files: Sequence[FileInfo], split: str) -> list[FileInfo]:
    """The Arrow files of a saved `Dataset`, or of one split of a saved `DatasetDict`.

    Raises:
        DataError: there is no such split, or a file is missing.
    """
    known = {file.uri: file for file in files}
    splits = paths.join(folder, "dataset_dict.json")
    if splits in known:
        names = json.loads(store.read_bytes(splits))["splits"]
        if split not in names:
            raise DataError(f"{folder}: no split {split}. It has: {', '.join(names)}. Set `split` to one of them.")
        folder = paths.join(folder, split)
    state = json.loads(store.read_bytes(paths.join(folder, "state.json")))
    uris = [paths.join(folder, entry["filename"]) for entry in state["_data_files"]]
    lost = [uri for uri in uris if uri not in known]
    if lost:
        raise DataError(f"{lost[0]}: {len(lost)} of {len(uris)} files of the data set are missing. Save it again.")
    return [known[uri] for uri in uris]


def hub_files(name: str, split: str) -> list[FileInfo]:
    """Download ORG/NAME[/CONFIG] and return the Arrow files of the split.

    Raises:
        DataError: the name is wrong, or the data set cannot be loaded.
    """
    import datasets  # imported here: it is slow, and few runs read the hub

    parts = name.strip("/").split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise DataError(f"hf://{name}: a data set of the hub is written hf://ORG/NAME or hf://ORG/NAME/CONFIG.")
    try:
        loaded = datasets.load_dataset("/".join(parts[:2]), *parts[2:], split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"hf://{name}, split {split}: {reason}. Check the name, the network and HF_TOKEN, "
            "or save the data set with `datasets` and give the folder as `path`."
        ) from error
    return [Store().info(entry["filename"]) for entry in loaded.cache_files]  # local files
