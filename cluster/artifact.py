"""An artifact: an immutable folder of Parquet files on a store, with a `_manifest.json` that is written last.

An artifact without a manifest is unfinished. Raymill takes the list of files from the manifest, never from a listing,
so files of killed tries are never read. Other programs open the folder itself: pyarrow, pandas, DuckDB's globs,
`datasets`, Ray Data, polars and Spark skip names that begin with an underscore. An artifact without rows contains one
Parquet file without rows, for its schema.

The content digest covers schema, rows, bytes, hashes and counters. It excludes the names of tries, times and files
without rows. Equal digests mean equal artifacts.
"""

import base64
import hashlib
import html
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from typing_extensions import TypedDict

from raymill.cluster.entry import Entry
from raymill.cluster.errors import DataError, Problem
from raymill.cluster.formats import byte_size, plural
from raymill.cluster.record import RecordFile, check_types, json_bytes, record_json
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound, first_line
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import LARGEST_RATIO, MADE_AGAIN, StoredParquet, refuse_pickled

if TYPE_CHECKING:
    import datasets
    import pandas
    import polars
    import ray.data

# Imported where they are called: they import this module, or take long to import.
_draw_rows = Entry("raymill.cluster.sampling:draw_rows")
_polars_frame = Entry("polars:from_arrow")
_hub_dataset = Entry("datasets:Dataset")
_ensure_ray = Entry("raymill.cluster.session:ensure_ray")

MANIFEST = "_manifest.json"
EARLIER_MANIFEST = "manifest.json"  # the manifest's name in artifacts of earlier versions, which are still read

_CHUNK_BYTES = 8 << 20

_LARGEST_GROUPS = 1 << 30  # decoded bytes of several files together

Counters = dict[str, float]


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file: its path below the artifact, the index of the unit whose rows it has, its rows, bytes and sha256."""

    path: paths.RelativePath
    unit: int
    rows: int
    bytes: int
    sha256: str

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The file that a record names.

        Raises:
            ValueError, TypeError: it is not the value of a file.
        """
        found = cls(**plain)
        if not all(type(number) is int and number >= 0 for number in (found.unit, found.rows, found.bytes)):
            raise ValueError(f"{found.path!r}: unit, rows and bytes are numbers from 0 on")
        return replace(found, path=paths.RelativePath(found.path))


class ArtifactFile(str):
    """The URI of a Parquet file of an artifact, with the rows, bytes and `arrow_schema` that the manifest states."""

    __slots__ = ("arrow_schema", "bytes", "rows")

    rows: int
    bytes: int
    arrow_schema: str

    def __new__(cls, uri: str, rows: int, bytes: int, arrow_schema: str) -> Self:
        found = super().__new__(cls, uri)
        found.rows, found.bytes, found.arrow_schema = rows, bytes, arrow_schema
        return found

    def __reduce__(self) -> tuple[type[Self], tuple[str, int, int, str]]:
        return type(self), (str(self), self.rows, self.bytes, self.arrow_schema)

    def difference(self, parquet: StoredParquet) -> str:
        """What differs in the file from what the manifest states; empty if nothing does."""
        if (size := parquet.file.size()) != self.bytes:
            return f"has {size:,} bytes, and {self.bytes:,} were written"
        if (rows := parquet.metadata.num_rows) != self.rows:
            return f"has {plural(rows, 'row')}, and {self.rows:,} were written"
        found, written = parquet.schema_arrow, _read_schema(self.arrow_schema)
        if found.equals(written):
            return ""
        for column in written:
            if (at := found.get_field_index(column.name)) < 0:
                return f"has no column {column.name}"
            if found.field(at).type != column.type:
                return f"has the type {str(found.field(at).type)[:80]} in column {column.name}, and not {column.type}"
        return "has other columns than were written"


class _Facts(TypedDict):
    """Entries of a manifest that are shown or compared as they are."""

    kind: str
    fingerprint: str
    seconds: Annotated[float, Field(allow_inf_nan=False)]
    made: str
    version: str


@dataclass(frozen=True)
class Manifest:
    """Contents of an artifact.

    kind: name of the artifact. fingerprint: of what it was made from. schema, arrow_schema: see `describe_schema`.
    seconds: sum over the units of its stage. made: UTC time. version: of Raymill. digest: of the content.
    """

    kind: str
    fingerprint: str
    schema: list[list[str]]
    arrow_schema: str
    files: list[DataFile]
    counters: Counters
    seconds: float
    made: str
    version: str
    digest: str = field(default="")

    def __post_init__(self) -> None:
        if not self.digest:
            files = [[file.unit, file.rows, file.bytes, file.sha256] for file in self.files if file.rows]
            content = {"schema": self.schema, "files": files, "counters": self.counters}
            object.__setattr__(self, "digest", hashlib.sha256(canonical_json(content)).hexdigest())

    def to_json(self) -> bytes:
        return json_bytes(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        plain = record_json(data)
        check_types(_Facts, plain)
        found = cls(**plain | {"files": [DataFile.from_plain(file) for file in plain["files"]]})
        _read_schema(found.arrow_schema)
        columns = [one for column in found.schema for one in column]
        if not all(isinstance(one, str) for one in columns) or any(len(column) != 2 for column in found.schema):
            raise ValueError("schema is not a list of names and types")
        check_counters(found.counters)
        # Names of folders are made of it, and artifacts of one digest stand for each other.
        if found.digest != replace(found, digest="").digest:
            raise ValueError("digest is another one than of its files and counters")
        return found

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def check_counters(counters: Counters) -> None:
    """Raise ValueError if a counter of a record is no finite number."""
    for name, count in counters.items():
        if isinstance(count, bool) or not isinstance(count, int | float) or not math.isfinite(count):
            raise ValueError(f"counters.{name:.100}: is no number")


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. Fingerprints are hashed from it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(value: Any) -> str:
    """The first 32 hexadecimal digits of the sha256 of a JSON value, equal in every process."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:32]


def describe_schema(schema: pa.Schema) -> dict[str, Any]:
    """The two manifest entries of a schema: names and types as text, and Arrow's serialization in base64."""
    return {
        "schema": [[column.name, str(column.type)] for column in schema],
        "arrow_schema": base64.b64encode(schema.serialize().to_pybytes()).decode(),
    }


def _read_schema(arrow_schema: str) -> pa.Schema:
    found = read_schema(base64.b64decode(arrow_schema))
    refuse_pickled(found)
    return found


def read_schema(data: bytes) -> pa.Schema:
    """The schema in Arrow's IPC form. Raises ValueError: it is none."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"no schema of Arrow: {error}") from error


def manifest_file(store: Store, uri: str, name: str = MANIFEST) -> RecordFile[Manifest]:
    """The manifest of the artifact at `uri`."""
    at = paths.join(paths.absolute(uri), name)
    fix = "If Raymill wrote this folder, delete the file and run its command again; else point elsewhere."
    return RecordFile(store, at, "a Raymill manifest", Manifest.from_json, fix)


def discard_artifact(store: Store, uri: str, files: Iterable[str] = ()) -> None:
    """Delete an artifact's manifest, which makes it unfinished, and then those of its files that have these URIs."""
    store.delete(manifest_file(store, uri, name).uri for name in (MANIFEST, EARLIER_MANIFEST))
    store.delete_listed(uri, files)


def require_files(store: Store, uri: str) -> None:
    """Verify that there is a file or a folder with files at this path.

    Raises:
        DataError: nothing is at this path.
    """
    if not (store.exists(uri) or store.holds_files(uri)):
        seen = "there is no run and no artifact here: the folder does not exist, or is empty"
        raise DataError.about(Problem.of(paths.absolute(uri), seen, fix="Check the path."))


class Artifact:
    """A finished artifact, opened by its URI on a store; its files are read from there."""

    def __init__(self, store: Store, uri: str, manifest: Manifest) -> None:
        self.store = store
        self.uri = uri
        self.manifest = manifest

    @classmethod
    def load(cls, store: Store, uri: str) -> Self:
        """The finished artifact at `uri`.

        Raises:
            DataError: there is no finished artifact, or its manifest cannot be read.
        """
        found = cls.find(store, uri)
        if found is None:
            require_files(store, uri)
            seen = f"no finished artifact here ({MANIFEST} is missing)"
            fix = "Either the path is wrong, or the stage was interrupted: run the same command again and it continues."
            raise DataError.about(Problem.of(paths.absolute(uri), seen, fix=fix))
        return found

    @classmethod
    def find(cls, store: Store, uri: str) -> Self | None:
        """The finished artifact at `uri`, or None.

        Raises:
            DataError: its manifest cannot be read.
        """
        manifest = manifest_file(store, uri).read()
        if manifest is None:
            with suppress(DataError):  # a run and other programs also have a file of this name
                manifest = manifest_file(store, uri, EARLIER_MANIFEST).read()
        return None if manifest is None else cls(store, paths.absolute(uri), manifest)

    @property
    def schema(self) -> pa.Schema:
        return _read_schema(self.manifest.arrow_schema)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.manifest.rows

    @property
    def file_uris(self) -> list[str]:
        return [self.file_uri(file) for file in self.manifest.files]

    def file_uri(self, file: DataFile) -> ArtifactFile:
        """The URI of a file of the manifest; `open_parquet` compares what it opens with the manifest."""
        return ArtifactFile(paths.join(self.uri, file.path), file.rows, file.bytes, self.manifest.arrow_schema)

    def damage(self, *, compare_sha256: bool = False) -> dict[str, str]:
        """URI -> what is wrong, for each file that is missing or differs from the manifest.

        Sizes are compared, at the cost of one listing. With `compare_sha256` every file is read and hashed.
        """
        written = {file.path: (file.bytes, file.sha256) for file in self.manifest.files}
        return changed_files(self.store, self.uri, written, compare_sha256)

    def refuse_damage(self) -> None:
        """Compare the sizes of the files with the manifest.

        Raises:
            DataError: a file is missing, or has another size.
        """
        if found := self.damage():
            uri, seen = next(iter(found.items()))
            more = f", and {plural(len(found) - 1, 'more file')} of {self.uri}" if len(found) > 1 else ""
            raise DataError(f"{uri}: {seen}{more}. It was damaged after it was written{MADE_AGAIN}")

    def files_by_unit(self, units: int) -> list[list[str]]:
        """URIs of the files with the rows of each unit, by unit; empty for a unit without rows.

        units: number of units of the stage that made the artifact, or of the stage whose units it gave to
        `Scratch.write`.
        """
        files: list[list[str]] = [[] for _ in range(units)]
        for file in self.manifest.files:
            files[file.unit].append(self.file_uri(file))
        return files

    def rows_by_unit(self, units: int) -> list[int]:
        """Rows of each unit, by unit. units: as for `files_by_unit`."""
        rows = [0] * units
        for file in self.manifest.files:
            rows[file.unit] += file.rows
        return rows

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One table per row group, in order. Reads one row group at a time."""
        return read_tables(self.store, self.file_uris, None if columns is None else set(columns).__contains__)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as one table. Loads everything into memory."""
        tables = list(self.tables(columns))
        empty = self.schema.empty_table()
        return pa.concat_tables(tables) if tables else empty if columns is None else empty.select(columns)

    def sample(self, rows: int = 5, *, where: Sequence[str] = (), seed: int = 1, **equal: object) -> list[dict]:
        """A uniform sample of the rows without replacement, the same for the same seed. Reads all rows once.

        Args:
            rows: the most rows.
            where: conditions `COLUMN=VALUE` (or <, <=, >, >=, !=) and `COLUMN in VALUE,VALUE`, all of which a row
                meets.
            equal: column=value, as in `reason="line_punct_ratio"`; None: null. A reason may also be the stage that
                removed the document (`fineweb`), or both (`fineweb_line_punct_ratio`).

        Raises:
            ConfigError: there is no such column, or no row meets the conditions.
        """
        return _draw_rows(self, rows, where, seed, equal)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as one Arrow table, in memory. columns: names of those to read; None: all."""
        return self.table(columns)

    def to_pandas(self, columns: Sequence[str] | None = None) -> "pandas.DataFrame":
        """All rows as a pandas DataFrame, in memory. columns: names of those to read; None: all."""
        return self.table(columns).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None) -> "polars.DataFrame":
        """All rows as a polars DataFrame, in memory. columns: names of those to read; None: all."""
        return _polars_frame(self.table(columns))

    def to_datasets(self, columns: Sequence[str] | None = None) -> "datasets.Dataset":
        """All rows as a Dataset of the Hugging Face `datasets`, in memory. columns: names of those to read."""
        return _hub_dataset(self.table(columns))

    def to_ray_dataset(self) -> "ray.data.Dataset":
        """The rows as a Ray Dataset with at least one block per file; Ray's workers read them.

        Where this process has no Ray, one is started on this machine, or joined at RAY_ADDRESS, until the process ends.
        """
        _ensure_ray()
        import ray.data

        if not self.manifest.rows:
            return ray.data.from_arrow(self.table())
        files = ray.data.from_items(
            [{"uri": uri} for uri in self.file_uris], override_num_blocks=len(self.manifest.files)
        )
        return files.map_batches(_ReadFiles(self.store), batch_format="pyarrow", batch_size=None)

    def __repr__(self) -> str:
        return f"<{self.manifest.kind} at {self.uri}: {self._size}>"

    def _repr_html_(self) -> str:
        """The artifact for a notebook: its size and its columns."""
        columns = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(kind)}</td></tr>" for name, kind in self.manifest.schema
        )
        name, uri = html.escape(self.manifest.kind), html.escape(self.uri)
        return f"<b>{name}</b>, {self._size}, at {uri}<table><tr><th>column</th><th>type</th></tr>{columns}</table>"

    @property
    def _size(self) -> str:
        found = self.manifest
        return f"{plural(found.rows, 'row')}, {byte_size(found.bytes)} in {plural(len(found.files), 'file')}"


def changed_files(
    store: Store, root: str, written: Mapping[paths.RelativePath, tuple[int, str]], compare_sha256: bool = False
) -> dict[str, str]:
    """URI -> what is wrong, for each file that is missing or is not what was written.

    Args:
        written: path below `root` -> bytes and sha256. compare_sha256: read and hash every file; otherwise only the
            sizes are compared, from one listing.
    """
    sizes = {file.uri: file.size for file in store.list_files(root)}
    found = {}
    for path, (size, sha256) in written.items():
        uri = paths.join(root, path)
        if uri not in sizes:
            found[uri] = "is gone"
        elif sizes[uri] != size:
            found[uri] = f"has {sizes[uri]:,} bytes, and {size:,} were written"
        elif compare_sha256:
            digest = hashlib.sha256()
            with store.open_input(uri) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
            if digest.hexdigest() != sha256:
                found[uri] = "has another sha256 than what was written"
    return found


class _ReadFiles:
    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        return read_tables(self.store, rows["uri"].to_pylist())


def read_tables(
    store: Store,
    uris: Sequence[str],
    wanted: Callable[[str], bool] | None = None,
    group_wanted: Callable[[int, pq.RowGroupMetaData], bool] | None = None,
) -> Iterator[pa.Table]:
    """One table per row group of each Parquet file, in order.

    wanted: whether to read a column, by name; None: all. group_wanted: whether to read a row group, by its number and
    metadata; None: all.

    Raises:
        DataError: a file is gone or damaged, or all of them take far more memory than Raymill's files of their size.
    """
    decoded = stored = 0
    for uri in uris:
        with open_parquet(store, uri) as parquet:
            stored += parquet.file.size()
            columns = [name for name in parquet.schema_arrow.names if wanted is None or wanted(name)]
            groups = [
                one
                for one in range(parquet.num_row_groups)
                if group_wanted is None or group_wanted(one, parquet.metadata.row_group(one))
            ]
            parquet.fetch_ahead(groups, columns)
            for group in groups:
                try:
                    table = parquet.read_row_group(group, columns=columns, use_threads=False)
                except (pa.ArrowException, OSError) as error:
                    if getattr(error, "errno", None) is not None:  # of the disk
                        raise
                    seen = f"row group {group} cannot be decoded ({first_line(error)})"
                    raise DataError(f"{uri}: {seen}. It was damaged after it was written{MADE_AGAIN}") from error
                decoded += table.nbytes
                if decoded > max(_LARGEST_GROUPS, LARGEST_RATIO * stored):
                    raise parquet.too_large(group)
                yield table
                del table  # before the next one is read


def open_parquet(store: Store, uri: str) -> StoredParquet:
    """Open a Parquet file of an artifact.

    Raises:
        DataError: it is gone, cannot be read as Parquet, or is not the file that the manifest states (`ArtifactFile`).
    """
    try:
        opened = StoredParquet(store, uri)
    except NotFound as error:
        raise DataError(f"{uri}: is gone. It was removed after it was written{MADE_AGAIN}") from error
    except (pa.ArrowException, OSError) as error:
        what = f"cannot be read as Parquet ({first_line(error)})"
        raise DataError(f"{uri}: {what}. It was damaged after it was written{MADE_AGAIN}") from error
    if isinstance(uri, ArtifactFile) and (difference := uri.difference(opened)):
        opened.close()
        raise DataError(f"{uri}: {difference}. It was damaged after it was written{MADE_AGAIN}")
    return opened
