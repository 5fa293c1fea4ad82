"""KubeRay's operator, the kubelet and Kueue's admission for KubernetesServer, which really run jobs as processes.

The operator walks a RayJob's status as KubeRay 1.7.0 does in HTTP mode (controllers/ray/rayjob_controller.go): New,
Initializing, Running, Complete or Failed; Retrying; Suspending, Suspended. The head's pod runs the command of its
container `driver-log`; the driver is a process of this machine whose output goes to a file of the pod's /tmp/ray. The
ConfigMap lies as a file where the pod mounts it. There is no Ray: a driver that needs one starts its own.
"""

import datetime
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.kubernetes_server import ContainerLog, KubernetesServer, Object, Status, moment

_POLL_S = 0.03
_ROOT = Path(__file__).resolve().parents[2]
_STOP_FINALIZER, _FOREGROUND = "ray.io/rayjob-finalizer", "foregroundDeletion"
_NOT_REPEATED = ("DeadlineExceeded", "JobStatusCheckTimeoutExceeded")


class Operator:
    """Use it in a `with`, inside the `with` of its server.

    Args:
        server: its objects.
        folder: for the pods' files.
        command: in place of `raymill` in an entrypoint.

    Attributes to change in tests: stopped: it does nothing; grace_s: of a stopped driver, None: as its pod says;
    obstacle: new pods do not start, see `_obstruct`; ttl_factor: of the seconds after which ended jobs are cleaned up.
    rounds: how often it has looked at all jobs.
    """

    def __init__(self, server: KubernetesServer, folder: Path, command: Sequence[str]) -> None:
        self.server, self.folder, self.command = server, folder, tuple(command)
        self.stopped, self.grace_s, self.obstacle, self.ttl_factor = False, None, None, 1.0
        self.rounds = 0
        self._clusters: dict[str, _Cluster] = {}  # uid of a RayJob -> its cluster
        self._deleting: dict[str, threading.Thread] = {}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.errors: list[BaseException] = []

    def __enter__(self) -> "Operator":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(10)
        for cluster in list(self._clusters.values()):
            cluster.kill()
        assert not self.errors, self.errors

    # --- what tests do to jobs

    def replace_head(self, name: str) -> None:
        """The machine of the head is lost; a new head with the same name starts, and the job is submitted again."""
        cluster = self._clusters[self._job(name)["metadata"]["uid"]]
        cluster.lost_head = True

    def lose_dashboard(self, name: str) -> None:
        """The operator has not reached the dashboard for RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS; the driver goes on."""
        self._clusters[self._job(name)["metadata"]["uid"]].end_for_operator = {
            "jobDeploymentStatus": "Failed",
            "reason": "JobStatusCheckTimeoutExceeded",
            "message": "Job status checks have been failing since ...; exceeded timeout of 900s",
        }

    def stop_by_ray(self, name: str) -> None:
        """What `ray job stop` does: the job is STOPPED, whatever the exit code of its driver."""
        cluster = self._clusters[self._job(name)["metadata"]["uid"]]
        cluster.end_for_operator = {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}
        _signal(self.driver(name), signal.SIGTERM)

    def admit(self, name: str, admitted: bool = True) -> None:
        """What Kueue does when there is quota for a job, or when it takes that back."""
        self._change(name, lambda job: job["spec"].update(suspend=not admitted))

    def driver(self, name: str) -> subprocess.Popen:
        found = self._clusters[self._job(name)["metadata"]["uid"]].driver
        assert found is not None
        return found

    def event(self, kind: str, name: str, reason: str, message: str, warning: bool = True) -> None:
        namespace = next(iter(self.server.namespaces))
        self.server.objects.create("events", namespace, {
            "metadata": {"name": f"{name}.{uuid.uuid4().hex[:8]}"}, "involvedObject": {"kind": kind, "name": name},
            "type": "Warning" if warning else "Normal", "reason": reason, "message": message, "lastTimestamp": moment(),
        })  # fmt: skip

    # --- the loop

    def _run(self) -> None:
        try:
            while not self._ends.wait(_POLL_S):
                for job in [] if self.stopped else self._jobs():
                    with suppress(Status):  # deleted meanwhile
                        self._reconcile(job)
                self.rounds += 1
        except BaseException as error:
            self.errors.append(error)
            raise

    def _jobs(self) -> list[Object]:
        return [job for namespace in self.server.namespaces for job in self.server.objects.find("rayjobs", namespace)]

    def _job(self, name: str) -> Object:
        return next(job for job in self._jobs() if job["metadata"]["name"] == name)

    def _change(self, name: str, change: Any) -> None:
        self.server.objects.update("rayjobs", self._job(name)["metadata"]["namespace"], name, change)

    def _status(self, job: Object, **values: Any) -> None:
        """Set fields of the status; None removes one. Counts failures and repeats, as checkBackoffLimit... does."""
        status = {**(job.get("status") or {}), **values}
        phase = status.get("jobDeploymentStatus")
        if phase != (job.get("status") or {}).get("jobDeploymentStatus"):
            if phase in ("Complete", "Failed"):
                status["endTime"] = moment()
            status["failed"] = status.get("failed", 0) + (phase == "Failed")
            status["succeeded"] = status.get("succeeded", 0) + (phase == "Complete")
            allowed = job["spec"].get("backoffLimit", 0) + 1
            if phase == "Failed" and status["failed"] < allowed and status.get("reason") not in _NOT_REPEATED:
                status["jobDeploymentStatus"] = "Retrying"
        status = {name: value for name, value in status.items() if value is not None}
        self._change(job["metadata"]["name"], lambda one: one.update(status=status))

    def _reconcile(self, job: Object) -> None:
        uid, spec, status = job["metadata"]["uid"], job["spec"], job.get("status") or {}
        if job["metadata"].get("deletionTimestamp"):
            if uid not in self._deleting:
                self._deleting[uid] = threading.Thread(target=self._delete, args=(job,), daemon=True)
                self._deleting[uid].start()
            return
        phase = status.get("jobDeploymentStatus", "New")
        if phase == "New":
            self._begin(job)
        elif phase in ("Initializing", "Running") and spec.get("suspend"):
            self._status(job, jobDeploymentStatus="Suspending")
        elif phase in ("Initializing", "Running") and self._late(job, "activeDeadlineSeconds", "DeadlineExceeded"):
            pass
        elif phase == "Initializing":
            if not self._late(job, "preRunningDeadlineSeconds", "PreRunningDeadlineExceeded"):
                if uid not in self._clusters:
                    self._clusters[uid] = _Cluster(self, job)
                if self._clusters[uid].ready():
                    self._status(job, jobDeploymentStatus="Running")
        elif phase == "Running":
            self._watch(job, self._clusters[uid])
        elif phase in ("Suspending", "Retrying"):
            if (cluster := self._clusters.pop(uid, None)) is not None:
                cluster.end()
            kept = {"failed": status.get("failed", 0), "succeeded": status.get("succeeded", 0)}
            after = "Suspended" if phase == "Suspending" else "New"
            self._change(job["metadata"]["name"], lambda one: one.update(status=kept | {"jobDeploymentStatus": after}))
        elif phase == "Suspended" and not spec.get("suspend"):
            self._status(job, jobDeploymentStatus="New")
        elif phase in ("Complete", "Failed"):
            self._clean_up(job)

    def _clean_up(self, job: Object) -> None:
        """Carry out the deletion rules whose time has come (handleDeletionRules), or the shutdown."""
        spec, status, metadata = job["spec"], job["status"], job["metadata"]
        since = time.time() - datetime.datetime.fromisoformat(status["endTime"]).timestamp()
        for policy in due_deletions(spec, status, since / self.ttl_factor if self.ttl_factor else math.inf):
            if policy == "DeleteSelf":
                self.server.objects.delete("rayjobs", metadata["namespace"], metadata["name"])
            elif (cluster := self._clusters.pop(metadata["uid"], None)) is not None:
                cluster.end()

    def _begin(self, job: Object) -> None:
        name = job["metadata"]["name"]
        if spec_problem := _operators_rules(job):
            self._status(job, jobDeploymentStatus="ValidationFailed", reason="ValidationFailed", message=spec_problem)
            return
        self._change(name, lambda one: one["metadata"].update(finalizers=[_STOP_FINALIZER]))
        cluster = f"{name}-{uuid.uuid4().hex[:5]}"
        self._status(self._job(name), jobDeploymentStatus="Initializing", jobId=job["spec"].get("jobId", name),
                     rayClusterName=cluster, startTime=moment(), endTime=None)  # fmt: skip

    def _late(self, job: Object, setting: str, reason: str) -> bool:
        seconds, cluster = job["spec"].get(setting), self._clusters.get(job["metadata"]["uid"])
        if seconds is None or cluster is None or time.monotonic() - cluster.began < seconds:
            return False
        self._status(job, jobDeploymentStatus="Failed", reason=reason,
                     message=f"The RayJob has passed the {setting}. StartTime: ... {setting}: {seconds}")  # fmt: skip
        return True

    def _watch(self, job: Object, cluster: "_Cluster") -> None:
        if cluster.end_for_operator:
            self._status(job, **cluster.end_for_operator)
            return
        if cluster.lost_head:
            cluster.new_head()
            return
        if cluster.driver is None:
            cluster.submit()
            info = {"startTime": moment()}
            self._status(job, jobStatus="RUNNING", rayJobInfo=info, message="Job is currently running.")
            return
        code = cluster.driver.poll()
        if code is None or cluster.log_is_behind():
            return
        info = (job["status"].get("rayJobInfo") or {}) | {"endTime": moment()}
        if code == 0:
            self._status(job, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", rayJobInfo=info,
                         message="Job finished successfully.")  # fmt: skip
            return
        last = cluster.log_file.read_text(errors="replace")[-20_000:]
        message = (
            f"Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 chars):\n"
            f"{last}"
        )
        self._status(job, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", rayJobInfo=info,
                     message=message)  # fmt: skip

    def _delete(self, job: Object) -> None:
        """The operator stops the job; the garbage collector deletes the pods at the same time, then the RayJob."""
        name, namespace, uid = (job["metadata"][key] for key in ("name", "namespace", "uid"))
        cluster = self._clusters.pop(uid, None)
        if cluster is not None:
            cluster.end(stop=(job.get("status") or {}).get("jobStatus") not in ("SUCCEEDED", "FAILED", "STOPPED"))
        self.server.objects.update("rayjobs", namespace, name, lambda one: one["metadata"].update(finalizers=[]))


class _Cluster:
    """A Ray cluster of an attempt: pods, and the processes of its head."""

    def __init__(self, operator: Operator, job: Object) -> None:
        self._operator, self._objects, self._job = operator, operator.server.objects, job
        self.namespace, self.name = job["metadata"]["namespace"], job["status"]["rayClusterName"]
        self.began = time.monotonic()
        self.driver: subprocess.Popen | None = None
        self.lost_head = False
        self.end_for_operator: Object = {}  # status that the operator sets next, whatever the driver does
        self._pods: list[str] = []
        self._new_pods()

    # --- pods

    def _new_pods(self) -> None:
        spec = self._job["spec"]["rayClusterSpec"]
        self._pod(f"{self.name}-head", "head", spec["headGroupSpec"]["template"])
        for group in spec["workerGroupSpecs"]:
            for number in range(group["replicas"]):
                self._pod(f"{self.name}-{group['groupName']}-worker-{number}", "worker", group["template"])

    def _pod(self, name: str, role: str, template: Object) -> None:
        labels = {**template["metadata"].get("labels", {}), "ray.io/cluster": self.name, "ray.io/node-type": role,
                  "ray.io/is-ray-node": "yes"}  # fmt: skip
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
               "spec": template["spec"], "status": {"phase": "Pending"}}  # fmt: skip
        self._objects.create("pods", self.namespace, pod)
        self._pods.append(name)

    def _obstruct(self) -> bool:
        """Whether the pods cannot start: `unschedulable`, `image`, or the ConfigMap is missing."""
        head = f"{self.name}-head"
        pending: Object = {}
        if self._operator.obstacle == "unschedulable":
            message = "0/3 nodes are available: 3 Insufficient cpu."
            pending = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                                       "message": message}]}  # fmt: skip
        elif self._operator.obstacle == "image":
            waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "registry.example.com/raymill"'}
            pending = {"containerStatuses": [{"name": "ray-head", "state": {"waiting": waiting}}]}
        else:
            try:
                self._objects.get("configmaps", self.namespace, self._config_volume())
            except Status as error:
                if not self._objects.find("events", self.namespace):
                    self._operator.event("Pod", head, "FailedMount", f"MountVolume.SetUp failed: {error}")
                return True
        if pending:
            status = {"phase": "Pending", **pending}
            for name in self._pods:
                self._objects.update("pods", self.namespace, name, lambda pod: pod.update(status=status))
        return bool(pending)

    def ready(self) -> bool:
        """Start the containers, unless they cannot."""
        if self._obstruct():
            return False
        self._start_head()
        for name in self._pods[1:]:
            self._running(name)
        return True

    def _running(self, name: str) -> None:
        def change(pod: Object) -> None:
            names = [container["name"] for container in pod["spec"]["containers"]]
            statuses = [{"name": one, "state": {"running": {"startedAt": moment()}}} for one in names]
            pod["status"] = {"phase": "Running", "containerStatuses": statuses}

        self._objects.update("pods", self.namespace, name, change)

    # --- the head

    def _config_volume(self) -> str:
        return next(one["configMap"]["name"] for one in self._head_spec()["volumes"] if "configMap" in one)

    def _head_spec(self) -> Object:
        return self._job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]

    def _start_head(self) -> None:
        pod = self._objects.get("pods", self.namespace, f"{self.name}-head")
        uid = pod["metadata"]["uid"]
        self.files = self._operator.folder / uid
        logs = self.files / "tmp/ray/session_2026-11-22_10-00-00/logs"
        self.log_file = logs / f"job-driver-{self._job['status']['jobId']}.log"
        self.log_file.parent.mkdir(parents=True)
        main, log = pod["spec"]["containers"]
        mounts = {one["name"]: one["mountPath"] for one in main["volumeMounts"]}
        volume = next(one for one in pod["spec"]["volumes"] if "configMap" in one)
        folder = self.files / mounts[volume["name"]].lstrip("/")
        folder.mkdir(parents=True)
        data = self._objects.get("configmaps", self.namespace, volume["configMap"]["name"])["data"]
        for name, text in data.items():
            (folder / name).write_text(text)
        # Stands for Ray's control process, which lives as long as the main container.
        self._gcs = socket.create_server(("127.0.0.1", 0))
        self._start_log(uid, log["command"], {main["ports"][0]["containerPort"]: self._gcs.getsockname()[1]})
        self._running(pod["metadata"]["name"])

    def _start_log(self, uid: str, command: Sequence[str], ports: dict[int, int]) -> None:
        words = [str(ports.get(int(word), word)) if word.isdigit() else self._at(word) for word in command]
        words = [sys.executable if word == "python" else word for word in words]
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        self._sidecar = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, cwd=self.files)
        self._out = self._operator.server.logs[uid, "driver-log"] = ContainerLog()
        self._copying = threading.Thread(target=_copy, args=(self._sidecar, self._out), daemon=True)
        self._copying.start()

    def log_is_behind(self) -> bool:
        """Whether lines of the driver are not in its pod's log yet: they come before the operator asks Ray again."""
        return self._out.size < self.log_file.stat().st_size

    def _at(self, word: str) -> str:
        """A path inside the pod as a path of this machine."""
        return f"{self.files}{word}" if word.startswith(("/tmp/", "/etc/")) else word

    def submit(self) -> None:
        """Start the driver."""
        program, *rest = shlex.split(self._job["spec"]["entrypoint"])
        assert program == "raymill", program
        environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"}
        with open(self.log_file, "wb") as out:
            self.driver = subprocess.Popen(
                [*self._operator.command, *map(self._at, rest)], stdout=out, stderr=subprocess.STDOUT,
                env=environment, cwd=self.files, start_new_session=True,
            )  # fmt: skip

    def new_head(self) -> None:
        """Lose the head's pod with all its processes; start another of the same name."""
        self.lost_head = False
        self._kill_driver()
        self.driver = None
        self._end_sidecar(signal.SIGKILL)
        head = f"{self.name}-head"
        self._objects.remove("pods", self.namespace, head)
        self._pods.remove(head)
        self._pod(head, "head", self._job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"])
        self._pods.insert(0, self._pods.pop())
        self._start_head()

    # --- the end

    def end(self, stop: bool = False) -> None:
        """Delete the pods. stop: the operator stops the job, which is then waited for."""
        sidecar = getattr(self, "_sidecar", None)
        if sidecar is not None and sidecar.poll() is None:
            sidecar.send_signal(signal.SIGTERM)
        if stop and self.driver is not None and self.driver.poll() is None:
            seconds = self._operator.grace_s
            seconds = self._head_spec()["terminationGracePeriodSeconds"] if seconds is None else seconds
            _signal(self.driver, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.driver.wait(seconds)
        self._kill_driver()
        if sidecar is not None:
            self._gcs.close()
            self._end_sidecar(signal.SIGTERM)
        for name in self._pods:
            self._objects.remove("pods", self.namespace, name)

    def kill(self) -> None:
        """End all processes."""
        self._kill_driver()
        if hasattr(self, "_sidecar"):
            self._end_sidecar(signal.SIGKILL)

    def _kill_driver(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            _signal(self.driver, signal.SIGKILL)
            self.driver.wait(10)

    def _end_sidecar(self, number: int) -> None:
        self._gcs.close()
        if self._sidecar.poll() is None:
            self._sidecar.send_signal(number)
        self._sidecar.wait(10)
        self._copying.join(10)


def due_deletions(spec: Object, status: Object, since_s: float) -> list[str]:
    """What the operator deletes of a job that ended this number of seconds ago: DeleteCluster, DeleteSelf.

    Source: handleDeletionRules, isDeletionRuleMatched, handleShutdownAfterJobFinishes of rayjob_controller.go, 1.7.0.
    """
    if "deletionStrategy" not in spec:
        due = spec.get("shutdownAfterJobFinishes") and since_s >= spec.get("ttlSecondsAfterFinished", 0)
        return ["DeleteCluster"] if due else []
    found = []
    for rule in spec["deletionStrategy"]["deletionRules"]:
        condition = rule["condition"]
        field = "jobStatus" if "jobStatus" in condition else "jobDeploymentStatus"
        if condition[field] == status.get(field, "") and since_s >= condition.get("ttlSeconds", 0):
            found.append(rule["policy"])
    return found


def _copy(process: subprocess.Popen, out: ContainerLog) -> None:
    """Whole lines, as a container runtime does; the last one also without its end."""
    assert process.stdout is not None
    for line in process.stdout:
        out.add(line.removesuffix(b"\n"))
    out.close()


def _signal(process: subprocess.Popen, number: int) -> None:
    """To all processes of the job, as Ray does."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _operators_rules(job: Object) -> str | None:
    """Rules of ray-operator/controllers/ray/utils/validation.go that the CRD has not."""
    spec, name = job["spec"], job["metadata"]["name"]
    if len(name) > 47:
        return "The RayJob metadata is invalid: RayJob name should be no more than 47 characters"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        return "a RayJob with shutdownAfterJobFinishes set to false is not allowed to be suspended"
    if (spec.get("deletionStrategy") or {}).get("deletionRules") and spec.get("shutdownAfterJobFinishes"):
        return "deletionRules cannot be used with shutdownAfterJobFinishes"
    return None
