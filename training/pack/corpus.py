"""The corpora of a run as listed when it began: files, columns, fingerprint, and the units that they are split into."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.columns import no_content, recognised
from raymill.cluster.examples.copies import COPIES, MAX_COPIES, UNNAMED_COPIES
from raymill.cluster.examples.splits import SPLITS, split_name
from raymill.cluster.examples.terms import TERMS
from raymill.cluster.formats import plural
from raymill.cluster.readers.column_types import column_problem
from raymill.cluster.readers.columns import first_columns, kind_of, other_type, repeated, type_in
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.hub import is_hub_data, pinned
from raymill.cluster.readers.formats.records import BrokenRest
from raymill.cluster.readers.freeze import append_span
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import PROBLEMS, ReaderCounts, Row, Unreadable
from raymill.cluster.readers.streams import PROBLEMS_OF_WHOLE_FILES, Span, UnreadableRest, first_bytes, refuse_changed
from raymill.cluster.run import RunFolder
from raymill.cluster.stage import files_from
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Columns, Corpus, HeldOutSet, ReadColumns
from raymill.training.methods import CLASSIFIER
from raymill.training.objectives import Records, TrainingObjective
from raymill.training.pack.corpus_files import (
    CONTENT,
    SPLIT,
    CorpusFile,
    CorpusInput,
    PreparedRun,
    find_files,
    input_of,
    inspect_file,
    prepared_output,
    prepared_with,
)

_DEFAULTS = {"id": "id", "group": "group_id"}
# Classes of a data set of `raymill prepare` -> the fields of its inputs that they are made of.
_PREPARED_CLASSES = {
    "annotations.labels": {"labels", "label"},
    "annotations.categories": {"categories", "category"},
}
# Uses of columns that rows may lack.
_OPTIONAL = ("tools", "id", "group", "input", "history", "system")
# Roles of columns whose usual names are recognised.
_ROLES: Mapping[Records, tuple[str, ...]] = {
    "text": ("messages", "tools", "system", "prompt", "completion", "input", "history", "text"),
    "pairs": ("prompt", "chosen", "rejected", "input", "system", "tools"),
    "labelled": (
        "messages",
        "tools",
        "system",
        "prompt",
        "completion",
        "input",
        "history",
        "chosen",
        "rejected",
        "desirable",
    ),
}
_COLUMNS_OF = {"pairs": "{prompt: COLUMN, chosen: COLUMN, rejected: COLUMN}"}
_COLUMNS_OF["labelled"] = "{prompt: COLUMN, completion: COLUMN, label: COLUMN}, or " + _COLUMNS_OF["pairs"]
_JUDGED = {"pairs": "compared, chosen and rejected", "labelled": "judged, with a label true or false"}
# Role -> the types that its column may have, and their description.
_TYPES = {
    **dict.fromkeys(("text", "prompt", "completion", "input", "system"), ("text", "strings")),
    **dict.fromkeys(("chosen", "rejected"), ("text list", "strings, or lists of {role, content}")),
    "messages": ("text list", "lists of {role, content}, or such a list as JSON text"),
    "tools": ("text list", "lists, or such a list as JSON text"),
    "history": ("text list", "lists of [prompt, answer], or such a list as JSON text"),
    "label": ("text whole list flag", "text or whole numbers"),
    "stratify": ("text whole flag", "text or whole numbers"),
    **dict.fromkeys(("id", "group"), ("text whole", "text or whole numbers")),
    "split": ("text", "train, validation or test"),
    **dict.fromkeys(("fold", "stage"), ("whole", "whole numbers")),
    "copies": ("whole float", "numbers"),
    "margin": ("whole float list", "numbers, or ranked answers"),
}
# Threads that read footers of remote files; they wait for the network.
_THREADS = 16
_PEEKED_ROWS = 100
LIMITS = Limits(max_document_bytes=80_000_000)  # lines of up to 240 MB
Unit = tuple[Span, ...]
Listing = Sequence[tuple[str, int, str]]  # name, bytes, version (ETag, or size and time of a local file)
_Read = TypeVar("_Read", Corpus, HeldOutSet)


# --- columns


def with_columns(config: TrainConfig) -> TrainConfig:
    """The config with the columns of each corpus and each of `evaluate.sets`: those it names, else those recognised.

    Recognised are the usual names of cluster/examples/columns.py, as by `raymill prepare`. A classifier's
    classes are those of a data set of `raymill prepare` where no column is named. Data sets of the hub have their
    commit in the path, so that the run reads one revision.

    Raises:
        ConfigError: a classifier finds no text or no class.
        DataError: there is nothing to read at a corpus's path, or an unfinished artifact.
    """
    objective = config.training_objective
    optional = ("tools", "input", "history", "system", "id", "group", "split")

    def with_own(store: Store, one: _Read) -> _Read:
        if is_hub_data(one.path):
            one = one.model_copy(update={"path": pinned(one.path)})
        named = config.columns if "columns" in config.model_fields_set else None
        given = one.columns or named
        columns = given or _recognised(store, one, config.training_method.classifies, objective)
        if given and (problem := _without_answers(given, objective.records)):
            raise ConfigError(f"{one.path}: objective {objective.name} {problem}")
        if config.training_method.classifies:
            columns = _labelled(store, one, columns)
        if config.objective == "grpo" and columns.form == "text":
            raise ConfigError(
                f"{one.path}: has texts, and objective grpo needs prompts with reference answers. Name them, as in "
                "`columns: {prompt: COLUMN, completion: COLUMN}`."
            )
        ignore = columns.ignore or config.ignore or None
        ignored = {role: None for role in optional if getattr(columns, role) in (ignore or ())}
        return one.model_copy(update={"columns": columns.model_copy(update=ignored | {"ignore": ignore})})

    update: dict[str, object] = {"corpus": tuple(map(with_own, config.corpus_stores, config.corpus))}
    if sets := config.evaluate.sets:
        sets = {name: with_own(config.store, one) for name, one in sets.items()}
        update["evaluate"] = config.evaluate.model_copy(update={"sets": sets})
    return config.model_copy(update=update)


def _without_answers(columns: Columns, records: Records) -> str:
    """What is wrong in named columns for answers that were compared or judged; empty if nothing is."""
    if records == "text" or columns.chosen is not None:
        return ""
    if records == "labelled" and columns.text is None and columns.label is not None:
        return ""
    return f"reads answers that were {_JUDGED[records]}. Name them, as in `columns: {_COLUMNS_OF[records]}`."


def _recognised(store: Store, corpus: Corpus | HeldOutSet, classifies: bool, objective: TrainingObjective) -> Columns:
    records = objective.records
    splits: Sequence[str] = SPLITS if corpus.split is None else (corpus.split,)
    if isinstance(corpus, HeldOutSet) and corpus.split is None:
        splits = ()
    files = [(file.info, file.format) for file in find_files(store, corpus, splits).files]
    _, _, names = first_columns(store, files, input_of(corpus, Columns(text="text")))
    if classifies and "text" in names:
        return Columns(text="text")
    # Beside a text, `question` and `answer` may be of another kind.
    found = recognised(names, _ROLES[records], later=lambda form: "question" in form[0].values())
    if records == "text":
        return Columns(**found or {"text": "text"})
    if not names:
        raise DataError(f"{corpus.path}: there are no rows. Point `corpus` at documents.")
    found = found or {}
    if (label := found.pop("desirable", None)) is not None:
        found["label"] = label
    elif objective.name == "reward" and (margin := _margin(found, names)):
        found["margin"] = margin
    if "chosen" not in found and (records == "pairs" or "label" not in found):
        raise ConfigError(
            f"{corpus.path}: no columns of answers that were {_JUDGED[records]}; it has {', '.join(names[:20])}. Name "
            f"them, as in `columns: {_COLUMNS_OF[records]}`."
        )
    return Columns(**found)


def _margin(found: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The column of margins: `margin`, or ranked answers, the scores of which differ; None: there is none."""
    is_ranked = "chosen" in found and found["chosen"] == found["rejected"]
    return "margin" if "margin" in names else found["chosen"] if is_ranked else None


def _labelled(store: Store, corpus: Corpus | HeldOutSet, columns: Columns) -> Columns:
    """The columns, and the class column that a classifier needs."""
    if columns.form != "text":
        raise ConfigError(
            f"{corpus.path}: has the columns {', '.join(columns.read.named.values())}, and method {CLASSIFIER} "
            "classifies plain texts. Name one column, as in `columns: {text: prompt}`."
        )
    if columns.label is not None:
        return columns
    path = paths.absolute(corpus.path)
    manifest = None if is_hub_data(path) else RunFolder(store, path).finished("prepare")
    if manifest is None:
        raise ConfigError(
            f"{corpus.path}: no column of classes, which method {CLASSIFIER} predicts. Name it, as in `columns: "
            "{text: text, label: COLUMN}`; a data set of `raymill prepare` has its own."
        )
    fields = {field for one in manifest["config"]["inputs"] for field in one["columns"]}
    label = next((name for name, of in _PREPARED_CLASSES.items() if fields & of), None)
    if label is None:
        raise ConfigError(
            f"{corpus.path}: its records have no labels or categories, of which method {CLASSIFIER} predicts one. "
            "Prepare it with `columns: {labels: COLUMN}`, or name another column, as in `columns: {text: text, label: "
            "metadata.source}`."
        )
    return columns.model_copy(update={"label": label})


def _resolved(
    columns: Columns,
    defaults: Mapping[str, str],
    schemas: Sequence[tuple[str, pa.Schema]],
    peeked: Sequence[tuple[CorpusFile, Sequence[str]]],
) -> Columns:
    """The named columns, which are checked, and those of `defaults` that the corpus has.

    defaults: role -> usual name. schemas: of typed files. peeked: the first file of each other format, and the columns
    at its beginning.
    """
    read = columns.read
    named = read.named
    for role, name in named.items():
        for uri, schema in schemas:
            _check_type(uri, role, name, schema, "chosen" in named)
        for file, names in peeked:
            # Optional keys of JSON objects may be missing in the first ones.
            optional = role in _OPTIONAL and READERS[file.format].columns == "open"
            if names and name not in names and name.partition(".")[0] not in names and not optional:
                raise ConfigError(no_content(file.info.uri, f"columns.{role}", name, names))
    found = {
        role: name
        for role, name in defaults.items()
        if role not in named
        and name not in read.ignored
        and all(name in schema.names for _, schema in schemas)
        and all(name in names for _, names in peeked)
    }
    return columns.model_copy(update=found)


def _check_type(uri: str, role: str, name: str, schema: pa.Schema, preference: bool) -> None:
    """Refuse a column, or a field of a column of structs, that is missing, repeated or of another type."""
    setting = f"columns.{role}"
    if schema.names.count(name) > 1:
        raise ConfigError(f"{uri}: {repeated(setting, name, schema.names)}")
    if problem := column_problem(schema, [name], setting):
        raise ConfigError(f"{uri}: {problem}")
    if (type := type_in(schema, name)) is None:
        raise ConfigError(no_content(uri, setting, name, schema.names))
    if role == "prompt" and preference and kind_of(type) == "list":
        return
    advice = f"Conversations are `columns: {{messages: {name}}}`." if role == "text" and kind_of(type) == "list" else ""
    if problem := other_type(setting, name, schema, _TYPES[role], advice):
        raise ConfigError(f"{uri}: {problem}")


# --- files


@dataclass(frozen=True, slots=True)
class SplitSpan(Span):
    """A span of a file whose documents are all of one split. split: its name."""

    split: str = "train"


@dataclass(frozen=True)
class CorpusReading:
    """What a worker needs to read units of a corpus. store: of its files. columns: with default columns filled in.
    forbidden_terms: of generated records, which are left out. most_copies: of a document; more are refused.
    records: what documents are made of the rows, see `TrainingObjective`.
    """

    store: Store
    columns: ReadColumns
    input: CorpusInput
    forbidden_terms: tuple[str, ...] = ()
    most_copies: int = MAX_COPIES
    records: Records = "text"

    def rows(
        self, unit: Iterable[Span], counts: ReaderCounts | None = None
    ) -> Iterator[tuple[Span, Row | Unreadable, str]]:
        """(span, row or the reason why it cannot be read, its place) of each row of a unit.

        counts: see `Reader.rows`.

        Raises:
            DataError: a file changed since the run began, or cannot be read to its end.
        """
        for span in unit:
            refuse_changed(self.store, span)
            number = 0
            try:
                for row, where in READERS[span.format].rows(self.store, span, self.input, LIMITS, counts):
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
    formats, by ending. listing: the files that are read. plain_columns: the setting `columns`, with default
    columns filled in, as JSON values. prepared: the data set of `raymill prepare` that they are, if
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
    plain_columns: Mapping[str, Any]
    prepared: PreparedRun | None = None
    unread: Mapping[str, int] = field(default_factory=dict)
    splits_read: bool = False
    measured: str | None = None

    @property
    def columns(self) -> ReadColumns:
        """The columns that are read."""
        return self.reading.columns

    @property
    def note(self) -> str:
        """Sentences about the skipped files and the columns of splits and copies; empty if there are none."""
        if unread := [name.removeprefix(SPLIT) for name in self.skipped if name.startswith(SPLIT)]:
            are = "splits {} are" if len(unread) > 1 else "split {} is"
            return f"its {are.format(', '.join(unread))} not read; `split` of the corpus names one"
        notes = []
        if files := sum(self.skipped.values()):
            endings = ", ".join(f"{count:,} {ending}" for ending, count in self.skipped.items())
            are = "files are" if files > 1 else "file is"
            notes.append(
                f"{files:,} {are} skipped ({endings}); to read them, name them by a glob or set `format` of the corpus"
            )
        if self.splits_read:
            notes.append(
                "its column `split` decides the splits; `ignore: [split]` or `split` in the config changes that"
            )
        if (copies := self.columns.named.get("copies")) and self.measured is None:
            notes.append(f"its column `{copies}` decides how often a document to train on is packed")
        return "; ".join(notes)


def freeze_corpora(config: TrainConfig, unit_bytes: int) -> dict[str, FrozenCorpus]:
    """`freeze_corpus` of each corpus of a config with columns, by its name."""
    forbidden = config.terms.forbid if config.terms else ()
    each = zip(config.corpus_names, config.corpus_stores, config.corpus, config.all_columns, strict=True)
    staged, folded = config.order != "shuffled", config.split.fold is not None
    split_set, records = "split" in config.model_fields_set, config.training_objective.records
    return {
        name: freeze_corpus(
            store, corpus, columns, unit_bytes, staged, folded, split_set, forbidden_terms=forbidden, records=records
        )
        for name, store, corpus, columns in each
    }


def freeze_sets(config: TrainConfig, unit_bytes: int) -> dict[str, FrozenCorpus]:
    """`freeze_corpus` of each of `evaluate.sets` of a config with columns, by the name of its packed rows.

    Raises:
        ConfigError: a split is named, and the documents have none.
    """
    found = {}
    for (name, one), columns in zip(config.evaluate.sets.items(), config.set_columns.values(), strict=True):
        splits = (one.split,) if one.split else ()
        records = config.training_objective.records
        frozen = freeze_corpus(config.store, one, columns, unit_bytes, split_set=False, splits=splits, records=records)
        measured = split_name(one.split or "test")
        if frozen.units[0][0].format == "hf":  # the files of the split alone
            measured = "test"
        elif measured is None:
            raise ConfigError(f"evaluate.sets.{name}.split: is {one.split}; of {one.path} wanted {', '.join(SPLITS)}.")
        elif "split" not in frozen.columns.named:
            if one.split is not None:
                raise ConfigError(
                    f"evaluate.sets.{name}.split: the documents of {one.path} have no column `split` with the names of "
                    "splits. Name the column, as in `columns: {.., split: COLUMN}`, or leave `split` out to measure "
                    "all."
                )
        elif one.split is None and frozen.splits_read:
            first = _splits_of_first_rows(frozen.reading, [span for unit in frozen.units for span in unit])
            measured = "validation" if first == {"validation"} else "test"  # a file of one split
        found[set_name(name)] = replace(frozen, measured=measured)
    return found


def set_name(name: str) -> str:
    """The name of the packed rows of one of `evaluate.sets`, which no corpus can have."""
    return f"_evaluate-{name}"


def shown_name(name: str) -> str:
    """The name of a corpus, or the setting of one of `evaluate.sets`, from the name of its packed rows."""
    start = set_name("")
    return f"evaluate.sets.{name.removeprefix(start)}" if name.startswith(start) else name


def freeze_corpus(
    store: Store,
    corpus: Corpus | HeldOutSet,
    columns: Columns,
    unit_bytes: int,
    staged: bool = False,
    folded: bool = False,
    split_set: bool = True,
    splits: Sequence[str] = SPLITS,
    forbidden_terms: tuple[str, ...] = (),
    records: Records = "text",
) -> FrozenCorpus:
    """List the files of a corpus, check its columns and split it into units of about `unit_bytes`.

    staged: whether documents are ordered by the stages of a curriculum. folded: whether one of their folds is tested;
    then the records of a data set of `raymill prepare` that are for testing, which have none, are left out. split_set:
    whether the config decides the splits; if not, a column `split` with the names of splits does. splits: those to read
    of a data set of `raymill prepare`. forbidden_terms: of generated records, which are left out. records: see
    `CorpusReading`.

    Raises:
        ConfigError: a named column is missing or has an unsuitable type, or there are no stages or folds.
        DataError: there is nothing to read at the path, or an unfinished artifact.
    """
    named_split = corpus.split if isinstance(corpus, Corpus) else None
    if named_split is not None:
        splits = (named_split,)
    files, content, skipped = find_files(store, corpus, SPLITS[:-1] if folded else splits)
    if named_split and files[0].format != "hf":
        raise ConfigError(
            f"{corpus.path}: is no data set of `datasets`, and only of these `split` of a corpus names one. Name the "
            "column that has the splits, as in `columns: {.., split: COLUMN}`."
        )
    store = Store() if is_hub_data(corpus.path) else store
    input = input_of(corpus, columns)
    read = columns.read
    named = {read.named[role] for role in CONTENT if role in read.named}
    with ThreadPoolExecutor(_THREADS) as pool:
        inspected = list(pool.map(lambda file: inspect_file(store, file, input, named, unit_bytes), files))
    each = list(zip(files, inspected, strict=True))
    held_out = {file.split for file in files} & {"validation", "test"}
    pieces: list[tuple[Span, int]] = []
    for file, one in each:
        for span, size in one.spans:
            if held_out and file.split is not None and (file.split != "train" or not split_set):
                span = SplitSpan(**asdict(span), split=file.split)
            pieces.append((span, size))

    prepared = prepared_output(store, corpus.path)
    artifact = None if prepared or is_hub_data(corpus.path) else Artifact.find(store, paths.absolute(corpus.path))
    defaults, splits_read = _DEFAULTS, False
    if artifact is not None and pa.field(COPIES, pa.float64()) in list(artifact.schema):  # not a carried text
        defaults = defaults | {"copies": COPIES}
    if prepared:
        used = {"split": not folded, "fold": folded, "stage": staged}
        defaults = defaults | {role: role for role, wanted in used.items() if wanted}
    elif not (split_set or folded or any(isinstance(span, SplitSpan) for span, _ in pieces)):
        peeking = CorpusReading(store, read, input.model_copy(update={"columns": (*input.columns, "split")}))
        splits_read = bool(_splits_of_first_rows(peeking, [span for span, _ in pieces]))
        defaults = defaults | ({"split": "split"} if splits_read else {})
    schemas = [(file.info.uri, one.schema) for file, one in each if one.schema is not None]
    first = {file.format: file for file, one in reversed(each) if one.schema is None and one.spans}
    peeked = [(file, READERS[file.format].column_names(store, file.info, input)) for file in first.values()]
    resolved = _resolved(columns, defaults, schemas, peeked)
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
    if not pieces:
        raise DataError(f"{corpus.path}: no row in {plural(len(files), 'file')}. Point `corpus` at documents.")

    if artifact is not None:
        prepared = prepared_with(artifact)
    also_read = TERMS if forbidden_terms else ()
    most_copies = MAX_COPIES if columns.copies else UNNAMED_COPIES
    reading = CorpusReading(
        store, resolved.read, input_of(corpus, resolved, also_read), forbidden_terms, most_copies, records
    )
    known = reading.columns.known
    unread: Counter[str] = Counter()
    # The columns that `prepare` and `curate` write beside the texts are never trained on, and need no warning.
    for one in inspected if prepared is None and artifact is None else ():
        unread.update({name: rows for name, rows in one.values.items() if name not in known and rows})
    units, sizes = zip(*_group(pieces, unit_bytes), strict=True)
    return FrozenCorpus(
        reading,
        corpus.path,
        units,
        sizes,
        content,
        skipped,
        tuple((file.name, file.info.size, file.info.version) for file in files),
        resolved.model_dump()
        | ({"forbidden_terms": forbidden_terms} if forbidden_terms else {})
        | ({"records": records} if records != "text" else {}),
        prepared,
        unread,
        splits_read and resolved.split == "split",
    )


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
    if broken.detail:
        return f"{span.uri}: {broken.detail}"
    if broken.problem == "expansion_bomb" and span.format in ("parquet", "hf"):
        return (
            f"{span.uri}: its values are over {LIMITS.max_expansion_ratio:,.0f} times as large as the file, as where "
            "rows repeat one long text. Write it again without the repeated rows, or exclude it by a narrower path."
        )
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
        defect = str(cause)
        if isinstance(cause, json.JSONDecodeError):  # with the text before the place
            before = cause.doc[max(cause.pos - 40, 0) : cause.pos]
            defect = cause.msg + (f" after {before!r}" if before else "")
        seen += f" ({defect})"
    return (
        f"{span.uri}: element {number}{text} {seen}, and nothing after it can be read. Wanted: one array of objects. "
        "Correct the file or write it again; if it has one object on each line, name it .jsonl, where a line that "
        "cannot be read is left out."
    )


def stage_of(work: str, corpus: str) -> str:
    """Name of the stage that does `work` on a corpus, without dots: a dot means that stage `A.B` prepares stage A."""
    return f"{work}-{corpus.replace('.', '~')}"


def files_of(unit: Unit) -> str:
    """The files of a unit, for `Stage.describe`."""
    return files_from(list(dict.fromkeys(span.uri for span in unit)))


def as_json(units: Sequence[Unit]) -> list[object]:
    """Units as plain JSON values, for a fingerprint."""
    return [[list(astuple(span)) for span in unit] for unit in units]
