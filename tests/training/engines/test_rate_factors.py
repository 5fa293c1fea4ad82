"""The factors of learning rates: of layers, and of LoRA's two matrices."""

from typing import Any

import pytest
import torch

from raymill.training.engines.optimizer import make_optimizer, rate_factors, set_learning_rate
from raymill.training.models.build import build_objective
from tests.support.tiny_models import MODELS, tiny_config


def factors(optimizer: dict[str, Any] | None = None, **more: Any) -> tuple[dict[str, float], Any]:
    config = tiny_config(optimizer=optimizer or {}, **more)
    objective = build_objective(config)
    return rate_factors(config, objective), objective


def test_each_layer_has_a_lower_rate_than_the_one_above_it_and_the_embeddings_the_lowest():
    found, objective = factors({"layer_decay": 0.5}, model=MODELS["llama"] | {"num_hidden_layers": 3})
    for name, _ in objective.named_parameters():
        wanted = 1.0
        for part, factor in (("layers.1.", 0.5), ("layers.0.", 0.25), ("embed_tokens", 0.125)):
            wanted = factor if part in name else wanted
        assert found.get(name, 1.0) == pytest.approx(wanted, abs=1e-12), name
    assert len(found) == 2 * 9 + 1


def test_a_tied_lm_head_and_learned_positions_have_the_rate_of_the_embeddings():
    found, _ = factors({"layer_decay": 0.5}, model="gpt2")
    assert {name.rpartition("transformer.")[2]: factor for name, factor in found.items() if ".h." not in name} == {
        "wte.weight": 0.25, "wpe.weight": 0.25,
    }  # fmt: skip


def test_adapters_have_the_rates_of_their_layers_and_their_b_matrices_a_multiple():
    found, objective = factors(
        {"layer_decay": 0.5}, method="lora", lora={"loraplus_ratio": 16.0, "dora": True, "target": ["q_proj"]}
    )
    assert {
        name: found.get(name, 1.0) for name, one in objective.named_parameters() if one.requires_grad
    } == {
        f"model.base_model.model.model.layers.{layer}.self_attn.q_proj.{part}": decay * ratio
        for layer, decay in ((0, 0.5), (1, 1.0))
        for part, ratio in (
            ("lora_A.default.weight", 1.0),
            ("lora_B.default.weight", 16.0),
            ("lora_magnitude_vector.default.weight", 16.0),
        )
    }  # fmt: skip


def test_an_adapter_of_an_embedding_has_the_rate_of_the_embeddings():
    found, _ = factors({"layer_decay": 0.5}, method="lora", lora={"target": ["embed_tokens", "q_proj"]})
    assert {found[name] for name in found if "embed_tokens" in name} == {0.25}


@pytest.mark.parametrize("method", ["prompt", "prefix", "probe"])
def test_methods_that_train_nothing_in_the_layers_have_one_rate(method):
    config = tiny_config(method=method, optimizer={"layer_decay": 0.5})
    assert rate_factors(config, build_objective(config, classes=2)) == {}
    assert any("optimizer.layer_decay" in one for one in config.without_effect)


def test_without_the_settings_there_are_two_groups_at_one_rate():
    config = tiny_config()
    optimizer = make_optimizer(config, build_objective(config))
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


# peft's magnitudes of DoRA decay, which ours do not, as no vectors do.
@pytest.mark.parametrize(("dora", "weight_decay"), [(False, 0.1), (True, 0.0)])
def test_updates_are_those_of_pefts_lora_plus(dora, weight_decay):
    from peft.optimizers import create_loraplus_optimizer

    more = {"optimizer": {"learning_rate": 1e-2, "weight_decay": weight_decay}, "method": "lora"}
    config = tiny_config(**more, lora={"loraplus_ratio": 8.0, "dora": dora})
    trained = []
    for whose in ("ours", "peft's"):
        objective = build_objective(config)
        settings = config.optimizer
        optimizer = (
            make_optimizer(config, objective)
            if whose == "ours"
            else create_loraplus_optimizer(
                objective.model, torch.optim.AdamW, lr=settings.learning_rate, loraplus_lr_ratio=8.0, fused=True,
                loraplus_weight_decay=settings.weight_decay, betas=settings.betas, eps=settings.epsilon,
            )
        )  # fmt: skip
        if whose == "ours":
            set_learning_rate(optimizer, settings.learning_rate)
        generator = torch.Generator().manual_seed(3)
        parameters = {name: one for name, one in objective.named_parameters() if one.requires_grad}
        for _ in range(4):
            for one in parameters.values():
                one.grad = torch.randn(one.shape, generator=generator)
            optimizer.step()
        trained.append({name: one.detach() for name, one in parameters.items()})
    ours, wanted = trained
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in ours)
