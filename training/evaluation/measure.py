"""Loss, accuracy and predictions of an objective on a packed split, in one process."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import torch

from training.data.batch import Batch, collate
from training.data.schema import NO_TARGET
from training.fit.records import Measured, measured
from training.models.objective import Objective, Probe

_BATCH_TOKENS = 8192
_SCORED = ("input_ids", "position_ids", "starts", "ends")


def measure(
    objective: Objective, tables: Iterable[pa.Table], rows: int | None, pad: int, device: torch.device
) -> Measured | None:
    """Mean loss and accuracy over all targets of the tables (schema PACKED); None if nothing has a target.

    One table is in memory at a time. The result does not depend on how rows are batched.

    Args:
        rows: of a micro-batch; None: as many as make about 8,192 positions. pad: token id of padding.
    """
    objective.eval()
    loss = correct = targets = 0.0
    with torch.inference_mode():
        for batch in batches(tables, rows, pad):
            batch_loss, batch_correct = objective(**objective.tensors(batch, device))
            loss += float(batch_loss)
            correct += int(batch_correct)
            targets += objective.loss_denominator(batch)
    return measured(loss, correct, targets)


def predictions(
    probe: Probe, tables: Iterable[pa.Table], rows: int | None, pad: int, device: torch.device
) -> tuple[list[int], list[int]]:
    """(labels, predicted classes) of all rows that have a label, as indices of classes. Arguments as `measure`."""
    labels: list[int] = []
    predicted: list[int] = []
    with torch.inference_mode():
        for batch in batches(tables, rows, pad):
            tensors = probe.tensors(batch, device)
            best = probe.scores(*(tensors[name] for name in _SCORED)).argmax(-1).tolist()
            pairs = [pair for pair in zip(batch.labels.tolist(), best, strict=True) if pair[0] != NO_TARGET]
            labels += [pair[0] for pair in pairs]
            predicted += [pair[1] for pair in pairs]
    return labels, predicted


def batches(tables: Iterable[pa.Table], rows: int | None, pad: int) -> Iterator[Batch]:
    """Micro-batches of the tables' rows, in order, each padded to its longest row. Arguments as `measure`."""
    for table in tables:
        if not table.num_rows:
            continue
        sizes = pc.list_value_length(table["ids"]).to_pylist()
        count = rows or max(1, _BATCH_TOKENS // max(1, *sizes))
        for start in range(0, table.num_rows, count):
            part = table.slice(start, count)
            yield collate([part], part.num_rows, max(2, *sizes[start : start + count]), pad)
