"""The corpora of a run as listed when it began: files, columns, fingerprint, and the units that they are split into."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field, replace
from itertools import islice

import pyarrow as pa

from cluster.artifact import Artifact
from cluster.errors import ConfigError, DataError
from cluster.examples.splits import SPLITS, split_name
from cluster.formats import plural
from cluster.readers.formats import READERS
from cluster.readers.formats.hub import is_hub_data
from cluster.readers.formats.records import BrokenRest
from cluster.readers.freeze import append_span
from cluster.readers.inputs import Limits
from cluster.readers.reader import PROBLEMS, Row, Unreadable
from cluster.readers.streams import PROBLEMS_OF_WHOLE_FILES, Span, UnreadableRest, first_bytes, refuse_changed
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Columns, Corpus, HeldOutSet
from training.data.prepared import PreparedRun, prepared_output, prepared_with
from training.pack.columns import DEFAULTS, resolve
from training.pack.corpus_files import CONTENT, SPLIT, CorpusInput, find_files, input_of, inspect_file

# Threads that read footers of remote files; they wait for the network.
_THREADS = 16
_PEEKED_ROWS = 100
LIMITS = Limits(max_document_bytes=80_000_000)  # lines of up to 240 MB
Unit = tuple[Span, ...]
Listing = Sequence[tuple[str, int, str]]  # name, bytes, version (ETag, or size and time of a local file)


@dataclass(frozen=True, slots=True)
class SplitSpan(Span):
    """A span of a file whose documents are all of one split. split: its name."""

    split: str = "train"


@dataclass(frozen=True)
class CorpusReading:
    """What a worker needs to read units of a corpus. store: of its files. columns: with default columns filled in."""

    store: Store
    columns: Columns
    input: CorpusInput

    def rows(self, unit: Iterable[Span]) -> Iterator[tuple[Span, Row | Unreadable, str]]:
        """(span, row or the reason why it cannot be read, its place) of each row of a unit.

        Raises:
            DataError: a file changed since the run began, or cannot be read to its end.
        """
        for span in unit:
            refuse_changed(self.store, span)
            number = 0
            try:
                for row, where in READERS[span.format].rows(self.store, span, self.input, LIMITS):
                    yield span, row, where
                    number += 1
            except UnreadableRest as broken:
                if span.format != "jsonl":
                    raise DataError(_unreadable(self.store, span, number, broken)) from broken
                yield span, Unreadable(broken.problem), f"{span.uri} after line {number}"


@dataclass(frozen=True)
class FrozenCorpus:
    """The files of a corpus as listed when the run began.

    units: in the order of the documents. unit_bytes: estimated bytes of documents of each unit. fingerprint: of the
    content (an artifact's digest; else names, sizes and versions of the files). skipped: number of files of other
    formats, by ending. listing: the files that are read. prepared: the data set of `raymill prepare` that they are, if
    they are one. unread: of Parquet, the rows that have a value in each column that is not read. splits_read: whether
    the column `split` decides the splits, because the rows have one. measured: of one of `evaluate.sets`, the split
    that is measured; None for a corpus to train on.
    """

    reading: CorpusReading
    path: str
    units: tuple[Unit, ...]
    unit_bytes: tuple[int, ...]
    fingerprint: str
    skipped: Mapping[str, int]
    listing: Listing
    prepared: PreparedRun | None = None
    unread: Mapping[str, int] = field(default_factory=dict)
    splits_read: bool = False
    measured: str | None = None

    @property
    def store(self) -> Store:
        """That of its files."""
        return self.reading.store

    @property
    def columns(self) -> Columns:
        """With default columns filled in."""
        return self.reading.columns

    @property
    def note(self) -> str:
        """Sentences about the skipped files and the column of the splits; empty if there are none."""
        splits = "its column `split` decides the splits; `ignore: [split]` or `split` in the config changes that"
        unread = [name.removeprefix(SPLIT) for name in self.skipped if name.startswith(SPLIT)]
        if unread:
            are = "splits {} are" if len(unread) > 1 else "split {} is"
            return f"its {are.format(', '.join(unread))} not read; `split` of the corpus names one"
        return "; ".join([*([self._skipped_files] if self.skipped else []), *([splits] if self.splits_read else [])])

    @property
    def _skipped_files(self) -> str:
        files = sum(self.skipped.values())
        endings = ", ".join(f"{count:,} {ending}" for ending, count in self.skipped.items())
        are = "files are" if files > 1 else "file is"
        return f"{files:,} {are} skipped ({endings}); to read them, name them by a glob or set `format` of the corpus"


def freeze_corpora(config: TrainConfig, unit_bytes: int) -> dict[str, FrozenCorpus]:
    """`freeze_corpus` of each corpus of a config with columns, by its name."""
    each = zip(config.corpus_names, config.corpus_stores, config.corpus, config.all_columns, strict=True)
    staged, folded = config.order != "shuffled", config.split.fold is not None
    split_set = "split" in config.model_fields_set
    return {
        name: freeze_corpus(store, corpus, columns, unit_bytes, staged, folded, split_set)
        for name, store, corpus, columns in each
    }


def freeze_sets(config: TrainConfig, unit_bytes: int) -> dict[str, FrozenCorpus]:
    """`freeze_corpus` of each of `evaluate.sets` of a config with columns, by the name of its packed rows."""
    return {
        set_name(name): _freeze_set(config.store, name, one, columns, unit_bytes)
        for (name, one), columns in zip(config.evaluate.sets.items(), config.set_columns.values(), strict=True)
    }


def set_name(name: str) -> str:
    """The name of the packed rows of one of `evaluate.sets`, which no corpus can have."""
    return f"_evaluate-{name}"


def shown_name(name: str) -> str:
    """The name of a corpus, or the setting of one of `evaluate.sets`, from the name of its packed rows."""
    start = set_name("")
    return f"evaluate.sets.{name.removeprefix(start)}" if name.startswith(start) else name


def _freeze_set(store: Store, name: str, one: HeldOutSet, columns: Columns, unit_bytes: int) -> FrozenCorpus:
    """As `freeze_corpus`, with the split to measure.

    Raises:
        ConfigError: a split is named, and the documents have none.
    """
    frozen = freeze_corpus(store, one, columns, unit_bytes, split_set=False, splits=(one.split,) if one.split else ())
    if frozen.units[0][0].format == "hf":  # the files of the split alone
        return replace(frozen, measured="test")
    measured = split_name(one.split or "test")
    if measured is None:
        raise ConfigError(f"evaluate.sets.{name}.split: is {one.split}; of {one.path} wanted {', '.join(SPLITS)}.")
    if frozen.columns.split is None:
        if one.split is not None:
            raise ConfigError(
                f"evaluate.sets.{name}.split: the documents of {one.path} have no column `split` with the names of "
                "splits. Name the column, as in `columns: {.., split: COLUMN}`, or leave `split` out to measure all."
            )
        return replace(frozen, measured="test")
    if one.split is None and frozen.splits_read:
        first = _splits_of_first_rows(frozen.reading, [span for unit in frozen.units for span in unit])
        measured = "validation" if first == {"validation"} else "test"  # a file of one split
    return replace(frozen, measured=measured)


def freeze_corpus(
    store: Store,
    corpus: Corpus | HeldOutSet,
    columns: Columns,
    unit_bytes: int,
    staged: bool = False,
    folded: bool = False,
    split_set: bool = True,
    splits: Sequence[str] = SPLITS,
) -> FrozenCorpus:
    """List the files of a corpus, check its columns and split it into units of about `unit_bytes`.

    staged: whether documents are ordered by the stages of a curriculum. folded: whether one of their folds is tested;
    then the records of a data set of `raymill prepare` that are for testing, which have none, are left out. split_set:
    whether the config decides the splits; if not, a column `split` with the names of splits does. splits: those to read
    of a data set of `raymill prepare`.

    Raises:
        ConfigError: a named column is missing or has an unsuitable type, or there are no stages or folds.
        DataError: there is nothing to read at the path, or an unfinished artifact.
    """
    assert unit_bytes > 0
    if isinstance(corpus, Corpus) and corpus.split is not None:
        splits = (corpus.split,)
    files, content, skipped = find_files(store, corpus, SPLITS[:-1] if folded else splits)
    if isinstance(corpus, Corpus) and corpus.split and files[0].format != "hf":
        raise ConfigError(
            f"{corpus.path}: is no data set of `datasets`, and only of these `split` of a corpus names one. Name the "
            "column that has the splits, as in `columns: {.., split: COLUMN}`."
        )
    held_out = {file.split for file in files} & {"validation", "test"}
    store = Store() if is_hub_data(corpus.path) else store
    input = input_of(corpus, columns)
    named = {columns.named[role] for role in CONTENT if role in columns.named}
    with ThreadPoolExecutor(_THREADS) as pool:
        inspected = list(pool.map(lambda file: inspect_file(store, file, input, named, unit_bytes), files))
    pieces = [
        (_of_split(span, file.split) if held_out and (file.split != "train" or not split_set) else span, size)
        for file, one in zip(files, inspected, strict=True)
        for span, size in one.spans
    ]
    has_splits = any(isinstance(span, SplitSpan) for span, _ in pieces)
    prepared = prepared_output(store, corpus.path)
    defaults = DEFAULTS
    if prepared:
        used = {"split": not folded, "fold": folded, "stage": staged}
        defaults = DEFAULTS | {role: role for role, wanted in used.items() if wanted}
    peeking = CorpusReading(store, columns, input.model_copy(update={"columns": (*input.columns, "split")}))
    splits_read = not (prepared or has_splits or split_set or folded) and bool(
        _splits_of_first_rows(peeking, [span for span, _ in pieces])
    )
    if splits_read:
        defaults = DEFAULTS | {"split": "split"}
    each = list(zip(files, inspected, strict=True))
    schemas = [(file.info.uri, one.schema) for file, one in each if one.schema is not None]
    first = {file.format: file for file, one in reversed(each) if one.schema is None and one.spans}
    peeked = [(file, READERS[file.format].column_names(store, file.info, input)) for file in first.values()]
    resolved = resolve(columns, defaults, schemas, peeked)
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
    for unit, size in _group(pieces, unit_bytes):
        units.append(unit)
        sizes.append(size)
    listing = tuple((file.name, file.info.size, file.info.version) for file in files)
    if not units:
        raise DataError(f"{corpus.path}: no row in {plural(len(files), 'file')}. Point `corpus` at documents.")
    artifact = None if prepared or is_hub_data(corpus.path) else Artifact.find(store, paths.absolute(corpus.path))
    if artifact is not None:
        prepared = prepared_with(artifact)
    read = {name.partition(".")[0] for name in resolved.named.values()} | set(resolved.passed_over)
    unread: Counter[str] = Counter()
    # The columns that `prepare` and `curate` write beside the texts are never trained on, and need no warning.
    for one in inspected if prepared is None and artifact is None else ():
        unread.update({name: rows for name, rows in one.values.items() if name not in read and rows})
    return FrozenCorpus(
        CorpusReading(store, resolved, input_of(corpus, resolved)),
        corpus.path,
        tuple(units),
        tuple(sizes),
        content,
        skipped,
        listing,
        prepared,
        unread,
        splits_read and resolved.split == "split",
    )


def _of_split(span: Span, split: str | None) -> Span:
    return span if split is None else SplitSpan(**asdict(span), split=split)


def _group(pieces: Sequence[tuple[Span, int]], unit_bytes: int) -> Iterator[tuple[Unit, int]]:
    """Group spans into units of at most `unit_bytes`; a larger span is a unit of its own."""
    held: list[Span] = []
    held_bytes = 0
    for span, size in pieces:
        if held and held_bytes + size > unit_bytes:
            yield tuple(held), held_bytes
            held, held_bytes = [], 0
        append_span(held, span)
        held_bytes += size
    if held:
        yield tuple(held), held_bytes


def _splits_of_first_rows(reading: CorpusReading, spans: Sequence[Span]) -> set[str]:
    """The splits that the first rows name in a column `split`; none unless each of these rows names one."""
    rows = islice((row for _, row, _ in reading.rows(spans)), _PEEKED_ROWS)
    names = [row.get("split") for row in rows if isinstance(row, dict)]
    found = {split_name(name) if isinstance(name, str) else None for name in names}
    return {name for name in found if name is not None} if None not in found else set()


def _unreadable(store: Store, span: Span, number: int, broken: UnreadableRest) -> str:
    """The error about a file whose rest after row `number` cannot be read."""
    problem, cause = broken.problem.replace("_", " "), broken.__cause__
    if span.format == "parquet" and isinstance(cause, pa.ArrowException | OSError):
        return (
            f"{span.uri}: damaged Parquet ({str(cause).splitlines()[0]}). Write it again, or exclude it by a "
            "narrower path."
        )
    if span.format == "parquet":
        return (
            f"{span.uri}: Parquet that cannot be read ({problem}; a page may have {LIMITS.block_bytes >> 20} MiB). "
            "Write it again with smaller pages, or exclude it by a narrower path."
        )
    if span.format == "hf":
        return (
            f"{span.uri}: Arrow stream that cannot be read after row {number} ({problem}). Save the data set again, "
            "with small record batches, or remove it from the cache of `datasets` (HF_HOME)."
        )
    whole = READERS[span.format].file_problem(first_bytes(store, span, LIMITS)) or broken.problem
    if whole in PROBLEMS_OF_WHOLE_FILES:
        return f"{span.uri}: {PROBLEMS_OF_WHOLE_FILES[whole]}."
    if span.format != "json":
        return f"{span.uri}: cannot be read after record {number} ({PROBLEMS[whole]}). Write it again, or exclude it."
    seen = {
        "broken_json": "is not JSON",
        "too_large": f"is larger than {LIMITS.max_line_bytes:,} characters",
        "truncated": "is missing: the file ends within its array or its compressed data",
    }.get(whole, f"cannot be read ({problem})")
    text = f", which begins {broken.rest[:60]!r}," if isinstance(broken, BrokenRest) else ""
    if whole == "broken_json":
        seen += f" ({_defect(cause)})"
    return (
        f"{span.uri}: element {number}{text} {seen}, and nothing after it can be read. Wanted: one array of objects. "
        "Correct the file or write it again; if it has one object on each line, name it .jsonl, where a line that "
        "cannot be read is left out."
    )


def _defect(error: BaseException | None) -> str:
    """What the decoder of JSON found, with the text before the place."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    before = error.doc[max(error.pos - 40, 0) : error.pos]
    return error.msg + (f" after {before!r}" if before else "")


def stage_of(work: str, corpus: str) -> str:
    """Name of the stage that does `work` on a corpus, without dots: a dot means that stage `A.B` prepares stage A."""
    return f"{work}-{corpus.replace('.', '~')}"


def as_json(units: Sequence[Unit]) -> list[object]:
    """Units as plain JSON values, for a fingerprint."""
    return [[list(astuple(span)) for span in unit] for unit in units]
