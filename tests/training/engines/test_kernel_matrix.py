"""Every engine, precision, method and attention, compiled or not: equal losses, one graph, one type at the kernel.

The kernel is the stand-in of tests/support/kernel_stand_in.py, which refuses what the real one refuses. Each case is
compared with the same training by DDP with eager attention, not compiled, in the same precision. The default run takes
a sample; `make matrix` takes all.
"""

import random
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from typing import Any

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters
from torch.utils.flop_counter import flop_registry

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.models import attention, compiling
from raymill.training.models.base import load_base
from raymill.training.models.build import build_objective
from tests.support import kernel_stand_in
from tests.support.ranks import RankPool
from tests.support.sampled import sampled
from tests.support.tiny_models import tiny_config
from tests.support.training_cases import MODEL, Case, new_engine, take_steps

ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
METHODS = ("full", "lora", *(["qlora"] if find_spec("bitsandbytes") else []))
# Of a step's loss. Float32 differs by the order of additions; bf16 by where values are rounded to 8 bits.
TOLERANCE = {"float32": 1e-5, "bf16": 1e-3}
STEPS = 3
LAYERS = 2


def case_of(engine: str, precision: str, method: str, chosen: str, compiled: bool) -> Case:
    more = {"precision": precision, "attention": chosen, "compile": compiled}
    return Case(engine, method, steps=STEPS, compute="cuda" if chosen == "varlen" else "cpu", more=more)


# The kernel takes no float32, and ZeRO-3 does not compile: test_what_is_not_in_the_matrix_is_refused.
MATRIX = [
    case_of(*way)
    for way in product(ENGINES, TOLERANCE, METHODS, ("varlen", "sdpa", "eager"), (False, True))
    if (way[1], way[3]) != ("float32", "varlen") and (way[0], way[4]) != ("zero3", True)
    if way[2] != "qlora" or (way[0] == "ddp" and not way[4])
]


# Losses are equal whether or not layers are recomputed, so the calls of the kernel in the backward pass are counted.
RECOMPUTED = [
    replace(case, more=case.more | {"activation_checkpointing": True})
    for case in MATRIX
    if case.compute == "cuda" and case.method != "qlora"
]


def sample(seed: int) -> list[Case]:
    """The kernel compiled, the kernel under an engine that shards, and another attention."""
    chooser = random.Random(seed)
    kernel = [case for case in MATRIX if case.compute == "cuda"]
    return [
        chooser.choice([case for case in kernel if case.more["compile"]]),
        chooser.choice([case for case in kernel if case.engine in ("zero3", "fsdp2") and not case.more["compile"]]),
        chooser.choice([case for case in MATRIX if case.compute == "cpu"]),
    ]


# A compiler that computes the graphs as they are; and one that chooses what is kept for the backward pass, as on GPUs.
AS_IT_IS, PARTITION = "aot_eager", "aot_eager_decomp_partition"


def observe(case: Case, backend: str = AS_IT_IS) -> dict[str, Any]:
    """On a rank: losses, calls of the kernel, numbers of graphs and of 4-bit matrices, types of buffers."""
    kernel, attention._KERNEL = attention._KERNEL, kernel_stand_in.varlen_attn
    compiling.BACKEND = backend
    # In rows of thousands of tokens attention costs more than a product; in the few of these cases, nearly nothing.
    flop_registry[torch.ops.raymill_tests.varlen_attn] = lambda *_, **__: 1 << 40
    torch._dynamo.reset()
    counters.clear()
    kernel_stand_in.CALLS.clear()
    engine, objective = new_engine(case)
    backward, recomputed = engine.backward, 0

    def counted(loss: torch.Tensor, last: bool) -> None:
        nonlocal recomputed
        before = len(kernel_stand_in.CALLS)
        backward(loss, last)
        recomputed += len(kernel_stand_in.CALLS) - before

    engine.backward = counted
    try:
        losses, _ = take_steps(case, engine, objective, 0, case.steps)
        return {
            "losses": losses,
            "attention": objective.attention,
            "calls": list(kernel_stand_in.CALLS),
            "recomputed": recomputed,
            "graphs": counters["stats"]["unique_graphs"],
            "breaks": dict(counters["graph_break"]),
            "buffers": {one.dtype for one in objective.buffers()},
            "four_bits": sum(one.dtype == torch.uint8 for one in objective.parameters()),
        }
    finally:
        engine.close()
        attention._KERNEL = kernel


def with_saved_base(case: Case, folder: str) -> Case:
    """QLoRA quantises the weights of a folder; bitsandbytes computes with them on a CPU too, which a config refuses."""
    if case.method != "qlora":
        return case
    base = {"model": {"name": folder}, "workers": {"gpus_each": 1}}
    return replace(case, compute="cuda", more=case.more | base)


def save_base(folder: str) -> None:
    load_base(Store(), Model(config=MODEL, tokenizer="train"), 1, torch.float32, None).save_pretrained(folder)


def failures(cases: Iterable[Case]) -> list[str]:
    """What is wrong, and on standard output the largest difference of a loss by method and precision."""
    found = []
    wanted: dict[tuple[str, str], list[float]] = {}
    largest: dict[tuple[str, str], tuple[int, float]] = {}
    with RankPool(2) as ranks, tempfile.TemporaryDirectory() as folder:
        save_base(folder)
        for case in cases:
            way = case.method, case.more["precision"]
            if way not in wanted:
                plain = case_of("ddp", case.more["precision"], case.method, "eager", False)
                wanted[way] = ranks.run(observe, with_saved_base(plain, folder))[0]["losses"]
            both = ranks.run(observe, with_saved_base(case, folder))
            for rank, seen in enumerate(both):
                wrong = problems(case, seen, wanted[way])
                found += [f"{case}, rank {rank}: {'; '.join(wrong)}"] if wrong else []
            count, before = largest.get(way, (0, 0.0))
            largest[way] = count + 1, max(before, *(difference(seen["losses"], wanted[way]) for seen in both))
    for (method, precision), (count, off) in largest.items():
        print(f"{method}, {precision}: {count} cases, losses differ by {off:.1e} at most")
    return found


def difference(losses: list[float], wanted: list[float]) -> float:
    """The largest of a step's loss, relative."""
    return max(abs(one - other) / other for one, other in zip(losses, wanted[: len(losses)], strict=True))


def problems(case: Case, seen: dict[str, Any], losses: list[float]) -> list[str]:
    off = difference(seen["losses"], losses)
    # The input of LoRA's first layer needs no gradient, since embeddings are frozen: a graph of its own, unless layers
    # are recomputed, for which every input needs one.
    recomputes = case.more.get("activation_checkpointing", False)
    graphs = (2 if case.method == "lora" and not recomputes else 1) if case.more["compile"] else 0
    kernel = case.more["attention"] == "varlen"
    micro_batches = case.rows // 2 // case.micro_rows
    calls = LAYERS * micro_batches * case.steps if kernel else 0
    again = calls if recomputes else 0
    used = attention.VARLEN if kernel else case.more["attention"]
    four_bits = 7 * LAYERS if case.method == "qlora" else 0
    dtypes = {dtype for call in seen["calls"] for dtype in call.dtypes}
    found = {
        f"a loss is off by {off:.1e}": off > TOLERANCE[case.more["precision"]],
        f"{seen['graphs']} graphs, {graphs} wanted": seen["graphs"] != graphs,
        f"graph breaks: {seen['breaks']}": bool(seen["breaks"]),
        f"attention {seen['attention']}, {used} wanted": seen["attention"] != used,
        f"{len(seen['calls'])} calls of the kernel, {calls + again} wanted": len(seen["calls"]) != calls + again,
        f"{seen['recomputed']} of them in the backward pass, {again} wanted": seen["recomputed"] != again,
        f"the kernel got {dtypes}": kernel and dtypes != {torch.bfloat16},
        f"boundaries of {len({call.documents for call in seen['calls']})} lengths": kernel
        and len({call.documents for call in seen["calls"]}) != 1,
        f"{seen['four_bits']} matrices of 4 bits, {four_bits} wanted": seen["four_bits"] != four_bits,
        f"buffers of {seen['buffers']}": seen["buffers"] != {torch.float32},
    }
    return [words for words, holds in found.items() if holds]


def test_a_sample_of_ways_to_compute_comes_to_equal_losses_in_one_graph():
    assert failures(sample(seed=5)) == []


@pytest.mark.parametrize("method", sampled(["full", "lora"], 1))
def test_activation_checkpointing_recomputes_compiled_layers_of_a_sharded_model(method):
    chosen = [case for case in RECOMPUTED if (case.engine, case.method) == ("fsdp2", method) and case.more["compile"]]
    assert chosen
    assert failures(replace(case, steps=1) for case in chosen) == []


@pytest.mark.parametrize(("engine", "method"), sampled(product(["zero2", "fsdp2"], ["full", "lora"]), 1))
def test_selective_recomputing_comes_to_equal_losses_and_does_not_call_the_kernel_again(engine, method):
    """Under ddp a layer also keeps copies of its weights, which are larger here than what it keeps of few tokens."""
    case = case_of(engine, "bf16", method, "varlen", True)
    plain = case_of("ddp", "bf16", method, "eager", False)
    with RankPool(2) as ranks:
        wanted = ranks.run(observe, plain)[0]["losses"]
        for seen in ranks.run(
            observe, replace(case, more=case.more | {"activation_checkpointing": "selective"}), PARTITION
        ):
            assert problems(case, seen, wanted) == []


@pytest.mark.parametrize(
    ("engine", "method", "recomputes"), sampled(product(["ddp", "fsdp2"], ["full", "lora"], [False, True]), 2)
)
def test_workers_that_share_rows_call_the_kernel_with_whole_rows_and_their_heads(engine, method, recomputes):
    plain = case_of(engine, "bf16", method, "varlen", True)
    more = plain.more | {"workers": {"count": 2, "context": 2}, "activation_checkpointing": recomputes}
    with RankPool(2) as ranks:
        wanted = ranks.run(observe, case_of("ddp", "bf16", method, "eager", False))[0]["losses"]
        for seen in ranks.run(observe, replace(plain, micro_rows=4, more=more)):  # all 8 rows by both workers
            assert problems(replace(plain, more=more), seen, wanted) == []
            assert {call.heads for call in seen["calls"]} == {(2, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_activation_checkpointing_recomputes_the_layers_of_every_engine_method_and_compilation(engine):
    assert failures(case for case in RECOMPUTED if case.engine == engine) == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_way_to_compute_comes_to_equal_losses_in_one_graph(engine):
    assert failures(case for case in MATRIX if case.engine == engine) == []


def test_what_is_not_in_the_matrix_is_refused(monkeypatch):
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    with pytest.raises(ConfigError, match="attention: varlen does not fit: it needs precision bf16"):
        build_objective(tiny_config(attention="varlen", precision="float32"), compute="cuda")
    with pytest.raises(ValueError, match="compile: zero3"):
        tiny_config(engine="zero3", compile=True)
    with pytest.raises(ValueError, match="qlora needs engine ddp"):
        tiny_config({"name": "some/model"}, engine="fsdp2", method="qlora", workers={"gpus_each": 1})
