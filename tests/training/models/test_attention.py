"""Which attention computes a model, and the variable-length kernel: what it is given, and what comes of it."""

from typing import Any

import pytest
import torch

from raymill.cluster.errors import ConfigError, UserError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.models import attention
from raymill.training.models.attention import choose_attention, dense_mask_warning
from raymill.training.models.base import load_base, model_config
from raymill.training.models.build import attention_warning, build_objective
from tests.support import kernel_stand_in
from tests.support.tiny_models import MODELS, batch_of, loss_of, random_documents, tiny_config

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
@pytest.mark.parametrize(
    ("method", "used"), [("full", attention.VARLEN), ("lora", attention.VARLEN), ("full", attention.DOCUMENTS)]
)
def test_attention_by_boundaries_gives_the_losses_and_gradients_of_eager(model, method, used, kernel):
    window = {
        "model_type": "mistral",
        "sliding_window": 4,
        **{k: v for k, v in MODELS["llama"].items() if k != "model_type"},
    }
    model = window if model == "windowed" else model
    batch = batch_of(random_documents([[5, 3, 6], [9, 1, 6], [16]]))
    found = []
    by_boundaries = varlen_config(model, method=method).model_copy(update={"attention": used})
    for config in (tiny_config(model, method=method, attention="eager"), by_boundaries):
        objective = build_objective(config)
        kernel.CALLS.clear()  # of model types that are not in LINEAR_NAMES, building the objective computes too
        loss, correct = loss_of(objective, batch)
        loss.backward()
        found.append((loss, correct, [p.grad for p in objective.parameters() if p.grad is not None]))
    assert len(kernel.CALLS) == (2 if used == attention.VARLEN else 0), "one for each layer"
    for got, want in zip(found[1][2], found[0][2], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    assert found[1][1] == found[0][1]


def test_workers_that_share_rows_compute_attention_by_boundaries(monkeypatch):
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    llama = model_config(MODELS["llama"])  # 4 heads, 2 of keys and values
    for wanted, device, bf16, used in [
        ("auto", "cuda", True, attention.VARLEN),
        ("varlen", "cuda", True, attention.VARLEN),
        ("auto", "cuda", False, attention.DOCUMENTS),
        ("auto", "cpu", False, attention.DOCUMENTS),
        ("sdpa", "cuda", True, attention.DOCUMENTS),
    ]:
        assert choose_attention(wanted, llama, device, bf16, False, 4) == used
    with pytest.raises(ConfigError, match="4 heads with 2 of keys and values cannot be divided among 3 workers"):
        choose_attention("auto", llama, "cpu", False, False, 3)
    with pytest.raises(ConfigError, match="cannot share rows of this model: the model caps its attention scores"):
        choose_attention("auto", model_config(MODELS["gemma2"]), "cuda", True, False, 2)


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
        ("flash_attention_2", "llama", "cuda", r"flash-attn, which is not installed.*attention: auto"),
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


# What the kernel refuses


def tensors(**changes: Any) -> dict[str, Any]:
    """Arguments of the kernel that it takes, with some in another form."""
    states = torch.zeros(8, 4, 8, dtype=torch.bfloat16)
    starts = torch.tensor([0, 3, 8, 8], dtype=torch.int32)
    return {"query": states, "key": states[:, :2], "value": states[:, :2], "starts": starts, "longest": 8} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query": torch.zeros(8, 4, 8)}, "only support fp16 and bf16"),
        ({"key": torch.zeros(8, 2, 8)}, "query and key must have the same dtype"),
        ({"value": torch.zeros(8, 2, 8, dtype=torch.float16)}, "query and value must have the same dtype"),
        ({"starts": torch.tensor([0, 3, 8])}, "must have dtype int32"),
        ({"starts": torch.tensor([0, 3, 8], dtype=torch.int32, device="meta")}, "on one device"),
        ({"starts": torch.tensor([0, 3, 8, 0], dtype=torch.int32)}, "boundaries fall"),
        ({"starts": torch.tensor([3, 8], dtype=torch.int32)}, "begin at 3, not at 0"),
        ({"starts": torch.tensor([0, 3], dtype=torch.int32)}, "end at 3 of 8"),
        ({"starts": torch.zeros(0, dtype=torch.int32)}, "batch size must be positive"),
        ({"longest": 4}, "a document of 5, and 4 is given"),
        ({"key": torch.zeros(8, 3, 8, dtype=torch.bfloat16)}, "must divide number of heads"),
        ({"value": torch.zeros(8, 1, 8, dtype=torch.bfloat16)}, "must have shape"),
    ],
)
def test_the_stand_in_refuses_what_the_real_operator_refuses(changes, said):
    def call(query, key, value, starts, longest):
        return kernel_stand_in.varlen_attn(query, key, value, starts, starts, longest, longest, enable_gqa=True)

    assert call(**tensors()).shape == (8, 4, 8)
    with pytest.raises(RuntimeError, match=said):
        call(**tensors(**changes))


@pytest.mark.parametrize("size", [12, 264])
def test_heads_that_the_operator_refuses_are_not_given_to_it(size, monkeypatch):
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    states = torch.zeros(8, 4, size, dtype=torch.bfloat16)
    starts = torch.tensor([0, 8], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"head"):
        kernel_stand_in.varlen_attn(states, states, states, starts, starts, 8, 8)
    config = model_config(MODELS["qwen3"] | {"head_dim": size})
    assert choose_attention("auto", config, "cuda", True, False) is None
    with pytest.raises(ConfigError, match=f"attention: varlen does not fit: head size {size}"):
        choose_attention("varlen", config, "cuda", True, False)


def states_of(heads: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """[2 rows, heads, 8 positions, 8]"""
    return torch.randn(2, heads, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    told = attention.boundaries(attention.VARLEN, torch.tensor([0, 3, 8, 16, 16], dtype=torch.int32), 8)
    return attention.varlen_attention(torch.nn.Identity(), query, key, value, None, scaling=0.25, **told)[0]


def test_queries_and_keys_of_float32_take_the_values_type_before_the_kernel(monkeypatch):
    """As rotary embedding leaves them in a bf16 run of full weights, whose residual stream is float32."""
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    query, key, value = states_of(4, torch.float32, 1), states_of(2, torch.float32, 2), states_of(2, torch.bfloat16, 3)
    kernel_stand_in.CALLS.clear()
    out = attended(query, key, value)
    assert kernel_stand_in.CALLS[0].dtypes == (torch.bfloat16,) * 3
    assert out.dtype == torch.bfloat16 and out.shape == (2, 8, 4, 8)


def test_an_operator_without_a_flag_for_fewer_key_value_heads_is_called_without_one(monkeypatch, kernel):
    states = [states_of(heads, torch.float32, heads) for heads in (4, 2, 2)]
    grouped = attended(*states)
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn_without_gqa)
    monkeypatch.setattr(attention, "_GROUPED", {})
    assert torch.equal(attended(*states), grouped)
    assert [call.heads for call in kernel.CALLS] == [(4, 2), (4, 2)]


# Who chooses


def test_auto_off_the_kernel_on_a_gpu_is_a_warning_with_its_cost_and_reason(monkeypatch):
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    gemma, llama = model_config(MODELS["gemma2"]), model_config(MODELS["llama"])
    warning = dense_mask_warning("auto", "eager", gemma, "cuda", True, False, 4096)
    assert warning is not None
    assert "mask of 4096 x 4096" in warning and "more than twice" in warning and "caps its attention" in warning
    for told in [
        ("auto", "eager", gemma, "cpu", True, False, 16),
        ("eager", "eager", gemma, "cuda", True, False, 16),
        ("auto", attention.VARLEN, llama, "cuda", True, False, 16),
        ("auto", "sdpa", llama, "cuda", True, True, 16),
    ]:
        assert dense_mask_warning(*told) is None
    monkeypatch.setattr(attention, "_KERNEL", None)
    warning = dense_mask_warning("auto", "sdpa", llama, "cuda", True, False, 16)
    assert warning is not None and "this version of torch has no varlen_attn" in warning


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_the_device_that_will_compute_chooses_the_attention_of_a_model_built_on_the_cpu(engine, monkeypatch):
    monkeypatch.setattr(attention, "_KERNEL", kernel_stand_in.varlen_attn)
    for wanted in ("auto", "varlen"):
        config = tiny_config(engine=engine, precision="bf16", attention=wanted)
        objective = build_objective(config, device="cpu", compute="cuda")
        assert objective.attention == attention.VARLEN
        assert attention_warning(config, objective, torch.device("cuda")) is None
        assert {one.device.type for one in objective.parameters()} == {"cpu"}


def test_the_loop_lets_the_workers_device_choose_and_tells_what_was_chosen(monkeypatch, tmp_path, caplog):
    """Up to the engine: a GPU is not there to go on with."""
    from raymill.training.fit import loop
    from raymill.training.fit.ranks import Ranks
    from tests.support.fit_jobs import pack_tiny, tiny_job

    monkeypatch.setattr(attention, "_KERNEL", None)
    pack_tiny(str(tmp_path))
    found = []

    class Enough(Exception):
        pass

    def make_engine(config, objective, device):
        found.append((objective.attention, device.type, next(objective.parameters()).device.type))
        raise Enough

    monkeypatch.setattr(loop, "make_engine", make_engine)
    monkeypatch.setattr(loop, "peak_of_workers", lambda *of: None)  # asks the GPU for its name
    caplog.set_level("INFO", "raymill.training.fit.loop")
    for kernel_of_torch in (None, kernel_stand_in.varlen_attn):
        monkeypatch.setattr(attention, "_KERNEL", kernel_of_torch)
        with pytest.raises(Enough):
            loop.fit(tiny_job(str(tmp_path), engine="fsdp2", precision="bf16"), Ranks(0, 1, torch.device("cuda")))
    assert found == [("sdpa", "cuda", "cpu"), (attention.VARLEN, "cuda", "cpu")]
    levels = [(record.levelname, record.getMessage().partition(" with")[0]) for record in caplog.records]
    assert levels == [
        ("INFO", "attention: sdpa"),
        ("WARNING", "attention sdpa"),
        ("INFO", f"attention: {attention.VARLEN}"),
    ]


# Frozen weights in bf16


@pytest.mark.parametrize("name", ["llama", "qwen3", "saved"])
def test_a_frozen_bf16_base_turns_position_4096_as_a_float32_export_does(name, tmp_path):
    own: Any = MODELS["llama" if name == "saved" else name] | {"max_position_embeddings": 8192}
    exported = build_objective(tiny_config(own)).model
    exported.save_pretrained(tmp_path)
    reference = load_base(Store(), Model(name=str(tmp_path)), 1, torch.float32, None)
    settings = {"name": str(tmp_path)} if name == "saved" else own
    frozen = build_objective(tiny_config(settings, method="lora", precision="bf16")).model.get_base_model()
    assert {one.dtype for one in frozen.parameters() if not one.requires_grad} == {torch.bfloat16}
    assert {one.dtype for one in frozen.buffers()} == {torch.float32}
    at = torch.tensor([[4096]])
    found, wanted = (model.model.rotary_emb(torch.zeros(1), at) for model in (frozen, reference))
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
