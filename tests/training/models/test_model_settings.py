"""How a model is built and described: arguments of loading, checks at their boundaries, and the values in messages."""

import json
import logging
import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from raymill.cluster import guard
from raymill.cluster.errors import ConfigError, DataError, RaymillError, StorageError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.model_folder.checks import LINEAR_NAMES, check_model, differences, embedded_tokens
from raymill.training.model_folder.folder import _sampled, is_path, located, on_hub, read_object, shape_text
from raymill.training.models import attention, build, cost
from raymill.training.models.attention import choose_attention
from raymill.training.models.base import decoder_layers, model_config
from raymill.training.models.build import build_objective, expert_parameters
from raymill.training.models.compiling import CompileClock, _short
from raymill.training.models.compose import _card, _config, _ranks, largest_deviation, weighted_sum
from raymill.training.models.cost import module_names, transformers_config
from raymill.training.models.objective import RowClassifier
from tests.support.adapter_pairs import lora_of, pair
from tests.support.model_folders import folder
from tests.support.tiny_models import MODELS, tiny_config


class Stopped(Exception):
    pass


QLORA = {"method": "qlora", "workers": {"count": 1, "gpus_each": 1}}


@pytest.mark.parametrize(
    ("settings", "device", "compute", "dtype", "placed"),
    [
        ({"precision": "bf16"}, "cpu", "cuda", torch.float32, None),
        ({"precision": "bf16", "method": "lora"}, "cpu", "cuda", torch.bfloat16, None),
        ({"precision": "float32", "method": "lora"}, "cuda", None, torch.float32, "cuda"),
        ({"precision": "bf16", "method": "probe"}, "cuda", None, torch.bfloat16, "cuda"),
        (QLORA | {"precision": "bf16"}, "cpu", "cuda", torch.bfloat16, "cpu"),
    ],
)
def test_a_base_is_loaded_in_the_type_and_place_of_its_method(
    settings, device, compute, dtype, placed, tmp_path, monkeypatch
):
    seen: dict[str, Any] = {}

    def load_base(store, model, seed, dtype, attention, **how):
        seen.update(how, dtype=dtype, seed=seed, attention=attention)
        raise Stopped

    monkeypatch.setattr(build, "load_base", load_base)
    monkeypatch.setattr("raymill.cluster.entry.find_spec", lambda name: name)
    config = tiny_config({"name": folder(tmp_path / "a")}, seed=5, attention="sdpa", **settings)
    with pytest.raises(Stopped):
        build_objective(config, device=device, compute=compute)
    assert (seen["dtype"], seen["seed"], seen["attention"]) == (dtype, 5, "sdpa")
    assert seen["kind"] is (AutoModel if config.method == "probe" else AutoModelForCausalLM)
    assert seen.get("device_map") == (None if placed is None else {"": torch.device(placed)})
    assert ("quantization_config" in seen) == (config.method == "qlora")
    if config.method == "qlora":
        four = seen["quantization_config"]
        assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == (True, "nf4", True)
        assert four.bnb_4bit_compute_dtype == torch.bfloat16
        with pytest.raises(ConfigError, match="this worker computes on cpu"):
            build_objective(config, device="cuda", compute="cpu")
        monkeypatch.setattr("raymill.cluster.entry.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"^method: qlora: bitsandbytes not installed .*'raymill\[qlora\]'"):
            build_objective(config, device=device, compute=compute)


def test_each_reason_against_the_kernel_is_named_alone(monkeypatch):
    monkeypatch.setattr(attention, "_KERNEL", object())

    def reasons(device: str = "cuda", bf16: bool = True, virtual: bool = False, **settings: Any) -> list[str]:
        config = model_config(MODELS["llama"] | settings)
        try:
            choose_attention("varlen", config, device, bf16, virtual)
        except ConfigError as error:
            return str(error).removeprefix("attention: varlen does not fit: ").removesuffix(". Use auto.").split("; ")
        assert choose_attention("auto", config, device, bf16, virtual) == attention.VARLEN
        return []

    assert reasons() == reasons(head_dim=256) == reasons(head_dim=8) == []
    assert reasons(device="cpu") == ["it needs a GPU"]
    assert reasons(bf16=False) == ["it needs precision bf16"]
    assert reasons(virtual=True) == ["virtual tokens precede every row"]
    assert reasons(head_dim=264) == ["head size 264 is above 256"]
    assert reasons(head_dim=12) == ["head size 12 is no multiple of 8"]
    assert reasons(attention_dropout=0.25) == ["attention dropout is 0.25"]
    gpt2 = [choose_attention("auto", model_config(MODELS["gpt2"] | {"attn_pdrop": dropout}), "cuda", True, False)
            for dropout in (0.0, 0.25)]  # fmt: skip
    assert gpt2 == [attention.VARLEN, None]
    assert choose_attention("auto", model_config(MODELS["llama"]), "cpu", True, False) is None


def test_a_model_on_a_store_whose_config_lacks_its_type_is_refused_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.training.models.cost._is_remote", lambda model: True)
    monkeypatch.setattr("raymill.training.models.cost.paths.is_remote", lambda name: True)
    for content, said in (({}, "has no 'model_type'; text was expected"), ({"model_type": 3}, "'model_type' is '3'")):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=re.escape(f"{tmp_path}/config.json: {said}")):
            transformers_config(Store(), Model(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty; JSON was expected"),
        ("[1, 2]", "holds '[1, 2]', where a JSON object was expected"),
        ("{oops", "it begins with b'{oops'"),
        ('{"a": [1]}', "'a' is '[1]'; an object was expected there"),
        ('{"b": 1}', "has no 'a'; an object was expected there"),
    ],
)
def test_a_json_file_is_refused_with_what_it_holds(content, said, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=re.escape(said)):
        read_object(Store(), str(tmp_path / "a.json"), {"a": dict})
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": {}, "b": 1}')
    assert read_object(Store(), str(tmp_path / "a.json"), {"a": dict}) == {"a": {}, "b": 1}
    assert [shape_text(shape) for shape in ((), (7,), (32000, 4096))] == ["one value", "7", "32,000 x 4,096"]


DESCRIBED = MODELS["llama"] | {"tie_word_embeddings": False}


def weights(**changed: tuple[int, ...] | None) -> dict[str, tuple[int, ...]]:
    """The shapes of MODELS["llama"] by hand: 32 wide, 4 heads of 8, 2 of them for keys, 48 feed-forward, 300 tokens."""
    layer = {
        "q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32), "gate_proj": (48, 32),
        "up_proj": (48, 32), "down_proj": (32, 48),
    }  # fmt: skip
    found: dict[str, tuple[int, ...] | None] = {f"layers.{n}.{k}.weight": v for n in range(2) for k, v in layer.items()}
    found |= {"embed_tokens.weight": (300, 32), "lm_head.weight": (300, 32)}
    found |= {f"{name.replace('__', '.')}.weight": shape for name, shape in changed.items()}
    return {name: shape for name, shape in found.items() if shape is not None}


@pytest.mark.parametrize(
    ("described", "shapes", "head", "said"),
    [
        (DESCRIBED, weights(), True, []),
        (DESCRIBED, weights(layers__0__q_proj=(32, 31)), True,
         ["layers.0.q_proj.weight is 32 x 31, but config.json describes 32 x 32"]),
        (DESCRIBED | {"vocab_size": 301}, weights(), True,
         ["embed_tokens.weight is 300 x 32, but config.json describes 301 x 32",
          "lm_head.weight is 300 x 32, but config.json describes 301 x 32"]),
        (DESCRIBED | {"num_hidden_layers": 3}, weights(), True,
         ["there are 2 layers, but config.json has num_hidden_layers: 3"]),
        (DESCRIBED, weights(layers__1__up_proj=None), True, ["there is no up_proj of layer 1"]),
        (DESCRIBED, weights(layers__1__up_proj=None, layers__0__q_proj=None, layers__0__k_proj=None), True,
         ["there is no q_proj of layer 0, nor 2 more"]),
        (DESCRIBED, weights(lm_head=None), True,
         ["there is no lm_head.weight, but config.json does not state tie_word_embeddings: true"]),
        (DESCRIBED, weights(lm_head=None), False, []),
        (DESCRIBED | {"tie_word_embeddings": True}, weights(lm_head=None), True, []),
        (DESCRIBED | {"intermediate_size": None}, weights(layers__0__up_proj=(9, 30)), True,
         ["layers.0.up_proj.weight is 9 x 30, but config.json describes any x 32"]),
        (DESCRIBED | {"head_dim": 16}, weights(), True,
         [f"layers.{n}.{name}.weight is {rows} x {columns}, but config.json describes {wanted}" for n in range(2)
          for name, rows, columns, wanted in (("q_proj", 32, 32, "64 x 32"), ("k_proj", 16, 32, "32 x 32"),
                                              ("v_proj", 16, 32, "32 x 32"), ("o_proj", 32, 32, "32 x 64"))]),
        (DESCRIBED | {"model_type": "of no table"}, weights(lm_head=None), True, []),
    ],
)  # fmt: skip
def test_differences_of_config_and_weights_are_named_with_both_sizes(described, shapes, head, said):
    assert differences(described, shapes, head) == said


def test_checks_of_sizes_hold_at_their_boundary(tmp_path):
    place = folder(tmp_path / "a", tokens=300)
    for length, fits in ((64, True), (65, False)):
        config = tiny_config({"name": place}, sequence_length=length, tokens_per_step=length)
        if fits:
            assert check_model(config) == []
        else:
            with pytest.raises(ConfigError, match=r"65 is above the model's max_position_embeddings, 64,"):
                check_model(config)
    assert embedded_tokens(Store(), Model(name=place)) == 300
    assert embedded_tokens(Store(), Model(config={"model_type": "llama"}, tokenizer="t")) is None


def test_a_lora_target_is_refused_with_every_module_and_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as refused:
        check_model(tiny_config(method="lora", lora={"target": ["q_proj", "v_prj"]}))
    names = ", ".join(LINEAR_NAMES["llama"])
    assert "no module of this llama is named v_prj. The nearest: v_proj, " in str(refused.value)
    assert str(refused.value).endswith(f"Its modules: {names}; or all-linear.")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("org/model", False), ("model", False), ("a/b/c", True), ("/a", True), ("./a", True), ("../a", True),
        ("~/a", True), ("s3://b/a", True), ("file:a", True),
    ],
)  # fmt: skip
def test_a_name_with_at_most_one_slash_is_a_hub_name(name, path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert is_path(name) is path
    assert on_hub(Model(name=name)) is not path
    if not path:
        (tmp_path / name).mkdir(parents=True)
        assert not on_hub(Model(name=name)), "a folder of that name is here"


def test_a_hub_name_is_pinned_to_its_commit_unless_it_has_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    asked: list[tuple[str, str | None]] = []
    commits: dict[str | None, str] = {None: "a" * 40, "main": "b" * 40}

    def commit(name: str, revision: str | None) -> str | None:
        asked.append((name, revision))
        return commits.get(revision)

    monkeypatch.setattr("raymill.training.model_folder.folder._commit", commit)
    found = [located(Model(name="o/m", revision=revision)).revision for revision in (None, "main", "gone", "c" * 40)]
    assert found == ["a" * 40, "b" * 40, "gone", "c" * 40]
    assert asked == [("o/m", None), ("o/m", "main"), ("o/m", "gone")]
    both = located(Model(name="o/m", tokenizer="words"))
    assert (both.name, both.tokenizer, both.revision) == ("o/m", str(tmp_path / "words"), "a" * 40)


def test_a_fingerprint_samples_header_start_and_end_of_a_file(tmp_path):
    header, size = 100, 40 * 4096
    whole = bytearray(header.to_bytes(8, "little") + b"h" * header + bytes(size))

    def sampled(at: int | None = None) -> bytes:
        data = bytearray(whole)
        if at is not None:
            data[at] = 7
        (tmp_path / "a.safetensors").write_bytes(data)
        return _sampled(Store(), str(tmp_path / "a.safetensors"))

    usual = sampled()
    assert usual.startswith(f"a.safetensors{len(whole)}".encode() + b"h" * header)
    for at in (8, 107, 108, 108 + 4095, len(whole) - 4096, len(whole) - 1):
        assert sampled(at) != usual
    # Sixteen samples, evenly apart.
    changed = [page for page in range(40) if any(sampled(108 + 4096 * page + at) != usual for at in (0, 2000, 4095))]
    assert len(changed) >= 16 and {0, 39} <= set(changed)
    assert len(usual) == len(f"a.safetensors{len(whole)}") + header + 16 * 4096


def test_a_combination_lists_what_differs_from_the_usual_rank():
    one = lora_of(pair("a.x", 2, 1) | pair("b.x", 2, 2) | pair("c.x", 2, 5))
    two = lora_of(pair("a.x", 3, 3), use_rslora=True)
    found = weighted_sum([one, two], [0.5, 2.0])
    assert (found.config["r"], found.config["lora_alpha"], found.config["use_rslora"]) == (2, 2, False)
    assert found.config["rank_pattern"] == found.config["alpha_pattern"] == {"a\\.x": 5}
    assert list(found.config["target_modules"]) == ["x"]
    assert [_ranks(adapter) for adapter in (one, two, found)] == ["2", "3", "2 to 5"]
    assert largest_deviation(found, [one, two], [0.5, 2.0]) < 1e-6
    # By hand: alpha 4; rank 2 has scale 4 / 2, rank 3 with rsLoRA 4 / sqrt(3).
    a, b = one.tensors["base_model.model.a.x.lora_A.weight"], one.tensors["base_model.model.a.x.lora_B.weight"]
    c, d = two.tensors["base_model.model.a.x.lora_A.weight"], two.tensors["base_model.model.a.x.lora_B.weight"]
    wanted = 0.5 * 2 * (b @ a) + 2.0 * 4 / 3**0.5 * (d @ c)
    torch.testing.assert_close(found.change("base_model.model.a.x").float(), wanted)
    layers = lora_of(pair("a.x", 3, 3), layers_to_transform=[0])
    mixed = _config([one, layers], ["base_model.model.a.x"], one.tensors)
    assert (mixed["target_modules"], mixed["layers_to_transform"]) == (["a.x"], None)
    same = _config([layers, layers], ["base_model.model.a.x"], one.tensors)
    assert (same["target_modules"], same["layers_to_transform"]) == (["x"], [0])
    card = _card(Model(name="org/base", revision="r1"), {"hand-made": 0.5}, [one], "2 to 5", 1.25e-7)
    assert "| 0.5 | `hand-made` | 2 | 3 |" in card and "# A combination of 1 LoRA adapters" in card
    assert "Base model: org/base at revision r1." in card and "is 1.2e-07." in card


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LOHA"}, "it is of type LOHA"), ({"use_dora": True}, "DoRA"), ({"bias": "all"}, "trains biases"),
        ({"lora_bias": True}, "trains biases"), ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"target_parameters": ["x"]}, "experts"), ({"layer_replication": [[0, 1]]}, "repeats layers"),
        ({"trainable_token_indices": [1]}, "new rows"),
    ],
)  # fmt: skip
def test_an_adapter_that_is_not_additive_is_refused_with_its_one_reason(config, said):
    with pytest.raises(ConfigError, match=f'hand-made"?: cannot be combined exactly: [^;]*{said}[^;]*Leave it out'):
        weighted_sum([lora_of(pair("a.x", 2, 1), **config)], [1.0])
    weighted_sum([lora_of(pair("a.x", 2, 1), bias="none")], [1.0])
    lacking = {name: values for name, values in pair("a.x", 2, 1).items() if name.endswith("A.weight")}
    with pytest.raises(ConfigError, match=r"lora_B\.weight is no A or B of LoRA, or lacks its counterpart"):
        weighted_sum([lora_of(lacking)], [1.0])


def test_a_probes_mode_equals_the_one_of_its_classifier():
    base = build_objective(tiny_config("llama", method="probe"), classes=3)
    assert isinstance(base, RowClassifier) and base.training and base.classifier.training and not base.model.training
    base.eval()
    assert not base.training and not base.classifier.training
    base.train()
    assert base.training and base.classifier.training and not base.model.training
    assert (base.classifier.in_features, base.classifier.out_features) == (32, 3)


def test_experts_are_the_frozen_three_dimensional_parameters_by_their_last_two_names():
    model = nn.Module()
    model.mlp = nn.Module()
    for name, shape, frozen in (("up", (2, 3, 4), True), ("down", (2, 3, 4), True), ("gate", (3, 4), True),
                                ("own", (2, 3, 4), False), ("base_layer", (2, 3, 4), True)):  # fmt: skip
        model.mlp.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=not frozen))
    assert expert_parameters(model) == ["mlp.down", "mlp.up"]


def test_decoder_layers_are_the_largest_list_of_equal_members():
    def of(sizes: list[int]) -> nn.ModuleList:
        return nn.ModuleList([nn.Linear(size, size) for size in sizes])

    model = nn.Module()
    assert decoder_layers(model) == []
    model.small, model.large, model.mixed = of([2, 2, 2]), of([9, 9]), nn.ModuleList([nn.Linear(99, 99), nn.ReLU()])
    assert decoder_layers(model) == list(model.large)


def test_a_message_of_the_compiler_is_its_first_two_lines_and_compiles_are_counted(caplog, monkeypatch):
    assert _short(ValueError("  backend failed \n\n because of b\n third")) == "backend failed because of b"
    assert _short(ValueError(" \n")) == "no message" and len(_short(ValueError("x" * 999))) == 300
    clock, now = CompileClock(), iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr("raymill.training.models.compiling.time.perf_counter", lambda: next(now))
    with caplog.at_level(logging.INFO, "raymill.training.models.compiling"):
        for _ in range(2):
            clock._begin(None)
            clock._end(None)
    assert (clock.seconds, clock.compiles) == (3.5, 2)
    assert caplog.messages == [f"torch.compile: compile {n} took {s} s" for n, s in ((1, 2.5), (2, 1.0))]


def test_a_random_models_unknown_setting_is_refused_with_the_nearest():
    assert issubclass(ConfigError, RaymillError)
    with pytest.raises(ConfigError, match=r"model\.config\.hidden_sise: llama has no such setting\. Did you mean hidd"):
        model_config(MODELS["llama"] | {"hidden_sise": 3})
    with pytest.raises(ConfigError, match=r"no model type llamo\. Did you mean .*llama"):
        model_config({"model_type": "llamo"})
    with pytest.raises(ConfigError, match=r"no model type zzzzzz\. Did you mean llama\?"):
        model_config({"model_type": "zzzzzz"})


def test_a_path_without_a_folder_is_named_as_such_before_the_hub_is_asked():
    with pytest.raises(StorageError, match=r"model \./models/llama: no such folder on this machine"):
        transformers_config(Store(), Model(name="./models/llama"))
    with pytest.raises(StorageError, match=r"a file, not a folder\. Give the folder of a model"):
        transformers_config(Store(), Model(name=__file__))


def test_a_models_size_is_checked_once_and_again_with_other_numbers(monkeypatch):
    checked = []
    monkeypatch.setattr(guard, "_found_once", {})
    monkeypatch.setattr(cost, "check_size", lambda make, stored, where: checked.append(where))

    def checks(**settings: Any) -> int:
        checked.clear()
        module_names(Store(), Model(config=MODELS["llama"] | settings, tokenizer="train"))
        return len(checked)

    assert [checks(), checks(), checks(num_hidden_layers=3), checks(num_hidden_layers=3)] == [1, 0, 1, 0]
