"""The order of a training's checks, what a look at a finished run may do, and paths: without Ray."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from raymill.cluster.errors import BusyError, ConfigError, DataError, UserError
from raymill.cluster.frame.job import Run
from raymill.cluster.lease import held
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training import job
from raymill.training.config import TrainConfig
from raymill.training.job import TrainJob, train
from raymill.training.pack.job import PackJob, located_config
from raymill.training.records.job import OUTCOME
from tests.support.train_inline import PLAIN, train_inline, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def config_of(corpus: str, folder: Path, **more) -> TrainConfig:
    return TrainConfig.model_validate(PLAIN | {"corpus": corpus, "output": str(folder / "run")} | more)


def never(*_, **__):
    raise AssertionError("must not be called")


class Packing(Exception):
    """The training has come to packing."""


@pytest.fixture
def checked(monkeypatch) -> list[str]:
    """One entry for each check of the cluster; packing ends the training."""
    found: list[str] = []

    def end(*_, **__):
        raise Packing

    monkeypatch.setattr(job, "_check_cluster", lambda workers, session: found.append("checked"))
    monkeypatch.setattr(PackJob, "run_under_lease", end)
    return found


def started() -> Session:
    session = Session()
    session.started = True
    return session


@pytest.mark.parametrize(
    ("session", "trained", "replace", "looked"),
    [
        (lambda: Session(), False, False, False),  # small corpora do not need Ray
        (started, False, False, True),
        (lambda: Session(address="nowhere:1"), False, False, True),
        (lambda: Session(address="nowhere:1"), True, False, False),  # only export and evaluation are left
        (lambda: Session(address="nowhere:1"), True, True, True),
    ],
)
def test_the_room_for_workers_is_checked_before_packing_where_ray_runs(
    corpus, tmp_path, checked, session, trained, replace, looked
):
    config = config_of(corpus, tmp_path)
    if trained:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / OUTCOME).write_text("{}")
    with pytest.raises(Packing):
        train(config, session(), Progress(), replace=replace)
    assert bool(checked) is looked


def test_a_column_that_is_missing_is_named_before_ray_is_started(corpus, tmp_path, checked):
    with pytest.raises(UserError, match="nothing_like_it"):
        train(config_of(corpus, tmp_path, columns={"text": "nothing_like_it"}), started(), Progress())
    assert checked == []


def test_a_later_phase_that_cannot_be_trained_is_refused_before_the_first(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "fit_on_ray", never)
    phases = [{"name": "one"}, {"name": "two", "sequence_length": 128}]
    with pytest.raises(ConfigError, match="Set sequence_length to 64 or less"):
        train_inline({"corpus": corpus, "output": str(tmp_path / "run"), "phases": phases}, monkeypatch)
    assert not (tmp_path / "run").exists()


def test_asking_whether_a_run_is_finished_removes_nothing(corpus, tmp_path, monkeypatch):
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "steps": 1, "evaluate": {}}
    run = train_inline(settings, monkeypatch)
    assert TrainJob(config_of(corpus, tmp_path, steps=1, evaluate={})).find().run
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for other in ({"steps": 2}, {"sequence_length": 32, "tokens_per_step": 64}):
        config = config_of(corpus, tmp_path, **{"steps": 1, "evaluate": {}} | other)
        with pytest.raises(DataError, match="replace=True"):
            TrainJob(config).find()
        with pytest.raises(DataError, match="replace=True"):
            train(config, Session(), Progress())
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == {path: time for path, time in before.items() if "_lease" not in path.parts} | {
        path: time for path, time in after.items() if "_lease" in path.parts
    }
    assert not TrainJob(config_of(corpus, tmp_path / "elsewhere")).find().run
    Path(run.uri, "packed", "pack.json").unlink()
    assert not TrainJob(config_of(corpus, tmp_path, steps=1, evaluate={})).find().run, (
        "the packed corpora are made again"
    )


@pytest.mark.parametrize("moment", ["check_memory", "finished_export_and_evaluation"])
def test_a_run_that_lost_its_lease_neither_trains_nor_publishes(corpus, tmp_path, monkeypatch, moment):
    leases, act = [], getattr(job, moment)

    @contextmanager
    def recorded(store, root):
        with held(store, root) as lease:
            leases.append(lease)
            yield lease

    def lose(*arguments):
        leases[0]._lost = "another run took over here"
        return act(*arguments)

    monkeypatch.setattr("raymill.cluster.frame.job.held", recorded)
    monkeypatch.setattr(job, moment, lose)
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "steps": 1, "evaluate": {}}
    with pytest.raises(BusyError, match="another run took over here"):
        train_inline(settings, monkeypatch)
    assert (tmp_path / "run" / OUTCOME).exists() is (moment != "check_memory")
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_workers_get_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"corpus": ["a.jsonl", "s3://bucket/b"], "output": "run", "packed": "rows"}
    found = located_config(TrainConfig.model_validate(PLAIN | given))
    assert [one.path for one in found.corpus] == [f"{tmp_path}/a.jsonl", "s3://bucket/b"]
    assert (found.output, found.packed) == (f"{tmp_path}/run", f"{tmp_path}/rows")
    assert located_config(TrainConfig.model_validate(PLAIN | given | {"packed": None})).packed is None


def fit(steps: int, planned: int, **more) -> dict:
    return {
        "totals": {"steps": steps, "planned_steps": planned}, "recipe": {"method": "lora", "base_model": "tiny"},
        "validation": [], "best_step": 0, "folders": [{"kind": "adapter"}, {"kind": "merged"}],
    } | more  # fmt: skip


def test_a_manifest_has_the_losses_and_steps_of_a_training_in_words():
    looks = [{"step": step, "loss": loss} for step, loss in ((0, 5.25), (1000, 2.5), (1200, 2.75))]
    assert job._summary(fit(1200, 2000, validation=looks, best_step=1000)) == {
        "method": "lora", "base": "tiny", "steps": "1,200 of 2,000",
        "loss": "validation 5.250 -> 2.500 at step 1,000", "exported": "adapter, merged",
    }  # fmt: skip
    assert job._summary(fit(2000, 2000)) == {
        "method": "lora", "base": "tiny", "steps": "2,000", "exported": "adapter, merged"
    }  # fmt: skip


def test_the_model_that_needs_no_adapter_is_the_merged_or_the_full_one():
    def exported(*folders: str) -> str:
        manifest = {"export": {"folders": dict.fromkeys(folders, "x")}}
        return job.exported_model(Run(Store(), "s3://b/run", manifest, {}, fresh=False))

    assert exported("adapter", "merged", "base") == "s3://b/run/export/merged"
    assert exported("full") == "s3://b/run/export/full"
