"""The parts of engines that need no process group of several workers: AdamW, shares, DeepSpeed's settings."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from raymill.training.engines.ddp import Ddp
from raymill.training.engines.engine import STATES, StateSlice, load_slices
from raymill.training.engines.fsdp import first_value
from raymill.training.engines.optimizer import gradient_norm, make_optimizer, set_steps_taken, start_state, take_step
from raymill.training.engines.zero import zero_settings
from tests.support.training_cases import Case

BUCKET = 1 << 26


@examples(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), max_size=2), min_size=1, max_size=4), st.integers(1, 5))
def test_the_shares_of_ddps_workers_are_every_value_once(shapes, world):
    engine: Any = Ddp.__new__(Ddp)
    total = 0
    engine.trained, engine.optimizer, engine.states = {}, SimpleNamespace(state={}), STATES
    for number, shape in enumerate(shapes):
        values = torch.arange(total, total + torch.Size(shape).numel()).float().view(shape)
        total += values.numel()
        engine.trained[str(number)] = values
        engine.optimizer.state[values] = {"exp_avg": values + 1000, "exp_avg_sq": values + 2000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "get_world_size", lambda: world)
        shares = [list(engine._slices(worker)) for worker in range(world)]
    for state, offset in zip(STATES, (0, 1000, 2000), strict=True):
        joined = [value for share in shares for one in share if one.state == state for value in one.values.tolist()]
        assert joined == [value + offset for value in range(total)]
    for one in (one for share in shares for one in share if one.state == "param"):
        first = engine.trained[one.name].view(-1)[one.start]
        assert one.values[0] == first and one.shape == tuple(engine.trained[one.name].shape)
    sizes = [sum(one.values.numel() for one in share if one.state == "param") for share in shares]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 5))
def test_a_shard_of_fsdp_starts_after_the_shards_before_it(rows, columns, workers):
    values = torch.zeros(rows, columns)
    chunks = [len(chunk) for chunk in values.chunk(workers)]
    chunks += [0] * (workers - len(chunks))
    for rank in range(workers):
        mesh = SimpleNamespace(size=lambda: workers, get_local_rank=lambda rank=rank: rank)
        of_shard = {"shard": mesh}
        parameter: Any = SimpleNamespace(shape=values.shape, numel=values.numel, device_mesh=of_shard)
        assert first_value(parameter) == sum(chunks[:rank]) * columns


def test_loading_fills_the_memory_that_slices_are_views_of():
    states = {state: torch.full((3,), float(number)) for number, state in enumerate(STATES)}
    asked = []

    def fetch(name: str, state: str, start: int, stop: int) -> torch.Tensor:
        asked.append((name, state, start, stop))
        return torch.arange(start, stop) + 10.0 * STATES.index(state)

    load_slices((StateSlice("a", state, (2, 4), 5, values) for state, values in states.items()), fetch)
    assert asked == [("a", state, 5, 8) for state in STATES]
    assert [values.tolist() for values in states.values()] == [[5, 6, 7], [15, 16, 17], [25, 26, 27]]


def stepped(clip: float | None, gradient: list[float], sharded: bool = False) -> tuple[float, Any, Any]:
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 1, bias=False)
    settings = {"learning_rate": 0.5, "betas": (0.5, 0.75), "epsilon": 1e-3, "weight_decay": 0.125}
    optimizer = make_optimizer(Case(more={"optimizer": settings}).config(), module)
    start_state(optimizer, module.parameters())
    set_steps_taken(optimizer, 6)
    module.weight.grad = torch.tensor([gradient])
    return take_step(optimizer, 0.25, clip, sharded), optimizer, module


@pytest.mark.parametrize("clip", [None, 1.0, 5.0, 100.0])
def test_a_step_is_adamw_of_the_clipped_gradient_at_the_given_rate(clip):
    torch.manual_seed(0)
    weight = torch.nn.Linear(2, 1, bias=False).weight.detach()
    norm, optimizer, module = stepped(clip, [3.0, 4.0])
    assert norm == pytest.approx(5.0)
    gradient = torch.tensor([[3.0, 4.0]]) * (min(1.0, clip / 5.000001) if clip else 1.0)
    average, square = 0.5 * gradient, 0.25 * gradient**2  # betas 0.5 and 0.75, at step 7
    update = average / (1 - 0.5**7) / ((square / (1 - 0.75**7)).sqrt() + 1e-3)
    torch.testing.assert_close(module.weight.detach(), weight * (1 - 0.25 * 0.125) - 0.25 * update)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    assert {float(state["step"]) for state in optimizer.state.values()} == {7}
    assert module.weight.grad is not None and not module.weight.grad.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_changes_nothing_but_the_gradient(value):
    torch.manual_seed(0)
    weight = torch.nn.Linear(2, 1, bias=False).weight.detach()
    norm, optimizer, module = stepped(1.0, [value, 4.0])
    assert not norm < float("inf") and torch.equal(module.weight.detach(), weight)
    assert {float(state["step"]) for state in optimizer.state.values()} == {6}
    assert not module.weight.grad.any()


@pytest.mark.parametrize("clip", [None, 1.0, 1e4])
def test_clipping_inside_of_adamws_kernel_gives_the_bits_of_clipping_before_it(clip, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda square, group: None)
    found = []
    for sharded in (False, True):  # sharded gradients are clipped before
        module = torch.nn.Linear(300, 70)
        optimizer = make_optimizer(Case().config(), module)
        start_state(optimizer, module.parameters())
        generator = torch.Generator().manual_seed(3)
        for _ in range(3):
            for parameter in module.parameters():
                parameter.data = torch.randn(parameter.shape, generator=generator)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            take_step(optimizer, 0.25, clip, sharded)
        found.append([one for p in module.parameters() for one in (p.detach(), *optimizer.state[p].values())])
    for inside, before in zip(*found, strict=True):
        assert torch.equal(inside, before)


def test_the_norm_is_over_all_gradients_and_the_shards_of_all_workers(monkeypatch):
    gradients = [torch.tensor([1.0, 2.0]), torch.tensor([[2.0]])]
    assert float(gradient_norm(gradients, False)) == pytest.approx(3.0)
    assert float(gradient_norm([], False)) == 0.0
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda square, group: square.add_(16.0))
    assert float(gradient_norm(gradients, True)) == pytest.approx(5.0)
    assert float(gradient_norm([], True)) == pytest.approx(4.0)


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("offload", ["none", "optimizer", "parameters"])
@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_deepspeeds_settings_are_those_of_the_config(engine, offload, gpus):
    config = Case(engine, more={"precision": "bf16"}).config()
    workers = config.workers.model_copy(update={"gpus_each": gpus})
    config = config.model_copy(update={"workers": workers, "offload": offload})
    stage = int(engine[-1])
    zero: dict[str, Any] = {
        "stage": stage, "overlap_comm": gpus == 1, "contiguous_gradients": True, "reduce_bucket_size": BUCKET,
    }  # fmt: skip
    if stage == 3:
        zero |= {"stage3_prefetch_bucket_size": BUCKET, "stage3_param_persistence_threshold": 100_000}
    else:
        zero["allgather_bucket_size"] = BUCKET
    away = {"device": "cpu", "pin_memory": gpus == 1}
    zero |= {"none": {}, "optimizer": {"offload_optimizer": away}}.get(
        offload, {"offload_optimizer": away, "offload_param": away}
    )
    found = zero_settings(config, 4)
    assert found.pop("zero_optimization") == zero
    assert found == {
        "train_batch_size": 4, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.clip, "zero_force_ds_cpu_optimizer": False, "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32",
    }  # fmt: skip
