"""The loss of a model on a packed split, in one process: token-weighted, whatever the batches are."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from training.data.batch import Batch, collate
from training.data.schema import NO_TARGET
from training.fit.records import Measured, measured

if TYPE_CHECKING:
    import torch

    from training.models.objective import Objective, Probe

_BATCH_TOKENS = 8192
_SCORED = ("input_ids", "position_ids", "starts", "ends")


def measure(
    objective: "Objective", tables: Iterable[pa.Table], rows: int | None, pad: int, device: "torch.device"
) -> Measured | None:
    """Over all rows of the tables (schema PACKED); None where nothing has a target.

    rows: of one micro-batch; default: as many as make about 8192 positions. One table is in memory at a time.
    """
    import torch

    objective.eval()
    loss = correct = units = 0.0
    with torch.inference_mode():
        for batch in batches(tables, rows, pad):
            one, right = objective(**objective.tensors(batch, device))
            loss, correct, units = loss + float(one), correct + int(right), units + objective.units(batch)
    return measured(loss, correct, units)


def predictions(
    probe: "Probe", tables: Iterable[pa.Table], rows: int | None, pad: int, device: "torch.device"
) -> tuple[list[int], list[int]]:
    """(classes as labelled, classes as predicted) of every row that has a label."""
    import torch

    wanted: list[int] = []
    said: list[int] = []
    with torch.inference_mode():
        for batch in batches(tables, rows, pad):
            given = probe.tensors(batch, device)
            best = probe.scores(*(given[name] for name in _SCORED)).argmax(-1).tolist()
            pairs = [pair for pair in zip(batch.labels.tolist(), best, strict=True) if pair[0] != NO_TARGET]
            wanted += [pair[0] for pair in pairs]
            said += [pair[1] for pair in pairs]
    return wanted, said


def batches(tables: Iterable[pa.Table], rows: int | None, pad: int) -> Iterator[Batch]:
    """Micro-batches in the order of the rows, each as wide as its longest row."""
    for table in tables:
        if not table.num_rows:
            continue
        sizes = pc.list_value_length(table["ids"]).to_pylist()
        count = rows or max(1, _BATCH_TOKENS // max(1, *sizes))
        for start in range(0, table.num_rows, count):
            part = table.slice(start, count)
            yield collate([part], part.num_rows, max(2, *sizes[start : start + count]), pad)
