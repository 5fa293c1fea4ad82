"""Products in float8: the recipe by hand, every engine, resuming, and what is refused."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from raymill.cluster.errors import ConfigError
from raymill.training.models.build import build_objective
from raymill.training.models.float8 import compute_in_float8
from tests.support.fit_jobs import column, final_weights, fit_alone, fit_here, fit_until, pack_tiny, settings, tiny_job
from tests.support.ranks import RankPool

# peft imports torchao wherever it is installed, which prints, so it is not in the environment of the other tests.
pytestmark = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed: `make float8`")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("packed"))
    pack_tiny(root)
    return root


def job(packed, name, **more):
    return tiny_job(packed, output=f"{packed}/{name}", **{"precision": "float8"} | more)


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.matrix = nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16)

    def forward(self, hidden):
        return self.matrix(hidden)


def quantised(rows: torch.Tensor) -> torch.Tensor:
    """Rows in e4m3, each scaled by the largest power of two with which its values are at most 448."""
    scale = torch.exp2(torch.floor(torch.log2(448 / rows.float().abs().amax(dim=-1, keepdim=True))))
    return (rows.float() * scale).to(torch.float8_e4m3fn).float() / scale


def test_a_product_by_hand():
    layer, hidden = Layer(32, 48), torch.randn(16, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = layer(hidden).float()
    compute_in_float8([layer], on_gpu=False)
    found = layer(hidden).float()
    expected = quantised(hidden) @ quantised(layer.matrix.weight.detach()).T
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-3)
    assert (found - exact).abs().max() > 10 * (found - expected).abs().max()
    assert [name for name, _ in layer.named_parameters()] == ["matrix.weight"]


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 32), (32, 24)])
def test_a_matrix_of_other_sides_is_computed_in_bf16(inputs, outputs):
    layer = nn.Sequential(Layer(inputs, outputs), Layer(32, 32))
    compute_in_float8([layer], on_gpu=False)
    assert type(layer[0].matrix) is nn.Linear and type(layer[1].matrix) is not nn.Linear
    with pytest.raises(ConfigError, match="no matrix in the layers whose sides are multiples of 16"):
        compute_in_float8([Layer(inputs, outputs)], on_gpu=False)


def test_it_learns_as_bf16_does_and_continues_to_the_bit(packed):
    plain, eighth, again = job(packed, "bf16", precision="bf16"), job(packed, "whole"), job(packed, "again")
    fit_alone(plain)
    wanted = fit_alone(eighth)
    fit_until(again, 5, alone=True)
    outcome = fit_alone(again)
    weights, same = final_weights(wanted), final_weights(outcome)
    assert weights.keys() == same.keys() and all((weights[name] == same[name]).all() for name in weights)
    assert column(again, "loss") == column(eighth, "loss") != column(plain, "loss")
    assert column(eighth, "loss") == pytest.approx(column(plain, "loss"), rel=0.03)
    assert column(eighth, "loss")[-1] < 0.9 * column(eighth, "loss")[0]


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_every_engine_trains_with_it(packed, engine):
    alone, shared = job(packed, f"alone-{engine}"), job(packed, f"two-{engine}", engine=engine)
    fit_alone(alone)
    with RankPool(2) as ranks:
        ranks.run(fit_here, shared)
    assert column(shared, "loss") == pytest.approx(column(alone, "loss"), rel=0.02)


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"method": "lora"}, "precision: float8 is for method full; the method is lora"),
        ({"sequence_length": 24, "tokens_per_step": 48}, "rows of a multiple of 16 tokens; sequence_length is 24"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, seen):
    with pytest.raises(ValueError, match=seen):
        settings(str(tmp_path), precision="float8", **changes)


def test_it_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.entry.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^precision: float8: torchao not installed .*'raymill\[float8\]'"):
        build_objective(settings(str(tmp_path), precision="float8"))


def test_experts_and_older_gpus_are_refused(monkeypatch):
    layer = Layer(32, 32)
    layer.experts = nn.Parameter(torch.zeros(2, 32, 32))
    with pytest.raises(ConfigError, match="computes no mixture of experts"):
        compute_in_float8([layer], on_gpu=False)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"8\.9 or above, such as H100; NVIDIA A100 has none"):
        compute_in_float8([Layer(32, 32)], on_gpu=True)
