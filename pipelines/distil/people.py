"""Scores that people gave documents, from a file."""

import io
from collections import defaultdict
from statistics import mean

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from raymill.cluster.errors import ConfigError, Problem
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet
from raymill.pipelines.distil.config import PeopleScores

_LARGEST = 256 << 20  # maximum bytes of a text file


def people_scores(store: Store, given: PeopleScores) -> dict[str, float]:
    """Document id -> score, the mean of several. Rows without a score are left out.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or has a score that is no number from 0 to 100.
        NotFound: there is no such file.
    """
    table = _table(store, given.path)
    for setting, column in (("id", given.id), ("score", given.score)):
        if column not in table.column_names:
            raise ConfigError.about(
                Problem.of(f"people.{setting}", f"{given.path} has no column {column}", ", ".join(table.column_names))
            )
    found = defaultdict[str, list[float]](list)
    for id, score in zip(table[given.id].to_pylist(), table[given.score].to_pylist(), strict=True):
        if id is None or score is None or score == "":
            continue
        try:
            value = float(score)
        except (TypeError, ValueError):
            value = -1.0
        if not 0 <= value <= 100:
            seen = f"{given.path} has the score {score!r:.80} of {id}"
            raise ConfigError.about(Problem.of("people.score", seen, "numbers from 0 to 100"))
        found[str(id)].append(value)
    return {id: mean(scores) for id, scores in sorted(found.items())}


def _table(store: Store, path: str) -> pa.Table:
    try:
        if path.endswith(".parquet"):
            with StoredParquet(store, path) as file:
                return file.read()
        if path.endswith(".jsonl"):
            return pyarrow.json.read_json(io.BytesIO(store.read_bytes(path, _LARGEST)))
        if path.endswith(".csv"):
            return pyarrow.csv.read_csv(io.BytesIO(store.read_bytes(path, _LARGEST)))
    except (pa.ArrowException, ValueError) as error:
        raise ConfigError(f"people.path: {path} cannot be read: {error}") from error
    raise ConfigError(f"people.path: {path} given; wanted a file that ends in .csv, .jsonl or .parquet")
