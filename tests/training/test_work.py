"""What a train config asks of a cluster: equal ids for equal weights, machines from workers, engine and the plan."""

import json

import pytest

from cluster.errors import ConfigError
from cluster.submit.work import GIB
from tests.support.model_folders import folder
from tests.support.train_inline import MODEL
from training.config import TrainConfig
from training.work import work

SIZES = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 50_000}


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"Text {n}."}) + "\n" for n in range(50)))
    return {"kind": "train", "name": "run", "corpus": str(tmp_path / "corpus.jsonl"), "columns": {"text": "text"},
            "model": {"config": MODEL | {"vocab_size": 300}, "tokenizer": "train"}, "sequence_length": 64,
            "tokens_per_step": 4096, "steps": 10, "output": str(tmp_path / "out")}  # fmt: skip


def of(settings, **changes):
    return work(TrainConfig.model_validate(settings | changes))


def test_equal_weights_have_one_id_and_others_have_another(settings, tmp_path):
    one = of(settings)
    assert of(settings, workers={"count": 2}, micro_batch=1).run_id == one.run_id, "how it computes is no result"
    assert of(settings, steps=11).run_id != one.run_id
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": "Other."}) + "\n")
    assert of(settings).run_id != one.run_id


def test_the_config_of_a_job_is_the_config_again(settings):
    found = of(settings)
    again = TrainConfig.model_validate(json.loads(json.dumps(found.config)))
    assert work(again).run_id == found.run_id and not found.finished


def test_gpus_stand_on_machines_of_up_to_eight(settings):
    machines = of(settings, workers={"count": {"min": 8, "max": 16}, "gpus_each": 1}).workers[0]
    assert (machines.name, machines.gpus, machines.cpus, machines.least, machines.most) == ("gpu", 8, 32, 1, 2)
    single = machines.resized(gpus=1)
    assert (single.gpus, single.cpus, single.least, single.most) == (1, 4, 8, 16)


def test_memory_is_that_of_the_plan(settings):
    large = {"config": MODEL | SIZES, "tokenizer": "train"}
    workers = {"count": 4, "gpus_each": 1}
    usual = of(settings, model=large, workers=workers).workers[0]
    offloaded = of(settings, model=large, workers=workers, engine="zero2", offload="optimizer").workers[0]
    cpus = of(settings, model=large, workers={"count": 4}).workers[0]
    assert offloaded.memory > usual.memory + 10 * GIB, "20 bytes of each of a billion values are offloaded"
    assert cpus.memory > usual.memory + 4 * 10 * GIB, "without GPUs, states and activations are in it"
    assert "offloaded" in offloaded.reasons["memory"] and set(usual.reasons) >= {"cpus", "gpus", "memory", "disk"}


def test_corpora_models_and_templates_must_exist(settings, tmp_path):
    name = folder(tmp_path / "model")
    found = of(settings, model={"name": name, "chat_template": "chatml"})
    assert found.must_exist == (str(tmp_path / "corpus.jsonl"), f"{name}/config.json")


def test_machines_serve_every_phase(settings):
    phases = [{"name": "a"}, {"name": "b", "workers": {"count": 3}}]
    found = of(settings, phases=phases)
    assert found.workers[0].cpus * found.workers[0].most >= 3 and len(found.workers) == 1


def test_keys_of_a_store_are_refused(settings):
    with pytest.raises(ConfigError, match=r"storage\.secret_access_key"):
        of(settings, storage={"access_key_id": "a", "secret_access_key": "b"})
