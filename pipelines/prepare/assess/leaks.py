"""Questions of validation and test that are in train, counted in the splits as they were written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, read_tables
from cluster.examples.splits import SPLITS

LEAKS = "leaks"  # the groups of questions that are like one of train

_IDS_SHOWN = 5


class Leaks(TypedDict):
    """Records of validation and test whose question, or text, is in train. compared: all records of these two splits.
    exact: of the records, those whose question is equal. ids: of the first ones.
    """

    compared: int
    validation: int
    test: int
    exact: int
    ids: list[str]


@dataclass(frozen=True)
class SplitRows:
    """Rows of each split, which follow one another in the units of `facts_stage`."""

    train: int
    validation: int
    test: int

    @classmethod
    def of(cls, splits: Sequence[Artifact]) -> "SplitRows":
        """Those of a run's splits; of other records, all count as train."""
        rows = [one.manifest.rows for one in splits]
        if tuple(one.uri.rpartition("/")[2] for one in splits) == SPLITS:
            return cls(*rows)
        return cls(sum(rows), 0, 0)


def leaks_of(groups: Artifact | None, questions: Artifact, rows_by_unit: Sequence[int], splits: SplitRows) -> Leaks:
    """Count them. Every record of validation and test was compared with every record of train.

    groups: of `questions`, by `group_stage` with those of train as `known`; None without records of train, or others.
    rows_by_unit: rows of all records, with copies, which are in train.
    """
    first_of_unit = np.cumsum([0, *rows_by_unit])
    found = [np.empty(0, np.int64)]
    for table in groups.tables(["unit", "row", "partner_run"]) if groups else ():
        table = table.filter(pc.is_valid(table["partner_run"]))
        found.append(first_of_unit[table["unit"].to_numpy()] + table["row"].to_numpy())
    leaked = np.sort(np.concatenate(found))
    equal, ids = _equal_and_ids(questions, first_of_unit, splits.train, leaked)
    in_test = int((leaked >= splits.train + splits.validation).sum())
    return Leaks(
        compared=splits.validation + splits.test,
        validation=len(leaked) - in_test,
        test=in_test,
        exact=equal,
        ids=ids,
    )


def _equal_and_ids(
    questions: Artifact, first_of_unit: np.ndarray, train: int, leaked: np.ndarray
) -> tuple[int, list[str]]:
    """(how many of the leaked records have a question that is equal to one of train, ids of the first of them all).

    leaked: places among all records, ascending, each once. Memory: their ids and hashes.
    """
    if not len(leaked):
        return 0, []
    own = pa.concat_tables(
        table.filter(pa.array(np.isin(places, leaked, assume_unique=True)))
        for places, table in _compared(questions, first_of_unit, ["row", "id", "text_hash"])
    )
    hashes = pc.unique(own["text_hash"])
    equal = np.zeros(len(hashes), bool)
    for places, table in _compared(questions, first_of_unit, ["row", "text_hash"]):
        of_train = table["text_hash"].filter(pa.array(places < train))
        equal |= pc.is_in(hashes, of_train).to_numpy(zero_copy_only=False)
    found = pc.is_in(own["text_hash"], hashes.filter(pa.array(equal)))
    return pc.sum(found).as_py(), own["id"].slice(0, _IDS_SHOWN).to_pylist()


def _compared(
    questions: Artifact, first_of_unit: np.ndarray, columns: Sequence[str]
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """(int64[N], places among all records; the columns) of the questions that were compared, in order, by row group."""
    for uris, first in zip(questions.files_by_unit(len(first_of_unit) - 1), first_of_unit[:-1], strict=True):
        for table in read_tables(questions.store, uris, set(columns).__contains__):
            yield first + table["row"].to_numpy(), table
