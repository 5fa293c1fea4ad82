"""Settings of an adapter that others wrote reach peft only if loading takes no more than its tensors do."""

import dataclasses
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from raymill.cluster.errors import DataError
from raymill.cluster.store.store import Store
from raymill.training.model_folder.adapter_settings import adapter_settings
from raymill.training.model_folder.folder import Addition, addition_in
from raymill.training.models.adapters import load_adapted
from tests.support.model_folders import chat_model

LANGUAGE = ("LORA", "PREFIX_TUNING", "PROMPT_TUNING"), "CAUSAL_LM"
# It takes time with two to the power of the length of a module's name.
BACKTRACKS = r"(\w+\.?)+!"
ADAPTERS = {
    "of embeddings": LoraConfig(r=8, target_modules=["q_proj", "embed_tokens", "lm_head"], task_type="CAUSAL_LM"),
    "LORA": LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "PROMPT_TUNING": PromptTuningConfig(num_virtual_tokens=7, task_type="CAUSAL_LM"),
    "PREFIX_TUNING": PrefixTuningConfig(num_virtual_tokens=7, task_type="CAUSAL_LM"),
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    chat_model(root / "model", 1)
    for kind, config in ADAPTERS.items():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(root / "model"), config)
        model.save_pretrained(root / kind)
    return root


def found_in(folder, **settings) -> Addition:
    found = addition_in(Store(), str(folder))
    assert found is not None
    return dataclasses.replace(found, settings=found.settings | settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": f"{BACKTRACKS}|.*(q_proj|v_proj)"},
        {"target_modules": ["q_proj"] * 10_001},
        {"exclude_modules": BACKTRACKS},
        {"modules_to_save": [BACKTRACKS]},
        {"layers_pattern": BACKTRACKS, "layers_to_transform": [0]},
        {"layers_to_transform": ["0"]},
        {"rank_pattern": {BACKTRACKS: 8}},
        {"target_modules": ["-" * 299 + "!"]},
        {"target_modules": ["\\\\." * 149 + "!"]},
        {"rank_pattern": {"q_proj": 100_000_000}},
        {"rank_pattern": {f"q{number}": 8 for number in range(1_001)}},
        {"rank_pattern": ["q_proj"]},
        {"alpha_pattern": {BACKTRACKS: 8}},
        {"alpha_pattern": {"q_proj": float("nan")}},
        {"r": 9},
        {"r": True},
        {"r": [8]},
        {"lora_alpha": 1e308},
        {"lora_alpha": "8"},
        {"use_dora": "yes"},
        {"init_lora_weights": "pissa_niter_1000000000"},
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 1_000_000_000}},
        {"layer_replication": [[0, 2]] * 20_000},
        {"trainable_token_indices": [1_000_000_000]},
        {"megatron_config": {"a": 1}, "megatron_core": "os"},
        {"bias": "all"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_settings_without_a_bound_on_time_or_memory_are_refused(adapters, settings):
    (name, *_) = settings
    with pytest.raises(
        DataError, match=rf"LORA: adapter_config\.json: '{name}' is .* not loaded from adapters of others"
    ):
        adapter_settings(Store(), str(adapters / "LORA"), found_in(adapters / "LORA", **settings), *LANGUAGE)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_setting_of_peft_has_its_default_unless_it_is_known(adapters, kind):
    """Also one that a later peft adds."""
    found = found_in(adapters / kind)
    given = adapter_settings(Store(), str(adapters / kind), found, *LANGUAGE)
    assert given.keys() <= found.settings.keys()
    for one in dataclasses.fields(ADAPTERS[kind]):
        odd = Addition(found.settings | {one.name: {"odd": object()}}, found.tensors, found.base)
        try:
            assert one.name not in adapter_settings(Store(), str(adapters / kind), odd, *LANGUAGE), one.name
        except DataError:
            continue


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("PROMPT_TUNING", "num_virtual_tokens"), ("PREFIX_TUNING", "num_virtual_tokens"), ("LORA", "r")],
)
def test_sizes_are_those_of_the_tensors(adapters, kind, setting):
    with pytest.raises(DataError, match=rf"'{setting}' is 1000000000"):
        adapter_settings(Store(), "a", found_in(adapters / kind, **{setting: 1_000_000_000}), *LANGUAGE)
    left = found_in(adapters / kind)
    del left.settings[setting]
    with pytest.raises(DataError, match=f"has no {setting}"):
        adapter_settings(Store(), "a", left, *LANGUAGE)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_loaded_as_peft_saved_it(adapters, kind):
    folder = adapters / kind
    model = load_adapted(Store(), str(folder), found_in(folder), *LANGUAGE, torch.float32)
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    saved = load_file(folder / "adapter_model.safetensors")
    assert {name for name in saved if ".base_layer." not in name} == loaded.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in loaded)


@pytest.mark.parametrize(
    "change", ["more", "fewer", "of another layer", "of another size", "NaN", "whole numbers", "of the base"]
)
def test_tensors_that_do_not_belong_to_the_settings_are_refused(adapters, tmp_path, change):
    """peft leaves them out, or takes zeros, without a word that anybody sees."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text((adapters / "LORA/adapter_config.json").read_text())
    tensors = load_file(adapters / "LORA/adapter_model.safetensors")
    (name, *_) = tensors
    value = tensors.pop(name)
    if change == "more":
        tensors |= {name: value, "base_model.model.lm_head.lora_A.weight": value.clone()}
    elif change == "of another layer":
        tensors[name.replace("layers.0", "layers.7")] = value
    elif change == "of another size":
        tensors[name] = torch.cat([value, value], dim=1)
    elif change == "NaN":
        tensors[name] = torch.full_like(value, torch.nan)
    elif change == "whole numbers":
        tensors[name] = value.int()
    elif change == "of the base":
        tensors |= {name: value, "base_model.model.lm_head.base_layer.weight": torch.zeros(20, 32)}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    reasons = {"of another size": "does not fit its base", "NaN": "NaN or infinite", "whole numbers": "of type I32"}
    with pytest.raises(DataError, match=reasons.get(change, "other tensors than")):
        load_adapted(Store(), str(folder), found_in(folder), *LANGUAGE, torch.float32)


def test_an_adapter_beside_another_model_is_computed_on_the_one_that_it_names(adapters, tmp_path):
    """Except an adapter of random weights, which names the folder `base` of its own export, wherever that was moved."""
    named = chat_model(tmp_path / "elsewhere/model", 2)
    beside = chat_model(tmp_path / "base", 3)
    shutil.copytree(adapters / "LORA", tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    for name, base in ((named, named), (str(tmp_path / "moved/base"), beside)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(name)}))
        assert found_in(tmp_path / "adapter").base.name == str(base)


def test_another_kind_of_adapter_is_refused(adapters):
    settings = json.loads((adapters / "LORA/adapter_config.json").read_text())
    found = found_in(adapters / "LORA")
    for other in ({"peft_type": "IA3"}, {"task_type": "SEQ_CLS"}, {"peft_type": ["LORA"]}):
        odd = Addition(settings | other, found.tensors, found.base)
        with pytest.raises(DataError, match="is none that is loaded here: LORA, CAUSAL_LM"):
            adapter_settings(Store(), "a", odd, ("LORA",), "CAUSAL_LM")
