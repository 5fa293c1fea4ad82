"""The loss: equal to transformers' own, for every kind of logits, packed or not, in chunks of any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.training.data.packed import NO_TARGET
from raymill.training.models.build import build_objective
from raymill.training.models.loss import chunked_loss, elementwise, fusable_elementwise, fused_loss, has_float32_output
from raymill.training.models.objective import NextToken, pooled
from tests.support.tiny_models import MODELS, VOCABULARY, batch_of, loss_of, random_documents, tiny_config, with_targets

torch.set_num_threads(1)

# transformers knows no sdpa for models that cap their scores.
CASES = [
    (model, attention)
    for model in MODELS
    for attention in ("eager", "sdpa")
    if (model, attention) != ("gemma2", "sdpa")
]


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def assert_equal_gradients(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("model", "attention"), CASES)
def test_loss_and_gradients_are_those_of_transformers_on_unpacked_data(model: str, attention: str) -> None:
    objective = build_objective(tiny_config(model, attention=attention))
    ids = torch.tensor(random_documents([[16], [16]])).squeeze(1)
    # Their loss is a mean over the 2 x 15 next tokens; ours is a sum.
    theirs = objective.model(input_ids=ids, labels=ids)
    (theirs.loss * 30).backward()
    wanted = gradients(objective.model)

    loss, correct = loss_of(objective, batch_of(random_documents([[16], [16]])))
    loss.backward()

    torch.testing.assert_close(loss.detach(), theirs.loss.detach() * 30, rtol=1e-5, atol=1e-5)
    assert correct.item() == (theirs.logits[:, :-1].argmax(-1) == ids[:, 1:]).sum().item()
    assert_equal_gradients(gradients(objective.model), wanted)


@pytest.mark.parametrize(("model", "attention"), CASES)
def test_a_packed_row_has_the_losses_of_its_documents_alone(model: str, attention: str) -> None:
    objective = build_objective(tiny_config(model, attention=attention))
    if model != "qwen3_moe":  # whose grouped matrix products know no float64
        objective.model.double()  # sums of float32 differ by more than the bound on some processors
    # The first row is padded, and the second document of the second row is one token.
    documents = random_documents([[5, 3, 6], [9, 1, 6]])
    packed, _ = loss_of(objective, batch_of(documents))
    packed.backward()
    together = gradients(objective.model)

    alone = torch.stack(
        [loss_of(objective, batch_of([[document]], len(document)))[0] for row in documents for document in row]
    ).sum()
    alone.backward()

    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(gradients(objective.model), together)


def test_what_stands_in_another_document_of_the_row_changes_nothing() -> None:
    objective = build_objective(tiny_config("llama"))
    first, second, other = random_documents([[6], [10], [10]])
    targets = {}
    for name, follower in (("second", second), ("other", other)):
        batch = batch_of([[*first, *follower]])
        own = batch.targets.copy()
        own[:, 6:] = NO_TARGET
        targets[name] = loss_of(objective, with_targets(batch, own))[0].item()
    assert targets["second"] == targets["other"]


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 1 << 16))
def test_chunks_of_any_size_give_the_whole_loss_and_its_gradients(positions: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lm_head = torch.nn.Linear(8, 21)
    hidden = torch.randn(positions, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 21, (positions,), generator=generator)
    targets[torch.rand(positions, generator=generator) < 0.4] = NO_TARGET

    loss, correct = chunked_loss(lm_head, hidden, targets, chunk)
    loss.backward()
    found = [hidden.grad.clone(), lm_head.weight.grad.clone(), lm_head.bias.grad.clone()]
    hidden.grad = None
    lm_head.zero_grad()
    logits = lm_head(hidden)
    whole = torch.nn.functional.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="sum")
    whole.backward()

    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-5)
    assert correct == (logits.argmax(-1) == targets).sum()
    for ours, theirs in zip(found, [hidden.grad, lm_head.weight.grad, lm_head.bias.grad], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma2"])
def test_no_more_than_a_chunk_of_logits_is_ever_made_and_as_often_whatever_counts(model: str) -> None:
    objective = build_objective(tiny_config(model, loss_chunk_tokens=10, engine="zero3"))
    assert isinstance(objective, NextToken)
    shapes: list[tuple[int, ...]] = []
    objective.causal.lm_head.register_forward_hook(lambda module, given, out: shapes.append(tuple(out.shape)))
    full = batch_of(random_documents([[16], [16]]))
    blank = with_targets(full, np.full_like(full.targets, NO_TARGET))
    calls = []
    for batch in (full, blank):
        shapes.clear()
        loss, _ = loss_of(objective, batch)
        loss.backward()
        calls.append(list(shapes))
    assert calls[0] == calls[1]
    # 32 positions are 4 chunks, each made twice: forward and again in the backward pass.
    assert sorted(shapes) == sorted([(1, 10, VOCABULARY)] * 6 + [(1, 2, VOCABULARY)] * 2)


@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("way", ["chunked", "fused", "fused, compiled form"])
def test_the_loss_of_weighted_targets_is_the_sum_of_each_ones_loss_times_its_weight(way: str, chunk: int) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(21, 8, generator=generator, requires_grad=True)
    hidden = torch.randn(40, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 21, (40,), generator=generator)
    weights = torch.randint(0, 9, (40,), generator=generator) / 4

    logits = hidden @ weight.T
    each = [-logits[at].log_softmax(-1)[targets[at]] * weights[at] for at in range(40)]
    whole = torch.stack(each).sum()
    if way == "chunked":
        loss, correct = chunked_loss(lambda part: part @ weight.T, hidden, targets, chunk, weights)
    else:
        after = elementwise if way == "fused" else fusable_elementwise
        loss, correct = fused_loss(hidden, weight, targets, chunk, after, weights)

    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-5)
    assert correct == (logits.argmax(-1) == targets).sum(), "every target counts once, whatever its weight"
    wanted = [hidden, weight]
    for ours, theirs in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(whole, wanted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 30), st.sampled_from([None, torch.float32, torch.bfloat16]))
def test_the_part_that_is_compiled_computes_what_the_plain_one_does(positions, vocabulary, gradient) -> None:
    generator = torch.Generator().manual_seed(positions)
    logits = 5 * torch.randn(positions, vocabulary, generator=generator)
    targets = torch.randint(0, vocabulary, (positions,), generator=generator)
    for weights in (None, torch.rand(positions, generator=generator)):
        plain, fusable = (of(logits, targets, gradient, weights) for of in (elementwise, fusable_elementwise))
        assert plain[:2] == fusable[:2]
        if gradient is None:
            assert plain[2] is None and fusable[2] is None
        else:
            assert torch.equal(plain[2], fusable[2])


@pytest.fixture
def float32_output():
    """The products that only GPUs have, for bf16 on the CPU, with the checks of `_mm_dtype_out_cuda` and
    `_addmm_dtype_out_cuda` in torch's aten/src/ATen/native/cuda/Blas.cpp. What was called."""
    calls: list[str] = []

    def mm(a, b, out_dtype):
        assert a.dtype == b.dtype == torch.bfloat16 and out_dtype == torch.float32
        calls.append("mm")
        return a.float() @ b.float()

    def addmm(total, a, b, out_dtype, *, beta=1, alpha=1, out):
        assert a.dtype == b.dtype == torch.bfloat16 and out_dtype == out.dtype == total.dtype == torch.float32
        assert a.shape[1] == b.shape[0]
        calls.append("addmm")
        return out.copy_(beta * total + alpha * (a.float() @ b.float()))

    library = torch.library.Library("aten", "IMPL")
    library.impl("mm.dtype", mm, "CPU")
    library.impl("addmm.dtype_out", addmm, "CPU")
    has_float32_output.cache_clear()
    yield calls
    library._destroy()
    has_float32_output.cache_clear()


def bf16_gradients() -> list[torch.Tensor]:
    """Loss and gradients of eight chunks in a bf16 run, and the same in float32 of the values rounded to bf16."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(21, 8, generator=generator).bfloat16().float().requires_grad_()
    hidden = torch.randn(64, 8, generator=generator).bfloat16().float().requires_grad_()
    targets = torch.randint(0, 21, (64,), generator=generator)
    found = []
    for bf16 in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = fused_loss(hidden, weight, targets, 8)
        found.append([loss.detach(), *torch.autograd.grad(loss, [hidden, weight])])
    return [(one - other).abs().max() / other.abs().max() for one, other in zip(*found, strict=True)]


def test_products_are_added_up_in_float32_where_the_operator_can(float32_output) -> None:
    within = bf16_gradients()
    # Tried once; then, in each of eight chunks, the logits, the gradient of `hidden` and of the weight.
    assert (float32_output.count("mm"), float32_output.count("addmm")) == (1 + 2 * 8, 1 + 8)
    # Rounding the gradient of the logits to bf16 is left.
    assert within[0] < 1e-6 and max(within[1:]) < 2**-9


def test_where_the_operator_cannot_the_product_is_rounded_first() -> None:
    has_float32_output.cache_clear()
    assert not has_float32_output(torch.device("cpu"), torch.bfloat16)
    assert bf16_gradients()[0] < 2**-6


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 50), st.booleans(), st.integers(0, 1 << 16))
def test_the_fused_loss_is_the_whole_one_with_its_gradients(
    positions: int, chunk: int, head_trains: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(21, 8, generator=generator, requires_grad=head_trains)
    hidden = torch.randn(positions, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 21, (positions,), generator=generator)
    wanted = [hidden, weight] if head_trains else [hidden]

    loss, correct = fused_loss(hidden, weight, targets, chunk)
    found = torch.autograd.grad(loss * 0.25, wanted)
    logits = hidden @ weight.T
    whole = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    expected = torch.autograd.grad(whole * 0.25, wanted)

    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-5)
    assert correct == (logits.argmax(-1) == targets).sum()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("model", "fused"), [("llama", True), ("gpt2", True), ("gemma2", False), ("cohere", False)])
def test_the_loss_is_fused_only_where_logits_are_the_heads_product_and_weights_stay_whole(
    model: str, fused: bool
) -> None:
    assert build_objective(tiny_config(model)).fused == fused
    assert build_objective(tiny_config(model, engine="fsdp2")).fused == fused
    assert not build_objective(tiny_config(model, engine="zero3")).fused


def test_a_head_with_a_bias_is_not_fused_and_its_bias_counts() -> None:
    model = build_objective(tiny_config("llama")).model
    model.lm_head = torch.nn.Linear(32, VOCABULARY)
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.linspace(-2, 2, VOCABULARY))
    objective = NextToken(model, False, 7, lm_head_is_unsharded=True)
    ids = torch.tensor(random_documents([[16], [16]])).squeeze(1)
    theirs = model(input_ids=ids, labels=ids).loss * 30
    assert not objective.fused
    torch.testing.assert_close(
        loss_of(objective, batch_of(random_documents([[16], [16]])))[0], theirs, rtol=1e-5, atol=1e-5
    )


def test_a_probe_in_training_has_the_features_of_a_model_in_use() -> None:
    """Dropout of the base is off, however training and validation switch the objective."""
    dropping = MODELS["gpt2"] | {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    objective = build_objective(tiny_config(dropping, method="probe"), classes=2)
    batch = batch_of(random_documents([[16], [12]]))
    in_training = loss_of(objective, batch)[0].item()
    assert objective.training and not any(module.training for module in objective.model.modules())
    in_use = loss_of(objective.eval(), batch)[0].item()
    assert in_training == in_use == loss_of(objective.train(), batch)[0].item()


def test_a_batch_without_targets_costs_nothing_and_still_has_a_backward() -> None:
    objective = build_objective(tiny_config("llama"))
    batch = batch_of(random_documents([[16]]))
    batch = with_targets(batch, np.full_like(batch.targets, NO_TARGET))
    loss, correct = loss_of(objective, batch)
    loss.backward()
    assert (loss.item(), correct.item()) == (0, 0)
    assert all((gradient == 0).all() for gradient in gradients(objective).values())
    assert objective.loss_denominator(batch_of(random_documents([[16]]))) == 15


@pytest.mark.parametrize("model", ["llama", "gpt2", "qwen3", "gemma2"])
@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_virtual_tokens_stand_where_peft_puts_them(model: str, method: str) -> None:
    objective = build_objective(tiny_config(model, method=method, **{method: {"tokens": 3}}))
    ids = torch.tensor(random_documents([[16], [16]])).squeeze(1)
    mine = objective.logits(
        objective.hidden(ids, torch.arange(16).repeat(2, 1), torch.tensor([0, 16, 32])).flatten(0, 1)
    )
    theirs = objective.model(input_ids=ids).logits[:, -16:].flatten(0, 1)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_without_its_virtual_tokens_a_model_is_the_base_model(method: str) -> None:
    objective, base = build_objective(tiny_config("llama", method=method)), build_objective(tiny_config("llama"))
    batch = batch_of(random_documents([[16], [16]]))
    with objective.as_base_model():
        inside = loss_of(objective, batch)[0].item()
    assert inside == pytest.approx(loss_of(base, batch)[0].item(), rel=1e-6)
    assert loss_of(objective, batch)[0].item() != pytest.approx(inside, rel=1e-6), "and outside it is not"


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_padding_after_a_document_changes_no_loss_behind_virtual_tokens(method: str) -> None:
    objective = build_objective(tiny_config("llama", method=method))
    documents = random_documents([[7], [12]])
    padded = loss_of(objective, batch_of(documents))[0]
    alone = sum(loss_of(objective, batch_of([row], len(row[0])))[0] for row in documents)
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


def test_autocast_keeps_the_loss_in_float32_and_near_the_float32_loss() -> None:
    batch = batch_of(random_documents([[16], [16]]))
    exact = loss_of(build_objective(tiny_config("llama")), batch)[0]
    objective = build_objective(tiny_config("llama"))
    objective.logits = lambda hidden: objective.causal.lm_head(hidden).bfloat16()  # type: ignore[union-attr, method-assign]
    rounded = loss_of(objective, batch)[0]
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-2)


def test_pooling_uses_real_tokens_only() -> None:
    hidden = torch.arange(8.0).view(1, 4, 2)
    ends = torch.tensor([1])
    assert pooled(hidden, ends, "last").tolist() == [[2, 3]]
    assert pooled(hidden, ends, "mean").tolist() == [[1, 2]]
