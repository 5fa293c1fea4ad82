"""The held-out rows of the evaluation, measured by all workers before the first step and after the last."""

from pathlib import Path

import pytest
import torch

from raymill.training.data.held_out import AFTER, BEFORE, HeldOutRecord, held_out_rows
from raymill.training.evaluation import job as evaluation_job
from raymill.training.evaluation.job import evaluate, initial_objective, load_trained, measure
from raymill.training.fit import loop
from raymill.training.fit.measuring import Measurement
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.job import Job
from raymill.training.records.schema import Outcome
from tests.support.fit_jobs import fit_alone, fit_here, fit_until, pack_tiny, tiny_job
from tests.support.ranks import RankPool

torch.set_num_threads(1)

CPU = torch.device("cpu")
ENGINES = ["ddp", "zero1", "zero2", "zero3", "fsdp2"]
# The weights of step 2 are the exported ones.
EARLY = {"evaluate": {"every_steps": 2, "least_gain": 100.0}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    pack_tiny(str(root), test=43)
    return root


@pytest.fixture(scope="module", params=[1, 2])
def workers(request):
    with RankPool(request.param) as ranks:
        yield ranks


def recorded(job: Job, outcome: Outcome) -> list:
    return [HeldOutRecord(job, BEFORE).read(), HeldOutRecord(job, AFTER, outcome["best_checkpoint"]).read()]


def measured_alone(job: Job, outcome: Outcome) -> list:
    """What one process measures with the whole model."""
    held_out = held_out_rows(job.config, PackedRun.load(job.folder.store, job.packed))
    objective = initial_objective(job)
    found = []
    for trained in (False, True):
        if trained:
            load_trained(objective, job.folder, outcome)
            objective.eval()
        found.append(
            {name: measure(objective, one.tables(job.row_bounds(1000)), 3, 0, CPU) for name, one in held_out.items()}
        )
    return found


def assert_equal_measurements(found: list, wanted: list) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys() == theirs.keys() == {"test"}
        assert ours["test"]["label_tokens"] == theirs["test"]["label_tokens"]
        assert ours["test"] == pytest.approx(theirs["test"], rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_all_workers_measure_what_one_process_measures(packed, workers, tmp_path, engine):
    job = tiny_job(str(packed), engine=engine, output=f"{tmp_path}/run", **EARLY)
    outcome = workers.run(fit_here, job)[0]
    assert outcome["best_step"] == 2
    found = recorded(job, outcome)
    assert_equal_measurements(found, measured_alone(job, outcome))
    assert found[0]["test"]["loss"] != pytest.approx(found[1]["test"]["loss"], rel=1e-2)


@pytest.mark.parametrize("tokens", [100, None])
def test_only_some_tokens_are_measured(packed, tmp_path, tokens):
    job = tiny_job(str(packed), output=f"{tmp_path}/run", steps=3, evaluate={"test_tokens": tokens})
    outcome = fit_alone(job)
    found = recorded(job, outcome)
    assert_equal_measurements(found, measured_alone(job, outcome))
    assert (found[0]["test"]["label_tokens"] < 110) == (tokens == 100)


@pytest.fixture
def measurements(monkeypatch):
    """What is measured, in order."""
    names, measure = [], Measurement.measure
    monkeypatch.setattr(Measurement, "measure", lambda self, *rest: names.append(self.what) or measure(self, *rest))
    return names


def test_a_resumed_run_measures_nothing_twice(packed, tmp_path, measurements):
    job = tiny_job(str(packed), output=f"{tmp_path}/run")
    fit_until(job, 7, alone=True)
    fit_alone(job)
    assert [name for name in measurements if name != "validation"] == [
        "measuring test before training",
        "measuring test after training",
    ]


def test_a_run_that_ends_while_it_measures_goes_on_there(packed, tmp_path, measurements, monkeypatch):
    job = tiny_job(str(packed), output=f"{tmp_path}/run")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(HeldOutRecord, "write", lambda self, _: 1 / 0 if self.when == AFTER else None)
        fit_alone(job)
    assert not Path(job.folder.outcome).exists()
    measurements.clear()
    monkeypatch.setattr(loop.Training, "_step", None)
    outcome = fit_alone(job)
    assert measurements == ["measuring test after training"]
    assert HeldOutRecord(job, AFTER, outcome["best_checkpoint"]).read()


def test_the_evaluation_takes_the_losses_of_the_fit_and_needs_no_model(packed, tmp_path, monkeypatch):
    job = tiny_job(str(packed), output=f"{tmp_path}/run", steps=3)
    outcome = fit_alone(job)
    monkeypatch.setattr(evaluation_job, "initial_objective", None)
    evaluation = evaluate(job, outcome, PackedRun.load(job.folder.store, job.packed))
    assert [evaluation["before"], evaluation["after"]] == recorded(job, outcome)


def test_losses_of_other_rows_or_weights_are_not_taken(packed, tmp_path):
    job = tiny_job(str(packed), output=f"{tmp_path}/run", steps=3)
    outcome = fit_alone(job)
    fewer = tiny_job(str(packed), output=f"{tmp_path}/run", steps=3, evaluate={"every_steps": 4, "test_tokens": 50})
    assert fewer.folder.fingerprint == job.folder.fingerprint
    assert recorded(fewer, outcome) == [None, None]
    assert HeldOutRecord(job, AFTER, "elsewhere/step-00000001-abc").read() is None
    assert None not in recorded(
        job, outcome | {"best_checkpoint": outcome["best_checkpoint"].replace("/run", "/moved")}
    )
    Path(job.folder.held_out, "after.json").write_text("{")
    assert recorded(job, outcome)[1] is None


@pytest.mark.parametrize("left", ["shorter", "none"])
def test_a_damaged_checkpoint_of_the_best_weights_is_left_to_the_export(packed, tmp_path, monkeypatch, left):
    job = tiny_job(str(packed), output=f"{tmp_path}/run", **EARLY)

    def damage(*_) -> dict:
        [best] = Path(job.folder.checkpoints).glob("step-00000002-*")
        for file in best.glob("*.safetensors"):
            file.unlink() if left == "none" else file.write_bytes(file.read_bytes()[:-1])
        return {}

    monkeypatch.setattr(loop, "received_gradients", damage)
    outcome = fit_alone(job)
    assert outcome["best_step"] == 2 and recorded(job, outcome)[1] is None
