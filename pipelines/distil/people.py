"""Scores that people gave documents, from a file."""

import io
from collections import defaultdict
from statistics import mean

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from raymill.cluster.errors import ConfigError, Problem
from raymill.cluster.examples.plain_numbers import number_in
from raymill.cluster.readers.columns import no_column
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet
from raymill.pipelines.distil.config import PeopleScores

_MOST_POINTS = 100
_LARGEST = 256 << 20  # maximum bytes of a text file


def people_scores(store: Store, given: PeopleScores, most: int = 0) -> dict[str, float]:
    """Document id -> score, the mean of several. Rows without a score are left out.

    most: largest number of points of the rubrics; 0 if it is not known.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or has a score that is no number from 0 to `most`, or 100.
        NotFound: there is no such file.
    """
    table = _table(store, given.path)
    for setting, column in (("id", given.id), ("score", given.score)):
        if column not in table.column_names:
            other = {given.id, given.score} - {column}
            what = no_column(f"people.{setting}", column, table.column_names, used=other)
            raise ConfigError(f"{given.path}: {what}")
    found = defaultdict[str, list[float]](list)
    for id, score in zip(table[given.id].to_pylist(), table[given.score].to_pylist(), strict=True):
        if id is None or score is None or score == "":
            continue
        value = number_in(score)
        if not 0 <= value <= (most or _MOST_POINTS):
            seen = f"{given.path} has the score {score!r:.80} of {id}"
            of_rubric = ", the points of the rubric" if most else ""
            raise ConfigError.about(
                Problem.of("people.score", seen, f"numbers from 0 to {most or _MOST_POINTS}{of_rubric}")
            )
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
