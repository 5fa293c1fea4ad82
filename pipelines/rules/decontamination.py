"""Decontamination: documents that contain texts of evaluation sets, such as GSM8K's test questions.

Words are compared as deduplication does (text/tokens.py): without case, punctuation and white space. A document and a
text of a set share a run if `ngram_words` words in a row are equal, or all words of a shorter text. Of each text the
longest run counts, as a fraction of the text's words. So a quotation that was cut short is found as long as it has more
than `max_fraction` of the text, and words that both have in separate places are no match.

Texts of fewer than 8 words are not looked for, because they occur by chance.
"""

import difflib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field

from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.formats import plural
from raymill.cluster.readers.formats.records import json_value
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.streams import COMPRESSED, LINE_WORK, RecordWork, UnreadableRest, lines, stream
from raymill.cluster.store import paths
from raymill.cluster.store.paths import AbsolutePath
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet
from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.common_runs import CommonRuns, Passages, common_runs, index_passages
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import count_tokens

SIGNAL = "contamination_fraction"
_MOST_CHARACTERS = 1000

# A text of a set in a document.
MATCHES_SCHEMA = pa.schema(
    [
        ("document", pa.int64()),  # its index
        ("set", pa.string()),
        ("example", pa.int64()),  # the number of the row in the file of the set, from 0
        ("column", pa.string()),
        ("words", pa.int64()),  # of the longest run
        ("fraction", pa.float64()),  # of the words of the set's text
        ("start", pa.int64()),  # of the run in the document, in characters
        ("end", pa.int64()),  # behind its last character
        ("text", pa.string()),  # of the run, at most 1,000 characters
    ]
)

# Shorter texts occur by chance, such as "What is the capital of France?"; a bound of GPT-3, Brown et al. 2020,
# appendix C, which took n-grams of 8 to 13 words.
SHORTEST_TEXT = 8  # tokens

_PARQUET = (".parquet", ".pq")
_JSONL = tuple(name + ending for name in (".jsonl", ".ndjson") for ending in ("", *COMPRESSED))
_NAMES_SHOWN = 12

# A text of an example: `example` is the number of its row in the file, from 0.
_TEXTS_SCHEMA = pa.schema(
    [("set", pa.string()), ("example", pa.int64()), ("column", pa.string()), ("text", pa.large_string())]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """A file of examples: Parquet, or JSON Lines (also as .gz, .zst, .bz2 or .lz4). Each of `columns` is a text of its
    own.

    Null is no text. Values of other types than strings, such as lists, are refused.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the evaluation set in the report")]
    path: Annotated[
        AbsolutePath,
        Field(
            description="Path or URI of the evaluation set: a Parquet or JSON Lines file, the latter also compressed"
        ),
    ]
    columns: Annotated[
        tuple[str, ...],
        Field(
            min_length=1, description="Columns of the evaluation set with texts; each text is searched for by itself"
        ),
    ]

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    @property
    def where(self) -> str:
        """The setting and the file, for messages."""
        return f"decontamination.sets: {self.name}: {self.path}"


@dataclass(frozen=True, slots=True)
class _File:
    """A file of texts as an evaluation set. setting: its name in messages."""

    setting: str
    path: str
    columns: tuple[str, ...]
    name: str = ""

    @property
    def where(self) -> str:
        return f"{self.setting}: {self.path}"


@dataclass(frozen=True, slots=True)
class Examples:
    """The texts of some sets. origins: their set, example and column; passages: their tokens, in the same order.

    summary: a line for each set, with the number of its texts and of those that are too short to be looked for.
    """

    origins: pa.Table
    passages: Passages
    summary: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decontamination:
    """Remove documents that contain more than `max_fraction` of a text of an evaluation set.

    Each of the `columns` of a set is a text of its own, so that a question without its answer is found. A run of at
    least `ngram_words` equal words in a row counts, or all words of a text with 8 words or more. With `remove: false`
    documents stay. The artifact `contaminated` lists set, example and span in both cases.

    Source: GPT-3, Brown et al. 2020, appendix C, for n-grams of 13 words without case and punctuation. There a single
    shared n-gram was enough, which also finds documents that quote the same source.
    """

    sets: Annotated[
        tuple[EvaluationSet, ...],
        Field(min_length=1, description="Evaluation sets whose texts documents must not contain"),
    ]
    ngram_words: Annotated[
        int,
        Field(
            ge=5,
            le=100,
            description="Minimum number of equal words in a row that count as a match; of a shorter text (8 "
            "words or more) all its words",
        ),
    ] = 13
    max_fraction: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Maximum fraction of the words of an evaluation text that a document may have in one run",
        ),
    ] = 0.5
    remove: Annotated[
        bool,
        Field(
            description="Whether documents with evaluation texts are removed; false: they are only listed in the "
            "artifact `contaminated`"
        ),
    ] = True

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "decontamination"
    reasons: ClassVar = ("contaminated",)
    signals: ClassVar = {SIGNAL: "largest fraction (0 to 1) of an evaluation text that the document has in one run"}
    measured_by: ClassVar = ("sets", "ngram_words")

    def __post_init__(self) -> None:
        names = [one.name for one in self.sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"decontamination.sets: {', '.join(twice)} names two sets; give each a name of its own, which the "
                "artifact `contaminated` has."
            )

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """contamination_fraction: float64[D]; 0 without a run of `ngram_words` words.

        Raises:
            ConfigError, StorageError: a file of a set is missing, lacks a column, or has no text to look for.
        """
        examples = self.examples(analysis.store)
        runs = common_runs(analysis.texts, examples.passages)
        fractions = np.zeros(len(analysis.texts))
        np.maximum.at(fractions, runs.document, _fractions(runs, examples))
        return {SIGNAL: fractions}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("contaminated", SIGNAL, maximum=self.max_fraction),) if self.remove else ()

    def fingerprint_files(self) -> tuple[str, ...]:
        """The files of the sets."""
        return tuple(one.path for one in self.sets)

    def examples(self, store: Store) -> Examples:
        """The texts of the sets. They are read once a process, those of local files again if one changes.

        Raises:
            ConfigError, StorageError: names each file that is missing, is not of these formats, lacks a column, or has
                no text to look for.
        """
        # Size and time of a local file; empty of an object, since asking takes a request a call.
        versions = tuple(
            store.info(one.path).version if not paths.is_remote(one.path) and store.exists(one.path) else ""
            for one in self.sets
        )
        return load_examples(store, self.sets, versions, self.ngram_words)

    def matches(self, texts: Texts, store: Store) -> pa.Table:
        """Every text of a set of which a document has more than `max_fraction` (MATCHES_SCHEMA).

        Memory: 8 bytes for each byte of text.
        """
        examples = self.examples(store)
        runs = common_runs(texts, examples.passages)
        fractions = _fractions(runs, examples)
        found = np.flatnonzero(fractions > self.max_fraction)
        document, passage = runs.document[found], runs.passage[found]
        # Characters before each byte.
        before = np.concatenate([[0], np.cumsum((texts.data & 0xC0) != 0x80)])
        spans = list(zip(runs.begin[found].tolist(), runs.end[found].tolist(), strict=True))
        columns = {name: examples.origins[name].take(passage) for name in examples.origins.column_names}
        columns |= {
            "document": document,
            "words": runs.tokens[found],
            "fraction": fractions[found],
            "start": before[runs.begin[found]] - before[texts.offsets[document]],
            "end": before[runs.end[found]] - before[texts.offsets[document]],
            "text": pa.array([texts.data[b:e].tobytes().decode()[:_MOST_CHARACTERS] for b, e in spans], pa.string()),
        }
        return pa.table(columns).select(MATCHES_SCHEMA.names).cast(MATCHES_SCHEMA)


def _fractions(runs: CommonRuns, examples: Examples) -> np.ndarray:
    """float64[R]: the tokens of each run as a fraction of those of its text."""
    return runs.tokens / examples.passages.token_counts[runs.passage]


# --- the files of the sets


@lru_cache(maxsize=4)
def load_examples(
    store: Store, sets: tuple[EvaluationSet, ...], versions: tuple[str, ...], ngram_words: int
) -> Examples:
    """The texts of some sets. ngram_words: tokens in a row that a document must share with one. versions: of the files.

    Raises:
        ConfigError, StorageError: as of `Decontamination.examples`.
    """
    tables: list[pa.Table] = []
    summary: list[str] = []
    errors: list[UserError] = []
    for one in sets:
        try:
            texts, line = _long_texts(store, one, min(SHORTEST_TEXT, ngram_words))
        except UserError as error:
            errors.append(error)
        else:
            tables.append(texts)
            summary.append(line)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError("\n".join(map(str, errors)))
    found = pa.concat_tables(tables).combine_chunks()
    passages = index_passages(Texts.from_arrow(found["text"]), ngram_words)
    return Examples(found.drop_columns(["text"]), passages, tuple(summary))


def _long_texts(store: Store, one: EvaluationSet, least: int) -> tuple[pa.Table, str]:
    """(the normalised texts of a set with `least` tokens or more, its line of the summary)."""
    table, examples = _read(store, one)
    texts = normalize(Texts.from_arrow(table["text"]))
    is_long = pa.array(count_tokens(texts) >= least)
    found = table.set_column(table.column_names.index("text"), "text", texts.to_arrow()).filter(is_long)
    if not found.num_rows:
        raise ConfigError(
            f"{one.where} has no text of {least} words or more in {', '.join(one.columns)}, and shorter ones, which "
            "occur by chance, are not looked for. Name other columns, or leave this set out."
        )
    line = f"{one.name}: {plural(found.num_rows, 'text')} of {plural(examples, 'example')}"
    if short := table.num_rows - found.num_rows:
        line += f"; {short:,} of fewer than {least} words are not looked for"
    return found, line


def _read(store: Store, one: EvaluationSet | _File) -> tuple[pa.Table, int]:
    """(the texts of a file (_TEXTS_SCHEMA), the number of its examples)."""
    return _read_parquet(store, one) if one.path.endswith(_PARQUET) else _read_jsonl(store, one)


def _read_parquet(store: Store, one: EvaluationSet | _File) -> tuple[pa.Table, int]:
    """(the texts of a Parquet file (_TEXTS_SCHEMA), the number of its examples)."""
    try:
        with StoredParquet(store, one.path) as file:
            schema = file.schema_arrow
            _require_columns(one, schema.names, "")
            for name in one.columns:
                kind = schema.field(name).type
                kind = kind.value_type if pa.types.is_dictionary(kind) else kind
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                    raise ConfigError(f"{one.where}: column {name} holds {kind}, and texts are strings. {_LEAVE_OUT}")
            table = file.read(list(one.columns), use_threads=False)
    except DataError as error:
        raise ConfigError(
            f"{one.where} takes far more memory than its bytes in the file. Leave this set out."
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ConfigError(f"{one.where} is not a readable Parquet file ({str(error).splitlines()[0]}).") from error
    return _texts(one, {name: table[name].cast(pa.large_string()).to_pylist() for name in one.columns})


def _read_jsonl(store: Store, one: EvaluationSet | _File) -> tuple[pa.Table, int]:
    """(the texts of a file of JSON Lines (_TEXTS_SCHEMA), the number of its examples)."""
    if not one.path.endswith(_JSONL):
        raise ConfigError(
            f"{one.where} is of no format that sets are read from. Write it as Parquet (.parquet) or as JSON Lines "
            "(.jsonl, also with .gz, .zst, .bz2 or .lz4)."
        )
    values: dict[str, list[str | None]] = {name: [] for name in one.columns}
    limits = Limits()
    try:
        work = RecordWork()
        with closing(stream(store, one.path, limits, work=work)) as blocks:
            for number, (_, line) in enumerate(lines(blocks, limits.max_line_bytes), start=1):
                work.bytes += LINE_WORK
                if line is None or line.strip():
                    _add(values, one, line, f", line {number}")
    except UnreadableRest as error:
        raise ConfigError(f"{one.where} cannot be decompressed ({error.problem}). Write it again.") from error
    return _texts(one, values)


def _add(values: dict[str, list[str | None]], one: EvaluationSet | _File, line: bytes | None, place: str) -> None:
    """Append the values of a line of JSON Lines. line: None if it is too long."""
    record = json_value(line or b"")
    if not isinstance(record, dict):
        raise ConfigError(f"{one.where}{place}: is not a JSON object. Write one object a line, in UTF-8.")
    _require_columns(one, list(record), place)
    for name in one.columns:
        value = record[name]
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise ConfigError(f"{one.where}{place}: {name} holds a {kind}, and texts are strings. {_LEAVE_OUT}")
        values[name].append(value)


_LEAVE_OUT = "Leave this column out, or write its text into a column of strings."


def _require_columns(one: EvaluationSet | _File, there: Sequence[str], place: str) -> None:
    for name in one.columns:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            named = ", ".join(there[:_NAMES_SHOWN]) + ", ..." * (len(there) > _NAMES_SHOWN)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{one.where}{place}: has no column {name}; there are: {named or 'none'}.{hint}")


def _texts(one: EvaluationSet | _File, values: dict[str, list[str | None]]) -> tuple[pa.Table, int]:
    """(the texts that are not null, by example, then column (_TEXTS_SCHEMA); the number of examples)."""
    examples = list(zip(*values.values(), strict=True))
    rows = [
        (one.name, example, column, text)
        for example, texts in enumerate(examples)
        for column, text in zip(values, texts, strict=True)
        if text is not None
    ]
    columns = zip(*rows, strict=True) if rows else [[]] * len(_TEXTS_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _TEXTS_SCHEMA, strict=True)]
    return pa.table(arrays, schema=_TEXTS_SCHEMA), len(examples)


def read_texts(store: Store, path: str, column: str, setting: str) -> list[str]:
    """The texts of a column of a Parquet or JSON Lines file, without nulls. setting: that names it, for messages.

    Raises:
        ConfigError, StorageError: the file is missing, is not of these formats, or lacks the column.
    """
    one = _File(setting, path, (column,))
    return _read(store, one)[0]["text"].to_pylist()
