"""Operations a token: by hand, by torch's own counter, and the peaks they are divided by."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raymill.training.gpus import peak_flops
from raymill.training.models.base import model_config
from raymill.training.models.build import build_objective
from raymill.training.models.cost import attention_flops, flops_per_token, forward_flops, multiplied
from tests.benchmarks.gpu.workload import mean_context
from tests.support.tiny_models import MODELS, VOCABULARY, answers_batch, tiny_config

torch.set_num_threads(1)

ROWS, LENGTH = 2, 16


def counted_by_torch(model: torch.nn.Module, training: bool) -> float:
    """A token of eager attention, which computes all T x T scores."""
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        # The loss is over the logits of all positions, and mean() has no products of its own.
        loss = model(input_ids=ids).logits.mean()
        if training:
            loss.backward()
    return counter.get_total_flops() / (ROWS * LENGTH)


def test_a_tiny_llama_counted_by_hand() -> None:
    config = model_config(MODELS["llama"])
    per_layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    weights = multiplied(config)
    assert (weights.body, weights.lm_head) == (2 * per_layer, 32 * 300)
    # Two layers, four heads of eight; scores and sums, a multiplication and an addition each.
    assert attention_flops(config, 10) == 2 * 4 * (8 + 8) * 2 * 10
    forward = 2 * (2 * per_layer + 32 * 300) + attention_flops(config, 10)
    assert flops_per_token(config, 0, "full", 10) == 3 * forward


@pytest.mark.parametrize("model", ["llama", "gpt2", "qwen2", "qwen3", "cohere"])
def test_full_training_costs_what_torch_counts(model: str) -> None:
    objective = build_objective(tiny_config(model, attention="eager"))
    want = counted_by_torch(objective.model, training=True)
    assert flops_per_token(objective.model.config, 0, "full", LENGTH) == pytest.approx(want, rel=0.01)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_lora_costs_what_torch_counts(model: str) -> None:
    objective = build_objective(tiny_config(model, method="lora", attention="eager", lora={"rank": 4}))
    objective.model.enable_input_require_grads()
    adapter = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    want = counted_by_torch(objective.model, training=True)
    assert flops_per_token(objective.model.config, adapter, "lora", LENGTH) == pytest.approx(want, rel=0.01)


def test_a_probe_costs_a_forward_pass_without_the_lm_head() -> None:
    objective = build_objective(tiny_config("llama", method="probe", attention="eager"), classes=2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        objective.model(input_ids=torch.randint(0, VOCABULARY, (ROWS, LENGTH)))
    want = counter.get_total_flops() / (ROWS * LENGTH)
    assert flops_per_token(objective.model.config, 0, "probe", LENGTH) == pytest.approx(want, rel=0.01)


@pytest.mark.parametrize("method", ["lora", "qlora", "prefix", "prompt", "probe"])
def test_each_method_by_hand(method: str) -> None:
    """Forward and backward of activations through all weights, and of 100 trained ones; a probe only goes forward."""
    config = model_config(MODELS["llama"])
    body, lm_head = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48), 32 * 300
    attention = 2 * 4 * (8 + 8) * 2 * 10
    forward_and_back = 2 * 2 * (body + lm_head) + 3 * attention
    wanted = {
        "lora": forward_and_back + 3 * 2 * 100, "qlora": forward_and_back + 3 * 2 * 100, "prefix": forward_and_back,
        "prompt": forward_and_back, "probe": 2 * body + attention,
    }  # fmt: skip
    assert flops_per_token(config, 100, method, 10) == wanted[method]


def test_a_token_pays_for_the_experts_it_is_sent_to() -> None:
    config = model_config(MODELS["qwen3_moe"])
    every = model_config(MODELS["qwen3_moe"] | {"num_experts_per_tok": 4})
    experts = 2 * 4 * 3 * 32 * 16
    assert multiplied(every).body - multiplied(config).body == experts / 2


def test_a_window_bounds_what_attention_costs() -> None:
    config = model_config(MODELS["gemma2"])  # one of its two layers has a window of 8
    assert attention_flops(config, 100) == attention_flops(config, 8) / 2 + attention_flops(config, 8) / 2 / 8 * 100


def test_context_is_the_mean_over_tokens_and_not_over_documents() -> None:
    assert mean_context([4]) == 2.5
    assert mean_context([1, 3]) == pytest.approx((1 + 1 + 2 + 3) / 4)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA B200", 2250),
        ("NVIDIA H20", 148),
    ],
)
def test_devices_are_known_by_the_names_their_drivers_give(name: str, tera: float) -> None:
    assert peak_flops(name) == tera * 1e12


def test_an_unknown_device_has_no_peak() -> None:
    assert peak_flops("Intel(R) Xeon(R) Processor") is None


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("objective", ["sft", "dpo", "simpo", "orpo", "kto", "reward"])
def test_steps_on_answers_cost_what_torch_counts(objective: str, method: str) -> None:
    length = 128
    columns = {"prompt": "p", "chosen": "c", "rejected": "r"} if objective != "sft" else {"text": "text"}
    config = tiny_config("llama", method=method, attention="eager", sequence_length=length, columns=columns,
                         tokens_per_step=ROWS * length, objective=objective)  # fmt: skip
    model = build_objective(config)
    if method == "lora":
        model.model.enable_input_require_grads()
    adapter = sum(one.numel() for one in model.model.parameters() if one.requires_grad) if method == "lora" else 0
    batch = answers_batch(ROWS, length, objective)
    with FlopCounterMode(display=False) as counter:
        if batch.mismatched is not None:
            with torch.no_grad():
                model(**model.tensors(batch.mismatched, "cpu"))
        loss, _ = model(**model.tensors(batch, "cpu"))
        loss.backward()
    want = counter.get_total_flops() / (ROWS * length)
    if method == "full" and objective != "reward":
        want += 2 * multiplied(model.causal.config).lm_head  # torch does not count products into a given tensor
    described = model.causal.config
    found = flops_per_token(described, adapter, method, length, objective)
    if objective == "kto":  # the pass of mismatched answers needs their log-probabilities once, and no gradient
        assert found == pytest.approx(
            flops_per_token(described, adapter, method, length, "dpo")
            + forward_flops(described, adapter, method, length)
        )
    # Padding, the first tokens without a target, and one score for each answer are not counted.
    assert found == pytest.approx(want, rel=0.03)
