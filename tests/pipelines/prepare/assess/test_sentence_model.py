"""Vectors of a real sentence-transformers model, with random weights, beside the library called directly."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

from raymill.cluster import model_settings
from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.engine import Engine, RetryLimits
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.content import from_shape, sides_of
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.guard import WorkBounds
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare import job
from raymill.pipelines.prepare.assess import sentence_model
from raymill.pipelines.prepare.assess.sentence_model import SentenceModel
from raymill.pipelines.prepare.assess.settings import Embeddings
from raymill.pipelines.prepare.config import PrepareConfig
from tests.support.assessments import metric
from tests.support.inline import prepare_inline
from tests.support.queues import QUEUES, rows, settings_of
from tests.support.sampled import sampled


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A BERT of 16 dimensions with words of the records, as `SentenceTransformer.save` writes it."""
    folder, plain = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for queue in QUEUES.values() for word in queue)]
    (plain / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(plain)
    BertTokenizer(str(plain / "vocab.txt")).save_pretrained(plain)
    SentenceTransformer(modules=[Transformer(str(plain)), Pooling(16)], device="cpu").save(str(folder))
    return str(folder)


def pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_dense(folder: Path) -> None:
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense/config.json").write_text(json.dumps({"in_features": 100_000, "out_features": 100_000}))


def beside_a_decoy(folder: Path) -> None:
    pickled_run(folder)
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")


class Touch:
    """What touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled_run(folder: Path) -> None:
    torch.save({"weight": Touch(folder / "RUN")}, folder / "pytorch_model.bin")


def pickled_by_arguments(folder: Path) -> None:
    pickled_run(folder)
    arguments = {"weights_only": False, "use_safetensors": False, "dtype": "auto"}
    with_settings(folder, "sentence_bert_config.json", model_kwargs=arguments)


GROWS = {"type": "Sequence", "normalizers": [
    {"type": "Replace", "pattern": {"String": "v"}, "content": "v" * 400}] * 3}  # fmt: skip
ANY_TIME = {"type": "Split", "pattern": {"Regex": "(a|a)*$"}, "behavior": "Isolated", "invert": False}


def with_tokenizer(folder: Path, **parts) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    with_settings(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def with_added_bomb(folder: Path) -> None:
    """A token that the normalizer makes 256 MB of while the tokenizer is loaded, although it writes 256 for one."""
    token = {"content": "v" * 1_000_000, "normalized": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    normalizer = {"type": "Replace", "pattern": {"String": "v"}, "content": "v" * 256}
    with_tokenizer(folder, normalizer=normalizer, added_tokens=[{"id": 100} | flags | token])


def with_module(folder: Path, type: str) -> None:
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    path.write_text(json.dumps([modules[0], modules[1] | {"type": type}]))


def with_settings(folder: Path, file: str = "config.json", **settings) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("damage", "said"),
    sampled(
        [
            (pickled, "pytorch_model.bin is pickled"),
            (beside_a_decoy, "pytorch_model.bin is pickled"),
            (pickled_by_arguments, "model_kwargs has arguments of loading"),
            (
                partial(with_settings, file="sentence_bert_config.json", config_args={"a": 1}),
                "config_args has arguments",
            ),
            (
                partial(with_settings, file="1_Pooling/config.json", tokenizer_args={"a": 1}),
                "tokenizer_args has arguments",
            ),
            (partial(with_tokenizer, normalizer=GROWS), "its normalizer may write 64,000,000 characters for one"),
            (with_added_bomb, r"the tokenizer cannot be loaded within its bounds \("),
            (
                partial(with_module, type="sentence_transformers.base.model.torch"),
                "is none of the modules that are loaded",
            ),
            (partial(with_module, type="pickle.loads"), "'pickle.loads' is none of the modules that are loaded"),
            (partial(with_settings, attn_implementation="acme/kernel"), "attn_implementation names code of a hub"),
            (partial(with_settings, num_hidden_layers=10**9), "num_hidden_layers is 1,000,000,000"),
            (partial(with_settings, hidden_size=-8), "cannot be loaded"),
            (partial(with_settings, vocab_size=10**9), r"describes 16,000,0\d\d,\d+ weights, and the files have"),
            (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json is an adapter"),
            (with_dense, "describes a matrix of 100000 x 100000 x 1 values"),
            (lambda folder: os.mkfifo(folder / "extra.json"), "extra.json is a FIFO"),
            (lambda folder: (folder / "modules.json").write_text('"x"'), "cannot be loaded"),
            (lambda folder: os.truncate(folder / "model.safetensors", 100), "cannot be loaded"),
            (lambda folder: next(folder.glob("*/config.json")).write_text("[]"), "cannot be loaded"),
        ],
        8,
    ),
)
def test_a_hostile_or_damaged_model_is_refused_with_its_folder(tmp_path, monkeypatch, model, damage, said):
    monkeypatch.setattr(model_settings, "LOADING", WorkBounds(60, 256 << 20))
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    damage(folder)
    with pytest.raises((ConfigError, DataError), match=said) as refused:
        sentence_model.SentenceModel(str(folder), "assess.embeddings.model")
    assert str(refused.value).startswith(f"assess.embeddings.model: {folder}")
    assert not (folder / "RUN").exists(), "code of a pickle ran"


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_no_file_that_settings_of_the_tokenizer_name_is_read(tmp_path, model, file):
    folder = shutil.copytree(model, tmp_path / "model")
    own = SentenceModel(model, "a").model.tokenizer.get_vocab()
    (tmp_path / "lines.txt").write_text("[UNK]\nsecret")
    (folder / "vocab.txt").write_text("\n".join(sorted(own, key=own.__getitem__)))
    (folder / "tokenizer.json").unlink()
    settings = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(settings | {"vocab": str(tmp_path / "lines.txt")}))
    assert SentenceModel(str(folder), "a").model.tokenizer.get_vocab() == own


def test_a_text_that_the_tokenizer_fails_on_is_an_error_that_names_the_model(tmp_path, model):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    with_tokenizer(folder, pre_tokenizer=ANY_TIME)
    loaded = sentence_model.SentenceModel(str(folder), "assess.embeddings.model")
    with pytest.raises(DataError, match=f"^assess.embeddings.model: the tokenizer of {folder} fails on a text"):
        loaded.embed(["a" * 60 + "b"])


def test_a_text_longer_than_the_models_positions_is_cut(tmp_path, model):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    with_settings(folder, "sentence_bert_config.json", max_seq_length=10**9)
    assert sentence_model.SentenceModel(str(folder), "assess.embeddings.model").embed(["a " * 2000]).shape == (1, 16)


def test_pickled_weights_beside_the_others_are_not_read(tmp_path, model):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    pickled_run(folder)
    expected = sentence_model.SentenceModel(model, "assess.embeddings.model").embed(["text"])
    found = sentence_model.SentenceModel(str(folder), "assess.embeddings.model").embed(["text"])
    np.testing.assert_array_equal(found, expected)
    assert not (folder / "RUN").exists()


def vectors(run) -> dict[str, np.ndarray]:
    tables = Artifact.load(Store(), f"{run.uri}/_work/assess/vectors").tables()
    return {row["id"]: np.array(row["vector"], np.float32) for table in tables for row in table.to_pylist()}


def test_a_model_in_a_folder_makes_the_vectors(tmp_path, monkeypatch, model):
    run = prepare_inline(settings_of(tmp_path, rows(40), embeddings={"model": model, "groups": 3}), monkeypatch)
    found = vectors(run)
    records = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    texts = {row["id"]: sides_of(from_shape(row, "messages")).text for row in records}
    library = SentenceTransformer(model, device="cpu")
    expected = library.encode(list(texts.values()), normalize_embeddings=True)
    assert set(found) == set(texts) and len(texts) == 40
    for id, wanted in zip(texts, expected, strict=True):
        np.testing.assert_allclose(found[id], wanted, atol=1e-3)  # as float16
    assert 0 < metric(run.assessment, "semantic_diversity") <= 1
    assert not (tmp_path / "out" / "_work" / "assess" / "model").exists(), "nothing is fitted"


def test_a_model_in_a_folder_finds_unrelated_answers(tmp_path, monkeypatch, model):
    settings = settings_of(tmp_path, rows(40), embeddings=None) | {
        "dedup": None,
        "duplicates": {"contradictory": "ignore"},
    }
    rule = {"model": model, "min_cosine": 0.01}
    run = prepare_inline(settings | {"validate": {"answer_relevance": rule}}, monkeypatch)
    records = Artifact.load(Store(), f"{run.uri}/_work/records").table().to_pylist()
    found = Artifact.load(Store(), f"{run.uri}/_work/relevance/cosines").table()["cosine"].to_pylist()
    library = SentenceTransformer(model, device="cpu")
    sides = [sides_of(from_shape(row, "messages")) for row in records]
    asked, said = (library.encode(texts, normalize_embeddings=True) for texts in
                   ([one.question for one in sides], [one.answer for one in sides]))  # fmt: skip
    expected = (asked * said).sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    least = float(np.median(found))
    run = prepare_inline(
        settings | {"validate": {"answer_relevance": rule | {"min_cosine": least}}}, monkeypatch, replace=True
    )
    removed = {row["id"] for row in Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()}
    assert removed == {row["id"] for row, cosine in zip(records, found, strict=True) if cosine < least}
    assert 0 < len(removed) < 40
    assert not (tmp_path / "out" / "_work" / "relevance" / "model").exists(), "nothing is fitted"


def test_a_relative_folder_is_made_absolute_and_a_name_of_the_hub_stays(monkeypatch, model):
    monkeypatch.chdir(Path(model).parent)
    assert Embeddings(model=Path(model).name).model.path == model
    named = Embeddings(model="acme/mini-lm").model
    assert named.path == "acme/mini-lm" and not named.is_folder


def test_a_model_that_cannot_be_had_is_refused_before_a_record_is_read(tmp_path, monkeypatch, model):
    def refused(match: str, name: str, kind: type[Exception] = DataError) -> None:
        with pytest.raises(kind, match=match):
            prepare_inline(settings_of(tmp_path, rows(30), embeddings={"model": name}), monkeypatch, replace=True)

    refused(
        r"there is no folder .*nowhere, or it is empty\. Give the folder that `SentenceTransformer.save` wrote",
        f"{tmp_path}/nowhere",
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.txt").write_text("none")
    refused("other has neither modules.json nor config.json", str(tmp_path / "other"))
    assert not (tmp_path / "out" / "train").exists()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "of nobody"}))
    refused("other cannot be loaded", str(tmp_path / "other"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("there is no folder nobody/nothing, and the hub did not provide a model of this name", "nobody/nothing")


def test_a_package_that_is_not_installed_is_refused_with_the_command(tmp_path, monkeypatch, model):
    sentence_model.load.cache_clear()
    monkeypatch.setattr(sentence_model, "SentenceTransformer", None)
    with pytest.raises(ConfigError, match=r"pip install 'raymill\[embeddings\]'") as refusal:
        prepare_inline(settings_of(tmp_path, rows(30), embeddings={"model": model}), monkeypatch)
    assert refusal.value.exit_code == 2
    sentence_model.load.cache_clear()


def count_loads(name: str, unit: int, scratch: Scratch) -> Counters:
    """Work of a unit that embeds a text. Counters: units of each process, and how often it has loaded a model."""
    vector = sentence_model.load(Store(), name).embed(["router"])
    scratch.write("one", pa.table({"size": [vector.shape[1]]}))
    return {f"units/{os.getpid()}": 1, "loads": sentence_model.load.cache_info().misses}


@pytest.mark.slow
@pytest.mark.ray
def test_a_worker_loads_a_model_once_for_all_its_units(tmp_path, model):
    units = range(8)
    outputs = (Output("one", pa.schema([("size", pa.int64())])),)
    stage = Stage("loads", outputs, units, partial(count_loads, model), fingerprint([model]), Store())
    with Session(None, 2, Progress()) as session:
        engine = Engine(str(tmp_path), session, Progress(), RetryLimits(), False, lambda: None)
        counters = engine.run(stage)["one"].manifest.counters
    assert counters.pop("loads") == len(units), "each unit found its process's first model"
    assert sum(counters.values()) == len(units) and len(counters) < len(units)


@pytest.mark.slow
@pytest.mark.ray
def test_the_vectors_are_the_same_for_any_number_of_workers(tmp_path, model, monkeypatch):
    monkeypatch.setattr("raymill.pipelines.prepare.assess.facts.UNIT_BYTES", 1)  # a unit a split, by the driver
    found = []
    for cpus in (1, 3):
        plain = settings_of(tmp_path, rows(300), embeddings={"model": model}, label="queue")
        plain |= {"kind": "prepare", "name": "x", "output": str(tmp_path / "out")}
        with Session(None, cpus, Progress()) as session:
            run = job.prepare(PrepareConfig.model_validate(plain), session, Progress())
        digest = Artifact.load(Store(), f"{run.uri}/_work/assess/vectors").manifest.digest
        found.append((digest, run.assessment))
        (tmp_path / "out").rename(tmp_path / f"out-{cpus}")
    assert found[0] == found[1]
