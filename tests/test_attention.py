"""Which attention computes a model, and the variable-length kernel: what it is given, and what comes of it."""

from typing import Any

import pytest
import torch

from cluster.errors import ConfigError, UserError
from tests import kernel_stand_in
from tests.tiny_models import MODELS, batch_of, loss_of, random_documents, tiny_config
from training.models import attention
from training.models.attention import choose_attention
from training.models.base import model_config
from training.models.build import build_objective

torch.set_num_threads(1)


@pytest.fixture
def kernel(monkeypatch):
    """The stand-in in the kernel's place, in float32 too, for the digits."""
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    kernel_stand_in.allow_float32(True)
    kernel_stand_in.CALLS.clear()
    yield kernel_stand_in
    kernel_stand_in.allow_float32(False)


def varlen_config(model: Any = "llama", **settings: Any) -> Any:
    """A config of the kernel on a CPU, where no user can ask for it."""
    config = tiny_config(model, attention="eager", **settings)
    return config.model_copy(update={"attention": attention.VARLEN})


# The kernel


@pytest.mark.parametrize("model", ["llama", "gpt2", "qwen2", "qwen3", "cohere", "qwen3_moe", "windowed"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_varlen_attention_gives_the_losses_and_gradients_of_eager(model, method, kernel):
    window = {
        "model_type": "mistral",
        "sliding_window": 4,
        **{k: v for k, v in MODELS["llama"].items() if k != "model_type"},
    }
    model = window if model == "windowed" else model
    batch = batch_of(random_documents([[5, 3, 6], [9, 1, 6], [16]]))
    found = []
    for config in (tiny_config(model, method=method, attention="eager"), varlen_config(model, method=method)):
        objective = build_objective(config)
        loss, correct = loss_of(objective, batch)
        loss.backward()
        found.append((loss, correct, [p.grad for p in objective.parameters() if p.grad is not None]))
    assert len(kernel.CALLS) == 2, "one for each layer"
    for got, want in zip(found[1][2], found[0][2], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    assert found[1][1] == found[0][1]


def test_auto_leaves_the_choice_to_transformers_off_the_gpu_and_takes_varlen_where_it_fits(monkeypatch):
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    llama, gemma = model_config(MODELS["llama"]), model_config(MODELS["gemma2"])
    assert choose_attention("auto", llama, "cpu", False, False) is None
    assert choose_attention("auto", llama, "cuda", True, False) == attention.VARLEN
    for config, bf16, virtual in [(llama, False, False), (llama, True, True), (gemma, True, False)]:
        assert choose_attention("auto", config, "cuda", bf16, virtual) is None
    monkeypatch.setattr(attention, "_KERNEL", None)
    assert choose_attention("auto", llama, "cuda", True, False) is None


@pytest.mark.parametrize(
    ("wanted", "model", "device", "said"),
    [
        ("varlen", "llama", "cpu", r"attention: varlen does not fit: it needs a GPU; it needs precision bf16"),
        ("varlen", "gemma2", "cuda", r"caps its attention scores"),
        ("flash_attention_2", "llama", "cuda", r"flash-attn is not installed.*attention: auto"),
    ],
)
def test_an_attention_that_cannot_be_had_is_refused_with_the_reason(wanted, model, device, said):
    with pytest.raises(ConfigError, match=said):
        choose_attention(wanted, model_config(MODELS[model]), device, device == "cuda", False)


def test_attention_that_a_model_lacks_is_a_users_error():
    with pytest.raises(UserError, match="attention"):
        build_objective(tiny_config("gemma2", attention="sdpa"))


@pytest.mark.slow
def test_compiled_layers_give_the_same_loss_and_gradients():
    batch = batch_of(random_documents([[5, 3, 6], [9, 1, 6]]))
    found = []
    for compiled in (False, True):
        objective = build_objective(tiny_config("llama", compile=compiled))
        names = [name for name, _ in objective.named_parameters()]
        loss, _ = loss_of(objective, batch)
        loss.backward()
        found.append((names, loss, [parameter.grad for parameter in objective.parameters()]))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-5, atol=1e-5)
