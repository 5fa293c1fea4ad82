"""What a run leaves for other programs: folders that transformers and peft load, and that say what was trained."""

import dataclasses
import errno
import gc
import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from raymill.cluster.errors import DataError, RaymillError, StorageError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.evaluation.job import initial_objective
from raymill.training.export.job import base_of, export
from raymill.training.export.merging import OnDisk
from raymill.training.pack.documents import Document
from raymill.training.pack.encode import Encoder
from raymill.training.records.finished import export_digests, finish_export, put_folder
from tests.support.export_runs import CLASSES, LENGTH, LLAMA, Run, make_run, save_outcome

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LENGTH,
        "vocab_size": LLAMA["vocab_size"]}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore")


def trained_logits(run: Run, ids: list[int]) -> torch.Tensor:
    """As training computes them, not as a library's generation does: through the objective."""
    with torch.inference_mode():
        tokens, starts = torch.tensor([ids]), torch.tensor([0, len(ids)], dtype=torch.int32)
        return run.trained.logits(run.trained.hidden(tokens, torch.arange(len(ids))[None], starts)[0])


def logits(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def prompt(run: Run) -> list[int]:
    return run.tokenizer("What is 7 plus 1?", add_special_tokens=False)["input_ids"]


def load(run: Run, name: str):
    return AutoModelForCausalLM.from_pretrained(run.export / name).eval()


def with_adapter(run: Run):
    return PeftModel.from_pretrained(load(run, "base"), run.export / "adapter").eval()


def card_code(folder: Path) -> str:
    return re.search(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)[1]


def run_card(folder: Path, monkeypatch, capsys) -> str:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.chdir(folder)
    exec(compile(card_code(folder), str(folder), "exec"), {})
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> Run:
    run = make_run(tmp_path_factory.mktemp("lora"))
    export(run.job, run.outcome, run.packed)
    return run


def test_the_whole_model_loads_and_says_what_was_trained(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path, "full")
    manifest = export(run.job, run.outcome, run.packed)
    assert manifest["folders"] == {"full": "full"}
    loaded = load(run, "full")
    torch.testing.assert_close(logits(loaded, prompt(run)), trained_logits(run, prompt(run)))
    run_card(run.export / "full", monkeypatch, capsys)


def test_adapter_and_merged_model_load_and_say_what_was_trained(lora, monkeypatch, capsys):
    wanted = trained_logits(lora, prompt(lora))
    torch.testing.assert_close(logits(with_adapter(lora), prompt(lora)), wanted)
    torch.testing.assert_close(logits(load(lora, "merged"), prompt(lora)), wanted, atol=1e-5, rtol=1e-5)
    assert (logits(load(lora, "base"), prompt(lora)) - wanted).abs().max() > 0.01
    for folder in ("adapter", "merged", "base"):
        run_card(lora.export / folder, monkeypatch, capsys)


def test_the_adapter_alone_finds_its_base(lora):
    loaded = AutoPeftModelForCausalLM.from_pretrained(lora.export / "adapter").eval()
    torch.testing.assert_close(logits(loaded, prompt(lora)), trained_logits(lora, prompt(lora)))


@pytest.mark.parametrize("more", [{"rslora": True}, {"dora": True}], ids=str)
def test_kinds_of_lora_are_merged_too(tmp_path, more):
    run = make_run(tmp_path, form="text", lora={"rank": 4, "alpha": 8, **more})
    check = export(run.job, run.outcome, run.packed)["merged_check"]
    assert 0 <= check["max_abs_difference"] <= check["tolerance"] < 0.1 * check["adapter_effect"]
    torch.testing.assert_close(
        logits(load(run, "merged"), prompt(run)), trained_logits(run, prompt(run)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("more", "model"),
    [({}, {}), ({"rslora": True, "alpha": 5}, {}), ({"modules_to_save": ["lm_head"]}, {}), ({}, GPT2)],
)
def test_an_adapter_of_pissa_is_exported_as_an_ordinary_one_on_the_unchanged_base(tmp_path, more, model):
    lora = {"rank": 4, "alpha": 8, "init": "pissa", **more}
    run = make_run(tmp_path, form="text", lora=lora, model={"config": model or LLAMA, "tokenizer": "train"})
    export(run.job, run.outcome, run.packed)
    wanted = trained_logits(run, prompt(run))
    assert (logits(load(run, "base"), prompt(run)) - wanted).abs().max() > 0.01
    torch.testing.assert_close(logits(with_adapter(run), prompt(run)), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(load(run, "merged"), prompt(run)), wanted, atol=1e-5, rtol=1e-5)
    saved = json.loads((run.export / "adapter" / "adapter_config.json").read_text())
    assert saved["r"] == 8 and saved["init_lora_weights"] is True


@pytest.mark.parametrize("tied", [False, True])
def test_modules_that_are_trained_beside_the_adapter_are_in_adapter_and_merged_model(tmp_path, tied):
    saved = ["lm_head"] if tied else ["embed_tokens", "lm_head", "norm"]
    run = make_run(
        tmp_path,
        form="text",
        lora={"rank": 4, "alpha": 8, "modules_to_save": saved},
        model={"config": LLAMA | {"tie_word_embeddings": tied}, "tokenizer": "train"},
    )
    export(run.job, run.outcome, run.packed)
    wanted = trained_logits(run, prompt(run))
    torch.testing.assert_close(logits(with_adapter(run), prompt(run)), wanted)
    merged = load(run, "merged")
    torch.testing.assert_close(logits(merged, prompt(run)), wanted, atol=1e-5, rtol=1e-5)
    base = load(run, "base")
    assert (merged.get_input_embeddings().weight is merged.get_output_embeddings().weight) == tied
    assert not torch.equal(merged.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert torch.equal(merged.model.norm.weight, base.model.norm.weight) == tied


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_virtual_tokens_load_and_say_what_was_trained(tmp_path, method, monkeypatch, capsys):
    run = make_run(tmp_path, method, prefix={"tokens": 4}, prompt={"tokens": 4})
    manifest = export(run.job, run.outcome, run.packed)
    assert manifest["folders"].keys() == {"adapter", "base"}
    loaded = with_adapter(run)
    with torch.inference_mode():
        said = loaded(input_ids=torch.tensor([prompt(run)])).logits[0, -len(prompt(run)) :]
    torch.testing.assert_close(said, trained_logits(run, prompt(run)))
    run_card(run.export / "adapter", monkeypatch, capsys)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_code_on_a_probes_card_predicts_as_the_probe_does(tmp_path, pool, monkeypatch, capsys):
    run = make_run(tmp_path, "probe", probe={"pool": pool}, steps=20)
    manifest = export(run.job, run.outcome, run.packed)
    assert manifest["folders"].keys() == {"probe", "base"}
    code = card_code(run.export / "probe")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # DeepSpeed, where it is installed, prints its choice
    monkeypatch.chdir(run.export / "probe")
    names: dict = {}
    exec(code, names)
    # As packing writes the text for training.
    [example] = Encoder(run.tokenizer).encode([Document("", "Some text", 0, 0, "", None)]).examples
    ids = torch.from_numpy(example.ids.astype("int64"))[None]
    positions, starts = torch.arange(ids.shape[1])[None], torch.tensor([0, ids.shape[1]])
    with torch.inference_mode():
        wanted = run.trained.scores(ids, positions, starts, torch.tensor([ids.shape[1] - 1]))[0]
    torch.testing.assert_close(names["scores"], wanted)
    assert capsys.readouterr().out.splitlines()[-1] == CLASSES[int(wanted.argmax())]


def test_a_probes_checkpoint_with_other_shapes_than_its_head_takes_no_memory_for_them(tmp_path):
    """A checkpoint of others states any shape; of a sparse file, its values take nothing on disk."""
    run = make_run(tmp_path, "probe", steps=20)
    manifest = Path(run.outcome["checkpoint"], "manifest.json")
    plain = json.loads(manifest.read_text())
    held, values = plain["shapes"]["classifier.weight"], 1 << 20
    plain["shapes"]["classifier.weight"] = [held[0], values // held[0]]
    for file in plain["files"]:
        file["pieces"] = [piece for piece in file["pieces"] if piece[0] != "classifier.weight"]
    (manifest.parent / "zeros.safetensors").write_bytes(bytes(3 * 4 * values))
    digest = hashlib.sha256(bytes(4 * values)).hexdigest()
    pieces = [
        ["classifier.weight", state, 0, values, number * 4 * values, digest]
        for number, state in enumerate(("param", "exp_avg", "exp_avg_sq"))
    ]
    plain["files"].append({"path": "zeros.safetensors", "bytes": 3 * 4 * values, "pieces": pieces})
    manifest.write_text(json.dumps(plain))
    with pytest.raises(DataError, match=r"1 parameters differ .* classifier.weight: shape \(\d, \d+\) in the checkp"):
        export(run.job, run.outcome, run.packed)
    assert not (run.export / "probe").exists()


def test_bf16_is_cast_after_the_merge_and_loads(tmp_path):
    run = make_run(tmp_path, export={"dtype": "bfloat16"})
    manifest = export(run.job, run.outcome, run.packed)
    assert manifest["merged_check"]["max_abs_difference"] < 1e-4  # in float32, before it is cast
    with safe_open(run.export / "merged" / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in list(file.keys())} == {"BF16"}
    loaded = AutoModelForCausalLM.from_pretrained(run.export / "merged")
    assert loaded.dtype == torch.bfloat16
    torch.testing.assert_close(
        logits(loaded.float(), prompt(run)), trained_logits(run, prompt(run)), atol=0.05, rtol=0.05
    )
    with safe_open(run.export / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in list(file.keys())} == {"F32"}


def test_the_tokenizer_and_where_to_stop_come_along(lora):
    for folder in ("adapter", "merged", "base"):
        tokenizer = AutoTokenizer.from_pretrained(lora.export / folder)
        assert tokenizer.chat_template == lora.tokenizer.chat_template
        text = "<|im_start|>user\nJa, 你好<|im_end|>"
        assert tokenizer(text)["input_ids"] == lora.tokenizer(text)["input_ids"]
        settings = GenerationConfig.from_pretrained(lora.export / folder)
        stops = [lora.tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>")]
        assert settings.eos_token_id == stops
        assert settings.pad_token_id == lora.tokenizer.pad_token_id
        assert settings.bos_token_id is None


def test_the_manifest_lists_every_file_and_none_can_run_code(lora):
    manifest = json.loads((lora.export / "manifest.json").read_text())
    there = {path.relative_to(lora.export).as_posix() for path in lora.export.rglob("*") if path.is_file()}
    assert {file["path"] for file in manifest["files"]} == there - {"manifest.json"}
    endings = {path.rpartition(".")[2] for path in there - {"serve.yaml"}}
    assert "serve.yaml" in there and endings <= {"json", "safetensors", "md", "jinja"}
    assert all((lora.export / file["path"]).stat().st_size == file["bytes"] for file in manifest["files"])
    assert not re.search("raymill|sdpa", (lora.export / "merged" / "config.json").read_text())


def test_a_finished_export_is_left_alone_and_another_one_replaces_it(tmp_path):
    run = make_run(tmp_path)
    first = export(run.job, run.outcome, run.packed)
    written = (run.export / "merged" / "config.json").stat().st_mtime_ns
    assert export(run.job, run.outcome, run.packed) == first
    assert (run.export / "merged" / "config.json").stat().st_mtime_ns == written
    config = run.job.config.model_copy(update={"export": run.job.config.export.model_copy(update={"merged": False})})
    job = dataclasses.replace(run.job, config=config)
    export(job, run.outcome, run.packed)
    assert {path.name for path in run.export.iterdir() if any(path.glob("*"))} == {"adapter", "base"}


def test_the_best_weights_are_exported_and_not_the_last(tmp_path):
    run = make_run(tmp_path, "full")
    last = initial_objective(run.job)
    export(run.job, {**run.outcome, "checkpoint": save_outcome(run.job, last, 9)["checkpoint"]}, run.packed)
    torch.testing.assert_close(logits(load(run, "full"), prompt(run)), trained_logits(run, prompt(run)))


@pytest.mark.parametrize("damage", ["lost", "half", "no number"])
def test_a_broken_merge_is_refused_with_numbers(tmp_path, damage, monkeypatch):
    run = make_run(tmp_path, steps=1)
    from peft.tuners.lora import layer

    true = layer.Linear.get_delta_weight
    factor = {"lost": 0.0, "half": 0.5, "no number": float("nan")}[damage]
    monkeypatch.setattr(layer.Linear, "get_delta_weight", lambda self, adapter: true(self, adapter) * factor)
    refusal = r"cannot be merged" if damage == "no number" else r"differ from the adapter's by up to \d.*was allowed"
    with pytest.raises(RaymillError, match=refusal):
        export(run.job, run.outcome, run.packed)
    assert not (run.export / "manifest.json").exists()


MIXTURE = LLAMA | {"model_type": "mixtral", "num_local_experts": 4}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 264, "n_positions": 128}


@pytest.mark.parametrize(
    ("base", "dtype", "method", "more"),
    [
        (LLAMA, "bfloat16", "full", {}),
        (LLAMA | {"tie_word_embeddings": True}, "float32", "full", {"export": {"dtype": "bfloat16"}}),
        (MIXTURE, "bfloat16", "full", {}),
        (LLAMA, "bfloat16", "lora", {}),
        (LLAMA | {"tie_word_embeddings": True}, "bfloat16", "lora", {"export": {"dtype": "float32"}}),
        (LLAMA, "float32", "lora", {"lora": {"rank": 4, "alpha": 8, "dora": True}}),
        (GPT2, "bfloat16", "lora", {}),
        (MIXTURE, "bfloat16", "lora", {}),
    ],
)  # fmt: skip
def test_weights_are_those_of_the_whole_model_in_float32_byte_for_byte(tmp_path, base, dtype, method, more):
    """The export holds no model; this reference holds it, merges it with peft and saves it with transformers."""
    config = AutoConfig.for_model(**base)
    made = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    made.save_pretrained(tmp_path / "base")
    run = make_run(tmp_path, method, model={"name": str(tmp_path / "base"), "tokenizer": "train"}, steps=2, **more)
    manifest = export(run.job, run.outcome, run.packed)
    model = run.trained.model if method == "full" else run.trained.model.merge_and_unload()
    name = "full" if method == "full" else "merged"
    model.to(getattr(torch, manifest["dtype"])).save_pretrained(tmp_path / "reference")
    for file in ("model.safetensors", "config.json"):
        wanted, found = (folder / file for folder in (tmp_path / "reference", run.export / name))
        if file == "config.json":
            assert json.loads(found.read_text())["dtype"] == manifest["dtype"]
        else:
            assert found.read_bytes() == wanted.read_bytes()
    if base is MIXTURE and method == "lora":
        assert manifest["merged_check"]["matrices"] > 4 * 2  # those of experts, besides attention


def test_memory_holds_a_few_matrices_and_not_the_model(tmp_path, monkeypatch):
    wide = LLAMA | {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 8}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**wide), dtype=torch.bfloat16)
    made.save_pretrained(tmp_path / "base")
    run = make_run(tmp_path, model={"name": str(tmp_path / "base"), "tokenizer": "train"}, steps=1)
    gc.collect()
    held = {id(one) for one in gc.get_objects() if isinstance(one, torch.Tensor)}
    in_float32 = []

    class Counted(OnDisk):
        def empty(self, shape, dtype):
            new = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and id(one) not in held]
            in_float32.append(sum(one.numel() for one in new if one.dtype == torch.float32))
            return super().empty(shape, dtype)

    monkeypatch.setattr("raymill.training.export.job.OnDisk", Counted)
    export(run.job, run.outcome, run.packed)
    matrices, adapter = 8 * 7, run.outcome["trainable_parameters"]
    assert len(in_float32) == matrices
    assert max(in_float32) < adapter + 4 * 64 * 256 < sum(p.numel() for p in made.parameters()) / 2


def test_a_full_disk_is_said_before_values_are_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = make_run(tmp_path, "full")
    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(StorageError, match="TMPDIR"):
        export(run.job, run.outcome, run.packed)


def test_4_bit_adapters_are_merged_into_the_whole_weights(tmp_path):
    """Of the same names and shapes as lora's, whose checkpoint therefore stands in for one made on a GPU."""
    run = make_run(tmp_path)
    config = run.job.config.model_copy(update={"method": "qlora"})
    job = dataclasses.replace(run.job, config=config)
    assert export(job, run.outcome, run.packed)["folders"].keys() >= {"adapter", "merged"}
    torch.testing.assert_close(
        logits(load(run, "merged"), prompt(run)), trained_logits(run, prompt(run)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("model", "identity", "name", "revision"),
    [
        ({"name": "org/model", "revision": "main"}, "org/model@0a1b", "org/model", "0a1b"),
        ({"name": "s3://bucket/model"}, "weights-12", "s3://bucket/model", None),
        ({"config": {"model_type": "llama"}, "tokenizer": "t"}, "random-12", "/runs/a/export/base", None),
    ],
)
def test_an_adapter_names_the_base_it_was_trained_on(model, identity, name, revision):
    base = base_of(Model(**model), identity, "/runs/a/export")
    assert (base.name, base.revision) == (name, revision)


def test_the_digest_of_a_folder_is_of_every_file_but_its_card(tmp_path):
    """The card has the paths of the data, so it differs where the same training runs elsewhere."""
    files = {"README.md": "trained on /data", "model.safetensors": "weights", "tokenizer.json": "{}"}

    def digest(**changes: str) -> str:
        folder, root = tmp_path / "full", str(tmp_path / "export")
        folder.mkdir()
        for name, content in (files | changes).items():
            (folder / name).write_text(content)
        put = put_folder(Store(), folder, root)
        manifest = finish_export(Store(), root, {"made_from": "x", "folders": {"full": "full"}}, put)
        return export_digests(Store(), root, manifest)["full"]

    assert digest(**{"README.md": "trained on s3://elsewhere"}) == digest()
    for name in ("model.safetensors", "tokenizer.json", "another.json"):
        assert digest(**{name: "changed"}) != digest()


@pytest.mark.parametrize(
    ("path", "plain", "same", "other"),
    [
        (
            "adapter/adapter_config.json",
            {"base_model_name_or_path": "/here", "r": 4, "target_modules": ["q_proj", "v_proj"]},
            {"base_model_name_or_path": "/there", "r": 4, "target_modules": ["v_proj", "q_proj"]},
            {"base_model_name_or_path": "/here", "r": 4, "target_modules": ["q_proj", "k_proj"]},
        ),
        (
            "probe/probe.json",
            {"base": {"name": "/here", "revision": "a"}, "pool": "last"},
            {"base": {"name": "/there", "revision": "a"}, "pool": "last"},
            {"base": {"name": "/here", "revision": "b"}, "pool": "last"},
        ),
    ],
)
def test_the_digest_leaves_out_the_location_of_the_base_and_no_other_setting(tmp_path, path, plain, same, other):
    folder = path.partition("/")[0]
    manifest = {"folders": {folder: folder}, "files": [{"path": path, "bytes": 1, "sha256": "x"}]}
    digests = []
    for settings in (plain, same, other):
        Store().write_bytes(f"{tmp_path}/{path}", json.dumps(settings).encode())
        digests.append(export_digests(Store(), str(tmp_path), manifest)[folder])
    assert digests[0] == digests[1] != digests[2]


def test_an_export_to_an_object_store_is_the_same(s3_root, s3_store, tmp_path):
    run = make_run(tmp_path)
    config = run.job.config.model_copy(update={"storage": s3_store.options})
    job = dataclasses.replace(
        run.job, config=config, folder=dataclasses.replace(run.job.folder, store=config.store, uri=f"{s3_root}/run")
    )
    for file in Store().list_files(run.job.folder.checkpoints):
        at = f"{job.folder.checkpoints}/{file.uri.removeprefix(f'{run.job.folder.checkpoints}/')}"
        s3_store.write_bytes(at, Store().read_bytes(file.uri))
    manifest = export(job, run.outcome, run.packed)
    there = {file.uri.removeprefix(f"{s3_root}/run/export/") for file in s3_store.list_files(f"{s3_root}/run/export")}
    assert there == {file["path"] for file in manifest["files"]} | {"manifest.json"}
