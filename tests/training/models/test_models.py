"""Base models by every name, what is refused of them, and what tells them apart."""

import json
import shutil
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from raymill.cluster import guard, model_settings
from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.guard import WorkBounds
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.model_folder.folder import INDEX, located, model_fingerprint, model_folder
from raymill.training.models import base
from raymill.training.models.attention import require_independence
from raymill.training.models.base import decoder_layers, load_base
from raymill.training.models.build import build_objective
from tests.support.tiny_models import MODELS, batch_of, loss_of, random_documents, tiny_config

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_objective(tiny_config("llama", seed=5)).model.save_pretrained(folder)
    return folder


@pytest.fixture
def offline(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def load(name: str, store: Store = Store(), **how: Any) -> Any:  # noqa: B008 - a value without state
    return load_base(store, Model(name=name), 1, torch.float32, None, **how)


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(99)
    first, drawn = weights(build_objective(tiny_config(seed=3)).model), torch.rand(1)
    torch.manual_seed(99)
    assert torch.rand(1) == drawn, "building a model must leave torch's own generator where it was"
    torch.manual_seed(1)
    assert torch.equal(first, weights(build_objective(tiny_config(seed=3)).model))
    assert not torch.equal(first, weights(build_objective(tiny_config(seed=4)).model))


def test_random_weights_in_bf16_are_those_of_float32_rounded():
    exact = weights(build_objective(tiny_config(seed=3)).model)
    frozen = build_objective(tiny_config(seed=3, method="prompt", precision="bf16")).model.get_base_model()
    assert torch.equal(exact.bfloat16(), weights(frozen))


def test_a_folder_and_a_uri_of_it_are_the_same_model(saved, s3_root, s3_store):
    uri = paths.join(s3_root, "tiny")
    for path in saved.iterdir():
        s3_store.write_bytes(paths.join(uri, path.name), path.read_bytes())
    here, there = load(str(saved)), load(uri, s3_store)
    assert torch.equal(weights(here), weights(there))
    assert torch.equal(weights(here), weights(build_objective(tiny_config("llama", seed=5)).model))
    assert model_fingerprint(s3_store, Model(name=uri)) == model_fingerprint(Store(), Model(name=str(saved)))


def test_a_copy_is_the_same_model_and_one_trained_further_is_another(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    identity = model_fingerprint(Store(), Model(name=str(saved)))
    assert model_fingerprint(Store(), Model(name=str(tmp_path / "copy"))) == identity
    further = load(str(saved))
    with torch.no_grad():
        further.model.layers[0].mlp.up_proj.weight += 1e-3
    further.save_pretrained(tmp_path / "further")
    assert model_fingerprint(Store(), Model(name=str(tmp_path / "further"))) != identity
    (tmp_path / "copy" / "config.json").write_text(
        json.dumps(json.loads((saved / "config.json").read_text()) | {"rms_norm_eps": 0.5})
    )
    assert model_fingerprint(Store(), Model(name=str(tmp_path / "copy"))) != identity


def test_a_random_model_is_its_config_and_seed():
    one, other = (Model(config=MODELS[name], tokenizer="train") for name in ("llama", "qwen3"))
    assert model_fingerprint(Store(), one, 1) == model_fingerprint(Store(), one, 1)
    assert len({model_fingerprint(Store(), *drawn) for drawn in ((one, 1), (one, 2), (other, 1))}) == 3


def test_a_hub_name_is_the_commit_it_resolves_to(saved, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--some--model" / "snapshots" / commit
    shutil.copytree(saved, snapshot)
    asked = []

    def snapshot_download(name: str, **how: Any) -> str:
        asked.append((name, how["revision"]))
        assert not any("bin" in pattern for pattern in how["allow_patterns"])
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    model = Model(name="some/model", revision="v2")
    assert model_fingerprint(Store(), model) == f"some/model@{commit}"
    assert weights(load("some/model")).numel() > 0
    assert asked == [("some/model", "v2"), ("some/model", None)]


@pytest.mark.parametrize("name", ["./nowhere/tiny", "/nowhere/tiny", "runs/demo/export/merged"])
def test_a_path_without_a_folder_is_refused_as_a_path(name):
    with pytest.raises(StorageError, match=r"no such folder on this machine\. Give .*object store.*on the hub"):
        model_folder(Store(), Model(name=name))


@pytest.mark.parametrize("name", ["nobody/none", "none", "bad name!"])
def test_a_name_that_the_hub_does_not_give_is_refused_with_what_to_do_offline(name, offline):
    with pytest.raises(StorageError, match=r"the hub did not provide it.*HF_TOKEN.*Without a network"):
        model_folder(Store(), Model(name=name, revision="main"))


def test_a_hub_name_is_read_at_the_commit_that_its_branch_had_when_the_run_began(monkeypatch, saved):
    commits = {"main": "a" * 40, "v2": "b" * 40}
    asked = []

    def model_info(self: Any, name: str, revision: str | None, **how: Any) -> Any:
        asked.append(name)
        return types.SimpleNamespace(sha=commits[revision or "main"])

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    assert located(Model(name="some/model")).revision == "a" * 40
    assert located(Model(name="some/model", revision="v2")).revision == "b" * 40
    for settled in ({"name": "some/model", "revision": "c" * 40}, {"name": "s3://b/model"}, {"name": str(saved)}):
        assert located(Model(**settled)).revision == settled.get("revision")
    assert len(asked) == 2


def test_without_a_hub_a_name_is_read_at_the_commit_of_the_copy_that_is_here(monkeypatch, offline):
    copy = f"/cache/models--some--model/snapshots/{'d' * 40}"
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **how: copy)
    assert located(Model(name="some/model")).revision == "d" * 40


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    asked = []

    def model_info(self: Any, name: str, **how: Any) -> None:
        asked.append(name)
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    with pytest.raises(StorageError, match=r"it cannot be reached: no route.*Without a network"):
        model_folder(Store(), Model(name="nobody/none"))
    assert asked == ["nobody/none"]


def test_pickled_weights_are_refused_with_the_line_that_converts_them(saved, tmp_path):
    shutil.copy(saved / "config.json", tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    for look in (load, lambda name: model_fingerprint(Store(), Model(name=name))):
        with pytest.raises(DataError, match=r"pytorch_model.bin.*safetensors is needed.*run any code.*python -c"):
            look(str(tmp_path))


def test_a_folder_without_any_weights_is_called_incomplete_and_nothing_is_there_to_convert(saved, tmp_path):
    shutil.copy(saved / "config.json", tmp_path)
    with pytest.raises(DataError, match=r"no \*\.safetensors.*not complete: fetch it again") as refused:
        load(str(tmp_path))
    assert "from_pretrained" not in str(refused.value)


def test_an_adapters_folder_is_no_base_model(tmp_path):
    build_objective(tiny_config(method="lora")).model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"this is an adapter; a base model is needed.*merged"):
        load(str(tmp_path))


def test_missing_weights_are_refused_and_not_drawn_anew(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(saved, tmp_path / "short")
    tensors = load_file(saved / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "short" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"2 weights are missing in its files, for example lm_head.weight"):
        load(str(tmp_path / "short"))


POSITIONS = {
    "model_type": "gpt_neo", "vocab_size": 8, "hidden_size": 2, "num_layers": 1, "num_heads": 1, "intermediate_size": 4,
    "attention_types": [[["global"], 1]], "max_position_embeddings": 64, "window_size": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_position_embeddings": 60_000}, "the model has 3,600,000,000 bytes of buffers"),
        ({"intermediate_size": 10**9}, r"describes \d+,000,\d+,\d+ weights, and the files have"),
        ({"vocab_size": 10**9}, r"describes 2,000,000,\d+ weights, and the files have"),
    ],
)
def test_a_model_that_is_far_larger_than_its_files_is_refused_before_memory_is_taken(tmp_path, changes, said):
    build_objective(tiny_config(POSITIONS)).model.save_pretrained(tmp_path)
    assert load(str(tmp_path)) is not None
    (tmp_path / "config.json").write_text(json.dumps(json.loads((tmp_path / "config.json").read_text()) | changes))
    with pytest.raises(ConfigError, match=said):
        load(str(tmp_path))


def test_a_model_that_takes_long_to_make_is_refused(saved, monkeypatch):
    monkeypatch.setattr(model_settings, "MAKING", WorkBounds(0.5, 1 << 30))
    monkeypatch.setattr(guard, "_found_once", {})
    monkeypatch.setattr("transformers.LlamaForCausalLM.__init__", lambda *how, **more: [None for _ in iter(int, 1)])
    with pytest.raises(ConfigError, match=r"making the model, .*over 0\.5 s"):
        load(str(saved))


def test_a_models_size_is_checked_once_and_again_with_other_files_or_numbers(saved, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(guard, "_found_once", {})
    monkeypatch.setattr(base, "check_size", lambda make, stored, where: checked.append(stored))

    def checks(folder: Path) -> int:
        checked.clear()
        load(str(folder))
        return len(checked)

    other = shutil.copytree(saved, tmp_path / "other")
    assert [checks(saved), checks(saved)] == [1, 0]
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 77}))
    assert [checks(other), checks(other)] == [1, 0]
    (other / "model.safetensors").rename(other / "a.safetensors")
    shutil.copy(other / "a.safetensors", other / "b.safetensors")
    with safe_open(other / "a.safetensors", "pt") as file:
        first, *others = file.keys()
    placed = {first: "b.safetensors"} | dict.fromkeys(others, "a.safetensors")
    (other / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    assert checks(other) == 1, "twice the bytes"


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_settings_of_a_model_of_megabytes_are_refused_before_they_are_read(saved, tmp_path, file):
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / file).write_text('{"bad_words_ids": [' + "[1]," * 5_000_000 + "[1]]}")
    with pytest.raises(ConfigError, match=rf"{file} has over \d+ MiB"):
        load(str(folder))


def test_an_adapter_beside_a_model_is_not_loaded_with_it(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": "(a+)+!"}))
    with pytest.raises(ConfigError, match=r"has an adapter .* beside a whole model"):
        load(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_with_the_tensors_name(saved, tmp_path, value):
    from safetensors.torch import load_file, save_file

    shutil.copytree(saved, tmp_path / "broken")
    tensors = load_file(saved / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    save_file(tensors, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"broken: model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinite values"):
        load(str(tmp_path / "broken"))


def test_weights_that_the_config_does_not_describe_are_warned_of(saved, tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    shutil.copytree(saved, tmp_path / "more")
    tensors = load_file(saved / "model.safetensors") | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}
    save_file(tensors, tmp_path / "more" / "model.safetensors", {"format": "pt"})
    with caplog.at_level("WARNING", logger="raymill"):
        load(str(tmp_path / "more"))
    assert "1 tensors of its files are not used, such as model.layers.0.self_attn.q_proj.bias" in caplog.text


def test_tied_embeddings_are_not_missed(tmp_path):
    build_objective(tiny_config("gpt2")).model.save_pretrained(tmp_path)
    model = load(str(tmp_path))
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_model_that_brings_its_own_code_is_refused_without_running_it(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "own")
    config = json.loads((saved / "config.json").read_text())
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config | own))
    (tmp_path / "own" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = tiny_config({"name": str(tmp_path / "own")})
    with pytest.raises(ConfigError, match=r"code from a model's folder is never run|Code from a model's folder"):
        build_objective(config)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "lama"}, r"model_type: .*no model type lama.*Did you mean llama"),
        ({"hiden_size": 64}, r"model.config.hiden_size: llama has no such setting. Did you mean hidden_size"),
        ({"hidden_act": "none"}, r"model.config: transformers cannot make this model.*none"),
        ({"hidden_size": "x"}, r"model.config: .*'hidden_size' expected int"),
        ({"num_attention_heads": 5}, r"model.config: .*not a multiple"),
    ],
)
def test_a_random_models_settings_are_checked(changes, said):
    with pytest.raises(ConfigError, match=said):
        build_objective(tiny_config(MODELS["llama"] | changes))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["full", "lora", "probe"])
def test_decoder_layers_are_the_models_blocks(model, method):
    layers = decoder_layers(build_objective(tiny_config(model, method=method), classes=2).model)
    assert [type(layer).__name__.endswith(("Layer", "Block")) for layer in layers] == [True, True]


# --- what a prediction depends on

OTHERS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 48, "vocab_size": 300},
    "mamba": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 300},
    "opt": {"model_type": "opt", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
            "vocab_size": 300, "word_embed_proj_dim": 32},
    "gpt_oss": {"model_type": "gpt_oss", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16, "num_local_experts": 2,
                "num_experts_per_tok": 1, "vocab_size": 300},
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_predictions_depend_on_earlier_tokens_of_the_same_document_alone(model):
    objective = build_objective(tiny_config(model))
    require_independence(objective.body, packed=True, bf16=False)
    assert objective.model.training


def test_a_model_that_attends_to_later_tokens_is_refused():
    for method in ("full", "probe"):
        with pytest.raises(ConfigError, match=r"the predictions of this bert depend on later tokens"):
            build_objective(tiny_config(OTHERS["bert"], method=method), classes=2)


def test_a_large_value_in_all_hidden_states_does_not_hide_that_predictions_depend_on_later_tokens():
    """The norm at the end makes it large, and the lm_head does not read it."""
    model = build_objective(tiny_config("llama")).model
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1e4
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 100
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter *= 1e4 / 32**0.5  # as if the large value were not in the mean of squares
                parameter[0] = 0
        model.model.norm.weight[0] = 1e6
        model.lm_head.weight *= 100
        model.lm_head.weight[:, 0] = 0
    require_independence(model.model, packed=True, bf16=False, head=model.lm_head)
    model.config.is_causal = False
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    require_independence(model.model, packed=False, bf16=False)
    with pytest.raises(ConfigError, match="the predictions of this llama depend on later tokens"):
        require_independence(model.model, packed=False, bf16=False, head=model.lm_head)


@pytest.mark.parametrize("kind", ["mamba", "opt", "gpt_oss"])
def test_a_model_that_carries_one_document_of_a_row_to_the_next_is_refused_unless_each_has_a_row(kind):
    with pytest.raises(
        ConfigError, match=rf"of this {kind} depend on other documents of the same row.*packing: {{mode: none}}"
    ):
        build_objective(tiny_config(OTHERS[kind]))
    objective = build_objective(tiny_config(OTHERS[kind], packing={"mode": "none"}))
    assert objective.model.training
    objective.eval()
    ids = torch.tensor(random_documents([[16], [16]])).squeeze(1)
    ours, _ = loss_of(objective, batch_of([[ids[0].tolist()], [ids[1].tolist()]]))
    torch.testing.assert_close(ours, objective.model(input_ids=ids, labels=ids).loss * 30, rtol=1e-5, atol=1e-5)
