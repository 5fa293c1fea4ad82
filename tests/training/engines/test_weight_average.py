"""The moving average of weights: against torch's own, by every engine; where it is used, and that it is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from raymill.cluster.store.store import Store
from raymill.training.engines.engine import AVERAGE
from raymill.training.fit.checkpoint import fill
from raymill.training.models.build import build_objective
from raymill.training.records.checkpoint import Checkpoint
from raymill.training.records.job import Job
from tests.support.fit_jobs import column, final_weights, fit_alone, pack_tiny, tiny_job
from tests.support.ranks import RankPool
from tests.support.sampled import sampled
from tests.support.training_cases import (
    Case,
    continue_from,
    micro_batches,
    new_engine,
    save_midway,
    take_steps,
    train_reference,
    train_with_engine,
)
from tests.support.ways_to_train import OPTIMIZER, check_ways

ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
DECAY = 0.25  # the first three updates are averaged by their number, the others by this
CASE = Case(more={"optimizer": {"learning_rate": 1e-2, "epsilon": 1e-3, "ema_decay": DECAY}})


def by_torch(case: Case) -> dict[str, torch.Tensor]:
    """The average of the oracle's weights after each step, by torch's AveragedModel."""
    module = build_objective(case.config(), classes=3)
    parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}

    def average(before: torch.Tensor, now: torch.Tensor, number: Any) -> torch.Tensor:
        decay = min(DECAY, (1 + int(number)) / (10 + int(number)))
        return decay * before + (1 - decay) * now

    averaged = AveragedModel(module, avg_fn=average)
    averaged.update_parameters(module)  # its first call copies the weights, which are those before training
    for steps in range(1, case.steps + 1):
        for name, values in train_reference(replace(case, steps=steps)).weights.items():
            parameters[name].data.copy_(values)
        averaged.update_parameters(module)
    return {name.removeprefix("module."): one.detach() for name, one in averaged.named_parameters()}


def look(case: Case) -> dict[str, Any]:
    """On a rank: the loss of a batch, the same with averaged weights, and after that; and the loss of a next step."""
    engine, objective = new_engine(case)
    try:
        take_steps(case, engine, objective, 0, 3)
        batch = micro_batches(case, 0, torch.distributed.get_rank(), torch.distributed.get_world_size())[0]

        def loss() -> float:
            with torch.no_grad():
                return float(engine.module(**objective.tensors(batch, "cpu"))[0])

        before, again = loss(), loss()
        with engine.averaged():
            inside = loss()
        return {
            "before": before,
            "again": again,
            "inside": inside,
            "after": loss(),
            "more": take_steps(case, engine, objective, 3, 6)[0],
        }
    finally:
        engine.close()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_engine_averages_and_computes_with_the_average_inside_the_context_alone(precision):
    wanted = by_torch(CASE)
    inside = {}
    with RankPool(2) as ranks:
        for engine in ENGINES:
            case = replace(CASE, engine=engine, more=CASE.more | {"precision": precision})
            found = ranks.run(train_with_engine, case)[0]
            if precision == "float32":
                for name, values in wanted.items():
                    off = (found["saved"][name, AVERAGE].view(values.shape) - values).abs().max()
                    assert off <= 1e-5 * values.abs().max(), (engine, name)
            for seen in ranks.run(look, case):
                assert seen["before"] == seen["again"] == seen["after"] != seen["inside"], engine
                inside.setdefault(engine, seen["inside"])
            assert seen["more"] == found["losses"][3:], engine
    rel = 1e-5 if precision == "float32" else 2e-3
    assert list(inside.values()) == pytest.approx([inside["ddp"]] * len(ENGINES), rel=rel)


@pytest.mark.parametrize(
    ("first", "then"), sampled([("zero2", "fsdp2"), ("fsdp2", "zero3"), ("zero3", "ddp"), ("ddp", "zero1")], 2)
)
def test_another_engine_continues_the_average(first, then):
    before, after = replace(CASE, engine=first), replace(CASE, engine=then)
    wanted = by_torch(CASE)
    with RankPool(2) as ranks:
        saved = ranks.run(save_midway, before, 2)[0]
        found = ranks.run(continue_from, after, saved, 2)[0]["saved"]
    for name, values in wanted.items():
        assert (found[name, AVERAGE].view(values.shape) - values).abs().max() <= 1e-5 * values.abs().max(), name


@pytest.fixture
def job_at(tmp_path):
    pack_tiny(str(tmp_path))
    return lambda name, **more: tiny_job(str(tmp_path), output=f"{tmp_path}/{name}", **more)


def weights_of(job: Job, checkpoint: str) -> dict[str, torch.Tensor]:
    objective = build_objective(job.config)
    fill(objective, Checkpoint.load(Store(), checkpoint))
    return {name: one.detach() for name, one in objective.named_parameters()}


def test_it_is_equal_by_every_way_to_train_and_it_is_what_is_validated_and_exported(job_at):
    optimizer = OPTIMIZER | {"ema_decay": 0.5}
    job, outcome = check_ways(job_at, optimizer=optimizer)
    without = job_at("without", micro_batch=8, optimizer=OPTIMIZER, evaluate={"every_steps": 4})
    plain = fit_alone(without)
    assert column(job, "loss") == column(without, "loss")
    validations, others = ([one["loss"] for one in column(each, "validation")] for each in (job, without))
    assert validations[0] == others[0] and all(
        one > other for one, other in zip(validations[1:], others[1:], strict=True)
    )
    state = final_weights(outcome)
    exported, last = weights_of(job, outcome["checkpoint"]), weights_of(without, plain["checkpoint"])
    for name, values in exported.items():
        assert np.array_equal(values.numpy().ravel(), state[f"{name}.{AVERAGE}"])
        assert np.array_equal(last[name].numpy().ravel(), state[f"{name}.param"])
