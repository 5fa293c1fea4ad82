"""Experts of a mixture in a bf16 run: their grouped products are bf16 with every engine, and gradients float32."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raymill.training.models.build import build_objective
from raymill.training.models.experts import compute_experts_in_bf16
from tests.support.ranks import run_ranks
from tests.support.tiny_models import MODELS
from tests.support.training_cases import LENGTH, VOCABULARY, Case, micro_batches, new_engine, train_with_engine

MIXTURE = MODELS["qwen3_moe"] | {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH}
MORE = {"model": {"config": MIXTURE, "tokenizer": "train"}, "precision": "bf16"}


class GroupedProducts(TorchDispatchMode):
    """The number types of the operands of all grouped products inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[tuple[torch.dtype, torch.dtype]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "grouped_mm" in str(function):
            self.types.append((args[0].dtype, args[1].dtype))
        return function(*args, **(kwargs or {}))


def products(case: Case) -> tuple[list, set]:
    engine, objective = new_engine(case)
    try:
        (batch, *_) = micro_batches(case, 0, 0, 1)
        with GroupedProducts() as seen:
            loss, _ = engine.module(**objective.tensors(batch, "cpu"))
            engine.backward(loss / 100, last=True)
        return seen.types, {one.grad.dtype for one in engine.trained.values()}
    finally:
        engine.close()


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
@pytest.mark.parametrize("recomputing", [False, True])
def test_the_grouped_products_of_experts_are_bf16(engine, recomputing):
    case = Case(engine, more=MORE | {"activation_checkpointing": recomputing})
    [(types, gradients)] = run_ranks(1, products, case)
    assert types and {one for pair in types for one in pair} == {torch.bfloat16}
    assert gradients == {torch.float32}


def test_losses_of_ddp_are_near_those_of_fsdp2():
    wanted = run_ranks(1, train_with_engine, Case("fsdp2", more=MORE))[0]
    found = run_ranks(2, train_with_engine, Case("ddp", more=MORE))[0]
    assert found["losses"] == pytest.approx(wanted["losses"], rel=2e-3)


def test_weights_keep_their_names_and_type_and_are_whole_after_an_error():
    objective = build_objective(Case("ddp", more=MORE).config())
    names = [name for name, _ in objective.named_parameters()]
    [experts, *_] = [one for one in objective.modules() if any(p.dim() == 3 for p in one.parameters(recurse=False))]
    with pytest.raises(AttributeError):
        experts(torch.zeros(3), None, None)
    assert [name for name, _ in objective.named_parameters()] == names
    assert {one.dtype for one in objective.parameters()} == {torch.float32}
    assert all(getattr(experts, name) is one for name, one in experts.named_parameters(recurse=False))


def test_a_model_without_experts_is_not_changed():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    compute_experts_in_bf16(model)
    assert not model._forward_pre_hooks and not model[0]._forward_pre_hooks
