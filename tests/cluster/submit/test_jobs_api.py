"""A real Ray cluster behind a proxy that cuts connections: what is lost on the way, checks, tokens, a killed head."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.submit.backend import AttemptLost, Request, State
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.ray_api import RayApi
from raymill.cluster.submit.submit import submit
from raymill.cluster.submit.work import GIB
from tests.support.processes import wait_until
from tests.support.proxies import Proxy
from tests.support.ray_cluster import RayCluster
from tests.support.works import SMALL_JOB, small_work

pytestmark = pytest.mark.cluster


@pytest.fixture
def proxy(ray_cluster: RayCluster) -> Iterator[Proxy]:
    with Proxy(ray_cluster.dashboard_port) as proxy:
        yield proxy


def through(proxy: Proxy, ray_cluster: RayCluster, **more) -> JobsApi:
    return JobsApi(RayApi(proxy.url, ray_cluster.token), command=SMALL_JOB, **more)


def test_following_survives_cut_connections_without_a_lost_or_repeated_line(proxy, ray_cluster, tmp_path):
    backend = through(proxy, ray_cluster)
    work = small_work(tmp_path, name="cut", lines=100, every_s=0.1)
    attempt = backend.start(Request(work, work.run_id))
    lines = []

    def cut() -> None:
        for _ in range(3):
            accepted, refused = proxy.accepted, proxy.refused
            proxy.refuse = True
            proxy.cut()
            wait_until(lambda: proxy.refused > refused, 20)  # noqa: B023 - called in this round
            proxy.refuse = False
            wait_until(lambda: proxy.accepted > accepted, 20)  # noqa: B023

    cutter = threading.Thread(target=cut)
    for line in backend.logs(attempt, follow=True):
        if line.startswith("line"):
            lines.append(line)
        if line == "line 10":
            cutter.start()
    cutter.join()
    assert proxy.cuts == 3
    assert lines == [f"line {number}" for number in range(100)]
    assert backend.attempt(attempt.name).state is State.SUCCEEDED


def test_a_submission_whose_answer_is_lost_starts_one_job(proxy, ray_cluster, tmp_path):
    backend = through(proxy, ray_cluster)
    work = small_work(tmp_path, name="answer", lines=1)
    proxy.lose_answer_to = b"POST /api/jobs/"
    attempt = backend.start(Request(work, work.run_id))
    assert proxy.lose_answer_to is None
    assert [one.name for one in backend.attempts() if one.run_id == work.run_id] == [attempt.name]


def test_a_wrong_token_and_none_are_refused_without_printing_it(ray_cluster, tmp_path):
    for token, wanted in (("0" * 32, "refused the token"), (None, "requires a token, and none was sent")):
        with pytest.raises(ConfigError, match=wanted) as caught:
            submit(JobsApi(RayApi(ray_cluster.url, token)), small_work(tmp_path))
        assert "0" * 32 not in str(caught.value)


def test_another_version_of_ray_is_refused_before_a_job_is_started(proxy, ray_cluster, tmp_path):
    ours, theirs = f'"ray_version": "{ray.__version__}"', '"ray_version": "2.11.0"'
    assert len(ours) == len(theirs)
    proxy.change = lambda data: data.replace(ours.encode(), theirs.encode())
    with pytest.raises(ConfigError, match=rf"the cluster runs Ray 2\.11\.0, this machine has {ray.__version__}"):
        submit(through(proxy, ray_cluster), small_work(tmp_path, name="version"))
    assert not any("version" in one.name for one in through(proxy, ray_cluster).attempts())


def test_the_check_finds_nothing_wrong_with_a_run_that_fits(ray_cluster, tmp_path):
    (tmp_path / "input.jsonl").write_text("{}")
    work = replace(small_work(tmp_path, name="fits"), must_exist=(str(tmp_path / "input.jsonl"),))
    backend = JobsApi(RayApi(ray_cluster.url, ray_cluster.token))
    assert backend.check(work) == []
    assert not Path(work.output).exists(), "the check removes what it wrote"
    ids = [job["submission_id"] for job in json.loads(backend.api.get("/api/jobs/"))]
    assert not any("-check-" in one for one in ids if one), "the check is removed"


def test_the_check_names_everything_that_is_wrong_at_once(ray_cluster, tmp_path):
    work = small_work(tmp_path, name="wrong", storage={"endpoint_url": "http://127.0.0.1:1", "anonymous": True})
    (group,) = work.workers
    work = replace(
        work,
        output="s3://bucket/output",
        must_exist=(str(tmp_path / "absent.jsonl"),),
        workers=(replace(group, gpus=8, least=2, largest_task=4096 * GIB),),
        all_at_once=True,
    )
    with pytest.raises(ConfigError) as caught:
        submit(JobsApi(RayApi(ray_cluster.url, ray_cluster.token)), work)
    message = str(caught.value)
    assert "16 GPUs needed: the cluster has 0, and no autoscaler can add the others" in message
    assert "the largest task needs 4096.0 GiB" in message
    assert "absent.jsonl: no such file" in message
    assert "s3://bucket/output" in message and "127.0.0.1:1" in message
    assert "4 problems" in message


def without_path(backend: JobsApi, monkeypatch, **more: str) -> JobsApi:
    """A backend whose jobs have no PYTHONPATH, by which the cluster's processes find Raymill here."""
    original = backend._submit

    def submit_without(name, command, variables, metadata):
        original(name, command, {**variables, "PYTHONPATH": "/nowhere", **more}, metadata)

    monkeypatch.setattr(backend, "_submit", submit_without)
    return backend


def test_a_cluster_without_raymill_is_named(ray_cluster, tmp_path, monkeypatch):
    (tmp_path / "shadow" / "raymill").mkdir(parents=True)  # Raymill may be installed in this environment
    missing = "raise ModuleNotFoundError(\"No module named 'raymill'\")"
    (tmp_path / "shadow" / "raymill" / "__init__.py").write_text(missing)
    backend = without_path(
        JobsApi(RayApi(ray_cluster.url, ray_cluster.token)),
        monkeypatch,
        PYTHONSAFEPATH="1",
        PYTHONPATH=str(tmp_path / "shadow"),
    )
    (problem,) = backend.check(small_work(tmp_path, name="without"))
    assert "on the PATH with which Ray's head was started, has no Raymill" in problem and "--ship-code" in problem


def test_shipped_code_runs_on_the_driver_and_on_every_machine(ray_cluster, tmp_path, monkeypatch):
    """The check needs Raymill in its driver and in a task on each machine, and finds it nowhere else."""
    backend = without_path(JobsApi(RayApi(ray_cluster.url, ray_cluster.token), ship_code=True), monkeypatch)
    assert backend.check(small_work(tmp_path, name="shipped")) == []


def test_no_answer_of_the_cluster_holds_its_token(ray_cluster, tmp_path):
    api = RayApi(ray_cluster.url, ray_cluster.token)
    JobsApi(api, command=SMALL_JOB).start(Request(small_work(tmp_path, name="token"), "token-in-jobs"))
    assert ray_cluster.token.encode() not in api.get("/api/jobs/")


def test_a_job_lost_with_its_head_is_reported_and_submitted_again(ray_cluster, tmp_path):
    backend = JobsApi(RayApi(ray_cluster.url, ray_cluster.token), command=SMALL_JOB)
    backend.check = lambda work: []
    work = small_work(tmp_path, name="head", lines=3000, every_s=0.1)
    first = submit(backend, work)
    followed: list[object] = []

    def follow() -> None:
        try:
            for line in backend.logs(first.attempt, follow=True):
                followed.append(line)
        except ClusterError as error:
            followed.append(error)

    follower = threading.Thread(target=follow)
    follower.start()
    assert wait_until(lambda: "line 0" in followed, 60)
    ray_cluster.kill_head()
    ray_cluster.start()
    follower.join(timeout=60)
    assert isinstance(followed[-1], AttemptLost), followed[-1]
    assert "submit the config again" in str(followed[-1])
    assert not any(one.run_id == work.run_id for one in backend.attempts())
    again = submit(backend, work)
    assert again.started and again.attempt.name == work.run_id
    backend.cancel(again.attempt)
