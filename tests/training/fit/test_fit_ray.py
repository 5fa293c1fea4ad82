"""Training under Ray Train: a killed worker changes nothing, and what cannot work is said before or in one line."""

import io
import threading
from pathlib import Path

import pytest

from raymill.cluster.errors import ClusterError, ConfigError, DataError
from raymill.cluster.progress import Progress, ProgressLines
from raymill.cluster.session import Session
from raymill.training.driver.launch import _as_cluster_error, fit_on_ray
from raymill.training.records.checkpoint import MANIFEST, folder_name
from raymill.training.records.job import Job, TrainingFolder
from tests.support.fit_jobs import column, fit_alone, pack_tiny, settings, tiny_job
from tests.support.killed_fits import fit_by_ranks, kill_and_finish

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    pack_tiny(str(root))
    return root


@pytest.fixture(scope="module")
def session(shared_session: Session) -> Session:
    return shared_session


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "hanging"])
def test_a_worker_killed_or_stopped_at_some_step_changes_nothing(packed, victim):
    """Ray Train starts the workers again in both cases, and ends the stopped process."""
    kill_and_finish(packed, fit_by_ranks(packed), seed=1, victim=victim)


def test_more_workers_than_fit_are_refused_before_training(packed, session):
    job = tiny_job(str(packed), output=f"{packed}/infeasible", workers={"count": 3})
    with pytest.raises(
        ConfigError, match=r"3 workers with 1 CPU each were requested; this machine's Ray has 2 CPUs, enough for 2"
    ):
        fit_on_ray(job, session, Progress())
    assert not Path(job.folder.uri, "attempts").exists()


@pytest.mark.slow
def test_what_a_worker_cannot_go_on_from_comes_back_as_our_own_error_and_is_not_tried_again(packed, session):
    job = tiny_job(str(packed), output=f"{packed}/broken", workers={"count": 2}, failures={"loss_limit": 2.0, "max": 3})
    shown = io.StringIO()
    with pytest.raises(DataError, match=r"^step 1: the loss is .* above failures.loss_limit 2. Its batch .*doc-"):
        fit_on_ray(job, session, ProgressLines(shown))
    assert "ray-train" in {one.name for one in threading.enumerate()}, "told before Ray Train has started them again"
    assert len(list(Path(job.folder.attempts).iterdir())) == 1
    assert "19,616 of 19,616 parameters train (100.00%), 2 workers" in shown.getvalue()
    assert column(job, "step") == [0]


def test_a_training_of_other_settings_is_refused_or_replaced(packed):
    root = str(packed)
    before = fit_alone(tiny_job(root, output=f"{root}/other", steps=3))
    job = tiny_job(root, output=f"{root}/other", steps=4)
    with pytest.raises(DataError, match=r": steps was 3, now 4"):
        fit_on_ray(job, Session(), Progress())
    again = tiny_job(root, output=f"{root}/other", steps=3)
    assert fit_on_ray(again, Session(), Progress()) == before


def test_what_ray_gave_up_for_is_one_line_that_states_which_checkpoints_there_are(tmp_path):
    failed = Exception()
    failed.worker_failures = {1: ValueError("Traceback (most recent call last):\n  File x\nValueError: the cause")}
    config = settings(str(tmp_path), output=str(tmp_path / "run"))
    job = Job(config, TrainingFolder(config.store, config.output, {}), "", (), 1)
    told = str(_as_cluster_error(failed, job.folder, config.failures.max))
    assert "failures.max (3) allows, last with: rank 1: ValueError: the cause. There is no checkpoint yet: co" in told
    folder = Path(job.folder.checkpoints, folder_name(12, "a"))
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    error = _as_cluster_error(None, job.folder, 3)
    assert "Checkpoints up to step 12 are kept: correct the cause" in str(error) and isinstance(error, ClusterError)
