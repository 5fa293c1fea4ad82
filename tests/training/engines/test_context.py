"""Workers that share rows (workers.context), on 2 and 4 gloo workers: the numbers of one worker with whole rows.

A weight of a tensor is compared relative to the tensor's largest, as in test_equivalence.py. It is float32, so what
differs is the order of additions.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raymill.cluster.errors import ConfigError
from raymill.training.context_heads import refuse_heads
from raymill.training.models.context import join_context
from raymill.training.models.cost import shape_of
from raymill.training.plan.memory import GIB, changes, exchanged_bytes, smallest_change
from tests.support import plan_cases
from tests.support.fit_jobs import column, final_weights, fit_alone, fit_here, fit_until, pack_tiny, tiny_job
from tests.support.ranks import RankPool
from tests.support.sampled import sampled
from tests.support.training_cases import (
    Case,
    differences,
    micro_batches,
    new_engine,
    step_units,
    take_steps,
    train_reference,
    train_with_engine,
)

GROUPED, OWN, SINGLE = ({"num_key_value_heads": heads} for heads in (2, 4, 1))  # of four heads
EXPERTS = {
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.5,
}
WINDOW = {"model_type": "mistral", "sliding_window": 3}
RECOMPUTES = {"activation_checkpointing": True}

# (workers, workers that share a row, case)
CASES = [
    (2, 2, Case("ddp", model=OWN, weighted=True)),
    (2, 2, Case("fsdp2", "lora", model=GROUPED, tied=True)),
    (2, 2, Case("fsdp2", model=WINDOW)),
    (4, 2, Case("ddp", "lora", model=GROUPED, rows=5, micro_rows=1, packed=False)),
    (4, 2, Case("fsdp2", model=GROUPED, micro_rows=1, weighted=True, more=RECOMPUTES)),
    (4, 4, Case("ddp", model=GROUPED, more=RECOMPUTES)),
    (4, 4, Case("fsdp2", "lora", model=SINGLE, micro_rows=3)),
    (4, 4, Case("fsdp2", model=OWN)),
    (4, 2, Case("zero2", model=GROUPED)),
    (4, 2, Case("zero3", "lora", model=GROUPED)),
]


@pytest.fixture(scope="module")
def pools():
    with RankPool(2) as two, RankPool(4) as four:
        yield {2: two, 4: four}


def shared(workers: int, context: int, case: Case) -> Case:
    return replace(case, steps=4, more=case.more | {"workers": {"count": workers, "context": context}})


@pytest.mark.parametrize(("workers", "context", "case"), sampled(CASES, 4), ids=str)
def test_losses_norms_and_weights_are_those_of_one_worker(pools, workers, context, case):
    found = pools[workers].run(train_with_engine, shared(workers, context, case))[0]
    off = differences(found, train_reference(replace(case, steps=4, engine="ddp", micro_rows=1)))
    assert off["loss"] < 1e-6 and off["norm"] < 1e-6
    assert off["weight"] < 3e-6


def test_balance_of_experts_counts_the_positions_of_all_parts(pools):
    case = Case("ddp", model=EXPERTS, micro_rows=8, more={"optimizer": {"learning_rate": 1e-2, "epsilon": 1e-3}})
    whole, parts = (pools[2].run(balanced_loss, one)[0] for one in (replace(case, micro_rows=4), shared(2, 2, case)))
    assert parts == pytest.approx(whole, rel=1e-6)


def balanced_loss(case: Case) -> float:
    """Of one step over all workers, with the load-balancing loss."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    engine, objective = new_engine(case)
    [batch] = micro_batches(case, 0, rank, world)
    units = step_units(case, objective, 0)
    objective.balance.begin_step(units)
    loss, _ = engine.module(**objective.tensors(batch, "cpu"))
    engine.backward(loss / units, last=True)
    total = loss.detach()
    torch.distributed.all_reduce(total)
    part = torch.tensor(objective.balance.end_step())
    torch.distributed.all_reduce(part)
    assert part > 0
    engine.close()
    return float(total / units)


# --- the whole loop


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    pack_tiny(str(root), test=20)
    return root


@pytest.fixture(scope="module")
def whole(packed):
    """One worker's training: (job, outcome)."""
    job = tiny_job(str(packed), output=f"{packed}/whole", **SMALL)
    return job, fit_alone(job)


SMALL = {"steps": 5, "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2, "epsilon": 1e-3}}


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float(abs(one[name] - other[name]).max() / abs(other[name]).max()) for name in one)


def held_out_losses(job) -> list[dict]:
    """Of the test split before and after the training."""
    files = [Path(job.folder.uri, "held_out", f"{when}.json") for when in ("before", "after")]
    return [json.loads(file.read_text())["measured"]["test"] for file in files]


@pytest.mark.parametrize(("workers", "context", "engine"), [(2, 2, "ddp"), (4, 2, "fsdp2")])
def test_a_training_has_the_steps_validations_and_test_loss_of_one_worker(
    pools, packed, whole, tmp_path, workers, context, engine
):
    how = {"engine": engine, "workers": {"count": workers, "context": context}}
    job = tiny_job(str(packed), output=f"{tmp_path}/run", **SMALL | how)
    outcome = pools[workers].run(fit_here, job)[0]
    for name in ("samples", "tokens", "label_tokens"):
        assert column(job, name) == column(whole[0], name)
    assert column(job, "loss") == pytest.approx(column(whole[0], "loss"), rel=1e-6)
    validations, wanted = (column(one, "validation") for one in (job, whole[0]))
    assert len(validations) == 3
    for seen, before in zip(validations, wanted, strict=True):
        assert seen == pytest.approx(before, rel=1e-6)
    assert largest_difference(final_weights(outcome), final_weights(whole[1])) < 1e-5
    for seen, before in zip(held_out_losses(job), held_out_losses(whole[0]), strict=True):
        assert seen == pytest.approx(before, rel=1e-6)


def test_a_checkpoint_is_continued_with_another_number_of_workers_a_row(pools, packed, whole, tmp_path):
    def job(workers: int):
        how = {"workers": {"count": workers, "context": workers}, "checkpoint": {"every_steps": 1}}
        return tiny_job(str(packed), output=f"{tmp_path}/run", **SMALL | how)

    pools[4].run(fit_until, job(4), 4)
    outcome = pools[2].run(fit_here, job(2))[0]
    assert {2, 4} == {*column(job(2), "workers")}
    assert column(job(2), "loss") == pytest.approx(column(whole[0], "loss"), rel=1e-6)
    assert largest_difference(final_weights(outcome), final_weights(whole[1])) < 1e-5


# --- what the plan counts


class ExchangedBytes(TorchDispatchMode):
    """Counts the bytes of tensors that all-to-alls take, a worker's own part included."""

    taken = 0

    def __torch_dispatch__(self, operator, types, arguments=(), named=None):
        if operator is torch.ops._c10d_functional.all_to_all_single.default:
            self.taken += arguments[0].nbytes
        return operator(*arguments, **named or {})


def exchanged_in_a_step(case: Case) -> int:
    engine, objective = new_engine(case)
    try:
        with ExchangedBytes() as counted:
            take_steps(case, engine, objective, 0, 1)
        return counted.taken
    finally:
        engine.close()


@pytest.mark.parametrize("more", [{}, RECOMPUTES], ids=str)
@pytest.mark.parametrize(("workers", "context", "heads"), [(2, 2, GROUPED), (4, 2, OWN), (4, 4, SINGLE)], ids=str)
def test_the_plan_counts_what_workers_exchange(pools, workers, context, heads, more):
    case = shared(workers, context, Case("ddp", model=heads, more=more))
    found = pools[workers].run(exchanged_in_a_step, case)
    config = case.config()
    assert set(found) == {exchanged_bytes(config, shape_of(config), workers) * context // (context - 1)}


def test_of_an_8b_row_of_128k_each_of_eight_workers_exchanges_20_kib_a_layer_and_token():
    workers = {"count": 8, "gpus_each": 1, "context": 8}
    long = plan_cases.big(workers=workers, sequence_length=131072, tokens_per_step=131072)
    # 4,096 of queries and of results, 1,024 of keys and of values, 2 bytes each; forward and backward; 7 of 8 leave.
    assert exchanged_bytes(long, shape_of(long), 8) == 2 * 32 * (131072 // 8) * 20480 * 7 // 8


OFFLOADED = "engine: zero3, offload: optimizer, workers.context: 8"


@pytest.mark.parametrize(("gib", "change"), [(96, "workers.context: 2"), (60, "workers.context: 4"), (25, OFFLOADED)])
def test_a_row_that_fits_no_gpu_is_shared_by_as_few_workers_as_possible(gib, change):
    long = plan_cases.big(
        engine="fsdp2", sequence_length=131072, tokens_per_step=8 * 131072, activation_checkpointing=True
    )
    shape = shape_of(long)
    assert changes(long, smallest_change(long, shape, gib * GIB)) == change


# --- what cannot be shared


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": {"count": 3, "context": 2}}, "workers.count is 3, and must be one number, a multiple of 2"),
        ({"workers": {"count": {"min": 2, "max": 4}, "context": 2}}, "workers.count is 2 to 4, and must be one number"),
        ({"sequence_length": 25, "tokens_per_step": 50}, "rows of sequence_length 25 cannot be cut into 2 equal parts"),
        ({"objective": "dpo", "packing": {"mode": "best_fit"}}, "objective dpo needs whole answers on a worker"),
        ({"method": "prompt", "packing": {"mode": "none"}}, "method prompt needs whole rows on a worker"),
        ({"neftune_alpha": 5.0}, "the noise of neftune_alpha is drawn for whole rows"),
        ({"attention": "eager"}, "attention eager is not for shared rows"),
        (
            {"workers": {"count": 20, "context": 2}},
            "a step has 8 rows of 24, each shared by 2; use 16 workers or fewer",
        ),
    ],
)
def test_settings_that_need_whole_rows_are_refused(settings, said):
    more = {"workers": {"count": 2, "context": 2}} | settings
    with pytest.raises(ValueError, match=said):
        Case(more=more).config()


def test_heads_that_cannot_be_divided_are_refused_with_numbers_that_can():
    for heads, kv_heads, workers in [(32, 8, 8), (32, 8, 32), (32, 8, 16), (24, 6, 4), (28, 4, 7), (4, 1, 4)]:
        refuse_heads(heads, kv_heads, workers)
    with pytest.raises(ConfigError, match=r"32 heads with 8 of .* among 3 workers. Use one of 1, 2, 4, 8, 16, 32\."):
        refuse_heads(32, 8, 3)
    with pytest.raises(ConfigError, match=r"14 heads with 2 of .* among 4 workers. Use one of 1, 2, 7, 14\."):
        refuse_heads(14, 2, 4)


def joining(workers: int) -> str:
    with pytest.raises(ConfigError) as raised:
        join_context(workers)
    return str(raised.value)


def test_a_number_of_started_workers_that_cannot_be_divided_is_refused(pools):
    for said in pools[2].run(joining, 4):
        assert said.startswith("workers.context: 4 workers share a row, and 2 were started; start a multiple of 4")
