"""The files of a corpus, and the spans that they are divided into.

A corpus is an artifact of this project, a data set of `raymill prepare` or of Hugging Face `datasets`, or a folder,
glob, file or URI with files of any format that `raymill curate` reads. Only listings, footers, and the beginnings of
.json files are read.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple, Self

import pyarrow as pa

from raymill.cluster.artifact import MANIFEST, Artifact, fingerprint
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS, split_name
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.hub import hub_splits, is_hub_data, saved_files, saved_splits
from raymill.cluster.readers.formats.parquet import footer_of, pieces_of_footer
from raymill.cluster.readers.freeze import pieces_of
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.listing import EXCLUDED, HIDDEN, NO_ENDING, ZERO_BYTES, FoundFiles, folder_of
from raymill.cluster.readers.listing import find_files as find_paths
from raymill.cluster.readers.streams import Span, compression_ending, first_bytes
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.paths import RecordedUri
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Columns, Corpus, HeldOutSet
from raymill.training.pack.loss_keys import ROW_KEYS


@dataclass(frozen=True)
class PreparedRun:
    """A finished run of `raymill prepare`. name: in its config. digest: of its artifacts. version: of Raymill."""

    name: str
    output: RecordedUri
    digest: str
    version: str

    @classmethod
    def of_manifest(cls, output: str, manifest: dict[str, Any]) -> Self:
        """From the manifest of the run at `output`."""
        name, version = str(manifest.get("name", "")), str(manifest.get("version", ""))
        return cls(name, RecordedUri(output), manifest["digest"], version)

    @property
    def report(self) -> str:
        """URI of the page of its report."""
        return paths.join(self.output, "report.html")


def prepared_output(store: Store, path: str) -> PreparedRun | None:
    """The data set whose output is at `path`; None if there is no finished run of `raymill prepare`."""
    root = paths.absolute(path)
    manifest = None if is_hub_data(root) else RunFolder(store, root).finished("prepare")
    return PreparedRun.of_manifest(root, manifest) if manifest is not None else None


def prepared_with(artifact: Artifact) -> PreparedRun | None:
    """The data set of which an artifact is a split; None if it is not one."""
    root, _, name = artifact.uri.rpartition("/")
    try:
        manifest = RunFolder(artifact.store, root).finished("prepare")
    except DataError:  # a file of another program has that name
        return None
    if manifest is None:
        return None
    same = manifest.get("artifacts", {}).get(name) == artifact.manifest.digest
    return PreparedRun.of_manifest(root, manifest) if same else None


SPLIT = "split "  # before the name of a split, among the skipped files by ending
_ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")
_THREADS = 16  # they wait for the store
# Of a folder, files of documents are read if it has no files of records, and other records if it has none of these.
_FIRST = (".parquet", ".pq", *(f"{name}{end}" for name in (".jsonl", ".ndjson") for end in ("", ".gz", ".zst")))
_LAST_RANK = 2
_RECORDS = ("parquet", "jsonl", "csv", "tsv")
CONTENT = ("text", "prompt", "input", "system", "completion", "messages", "tools", "chosen")


class CorpusInput(Input):
    """What readers take of a corpus. text: the first column of the content."""

    reserved: ClassVar[frozenset[str]] = frozenset()
    nested_text: ClassVar[bool] = True


def input_of(corpus: Corpus | HeldOutSet, columns: Columns, others: Sequence[str] = ()) -> CorpusInput:
    """The settings of a corpus for readers, with the columns that are read, those that may decide the loss, and others
    that rows may have.
    """
    named = columns.read.named
    main = next(named[role] for role in ("text", "messages", "completion", "chosen") if role in named)
    names = dict.fromkeys([*named.values(), *ROW_KEYS, *others])
    stated = corpus.model_dump(
        include={"format", "exclude", "follow_links", "delimiter", "encoding"}, exclude_none=True
    )
    return CorpusInput(path=corpus.path, text=main, columns=tuple(name for name in names if name != main), **stated)


class CorpusFile(NamedTuple):
    """A file of a corpus. name: relative to the corpus, so that a moved corpus has the same fingerprint.

    split: of a data set of `datasets`, the split of its documents; None if another setting decides it.
    """

    name: str
    info: FileInfo
    format: str
    split: str | None = None

    @property
    def span(self) -> Span:
        """The whole file."""
        return Span(self.info.uri, self.info.size, self.info.version, self.format, 0, self.info.size)


class FoundCorpus(NamedTuple):
    """fingerprint: of their content. skipped: number of skipped files by ending, and `SPLIT` names."""

    files: list[CorpusFile]
    fingerprint: str
    skipped: Mapping[str, int]


def find_files(store: Store, corpus: Corpus | HeldOutSet, splits: Sequence[str] = SPLITS) -> FoundCorpus:
    """The files of a corpus.

    splits: those to read of a data set of `raymill prepare` or of Hugging Face `datasets`; one: its documents have no
    split then; none: test, or the only one.
    """
    root = paths.absolute(corpus.path)
    if is_hub_data(root):
        return _of_splits(root, hub_splits(root), splits)
    if folder_of(root) == root.rstrip("/") + "/" and not store.exists(root):
        if (artifact := Artifact.find(store, root)) is not None:
            return _of_artifact(artifact)
        if prepared_output(store, root) is not None:
            parts = {one: _of_artifact(Artifact.load(store, paths.join(root, one))) for one in splits or ("test",)}
            files = [file._replace(name=f"{split}/{file.name}") for split, one in parts.items() for file in one.files]
            return FoundCorpus(files, fingerprint([one.fingerprint for one in parts.values()]), {})
        if any(store.exists(paths.join(root, name)) for name in ("state.json", "dataset_dict.json")):
            found = store.list_files(root)
            names = saved_splits(store, root, found) or ["train"]
            return _of_splits(root, {name: saved_files(store, root, found, name) for name in names}, splits)
        if Artifact.find(store, paths.join(root, "corpus")) is not None:
            raise DataError(f"{root}: a run's folder; its corpus is one folder below. Write corpus: {root}/corpus")
        if store.list_files(paths.join(root, "_commits")):
            raise DataError(f"{root}: a run that is not finished. Run its command again: it continues.")
        (above, name), run = posixpath.split(root), None
        with suppress(DataError):  # a file of another program has the name of the manifest
            run = RunFolder(store, above).manifest_file.read()
        if run is not None:
            there = ", ".join(name for name in run["artifacts"] if "/" not in name)
            raise DataError(f"{root}: the run of `raymill {run['kind']}` in {above} has no {name}. It has: {there}.")
        if store.list_files(paths.join(above, "_commits")):
            raise DataError(
                f"{root}: no finished artifact ({MANIFEST} is missing), but the run beside it was started. Run its "
                "command again: it continues."
            )
    return _of_paths(store, corpus, root)


def _of_paths(store: Store, corpus: Corpus | HeldOutSet, root: str) -> FoundCorpus:
    input = input_of(corpus, Columns(text="text")).model_copy(update={"path": root})
    if input.format is None and _is_json(root):
        input = input.model_copy(update={"format": "json"})
    refusal, found = None, FoundFiles([])
    try:
        found = find_paths(store, input)
    except DataError as error:
        refusal = error
    chosen = [*found.files, *found.empty]
    if input.format is None:
        first = min((_rank(*one) for one in found.files), default=0 if found.empty else _LAST_RANK)
        chosen = [one for one in chosen if _rank(*one) == first]
        if first and (arrays := _arrays(store, input)):
            (found, chosen), refusal = arrays, None
    if refusal is not None:
        raise refusal
    for uri, reason in found.unreadable:
        raise DataError(f"{uri}: {reason.replace('input', 'corpus')}")
    folder = folder_of(root)
    files = [
        CorpusFile(posixpath.basename(root) if info.uri == root else info.uri.removeprefix(folder), info, format)
        for info, format in sorted(chosen, key=lambda one: one[0].uri)
    ]
    content: list[Any] = [[file.name, file.info.size, file.info.version] for file in files]
    if stated := corpus.model_dump(include={"format", "delimiter", "encoding"}, exclude_none=True):
        content.append(stated)
    skipped = Counter({kind: n for kind, n in found.skipped.items() if kind not in (HIDDEN, ZERO_BYTES, EXCLUDED)})
    skipped.update(PurePosixPath(one[0].uri).suffix or NO_ENDING for one in found.files if one not in chosen)
    if NO_ENDING in skipped:
        skipped["without ending"] = skipped.pop(NO_ENDING)
    return FoundCorpus(files, fingerprint(content), dict(sorted(skipped.items(), key=lambda one: (-one[1], one[0]))))


def _is_json(name: str) -> bool:
    return name.lower().removesuffix(compression_ending(name)).endswith(".json")


def _rank(file: FileInfo, format: str) -> int:
    return 0 if file.uri.lower().endswith(_FIRST) else 1 if format in _RECORDS else _LAST_RANK


def _arrays(store: Store, input: Input) -> tuple[FoundFiles, list[tuple[FileInfo, str]]] | None:
    """What there is besides the .json files, and those of them that are arrays of objects; others may hold settings."""
    try:
        found = find_paths(store, input.model_copy(update={"format": "json"}))
    except DataError:
        return None
    files = [one for one in found.files if _is_json(one[0].uri)]
    spans = [CorpusFile("", *one).span for one in files]
    with ThreadPoolExecutor(_THREADS) as pool:
        heads = pool.map(lambda span: first_bytes(store, span, Limits()), spans)
        arrays = [one for one, head in zip(files, heads, strict=True) if _ARRAY.match(head)]
    return (found, arrays) if arrays else None


def _of_artifact(artifact: Artifact) -> FoundCorpus:
    # Files of an artifact are never changed, so it is enough to compare their sizes.
    files = [
        CorpusFile(file.path, FileInfo(paths.join(artifact.uri, file.path), file.bytes, ""), "parquet")
        for file in artifact.manifest.files
    ]
    return FoundCorpus(files, artifact.manifest.digest, {})


def _of_splits(root: str, found: Mapping[str, Sequence[FileInfo]], splits: Sequence[str]) -> FoundCorpus:
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
        CorpusFile(f"{name}/{posixpath.basename(file.uri)}", replace(file, version="") if remote else file, "hf", split)
        for name, split in chosen.items()
        for file in found[name]
    ]
    content = [[file.name, file.info.size, file.info.version, file.split] for file in files]
    if not files:
        raise DataError(f"{root}: the data set has no rows. Save one that has, or name another split of it (`split`).")
    others = {f"{SPLIT}{name}": 1 for name in found if name not in chosen and len(splits) > 1}
    return FoundCorpus(files, fingerprint([root if remote else "", content]), others)


class InspectedFile(NamedTuple):
    """A file of a corpus.

    schema: of formats with types. spans: each with its estimated bytes of documents. values: of Parquet, the rows that
    have a value in each column.
    """

    schema: pa.Schema | None
    spans: list[tuple[Span, int]]
    values: Mapping[str, int]


def inspect_file(
    store: Store, file: CorpusFile, input: CorpusInput, content: Collection[str], unit_bytes: int
) -> InspectedFile:
    """The schema and the spans of a file. content: the columns whose bytes count."""
    values: dict[str, int] = {}
    if file.format == "parquet":
        footer, schema = footer_of(store, file.info)
        leaves = [footer.schema.column(leaf).path for leaf in range(footer.num_columns)]
        counted = [
            n for n, path in enumerate(leaves) if any(path == one or path.startswith(f"{one}.") for one in content)
        ]
        cut = pieces_of_footer(footer, schema, counted)
        # By the statistics of plain columns; of lists and structs, all rows.
        values = {path.partition(".")[0]: footer.num_rows for path in leaves}
        for leaf, path in enumerate(leaves):
            for group in range(footer.num_row_groups if path in values else 0):
                found = footer.row_group(group).column(leaf).statistics
                values[path] -= found.null_count if found is not None and found.has_null_count else 0
    else:
        cut = READERS[file.format].cut(store, file.info, input)
    # A row group larger than a unit is split by rows. Each reader decodes it from its start, which costs a hundredth of
    # tokenising its rows.
    pieces = pieces_of(cut, unit_bytes, max_parts=None)
    spans = [(replace(file.span, start=start, end=end, rows=rows), size) for start, end, rows, size in pieces]
    return InspectedFile(cut.schema, spans, values)
