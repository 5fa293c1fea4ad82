"""The files of a corpus: which they are, their schemas, and the spans that they are divided into.

A corpus is an artifact of this project, or a folder, glob, file or URI of Parquet, JSON Lines (.jsonl, .ndjson) or JSON
(.json: one array); also .gz and .zst. Parquet is divided by rows and plain JSON Lines by bytes; a compressed file and a
.json file are one span. Only listings, Parquet footers, the beginnings of .json files and the first rows of one file of
JSON are read.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifact import MANIFEST, Artifact, fingerprint
from cluster.errors import DataError
from cluster.formats import plural
from cluster.readers.files.arrow_streams import schema_of
from cluster.readers.files.compression import UnreadableRest
from cluster.readers.files.file_problems import first_bytes
from cluster.readers.files.hub import hub_splits, is_hub_data, is_saved_dataset, saved_files, saved_splits
from cluster.readers.files.limits import Limits
from cluster.readers.files.parquet import StoredParquet
from cluster.readers.files.span import Span
from cluster.store import paths
from cluster.store.interface import FileInfo
from cluster.store.local import LEADS_OUT
from cluster.store.store import Store
from training.config_parts import Columns, Corpus, HeldOutSet
from training.data.packed import SPLITS
from training.data.prepared import prepared_output
from training.pack.reading import FORMATS, format_of, is_compressed, json_rows, split_name

SPLIT = "split "  # before the name of a split, among the skipped files by ending
LFS_POINTER = b"version https://git-lfs"  # start of the text in place of a large file
_PEEKED_LINES = 100
_ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")
_THREADS = 16  # they wait for the store
_MAX_POINTER_BYTES = 1024


class CorpusFile(NamedTuple):
    """A file of a corpus. name: relative to the corpus, so that a moved corpus has the same fingerprint.

    split: of a data set of `datasets`, the split of its documents; None if another setting decides it.
    """

    name: str
    info: FileInfo
    split: str | None = None


def find_files(
    store: Store, corpus: Corpus | HeldOutSet, splits: Sequence[str] = SPLITS
) -> tuple[list[CorpusFile], str, dict[str, int]]:
    """(files, fingerprint of their content, number of skipped files by ending).

    splits: those to read of a data set of `raymill prepare` or of Hugging Face `datasets`; one: its documents have no
    split then; none: test, or the only one.
    """
    path = corpus.path
    root = paths.absolute(path)
    if is_hub_data(root):
        return _of_splits(root, hub_splits(root), splits)
    wild = re.search(r"[*?\[]", root)
    there = store.exists(root) or bool(
        wild and store.list_files(root)
    )  # an existing name with brackets is not a pattern
    if wild and not there:
        pattern, root = root, root[: root.rindex("/", 0, wild.start())]
        _refuse_links_out(store, root, corpus)
        found = store.glob(pattern)
    elif store.exists(root):
        found, root = [store.info(root)], posixpath.dirname(root)
    elif (artifact := Artifact.find(store, root)) is not None:
        return _of_artifact(artifact)
    elif prepared_output(store, root) is not None:
        return _of_prepared(store, root, splits or ("test",))
    else:
        _refuse_links_out(store, root, corpus)
        found = store.list_files(root)
        if is_saved_dataset(root, found):
            names = saved_splits(store, root, found) or ["train"]
            return _of_splits(root, {name: saved_files(store, root, found, name) for name in names}, splits)
        _refuse_unfinished(store, root)
    files = [CorpusFile(file.uri.removeprefix(root).lstrip("/"), file) for file in found]
    visible = [file for file in files if not _hidden(file.name)]
    chosen = [file for file in visible if format_of(file.name) not in (None, "arrow")]
    if format_of(path) != "json":  # in a folder, .json files may hold settings, or the same documents again
        chosen = [file for file in chosen if format_of(file.name) != "json"] or _arrays(store, chosen)
    if not chosen:
        raise DataError(_nothing_here(path, [file.name for file in files]))
    content = [[file.name, file.info.size, file.info.version] for file in chosen]
    others = Counter(posixpath.splitext(file.name)[1] or "without ending" for file in visible if file not in chosen)
    return chosen, fingerprint(content), dict(sorted(others.items(), key=lambda one: (-one[1], one[0])))


def _refuse_links_out(store: Store, folder: str, corpus: Corpus | HeldOutSet) -> None:
    if corpus.follow_links:
        return
    found = [one for one, kind in store.list_unreadable(folder, inside=True) if kind == LEADS_OUT]
    if visible := [one for one in found if not _hidden(one.removeprefix(folder).lstrip("/"))]:
        more = f" (and {plural(len(visible) - 1, 'more link')})" if len(visible) > 1 else ""
        raise DataError(
            f"{visible[0]}: a link that leads out of the corpus's folder{more}. Copy what it leads to into the folder, "
            "or set `follow_links: true` in this corpus."
        )


def _nothing_here(path: str, names: Sequence[str]) -> str:
    wanted = f"Wanted: an artifact ({MANIFEST}), or files that end in {', '.join(FORMATS)}."
    if names:
        hint = " Of a folder, a .json file is read if it begins with an array of objects." if _has_json(names) else ""
        return f"{path}: no file of documents here. Seen: {', '.join(names[:8])}. {wanted}{hint}"
    if paths.is_remote(path) or re.search(r"[*?\[]", path):
        return f"{path}: no file matches. Check the name against a listing. {wanted}"
    if Path(paths.absolute(path)).exists():
        return f"{path}: an empty folder. {wanted}"
    return f"{path}: there is no such file or folder. {wanted}"


def _arrays(store: Store, files: Sequence[CorpusFile]) -> list[CorpusFile]:
    """The .json files that begin with an array of objects."""
    spans = [Span(*_identity(file.info), "json", 0, file.info.size) for file in files]
    with ThreadPoolExecutor(_THREADS) as pool:
        heads = pool.map(lambda span: first_bytes(store, span, Limits()), spans)
        return [file for file, head in zip(files, heads, strict=True) if _ARRAY.match(head)]


def _has_json(names: Sequence[str]) -> bool:
    return any(name.lower().endswith(".json") for name in names)


def _of_artifact(artifact: Artifact) -> tuple[list[CorpusFile], str, dict[str, int]]:
    root = artifact.uri
    files = artifact.manifest.files
    # Files of an artifact are never changed, so it is enough to compare their sizes.
    infos = [FileInfo(paths.join(root, file.path), file.bytes, "") for file in files]
    return [CorpusFile(file.path, info) for file, info in zip(files, infos, strict=True)], artifact.manifest.digest, {}


def _of_prepared(store: Store, root: str, splits: Sequence[str]) -> tuple[list[CorpusFile], str, dict[str, int]]:
    files: list[CorpusFile] = []
    digests = []
    for split in splits:
        artifact = Artifact.load(store, paths.join(root, split))
        found, digest, _ = _of_artifact(artifact)
        files += [CorpusFile(f"{split}/{file.name}", file.info) for file in found]
        digests.append(digest)
    return files, fingerprint(digests), {}


def _of_splits(
    root: str, found: Mapping[str, Sequence[FileInfo]], splits: Sequence[str]
) -> tuple[list[CorpusFile], str, dict[str, int]]:
    """The files of a data set of `datasets`. found: by split. splits: see `find_files`.

    Raises:
        DataError: it has none of the splits.
    """
    usual = {split_name(name): name for name in found} | {name: name for name in found}
    chosen: dict[str, str | None]
    if len(splits) > 1:
        chosen = {usual[split]: split for split in splits if split in usual}
        is_there = "train" in chosen.values()
    else:
        wanted = usual.get(*splits or ("test",)) or (next(iter(found)) if not splits and len(found) == 1 else None)
        chosen, is_there = {wanted or "": None}, wanted is not None
    if not is_there:
        missing = f"no split {splits[0] if splits else 'test'}"
        raise DataError(f"{root}: {missing}. It has: {', '.join(found)}. Set `split` to one of them.")
    remote = is_hub_data(root)
    files = [
        # The commit decides the content; the files of the cache have other times on every machine.
        CorpusFile(f"{name}/{posixpath.basename(file.uri)}", replace(file, version="") if remote else file, split)
        for name, split in chosen.items()
        for file in found[name]
    ]
    content = [[file.name, file.info.size, file.info.version, file.split] for file in files]
    if not files:
        raise DataError(f"{root}: the data set has no rows. Save one that has, or name another split of it (`split`).")
    others = {f"{SPLIT}{name}": 1 for name in found if name not in chosen and len(splits) > 1}
    return files, fingerprint([root if remote else "", content]), others


def _refuse_unfinished(store: Store, root: str) -> None:
    if Artifact.find(store, paths.join(root, "corpus")) is not None:
        raise DataError(f"{root}: a run's folder; its corpus is one folder below. Write corpus: {root}/corpus")
    if store.list_files(paths.join(root, "_commits")):
        raise DataError(f"{root}: a run that is not finished. Run its command again: it continues.")
    if store.list_files(paths.join(posixpath.dirname(root), "_commits")):
        raise DataError(
            f"{root}: no finished artifact ({MANIFEST} is missing), but the run beside it was started. Run "
            "`raymill curate` with its config again: it continues."
        )


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


class InspectedFile(NamedTuple):
    """A file of a corpus.

    schema: None for JSON. spans: each with its estimated bytes of documents. values: of Parquet, the rows that
    have a value in each column.
    """

    schema: pa.Schema | None
    spans: list[tuple[Span, int]]
    values: dict[str, int]


def inspect_file(store: Store, file: FileInfo, columns: Columns, unit_bytes: int) -> InspectedFile:
    """The schema and the spans of a file."""
    kind = format_of(file.uri)
    assert kind is not None
    if kind == "arrow":
        return _inspect_arrow(store, file)
    if kind == "parquet":
        return _inspect_parquet(store, file, columns, unit_bytes)
    if not file.size:
        return InspectedFile(None, [], {})
    if kind == "json" or is_compressed(file.uri):
        text = 3 * file.size if is_compressed(file.uri) else file.size
        return InspectedFile(None, [(Span(*_identity(file), kind, 0, file.size), text)], {})
    parts = -(-file.size // unit_bytes)
    ends = [file.size * part // parts for part in range(parts + 1)]
    spans = [(Span(*_identity(file), "jsonl", start, end), end - start) for start, end in pairwise(ends)]
    return InspectedFile(None, spans, {})


def _inspect_arrow(store: Store, file: FileInfo) -> InspectedFile:
    try:
        with store.open_input(file.uri) as handle:
            schema = schema_of(handle, Limits())
    except UnreadableRest as error:
        raise DataError(f"{file.uri}: not an Arrow stream. Save it again.") from error
    return InspectedFile(schema, [(Span(*_identity(file), "arrow", 0, file.size), file.size)] if file.size else [], {})


def _inspect_parquet(store: Store, file: FileInfo, columns: Columns, unit_bytes: int) -> InspectedFile:
    try:
        with StoredParquet(store, file.uri) as opened:
            footer, schema = opened.metadata, opened.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        if file.size < _MAX_POINTER_BYTES and store.read_bytes(file.uri).startswith(LFS_POINTER):
            raise DataError(f"{file.uri}: a Git LFS pointer, not the file itself. Run `git lfs pull`.") from error
        raise DataError(
            f"{file.uri}: not a readable Parquet file ({str(error).splitlines()[0].rstrip('.')}). "
            "Perhaps writing it was interrupted. Write it again, or exclude it by a narrower path."
        ) from error
    content = ("text", "prompt", "input", "system", "completion", "messages", "tools")
    names = {columns.named[role] for role in content if role in columns.named}
    leaf_paths = [footer.schema.column(n).path for n in range(footer.num_columns)]
    leaves = [n for n, path in enumerate(leaf_paths) if any(path == one or path.startswith(f"{one}.") for one in names)]
    pieces, first = [], 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        size = sum(group.column(leaf).total_uncompressed_size for leaf in leaves)
        # A row group larger than a unit is split by rows. Each reader decodes it from its start, which costs a
        # hundredth of tokenising its rows.
        parts = max(1, min(-(-size // unit_bytes), group.num_rows)) if group.num_rows else 0
        ends = [first + group.num_rows * part // parts for part in range(parts + 1)] if parts else []
        pieces += [(Span(*_identity(file), "parquet", start, end), size // parts) for start, end in pairwise(ends)]
        first += group.num_rows
    return InspectedFile(schema, pieces, _values(footer, leaf_paths))


def _values(footer: pq.FileMetaData, leaf_paths: Sequence[str]) -> dict[str, int]:
    """Rows with a value by column, from the statistics of plain columns; of lists and structs, all rows."""
    rows = {path.partition(".")[0]: footer.num_rows for path in leaf_paths}
    for leaf, path in enumerate(leaf_paths):
        for group in range(footer.num_row_groups if path in rows else 0):
            found = footer.row_group(group).column(leaf).statistics
            rows[path] -= found.null_count if found is not None and found.has_null_count else 0
    return rows


def _identity(file: FileInfo) -> tuple[str, int, str]:
    return file.uri, file.size, file.version


def first_keys(store: Store, file: FileInfo) -> dict[str, None]:
    """Keys of a file's first 100 objects, in order of appearance."""
    span = Span(*_identity(file), format_of(file.uri) or "jsonl", 0, file.size)
    keys: dict[str, None] = {}
    for row, _ in islice(json_rows(store, span), _PEEKED_LINES):
        if isinstance(row, dict):
            keys |= dict.fromkeys(row)
    return keys
