"""One micro-batch, forward and backward: a GPU is never waited for, and a compiled model has one graph for any packing.

An operator whose result has a size that depends on values (nonzero, a boolean mask), or that brings a value to the
host, waits for everything that was queued before. On the CPU the operators are listed; where there is a GPU, torch
itself refuses such a wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from raymill.training.data.batch import Batch, collate
from raymill.training.data.packed import PACKED
from raymill.training.engines import make_engine
from raymill.training.fit.process_group import own_group
from raymill.training.models import attention, compiling
from raymill.training.models.build import build_objective
from tests.support import kernel_stand_in
from tests.support.ranks import RankPool
from tests.support.sampled import sampled
from tests.support.tiny_models import tiny_config
from tests.support.training_cases import Case, micro_batches, new_engine

torch.set_num_threads(1)

ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
LENGTH = 16
aten = torch.ops.aten
# Their result's size depends on values, or is a number on the host.
WAITING = {
    aten.nonzero, aten.masked_select, aten._local_scalar_dense, aten.item, aten.is_nonzero, aten._unique2,
    aten.unique_dim, aten.unique_consecutive, aten.equal, aten.allclose, aten.bincount,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}


class Waits(TorchDispatchMode):
    """Lists the operators that a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operators = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators += 1
        packet = func.overloadpacket
        if packet in WAITING or (packet in INDEXING and any(_is_mask(one) for one in args[1])):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def test_the_list_finds_what_it_is_for():
    values = torch.arange(4.0)
    for wait in (
        lambda: values[values > 1],
        lambda: (values > 1).nonzero(),
        lambda: values.sum().item(),
        lambda: bool(values.any()),
        lambda: values.masked_select(values > 1),
        lambda: values.__setitem__(values > 1, torch.zeros(2)),
    ):
        with Waits() as waits:
            wait()
        assert waits.found
    with Waits() as waits:
        values.index_select(0, torch.tensor([1, 2])) + values[torch.tensor([0, 1])]
    assert waits.operators and not waits.found


# No waiting


def waits_of(case: Case) -> tuple[int, list[str]]:
    """On a rank: (operators, those that wait) of the third micro-batch.

    In the first two ZeRO-3 compares between workers in which order modules are called, and never again.
    """
    with the_stand_in():
        engine, objective = new_engine(case)
        try:
            for number, batch in enumerate(micro_batches(case, 0, 0, 1)[:3]):
                with Waits() as waits:
                    loss, _ = engine.module(**objective.tensors(batch, "cpu"))
                    engine.backward(loss / 7, last=number == 2)
            return waits.operators, waits.found
        finally:
            engine.close()


@contextmanager
def the_stand_in() -> Iterator[None]:
    kernel, attention._KERNEL = attention._KERNEL, kernel_stand_in.varlen_attn
    try:
        yield
    finally:
        attention._KERNEL = kernel


@pytest.fixture(scope="module")
def alone():
    with RankPool(1) as ranks:
        yield ranks


@pytest.mark.parametrize(("engine", "method"), sampled(product(ENGINES, ["full", "lora"]), 4))
def test_nothing_in_a_micro_batch_waits_for_the_device(engine, method, alone):
    case = Case(engine, method, compute="cuda", more={"precision": "bf16", "attention": "varlen"})
    [(operators, found)] = alone.run(waits_of, case)
    assert operators > 100
    assert found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_torch_finds_no_wait_in_a_micro_batch_on_a_gpu(method):
    config = tiny_config(method=method, precision="bf16", compile=False, workers={"gpus_each": 1}, attention="varlen")
    with own_group(1) as ranks:
        objective = build_objective(config, device=ranks.device)
        engine = make_engine(config, objective, ranks.device)
        for number in range(2):
            try:
                torch.cuda.set_sync_debug_mode("error" if number else "default")
                loss, _ = engine.module(**objective.tensors(packed([3, 5], [16]), ranks.device))
                engine.backward(loss / 7, last=True)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert torch.isfinite(torch.tensor(engine.step(1e-3, 1.0)))
        engine.close()


# One graph


def packed(*rows: list[int]) -> Batch:
    """Rows of documents of these lengths."""
    random = np.random.default_rng(len(rows))
    table = [
        {
            "ids": random.integers(1, 300, sum(row)).tolist(),
            "labels": [place > 0 for length in row for place in range(length)],
            "lengths": row,
            "documents": [str(number) for number in range(len(row))],
            "label": None,
        }
        for row in rows
    ]
    return collate([pa.Table.from_pylist(table, PACKED)], len(rows), LENGTH, 0)


def fifty_batches() -> Iterator[Batch]:
    """Two rows each, of 1 to 8 documents; some rows end in padding."""
    random = np.random.default_rng(0)
    for _ in range(50):
        rows = [random.multinomial(LENGTH - many, [1 / many] * many) + 1 for many in random.integers(1, 9, 2)]
        yield packed(*(row[: len(row) - int(random.integers(2)) * (len(row) > 1)].tolist() for row in rows))


@pytest.fixture
def traced(monkeypatch):
    """The kernel's stand-in in float32, and a compiler that traces and differentiates, and compiles no C++."""
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    kernel_stand_in.allow_float32(True)
    torch._dynamo.reset()
    counters.clear()
    yield
    kernel_stand_in.allow_float32(False)
    torch._dynamo.reset()


def test_fifty_batches_of_changing_documents_are_one_graph_of_the_layers_and_three_of_the_loss(traced):
    """The loss has graphs for full chunks, for one position, and for any other number of them."""
    settings = {"compile": True, "attention": "eager", "precision": "float32", "workers": {"gpus_each": 1}}
    objective = build_objective(tiny_config(**settings).model_copy(update={"attention": attention.VARLEN}))
    documents, lengths, labelled = set(), set(), set()
    for batch in fifty_batches():
        documents.add(int((np.diff(batch.starts) > 0).sum()))
        lengths.add(len(batch.starts))
        labelled.add(len(batch.target_positions) % objective.loss_chunk_tokens)
        loss, _ = objective(**objective.tensors(batch, "cpu"))
        loss.backward()
    assert counters["stats"]["unique_graphs"] == 1 + 3
    assert not counters["graph_break"]
    assert len(documents) > 8 and len(labelled) > 4 and len(lengths) == 1
