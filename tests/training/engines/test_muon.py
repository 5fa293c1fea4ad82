"""Muon: against torch's own on one set of tensors, whole and sharded; trained by engines that have whole matrices."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from raymill.training.engines.muon import MOMENTUM_STATE, USES_MUON, MuonAdamW, orthogonal
from raymill.training.engines.optimizer import make_optimizer
from raymill.training.models.build import build_objective
from tests.support.fit_jobs import column, final_weights, fit_here, fit_until, pack_tiny, tiny_job
from tests.support.ranks import RankPool, run_ranks
from tests.support.training_cases import Case, continue_from, save_midway, train_with_engine
from tests.support.ways_to_train import OPTIMIZER, check_ways

# Wide, tall and square, and rows that no number of workers divides; two that AdamW updates.
SHAPES = [(7, 12), (13, 5), (8, 8), (3, 20), (9, 4)]
OTHERS = [(6, 4), (11,)]
MUON = {"learning_rate": 1e-2, "weight_decay": 0.1, "warmup_steps": 2, "epsilon": 1e-3, "algorithm": "muon"}
CASE = Case(more={"optimizer": MUON})


def values(shapes: list[tuple[int, ...]], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def updated(matrices: list[Any], others: list[Any], gradients: Any) -> list[torch.Tensor]:
    """After three steps of our optimizer. gradients: of a step's number."""
    how = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "fused": True}
    optimizer = MuonAdamW(
        [{"params": matrices, USES_MUON: True, "weight_decay": 0.1}, {"params": others, USES_MUON: False}], **how
    )
    for one in matrices:
        optimizer.state[one] = {MOMENTUM_STATE: torch.zeros_like(one)}
    for step in range(3):
        for parameter, gradient in zip([*matrices, *others], gradients(step), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [one.detach() for one in [*matrices, *others]]


def parameters(shapes: list[tuple[int, ...]], seed: int = 0) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(one) for one in values(shapes, seed)]


def test_updates_are_those_of_torchs_muon_to_the_bit():
    def gradients(step: int) -> list[torch.Tensor]:
        return values([*SHAPES, *OTHERS], 10 + step)

    ours = updated(parameters(SHAPES), parameters(OTHERS, 1), gradients)
    matrices, others = parameters(SHAPES), parameters(OTHERS, 1)
    theirs = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.95), fused=True)
    for step in range(3):
        for parameter, gradient in zip([*matrices, *others], gradients(step), strict=True):
            parameter.grad = gradient
        theirs.step()
        adamw.step()
    for found, wanted in zip(ours, [*matrices, *others], strict=True):
        assert torch.equal(found, wanted), found.shape


@pytest.mark.parametrize("shape", SHAPES)
def test_an_orthogonal_matrix_has_singular_values_near_one(shape):
    found = torch.linalg.svdvals(orthogonal(values([shape], 3)[0]))
    assert float(found.min()) > 0.3 and float(found.max()) < 1.3


def sharded_updates() -> list[torch.Tensor]:
    """On a rank: the whole matrices after three steps of their shards."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))

    def shard(one: torch.Tensor) -> Any:
        return distribute_tensor(one, mesh, [Shard(0)])

    def gradients(step: int) -> list[Any]:
        return [shard(one) for one in values([*SHAPES, *OTHERS], 10 + step)]

    both = [[torch.nn.Parameter(shard(one)) for one in values(*what)] for what in ((SHAPES, 0), (OTHERS, 1))]
    return [one.full_tensor() for one in updated(both[0], both[1], gradients)]


@pytest.mark.parametrize("workers", [2, 3])
def test_sharded_matrices_are_updated_as_whole_ones(workers):
    wanted = updated(parameters(SHAPES), parameters(OTHERS, 1), lambda step: values([*SHAPES, *OTHERS], 10 + step))
    for found in run_ranks(workers, sharded_updates):
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one, other), other.shape


def test_the_matrices_of_the_layers_alone_are_updated_by_muon():
    config = CASE.config()
    objective = build_objective(config)
    names = {id(one): name for name, one in objective.named_parameters()}
    by_muon = [
        names[id(one)] for group in make_optimizer(config, objective).param_groups if group[USES_MUON]
        for one in group["params"]
    ]  # fmt: skip
    assert len(by_muon) == 2 * 7 and all(".layers." in name and name.endswith("proj.weight") for name in by_muon)


def test_sharding_changes_no_loss_and_each_engine_continues_the_other():
    with RankPool(2) as ranks:
        whole, sharded = (ranks.run(train_with_engine, replace(CASE, engine=one))[0] for one in ("ddp", "fsdp2"))
        # Iterations in bf16 make a thousandth of a difference in the last digit of a gradient.
        assert sharded["losses"] == pytest.approx(whole["losses"], rel=1e-4)
        assert {state for _, state in whole["saved"]} == {"param", "exp_avg", "exp_avg_sq", MOMENTUM_STATE}
        for first, then, wanted in (("ddp", "fsdp2", sharded), ("fsdp2", "ddp", whole)):
            saved = ranks.run(save_midway, replace(CASE, engine=first), 3)[0]
            found = ranks.run(continue_from, replace(CASE, engine=then), saved, 3)[0]
            assert found["losses"] == pytest.approx(wanted["losses"][3:], rel=1e-4)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_losses_are_near_by_every_way_to_train(tmp_path, engine):
    pack_tiny(str(tmp_path))
    optimizer = OPTIMIZER | {"algorithm": "muon", "ema_decay": 0.5}
    more = {"optimizer": optimizer, "engine": engine}
    check_ways(lambda name, **how: tiny_job(str(tmp_path), output=f"{tmp_path}/{name}", **how), 1e-3, 0.1, **more)


@pytest.mark.parametrize(
    ("more", "why"),
    [({"method": "lora"}, "muon is for method full; the method is lora"), ({"engine": "zero2"}, "zero2 flattens")],
)
def test_what_has_no_whole_matrices_is_refused(more, why):
    with pytest.raises(ValueError, match=why):
        replace(CASE, **more).config()


def test_a_resumed_training_with_muon_comes_to_the_same_bits(tmp_path):
    pack_tiny(str(tmp_path))
    more = {"optimizer": OPTIMIZER | {"algorithm": "muon", "ema_decay": 0.5}, "engine": "fsdp2"}
    whole, resumed = (tiny_job(str(tmp_path), output=f"{tmp_path}/{name}", **more) for name in ("whole", "resumed"))
    with RankPool(2) as ranks:
        wanted = ranks.run(fit_here, whole)[0]
        ranks.run(fit_until, resumed, 5)
        found = ranks.run(fit_here, resumed)[0]
    states, others = final_weights(wanted), final_weights(found)
    assert states.keys() == others.keys() and all(np.array_equal(states[name], others[name]) for name in states)
    assert column(whole, "loss") == column(resumed, "loss")
