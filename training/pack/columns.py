"""The columns of a corpus: those that a config names, checked, or those recognised by usual names."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

import pyarrow as pa

from cluster.errors import ConfigError
from cluster.examples.content import recognised
from cluster.examples.splits import SPLITS
from cluster.formats import listed
from cluster.readers.formats import READERS
from cluster.readers.formats.hub import is_hub_data, pinned
from cluster.run import RunFolder
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Columns, Corpus, HeldOutSet
from training.pack.corpus_files import CorpusFile, find_files, input_of

DEFAULTS = {"id": "id", "group": "group_id"}
# Classes of a data set of `raymill prepare` -> the fields of its inputs that they are made of.
PREPARED_CLASSES = {
    "annotations.labels": {"labels", "label"},
    "annotations.categories": {"categories", "category"},
}
# Uses of columns that rows may lack.
OPTIONAL = ("tools", "id", "group", "input", "history", "system")
# Roles of columns whose usual names are recognised.
_ROLES = ("messages", "tools", "system", "prompt", "completion", "input", "history", "text")
# Pairs of other names, which an error proposes.
_PAIRS = (
    *(("question", "answer"), ("query", "response"), ("input", "output"), ("prompt", "response")),
    *(("instruction", "response"), ("question", "response"), ("problem", "solution"), ("prompt", "answer")),
)


_Read = TypeVar("_Read", Corpus, HeldOutSet)


def with_columns(config: TrainConfig) -> TrainConfig:
    """The config with the columns of each corpus and each of `evaluate.sets`: those it names, else those recognised.

    Recognised are the usual names of cluster/examples/content.py, as by `raymill prepare`. With method probe, the class
    is that of a data set of `raymill prepare` where no column is named. Data sets of the hub have their commit in the
    path, so that the run reads one revision.

    Raises:
        ConfigError: method probe finds no text or no class.
        DataError: there is nothing to read at a corpus's path, or an unfinished artifact.
    """

    def with_own(store: Store, one: _Read) -> _Read:
        if is_hub_data(one.path):
            one = one.model_copy(update={"path": pinned(one.path)})
        named = config.columns if "columns" in config.model_fields_set else None
        columns = one.columns or named or _recognised(store, one, config.method)
        if config.method == "probe":
            columns = _labelled(store, one, columns)
        return one.model_copy(update={"columns": _ignoring(columns, config.ignore)})

    update: dict[str, object] = {"corpus": tuple(map(with_own, config.corpus_stores, config.corpus))}
    if sets := config.evaluate.sets:
        sets = {name: with_own(config.store, one) for name, one in sets.items()}
        update["evaluate"] = config.evaluate.model_copy(update={"sets": sets})
    return config.model_copy(update=update)


def _ignoring(columns: Columns, names: tuple[str, ...]) -> Columns:
    """The columns, without those to ignore that are no part of the form."""
    ignore = columns.ignore or names or None
    optional = ("tools", "input", "history", "system", "id", "group", "split")
    update: dict[str, object] = {role: None for role in optional if getattr(columns, role) in (ignore or ())}
    return columns.model_copy(update=update | {"ignore": ignore})


def _labelled(store: Store, corpus: Corpus | HeldOutSet, columns: Columns) -> Columns:
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
    path = paths.absolute(corpus.path)
    manifest = None if is_hub_data(path) else RunFolder(store, path).finished("prepare")
    if manifest is None:
        raise ConfigError(
            f"{corpus.path}: no column of classes, which method probe predicts. Name it, as in `columns: {{text: text, "
            "label: COLUMN}`; a data set of `raymill prepare` has its own."
        )
    fields = {field for one in manifest["config"]["inputs"] for field in one["columns"]}
    label = next((name for name, of in PREPARED_CLASSES.items() if fields & of), None)
    if label is None:
        raise ConfigError(
            f"{corpus.path}: its records have no labels or categories, of which method probe predicts one. Prepare it "
            "with `columns: {labels: COLUMN}`, or name another column, as in `columns: {text: text, label: "
            "metadata.source}`."
        )
    return columns.model_copy(update={"label": label})


def _recognised(store: Store, corpus: Corpus | HeldOutSet, method: str) -> Columns:
    splits: Sequence[str] = SPLITS if corpus.split is None else (corpus.split,)
    if isinstance(corpus, HeldOutSet) and corpus.split is None:
        splits = ()
    file = find_files(store, corpus, splits).files[0]
    names = READERS[file.format].column_names(store, file.info, input_of(corpus, Columns(text="text")))
    if method == "probe" and "text" in names:
        return Columns(text="text")
    # Beside a text, `question` and `answer` may be of another kind.
    found = recognised(names, _ROLES, later=lambda form: "question" in form[0].values()) or {"text": "text"}
    if found.get("messages") and "tools" not in found and "functions" in names:
        found["tools"] = "functions"  # OpenAI's older name
    return Columns(**found)


def resolve(
    columns: Columns,
    defaults: Mapping[str, str],
    schemas: Sequence[tuple[str, pa.Schema]],
    peeked: Sequence[tuple[CorpusFile, Sequence[str]]],
) -> Columns:
    """Check the named columns, and fill in those of `defaults` that the corpus has.

    defaults: role -> usual name. schemas: of typed files. peeked: the first file of each other format, and the columns
    at its beginning.
    """
    named = columns.named
    for role, name in named.items():
        for uri, schema in schemas:
            if _type_of(schema, name) is None:
                raise ConfigError(_no_column(uri, role, name, schema.names))
            _check_type(uri, role, name, schema, columns.chosen is not None)
        for file, names in peeked:
            # Optional keys of JSON objects may be missing in the first ones.
            optional = role in OPTIONAL and READERS[file.format].columns == "open"
            if names and name not in names and name.partition(".")[0] not in names and not optional:
                raise ConfigError(_no_column(file.info.uri, role, name, names))
    found = {
        role: name
        for role, name in defaults.items()
        if role not in named
        and name not in columns.passed_over
        and all(name in schema.names for _, schema in schemas)
        and all(name in names for _, names in peeked)
    }
    return columns.model_copy(update=found)


def _no_column(uri: str, role: str, name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names[:1000], 3, 0.5)
    advice = f"Did you mean {' or '.join(near)}?" if near else f"Set columns.{role} to one of them."
    pair = next((pair for pair in _PAIRS if {*pair} <= {*names}), None)
    if role == "text" and pair:
        advice = f"To train on answers, set `columns: {{prompt: {pair[0]}, completion: {pair[1]}}}`."
    elif role == "text" and {"preferred_output", "non_preferred_output"} <= {*names}:
        answers = "chosen: preferred_output, rejected: non_preferred_output"
        advice = f"To train on the preferred answers, set `columns: {{prompt: input.messages, {answers}}}`."
    elif role == "text" and "input_ids" in names:
        advice = "Tokens are not read. Give the texts, of which `raymill pack` makes tokens."
    if {"chosen", "rejected"} <= {*names}:
        advice = "Of two answers, `columns: {prompt: .., chosen: chosen, rejected: rejected}` trains on the chosen one."
    elif uri.lower().endswith(".json") and not near:
        advice += f" If the documents are a list in one of them, write that alone: `jq .{names[-1]} FILE > NEW.json`."
    return f"{uri}: no column {name} (columns.{role}). It has: {listed(names)}. {advice}"


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column, or of the field of a column of structs; None if there is none."""
    if name in schema.names:
        return schema.field(name).type
    column, _, field = name.partition(".")
    kind = schema.field(column).type if schema.names.count(column) == 1 else None
    return kind.field(field).type if kind is not None and pa.types.is_struct(kind) and kind.names.count(field) else None


def _check_type(uri: str, role: str, name: str, schema: pa.Schema, preference: bool) -> None:
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
        "prompt": ("strings", text or (a_list and preference)),
        "completion": ("strings", text),
        **dict.fromkeys(("chosen", "rejected"), ("strings, or lists of {role, content}", text or a_list)),
        "input": ("strings", text),
        "system": ("strings", text),
        "messages": ("lists of {role, content}, or such a list as JSON text", text or a_list),
        "tools": ("lists, or such a list as JSON text", text or a_list),
        "history": ("lists of [prompt, answer], or such a list as JSON text", text or a_list),
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
