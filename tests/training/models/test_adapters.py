"""Adapters: what is trained, what is not, and that what is trained moves and learns."""

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from raymill.cluster.errors import ConfigError
from raymill.training.model_folder.checks import check_model
from raymill.training.models.build import build_objective, expert_parameters, with_adapter
from raymill.training.models.objective import Objective
from tests.support.tiny_models import MODELS, batch_of, loss_of, random_documents, tiny_config

torch.set_num_threads(1)

METHODS = ["full", "lora", "prefix", "prompt", "probe"]


def objective_for(method: str, model: str = "llama", **settings: object) -> Objective:
    return build_objective(tiny_config(model, method=method, **settings), classes=2)


def trained(objective: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}


def adapted(objective: torch.nn.Module) -> list[str]:
    """Names of the modules, or of the expert parameters, that have a trained adapter."""
    return [
        f"{name}.{module.parameter_name}" if hasattr(module, "parameter_name") else name
        for name, module in objective.named_modules()
        if isinstance(module, BaseTunerLayer) and any(parameter.requires_grad for parameter in module.parameters())
    ]


def copies(objective: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained(objective).items()}


def unmoved(objective: torch.nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, parameter in trained(objective).items() if torch.equal(parameter, before[name])]


def taken_steps(objective: Objective, steps: int, learning_rate: float = 0.01) -> list[float]:
    """Losses on one batch of documents with a class each: those of class 0 begin with a 7, the others with a 9."""
    documents = [[[7 + 2 * (row % 2), *row_ids]] for row, (row_ids,) in enumerate(random_documents([[11]] * 4))]
    batch = batch_of(documents)
    optimizer = torch.optim.AdamW(trained(objective).values(), learning_rate, weight_decay=0)
    losses = []
    for _ in range(steps):
        loss, _ = loss_of(objective, batch)
        (loss / objective.loss_denominator(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("method", METHODS)
def test_a_method_lowers_the_loss_and_touches_nothing_that_is_frozen(method: str) -> None:
    objective = objective_for(method)
    frozen = {name: p.clone() for name, p in objective.named_parameters() if not p.requires_grad}
    before = copies(objective)
    losses = taken_steps(objective, 12)
    assert losses[-1] < losses[0]
    now = dict(objective.named_parameters())
    assert all(torch.equal(values, now[name]) for name, values in frozen.items())
    assert unmoved(objective, before) == []


@pytest.mark.parametrize("extra", [{}, {"rslora": True}, {"dora": True}, {"dropout": 0.1}])
def test_lora_adapts_every_linear_module_but_the_lm_head(extra: dict[str, object]) -> None:
    objective = objective_for("lora", lora={"rank": 4, "alpha": 8, **extra})
    linear = {
        name.removesuffix(".base_layer").removeprefix("model.base_model.model.")
        for name, module in objective.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    found = {name.removeprefix("model.base_model.model.") for name in adapted(objective)}
    assert found == linear - {"lm_head"}
    assert len(found) == 2 * 7
    losses = taken_steps(objective, 8)
    assert losses[-1] < losses[0]


def test_lora_trains_as_many_parameters_as_counted_by_hand() -> None:
    objective = objective_for("lora", lora={"rank": 4})
    # Per layer: q 32x32, k and v 32x16, o 32x32, gate and up 32x48, down 48x32, each with rank 4.
    per_layer = 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    assert sum(parameter.numel() for parameter in trained(objective).values()) == 2 * per_layer


def test_gpt2s_transposed_matrices_are_adapted_too() -> None:
    objective = objective_for("lora", "gpt2")
    assert len(adapted(objective)) == 2 * 4
    losses = taken_steps(objective, 8)
    assert losses[-1] < losses[0]


def test_experts_of_a_mixture_are_adapted_and_all_of_them_move() -> None:
    objective = objective_for("lora", "qwen3_moe", lora={"rank": 2})
    assert sum("experts" in name for name in adapted(objective)) == 2 * 2
    assert expert_parameters(objective) == []
    before = copies(objective)
    taken_steps(objective, 3)
    # B starts at zero, so A has no gradient in the first step: every B moves in any training.
    assert [name for name in unmoved(objective, before) if "lora_B" in name] == []


def test_scaling_is_alpha_over_rank_or_over_its_root() -> None:
    scales = []
    for rslora in (False, True):
        objective = objective_for("lora", lora={"rank": 4, "alpha": 8, "rslora": rslora})
        module = objective.model.base_model.model.model.layers[0].self_attn.q_proj
        scales.append(module.scaling["default"])
    assert scales == [2.0, 4.0]


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt", "probe"])
def test_equal_seeds_give_equal_adapters_and_other_seeds_others(method: str) -> None:
    first, second = (trained(objective_for(method, seed=3)) for _ in range(2))
    other = trained(objective_for(method, seed=4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("method", METHODS)
def test_in_bf16_what_is_frozen_is_stored_in_bf16_and_what_is_trained_in_float32(method: str) -> None:
    objective = objective_for(method, precision="bf16")
    for parameter in objective.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_activation_checkpointing_changes_no_gradient(method: str, model: str) -> None:
    batch = batch_of(random_documents([[12], [16]]))
    found = []
    for activation_checkpointing in (False, True):
        objective = objective_for(method, model, activation_checkpointing=activation_checkpointing)
        loss, _ = loss_of(objective, batch)
        loss.backward()
        found.append({name: parameter.grad for name, parameter in trained(objective).items()})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-5, atol=1e-6)


def test_activation_checkpointing_really_keeps_less() -> None:
    batch = batch_of(random_documents([[16]]))
    kept = []
    for activation_checkpointing in (False, True):
        objective = objective_for("full", activation_checkpointing=activation_checkpointing)
        values = []

        def keep(tensor: torch.Tensor, values: list[int] = values) -> torch.Tensor:
            values.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss_of(objective, batch)
        kept.append(sum(values))
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "prefix", "activation_checkpointing": True}, r"activation_checkpointing.*prefix.*method prompt"),
        ({"method": "lora", "lora": {"target": "q_prj"}}, r"q_prj.*linear modules are down_proj.*q_proj"),
        (
            {"method": "lora", "model": "gpt2", "lora": {"target": ["lm_head", "c_attn"]}},
            r"an adapter of lm_head could not be merged",
        ),
        (
            {"method": "lora", "model": "gpt2", "lora": {"target": ["transformer.wte", "c_attn"]}},
            r"an adapter of transformer.wte could not be merged",
        ),
        ({"method": "qlora", "workers": {"gpus_each": 1}, "model": {"name": "MODEL"}}, r"qlora.*NVIDIA GPU.*cpu"),
    ],
)
def test_an_adapter_that_cannot_work_is_refused_with_the_fix(settings: dict, said: str, tmp_path) -> None:
    settings = dict(settings)
    model = settings.pop("model", "llama")
    if isinstance(model, dict):
        build_objective(tiny_config("llama")).model.save_pretrained(tmp_path)
        model = {"name": str(tmp_path), "tokenizer": "t"}
    with pytest.raises(ConfigError, match=said):
        build_objective(tiny_config(model, **settings))


def test_an_lm_head_of_its_own_may_be_adapted() -> None:
    assert [name.rpartition(".")[2] for name in adapted(objective_for("lora", lora={"target": "lm_head"}))] == [
        "lm_head"
    ]


def test_virtual_tokens_begin_as_embeddings_of_tokens() -> None:
    (tokens,) = trained(objective_for("prompt", prompt={"tokens": 3})).values()
    known = objective_for("prompt").model.get_input_embeddings().weight
    assert tokens.shape == (3, known.shape[1])
    assert all((known == row).all(dim=1).any() for row in tokens)


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
def test_an_adapter_is_made_without_warnings_and_leaves_torchs_random_numbers(method: str, recwarn) -> None:
    for model in ("gpt2", "llama"):
        base = build_objective(tiny_config(model)).model
        state = torch.random.get_rng_state()
        adapter = with_adapter(tiny_config(model, method=method), base)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert adapter.peft_config["default"].task_type == "CAUSAL_LM"
    assert [str(one.message) for one in recwarn] == []


def test_experts_are_named_by_their_last_two_parts_once() -> None:
    def layer() -> torch.nn.Module:
        made = torch.nn.Module()
        made.experts = torch.nn.Module()
        for name, shape, trains in (("down", (2, 3, 4), False), ("bias", (2, 3), False), ("moves", (2, 3, 4), True),
                                    ("base_layer", (2, 3, 4), False), ("lora_A", (2, 3, 4), False)):  # fmt: skip
            made.experts.register_parameter(name, torch.nn.Parameter(torch.zeros(shape), requires_grad=trains))
        made.experts.up = torch.nn.Parameter(torch.zeros(2, 3, 4), requires_grad=False)
        return made

    assert expert_parameters(torch.nn.ModuleList([layer(), layer()])) == ["experts.down", "experts.up"]


def test_names_choose_the_adapted_modules() -> None:
    assert len(adapted(objective_for("lora", lora={"target": "q_proj"}))) == 2
    assert len(adapted(objective_for("lora", lora={"target": ["q_proj", "down_proj"]}))) == 4


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_probe_learns_a_class_that_stands_in_the_text(pool: str) -> None:
    objective = objective_for("probe", probe={"pool": pool})
    batch = batch_of([[[7, 1, 2, 3]], [[9, 1, 2, 3]], [[7, 4]], [[9, 4]]])
    assert objective.loss_denominator(batch) == 4
    optimizer = torch.optim.AdamW(trained(objective).values(), 0.1)
    for _ in range(30):
        loss, correct = loss_of(objective, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert correct.item() == 4


def test_every_tiny_model_takes_lora() -> None:
    for model in MODELS:
        objective = objective_for("lora", model)
        loss, _ = loss_of(objective, batch_of(random_documents([[8, 8]])))
        loss.backward()
        assert all(parameter.grad is not None for parameter in trained(objective).values()), model


def lora_bits(cast: bool, settings: dict[str, object]) -> tuple[list[str], list[torch.Tensor]]:
    """Names of the LoRA layers that cast their input; loss and gradients after two steps of a bf16 run."""
    objective = objective_for("lora", precision="bf16", lora={"rank": 4, **settings})
    layers = {name: m for name, m in objective.named_modules() if hasattr(m, "cast_input_dtype_enabled")}
    casting = [name for name, module in layers.items() if module.cast_input_dtype_enabled]
    if cast:
        for module in layers.values():
            module.cast_input_dtype_enabled = True
    torch.manual_seed(3)
    batch = batch_of(random_documents([[5, 3, 6], [9, 1, 6]]))
    optimizer = torch.optim.AdamW(trained(objective).values(), 0.05)
    for _ in range(3):  # lora_B starts at zero: the gradient of lora_A shows from the second step on
        optimizer.zero_grad()
        loss, _ = loss_of(objective, batch)
        (loss / 20).backward()
        optimizer.step()
    return casting, [loss, *(parameter.grad for parameter in trained(objective).values())]


def test_a_bf16_run_does_not_cast_the_input_of_lora_and_has_the_same_bits() -> None:
    casting, without = lora_bits(False, {})
    assert casting == []
    _, with_cast = lora_bits(True, {})
    assert all(torch.equal(one, other) for one, other in zip(without, with_cast, strict=True))


@pytest.mark.parametrize("settings", [{"dropout": 0.1}, {"dora": True}])
def test_the_cast_stays_where_it_changes_bits(settings: dict[str, object]) -> None:
    casting, _ = lora_bits(False, settings)
    assert len(casting) == 2 * 7


def test_a_module_to_save_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora.modules_to_save: the model has no module embed"):
        objective_for("lora", lora={"modules_to_save": ["embed"]})


def test_a_linear_module_that_is_trained_in_full_has_no_adapter() -> None:
    objective = objective_for("lora", lora={"rank": 4, "modules_to_save": ["q_proj"]})
    parts = {name.partition(".q_proj.")[2] for name in trained(objective) if ".q_proj." in name}
    assert parts == {"modules_to_save.default.weight"} and len(adapted(objective)) == 2 * 6


def test_a_module_to_save_is_looked_up_before_anything_is_loaded_and_is_no_target() -> None:
    with pytest.raises(ConfigError, match=r"no module of this llama is named embed. Its modules: embed_tokens, q_proj"):
        check_model(tiny_config(method="lora", lora={"modules_to_save": ["norm", "embed"]}))
    check_model(tiny_config(method="lora", lora={"modules_to_save": ["norm", "embed_tokens"]}))
    with pytest.raises(ValueError, match=r"lora.modules_to_save: lm_head is in lora.target too"):
        tiny_config(method="lora", lora={"target": ["lm_head", "q_proj"], "modules_to_save": ["lm_head"]})
