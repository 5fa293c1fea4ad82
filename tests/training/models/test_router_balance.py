"""The load-balancing loss of a mixture of experts: transformers' function over a whole step, however it is divided."""

import ast
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from raymill.cluster.store.store import Store
from raymill.training.data.batch import Loader
from raymill.training.data.order import Order
from raymill.training.data.packed import PackedRows
from raymill.training.engines.optimizer import make_optimizer
from raymill.training.fit.loop import learning_rate
from raymill.training.models.build import build_objective
from raymill.training.models.loss import RouterBalance, router_balance
from raymill.training.pack.packed_run import PackedRun
from tests.support.fit_jobs import LENGTH, VOCABULARY, column, final_weights, fit_alone, fit_here, pack_tiny, tiny_job
from tests.support.ranks import RankPool
from tests.support.sampled import sampled

torch.set_num_threads(1)

COEFFICIENT = 0.5
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LENGTH,
    "output_router_logits": True,
    "router_aux_loss_coef": COEFFICIENT,
}
STEPS = 4
ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("balance"))
    pack_tiny(folder)
    return folder


def job_of(root, name, micro_batch, engine="ddp", method="full", **more):
    # With the usual epsilon AdamW's first update is +-1 where the gradient is nothing but rounding.
    optimizer = {"learning_rate": 1e-2, "epsilon": 1e-3}
    settings = {"engine": engine, "method": method, "micro_batch": micro_batch, "steps": STEPS, "optimizer": optimizer}
    model = {"config": MIXTRAL, "tokenizer": "train"}
    return tiny_job(root, model=model, output=f"{root}/{name}", **settings | more)


def by_transformers(root, method):
    """Losses, load-balancing losses and weights of a loop that computes each step as one batch."""
    job = job_of(root, "unused", 8, method=method)
    packed = PackedRun.load(Store(), job.packed)
    sources = [PackedRows(artifact) for artifact in packed.split("train")]
    loader = Loader(Order.for_training(job.config, packed), sources, 0, 1, 8, LENGTH, 0, steps=STEPS)
    objective = build_objective(job.config)
    optimizer = make_optimizer(job.config, objective)
    losses, balances = [], []
    for step in range(STEPS):
        [batch] = loader.micro_batches(step)
        loss, _ = objective(**objective.tensors(batch, "cpu"))
        loss = loss / batch.label_tokens
        objective.balance.active = True  # so that the routers' logits are in the output
        output = objective._output(
            *(torch.from_numpy(one) for one in (batch.input_ids, batch.position_ids, batch.starts))
        )
        objective.balance.active = False
        balance = load_balancing_loss_func(output.router_logits, 4, 2, torch.from_numpy(batch.real))
        (loss + COEFFICIENT * balance).backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), job.config.optimizer.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(job.config.optimizer, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        balances.append(balance.item())
    loader.close()
    weights = {name: one.detach().numpy() for name, one in objective.named_parameters() if one.requires_grad}
    return losses, balances, weights


@pytest.fixture(scope="module")
def wanted(root):
    return functools.cache(functools.partial(by_transformers, root))


def check(job, outcome, wanted):
    losses, balances, weights = wanted
    assert column(job, "loss") == pytest.approx(losses, rel=1e-5)
    assert column(job, "aux_loss") == pytest.approx(balances, rel=1e-5)
    saved = final_weights(outcome)
    for name, values in weights.items():
        found = saved[f"{name}.param"].reshape(values.shape)
        assert np.abs(found - values).max() <= 1e-5 * np.abs(values).max(), name


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("micro_batch", [8, 3])
def test_it_equals_the_one_of_the_whole_step_for_any_micro_batch(root, wanted, method, micro_batch):
    job = job_of(root, f"alone-{method}-{micro_batch}", micro_batch, method=method)
    check(job, fit_alone(job), wanted(method))


@pytest.mark.parametrize("method", sampled(["full", "lora"], 1))
def test_it_equals_the_one_of_the_whole_step_for_every_engine_and_number_of_workers(root, wanted, method):
    """Three workers: the last one has a row of padding."""
    for world, micro_batch in ((2, 4), (3, 1)):
        with RankPool(world) as ranks:
            for engine in ENGINES if world == 2 else ("ddp", "fsdp2"):
                job = job_of(root, f"{engine}-{method}-{world}", micro_batch, engine, method)
                check(job, ranks.run(fit_here, job)[0], wanted(method))


def test_recomputed_layers_give_the_same_loss(root, wanted):
    job = job_of(root, "recomputed", 4, activation_checkpointing=True)
    check(job, fit_alone(job), wanted("full"))


def test_prompt_tokens_are_routed_too(root):
    job = job_of(root, "prompt", 4, method="prompt", packing={"mode": "none"}, prompt={"tokens": 2})
    fit_alone(job)
    assert len(column(job, "aux_loss")) == STEPS


@pytest.mark.parametrize("change", [{"output_router_logits": False}, {"router_aux_loss_coef": 0.0}])
def test_a_config_that_does_not_ask_for_it_trains_without_it(root, change):
    job = job_of(root, f"without-{next(iter(change))}", 8)
    model = job.config.model.model_copy(update={"config": MIXTRAL | change})
    assert build_objective(job.config.model_copy(update={"model": model})).balance is None


def test_the_function_equals_the_one_of_every_causal_language_model_of_transformers_but_doge():
    found = {}
    for path in Path(transformers.models.__path__[0]).glob("*/modeling_*.py"):
        text = path.read_text()
        if "\ndef load_balancing_loss_func" in text and "ForCausalLM(" in text:
            [function] = [one for one in ast.parse(text).body if getattr(one, "name", "") == "load_balancing_loss_func"]
            found[path.parent.name] = ast.dump(ast.Module(function.body[1:], []))  # without its docstring
    assert len(found) > 10
    assert [name for name, body in found.items() if body != found["mixtral"]] == ["doge"]


def test_a_model_with_another_function_trains_without_it_and_says_so(caplog):
    config = transformers.DogeConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=VOCABULARY, is_moe=True, num_experts=4, output_router_logits=True, router_aux_loss_coef=COEFFICIENT,
    )  # fmt: skip
    assert router_balance(transformers.DogeForCausalLM(config)) is None
    assert "not supported for model type doge" in caplog.text


def test_positions_of_padding_count_nothing():
    balance = RouterBalance(1.0, experts=4, chosen=2)
    logits = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    real = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])
    balance.begin_step(denominator=1)
    found = balance.loss((logits.flatten(0, 1).requires_grad_(),), real)
    assert found.item() == pytest.approx(load_balancing_loss_func((logits[0, :4],), 4, 2).item())
    assert balance.end_step() == pytest.approx(found.item())
