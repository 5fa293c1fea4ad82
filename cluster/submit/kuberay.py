"""Submits to Kubernetes: an attempt is a RayJob, for which KubeRay's operator starts a Ray cluster of its own.

The RayJob and its ConfigMap are those that `raymill render` prints. The ConfigMap of a cancelled attempt stays as its
record, since the RayJob is deleted: that is how KubeRay stops a job. KubeRay deletes the pods of an ended job after
minutes, and its RayJob after a week; the log goes with the pods.

KubeRay repeats a failed job on a new cluster (`retries` of the overlay) within the same attempt.
"""

import json
import logging
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from raymill.cluster.errors import ClusterError, ConfigError, DataError
from raymill.cluster.kuberay.profiles import OVERLAYS, Profile, profile_of
from raymill.cluster.kuberay.rayjob import (
    CONFIG,
    CONFIG_FILE,
    FINGERPRINT,
    HEAD_ACCOUNT,
    KEEP_FAILED_S,
    KEEP_JOB_S,
    KUBERAY,
    LABEL,
    OUTPUT,
    RUN_ID,
    as_documents,
    build_config_map,
    build_rayjob,
)
from raymill.cluster.submit.backend import (
    RETRY_S,
    Attempt,
    AttemptExists,
    AttemptLost,
    NoAnswer,
    NotThere,
    OnMessage,
    Request,
    Retries,
    State,
    ignore_message,
    name_conflict,
    warn_of_unlisted,
)
from raymill.cluster.submit.kuberay_log import Follower, read_log
from raymill.cluster.submit.kubernetes_api import Conflict, Forbidden, KubernetesApi, Object, UnknownFields
from raymill.cluster.submit.rayjob_state import (
    CANCELLED,
    SUBMITTED,
    annotation,
    attempt_of,
    cancelled_attempt,
    creation,
    ended_without_ray,
    is_record,
    now,
    seconds,
    state_of,
    undamaged,
    why_waiting,
)
from raymill.cluster.submit.work import Work

log = logging.getLogger(__name__)

_OURS = f"app.kubernetes.io/name=raymill,{RUN_ID}"
_REQUEST = f"{LABEL}request"  # which call of `submit` created the RayJob

_CLUSTER = "ray.io/cluster"  # label of a pod: its cluster

_NAMESPACE = "raymill"  # default namespace; an overlay file or --namespace can name another
_WATCH_S = 10
_EXPLAINED = 100  # RayJobs of a listing, up to which it says why each of them waits
# Beyond the pods' grace period, for the operator and Kubernetes' garbage collection.
_DELETION_S = 60
_LONGEST_GRACE_S = 3600  # above those of Raymill's profiles; the object may be somebody else's
# A ConfigMap without a RayJob that is younger than this may belong to a `submit` under way, whose RayJob is awaited for
# some seconds; an older one was left by a `submit` that was interrupted.
_UNDER_WAY_S = 300
_RAYJOB_FOLLOWS_S = 10
# What `submit` needs, as (verb, resource).
RIGHTS = (
    ("create", "rayjobs.ray.io"),
    ("get", "rayjobs.ray.io"),
    ("delete", "rayjobs.ray.io"),
    ("watch", "rayjobs.ray.io"),
    ("create", "configmaps"),
    ("get", "configmaps"),
    ("patch", "configmaps"),
    ("list", "pods"),
    ("get", "pods/log"),
)


def connect(namespace: str | None, context: str | None, overlay: str | None, image: str | None) -> "KubeRay":
    """The backend for the options of `raymill submit`. Without an overlay it starts no jobs.

    Raises:
        ConfigError: there are no credentials for Kubernetes, or no such overlay.
    """
    profile = None
    if overlay is not None:
        profile = profile_of(overlay, namespace=namespace, image=image, train_image=image)
        namespace = profile.namespace
    return KubeRay(KubernetesApi(namespace or _NAMESPACE, context), profile)


class KubeRay:
    """A namespace of a Kubernetes cluster with KubeRay's operator.

    Args:
        api: API server and namespace.
        profile: profile of the overlay; None if no job is to be started.
        retry_s: how long a request is repeated while the cluster does not answer.
    """

    def __init__(self, api: KubernetesApi, profile: Profile | None = None, retry_s: float = RETRY_S) -> None:
        assert profile is None or profile.namespace == api.namespace
        self.api, self.profile, self.retry_s = api, profile, retry_s

    def check(self, work: Work) -> list[str]:
        """Look whether the namespace can run the job, and let the API server check its RayJob.

        The cluster does not exist yet, so that the job itself checks store, files and machines when it starts.
        """
        api, namespace = self.api, self.api.namespace
        log.info("Kubernetes %s", api.version())
        if api.has_namespace() is False:
            return [f"namespace {namespace}: does not exist. Set it up with `kubectl apply -k k8s/overlays/NAME`."]
        found = [
            f"namespace {namespace}: you may not {verb} {resource}. Ask for a Role with this verb and resource."
            for verb, resource in RIGHTS
            if not api.may(verb, resource)
        ]
        if api.has_account(HEAD_ACCOUNT) is False:
            found.append(
                f"namespace {namespace}: has no service account {HEAD_ACCOUNT}, so no pod would start. Set the "
                "namespace up with `kubectl apply -k k8s/overlays/NAME`."
            )
        try:
            manifest = self._manifests(work, work.run_id)[1]
            if not found:
                unused = f"raymill-check-{uuid.uuid4().hex[:8]}"  # its own name may be taken
                sent = manifest | {"metadata": manifest["metadata"] | {"name": unused}}
                accepted = api.create_rayjob(sent, dry_run=True)
                if dropped := list(_dropped(sent["spec"], accepted["spec"], "spec")):
                    found.append(_older_crds(api.address, dropped))
        except UnknownFields as error:
            found.append(_older_crds(api.address, error.fields))
        except ConfigError as error:
            found.append(str(error))
        except NotThere:
            raise ConfigError(_no_operator(api.address)) from None
        return found

    def start(self, request: Request) -> Attempt:
        self._delete_old()
        config_map, job = self._manifests(request.work, request.name)
        mine = uuid.uuid4().hex
        job["metadata"]["annotations"] |= {_REQUEST: mine, SUBMITTED: now()}
        try:
            self._create_config_map(config_map, request.name)
            created = self._create_job(job, mine)
        except AttemptExists:
            raise name_conflict(self, request) from None
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": request.name, "uid": created["metadata"]["uid"]}
        kept = {name: annotation(job, name) for name in (f"{LABEL}{FINGERPRINT}", f"{LABEL}{OUTPUT}", SUBMITTED)}
        self.api.change_config_map(request.name + CONFIG, {"annotations": kept, "ownerReferences": [owner]})
        return self._attempt(created)

    def attempts(self) -> list[Attempt]:
        try:
            jobs = self.api.rayjobs(_OURS)
        except NotThere:
            raise ConfigError(_no_operator(self.api.address)) from None
        names = {job["metadata"]["name"] for job in jobs}
        records = [
            one
            for one in self.api.config_maps(_OURS)
            if is_record(one) and one["metadata"]["name"].removesuffix(CONFIG) not in names
        ]
        found, damaged = [], []
        with_pods = self._clusters_with_pods(jobs)
        explained = len(jobs) <= _EXPLAINED

        def attempt(job: Object) -> Attempt:
            return self._attempt(job, with_pods, explained)

        for thing, read in [(job, attempt) for job in jobs] + [(one, _cancelled) for one in records]:
            try:
                found.append((creation(thing), read(thing)))
            except DataError as error:
                damaged.append(str(error))
        warn_of_unlisted(damaged)
        return [attempt for _, attempt in sorted(found, key=lambda pair: pair[0])]

    def attempt(self, name: str) -> Attempt | None:
        job = self.api.rayjob(name)
        if job is not None:
            return self._attempt(job) if RUN_ID in (job["metadata"].get("labels") or {}) else None
        record = self.api.config_map(name + CONFIG)
        return _cancelled(record) if record is not None and is_record(record) else None

    def config(self, attempt: Attempt) -> Mapping[str, Any] | None:
        found = self.api.config_map(attempt.name + CONFIG)
        try:
            config = json.loads(found["data"][CONFIG_FILE]) if found else None
        except (KeyError, TypeError, ValueError, RecursionError):  # of a ConfigMap that somebody replaced
            return None
        return config if isinstance(config, dict) else None

    def logs(self, attempt: Attempt, follow: bool, on_message: OnMessage = ignore_message) -> Iterator[str]:
        if follow:
            retries = Retries(self.api.address, self.retry_s)
            follower = Follower(self.api, attempt.name, retries, lambda job: self._attempt(job).message, on_message)
            yield from follower.lines()
            if follower.gone and self.attempt(attempt.name) is None:
                raise AttemptLost(_lost(attempt.name))
            return
        job = self.api.rayjob(attempt.name)
        if job is None:
            raise AttemptLost(_lost(attempt.name))
        yield from read_log(self.api, job)

    def cancel(self, attempt: Attempt) -> None:
        """Delete the RayJob: the operator stops the job with SIGTERM, and Kubernetes then ends the pods."""
        name, api = attempt.name, self.api
        job = api.rayjob(name)
        if job is None and self.attempt(name) is None:
            raise AttemptLost(_lost(name))
        if job is None or (state_of(job).final and not _lingers(job, self._clusters_with_pods([job]))):
            return
        try:
            # A ConfigMap without an owner is not deleted together with the RayJob.
            api.change_config_map(name + CONFIG, {"annotations": {CANCELLED: now()}, "ownerReferences": None})
        except NotThere:
            log.warning("%s: its ConfigMap was deleted, so there will be no record of the attempt", name)
        api.delete_rayjob(name)
        limit_s = _grace_s(job) + _DELETION_S
        until, retries = time.monotonic() + limit_s, Retries(api.address, self.retry_s)
        while True:
            try:
                if (job := api.rayjob(name)) is None:
                    return
                retries.succeeded()
                if time.monotonic() > until:
                    raise ClusterError(
                        f"{name}: still being deleted after {limit_s} s. Look at its pods (kubectl -n {api.namespace} "
                        f"get pods -l {RUN_ID}={attempt.run_id}) and whether KubeRay's operator runs, which "
                        "deletes it."
                    )
                api.wait_for_change(job, max(1, min(_WATCH_S, round(until - time.monotonic()))))
            except NoAnswer as error:
                retries.failed(error)

    # --- creation

    def _manifests(self, work: Work, name: str) -> list[dict[str, Any]]:
        """The ConfigMap and the RayJob of an attempt.

        Raises:
            ConfigError: there is no image, or the config reads or writes a folder that pods do not have.
        """
        if self.profile is None:
            raise ConfigError(f"--to kuberay: no --overlay. Give one of {', '.join(OVERLAYS)}, or a YAML file.")
        return as_documents(build_config_map(work, name, self.profile), build_rayjob(work, name, self.profile))

    def _create_config_map(self, manifest: Mapping[str, Any], name: str) -> None:
        """
        Raises:
            AttemptExists: the attempt is there.
            ClusterError: another `submit` made the ConfigMap, with another config, and does not make the RayJob.
        """
        retries = Retries(self.api.address, self.retry_s)
        patience = time.monotonic() + _RAYJOB_FOLLOWS_S
        while True:
            try:
                self.api.create_config_map(manifest)
                return
            except NoAnswer as error:
                retries.failed(error)
                continue
            except NotThere as error:
                raise ConfigError(f"namespace {self.api.namespace}: {error} Set it up first.") from None
            except Conflict:
                pass
            try:
                there = self.api.config_map(manifest["metadata"]["name"])
                if there is None:
                    continue
                if is_record(there) or self.api.rayjob(name) is not None:
                    raise AttemptExists(name)
                if there.get("data") == manifest["data"]:
                    return
                age_s = time.time() - undamaged(lambda one: seconds(one["metadata"]["creationTimestamp"]), there)
            except DataError as error:
                log.warning("%s", error)
                raise AttemptExists(name) from None
            if age_s > _UNDER_WAY_S:
                self.api.delete_config_map(there)
            elif time.monotonic() < patience:
                time.sleep(1)
            else:
                config_map = there["metadata"]["name"]
                raise ClusterError(
                    f"{name}: a `raymill submit` with other settings made the ConfigMap {config_map} {age_s:.0f} s "
                    "ago, and no RayJob: it was interrupted, or its connection is slow. Submit again in "
                    f"{_UNDER_WAY_S - age_s:.0f} s, or delete the ConfigMap (kubectl -n {self.api.namespace} delete "
                    f"configmap {config_map}) and submit again."
                )

    def _create_job(self, manifest: Mapping[str, Any], mine: str) -> Object:
        """Create the RayJob exactly once: after a lost answer, the repeated request finds the first one's RayJob."""
        name = manifest["metadata"]["name"]
        retries = Retries(self.api.address, self.retry_s)
        while True:
            try:
                return self.api.create_rayjob(manifest)
            except NoAnswer as error:
                retries.failed(error)
            except NotThere:
                raise ConfigError(_no_operator(self.api.address)) from None
            except Conflict:
                with suppress(DataError):
                    there = self.api.rayjob(name)
                    if there is not None and annotation(there, _REQUEST) == mine:
                        return there
                raise AttemptExists(name) from None

    def _delete_old(self) -> None:
        """Delete what KubeRay keeps forever.

        The ConfigMaps of attempts that were cancelled long ago; RayJobs that ended long ago, which only deletion rules
        delete; and the clusters of jobs that were stopped through Ray, for which there is no rule.
        """
        for record in self.api.config_maps(_OURS):
            with suppress(DataError):
                if is_record(record) and time.time() - (_cancelled(record).ended or 0) > KEEP_JOB_S:
                    self.api.delete_config_map(record)
        jobs = self.api.rayjobs(_OURS)
        with_pods = self._clusters_with_pods(jobs)
        for job in jobs:
            lingers = _lingers(job, with_pods)
            kept_s = KEEP_FAILED_S if state_of(job) is State.CANCELLED and lingers else KEEP_JOB_S
            with suppress(DataError):
                is_over = bool((job.get("status") or {}).get("endTime"))
                ended = self._attempt(job, with_pods, explained=False).ended if is_over else None
                if ended and time.time() - ended > kept_s:
                    self.api.delete_rayjob(job["metadata"]["name"])

    # --- state

    def _attempt(self, job: Object, with_pods: Collection[str] | None = None, explained: bool = True) -> Attempt:
        """The attempt of a RayJob.

        Args:
            with_pods: clusters that have pods; None: they are asked for.
            explained: whether it says why it waits. To find that out takes two requests.
        """
        reason = ""
        if explained and state_of(job) is State.WAITING:
            name = (job.get("status") or {}).get("rayClusterName")
            try:
                pods = self.api.pods(f"{_CLUSTER}={name}") if name else []
                reason = why_waiting(job, pods, self.api.events())
            except (Forbidden, NoAnswer) as error:
                log.info("why %s waits could not be read (%s)", job["metadata"]["name"], type(error).__name__)
        lingers = _lingers(job, self._clusters_with_pods([job]) if with_pods is None else with_pods)
        return undamaged(lambda one: attempt_of(one, reason, lingers), job)

    def _clusters_with_pods(self, jobs: Sequence[Object]) -> set[str]:
        """The clusters of jobs that have ended for the operator, but have pods, in which a driver may still run."""
        ended = (job.get("status") or {} for job in jobs if ended_without_ray(job))
        names: set[str] = {name for status in ended if (name := status.get("rayClusterName"))}
        if not names:
            return set()
        try:
            pods = self.api.pods(f"{_CLUSTER}={next(iter(names))}" if len(names) == 1 else _CLUSTER)
        except Forbidden:
            return names  # as far as one can see
        alive = (pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"))
        return names & {(pod["metadata"].get("labels") or {}).get(_CLUSTER) for pod in alive}


def _lingers(job: Object, with_pods: Collection[str]) -> bool:
    """Whether a job has ended for the operator, but its cluster is one of these."""
    return ended_without_ray(job) and (job.get("status") or {}).get("rayClusterName") in with_pods


def _grace_s(job: Object) -> int:
    """Seconds that the driver of a RayJob has to end."""
    head: Any = job["spec"]
    for name in ("rayClusterSpec", "headGroupSpec", "template", "spec"):
        head = head.get(name) or {}
    stated = head.get("terminationGracePeriodSeconds")
    return min(30 if stated is None else stated, _LONGEST_GRACE_S)


def _cancelled(record: Object) -> Attempt:
    return undamaged(cancelled_attempt, record)


def _lost(name: str) -> str:
    return f"{name}: its RayJob was deleted. What it committed is kept: submit the config again to continue."


def _no_operator(address: str) -> str:
    return (
        f"{address}: does not serve RayJobs (ray.io/v1), so KubeRay's operator is not installed. Install it: "
        f"helm install kuberay-operator kuberay/kuberay-operator --version {KUBERAY}."
    )


def _older_crds(address: str, fields: Iterable[str]) -> str:
    return (
        f"{address}: the CRDs of KubeRay there are older than {KUBERAY}. The API server would drop {', '.join(fields)} "
        "from the RayJob without an error. (authOptions protects the dashboard with a token; deletionStrategy and "
        "preRunningDeadlineSeconds remove clusters.) Helm upgrades no CRDs; an administrator does with `helm pull "
        f"kuberay/kuberay-operator --version {KUBERAY} --untar` and `kubectl apply --server-side --force-conflicts -f "
        "kuberay-operator/crds/`, and then the operator."
    )


def _dropped(sent: Any, accepted: Any, at: str) -> Iterator[str]:
    """The fields of `sent` that `accepted` lacks. Values may differ: admission may change them."""
    if isinstance(sent, Mapping) and isinstance(accepted, Mapping):
        for name, value in sent.items():
            if name in accepted:
                yield from _dropped(value, accepted[name], f"{at}.{name}")
            else:
                yield f"{at}.{name}"
    elif isinstance(sent, list) and isinstance(accepted, list) and len(sent) == len(accepted):
        for number, (one, other) in enumerate(zip(sent, accepted, strict=True)):
            yield from _dropped(one, other, f"{at}[{number}]")
