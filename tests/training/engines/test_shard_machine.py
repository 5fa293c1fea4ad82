"""fsdp2 with `shard: machine`, on four workers as two machines of two: the numbers of ddp and of `shard: all`, and
checkpoints that go from one to the other.
"""

import os
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymill.cluster.errors import ConfigError
from raymill.training.engines.fsdp import make_mesh
from raymill.training.models.cost import shape_of
from raymill.training.plan.advice import sharded_over_machines
from raymill.training.plan.memory import bytes_between_machines, states
from tests.support import plan_cases
from tests.support.ranks import RankPool
from tests.support.training_cases import Case, continue_from, micro_batches, new_engine, save_midway, train_with_engine

MACHINES = {"shard": "machine"}
MUON = {"learning_rate": 1e-2, "epsilon": 1e-3, "algorithm": "muon", "ema_decay": 0.5}
CASES = [
    Case("fsdp2", micro_rows=1, tied=True),
    Case("fsdp2", micro_rows=2, weighted=True, more={"reduce_every_micro_batch": False}),
    Case("fsdp2", "lora", micro_rows=1),
    Case("fsdp2", micro_rows=1, more={"activation_checkpointing": True}),
    Case("fsdp2", micro_rows=1, more={"optimizer": MUON}),
]


_OF_ALL = ("activation_checkpointing", "optimizer")  # settings of every engine


@pytest.fixture(scope="module")
def four():
    with RankPool(4) as ranks:
        yield ranks


def on_machines(per_machine: int, function: Any, *arguments: Any) -> Any:
    """On a rank: call the function with the environment of machines with `per_machine` workers."""
    os.environ |= {"LOCAL_WORLD_SIZE": str(per_machine), "LOCAL_RANK": str(dist.get_rank() % per_machine)}
    return function(*arguments)


def changed(case: Case, **more: Any) -> Case:
    own = more.pop("engine", case.engine)
    left = {name: value for name, value in case.more.items() if own == "fsdp2" or name in _OF_ALL}
    return Case(own, case.method, case.micro_rows, tied=case.tied, weighted=case.weighted, steps=4, more=left | more)


def weights_differ(one: dict, other: dict) -> float:
    return max(float((one[key] - other[key]).abs().max() / other[key].abs().max()) for key in one if key[1] == "param")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_and_weights_are_those_of_ddp_and_of_one_mesh_of_all(four, case):
    machine = four.run(on_machines, 2, train_with_engine, changed(case, **MACHINES))[0]
    muon = "optimizer" in case.more  # it computes updates in bf16, in which one rounding is 0.8%
    more = 30 if muon else 1
    for other in (changed(case), changed(case, engine="ddp")):
        wanted = four.run(train_with_engine, other)[0]
        assert machine["losses"] == pytest.approx(wanted["losses"], rel=more * 1e-6)
        assert machine["norms"] == pytest.approx(wanted["norms"], rel=more * 1e-5)
        assert weights_differ(machine["saved"], wanted["saved"]) < (0.05 if muon else 1e-5)


@pytest.mark.parametrize(("before", "after"), [("machine", "all"), ("all", "machine"), ("machine", "ddp")])
def test_a_checkpoint_is_continued_with_another_mesh(four, before, after):
    case = changed(CASES[0])
    whole = four.run(train_with_engine, case)[0]
    cases = {"machine": changed(case, **MACHINES), "all": case, "ddp": changed(case, engine="ddp")}
    saved = four.run(on_machines, 2, save_midway, cases[before], 2)[0]
    found = four.run(on_machines, 2, continue_from, cases[after], saved, 2)[0]
    assert found["losses"] == pytest.approx(whole["losses"][2:], rel=1e-6)
    assert weights_differ(found["saved"], whole["saved"]) < 1e-5


def test_one_machine_has_the_numbers_of_one_mesh(four):
    machine = four.run(on_machines, 4, train_with_engine, changed(CASES[0], **MACHINES))[0]
    assert machine["losses"] == pytest.approx(four.run(train_with_engine, changed(CASES[0]))[0]["losses"], rel=1e-6)


def held_and_saved(case: Case) -> tuple[int, int]:
    engine, _ = new_engine(case)
    try:
        return tuple(sum(one.values.numel() for one in some) for some in (engine._slices(), engine.slices()))
    finally:
        engine.close()


def test_a_worker_holds_its_machines_share_and_saves_a_part_of_it(four):
    held, saved = zip(*four.run(on_machines, 2, held_and_saved, changed(CASES[0], **MACHINES)), strict=True)
    of_all, _ = zip(*four.run(held_and_saved, changed(CASES[0])), strict=True)
    assert sum(held) == 2 * sum(of_all) and sum(saved) == sum(of_all)
    assert max(saved) <= max(held) / 2 + len(held)


def sums_between_machines(case: Case) -> list[int]:
    """The number of reductions over machines in the backward pass of each micro-batch."""
    engine, objective = new_engine(case)
    reduce, counts = dist.all_reduce, []
    dist.all_reduce = lambda *of, **named: counts.append(1) or reduce(*of, **named)
    try:
        found = []
        batches = micro_batches(case, 0, dist.get_rank(), dist.get_world_size())
        for number, batch in enumerate(batches):
            loss, _ = engine.module(**objective.tensors(batch, "cpu"))
            counts.clear()
            engine.backward(loss / 100, last=number == len(batches) - 1)
            found.append(len(counts))
        return found
    finally:
        dist.all_reduce = reduce
        engine.close()


def test_machines_sum_gradients_in_the_last_micro_batch_of_a_step(four):
    before, last = four.run(on_machines, 2, sums_between_machines, changed(CASES[0], **MACHINES))[0]
    assert before == 0 and last == 3, "two layers and what is outside of them"


def mesh_error(places: list[tuple[int, int]]) -> str:
    count, local = places[dist.get_rank()]
    os.environ |= {"LOCAL_WORLD_SIZE": str(count), "LOCAL_RANK": str(local)}
    with pytest.raises(ConfigError) as raised:
        make_mesh("machine", torch.device("cpu"))
    return str(raised.value)


@pytest.mark.parametrize(
    ("places", "counts"),
    [([(3, 0), (3, 1), (3, 2), (1, 0)], "1, 3"), ([(2, 0), (2, 0), (2, 1), (2, 1)], "2"), ([(3, 0)] * 4, "3")],
)
def test_machines_with_other_numbers_of_workers_are_refused(four, places, counts):
    for said in four.run(mesh_error, places):
        assert f"the machines have {counts} workers" in said


def test_the_setting_is_one_of_fsdp2():
    with pytest.raises(ValueError, match="shard: machine is a choice of engine fsdp2; the engine is ddp"):
        Case("ddp", more=MACHINES).config()


def test_the_plan_counts_memory_and_what_crosses_the_network(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    workers = {"count": 64, "gpus_each": 1}
    every = plan_cases.big(engine="fsdp2", method="full", workers=workers, tokens_per_step=64 * 2 * 4096)
    machine = plan_cases.big(engine="fsdp2", method="full", workers=workers, shard="machine")
    shape = shape_of(every)
    wide, trained = 2 if every.bf16 else 4, shape.trained
    for name in ("weights", "gradients", "optimizer"):
        assert states(machine, shape, 64)[name] == states(every, shape, 8)[name] > 7 * states(every, shape, 64)[name]
    micro_batches = every.rows_per_step / 64 / every.micro_rows(64)
    assert bytes_between_machines(every, shape, 64) == pytest.approx(
        (7 / 8) * micro_batches * (2 * wide * shape.total + 4 * trained)
    )
    assert bytes_between_machines(machine, shape, 64) == pytest.approx((7 / 8) * 8 * trained)
    assert bytes_between_machines(every, shape, 8) == bytes_between_machines(machine, shape, 8) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # a worker counts those of its machine
    assert states(machine, shape, 64)["optimizer"] == states(every, shape, 4)["optimizer"]


@pytest.mark.parametrize(
    ("settings", "gib", "said"),
    [
        ({}, 80, True),
        ({}, 8, False),
        ({}, None, False),
        ({"shard": "machine"}, 80, False),
        ({"engine": "ddp"}, 80, False),
    ],
)
def test_the_plan_names_the_setting_where_the_model_fits_one_machine(monkeypatch, settings, gib, said):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    workers = {"count": 64, "gpus_each": 1}
    tokens = {"tokens_per_step": 64 * 4 * 4096, "micro_batch": 1}
    config = plan_cases.big(**{"engine": "fsdp2", "method": "full", "workers": workers} | tokens | settings)
    found = list(sharded_over_machines(plan_cases.facts(config, gib=gib)))
    assert len(found) == said and all("with shard: machine it is" in one for one in found)
