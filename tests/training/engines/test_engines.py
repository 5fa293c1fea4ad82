"""What every engine promises the loop: sums of gradients, a state that any other engine continues, no harm from NaN."""

import math
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
import torch.distributed

from raymill.training.data.packed import NO_TARGET
from raymill.training.engines.engine import even_share
from raymill.training.engines.optimizer import parameter_groups
from raymill.training.engines.zero import zero_settings
from raymill.training.models.build import build_objective
from tests.support.ranks import RankPool, run_ranks
from tests.support.sampled import sampled
from tests.support.training_cases import (
    Case,
    continue_from,
    differences,
    micro_batches,
    new_engine,
    save_midway,
    saved_state,
    take_steps,
    train_reference,
    train_with_engine,
)

ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
TOLERANCE = 1e-5


@pytest.mark.parametrize("engine", sampled(ENGINES, 1))
def test_a_probe_computes_its_classes_in_float32_on_a_bf16_base(engine):
    with RankPool(2) as ranks:
        wanted, found = (
            ranks.run(train_with_engine, Case(one, "probe", packed=False, steps=3, more={"precision": precision}))[0]
            for one, precision in (("ddp", "float32"), (engine, "bf16"))
        )
    assert found["losses"] == pytest.approx(wanted["losses"], rel=0.02)


# DeepSpeed's settings


def test_zero_counts_one_micro_batch_a_step_because_the_loop_says_which_is_the_last():
    settings = zero_settings(Case("zero2", rows=8, micro_rows=1).config(), 4)
    assert settings["gradient_accumulation_steps"] == settings["train_micro_batch_size_per_gpu"] == 1
    assert settings["train_batch_size"] == 4
    assert settings["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize(
    ("engine", "offload", "wanted"),
    [
        ("zero2", "none", set()),
        ("zero1", "optimizer", {"offload_optimizer"}),
        ("zero3", "parameters", {"offload_optimizer", "offload_param"}),
    ],
)
def test_offload_moves_what_it_names(engine, offload, wanted):
    zero = zero_settings(Case(engine, more={"offload": offload}).config(), 2)["zero_optimization"]
    assert {name for name in zero if name.startswith("offload")} == wanted
    assert all(zero[name]["device"] == "cpu" for name in wanted)


def test_zero_adds_gradients_up_in_float32_in_a_bf16_run():
    settings = zero_settings(Case("zero1", more={"precision": "bf16"}).config(), 2)
    assert settings["bf16"]["enabled"]
    assert settings["data_types"]["grad_accum_dtype"] == settings["communication_data_type"] == "fp32"
    assert "bf16" not in zero_settings(Case("zero1").config(), 2)


def test_without_a_clip_zero_gets_none():
    case = Case("zero3", more={"optimizer": {"clip": None}})
    assert zero_settings(case.config(), 1)["gradient_clipping"] == 0.0


# Shares


@pytest.mark.parametrize(("values", "workers"), [(10, 3), (2, 4), (0, 2), (9, 1)])
def test_shares_meet_without_gap_and_differ_by_one_value_at_most(values, workers):
    shares = [even_share(values, worker, workers) for worker in range(workers)]
    assert shares[0][0] == 0
    assert shares[-1][1] == values
    assert all(one[1] == two[0] for one, two in pairwise(shares))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1


# Promises


def look(case: Case) -> dict[str, Any]:
    """On a rank: what an engine says of itself before its first step, and after a gradient that is not finite."""
    engine, objective = new_engine(case)
    try:
        names = {name for name, one in objective.named_parameters() if one.requires_grad}
        start = saved_state(engine)
        take_steps(case, engine, objective, 0, 1)
        before = saved_state(engine)
        batch = micro_batches(case, 0, torch.distributed.get_rank(), torch.distributed.get_world_size())[0]
        loss, _ = engine.module(**objective.tensors(batch, "cpu"))
        engine.backward(loss * math.nan, last=True)
        norm = engine.step(1e-2, 1.0)
        after = saved_state(engine)
        losses, norms = take_steps(case, engine, objective, 1, case.steps)
        return {
            "names": names, "start": start, "before": before, "norm": norm, "after": after,
            "losses": losses, "norms": norms, "saved": saved_state(engine),
        }  # fmt: skip
    finally:
        engine.close()


@pytest.mark.parametrize("engine", sampled(ENGINES, 1))
def test_a_gradient_that_is_not_finite_changes_nothing_and_training_continues(engine, two):
    """And the names of what is saved are the objective's, with averages of zero before the first step."""
    case = Case(engine, "lora", steps=3)
    found = two.run(look, case)
    first = found[0]
    assert {name for name, _ in first["start"]} == first["names"]
    assert all((values == 0).all() for (_, state), values in first["start"].items() if state != "param")
    assert not any(math.isfinite(one["norm"]) for one in found)
    assert all(torch.equal(first["before"][key], first["after"][key]) for key in first["before"])
    assert max(differences(first, train_reference(replace(case, engine="ddp")), first=1).values()) < TOLERANCE


def gradients_after_a_micro_batch(case: Case, last: bool) -> torch.Tensor:
    engine, objective = new_engine(case)
    batch = micro_batches(case, 0, torch.distributed.get_rank(), torch.distributed.get_world_size())[0]
    loss, _ = engine.module(**objective.tensors(batch, "cpu"))
    engine.backward(loss, last)
    return torch.cat([one.grad.flatten() for one in objective.parameters() if one.grad is not None])


def test_ddp_sends_gradients_with_the_last_micro_batch_only(two):
    own = two.run(gradients_after_a_micro_batch, Case(), False)
    summed = two.run(gradients_after_a_micro_batch, Case(), True)
    assert not torch.allclose(own[0], own[1])
    # A gradient that was not sent is multiplied already, as DDP divides what it sends by the number of workers.
    torch.testing.assert_close(summed[0], (own[0] + own[1]) / 2)
    assert torch.equal(summed[0], summed[1])


def train_counting_reductions(case: Case) -> dict[str, Any]:
    """On a rank: all steps of a case, and how often gradients were scattered to the workers that keep them."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups

    scatter, calls = groups.foreach_reduce, 0

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return scatter(*arguments, **named)

    groups.foreach_reduce = counting
    try:
        return train_with_engine(case) | {"scattered": calls}
    finally:
        groups.foreach_reduce = scatter


@pytest.mark.parametrize("method", sampled(["full", "lora"], 1))
def test_fsdp2_can_exchange_gradients_once_a_step_and_comes_to_the_same_weights(method, two):
    """A step has two micro-batches a worker, and the model three groups: two layers, and what is outside of them."""
    each, once = (Case("fsdp2", method, steps=3, more={"reduce_every_micro_batch": often}) for often in (True, False))
    wanted = train_reference(replace(each, engine="ddp", more={}))
    groups = 3 if method == "full" else 2  # outside of layers, LoRA trains nothing
    for case, scattered in ((each, 3 * 2 * groups), (once, 3 * groups)):
        found = two.run(train_counting_reductions, case)[0]
        assert max(differences(found, wanted).values()) < TOLERANCE
        assert found["scattered"] == scattered


# The loss


def head_gradient(case: Case, fused: bool) -> dict[str, Any]:
    """On a rank: the sum of losses of all ranks' first micro-batches; gradients of the lm_head and of a norm, whole."""
    engine, objective = new_engine(case)
    assert objective.fused
    objective.fused = fused
    try:
        batch = micro_batches(case, 0, torch.distributed.get_rank(), torch.distributed.get_world_size())[0]
        loss, _ = engine.module(**objective.tensors(batch, "cpu"))
        engine.backward(loss, last=True)
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        named = {name: one.grad.full_tensor() for name, one in objective.named_parameters() if one.grad is not None}
        return {"loss": total, **{name: named[name] for name in named if "lm_head" in name or "norm" in name}}
    finally:
        engine.close()


def plain_gradient(case: Case, world: int) -> dict[str, Any]:
    """The same by transformers' model and torch's cross entropy over whole logits, in this process."""
    objective = build_objective(case.config())
    total = torch.zeros(())
    for rank in range(world):
        batch = objective.tensors(micro_batches(case, 0, rank, world)[0], "cpu")
        logits = objective.causal(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits
        total = total + torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=NO_TARGET, reduction="sum"
        )
    total.backward()
    named = {name: one.grad for name, one in objective.named_parameters() if one.grad is not None}
    return {"loss": total.detach(), **{name: named[name] for name in named if "lm_head" in name or "norm" in name}}


@pytest.mark.parametrize("case", [Case("fsdp2"), Case("fsdp2", tied=True)], ids=str)
def test_under_fsdp2_the_fused_loss_and_its_gradients_are_the_chunked_and_the_plain_ones(case, two):
    with RankPool(1) as one:
        for world, ranks in ((1, one), (2, two)):
            wanted = plain_gradient(case, world)
            for fused in (True, False):
                for found in ranks.run(head_gradient, case, fused):
                    assert found.keys() == wanted.keys()
                    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=2e-6)


# bf16


def train_in_bf16(case: Case) -> dict[str, Any]:
    engine, objective = new_engine(case)
    try:
        losses, _ = take_steps(case, engine, objective, 0, 1)
        start = saved_state(engine)
        for _ in range(case.steps):
            losses += take_steps(case, engine, objective, 0, 1)[0]
        return {"losses": losses, "start": start, "saved": saved_state(engine)}
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("engine", "method"),
    sampled([*((one, "full") for one in ENGINES), ("fsdp2", "lora"), ("zero3", "lora")], 1, seed=6),
)
def test_in_bf16_the_loss_falls_and_the_saved_weights_have_float32s_digits(engine, method, two):
    case = Case(engine, method, steps=5, more={"precision": "bf16"})
    result = two.run(train_in_bf16, case)[0]
    assert result["losses"][-1] < result["losses"][0] - (0.2 if method == "full" else 0.005)
    assert result["losses"][0] == pytest.approx(train_reference(Case(method=method, steps=1)).losses[0], rel=2e-2)
    weights = torch.cat([values for (_, state), values in result["saved"].items() if state == "param"])
    assert (weights != weights.bfloat16().float()).float().mean() > 0.5


def first_weights(case: Case) -> Any:
    engine, _ = new_engine(case)
    try:
        return saved_state(engine)
    finally:
        engine.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_masters_of_a_bf16_run_start_from_the_weights_in_float32(engine, two):
    exact = two.run(first_weights, Case("ddp"))[0]
    found = two.run(first_weights, Case(engine, more={"precision": "bf16"}))[0]
    assert all(torch.equal(exact[key], found[key]) for key in exact)


# Saved by one, continued by another

HALFWAY = 3
# Each engine saves once and continues once, on other numbers of workers.
CHAIN = [
    (("ddp", 3), ("zero3", 2)),
    (("zero3", 3), ("fsdp2", 2)),
    (("fsdp2", 2), ("zero1", 3)),
    (("zero1", 2), ("zero2", 3)),
    (("zero2", 3), ("ddp", 2)),
]
PLACES = list(product(ENGINES, (1, 2, 4)))


def went_on_as_if_nothing_had_happened(case: Case, pairs: list[Any]) -> list[str]:
    """The pairs (saved by, continued by) that differ from an uninterrupted run; an engine and its workers each."""
    wanted = train_reference(replace(case, engine="ddp"))
    worlds = {world for pair in pairs for _, world in pair}
    pools = {world: RankPool(world) for world in worlds}
    found = []
    try:
        saved = {
            place: pools[place[1]].run(save_midway, replace(case, engine=place[0]), HALFWAY)[0]
            for place in {pair[0] for pair in pairs}
        }
        for source, target in pairs:
            result = pools[target[1]].run(continue_from, replace(case, engine=target[0]), saved[source], HALFWAY)[0]
            off = {name: size for name, size in differences(result, wanted, HALFWAY).items() if size > TOLERANCE}
            found += [f"{source} to {target}: {off}"] if off else []
    finally:
        for pool in pools.values():
            pool.close()
    return found


@pytest.mark.slow
def test_what_one_engine_saved_another_continues_on_another_number_of_workers():
    assert went_on_as_if_nothing_had_happened(Case(rows=7), CHAIN) == []


@pytest.mark.slow
@pytest.mark.parametrize("source", PLACES, ids=str)
def test_every_engine_continues_what_any_engine_saved_on_any_number_of_workers(source):
    assert went_on_as_if_nothing_had_happened(Case(), [(source, target) for target in PLACES]) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", [Case(method="lora"), Case(method="probe", packed=False), Case(tied=True)], ids=str)
def test_every_engine_continues_adapters_heads_and_tied_weights_of_every_other(case):
    pairs = [((source, 2), (target, 4)) for source, target in product(ENGINES, ENGINES)]
    assert went_on_as_if_nothing_had_happened(case, pairs) == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_bf16_run_continues_from_its_masters(stage):
    case = Case(f"zero{stage}", more={"precision": "bf16"})
    with RankPool(2) as ranks:
        whole = ranks.run(train_with_engine, case)[0]
        saved = ranks.run(save_midway, case, HALFWAY)[0]
        result = ranks.run(continue_from, case, saved, HALFWAY)[0]
    assert result["losses"] == pytest.approx(whole["losses"][HALFWAY:], rel=1e-3)
    assert all(torch.allclose(whole["saved"][key], result["saved"][key], atol=1e-4) for key in whole["saved"])


def test_one_worker_is_a_process_group_of_one():
    for engine in ("fsdp2", "zero3"):
        case = Case(engine, steps=2)
        result = run_ranks(1, train_with_engine, case)[0]
        assert max(differences(result, train_reference(replace(case, engine="ddp"))).values()) < TOLERANCE


@pytest.fixture(scope="module")
def two():
    with RankPool(2) as ranks:
        yield ranks


def test_only_trained_matrices_decay_and_a_tied_one_is_there_once():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 5))
    model[2].weight = model[0].weight
    model[1].weight.requires_grad_(False)
    matrices, vectors = parameter_groups(model, 0.1)
    assert (len(matrices["params"]), matrices["weight_decay"]) == (1, 0.1)
    assert matrices["params"][0] is model[0].weight
    assert [tuple(one.shape) for one in vectors["params"]] == [(4,), (5,)]
    assert vectors["weight_decay"] == 0.0


def test_a_group_without_parameters_is_left_out():
    assert len(parameter_groups(torch.nn.Linear(3, 2, bias=False), 0.1)) == 1
