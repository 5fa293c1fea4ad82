"""The loop: what a step is, what a resumed run comes to, how a run ends. In this process, and on two or three ranks."""

import io
import itertools
import json
import math
import shutil
import threading
import time
import types
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymill.cluster import lease
from raymill.cluster.errors import BusyError, ClusterError, ConfigError, DataError
from raymill.cluster.progress import LineWriter, Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Track, Workers
from raymill.training.data.batch import collate
from raymill.training.data.packed import PACKED
from raymill.training.driver import console as watch
from raymill.training.driver import launch
from raymill.training.driver.console import RemainingWork
from raymill.training.engines.engine import StateSlice
from raymill.training.fit import loop, measuring, step_log
from raymill.training.fit.ranks import Preemption, Ranks
from raymill.training.models.build import build_objective
from raymill.training.models.cost import Mfu, peak_of_workers, shape_of
from raymill.training.pack.packed_run import PackedRun
from raymill.training.plan.memory import GIB, USABLE, memory
from raymill.training.records.finished import WorkerErrors
from tests.support.fit_jobs import (
    LENGTH,
    STEPS,
    column,
    final_weights,
    fit_alone,
    fit_here,
    fit_until,
    lines,
    pack_tiny,
    settings,
    tiny_job,
)
from tests.support.inline import NoRay
from tests.support.ranks import RankPool
from tests.support.sampled import sampled

torch.set_num_threads(1)

# Dropout makes equal bits depend on the seeds of each micro-batch too.
DROPOUT = {"method": "lora", "lora": {"rank": 2, "alpha": 4, "dropout": 0.3}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    pack_tiny(str(root))
    return root


@pytest.fixture
def job_at(packed, tmp_path):
    """Makes jobs on the packed rows, each in a folder of its own."""

    def make(name: str = "run", **more):
        return tiny_job(str(packed), **{"output": f"{tmp_path}/{name}"} | more)

    return make


@pytest.fixture(scope="module")
def whole(packed):
    """An uninterrupted run by one worker: (job, outcome)."""
    job = tiny_job(str(packed), output=f"{packed}/whole")
    return job, fit_alone(job)


def same_weights(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_the_loss_falls_and_every_step_has_its_line(whole):
    job, outcome = whole
    losses = column(job, "loss")
    assert losses[-1] < 0.7 * losses[0]
    assert column(job, "step") == list(range(STEPS + 1))
    validations = [line["validation"]["loss"] for line in lines(job) if "validation" in line]
    assert validations == sorted(validations, reverse=True) and len(validations) == 1 + STEPS // 4
    assert (outcome["ended"], outcome["steps"], outcome["best_step"], outcome["restarts"]) == ("steps", STEPS, STEPS, 0)
    assert outcome["checkpoint"] == outcome["best_checkpoint"] and outcome["unmoved"] == outcome["skipped"] == []


def test_the_default_micro_batch_is_what_fits_the_device_and_changes_no_loss(whole, job_at, monkeypatch):
    job = job_at(micro_batch=None)
    shape = shape_of(job.config)
    room = (memory(job.config, shape, 3).total + memory(job.config, shape, 4).total) / 2 / USABLE / GIB
    taken = []
    make = loop.Loader
    for module in (loop, measuring):
        monkeypatch.setattr(module, "Loader", lambda *args, **named: taken.append(args[4]) or make(*args, **named))
    fit_alone(job_at(micro_batch=None, device_memory_gib=room))
    assert taken == [3, 3, 3, 3]  # validation, held-out rows before and after, and of 8 rows three micro-batches
    assert column(job, "loss") == pytest.approx(column(whole[0], "loss"), rel=1e-5)


def test_the_learning_rate_warms_up_and_falls_without_a_step_at_nothing(whole):
    rates = column(whole[0], "learning_rate")
    assert rates[:2] == [0.5e-2, 1e-2] and 0 < rates[-1] < 0.1e-2 and rates[2:] == sorted(rates[2:], reverse=True)


def test_the_validation_loss_is_a_mean_over_tokens_of_the_weights_at_that_step(whole):
    job, _ = whole
    objective = build_objective(job.config)
    rows = PackedRun.load(Store(), job.packed).split("validation")[0].table()
    batch = collate([rows], rows.num_rows, job.config.sequence_length, 0)
    with torch.no_grad():
        loss_sum, correct = objective(**objective.tensors(batch, "cpu"))
    measured = lines(job)[0]["validation"]
    assert measured["loss"] == pytest.approx(loss_sum.item() / batch.label_tokens, rel=1e-6)
    assert measured["accuracy"] == pytest.approx(correct.item() / batch.label_tokens)
    assert measured["label_tokens"] == batch.label_tokens
    assert measured["perplexity"] == pytest.approx(np.exp(measured["loss"]))


def test_a_finished_fit_is_found_and_not_made_again(whole, monkeypatch):
    job, outcome = whole
    monkeypatch.setattr(loop, "build_objective", None)
    assert fit_alone(job) == outcome


def test_a_fit_cut_short_before_its_last_word_only_says_it(whole, tmp_path):
    job, outcome = whole
    copied = tmp_path / "copied"
    shutil.copytree(job.folder.uri, copied)
    (copied / "fit.json").unlink()
    again = tiny_job(str(Path(job.packed).parent), output=str(copied))
    told = fit_alone(again)
    assert Path(told["checkpoint"]).name == Path(outcome["checkpoint"]).name
    assert (told["restarts"], told["best_step"]) == (1, outcome["best_step"])
    assert column(again, "step") == list(range(STEPS + 1))


@pytest.mark.parametrize("step", sampled([2, 7], 1))
def test_a_resumed_run_comes_to_the_bits_of_an_uninterrupted_one(job_at, step):
    whole, resumed = job_at("whole", **DROPOUT), job_at("resumed", **DROPOUT)
    wanted = fit_alone(whole)
    fit_until(resumed, step, alone=True)
    outcome = fit_alone(resumed)
    assert same_weights(final_weights(outcome), final_weights(wanted))
    assert outcome["restarts"] == 1
    for name in ("step", "samples", "loss", "grad_norm", "tokens", "validation"):
        assert column(resumed, name) == column(whole, name), name


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_resumed_on_several_workers_it_comes_to_the_same_bits_too(workers, job_at):
    """Three add a gradient in an order that depends on where it lies, which two do not."""
    whole, resumed = job_at("whole"), job_at("resumed")
    with RankPool(workers) as ranks:
        wanted, *same = ranks.run(fit_here, whole)
        assert all(one == wanted for one in same)
        ranks.run(fit_until, resumed, 7)
        outcome = ranks.run(fit_here, resumed)[0]
    assert same_weights(final_weights(outcome), final_weights(wanted))
    for name in ("step", "samples", "loss", "validation"):
        assert column(resumed, name) == column(whole, name), name


def test_samples_and_losses_are_those_of_any_number_of_workers_also_when_it_changes(whole, job_at):
    job, outcome = whole
    three, changing = job_at("three"), job_at("changing")
    with RankPool(3) as ranks:
        ranks.run(fit_here, three)
        ranks.run(fit_until, changing, 5)
    told = fit_alone(changing)
    assert set(column(changing, "workers")) == {1, 3}
    for other in (three, changing):
        for name in ("step", "samples", "tokens", "label_tokens"):
            assert column(other, name) == column(job, name), name
        assert column(other, "loss") == pytest.approx(column(job, "loss"), rel=1e-4)
        validations = [
            [line["validation"]["loss"] for line in lines(one) if "validation" in line] for one in (other, job)
        ]
        assert validations[0] == pytest.approx(validations[1], rel=1e-4)
    wanted = final_weights(outcome)
    for name, found in final_weights(told).items():
        assert np.allclose(found, wanted[name], rtol=1e-3, atol=1e-4), name


def test_the_last_step_is_validated_wherever_it_falls(job_at):
    job = job_at("short", steps=3, evaluate={"every_steps": 2}, checkpoint={"every_steps": 9})
    outcome = fit_alone(job)
    assert [line["step"] for line in lines(job) if "validation" in line] == [0, 2, 3]
    assert outcome["steps"] == 3 and Path(outcome["checkpoint"]).name.startswith("step-00000003")


# --- how a run ends


def breaks_at(step: int, monkeypatch) -> None:
    """The loss of a step, from 1, is no number, however often it is taken."""
    backward = loop.Training._backward

    def broken(self, number, batches, units):
        loss = backward(self, number, batches, units)
        return (float("nan"), 0.0) if number + 1 == step else loss

    monkeypatch.setattr(loop.Training, "_backward", broken)


def test_a_loss_that_is_no_number_ends_the_run_with_the_documents_of_its_batch(job_at, monkeypatch):
    breaks_at(5, monkeypatch)
    job = job_at()
    with pytest.raises(
        DataError, match=r"step 5: the loss is nan. Its batch contained the documents doc-\d+, "
    ) as told:
        fit_alone(job)
    assert "failures: {skip_back: 1}" in str(told.value)
    listed = json.loads(Path(job.folder.uri, "broken", "step-00000005.json").read_text())
    assert len(listed["documents"]) >= 8 and listed["documents"][0] in str(told.value)
    assert column(job, "step") == [0, 1, 2, 3, 4]


def test_every_workers_documents_are_named(job_at):
    job = job_at(failures={"loss_limit": 1.0})
    with RankPool(2) as ranks:
        told = ranks.run(expect_broken, job)
    assert told[0] == told[1] and "above failures.loss_limit 1" in told[0]
    listed = json.loads(Path(job.folder.uri, "broken", "step-00000001.json").read_text())["documents"]
    rows = {document for batch in first_step(job) for row in batch.documents for document in row}
    assert set(listed) == rows


def expect_broken(job) -> str:
    with pytest.raises(DataError) as told:
        fit_here(job)
    return str(told.value)


def first_step(job):
    from raymill.training.data.batch import Loader
    from raymill.training.data.order import Order
    from raymill.training.data.packed import PackedRows

    packed = PackedRun.load(Store(), job.packed)
    order = Order.for_training(job.config, packed)
    loader = Loader(order, [PackedRows(one) for one in packed.split("train")], 0, 1, 2, job.config.sequence_length, 0)
    try:
        return loader.micro_batches(0)
    finally:
        loader.close()


@pytest.mark.parametrize(("step", "skipped"), [(5, [4, 5]), (2, [1, 2]), (STEPS, [10, 11, STEPS])])
def test_skip_back_goes_to_the_checkpoint_before_and_passes_over_the_steps(job_at, whole, monkeypatch, step, skipped):
    breaks_at(step, monkeypatch)
    job = job_at(failures={"skip_back": 1}, evaluate={"every_steps": 6})
    outcome = fit_alone(job)
    assert (outcome["skipped"], outcome["steps"], outcome["ended"]) == (skipped, STEPS, "steps")
    trained = [line["step"] for line in lines(job) if "loss" in line]
    assert trained == [step for step in range(1, STEPS + 1) if step not in skipped]
    assert column(job, "samples") == [line["samples"] for line in lines(whole[0]) if line["step"] in trained]
    assert lines(job)[-1]["validation"]["loss"] < lines(job)[0]["validation"]["loss"]
    assert Path(outcome["checkpoint"]).name.startswith(f"step-{STEPS:08d}")


def test_skip_back_is_done_no_more_often_than_allowed(job_at, monkeypatch):
    backward = loop.Training._backward
    monkeypatch.setattr(
        loop.Training, "_backward", lambda self, n, b, u: (math.inf, 0.0) if n in (4, 8) else backward(self, n, b, u)
    )
    with pytest.raises(DataError, match="step 9: the loss is inf"):
        fit_alone(job_at(failures={"skip_back": 1}))
    assert fit_alone(job_at("twice", failures={"skip_back": 2}))["skipped"] == [5, 9]


def test_patience_ends_a_run_that_gets_no_better_and_keeps_its_best(job_at):
    job = job_at(
        evaluate={"every_steps": 2, "patience": 2, "least_gain": 100.0}, checkpoint={"every_steps": 1, "keep": 1}
    )
    outcome = fit_alone(job)
    assert (outcome["ended"], outcome["steps"], outcome["best_step"]) == ("patience", 6, 2)
    assert sorted(path.name[:13] for path in Path(job.folder.checkpoints).iterdir() if any(path.iterdir())) == [
        "step-00000002",
        "step-00000006",
    ]
    assert Path(outcome["best_checkpoint"]).name.startswith("step-00000002")


def test_a_step_without_a_label_anywhere_updates_nothing(job_at, monkeypatch):
    exchange = loop.Training._exchange

    def unlabelled(self, batches):
        counts = exchange(self, batches)
        return loop.replace(counts, loss_denominator=0) if self.progress.step == 2 else counts

    monkeypatch.setattr(loop.Training, "_exchange", unlabelled)
    job = job_at(steps=4)
    fit_alone(job)
    assert [line["step"] for line in lines(job)[1:] if "loss" not in line] == [3]
    assert saved_progress(job).updates == 3


def saved_progress(job):
    from raymill.training.records.checkpoint import latest

    return latest(job.folder).manifest.progress


def test_the_time_of_a_training_equals_the_one_of_all_attempts(job_at, monkeypatch):
    def trained(first_hour: int) -> float:
        """Seconds of a training whose clock begins at an hour and goes on by one each time that it is read."""
        hours = (3600.0 * number for number in itertools.count(first_hour))
        with monkeypatch.context() as patch:
            clock = types.SimpleNamespace(monotonic=lambda: next(hours), perf_counter=time.perf_counter)
            patch.setattr(loop, "time", clock)
            return fit_alone(job)["seconds"] / 3600

    job = job_at()
    assert 1 <= trained(10_000) < 1000
    Path(job.folder.outcome).unlink()
    saved = saved_progress(job).seconds / 3600
    assert 1 <= saved < 1000 and saved + 1 <= trained(20_000) < saved + 1000


class OfTwo:
    """One worker in a training of two, whose last checkpoint was written at second 100."""

    def __init__(
        self,
        every_minutes: float | None,
        first: bool = True,
        uploading: bool = False,
        committed: bool = False,
        stops: bool = False,
    ) -> None:
        other = [5, 2.5, 50, 6, 400, 0xFFFFFFFF, 0xFFFFFFFF, 1, 0, 0, int(stops)]
        self.saved_at = 100.0
        self.ranks = types.SimpleNamespace(first=first, exchange_floats=lambda mine: [mine, other])
        self.config = settings("nowhere", checkpoint={"every_minutes": every_minutes})
        self.objective = types.SimpleNamespace(
            loss_denominator=lambda batch: batch.label_tokens, step_sum=lambda batch: 0.0
        )
        self.saver = types.SimpleNamespace(uploading=uploading, committed=committed)
        self.is_stopped = lambda: False


def test_the_counts_of_a_step_are_sums_over_its_micro_batches_and_workers(monkeypatch):
    batches = [collate([packed_row(3, 2)], 1, LENGTH, 0), collate([packed_row(4)], 1, LENGTH, 0)]
    digest = (batches[0].digest + batches[1].digest + (1 << 64) - 1) % (1 << 64)
    counts = loop.Training._exchange(OfTwo(None), batches)
    labels = sum(batch.label_tokens for batch in batches)
    assert counts == loop.Counts(labels + 5, 9 + 50, labels + 6, 19 + 400, digest, 1, False, False, False, 2.5)
    assert loop.Training._exchange(OfTwo(None, uploading=True), batches).uploading == 2
    assert loop.Training._exchange(OfTwo(None, committed=True), batches).committed, "by the first worker"
    assert loop.Training._exchange(OfTwo(None, stops=True), batches).stopping, "if one worker was asked to stop"
    for now, due in ((219.9, False), (220.0, True)):
        monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda now=now: now))
        assert loop.Training._exchange(OfTwo(2), batches).checkpoint_due is due, "two minutes after the last one"
        assert not loop.Training._exchange(OfTwo(2, first=False), batches).checkpoint_due


def test_a_steps_record_has_its_own_waiting_and_the_worst_of_all_workers(job_at, monkeypatch):
    reads = loop.Loader.micro_batches

    def slow(self, step: int):
        found = reads(self, step)
        self.waited_s = 3.0 * (step + 1)
        return found

    exchange = Ranks.exchange_floats

    def with_another_worker(self, mine):
        if len(mine) != 6:
            return exchange(self, mine)
        _, wait, memory, compiling, _, forward = mine
        return [mine, [0.0, wait - 1, memory + 1, compiling + 2, 0.0, forward + 1]]

    monkeypatch.setattr(loop.Loader, "micro_batches", slow)
    monkeypatch.setattr(Ranks, "exchange_floats", with_another_worker)
    monkeypatch.setattr(loop, "memory_gib", lambda device: 4.0)
    monkeypatch.setattr(loop, "peak_of_workers", lambda *of: 1e9)
    monkeypatch.setattr(loop.Mfu, "of", lambda self, tokens_per_s, context: (tokens_per_s, context))
    job = job_at(steps=4, evaluate={"every_steps": 9}, checkpoint={"every_steps": 2})
    fit_alone(job)
    for line in lines(job)[1:]:
        assert (line["data_wait_s"], line["memory_gib"], line["compile_s"]) == (3.0, 5.0, 2.0)
        assert line["slowest_rank"] == 1 and line["forward_s"] == pytest.approx(line["median_forward_s"] + 0.5)
        assert line["tokens_per_s"] == pytest.approx(line["tokens"] / line["seconds"])
        rate, context = line["mfu"]
        assert rate == line["tokens_per_s"] and 1 < context < LENGTH
        assert ("checkpoint_stall_s" in line) == (line["step"] in (2, 4))


def test_every_few_minutes_and_never_by_steps(job_at):
    job = job_at(checkpoint={"every_steps": None, "every_minutes": 1e-9, "keep": 50}, evaluate={"every_steps": 100})
    fit_alone(job)
    names = sorted(path.name[:13] for path in Path(job.folder.checkpoints).iterdir())
    assert names == [f"step-{step:08d}" for step in range(1, STEPS + 1)]


def test_a_node_that_is_to_go_gets_one_checkpoint(monkeypatch):
    import ray.train

    told = types.SimpleNamespace(deadline_ms=7)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: told)
    asked = Preemption(Ranks(0, 1, torch.device("cpu"), under_ray=True))
    assert [asked.announced(step) for step in range(1, 12)] == [False] * 4 + [True] + [False] * 6
    told.deadline_ms = 8
    assert asked.announced(15) and not asked.announced(20)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: None)
    assert not Preemption(Ranks(0, 1, torch.device("cpu"), under_ray=True)).announced(5)
    assert not Preemption(Ranks(0, 1, torch.device("cpu"))).announced(5)


def test_what_never_had_a_gradient_is_named():
    def part(name, state, *values):
        return StateSlice(name, state, (2,), 0, torch.tensor(values))

    slices = [part("a", "exp_avg_sq", 0.0, 1e-9), part("b", "exp_avg_sq", 0.0, 0.0), part("b", "param", 1.0, 1.0)]
    slices += [part("a", "exp_avg_sq", 0.0, 0.0), part("c", "exp_avg_sq", 0.0, 0.0)]
    assert loop.received_gradients(slices, Ranks(0, 1, torch.device("cpu"))) == {"a": True, "b": False, "c": False}
    others = [{"b": False, "c": True, "d": False}, {"a": False, "b": False, "c": False}]
    ranks = types.SimpleNamespace(gather=lambda mine: [mine, *others])
    assert loop.received_gradients(slices, ranks) == {"a": True, "b": False, "c": True, "d": False}


# --- trackers


def test_tensorboard_shows_the_curves(job_at):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = job_at(track={"tensorboard": True}, steps=4)
    fit_alone(job)
    events = EventAccumulator(job.folder.tensorboard).Reload()
    assert [round(point.value, 4) for point in events.Scalars("loss")] == [round(x, 4) for x in column(job, "loss")]
    assert [point.step for point in events.Scalars("validation/loss")] == [0, 4]


_WANDB = """
import json
from types import SimpleNamespace

def note(*what):
    with open({notes!r}, "a") as file:
        file.write(json.dumps(what) + chr(10))

def init(**how):
    note(how["id"], how["config"]["model"])
    return SimpleNamespace(log=lambda values, step: note(step, values), finish=lambda: note("end"))
"""


def test_mlflow_and_wandb_get_each_step_and_a_failing_one_stops_nothing(job_at, monkeypatch, tmp_path):
    folder, notes = tmp_path / "modules", tmp_path / "notes"
    folder.mkdir()
    (folder / "mlflow.py").write_text("def set_tracking_uri(uri):\n    raise ConnectionError\n")
    (folder / "wandb.py").write_text(_WANDB.format(notes=str(notes)))
    monkeypatch.setenv("PYTHONPATH", str(folder))  # of the processes that they have
    job = job_at(track={"tensorboard": False, "mlflow": "http://nowhere", "wandb": "project"}, steps=4)
    fit_alone(job)
    said = [json.loads(line) for line in notes.read_text().splitlines()]
    assert said[0][0] == job.folder.fingerprint and said[-1] == ["end"]
    assert [step for step, _ in said[1:-1]] == [0, 1, 2, 3, 4]
    assert said[2][1]["loss"] == column(job, "loss")[0]


def test_a_record_without_a_number_gives_no_curve_of_it():
    assert step_log.curves({"step": 1, "time": "t", "workers": 1, "loss": 2.0, "mfu": None}) == {"loss": 2.0}


def test_a_tracker_that_is_not_installed_is_found_before_training(monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"track: mlflow, wandb, tensorboard not installed.*raymill\[train,track\]"):
        launch.check_trackers(Track(mlflow="x", wandb="y"))
    launch.check_trackers(Track(tensorboard=False))


# --- what is asked and what is there


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "fit"),
    [
        ([{"CPU": 4}], 1, 0, 4),
        ([{"CPU": 4}], 1.5, 0, 2),
        ([{"CPU": 3}, {"CPU": 3}], 2, 0, 2),  # a worker stays on one node
        ([{"CPU": 64, "GPU": 8}, {"CPU": 4, "GPU": 8}], 4, 1, 9),
        ([{"CPU": 64}], 1, 1, 0),
        ([{"CPU": 1}], 0.1, 0, 10),
    ],
)
def test_workers_that_fit_are_counted(nodes, cpus, gpus, fit):
    assert launch.fitting(Workers(cpus_each=cpus, gpus_each=gpus), nodes) == fit


def test_too_many_workers_are_refused_with_what_was_asked_and_what_is_there():
    workers = Workers(count=4, cpus_each=2)
    with pytest.raises(
        ConfigError, match=r"4 workers with 2 CPUs each were requested; this machine has 6 CPUs, enough for 3.*to 3"
    ):
        launch.check_fits(workers, [{"CPU": 6}], "this machine")
    with pytest.raises(
        ConfigError, match=r"1 worker with 1 CPU and 1 GPU .*16 CPUs and 0 GPUs on 2 nodes, enough for 0"
    ):
        launch.check_fits(Workers(gpus_each=1), [{"CPU": 8}, {"CPU": 8}], "the cluster")
    launch.check_fits(Workers.model_validate({"count": {"min": 2, "max": 8}}), [{"CPU": 2}], "this machine")


def test_workers_of_a_type_of_gpu_have_room_on_its_nodes_alone():
    a100, h100 = ({"CPU": 8, "GPU": 2, f"accelerator_type:{name}": 1.0} for name in ("A100", "H100"))
    workers = Workers(count=3, gpus_each=1, accelerator_type="H100")
    assert launch.fitting(workers, [a100, h100]) == 2
    assert launch.fitting(workers.model_copy(update={"accelerator_type": None}), [a100, h100]) == 4
    with pytest.raises(ConfigError, match=r"3 workers with 1 CPU and 1 GPU of type H100 each .* enough for 2"):
        launch.check_fits(workers, [a100, h100], "the cluster")


@pytest.mark.parametrize(
    ("wanted", "has", "fits"),
    [
        ({}, {}, True),
        ({"zone": "a"}, {"zone": "a", "disk": "ssd"}, True),
        ({"zone": "a"}, {"zone": "b"}, False),
        ({"zone": "a"}, {}, False),
        ({"zone": "!a"}, {"zone": "a"}, True),  # Ray decides
        ({"zone": "in(a,b)", "disk": "ssd"}, {"zone": "c", "disk": "hdd"}, False),
    ],
)
def test_nodes_without_the_labels_of_workers_have_no_room(wanted, has, fits):
    assert launch._has_labels(has, Workers(labels=wanted)) == fits


# --- what a person sees


def test_the_line_says_where_the_training_is():
    records = [
        {"step": 0, "time": "", "workers": 1, "validation": {"loss": 4.0}},
        {"step": 1, "time": "2026-01-01T10:00:00", "workers": 1, "loss": 3.5, "seconds": 2.0, "tokens": 100},
        {"step": 2, "time": "2026-01-01T10:00:05", "workers": 1, "loss": 3.25, "seconds": 4.0, "tokens": 500},
    ]
    # 30 steps are left, 5 s from one to the next by the clock.
    wanted = "training: 2/32 steps, loss 3.2500, 100 tokens/s in steps, 2 min 30 s left, validation 4.0000 at step 0"
    remaining = RemainingWork(32, 10)
    assert watch.step_line(records, remaining) == wanted
    assert watch.step_line([], remaining) == ""
    compiled = [*records[:1], records[1] | {"seconds": 92.0, "compile_s": 90.0}, *records[2:]]
    assert watch.step_line(compiled, remaining) == wanted.replace(" left,", " left, 1 min 30 s of compiling,"), (
        "not the pace"
    )
    timed = [records[0] | {"validation_s": 3.2}, *records[1:]]
    assert watch.step_line(timed, remaining).endswith("validation 4.0000 at step 0 in 3 s")


def test_the_time_left_equals_the_one_of_steps_validations_evaluation_and_export():
    """A step every 2 s, validation of 100 rows on 2 workers 6 s after every tenth step, of 32 steps."""
    records = [{"step": 0, "time": "", "workers": 2, "validation": {"loss": 4.0}, "validation_s": 6.0}]
    start = datetime(2026, 1, 1)
    for step in range(1, 15):
        began = start + timedelta(seconds=2 * step + 6 * (step > 10))
        record = {"step": step, "time": began.isoformat(), "workers": 2, "loss": 3.5, "seconds": 1.5, "tokens": 100}
        records.append(record | ({"validation": {"loss": 3.0}, "validation_s": 6.0} if step == 10 else {}))
    steps, validations = 18 * 2, 3 * 6  # after steps 20, 30 and 32
    assert RemainingWork(32, 10).seconds_left(records) == pytest.approx(steps + validations)
    # The workers take 0.06 s a row together, and measure 50 rows after the last step; 4 GB are read and written at
    # 0.2 GB/s.
    after = RemainingWork(32, 10, validation_rows=100, evaluation_rows=50, export_bytes=4_000_000_000)
    assert after.seconds_left(records) == pytest.approx(steps + validations + 50 * 0.06 + 20)
    assert after.seconds_left(records[:1]) is None
    last = [*records[:-1], records[-1] | {"step": 32, "validation_s": 6.0}]
    assert after.seconds_left(last) == pytest.approx(3 + 20)


def test_the_remaining_work_is_counted_in_the_packed_rows(tmp_path):
    pack_tiny(str(tmp_path))
    job = tiny_job(str(tmp_path))
    packed = PackedRun.load(Store(), job.packed)
    remaining = RemainingWork.of(job, 1000)
    assert remaining.steps == job.steps and remaining.export_bytes == 1000 * 8
    assert remaining.validation_rows == remaining.evaluation_rows == packed.rows("validation") > 0


def begun(step: int) -> dict:
    """What one worker writes when it begins after a step."""
    return {
        "attempt": "a", "time": "", "workers": 1, "step": step, "trainable_parameters": 1, "all_parameters": 2,
        "attention": "sdpa", "attention_warning": None,
    }  # fmt: skip


def test_the_line_of_an_attempt_has_the_share_that_trains_and_the_step_it_continues_after():
    attempt = begun(0) | {"workers": 2, "trainable_parameters": 25, "all_parameters": 1000}
    assert watch.start_line(attempt) == "training: 25 of 1,000 parameters train (2.50%), 2 workers, attention sdpa"
    assert watch.start_line(attempt | {"step": 9}).endswith("attention sdpa, continuing after step 9")
    assert watch.start_line(attempt | {"attention_warning": "slow"}).endswith("attention sdpa\nwarning: slow")


def test_a_training_that_continues_does_not_show_again_what_an_earlier_call_showed(job_at):
    job, stream = job_at(), io.StringIO()
    Store().write_bytes(job.folder.step_log, b'{"step": 3, "loss": 5.0}\n')
    lines = watch.StepProgress(job, LineWriter(stream))
    lines.update()
    attempt = begun(3)
    Store().write_bytes(f"{job.folder.attempts}/a.json", json.dumps(attempt).encode())
    Store().write_bytes(job.folder.step_log, b'{"step": 3, "loss": 5.0}\n')  # as the workers write it again
    lines.update()
    lines.finish()
    assert stream.getvalue().splitlines()[1:] == [], "the attempt's line alone"
    Store().write_bytes(job.folder.step_log, b'{"step": 3, "loss": 5.0}\n{"step": 4, "loss": 4.5}\n')
    lines.update()
    lines.finish()
    assert stream.getvalue().splitlines()[1:] == [f"training: 4/{job.steps} steps, loss 4.5000"], "once"


def test_a_damaged_checkpoint_is_named_on_the_terminal_once_with_what_is_trained_again(job_at):
    job, stream = job_at(), io.StringIO()
    lines = watch.StepProgress(job, LineWriter(stream))
    attempt = begun(3)
    problem = "/run/checkpoints/step-00000009-a/rank-00000.safetensors: has 5 bytes; 90 bytes were written."
    damaged = [{"step": 9, "resumed": 3, "problem": problem}]
    Store().write_bytes(f"{job.folder.attempts}/a.json", json.dumps(attempt | {"damaged": damaged}).encode())
    lines.update()
    lines.update()
    wanted = f"warning: The checkpoint of step 9 is damaged and was not used: {problem} Steps 4 to 9 are trained again."
    assert stream.getvalue().splitlines() == [wanted, watch.start_line(attempt)]
    damaged.append({"step": 6, "resumed": 5, "problem": "x."})  # met when going back after a broken loss
    Store().write_bytes(f"{job.folder.attempts}/a.json", json.dumps(attempt | {"damaged": damaged}).encode())
    lines.finish()
    wanted = "warning: The checkpoint of step 6 is damaged and was not used: x. Step 6 is trained again."
    assert stream.getvalue().splitlines()[2:] == [wanted]


def test_a_long_log_is_read_from_its_end(tmp_path, monkeypatch):
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(100)))
    monkeypatch.setattr(watch, "_TAIL_BYTES", 40)
    assert [line["step"] for line in watch.last_records(Store(), str(path), path.stat().st_size)] == [97, 98, 99]


def test_the_share_of_the_peak_counts_the_positions_that_packed_tokens_attend_to():
    from raymill.training.models.base import named_config
    from raymill.training.models.cost import flops_per_token

    job_config = settings("nowhere")
    batch = collate([packed_row(3, 2), packed_row(4)], 3, LENGTH, 0)
    assert (batch.tokens, loop.attended_positions(batch)) == (9, 1 + 2 + 3 + 1 + 2 + 1 + 2 + 3 + 4)
    wanted = 1000 * flops_per_token(named_config(job_config.store, job_config.model), 0, "full", 3.5) / 1e9
    described = named_config(job_config.store, job_config.model)
    assert Mfu(described, "full", 0, 1e9).of(1000, 3.5) == pytest.approx(wanted, rel=1e-12)


def packed_row(*lengths: int) -> pa.Table:
    size = sum(lengths)
    row = {"ids": [1] * size, "labels": [True] * size, "lengths": list(lengths), "documents": ["d"] * len(lengths)}
    return pa.Table.from_pylist([row | {"label": None}], PACKED)


def test_dropout_is_another_for_each_step_micro_batch_and_worker():
    seeds = {loop.dropout_seed(1, s, m, r) for s in range(5) for m in range(5) for r in range(5)}
    assert len(seeds) == 125 and max(seeds) < 1 << 63


@pytest.mark.parametrize(("bf16", "wanted"), [(True, 2 * 989.4e12), (False, None)])
def test_of_gpus_that_train_in_float32_no_peak_is_known(monkeypatch, bf16, wanted):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    ranks = types.SimpleNamespace(device=torch.device("cuda", 0), world=2)
    assert peak_of_workers(ranks.device, ranks.world, bf16) == wanted


def test_errors_that_a_later_attempt_got_over_are_removed_with_the_outcome(job_at, monkeypatch):
    job, left = job_at(), []

    def run(job, session, progress, submission, errors, lease, afterwards):
        errors.write(ClusterError("a worker was lost"))
        left.extend(job.folder.store.list_files(errors.folder))

    monkeypatch.setattr(launch, "_run", run)
    monkeypatch.setattr(launch, "check_cluster", lambda *_: None)
    monkeypatch.setattr(launch, "read_outcome", lambda job: {"steps": 3} if left else None)
    assert launch.fit_on_ray(job, NoRay(), Progress()) == {"steps": 3}
    assert left and job.folder.store.list_files(f"{job.folder.uri}/errors") == []


def test_the_driver_stops_when_another_run_took_its_output_over(job_at, tmp_path, monkeypatch):
    class Endless:
        def fit(self):
            threading.Event().wait(60)

    monkeypatch.setattr(launch, "_make_trainer", lambda *_, **__: Endless())
    monkeypatch.setattr(launch, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(lease, "_REFRESH_S", 0.01)
    with lease.held(Store(), str(tmp_path / "run")) as mine:
        Store().write_bytes(lease._uri(mine.root, 2), lease._to_json(mine.holder))
        with pytest.raises(BusyError, match="another run took over here"):
            launch._run(
                job_at(), Session(), Progress(), "submission", WorkerErrors(job_at().folder, "submission"), mine
            )


def test_the_error_that_ray_train_ends_with_is_returned(job_at, monkeypatch):
    failed = RuntimeError("the controller failed")

    class Failing:
        def fit(self):
            raise failed

    monkeypatch.setattr(launch, "_make_trainer", lambda *_, **__: Failing())
    job = job_at()
    assert launch._run(job, Session(), Progress(), "submission", WorkerErrors(job.folder, "submission"), None) is failed
