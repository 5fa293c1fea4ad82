"""Submission against a real API server, with a person's and a program's rights: `make test-kubernetes-real`."""

import json
import threading
from dataclasses import replace

import pytest
import yaml

from raymill.cluster.kuberay.profiles import OVERLAYS
from raymill.cluster.submit.backend import Request, State
from raymill.cluster.submit.kuberay import RIGHTS, KubeRay
from raymill.cluster.submit.kubernetes_api import KubernetesApi
from raymill.cluster.submit.submit import submit
from tests.deploy.manifests import K8S, kustomize, of_kind
from tests.support.api_answers import RECORDED, answers, example_job
from tests.support.api_server import ApiServer
from tests.support.kubectl_commands import GUIDE
from tests.support.kubernetes_server import ContainerLog
from tests.support.processes import wait_until
from tests.support.works import IMAGE, small_work

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
]


def start(backend, work):
    return backend.start(Request(work, work.run_id))


def follow(backend, attempt, on_message):
    """A thread that follows, and the lines that it has."""
    lines = []

    def run():
        for line in backend.logs(attempt, True, on_message):
            lines.append(line)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, lines


def test_a_followed_log_survives_a_restart_of_the_server(real_kubernetes, tmp_path):
    server, backend, messages = real_kubernetes.server, real_kubernetes.backend(retry_s=120), []
    attempt = start(backend, small_work(tmp_path, lines=400, every_s=0.1))
    thread, lines = follow(backend, attempt, messages.append)
    assert wait_until(lambda: len(lines) > 5, 60), messages
    operator = real_kubernetes.operator
    operator.stopped, begun = True, operator.rounds
    assert wait_until(lambda: operator.rounds > begun + 1, 60)
    server.stop_server()
    server.start_server()
    server.wait_until_ready()
    operator.stopped = False
    thread.join(120)
    assert lines == [f"line {number}" for number in range(400)], messages
    assert backend.attempt(attempt.name).state is State.SUCCEEDED


def test_a_job_whose_deadline_has_passed_is_ended_with_its_pods_and_continued(real_kubernetes, tmp_path):
    backend, server = real_kubernetes.backend(deadline_s=2), real_kubernetes.server
    work = small_work(tmp_path, lines=600, every_s=0.1, stop="commit")
    attempt = start(backend, work)
    assert wait_until(lambda: backend.attempt(attempt.name).state.final, 60)
    assert backend.attempt(attempt.name).lingers
    done = submit(real_kubernetes.backend(), work)
    assert done.started and done.attempt.name == f"{work.run_id}-a2"
    clusters = {one["metadata"]["labels"]["ray.io/cluster"] for one in server.objects.find("pods", "raymill")}
    assert all("-a2-" in one for one in clusters)
    backend.cancel(done.attempt)
    assert wait_until(lambda: server.objects.find("pods", "raymill") == [], 60)
    states = [one.state for one in backend.attempts() if one.run_id == work.run_id]
    assert states == [State.CANCELLED, State.CANCELLED], "their ConfigMaps outlive the garbage collection"


def test_people_may_do_what_the_guide_says_and_programs_what_raymill_does(real_kubernetes, tmp_path, monkeypatch):
    server = real_kubernetes.server
    for name in ("user", "submit"):
        server.kubectl("-n", "raymill", "create", "rolebinding", name, f"--role=raymill-{name}", f"--group={name}s")

    def may(group, verb, resource):
        name, _, part = resource.partition("/")
        more = [f"--subresource={part}"] if part else []
        who = ["--as=somebody", f"--as-group={group}", "--as-group=system:authenticated"]
        return server.kubectl("-n", "raymill", "auth", "can-i", verb, name, *more, *who).strip() == "yes"

    for command, wanted in GUIDE.items():
        for group, resource, verbs in wanted:
            for verb in verbs.split():
                if "kueue" in group:  # kubectl asks only for what is served
                    continue
                name, _, part = resource.partition("/")
                whole = f"{name}.{group}".rstrip(".") + (f"/{part}" if part else "")
                assert may("users", verb, whole), (command, verb, whole)
    for verb, resource in RIGHTS:
        assert may("submits", verb, resource), (verb, resource)
    assert not may("submits", "get", "secrets") and not may("others", "get", "rayjobs.ray.io")
    # With these rights alone, `raymill submit` finds no problem.
    server.kubectl("-n", "raymill", "create", "rolebinding", "person", "--role=raymill-submit", "--user=person")
    server.write_kubeconfig(tmp_path / "person", "person")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "person"))
    assert real_kubernetes.backend().check(small_work(tmp_path, lines=1)) == []


def test_the_program_of_a_second_team_has_rights_in_its_own_namespace_alone(real_server, tmp_path):
    folder = tmp_path / "team-b"
    folder.mkdir()
    for name in ("overlays", "base", "components", "nightly", "development"):
        (tmp_path / name).symlink_to(K8S / name)
    (folder / "kustomization.yaml").write_text("namespace: team-b\nresources: [../overlays/kind, ../nightly]\n")
    objects = kustomize(folder)
    real_server.apply(objects)
    assert len(of_kind(objects, "RoleBinding")) == 1
    account = "--as=system:serviceaccount:team-b:raymill-nightly"
    first = "--as=system:serviceaccount:raymill:raymill-nightly"

    def may(namespace, who):
        return real_server.kubectl("-n", namespace, "auth", "can-i", "create", "rayjobs.ray.io", who).strip() == "yes"

    assert may("team-b", account) and not may("raymill", account) and not may("team-b", first)


def test_a_log_ends_with_its_job_although_its_kubelet_is_lost(tmp_path, monkeypatch, request):
    """On a server of its own, whose kubelet does not come back. The RayJob's end comes from the operator."""
    monkeypatch.setattr("raymill.cluster.submit.kuberay_log._UNREADABLE_S", 3)
    request.getfixturevalue("real_server")  # skips
    with ApiServer(tmp_path / "server") as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        backend, messages = KubeRay(KubernetesApi("raymill")), []
        job = yaml.safe_load_all((K8S / "overlays/kind/jobs/curate.yaml").read_text())
        job = next(one for one in job if one["kind"] == "RayJob")
        name = job["metadata"]["name"]
        server.request("POST", "/apis/ray.io/v1/namespaces/raymill/rayjobs", job)

        def status(**values):
            server.objects.update("rayjobs", "raymill", name, lambda one: one.update(status=values))

        running = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "c"}
        status(**running)
        template = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
        labels = {"ray.io/cluster": "c", "ray.io/node-type": "head"}
        container = {"name": "driver-log", "state": {"running": {"startedAt": "2026-11-25T10:00:00Z"}}}
        server.objects.create("pods", "raymill", {
            "metadata": {"name": "head", "labels": labels}, "spec": template["spec"],
            "status": {"phase": "Running", "containerStatuses": [
                container | {"ready": True, "restartCount": 0, "image": "x", "imageID": "x"}]},
        })  # fmt: skip
        uid = server.objects.get("pods", "raymill", "head")["metadata"]["uid"]
        log = server.logs[uid, "driver-log"] = ContainerLog()
        log.add(b"line 0")
        thread, lines = follow(backend, backend.attempt(name), messages.append)
        assert wait_until(lambda: lines == ["line 0"], 30), messages
        server.lose_kubelet()
        assert wait_until(lambda: any("cannot be read now" in one for one in messages), 60), messages
        status(**running | {"jobDeploymentStatus": "Failed", "reason": "JobStatusCheckTimeoutExceeded"})
        thread.join(60)
        assert not thread.is_alive() and "the rest of its log cannot be read" in messages[-1]
        assert backend.attempt(name).lingers


def test_older_crds_drop_fields_without_an_error_and_are_refused(tmp_path, monkeypatch, request):
    request.getfixturevalue("real_server")
    old = ("authOptions", "deletionStrategy", "preRunningDeadlineSeconds")
    with ApiServer(tmp_path / "server", without=old) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        job = next(one for one in yaml.safe_load_all((K8S / "overlays/eks/jobs/curate.yaml").read_text())
                   if one["kind"] == "RayJob")  # fmt: skip
        stored = server.request("POST", "/apis/ray.io/v1/namespaces/raymill/rayjobs", job)["spec"]
        assert not {"deletionStrategy", "preRunningDeadlineSeconds"} & stored.keys()
        assert "authOptions" not in stored["rayClusterSpec"]
        profile = replace(OVERLAYS["eks"], image=IMAGE, claims={str(tmp_path): "shared"})
        (problem,) = KubeRay(KubernetesApi("raymill"), profile).check(small_work(tmp_path, lines=1))
        assert all(name in problem for name in old) and "Helm upgrades no CRDs" in problem


def test_the_recorded_answers_are_those_of_this_server(real_kubernetes):
    """If they differ on purpose, as of a newer server, write the file anew: the stand-in must then follow."""
    real_kubernetes.operator.stopped = True
    server = real_kubernetes.server
    assert answers(server.request, example_job()) == json.loads(RECORDED.read_text())
