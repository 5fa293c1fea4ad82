"""`raymill sample`: random rows of an artifact, or of its rows with given values."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact
from cluster.errors import ConfigError
from cluster.inspection import shortened
from cluster.store import paths
from cluster.store.store import Store
from pipelines.curate.stages.write_corpus import REMOVED

_TEXT_SHOWN = 500  # characters
_VALUES_LISTED = 20


def sample_rows(store: Store, uri: str, count: int, where: list[str], seed: int) -> list[dict]:
    """A uniform sample without replacement, the same for the same seed.

    Args:
        uri: of an artifact, or of a run, whose ledger is then sampled.
        count: the most rows.
        where: conditions `column=value`, all of which a row meets. The value of `reason` is a reason of the ledger
            (`line_punct_ratio`), a stage (`fineweb`), or both (`fineweb_line_punct_ratio`).

    Raises:
        ConfigError: there is no such column, or no row meets the conditions.
    """
    artifact = Artifact.find(store, paths.join(uri, REMOVED)) or Artifact.load(store, uri)
    conditions = [_parse(condition, artifact) for condition in where]
    generator = np.random.default_rng(seed)
    best: list[tuple[float, dict]] = []
    seen = 0
    for table in artifact.tables():
        for column, value in conditions:
            table = table.filter(_matches(table, column, value))
        seen += table.num_rows
        keys = generator.random(table.num_rows)  # the rows with the smallest keys are the sample
        smallest = np.argsort(keys, kind="stable")[:count]
        best += zip(keys[smallest].tolist(), table.take(smallest).to_pylist(), strict=True)
        best = sorted(best, key=lambda entry: entry[0])[:count]
    if not seen and conditions:
        raise ConfigError(_no_row(artifact, conditions))
    return [{name: _shown(value) for name, value in row.items()} for _, row in best]


def _parse(condition: str, artifact: Artifact) -> tuple[str, str]:
    column, equals, value = condition.partition("=")
    names = [name for name, _ in artifact.manifest.schema]
    if not equals or column not in names:
        raise ConfigError(f"--where {condition}: wanted COLUMN=VALUE with one of the columns {', '.join(names)}.")
    return column, value


def _matches(table: pa.Table, column: str, value: str) -> pa.ChunkedArray:
    text = table[column].cast(pa.string())
    if column == "reason" and "stage" in table.column_names:
        full = pc.binary_join_element_wise(table["stage"], text, "_")
        return pc.or_(pc.or_(pc.equal(text, value), pc.equal(table["stage"], value)), pc.equal(full, value))
    return pc.equal(text, value)


def _no_row(artifact: Artifact, conditions: list[tuple[str, str]]) -> str:
    """The message that no row meets the conditions, with values of the first column."""
    column = conditions[0][0]
    values: set[str] = set()
    for table in artifact.tables([column]):
        values |= set(pc.unique(table[column].cast(pa.string())).to_pylist())
        if len(values) > _VALUES_LISTED:
            break
    listed = ", ".join(sorted(str(v) for v in values)[:_VALUES_LISTED])
    more = " and more" if len(values) > _VALUES_LISTED else ""
    given = " and ".join(f"{c}={v}" for c, v in conditions)
    return f"{artifact.uri}: no row has {given}. {column} there holds: {listed}{more}."


def _shown(value: object) -> object:
    if isinstance(value, str):
        return value if len(value) <= _TEXT_SHOWN else f"{value[:_TEXT_SHOWN]}... ({len(value):,} characters)"
    return shortened(value)
