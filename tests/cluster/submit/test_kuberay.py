"""Submission to Kubernetes, against an API server and KubeRay's operator in this process; jobs are real processes."""

import json
import re
import threading
import time
from dataclasses import replace

import pytest
import yaml

from raymill.cluster.cli import main
from raymill.cluster.errors import ClusterError, ConfigError, DataError
from raymill.cluster.kuberay.rayjob import rendered
from raymill.cluster.submit.backend import AttemptExists, AttemptLost, NoAnswer, Request, State
from raymill.cluster.submit.kuberay import KubeRay, connect
from raymill.cluster.submit.kuberay_log import Follower
from raymill.cluster.submit.kubernetes_api import Conflict, KubernetesApi
from raymill.cluster.submit.submit import submit
from tests.support.api_answers import RECORDED, answers, example_job
from tests.support.kubernetes_server import moment
from tests.support.processes import wait_until
from tests.support.works import CURATE, IMAGE, small_work


def start(backend, work, name=""):
    return backend.start(Request(work, name or work.run_id))


def until(backend, attempt, wanted, seconds=20):
    """The attempt, once `wanted` holds for it."""
    found = []
    assert wait_until(lambda: wanted(found.append(backend.attempt(attempt.name)) or found[-1]), seconds), found[-1]
    return found[-1]


def follow(backend, attempt):
    """Follow in a thread. Returns the growing list of lines, and a function that waits for the end."""
    lines, errors = [], []

    def run():
        try:
            for line in backend.logs(attempt, True):
                lines.append(line)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait(seconds=40):
        thread.join(seconds)
        assert not thread.is_alive(), lines
        if errors:
            raise errors[0]
        return lines

    return lines, wait


def reach(lines, number, seconds=20):
    assert wait_until(lambda: len(lines) >= number, seconds), lines


def numbers(count):
    return [f"line {number}" for number in range(count)]


# --- logs


def test_lines_come_once_over_cut_connections_and_rotated_logs(kubernetes, tmp_path):
    attempt = start(kubernetes.backend(), small_work(tmp_path, lines=60, every_s=0.04))
    lines, wait = follow(kubernetes.backend(), attempt)
    for number in (5, 20, 40):
        reach(lines, number)
        kubernetes.server.broken += [500, 503]
        kubernetes.server.cut_streams()
        if number == 20:
            (log,) = kubernetes.server.logs.values()
            log.rotate()
    assert wait() == numbers(60)
    assert sum("/log?" in one for one in kubernetes.server.requests) >= 3


def test_the_log_continues_with_the_head_that_replaces_a_lost_one(kubernetes, tmp_path):
    attempt = start(kubernetes.backend(), small_work(tmp_path, lines=20, every_s=0.1))
    lines, wait = follow(kubernetes.backend(), attempt)
    reach(lines, 5)
    kubernetes.operator.replace_head(attempt.name)
    found = wait()
    again = found.index("line 0", 1)
    assert 5 <= again < 20
    assert found == numbers(again) + numbers(20)
    assert until(kubernetes.backend(), attempt, lambda one: one.state.final).state is State.SUCCEEDED


def test_a_failed_job_is_repeated_on_a_new_cluster_within_its_attempt(kubernetes, tmp_path):
    attempt = start(kubernetes.backend(retries=1), small_work(tmp_path, lines=1, every_s=60))
    lines, wait = follow(kubernetes.backend(), attempt)
    for number in (1, 2):
        reach(lines, number)  # before the failure: the operator then deletes the cluster, and its log with it
        kubernetes.operator.driver(attempt.name).terminate()
    assert wait() == numbers(1) * 2
    found = kubernetes.backend().attempt(attempt.name)
    assert (found.state, found.exit_code, found.message) == (State.FAILED, 143, "exit code 143")


def test_lines_that_reach_the_log_after_the_end_of_their_job_are_read(kubernetes, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.kuberay_log._LAST_LINES_S", 1.5)
    backend = kubernetes.backend()
    attempt = start(backend, small_work(tmp_path, lines=1))
    until(backend, attempt, lambda one: one.state.final)
    (log,) = kubernetes.server.logs.values()
    threading.Timer(0.5, log.add, [b"late"]).start()
    assert list(backend.logs(attempt, True)) == ["line 0", "late"]


def test_a_log_whose_pods_are_gone_is_named(kubernetes, tmp_path):
    backend = kubernetes.backend()
    attempt = start(backend, small_work(tmp_path, lines=1))
    until(backend, attempt, lambda one: one.state.final)
    for pod in kubernetes.server.objects.find("pods", "raymill"):
        kubernetes.server.objects.remove("pods", "raymill", pod["metadata"]["name"])
    with pytest.raises(AttemptLost, match="its log is gone with its pods"):
        list(backend.logs(attempt, False))


def test_a_log_is_followed_over_a_restart_of_the_api_server_that_refuses_at_first(kubernetes, tmp_path):
    """Until it has loaded its roles, a starting server answers 403, then 503 and 429, as one of 1.34.9 did."""
    attempt = start(kubernetes.backend(), small_work(tmp_path, lines=30, every_s=0.05))
    lines, wait = follow(kubernetes.backend(), attempt)
    reach(lines, 5)
    kubernetes.server.broken += [403, 403, 401, 503, 429]
    kubernetes.server.cut_streams()
    assert wait() == numbers(30)
    assert kubernetes.server.broken == []


def test_a_right_that_is_taken_away_ends_a_log_after_some_seconds(kubernetes, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.kubernetes_api._STARTING_S", 0.5)
    attempt = start(kubernetes.backend(), small_work(tmp_path, lines=300, every_s=0.1))
    lines, wait = follow(kubernetes.backend(), attempt)
    reach(lines, 2)
    kubernetes.server.forbidden |= {("get", "rayjobs.ray.io")}
    with pytest.raises(ConfigError, match=r"you may not get rayjobs\.ray\.io"):
        wait()
    kubernetes.server.forbidden.clear()
    kubernetes.backend(grace_s=0.2).cancel(attempt)


def test_a_log_that_waits_says_why_each_time_that_the_reason_changes(kubernetes, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.kuberay_log._WATCH_S", 1)
    kubernetes.operator.stopped, kubernetes.operator.obstacle = True, "unschedulable"
    backend, messages, lines = kubernetes.backend(), [], []
    attempt = start(backend, small_work(tmp_path, lines=3))
    thread = threading.Thread(target=lambda: lines.extend(backend.logs(attempt, True, messages.append)), daemon=True)
    thread.start()
    assert wait_until(lambda: messages, 20)
    kubernetes.operator.stopped = False
    assert wait_until(lambda: "no machine" in messages[-1], 20), messages
    kubernetes.operator.obstacle = "image"
    assert wait_until(lambda: "ImagePullBackOff" in messages[-1], 20), messages
    kubernetes.operator.obstacle = None
    thread.join(40)
    assert lines == numbers(3) and len(set(messages)) == len(messages)
    assert messages[0] == f"{attempt.name}: waiting: KubeRay's operator has not taken it up yet; does the operator run?"


def test_a_log_ends_with_its_job_although_the_node_of_its_pod_is_lost(kubernetes, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.kuberay_log._UNREADABLE_S", 0.2)
    backend, messages = kubernetes.backend(), []
    attempt = start(backend, small_work(tmp_path, lines=30, every_s=0.05))
    follower = backend.logs(attempt, True, messages.append)
    assert next(follower) == "line 0"
    kubernetes.server.unreadable = True
    kubernetes.server.cut_streams()
    assert list(follower)[-1:] != ["line 29"]
    assert "its log cannot be read now, trying again: " in messages[0] and "no route to host" in messages[0]
    assert messages[-1] == f"{attempt.name}: the rest of its log cannot be read: its node does not answer"


@pytest.mark.parametrize("read", [b"2026-01-01T00:00:00Z line\n", None], ids=["a line", "the end of a connection"])
def test_a_log_that_could_be_read_in_between_is_not_reported_as_unreadable(read):
    class Reader:
        def __init__(self, *answers):
            self.answers = iter(answers)

        def read(self, seconds):
            if isinstance(answer := next(self.answers), Exception):
                raise answer
            return answer

    messages, lost = [], NoAnswer("no route to host")
    follower = Follower(None, "job", None, str, messages.append)
    follower._unreadable = -1e6  # long ago
    for reader in (Reader(read, lost), Reader(lost)):
        follower._reader = reader
        list(follower._new_lines(0.01))
    assert messages == []


def test_a_log_ends_with_its_job_although_each_connection_ends_at_once(kubernetes, tmp_path):
    backend = kubernetes.backend()
    attempt = start(backend, small_work(tmp_path, lines=20, every_s=0.05))
    lines, wait = follow(backend, attempt)
    reach(lines, 1)
    kubernetes.server.empty_logs = True
    kubernetes.server.cut_streams()
    until(backend, attempt, lambda one: one.state.final)
    asked = len(kubernetes.server.requests)
    assert len(wait(20)) < 20
    assert len(kubernetes.server.requests) - asked < 60, "it does not ask without a pause"


# --- states


def test_a_job_waits_for_kueue_and_starts_when_it_is_admitted(kubernetes, tmp_path):
    kubernetes.server.kueue = True
    backend = kubernetes.backend(autoscale=False, queue="raymill", clean_up="shutdown")
    work = small_work(tmp_path, lines=3)
    attempt = start(backend, work)
    found = until(backend, attempt, lambda one: "Kueue" in one.message)
    assert found.state is State.WAITING and found.message == "waits for admission by Kueue, queue raymill"
    text = "couldn't assign flavors to pod set cpu: insufficient unused quota for cpu in flavor default"
    kubernetes.operator.event("Workload", f"rayjob-{attempt.name}-ab12c", "Pending", text, warning=False)
    assert backend.attempt(attempt.name).message.endswith(f"Pending: {text}")
    lines, wait = follow(backend, attempt)
    kubernetes.operator.admit(attempt.name)
    assert wait() == numbers(3) == lines
    assert backend.attempt(attempt.name).state is State.SUCCEEDED


def test_a_running_job_that_kueue_suspends_waits_again(kubernetes, tmp_path):
    kubernetes.server.kueue = True
    backend = kubernetes.backend(autoscale=False, queue="raymill", clean_up="shutdown")
    attempt = start(backend, small_work(tmp_path, lines=200, every_s=0.1))
    kubernetes.operator.admit(attempt.name)
    lines, _ = follow(backend, attempt)
    reach(lines, 2)
    kubernetes.operator.admit(attempt.name, False)
    found = until(backend, attempt, lambda one: one.state is State.WAITING and "Kueue" in one.message)
    assert found.exit_code is None and found.ended is None
    backend.cancel(attempt)
    assert backend.attempt(attempt.name).state is State.CANCELLED


@pytest.mark.parametrize(
    ("obstacle", "message"),
    [
        ("unschedulable", r"\d of \d pods have no machine: 0/3 nodes are available: 3 Insufficient cpu\."),
        ("image", r"-(head|worker-\d): ImagePullBackOff: Back-off pulling image .*\. Is the image's name right"),
    ],
)
def test_a_waiting_job_names_what_its_pods_wait_for(kubernetes, tmp_path, obstacle, message):
    kubernetes.operator.obstacle = obstacle
    backend = kubernetes.backend()
    attempt = start(backend, small_work(tmp_path, lines=1))
    found = until(backend, attempt, lambda one: re.search(message, one.message))
    assert found.state is State.WAITING
    kubernetes.server.forbidden |= {("list", "events")}
    assert backend.attempt(attempt.name).message == "its pods start", "events are no necessary right"
    kubernetes.operator.obstacle = None
    assert until(backend, attempt, lambda one: one.state.final).state is State.SUCCEEDED


def test_events_name_what_no_pod_shows(kubernetes, tmp_path):
    kubernetes.operator.stopped = True
    backend = kubernetes.backend()
    attempt = start(backend, small_work(tmp_path, lines=1))
    assert attempt.state is State.WAITING
    text = "Failed to create head Pod: exceeded quota: raymill"
    kubernetes.operator.event("RayCluster", attempt.name, "FailedToCreateHeadPod", text)
    assert text in backend.attempt(attempt.name).message


def test_a_job_whose_time_is_over_is_not_repeated(kubernetes, tmp_path):
    backend = kubernetes.backend(deadline_s=1, retries=3)
    attempt = start(backend, small_work(tmp_path, lines=300, every_s=0.1))
    found = until(backend, attempt, lambda one: one.state.final)
    assert (found.state, found.exit_code) == (State.FAILED, 1)
    assert found.message.startswith("DeadlineExceeded: The RayJob has passed the activeDeadlineSeconds")


@pytest.fixture(params=["DeadlineExceeded", "JobStatusCheckTimeoutExceeded", "stopped by Ray"])
def outlived(request, kubernetes, tmp_path):
    """(work, attempt) of a job that has ended for the operator while its pods are there."""
    deadline_s = 1 if request.param == "DeadlineExceeded" else 600
    backend = kubernetes.backend(deadline_s=deadline_s, retries=3)
    work = small_work(tmp_path, lines=300, every_s=0.1, stop="commit")
    attempt = start(backend, work)
    lines, _ = follow(backend, attempt)
    reach(lines, 2)
    if request.param == "JobStatusCheckTimeoutExceeded":
        kubernetes.operator.lose_dashboard(attempt.name)
    if request.param == "stopped by Ray":
        kubernetes.operator.stop_by_ray(attempt.name)
    found = until(backend, attempt, lambda one: one.state.final)
    assert found.lingers and "its pods are still there" in found.message
    assert found.state is (State.CANCELLED if request.param == "stopped by Ray" else State.FAILED)
    return work, found


def test_submit_cancels_a_job_whose_pods_outlive_it_before_the_next_attempt(kubernetes, outlived):
    work, attempt = outlived
    drivers = kubernetes.operator.driver(attempt.name) if attempt.state is State.FAILED else None
    done = submit(kubernetes.backend(), work)
    assert done.attempt.name == f"{work.run_id}-a2" and done.before.name == attempt.name
    assert drivers is None or drivers.poll() == 130, "it committed what was done"
    before = kubernetes.backend().attempt(attempt.name)
    assert before.state is State.CANCELLED and not before.lingers
    clusters = {
        one["metadata"]["labels"]["ray.io/cluster"] for one in kubernetes.server.objects.find("pods", "raymill")
    }
    assert not any(name.startswith(f"{attempt.name}-") and "-a2-" not in name for name in clusters)
    kubernetes.backend(grace_s=0.2).cancel(done.attempt)


def test_the_operator_removes_what_outlives_a_passed_deadline(kubernetes, tmp_path):
    backend = kubernetes.backend(deadline_s=1, grace_s=0.2)
    attempt = start(backend, small_work(tmp_path, lines=300, every_s=0.1))
    until(backend, attempt, lambda one: one.state.final)
    kubernetes.operator.ttl_factor = 0
    assert wait_until(lambda: kubernetes.server.objects.find("pods", "raymill") == [], 20)
    assert wait_until(lambda: backend.attempt(attempt.name) is None, 20)


def test_a_start_deletes_what_the_operator_keeps_forever(kubernetes, tmp_path):
    backend = kubernetes.backend(grace_s=0.2)
    stopped = start(backend, small_work(tmp_path, name="stopped", lines=300, every_s=0.1))
    kueue = kubernetes.backend(clean_up="shutdown", autoscale=False)
    ended = start(kueue, small_work(tmp_path, name="ended", lines=1))
    until(backend, stopped, lambda one: one.state is State.RUNNING)
    kubernetes.operator.stop_by_ray(stopped.name)
    until(backend, ended, lambda one: one.state.final)
    names = [stopped.name, ended.name]
    kubernetes.operator.stopped = True
    for seconds, left in ((3000, names), (4000, names[1:]), (8 * 24 * 3600, [])):
        for one in kubernetes.server.objects.find("rayjobs", "raymill", lambda job: job["metadata"]["name"] in names):
            change = {"endTime": moment(time.time() - seconds)}
            name = one["metadata"]["name"]
            kubernetes.server.objects.update(
                "rayjobs", "raymill", name, lambda job, new=change: job["status"].update(new)
            )
        start(backend, small_work(tmp_path, name=f"next-{seconds}", lines=1))
        jobs = kubernetes.server.objects.find("rayjobs", "raymill")
        kept = [one["metadata"]["name"] for one in jobs if not one["metadata"].get("deletionTimestamp")]
        assert [name for name in names if name in kept] == left
    kubernetes.operator.stopped = False
    assert wait_until(lambda: len(kubernetes.server.objects.find("rayjobs", "raymill")) == 3, 20)


def test_a_job_that_the_operator_refuses_has_failed(kubernetes, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.support.kuberay_operator._operators_rules", lambda job: "a rule was broken")
    backend = kubernetes.backend()
    attempt = start(backend, small_work(tmp_path, lines=1))
    found = until(backend, attempt, lambda one: one.state.final)
    assert (found.state, found.message, found.exit_code) == (State.FAILED, "ValidationFailed: a rule was broken", 1)
    assert list(backend.logs(attempt, True)) == []


def test_without_an_operator_a_job_waits_and_a_cancelled_one_is_named(kubernetes, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.kuberay._DELETION_S", -119)
    kubernetes.operator.stopped = True
    backend = kubernetes.backend()
    attempt = start(backend, small_work(tmp_path, lines=1))
    assert "KubeRay's operator has not taken it up yet" in attempt.message
    with pytest.raises(ClusterError, match=r"still being deleted after 1 s.*whether KubeRay's operator runs"):
        backend.cancel(attempt)
    assert backend.attempt(attempt.name).message == "is being cancelled"


def test_a_job_that_kubectl_deletes_is_lost_and_its_name_is_free(kubernetes, tmp_path):
    backend, work = kubernetes.backend(grace_s=0.2), small_work(tmp_path, lines=200, every_s=0.1)
    attempt = start(backend, work)
    lines, wait = follow(kubernetes.backend(), attempt)
    reach(lines, 1)
    backend.api.delete_rayjob(attempt.name)
    with pytest.raises(AttemptLost, match="its RayJob was deleted"):
        wait()
    assert backend.attempts() == []
    assert kubernetes.server.objects.find("configmaps", "raymill") == [], "the RayJob owned its ConfigMap"
    with pytest.raises(AttemptLost):
        backend.cancel(attempt)


# --- start


def test_a_start_whose_answers_are_lost_starts_once(kubernetes, tmp_path):
    backend, work = kubernetes.backend(), small_work(tmp_path, lines=1)
    create = backend.api.create_rayjob

    def create_and_lose(manifest, dry_run=False):
        backend.api.create_rayjob = create
        kubernetes.server.broken.append(0)
        return create(manifest, dry_run)

    backend.api.create_rayjob = create_and_lose
    attempt = start(backend, work)
    assert [one.name for one in backend.attempts()] == [attempt.name]
    with pytest.raises(AttemptExists):
        start(kubernetes.backend(), work)


def test_a_submit_that_was_killed_before_the_rayjob_leaves_no_name_taken(kubernetes, tmp_path, monkeypatch):
    backend, work = kubernetes.backend(), small_work(tmp_path, lines=1)
    config_map, _ = backend._manifests(work, work.run_id)
    backend.api.create_config_map(config_map)
    other = replace(work, config={**work.config, "execution": 2})
    monkeypatch.setattr("raymill.cluster.submit.kuberay._RAYJOB_FOLLOWS_S", 0.2)
    name = config_map["metadata"]["name"]
    wanted = rf"{work.run_id}: .*made the ConfigMap {name} \d s ago, and no RayJob.* in (300|29\d) s, or delete the "
    with pytest.raises(ClusterError, match=wanted + rf"ConfigMap \(kubectl -n raymill delete configmap {name}\)"):
        submit(backend, other)  # it may be under way
    monkeypatch.setattr("raymill.cluster.submit.kuberay._UNDER_WAY_S", -5)
    attempt = start(backend, other)
    assert backend.config(attempt) == other.config
    until(backend, attempt, lambda one: one.state.final)


def test_a_submit_that_is_under_way_is_waited_for(kubernetes, tmp_path):
    backend, work = kubernetes.backend(), small_work(tmp_path, lines=1)
    config_map, job = backend._manifests(work, work.run_id)
    backend.api.create_config_map(config_map)
    threading.Timer(0.5, backend.api.create_rayjob, [job]).start()
    with pytest.raises(AttemptExists):
        start(backend, replace(work, config={**work.config, "execution": 2}))


def test_what_kubectl_apply_left_is_taken_on(kubernetes, tmp_path):
    backend, work = kubernetes.backend(), small_work(tmp_path, lines=1)
    backend.api.create_config_map(backend._manifests(work, work.run_id)[0])
    assert until(backend, start(backend, work), lambda one: one.state.final).state is State.SUCCEEDED


def test_records_of_cancelled_attempts_are_forgotten_after_a_week(kubernetes, tmp_path):
    backend, work = kubernetes.backend(grace_s=0.2), small_work(tmp_path, lines=200, every_s=0.1)
    first = start(backend, work)
    backend.cancel(first)
    assert next(one for one in backend.attempts() if one.run_id == work.run_id).state is State.CANCELLED
    long_ago = {"raymill.io/cancelled": moment(time.time() - 8 * 24 * 3600)}
    backend.api.change_config_map(f"{first.name}-config", {"annotations": long_ago})
    second = start(backend, work, f"{work.run_id}-a2")
    assert [one.name for one in backend.attempts() if one.run_id == work.run_id] == [second.name]


def test_objects_that_others_damaged_are_left_out_with_a_warning_and_stop_no_submit(kubernetes, tmp_path, caplog):
    backend, objects = kubernetes.backend(), kubernetes.server.objects
    work = small_work(tmp_path, lines=1)
    job, record = start(backend, small_work(tmp_path, name="job", lines=1)), f"{start(backend, work).name}-config"
    until(backend, job, lambda one: one.state.final)
    kubernetes.operator.stopped = True
    objects.update("rayjobs", "raymill", job.name, lambda one: one["status"].update(endTime="soon", rayJobInfo=None))
    backend.api.delete_rayjob(work.run_id)
    objects.remove("rayjobs", "raymill", work.run_id)
    backend.api.create_config_map(backend._manifests(work, work.run_id)[0])
    for text in ("soon", "9" * 5000, "+1000000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59Z"):
        backend.api.change_config_map(record, {"annotations": {"raymill.io/cancelled": text}})
        caplog.clear()
        assert backend.attempts() == [] and caplog.text.count("not listed: ") == 2
        with pytest.raises(DataError, match=r"is damaged .* delete it"):
            backend.attempt(work.run_id)
    next_one = start(backend, small_work(tmp_path, name="next", lines=1))
    assert [one.name for one in backend.attempts()] == [next_one.name]


@pytest.mark.parametrize("info", [{}, {"startTime": "0001-01-01T00:00:00+00:00"}])
def test_a_rayjob_of_others_with_a_time_that_no_clock_shows_stops_no_listing(kubernetes, tmp_path, capsys, info):
    """The API server takes such times; `raymill runs` ended with an error."""
    backend, work = kubernetes.backend(), small_work(tmp_path, lines=1)
    evil = start(backend, work)
    until(backend, evil, lambda one: one.state.final)
    kubernetes.operator.stopped = True
    changed = {"startTime": "0001-01-01T00:00:00+00:00", "rayJobInfo": info}
    kubernetes.server.objects.update("rayjobs", "raymill", evil.name, lambda one: one["status"].update(changed))
    assert backend.attempts() == []
    with pytest.raises(DataError, match=rf"{evil.name}: .*is damaged .*0001"):
        backend.attempt(evil.name)


def test_pods_are_asked_for_once_however_many_jobs_ended_without_ray(kubernetes, tmp_path):
    backend, objects = kubernetes.backend(), kubernetes.server.objects
    kubernetes.operator.stopped = True
    names = [start(backend, small_work(tmp_path, name=f"job{number}", lines=1)).name for number in range(5)]
    for name in names:
        status = {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "rayClusterName": f"{name}-x"}
        objects.update("rayjobs", "raymill", name, lambda one, status=status: one.update(status=status))
    kubernetes.server.requests.clear()
    assert [one.lingers for one in backend.attempts()] == [False] * 5
    assert sum("/pods" in one for one in kubernetes.server.requests) == 1


@pytest.mark.parametrize("cluster", ["a b", "a,b=c", "!", "c" * 300, "x in (a)", "-a"])
@pytest.mark.parametrize(
    "status",
    [{"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING"}, {"jobDeploymentStatus": "Initializing"}],
)
def test_a_rayjob_of_others_with_an_impossible_name_of_its_cluster_stops_no_verb(
    kubernetes, tmp_path, caplog, status, cluster
):
    """The name goes into the selector of a request, which the API server refuses, or which asks for other pods."""
    backend = kubernetes.backend()
    evil = start(backend, small_work(tmp_path, name="evil", lines=1))
    until(backend, evil, lambda one: one.state.final)
    kubernetes.operator.stopped = True
    changed = status | {"rayClusterName": cluster, "endTime": moment()}
    kubernetes.server.objects.update("rayjobs", "raymill", evil.name, lambda one: one["status"].update(changed))
    assert backend.attempts() == [] and "rayClusterName" in caplog.text
    done = submit(backend, small_work(tmp_path, lines=1))
    assert done.started and [one.name for one in backend.attempts()] == [done.attempt.name]
    with pytest.raises(DataError, match=rf"{evil.name} is damaged .*rayClusterName.* delete it"):
        backend.attempt(evil.name)


def test_names_that_jobs_of_others_have_stop_no_submit(kubernetes, tmp_path):
    backend, work = kubernetes.backend(), small_work(tmp_path, lines=1)
    kubernetes.operator.stopped = True
    first = start(backend, work)
    ended = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "startTime": moment(), "endTime": moment()}
    damages = [
        lambda one: one["metadata"].update(labels=None),
        lambda one: one["metadata"]["labels"].update({"raymill.io/run-id": "other"}) or one.update(status=ended),
        lambda one: one.update(status={"failed": "many"}),
    ]
    for number, damage in enumerate(damages, 2):
        name = f"{work.run_id}-a{number}"
        start(backend, work, name)
        kubernetes.server.objects.update("rayjobs", "raymill", name, damage)
    kubernetes.server.objects.update("rayjobs", "raymill", first.name, lambda one: one.update(status=ended))
    done = submit(backend, work)
    assert done.started and done.before.name == work.run_id and done.attempt.run_id == work.run_id


def test_a_config_map_with_an_impossible_time_has_its_name_and_stops_no_submit(kubernetes, tmp_path):
    backend, work = kubernetes.backend(), small_work(tmp_path, lines=1)
    kubernetes.operator.stopped = True
    backend.api.create_config_map(backend._manifests(small_work(tmp_path, lines=2), work.run_id)[0])
    at = ("configmaps", "raymill", f"{work.run_id}-config")
    kubernetes.server.objects.update(*at, lambda one: one["metadata"].update(creationTimestamp="yesterday"))
    assert submit(backend, work).attempt.name == f"{work.run_id}-a2"


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_config_that_is_none_is_unknown(kubernetes, tmp_path, text):
    backend, work = kubernetes.backend(), small_work(tmp_path, lines=1)
    attempt = start(backend, work)
    kubernetes.server.objects.update(
        "configmaps", "raymill", f"{attempt.name}-config", lambda one: one["data"].update({"config.json": text})
    )
    assert backend.config(attempt) is None


# --- checks


def check(kubernetes, tmp_path, **changes):
    return kubernetes.backend(**changes).check(small_work(tmp_path, lines=1))


def test_a_namespace_that_is_set_up_has_no_problems_and_a_check_leaves_nothing(kubernetes, tmp_path):
    assert check(kubernetes, tmp_path) == []
    assert kubernetes.server.objects.find("rayjobs", "raymill") == []


def test_missing_rights_are_named(kubernetes, tmp_path):
    missing = [("create", "rayjobs.ray.io"), ("patch", "configmaps"), ("get", "pods/log")]
    kubernetes.server.forbidden |= set(missing)
    assert check(kubernetes, tmp_path) == [
        f"namespace raymill: you may not {verb} {resource}. Ask for a Role with this verb and resource."
        for verb, resource in missing
    ]


def test_a_namespace_that_is_not_set_up_is_named(kubernetes, tmp_path):
    kubernetes.server.objects.remove("serviceaccounts", "raymill", "raymill-head")
    (problem,) = check(kubernetes, tmp_path)
    assert re.search("has no service account raymill-head.*kubectl apply -k", problem)
    kubernetes.server.namespaces = {"other"}
    (problem,) = check(kubernetes, tmp_path)
    assert problem.startswith("namespace raymill: does not exist")


def test_rights_that_end_at_the_namespace_suffice(kubernetes, tmp_path):
    kubernetes.server.forbidden |= {("get", "namespaces"), ("get", "serviceaccounts")}
    assert check(kubernetes, tmp_path) == []


def test_an_image_and_an_overlay_are_needed(kubernetes, tmp_path):
    (problem,) = check(kubernetes, tmp_path, image="")
    assert "no image for kind curate. Give image=" in problem
    (problem,) = KubeRay(KubernetesApi("raymill")).check(CURATE)
    assert problem.startswith('to="kuberay": no `overlay`. Give one of kind, eks')


def test_the_api_server_checks_the_rayjob_before_it_is_created(kubernetes, tmp_path, monkeypatch):
    backend = kubernetes.backend()
    manifests = backend._manifests

    def wrong(work, name):
        config_map, job = manifests(work, name)
        job["spec"]["entrypoints"] = "x"
        return [config_map, job]

    monkeypatch.setattr(backend, "_manifests", wrong)
    (problem,) = backend.check(small_work(tmp_path))
    assert "would drop spec.entrypoints from" in problem


@pytest.mark.parametrize("strict", [True, False], ids=["Kubernetes 1.25 and later", "before"])
def test_older_crds_are_refused_with_the_fields_that_they_would_drop(kubernetes, tmp_path, strict):
    """Those of KubeRay 1.4 lack these; an API server drops unknown fields without an error."""
    kubernetes.server.lacks = {"authOptions", "deletionStrategy", "preRunningDeadlineSeconds"}
    kubernetes.server.strict = strict
    (problem,) = check(kubernetes, tmp_path)
    for field in ("spec.preRunningDeadlineSeconds", "spec.deletionStrategy", "spec.rayClusterSpec.authOptions"):
        assert field in problem
    assert re.search(r"are older than 1\.7\.0.*Helm upgrades no CRDs.*kubectl apply --server-side", problem)
    with pytest.raises(ConfigError, match="not submitted, 1 problem found"):
        submit(kubernetes.backend(), small_work(tmp_path))
    assert kubernetes.server.objects.find("rayjobs", "raymill") == []
    assert kubernetes.server.objects.find("configmaps", "raymill") == []


def test_fields_inside_lists_are_compared_too(kubernetes, tmp_path):
    kubernetes.server.lacks, kubernetes.server.strict = {"maxReplicas", "seccompProfile"}, False
    (problem,) = check(kubernetes, tmp_path)
    assert "spec.rayClusterSpec.workerGroupSpecs[0].maxReplicas" in problem
    assert "spec.rayClusterSpec.headGroupSpec.template.spec.securityContext.seccompProfile" in problem


def test_a_cluster_without_kuberay_is_named(kubernetes, tmp_path):
    kubernetes.server.serves_rayjobs = False
    with pytest.raises(ConfigError, match=r"does not serve RayJobs.*helm install kuberay-operator"):
        submit(kubernetes.backend(), small_work(tmp_path))


# --- access


def test_credentials_that_are_refused_are_named_without_the_token(kubernetes):
    backend = kubernetes.backend()
    token, kubernetes.server.token = kubernetes.server.token, "another"
    with pytest.raises(ConfigError, match=r"refused the credentials of the kubeconfig \(401\).*log in again") as found:
        backend.attempts()
    assert token not in str(found.value) and found.value.__suppress_context__


def test_a_right_that_is_missing_later_names_verb_and_resource(kubernetes):
    kubernetes.server.forbidden |= {("list", "rayjobs.ray.io")}
    with pytest.raises(ConfigError, match=r"namespace raymill: you may not list rayjobs\.ray\.io"):
        kubernetes.backend().attempts()


def test_a_kubeconfig_or_a_context_that_is_missing_is_named(kubernetes, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"context=\"other\": kubeconfig .* has no such context\. It has: test\.$"):
        KubernetesApi("raymill", "other")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"nothing: no such file\. Set the environment variable KUBECONFIG"):
        KubernetesApi("raymill")
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no .*/\.kube/config, and this is not a pod"):
        KubernetesApi("raymill")


def test_a_server_that_does_not_answer_is_named_and_ends_the_patience(kubernetes, tmp_path):
    backend = kubernetes.backend(retry_s=0.5)
    attempt = start(backend, small_work(tmp_path, lines=1))
    kubernetes.server.broken += [500]
    with pytest.raises(NoAnswer, match=r"list rayjobs\.ray\.io failed there with status 500"):
        backend.attempts()
    kubernetes.server.broken += [503] * 1000
    with pytest.raises(ClusterError, match=r"has not answered for . s. The job may still run"):
        list(backend.logs(attempt, True))
    kubernetes.server.broken.clear()


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, ConfigError, r"namespace raymill: Kubernetes refused to list rayjobs\.ray\.io \(status 400\): an error"),
        (401, ConfigError, r"refused the credentials of the kubeconfig \(401\)"),
        (403, ConfigError, r"refused to list rayjobs\.ray\.io \(status 403\)"),
        (404, ConfigError, "KubeRay's operator is not installed"),
        (409, Conflict, r"list rayjobs\.ray\.io: an error of the server"),
        (429, NoAnswer, "failed there with status 429"),
        (500, NoAnswer, "failed there with status 500: an error of the server"),
    ],
)
def test_each_status_of_an_answer_has_its_error(kubernetes, status, kind, message):
    kubernetes.server.broken += [status]
    with pytest.raises(kind, match=message) as caught:
        kubernetes.backend().attempts()
    assert type(caught.value) is kind


def test_only_the_config_map_that_was_seen_is_deleted(kubernetes):
    api, objects = kubernetes.backend().api, kubernetes.server.objects
    new = {"metadata": {"name": "a-config"}}
    seen = objects.create("configmaps", "raymill", new)
    objects.remove("configmaps", "raymill", "a-config")
    api.delete_config_map(seen)  # no error: it is gone
    objects.create("configmaps", "raymill", new)
    with pytest.raises(Conflict):
        api.delete_config_map(seen)
    assert objects.find("configmaps", "raymill")


def test_events_are_sorted_by_their_last_time(kubernetes):
    times = [{"lastTimestamp": "2026-11-22T10:00:02Z"}, {"eventTime": "2026-11-22T10:00:01.5Z", "lastTimestamp": None}]
    for name, time_ in zip("ab", times, strict=True):
        kubernetes.server.objects.create("events", "raymill", {"metadata": {"name": name}, **time_})
    assert [one["metadata"]["name"] for one in kubernetes.backend().api.events()] == ["b", "a"]


def test_an_ended_job_is_not_deleted_by_cancelling_it(kubernetes, tmp_path):
    backend = kubernetes.backend()
    attempt = start(backend, small_work(tmp_path, lines=1))
    until(backend, attempt, lambda one: one.state.final)
    backend.cancel(attempt)
    assert backend.attempt(attempt.name).state is State.SUCCEEDED


def test_the_options_of_submit_reach_the_backend(kubernetes, tmp_path):
    assert connect(None, None, None, None).api.namespace == "raymill"
    assert connect("team", "test", None, None).api.namespace == "team"
    (file := tmp_path / "mine.yaml").write_text("extends: eks\nnamespace: other\n")
    assert connect(None, None, str(file), None).api.namespace == "other"
    both = connect("team", None, str(file), IMAGE)
    assert both.api.namespace == both.profile.namespace == "team"
    assert both.profile.image == both.profile.train_image == IMAGE
    with pytest.raises(ConfigError, match=r"context=\"nope\""):
        connect(None, "nope", None, None)


# --- the commands


def test_the_commands_submit_follow_list_and_cancel(kubernetes, tmp_path, capsys, monkeypatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text(json.dumps({"text": "A text."}) + "\n")
    config = {"kind": "curate", "name": "web", "inputs": [{"path": str(tmp_path / "raw")}]}
    (tmp_path / "curate.yaml").write_text(yaml.safe_dump(config | {"output": str(tmp_path / "out")}))
    overlay = {"extends": "kind", "claims": {str(tmp_path): "shared"}, "retries": 0}
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    to = ["--to", "kuberay", "--namespace", "raymill"]

    def raymill(*words):
        with pytest.raises(SystemExit) as done:
            main([*words, *to])
        return done.value.code, *capsys.readouterr()

    submitted = ["submit", str(tmp_path / "curate.yaml"), "--overlay", str(tmp_path / "overlay.yaml"), "--image", IMAGE]
    code, _, messages = raymill(*submitted, "--detach")
    assert code == 0, messages
    name = re.search(r"^(web-\w{8}): submitted", messages, re.MULTILINE)[1]
    assert f"logs {name} -f --to kuberay --namespace raymill" in messages
    code, out, messages = raymill("logs", name, "-f")
    assert (code, out) == (0, "") and f"{name}: succeeded" in messages
    assert re.search(rf"{name} +succeeded .*{tmp_path}/out", raymill("runs")[1])
    assert "state     succeeded" in raymill("status", name)[1]
    assert "had ended before (succeeded)" in raymill("cancel", name)[2]
    assert f"\n{name}-a2: submitted, continues {name}" in raymill(*submitted, "--detach")[2]
    code, _, messages = raymill("runs", "--address", "http://127.0.0.1:1")
    assert code == 2 and "--address: is for --to jobs" in messages


def test_what_is_submitted_is_what_render_prints(kubernetes, tmp_path):
    backend, work = kubernetes.backend(), small_work(tmp_path)
    kubernetes.operator.stopped = True
    attempt = start(backend, work)
    config_map, job = yaml.safe_load_all(rendered(work, kubernetes.profile))
    created = kubernetes.server.objects.get("rayjobs", "raymill", attempt.name)
    assert created["spec"] == job["spec"] and created["metadata"]["labels"] == job["metadata"]["labels"]
    assert job["metadata"]["annotations"].items() <= created["metadata"]["annotations"].items()
    found = kubernetes.server.objects.get("configmaps", "raymill", config_map["metadata"]["name"])
    assert found["data"] == config_map["data"] and found["immutable"]


def test_the_server_of_these_tests_answers_as_a_real_one_did(kubernetes):
    def request(method, path, body=None):
        path, _, query = path.partition("?")
        return kubernetes.server.answer(method, path, dict(one.split("=") for one in query.split("&") if one), body)

    kubernetes.operator.stopped = True
    assert answers(request, example_job()) == json.loads(RECORDED.read_text())
