"""`raymill sample`: random rows of an artifact, or of its rows with given values."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.commands import load_of_kind
from raymill.cluster.inspection import RunConfig, StorageOverrides, shortened, store_for
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.reader import python_rows
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.stages.write_corpus import REMOVED

_OPERATOR = re.compile(r"\s*(<=|>=|!=|=|<|>|\sin\s)\s*")
_COMPARE = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
_TEXT_SHOWN = 500  # characters
_VALUES_LISTED = 20


def print_sample(
    artifact: Annotated[str, typer.Argument(help="folder or URI of an artifact, or of a run (its ledger)")],
    rows: Annotated[int, typer.Option("-n", min=1, help="how many")] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE (or <, <=, >, >=, !=), COLUMN in VALUE,VALUE; may be repeated"),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="show the texts of a ledger, read again from the inputs")
    ] = False,
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """A random sample of an artifact's rows, as JSON lines; of a run, of its ledger."""
    with store_for(artifact, config, override) as (store, uri):
        inputs = load_of_kind("curate", config, override).inputs if config and text else ()
        for row in sample_rows(store, uri, rows, where or [], seed, inputs if text else None):
            print(json.dumps(row, ensure_ascii=False, default=str))


def sample_rows(
    store: Store, uri: str, count: int, where: list[str], seed: int, texts_from: Sequence[Input] | None = None
) -> list[dict]:
    """A uniform sample without replacement, the same for the same seed.

    Args:
        uri: of an artifact, or of a run, whose ledger is then sampled.
        count: the most rows.
        where: conditions `COLUMN=VALUE` (or <, <=, >, >=, !=) and `COLUMN in VALUE,VALUE`, all of which a row meets.
            The value of `reason` is a reason of the ledger (`line_punct_ratio`), a stage (`fineweb`), or both
            (`fineweb_line_punct_ratio`).
        texts_from: inputs of the run's config. The rows of a ledger then have the text of the document, read again; ()
            takes the storage that the run recorded. None: without text.

    Raises:
        ConfigError: there is no such column, no row meets the conditions, or there are no texts to read.
    """
    artifact = Artifact.find(store, paths.join(uri, REMOVED)) or Artifact.load(store, uri)
    if texts_from is not None and "position" not in artifact.schema.names:
        raise ConfigError(f"{artifact.uri}: --text reads the texts of a run's ledger again. Give the run.")
    conditions = [_parse(condition, artifact) for condition in where]
    generator = np.random.default_rng(seed)
    best: list[tuple[float, dict]] = []
    seen = 0
    for table in artifact.tables():
        for condition in conditions:
            table = table.filter(_matches(table, condition))
        seen += table.num_rows
        keys = generator.random(table.num_rows)  # the rows with the smallest keys are the sample
        smallest = np.argsort(keys, kind="stable")[:count]
        best += zip(keys[smallest].tolist(), python_rows(table.take(smallest)), strict=True)
        best = sorted(best, key=lambda entry: entry[0])[:count]
    if not seen and conditions:
        raise ConfigError(_no_row(artifact, conditions))
    rows = [row for _, row in best]
    if texts_from is not None:
        run = RunReader(store, artifact.uri.rpartition("/")[0], texts_from)
        rows = [row | {"text": run.text_of(run.document_at(row["position"]))} for row in rows]
    return [{name: _shown(value) for name, value in row.items()} for row in rows]


class _Condition(NamedTuple):
    """A column that is compared with a value, or with `in` with several."""

    column: str
    operator: str
    values: list[str]


def _parse(condition: str, artifact: Artifact) -> _Condition:
    names = [name for name, _ in artifact.manifest.schema]
    for column in sorted(names, key=len, reverse=True):
        if condition.startswith(column):
            rest = condition[len(column) :]
            if match := _OPERATOR.match(rest):
                operator, value = match[1].strip(), rest[match.end() :]
                values = [one.strip() for one in value.split(",")] if operator == "in" else [value]
                return _Condition(column, operator, values)
    raise ConfigError(
        f"--where {condition}: wanted COLUMN=VALUE, with <, <=, >, >= or != in place of =, or COLUMN in VALUE,VALUE; "
        f"with one of the columns {', '.join(names)}."
    )


def _matches(table: pa.Table, condition: _Condition) -> pa.ChunkedArray:
    column, operator, values = condition
    if compare := _COMPARE.get(operator):
        return compare(*_comparable(table[column], condition))
    text = table[column].cast(pa.string())
    found = pc.is_in(text, pa.array(values))
    if column == "reason" and "stage" in table.column_names:
        full = pc.binary_join_element_wise(table["stage"], text, "_")
        for names in (table["stage"], full):
            found = pc.or_(found, pc.is_in(names, pa.array(values)))
    return pc.invert(found) if operator == "!=" else found


def _comparable(column: pa.ChunkedArray, condition: _Condition) -> tuple[pa.ChunkedArray, pa.Scalar]:
    """The column and the value in types that are ordered: text of numbers is compared as numbers."""
    (value,) = condition.values
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            if not _NUMBER.fullmatch(value):
                return column, pa.scalar(value, column.type)
            numbers = pc.if_else(pc.match_substring_regex(column, f"^{_NUMBER.pattern}$"), column, None)
            return numbers.cast(pa.float64()), pa.scalar(float(value))
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return column.cast(pa.float64()), pa.scalar(float(value))
        return column, pa.scalar(value).cast(column.type)
    except (ValueError, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"--where {condition.column}{condition.operator}{value}: {condition.column} is {column.type}, with which "
            f"{value!r} cannot be compared. Give a value of this type."
        ) from error


def _no_row(artifact: Artifact, conditions: list[_Condition]) -> str:
    """The message that no row meets the conditions, with values of the first column."""
    column = conditions[0].column
    values: set[str] = set()
    for table in artifact.tables([column]):
        values |= set(pc.unique(table[column].cast(pa.string())).to_pylist())
        if len(values) > _VALUES_LISTED:
            break
    listed = ", ".join(sorted(str(v) for v in values)[:_VALUES_LISTED])
    more = " and more" if len(values) > _VALUES_LISTED else ""
    given = " and ".join(_condition_text(one) for one in conditions)
    return f"{artifact.uri}: no row has {given}. {column} there holds: {listed}{more}."


def _condition_text(condition: _Condition) -> str:
    operator = f" {condition.operator} " if condition.operator == "in" else condition.operator
    return f"{condition.column}{operator}{','.join(condition.values)}"


def _shown(value: object) -> object:
    if isinstance(value, str):
        return value if len(value) <= _TEXT_SHOWN else f"{value[:_TEXT_SHOWN]}... ({len(value):,} characters)"
    return shortened(value)
