"""Compiled decoder layers: when, in how many graphs, with equal results, and what happens where compiling fails."""

import logging

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters
from torch.utils.flop_counter import flop_registry

from raymill.cluster.errors import ConfigError
from raymill.training.compile_choice import KEPT_SHARE, KNOWN_TO_COMPILE, compile_refusal
from raymill.training.engines import make_engine
from raymill.training.fit.process_group import own_group
from raymill.training.model_folder.checks import check_model
from raymill.training.models import compiling
from raymill.training.models.attention import register_cost
from raymill.training.models.build import build_objective
from raymill.training.models.compiling import (
    Fallback,
    compile_clock,
    compile_layers,
    elementwise_part,
)
from raymill.training.models.loss import elementwise
from tests.support import kernel_stand_in  # noqa: F401  # its operator
from tests.support.fit_jobs import fit_alone, lines, pack_tiny, tiny_job
from tests.support.tiny_models import MODELS, batch_of, loss_of, random_documents, tiny_config

# All positions are one chunk of the loss, so it has one graph where it is fused.
GPU = {"workers": {"gpus_each": 1}, "loss_chunk_tokens": 64}
BATCH = batch_of(random_documents([[5, 3, 6], [9, 1, 6]]))
# What models that are not in tests/support/tiny_models.py need besides its sizes; None: they have no such setting.
OTHERS = {"phi3": {"pad_token_id": 0}, "smollm3": {"pad_token_id": 0}, "gpt_neox": {"num_key_value_heads": None}}
_PLAIN = {name: size for name, size in MODELS["llama"].items() if name != "model_type"}


def model_of(model_type: str) -> dict:
    sizes = _PLAIN | OTHERS.get(model_type, {})
    return MODELS.get(model_type) or {"model_type": model_type} | {k: v for k, v in sizes.items() if v is not None}


@pytest.fixture
def traced(monkeypatch):
    """Graphs are traced and differentiated as for the real backend, and then computed by torch: no C++ is compiled."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("settings", "model_type", "said"),
    [
        (GPU, "llama", None),
        (GPU | {"engine": "fsdp2", "method": "lora"}, "qwen3", None),
        ({}, "llama", "no GPU"),
        (GPU | {"engine": "zero3"}, "llama", "zero3"),
        (GPU | {"method": "prefix"}, "llama", "method prefix"),
        (GPU | {"method": "lora", "lora": {"dora": True}}, "llama", "peft's DoRA breaks the graph of each layer"),
        ({"method": "lora", "lora": {"dora": True}, "compile": True}, "llama", None),
        (GPU, "qwen3_moe", "qwen3_moe is not tested"),
        (GPU | {"compile": False}, "llama", "compile: false"),
        ({"compile": True}, "qwen3_moe", None),
    ],
)
def test_auto_compiles_known_models_on_gpus_and_a_setting_decides_alone(settings, model_type, said):
    refusal = compile_refusal(tiny_config("llama", **settings), model_type)
    assert (refusal is None) if said is None else (said in refusal)


def test_selective_recomputing_of_layers_that_are_not_compiled_is_refused_with_the_reason():
    config = tiny_config("llama", activation_checkpointing="selective")
    with pytest.raises(
        ConfigError, match=r"these are not compiled: workers have no GPU\. Set activation_checkpointing: true"
    ):
        build_objective(config)
    with pytest.raises(ConfigError, match="these are not compiled"):
        check_model(config)
    build_objective(tiny_config("llama", activation_checkpointing="selective", compile=True))
    assert torch._functorch.config.activation_memory_budget == KEPT_SHARE
    build_objective(tiny_config("llama", compile=True))
    assert torch._functorch.config.activation_memory_budget == 1


def test_the_kernels_cost_is_its_two_products():
    operator = torch.ops.raymill_tests.varlen_attn
    flop_registry.pop(operator, None)
    register_cost(operator)
    query, one = torch.zeros(6, 4, 8), torch.zeros(6, 2, 8)
    assert flop_registry[operator](query, one, one, None, None, 3, 3, None, [-1, 0], out_val=query) == 4 * 6 * 3 * 4 * 8
    before = flop_registry[torch.ops.torch_attn._varlen_attn]
    register_cost(torch.ops.torch_attn._varlen_attn)
    assert flop_registry[torch.ops.torch_attn._varlen_attn] is before, "torch's own is kept"


def test_a_run_continues_from_its_checkpoint_with_another_compile_setting():
    assert "compile" not in tiny_config("llama").fit_settings()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(KNOWN_TO_COMPILE))
def test_a_known_model_is_one_graph_with_the_uncompiled_loss_and_gradients(model_type, traced):
    found = []
    for compiled in (False, "auto"):
        config = tiny_config(model_of(model_type), compile=compiled, precision="float32", attention="auto", **GPU)
        objective = build_objective(config)
        loss, _ = loss_of(objective, BATCH)
        loss.backward()
        found.append((loss.detach(), {name: one.grad for name, one in objective.named_parameters()}))
    assert graphs() == 1 + objective.fused
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def trained_a_step(config) -> torch.Tensor:
    """Loss and gradient norm of one step through the config's engine, alone in a process group."""
    with own_group(0) as ranks:
        objective = build_objective(config)
        engine = make_engine(config, objective, ranks.device)
        loss, _ = engine.module(**objective.tensors(BATCH, "cpu"))
        engine.backward(loss / 20, last=True)
        norm = engine.step(1e-3, 1.0)
        engine.close()
    return torch.tensor([loss.item(), norm])


@pytest.mark.slow
def test_lora_has_a_graph_for_the_first_layer_and_one_for_all_others(traced):
    """The first layer's input needs no gradient, since embeddings are frozen."""
    trained_a_step(tiny_config(MODELS["llama"] | {"num_hidden_layers": 4}, method="lora", precision="bf16", **GPU))
    assert graphs() == 2 + 1


@pytest.mark.parametrize("engine", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_layers_larger_than_a_bucket_of_ddp_are_one_graph_under_every_engine(engine, traced):
    """DDP's first bucket holds 1 MiB, a layer here 1.7 MB: DDPOptimizer would cut its graph there."""
    model = MODELS["llama"] | {"hidden_size": 128, "intermediate_size": 1024}
    settings = GPU | {"engine": engine, "precision": "float32"}
    compiled = trained_a_step(tiny_config(model, **settings))
    assert graphs() == 1 + 1
    assert compile_clock.seconds > 0
    torch.testing.assert_close(compiled, trained_a_step(tiny_config(model, compile=False, **settings)))


def test_the_losss_elementwise_part_has_two_graphs_for_chunks_of_any_size(traced):
    after_logits = elementwise_part("auto", on_gpu=True)
    for size in (8, 8, 3, 8, 5, 2):
        logits, targets = torch.randn(size, 11), torch.randint(0, 11, (size,))
        found, wanted = after_logits(logits, targets, torch.float32), elementwise(logits, targets, torch.float32)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert graphs() == 2


@pytest.mark.parametrize(("setting", "on_gpu"), [("auto", False), (False, True)])
def test_the_losss_elementwise_part_is_plain_on_cpus_and_where_nothing_is_compiled(setting, on_gpu):
    assert elementwise_part(setting, on_gpu) is elementwise


@pytest.mark.slow
def test_the_step_log_has_the_seconds_of_compiling_where_there_were_any(traced, tmp_path):
    pack_tiny(str(tmp_path), documents=60)
    job = tiny_job(str(tmp_path), steps=4, compile=True)
    fit_alone(job)
    steps = [line for line in lines(job) if "loss" in line]
    assert 0 < steps[0]["compile_s"] < steps[0]["seconds"]
    assert not any("compile_s" in line for line in steps[1:])


def fails(*arguments):
    raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no C compiler"), None)


def test_where_compiling_fails_auto_warns_once_and_continues_and_true_is_refused(caplog):
    fallback = Fallback(required=False)
    layers = [fallback.wrap(fails, lambda value: value + 1) for _ in range(3)]
    with caplog.at_level(logging.WARNING, logger="raymill"):
        assert [layer(1) for layer in layers] == [2, 2, 2]
    [warning] = [record.getMessage() for record in caplog.records]
    assert "no C compiler" in warning and "compile: false" in warning
    with pytest.raises(ConfigError, match=r"no C compiler.*compile: auto.*compile: false"):
        Fallback(required=True).wrap(fails, lambda value: value)(1)


def test_an_error_that_is_not_the_compilers_is_not_answered_by_going_uncompiled():
    def out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Fallback(required=False).wrap(out_of_memory, lambda: 1)()


class Breaks(torch.nn.Module):
    def forward(self, values):
        torch._dynamo.graph_break()
        return 2 * values


def test_a_layer_of_several_graphs_is_computed_uncompiled_by_auto(traced, caplog):
    layer = Breaks()
    with caplog.at_level(logging.WARNING, logger="raymill"):
        compile_layers([layer], required=False)
        assert layer(torch.ones(2)).tolist() == [2.0, 2.0]
    assert ["continues uncompiled" in record.getMessage() for record in caplog.records] == [True]
