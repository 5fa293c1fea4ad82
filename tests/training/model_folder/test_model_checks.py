"""What cannot work with a model is refused before anything is packed, fetched or started, and without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.commands import dry_run
from raymill.training.commands import pack as pack_verb
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Model, Workers
from raymill.training.driver.launch import check_machine
from raymill.training.job import train
from raymill.training.model_folder.checks import LINEAR_NAMES, check_model
from raymill.training.model_folder.folder import located_with_fingerprint, model_folder
from raymill.training.models.base import load_base
from raymill.training.models.cost import module_names, shape_of
from raymill.training.tokenizer.load_tokenizer import load_tokenizer
from tests.support.model_folders import folder
from tests.support.tiny_tokenizers import saved, tiny
from tests.support.train_inline import MODEL, PLAIN, write_corpus

LORA = {"method": "lora"}


def config(**settings) -> TrainConfig:
    return TrainConfig.model_validate(PLAIN | {"corpus": "nowhere", "output": "nowhere"} | settings)


# --- lora.target


@pytest.mark.parametrize("model_type", LINEAR_NAMES)
def test_the_names_of_linear_modules_are_those_of_transformers(model_type):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
             "vocab_size": 16, "intermediate_size": 32, "pad_token_id": 0}  # fmt: skip
    known = AutoConfig.for_model(model_type)
    described = AutoConfig.for_model(
        model_type, **{name: value for name, value in small.items() if hasattr(known, name)}
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(described)
    found = {name.rpartition(".")[2] for name, module in model.named_modules()
             if getattr(getattr(module, "weight", None), "ndim", 0) >= 2}  # fmt: skip
    assert found == set(LINEAR_NAMES[model_type])


@pytest.mark.parametrize("target", ["v_proj", ["q_proj", "down_proj"], "all-linear", ["self_attn.q_proj", "lm_head"]])
def test_a_lora_target_that_a_module_has_passes(target):
    assert check_model(config(**LORA, lora={"target": target})) == []


@pytest.mark.parametrize(
    "model",
    [
        MODEL | {"tie_word_embeddings": True},
        {"model_type": "gemma", "vocab_size": 300, "hidden_size": 32, "head_dim": 8},  # tied by default
    ],
)
@pytest.mark.parametrize("target", ["lm_head", ["q_proj", "lm_head"], ["model.embed_tokens", "q_proj"], "embed_tokens"])
def test_an_adapter_of_a_tied_lm_head_or_embedding_is_refused_before_packing(model, target):
    settings = config(**LORA, lora={"target": target}, model={"config": model, "tokenizer": "train"})
    with pytest.raises(ConfigError, match="embedding and lm_head share one weight"):
        check_model(settings)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("v_porj", "named v_porj. The nearest: v_proj"),
        (["q_proj", "attn_out"], "named attn_out."),
        ("mlp.gate_prj", "named mlp.gate_prj. The nearest: gate_proj"),
        ("model.layers.7.self_attn.q_proj", "no module of this llama is named model.layers.7.self_attn.q_proj"),
    ],
)
def test_a_lora_target_without_a_match_is_refused_with_the_nearest_modules(target, told):
    with pytest.raises(ConfigError, match=r"^lora\.target: no module of this llama") as refused:
        check_model(config(**LORA, lora={"target": target}))
    assert told in str(refused.value) and "down_proj" in str(refused.value) and "all-linear" in str(refused.value)
    assert check_model(config(lora={"target": target})) == [], "method full has no use for it"


def test_of_an_architecture_that_is_not_in_the_table_the_meta_model_tells_the_modules():
    small = {"model_type": "opt", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "ffn_dim": 32, "vocab_size": 300, "word_embed_proj_dim": 32}  # fmt: skip
    opt = {"config": small, "tokenizer": "train"}
    assert "fc1" in {name.rpartition(".")[2] for name in module_names(Store(), Model.model_validate(opt))}
    assert check_model(config(**LORA, model=opt, lora={"target": "fc1"})) == []
    with pytest.raises(ConfigError, match=r"no module of this opt is named fc11\. The nearest: fc1"):
        check_model(config(**LORA, model=opt, lora={"target": "fc11"}))


# --- sequence_length


LONG = {"sequence_length": 128, "tokens_per_step": 256}


def test_rows_longer_than_the_models_positions_are_refused_with_both_numbers_and_the_fix(tmp_path):
    with pytest.raises(
        ConfigError, match=r"sequence_length: 128 is above .* 64, and it has no RoPE.*sequence_length to 64"
    ):
        check_model(config(**LONG, model=folder(tmp_path / "a")))
    with pytest.raises(ConfigError, match=r"model\.config\.max_position_embeddings to 128"):
        check_model(config(**LONG))
    plain = {"model_type": "gpt2", "n_positions": 100, "vocab_size": 300}
    with pytest.raises(ConfigError, match="above the model's max_position_embeddings, 100"):
        check_model(config(**LONG, model={"config": plain, "tokenizer": "train"}))


def test_heads_that_workers_of_a_row_cannot_divide_are_refused_with_numbers_that_can():
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48}
    model = {"config": MODEL | heads, "tokenizer": "train"}
    shared = {"workers": {"count": 4, "context": 4}, "tokens_per_step": 4 * PLAIN["sequence_length"]}
    with pytest.raises(
        ConfigError, match=r"6 heads with 2 of keys and values .* among 4 workers\. Use one of 1, 2, 3, 6"
    ):
        check_model(config(**shared, model=model))
    assert check_model(config(**shared | {"workers": {"count": 2, "context": 2}}, model=model)) == []


def test_where_a_random_models_config_does_not_state_positions_those_of_transformers_hold():
    plain = {name: value for name, value in MODEL.items() if name != "max_position_embeddings"}
    model = {"config": plain, "tokenizer": "train"}
    assert check_model(config(**LONG, model=model)) == []
    with pytest.raises(ConfigError, match="4,096 is above the model's max_position_embeddings, 2,048"):
        check_model(config(sequence_length=4096, tokens_per_step=4096, model=model))


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "llama3"}, "sliding_attention": {"rope_type": "default"}}},
    ],
)
def test_with_rope_scaling_longer_rows_are_a_warning(tmp_path, scaling):
    (said,) = check_model(config(**LONG, model=folder(tmp_path / "a", **scaling)))
    assert "128 is above" in said and "RoPE scaling" in said
    with pytest.raises(ConfigError, match="no RoPE scaling"):
        check_model(config(**LONG, model=folder(tmp_path / "b", rope_parameters={"rope_type": "default"})))


# --- tokenizer and weights


def test_a_tokenizer_larger_than_the_vocabulary_is_refused_with_both_sizes(tmp_path):
    other = folder(tmp_path / "other", tokens=301)
    with pytest.raises(ConfigError, match=r"has 301 tokens, and the model embeds 300\. .*config\.vocab_size: 301"):
        check_model(config(model={"config": MODEL, "tokenizer": other}))
    with pytest.raises(ConfigError, match=r"has 301 tokens, and the model embeds 300\. Give the model's own"):
        check_model(config(model={"name": folder(tmp_path / "named", tokens=300), "tokenizer": other}))
    assert check_model(config(model={"config": MODEL, "tokenizer": str(tmp_path / "named")})) == []
    (said,) = check_model(config(model=other))
    assert "301 tokens" in said and "300" in said


def test_the_checks_read_a_models_folder_on_an_object_store_by_the_headers_of_its_weights(s3_root, s3_store, tmp_path):
    local = Path(folder(tmp_path / "a", tokens=301))
    for path in local.glob("*.json"):
        s3_store.write_bytes(f"{s3_root}/base/{path.name}", path.read_bytes())
    with pytest.raises(DataError, match=r"has a config\.json but no \*\.safetensors"):
        check_model(config(model=f"{s3_root}/base", storage=s3_store.options))
    weights = (local / "model.safetensors").read_bytes()
    s3_store.write_bytes(f"{s3_root}/base/model.safetensors", weights)
    (said,) = check_model(config(model=f"{s3_root}/base", storage=s3_store.options))
    assert "301 tokens" in said
    s3_store.write_bytes(f"{s3_root}/base/model.safetensors", weights[:-1])
    with pytest.raises(DataError, match=r"s3://.*/base/model\.safetensors: has .* bytes, and its header states"):
        check_model(config(model=f"{s3_root}/base", storage=s3_store.options))


def test_of_a_hub_model_the_checks_read_what_the_cache_has_and_ask_for_no_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert check_model(config(**LONG, model="some/model")) == [], "the cache has nothing of it"
    (cached := tmp_path / "models--some--model" / "refs").mkdir(parents=True)
    (cached / "main").write_text("c" * 40)
    (cached.parent / "snapshots").mkdir()
    files = Path(folder(cached.parent / "snapshots" / ("c" * 40)))
    assert check_model(config(model="some/model")) == []
    (files / "model.safetensors").unlink()
    assert check_model(config(model="some/model")) == [], "the weights are fetched when the model is loaded"
    with pytest.raises(ConfigError, match=r"sequence_length: 128 is above .* 64"):
        check_model(config(**LONG, model="some/model"))


@pytest.mark.parametrize("preview", [None, 2])
def test_weights_that_are_not_safetensors_are_refused_by_pack_and_its_preview(tmp_path, preview):
    plain = PLAIN | {"corpus": write_corpus(tmp_path), "output": str(tmp_path / "run")}
    plain["model"] = folder(tmp_path / "base", "pytorch_model.bin", tokens=300)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(DataError, match=r"holds pytorch_model\.bin; \*\.safetensors is needed"):
        pack_verb(str(tmp_path / "train.yaml"), preview=preview)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["run", "run/export", "run/export/adapter"])
def test_of_the_output_of_a_training_the_folder_of_its_model_is_named(tmp_path, given):
    run = tmp_path / "run"
    (run / "export" / "adapter").mkdir(parents=True)
    (run / "export" / "adapter" / "adapter_config.json").write_text("{}")
    (run / "manifest.json").write_text("{}")
    named = "such as .*/run/export/full" if given == "run" else "merged"
    if given != "run/export":
        with pytest.raises(DataError, match=named):
            check_model(config(model=str(tmp_path / given)))
    merged = folder(run / "export" / "merged", tokens=300)
    if given != "run/export/adapter":
        with pytest.raises(DataError, match=f"the output of a run. Give its model, {merged}"):
            check_model(config(model=str(tmp_path / given)))


@pytest.mark.parametrize(
    ("there", "said"), [("a/b.txt", "has no config.json"), ("manifest.json", "the output of a run")]
)
def test_a_folder_that_is_no_model_is_refused_without_a_list_of_its_files(tmp_path, monkeypatch, there, said):
    """A record of others names the folder, such as the root of a large disk."""
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("{}")
    monkeypatch.setattr(Store, "list_files", None)
    with pytest.raises(DataError, match=said):
        located_with_fingerprint(Store(), str(tmp_path))


def test_a_folder_without_weights_is_refused_by_the_dry_run_of_a_training(tmp_path):
    plain = PLAIN | {"corpus": write_corpus(tmp_path), "output": str(tmp_path / "run")}
    plain["model"] = folder(tmp_path / "base", tokens=280)
    assert "plan of" in "\n".join(dry_run(TrainConfig.model_validate(plain)))
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"has a config.json but no \*.safetensors"):
        list(dry_run(TrainConfig.model_validate(plain)))


# --- reward models


def test_a_model_without_one_score_is_refused_as_a_reward_with_the_name_of_the_setting(tmp_path):
    def check(model: str) -> list[str]:
        grpo = {"rewards": [{"score": "exact_match"}, {"model": model}], "max_new_tokens": 1}
        columns = {"prompt": "prompt", "completion": "completion"}
        return check_model(config(objective="grpo", grpo=grpo, columns=columns, packing={"mode": "none"}))

    def refused(model: str) -> str:
        with pytest.raises((ConfigError, DataError, StorageError)) as found:
            check(model)
        assert str(found.value).startswith("grpo.rewards.1.model: ")
        return str(found.value)

    base = folder(tmp_path / "base")
    assert "is not a reward model: it has no score.weight" in refused(base)
    scores = folder(tmp_path / "scores")
    save_file({"score.weight": np.zeros((2, 32), np.float32)}, f"{scores}/model.safetensors")
    assert "a score.weight of 2 x 32" in refused(scores)
    save_file({"score.weight": np.zeros((1, 32), np.float32)}, f"{scores}/model.safetensors")
    assert check(scores) == []
    assert "no such folder" in refused(str(tmp_path / "none"))


# --- workers


def test_more_workers_or_gpus_than_this_machine_has_are_refused_before_ray_starts():
    with pytest.raises(ConfigError, match=r"3 workers with 1 CPU each .* this machine has 2 CPUs, enough for 2"):
        check_machine(Workers(count=3), Session(cpus=2))
    check_machine(Workers(count=2), Session(cpus=2))
    check_machine(Workers(count=3), Session(address="elsewhere:1", cpus=2))


def test_a_training_with_phases_is_refused_for_what_a_later_phase_asks(tmp_path, monkeypatch):
    from tests.support.train_inline import train_inline

    phases = [{"name": "first", "method": "full"}, {"name": "second", "method": "lora", "lora": {"target": "q_porj"}}]
    with pytest.raises(ConfigError, match="named q_porj"):
        train_inline({"corpus": write_corpus(tmp_path), "output": str(tmp_path / "run"), "phases": phases}, monkeypatch)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_cannot_be_used_is_refused_before_ray_starts(tmp_path):
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}{{ m['role'] ")
    (tmp_path / "chat.jsonl").write_text(
        "".join(json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"{n}"}]})
                + "\n" for n in range(40))
    )  # fmt: skip
    model = {"config": MODEL | {"vocab_size": 400}, "chat_template": str(tmp_path / "broken.jinja")}
    model["tokenizer"] = saved(tmp_path / "t", tiny())
    session = Session()
    settings = config(corpus=str(tmp_path / "chat.jsonl"), output=str(tmp_path / "run"), model=model)
    with pytest.raises(ConfigError, match=r"broken\.jinja is not a Jinja template"):
        train(settings, session, Progress())
    assert not session.started


# --- how fast


REFUSE_ALL = """
import contextlib, io, json, sys, time
from raymill.cluster.cli import main
told = []
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    try:
        with contextlib.redirect_stderr(out):
            main(words)
    except SystemExit as left:
        told.append([left.code, out.getvalue()])
loaded = sorted({"torch", "transformers", "ray"} & sys.modules.keys())
print(json.dumps([told, loaded, time.process_time()]))
"""


def test_every_refusal_comes_without_torch_transformers_and_ray_and_in_less_than_two_seconds_of_work(tmp_path):
    """Processor time: what wall time is on a machine that does nothing else."""
    write_corpus(tmp_path)
    plain = PLAIN | {"corpus": str(tmp_path / "corpus.jsonl"), "output": str(tmp_path / "run")}
    pickled = folder(tmp_path / "pickled", "pytorch_model.bin", tokens=300)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(plain))
    train = ["train", str(tmp_path / "train.yaml")]
    larger = json.dumps({"config": MODEL, "tokenizer": folder(tmp_path / "larger", tokens=301)})
    calls = {
        "named q_porj": [*train, "-o", "method=lora", "-o", "lora.target=q_porj"],
        "has 301 tokens": [*train, "-o", f"model={larger}"],
        "workers: 99 workers with 1 CPU": [*train, "-o", "workers.count=99", "-o", f"tokens_per_step={99 * 64}"],
        "holds pytorch_model.bin": [*train, "-o", f"model={pickled}"],
        "is needed": ["pack", train[1], "--preview", "2", "-o", f"model={pickled}"],
        "128 is above": [*train, "-o", "sequence_length=128"],
    }
    child = subprocess.run(
        [sys.executable, "-c", REFUSE_ALL, json.dumps(list(calls.values()))], capture_output=True, text=True, check=True
    )
    told, loaded, seconds = json.loads(child.stdout)
    for (code, message), wanted in zip(told, calls, strict=True):
        assert code == 2 and wanted in message, (wanted, message)
    assert loaded == [] and seconds < 2
    assert not (tmp_path / "run").exists(), "nothing is written"


# --- folders that somebody else made


def _with_settings(path: Path, **settings) -> str:
    """A model's folder whose config.json was changed after its weights were written."""
    made = folder(path)
    plain = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(plain | settings))
    return made


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"])
def test_a_text_file_of_a_model_that_links_out_of_its_folder_is_refused(tmp_path, name):
    secret = tmp_path / "netrc"
    secret.write_text("machine example.org password canary")
    model = folder(tmp_path / "model")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    (tmp_path / "model" / name).symlink_to(secret)
    for read in (
        lambda: check_model(config(model={"name": model})),
        lambda: load_tokenizer(Store(), model),
        lambda: model_folder(Store(), Model(name=model)),
    ):
        with pytest.raises(DataError, match=f"{name}: a link to {secret}, outside of {model}"):
            read()


def test_links_of_weights_and_those_of_a_hub_s_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    blobs.mkdir()
    snapshot.parent.mkdir()
    model = Path(folder(snapshot))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).rename(blobs / name)
        (model / name).symlink_to(f"../../blobs/{name}")
    assert check_model(config(model={"name": str(model)})) == []
    (model / "model.safetensors").unlink()
    (blobs / "model.safetensors").rename(tmp_path / "elsewhere")
    (model / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert check_model(config(model={"name": str(model)})) == []


def test_a_fifo_in_a_model_s_folder_is_refused_and_not_waited_for(tmp_path):
    model = folder(tmp_path / "model")
    os.mkfifo(tmp_path / "model" / "generation_config.json")
    with pytest.raises(DataError, match=r"generation_config\.json: is a FIFO, socket or device"):
        check_model(config(model={"name": model}))


@pytest.mark.parametrize(
    "hostile",
    [{"_attn_implementation": "someone/kernel"}, {"attn_implementation": "someone/kernel@v1:forward"},
     {"attn_implementation": {"": "someone/kernel"}}, {"experts_implementation": "someone/kernel"}],
)  # fmt: skip
def test_a_config_that_names_code_of_a_hub_is_refused_before_a_model_is_made(tmp_path, hostile):
    model = Model(name=_with_settings(tmp_path / "model", **hostile))
    for make in (
        lambda: module_names(Store(), model),
        lambda: shape_of(config(model=model.model_dump(exclude_unset=True))),
        lambda: load_base(Store(), model, 0, torch.float32, None),
    ):
        with pytest.raises(ConfigError, match="names code of a hub, 'someone/kernel"):
            make()


def test_a_config_that_transformers_cannot_make_a_model_of_is_an_error_of_the_file(tmp_path):
    model = _with_settings(tmp_path / "model", rope_scaling={"rope_type": "odd", "factor": 2.0})
    with pytest.raises(ConfigError, match="model: transformers cannot make"):
        shape_of(config(model={"name": model}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000, and no model has more than 4,096"),
        ({"num_labels": 10**8}, "num_labels is 100,000,000, and no model has more than 100,000"),
        ({"transformers_weights": "../w.safetensors"}, "transformers_weights names other weights than model.safeten"),
        ({"configuration_files": ["../config.4.0.0.json"]}, "configuration_files names other files of settings"),
        ({"model_type": "bart", "decoder_layers": 10**9}, "decoder_layers is 1,000,000,000, and"),
        ({"model_type": "dbrx", "ffn_config": {"moe_num_experts": 10**9}}, "moe_num_experts is 1,000,000,000, and"),
        ({"model_type": "gpt_neo", "attention_types": [[["global"], 10**9]]}, "attention_types is 1,000,000,000, and"),
    ],
)
def test_a_count_beyond_all_models_is_refused_before_transformers_reads_the_config(
    tmp_path, monkeypatch, settings, said
):
    """Many classes of configs make a list with an entry for each layer: 3e8 layers of a qwen2 take minutes."""
    model = _with_settings(tmp_path / "model", **settings)
    tiny().save_pretrained(model)
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)
    for read in (lambda: shape_of(config(model={"name": model})), lambda: load_tokenizer(Store(), model)):
        with pytest.raises(ConfigError, match=said):
            read()


@pytest.mark.parametrize("positions", ["many", [1], {"a": 1}, -1])
def test_a_number_of_positions_that_is_none_is_no_defect_of_the_check(tmp_path, positions):
    model = _with_settings(tmp_path / "model", max_position_embeddings=positions)
    check_model(config(model={"name": model}))


def test_a_vocabulary_size_that_is_no_number_is_named(tmp_path):
    model = _with_settings(tmp_path / "model", vocab_size="280")
    with pytest.raises(ConfigError, match=r"config\.json: vocab_size is '280'; a whole number was wanted"):
        check_model(config(model={"name": model}))


def test_an_adapter_beside_a_whole_model_is_refused(tmp_path):
    """transformers would load it into the model without a word, and save the adapter alone."""
    model = folder(tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"model: has an adapter \(adapter_config.json\) beside a whole model"):
        check_model(config(model=model))
