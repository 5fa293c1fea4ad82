"""A model's folder whose files are damaged or do not fit each other is refused at once, with the file's name."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Model
from raymill.training.model_folder.checks import (
    ENCODERS,
    LINEAR_NAMES,
    TIED,
    check_architecture,
    check_model,
    differences,
    embedded_tokens,
    refuse_later_tokens,
)
from raymill.training.model_folder.folder import (
    INDEX,
    SINGLE,
    located_with_fingerprint,
    model_fingerprint,
    weight_files,
)
from raymill.training.models.base import base_dtype, load_base
from tests.support.model_folders import folder, shapes_of, write_weights
from tests.support.train_inline import MODEL, PLAIN


def check(model: str | dict, **settings) -> list[str]:
    plain = PLAIN | {"corpus": "nowhere", "output": "nowhere", "model": model}
    return check_model(TrainConfig.model_validate(plain | settings))


# --- files of weights

HOW = {"dtype": torch.float32, "attention": None}
WHOLE = "it is no complete safetensors file"


def header_of(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", f"model.safetensors: is empty; {WHOLE}"),
        (b"{}", f"model.safetensors: has 2 bytes; {WHOLE}"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n", "Git LFS pointer.*`git lfs pull`"),
        (b"<!doctype html><title>Sign in", f"does not begin like a safetensors file but with b'<!doctype.*{WHOLE}"),
        (struct.pack("<Q", 5000) + b"{", f"has 9 bytes, and its header alone takes 5,000; {WHOLE}"),
        (header_of(b'{"a": '), f"has a broken header .*{WHOLE}"),
        (header_of(b'{"a": {"shape": [1]}}'), f"has a broken header .KeyError: 'data_offsets'.*{WHOLE}"),
        (header_of(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
         f"has 69 bytes, and its header states 73; {WHOLE}"),
        (header_of(b'{"a": [' + b"[]," * 2_000_000 + b"[]]}"), f"has a header of 4,000,003 numbers and lists.*{WHOLE}"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_weights_is_refused_with_its_name_and_what_was_seen(tmp_path, content, told):
    place = folder(tmp_path / "a")
    Path(place, SINGLE).write_bytes(content)
    for look in (
        check,
        lambda name: model_fingerprint(Store(), Model(name=name)),
        lambda name: load_base(Store(), Model(name=name), 0, **HOW),
    ):
        with pytest.raises(DataError, match=f"{place}/.*{told}"):
            look(place)


@pytest.mark.parametrize("begins", [struct.pack("<Q", 1 << 40), struct.pack("<Q", (1 << 64) - 1), b"a", b"a" * 100])
def test_a_file_of_weights_that_is_not_read_takes_no_memory_and_does_not_count(tmp_path, begins):
    """Neither its header, by its first bytes, nor its size, with which the numbers in config.json are compared."""
    place = folder(tmp_path / "a")
    before = base_dtype(Store(), Model(name=place)), len(weight_files(Path(place)))
    with Path(place, "other.safetensors").open("wb") as file:
        file.write(begins)
        if len(begins) == 8:
            file.truncate(1 << 38)  # sparse
    assert model_fingerprint(Store(), Model(name=place)).startswith("weights-")
    assert (base_dtype(Store(), Model(name=place)), len(weight_files(Path(place)))) == before


@pytest.mark.parametrize("changed", [{"dtype": "F999"}, {"dtype": "C64"}, {"shape": [-1]}, {"shape": [1 << 63]}])
def test_a_header_that_only_the_library_finds_wrong_is_an_error_of_the_file(tmp_path, changed):
    place = folder(tmp_path / "a")
    data = Path(place, SINGLE).read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    header[max(header)] |= changed
    Path(place, SINGLE).write_bytes(header_of(json.dumps(header).encode()) + data[end:])
    assert base_dtype(Store(), Model(name=place)) in ("float32", "float16", "bfloat16")
    with pytest.raises(ConfigError, match="transformers cannot load it"):
        load_base(Store(), Model(name=place), 0, **HOW)


def test_weights_cut_short_are_refused_with_both_sizes(tmp_path):
    place = folder(tmp_path / "a")
    whole = Path(place, SINGLE).read_bytes()
    Path(place, SINGLE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"has {len(whole) // 2:,} bytes, and its header states {len(whole):,}"):
        check(place)


def test_weights_in_several_files_are_found_by_their_index(tmp_path):
    place = Path(folder(tmp_path / "a"))
    shard = "model-00001-of-00001.safetensors"
    (place / SINGLE).rename(place / shard)
    with pytest.raises(DataError, match=rf"holds {shard}, and neither {SINGLE} nor {INDEX}"):
        check(str(place))
    names = list(shapes_of(json.dumps(MODEL)))
    placed = dict.fromkeys(names, shard)
    write_index(place, placed)
    assert check(str(place)) == []
    write_index(place, placed | {"lm_head.weight": "model-00002-of-00002.safetensors"})
    with pytest.raises(DataError, match=rf"{INDEX}: names 2 files .* 1 of them are not .* model-00002-of-00002"):
        check(str(place))
    write_index(place, placed | {"a.weight": shard})
    with pytest.raises(DataError, match=rf"{shard}: holds no tensor a.weight"):
        check(str(place))
    (place / INDEX).write_text("{")
    with pytest.raises(DataError, match=rf"{INDEX}: is not JSON"):
        check(str(place))


def test_adapters_that_name_each_other_as_base_are_refused(tmp_path):
    for own, other in (("a", "b"), ("b", "a"), ("c", "c")):
        (tmp_path / own).mkdir()
        named = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(tmp_path / other)}
        (tmp_path / own / "adapter_config.json").write_text(json.dumps(named))
        save_file({"x": torch.zeros(2)}, tmp_path / own / "adapter_model.safetensors")
    for own, other in (("a", "b"), ("c", "c")):
        with pytest.raises(DataError, match=rf"{tmp_path / other}: this is an adapter; a base model is needed"):
            located_with_fingerprint(Store(), str(tmp_path / own))


def write_index(place: Path, placed: dict[str, str]) -> None:
    (place / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


# --- weights that are those of another config

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "vocab_size": 48, "intermediate_size": 64, "pad_token_id": 0, "head_dim": 8}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 48, "n_positions": 16}


@pytest.mark.parametrize("kind", LINEAR_NAMES)
def test_weights_as_transformers_makes_them_fit_and_those_of_other_sizes_do_not(kind):
    own = GPT2 if kind == "gpt2" else SMALL
    own = {"model_type": kind} | {
        name: value for name, value in own.items() if hasattr(AutoConfig.for_model(kind), name)
    }
    shapes = shapes_of(json.dumps(own))
    assert differences(own, shapes, needs_head=True) == []
    assert AutoConfig.for_model(kind).tie_word_embeddings == (kind in TIED)
    for name in own.keys() & {"hidden_size", "intermediate_size", "vocab_size", "n_embd", "n_positions"}:
        assert differences(own | {name: 96}, shapes, needs_head=True), name
    layers = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    assert differences(own | {layers: 3}, shapes, True) == [f"there are 2 layers, but config.json has {layers}: 3"]
    assert differences(own | {layers: 1}, shapes, True) == [f"there are 2 layers, but config.json has {layers}: 1"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lm_head__weight": None}, "there is no lm_head.weight, but config.json does not state tie_word_embeddings"),
        ({"model__layers__1__mlp__up_proj__weight": None}, "there is no up_proj of layer 1"),
        (
            {"model__embed_tokens__weight": (300, 64)},
            "model.embed_tokens.weight is 300 x 64, but config.json .* 300 x 32",
        ),
        (
            {"model__layers__0__self_attn__k_proj__weight": (32, 32)},
            r"model.layers.0.self_attn.k_proj.weight is 32 x 32, but .* 16 x 32",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused_with_the_difference(tmp_path, changed, told):
    place = folder(tmp_path / "a")
    write_weights(Path(place), **changed)
    with pytest.raises(DataError, match=rf"model {place}: its weights do not fit its config.json: {told}"):
        check(place)


def test_a_model_without_lm_head_will_do_where_it_is_not_used_or_is_the_embedding(tmp_path):
    place = folder(tmp_path / "a")
    write_weights(Path(place), lm_head__weight=None)
    probe = {"method": "probe", "columns": {"text": "text", "label": "label"}}
    assert check(place, packing={"mode": "none", "overflow": "truncate"}, **probe) == []
    assert check(folder(tmp_path / "tied", tie_word_embeddings=True)) == []


def test_quantised_weights_are_refused_but_those_that_qlora_reads(tmp_path):
    four_bits = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(ConfigError, match=r"config.json: the weights are quantised \(quant_method gptq\)"):
        check(folder(tmp_path / "a", quantization_config={"quant_method": "gptq", "bits": 4}))
    place = folder(tmp_path / "b", quantization_config=four_bits)
    with pytest.raises(ConfigError, match="quant_method bitsandbytes"):
        check(place)
    assert check(place, method="qlora", workers={"gpus_each": 1}) == []


# --- small files


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", "{'hidden_size': 64,}", "is not JSON .*begins with b\"{'hidden_size': 64,}"),
        ("config.json", "", "is empty; JSON was expected"),
        ("config.json", "[1]", r"holds '\[1\]', where a JSON object was expected"),
        ("config.json", "{}", "has no 'model_type'; text was expected"),
        ("config.json", '{"model_type": 3}', "'model_type' is '3'; text was expected"),
        ("tokenizer.json", '{"version": "1.0"}', "has no 'model'; an object was expected"),
        ("tokenizer.json", '{"model": {"vocab": {"a": "b"}}}', "its vocabulary or added_tokens cannot be read"),
        ("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": ["a"]}', "its vocabulary or added_tokens"),
        ("tokenizer_config.json", "version https://git-lfs", "is not JSON .*b'version https://git-lfs'"),
        ("generation_config.json", "null", "holds 'None', where a JSON object was expected"),
    ],
)
def test_a_broken_json_file_is_refused_with_its_name(tmp_path, name, content, told):
    place = folder(tmp_path / "a")
    Path(place, name).write_text(content)
    with pytest.raises(DataError, match=f"{place}/{name}: {told}"):
        check(place)


def test_a_folder_without_a_tokenizer_is_refused_unless_another_is_given(tmp_path):
    place = folder(tmp_path / "a")
    Path(place, "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=f"{place}: no tokenizer here.*as model.tokenizer"):
        check(place)
    assert check({"name": place, "tokenizer": folder(tmp_path / "b")}) == []


# --- types of models


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("bert", "bert is an encoder: .*Give a causal language model"),
        ("zorkformer", "transformers has no model_type zorkformer. Did you mean .*never run"),
        ("lama", "transformers has no model_type lama. Did you mean llama"),
        ("clip", "transformers has no causal language model of type clip"),
        ("t5", "transformers has no causal language model of type t5"),
    ],
)
def test_a_model_that_is_no_causal_language_model_is_refused_before_packing(tmp_path, kind, told):
    with pytest.raises(ConfigError, match=rf"/config.json: {told}"):
        check(folder(tmp_path / "a", SINGLE, model_type=kind))
    with pytest.raises(ConfigError, match=rf"^model.config: {told}"):
        check({"config": {"model_type": kind, "vocab_size": 300}, "tokenizer": "train"})


def test_an_encoder_that_was_made_a_decoder_and_models_of_any_causal_type_pass():
    check_architecture({"model_type": "bert", "is_decoder": True}, "here", body_only=False)
    for kind in (*LINEAR_NAMES, "qwen3_moe", "gemma3", "opt"):
        check_architecture({"model_type": kind}, "here", body_only=False)
    check_architecture({"model_type": "modernbert"}, "here", body_only=True)
    with pytest.raises(ConfigError, match="an encoder-decoder model"):
        check_architecture({"model_type": "bart", "is_encoder_decoder": True}, "here", body_only=False)


@pytest.mark.parametrize("change", [
    {"is_causal": False}, {"is_causal": None}, {"use_bidirectional_attention": True},
    {"use_bidirectional_attention": "all"}, {"text_config": {"is_causal": 0}},
])  # fmt: skip
def test_a_decoder_whose_settings_include_later_tokens_is_refused(change):
    with pytest.raises(ConfigError, match="its attention includes later tokens"):
        check_architecture({"model_type": "llama"} | change, "here", body_only=False)
    check_architecture({"model_type": "gemma3", "use_bidirectional_attention": "vision"}, "here", body_only=False)


def test_the_encoders_are_those_of_transformers_that_are_no_decoders_by_default():
    decoders = {"gpt_neox", "gpt_neox_japanese", "trocr"}  # have the setting, and do not read it
    found = set()
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            default = AutoConfig.for_model(kind)
        except Exception:  # cannot be made without settings: none of these is an encoder
            continue
        if getattr(default, "is_decoder", None) is False and not default.is_encoder_decoder:
            found.add(kind)
        elif kind not in ENCODERS:
            refuse_later_tokens(default.to_dict(), "here")
    assert found - decoders == ENCODERS - {"xlm", "xlnet"}


# --- tokenizers


def test_a_token_without_embedding_that_the_data_or_the_template_use_is_refused_at_once(tmp_path):
    place = Path(folder(tmp_path / "a", tokens=400))
    with pytest.raises(ConfigError, match=r"has 400 tokens, and the model embeds 300, so 't300' \(id 300\) has no emb"):
        check(str(place))
    tokenizer = json.loads((place / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {f"t{number}": number for number in range(300)}
    (place / "tokenizer.json").write_text(json.dumps(tokenizer))
    (said,) = check(str(place))
    assert "A document with one of the other tokens cannot be trained on" in said
    for settings in ({"eos_token": "<end>"}, {"bos_token": {"content": "<end>"}}, {"chat_template": "{{ x }}<end>"}):
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
        with pytest.raises(ConfigError, match=r"'<end>' \(id 399\) has no embedding"):
            check(str(place))
    (place / "tokenizer_config.json").write_text("{}")
    (place / "chat_template.jinja").write_text("{% for m in messages %}<end>{% endfor %}")
    with pytest.raises(ConfigError, match=r"'<end>' \(id 399\) has no embedding"):
        check(str(place))
    assert embedded_tokens(Store(), Model(name=str(place))) == 300


@pytest.mark.parametrize("listed", [False, True])
def test_tokens_of_a_vocabulary_are_counted_by_id_or_by_place_and_used_by_the_template_that_is_set(tmp_path, listed):
    """A unigram model lists its tokens with scores in the order of their ids."""
    place = Path(folder(tmp_path / "a", tokens=300))
    tokenizer = json.loads((place / "tokenizer.json").read_text())

    def vocabulary(size: int) -> dict[str, int] | list[list]:
        names = [f"t{number}" for number in range(size)]
        return [[name, -1.0] for name in names] if listed else {name: number for number, name in enumerate(names)}

    def with_tokens(size: int, added: list[dict]) -> None:
        plain = {"model": tokenizer["model"] | {"vocab": vocabulary(size)}, "added_tokens": added}
        (place / "tokenizer.json").write_text(json.dumps(tokenizer | plain))

    with_tokens(300, [])
    assert check(str(place)) == []
    with_tokens(301, [])
    with pytest.raises(ConfigError, match=r"has 301 tokens, and the model embeds 300, so 't300' \(id 300\) has no"):
        check(str(place))
    with_tokens(300, [{"content": "<end>", "id": 305}])
    (said,) = check(str(place))
    assert "its tokenizer has 306 tokens" in said
    (tmp_path / "chat.jinja").write_text("{{ messages }}<end>")
    with pytest.raises(ConfigError, match=r"'<end>' \(id 305\) has no embedding"):
        check({"name": str(place), "chat_template": str(tmp_path / "chat.jinja")})
