"""What a train config asks of a cluster: equal ids for equal weights, machines from workers, engine and the plan."""

import json
from types import SimpleNamespace

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.submit.work import GIB, Machines, head_machine, largest
from raymill.training import work as asked
from raymill.training.config import TrainConfig
from raymill.training.job import TrainJob
from raymill.training.models import cost
from tests.support.model_folders import folder
from tests.support.train_inline import MODEL

SIZES = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 50_000}


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"Text {n}."}) + "\n" for n in range(50)))
    return {"kind": "train", "name": "run", "corpus": str(tmp_path / "corpus.jsonl"), "columns": {"text": "text"},
            "model": {"config": MODEL | {"vocab_size": 300}, "tokenizer": "train"}, "sequence_length": 64,
            "tokens_per_step": 4096, "steps": 10, "output": str(tmp_path / "out")}  # fmt: skip


def of(settings, **changes):
    return TrainJob(TrainConfig.model_validate(settings | changes)).work()


def test_equal_weights_have_one_id_and_others_have_another(settings, tmp_path):
    one = of(settings)
    assert of(settings, workers={"count": 2}, micro_batch=1).run_id == one.run_id, "how it computes is no result"
    assert of(settings, steps=11).run_id != one.run_id
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": "Other."}) + "\n")
    assert of(settings).run_id != one.run_id


def test_the_config_of_a_job_is_the_config_again(settings):
    found = of(settings)
    again = TrainConfig.model_validate(json.loads(json.dumps(found.config)))
    assert TrainJob(again).work().run_id == found.run_id and not found.finished


def test_gpus_stand_on_machines_of_up_to_eight(settings):
    machines = of(settings, workers={"count": {"min": 8, "max": 16}, "gpus_each": 1}).workers[0]
    assert (machines.name, machines.gpus, machines.cpus, machines.least, machines.most) == ("gpu", 8, 32, 1, 2)
    single = machines.resized(gpus=1)
    assert (single.gpus, single.cpus, single.least, single.most) == (1, 4, 8, 16)


def test_memory_equals_the_one_of_the_plan(settings):
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


# --- numbers of machines, against plain computations


def sized(monkeypatch, *, host=0, total=5 * GIB):
    """A model of 1 GiB of weights and 3 GiB of states, whose plan has these bytes."""
    monkeypatch.setattr(asked, "_shape_of", lambda config: SimpleNamespace(total=GIB // 4, trained=GIB // 4))
    monkeypatch.setattr(asked, "memory", lambda config, shape: SimpleNamespace(host=host, total=total))


TEXTS = {"a": SimpleNamespace(unit_bytes=[3 * GIB, 2 * GIB]), "b": SimpleNamespace(unit_bytes=[2 * GIB])}


@pytest.mark.parametrize(
    ("workers", "host", "cpus", "memory", "gpus", "task", "least", "most"),
    [
        # on CPUs a worker has 1 GiB of libraries, 5 of the plan, 1 of weights; 2 for Ray, and a tenth is free
        ({"count": 3, "cpus_each": 6}, 0, 12, 18, 0, 7, 2, 2),  # 2 workers: (14 + 2) / 0.9
        ({"count": {"min": 1, "max": 5}, "cpus_each": 6}, 0, 6, 10, 0, 7, 1, 5),  # 1 worker: 9 / 0.9
        ({"count": 2, "cpus_each": 8}, 0, 16, 20, 0, 7, 1, 1),  # 2 workers: (16 tasks of packing + 2) / 0.9
        ({"count": 2, "cpus_each": 20}, 0, 20, 25, 0, 7, 2, 2),  # 1 worker: (20 tasks of packing + 2) / 0.9
        ({"count": 33, "cpus_each": 0.5}, 0, 16, 252, 0, 7, 2, 2),  # 32 workers: (224 + 2) / 0.9
        # on GPUs 4 GiB of libraries, what is offloaded, 1 of weights
        ({"count": {"min": 9, "max": 20}, "gpus_each": 1}, 2 * GIB, 32, 65, 8, 7, 2, 3),  # 8 workers: 58 / 0.9
        ({"count": {"min": 2, "max": 8}, "gpus_each": 1}, 0, 8, 14, 2, 5, 1, 4),  # 2 workers: 12 / 0.9
        ({"count": 2, "gpus_each": 1, "cpus_each": 6}, 0, 12, 16, 2, 5, 1, 1),  # (12 tasks of packing + 2) / 0.9
    ],
)
def test_machines_have_the_numbers_of_their_workers(
    settings, monkeypatch, workers, host, cpus, memory, gpus, task, least, most
):
    sized(monkeypatch, host=host)
    found = asked.machines(TrainConfig.model_validate(settings | {"workers": workers, "tokens_per_step": 6400}), TEXTS)
    assert (found.cpus, found.memory / GIB, found.gpus) == (cpus, memory, gpus)
    assert (found.largest_task / GIB, found.least, found.most) == (task, least, most)
    assert found.disk == (3 * 1 + 2 * 3 + 7 + 10) * GIB, "the model three times, two checkpoints, the text, Ray's logs"
    assert found.name == ("gpu" if gpus else "cpu")


def test_each_number_of_machines_has_its_reason(settings, monkeypatch):
    sized(monkeypatch, host=2 * GIB)
    cpus = {"count": {"min": 3, "max": 5}, "cpus_each": 6}
    found = asked.machines(TrainConfig.model_validate(settings | {"workers": cpus}), TEXTS)
    assert found.reasons == {
        "cpus": "2 workers with 6 each",
        "memory": "2 workers of 7.0 GiB: libraries 1, 1.00 for 268,435,456 weights while they are loaded, "
        "2.0 GiB offloaded, 5.00 GiB of weights, gradients, optimizer and activations; 2 GiB for Ray, a tenth free",
        "disk": "the model, its export and a copy while that is written (3.00 GiB), two checkpoints before their "
        "upload (6.00), 7.00 of documents while they are packed; 10 for logs",
        "gpus": "workers.gpus_each: 0",
        "least": "workers.count: 3, 2 a machine",
        "most": "workers.count: 5, 2 a machine; full on CPUs",
    }
    gpus = {"count": {"min": 9, "max": 20}, "gpus_each": 1}
    changes = {"workers": gpus, "engine": "zero2", "method": "lora"}
    found = asked.machines(TrainConfig.model_validate(settings | changes), TEXTS)
    assert found.reasons["cpus"] == "8 workers with 4 each: itself, its reader, NCCL, and tokenising before (4 a GPU)"
    assert found.reasons["memory"] == (
        "8 workers of 7.0 GiB: libraries 4, 1.00 for 268,435,456 weights while they are loaded, 2.0 GiB offloaded; "
        "2 GiB for Ray, a tenth free"
    )
    assert found.reasons["gpus"].startswith("workers.gpus_each: 1 and engine zero2; up to 8 GPUs of one machine")
    assert found.reasons["least"] == "workers.count: 9, 8 a machine"
    assert found.reasons["most"] == "workers.count: 20, 8 a machine; lora on GPUs"


def test_one_group_of_machines_has_the_largest_of_each_number():
    numbers = ("cpus", "memory", "disk", "largest_task", "least", "most")
    small = Machines("cpu", 9, 12, 9, 0, 2, 9, 2, {"cpus": "small"})
    large = Machines("gpu", 3, 8, 3, 4, 8, 3, 8, {"cpus": "large"})
    for groups in ([small, large], [large, small]):
        found = largest(groups)
        assert [getattr(found, name) for name in numbers] == [9, 12, 9, 8, 9, 8]
        assert (found.name, found.gpus, found.reasons) == ("gpu", 4, {"cpus": "large"})
    equal = Machines("cpu", 1, 19, 1, 0, reasons={"cpus": "more memory"})
    assert largest([small, equal]).reasons == {"cpus": "more memory"}


def test_the_head_has_memory_for_the_units_of_all_phases_twice(settings, monkeypatch):
    units = []
    monkeypatch.setattr(
        "raymill.cluster.frame.job.head_machine", lambda count: units.append(count) or head_machine(count)
    )
    of(settings)
    of(settings, phases=[{"name": "a"}, {"name": "b"}, {"name": "c"}])
    assert units == [2, 6]


def test_a_job_has_what_its_config_asks_for(settings, tmp_path):
    found = of(settings)
    assert (found.kind, found.verb, found.name, found.output) == ("train", "train", "run", str(tmp_path / "out"))
    assert (found.all_at_once, found.replace, found.finished) == (True, False, False)
    assert TrainJob(TrainConfig.model_validate(settings)).work(replace=True).replace is True


@pytest.mark.parametrize(
    ("model", "files"),
    [
        ({"config": MODEL, "tokenizer": "train"}, ()),
        ({"config": MODEL, "tokenizer": "tok"}, ("tok/tokenizer_config.json",)),
        ({"name": "base", "tokenizer": "tok"}, ("base/config.json", "tok/tokenizer_config.json")),
        ({"name": "base", "chat_template": "t.jinja"}, ("base/config.json", "t.jinja")),
        ({"name": "base", "chat_template": "chatml"}, ("base/config.json",)),
        ({"name": "org/base"}, ()),
        ({"name": "org/base", "tokenizer": "org/tok"}, ()),
    ],
)
def test_files_that_must_exist_are_of_the_corpora_the_model_the_tokenizer_and_the_template(
    settings, tmp_path, monkeypatch, model, files
):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "tok"):
        folder(tmp_path / name)
    config = TrainConfig.model_validate(settings | {"model": model})
    corpora = {
        name: SimpleNamespace(
            path=path, units=[[SimpleNamespace(uri=f"/{name}/{n}"), SimpleNamespace(uri="/z")] for n in (1, 2)]
        )
        for name, path in (("b", "/b"), ("hub", "hf://acme/help"), ("a", "/a"))
    }
    assert asked.files_that_must_exist(config, corpora) == ["/b/1", "/a/1", *(str(tmp_path / file) for file in files)]


def test_a_job_has_absolute_paths_in_every_phase_too(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    model = folder(tmp_path / "model")
    listed = ["corpus.jsonl", {"path": "corpus.jsonl", "name": "b"}]
    phases = [
        {"name": "a", "corpus": "corpus.jsonl", "model": {"name": "model"}},
        {"name": "b", "corpus": listed},
        {"name": "c", "steps": 2},
    ]
    given = {"output": "out", "packed": "packed", "corpus": "corpus.jsonl", "model": {"name": "model"}}
    found = of(settings | given, phases=phases).config
    assert (found["output"], found["packed"]) == (f"{here}/out", f"{here}/packed")
    assert [one["path"] for one in found["corpus"]] == [f"{here}/corpus.jsonl"]
    assert found["model"]["name"] == model
    first, second, third = found["phases"]
    assert first["model"] == {"name": model}
    assert first["corpus"] == f"{here}/corpus.jsonl" and "corpus" not in third
    assert [one["path"] for one in second["corpus"]] == [f"{here}/corpus.jsonl"] * 2
    assert second["corpus"][1]["name"] == "b"


@pytest.mark.parametrize("change", ["nothing", "steps", "corpus", "model", "phase"])
def test_a_result_is_of_the_settings_the_model_and_the_corpora_of_every_phase(settings, tmp_path, change):
    (tmp_path / "second.jsonl").write_text(json.dumps({"text": "Second."}) + "\n")
    phases = [{"name": "a"}, {"name": "b", "corpus": str(tmp_path / "second.jsonl")}]
    before = of(settings, phases=phases).result
    changes = {}
    if change == "steps":
        changes = {"steps": 9}
    elif change == "corpus":
        (tmp_path / "second.jsonl").write_text(json.dumps({"text": "Changed."}) + "\n")
    elif change == "model":
        changes = {"model": {"config": MODEL | {"vocab_size": 300, "hidden_size": 128}, "tokenizer": "train"}}
    elif change == "phase":
        phases[1]["steps"] = 3
    assert (of(settings | changes, phases=phases).result == before) is (change == "nothing")


def test_weights_that_stay_in_their_files_are_in_memory_once_a_machine(settings, monkeypatch):
    sized(monkeypatch)
    monkeypatch.setattr(asked, "_bytes_in_files", lambda config: 2)
    changes = {"workers": {"count": 8, "gpus_each": 1}, "tokens_per_step": 6400}
    found = asked.machines(TrainConfig.model_validate(settings | changes), TEXTS)
    assert found.memory / GIB == 39, "8 workers of 4 GiB of libraries, 0.5 of the files, 2 for Ray: 34.5 / 0.9"
    assert "0.00 for 268,435,456 weights while they are loaded; 0.50 for the model's files; " in found.reasons["memory"]


@pytest.mark.parametrize(
    ("stored", "changes", "size"),
    [
        ("bfloat16", {"engine": "fsdp2"}, 2),
        ("float16", {"engine": "fsdp2"}, 2),
        ("float32", {"engine": "fsdp2"}, 4),
        ("bfloat16", {"engine": "ddp"}, 0),
        ("bfloat16", {"engine": "zero2"}, 2),
        ("float32", {"engine": "zero2"}, 0),  # DeepSpeed gets a copy in bf16
        ("bfloat16", {"engine": "zero3", "precision": "float32"}, 0),
        ("bfloat16", {"engine": "fsdp2", "method": "lora"}, 2),
        ("float32", {"engine": "fsdp2", "method": "lora"}, 0),
    ],
)
def test_which_weights_stay_in_their_files(settings, tmp_path, stored, changes, size):
    name = folder(tmp_path / "model", dtype=stored)
    config = settings | {"model": {"name": name, "tokenizer": "train"}, "precision": "bf16"} | changes
    assert cost.bytes_in_files(TrainConfig.model_validate(config)) == size
