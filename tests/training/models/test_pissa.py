"""PiSSA: the model at the start, what its adapters hold, and that every start makes the same."""

import pytest
import torch

from raymill.cluster.errors import ConfigError
from raymill.training.models.build import build_objective
from tests.support.fit_jobs import column, fit_alone, fit_until, pack_tiny, tiny_job
from tests.support.tiny_models import MODELS, batch_of, loss_of, random_documents, tiny_config
from tests.support.ways_to_train import check_ways

BATCH = batch_of(random_documents([[11, 5], [16], [9]]))
PISSA = {"rank": 4, "alpha": 12, "init": "pissa"}


def made(model: str = "llama", **more):
    return build_objective(tiny_config(model, **{"method": "lora", "lora": PISSA} | more))


def parts(objective, name: str):
    module = objective.get_submodule(f"model.base_model.model.{name}")
    return module.get_base_layer().weight, module.lora_A["default"].weight, module.lora_B["default"].weight


@pytest.mark.parametrize("model", ["llama", "gpt2", "qwen2", "gemma2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_model_at_the_start_is_the_base(model, rslora):
    wanted, _ = loss_of(build_objective(tiny_config(model)), BATCH)
    found, _ = loss_of(made(model, lora=PISSA | {"rslora": rslora}), BATCH)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_the_adapter_has_the_largest_singular_vectors_and_the_base_the_rest():
    config = tiny_config(MODELS["llama"])
    whole = build_objective(config).get_parameter("model.model.layers.1.mlp.up_proj.weight").detach()
    rest, a, b = parts(made(), "model.layers.1.mlp.up_proj")
    torch.testing.assert_close(rest + 3 * b @ a, whole, atol=1e-6, rtol=1e-6)
    values = torch.linalg.svdvals(whole)
    torch.testing.assert_close(torch.linalg.svdvals(3 * b @ a)[:4], values[:4], atol=1e-3, rtol=2e-2)
    assert not rest.requires_grad and a.requires_grad and a.dtype == torch.float32


def test_another_seed_of_the_training_has_the_same_rest_of_the_base():
    """Else a run could not be continued with another seed."""
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        one, other = (
            parts(made(lora=PISSA | {"target": ["q_proj", "down_proj"]}), f"model.layers.0.{name}") for _ in range(2)
        )
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_a_rank_above_the_matrix_is_filled_up_with_zeros():
    rest, a, b = parts(made(lora=PISSA | {"rank": 40, "target": ["k_proj"]}), "model.layers.0.self_attn.k_proj")
    assert a.shape == (40, 32) and not a[16:].any() and not b[:, 16:].any()
    assert rest.abs().max() < 1e-5, "a matrix of rank 16 is in the adapter whole"


def test_in_bf16_the_rest_has_the_type_of_the_base():
    rest, a, _ = parts(made(precision="bf16"), "model.layers.0.mlp.up_proj")
    assert (rest.dtype, a.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"lora": PISSA | {"dora": True}}, "does not go with lora.dora"),
        ({"method": "qlora", "model": {"name": "a/b"}, "workers": {"gpus_each": 1}}, "does not go with method qlora"),
    ],
)
def test_what_it_does_not_go_with_is_refused(more, why):
    with pytest.raises(ValueError, match=why):
        tiny_config(**{"method": "lora", "lora": PISSA} | more)


def test_an_embedding_is_refused():
    with pytest.raises(ConfigError, match=r"pissa is for linear layers; leave .*embed_tokens out"):
        made(lora=PISSA | {"target": ["embed_tokens"]})


def test_losses_are_equal_by_every_way_to_train_and_after_a_crash_to_the_bit(tmp_path):
    pack_tiny(str(tmp_path))

    def job_at(name: str, **more):
        return tiny_job(str(tmp_path), output=f"{tmp_path}/{name}", method="lora", lora=PISSA, **more)

    check_ways(job_at)
    whole, resumed = job_at("whole"), job_at("resumed")
    fit_alone(whole)
    fit_until(resumed, 5, alone=True)
    fit_alone(resumed)
    assert column(whole, "loss") == column(resumed, "loss")
