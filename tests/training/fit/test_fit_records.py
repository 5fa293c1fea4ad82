"""Small parts of a fit at their boundaries: broken losses, progress, damage, time left, room for workers."""

import contextlib
import dataclasses
import json
import math
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.metrics import ENDED, FAILED, RUNNING
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Optimizer, Track, Workers
from raymill.training.driver import console, launch
from raymill.training.driver.console import RemainingWork
from raymill.training.fit import loop, memory, step_log
from raymill.training.fit.loop import bad_loss_error, document_ids, learning_rate, loss_problem
from raymill.training.fit.tracker_process import TrackerProcess
from raymill.training.models.cost import parameter_counts
from raymill.training.records.checkpoint import Checkpoint, at_step, checkpoint_folders, folder_name, step_of
from raymill.training.records.job import Job, TrainingFolder
from raymill.training.records.schema import Best, TrainingProgress, damage_lines, measured
from tests.support import fit_jobs
from tests.support.checkpoint_jobs import make_job, write
from tests.support.processes import wait_until

ALONE = SimpleNamespace(first=True, gather=lambda value: [value])


@pytest.mark.parametrize(
    ("loss", "norm", "limit", "said"),
    [
        (2.0, 1.0, None, None),
        (2.0, 1.0, 2.0, None),
        (2.0001, 1.0, 2.0, "the loss is 2, above failures.loss_limit 2"),
        (1e9, 1e9, None, None),
        (math.nan, 1.0, None, "the loss is nan"),
        (math.inf, math.nan, 1.0, "the loss is inf"),
        (2.0, math.inf, None, "the loss is 2 and the gradient norm inf"),
        (2.0, math.nan, 1.0, "the loss is 2 and the gradient norm nan"),
    ],
)
def test_a_loss_is_broken_when_it_or_its_gradient_is_not_finite_or_it_is_above_the_limit(loss, norm, limit, said):
    assert loss_problem(loss, norm, limit) == said


@pytest.mark.parametrize("count", [1, 19, 20, 21, 25])
def test_the_documents_of_a_broken_step_are_named_up_to_twenty_and_all_are_in_a_file(tmp_path, count):
    job, names = make_job(tmp_path), [f"d{n}" for n in range(count)]
    for first in (False, True):
        error = str(bad_loss_error(job.folder, SimpleNamespace(first=first), 7, "the loss is nan", names))
        uri = f"{job.folder.uri}/broken/step-00000007.json"
        assert Store().exists(uri) == first
        assert error.startswith(f"step 7: the loss is nan. Its batch contained the documents {', '.join(names[:20])}")
        assert (f" and {count - 20} more (all are in {uri})" in error) == (count > 20)
    assert json.loads(Store().read_bytes(uri)) == {"step": 7, "problem": "the loss is nan", "documents": names}


def test_documents_of_a_step_are_those_of_all_workers_each_once_in_their_order():
    batches = [SimpleNamespace(documents=(("b", "a"), ("b",))), SimpleNamespace(documents=((), ("c", "a")))]
    ranks = SimpleNamespace(gather=lambda mine: [["z", "a"], mine])
    assert document_ids(batches, ranks) == ["z", "a", "b", "c"]
    assert loop._LISTED_DOCUMENTS == 20


def test_a_measurement_divides_by_its_labels_and_of_none_there_is_none():
    assert measured(6.0, 3, 4, 4) == {"loss": 1.5, "perplexity": math.exp(1.5), "accuracy": 0.75, "label_tokens": 4}
    weighted = measured(6.0, 3, 2.5, 4)  # of four label tokens with weights that sum to 2.5
    assert weighted == {"loss": 2.4, "perplexity": math.exp(2.4), "accuracy": 0.75, "label_tokens": 4}
    assert measured(0.0, 0, 0, 0) is None
    assert measured(7e5, 0, 1, 1)["perplexity"] == math.inf
    assert measured(699.0, 0, 1, 1)["perplexity"] == math.exp(699)


@pytest.mark.parametrize(
    ("best", "loss", "gain", "better"),
    [(2.0, 2.0, 0.0, False), (2.0, 1.999, 0.0, True), (2.0, 1.5, 0.5, False), (2.0, 1.499, 0.5, True),
     (2.0, 2.5, 0.0, False), (2.0, math.nan, 0.0, False), (None, 9.0, 1.0, True)],
)  # fmt: skip
def test_a_validation_is_the_best_only_if_lower_by_more_than_the_least_gain(best, loss, gain, better):
    before = TrainingProgress(step=4, best=Best(2, best) if best else None, misses=2, evaluated=2)
    after = before.validated(loss, gain)
    assert after.evaluated == 4
    assert (after.best, after.misses) == ((Best(4, loss), 0) if better else (before.best, 3))
    assert after.improved is better
    unlabelled = before.validated(None, gain)
    assert (unlabelled.best, unlabelled.misses, unlabelled.evaluated) == (before.best, 2, 4)


def test_a_step_counts_and_an_update_only_where_there_was_one():
    progress = TrainingProgress(step=4, updates=3).stepped(updated=True).stepped(updated=False)
    assert (progress.step, progress.updates) == (6, 4)


@pytest.mark.parametrize(("resumed", "lost"), [(8, "Step 9 is"), (7, "Steps 8 to 9 are"), (0, "Steps 1 to 9 are")])
def test_the_steps_that_are_trained_again_are_those_after_the_checkpoint_used(resumed, lost):
    (line,) = damage_lines({"damaged": [{"step": 9, "resumed": resumed, "problem": "URI: gone."}]})
    assert line == f"The checkpoint of step 9 is damaged and was not used: URI: gone. {lost} trained again."
    assert damage_lines({}) == []


def test_checkpoints_are_in_the_order_of_their_steps_and_of_a_step_the_latest_attempt_counts(tmp_path):
    job = make_job(tmp_path, keep=9)
    for step, attempt in ((9, "a"), (10, "a"), (2, "b"), (10, "b")):
        write(job, step, attempt)
    newest = Path(at_step(job.folder, 10))
    shutil.copytree(newest, newest.with_name(folder_name(10, "a")))  # left by an attempt that was killed
    assert [step_of(uri) for uri in checkpoint_folders(job.folder)] == sorted(
        map(step_of, checkpoint_folders(job.folder))
    )
    assert at_step(job.folder, 10).endswith(folder_name(10, "b"))
    for step in (2, 10):
        assert Checkpoint.load(Store(), at_step(job.folder, step)).step == step


def test_of_a_checkpoint_every_value_outside_of_it_is_missing(tmp_path):
    checkpoint = Checkpoint.load(Store(), write(make_job(tmp_path), 1))
    assert len(checkpoint.fetch("second", "param", 7, 7)) == 0
    with pytest.raises(DataError, match="param of second has no values 7 to 8"):
        checkpoint.fetch("second", "param", 6, 8)


# --- learning rate


@pytest.mark.parametrize(
    ("steps", "decay_steps", "warmup", "decay"), [(40, None, 0, 4), (4, None, 0, 1), (40, 7, 0, 7), (10, 9, 4, 6)]
)
def test_wsd_falls_over_its_last_steps_a_tenth_by_default_and_never_into_the_warm_up(steps, decay_steps, warmup, decay):
    optimizer = Optimizer(learning_rate=1.0, schedule="wsd", decay_steps=decay_steps, warmup_steps=warmup)
    rates = [learning_rate(optimizer, step, steps) for step in range(steps)]
    assert rates[:warmup] == [(n + 1) / warmup for n in range(warmup)]
    assert rates[warmup : steps - decay] == [1.0] * (steps - decay - warmup)
    assert rates[steps - decay :] == pytest.approx([1 - n / (decay + 1) for n in range(1, decay + 1)])


# --- the terminal


@pytest.mark.parametrize(
    ("changes", "bytes_a_value"),
    [
        ({"method": "full"}, 8),
        ({"method": "full", "export": {"dtype": "bfloat16"}}, 6),
        ({"method": "lora"}, 8),
        ({"method": "lora", "export": {"dtype": "bfloat16"}}, 6),
        ({"method": "lora", "export": {"merged": False}}, 4),
        ({"method": "prompt", "packing": {"mode": "none"}}, 4),
    ],
)
def test_the_export_reads_the_model_and_writes_whole_weights_where_there_are_any(monkeypatch, changes, bytes_a_value):
    rows = {"train": 900, "validation": 40, "test": 0}
    monkeypatch.setattr(
        console, "PackedRun", SimpleNamespace(load=lambda *_: SimpleNamespace(rows=lambda split: rows[split]))
    )
    for most, measured_rows in ((39, 39), (40, 40), (41, 40), (None, 40)):
        config = fit_jobs.settings("nowhere", **changes | {"evaluate": {"every_steps": 3, "rows": most}})
        job = Job(config, TrainingFolder(config.store, "/run", {}), "/packed", (), 12)
        found = RemainingWork.of(job, 1000)
        assert found == RemainingWork(12, 3, measured_rows, 40, 1000 * bytes_a_value)
    rows["test"] = 7
    assert RemainingWork.of(job, 1000).evaluation_rows == 7


@pytest.mark.parametrize(
    ("step", "steps", "every", "validations"),
    [(0, 10, 5, 2), (4, 10, 5, 2), (5, 10, 5, 1), (9, 10, 5, 1), (10, 10, 5, 0), (0, 11, 5, 3), (10, 11, 5, 1)],
)
def test_validations_left_are_those_at_each_interval_and_one_after_the_last_step(step, steps, every, validations):
    wanted = len([at for at in range(step + 1, steps + 1) if at % every == 0 or at == steps])
    record = {"step": step, "time": "", "workers": 1, "seconds": 1.0, "tokens": 1, "validation_s": 100.0}
    left = RemainingWork(steps, every).seconds_left([record])
    assert left == (steps - step) * 1.0 + 100 * wanted and wanted == validations


def test_the_pace_is_of_the_last_fifty_steps():
    def record(step: int) -> dict:
        return {"step": step, "time": "", "workers": 1, "loss": 1.0, "seconds": 1.0, "tokens": 100 if step > 10 else 0}

    records = [record(step) | {"time": f"2026-01-01T00:{step:02d}:00"} for step in range(1, 60)]
    assert "98 tokens/s" in console.step_line(records, RemainingWork(60, 9))  # 49 of the last 50 have 100
    assert "100 tokens/s" in console.step_line(records[10:], RemainingWork(60, 9))
    assert RemainingWork(61, 100).seconds_left(records) == 2 * 60


# --- room


@pytest.mark.parametrize(
    ("workers", "nodes", "said"),
    [
        ({"count": 1, "cpus_each": 3}, [{"CPU": 2}],
         "1 worker with 3 CPUs each was requested; it has 2 CPUs, enough for 0. No worker fits: give each fewer "
         "resources, set workers.cpus_each lower,"),
        ({"count": 3}, [{"CPU": 1}, {"CPU": 1}],
         "3 workers with 1 CPU each were requested; it has 2 CPUs on 2 nodes, enough for 2. Set workers.count to 2 or "
         "fewer, set workers.cpus_each lower,"),
        ({"count": 3, "gpus_each": 1}, [{"CPU": 8, "GPU": 2}],
         "3 workers with 1 CPU and 1 GPU each were requested; it has 8 CPUs and 2 GPUs, enough for 2. Set "
         "workers.count to 2 or fewer, set workers.cpus_each lower,"),
        ({"count": {"min": 2, "max": 9}, "gpus_each": 1}, [{"CPU": 8}],
         "2 workers with 1 CPU and 1 GPU each were requested; it has 8 CPUs and 0 GPUs, enough for 0. No worker fits: "
         "give each fewer resources, set workers.gpus_each: 0,"),
        ({"count": 2}, [{"CPU": 2}], None),
        ({"count": {"min": 2, "max": 9}}, [{"CPU": 2}], None),
    ],
)  # fmt: skip
def test_workers_for_which_there_is_no_room_are_refused_with_both_numbers_and_a_setting_that_fits(workers, nodes, said):
    try:
        launch.check_fits(Workers.model_validate(workers), nodes, "it")
        assert said is None
    except ConfigError as error:
        assert said is not None and str(error).startswith(f"workers: {said}")


@pytest.mark.parametrize("gone", [(), ("mlflow",), ("wandb", "tensorboard"), ("mlflow", "wandb", "tensorboard")])
def test_each_tracker_that_is_set_must_be_installed_and_no_other(monkeypatch, gone):
    monkeypatch.setattr(launch, "find_spec", lambda name: None if name in gone else name)
    launch.check_trackers(Track(tensorboard=False))
    for settings in ({"mlflow": "u"}, {"wandb": "p"}, {"tensorboard": True}, {"mlflow": "u", "wandb": "p"}):
        track = Track(**{"tensorboard": False} | settings)
        missing = [name for name in ("mlflow", "wandb", "tensorboard") if name in settings and name in gone]
        try:
            launch.check_trackers(track)
            assert not missing
        except ConfigError as error:
            assert missing and str(error).startswith(f"track: {', '.join(missing)} not installed.")


def test_memory_is_given_in_gib_of_this_process():
    import torch

    with open("/proc/self/status") as status:
        (peak,) = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    assert memory.memory_gib(torch.device("cpu")) == pytest.approx(peak / (1 << 20), rel=0.1)


def test_parameters_are_counted_by_whether_they_train():
    import torch

    module = torch.nn.Module()
    module.model = torch.nn.Linear(3, 5)
    module.head = torch.nn.Linear(5, 2)
    module.model.requires_grad_(False)
    module.head.bias.requires_grad_(False)
    assert parameter_counts(module) == (10, 20 + 12)


def test_a_progress_is_plain_and_back(tmp_path):
    for best in (None, Best(3, 1.5)):
        progress = TrainingProgress(9, 8, 6, best, 1, (4, 5), 1, 2.5)
        assert TrainingProgress.from_plain(json.loads(json.dumps(dataclasses.asdict(progress)))) == progress


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "training: 250 of 1,000 parameters train (25.00%), 2 workers, attention sdpa"),
        ({"workers": 1}, "training: 250 of 1,000 parameters train (25.00%), 1 worker, attention sdpa"),
        ({"step": 7, "attention": "eager"},
         "training: 250 of 1,000 parameters train (25.00%), 2 workers, attention eager, continuing after step 7"),
        ({"attention_warning": "slow", "trainable_parameters": 1000},
         "training: 1,000 of 1,000 parameters train (100.00%), 2 workers, attention sdpa\nwarning: slow"),
    ],
)  # fmt: skip
def test_the_line_of_starting_workers_has_the_numbers_of_the_attempt(changes, said):
    attempt = {"step": 0, "workers": 2, "trainable_parameters": 250, "all_parameters": 1000, "attention": "sdpa",
               "attention_warning": None}  # fmt: skip
    assert console.start_line(attempt | changes) == said


def test_the_line_of_a_step_has_the_numbers_of_the_steps_it_is_about():
    def record(step: int, **more) -> dict:
        return {"step": step, "time": f"2026-01-01T00:00:{10 * step:02d}", "workers": 3} | more

    timed = [record(1, seconds=9.0, compile_s=5.0, tokens=1000, loss=3.0),
             record(2, seconds=6.0, tokens=2000, loss=2.5, validation={"loss": 1.5}, validation_s=4.0)]  # fmt: skip
    left = RemainingWork(12, 5, validation_rows=30, evaluation_rows=50, export_bytes=0)
    assert console.step_line([], left) == ""
    assert console.step_line([record(0)], left) == "training: 0/12 steps"
    assert console.step_line([record(0, validation={"loss": 2.25})], RemainingWork(1, 5)) == (
        "training: 0/1 step, validation 2.2500 at step 0"
    )
    # 3,000 tokens in 4 + 6 s; 10 steps of 10 s, validations after 5, 10 and 12 of 4 s, and once 50 rows of 4 / 30 s
    assert console.step_line(timed, left) == (
        "training: 2/12 steps, loss 2.5000, 300 tokens/s in steps, 1 min 59 s left, 5 s of compiling, "
        "validation 1.5000 at step 2 in 4 s"
    )
    exported = dataclasses.replace(left, export_bytes=2_000_000_000)
    assert ", 2 min 09 s left with export and evaluation, " in console.step_line(timed, exported)
    assert "tokens/s" in (line := console.step_line([*timed, record(3)], left)) and "loss" not in line


def test_of_several_validations_the_last_is_shown_and_the_next_ones_take_as_long():
    def record(step: int, loss: float, took: float, workers: int) -> dict:
        return {"step": step, "time": "", "workers": workers, "seconds": 1.0, "tokens": 1,
                "validation": {"loss": loss}, "validation_s": took}  # fmt: skip

    records = [record(step=1, loss=8.0, took=50.0, workers=9), record(step=2, loss=2.0, took=3.0, workers=2)]
    records = [one | {"time": f"2026-01-01T00:00:{51 * at:02d}"} for at, one in enumerate(records)]
    left = RemainingWork(3, 1, validation_rows=6, evaluation_rows=10)
    assert left.seconds_left(records) == (51 - 50) + 3 + 10 * 3 / 6
    assert console.step_line(records, left).endswith("validation 2.0000 at step 2 in 3 s")


def test_a_step_takes_the_time_between_steps_without_validations_and_alone_its_own():
    def record(second: int, **more) -> dict:
        return {"step": 1, "time": f"2026-01-01T00:00:{second:02d}", "workers": 1, "seconds": 7.0} | more

    assert console._seconds_per_step([record(0)]) == 7.0
    assert console._seconds_per_step([record(0, compile_s=3.0)]) == 4.0
    between = [record(0, validation_s=2.0), record(10), record(20, validation_s=9.0)]
    assert console._seconds_per_step(between) == (20 - 2) / 2
    assert console._seconds_per_step([record(5), record(5)]) == 7.0, "clocks that were set back"


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_last_records_are_whole_lines_of_the_end_of_the_log(tmp_path, monkeypatch, more):
    lines = [json.dumps({"step": step, "loss": step / 8}).encode() + b"\n" for step in range(10)]
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b"".join(lines))
    monkeypatch.setattr(console, "_TAIL_BYTES", path.stat().st_size + more)
    found = console.last_records(Store(), str(path), path.stat().st_size)
    assert [record["step"] for record in found] == list(range(1 if more < 0 else 0, 10))


@pytest.mark.parametrize("resumed", [0, 2])
def test_the_events_of_a_resumed_attempt_replace_those_of_the_steps_after_its_checkpoint(tmp_path, resumed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = SimpleNamespace(store=Store(), tensorboard=str(tmp_path))
    for attempt, start in (("a", 0), ("b", resumed)):
        tracker = step_log.TensorBoard(folder, attempt, start)
        for step in range(start + 1, 5):
            tracker.write({"step": step, "time": "", "workers": 1, "loss": step + (attempt == "b") / 2})
        tracker.close()
        assert not tracker.folder.exists()
    found = [(point.step, point.value) for point in EventAccumulator(str(tmp_path)).Reload().Scalars("loss")]
    assert found == [(step, step + (step > resumed) / 2) for step in range(1, 5)]


# Modules in the place of MLflow and of Weights & Biases, which note what they are called with.
_NOTE = """
import json, os, sys, time
from types import SimpleNamespace

def note(name, *what):
    print(chr(27) + "]0;title" + chr(7) + " http://user:password@host", file=sys.stderr)
    if name == {hang!r}:
        time.sleep(1000)
    if name == {fail!r}:
        raise ConnectionError("http://user:password@host")
    with open({notes!r}, "a") as file:
        file.write(json.dumps([name, *what]) + chr(10))
"""
_MLFLOW = """
def set_tracking_uri(uri): note("uri", uri)
def set_experiment(name): return SimpleNamespace(experiment_id="3")
def search_runs(experiments, query, **how):
    note("search", experiments, query)
    return [SimpleNamespace(info=SimpleNamespace(run_id={known!r}))] if {known!r} else []
def start_run(**how): note("start", how)
def log_metrics(values, step, synchronous): note("log", step, values)
def end_run(): note("end")
"""
_WANDB = """
def init(**how):
    note("start", how, os.path.exists("wandb/settings"))
    return SimpleNamespace(log=lambda values, step: note("log", step, values), finish=lambda: note("end"))
"""


@pytest.fixture
def services(tmp_path, monkeypatch):
    """Puts modules in the places of MLflow and Weights & Biases. Returns what they are called with."""

    def install(hang=None, fail=None, known=None):
        notes = tmp_path / "notes"
        folder = tmp_path / "modules"
        folder.mkdir()
        for name, text in (("mlflow", _MLFLOW), ("wandb", _WANDB)):
            values = {"hang": hang, "fail": fail, "known": known, "notes": str(notes)}
            (folder / f"{name}.py").write_text((_NOTE + text).format(**values))
        monkeypatch.setenv("PYTHONPATH", str(folder))
        return lambda: [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    return install


TRACKERS = {
    "Mlflow": partial(step_log.Mlflow, "demo", "f1", "http://nowhere"),
    "Wandb": partial(step_log.Wandb, "demo", "f1", "project", {"steps": 4}),
}


STEP = {"step": 4, "time": "", "workers": 1, "loss": 2.0, "mfu": None, "tokens": 7,
        "validation": {"loss": 1.5, "perplexity": 4.5, "accuracy": 0.5, "label_tokens": 9}}  # fmt: skip


@pytest.mark.parametrize("known", [None, "7"])
def test_a_resumed_training_logs_to_its_own_mlflow_run(services, known):
    noted = services(known=known)
    tracker = TRACKERS["Mlflow"]()
    tracker.write(STEP)
    tracker.close()
    assert noted() == [
        ["uri", "http://nowhere"],
        ["search", ["3"], "tags.raymill = 'f1'"],
        ["start", {"run_id": known, "run_name": None if known else "demo", "tags": {"raymill": "f1"}}],
        ["log", 4, {"loss": 2.0, "validation.loss": 1.5, "validation.perplexity": 4.5, "validation.accuracy": 0.5}],
        ["end"],
    ]


@pytest.mark.parametrize("at", ["start", "log", "end"])
@pytest.mark.parametrize("name", TRACKERS)
def test_a_service_that_never_answers_delays_no_step_and_ends_at_its_time(services, monkeypatch, caplog, name, at):
    noted = services(hang=at)
    monkeypatch.setattr(TrackerProcess.__init__, "__defaults__", (1.0,))
    tracker = step_log._ErrorsLogged(TRACKERS[name])
    process = tracker.tracker.process._process
    for step in range(2000):
        tracker.write(STEP | {"step": step})
    assert process.poll() is None, "nothing was waited for"
    tracker.close()
    assert process.poll() is not None and ["end"] not in noted()
    assert f"{name} failed and is not used any more: did not end within 1 s" in caplog.text


@pytest.mark.parametrize("at", ["start", "log", "end"])
@pytest.mark.parametrize("name", TRACKERS)
def test_a_service_that_fails_is_logged_without_its_text_and_ends_no_training(services, caplog, name, at):
    services(fail=at)
    tracker = step_log._ErrorsLogged(TRACKERS[name])
    process = tracker.tracker.process._process
    tracker.write(STEP)
    if at != "end":
        wait_until(lambda: process.poll() is not None, 30)
    for step in range(5, 8):
        tracker.write(STEP | {"step": step})
    tracker.close()
    assert caplog.text.count(f"{name} failed and is not used any more: ConnectionError") == 1
    assert "password" not in caplog.text


@pytest.mark.parametrize("name", TRACKERS)
def test_what_the_library_of_a_service_prints_is_printed_without_secrets_and_control_characters(services, capfd, name):
    services()
    tracker = TRACKERS[name]()
    tracker.close()
    printed = ""

    def is_printed() -> bool:
        nonlocal printed
        printed += capfd.readouterr().err
        return "\\u001b]0;title\\u0007 http://" in printed

    wait_until(is_printed, 30)
    assert "\x1b" not in printed and "password" not in printed


@pytest.mark.parametrize("name", TRACKERS)
def test_a_service_that_takes_no_line_has_a_bound_on_what_waits_for_it(services, monkeypatch, caplog, name):
    services(hang="start")
    monkeypatch.setattr("raymill.training.fit.tracker_process._MOST_WAITING", 1 << 20)
    tracker = step_log._ErrorsLogged(TRACKERS[name])
    process = tracker.tracker.process._process
    for step in range(20_000):
        tracker.write(STEP | {"step": step})
    assert process.poll() is not None and f"{name} failed and is not used any more: takes no more" in caplog.text


@pytest.mark.parametrize("name", TRACKERS)
def test_the_process_of_a_service_ends_with_a_training_that_was_killed(services, name):
    noted = services()
    tracker = TRACKERS[name]()
    tracker.write(STEP)
    process = tracker.process._process
    process.stdin.close()  # as the system does
    assert process.wait(30) == 0 and noted()[-1] == ["end"]


def test_a_tracker_that_cannot_be_started_ends_no_training(caplog):
    def refuse(*_):
        raise ConnectionError

    tracker = step_log._ErrorsLogged(partial(refuse))
    tracker.write(STEP)
    tracker.close()
    assert "refuse failed and is not used any more: ConnectionError" in caplog.text


def test_weights_and_biases_reads_no_settings_of_the_working_folder_and_writes_there(services, monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/settings").write_text("[default]\nbase_url = http://attacker\n")
    monkeypatch.chdir(tmp_path)
    noted = services()
    tracker = TRACKERS["Wandb"]()
    tracker.write(STEP)
    tracker.close()
    (start, how, reads_settings), logged, end = noted()
    about = {"project": "project", "name": "demo", "id": "f1", "resume": "allow", "config": {"steps": 4}}
    assert start == "start" and reads_settings is False and how == about | {"dir": str(tmp_path)}
    assert logged[1] == 4 and logged[2]["loss"] == 2.0 and "validation/loss" in logged[2] and end == ["end"]


def test_the_metrics_of_a_training_are_those_of_its_last_step_and_tell_how_it_ended():
    values: dict = {}

    def add(name: str, value: float) -> None:
        values[name] = values.get(name, 0) + value

    def shown(name: str) -> float:
        return values[f"raymill_{name}"]

    metrics = SimpleNamespace(set=values.__setitem__, set_to_now=lambda name: add(f"{name}, times", 1), add=add)
    tracker = step_log.StepMetrics(metrics, 40)
    assert (shown("run_state"), shown("training_steps")) == (RUNNING, 40)
    for step in (1, 2):
        tracker.write({"step": step, "time": "", "workers": 3, "loss": step / 4, "tokens_per_s": 8.0 * step,
                       "tokens": 100, "mfu": 0.25})  # fmt: skip
    tracker.write({"step": 3, "time": "", "workers": 2})  # a step without a label
    assert (shown("training_step"), shown("training_workers"), shown("training_tokens")) == (3, 2, 200)
    assert shown("progress_time, times") == 1 + 3 and shown("checkpoint_time, times") == 1
    tracker.close()
    assert shown("run_state") == ENDED
    with pytest.raises(KeyError), contextlib.closing(step_log.StepMetrics(metrics, 40)):
        raise KeyError
    assert shown("run_state") == FAILED
