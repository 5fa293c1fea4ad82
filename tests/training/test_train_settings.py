"""Settings whose effect only a whole training shows: from the config to what the run leaves."""

import json
import os
import threading
from pathlib import Path

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import RetryLimits
from raymill.cluster.session import Session, SharedSession
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB
from raymill.training.config_parts import Failures, Workers
from raymill.training.evaluation import job as evaluation
from raymill.training.fit.ray_trainer import make_trainer
from tests.support import train_inline as inline
from tests.support.inline import InlineEngine
from tests.support.train_inline import train_inline, write_corpus


def test_settings_of_a_run_are_found_in_what_it_leaves(tmp_path, monkeypatch):
    limits, scored = [], []

    class Seen(InlineEngine):
        def run(self, stage):
            limits.append(self.limits)
            return super().run(stage)

    real = evaluation.scores
    monkeypatch.setattr(inline, "InlineEngine", Seen)
    monkeypatch.setattr(
        evaluation, "scores", lambda wanted, given, *how: scored.append((len(wanted), how)) or real(wanted, given, *how)
    )
    settings = {
        "corpus": write_corpus(tmp_path),
        "output": str(tmp_path / "run"),
        "columns": {"prompt": "question", "completion": "answer"},
        "evaluate": {"every_steps": 2, "rows": 1},
        "checkpoint": {"every_steps": 1, "keep": 1},
        "split": {"train": 0.5, "validation": 0.4, "test": 0.1},
        "generate": {"prompts": 3, "max_new_tokens": 2, "answer": "number", "decimal_mark": ","},
        "export": {"dtype": "bfloat16"},
        "execution": {"attempts": 7, "stall_s": 11.5},
        "packing": {"mode": "none"},
        "tokens_per_step": 2 * inline.LENGTH,
        "steps": 4,
    }
    run = train_inline(settings, monkeypatch)
    (fit,) = run.report["fits"]
    assert set(limits) == {RetryLimits(7, 11.5)}
    assert [point["step"] for point in fit["validation"]] == [0, 2, 4]
    assert scored == [(3, ("number", ","))]
    checkpoints = {int(path.parent.name.split("-")[1]) for path in Path(run.uri).glob("checkpoints/*/manifest.json")}
    assert checkpoints == {4} | {fit["best_step"]}, "the newest and the best"
    with open(Path(run.uri, "export/full/model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert {one["dtype"] for name, one in header.items() if name != "__metadata__"} == {"BF16"}
    rows = {
        split: Artifact.load(Store(), f"{run.uri}/packed/corpus-0/{split}").manifest.rows
        for split in ("train", "validation", "test")
    }
    assert rows == {"train": 40, "validation": 32, "test": 8}, "a document is a row"


@pytest.mark.parametrize(
    ("workers", "number", "resources", "gpu"),
    [
        ({}, 1, {"CPU": 1}, False),
        ({"count": 4, "cpus_each": 2.5}, 4, {"CPU": 2.5}, False),
        ({"count": {"min": 2, "max": 8}, "gpus_each": 1}, (2, 8), {"CPU": 1, "GPU": 1}, True),
    ],
)
def test_the_settings_of_workers_and_failures_reach_ray_train(tmp_path, workers, number, resources, gpu):
    failures = Failures(max=4, max_preemptions=9)
    trainer = make_trainer({}, Workers(**workers), failures, name="x", folder=str(tmp_path), session=Session("HOST:1"))
    scaling, run = trainer.scaling_config, trainer.run_config
    assert (scaling.num_workers, scaling.resources_per_worker, scaling.use_gpu) == (number, resources, gpu)
    assert (run.failure_config.max_failures, run.failure_config.max_preemption_failures) == (4, 9)
    assert (run.name, run.storage_path) == ("x", str(tmp_path))
    assert (scaling.accelerator_type, scaling.label_selector, scaling.placement_strategy) == (None, None, "PACK")


def test_workers_are_placed_by_type_labels_and_strategy(tmp_path):
    workers = Workers(gpus_each=1, accelerator_type="H100", labels={"zone": "a"}, placement="strict_spread")
    scaling = make_trainer(
        {}, workers, Failures(), name="x", folder=str(tmp_path), session=Session("HOST:1")
    ).scaling_config
    assert (scaling.accelerator_type, scaling.label_selector) == ("H100", {"zone": "a"})
    assert scaling.placement_strategy == "STRICT_SPREAD"
    assert workers.resources == {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001}


@pytest.mark.parametrize(("embedded", "wanted"), [(True, "0.5"), (False, None)])
def test_rays_own_pace_of_health_checks_holds_on_clusters(tmp_path, embedded, wanted, monkeypatch):
    name = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
    monkeypatch.setenv(name, "")  # so that it is as before afterwards
    monkeypatch.delenv(name)
    session = Session("local" if embedded else "HOST:1")
    make_trainer({}, Workers(), Failures(), name="x", folder=str(tmp_path), session=session)
    assert os.environ.get(name) == wanted


def test_beside_other_runs_workers_reserve_their_memory_and_wait_for_room_as_long_as_it_takes(tmp_path, monkeypatch):
    """Two workers that need 6 GiB together, on a machine whose Ray has 4: they reserve all of it, and so run alone."""
    name = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    monkeypatch.setattr(Session, "memory", lambda self: 4 * GIB)
    alone = Session("local")
    beside = SharedSession(alone, threading.Event(), workers_memory=6 * GIB)
    for session, memory, seconds in ((alone, {}, 600), (beside, {"memory": 2 * GIB}, 30 * 24 * 3600)):
        trainer = make_trainer({}, Workers(count=2), Failures(), name="x", folder=str(tmp_path), session=session)
        assert trainer.scaling_config.resources_per_worker == {"CPU": 1} | memory
        assert os.environ[name] == str(seconds)
    monkeypatch.setenv(name, "77")
    make_trainer({}, Workers(), Failures(), name="x", folder=str(tmp_path), session=beside)
    assert os.environ[name] == "77"
