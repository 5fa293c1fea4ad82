"""Data sets of Hugging Face `datasets`: a folder that `save_to_disk` wrote, or a data set of the hub, by split.

The package `datasets` downloads a data set of the hub to its cache (HF_HOME), which every worker reads: on a cluster,
put HF_HOME on a shared file system, or save the data set to the store first. The files are Arrow streams.
"""

import json
import logging
import os
import re
import resource
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import huggingface_hub
import pyarrow as pa

from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.formats import plural
from raymill.cluster.guard import OUT_OF_MEMORY, Exceeded, Guard, WorkBounds
from raymill.cluster.hub_client import checked_hub
from raymill.cluster.readers.formats.arrow_streams import record_batches, schema_of, stated_rows
from raymill.cluster.readers.formats.row_sizes import decoded_bytes
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import (
    FilePieces,
    Reader,
    ReaderCounts,
    Row,
    Unreadable,
    documents,
    one_problem,
    typed_rows,
)
from raymill.cluster.readers.streams import Span, UnreadableRest
from raymill.cluster.record import RecordFile
from raymill.cluster.secret_values import shortened
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.paths import FileName, RelativePath
from raymill.cluster.store.store import Store

SCHEME = "hf"
_TIMEOUT_S = 10
_DOWNLOADS = 8  # files at a time
# Bounds on reading a card, and on preparing files by their size: some seconds a GiB are usual.
_CARD_BOUNDS = WorkBounds(30.0, 1 << 30)
_SECONDS_PER_MIB = 5
_MEMORY_RATIO, _MOST_MEMORY = 64, 16 << 30
_SAVE_AGAIN = "Save the data set again."
_COMMIT = re.compile(r"[0-9a-f]{40}")

log = logging.getLogger(__name__)


class HubName(NamedTuple):
    """A data set of the hub. name: ORG/NAME. config: one of its configs, if it has several."""

    name: str
    config: str | None
    revision: str | None

    @classmethod
    def of(cls, uri: str) -> "HubName":
        """From hf://ORG/NAME[/CONFIG][@REVISION]; `datasets/` may come before ORG, as in the addresses of the hub.

        Raises:
            DataError: it is written otherwise.
        """
        rest, at, revision = uri.partition("://")[2].strip("/").partition("@")
        parts = rest.removeprefix("datasets/").split("/")
        if not 1 <= len(parts) <= 3 or not all(parts) or (at and not revision):
            raise DataError(
                f"{uri}: a data set of the hub is written hf://ORG/NAME or hf://ORG/NAME/CONFIG, with @REVISION at its "
                "end for another revision than the newest."
            )
        return cls("/".join(parts[:2]), parts[2] if len(parts) > 2 else None, revision or None)


def is_hub_data(uri: str) -> bool:
    """Whether it names a data set of the hub."""
    return paths.scheme(uri) == SCHEME


def pinned(uri: str) -> str:
    """The URI of a data set of the hub with its current commit as revision; unchanged if the hub does not answer."""
    found = HubName.of(uri)
    if _COMMIT.fullmatch(found.revision or ""):
        return uri
    try:
        with checked_hub():
            api = huggingface_hub.HfApi(endpoint=huggingface_hub.constants.ENDPOINT)
            commit = api.dataset_info(found.name, revision=found.revision, timeout=_TIMEOUT_S).sha
    except Exception as error:  # loading the data set reports the problem
        log.info("%s: the hub gives no commit: %s", uri, error)
        return uri
    return f"{SCHEME}://{'/'.join(filter(None, (found.name, found.config)))}@{commit}"


def hub_files(uri: str, split: str) -> list[FileInfo]:
    """Download a data set of the hub and return the Arrow files of the split, on this machine.

    Raises:
        DataError: the name is wrong, or the data set cannot be loaded, or not within its bounds.
    """
    return _files(uri, split)[split]


def hub_splits(uri: str) -> dict[str, list[FileInfo]]:
    """Download a data set of the hub and return the Arrow files of each split. Errors are those of `hub_files`."""
    return _files(uri)


def _files(uri: str, split: str | None = None) -> dict[str, list[FileInfo]]:
    """The Arrow files by split. `datasets` makes them in a child process, since others wrote the card and the files."""
    found, guard = HubName.of(uri), Guard(_from_the_hub)
    try:
        addresses, _ = guard((uri, split, None), _CARD_BOUNDS)
        with checked_hub(), ThreadPoolExecutor(_DOWNLOADS) as pool:
            api = huggingface_hub.HfApi(endpoint=huggingface_hub.constants.ENDPOINT)

            def fetched_bytes(address: str) -> int:
                revision, _, path = address.removeprefix(f"hf://datasets/{found.name}@").partition("/")
                file = api.hf_hub_download(found.name, path, repo_type="dataset", revision=revision)
                return Path(file).stat().st_size

            size = sum(pool.map(fetched_bytes, addresses))
        seconds = _CARD_BOUNDS.seconds + _SECONDS_PER_MIB * size / (1 << 20)
        memory = min(_CARD_BOUNDS.memory + _MEMORY_RATIO * size, _MOST_MEMORY)
        _, files = guard((uri, split, size), WorkBounds(seconds, memory))
    except DataError:
        raise
    except Exceeded as error:
        raise DataError(
            f"{uri}: preparing it goes beyond the bounds for its size ({error.seen}, or its share of the disk). Look "
            "at its card and files, or save it with `datasets` and give the folder as `path`."
        ) from error
    except Exception as error:  # `datasets` raises classes of many libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{uri}{f', split {split}' if split else ''}: {shortened(reason, 300)}. Check the name, the network and "
            "HF_TOKEN, or save the data set with `datasets` and give the folder as `path`."
        ) from error
    return {name: [Store().info(one) for one in own] for name, own in files.items()}


def _from_the_hub(asked: tuple[str, str | None, int | None]) -> tuple[list[str], dict[str, list[str]]]:
    """(addresses of a data set's files, its Arrow files by split). It runs in a child process.

    asked: URI, split or None, and the bytes of the files, or None to return only the addresses.
    """
    import datasets  # imported here: it is slow, and few runs read the hub

    uri, split, size = asked
    place = HubName.of(uri)
    with checked_hub():
        builder = datasets.load_dataset_builder(place.name, place.config, revision=place.revision)
        addresses = _own_addresses(builder.config.data_files or {}, builder.repo_id or place.name, uri)
        if size is None:
            return addresses, {}
        most = int(Limits().max_expansion_ratio * size) + (1 << 30)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        watch = threading.Thread(target=_end_beyond, args=(f"{builder.cache_dir}.incomplete", most), daemon=True)
        watch.start()
        try:
            builder.download_and_prepare()
        except datasets.exceptions.DatasetGenerationError as error:
            raise ValueError(f"{error} ({error.__cause__})") from error
    # The data set itself would map all its files to memory, which counts for the bound.
    infos = list(builder.info.splits.values())
    made = {}
    for name in [split] if split else [info.name for info in infos]:
        read = datasets.arrow_reader.make_file_instructions(
            builder.dataset_name, infos, name, "arrow", builder.cache_dir
        )
        made[str(name)] = [one["filename"] for one in read.file_instructions]
    return [], made


def _end_beyond(folder: str, most: int) -> NoReturn:
    """End this process when the files in a folder have more than `most` bytes."""
    while True:
        with suppress(OSError, StorageError):  # files are renamed meanwhile
            if sum(file.size for file in Store().list_files(folder)) > most:
                os._exit(OUT_OF_MEMORY)
        time.sleep(0.5)


def _own_addresses(files: Mapping[str, Sequence[str]], name: str, uri: str) -> list[str]:
    """The addresses of a data set's files, which are checked: its card may name any, also those of this machine.

    `datasets` checks this since version 5.2 alone. files: addresses by split.

    Raises:
        DataError: one is not in the repository.
    """
    found = [str(address) for addresses in files.values() for address in addresses]
    for address in found:
        if not address.startswith(f"hf://datasets/{name}@") or ".." in address.split("/"):
            raise DataError(
                f"{uri}: its card names {shortened(address, 200)}, which is no file of {name}. Do not use this data "
                "set, and report it to whoever published it."
            )
    return found


def is_saved_dataset(folder: str, files: Sequence[FileInfo]) -> bool:
    """Whether `save_to_disk` wrote the folder. files: all files below it."""
    marks = {paths.join(folder, "state.json"), paths.join(folder, "dataset_dict.json")}
    return any(file.uri in marks for file in files)


def saved_splits(store: Store, folder: str, files: Sequence[FileInfo]) -> Sequence[str]:
    """The splits of a saved `DatasetDict`; none of a saved `Dataset`."""
    uri = paths.join(folder, "dataset_dict.json")
    if not any(file.uri == uri for file in files):
        return []
    return RecordFile(store, uri, "the splits of a data set", _parse_splits, _SAVE_AGAIN).read() or []


def _parse_splits(data: bytes) -> list[FileName]:
    return [FileName(split) for split in json.loads(data)["splits"]]


def _parse_state(data: bytes) -> list[RelativePath]:
    return [RelativePath(file["filename"]) for file in json.loads(data)["_data_files"]]


def saved_files(store: Store, folder: str, files: Sequence[FileInfo], split: str) -> list[FileInfo]:
    """The Arrow files of a saved `Dataset`, or of one split of a saved `DatasetDict`.

    Raises:
        DataError: there is no such split, or a file is missing.
    """
    known = {file.uri: file for file in files}
    if names := saved_splits(store, folder, files):
        if split not in names:
            raise DataError(f"{folder}: no split {split}. It has: {', '.join(names)}. Set `split` to one of them.")
        folder = paths.join(folder, split)
    state = RecordFile(store, paths.join(folder, "state.json"), "the state of a data set", _parse_state, _SAVE_AGAIN)
    uris = [paths.join(folder, name) for name in state.read() or []]
    if len(uris) != len(set(uris)):
        raise DataError(f"{folder}/state.json: names a file of the data set twice. {_SAVE_AGAIN}")
    lost = [uri for uri in uris if uri not in known]
    if lost:
        raise DataError(f"{lost[0]}: {len(lost)} of {len(uris)} files of the data set are missing. Save it again.")
    return [known[uri] for uri in uris]


# Problems behind which the messages of a stream still state their rows.
_ROWS_KNOWN = ("expansion_bomb", "large_block", "corrupt_batch")


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
                schema = schema_of(handle, Limits())
        except UnreadableRest as error:
            raise DataError(f"{file.uri}: not an Arrow stream. Save the data set again.") from error
        return FilePieces(((0, file.size, file.size),), None, schema)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """Tables of about 8 MB. The rest of a damaged file is one unreadable row."""
        first = expanded_bytes = 0
        with store.open_input(span.uri) as handle:
            try:
                for batch in record_batches(handle, limits, input.columns_in):
                    table = documents(batch, input, limits, span.uri, first)
                    expanded_bytes += table.nbytes
                    if limits.is_bomb(expanded_bytes, span.size):
                        raise UnreadableRest("expansion_bomb")
                    yield table
                    first += batch.num_rows
            except UnreadableRest as broken:
                where = f"{span.uri} row {first}"
                # What is behind a cut is not known.
                if broken.problem in _ROWS_KNOWN and (lost := stated_rows(handle, limits) - first) > 0:
                    counts.lost[broken.problem] += lost - 1
                    where += f": {plural(lost, 'row')} lost"
                yield one_problem(input, broken.problem, f"{where}: {broken.detail}" if broken.detail else where)

    def rows(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None = None
    ) -> Iterator[tuple[Row | Unreadable, str]]:
        """The rows of the file, with the columns that the settings name, as far as the file has them. See Reader."""
        first = expanded_bytes = 0
        named = [input.text, *input.columns]
        with store.open_input(span.uri) as handle:
            for batch in record_batches(handle, limits, lambda names: columns_of(names, named), counts):
                expanded_bytes += decoded_bytes(batch)
                if limits.is_bomb(expanded_bytes, span.size):
                    raise UnreadableRest("expansion_bomb")
                yield from typed_rows(batch, span.uri, first)
                first += batch.num_rows


def columns_of(names: Sequence[str], named: Sequence[str]) -> list[str]:
    """The columns to read, of those that a file has, for columns and COLUMN.FIELD that settings name."""
    own = set(names)
    return list(dict.fromkeys(whole for one in named if (whole := one if one in own else one.partition(".")[0]) in own))
