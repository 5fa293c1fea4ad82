"""The files of a corpus, their columns, and the units that they are split into.

A corpus is an artifact of this project, or a folder, glob, file or URI of Parquet or JSON Lines (.jsonl, .ndjson; also
.gz and .zst). Parquet is split by rows and plain JSON Lines by bytes; a compressed file is one unit. Only listings,
Parquet footers and the first lines of one JSON Lines file are read.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from difflib import get_close_matches
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from cluster.artifact import MANIFEST, Artifact, fingerprint
from cluster.errors import ConfigError, DataError
from cluster.page.formats import plural
from cluster.read.parquet import StoredParquet
from cluster.read.span import Span
from cluster.run import RunFolder
from cluster.store import paths
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Columns, Corpus
from training.data.packed import SPLITS
from training.data.prepared import Prepared, prepared_output, prepared_with
from training.pack.reading import FORMATS, format_of, is_compressed, json_rows

# Threads that read footers of remote files; they wait for the network.
_THREADS = 16
_PEEKED_LINES = 100
_MAX_POINTER_BYTES = 1024
LFS_POINTER = b"version https://git-lfs"  # start of the text in place of a large file

Unit = tuple[Span, ...]
Listing = Sequence[tuple[str, int, str]]  # name, bytes, version (ETag, or size and time of a local file)

DEFAULTS = {"id": "id", "group": "group_id"}
# Classes of a data set of `raymill prepare` -> the fields of its inputs that they are made of.
PREPARED_CLASSES = {
    "annotations.labels": {"labels", "label"},
    "annotations.categories": {"categories", "category"},
}
# Usual names of columns, as (required, optional). The first entry whose required columns all exist is used.
RECOGNISED: tuple[tuple[dict[str, str], dict[str, str]], ...] = (
    ({"text": "text"}, {}),
    ({"messages": "messages"}, {"tools": "tools"}),
    ({"messages": "conversations"}, {"tools": "tools"}),
    ({"prompt": "prompt", "completion": "completion"}, {"system": "system"}),
    ({"prompt": "instruction", "completion": "output"}, {"input": "input", "system": "system"}),
)


class _File(NamedTuple):
    """A file of a corpus. name: relative to the corpus, so that a moved corpus has the same fingerprint."""

    name: str
    info: FileInfo


@dataclass(frozen=True)
class FrozenCorpus:
    """The files of a corpus as listed when the run began.

    store: that of its files. units: in the order of the documents. unit_bytes: estimated bytes of documents of each
    unit. fingerprint: of the content (an artifact's digest; else names, sizes and versions of the files). columns: with
    default columns filled in. skipped: number of files of other formats, by ending. listing: the files that are read.
    prepared: the data set of `raymill prepare` that they are, if they are one.
    """

    store: Store
    path: str
    units: tuple[Unit, ...]
    unit_bytes: tuple[int, ...]
    fingerprint: str
    columns: Columns
    skipped: Mapping[str, int]
    listing: Listing
    prepared: Prepared | None = None

    @property
    def note(self) -> str:
        """A sentence about the skipped files; empty if there are none."""
        if not self.skipped:
            return ""
        files = sum(self.skipped.values())
        endings = ", ".join(f"{count:,} {ending}" for ending, count in self.skipped.items())
        return (
            f"{files:,} file{'s are' if files > 1 else ' is'} skipped ({endings}): only {', '.join(FORMATS)} are read"
        )


def freeze_corpora(config: TrainConfig, unit_bytes: int) -> dict[str, FrozenCorpus]:
    """`freeze_corpus` of each corpus of a config with columns, by its name."""
    each = zip(config.corpus_names, config.corpus_stores, config.corpus, config.all_columns, strict=True)
    staged, folded = config.order != "shuffled", config.split.fold is not None
    return {
        name: freeze_corpus(store, corpus, columns, unit_bytes, staged, folded) for name, store, corpus, columns in each
    }


def freeze_corpus(
    store: Store, corpus: Corpus, columns: Columns, unit_bytes: int, staged: bool = False, folded: bool = False
) -> FrozenCorpus:
    """List the files of a corpus, check its columns and split it into units of about `unit_bytes`.

    staged: whether documents are ordered by the stages of a curriculum. folded: whether one of their folds is tested;
    then the records of a data set of `raymill prepare` that are for testing, which have none, are left out.

    Raises:
        ConfigError: a named column is missing or has an unsuitable type, or there are no stages or folds.
        DataError: there is nothing to read at the path, or an unfinished artifact.
    """
    assert unit_bytes > 0
    files, content, skipped = _find(store, corpus.path, folded)
    with ThreadPoolExecutor(_THREADS) as pool:
        inspected = list(pool.map(lambda file: _inspect(store, file.info, columns, unit_bytes), files))
    schemas = [
        (file.info.uri, schema) for file, (schema, _) in zip(files, inspected, strict=True) if schema is not None
    ]
    lines = next((file.info for file in files if format_of(file.info.uri) == "jsonl"), None)
    prepared = prepared_output(store, corpus.path)
    defaults = DEFAULTS
    if prepared:
        used = {"split": not folded, "fold": folded, "stage": staged}
        defaults = DEFAULTS | {role: role for role, wanted in used.items() if wanted}
    resolved = _resolve(columns, defaults, schemas, lines, _peek(store, lines) if lines else {})
    if staged and resolved.stage is None:
        what = "prepare it again with `curriculum: {}`" if prepared else "name their column in columns.stage"
        raise ConfigError(
            f"{corpus.path}: no stages of a curriculum, which `order` follows; {what}, or leave `order` out."
        )
    if folded and resolved.fold is None:
        raise ConfigError(
            f"{corpus.path}: no folds, of which `split.fold` tests one; name their column in columns.fold, or leave "
            "`fold` out."
        )
    units, sizes = [], []
    for unit, size in _group([piece for _, pieces in inspected for piece in pieces], unit_bytes):
        units.append(unit)
        sizes.append(size)
    listing = tuple((file.name, file.info.size, file.info.version) for file in files)
    if not units:
        raise DataError(f"{corpus.path}: no row in {plural(len(files), 'file')}. Point `corpus` at documents.")
    if prepared is None and (artifact := Artifact.find(store, paths.absolute(corpus.path))) is not None:
        prepared = prepared_with(artifact)
    return FrozenCorpus(store, corpus.path, tuple(units), tuple(sizes), content, resolved, skipped, listing, prepared)


def with_columns(config: TrainConfig) -> TrainConfig:
    """The config with the columns of each corpus: those it names, else those recognised by usual names (RECOGNISED).

    These are `text`, `messages`, ShareGPT's `conversations`, `prompt` with `completion`, and alpaca's `instruction`
    with `output`, each with its optional columns. With method probe, the class is that of a data set of `raymill
    prepare` where no column is named.

    Raises:
        ConfigError: method probe finds no text or no class.
        DataError: there is nothing to read at a corpus's path, or an unfinished artifact.
    """
    each = list(zip(config.corpus_stores, config.corpus, config.all_columns, strict=True))
    if "columns" not in config.model_fields_set:
        each = [(store, one, one.columns or _recognised(store, one)) for store, one, _ in each]
    elif config.method != "probe":
        return config
    if config.method == "probe":
        each = [(store, one, _labelled(store, one, columns)) for store, one, columns in each]
    corpora = [one.model_copy(update={"columns": columns}) for _, one, columns in each]
    return config.model_copy(update={"corpus": tuple(corpora)})


def _labelled(store: Store, corpus: Corpus, columns: Columns) -> Columns:
    """The columns with that of the class.

    Raises:
        ConfigError: the documents are no plain texts, or there is no class.
    """
    if columns.form != "text":
        raise ConfigError(
            f"{corpus.path}: has the columns {', '.join(columns.named.values())}, and method probe classifies plain "
            "texts. Name one column, as in `columns: {text: prompt}`."
        )
    if columns.label is not None:
        return columns
    manifest = RunFolder(store, paths.absolute(corpus.path)).finished("prepare")
    if manifest is None:
        raise ConfigError(
            f"{corpus.path}: no column of classes, which method probe learns. Name it, as in `columns: {{text: text, "
            "label: COLUMN}`; a data set of `raymill prepare` has its own."
        )
    fields = {field for one in manifest["config"]["inputs"] for field in one["columns"]}
    label = next((name for name, of in PREPARED_CLASSES.items() if fields & of), None)
    if label is None:
        raise ConfigError(
            f"{corpus.path}: its records have no labels or categories, of which method probe learns one. Prepare it "
            "with `columns: {labels: COLUMN}`, or name another column, as in `columns: {text: text, label: "
            "metadata.source}`."
        )
    return columns.model_copy(update={"label": label})


def _recognised(store: Store, corpus: Corpus) -> Columns:
    file = _find(store, corpus.path)[0][0].info
    schema, _ = _inspect(store, file, Columns(text="text"), 1 << 30)
    names = _peek(store, file) if schema is None else schema.names
    for needed, optional in RECOGNISED:
        if all(name in names for name in needed.values()):
            return Columns(**needed | {role: name for role, name in optional.items() if name in names})
    return Columns(text="text")


def _find(store: Store, path: str, folded: bool = False) -> tuple[list[_File], str, dict[str, int]]:
    """(files, fingerprint of their content, number of skipped files by ending). folded: see `freeze_corpus`."""
    root = paths.absolute(path)
    wild = re.search(r"[*?\[]", root)
    there = store.exists(root) or bool(
        wild and store.list_files(root)
    )  # an existing name with brackets is not a pattern
    if wild and not there:
        found, root = store.glob(root), root[: root.rindex("/", 0, wild.start())]
    elif store.exists(root):
        found, root = [store.info(root)], posixpath.dirname(root)
    elif (artifact := Artifact.find(store, root)) is not None:
        return _of_artifact(artifact)
    elif prepared_output(store, root) is not None:
        return _of_prepared(store, root, SPLITS[:-1] if folded else SPLITS)
    else:
        found = store.list_files(root)
        _refuse_unfinished(store, root)
    files = [_File(file.uri.removeprefix(root).lstrip("/"), file) for file in found]
    visible = [file for file in files if not _hidden(file.name)]
    chosen = [file for file in visible if format_of(file.name)]
    if not chosen:
        raise DataError(_nothing_here(path, [file.name for file in files]))
    content = [[file.name, file.info.size, file.info.version] for file in chosen]
    others = Counter(posixpath.splitext(file.name)[1] or "without ending" for file in visible if file not in chosen)
    return chosen, fingerprint(content), dict(sorted(others.items(), key=lambda one: (-one[1], one[0])))


def _nothing_here(path: str, names: Sequence[str]) -> str:
    wanted = f"Wanted: an artifact ({MANIFEST}), or files that end in {', '.join(FORMATS)}."
    if names:
        hint = " A JSON array becomes JSON Lines with `jq -c '.[]' FILE > FILE.jsonl`." if _has_json(names) else ""
        return f"{path}: no file of documents here. Seen: {', '.join(names[:8])}. {wanted}{hint}"
    if paths.is_remote(path) or re.search(r"[*?\[]", path):
        return f"{path}: no file matches. Check the name against a listing. {wanted}"
    if Path(paths.absolute(path)).exists():
        return f"{path}: an empty folder. {wanted}"
    return f"{path}: there is no such file or folder. {wanted}"


def _has_json(names: Sequence[str]) -> bool:
    return any(name.lower().endswith(".json") for name in names)


def _of_artifact(artifact: Artifact) -> tuple[list[_File], str, dict[str, int]]:
    root = artifact.uri
    files = artifact.manifest.files
    # Files of an artifact are never changed, so it is enough to compare their sizes.
    infos = [FileInfo(paths.join(root, file.path), file.bytes, "") for file in files]
    return [_File(file.path, info) for file, info in zip(files, infos, strict=True)], artifact.manifest.digest, {}


def _of_prepared(store: Store, root: str, splits: Sequence[str]) -> tuple[list[_File], str, dict[str, int]]:
    files: list[_File] = []
    digests = []
    for split in splits:
        artifact = Artifact.load(store, paths.join(root, split))
        found, digest, _ = _of_artifact(artifact)
        files += [_File(f"{split}/{file.name}", file.info) for file in found]
        digests.append(digest)
    return files, fingerprint(digests), {}


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


def _inspect(
    store: Store, file: FileInfo, columns: Columns, unit_bytes: int
) -> tuple[pa.Schema | None, list[tuple[Span, int]]]:
    """(schema of a Parquet file, None for JSON Lines; the file's spans, each with its estimated bytes of documents)."""
    kind = format_of(file.uri)
    if kind == "parquet":
        return _inspect_parquet(store, file, columns, unit_bytes)
    if not file.size:
        return None, []
    if is_compressed(file.uri):
        return None, [(Span(*_identity(file), "jsonl", 0, file.size), 3 * file.size)]
    parts = -(-file.size // unit_bytes)
    ends = [file.size * part // parts for part in range(parts + 1)]
    return None, [(Span(*_identity(file), "jsonl", start, end), end - start) for start, end in pairwise(ends)]


def _inspect_parquet(
    store: Store, file: FileInfo, columns: Columns, unit_bytes: int
) -> tuple[pa.Schema, list[tuple[Span, int]]]:
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
    return schema, pieces


def _identity(file: FileInfo) -> tuple[str, int, str]:
    return file.uri, file.size, file.version


def _group(pieces: Sequence[tuple[Span, int]], unit_bytes: int) -> Iterator[tuple[Unit, int]]:
    """Group spans into units of at most `unit_bytes`; a larger span is a unit of its own."""
    held: list[Span] = []
    held_bytes = 0
    for span, size in pieces:
        if held and held_bytes + size > unit_bytes:
            yield tuple(held), held_bytes
            held, held_bytes = [], 0
        if held and held[-1].uri == span.uri and held[-1].end == span.start:
            held[-1] = replace(held[-1], end=span.end)
        else:
            held.append(span)
        held_bytes += size
    if held:
        yield tuple(held), held_bytes


def _resolve(
    columns: Columns,
    defaults: Mapping[str, str],
    schemas: Sequence[tuple[str, pa.Schema]],
    lines: FileInfo | None,
    peeked: Mapping[str, None],
) -> Columns:
    """Check the named columns, and fill in those of `defaults` that the corpus has.

    defaults: role -> usual name. lines: the first file of JSON Lines, if any. peeked: keys of its first objects.
    """
    named = columns.named
    for role, name in named.items():
        for uri, schema in schemas:
            if _type_of(schema, name) is None:
                raise ConfigError(_no_column(uri, role, name, schema.names))
            _check_type(uri, role, name, schema)
        # Optional keys of JSON objects may be missing in the first ones.
        is_there = name in peeked or name.partition(".")[0] in peeked
        if lines and peeked and not is_there and role not in ("tools", "id", "group", "input", "system"):
            raise ConfigError(_no_column(lines.uri, role, name, list(peeked)))
    found = {
        role: name
        for role, name in defaults.items()
        if role not in named and all(name in schema.names for _, schema in schemas) and (not lines or name in peeked)
    }
    return columns.model_copy(update=found)


def _peek(store: Store, file: FileInfo) -> dict[str, None]:
    """Keys of a file's first 100 objects, in order of appearance."""
    span = Span(*_identity(file), "jsonl", 0, file.size)
    keys: dict[str, None] = {}
    for row, _ in islice(json_rows(store, span), _PEEKED_LINES):
        if isinstance(row, dict):
            keys |= dict.fromkeys(row)
    return keys


def _no_column(uri: str, role: str, name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 3, 0.5)
    advice = f"Did you mean {' or '.join(near)}?" if near else f"Set columns.{role} to one of them."
    return f"{uri}: no column {name} (columns.{role}). It has: {', '.join(names) or 'none'}. {advice}"


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column, or of the field of a column of structs; None if there is none."""
    if name in schema.names:
        return schema.field(name).type
    column, _, field = name.partition(".")
    kind = schema.field(column).type if schema.names.count(column) == 1 else None
    return kind.field(field).type if kind is not None and pa.types.is_struct(kind) and kind.names.count(field) else None


def _check_type(uri: str, role: str, name: str, schema: pa.Schema) -> None:
    if schema.names.count(name) > 1:
        raise ConfigError(f"{uri}: has {schema.names.count(name)} columns {name} (columns.{role}). Name each its own.")
    kind = _type_of(schema, name)
    assert kind is not None
    while pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    whole = pa.types.is_integer(kind)
    a_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    wanted, good = {
        "text": ("strings", text),
        "prompt": ("strings", text),
        "completion": ("strings", text),
        "input": ("strings", text),
        "system": ("strings", text),
        "messages": ("lists of {role, content}, or such a list as JSON text", text or a_list),
        "tools": ("lists, or such a list as JSON text", text or a_list),
        "label": ("text or whole numbers", text or whole or a_list or pa.types.is_boolean(kind)),
        "stratify": ("text or whole numbers", text or whole or pa.types.is_boolean(kind)),
        "id": ("text or whole numbers", text or whole),
        "group": ("text or whole numbers", text or whole),
        "split": ("train, validation or test", text),
        "fold": ("whole numbers", whole),
        "stage": ("whole numbers", whole),
    }[role]
    if not good and not pa.types.is_null(kind):
        if role == "text" and a_list:
            raise ConfigError(f"{uri}: column {name} (columns.text) is {kind}. Of conversations: {{messages: {name}}}.")
        others = [one.name for one in schema if pa.types.is_string(one.type) or pa.types.is_large_string(one.type)]
        raise ConfigError(
            f"{uri}: column {name} (columns.{role}) is {kind}; wanted {wanted}. Columns of strings: "
            f"{', '.join(others) or 'none'}."
        )


def stage_of(work: str, corpus: str) -> str:
    """Name of the stage that does `work` on a corpus, without dots: a dot means that stage `A.B` prepares stage A."""
    return f"{work}-{corpus.replace('.', '~')}"


def as_json(units: Sequence[Unit]) -> list[object]:
    """Units as plain JSON values, for a fingerprint."""
    return [[list(astuple(span)) for span in unit] for unit in units]
