"""The corpora of a run as listed when it began: files, columns, fingerprint, and the units that they are split into."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field, replace

from cluster.artifact import Artifact
from cluster.errors import ConfigError, DataError
from cluster.formats import plural
from cluster.readers.files.hub import is_hub_data
from cluster.readers.files.span import Span
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Columns, Corpus, HeldOutSet
from training.data.packed import SPLITS
from training.data.prepared import PreparedRun, prepared_output, prepared_with
from training.pack.columns import DEFAULTS, resolve
from training.pack.corpus_files import SPLIT, find_files, first_keys, inspect_file
from training.pack.reading import FORMATS, SplitSpan, format_of, split_name, splits_of_first_rows

# Threads that read footers of remote files; they wait for the network.
_THREADS = 16
Unit = tuple[Span, ...]
Listing = Sequence[tuple[str, int, str]]  # name, bytes, version (ETag, or size and time of a local file)


@dataclass(frozen=True)
class FrozenCorpus:
    """The files of a corpus as listed when the run began.

    store: that of its files. units: in the order of the documents. unit_bytes: estimated bytes of documents of each
    unit. fingerprint: of the content (an artifact's digest; else names, sizes and versions of the files). columns: with
    default columns filled in. skipped: number of files of other formats, by ending. listing: the files that are read.
    prepared: the data set of `raymill prepare` that they are, if they are one. unread: of Parquet, the rows that have a
    value in each column that is not read. splits_read: whether the column `split` decides the splits, because the rows
    have one. measured: of one of `evaluate.sets`, the split that is measured; None for a corpus to train on.
    """

    store: Store
    path: str
    units: tuple[Unit, ...]
    unit_bytes: tuple[int, ...]
    fingerprint: str
    columns: Columns
    skipped: Mapping[str, int]
    listing: Listing
    prepared: PreparedRun | None = None
    unread: Mapping[str, int] = field(default_factory=dict)
    splits_read: bool = False
    measured: str | None = None

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
        arrays = "; .json beside other documents, or without an array of objects, if its name or a glob is given"
        return (
            f"{files:,} file{'s are' if files > 1 else ' is'} skipped ({endings}): only {', '.join(FORMATS)} are read"
            + (arrays if ".json" in self.skipped else "")
        )


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
    if format_of(frozen.units[0][0].uri) == "arrow":  # the files of the split alone
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
        first = splits_of_first_rows(store, [span for unit in frozen.units for span in unit])
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
    if isinstance(corpus, Corpus) and corpus.split and format_of(files[0].info.uri) != "arrow":
        raise ConfigError(
            f"{corpus.path}: is no data set of `datasets`, and only of these `split` of a corpus names one. Name the "
            "column that has the splits, as in `columns: {.., split: COLUMN}`."
        )
    held_out = {file.split for file in files} & {"validation", "test"}
    store = Store() if is_hub_data(corpus.path) else store
    with ThreadPoolExecutor(_THREADS) as pool:
        inspected = list(pool.map(lambda file: inspect_file(store, file.info, columns, unit_bytes), files))
    schemas = [
        (file.info.uri, one.schema) for file, one in zip(files, inspected, strict=True) if one.schema is not None
    ]
    pieces = [
        (_of_split(span, file.split) if held_out and (file.split != "train" or not split_set) else span, size)
        for file, one in zip(files, inspected, strict=True)
        for span, size in one.spans
    ]
    has_splits = any(isinstance(span, SplitSpan) for span, _ in pieces)
    lines = next((file.info for file, one in zip(files, inspected, strict=True) if one.schema is None), None)
    prepared = prepared_output(store, corpus.path)
    defaults = DEFAULTS
    if prepared:
        used = {"split": not folded, "fold": folded, "stage": staged}
        defaults = DEFAULTS | {role: role for role, wanted in used.items() if wanted}
    splits_read = not (prepared or has_splits or split_set or folded) and bool(
        splits_of_first_rows(store, [s for s, _ in pieces])
    )
    if splits_read:
        defaults = DEFAULTS | {"split": "split"}
    resolved = resolve(columns, defaults, schemas, lines, first_keys(store, lines) if lines else {})
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
        store,
        corpus.path,
        tuple(units),
        tuple(sizes),
        content,
        resolved,
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
        if held and held[-1].uri == span.uri and held[-1].end == span.start:
            held[-1] = replace(held[-1], end=span.end)
        else:
            held.append(span)
        held_bytes += size
    if held:
        yield tuple(held), held_bytes


def stage_of(work: str, corpus: str) -> str:
    """Name of the stage that does `work` on a corpus, without dots: a dot means that stage `A.B` prepares stage A."""
    return f"{work}-{corpus.replace('.', '~')}"


def as_json(units: Sequence[Unit]) -> list[object]:
    """Units as plain JSON values, for a fingerprint."""
    return [[list(astuple(span)) for span in unit] for unit in units]
