"""Rounds of annotation with tasks given as records, without the run that chooses them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raymill.cluster.store.store import Store
from raymill.pipelines.annotate.config import Annotator, Task
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import TaskRow

PEOPLE = ("a1", "a2", "a3")


def round_of(
    folder: Path, task: Mapping[str, Any], records: Sequence[Mapping[str, str | None]], **of_rows: Mapping[str, Any]
) -> Round:
    """A round with the tasks t1, t2 ... of the records, for a1, a2 and a3. of_rows: task id -> further values of it."""
    found = Round(
        Store(), str(folder), "round-1", Task.model_validate(task), tuple(Annotator(name=name) for name in PEOPLE)
    )
    rows = [
        TaskRow(id := f"t{number}", "tickets.jsonl", record, annotators=PEOPLE[:2], **of_rows.get(id, {}))
        for number, record in enumerate(records, 1)
    ]
    found.__dict__["tasks"] = rows  # where the cached property keeps them
    return found


def labels_of(round: Round) -> dict[str, dict[str, Any]]:
    """Task id -> its row of labels/, after `finish`."""
    return {row["id"]: row for row in pq.read_table(f"{round.uri}/labels/labels.parquet").to_pylist()}
